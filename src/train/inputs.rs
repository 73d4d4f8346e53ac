//! What an iteration reads besides the networks: real images, noise, classes and the random numbers of augmentations.
//! They depend only on the settings and the number of the iteration.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use super::augment::{Augmentation, DrawTensors};
use super::step::{BatchClasses, Inputs, StepConfig};
use crate::data::prefetch::Make;
use crate::data::{Batch, Batches, Classes, ImageSet, Labels};
use crate::distributed::Share;
use crate::pixels::{pinned, place, sent};
use crate::rng::{Latent, noise};
use crate::sample::{drawn_class, with_classes};
use crate::settings::TrainConfig;

/// Makes the inputs of iterations on the host.
#[derive(Debug)]
pub struct InputMaker {
    /// The real images.
    pub batches: Batches,
    /// The device that they are for, and the kind of its networks.
    pub options: (Kind, Device),
    /// Decides all random numbers.
    pub seed: u64,
    /// The number of times that the run was rolled back, so that after a rollback other random numbers are drawn.
    pub salt: u8,
    /// The distribution of z.
    pub latent: Latent,
    /// Rows of z in an iteration.
    pub batch_size: usize,
    /// The length of a row of z.
    pub z_dim: usize,
    /// The classes that steer both networks, of a conditional model.
    pub classes: Option<Classes>,
    /// What an iteration does.
    pub step: StepConfig,
    /// The rows that are wanted of everything, as [`Batches::shared`] has them of real images.
    pub share: Share,
}

/// The inputs of an iteration on the host, in memory from which they can be sent to the device without waiting.
#[derive(Debug)]
pub struct HostInputs {
    batch: Batch,
    /// `[N, z_dim + classes]`, float32.
    z: Tensor,
    /// `[N]`, int64: the classes that z asks for.
    asked: Option<Tensor>,
    draws: Vec<DrawTensors>,
    /// The rows of real and of generated images in the whole batch.
    whole: [i64; 2],
    options: (Kind, Device),
}

impl Make for InputMaker {
    type Made = HostInputs;

    fn make(&mut self, iteration: u64) -> Result<HostInputs> {
        let (kind, device) = self.options;
        let Batch { images, classes: of_real, whole: n } =
            self.batches.prepare(iteration, device, kind)?;
        let mut noise = noise(self.seed, self.salt, iteration);
        let z = self.latent.sample(&mut noise, self.batch_size, self.z_dim);
        let (z, asked) = match &self.classes {
            None => (z, None),
            Some(classes) => {
                // As often as among the real images, so that the discriminator learns nothing from how often a class
                // comes.
                let asked: Vec<_> =
                    (0..self.batch_size).map(|_| drawn_class(&mut noise, classes)).collect();
                let z = with_classes(&z, self.z_dim, &asked, classes.names.len());
                let asked: Vec<_> = asked.into_iter().map(|class| class as i64).collect();
                let asked = self.share.rows(&Tensor::f_from_slice(&asked)?)?;
                (z, Some(pinned(asked, device)?))
            }
        };
        let z = Tensor::f_from_slice(&z)?.f_view([self.batch_size as i64, -1])?;
        let z = self.share.rows(&z)?;
        let draws = match self.step.augment {
            None => Vec::new(),
            Some(augment) => self.draws(augment, iteration, n)?,
        };
        let of_real = of_real.map(|classes| pinned(classes, device)).transpose()?;
        let batch = Batch { images, classes: of_real, whole: n };
        let whole = [n, self.batch_size].map(|rows| rows as i64);
        Ok(HostInputs { batch, z: pinned(z, device)?, asked, draws, whole, options: self.options })
    }
}

impl InputMaker {
    /// Those of a run with these settings on the images of `set`, on `device`. `labels` and `classes` are those of a set
    /// whose classes steer both networks.
    pub fn new(
        config: &TrainConfig,
        set: ImageSet,
        (labels, classes): (Option<&Labels>, Option<Classes>),
        device: Device,
        salt: u8,
        share: Share,
    ) -> Self {
        let batches = Batches::new(set, config.batch_size, config.seed).shared(share);
        Self {
            batches: batches.flipped(config.flip).labelled(labels),
            options: (config.precision.kind(), device),
            seed: config.seed,
            salt,
            latent: config.latent,
            batch_size: config.batch_size,
            z_dim: config.z_dim as usize,
            classes,
            step: config.into(),
            share,
        }
    }

    /// The random numbers that augment the batches of an iteration with `n` real images.
    fn draws(&self, augment: Augmentation, iteration: u64, n: usize) -> Result<Vec<DrawTensors>> {
        let size = self.batches.shape().size;
        let sides = [size.height as i64, size.width as i64];
        let mut augmenter = augment.begin(self.salt, iteration);
        let draw = |count| {
            let draws = augmenter.draw(count, sides).tensors(self.options.1)?;
            draws.map(|draws| self.share.rows(draws))
        };
        self.step.shown(n, self.batch_size).into_iter().map(draw).collect()
    }
}

impl HostInputs {
    /// Sends them to the device. The host does not wait for that.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn sent(self) -> Result<Inputs> {
        let (kind, device) = self.options;
        let real = place(self.batch.images, device, kind)?;
        let z = sent(&self.z, device)?.f_to_kind(kind)?;
        let classes = match (&self.batch.classes, &self.asked) {
            (Some(real), Some(asked)) => {
                Some(BatchClasses { real: sent(real, device)?, generated: sent(asked, device)? })
            }
            _ => None,
        };
        let draws = self.draws.iter().map(|draws| draws.sent(device)).collect::<Result<_>>()?;
        Ok(Inputs { real, z, classes, draws, whole: self.whole })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::prefetch::Prefetch;
    use crate::shape::ImageShape;

    #[test]
    fn batches_made_ahead_are_the_same_as_without_a_thread_in_any_order() -> Result<()> {
        let batches = || -> Result<Batches> {
            let pixels = (0..10).flat_map(|i| vec![i; 32 * 32]).collect();
            Ok(Batches::new(ImageSet::new("ten", ImageShape::reference(1), pixels)?, 4, 0))
        };
        let options = (Kind::Double, Device::Cpu);
        let mut plain = batches()?;
        let mut ahead = Prefetch::new(InputMaker {
            batches: batches()?,
            options,
            seed: 5,
            salt: 0,
            latent: Latent::Uniform,
            batch_size: 4,
            z_dim: 3,
            classes: None,
            step: StepConfig::default(),
            share: Share::WHOLE,
        });
        for iteration in [1, 2, 3, 4, 5, 2, 3, 9, 1, 1, 2] {
            let Inputs { real, z, classes, draws, .. } = ahead.get(iteration)?.sent()?;
            assert_eq!(real, plain.batch(iteration, Device::Cpu, Kind::Double)?, "{iteration}");
            let expected = Latent::Uniform.sample(&mut noise(5, 0, iteration), 4, 3);
            assert_eq!(z, Tensor::from_slice(&expected).view([4, 3]).to_kind(Kind::Double));
            assert!(classes.is_none() && draws.is_empty());
        }
        let z = |ahead: &mut Prefetch<InputMaker>| Ok::<_, anyhow::Error>(ahead.get(3)?.sent()?.z);
        let before = z(&mut ahead)?;
        ahead.change(|maker| maker.salt = 1)?;
        assert_ne!(z(&mut ahead)?, before, "after a rollback the noise is another one");
        Ok(())
    }
}
