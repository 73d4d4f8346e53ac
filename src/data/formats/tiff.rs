//! TIFF files: what the decoder of the crate `image` does not read, or would read wrongly.
//!
//! Source: TIFF 6.0 (Adobe, 1992), and the design of BigTIFF by libtiff's authors.

use std::io::Cursor;

use anyhow::{Context, Result, bail, ensure};
use image::{DynamicImage, GrayImage, RgbImage};
use tiff::decoder::{Decoder, DecodingResult, Limits};

use super::image_file::{MAX_BYTES, MAX_SIDE, too_large};

const NEW_SUBFILE_TYPE: u16 = 254;
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const FILL_ORDER: u16 = 266;
const STRIP_OFFSETS: u16 = 273;
const SAMPLES: u16 = 277;
const STRIP_BYTES: u16 = 279;
const PREDICTOR: u16 = 317;
const COLOR_MAP: u16 = 320;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTES: u16 = 325;
const EXTRA_SAMPLES: u16 = 338;
const SAMPLE_FORMAT: u16 = 339;
const DNG_VERSION: u16 = 50706;

/// The most pages that are counted.
const MAX_PAGES: usize = 10_000;

/// Whether `bytes` begin as a TIFF or BigTIFF file does.
pub(super) fn is_tiff(bytes: &[u8]) -> bool {
    [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| bytes.starts_with(*magic))
}

/// Whether the TIFF file `bytes` is a raw photo of the format DNG.
pub(super) fn is_dng(bytes: &[u8]) -> bool {
    Directory::first(bytes).is_some_and(|page| page.entry(DNG_VERSION).is_some())
}

/// How many pages the TIFF file `bytes` has. Smaller copies of a page and masks are none.
pub(super) fn pages(bytes: &[u8]) -> usize {
    let pages = std::iter::successors(Directory::first(bytes), Directory::next).take(MAX_PAGES);
    pages.filter(|page| page.number(NEW_SUBFILE_TYPE).unwrap_or(0) & 0b101 == 0).count()
}

/// Whether the colors of the TIFF file `bytes` have been multiplied by its alpha.
pub(super) fn has_associated_alpha(bytes: &[u8]) -> bool {
    Directory::first(bytes).and_then(|page| page.number(EXTRA_SAMPLES)) == Some(1)
}

/// Takes back that the colors of `image` have been multiplied by its alpha.
pub(super) fn divide_by_alpha(image: &mut DynamicImage) {
    match image {
        DynamicImage::ImageLumaA8(image) => divided(image, 2, 255),
        DynamicImage::ImageRgba8(image) => divided(image, 4, 255),
        DynamicImage::ImageLumaA16(image) => divided(image, 2, 65_535),
        DynamicImage::ImageRgba16(image) => divided(image, 4, 65_535),
        _ => {}
    }
}

/// Divides the colors in `values`, of which `in_pixel` are a pixel whose last one is alpha; `white` is the largest value.
fn divided<T: Copy + Into<u32> + TryFrom<u32>>(values: &mut [T], in_pixel: usize, white: u32) {
    for pixel in values.chunks_exact_mut(in_pixel) {
        let Some((alpha, colors)) = pixel.split_last_mut() else { continue };
        let alpha: u32 = (*alpha).into();
        for value in colors.iter_mut().filter(|_| alpha > 0) {
            let whole = ((*value).into() * white / alpha).min(white);
            *value = T::try_from(whole).unwrap_or(*value);
        }
    }
}

/// What has to be done beside decoding, or in its stead.
pub(super) enum Reading {
    /// The decoder reads `bytes` as they are.
    Plain,
    /// The decoder reads these bytes instead.
    Changed(Vec<u8>),
    /// The image.
    Done(DynamicImage),
}

/// Reads the TIFF file `bytes` as far as the decoder of the crate `image` cannot do that.
///
/// # Errors
/// If the image is damaged, or of a kind that is not read; the message says of which.
pub(super) fn read(bytes: &[u8]) -> Result<Reading> {
    let Some(page) = Directory::first(bytes) else { return Ok(Reading::Plain) };
    let number = |tag, default| page.number(tag).unwrap_or(default);
    let bits = number(BITS, 1);
    let samples = number(SAMPLES, 1);
    let mut changed = None;
    if number(FILL_ORDER, 1) == 2 {
        changed = Some(page.in_usual_bit_order()?);
    }
    let photometric = number(PHOTOMETRIC, 1);
    let is_gray = photometric <= 1 && samples == 1 && [2, 4].contains(&bits);
    if photometric != 3 && !is_gray {
        ensure!(
            [1, 8, 16, 32].contains(&bits),
            "TIFF with {bits} bits a sample; expected 1, 8 or 16: convert it, such as by `magick FILE -depth 16 FILE`"
        );
        return Ok(changed.map_or(Reading::Plain, Reading::Changed));
    }
    ensure!(
        samples == 1 && [1, 2, 4, 8].contains(&bits) && number(SAMPLE_FORMAT, 1) == 1,
        "TIFF with a palette of {bits} bits and {samples} samples; expected 1, 2, 4 or 8 bits and one sample"
    );
    ensure!(
        number(PREDICTOR, 1) == 1 || bits == 8,
        "TIFF with a predictor of samples of {bits} bits, which is not read: convert it to PNG"
    );
    // The decoder reads indices and few bits as they are, if the file calls them gray of which 0 is black.
    let mut gray = changed.unwrap_or_else(|| bytes.to_vec());
    page.set_short(&mut gray, PHOTOMETRIC, 1)?;
    let levels = 1_usize << bits;
    let colors: Vec<[u8; 3]> = match photometric {
        3 => {
            let map = page.numbers(COLOR_MAP).context("TIFF palette without colours")?;
            ensure!(map.len() == 3 * levels, "TIFF palette of {} values", map.len());
            // Some programs write bytes where 16 bits are expected, as other readers know, too.
            let is_deep = map.iter().any(|&value| value > 255);
            let byte = |value: u64| if is_deep { (value >> 8) as u8 } else { value as u8 };
            (0..levels).map(|i| [0, 1, 2].map(|c| byte(map[c * levels + i]))).collect()
        }
        white_or_black => (0..levels)
            .map(|i| (i * 255 / (levels - 1)) as u8)
            .map(|value| [if white_or_black == 0 { 255 - value } else { value }; 3])
            .collect(),
    };
    Ok(Reading::Done(expanded(&gray, bits as usize, &colors, photometric == 3)?))
}

/// The image of the TIFF file `gray`, whose samples of `bits` bits are indices of `colors`.
fn expanded(
    gray: &[u8],
    bits: usize,
    colors: &[[u8; 3]],
    is_palette: bool,
) -> Result<DynamicImage> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = usize::try_from(MAX_BYTES)?;
    limits.intermediate_buffer_size = usize::try_from(MAX_BYTES)?;
    let mut decoder = Decoder::new(Cursor::new(gray))?.with_limits(limits);
    let (width, height) = decoder.dimensions()?;
    let needed = u64::from(width) * u64::from(height) * 3;
    ensure!(width.max(height) <= MAX_SIDE && needed <= MAX_BYTES, "{}", too_large(width, height));
    let DecodingResult::U8(packed) = decoder.read_image()? else { bail!("no bytes") };
    let (columns, rows) = (width as usize, height as usize);
    let row_bytes = (columns * bits).div_ceil(8);
    ensure!(row_bytes > 0 && packed.len() == row_bytes * rows, "another size than promised");
    let indices = packed.chunks_exact(row_bytes).flat_map(|row| {
        (0..columns).map(move |x| {
            // The leftmost pixel has the highest bits of a byte.
            let shift = 8 - bits - x * bits % 8;
            usize::from(row[x * bits / 8] >> shift) & ((1 << bits) - 1)
        })
    });
    // There is a color for each value of so many bits.
    let image = if is_palette {
        let pixels = indices.flat_map(|index| colors[index]).collect();
        RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
    } else {
        let pixels = indices.map(|index| colors[index][0]).collect();
        GrayImage::from_raw(width, height, pixels).map(DynamicImage::from)
    };
    image.context("another size than promised")
}

/// The list of what a file says of one of its pages.
#[derive(Clone, Copy)]
struct Directory<'a> {
    bytes: &'a [u8],
    is_big_endian: bool,
    /// Whether the file is a BigTIFF, whose counts and offsets have 8 bytes.
    is_big: bool,
    /// Where the entries begin, and how many there are.
    entries: (usize, usize),
}

impl<'a> Directory<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let is_big_endian = bytes.starts_with(b"MM");
        let is_big = matches!(bytes.get(..4)?, b"II+\0" | b"MM\0+");
        let none = Self { bytes, is_big_endian, is_big, entries: (0, 0) };
        let at = if is_big { none.unsigned(8, 8)? } else { none.unsigned(4, 4)? };
        none.at(at)
    }

    /// The directory at the offset `at`; an offset of 0 means none.
    fn at(self, at: u64) -> Option<Self> {
        let at = usize::try_from(at).ok().filter(|&at| at > 0)?;
        let width = if self.is_big { 8 } else { 2 };
        let count = usize::try_from(self.unsigned(at, width)?).ok()?;
        Some(Self { entries: (at + width, count.min(0xffff)), ..self })
    }

    /// The directory of the next page.
    fn next(&self) -> Option<Self> {
        let (start, count) = self.entries;
        let end = start + count * self.entry_len();
        self.at(self.unsigned(end, if self.is_big { 8 } else { 4 })?)
    }

    fn entry_len(&self) -> usize {
        if self.is_big { 20 } else { 12 }
    }

    /// The number of `width` bytes, at most 8, at the offset `at`.
    fn unsigned(&self, at: usize, width: usize) -> Option<u64> {
        let bytes = self.bytes.get(at..at.checked_add(width)?)?;
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Some(if self.is_big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        })
    }

    /// Where the entry of `tag` begins.
    fn entry(&self, tag: u16) -> Option<usize> {
        let (start, count) = self.entries;
        let mut all = (0..count).map(|i| start + i * self.entry_len());
        all.find(|&at| self.unsigned(at, 2) == Some(tag.into()))
    }

    /// Where the values of `tag` begin, how wide each is and how many there are.
    fn values(&self, tag: u16) -> Option<(usize, usize, usize)> {
        let entry = self.entry(tag)?;
        // Bytes, shorts, longs and BigTIFF's long longs, with and without a sign.
        let width: usize = match self.unsigned(entry + 2, 2)? {
            1 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 13 => 4,
            16..=18 => 8,
            _ => return None,
        };
        let wide = if self.is_big { 8 } else { 4 };
        let count = usize::try_from(self.unsigned(entry + 4, wide)?).ok()?;
        let inline = entry + 4 + wide;
        let is_inline = width.checked_mul(count)? <= wide;
        let at =
            if is_inline { inline } else { usize::try_from(self.unsigned(inline, wide)?).ok()? };
        (at.checked_add(width * count)? <= self.bytes.len()).then_some((at, width, count))
    }

    /// All values of `tag`.
    fn numbers(&self, tag: u16) -> Option<Vec<u64>> {
        let (at, width, count) = self.values(tag)?;
        (0..count).map(|i| self.unsigned(at + i * width, width)).collect()
    }

    /// The first value of `tag`.
    fn number(&self, tag: u16) -> Option<u64> {
        let (at, width, count) = self.values(tag)?;
        (count > 0).then(|| self.unsigned(at, width))?
    }

    /// Writes a short as the value of `tag` into `copy`, a copy of the file.
    fn set_short(&self, copy: &mut [u8], tag: u16, value: u16) -> Result<()> {
        let (at, width, _) =
            self.values(tag).context("TIFF without a photometric interpretation")?;
        ensure!(width == 2, "TIFF with a photometric interpretation of {width} bytes");
        let value = if self.is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        copy[at..at + 2].copy_from_slice(&value);
        Ok(())
    }

    /// A copy of the file, in which the first pixel of each byte is in its highest bits, as nearly all files have it.
    /// This page has the opposite order (FillOrder 2), which the decoder takes no notice of.
    fn in_usual_bit_order(&self) -> Result<Vec<u8>> {
        let compression = self.number(COMPRESSION).unwrap_or(1);
        // The bytes of a JPEG image have no such order.
        ensure!(
            compression != 6 && compression != 7,
            "TIFF with FillOrder 2 and JPEG compression, which is not read: convert it to PNG"
        );
        let offsets = self.numbers(STRIP_OFFSETS).or_else(|| self.numbers(TILE_OFFSETS));
        let lengths = self.numbers(STRIP_BYTES).or_else(|| self.numbers(TILE_BYTES));
        let (offsets, lengths) = offsets.zip(lengths).context("TIFF without places of its data")?;
        let mut copy = self.bytes.to_vec();
        let mut total = 0;
        for (&at, &length) in offsets.iter().zip(&lengths) {
            let (at, length) = (usize::try_from(at)?, usize::try_from(length)?);
            let end = at.checked_add(length).context("damaged TIFF")?;
            let part = copy.get_mut(at..end).context("truncated: data of the TIFF are missing")?;
            // Parts that overlap would be turned back.
            total += length;
            ensure!(total <= self.bytes.len(), "damaged TIFF: parts of its data overlap");
            part.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
        Ok(copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Fit;
    use crate::data::fit::Decoding;
    use crate::data::formats::image_file::decode;

    /// A TIFF file of 32×32 pixels: `data` as its only strip, and its entries: tag, type, values.
    fn file(data: &[u8], is_big: bool, entries: &[(u16, u16, &[u32])]) -> Vec<u8> {
        let mut all: Vec<(u16, u16, Vec<u32>)> =
            entries.iter().map(|&(tag, kind, values)| (tag, kind, values.to_vec())).collect();
        let (header, wide) = if is_big { (16, 8) } else { (8, 4) };
        all.extend([
            (256, 3, vec![32]),
            (257, 3, vec![32]),
            (STRIP_OFFSETS, 4, vec![header as u32]),
            (278, 3, vec![32]),
            (STRIP_BYTES, 4, vec![data.len() as u32]),
        ]);
        all.sort();
        let mut bytes = if is_big { b"II+\0\x08\0\0\0".to_vec() } else { b"II*\0".to_vec() };
        bytes.resize(header, 0);
        bytes.extend_from_slice(data);
        let mut directory = all.len().to_le_bytes()[..if is_big { 8 } else { 2 }].to_vec();
        for (tag, kind, values) in all {
            let width = if kind == 3 { 2 } else { 4 };
            let packed: Vec<u8> =
                values.iter().flat_map(|value| value.to_le_bytes()[..width].to_vec()).collect();
            let mut value = packed.clone();
            if packed.len() > wide {
                value = bytes.len().to_le_bytes().to_vec();
                bytes.extend_from_slice(&packed);
            }
            value.resize(wide, 0);
            directory.extend_from_slice(&[tag.to_le_bytes(), kind.to_le_bytes()].concat());
            directory.extend_from_slice(&values.len().to_le_bytes()[..wide]);
            directory.extend_from_slice(&value);
        }
        directory.resize(directory.len() + wide, 0);
        let at = bytes.len().to_le_bytes();
        bytes[header - wide..header].copy_from_slice(&at[..wide]);
        bytes.extend_from_slice(&directory);
        bytes
    }

    fn pixels(file: &[u8]) -> Result<(usize, Vec<u8>)> {
        let decoding = Decoding { size: None, channels: None, fit: Fit::Crop, background: [0; 3] };
        let decoded = decode(file, &decoding, None)?;
        Ok((decoded.channels, decoded.pixels))
    }

    const GRAY: [(u16, u16, &[u32]); 2] = [(PHOTOMETRIC, 3, &[1]), (BITS, 3, &[8])];

    #[test]
    fn classic_and_big_files_are_read_in_both_orders_of_bits() -> Result<()> {
        let data: Vec<u8> = (0..1024).map(|i| (i % 251) as u8).collect();
        let reversed: Vec<u8> = data.iter().map(|byte| byte.reverse_bits()).collect();
        for is_big in [false, true] {
            assert!(pixels(&file(&data, is_big, &GRAY))? == (1, data.clone()), "{is_big}");
            let other_order = [&GRAY[..], &[(FILL_ORDER, 3, &[2])]].concat();
            assert!(
                pixels(&file(&reversed, is_big, &other_order))? == (1, data.clone()),
                "{is_big}"
            );
        }
        Ok(())
    }

    #[test]
    fn palettes_and_grays_of_two_and_four_bits_are_read() -> Result<()> {
        // Red, then green, then blue of every color, in 16 bits.
        let color = |i: u32| [i * 256 + 9, (15 - i) * 256, 77 * 256];
        let map: Vec<u32> = (0..3).flat_map(|c| (0..16).map(move |i| color(i)[c])).collect();
        let data: Vec<u8> = (0..512).map(|i| (i % 256) as u8).collect();
        let palette: [(u16, u16, &[u32]); 3] =
            [(PHOTOMETRIC, 3, &[3]), (BITS, 3, &[4]), (COLOR_MAP, 3, &map)];
        let nibbles = || data.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let expected: Vec<u8> = nibbles().flat_map(|i| [i, 15 - i, 77]).collect();
        assert!(pixels(&file(&data, false, &palette))? == (3, expected.clone()));
        assert!(pixels(&file(&data, true, &palette))? == (3, expected));
        for (photometric, black) in [([1], 0), ([0], 255)] {
            let gray: [(u16, u16, &[u32]); 2] = [(PHOTOMETRIC, 3, &photometric), (BITS, 3, &[4])];
            let expected: Vec<u8> = nibbles().map(|i| black ^ (17 * i)).collect();
            assert!(pixels(&file(&data, false, &gray))? == (1, expected));
        }
        let two: [(u16, u16, &[u32]); 2] = [(PHOTOMETRIC, 3, &[1]), (BITS, 3, &[2])];
        assert_eq!(pixels(&file(&[0b0001_1011; 256], false, &two))?.1[..4], [0, 85, 170, 255]);
        Ok(())
    }

    #[test]
    fn colors_that_were_multiplied_by_their_alpha_are_divided_by_it() -> Result<()> {
        let rgba: [(u16, u16, &[u32]); 4] = [
            (PHOTOMETRIC, 3, &[2]),
            (BITS, 3, &[8, 8, 8, 8]),
            (SAMPLES, 3, &[4]),
            (EXTRA_SAMPLES, 3, &[1]),
        ];
        let data = [[100, 50, 0, 127], [9, 9, 9, 255], [0, 0, 0, 0], [77, 0, 5, 85]].concat();
        // On black, a color is what it was after the multiplication.
        let (_, pixels) = pixels(&file(&data.repeat(256), false, &rgba))?;
        assert_eq!(pixels[..12], [100, 50, 0, 9, 9, 9, 0, 0, 0, 77, 0, 5]);
        Ok(())
    }

    #[test]
    fn what_is_not_read_is_named() {
        let twelve: [(u16, u16, &[u32]); 2] = [(PHOTOMETRIC, 3, &[1]), (BITS, 3, &[12])];
        let jpeg = [&GRAY[..], &[(FILL_ORDER, 3, &[2]), (COMPRESSION, 3, &[7])]].concat();
        let no_colors: [(u16, u16, &[u32]); 2] = [(PHOTOMETRIC, 3, &[3]), (BITS, 3, &[8])];
        for (entries, told) in [
            (&twelve[..], "12 bits a sample"),
            (&jpeg, "FillOrder 2 and JPEG"),
            (&no_colors, "palette without colours"),
        ] {
            let error = format!("{:#}", pixels(&file(&[0; 1536], false, entries)).unwrap_err());
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn cut_or_changed_anywhere_it_is_an_error_or_another_image_and_never_a_panic() {
        let map: Vec<u32> = (0..768).collect();
        let palette: [(u16, u16, &[u32]); 4] =
            [(PHOTOMETRIC, 3, &[3]), (BITS, 3, &[8]), (COLOR_MAP, 3, &map), (FILL_ORDER, 3, &[2])];
        let whole = file(&[5; 1024], false, &palette);
        let directory = whole.len() - 2 - 9 * 12 - 4;
        for at in directory..whole.len() {
            let _ = (read(&whole[..at]), pages(&whole[..at]), is_dng(&whole[..at]));
            for value in [0, 1, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                let _ = (read(&changed), pages(&changed), is_dng(&changed));
            }
        }
    }
}
