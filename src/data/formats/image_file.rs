//! One image file, as people have them, becomes one image of a set.

use std::cell::Cell;
use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result, anyhow, bail, ensure};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::SourceFile;
use super::foreign::{self, Kind};
use super::input::Content;
use super::jpeg::{self, Jpeg};
use super::npy::Range;
use super::tiff::{self, Reading};
use crate::architecture::halvings;
use crate::data::findings::printable;
use crate::data::fit::{Decoding, fit, with_channels};
use crate::files::own::is_own_picture;
use crate::shape::ImageSize;

/// An image that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// 1 or 3. An image that is stored in colour but is gray in every pixel has 1, unless 3 are asked for.
    pub channels: usize,
    /// `[H, W, channels]` of the wanted size, upright. Empty where images are to stay as large as they are, and no
    /// network takes images so large: many of them would not fit into memory.
    pub pixels: Vec<u8>,
    /// Width and height in the file, upright.
    pub size: (u32, u32),
    /// Whether the file stores it gray.
    pub is_gray: bool,
    /// The least and the greatest value, where the file has 16 bits for each.
    pub deep: Option<(u16, u16)>,
    /// Whether the file has further pages, which are not read.
    pub has_more_pages: bool,
}

/// The longest side of an image that is read, and the bytes that decoding one may allocate.
pub(in crate::data) const MAX_SIDE: u32 = 32_768;
pub(super) const MAX_BYTES: u64 = 256 << 20;
/// Images of more bytes than this are decoded one after the other, so that a few of them don't fill the memory.
const LARGE: u64 = 32 << 20;
/// The largest image file that is read, in bytes.
pub(super) const MAX_FILE: u64 = 256 << 20;
/// How the names of image files end. A file named so that holds no image is damaged.
const EXTENSIONS: [&str; 14] = [
    "png", "jpg", "jpeg", "jpe", "bmp", "gif", "webp", "tif", "tiff", "pbm", "pgm", "ppm", "pnm",
    "qoi",
];

/// The format of `bytes`, if they begin as a file of one that is read here does.
fn format_of(bytes: &[u8]) -> Option<ImageFormat> {
    if tiff::is_tiff(bytes) {
        return Some(ImageFormat::Tiff);
    }
    let format = image::guess_format(bytes).ok()?;
    // Two letters begin many a text. Only in an image is there white space behind them, and a number or a comment.
    let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'#';
    let is_pnm = || {
        let rest = &bytes[2..];
        let next = rest.iter().position(|byte| !byte.is_ascii_whitespace());
        next.is_some_and(|at| at > 0 && (is_number(&rest[at]) || bytes[1] == b'7'))
    };
    (format.reading_enabled() && (format != ImageFormat::Pnm || is_pnm())).then_some(format)
}

/// Whether `bytes` begin as a file of a format that is read here does.
pub fn is_image(bytes: &[u8]) -> bool {
    format_of(bytes).is_some()
}

/// Reads a PNG, JPEG, BMP, GIF (its first frame), WebP, TIFF (its first page), PNM or QOI file, whichever its content
/// says; what its EXIF data say of its orientation is done. Of an image with 16 bits for each value, `range` says which
/// values are black and white.
///
/// # Errors
/// If it is none of these, damaged, or larger than any image worth training on.
pub fn decode(bytes: &[u8], decoding: &Decoding, range: Option<Range>) -> Result<Decoded> {
    let mut image = guarded(|| read(bytes))?;
    let size = (image.width(), image.height());
    ensure!(size.0 > 0 && size.1 > 0, "an image of {}×{}", size.0, size.1);
    let is_gray = !image.color().has_color();
    let has_more_pages = tiff::is_tiff(bytes) && tiff::pages(bytes) > 1;
    let deep = deep_range(&image);
    let decoded =
        |channels, pixels| Decoded { channels, pixels, size, is_gray, deep, has_more_pages };
    if decoding.size.is_none() && !is_possible(size) {
        return Ok(decoded(if is_gray { 1 } else { 3 }, Vec::new()));
    }
    if let (Some(found), Some(range)) = (deep, range) {
        stretch(&mut image, found, range)?;
    }
    let (channels, pixels) = flatten(image, decoding)?;
    let pixels = fit(pixels, size, channels, decoding.size, decoding.fit)?;
    let (channels, pixels) = match channels {
        3 if decoding.channels.is_none() && is_all_gray(&pixels) => {
            (1, pixels.into_iter().step_by(3).collect())
        }
        _ => (channels, pixels),
    };
    Ok(decoded(channels, pixels))
}

/// The image in `bytes`, upright.
fn read(bytes: &[u8]) -> Result<DynamicImage> {
    if jpeg::is_jpeg(bytes) {
        let jpeg = Jpeg::open(bytes)?;
        let orientation = orientation(jpeg.exif(), jpeg.xmp());
        let of_size = jpeg.bytes();
        return upright(jpeg.size, of_size, orientation, || jpeg.decode());
    }
    let changed;
    let mut bytes = bytes;
    let mut done = None;
    if tiff::is_tiff(bytes) {
        match tiff::read(bytes)? {
            Reading::Plain => {}
            Reading::Changed(copy) => {
                changed = copy;
                bytes = &changed;
            }
            Reading::Done(image) => done = Some(image),
        }
    }
    let format = format_of(bytes).context("no image of a format that is read here")?;
    if let Some(mut image) = done {
        let exif = Orientation::from_exif_chunk(bytes);
        image.apply_orientation(exif.unwrap_or(Orientation::NoTransforms));
        return Ok(image);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    // Of TIFF files there are many kinds that few programs read.
    let not_read = || match format {
        ImageFormat::Tiff => "not read (saved anew, as a PNG, it may be)",
        _ => "not read",
    };
    let mut decoder = reader.into_decoder().with_context(not_read)?;
    let orientation = match format {
        ImageFormat::Tiff => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        _ => {
            let exif = decoder.exif_metadata().ok().flatten();
            let xmp = decoder.xmp_metadata().ok().flatten();
            orientation(exif.as_deref(), xmp.as_deref())
        }
    };
    let (size, of_size) = (decoder.dimensions(), decoder.total_bytes());
    let decode = || {
        let mut image = DynamicImage::from_decoder(decoder).with_context(not_read)?;
        if format == ImageFormat::Tiff && tiff::has_associated_alpha(bytes) {
            tiff::divide_by_alpha(&mut image);
        }
        Ok(image)
    };
    upright(size, of_size, orientation, decode)
}

/// What `decode` gives, turned as `orientation` says, if an image of this `size` that takes so many `bytes` is not too
/// large.
fn upright(
    (width, height): (u32, u32),
    bytes: u64,
    orientation: Orientation,
    decode: impl FnOnce() -> Result<DynamicImage>,
) -> Result<DynamicImage> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    ensure!(width.max(height) <= MAX_SIDE && bytes <= MAX_BYTES, "{}", too_large(width, height));
    // A thread that ended by a panic held nothing that could be half done.
    let _turn =
        (bytes > LARGE).then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner));
    let mut image = decode()?;
    image.apply_orientation(orientation);
    Ok(image)
}

/// What is said of an image of that size.
pub(super) fn too_large(width: u32, height: u32) -> String {
    format!(
        "an image of {width}×{height}; expected at most {MAX_SIDE} a side and {MAX_BYTES} bytes in all"
    )
}

/// What `decode` gives; a panic within it is an error. No decoder should end so, and some do on damaged or rare files.
fn guarded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    thread_local! {
        static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    }
    static HOOK: Once = Once::new();
    // What would be printed of a panic says nothing to people who train. Others are printed as ever.
    HOOK.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                print(panic);
            }
        }));
    });
    IS_GUARDED.set(true);
    let result = panic::catch_unwind(AssertUnwindSafe(decode));
    IS_GUARDED.set(false);
    result.unwrap_or_else(|_| {
        Err(anyhow!("its decoder fails on it; saved anew, as a PNG, it is read"))
    })
}

/// How an image is to be turned, by its EXIF data (tag 0x0112), or where these say nothing by its XMP data, as common
/// readers do it.
fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    // In WebP and PNG files some programs put before EXIF data what precedes it in JPEG files.
    let exif = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
    let by_xmp = || {
        let xmp = String::from_utf8_lossy(xmp?);
        let (_, after) = xmp.split_once("tiff:Orientation")?;
        let value = after.strip_prefix("=\"").or_else(|| after.strip_prefix('>'))?;
        Orientation::from_exif(value.bytes().next()?.checked_sub(b'0')?)
    };
    let by_exif = exif.and_then(Orientation::from_exif_chunk);
    by_exif.or_else(by_xmp).unwrap_or(Orientation::NoTransforms)
}

/// The least and the greatest value of any color of an image that has 16 bits for each; its alpha does not count.
fn deep_range(image: &DynamicImage) -> Option<(u16, u16)> {
    let (values, in_pixel) = deep_values(image)?;
    let has_alpha = image.color().has_alpha();
    let colors =
        values.chunks(in_pixel).flat_map(|pixel| &pixel[..in_pixel - usize::from(has_alpha)]);
    Some(colors.fold((u16::MAX, u16::MIN), |(least, greatest), &value| {
        (least.min(value), greatest.max(value))
    }))
}

/// The values of an image that has 16 bits for each, and how many a pixel has.
fn deep_values(image: &DynamicImage) -> Option<(&[u16], usize)> {
    let values = match image {
        DynamicImage::ImageLuma16(image) => image.as_raw(),
        DynamicImage::ImageLumaA16(image) => image.as_raw(),
        DynamicImage::ImageRgb16(image) => image.as_raw(),
        DynamicImage::ImageRgba16(image) => image.as_raw(),
        _ => return None,
    };
    Some((values, usize::from(image.color().channel_count())))
}

/// Brings the colors of an image of 16 bits, which are between the two that were `found`, from `range` to all of 16 bits.
fn stretch(image: &mut DynamicImage, found: (u16, u16), range: Range) -> Result<()> {
    let Range { low, high } = range;
    let (least, greatest) = (f64::from(found.0), f64::from(found.1));
    ensure!(
        low <= least && greatest <= high,
        "expected values from {low} to {high}, as the range says, found {least} to {greatest}"
    );
    let stretched = |value: &mut u16| {
        *value = ((f64::from(*value) - low) / (high - low) * 65_535.0).round() as u16;
    };
    let (in_pixel, has_alpha) = (image.color().channel_count(), image.color().has_alpha());
    let (in_pixel, alpha) = (usize::from(in_pixel), usize::from(has_alpha));
    let values: &mut [u16] = match image {
        DynamicImage::ImageLuma16(image) => image,
        DynamicImage::ImageLumaA16(image) => image,
        DynamicImage::ImageRgb16(image) => image,
        DynamicImage::ImageRgba16(image) => image,
        _ => return Ok(()),
    };
    let pixels = values.chunks_mut(in_pixel);
    pixels.for_each(|pixel| pixel[..in_pixel - alpha].iter_mut().for_each(stretched));
    Ok(())
}

/// Whether red, green and blue are the same in all `pixels` `[n, 3]`.
fn is_all_gray(pixels: &[u8]) -> bool {
    pixels.as_chunks::<3>().0.iter().all(|[red, green, blue]| red == green && green == blue)
}

/// Whether networks can be made for images of this width and height.
pub(in crate::data) fn is_possible((width, height): (u32, u32)) -> bool {
    halvings(ImageSize { width: width as usize, height: height as usize }).is_ok()
}

/// Bytes of 1 or 3 channels: 16 bits become 8, transparent pixels get their background.
///
/// # Errors
/// If it has floats outside of 0 to 1, which are black and white.
fn flatten(image: DynamicImage, decoding: &Decoding) -> Result<(usize, Vec<u8>)> {
    let floats = match &image {
        DynamicImage::ImageRgb32F(image) => image.as_raw().as_slice(),
        DynamicImage::ImageRgba32F(image) => image.as_raw(),
        _ => &[],
    };
    if let Some(value) = floats.iter().find(|value| !(0.0..=1.0).contains(*value)) {
        bail!("expected floats from 0, black, to 1, white, found {value}");
    }
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
        return Ok(with_channels(1, pixels, decoding.channels));
    }
    let pixels: Vec<u8> = if color.has_alpha() {
        let image = image.into_rgba8();
        let behind = decoding.background;
        let composed = image.pixels().map(|p| [0, 1, 2].map(|c| over(p[c], p[3], behind[c])));
        composed.flatten().collect()
    } else {
        image.into_rgb8().into_raw()
    };
    Ok(with_channels(3, pixels, decoding.channels))
}

fn over(value: u8, alpha: u8, behind: u8) -> u8 {
    let [value, alpha, behind] = [value, alpha, behind].map(u32::from);
    ((value * alpha + behind * (255 - alpha) + 127) / 255) as u8
}

/// What a file turned out to be.
pub(in crate::data) enum Outcome {
    Image(Decoded),
    /// A picture that this program has made to be looked at.
    Own,
    /// A file of a kind that is not read here.
    Foreign(&'static Kind),
    Other,
    /// An image that is damaged, and how.
    Bad(String),
    /// Something that the disk or its permissions withhold, and why.
    Unreadable(String),
}

/// Decodes `file`, if it is an image; `range` as in [`decode`].
pub(in crate::data) fn decode_file(
    file: &SourceFile,
    decoding: &Decoding,
    range: Option<Range>,
) -> Outcome {
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
        Content::Run => return Outcome::Own,
        Content::Bytes(bytes) => bytes,
        Content::At(path) => match read_file(path) {
            Ok(bytes) => {
                read = bytes;
                &read
            }
            Err(error) => return Outcome::Unreadable(told(error)),
        },
    };
    decode_checked(bytes, &file.name, decoding, range)
        .unwrap_or_else(|error| Outcome::Bad(told(error)))
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

/// What the file of that name with those bytes is.
///
/// # Errors
/// If it is an image that cannot be read, or is named as an image and is none that is read here.
fn decode_checked(
    bytes: &[u8],
    name: &str,
    decoding: &Decoding,
    range: Option<Range>,
) -> Result<Outcome> {
    if is_own_picture(bytes) {
        return Ok(Outcome::Own);
    }
    if foreign::is_raw_photo(bytes, name) {
        return Ok(Outcome::Foreign(&foreign::RAW));
    }
    if is_image(bytes) {
        return decode(bytes, decoding, range).map(Outcome::Image);
    }
    let kind = foreign::kind_of(bytes, name);
    if !is_named_as_image(name) {
        return Ok(kind.map_or(Outcome::Other, Outcome::Foreign));
    }
    ensure!(!bytes.is_empty(), "empty");
    let Some(kind) = kind else { bail!("no image of a format that is read here") };
    bail!("in spite of its name one of the {}, which are not read: {}", kind.name, kind.remedy)
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
            let decoded = decode(&encoded(color.clone(), format)?, &NATURAL, None)?;
            assert_eq!((decoded.channels, decoded.is_gray), (3, false), "{format:?}");
            assert!(decoded.pixels == *color.as_raw(), "{format:?}");
            if format != ImageFormat::WebP {
                let decoded = decode(&encoded(gray.clone(), format)?, &NATURAL, None)?;
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
            None,
        )?;
        assert_eq!(pixel(&gif, 3, 4), [9, 8, 7]);
        Ok(())
    }

    #[test]
    fn sixteen_bits_become_eight_and_transparent_pixels_get_their_background() -> Result<()> {
        let deep = image::ImageBuffer::from_pixel(32, 32, Luma([0x00ff_u16]));
        assert_eq!(pixel(&decode(&encoded(deep, ImageFormat::Png)?, &NATURAL, None)?, 0, 0), [1]);
        let half = image::ImageBuffer::from_pixel(32, 32, Rgba([200_u8, 100, 0, 128]));
        let half = encoded(half, ImageFormat::Png)?;
        assert_eq!(pixel(&decode(&half, &NATURAL, None)?, 0, 0), [100, 50, 0]);
        let on_white = Decoding { background: [255; 3], ..NATURAL };
        assert_eq!(pixel(&decode(&half, &on_white, None)?, 0, 0), [227, 177, 127]);
        let clear =
            encoded(image::ImageBuffer::from_pixel(32, 32, LumaA([50_u8, 0])), ImageFormat::Png)?;
        assert_eq!(pixel(&decode(&clear, &on_white, None)?, 0, 0), [255]);
        let on_red = Decoding { background: [255, 0, 0], ..NATURAL };
        assert_eq!(pixel(&decode(&clear, &on_red, None)?, 0, 0), [255, 0, 0]);
        Ok(())
    }

    #[test]
    fn channels_are_made_as_asked() -> Result<()> {
        let color =
            encoded(image::RgbImage::from_pixel(32, 32, Rgb([255, 0, 0])), ImageFormat::Png)?;
        let gray = Decoding { channels: Some(1), ..NATURAL };
        assert_eq!(pixel(&decode(&color, &gray, None)?, 0, 0), [76]);
        let dark = encoded(image::GrayImage::from_pixel(32, 32, Luma([7])), ImageFormat::Png)?;
        let rgb = Decoding { channels: Some(3), ..NATURAL };
        assert_eq!(pixel(&decode(&dark, &rgb, None)?, 0, 0), [7, 7, 7]);
        Ok(())
    }

    #[test]
    fn other_shapes_are_cropped_padded_or_stretched() -> Result<()> {
        // 96×64: a black left third, then gray, then white.
        let wide =
            image::GrayImage::from_fn(96, 64, |x, _| Luma([[0, 100, 255][(x / 32) as usize]]));
        let wide = encoded(wide, ImageFormat::Png)?;
        let by = |fit| decode(&wide, &Decoding { fit, ..NATURAL }, None);
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
        let small = decode(&small, &Decoding { fit: Fit::Pad, ..NATURAL }, None)?;
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
            let image = decode(&tagged(orientation), &NATURAL, None)?;
            Ok([(2, 2), (29, 2), (2, 29), (29, 29)].map(|(x, y)| pixel(&image, x, y)[0] > 128))
        };
        assert_eq!(corners(1)?, [false, true, false, true]);
        assert_eq!(corners(3)?, [true, false, true, false], "turned by 180°");
        assert_eq!(corners(6)?, [false, false, true, true], "turned by 90° to the right");
        assert_eq!(corners(8)?, [true, true, false, false], "turned by 90° to the left");
        Ok(())
    }

    #[test]
    fn an_image_stored_in_colour_that_is_gray_everywhere_is_gray() -> Result<()> {
        let gray = image::GrayImage::from_fn(50, 40, |x, y| Luma([(x * y) as u8]));
        let stored_gray = decode(&encoded(gray.clone(), ImageFormat::Png)?, &NATURAL, None)?;
        let mut color = DynamicImage::from(gray).into_rgb8();
        let in_color = decode(&encoded(color.clone(), ImageFormat::Png)?, &NATURAL, None)?;
        assert!(stored_gray.is_gray && !in_color.is_gray);
        assert_eq!((in_color.channels, &in_color.pixels), (1, &stored_gray.pixels));
        let as_color = Decoding { channels: Some(3), ..NATURAL };
        assert_eq!(
            decode(&encoded(color.clone(), ImageFormat::Png)?, &as_color, None)?.channels,
            3
        );
        color.put_pixel(25, 20, Rgb([90, 0, 0]));
        assert_eq!(decode(&encoded(color, ImageFormat::Png)?, &NATURAL, None)?.channels, 3);
        Ok(())
    }

    #[test]
    fn a_range_says_what_is_black_and_white_in_sixteen_bits() -> Result<()> {
        let deep = image::ImageBuffer::from_fn(32, 32, |x, _| Rgba([x as u16, 100, 255, 30_000]));
        let file = encoded(deep, ImageFormat::Png)?;
        let opaque = image::ImageBuffer::from_fn(32, 32, |x, _| Luma([10 * x as u16]));
        let opaque = encoded(opaque, ImageFormat::Png)?;
        let range = |low, high| Some(Range { low, high });
        let decoded = decode(&opaque, &NATURAL, range(0.0, 620.0))?;
        assert_eq!(decoded.deep, Some((0, 310)));
        assert_eq!(decoded.pixels[..4], [0, 4, 8, 12], "10 / 620 of 255, rounded");
        // The alpha has no part in it.
        assert_eq!(decode(&file, &NATURAL, None)?.deep, Some((0, 255)));
        let decoded = decode(&file, &NATURAL, range(0.0, 255.0))?;
        assert_eq!(pixel(&decoded, 31, 0), [14, 46, 117], "of which 117 / 255 are to be seen");
        let error = format!("{:#}", decode(&file, &NATURAL, range(0.0, 200.0)).unwrap_err());
        assert!(error.contains("found 0 to 255"), "{error}");
        Ok(())
    }

    #[test]
    fn a_panic_of_a_decoder_is_an_error() {
        let result: Result<()> = guarded(|| panic!("in a decoder"));
        assert!(format!("{:#}", result.unwrap_err()).contains("its decoder fails"));
        assert_eq!(guarded(|| Ok(7)).unwrap(), 7);
    }

    /// EXIF data of one entry: the orientation (0x0112), a short.
    fn exif(orientation: u8) -> Vec<u8> {
        let head = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0";
        [head.as_slice(), &[orientation, 0, 0, 0, 0, 0, 0, 0]].concat()
    }

    #[test]
    fn an_orientation_is_found_with_and_without_a_prefix_and_in_xmp() {
        let plain = exif(6);
        let prefixed = [b"Exif\0\0", plain.as_slice()].concat();
        for exif in [&plain, &prefixed] {
            assert_eq!(orientation(Some(exif), None), Orientation::Rotate90);
        }
        for xmp in ["<x tiff:Orientation=\"3\"/>", "<tiff:Orientation>3</tiff:Orientation>"] {
            assert_eq!(orientation(None, Some(xmp.as_bytes())), Orientation::Rotate180);
            assert_eq!(orientation(Some(&plain), Some(xmp.as_bytes())), Orientation::Rotate90);
        }
        assert_eq!(orientation(None, None), Orientation::NoTransforms);
    }

    #[test]
    fn a_webp_file_is_turned_whether_or_not_its_exif_data_have_the_prefix_of_jpeg_files()
    -> Result<()> {
        // Left half black, right half white.
        let image = image::RgbImage::from_fn(64, 64, |x, _| Rgb([if x < 32 { 0 } else { 255 }; 3]));
        let plain = encoded(image, ImageFormat::WebP)?;
        // The extended format: a header with the flag for EXIF data and the size less 1, the image, the data.
        let image = &plain[12..];
        let tagged = |exif: &[u8]| {
            let length = (exif.len() as u32).to_le_bytes();
            let header = b"VP8X\x0a\0\0\0\x08\0\0\0\x3f\0\0\x3f\0\0";
            let padding = vec![0; exif.len() % 2];
            let body =
                [b"WEBP", header.as_slice(), image, b"EXIF", &length, exif, &padding].concat();
            [b"RIFF".as_slice(), &(body.len() as u32).to_le_bytes(), &body].concat()
        };
        for exif in [exif(6), [b"Exif\0\0".as_slice(), &exif(6)].concat()] {
            let turned = decode(&tagged(&exif), &NATURAL, None)?;
            let levels = [(2, 2), (29, 2), (2, 29), (29, 29)].map(|(x, y)| pixel(&turned, x, y)[0]);
            assert_eq!(levels, [0, 0, 255, 255], "turned by 90° to the right");
        }
        Ok(())
    }

    #[test]
    fn netpbm_and_qoi_files_are_read_and_text_that_begins_so_is_none() -> Result<()> {
        let pgm = [b"P5 # a comment\n32 32\n15\n".as_slice(), &[3; 1024]].concat();
        assert_eq!(pixel(&decode(&pgm, &NATURAL, None)?, 9, 9), [51], "3 of 15");
        let ppm = [b"P6\n32 32\n255\n".as_slice(), &[7, 8, 9].repeat(1024)].concat();
        assert_eq!(pixel(&decode(&ppm, &NATURAL, None)?, 9, 9), [7, 8, 9]);
        let color = image::RgbImage::from_fn(32, 32, |x, y| Rgb([x as u8, y as u8, 200]));
        let qoi = encoded(color.clone(), ImageFormat::Qoi)?;
        assert!(decode(&qoi, &NATURAL, None)?.pixels == *color.as_raw());
        for text in ["P5", "P1,P2,P3", "P5 is a letter and a digit", "P6\n"] {
            assert!(!is_image(text.as_bytes()), "{text}");
        }
        Ok(())
    }

    #[test]
    fn damaged_and_huge_images_are_errors() -> Result<()> {
        let whole = encoded(image::GrayImage::from_pixel(32, 32, Luma([9])), ImageFormat::Png)?;
        for length in 0..whole.len() - 12 {
            assert!(decode(&whole[..length], &NATURAL, None).is_err(), "{length}");
        }
        // The width in the header, with its checksum: 2^31 - 1.
        let mut huge = whole.clone();
        huge[16..20].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
        let mut crc = flate2::Crc::new();
        crc.update(&huge[12..29]);
        huge[29..33].copy_from_slice(&crc.sum().to_be_bytes());
        assert!(decode(&huge, &NATURAL, None).is_err());
        assert!(!is_image(b"hello") && is_image(&whole));
        Ok(())
    }
}
