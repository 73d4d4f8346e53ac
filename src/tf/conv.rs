//! `tf.layers.conv2d` with kernel 5, stride 2 and "same" padding.

use anyhow::{Context, Result};
use tch::{Tensor, nn};

use super::frame::{KERNEL, Layout, PADDING, STRIDE};
use super::variable::{Role, Variable};

/// Channels of a [`Conv`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvConfig {
    /// Input channels.
    pub in_channels: i64,
    /// Output channels.
    pub out_channels: i64,
}

/// A convolution with bias: kernel 5, stride 2, TensorFlow's "same" padding, in the mirrored frame.
#[derive(Debug)]
pub struct Conv {
    name: &'static str,
    conv: nn::Conv2D,
}

impl Conv {
    /// Creates the layer's variables, all zero, under `path / name`; [`super::initialize`] fills them.
    pub fn new(path: &nn::Path, name: &'static str, config: ConvConfig) -> Self {
        let zero = nn::Init::Const(0.);
        let conv_config = nn::ConvConfig {
            stride: STRIDE,
            padding: PADDING,
            ws_init: zero,
            bs_init: zero,
            ..Default::default()
        };
        let ConvConfig { in_channels, out_channels } = config;
        let conv = nn::conv2d(path / name, in_channels, out_channels, KERNEL, conv_config);
        Self { name, conv }
    }

    /// `x` `[N, I, H, W]` → `[N, O, H/2, W/2]`, same kind and device, for even `H` and `W`.
    ///
    /// # Errors
    /// If `x` is not rank 4 or its channels are not `I`.
    ///
    /// # Source
    /// Parity: `tests/frame.rs::conv_equals_pad_and_crop`, `tests/parity.rs`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
        x.f_conv2d(&self.conv.ws, self.conv.bs.as_ref(), stride, padding, [1, 1], 1)
            .with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    /// The layer's variables: kernel, bias.
    pub fn variables(&self) -> Vec<Variable> {
        let conv = &self.conv;
        let mut variables =
            vec![Variable::new(self.name, "weight", Role::Kernel, Layout::ConvKernel, &conv.ws)];
        if let Some(bs) = &conv.bs {
            variables.push(Variable::new(self.name, "bias", Role::Bias, Layout::Channels, bs));
        }
        variables
    }
}
