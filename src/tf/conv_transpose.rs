//! `tf.layers.conv2d_transpose` with kernel 5, stride 2 and "same" padding.

use anyhow::{Context, Result};
use tch::{Tensor, nn};

use super::frame::{KERNEL, Layout, OUTPUT_PADDING, PADDING, STRIDE};
use super::variable::{Role, Variable};

/// Channels of a [`ConvTranspose`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvTransposeConfig {
    /// Input channels.
    pub in_channels: i64,
    /// Output channels.
    pub out_channels: i64,
}

/// A transposed convolution with bias: kernel 5, stride 2, TensorFlow's "same" padding, in the
/// mirrored frame.
#[derive(Debug)]
pub struct ConvTranspose {
    name: &'static str,
    conv: nn::ConvTranspose2D,
}

impl ConvTranspose {
    /// Creates the layer's variables, all zero, under `path / name`; [`super::initialize`] fills them.
    pub fn new(path: &nn::Path, name: &'static str, config: ConvTransposeConfig) -> Self {
        let zero = nn::Init::Const(0.);
        let conv_config = nn::ConvTransposeConfig {
            stride: STRIDE,
            padding: PADDING,
            output_padding: OUTPUT_PADDING,
            ws_init: zero,
            bs_init: zero,
            ..Default::default()
        };
        let ConvTransposeConfig { in_channels, out_channels } = config;
        let conv =
            nn::conv_transpose2d(path / name, in_channels, out_channels, KERNEL, conv_config);
        Self { name, conv }
    }

    /// `x` `[N, I, H, W]` → `[N, O, 2H, 2W]`, same kind and device.
    ///
    /// # Errors
    /// If `x` is not rank 4 or its channels are not `I`.
    ///
    /// # Source
    /// Parity: `tests/frame.rs::conv_transpose_equals_pad_and_crop`, `tests/parity.rs`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
        let output_padding = [OUTPUT_PADDING, OUTPUT_PADDING];
        let (ws, bs) = (&self.conv.ws, self.conv.bs.as_ref());
        x.f_conv_transpose2d(ws, bs, stride, padding, output_padding, 1, [1, 1])
            .with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    /// The layer's variables: kernel, bias.
    pub fn variables(&self) -> Vec<Variable> {
        let (conv, layout) = (&self.conv, Layout::ConvTransposeKernel);
        let mut variables =
            vec![Variable::new(self.name, "weight", Role::Kernel, layout, &conv.ws)];
        if let Some(bs) = &conv.bs {
            variables.push(Variable::new(self.name, "bias", Role::Bias, Layout::Channels, bs));
        }
        variables
    }
}
