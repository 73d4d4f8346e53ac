//! The two networks of the reference.

mod discriminator;
mod generator;
mod init;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, nn};

pub use discriminator::Discriminator;
pub use generator::{FoldedGenerator, Generator};
pub use init::{KERNEL_STDDEV, initialize};

use crate::error::Fixable;
use crate::tf::Variable;

/// Sizes and constants of both networks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Channels of an image.
    pub channels: i64,
    /// Scales every layer: the generator's are 8w, 4w, 2w, the discriminator's w, 2w, 4w.
    pub base_width: i64,
    /// Length of the noise vector.
    pub z_dim: i64,
    /// Slope of the leaky ReLU.
    pub alpha: f64,
    /// Share of the batch in the moving statistics: 1 − TensorFlow's decay.
    pub bn_momentum: f64,
    /// Added to the variance in batch norm.
    pub bn_epsilon: f64,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            channels: 1,
            base_width: 64,
            z_dim: 100,
            alpha: 0.2,
            bn_momentum: 0.1,
            bn_epsilon: 1e-5,
        }
    }
}

/// Biases of convolutions that feed a batch norm, which takes them out again: their true gradient is
/// 0, and rounding alone moves them.
pub const BIASES_OF_NO_EFFECT: [&str; 4] = [
    "generator/conv2d_transpose/bias",
    "generator/conv2d_transpose_1/bias",
    "discriminator/conv2d_1/bias",
    "discriminator/conv2d_2/bias",
];

/// Which of the two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// z → images.
    Generator,
    /// images → logits.
    Discriminator,
}

impl Network {
    /// Both, in TensorFlow's order of creation.
    pub const ALL: [Self; 2] = [Self::Generator, Self::Discriminator];

    /// TensorFlow's variable scope, and the stem of the file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Discriminator => "discriminator",
        }
    }

    /// TensorFlow's whole name of one of the network's variables, such as `generator/dense/kernel`.
    pub fn full_name(self, variable: &Variable) -> String {
        format!("{}/{}", self.name(), variable.tf_name)
    }
}

/// Both networks, on one device and of one kind.
#[derive(Debug)]
pub struct Model {
    /// Sizes and constants.
    pub config: ModelConfig,
    /// z → images.
    pub generator: Generator,
    /// images → logits.
    pub discriminator: Discriminator,
    /// Kind of the weights.
    pub kind: Kind,
    /// Kind that convolutions and dense layers compute in.
    pub compute: Kind,
    /// Where it lives.
    pub device: Device,
}

impl Model {
    /// Both networks with initial values from `seed`.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn new(config: &ModelConfig, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        ensure_room(config, device, kind)?;
        let (mut g_store, mut d_store) = (nn::VarStore::new(device), nn::VarStore::new(device));
        let model = Self {
            config: config.clone(),
            generator: Generator::new(&g_store.root(), config),
            discriminator: Discriminator::new(&d_store.root(), config),
            kind,
            compute: kind,
            device,
        };
        // Not `set_kind` before: tch makes moving statistics in float32 whatever it is told.
        g_store.set_kind(kind);
        d_store.set_kind(kind);
        for network in Network::ALL {
            initialize(&mut model.variables(network), seed, network as u64)?;
        }
        Ok(model.computing_in(kind))
    }

    /// The same, but convolutions and dense layers compute in `kind`, on casts of the weights: float32
    /// networks in bfloat16. Weights, statistics, losses and moments stay as they are.
    #[must_use]
    pub fn computing_in(mut self, compute: Kind) -> Self {
        self.generator.arrange_for(compute);
        Self { compute, ..self }
    }

    /// A network's variables, in TensorFlow's order of creation.
    pub fn variables(&self, network: Network) -> Vec<Variable> {
        match network {
            Network::Generator => self.generator.variables(),
            Network::Discriminator => self.discriminator.variables(),
        }
    }

    /// The variables that the optimizer of `network` steps.
    pub fn trainable(&self, network: Network) -> Vec<Variable> {
        let mut variables = self.variables(network);
        variables.retain(|variable| variable.role.is_trainable());
        variables
    }

    /// Gives a network's variables the values of `tensors`, by the names of `tch`'s variable stores.
    ///
    /// # Errors
    /// If one is missing, not known, or of another shape; the message names it, and nothing has changed.
    pub fn load(&self, network: Network, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        let variables = self.variables(network);
        for Variable { torch_name: name, tensor, .. } in &variables {
            let found = tensors.get(name).with_context(|| format!("lacks tensor {name}"))?.size();
            let expected = tensor.size();
            ensure!(
                found == expected,
                "tensor {name}: expected shape {expected:?}, found {found:?}"
            );
        }
        let is_known = |name: &String| variables.iter().any(|known| known.torch_name == *name);
        if let Some(unknown) = tensors.keys().find(|&name| !is_known(name)) {
            bail!("tensor {unknown} is none of a {}'s", network.name());
        }
        let _no_grad = tch::no_grad_guard();
        for mut variable in variables {
            variable.tensor.f_copy_(&tensors[&variable.torch_name])?;
        }
        Ok(())
    }

    /// Noise values as a tensor `[rows, z_dim]` of the model's kind on its device.
    ///
    /// # Errors
    /// If `values` is not whole rows.
    pub fn z(&self, values: &[f32]) -> Result<Tensor> {
        let z = Tensor::f_from_slice(values)?.f_view([-1, self.config.z_dim])?;
        Ok(z.f_to_device(self.device)?.f_to_kind(self.kind)?)
    }
}

/// Asks for all the memory that weights, gradients and moments will take, and gives it back. Where
/// there is none, `tch::nn` would panic.
fn ensure_room(config: &ModelConfig, device: Device, kind: Kind) -> Result<()> {
    let rows = Network::ALL.into_iter().flat_map(|network| layer_table(config, network));
    let count: i64 = rows.map(|row| row.parameters).sum();
    Tensor::f_empty([4 * count], (kind, device)).map(drop).with_context(|| {
        let gb = 4. * count as f64 * kind.elt_size_in_bytes() as f64 / 1e9;
        Fixable::NetworksTooLarge(format!(
            "no memory for networks of {count} parameters ({gb:.1} GB with gradients and moments) \
             of base width {} and z of length {}",
            config.base_width, config.z_dim
        ))
    })
}

/// One row of the layer table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    /// Name, as in TensorFlow's variables where it has any.
    pub layer: String,
    /// Shape of the output, without the batch.
    pub output: String,
    /// Trained values.
    pub parameters: i64,
}

/// The layers of `network` in order, with output shapes `[C, H, W]` and numbers of parameters.
pub fn layer_table(config: &ModelConfig, network: Network) -> Vec<LayerRow> {
    let ModelConfig { channels, base_width: w, z_dim, .. } = *config;
    let conv = |i: i64, o: i64| 25 * i * o + o;
    let row = |layer: &str, output: &[i64], parameters| LayerRow {
        layer: layer.to_owned(),
        output: output.iter().map(i64::to_string).collect::<Vec<_>>().join(" × "),
        parameters,
    };
    match network {
        Network::Generator => vec![
            row("dense", &[8 * w, 4, 4], (z_dim + 1) * 16 * 8 * w),
            row("batch_normalization, relu", &[8 * w, 4, 4], 2 * 8 * w),
            row("conv2d_transpose", &[4 * w, 8, 8], conv(8 * w, 4 * w)),
            row("batch_normalization_1, relu", &[4 * w, 8, 8], 2 * 4 * w),
            row("conv2d_transpose_1", &[2 * w, 16, 16], conv(4 * w, 2 * w)),
            row("batch_normalization_2, relu", &[2 * w, 16, 16], 2 * 2 * w),
            row("conv2d_transpose_2, tanh", &[channels, 32, 32], conv(2 * w, channels)),
        ],
        Network::Discriminator => vec![
            row("conv2d, leaky_relu", &[w, 16, 16], conv(channels, w)),
            row("conv2d_1", &[2 * w, 8, 8], conv(w, 2 * w)),
            row("batch_normalization, leaky_relu", &[2 * w, 8, 8], 2 * 2 * w),
            row("conv2d_2", &[4 * w, 4, 4], conv(2 * w, 4 * w)),
            row("batch_normalization_1, leaky_relu", &[4 * w, 4, 4], 2 * 4 * w),
            row("dense", &[1], 16 * 4 * w + 1),
        ],
    }
}
