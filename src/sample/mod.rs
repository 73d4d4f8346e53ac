//! Makes images with a generator: upright, as people look at them.

pub mod grid;
pub mod walk;

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::data::{Classes, ImageSet};
use crate::finite::ensure_finite;
use crate::model::{FoldedGenerator, Model};
use crate::pixels::to_bytes;
use crate::rng::{Latent, Stream, below, rng};
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
    /// The number of classes that the generator is steered by; 0 where it knows none.
    class_count: usize,
    /// What they are, where that is known.
    classes: Option<Classes>,
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
            class_count: usize::try_from(model.config().classes)?,
            classes: None,
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
        let sampler = Self { dataset: Some(weights.config.dataset.clone()), ..sampler };
        sampler.of_classes(weights.classes.clone())
    }

    /// The same generator, which is steered by `classes`.
    ///
    /// # Errors
    /// If it is steered by another number of classes.
    pub fn of_classes(self, classes: Option<Classes>) -> Result<Self> {
        let (expected, found) = (self.class_count, Classes::count(classes.as_ref()));
        ensure!(expected == found, "expected {expected} classes, found {found}");
        Ok(Self { classes, ..self })
    }

    /// The classes that it is steered by, if any.
    pub fn classes(&self) -> Option<&Classes> {
        self.classes.as_ref()
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

    /// The length of a row of the generator's input: the noise, and behind it a number for each class.
    pub fn input_len(&self) -> usize {
        self.z_dim + self.class_count
    }

    /// The length of a row of noise.
    pub fn z_dim(&self) -> usize {
        self.z_dim
    }

    /// The number of bytes of an image.
    pub fn image_len(&self) -> usize {
        self.shape.len()
    }

    /// The generator's input for `count` images of `seed`, from image number `first` on, row by row. The input of an
    /// image depends only on the seed and its number, not on which other images are asked for. Its class is drawn:
    /// each is as likely as among the images of training.
    pub fn noise(&self, seed: u64, first: u64, count: usize) -> Vec<f32> {
        let row = |image| {
            let (z, class) = self.drawn(seed, image);
            self.input_of(&z, class.as_slice(), image as usize)
        };
        (first..first + count as u64).flat_map(row).collect()
    }

    /// As [`Self::noise`], but the class of an image is not drawn: image number i has that of `asked` at i modulo its
    /// length. The noise is the same.
    pub fn noise_of(&self, seed: u64, first: u64, count: usize, asked: &[usize]) -> Vec<f32> {
        let row = |image| self.input_of(&self.drawn(seed, image).0, asked, image as usize);
        (first..first + count as u64).flat_map(row).collect()
    }

    /// The generator's input for one row of noise, of the class that `number` has when the classes `asked` take turns;
    /// if none is asked for, all do.
    pub fn input_of(&self, z: &[f32], asked: &[usize], number: usize) -> Vec<f32> {
        let class = match asked.len() {
            0 => number % self.class_count.max(1),
            count => asked[number % count],
        };
        with_classes(z, self.z_dim, &[class], self.class_count)
    }

    /// The noise of image number `image` of `seed`, and the class that is drawn behind it, where classes are known.
    fn drawn(&self, seed: u64, image: u64) -> (Vec<f32>, Option<usize>) {
        let mut rng = rng(seed, Stream::Image, image);
        let z = self.latent.sample(&mut rng, 1, self.z_dim);
        (z, self.classes.as_ref().map(|classes| drawn_class(&mut rng, classes)))
    }

    /// The classes that [`Self::noise`] draws for `count` images of `seed`, as numbers; `None` where there are none.
    pub fn drawn_classes(&self, seed: u64, first: u64, count: usize) -> Option<Vec<u32>> {
        let images = first..first + count as u64;
        images.map(|image| self.drawn(seed, image).1.map(|class| class as u32)).collect()
    }

    /// The first `count` images of `seed`: `[count, H, W, C]`, upright.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn sample(&self, seed: u64, count: usize) -> Result<Vec<u8>> {
        self.all(&self.noise(seed, 0, count))
    }

    /// `pixels` `[count, H, W, C]`, the first images of `seed` as [`Self::sample`] makes them, as a set; of a conditional
    /// generator with the classes that were drawn.
    ///
    /// # Errors
    /// If there is no image.
    pub fn as_set(&self, seed: u64, pixels: Vec<u8>) -> Result<ImageSet> {
        let set = ImageSet::new("generated", self.shape, pixels)?;
        let drawn = self.drawn_classes(seed, 0, set.count());
        Ok(match drawn.zip(self.classes.as_ref()) {
            Some((labels, classes)) => set.labelled(labels, classes.names.clone()),
            None => set,
        })
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
        let length = self.input_len();
        ensure!(
            z.len().is_multiple_of(length),
            "expected rows of {length} values, found {} values",
            z.len()
        );
        for block in z.chunks(BLOCK * length) {
            let mut whole = block.to_vec();
            whole.resize(BLOCK * length, 0.);
            let z = Tensor::f_from_slice(&whole)?.f_view([BLOCK as i64, length as i64])?;
            let images = self.upright(&z.f_to_device(self.device)?.f_to_kind(self.kind)?)?;
            take(&images.f_narrow(0, 0, (block.len() / length) as i64)?)?;
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

/// Rows of noise `z` of length `z_dim` as rows of a generator's input: behind each a 1 for its class among `count`
/// numbers, the others of which are 0. Without classes (`count` 0) the rows stay as they are. `classes` has one for each
/// row, below `count`.
pub fn with_classes(z: &[f32], z_dim: usize, classes: &[usize], count: usize) -> Vec<f32> {
    if count == 0 {
        return z.to_vec();
    }
    debug_assert!(classes.len() * z_dim == z.len() && classes.iter().all(|&class| class < count));
    let mut rows = Vec::with_capacity(z.len() / z_dim * (z_dim + count));
    for (z, &class) in z.chunks_exact(z_dim).zip(classes) {
        rows.extend_from_slice(z);
        rows.extend((0..count).map(|other| if other == class { 1.0 } else { 0.0 }));
    }
    rows
}

/// A class at random, each as likely as it is frequent.
pub fn drawn_class(rng: &mut ChaCha8Rng, classes: &Classes) -> usize {
    let total: u64 = classes.counts.iter().sum();
    let mut left = below(rng, total as usize) as u64;
    for (class, &count) in classes.counts.iter().enumerate() {
        if left < count {
            return class;
        }
        left -= count;
    }
    // Only if there are no images at all, which `Classes::are_possible` rules out.
    0
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
