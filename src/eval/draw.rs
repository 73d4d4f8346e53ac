//! The random choices of an evaluation. They depend on the seed alone, so the same images get the same numbers.

use rand_chacha::ChaCha8Rng;

use crate::rng::{Stream, rng};

/// What random numbers are drawn for. Each purpose has a sequence of its own, so that none depends on which other
/// metrics are asked for. The numbers are part of every result: they must never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// The subsets of the kernel distance.
    KernelSubsets = 0,
    /// The resampled images whose Fréchet distances make its uncertainty.
    FrechetResamples = 1,
    /// The resampled classes whose divergences make the uncertainty of the class balance.
    ClassResamples = 2,
    /// The resampled distances whose medians make the uncertainty of the distance to real images.
    NearestResamples = 3,
    /// The patches and directions of the sliced Wasserstein distance.
    Patches = 4,
    /// The order of the generated images.
    GeneratedOrder = 5,
}

impl Draw {
    /// The random numbers for this purpose.
    pub fn rng(self, seed: u64) -> ChaCha8Rng {
        rng(seed, Stream::Evaluation, self as u64)
    }
}
