#![no_main]
#![allow(dead_code)]

mod data;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(stack) = data::idx::parse_images(bytes) {
        data::check(&stack);
    }
    if let Ok(labels) = data::idx::parse_labels(bytes) {
        assert_eq!(labels.len() + 8, bytes.len());
    }
});
