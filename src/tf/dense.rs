//! `tf.layers.dense`.

use anyhow::{Context, Result};
use tch::{Kind, Tensor, nn};

use super::batch_norm::BatchNorm;
use super::frame::Layout;
use super::variable::{Role, Variable, kernel_and_bias};
use crate::shape::Grid;

/// Whether a dense layer's input or its output is a grid of channels, which the mirrored frame rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseConfig {
    /// The input is a vector of `features`, the output a grid with `channels` at each position.
    ToGrid {
        /// Input features.
        features: i64,
        /// Channels at each grid position.
        channels: i64,
        /// Height and width of the grid.
        grid: Grid,
    },
    /// The input is a grid with `channels` at each position, the output a vector of `features`.
    FromGrid {
        /// Channels at each grid position.
        channels: i64,
        /// Height and width of the grid.
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

    /// The same layer, computing in `kind`. Its weights are casts of the variables, and gradients flow
    /// through the casts to the variables. If the variables are of `kind` already, nothing is copied.
    ///
    /// # Errors
    /// If the device cannot hold the casts.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        let (weight, bias) = (self.weight.f_to_kind(kind)?, self.bias.f_to_kind(kind)?);
        Ok(Self { name: self.name.clone(), config: self.config, weight, bias })
    }

    /// One layer that computes what this layer and, behind it, `norm` with its moving statistics compute. It
    /// is meant for sampling.
    ///
    /// # Errors
    /// If the device cannot hold the weights of the new layer.
    pub fn folded(&self, norm: &BatchNorm) -> Result<Self> {
        let (factor, addend) = norm.factor_and_addend()?;
        // The outputs are a grid in (h, w, c) order, so the channels repeat at each position.
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

    /// The kind in which the layer computes.
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

/// A matrix product from a grid to one value for each class, without bias, in the mirrored frame. Of these values that of
/// each row's class is taken.
#[derive(Debug)]
pub struct Projection {
    name: String,
    grid: Grid,
    weight: Tensor,
}

impl Projection {
    /// Creates the layer's kernel, all zero, under `path / name`, for a grid with `channels` at each position.
    pub fn new(path: &nn::Path, name: &str, channels: i64, grid: Grid, classes: i64) -> Self {
        let path = path / name;
        let weight = path.zeros("weight", &[classes, grid.cells() * channels]);
        Self { name: name.to_owned(), grid, weight }
    }

    /// The same layer, computing in `kind`, as [`Dense::cast`].
    ///
    /// # Errors
    /// If the device cannot hold the cast.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        let weight = self.weight.f_to_kind(kind)?;
        Ok(Self { name: self.name.clone(), grid: self.grid, weight })
    }

    /// `x` `[N, inputs]`, grids in (h, w, c) order, and `classes` `[N]` (int64) → the value of each row's class `[N, 1]`,
    /// same kind and device as `x`.
    ///
    /// # Errors
    /// If `x` is not `[N, inputs]`, or a class is none of the layer's.
    pub fn forward(&self, x: &Tensor, classes: &Tensor) -> Result<Tensor> {
        let all = x.f_linear(&self.weight, None::<&Tensor>); // [N, classes]
        all.and_then(|all| all.f_gather(1, &classes.f_unsqueeze(1)?, false))
            .with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    /// The layer's variable: its kernel.
    pub fn variables(&self) -> Vec<Variable> {
        let layout = Layout::KernelFromGrid(self.grid);
        vec![Variable::new(&self.name, "weight", Role::Kernel, layout, &self.weight)]
    }
}
