//! `tf.layers.conv2d` with kernel 5, stride 2 and "same" padding.

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor, nn};

use super::algorithm::{Algorithm, Convolution, Processor, is_trained};
use super::frame::{KERNEL, Layout, PADDING, STRIDE};
use super::variable::{Variable, kernel_and_bias};
use crate::shape::Grid;

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
    /// Whether faster ways that round more are left out.
    is_plain: bool,
}

impl Conv {
    /// Creates the layer's variables, all zero, under `path / name`.
    pub fn new(path: &nn::Path, name: &str, config: ConvConfig) -> Self {
        let ConvConfig { in_channels, out_channels } = config;
        let path = path / name;
        let mut weight = path.zeros("weight", &[out_channels, in_channels, KERNEL, KERNEL]);
        weight.set_data(&in_channels_last_order(&weight));
        let bias = path.zeros("bias", &[out_channels]);
        Self { name: name.to_owned(), weight, bias, is_plain: false }
    }

    /// Whether the layer leaves to libtorch what it would compute in a faster way that rounds more.
    pub fn set_plain(&mut self, is_plain: bool) {
        self.is_plain = is_plain;
    }

    /// The same layer, computing in `kind`. Its weights are casts of the variables, and gradients flow
    /// through the casts to the variables. If the variables are of `kind` already, nothing is copied.
    ///
    /// # Errors
    /// If the device cannot hold the casts.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        let (weight, bias) = (self.weight.f_to_kind(kind)?, self.bias.f_to_kind(kind)?);
        Ok(Self { name: self.name.clone(), weight, bias, is_plain: self.is_plain })
    }

    /// `x` `[N, I, H, W]` → `[N, O, H/2, W/2]`, same kind and device, for even `H` and `W`.
    ///
    /// # Errors
    /// If `x` is not rank 4 or its channels are not `I`.
    ///
    /// # Source
    /// Parity: `tests/frame.rs::conv_equals_pad_and_crop`, `tests/parity.rs`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_on(Processor::here(), x)
    }

    fn forward_on(&self, processor: Processor, x: &Tensor) -> Result<Tensor> {
        ensure!(x.dim() == 4, "{}: expected [N, C, H, W], found {:?}", self.name, x.size());
        let convolution = self.convolution(x);
        let output = match convolution.algorithm_at(x.device(), processor) {
            Algorithm::Columns => self.forward_by_columns(x),
            Algorithm::MatrixProduct => convolution.by_product(x, &self.weight, &self.bias),
            Algorithm::Libtorch | Algorithm::MinimalFiltering => self.forward_by_libtorch(x),
        };
        output.with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    fn convolution(&self, x: &Tensor) -> Convolution {
        let (of_x, of_weight) = (x.size(), self.weight.size());
        Convolution {
            is_transposed: false,
            kind: x.kind(),
            batch: of_x[0],
            grid: Grid { height: of_x[2] / STRIDE, width: of_x[3] / STRIDE },
            coarse: of_weight[0],
            fine: of_x[1],
            is_trained: is_trained(x, &self.weight),
            is_plain: self.is_plain,
        }
    }

    fn forward_by_libtorch(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
        Ok(x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], 1)?)
    }

    // Its output also has the memory order that the next layer computes fastest with.
    fn forward_by_columns(&self, x: &Tensor) -> Result<Tensor> {
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

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn the_layer_is_a_matrix_product_where_processor_and_training_ask_for_it() -> Result<()> {
        let store = nn::VarStore::new(Device::Cpu);
        let config = ConvConfig { in_channels: 64, out_channels: 64 };
        let layer = Conv::new(&store.root(), "c", config);
        for variable in layer.variables() {
            tch::no_grad(|| drop(variable.tensor.shallow_clone().uniform_(-1., 1.)));
        }
        let x = Tensor::rand([2, 64, 8, 8], (Kind::Float, Device::Cpu));
        let amx = Processor { amx_bf16: true };
        let theirs = layer.forward_by_libtorch(&x)?;
        let ours = layer.convolution(&x).by_product(&x, &layer.weight, &layer.bias)?;
        assert_ne!(ours, theirs, "they round alike, so nothing is seen here");
        assert_eq!(layer.forward_on(amx, &x)?, ours);
        assert_eq!(layer.forward_on(Processor::PLAIN, &x)?, theirs);
        // Without gradients libtorch is faster.
        assert_eq!(tch::no_grad(|| layer.forward_on(amx, &x))?, theirs);
        let frozen = Conv { weight: layer.weight.detach(), bias: layer.bias.detach(), ..layer };
        assert_eq!(frozen.forward_on(amx, &x)?, theirs);
        assert_eq!(frozen.forward_on(amx, &x.set_requires_grad(true))?, ours);
        Ok(())
    }

    #[test]
    fn as_a_matrix_product_the_layer_is_the_same_but_for_rounding() -> Result<()> {
        let mut store = nn::VarStore::new(Device::Cpu);
        let config = ConvConfig { in_channels: 6, out_channels: 10 };
        let layer = Conv::new(&store.root(), "c", config);
        store.double();
        for variable in layer.variables() {
            tch::no_grad(|| drop(variable.tensor.shallow_clone().uniform_(-1., 1.)));
        }
        let x = Tensor::rand([3, 6, 8, 4], (Kind::Double, Device::Cpu));
        let theirs = layer.forward_by_libtorch(&x)?;
        let convolution = layer.convolution(&x);
        let ours = convolution.by_product(&x, &layer.weight, &layer.bias)?;
        let norm = |x: &Tensor| x.norm().double_value(&[]);
        let error = norm(&(&ours - &theirs)) / norm(&theirs);
        assert!(error <= 1e-14, "{error:e}");
        Ok(())
    }
}
