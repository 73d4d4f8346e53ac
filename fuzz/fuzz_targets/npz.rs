#![no_main]
#![allow(dead_code)]

mod data;

use std::io::Cursor;

use data::npz::read_npz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for reading in data::readings() {
        for name in [None, Some("x")] {
            let _ = read_npz(Cursor::new(bytes), name, &reading, &mut |part, labels| {
                data::check(&part);
                assert!(labels.is_none_or(|labels| labels.len() == part.count));
                Ok(())
            });
        }
    }
});
