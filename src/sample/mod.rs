//! Makes images with a generator: upright, as people look at them.

pub mod grid;
pub mod walk;

use std::ops::Range;

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

use crate::architecture::Layer;
use crate::data::{Classes, ImageSet};
use crate::finite::{ensure_every, ensure_finite};
use crate::model::{FoldedGenerator, Model};
use crate::pixels::{pinned, rounded, sent, to_bytes};
use crate::rng::{Latent, Stream, below, rng};
use crate::settings::TrainConfig;
use crate::shape::ImageShape;
use crate::tf::frame::rotate_images;
use crate::torch::Mark;
use crate::weights::Weights;

/// The images `[N, H, W, C]`, upright, that the generator of `model` makes of `z` `[N, z_dim]` (values row by row).
/// Batch norm uses its moving statistics.
///
/// # Errors
/// If `z` does not consist of whole rows; [`crate::finite::NotFinite`], if a generated pixel is not finite.
pub fn sample(model: &Model, z: &[f32]) -> Result<Vec<u8>> {
    Sampler::new(model, Latent::default())?.images(&model.z(z)?)
}

/// How many rows of z go through the network together on the CPU. The number is always the same, so that the last bits of
/// an image do not depend on how many images are asked for.
pub const BLOCK: usize = 64;

/// About how many bytes the outputs of all layers may take on an accelerator.
const DEVICE_BYTES: usize = 1 << 30;

/// How images are made of many rows of z.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// In blocks of [`BLOCK`], one after the other, the last one filled up.
    Alike,
    /// In blocks of so many rows. While the device makes a block, the host fetches the one before and prepares the next.
    Overlapped(usize),
}

impl Pass {
    /// What suits a generator with these layers on `device`.
    fn on(device: Device, layers: &[Layer], kind: Kind) -> Self {
        if device == Device::Cpu {
            return Self::Alike;
        }
        let values: i64 = layers.iter().map(|layer| layer.output.values()).sum();
        let bytes = values as usize * kind.elt_size_in_bytes();
        Self::Overlapped((DEVICE_BYTES / bytes.max(1)).clamp(BLOCK, 64 * BLOCK))
    }
}

/// What is said not to be finite.
const IMAGES: &str = "the generator's images";

/// A block of images that has been asked for.
struct Asked {
    /// What is to be handed on: on CUDA on the way to the host, else still on the device.
    images: Tensor,
    /// Whether every pixel is finite, in the same place.
    is_finite: Tensor,
    /// Behind both, on CUDA.
    arrived: Option<Mark>,
}

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
    /// The settings that it was trained with, where they are known.
    config: Option<TrainConfig>,
    device: Device,
    kind: Kind,
    pass: Pass,
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
            config: None,
            device: model.device,
            kind: model.kind,
            pass: Pass::on(model.device, &model.architecture.generator, model.kind),
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
        let sampler = Self { config: Some(weights.config.clone()), ..sampler };
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
        self.config.as_ref().map(|config| config.dataset.as_str())
    }

    /// The settings that it was trained with, where they are known.
    pub fn config(&self) -> Option<&TrainConfig> {
        self.config.as_ref()
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
        self.sample_range(seed, 0..count)
    }

    /// The images of `seed` with these numbers: `[n, H, W, C]`, upright. On the CPU they have the same bits as those of
    /// [`Self::sample`], if the first is at the beginning of one of its blocks, a multiple of [`BLOCK`].
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn sample_range(&self, seed: u64, numbers: Range<usize>) -> Result<Vec<u8>> {
        let mut images = Vec::with_capacity(numbers.len() * self.image_len());
        let noise =
            |rows: Range<usize>| self.noise(seed, (numbers.start + rows.start) as u64, rows.len());
        self.each(numbers.len(), &noise, &mut |block| {
            images.extend_from_slice(block);
            Ok(())
        })?;
        Ok(images)
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
    /// If `z` does not consist of whole rows; [`crate::finite::NotFinite`], if a pixel is not finite.
    pub fn all(&self, z: &[f32]) -> Result<Vec<u8>> {
        let length = self.input_len();
        ensure!(
            z.len().is_multiple_of(length),
            "expected rows of {length} values, found {} values",
            z.len()
        );
        let rows_of = |rows: Range<usize>| z[rows.start * length..rows.end * length].to_vec();
        let mut images = Vec::new();
        self.each(z.len() / length, &rows_of, &mut |block| {
            images.extend_from_slice(block);
            Ok(())
        })?;
        Ok(images)
    }

    /// Makes `count` images and passes them to `take` in order, a block at a time: `[n, H, W, C]`, upright. Not all of
    /// them have to fit into memory. `input` gives the rows with these numbers of the generator's input, as
    /// [`Self::noise`] does, values row by row.
    ///
    /// On the CPU, an image has the same bits whatever `count` is; on other devices, not always.
    ///
    /// # Errors
    /// If `input` gives something else; [`crate::finite::NotFinite`], if a pixel is not finite; and the errors of `take`.
    pub fn each(
        &self,
        count: usize,
        input: &dyn Fn(Range<usize>) -> Vec<f32>,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.each_block(count, input, &rounded, &mut |bytes| {
            take(&Vec::<u8>::try_from(bytes.f_flatten(0, -1)?)?)
        })
    }

    /// Like [`Self::each`], but the images are tensors, not yet bytes: `[n, C, H, W]` in [−1, 1], upright, on the CPU.
    ///
    /// # Errors
    /// As [`Self::each`].
    pub fn each_tensor(
        &self,
        count: usize,
        input: &dyn Fn(Range<usize>) -> Vec<f32>,
        take: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        self.each_block(count, input, &|images| Ok(images.shallow_clone()), take)
    }

    /// Makes `count` images, on the device what `of` makes of a block of them, and passes that to `take` on the CPU.
    fn each_block(
        &self,
        count: usize,
        input: &dyn Fn(Range<usize>) -> Vec<f32>,
        of: &dyn Fn(&Tensor) -> Result<Tensor>,
        take: &mut dyn FnMut(&Tensor) -> Result<()>,
    ) -> Result<()> {
        let length = self.input_len();
        let rows_of = |rows: Range<usize>| {
            let (expected, values) = (rows.len() * length, input(rows));
            ensure!(
                values.len() == expected,
                "expected {expected} values in rows of {length}, found {}",
                values.len()
            );
            Ok(values)
        };
        let blocks =
            |rows: usize| (0..count).step_by(rows).map(move |first| first..count.min(first + rows));
        let rows = match self.pass {
            Pass::Alike => {
                for block in blocks(BLOCK) {
                    let rows = block.len();
                    let mut values = rows_of(block)?;
                    values.resize(BLOCK * length, 0.);
                    let z = Tensor::f_from_slice(&values)?.f_view([BLOCK as i64, length as i64])?;
                    let images =
                        self.upright(&z.f_to_device(self.device)?.f_to_kind(self.kind)?)?;
                    take(&of(&images.f_narrow(0, 0, rows as i64)?)?)?;
                }
                return Ok(());
            }
            Pass::Overlapped(rows) => rows,
        };
        let mut before: Option<Asked> = None;
        for block in blocks(rows) {
            let next = self.ask_for(&rows_of(block)?, of)?;
            if let Some(asked) = before.replace(next) {
                take(&asked.arrived()?)?;
            }
        }
        before.map_or(Ok(()), |asked| take(&asked.arrived()?))
    }

    /// Asks the device for what `of` makes of the images of `values`, rows of the generator's input. Does not wait for it
    /// on CUDA.
    fn ask_for(&self, values: &[f32], of: &dyn Fn(&Tensor) -> Result<Tensor>) -> Result<Asked> {
        let z = Tensor::f_from_slice(values)?.f_view([-1, self.input_len() as i64])?;
        let z = sent(&pinned(z, self.device)?, self.device)?.f_to_kind(self.kind)?;
        let images = self.generator.forward(&z)?;
        let is_finite = images.f_isfinite()?.f_all()?;
        let images = of(&rotate_images(&images)?)?;
        let Device::Cuda(device) = self.device else {
            return Ok(Asked { images, is_finite, arrived: None });
        };
        // libtorch copies to pinned memory then, which must not be read before the copy is done.
        let back = |tensor: Tensor| tensor.f_to_device_(Device::Cpu, tensor.f_kind()?, true, false);
        let (images, is_finite) = (back(images)?, back(is_finite)?);
        Ok(Asked { images, is_finite, arrived: Some(Mark::now(device)?) })
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
        ensure_finite(IMAGES, &images)?;
        rotate_images(&images)
    }
}

impl Asked {
    /// Waits for the images, which are then on the CPU.
    fn arrived(self) -> Result<Tensor> {
        if let Some(mark) = &self.arrived {
            mark.wait()?;
        }
        ensure_every(IMAGES, self.is_finite.f_int64_value(&[])? != 0)?;
        Ok(self.images.f_to_device(Device::Cpu)?)
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
    use crate::architecture::{Architecture, ModelConfig};
    use crate::shape::ImageSize;

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

    #[test]
    fn overlapped_blocks_give_the_same_images_in_the_same_order() -> Result<()> {
        let mut sampler = Sampler::built_in(Device::Cpu, Kind::Double)?;
        let made = |sampler: &Sampler, count: usize| -> Result<(Vec<u8>, Vec<f64>)> {
            let (bytes, mut values) = (sampler.sample(5, count)?, Vec::new());
            let noise = |rows: Range<usize>| sampler.noise(5, rows.start as u64, rows.len());
            sampler.each_tensor(count, &noise, &mut |images| {
                assert_eq!(images.size()[1..], [1, 32, 32]);
                values.extend(Vec::<f64>::try_from(images.f_contiguous()?.f_flatten(0, -1)?)?);
                Ok(())
            })?;
            Ok((bytes, values))
        };
        // None, less than a block, whole blocks, and blocks with a rest.
        for count in [0, 1, 6, 7, 14, 23] {
            sampler.pass = Pass::Alike;
            let (bytes, values) = made(&sampler, count)?;
            assert_eq!(values.len(), count * sampler.image_len());
            sampler.pass = Pass::Overlapped(7);
            let (overlapped, overlapped_values) = made(&sampler, count)?;
            assert_eq!(overlapped, bytes, "{count}");
            assert_eq!(overlapped_values.len(), values.len());
            let close = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-12;
            assert!(values.iter().zip(&overlapped_values).all(close), "{count}");
        }
        Ok(())
    }

    #[test]
    fn a_pixel_that_is_not_finite_is_an_error_in_any_block() -> Result<()> {
        let mut sampler = Sampler::built_in(Device::Cpu, Kind::Float)?;
        for pass in [Pass::Alike, Pass::Overlapped(7)] {
            sampler.pass = pass;
            for bad in [0, 9, 20] {
                let noise = |rows: Range<usize>| {
                    let mut values = sampler.noise(0, rows.start as u64, rows.len());
                    if rows.contains(&bad) {
                        values[(bad - rows.start) * sampler.input_len()] = f32::NAN;
                    }
                    values
                };
                let error = sampler.each(21, &noise, &mut |_| Ok(())).unwrap_err();
                assert!(error.is::<crate::finite::NotFinite>(), "{pass:?}, {bad}: {error:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn input_that_is_not_whole_rows_is_an_error() -> Result<()> {
        let mut sampler = Sampler::built_in(Device::Cpu, Kind::Float)?;
        for pass in [Pass::Alike, Pass::Overlapped(7)] {
            sampler.pass = pass;
            let short = |rows: Range<usize>| vec![0.; rows.len() * sampler.input_len() - 1];
            assert!(sampler.each(2, &short, &mut |_| Ok(())).is_err(), "{pass:?}");
            assert!(sampler.all(&short(0..2)).is_err(), "{pass:?}");
        }
        Ok(())
    }

    #[test]
    fn blocks_on_a_device_are_as_large_as_memory_allows() -> Result<()> {
        let rows = |side: usize, base_width: i64, kind: Kind| -> Result<Pass> {
            let image = ImageShape { size: ImageSize::square(side), channels: 3 };
            let config = ModelConfig { image, base_width, ..ModelConfig::default() };
            let layers = Architecture::new(config)?.generator;
            assert_eq!(Pass::on(Device::Cpu, &layers, kind), Pass::Alike);
            Ok(Pass::on(Device::Cuda(0), &layers, kind))
        };
        // 4×4×512 + 8×8×256 + 16×16×128 + 32×32×3 values, of which 1 GiB holds 4443 times as many as an image has.
        assert_eq!(rows(32, 64, Kind::Float)?, Pass::Overlapped(4096));
        assert_eq!(rows(32, 64, Kind::Double)?, Pass::Overlapped(2221));
        assert_eq!(rows(256, 1024, Kind::Float)?, Pass::Overlapped(64));
        Ok(())
    }
}
