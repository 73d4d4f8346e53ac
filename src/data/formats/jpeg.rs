//! JPEG files, of which every part must be there.
//!
//! The decoder can make up what is missing or damaged, by gray; it does so for viewers of images. Here it is asked not
//! to, and the file must have its end. What follows the end is not part of the image: phones put films there.

use anyhow::{Context, Result, ensure};
use image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::image_file::MAX_SIDE;

/// Whether `bytes` begin as a JPEG file does.
pub(super) fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0xff, 0xd8, 0xff])
}

/// A JPEG file whose header has been read.
pub(super) struct Jpeg<'a> {
    decoder: JpegDecoder<ZCursor<&'a [u8]>>,
    /// Width and height.
    pub size: (u32, u32),
    channels: usize,
}

impl<'a> Jpeg<'a> {
    /// Reads the header of the JPEG file `bytes`.
    ///
    /// # Errors
    /// If the file ends within its image, or the header is damaged or of a kind that is not read.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self> {
        ensure!(find_end(bytes).is_some(), "truncated: the end of the JPEG image is missing");
        let side = MAX_SIDE as usize;
        // Some cameras put bytes between the headers, which harm nothing. So the decoder is strict only afterwards.
        let lax = DecoderOptions::default().set_strict_mode(false);
        let lax = lax.set_max_width(side).set_max_height(side);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), lax);
        decoder.decode_headers().context("damaged, or of a kind that is not read")?;
        let (width, height) = decoder.dimensions().context("no size")?;
        let (out, channels) = match decoder.input_colorspace().context("no colours")? {
            ColorSpace::Luma => (ColorSpace::Luma, 1),
            _ => (ColorSpace::RGB, 3),
        };
        decoder.set_options(lax.jpeg_set_out_colorspace(out).set_strict_mode(true));
        let size = (u32::try_from(width)?, u32::try_from(height)?);
        Ok(Self { decoder, size, channels })
    }

    /// The bytes of the image.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.size.0) * u64::from(self.size.1) * self.channels as u64
    }

    /// The EXIF data, where there are any.
    pub(super) fn exif(&self) -> Option<&[u8]> {
        self.decoder.exif().map(Vec::as_slice)
    }

    /// The XMP data, where there are any.
    pub(super) fn xmp(&self) -> Option<&[u8]> {
        self.decoder.xmp().map(Vec::as_slice)
    }

    /// The image, `[H, W, 1 or 3]`.
    ///
    /// # Errors
    /// If the image is damaged.
    pub(super) fn decode(mut self) -> Result<DynamicImage> {
        let (width, height) = self.size;
        let mut pixels = vec![0; usize::try_from(self.bytes())?];
        self.decoder.decode_into(&mut pixels).context("damaged")?;
        let image = if self.channels == 1 {
            GrayImage::from_raw(width, height, pixels).map(DynamicImage::from)
        } else {
            RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
        };
        image.context("another size than promised")
    }
}

/// Where the image ends, behind its last marker. Walks from marker to marker (ITU-T T.81, annex B), past thumbnails, which
/// lie within segments.
fn find_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        // A marker is 0xff, once or more often, and a byte that is neither 0 nor 0xff. Within a scan's data a 0 follows
        // each 0xff, or it is a marker to restart at, which has no segment.
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        at += bytes.get(at..)?.iter().position(|&byte| byte != 0xff)?;
        let marker = bytes[at];
        at += 1;
        match marker {
            0xd9 => return Some(at),
            0 | 1 | 0xd0..=0xd8 => {}
            _ => {
                let length = bytes.get(at..at + 2)?;
                at += usize::from(u16::from_be_bytes([length[0], length[1]]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;

    use super::*;

    fn encoded() -> Result<Vec<u8>> {
        let image = RgbImage::from_fn(96, 64, |x, y| {
            image::Rgb([(x * y % 251) as u8, (7 * x) as u8, (5 * y) as u8])
        });
        let mut file = Vec::new();
        image.write_with_encoder(JpegEncoder::new(&mut file))?;
        Ok(file)
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(Jpeg::open(bytes)?.decode()?.into_rgb8().into_raw())
    }

    #[test]
    fn a_whole_image_is_what_the_lax_decoder_reads_whatever_stands_behind_it() -> Result<()> {
        let whole = encoded()?;
        let expected = image::load_from_memory(&whole)?.into_rgb8().into_raw();
        let film = [b"\0\0\0\x18ftypmp42".as_slice(), &[0xff, 0xda, 0xff, 0x16, 0xff].repeat(99)];
        for behind in [Vec::new(), film.concat(), whole.clone(), whole[..300].to_vec()] {
            assert!(decoded(&[&whole[..], &behind].concat())? == expected);
        }
        // Bytes between the headers, as some cameras write them.
        let filled = [&whole[..2], &[0, 0, 0], &whole[2..]].concat();
        assert!(decoded(&filled)? == expected);
        Ok(())
    }

    #[test]
    fn an_image_with_damage_within_is_an_error_and_not_part_gray() -> Result<()> {
        let whole = encoded()?;
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).context("no scan")? + 14;
        for at in (scan..whole.len() - 8).step_by(97) {
            // A marker that there is not.
            let damaged = [&whole[..at], &[0xff, 0x16], &whole[at + 2..]].concat();
            assert!(decoded(&damaged).is_err(), "a marker at {at}");
            assert!(decoded(&whole[..at]).is_err(), "cut at {at}");
        }
        assert!(decoded(&whole[..whole.len() - 1]).is_err());
        Ok(())
    }
}
