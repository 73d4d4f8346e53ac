//! Pictures made of images.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::{ExtendedColorType, ImageEncoder, ImageFormat, codecs::png::PngEncoder};

use crate::files::own::marked_png;
use crate::shape::{ImageShape, ImageSize};

/// Pixels between the images of a grid.
pub const GAP: usize = 2;
/// Pixels between two grids side by side.
const DIVIDER: usize = 8;

/// A gray or RGB picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
    /// `[height, width, channels]`.
    pub pixels: Vec<u8>,
}

impl Picture {
    fn filled(width: usize, height: usize, channels: usize, value: u8) -> Self {
        Self { width, height, channels, pixels: vec![value; width * height * channels] }
    }

    /// Copies `source` `[height, width, channels]` to (`top`, `left`).
    fn place(&mut self, source: &[u8], width: usize, top: usize, left: usize) {
        let row = width * self.channels;
        for (y, source) in source.chunks_exact(row).enumerate() {
            let start = ((top + y) * self.width + left) * self.channels;
            self.pixels[start..start + row].copy_from_slice(source);
        }
    }

    /// Images of `size`, `[n, H, W, channels]`, in rows of `columns`, with a thin black gap between them.
    ///
    /// # Errors
    /// If there is no image, `images` is not whole images, or `channels` is neither 1 nor 3.
    pub fn grid(images: &[u8], size: ImageSize, channels: usize, columns: usize) -> Result<Self> {
        ensure!(channels == 1 || channels == 3, "a picture has 1 or 3 channels, found {channels}");
        let shape = ImageShape { size, channels };
        let image = shape.len();
        ensure!(
            image > 0 && columns > 0 && !images.is_empty() && images.len().is_multiple_of(image),
            "expected one or more whole images of {shape} in one or more columns, found {} bytes in {columns} columns",
            images.len()
        );
        let count = images.len() / image;
        let (columns, rows) = (columns.min(count), count.div_ceil(columns));
        let along = |n: usize, side: usize| n * side + (n - 1) * GAP;
        let (width, height) = (along(columns, size.width), along(rows, size.height));
        let mut picture = Self::filled(width, height, channels, 0);
        for (i, image) in images.chunks_exact(image).enumerate() {
            let (row, column) = (i / columns, i % columns);
            let (top, left) = (row * (size.height + GAP), column * (size.width + GAP));
            picture.place(image, size.width, top, left);
        }
        Ok(picture)
    }

    /// `left` and `right` with a white line between them.
    ///
    /// # Errors
    /// If they have different channels.
    pub fn side_by_side(left: &Self, right: &Self) -> Result<Self> {
        ensure!(left.channels == right.channels, "one picture is gray and the other in colour");
        let (width, height) = (left.width + DIVIDER + right.width, left.height.max(right.height));
        let mut picture = Self::filled(width, height, left.channels, 255);
        picture.place(&left.pixels, left.width, 0, 0);
        picture.place(&right.pixels, right.width, 0, left.width + DIVIDER);
        Ok(picture)
    }

    /// Each pixel as a square of `factor` by `factor`.
    pub fn scaled(&self, factor: usize) -> Self {
        let (width, height) = (self.width * factor, self.height * factor);
        let mut pixels = Vec::with_capacity(width * height * self.channels);
        for row in self.pixels.chunks_exact((self.width * self.channels).max(1)) {
            let wide: Vec<u8> =
                row.chunks_exact(self.channels).flat_map(|pixel| pixel.repeat(factor)).collect();
            (0..factor).for_each(|_| pixels.extend_from_slice(&wide));
        }
        Self { width, height, channels: self.channels, pixels }
    }

    /// The pictures one below the other, on black, as wide as the widest.
    ///
    /// # Errors
    /// If they have different channels.
    pub fn stacked(pictures: &[Self]) -> Result<Self> {
        let channels = pictures.first().map_or(1, |first| first.channels);
        ensure!(
            pictures.iter().all(|picture| picture.channels == channels),
            "one picture is gray and the other in colour"
        );
        let width = pictures.iter().map(|picture| picture.width).max().unwrap_or(0);
        let height = pictures.iter().map(|picture| picture.height).sum();
        let mut all = Self::filled(width, height, channels, 0);
        let mut top = 0;
        for picture in pictures {
            all.place(&picture.pixels, picture.width, top, 0);
            top += picture.height;
        }
        Ok(all)
    }

    /// Reads a PNG file, as gray or RGB.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let cannot = || format!("{}: cannot be read", path.display());
        let bytes = std::fs::read(path).with_context(cannot)?;
        let image =
            image::load_from_memory_with_format(&bytes, ImageFormat::Png).with_context(cannot)?;
        let (width, height) = (image.width() as usize, image.height() as usize);
        let is_gray = !image.color().has_color();
        let pixels =
            if is_gray { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() };
        Ok(Self { width, height, channels: if is_gray { 1 } else { 3 }, pixels })
    }

    /// The picture as a PNG file that says that this program made it, so that no data set takes it for an image.
    ///
    /// # Errors
    /// If it is too large for one.
    pub fn png(&self) -> Result<Vec<u8>> {
        Ok(marked_png(self.plain_png()?))
    }

    /// As [`Self::png`], but without that mark: for a single image, which may be data for another program or this one.
    ///
    /// # Errors
    /// If it is too large for one.
    pub fn plain_png(&self) -> Result<Vec<u8>> {
        let color =
            if self.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        let (width, height) = (u32::try_from(self.width)?, u32::try_from(self.height)?);
        let mut file = Cursor::new(Vec::new());
        PngEncoder::new(&mut file)
            .write_image(&self.pixels, width, height, color)
            .context("a picture cannot be encoded")?;
        Ok(file.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize::square(2);

    #[test]
    fn images_stand_in_reading_order_with_black_between_them() -> Result<()> {
        // 3 images of 2×2, RGB, filled with 10, 20 and 30, two a row.
        let images: Vec<u8> = [10, 20, 30].iter().flat_map(|&v| [v; 12]).collect();
        let picture = Picture::grid(&images, SIZE, 3, 2)?;
        assert_eq!((picture.width, picture.height), (6, 6));
        let red = |y: usize, x: usize| picture.pixels[(y * 6 + x) * 3];
        assert_eq!([red(0, 0), red(1, 5), red(4, 1), red(0, 2), red(5, 5)], [10, 20, 30, 0, 0]);
        Ok(())
    }

    #[test]
    fn images_need_not_be_square() -> Result<()> {
        // 3 images of 3×2, filled with 10, 20 and 30, two a row.
        let images: Vec<u8> = [10, 20, 30].iter().flat_map(|&v| [v; 6]).collect();
        let picture = Picture::grid(&images, ImageSize { width: 3, height: 2 }, 1, 2)?;
        assert_eq!((picture.width, picture.height), (8, 6));
        let rows: Vec<_> = picture.pixels.chunks(8).collect();
        assert_eq!(rows[1], [10, 10, 10, 0, 0, 20, 20, 20]);
        assert_eq!((rows[3], rows[5]), (&[0; 8][..], &[30, 30, 30, 0, 0, 0, 0, 0][..]));
        Ok(())
    }

    #[test]
    fn a_png_holds_the_same_pixels_gray_and_rgb_square_and_not() -> Result<()> {
        for channels in [1, 3] {
            let images: Vec<u8> = (0..5 * 4 * channels).map(|i| i as u8).collect();
            let grid = Picture::grid(&images, SIZE, channels, 4)?;
            let both = Picture::side_by_side(&grid, &grid)?;
            assert_ne!(both.width, both.height);
            let decoded = image::load_from_memory(&both.png()?)?;
            assert_eq!(decoded.width() as usize, both.width);
            assert_eq!(decoded.height() as usize, both.height);
            assert_eq!(decoded.as_bytes(), both.pixels);
        }
        Ok(())
    }

    #[test]
    fn pictures_are_scaled_stacked_and_read_back() -> Result<()> {
        let picture = Picture { width: 2, height: 1, channels: 3, pixels: vec![1, 2, 3, 4, 5, 6] };
        let large = picture.scaled(2);
        assert_eq!((large.width, large.height), (4, 2));
        assert_eq!(large.pixels, [1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6].repeat(2));
        let both = Picture::stacked(&[picture.clone(), large.clone()])?;
        assert_eq!((both.width, both.height), (4, 3));
        assert_eq!(both.pixels[..12], [1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0]);
        assert_eq!(both.pixels[12..], large.pixels);
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), both.png()?)?;
        assert_eq!(Picture::read(file.path())?, both);
        Ok(())
    }

    #[test]
    fn what_is_no_grid_is_an_error() {
        assert!(Picture::grid(&[0; 8], SIZE, 2, 1).is_err());
        assert!(Picture::grid(&[0; 7], SIZE, 1, 1).is_err());
        assert!(Picture::grid(&[], SIZE, 1, 1).is_err());
    }
}
