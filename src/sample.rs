//! Images from a generator, as people see them.

use anyhow::Result;
use tch::{Kind, Tensor};

use crate::model::{FoldedGenerator, Model};
use crate::tf::frame::rotate_images;
use crate::watch::ensure_finite;

/// Generated images of `z` `[N, z_dim]` (values row by row), with moving statistics:
/// `[N, 32, 32, C]`, upright.
///
/// # Errors
/// If `z` is not whole rows; [`crate::watch::Collapse::NotFinite`], if a generated pixel is not finite.
pub fn sample(model: &Model, z: &[f32]) -> Result<Vec<u8>> {
    Sampler::new(model)?.images(&model.z(z)?)
}

/// A generator that is done with training, ready for any number of batches.
#[derive(Debug)]
pub struct Sampler {
    generator: FoldedGenerator,
}

impl Sampler {
    /// The generator of `model` as it is now.
    ///
    /// # Errors
    /// If the device cannot hold a copy.
    pub fn new(model: &Model) -> Result<Self> {
        Ok(Self { generator: model.generator.folded()? })
    }

    /// Images of `z` `[N, z_dim]`, of the model's kind on its device: `[N, 32, 32, C]`, upright.
    ///
    /// # Errors
    /// If `z` is of another shape; [`crate::watch::Collapse::NotFinite`], if a pixel is not finite.
    pub fn images(&self, z: &Tensor) -> Result<Vec<u8>> {
        let _no_grad = tch::no_grad_guard();
        let images = self.generator.forward(z)?;
        ensure_finite("the generator's images", &images)?;
        bytes(&images)
    }
}

/// Mirrored images `[N, C, H, W]` in [−1, 1] → upright bytes `[N, H, W, C]`, rounded to nearest.
fn bytes(images: &Tensor) -> Result<Vec<u8>> {
    let upright = rotate_images(images)?.f_permute([0, 2, 3, 1])?;
    let scaled = upright.f_add_scalar(1.)?.f_mul_scalar_(127.5)?.f_round_()?.f_clamp_(0., 255.)?;
    Ok(Vec::try_from(scaled.f_to_kind(Kind::Uint8)?.f_contiguous()?.f_flatten(0, -1)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_upright_and_rounded_to_nearest() -> Result<()> {
        // [1, 2, 1, 2]: two channels of one row of two pixels, mirrored.
        let images = Tensor::from_slice(&[1.0, -1.0, 0.0, 0.5]).view([1, 2, 1, 2]);
        assert_eq!(bytes(&images)?, [0, 191, 255, 128]);
        Ok(())
    }

    #[test]
    fn every_byte_survives_the_way_there_and_back() -> Result<()> {
        let all: Vec<u8> = (0..=255).collect();
        let set: Vec<u8> = all.iter().copied().cycle().take(32 * 32).collect();
        let images = crate::data::ImageSet::new("all bytes", 1, set.clone())?;
        let mut batches = crate::data::Batches::new(images, 1, 0);
        assert_eq!(bytes(&batches.batch(1, tch::Device::Cpu, Kind::Float)?)?, set);
        Ok(())
    }
}
