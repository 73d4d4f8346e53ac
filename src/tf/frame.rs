//! The mirrored frame: the networks compute on images that are rotated by 180°.
//!
//! TensorFlow's "same" padding for kernel 5 and stride 2 puts one row (and column) of zeros before the input
//! and two after it. libtorch pads with two on both sides but never reads the last one, so in effect it has
//! two before and one after. Each is the mirror image of the other. With everything rotated by 180°,
//! libtorch's plain convolutions and transposed convolutions therefore compute exactly what TensorFlow's do,
//! and nothing has to be padded or cropped.
//!
//! This module maps what crosses the border between the two frames: variables by [`Layout`], images by
//! [`rotate_images`] and [`rotate_pixels`]. Data sets and files are upright: [`crate::data::Batches`] rotates
//! the images that it copies into a batch, and generated images are rotated back where they leave the network.

use anyhow::{Result, ensure};
use tch::Tensor;

use crate::shape::Grid;

/// Width and height of every kernel.
pub const KERNEL: i64 = 5;
/// Stride of every convolution.
pub const STRIDE: i64 = 2;
/// Rows and columns of zeros on each side of a convolution's input.
pub const PADDING: i64 = 2;
/// Extra rows and columns at the end of a transposed convolution's output.
pub const OUTPUT_PADDING: i64 = 1;

/// How a variable is laid out in TensorFlow, and therefore how it maps to the mirrored libtorch tensor.
///
/// Each variant shows TensorFlow's layout on the left and libtorch's on the right, in the order of their axes.
/// Letters: `h`, `w` for the position in a kernel or grid, `i` for input channels, `o` for output channels,
/// `c` for channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// One value for each channel: `[c]` in both.
    Channels,
    /// `kernel_hwio` ↔ `weight_oihw`, rotated.
    ConvKernel,
    /// `kernel_hwoi` ↔ `weight_iohw`, rotated.
    ConvTransposeKernel,
    /// `kernel [i, (h, w, c)]` ↔ `weight [(h, w, c), i]`, the grid rotated.
    KernelToGrid(Grid),
    /// `bias [(h, w, c)]` in both, the grid rotated.
    BiasOfGrid(Grid),
    /// `kernel [(h, w, c), o]` ↔ `weight [o, (h, w, c)]`, the grid rotated.
    KernelFromGrid(Grid),
}

impl Layout {
    /// Converts TensorFlow's upright tensor to libtorch's mirrored one. The result is contiguous.
    ///
    /// # Errors
    /// If the tensor does not have the layout's rank, or the length of an axis that runs over a grid is not a
    /// multiple of the grid's number of positions.
    pub fn mirrored_from_tf(self, tf: &Tensor) -> Result<Tensor> {
        self.check_rank(tf)?;
        Ok(match self {
            Self::Channels => tf.f_detach_copy()?,
            Self::ConvKernel | Self::ConvTransposeKernel => {
                // [h, w, a, b] -> [b, a, h, w]
                tf.f_permute([3, 2, 0, 1])?.f_flip([2, 3])?
            }
            Self::KernelToGrid(grid) => rotate_grid(&tf.f_tr()?, 0, grid)?,
            Self::BiasOfGrid(grid) => rotate_grid(tf, 0, grid)?,
            Self::KernelFromGrid(grid) => rotate_grid(&tf.f_tr()?, 1, grid)?,
        }
        .f_contiguous()?)
    }

    /// Converts libtorch's mirrored tensor to TensorFlow's upright one: the inverse of
    /// [`Self::mirrored_from_tf`]. The result is contiguous.
    ///
    /// # Errors
    /// As [`Self::mirrored_from_tf`].
    pub fn tf_from_mirrored(self, mirrored: &Tensor) -> Result<Tensor> {
        self.check_rank(mirrored)?;
        Ok(match self {
            Self::Channels => mirrored.f_detach_copy()?,
            Self::ConvKernel | Self::ConvTransposeKernel => {
                // [b, a, h, w] -> [h, w, a, b]
                mirrored.f_flip([2, 3])?.f_permute([2, 3, 1, 0])?
            }
            Self::KernelToGrid(grid) => rotate_grid(mirrored, 0, grid)?.f_tr()?,
            Self::BiasOfGrid(grid) => rotate_grid(mirrored, 0, grid)?,
            Self::KernelFromGrid(grid) => rotate_grid(mirrored, 1, grid)?.f_tr()?,
        }
        .f_contiguous()?)
    }

    fn check_rank(self, x: &Tensor) -> Result<()> {
        let rank = match self {
            Self::Channels | Self::BiasOfGrid(_) => 1,
            Self::KernelToGrid(_) | Self::KernelFromGrid(_) => 2,
            Self::ConvKernel | Self::ConvTransposeKernel => 4,
        };
        ensure!(x.dim() == rank, "{self:?}: expected rank {rank}, found shape {:?}", x.size());
        Ok(())
    }
}

/// Rotates by 180° the grid over whose (h, w, c) the axis `axis` runs.
fn rotate_grid(x: &Tensor, axis: usize, grid: Grid) -> Result<Tensor> {
    let shape = x.size();
    let length = shape[axis];
    let Grid { height, width } = grid;
    ensure!(
        length % grid.cells() == 0,
        "axis {axis} of shape {shape:?}: expected a multiple of the {height}×{width} positions of the grid"
    );
    let mut split = shape.clone();
    split.splice(axis..=axis, [height, width, length / grid.cells()]);
    let axis = axis as i64;
    Ok(x.f_reshape(&split)?.f_flip([axis, axis + 1])?.f_reshape(&shape)?)
}

/// Rotates images `[N, C, H, W]` by 180°, which maps either frame to the other.
///
/// # Errors
/// If `images` is not rank 4.
pub fn rotate_images(images: &Tensor) -> Result<Tensor> {
    ensure!(images.dim() == 4, "expected images [N, C, H, W], found {:?}", images.size());
    Ok(images.f_flip([2, 3])?)
}

/// Rotates the bytes `[H, W, C]` of one image by 180° in place, which maps either frame to the other.
pub fn rotate_pixels(image: &mut [u8], channels: usize) {
    image.reverse();
    for pixel in image.chunks_exact_mut(channels) {
        pixel.reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn every_layout_maps_back_to_itself() -> Result<()> {
        let (square, wide) = (Grid { height: 4, width: 4 }, Grid { height: 3, width: 5 });
        let cases: [(Layout, &[i64]); 9] = [
            (Layout::Channels, &[7]),
            (Layout::ConvKernel, &[5, 5, 3, 2]),
            (Layout::ConvTransposeKernel, &[5, 5, 2, 3]),
            (Layout::KernelToGrid(square), &[10, 48]),
            (Layout::BiasOfGrid(square), &[48]),
            (Layout::KernelFromGrid(square), &[48, 1]),
            (Layout::KernelToGrid(wide), &[10, 45]),
            (Layout::BiasOfGrid(wide), &[45]),
            (Layout::KernelFromGrid(wide), &[45, 1]),
        ];
        for (layout, shape) in cases {
            let tf = Tensor::rand(shape, (Kind::Double, Device::Cpu));
            let there = layout.mirrored_from_tf(&tf)?;
            assert!(there.is_contiguous());
            assert_eq!(layout.tf_from_mirrored(&there)?, tf, "{layout:?}");
        }
        Ok(())
    }

    #[test]
    fn bytes_and_tensors_rotate_alike() -> Result<()> {
        let mut bytes: Vec<u8> = (0..3 * 4 * 2).collect();
        let images = Tensor::from_slice(&bytes).view([1, 3, 4, 2]).permute([0, 3, 1, 2]);
        rotate_pixels(&mut bytes, 2);
        let rotated = Tensor::from_slice(&bytes).view([1, 3, 4, 2]).permute([0, 3, 1, 2]);
        assert_eq!(rotate_images(&images)?, rotated);
        Ok(())
    }

    #[test]
    fn a_wrong_rank_is_an_error_that_names_the_shape() {
        let x = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let error = Layout::ConvKernel.mirrored_from_tf(&x).unwrap_err().to_string();
        assert!(error.contains("[2, 3]"), "{error}");
        let grid = Grid { height: 4, width: 4 };
        assert!(Layout::KernelToGrid(grid).mirrored_from_tf(&x).is_err());
    }
}
