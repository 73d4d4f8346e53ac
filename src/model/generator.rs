//! z → images.

use anyhow::Result;
use tch::{Kind, Tensor, nn};

use super::network::Stack;
use crate::architecture::{Architecture, Network};
use crate::tf::{Statistics, Variable};

/// The generator, in the mirrored frame. Of the reference (w is the base width, 64):
///
/// ```text
/// dense                [N, z_dim]       -> [N, 8w, 4, 4]     batch norm, ReLU
/// conv2d_transpose     [N, 8w, 4, 4]    -> [N, 4w, 8, 8]     batch norm, ReLU
/// conv2d_transpose_1   [N, 4w, 8, 8]    -> [N, 2w, 16, 16]   batch norm, ReLU
/// conv2d_transpose_2   [N, 2w, 16, 16]  -> [N, C, 32, 32]    tanh
/// ```
#[derive(Debug)]
pub struct Generator(Stack);

impl Generator {
    /// Creates the variables under `path`; [`super::initialize`] fills them.
    ///
    /// # Errors
    /// None of an [`Architecture`] that was made of a configuration.
    pub fn new(path: &nn::Path, architecture: &Architecture) -> Result<Self> {
        let layers = architecture.layers(Network::Generator);
        Ok(Self(Stack::new(path, layers, &architecture.config)?))
    }

    /// Puts the weights into the memory order that is fastest for computing in `kind`.
    pub fn arrange_for(&mut self, kind: Kind) {
        self.0.arrange_for(kind);
    }

    /// The same network, computing in `kind`: kernels and biases are casts, made once for any number
    /// of passes, through which gradients reach the variables. Batch norm stays in the variables' kind.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        Ok(Self(self.0.cast(kind)?))
    }

    /// `z` `[N, z_dim]` → images `[N, C, H, W]` in [−1, 1], mirrored, same kind and device.
    ///
    /// # Errors
    /// If `z` is not `[N, z_dim]`.
    pub fn forward(&self, z: &Tensor, statistics: Statistics) -> Result<Tensor> {
        self.0.forward(z, statistics)
    }

    /// The network as it samples: batch norm's moving statistics folded into the weights before it.
    ///
    /// # Errors
    /// If the device cannot hold its weights.
    pub fn folded(&self) -> Result<FoldedGenerator> {
        Ok(FoldedGenerator(self.0.folded()?))
    }

    /// The variables, in TensorFlow's order of creation.
    pub fn variables(&self) -> Vec<Variable> {
        self.0.variables()
    }
}

/// A [`Generator`] with moving statistics, for sampling only: its layers without batch norm.
#[derive(Debug)]
pub struct FoldedGenerator(Stack);

impl FoldedGenerator {
    /// `z` `[N, z_dim]` → images `[N, C, H, W]` in [−1, 1], mirrored, same kind and device. No gradients are
    /// kept.
    ///
    /// # Errors
    /// If `z` is not `[N, z_dim]`.
    pub fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        // There is no batch norm left that could read statistics.
        self.0.forward(z, Statistics::Moving)
    }

    /// The same network, computing in `kind`.
    ///
    /// # Errors
    /// If the device cannot hold its weights.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        Ok(Self(self.0.cast(kind)?))
    }

    /// Kernel and bias of each layer, in order.
    pub fn variables(&self) -> Vec<Variable> {
        self.0.variables()
    }
}
