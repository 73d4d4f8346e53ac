//! The generator: z → images.

use std::rc::Rc;

use anyhow::Result;
use tch::{Kind, Tensor, nn};

use super::network::Stack;
use crate::architecture::{Architecture, Network};
use crate::tf::{Kinks, Statistics, Variable};

/// The generator, in the mirrored frame. Its layers follow from the [`Architecture`]. For the reference's
/// images of 32×32 pixels they are (C is the number of channels, w the base width, 64 by default):
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
    /// Never for an [`Architecture`] from [`Architecture::new`]; only if its layers have been changed so that a
    /// dense layer does not connect a vector and a grid.
    pub fn new(path: &nn::Path, architecture: &Architecture) -> Result<Self> {
        let layers = architecture.layers(Network::Generator);
        Ok(Self(Stack::new(path, layers, &architecture.config)?))
    }

    /// Computes all convolutions with libtorch's own kernels, or not. To be called before [`Self::arrange_for`].
    pub fn set_plain(&mut self, is_plain: bool) {
        self.0.set_plain(is_plain);
    }

    /// Puts the weights into the memory order that is fastest for computing in `kind`.
    pub fn arrange_for(&mut self, kind: Kind) {
        self.0.arrange_for(kind);
    }

    /// The same network, computing in `kind`. Its kernels and biases are casts of the variables, made once for
    /// any number of passes, and gradients flow through them to the variables. Batch norm stays in the
    /// variables' kind.
    ///
    /// # Errors
    /// If the device cannot hold the casts.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        Ok(Self(self.0.cast(kind)?))
    }

    /// `z` `[N, z_dim]` → images `[N, C, H, W]` in [−1, 1], mirrored, same kind and device. A conditional generator takes
    /// `[N, z_dim + classes]`: behind its noise each row has a 1 for its class and zeros for the others.
    ///
    /// # Errors
    /// If `z` has another shape.
    pub fn forward(&self, z: &Tensor, statistics: Statistics) -> Result<Tensor> {
        self.0.forward(z, None, statistics)
    }

    /// The network for sampling: each batch norm, with its moving statistics, is folded into the weights of the
    /// layer before it.
    ///
    /// # Errors
    /// If the device cannot hold the folded weights.
    pub fn folded(&self) -> Result<FoldedGenerator> {
        Ok(FoldedGenerator(self.0.folded()?))
    }

    /// Lets `kinks` watch the values that go into ReLUs, or nothing.
    pub(super) fn watch_kinks(&mut self, kinks: Option<Rc<Kinks>>) {
        self.0.watch_kinks(kinks);
    }

    /// The variables, in TensorFlow's order of creation.
    pub fn variables(&self) -> Vec<Variable> {
        self.0.variables()
    }
}

/// A [`Generator`] for sampling. It has no batch norms: their moving statistics are part of the weights.
#[derive(Debug)]
pub struct FoldedGenerator(Stack);

impl FoldedGenerator {
    /// As [`Generator::forward`], but the images carry no gradients.
    ///
    /// # Errors
    /// If `z` has another shape.
    pub fn forward(&self, z: &Tensor) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        // The statistics do not matter, because no batch norm is left.
        self.0.forward(z, None, Statistics::Moving)
    }

    /// The same network, computing in `kind`.
    ///
    /// # Errors
    /// If the device cannot hold the casts of its weights.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        Ok(Self(self.0.cast(kind)?))
    }

    /// The kernel and the bias of each layer, in order.
    pub fn variables(&self) -> Vec<Variable> {
        self.0.variables()
    }
}
