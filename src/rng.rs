//! Random numbers that depend only on (seed, stream, step). So there is no generator's state to save, and a
//! resumed run draws exactly the numbers that an uninterrupted one would have drawn.

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// What random numbers are used for. Each use has its own sequence for each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Initial values of variables. The step is the number of the variable.
    Init = 0,
    /// Noise for training. The step is the iteration.
    Z = 1,
    /// Noise for the sample grids of training. The step is 0.
    SampleZ = 2,
    /// The order of the images in an epoch. The step is the epoch.
    Shuffle = 3,
    /// Which images of a set are taken. The step tells different purposes apart.
    Subset = 4,
    /// Which images of a batch are flipped left to right. The step is the iteration.
    Flip = 5,
    /// Noise for images that [`crate::sample::Sampler`] makes. The step is the number of the image.
    Image = 6,
    /// Random choices that metrics make. The step tells different purposes apart.
    Evaluation = 7,
    /// Augmentations of what the discriminator sees. The step is the iteration.
    Augment = 8,
}

/// The random number generator for (`seed`, `stream`, `step`). Steps must be below 2^56.
///
/// It is ChaCha with 8 rounds, which is specified bit for bit, so a seed gives the same numbers on every machine.
pub fn rng(seed: u64, stream: Stream, step: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((stream as u64) << 56 | step);
    rng
}

/// The random number generator for the noise of a training iteration, which must be below 2^48. `salt` is the
/// number of times that the run was rolled back, so that after a rollback it draws other noise.
pub fn noise(seed: u64, salt: u8, iteration: u64) -> ChaCha8Rng {
    salted(seed, Stream::Z, salt, iteration)
}

/// The random number generator for all augmentations of a training iteration. `salt` and `iteration` are those of
/// [`noise`].
pub fn augmentations(seed: u64, salt: u8, iteration: u64) -> ChaCha8Rng {
    salted(seed, Stream::Augment, salt, iteration)
}

fn salted(seed: u64, stream: Stream, salt: u8, iteration: u64) -> ChaCha8Rng {
    rng(seed, stream, u64::from(salt) << 48 | iteration)
}

/// Distribution of the noise `z`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Latent {
    /// Uniform in [−1, 1), as in the reference.
    #[default]
    Uniform,
    /// Standard normal.
    Normal,
}

impl Latent {
    /// The name of the distribution, as in the setting `latent`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Normal => "normal",
        }
    }

    /// Draws noise `[rows, z_dim]`, row by row. The numbers do not depend on the kind in which networks compute.
    pub fn sample(self, rng: &mut ChaCha8Rng, rows: usize, z_dim: usize) -> Vec<f32> {
        (0..rows * z_dim)
            .map(|_| match self {
                Self::Uniform => unit(rng) * 2.0 - 1.0,
                Self::Normal => StandardNormal.sample(rng),
            })
            .collect()
    }
}

/// A random number in [0, 1).
pub fn unit(rng: &mut ChaCha8Rng) -> f32 {
    // A float32 holds 24 bits. With exactly as many random bits, nothing is rounded up to 1.
    (rng.next_u32() >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// A random number in `0..count`, all equally likely. `count` must be below 2^32.
pub fn below(rng: &mut ChaCha8Rng, count: usize) -> usize {
    // Lemire's multiply-shift method. It is not perfectly uniform, but the bias of a draw is below 2^-32.
    ((u128::from(rng.next_u64()) * count as u128) >> 64) as usize
}

/// The numbers `0..count` in random order, by the method of Fisher and Yates.
pub fn permutation(rng: &mut ChaCha8Rng, count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last as usize, below(rng, last as usize + 1));
    }
    order
}

/// The same random order as [`permutation`], as indices.
///
/// # Errors
/// If `count` is 2^32 or more.
pub fn shuffled(rng: &mut ChaCha8Rng, count: usize) -> Result<Vec<usize>> {
    let order = permutation(rng, u32::try_from(count)?);
    Ok(order.into_iter().map(|row| row as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_stream_and_step_give_the_same_numbers() {
        let draw = || {
            let mut rng = rng(7, Stream::Z, 1);
            (0..100).map(|_| rng.next_u32()).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
    }

    #[test]
    fn streams_steps_and_seeds_differ() {
        let first = |seed, stream, step| rng(seed, stream, step).next_u64();
        let one = first(0, Stream::Z, 1);
        for other in [first(1, Stream::Z, 1), first(0, Stream::Z, 2), first(0, Stream::Shuffle, 1)]
        {
            assert_ne!(one, other);
        }
        let salted = |salt| noise(0, salt, 1).next_u64();
        assert_eq!(one, salted(0));
        assert!(salted(1) != one && salted(2) != salted(1));
        let augmented = |salt, iteration| augmentations(0, salt, iteration).next_u64();
        let first = augmented(0, 1);
        assert!(first != one && augmented(1, 1) != first && augmented(0, 2) != first);
    }

    #[test]
    fn uniform_noise_fills_minus_one_to_one_and_never_reaches_one() {
        let z = Latent::Uniform.sample(&mut rng(3, Stream::Z, 0), 1000, 100);
        assert!(z.iter().all(|x| (-1.0..1.0).contains(x)));
        let mean = z.iter().sum::<f32>() / z.len() as f32;
        let square = z.iter().map(|x| x * x).sum::<f32>() / z.len() as f32;
        // The standard errors of the mean and of the mean square are 0.0018 and 0.0009.
        assert!(mean.abs() < 0.01 && (square - 1.0 / 3.0).abs() < 0.005, "{mean} {square}");
        assert_eq!((u32::MAX >> 8) as f32 * (2.0 / (1 << 24) as f32) - 1.0, 1.0 - f32::EPSILON);
    }

    #[test]
    fn normal_noise_has_mean_0_and_variance_1() {
        let z = Latent::Normal.sample(&mut rng(3, Stream::Z, 0), 1000, 100);
        let mean = z.iter().sum::<f32>() / z.len() as f32;
        let square = z.iter().map(|x| x * x).sum::<f32>() / z.len() as f32;
        assert!(mean.abs() < 0.016 && (square - 1.0).abs() < 0.025, "{mean} {square}");
    }

    #[test]
    fn a_permutation_holds_every_index_once_and_is_not_the_identity() {
        let mut order = permutation(&mut rng(0, Stream::Shuffle, 0), 1000);
        assert_ne!(order, (0..1000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<_>>());
        assert!(permutation(&mut rng(0, Stream::Shuffle, 0), 0).is_empty());
    }
}
