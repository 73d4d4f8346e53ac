#![no_main]
#![allow(dead_code)]

mod data;

use data::npy::{parse_images, read_rows};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for reading in data::readings() {
        if let Ok(stack) = parse_images(bytes, &reading) {
            data::check(&stack);
        }
    }
    if let Ok(([n, d], values)) = read_rows(bytes) {
        assert!(n > 0 && d > 0 && n * d == values.len());
        assert!(values.iter().all(|value| value.is_finite()));
    }
});
