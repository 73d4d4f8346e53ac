//! Makes images with a generator: upright, as people look at them.

pub mod walk;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::finite::ensure_finite;
use crate::model::{FoldedGenerator, Model};
use crate::pixels::to_bytes;
use crate::rng::{Latent, Stream, rng};
use crate::shape::ImageShape;
use crate::tf::frame::rotate_images;
use crate::weights::Weights;

/// The images `[N, H, W, C]`, upright, that the generator of `model` makes of `z` `[N, z_dim]` (values row by row).
/// Batch norm uses its moving statistics.
///
/// # Errors
/// If `z` does not consist of whole rows; [`crate::finite::NotFinite`], if a generated pixel is not finite.
pub fn sample(model: &Model, z: &[f32]) -> Result<Vec<u8>> {
    Sampler::new(model, Latent::default())?.images(&model.z(z)?)
}

/// How many rows of z go through the network together. The number is always the same, so that the last bits of an image
/// do not depend on how many images are asked for.
const BLOCK: usize = 64;

/// A trained generator with batch norm folded into its weights, for making any number of images.
#[derive(Debug)]
pub struct Sampler {
    generator: FoldedGenerator,
    shape: ImageShape,
    z_dim: usize,
    latent: Latent,
    /// The data set that it was trained on, where that is known.
    dataset: Option<String>,
    device: Device,
    kind: Kind,
}

impl Sampler {
    /// The generator of `model` as it is now; `latent` is the distribution of its noise. The weights of its last
    /// layer are the model's own, not copies: make a new sampler after the model has trained on.
    ///
    /// # Errors
    /// If the device cannot hold the copy.
    pub fn new(model: &Model, latent: Latent) -> Result<Self> {
        Ok(Self {
            generator: model.generator.folded()?,
            shape: model.config().image,
            z_dim: usize::try_from(model.config().z_dim)?,
            latent,
            dataset: None,
            device: model.device,
            kind: model.kind,
        })
    }

    /// The generator of handwritten digits that is built into the program.
    ///
    /// # Errors
    /// If the device cannot hold it.
    pub fn built_in(device: Device, kind: Kind) -> Result<Self> {
        Self::of(&Weights::built_in()?, device, kind)
    }

    /// The generator with these weights.
    ///
    /// # Errors
    /// As [`Weights::generator`].
    pub fn of(weights: &Weights, device: Device, kind: Kind) -> Result<Self> {
        let sampler = Self::new(&weights.generator(device, kind)?, weights.config.latent)?;
        Ok(Self { dataset: Some(weights.config.dataset.clone()), ..sampler })
    }

    /// The same generator, but its convolutions and dense layers compute in `compute`, such as a float32 network in
    /// bfloat16.
    ///
    /// # Errors
    /// If the device cannot hold its weights.
    pub fn computing_in(self, compute: Kind) -> Result<Self> {
        Ok(Self { generator: self.generator.cast(compute)?, ..self })
    }

    /// The name of the data set that it was trained on, where that is known.
    pub fn dataset(&self) -> Option<&str> {
        self.dataset.as_deref()
    }

    /// The device it computes on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The distribution of the noise z.
    pub fn latent(&self) -> Latent {
        self.latent
    }

    /// The shape of its images.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// The number of channels of its images.
    pub fn channels(&self) -> usize {
        self.shape.channels
    }

    /// The length of a row of z.
    pub fn z_dim(&self) -> usize {
        self.z_dim
    }

    /// The number of bytes of an image.
    pub fn image_len(&self) -> usize {
        self.shape.len()
    }

    /// The noise of `count` images of `seed`, from image number `first` on, row by row. The noise of an image depends
    /// only on the seed and its number, not on which other images are asked for.
    pub fn noise(&self, seed: u64, first: u64, count: usize) -> Vec<f32> {
        let row = |image| self.latent.sample(&mut rng(seed, Stream::Image, image), 1, self.z_dim);
        (first..first + count as u64).flat_map(row).collect()
    }

    /// The first `count` images of `seed`: `[count, H, W, C]`, upright.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn sample(&self, seed: u64, count: usize) -> Result<Vec<u8>> {
        self.all(&self.noise(seed, 0, count))
    }

    /// All images of `z` (values row by row): `[n, H, W, C]`, upright.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn all(&self, z: &[f32]) -> Result<Vec<u8>> {
        let mut images = Vec::new();
        self.each(z, &mut |block| {
            images.extend_from_slice(block);
            Ok(())
        })?;
        Ok(images)
    }

    /// Makes the images of `z` (values row by row) and passes them to `take` in order, a block at a time:
    /// `[n, H, W, C]`, upright. Not all of them have to fit into memory.
    ///
    /// # Errors
    /// If `z` does not consist of whole rows; [`crate::finite::NotFinite`], if a pixel is not finite; and the errors of
    /// `take`.
    pub fn each(&self, z: &[f32], take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.each_tensor(z, &mut |images| take(&to_bytes(images)?))
    }

    /// Like [`Self::each`], but the images are tensors, not yet bytes: `[n, C, H, W]` in [−1, 1], upright.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn each_tensor(
        &self,
        z: &[f32],
        take: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        ensure!(
            z.len().is_multiple_of(self.z_dim),
            "expected rows of {} values, found {} values",
            self.z_dim,
            z.len()
        );
        for block in z.chunks(BLOCK * self.z_dim) {
            let mut whole = block.to_vec();
            whole.resize(BLOCK * self.z_dim, 0.);
            let z = Tensor::f_from_slice(&whole)?.f_view([BLOCK as i64, self.z_dim as i64])?;
            let images = self.upright(&z.f_to_device(self.device)?.f_to_kind(self.kind)?)?;
            take(&images.f_narrow(0, 0, (block.len() / self.z_dim) as i64)?)?;
        }
        Ok(())
    }

    /// The images `[N, H, W, C]`, upright, of `z` `[N, z_dim]`, which has the model's kind and is on its device.
    ///
    /// # Errors
    /// If `z` has another shape; [`crate::finite::NotFinite`], if a pixel is not finite.
    pub fn images(&self, z: &Tensor) -> Result<Vec<u8>> {
        to_bytes(&self.upright(z)?)
    }

    /// Like [`Self::images`], but the images are a tensor, not yet bytes: `[N, C, H, W]` in [−1, 1], upright.
    ///
    /// # Errors
    /// As [`Self::images`].
    pub fn upright(&self, z: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let images = self.generator.forward(z)?;
        ensure_finite("the generator's images", &images)?;
        rotate_images(&images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_upright_and_rounded_to_nearest() -> Result<()> {
        // [1, 2, 1, 2], mirrored: two channels, each with one row of two pixels.
        let images = Tensor::from_slice(&[1.0, -1.0, 0.0, 0.5]).view([1, 2, 1, 2]);
        assert_eq!(to_bytes(&rotate_images(&images)?)?, [0, 191, 255, 128]);
        Ok(())
    }

    #[test]
    fn every_byte_survives_the_way_there_and_back() -> Result<()> {
        let all: Vec<u8> = (0..=255).collect();
        let set: Vec<u8> = all.iter().copied().cycle().take(32 * 32).collect();
        let images =
            crate::data::ImageSet::new("all bytes", ImageShape::reference(1), set.clone())?;
        let mut batches = crate::data::Batches::new(images, 1, 0);
        let mirrored = batches.batch(1, tch::Device::Cpu, Kind::Float)?;
        assert_eq!(to_bytes(&rotate_images(&mirrored)?)?, set);
        Ok(())
    }

    #[test]
    fn an_image_does_not_depend_on_how_many_are_asked_for() -> Result<()> {
        let sampler = Sampler::built_in(Device::Cpu, Kind::Float)?;
        let many = sampler.sample(3, BLOCK + 5)?;
        for count in [1, 5, BLOCK] {
            let few = sampler.sample(3, count)?;
            assert_eq!(few, many[..few.len()], "{count}");
        }
        assert_ne!(sampler.sample(4, 1)?, many[..sampler.image_len()]);
        let last = sampler.noise(3, BLOCK as u64 + 4, 1);
        assert_eq!(sampler.all(&last)?, many[many.len() - sampler.image_len()..]);
        Ok(())
    }
}
