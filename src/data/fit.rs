//! Brings images to the size and the channels of a set.

use anyhow::{Context, Result};
use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use serde::{Deserialize, Serialize};

use crate::shape::ImageSize;

/// How an image of another size comes to that of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The largest part in its middle that has the set's aspect ratio, resampled.
    Crop,
    /// All of it in the middle of zeros, as MNIST's; made smaller where it must be, never larger.
    Pad,
    /// All of it, its sides resampled each by its own factor.
    Stretch,
}

/// What the images of a set are decoded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoding {
    /// The size of the set; `None` leaves images as large as they are.
    pub size: Option<ImageSize>,
    /// 1 or 3 channels, or as each image has them.
    pub channels: Option<usize>,
    /// For images of another size.
    pub fit: Fit,
    /// What is behind transparent pixels: red, green, blue.
    pub background: [u8; 3],
}

/// `pixels` `[height, width, channels]` as an image of the size `to`; without one they stay as they are.
///
/// # Errors
/// If `pixels` has another length, or there is no such size.
pub(super) fn fit(
    pixels: Vec<u8>,
    from: (u32, u32),
    channels: usize,
    to: Option<ImageSize>,
    fit: Fit,
) -> Result<Vec<u8>> {
    let Some(to) = to else { return Ok(pixels) };
    let (width, height) = from;
    let (to_width, to_height) = (u32::try_from(to.width)?, u32::try_from(to.height)?);
    if from == (to_width, to_height) {
        return Ok(pixels);
    }
    let all = ((0, 0), from);
    match fit {
        Fit::Crop => {
            let part = cropped_size(from, (to_width, to_height));
            let corner = ((width - part.0) / 2, (height - part.1) / 2);
            resample(pixels, from, channels, (corner, part), (to_width, to_height))
        }
        Fit::Stretch => resample(pixels, from, channels, all, (to_width, to_height)),
        Fit::Pad => {
            let inner = if width <= to_width && height <= to_height {
                from
            } else if is_wider(from, (to_width, to_height)) {
                (to_width, in_ratio(height, to_width, width))
            } else {
                (in_ratio(width, to_height, height), to_height)
            };
            let scaled = resample(pixels, from, channels, all, inner)?;
            let (inner_width, inner_height) = (inner.0 as usize, inner.1 as usize);
            let (top, left) = ((to.height - inner_height) / 2, (to.width - inner_width) / 2);
            let mut out = vec![0; to.height * to.width * channels];
            let row = inner_width * channels;
            for (y, source) in scaled.chunks_exact(row).enumerate() {
                let start = ((top + y) * to.width + left) * channels;
                out[start..start + row].copy_from_slice(source);
            }
            Ok(out)
        }
    }
}

/// The size of the largest part of an image of the size `from` that has the aspect ratio of `to`.
pub(super) fn cropped_size(from: (u32, u32), to: (u32, u32)) -> (u32, u32) {
    if is_wider(from, to) {
        (in_ratio(from.1, to.0, to.1), from.1)
    } else {
        (from.0, in_ratio(from.0, to.1, to.0))
    }
}

fn is_wider((width, height): (u32, u32), (to_width, to_height): (u32, u32)) -> bool {
    u64::from(width) * u64::from(to_height) >= u64::from(height) * u64::from(to_width)
}

/// `side` times a ratio, rounded to nearest. Every ratio that is asked for is at most that of the image's own sides, so
/// that the result is never longer than the side of the image or of the target that it is a part of.
fn in_ratio(side: u32, numerator: u32, denominator: u32) -> u32 {
    let [side, numerator, denominator] = [side, numerator, denominator].map(u64::from);
    ((side * numerator + denominator / 2) / denominator).max(1) as u32
}

/// A part (corner, size) of `pixels`, by Lanczos' filter of three lobes, widened where the image
/// becomes smaller, so that nothing aliases. Rows first and bytes in between, as common programs do it.
fn resample(
    pixels: Vec<u8>,
    (width, height): (u32, u32),
    channels: usize,
    ((left, top), (part_width, part_height)): ((u32, u32), (u32, u32)),
    (to_width, to_height): (u32, u32),
) -> Result<Vec<u8>> {
    let kind = if channels == 1 { PixelType::U8 } else { PixelType::U8x3 };
    let filter = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
    let mut resizer = Resizer::new();
    let source = Image::from_vec_u8(width, height, pixels, kind).context("resampling")?;
    // Of what is beyond the part, the filter sees what it reaches.
    let columns = filter.crop(left.into(), 0.0, part_width.into(), height.into());
    let mut rows = Image::new(to_width, height, kind);
    resizer.resize(&source, &mut rows, &columns).context("resampling")?;
    let mut target = Image::new(to_width, to_height, kind);
    let part = filter.crop(0.0, top.into(), to_width.into(), part_height.into());
    resizer.resize(&rows, &mut target, &part).context("resampling")?;
    Ok(target.into_vec())
}

/// `pixels` of 1 or 3 `channels` with as many as are `wanted`, and how many that are.
pub(super) fn with_channels(
    channels: usize,
    pixels: Vec<u8>,
    wanted: Option<usize>,
) -> (usize, Vec<u8>) {
    match (channels, wanted) {
        (3, Some(1)) => (1, luma(&pixels)),
        (1, Some(3)) => (3, pixels.into_iter().flat_map(|value| [value; 3]).collect()),
        _ => (channels, pixels),
    }
}

/// Red, green and blue to gray, by ITU-R BT.601's weights, in the fixed point of common readers.
fn luma(rgb: &[u8]) -> Vec<u8> {
    let gray = |rgb: &[u8; 3]| {
        let [red, green, blue] = rgb.map(u32::from);
        ((19_595 * red + 38_470 * green + 7_471 * blue + 0x8000) >> 16) as u8
    };
    rgb.as_chunks::<3>().0.iter().map(gray).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: ImageSize = ImageSize { width: 80, height: 48 };

    /// An image `[height, width, 1]` whose pixels `level` gives from column and row.
    fn image((width, height): (u32, u32), level: impl Fn(u32, u32) -> u8) -> Vec<u8> {
        (0..width * height).map(|i| level(i % width, i / width)).collect()
    }

    #[test]
    fn an_image_of_the_sets_size_stays_as_it_is() -> Result<()> {
        let pixels = image((80, 48), |x, y| (x * y) as u8);
        for by in [Fit::Crop, Fit::Pad, Fit::Stretch] {
            assert_eq!(fit(pixels.clone(), (80, 48), 1, Some(WIDE), by)?, pixels);
        }
        Ok(())
    }

    #[test]
    fn cropping_keeps_the_largest_part_in_the_middle_of_the_sets_aspect_ratio() -> Result<()> {
        // 160×96 in the middle, the borders black.
        for (size, inside) in [((200, 96), (20..180, 0..96)), ((160, 120), (0..160, 12..108))] {
            let (columns, rows) = inside;
            let level = |x, y| if columns.contains(&x) && rows.contains(&y) { 200 } else { 0 };
            let cropped = fit(image(size, level), size, 1, Some(WIDE), Fit::Crop)?;
            assert_eq!(cropped.len(), 80 * 48);
            // The filter sees some of the border, and nothing else is lost or left.
            let middle = cropped.chunks(80).skip(3).take(42).flat_map(|row| &row[3..77]);
            assert!(middle.clone().all(|&value| value == 200), "{size:?}");
            assert!(cropped.iter().all(|&value| value > 100), "{size:?}");
        }
        Ok(())
    }

    #[test]
    fn padding_keeps_all_of_an_image_and_its_aspect_ratio_and_never_makes_it_larger() -> Result<()>
    {
        for (size, inner) in [
            ((28, 28), (28, 28)),
            ((80, 20), (80, 20)),
            ((160, 48), (80, 24)),
            ((60, 96), (30, 48)),
            ((480, 96), (80, 16)),
        ] {
            let padded = fit(image(size, |_, _| 9), size, 1, Some(WIDE), Fit::Pad)?;
            let (left, top) = ((80 - inner.0) / 2, (48 - inner.1) / 2);
            let is_inside =
                |x, y| (left..left + inner.0).contains(&x) && (top..top + inner.1).contains(&y);
            let expected = image((80, 48), |x, y| if is_inside(x, y) { 9 } else { 0 });
            assert_eq!(padded, expected, "{size:?}");
        }
        Ok(())
    }

    #[test]
    fn stretching_gives_each_side_its_own_factor() -> Result<()> {
        let halves = image((40, 96), |x, _| if x < 20 { 0 } else { 255 });
        let wide = fit(halves, (40, 96), 1, Some(WIDE), Fit::Stretch)?;
        assert!(wide.chunks(80).all(|row| row[30] == 0 && row[50] == 255));
        Ok(())
    }

    #[test]
    fn extreme_shapes_have_at_least_a_pixel_on_each_side() -> Result<()> {
        for size in [(1, 1), (1, 3000), (3000, 1)] {
            for to in [ImageSize::REFERENCE, WIDE, ImageSize { width: 16, height: 64 }] {
                for by in [Fit::Crop, Fit::Pad, Fit::Stretch] {
                    let fitted = fit(image(size, |_, _| 5), size, 1, Some(to), by)?;
                    assert_eq!(fitted.len(), to.width * to.height);
                    assert!(fitted.contains(&5), "{size:?} {to} {by:?}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn channels_are_made_as_wanted() {
        assert_eq!(with_channels(3, vec![255, 0, 0], Some(1)), (1, vec![76]));
        assert_eq!(with_channels(1, vec![7], Some(3)), (3, vec![7, 7, 7]));
        assert_eq!(with_channels(1, vec![7], None), (1, vec![7]));
    }
}
