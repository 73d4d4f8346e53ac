//! z → images.

use anyhow::Result;
use tch::{Kind, Tensor, nn};

use super::ModelConfig;
use crate::tf::frame::GRID;
use crate::tf::{
    BatchNorm, BatchNormConfig, ConvConfig, ConvTranspose, Dense, DenseConfig, Statistics, Variable,
};

/// The generator, in the mirrored frame.
#[derive(Debug)]
pub struct Generator {
    dense: Dense,
    batch_normalization: BatchNorm,
    conv2d_transpose: ConvTranspose,
    batch_normalization_1: BatchNorm,
    conv2d_transpose_1: ConvTranspose,
    batch_normalization_2: BatchNorm,
    conv2d_transpose_2: ConvTranspose,
    grid_channels: i64,
}

impl Generator {
    /// Creates the variables under `path`; [`super::initialize`] fills them.
    pub fn new(path: &nn::Path, config: &ModelConfig) -> Self {
        let ModelConfig { channels, base_width: w, z_dim: features, bn_epsilon, .. } = *config;
        let batch_norm = |name, channels| {
            BatchNorm::new(path, name, BatchNormConfig { channels, epsilon: bn_epsilon })
        };
        let conv_transpose = |name, in_channels, out_channels| {
            ConvTranspose::new(path, name, ConvConfig { in_channels, out_channels })
        };
        let to_grid = DenseConfig::ToGrid { features, channels: 8 * w };
        Self {
            dense: Dense::new(path, "dense", to_grid),
            batch_normalization: batch_norm("batch_normalization", 8 * w),
            conv2d_transpose: conv_transpose("conv2d_transpose", 8 * w, 4 * w),
            batch_normalization_1: batch_norm("batch_normalization_1", 4 * w),
            conv2d_transpose_1: conv_transpose("conv2d_transpose_1", 4 * w, 2 * w),
            batch_normalization_2: batch_norm("batch_normalization_2", 2 * w),
            conv2d_transpose_2: conv_transpose("conv2d_transpose_2", 2 * w, channels),
            grid_channels: 8 * w,
        }
    }

    /// Puts the weights into the memory order that is fastest for computing in `kind`.
    pub fn arrange_for(&mut self, kind: Kind) {
        self.conv2d_transpose.arrange_for(kind, GRID);
        self.conv2d_transpose_1.arrange_for(kind, 2 * GRID);
        self.conv2d_transpose_2.arrange_for(kind, 4 * GRID);
    }

    /// The same network, computing in `kind`: kernels and biases are casts, made once for any number
    /// of passes, through which gradients reach the variables. Batch norm stays in the variables' kind.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        Ok(Self {
            dense: self.dense.cast(kind)?,
            batch_normalization: self.batch_normalization.shallow_clone(),
            conv2d_transpose: self.conv2d_transpose.cast(kind)?,
            batch_normalization_1: self.batch_normalization_1.shallow_clone(),
            conv2d_transpose_1: self.conv2d_transpose_1.cast(kind)?,
            batch_normalization_2: self.batch_normalization_2.shallow_clone(),
            conv2d_transpose_2: self.conv2d_transpose_2.cast(kind)?,
            grid_channels: self.grid_channels,
        })
    }

    /// `z` `[N, z_dim]` → images `[N, C, 32, 32]` in [−1, 1], mirrored, same kind and device.
    ///
    /// # Errors
    /// If `z` is not `[N, z_dim]`.
    pub fn forward(&self, z: &Tensor, statistics: Statistics) -> Result<Tensor> {
        // N batch, w base width, C image channels. TensorFlow's (h, w, c) order of the grid is
        // libtorch's channels-last memory order: the permutation moves nothing.
        let x = self.dense.forward(&z.f_to_kind(self.dense.kind())?)?; // [N, 4·4·8w]
        let x = x.f_view([-1, GRID, GRID, self.grid_channels])?.f_permute([0, 3, 1, 2])?; // [N, 8w, 4, 4]
        let x = self.batch_normalization.forward(&x, statistics)?.f_relu_()?;
        let x = self.conv2d_transpose.forward(&x)?; // [N, 4w, 8, 8]
        let x = self.batch_normalization_1.forward(&x, statistics)?.f_relu_()?;
        let x = self.conv2d_transpose_1.forward(&x)?; // [N, 2w, 16, 16]
        let x = self.batch_normalization_2.forward(&x, statistics)?.f_relu_()?;
        let x = self.conv2d_transpose_2.forward(&x)?; // [N, C, 32, 32]
        Ok(x.f_to_kind(z.kind())?.f_tanh()?)
    }

    /// The network as it samples: batch norm's moving statistics folded into the weights before it.
    ///
    /// # Errors
    /// If the device cannot hold its weights.
    pub fn folded(&self) -> Result<FoldedGenerator> {
        let _no_grad = tch::no_grad_guard();
        Ok(FoldedGenerator {
            dense: self.dense.folded(&self.batch_normalization)?,
            conv2d_transpose: self.conv2d_transpose.folded(&self.batch_normalization_1)?,
            conv2d_transpose_1: self.conv2d_transpose_1.folded(&self.batch_normalization_2)?,
            conv2d_transpose_2: self.conv2d_transpose_2.cast(self.dense.kind())?,
            grid_channels: self.grid_channels,
        })
    }

    /// The variables, in TensorFlow's order of creation.
    pub fn variables(&self) -> Vec<Variable> {
        [
            self.dense.variables(),
            self.batch_normalization.variables(),
            self.conv2d_transpose.variables(),
            self.batch_normalization_1.variables(),
            self.conv2d_transpose_1.variables(),
            self.batch_normalization_2.variables(),
            self.conv2d_transpose_2.variables(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A [`Generator`] with moving statistics, for sampling only: four layers without batch norm.
#[derive(Debug)]
pub struct FoldedGenerator {
    dense: Dense,
    conv2d_transpose: ConvTranspose,
    conv2d_transpose_1: ConvTranspose,
    conv2d_transpose_2: ConvTranspose,
    grid_channels: i64,
}

impl FoldedGenerator {
    /// `z` `[N, z_dim]` → images `[N, C, 32, 32]` in [−1, 1], mirrored, same kind and device. No
    /// gradients are kept.
    ///
    /// # Errors
    /// If `z` is not `[N, z_dim]`.
    pub fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        let x = self.dense.forward(&z.f_to_kind(self.dense.kind())?)?.f_relu_()?; // [N, 4·4·8w]
        let x = x.f_view([-1, GRID, GRID, self.grid_channels])?.f_permute([0, 3, 1, 2])?; // [N, 8w, 4, 4]
        let x = self.conv2d_transpose.forward(&x)?.f_relu_()?; // [N, 4w, 8, 8]
        let x = self.conv2d_transpose_1.forward(&x)?.f_relu_()?; // [N, 2w, 16, 16]
        let x = self.conv2d_transpose_2.forward(&x)?; // [N, C, 32, 32]
        Ok(x.f_to_kind(z.kind())?.f_tanh_()?)
    }

    /// The same network, computing in `kind`.
    ///
    /// # Errors
    /// If the device cannot hold its weights.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        Ok(Self {
            dense: self.dense.cast(kind)?,
            conv2d_transpose: self.conv2d_transpose.cast(kind)?,
            conv2d_transpose_1: self.conv2d_transpose_1.cast(kind)?,
            conv2d_transpose_2: self.conv2d_transpose_2.cast(kind)?,
            grid_channels: self.grid_channels,
        })
    }

    /// Kernel and bias of each of the four layers, in order.
    pub fn variables(&self) -> Vec<Variable> {
        let layers = [&self.conv2d_transpose, &self.conv2d_transpose_1, &self.conv2d_transpose_2];
        let rest = layers.into_iter().flat_map(ConvTranspose::variables);
        self.dense.variables().into_iter().chain(rest).collect()
    }
}
