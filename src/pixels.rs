//! Between bytes and floats: the only place that knows how pixels are scaled and laid out.
//!
//! Bytes are `[n, H, W, C]`, as files and data sets hold them, 0 to 255. Floats are `[n, C, H, W]`, as
//! networks take and give them, −1 to 1: `byte / 127.5 − 1`, as the reference scales.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::shape::ImageShape;

/// `bytes` `[n, H, W, C]` as a tensor `[n, C, H, W]` of the same bytes, in channels-last memory order.
///
/// # Errors
/// If `bytes` are not whole images of `shape`.
pub fn planes(bytes: &[u8], shape: ImageShape) -> Result<Tensor> {
    images_first(&Tensor::f_from_slice(bytes)?, shape)
}

/// `bytes` `[n, H, W, C]` as floats of `kind` on `device`, `[n, C, H, W]` in [−1, 1], in channels-last
/// memory order.
///
/// # Errors
/// If `bytes` are not whole images of `shape`, or the device cannot hold them.
pub fn from_bytes(bytes: &[u8], shape: ImageShape, device: Device, kind: Kind) -> Result<Tensor> {
    place(prepare(bytes, shape, device, kind)?, device, kind)
}

/// The first half of [`from_bytes`], which is done on the host and starts none of libtorch's threads:
/// `bytes` as [`place`] takes them.
///
/// # Errors
/// If `bytes` are not whole images of `shape`.
pub fn prepare(bytes: &[u8], shape: ImageShape, device: Device, kind: Kind) -> Result<Tensor> {
    // A byte has 256 values: looking them up costs less than computing each pixel.
    let pixels = match (device, kind) {
        (Device::Cpu, Kind::Float) => {
            let values: [f32; 256] = std::array::from_fn(|byte| byte as f32 / 127.5 - 1.);
            Tensor::f_from_slice(&looked_up(bytes, &values))?
        }
        (Device::Cpu, Kind::Double) => {
            let values: [f64; 256] = std::array::from_fn(|byte| byte as f64 / 127.5 - 1.);
            Tensor::f_from_slice(&looked_up(bytes, &values))?
        }
        // Bytes are the least to send.
        _ => pinned(Tensor::f_from_slice(bytes)?, device)?,
    };
    images_first(&pixels, shape)
}

/// `tensor`, which is on the host, in memory from which it can be sent to `device` without waiting: pinned memory, if
/// that is a CUDA device.
///
/// # Errors
/// If there is no such memory.
pub fn pinned(tensor: Tensor, device: Device) -> Result<Tensor> {
    Ok(match device {
        // Not `f_pin_memory`, which warns at each call that its argument is deprecated.
        Device::Cuda(_) => tensor.f_internal_pin_memory(device)?,
        _ => tensor,
    })
}

/// `tensor` on `device`. The host does not wait for the copy if the tensor is [`pinned`], which is possible with CUDA only.
///
/// # Errors
/// If the device cannot hold it.
pub fn sent(tensor: &Tensor, device: Device) -> Result<Tensor> {
    Ok(tensor.f_to_device_(device, tensor.f_kind()?, device.is_cuda(), false)?)
}

/// The second half of [`from_bytes`]: what [`prepare`] gave, as floats on the device. The host does
/// not wait for the copy.
///
/// # Errors
/// If the device cannot hold it.
pub fn place(prepared: Tensor, device: Device, kind: Kind) -> Result<Tensor> {
    if prepared.f_kind()? == kind {
        return Ok(prepared);
    }
    let mut floats = sent(&prepared, device)?.f_to_kind(kind)?;
    Ok(floats.f_div_scalar_(127.5)?.f_sub_scalar_(1.)?)
}

/// Images `[n, C, H, W]` in [−1, 1] → bytes `[n, H, W, C]`, rounded to nearest.
///
/// # Errors
/// If `images` is not rank 4.
pub fn to_bytes(images: &Tensor) -> Result<Vec<u8>> {
    Ok(Vec::try_from(rounded(images)?.f_flatten(0, -1)?)?)
}

/// As [`to_bytes`], but the bytes are a tensor `[n, H, W, C]` on the images' device.
///
/// # Errors
/// If `images` is not rank 4.
pub fn rounded(images: &Tensor) -> Result<Tensor> {
    let images = images.f_permute([0, 2, 3, 1])?;
    let scaled = images.f_add_scalar(1.)?.f_mul_scalar_(127.5)?.f_round_()?.f_clamp_(0., 255.)?;
    Ok(scaled.f_to_kind(Kind::Uint8)?.f_contiguous()?)
}

fn looked_up<T: Copy>(bytes: &[u8], values: &[T; 256]) -> Vec<T> {
    bytes.iter().map(|&byte| values[usize::from(byte)]).collect()
}

/// `pixels`, one after the other as in a file, as `[n, C, H, W]`.
fn images_first(pixels: &Tensor, shape: ImageShape) -> Result<Tensor> {
    let ImageShape { size, channels } = shape;
    let shape = [-1, size.height as i64, size.width as i64, channels as i64];
    Ok(pixels.f_view(shape)?.f_permute([0, 3, 1, 2])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;

    const SHAPE: ImageShape = ImageShape { size: ImageSize { width: 16, height: 8 }, channels: 3 };

    #[test]
    fn every_byte_survives_the_way_there_and_back_in_every_kind() -> Result<()> {
        let bytes: Vec<u8> = (0..2 * SHAPE.len()).map(|i| i as u8).collect();
        for kind in [Kind::Float, Kind::Double] {
            let images = from_bytes(&bytes, SHAPE, Device::Cpu, kind)?;
            assert_eq!((images.size(), images.kind()), (vec![2, 3, 8, 16], kind));
            assert_eq!(to_bytes(&images)?, bytes);
        }
        assert!(from_bytes(&bytes[1..], SHAPE, Device::Cpu, Kind::Float).is_err());
        Ok(())
    }

    #[test]
    fn the_table_has_the_bits_that_libtorch_computes() -> Result<()> {
        let bytes: Vec<u8> = (0..SHAPE.len()).map(|i| i as u8).collect();
        for kind in [Kind::Float, Kind::Double] {
            let computed = place(planes(&bytes, SHAPE)?, Device::Cpu, kind)?;
            assert_eq!(from_bytes(&bytes, SHAPE, Device::Cpu, kind)?, computed, "{kind:?}");
        }
        Ok(())
    }

    #[test]
    fn pixels_are_scaled_and_laid_out_as_the_reference_does() -> Result<()> {
        // Row 1, column 2: red 0, green 255, blue 51.
        let mut bytes = vec![0; SHAPE.len()];
        bytes[(16 + 2) * 3..][..3].copy_from_slice(&[0, 255, 51]);
        let images = from_bytes(&bytes, SHAPE, Device::Cpu, Kind::Double)?;
        let pixel = [0, 1, 2].map(|channel| images.double_value(&[0, channel, 1, 2]));
        assert_eq!(pixel, [-1.0, 1.0, 51.0 / 127.5 - 1.0]);
        Ok(())
    }

    #[test]
    fn floats_are_rounded_to_the_nearest_byte_and_held_to_its_range() -> Result<()> {
        let images = Tensor::from_slice(&[1.0, -1.0, 0.0, 0.5, 1.5, -2.0]).view([1, 1, 2, 3]);
        assert_eq!(to_bytes(&images)?, [255, 0, 128, 191, 255, 0]);
        Ok(())
    }
}
