#![no_main]
#![allow(dead_code)]

mod data;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for reading in data::readings() {
        if let Ok(found) = data::mat5::parse_images(bytes, None, &reading) {
            data::check(&found.images);
            assert!(found.labels.is_none_or(|labels| labels.len() == found.images.count));
        }
    }
});
