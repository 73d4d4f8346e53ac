//! images → logits.

use anyhow::Result;
use tch::{Tensor, nn};

use super::ModelConfig;
use crate::tf::{
    BatchNorm, BatchNormConfig, Conv, ConvConfig, Dense, DenseConfig, Statistics, Variable,
    leaky_relu,
};

/// The discriminator, in the mirrored frame.
#[derive(Debug)]
pub struct Discriminator {
    conv2d: Conv,
    conv2d_1: Conv,
    batch_normalization: BatchNorm,
    conv2d_2: Conv,
    batch_normalization_1: BatchNorm,
    dense: Dense,
    alpha: f64,
}

impl Discriminator {
    /// Creates the variables under `path`; [`super::initialize`] fills them.
    pub fn new(path: &nn::Path, config: &ModelConfig) -> Self {
        let ModelConfig { channels, base_width: w, alpha, bn_epsilon, .. } = *config;
        let batch_norm = |name, channels| {
            BatchNorm::new(path, name, BatchNormConfig { channels, epsilon: bn_epsilon })
        };
        let conv = |name, in_channels, out_channels| {
            Conv::new(path, name, ConvConfig { in_channels, out_channels })
        };
        let from_grid = DenseConfig::FromGrid { channels: 4 * w, features: 1 };
        Self {
            conv2d: conv("conv2d", channels, w),
            conv2d_1: conv("conv2d_1", w, 2 * w),
            batch_normalization: batch_norm("batch_normalization", 2 * w),
            conv2d_2: conv("conv2d_2", 2 * w, 4 * w),
            batch_normalization_1: batch_norm("batch_normalization_1", 4 * w),
            dense: Dense::new(path, "dense", from_grid),
            alpha,
        }
    }

    /// Images `[N, C, 32, 32]`, mirrored → logits `[N, 1]`, same kind and device.
    ///
    /// # Errors
    /// If `images` has other channels or another size.
    pub fn forward(&self, images: &Tensor, statistics: Statistics) -> Result<Tensor> {
        // N batch, w base width, C image channels.
        let x = leaky_relu(&self.conv2d.forward(images)?, self.alpha)?; // [N, w, 16, 16]
        let x = self.conv2d_1.forward(&x)?; // [N, 2w, 8, 8]
        let x = leaky_relu(&self.batch_normalization.forward(&x, statistics)?, self.alpha)?;
        let x = self.conv2d_2.forward(&x)?; // [N, 4w, 4, 4]
        let x = leaky_relu(&self.batch_normalization_1.forward(&x, statistics)?, self.alpha)?;
        // TF: flattened in (h, w, c) order, which is channels-last memory order.
        let x = x.f_permute([0, 2, 3, 1])?.f_flatten(1, 3)?; // [N, 4·4·4w]
        self.dense.forward(&x)
    }

    /// The variables, in TensorFlow's order of creation.
    pub fn variables(&self) -> Vec<Variable> {
        [
            self.conv2d.variables(),
            self.conv2d_1.variables(),
            self.batch_normalization.variables(),
            self.conv2d_2.variables(),
            self.batch_normalization_1.variables(),
            self.dense.variables(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
