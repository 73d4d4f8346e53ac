//! One image file, as people have them, becomes one image of a set.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use super::SourceFile;
use super::input::Content;
use crate::architecture::halvings;
use crate::data::findings::printable;
use crate::data::fit::{Decoding, fit, with_channels};
use crate::shape::ImageSize;

/// An image that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// 1 or 3.
    pub channels: usize,
    /// `[H, W, channels]` of the wanted size, upright. Empty where images are to stay as large as they are, and no
    /// network takes images so large: many of them would not fit into memory.
    pub pixels: Vec<u8>,
    /// Width and height in the file, upright.
    pub size: (u32, u32),
    /// Whether the file stores it gray.
    pub is_gray: bool,
}

/// The longest side of an image that is read, and the bytes that decoding one may allocate.
pub(in crate::data) const MAX_SIDE: u32 = 32_768;
const MAX_BYTES: u64 = 256 << 20;
/// The largest image file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 256 << 20;
/// How the names of image files end. A file named so that holds no image is damaged.
const EXTENSIONS: [&str; 9] = ["png", "jpg", "jpeg", "jpe", "bmp", "gif", "webp", "tif", "tiff"];

/// Whether `bytes` begin as a file of a format that is read here does.
pub fn is_image(bytes: &[u8]) -> bool {
    image::guess_format(bytes).is_ok_and(|format| format.reading_enabled())
}

/// Reads a PNG, JPEG, BMP, GIF (its first frame), WebP or TIFF file, whichever its content says; what
/// its EXIF data say of its orientation is done.
///
/// # Errors
/// If it is none of these, damaged, or larger than any image worth training on.
pub fn decode(bytes: &[u8], decoding: &Decoding) -> Result<Decoded> {
    ensure!(!is_cut_jpeg(bytes), "truncated: the end of the JPEG image is missing");
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().context("not read")?;
    let bytes = decoder.total_bytes();
    ensure!(bytes <= MAX_BYTES, "an image of {bytes} bytes, more than {MAX_BYTES}");
    let orientation = decoder.orientation().unwrap_or(image::metadata::Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).context("not read")?;
    image.apply_orientation(orientation);
    let size = (image.width(), image.height());
    ensure!(size.0 > 0 && size.1 > 0, "an image of {}×{}", size.0, size.1);
    let is_gray = !image.color().has_color();
    if decoding.size.is_none() && !is_possible(size) {
        let channels = if is_gray { 1 } else { 3 };
        return Ok(Decoded { channels, pixels: Vec::new(), size, is_gray });
    }
    let (channels, pixels) = flatten(image, decoding);
    let pixels = fit(pixels, size, channels, decoding.size, decoding.fit)?;
    Ok(Decoded { channels, pixels, size, is_gray })
}

/// Whether networks can be made for images of this width and height.
pub(in crate::data) fn is_possible((width, height): (u32, u32)) -> bool {
    halvings(ImageSize { width: width as usize, height: height as usize }).is_ok()
}

/// Whether `bytes` are a JPEG file that ends within its image. The decoder makes up what is missing.
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    let is_jpeg = bytes.starts_with(&[0xff, 0xd8, 0xff]);
    // A marker cannot stand within a scan's data: there a zero follows each 0xff. The last end may be
    // that of a thumbnail, with the beginning of the image's own scan behind it.
    let end = bytes.windows(2).rposition(|pair| pair == [0xff, 0xd9]).unwrap_or(0);
    is_jpeg && (end == 0 || bytes[end..].windows(2).any(|pair| pair == [0xff, 0xda]))
}

/// Bytes of 1 or 3 channels: 16 bits become 8, transparent pixels get their background.
fn flatten(image: DynamicImage, decoding: &Decoding) -> (usize, Vec<u8>) {
    let color = image.color();
    let [red, green, blue] = decoding.background;
    let stays_gray = !color.has_color() && (!color.has_alpha() || red == green && green == blue);
    if stays_gray {
        let pixels = if color.has_alpha() {
            let image = image.into_luma_alpha8();
            image.pixels().map(|pixel| over(pixel[0], pixel[1], red)).collect()
        } else {
            image.into_luma8().into_raw()
        };
        return with_channels(1, pixels, decoding.channels);
    }
    let pixels: Vec<u8> = if color.has_alpha() {
        let image = image.into_rgba8();
        let behind = decoding.background;
        let composed = image.pixels().map(|p| [0, 1, 2].map(|c| over(p[c], p[3], behind[c])));
        composed.flatten().collect()
    } else {
        image.into_rgb8().into_raw()
    };
    with_channels(3, pixels, decoding.channels)
}

fn over(value: u8, alpha: u8, behind: u8) -> u8 {
    let [value, alpha, behind] = [value, alpha, behind].map(u32::from);
    ((value * alpha + behind * (255 - alpha) + 127) / 255) as u8
}

/// What a file turned out to be.
pub(in crate::data) enum Outcome {
    Image(Decoded),
    Other,
    /// An image that is damaged, and how.
    Bad(String),
    /// Something that the disk or its permissions withhold, and why.
    Unreadable(String),
}

/// Decodes `file`, if it is an image.
pub(in crate::data) fn decode_file(file: &SourceFile, decoding: &Decoding) -> Outcome {
    // The causes, on one line; decoders repeat a cause's words in their own.
    let told = |error: anyhow::Error| {
        let mut parts: Vec<String> = Vec::new();
        for cause in error.chain().map(ToString::to_string) {
            if parts.last().is_none_or(|last| !last.contains(cause.trim_end_matches('.'))) {
                parts.push(cause);
            }
        }
        printable(&parts.join(": "))
    };
    let read;
    let bytes = match &file.content {
        Content::Unreadable(reason) => return Outcome::Unreadable(reason.clone()),
        Content::Bytes(bytes) => bytes,
        Content::At(path) => match read_file(path) {
            Ok(bytes) => {
                read = bytes;
                &read
            }
            Err(error) => return Outcome::Unreadable(told(error)),
        },
    };
    match decode_checked(bytes, &file.name, decoding) {
        Ok(Some(image)) => Outcome::Image(image),
        Ok(None) => Outcome::Other,
        Err(error) => Outcome::Bad(told(error)),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_FILE {
        bail!("larger than {MAX_FILE} bytes");
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a file is named as image files are.
pub(super) fn is_named_as_image(name: &str) -> bool {
    let extension =
        Path::new(name).extension().unwrap_or_default().to_string_lossy().to_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

/// The image, or nothing where the file neither is one nor is named as one.
fn decode_checked(bytes: &[u8], name: &str, decoding: &Decoding) -> Result<Option<Decoded>> {
    if is_image(bytes) {
        return decode(bytes, decoding).map(Some);
    }
    if is_named_as_image(name) {
        let what =
            if bytes.is_empty() { "empty" } else { "no image of a format that is read here" };
        bail!("{what}");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Luma, LumaA, Rgb, Rgba};

    use super::*;
    use crate::data::fit::Fit;

    const NATURAL: Decoding = Decoding {
        size: Some(ImageSize::REFERENCE),
        channels: None,
        fit: Fit::Crop,
        background: [0; 3],
    };

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Result<Vec<u8>> {
        let mut file = Cursor::new(Vec::new());
        image.into().write_to(&mut file, format)?;
        Ok(file.into_inner())
    }

    /// The pixel at (x, y) of a decoded image.
    fn pixel(image: &Decoded, x: usize, y: usize) -> &[u8] {
        let start = (y * 32 + x) * image.channels;
        &image.pixels[start..start + image.channels]
    }

    #[test]
    fn lossless_files_are_read_exactly_gray_and_in_colour() -> Result<()> {
        let gray = image::GrayImage::from_fn(32, 32, |x, y| Luma([(8 * x + y) as u8]));
        let color = image::RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8, y as u8, 200]));
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            let decoded = decode(&encoded(color.clone(), format)?, &NATURAL)?;
            assert_eq!((decoded.channels, decoded.is_gray), (3, false), "{format:?}");
            assert!(decoded.pixels == *color.as_raw(), "{format:?}");
            if format != ImageFormat::WebP {
                let decoded = decode(&encoded(gray.clone(), format)?, &NATURAL)?;
                let expanded: Vec<u8> =
                    gray.as_raw().iter().flat_map(|&value| [value; 3]).collect();
                // BMP knows gray as a palette only.
                assert!(
                    decoded.pixels == *gray.as_raw() || decoded.pixels == expanded,
                    "{format:?}"
                );
            }
        }
        let gif = decode(
            &encoded(image::RgbaImage::from_pixel(32, 32, Rgba([9, 8, 7, 255])), ImageFormat::Gif)?,
            &NATURAL,
        )?;
        assert_eq!(pixel(&gif, 3, 4), [9, 8, 7]);
        Ok(())
    }

    #[test]
    fn sixteen_bits_become_eight_and_transparent_pixels_get_their_background() -> Result<()> {
        let deep = image::ImageBuffer::from_pixel(32, 32, Luma([0x00ff_u16]));
        assert_eq!(pixel(&decode(&encoded(deep, ImageFormat::Png)?, &NATURAL)?, 0, 0), [1]);
        let half = image::ImageBuffer::from_pixel(32, 32, Rgba([200_u8, 100, 0, 128]));
        let half = encoded(half, ImageFormat::Png)?;
        assert_eq!(pixel(&decode(&half, &NATURAL)?, 0, 0), [100, 50, 0]);
        let on_white = Decoding { background: [255; 3], ..NATURAL };
        assert_eq!(pixel(&decode(&half, &on_white)?, 0, 0), [227, 177, 127]);
        let clear =
            encoded(image::ImageBuffer::from_pixel(32, 32, LumaA([50_u8, 0])), ImageFormat::Png)?;
        assert_eq!(pixel(&decode(&clear, &on_white)?, 0, 0), [255]);
        let on_red = Decoding { background: [255, 0, 0], ..NATURAL };
        assert_eq!(pixel(&decode(&clear, &on_red)?, 0, 0), [255, 0, 0]);
        Ok(())
    }

    #[test]
    fn channels_are_made_as_asked() -> Result<()> {
        let color =
            encoded(image::RgbImage::from_pixel(32, 32, Rgb([255, 0, 0])), ImageFormat::Png)?;
        let gray = Decoding { channels: Some(1), ..NATURAL };
        assert_eq!(pixel(&decode(&color, &gray)?, 0, 0), [76]);
        let dark = encoded(image::GrayImage::from_pixel(32, 32, Luma([7])), ImageFormat::Png)?;
        let rgb = Decoding { channels: Some(3), ..NATURAL };
        assert_eq!(pixel(&decode(&dark, &rgb)?, 0, 0), [7, 7, 7]);
        Ok(())
    }

    #[test]
    fn other_shapes_are_cropped_padded_or_stretched() -> Result<()> {
        // 96×64: a black left third, then gray, then white.
        let wide =
            image::GrayImage::from_fn(96, 64, |x, _| Luma([[0, 100, 255][(x / 32) as usize]]));
        let wide = encoded(wide, ImageFormat::Png)?;
        let by = |fit| decode(&wide, &Decoding { fit, ..NATURAL });
        let cropped = by(Fit::Crop)?;
        assert_eq!(cropped.size, (96, 64));
        let row = |image: &Decoded, y| [1, 16, 30].map(|x| pixel(image, x, y)[0]);
        // The middle 64 columns: half of the black, all of the gray, half of the white.
        assert_eq!(row(&cropped, 16), [0, 100, 255]);
        assert_eq!(row(&by(Fit::Stretch)?, 0), [0, 100, 255]);
        let padded = by(Fit::Pad)?;
        // 32×21 of it, 5 rows of zeros above.
        assert_eq!(
            (row(&padded, 4), row(&padded, 16), row(&padded, 26)),
            ([0; 3], [0, 100, 255], [0; 3])
        );
        // Smaller ones are never made larger by padding.
        let small = encoded(image::GrayImage::from_pixel(28, 28, Luma([9])), ImageFormat::Png)?;
        let small = decode(&small, &Decoding { fit: Fit::Pad, ..NATURAL })?;
        assert_eq!(small.pixels.iter().filter(|&&value| value == 9).count(), 28 * 28);
        assert_eq!((pixel(&small, 1, 16), pixel(&small, 2, 16)), (&[0][..], &[9][..]));
        Ok(())
    }

    #[test]
    fn what_the_camera_says_of_its_orientation_is_done() -> Result<()> {
        // Left half black, right half white.
        let image = image::GrayImage::from_fn(64, 64, |x, _| Luma([if x < 32 { 0 } else { 255 }]));
        let plain = encoded(image, ImageFormat::Jpeg)?;
        // A TIFF header in an APP1 segment, with one entry: orientation (0x0112), a short.
        let tagged = |orientation: u8| {
            let tiff = [
                b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".as_slice(),
                &[orientation, 0, 0, 0, 0, 0, 0, 0],
            ]
            .concat();
            let body = [b"Exif\0\0".as_slice(), &tiff].concat();
            let length = u16::try_from(body.len() + 2).unwrap().to_be_bytes();
            [&plain[..2], &[0xff, 0xe1], &length, &body, &plain[2..]].concat()
        };
        let corners = |orientation| -> Result<[bool; 4]> {
            let image = decode(&tagged(orientation), &NATURAL)?;
            Ok([(2, 2), (29, 2), (2, 29), (29, 29)].map(|(x, y)| pixel(&image, x, y)[0] > 128))
        };
        assert_eq!(corners(1)?, [false, true, false, true]);
        assert_eq!(corners(3)?, [true, false, true, false], "turned by 180°");
        assert_eq!(corners(6)?, [false, false, true, true], "turned by 90° to the right");
        assert_eq!(corners(8)?, [true, true, false, false], "turned by 90° to the left");
        Ok(())
    }

    #[test]
    fn damaged_and_huge_images_are_errors() -> Result<()> {
        let whole = encoded(image::GrayImage::from_pixel(32, 32, Luma([9])), ImageFormat::Png)?;
        for length in 0..whole.len() - 12 {
            assert!(decode(&whole[..length], &NATURAL).is_err(), "{length}");
        }
        // The width in the header, with its checksum: 2^31 - 1.
        let mut huge = whole.clone();
        huge[16..20].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&huge[12..29]);
        huge[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        assert!(decode(&huge, &NATURAL).is_err());
        assert!(!is_image(b"hello") && is_image(&whole));
        Ok(())
    }
}
