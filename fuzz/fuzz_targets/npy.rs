#![no_main]
#![allow(dead_code)]

mod data;

use data::npy::{Range, parse_images};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for range in [None, Some(Range { low: -1.0, high: 1.0 })] {
        if let Ok(stack) = parse_images(bytes, range) {
            data::check(&stack);
        }
    }
});
