//! The built-in digits.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;

use super::{ImageSet, SIZE, idx};

/// Name of the built-in data set.
pub const DIGITS: &str = "digits";

/// MNIST's test images; origin and licence are in `assets/README.md`.
const T10K_IMAGES: &[u8] = include_bytes!("../../assets/t10k-images-idx3-ubyte.gz");

/// 10,000 real handwritten digits, padded with zeros from 28×28 to 32×32.
///
/// # Errors
/// If the program file is damaged.
pub fn digits() -> Result<ImageSet> {
    let mut bytes = Vec::new();
    GzDecoder::new(T10K_IMAGES).read_to_end(&mut bytes).context("the built-in digits")?;
    let images = idx::parse_images(&bytes).context("the built-in digits")?;
    ImageSet::new(DIGITS, 1, padded(&images)?)
}

/// One-channel images in the middle of [`SIZE`]×[`SIZE`] zeros.
fn padded(images: &idx::IdxImages) -> Result<Vec<u8>> {
    let idx::IdxImages { count, height, width, pixels } = *images;
    ensure!(
        height <= SIZE && width <= SIZE,
        "expected images of at most {SIZE}×{SIZE}, found {height}×{width}"
    );
    let (top, left) = ((SIZE - height) / 2, (SIZE - width) / 2);
    let mut out = vec![0; count * SIZE * SIZE];
    for (row, source) in pixels.chunks_exact(width).enumerate() {
        let (image, y) = (row / height, row % height);
        let start = (image * SIZE + top + y) * SIZE + left;
        out[start..start + width].copy_from_slice(source);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ten_thousand_digits_with_a_border_of_two_zeros() -> Result<()> {
        let set = digits()?;
        assert_eq!((set.count(), set.channels()), (10_000, 1));
        let mut inside = 0_u64;
        for (i, &pixel) in set.pixels.iter().enumerate() {
            let (y, x) = (i / SIZE % SIZE, i % SIZE);
            if (2..30).contains(&y) && (2..30).contains(&x) {
                inside += u64::from(pixel);
            } else {
                assert_eq!(pixel, 0, "image {}, row {y}, column {x}", i / SIZE / SIZE);
            }
        }
        // The mean of MNIST's test pixels is 0.1325 of 255, as everybody normalizes them.
        let mean = inside as f64 / (10_000.0 * 28.0 * 28.0) / 255.0;
        assert!((mean - 0.1325).abs() < 5e-4, "{mean}");
        Ok(())
    }
}
