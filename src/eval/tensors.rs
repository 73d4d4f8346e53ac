//! Images as tensors.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::data::SIZE;

/// Bytes `[n, 32, 32, C]` → bytes `[n, C, 32, 32]`: another view of the same memory, so not contiguous.
pub(super) fn planes(bytes: &[u8], channels: usize) -> Result<Tensor> {
    planes_of_side(bytes, channels, SIZE)
}

/// As [`planes`], of square images that are `side` pixels wide.
pub(super) fn planes_of_side(bytes: &[u8], channels: usize, side: usize) -> Result<Tensor> {
    channels_second(&images(bytes, channels, side)?)
}

/// Bytes `[n, 32, 32, C]` → floats `[n, C, 32, 32]` in [−1, 1].
pub(super) fn symmetric(bytes: &[u8], channels: usize, device: Device) -> Result<Tensor> {
    let images = images(bytes, channels, SIZE)?.f_to_device(device)?.f_to_kind(Kind::Float)?;
    let images = images.f_div_scalar(127.5)?.f_sub_scalar(1.0)?;
    Ok(channels_second(&images)?.f_contiguous()?)
}

/// Bytes of square images as a tensor of the same order, `[n, side, side, C]`.
fn images(bytes: &[u8], channels: usize, side: usize) -> Result<Tensor> {
    let shape = [-1, side as i64, side as i64, channels as i64];
    Ok(Tensor::f_from_slice(bytes)?.f_view(shape)?)
}

/// `[n, H, W, C]` → `[n, C, H, W]`.
fn channels_second(images: &Tensor) -> Result<Tensor> {
    Ok(images.f_permute([0, 3, 1, 2])?)
}

/// Bytes of whole images of `image_len` bytes → one row of numbers for each image: `[n, image_len]`.
pub(super) fn rows(bytes: &[u8], image_len: usize, kind: Kind) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(bytes)?.f_view([-1, image_len as i64])?.f_to_kind(kind)?)
}
