//! The images that parsers of array files return.

use std::fmt;

use anyhow::{Result, bail, ensure};

/// The most bytes that a file may expand to in memory: enough for more than a million images of 32×32 in colour.
pub(in crate::data) const MAX_EXPANDED: u64 = 8 << 30;

/// Images of one size, as an array file holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Number of images.
    pub count: usize,
    /// Rows of each.
    pub height: usize,
    /// Columns of each.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// `[count, height, width, channels]`, upright.
    pub pixels: Vec<u8>,
}

impl Stack {
    /// The same images, rows and columns of each exchanged.
    pub(in crate::data) fn transposed(self) -> Self {
        let Self { count, height, width, channels, pixels } = self;
        let mut turned = Vec::with_capacity(pixels.len());
        for image in pixels.chunks_exact((height * width * channels).max(1)) {
            for x in 0..width {
                for y in 0..height {
                    let at = (y * width + x) * channels;
                    turned.extend_from_slice(&image[at..at + channels]);
                }
            }
        }
        Self { count, height: width, width: height, channels, pixels: turned }
    }
}

/// What the axes of an array are, in the order of NumPy: the last one fastest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axes {
    pub(super) count: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    /// 1 or 3.
    pub(super) channels: usize,
    /// Whether the channels of an image lie one after the other: `[N, C, H, W]`.
    pub(super) is_planar: bool,
}

impl Axes {
    /// The axes of an array of this shape, of which each row has the shape `reshape` if that is given.
    ///
    /// # Errors
    /// If they are not those of images; the message says what was expected and what was found.
    pub(super) fn of(shape: &[usize], reshape: Option<&[usize]>) -> Result<Self> {
        ensure!(!shape.contains(&0), "shape {shape:?}: one is 0");
        let mut whole = shape.to_vec();
        if let (Some(image), [count, row @ ..]) = (reshape, shape) {
            let product =
                |sides: &[usize]| sides.iter().try_fold(1_usize, |a, &b| a.checked_mul(b));
            let (in_row, in_image) = (product(row), product(image));
            let number = |n: Option<usize>| n.map_or("too many".to_owned(), |n| n.to_string());
            ensure!(
                in_row == in_image,
                "`reshape`: expected a shape of rows of {} numbers, found {}, which are {}",
                number(in_row),
                told(image),
                number(in_image)
            );
            whole = [&[*count], image].concat();
        }
        let (count, height, width, channels, is_planar) = match whole[..] {
            [n, h, w] => (n, h, w, 1, false),
            [n, h, w, c @ (1 | 3)] => (n, h, w, c, false),
            [n, c @ (1 | 3), h, w] => (n, h, w, c, true),
            [rows, length] => return Err(ShapeIsMissing { rows, length }.into()),
            _ => bail!(
                "expected [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3, found {whole:?}"
            ),
        };
        Ok(Self { count, height, width, channels, is_planar })
    }

    /// The images of some of the array's rows.
    pub(super) fn stack(self, mut pixels: Vec<u8>) -> Stack {
        let Self { height, width, channels, is_planar, .. } = self;
        let plane = height * width;
        let image = (channels * plane).max(1);
        if is_planar && channels > 1 {
            let mut planar = vec![0; image];
            for image in pixels.chunks_exact_mut(image) {
                planar.copy_from_slice(image);
                for (i, value) in image.iter_mut().enumerate() {
                    *value = planar[i % channels * plane + i / channels];
                }
            }
        }
        Stack { count: pixels.len() / image, height, width, channels, pixels }
    }
}

/// A shape as the setting `reshape` is written.
fn told(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// An array holds rows of numbers, and nobody has said of which shape the images are that they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeIsMissing {
    rows: usize,
    length: usize,
}

impl ShapeIsMissing {
    /// The shape that each image most likely has.
    pub fn likely(&self) -> String {
        let (side, side_in_color) = (self.length.isqrt(), (self.length / 3).isqrt());
        if side * side == self.length {
            return format!("{side},{side}");
        }
        if 3 * side_in_color * side_in_color == self.length {
            return format!("3,{side_in_color},{side_in_color}");
        }
        let divides = |height: &usize| self.length.is_multiple_of(*height);
        let height = (1..=side).rev().find(divides).unwrap_or(1);
        format!("{height},{}", self.length / height)
    }
}

impl fmt::Display for ShapeIsMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, length } = self;
        write!(
            f,
            "expected images, found {rows} rows of {length} numbers; if each row is an image, "
        )?;
        f.write_str("the setting `reshape` must say of which shape")
    }
}

impl std::error::Error for ShapeIsMissing {}

/// Takes some images of an array at a time, with the names of their classes where there are any.
pub type Each<'a> = dyn FnMut(Stack, Option<&[String]>) -> Result<()> + 'a;

/// The names that the labels of an array of images most likely have beside it: its own name with the word for images
/// replaced, as in Keras' `x_train` and `y_train`, and those that files with one array of images use.
pub(super) fn labels_of(name: &str) -> Vec<String> {
    let pairs =
        [("images", "labels"), ("image", "label"), ("data", "labels"), ("X", "y"), ("x", "y")];
    let replaced = pairs.into_iter().filter(|(images, _)| name.contains(images));
    let replaced = replaced.map(|(images, labels)| name.replace(images, labels));
    replaced.chain(["labels", "label", "y"].map(str::to_owned)).collect()
}

/// Of the labels of all images, those of the next `count`; `at` is the number of the first, and moves on.
pub(super) fn of_count<'a>(
    labels: Option<&'a [String]>,
    at: &mut usize,
    count: usize,
) -> Option<&'a [String]> {
    let begin = *at;
    *at += count;
    labels.and_then(|labels| labels.get(begin..*at))
}

/// What an archive or packed file of `length` bytes may expand to: images don't compress much.
pub(super) fn expansion_limit(length: u64) -> u64 {
    length.saturating_mul(200).max(1 << 30)
}
