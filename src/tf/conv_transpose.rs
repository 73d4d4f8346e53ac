//! `tf.layers.conv2d_transpose` with kernel 5, stride 2 and "same" padding.

use anyhow::{Context, Result, ensure};
use tch::{Device, Tensor, nn};

use super::conv::{ConvConfig, in_channels_last_order};
use super::frame::{KERNEL, Layout, OUTPUT_PADDING, PADDING, STRIDE};
use super::variable::{Variable, kernel_and_bias};

/// A transposed convolution with bias: kernel 5, stride 2, TensorFlow's "same" padding, in the
/// mirrored frame.
#[derive(Debug)]
pub struct ConvTranspose {
    name: &'static str,
    conv: nn::ConvTranspose2D,
}

impl ConvTranspose {
    /// Creates the layer's variables, all zero, under `path / name`.
    pub fn new(path: &nn::Path, name: &'static str, config: ConvConfig) -> Self {
        let zero = nn::Init::Const(0.);
        let conv_config = nn::ConvTransposeConfig {
            stride: STRIDE,
            padding: PADDING,
            output_padding: OUTPUT_PADDING,
            ws_init: zero,
            bs_init: zero,
            ..Default::default()
        };
        let ConvConfig { in_channels, out_channels } = config;
        let mut conv =
            nn::conv_transpose2d(path / name, in_channels, out_channels, KERNEL, conv_config);
        // Measured: the first layer's forward pass takes 57 ms with its weights in channels-last
        // order and 63 without, its backward pass 127 and 144 (batch 128, float32, 2 cores).
        conv.ws.set_data(&in_channels_last_order(&conv.ws));
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
        ensure!(x.dim() == 4, "{}: expected [N, C, H, W], found {:?}", self.name, x.size());
        // Gray images on the CPU: oneDNN's pass takes 20 ms both ways, a matrix product's 11.
        let thin = matches!(self.conv.ws.size()[..], [_, 1, _, _]);
        let output = if thin && x.device() == Device::Cpu {
            self.forward_by_matmul(x)
        } else {
            self.forward_by_convolution(x)
        };
        output.with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    fn forward_by_convolution(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
        let output_padding = [OUTPUT_PADDING, OUTPUT_PADDING];
        let (ws, bs) = (&self.conv.ws, self.conv.bs.as_ref());
        Ok(x.f_conv_transpose2d(ws, bs, stride, padding, output_padding, 1, [1, 1])?)
    }

    fn forward_by_matmul(&self, x: &Tensor) -> Result<Tensor> {
        let (n, inputs, h, w) = x.size4()?;
        let (kernel, stride, padding) = ([KERNEL, KERNEL], [STRIDE, STRIDE], [PADDING, PADDING]);
        let x = x.f_permute([0, 2, 3, 1])?.f_reshape([n, h * w, inputs])?; // [N, H·W, I]
        let weight = self.conv.ws.f_reshape([inputs, -1])?; // [I, O·25]
        let columns = weight.f_tr()?.f_matmul(&x.f_transpose(1, 2)?)?; // [N, O·25, H·W]
        let y = columns.f_col2im([STRIDE * h, STRIDE * w], kernel, [1, 1], padding, stride)?; // [N, O, 2H, 2W]
        Ok(match &self.conv.bs {
            Some(bias) => y.f_add(&bias.f_view([1, -1, 1, 1])?)?,
            None => y,
        })
    }

    /// The layer's variables: kernel, bias.
    pub fn variables(&self) -> Vec<Variable> {
        let bias = (Layout::Channels, self.conv.bs.as_ref());
        kernel_and_bias(self.name, (Layout::ConvTransposeKernel, &self.conv.ws), bias)
    }
}
