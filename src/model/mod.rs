//! The two networks, made of an [`Architecture`] by folding over its layers.

mod discriminator;
mod generator;
mod init;
mod network;

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor, nn};

pub use discriminator::Discriminator;
pub use generator::{FoldedGenerator, Generator};
pub use init::{KERNEL_STDDEV, initialize};

pub use crate::architecture::{Architecture, ModelConfig, Network};
use crate::error::Fixable;
use crate::tf::Variable;

/// Both networks, on one device and of one kind.
#[derive(Debug)]
pub struct Model {
    /// Their layers.
    pub architecture: Architecture,
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
    /// If there are no networks for images of that size, or the device cannot hold them.
    pub fn new(config: &ModelConfig, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        let architecture = Architecture::new(*config)?;
        ensure_room(&architecture, device, kind)?;
        let (mut g_store, mut d_store) = (nn::VarStore::new(device), nn::VarStore::new(device));
        let model = Self {
            generator: Generator::new(&g_store.root(), &architecture)?,
            discriminator: Discriminator::new(&d_store.root(), &architecture)?,
            architecture,
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

    /// The numbers that the networks follow from.
    pub fn config(&self) -> &ModelConfig {
        &self.architecture.config
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
        let z = Tensor::f_from_slice(values)?.f_view([-1, self.config().z_dim])?;
        Ok(z.f_to_device(self.device)?.f_to_kind(self.kind)?)
    }
}

/// Asks for all the memory that weights, gradients and moments will take, and gives it back. Where
/// there is none, `tch::nn` would panic.
fn ensure_room(architecture: &Architecture, device: Device, kind: Kind) -> Result<()> {
    let count: i64 = Network::ALL.into_iter().map(|network| architecture.parameters(network)).sum();
    Tensor::f_empty([4 * count], (kind, device)).map(drop).with_context(|| {
        let gb = 4. * count as f64 * kind.elt_size_in_bytes() as f64 / 1e9;
        let ModelConfig { base_width, z_dim, .. } = architecture.config;
        Fixable::NetworksTooLarge(format!(
            "no memory for networks of {count} parameters ({gb:.1} GB with gradients and moments) \
             of base width {base_width} and z of length {z_dim}"
        ))
    })
}
