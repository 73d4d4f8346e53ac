//! `tf.layers.conv2d` with kernel 5, stride 2 and "same" padding.

use anyhow::{Context, Result, ensure};
use tch::{Device, Tensor, nn};

use super::frame::{KERNEL, Layout, PADDING, STRIDE};
use super::variable::{Variable, kernel_and_bias};

/// Channels of a [`Conv`] or a [`super::ConvTranspose`].
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
    /// Creates the layer's variables, all zero, under `path / name`.
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
        let mut conv = nn::conv2d(path / name, in_channels, out_channels, KERNEL, conv_config);
        conv.ws.set_data(&in_channels_last_order(&conv.ws));
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
        ensure!(x.dim() == 4, "{}: expected [N, C, H, W], found {:?}", self.name, x.size());
        // Gray images on the CPU: oneDNN's gradient of so thin an input takes 11 ms, a matrix
        // product's 3, and its output is in the memory order that the next layer is fastest on.
        let output = if matches!(x.size()[..], [_, 1, _, _]) && x.device() == Device::Cpu {
            self.forward_by_matmul(x)
        } else {
            self.forward_by_convolution(x)
        };
        output.with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    fn forward_by_convolution(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
        Ok(x.f_conv2d(&self.conv.ws, self.conv.bs.as_ref(), stride, padding, [1, 1], 1)?)
    }

    fn forward_by_matmul(&self, x: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = x.size4()?;
        let outputs = self.conv.ws.size()[0];
        let (kernel, stride, padding) = ([KERNEL, KERNEL], [STRIDE, STRIDE], [PADDING, PADDING]);
        let columns = x.f_im2col(kernel, [1, 1], padding, stride)?; // [N, 25·I, H/2·W/2]
        let weight = self.conv.ws.f_reshape([outputs, -1])?; // [O, 25·I]
        let y = columns.f_transpose(1, 2)?.f_linear(&weight, self.conv.bs.as_ref())?; // [N, H/2·W/2, O]
        Ok(y.f_reshape([n, h / STRIDE, w / STRIDE, outputs])?.f_permute([0, 3, 1, 2])?)
    }

    /// The layer's variables: kernel, bias.
    pub fn variables(&self) -> Vec<Variable> {
        let bias = (Layout::Channels, self.conv.bs.as_ref());
        kernel_and_bias(self.name, (Layout::ConvKernel, &self.conv.ws), bias)
    }
}

/// A copy of the weight `x` `[A, B, H, W]` whose memory runs over A, H, W, B: the order of the
/// activations, in which oneDNN returns the weight's gradient too.
pub(super) fn in_channels_last_order(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
