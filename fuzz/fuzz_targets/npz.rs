#![no_main]
#![allow(dead_code)]

mod data;

use std::io::Cursor;

use data::npy::Range;
use data::npz::read_npz;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for range in [None, Some(Range { low: -1.0, high: 1.0 })] {
        let _ = read_npz(Cursor::new(bytes), range, &mut |part| {
            data::check(&part);
            Ok(())
        });
    }
});
