//! `tf.layers.conv2d_transpose` with kernel 5, stride 2 and "same" padding.

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use tch::{Kind, Tensor, nn};

use super::algorithm::{Algorithm, Convolution, Processor, is_trained};
use super::batch_norm::BatchNorm;
use super::conv::{ConvConfig, in_channels_last_order};
use super::frame::{KERNEL, Layout, OUTPUT_PADDING, PADDING, STRIDE};
use super::variable::{Variable, kernel_and_bias};
use super::winograd::Winograd;
use crate::shape::Grid;

/// A transposed convolution with bias: kernel 5, stride 2, TensorFlow's "same" padding, in the
/// mirrored frame.
#[derive(Debug)]
pub struct ConvTranspose {
    name: String,
    weight: Tensor,
    bias: Tensor,
    /// What [`Algorithm::MinimalFiltering`] prepared for the size of the last input.
    winograd: RefCell<Option<Prepared>>,
    /// Whether the weights never change: then the transformed kernels are kept from pass to pass.
    is_frozen: bool,
    /// Whether minimal filtering is left out, because it rounds more.
    is_plain: bool,
}

/// What [`Algorithm::MinimalFiltering`] prepares once and uses in many passes.
#[derive(Debug)]
struct Prepared {
    winograd: Winograd,
    /// The transformed kernels, if the weights are frozen and a pass has computed them already.
    kernels: Option<[Tensor; 4]>,
}

/// The reference's batch size. The memory order of the weights is chosen for it.
const USUAL_BATCH: i64 = 128;

impl ConvTranspose {
    /// Creates the layer's variables, all zero, under `path / name`.
    pub fn new(path: &nn::Path, name: &str, config: ConvConfig) -> Self {
        let ConvConfig { in_channels, out_channels } = config;
        let path = path / name;
        let weight = path.zeros("weight", &[in_channels, out_channels, KERNEL, KERNEL]);
        let bias = path.zeros("bias", &[out_channels]);
        let winograd = RefCell::default();
        Self { name: name.to_owned(), weight, bias, winograd, is_frozen: false, is_plain: false }
    }

    /// Whether the layer, where it would compute in a faster way that rounds more, leaves that to libtorch. To be set before
    /// [`Self::arrange_for`].
    pub fn set_plain(&mut self, is_plain: bool) {
        self.is_plain = is_plain;
    }

    /// Puts the weights into the memory order that is fastest for computing in `kind` on inputs with this
    /// grid, in batches of the usual size.
    pub fn arrange_for(&mut self, kind: Kind, grid: Grid) {
        let size = [USUAL_BATCH, self.weight.size()[0], grid.height, grid.width];
        let convolution = self.convolution(kind, &size, true);
        let weight = self.weight.detach();
        let algorithm = convolution.algorithm_at(weight.device(), Processor::here());
        self.weight.set_data(&match algorithm {
            Algorithm::MinimalFiltering => in_taps_first_order(&weight),
            _ => in_channels_last_order(&weight),
        });
    }

    /// The same layer, computing in `kind`. Its weights are casts of the variables, and gradients flow
    /// through the casts to the variables. If the variables are of `kind` already, nothing is copied.
    ///
    /// # Errors
    /// If the device cannot hold the casts.
    pub fn cast(&self, kind: Kind) -> Result<Self> {
        let (weight, bias) = (self.weight.f_to_kind(kind)?, self.bias.f_to_kind(kind)?);
        let Self { is_frozen, is_plain, .. } = *self;
        let winograd = RefCell::default();
        Ok(Self { name: self.name.clone(), weight, bias, winograd, is_frozen, is_plain })
    }

    /// One layer that computes what this layer and, behind it, `norm` with its moving statistics compute. It
    /// is meant for sampling.
    ///
    /// # Errors
    /// If the device cannot hold the weights of the new layer.
    pub fn folded(&self, norm: &BatchNorm) -> Result<Self> {
        let (factor, addend) = norm.factor_and_addend()?;
        let weight = self.weight.f_mul(&factor.f_view([1, -1, 1, 1])?)?;
        let bias = self.bias.f_mul(&factor)?.f_add(&addend)?;
        Ok(Self {
            name: self.name.clone(),
            weight,
            bias,
            winograd: RefCell::default(),
            is_frozen: true,
            is_plain: self.is_plain,
        })
    }

    /// `x` `[N, I, H, W]` → `[N, O, 2H, 2W]`, same kind and device.
    ///
    /// # Errors
    /// If `x` is not rank 4 or its channels are not `I`.
    ///
    /// # Source
    /// Parity: `tests/frame.rs::conv_transpose_equals_pad_and_crop`, `tests/parity.rs`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_on(Processor::here(), x)
    }

    fn forward_on(&self, processor: Processor, x: &Tensor) -> Result<Tensor> {
        ensure!(x.dim() == 4, "{}: expected [N, C, H, W], found {:?}", self.name, x.size());
        let convolution = self.convolution(x.kind(), &x.size(), is_trained(x, &self.weight));
        let output = match convolution.algorithm_at(x.device(), processor) {
            Algorithm::Libtorch => self.forward_by_libtorch(x),
            Algorithm::Columns => self.forward_by_columns(x),
            Algorithm::MinimalFiltering => self.forward_by_winograd(x),
            Algorithm::MatrixProduct => convolution.by_product(x, &self.weight, &self.bias),
        };
        output.with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    /// What is asked of the layer with an input of this size, `[N, I, H, W]`.
    fn convolution(&self, kind: Kind, x: &[i64], is_trained: bool) -> Convolution {
        let grid = Grid { height: x[2], width: x[3] };
        let fine = self.weight.size()[1];
        Convolution {
            is_transposed: true,
            kind,
            batch: x[0],
            grid,
            coarse: x[1],
            fine,
            is_trained,
            is_plain: self.is_plain,
        }
    }

    fn forward_by_libtorch(&self, x: &Tensor) -> Result<Tensor> {
        let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
        let output_padding = [OUTPUT_PADDING, OUTPUT_PADDING];
        let (ws, bs) = (&self.weight, Some(&self.bias));
        Ok(x.f_conv_transpose2d(ws, bs, stride, padding, output_padding, 1, [1, 1])?)
    }

    fn forward_by_columns(&self, x: &Tensor) -> Result<Tensor> {
        let (n, inputs, h, w) = x.size4()?;
        let (kernel, stride, padding) = ([KERNEL, KERNEL], [STRIDE, STRIDE], [PADDING, PADDING]);
        let x = x.f_permute([0, 2, 3, 1])?.f_reshape([n, h * w, inputs])?; // [N, H·W, I]
        let weight = self.weight.f_reshape([inputs, -1])?; // [I, O·25]
        let columns = weight.f_tr()?.f_matmul(&x.f_transpose(1, 2)?)?; // [N, O·25, H·W]
        let y = columns.f_col2im([STRIDE * h, STRIDE * w], kernel, [1, 1], padding, stride)?; // [N, O, 2H, 2W]
        Ok(y.f_add(&self.bias.f_view([1, -1, 1, 1])?)?)
    }

    fn forward_by_winograd(&self, x: &Tensor) -> Result<Tensor> {
        let mut slot = self.winograd.borrow_mut();
        let Prepared { winograd, kernels } = match slot.take() {
            Some(prepared) if prepared.winograd.fits(x) => slot.insert(prepared),
            _ => slot
                .insert(Prepared { winograd: Winograd::new(grid_of(x), x.kind())?, kernels: None }),
        };
        let mut y = match kernels {
            Some(kernels) => winograd.conv_transpose(x, kernels)?,
            None => {
                let made = winograd.kernels(&self.weight)?;
                let y = winograd.conv_transpose(x, &made)?;
                *kernels = self.is_frozen.then_some(made);
                y
            }
        };
        Ok(y.f_add_(&self.bias.f_view([1, -1, 1, 1])?)?)
    }

    /// The kind in which the layer computes.
    pub fn kind(&self) -> Kind {
        self.weight.kind()
    }

    /// The layer's variables: kernel, bias.
    pub fn variables(&self) -> Vec<Variable> {
        let bias = (Layout::Channels, &self.bias);
        kernel_and_bias(&self.name, (Layout::ConvTransposeKernel, &self.weight), bias)
    }
}

/// Height and width of `x` `[N, C, H, W]`.
fn grid_of(x: &Tensor) -> Grid {
    let size = x.size();
    Grid { height: size[2], width: size[3] }
}

/// A copy of the weight `x` `[I, O, H, W]` in the memory order H, W, I, O. In this order [`Winograd`] reads
/// the weights without a copy: for each tap, the values of all kernels lie side by side.
fn in_taps_first_order(x: &Tensor) -> Tensor {
    x.permute([2, 3, 0, 1]).contiguous().permute([2, 3, 0, 1])
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tch::Device;

    use super::*;

    #[test]
    fn the_layer_is_a_matrix_product_where_the_processor_asks_for_it() -> Result<()> {
        let store = nn::VarStore::new(Device::Cpu);
        let config = ConvConfig { in_channels: 64, out_channels: 64 };
        let layer = ConvTranspose::new(&store.root(), "t", config);
        for variable in layer.variables() {
            tch::no_grad(|| drop(variable.tensor.shallow_clone().uniform_(-1., 1.)));
        }
        let layer = layer.cast(Kind::BFloat16)?;
        let x = Tensor::rand([2, 64, 4, 4], (Kind::BFloat16, Device::Cpu));
        let theirs = layer.forward_by_libtorch(&x)?;
        let convolution = layer.convolution(x.kind(), &x.size(), true);
        let ours = convolution.by_product(&x, &layer.weight, &layer.bias)?;
        assert_ne!(ours, theirs, "they round alike, so nothing is seen here");
        assert_eq!(layer.forward_on(Processor { amx_bf16: true }, &x)?, ours);
        assert_eq!(layer.forward_on(Processor::PLAIN, &x)?, theirs);
        Ok(())
    }

    #[test]
    fn as_a_matrix_product_the_layer_is_the_same_but_for_rounding() -> Result<()> {
        let mut store = nn::VarStore::new(Device::Cpu);
        let config = ConvConfig { in_channels: 10, out_channels: 6 };
        let mut layer = ConvTranspose::new(&store.root(), "t", config);
        store.double();
        for variable in layer.variables() {
            tch::no_grad(|| drop(variable.tensor.shallow_clone().uniform_(-1., 1.)));
        }
        let x = Tensor::rand([3, 10, 4, 2], (Kind::Double, Device::Cpu));
        for arranged in [in_channels_last_order, in_taps_first_order] {
            layer.weight.set_data(&arranged(&layer.weight.detach()));
            let convolution = layer.convolution(x.kind(), &x.size(), true);
            let theirs = layer.forward_by_libtorch(&x)?;
            let ours = convolution.by_product(&x, &layer.weight, &layer.bias)?;
            let norm = |x: &Tensor| x.norm().double_value(&[]);
            let error = norm(&(&ours - &theirs)) / norm(&theirs);
            assert!(error <= 1e-14, "{error:e}");
        }
        Ok(())
    }

    /// The numbers behind the choice of an algorithm. `benches/NOTES.md` has them, and the command.
    #[test]
    #[ignore = "measures for minutes and asserts nothing"]
    fn times_of_every_way_forward_and_backward() -> Result<()> {
        const BATCH: i64 = 128;
        println!("kind, grid, channels: libtorch, columns, minimal filtering, matrix product (ms)");
        for kind in [Kind::Float, Kind::BFloat16] {
            for (height, width, inputs, outputs) in [
                (4, 4, 512, 256),
                (4, 4, 128, 64),
                (8, 8, 256, 128),
                (8, 8, 64, 32),
                (4, 8, 256, 128),
                (4, 16, 256, 128),
                (8, 12, 256, 128),
                (12, 12, 128, 64),
                (12, 20, 128, 64),
                (16, 16, 128, 64),
                (16, 16, 32, 16),
                (6, 10, 128, 64),
                (7, 7, 128, 64),
                (16, 16, 128, 1),
                (16, 16, 128, 3),
                (32, 32, 64, 1),
                (32, 32, 64, 3),
            ] {
                let store = nn::VarStore::new(Device::Cpu);
                let config = ConvConfig { in_channels: inputs, out_channels: outputs };
                let bias = ConvTranspose::new(&store.root(), "t", config).bias.to_kind(kind);
                let weight = Tensor::rand([inputs, outputs, KERNEL, KERNEL], (kind, Device::Cpu));
                let x = Tensor::rand([BATCH, inputs, height, width], (kind, Device::Cpu));
                let x = in_channels_last_order(&x).set_requires_grad(true);
                let time = |algorithm: Algorithm| -> Result<f64> {
                    let weight = match algorithm {
                        Algorithm::MinimalFiltering => in_taps_first_order(&weight),
                        _ => in_channels_last_order(&weight),
                    };
                    let layer = ConvTranspose {
                        weight: weight.set_requires_grad(true),
                        bias: bias.shallow_clone(),
                        name: String::new(),
                        winograd: RefCell::default(),
                        is_frozen: false,
                        is_plain: false,
                    };
                    let mut least = f64::INFINITY;
                    for _ in 0..7 {
                        let start = Instant::now();
                        let y = match algorithm {
                            Algorithm::Libtorch => layer.forward_by_libtorch(&x)?,
                            Algorithm::Columns => layer.forward_by_columns(&x)?,
                            Algorithm::MinimalFiltering => layer.forward_by_winograd(&x)?,
                            Algorithm::MatrixProduct => {
                                let convolution = layer.convolution(kind, &x.size(), true);
                                convolution.by_product(&x, &layer.weight, &layer.bias)?
                            }
                        };
                        let gradient = in_channels_last_order(&y.detach());
                        let loss = y.f_mul(&gradient)?.f_sum(kind)?;
                        Tensor::f_run_backward(&[&loss], &[&x, &layer.weight], false, false)?;
                        least = least.min(start.elapsed().as_secs_f64() * 1e3);
                    }
                    Ok(least)
                };
                let is_whole = height % 4 == 0 && width % 4 == 0;
                let times = [
                    Algorithm::Libtorch,
                    Algorithm::Columns,
                    Algorithm::MinimalFiltering,
                    Algorithm::MatrixProduct,
                ]
                .map(|algorithm| match algorithm {
                    Algorithm::MinimalFiltering if !is_whole => Ok("-".to_owned()),
                    _ => Ok(format!("{:.1}", time(algorithm)?)),
                });
                let times = times.into_iter().collect::<Result<Vec<_>>>()?;
                println!("{kind:?} {height}×{width} {inputs}→{outputs}: {}", times.join(" "));
            }
        }
        Ok(())
    }
}
