//! The discriminator: images → logits.

use std::rc::Rc;

use anyhow::Result;
use tch::{Kind, Tensor, nn};

use super::network::Stack;
use crate::architecture::{Architecture, Network};
use crate::tf::{Kinks, Statistics, Variable};

/// The discriminator, in the mirrored frame. Its layers follow from the [`Architecture`]. For the reference's
/// images of 32×32 pixels they are (C is the number of channels, w the base width, 64 by default):
///
/// ```text
/// conv2d     [N, C, 32, 32]   -> [N, w, 16, 16]   leaky ReLU
/// conv2d_1   [N, w, 16, 16]   -> [N, 2w, 8, 8]    batch norm, leaky ReLU
/// conv2d_2   [N, 2w, 8, 8]    -> [N, 4w, 4, 4]    batch norm, leaky ReLU
/// dense      [N, 4·4·4w]      -> [N, 1]           no activation: the loss takes logits
/// ```
///
/// A conditional discriminator has one more layer, `dense_1` `[N, 4·4·4w] -> [N, classes]`, whose value for the image's
/// class is added to the logit ([`crate::architecture::Operation::Projection`]).
#[derive(Debug)]
pub struct Discriminator(Stack);

impl Discriminator {
    /// Creates the variables under `path`; [`super::initialize`] fills them.
    ///
    /// # Errors
    /// Never for an [`Architecture`] from [`Architecture::new`]; only if its layers have been changed so that a
    /// dense layer does not connect a vector and a grid.
    pub fn new(path: &nn::Path, architecture: &Architecture) -> Result<Self> {
        let layers = architecture.layers(Network::Discriminator);
        Ok(Self(Stack::new(path, layers, &architecture.config)?))
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

    /// Images `[N, C, H, W]`, mirrored → logits `[N, 1]`, same kind and device. A conditional discriminator judges pairs
    /// of an image and a class: `classes` `[N]` (int64).
    ///
    /// # Errors
    /// If the size or the channels of `images` are not the architecture's, or classes are missing or none are expected.
    pub fn forward(
        &self,
        images: &Tensor,
        classes: Option<&Tensor>,
        statistics: Statistics,
    ) -> Result<Tensor> {
        self.0.forward(images, classes, statistics)
    }

    /// Computes all convolutions with libtorch's own kernels, or not.
    pub fn set_plain(&mut self, is_plain: bool) {
        self.0.set_plain(is_plain);
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
