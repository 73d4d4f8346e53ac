#![no_main]
#![allow(dead_code)]

mod data;

use data::pickle::Pickle;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(pickle) = Pickle::parse(bytes) {
        if let Ok((shape, data)) = pickle.array("data") {
            assert_eq!(shape.iter().product::<usize>(), data.len());
        }
        let _ = (pickle.numbers("labels"), pickle.texts("label_names"));
    }
});
