//! images → logits.

use anyhow::Result;
use tch::{Kind, Tensor, nn};

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

    /// The same network, computing in `kind`: kernels and biases are casts, made once for any number
    /// of passes, through which gradients reach the variables. Batch norm stays in the variables' kind.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        Ok(Self {
            conv2d: self.conv2d.cast(kind)?,
            conv2d_1: self.conv2d_1.cast(kind)?,
            batch_normalization: self.batch_normalization.shallow_clone(),
            conv2d_2: self.conv2d_2.cast(kind)?,
            batch_normalization_1: self.batch_normalization_1.shallow_clone(),
            dense: self.dense.cast(kind)?,
            alpha: self.alpha,
        })
    }

    /// Images `[N, C, 32, 32]`, mirrored → logits `[N, 1]`, same kind and device.
    ///
    /// # Errors
    /// If `images` has other channels or another size.
    pub fn forward(&self, images: &Tensor, statistics: Statistics) -> Result<Tensor> {
        // N batch, w base width, C image channels.
        let x = images.f_to_kind(self.dense.kind())?;
        let x = leaky_relu(&self.conv2d.forward(&x)?, self.alpha)?; // [N, w, 16, 16]
        let x = self.conv2d_1.forward(&x)?; // [N, 2w, 8, 8]
        let x = leaky_relu(&self.batch_normalization.forward(&x, statistics)?, self.alpha)?;
        let x = self.conv2d_2.forward(&x)?; // [N, 4w, 4, 4]
        let x = leaky_relu(&self.batch_normalization_1.forward(&x, statistics)?, self.alpha)?;
        // TF: flattened in (h, w, c) order, which is channels-last memory order.
        let x = x.f_permute([0, 2, 3, 1])?.f_flatten(1, 3)?; // [N, 4·4·4w]
        Ok(self.dense.forward(&x)?.f_to_kind(images.kind())?)
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
