//! `tf.layers.dense`.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, nn};

use super::batch_norm::BatchNorm;
use super::frame::Layout;
use super::variable::{Variable, kernel_and_bias};
use crate::shape::Grid;

/// Which side of a dense layer is the grid of channels that the mirrored frame rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseConfig {
    /// `features` in, a grid of `channels` out.
    ToGrid {
        /// Input features.
        features: i64,
        /// Channels at each grid position.
        channels: i64,
        /// The positions.
        grid: Grid,
    },
    /// A grid of `channels` in, `features` out.
    FromGrid {
        /// Channels at each grid position.
        channels: i64,
        /// The positions.
        grid: Grid,
        /// Output features.
        features: i64,
    },
}

/// A fully connected layer with bias, in the mirrored frame.
#[derive(Debug)]
pub struct Dense {
    name: String,
    config: DenseConfig,
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    /// Creates the layer's variables, all zero, under `path / name`.
    pub fn new(path: &nn::Path, name: &str, config: DenseConfig) -> Self {
        let (inputs, outputs) = match config {
            DenseConfig::ToGrid { features, channels, grid } => (features, grid.cells() * channels),
            DenseConfig::FromGrid { channels, grid, features } => {
                (grid.cells() * channels, features)
            }
        };
        let path = path / name;
        let weight = path.zeros("weight", &[outputs, inputs]);
        let bias = path.zeros("bias", &[outputs]);
        Self { name: name.to_owned(), config, weight, bias }
    }

    /// The same layer, computing in `kind`: its weights are casts, through which gradients reach the
    /// variables. Of the variables' own kind, they are the variables.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        let (weight, bias) = (self.weight.f_to_kind(kind)?, self.bias.f_to_kind(kind)?);
        Ok(Self { name: self.name.clone(), config: self.config, weight, bias })
    }

    /// The same layer and, behind it, `norm` with its moving statistics, in one: for sampling.
    ///
    /// # Errors
    /// If the device cannot hold its weights.
    pub fn folded(&self, norm: &BatchNorm) -> Result<Self> {
        let (factor, addend) = norm.factor_and_addend()?;
        // The outputs are a grid in (h, w, c) order.
        let cells = [self.bias.size1()? / factor.size1()?];
        let (factor, addend) = (factor.f_repeat(cells)?, addend.f_repeat(cells)?);
        Ok(Self {
            name: self.name.clone(),
            config: self.config,
            weight: self.weight.f_mul(&factor.f_unsqueeze(1)?)?,
            bias: self.bias.f_mul(&factor)?.f_add(&addend)?,
        })
    }

    /// `x` `[N, inputs]` → `[N, outputs]`, same kind and device; grids are in (h, w, c) order.
    ///
    /// # Errors
    /// If `x` is not `[N, inputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.f_linear(&self.weight, Some(&self.bias))
            .with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    /// The kind that it computes in.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }

    /// The layer's variables: kernel, bias.
    pub fn variables(&self) -> Vec<Variable> {
        let (kernel, bias) = match self.config {
            DenseConfig::ToGrid { grid, .. } => {
                (Layout::KernelToGrid(grid), Layout::BiasOfGrid(grid))
            }
            DenseConfig::FromGrid { grid, .. } => (Layout::KernelFromGrid(grid), Layout::Channels),
        };
        kernel_and_bias(&self.name, (kernel, &self.weight), (bias, &self.bias))
    }
}
