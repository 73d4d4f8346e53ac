//! Randomness from (seed, stream, step): nothing to save, and resuming is exact by construction.

use anyhow::Result;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// What the numbers are for; each has a sequence of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Initial values; the step is the variable.
    Init = 0,
    /// Noise of training; the step is the iteration.
    Z = 1,
    /// Noise of the sample grids.
    SampleZ = 2,
    /// Order of the images; the step is the epoch.
    Shuffle = 3,
    /// Which images of a set are taken; the step is what for.
    Subset = 4,
    /// Which images of a batch are mirrored; the step is the iteration.
    Flip = 5,
    /// Noise of images that are asked for later; the step is the image.
    Image = 6,
    /// Choices of metrics; the step is what for.
    Evaluation = 7,
}

/// The generator of (`seed`, `stream`, `step`), for steps below 2^56.
///
/// ChaCha with 8 rounds is specified bit for bit, so a seed means the same on every machine.
pub fn rng(seed: u64, stream: Stream, step: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((stream as u64) << 56 | step);
    rng
}

/// The generator of training's noise at an iteration below 2^48. `salt` is 0 but for runs that were
/// rolled back, which go on with other noise.
pub fn noise(seed: u64, salt: u8, iteration: u64) -> ChaCha8Rng {
    rng(seed, Stream::Z, u64::from(salt) << 48 | iteration)
}

/// Distribution of the noise `z`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Latent {
    /// Uniform in [−1, 1), the reference's.
    #[default]
    Uniform,
    /// Standard normal.
    Normal,
}

impl Latent {
    /// Its name, as the setting `latent` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Normal => "normal",
        }
    }

    /// Noise `[rows, z_dim]`, row by row; the same numbers for every kind of tensor.
    pub fn sample(self, rng: &mut ChaCha8Rng, rows: usize, z_dim: usize) -> Vec<f32> {
        (0..rows * z_dim)
            .map(|_| match self {
                // 24 bits: as many as a float32 holds, so that rounding never reaches 1.
                Self::Uniform => (rng.next_u32() >> 8) as f32 * (2.0 / (1 << 24) as f32) - 1.0,
                Self::Normal => StandardNormal.sample(rng),
            })
            .collect()
    }
}

/// A random number of `0..count`, all of them equally likely, for a `count` below 2^32.
pub fn below(rng: &mut ChaCha8Rng, count: usize) -> usize {
    // Lemire's multiply-shift; its bias is below 2^-32 a draw.
    ((u128::from(rng.next_u64()) * count as u128) >> 64) as usize
}

/// A random order of `0..count` (Fisher and Yates).
pub fn permutation(rng: &mut ChaCha8Rng, count: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last as usize, below(rng, last as usize + 1));
    }
    order
}

/// A random order of `0..count`, as indices: see [`permutation`].
///
/// # Errors
/// If there are 2^32 or more.
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
    }

    #[test]
    fn uniform_noise_fills_minus_one_to_one_and_never_reaches_one() {
        let z = Latent::Uniform.sample(&mut rng(3, Stream::Z, 0), 1000, 100);
        assert!(z.iter().all(|x| (-1.0..1.0).contains(x)));
        let mean = z.iter().sum::<f32>() / z.len() as f32;
        let square = z.iter().map(|x| x * x).sum::<f32>() / z.len() as f32;
        // The standard errors are 0.0018 and 0.0009.
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
