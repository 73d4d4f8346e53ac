//! The built-in digits.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;

use super::{Fit, Format, Sink, SourceFile, Stack, idx};
use crate::data::ImageSet;
use crate::data::fit::fit;
use crate::shape::{ImageShape, ImageSize};

/// Name of the built-in data set.
pub const DIGITS: &str = "digits";

/// `digits`.
#[derive(Debug)]
pub struct Digits;

impl Format for Digits {
    fn name(&self) -> &'static str {
        DIGITS
    }

    fn place(&self) -> Option<&'static str> {
        None
    }

    fn meaning(&self) -> &'static str {
        "10,000 real handwritten digits, built in"
    }

    fn holds_arrays(&self) -> bool {
        true
    }

    fn files(&self, _: &Path) -> Result<Vec<SourceFile>> {
        Ok(Vec::new())
    }

    fn read(&self, _: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        sink.stack(stack()?, Some(&labels()?)).context("the built-in digits")
    }
}

/// MNIST's test images; origin and licence are in `assets/README.md`.
const T10K_IMAGES: &[u8] = include_bytes!("../../../assets/t10k-images-idx3-ubyte.gz");
/// Their labels.
const T10K_LABELS: &[u8] = include_bytes!("../../../assets/t10k-labels-idx1-ubyte.gz");

/// 10,000 real handwritten digits, padded with zeros from 28×28 to 32×32.
///
/// # Errors
/// If the program file is damaged.
pub fn digits() -> Result<ImageSet> {
    let Stack { height, width, pixels, .. } = stack()?;
    let size = (u32::try_from(width)?, u32::try_from(height)?);
    let to = Some(ImageSize::REFERENCE);
    let padded =
        pixels.chunks_exact(width * height).map(|image| fit(image.to_vec(), size, 1, to, Fit::Pad));
    let padded: Vec<Vec<u8>> = padded.collect::<Result<_>>()?;
    let classes: Vec<_> = (0..10).map(|digit: u32| digit.to_string()).collect();
    let index = |label: &String| classes.iter().zip(0..).find(|(class, _)| *class == label);
    let labels: Option<_> = labels()?.iter().map(|label| Some(index(label)?.1)).collect();
    let labels = labels.context("the built-in digits: a label above 9")?;
    Ok(ImageSet::new(DIGITS, ImageShape::reference(1), padded.concat())?.labelled(labels, classes))
}

/// Which digit each image is.
///
/// # Errors
/// If the program file is damaged.
fn labels() -> Result<Vec<String>> {
    let mut bytes = Vec::new();
    GzDecoder::new(T10K_LABELS).read_to_end(&mut bytes).context("the built-in digits")?;
    idx::parse_labels(&bytes).context("the built-in digits")
}

/// The digits as the file has them.
///
/// # Errors
/// If the program file is damaged.
fn stack() -> Result<Stack> {
    let mut bytes = Vec::new();
    GzDecoder::new(T10K_IMAGES).read_to_end(&mut bytes).context("the built-in digits")?;
    idx::parse_images(&bytes).context("the built-in digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_ten_thousand_digits_with_a_border_of_two_zeros() -> Result<()> {
        let set = digits()?;
        assert_eq!((set.count(), set.channels()), (10_000, 1));
        let mut inside = 0_u64;
        for (i, pixel) in set.first(10_000)?.into_iter().enumerate() {
            let (y, x) = (i / 32 % 32, i % 32);
            if (2..30).contains(&y) && (2..30).contains(&x) {
                inside += u64::from(pixel);
            } else {
                assert_eq!(pixel, 0, "image {}, row {y}, column {x}", i / 32 / 32);
            }
        }
        // MNIST's test set has 980 zeros, 1135 ones, …, and begins with 7, 2, 1, 0, 4.
        let labels = set.labels().context("no labels")?;
        assert_eq!(labels.of_images[..5], [7, 2, 1, 0, 4]);
        let count = |digit: u32| labels.of_images.iter().filter(|&&label| label == digit).count();
        assert_eq!((0..10).map(count).collect::<Vec<_>>()[..3], [980, 1135, 1032]);
        assert_eq!(labels.classes.concat(), "0123456789");
        // The mean of MNIST's test pixels is 0.1325 of 255, as everybody normalizes them.
        let mean = inside as f64 / (10_000.0 * 28.0 * 28.0) / 255.0;
        assert!((mean - 0.1325).abs() < 5e-4, "{mean}");
        Ok(())
    }
}
