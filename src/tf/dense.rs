//! `tf.layers.dense`.

use anyhow::{Context, Result};
use tch::{Tensor, nn};

use super::frame::Layout;
use super::variable::{Variable, kernel_and_bias};

/// Which side of a dense layer, if any, is the 4×4 grid of channels that the mirrored frame rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseConfig {
    /// `features` in, a 4×4 grid of `channels` out.
    ToGrid {
        /// Input features.
        features: i64,
        /// Channels at each grid position.
        channels: i64,
    },
    /// A 4×4 grid of `channels` in, `features` out.
    FromGrid {
        /// Channels at each grid position.
        channels: i64,
        /// Output features.
        features: i64,
    },
}

/// A fully connected layer with bias, in the mirrored frame.
#[derive(Debug)]
pub struct Dense {
    name: &'static str,
    config: DenseConfig,
    linear: nn::Linear,
}

impl Dense {
    /// Creates the layer's variables, all zero, under `path / name`.
    pub fn new(path: &nn::Path, name: &'static str, config: DenseConfig) -> Self {
        let cells = super::frame::GRID * super::frame::GRID;
        let (inputs, outputs) = match config {
            DenseConfig::ToGrid { features, channels } => (features, cells * channels),
            DenseConfig::FromGrid { channels, features } => (cells * channels, features),
        };
        let zero = nn::Init::Const(0.);
        let linear_config = nn::LinearConfig { ws_init: zero, bs_init: Some(zero), bias: true };
        Self { name, config, linear: nn::linear(path / name, inputs, outputs, linear_config) }
    }

    /// `x` `[N, inputs]` → `[N, outputs]`, same kind and device; grids are in (h, w, c) order.
    ///
    /// # Errors
    /// If `x` is not `[N, inputs]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x.f_linear(&self.linear.ws, self.linear.bs.as_ref())
            .with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    /// The layer's variables: kernel, bias.
    pub fn variables(&self) -> Vec<Variable> {
        let (kernel, bias) = match self.config {
            DenseConfig::ToGrid { .. } => (Layout::KernelToGrid, Layout::BiasOfGrid),
            DenseConfig::FromGrid { .. } => (Layout::KernelFromGrid, Layout::Channels),
        };
        kernel_and_bias(self.name, (kernel, &self.linear.ws), (bias, self.linear.bs.as_ref()))
    }
}
