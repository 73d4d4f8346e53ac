//! `tf.layers.conv2d` with kernel 5, stride 2 and "same" padding.

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor, nn};

use super::frame::{KERNEL, Layout, PADDING, STRIDE};
use super::variable::{Variable, kernel_and_bias};

/// The numbers of channels of a [`Conv`] or a [`super::ConvTranspose`].
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
    name: String,
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    /// Creates the layer's variables, all zero, under `path / name`.
    pub fn new(path: &nn::Path, name: &str, config: ConvConfig) -> Self {
        let ConvConfig { in_channels, out_channels } = config;
        let path = path / name;
        let mut weight = path.zeros("weight", &[out_channels, in_channels, KERNEL, KERNEL]);
        weight.set_data(&in_channels_last_order(&weight));
        let bias = path.zeros("bias", &[out_channels]);
        Self { name: name.to_owned(), weight, bias }
    }

    /// The same layer, computing in `kind`. Its weights are casts of the variables, and gradients flow
    /// through the casts to the variables. If the variables are of `kind` already, nothing is copied.
    ///
    /// # Errors
    /// If the device cannot hold the casts.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        let (weight, bias) = (self.weight.f_to_kind(kind)?, self.bias.f_to_kind(kind)?);
        Ok(Self { name: self.name.clone(), weight, bias })
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
        // Gray images on the CPU: with only one input channel, oneDNN's gradient takes 11 ms and that of a
        // matrix product 3 ms. The product's output also has the memory order that the next layer
        // computes fastest with.
        let output = if matches!(x.size()[..], [_, 1, _, _]) && x.device() == Device::Cpu {
            self.forward_by_matmul(x)
        } else {
            self.forward_by_convolution(x)
        };
        output.with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    fn forward_by_convolution(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
        Ok(x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], 1)?)
    }

    fn forward_by_matmul(&self, x: &Tensor) -> Result<Tensor> {
        let (n, _, h, w) = x.size4()?;
        let outputs = self.weight.size()[0];
        let (kernel, stride, padding) = ([KERNEL, KERNEL], [STRIDE, STRIDE], [PADDING, PADDING]);
        let columns = x.f_im2col(kernel, [1, 1], padding, stride)?; // [N, 25·I, H/2·W/2]
        let weight = self.weight.f_reshape([outputs, -1])?; // [O, 25·I]
        let y = columns.f_transpose(1, 2)?.f_linear(&weight, Some(&self.bias))?; // [N, H/2·W/2, O]
        Ok(y.f_reshape([n, h / STRIDE, w / STRIDE, outputs])?.f_permute([0, 3, 1, 2])?)
    }

    /// The kind in which the layer computes.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }

    /// The layer's variables: kernel, bias.
    pub fn variables(&self) -> Vec<Variable> {
        let bias = (Layout::Channels, &self.bias);
        kernel_and_bias(&self.name, (Layout::ConvKernel, &self.weight), bias)
    }
}

/// A copy of the weight `x` `[A, B, H, W]` in the memory order A, H, W, B. The activations have that order
/// too, and oneDNN returns the weight's gradient in it.
pub(super) fn in_channels_last_order(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}
