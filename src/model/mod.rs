//! The two networks, built layer by layer from an [`Architecture`].

mod discriminator;
mod generator;
mod init;
mod network;

use std::collections::BTreeMap;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use tch::{Device, Kind, Tensor, nn};

pub use discriminator::Discriminator;
pub use generator::{FoldedGenerator, Generator};
pub use init::{KERNEL_STDDEV, initialize};

pub use crate::architecture::{Architecture, ModelConfig, Network};
use crate::error::Fixable;
use crate::tf::{Algorithm, Kinks, Variable};

/// Both networks, on one device and of one kind.
#[derive(Debug)]
pub struct Model {
    /// The layers of both networks, and the configuration from which they follow.
    pub architecture: Architecture,
    /// The generator: z → images.
    pub generator: Generator,
    /// The discriminator: images → logits.
    pub discriminator: Discriminator,
    /// Kind of the weights.
    pub kind: Kind,
    /// Kind in which convolutions and dense layers compute.
    pub compute: Kind,
    /// Whether all convolutions are computed by libtorch's own kernels: see [`Self::with_plain_convolutions`].
    pub has_plain_convolutions: bool,
    /// Device that holds the weights and computes.
    pub device: Device,
}

impl Model {
    /// Both networks with initial values from `seed`.
    ///
    /// # Errors
    /// If images of the configured size are not supported, or the device has not enough memory.
    pub fn new(config: &ModelConfig, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        let architecture = Architecture::new(*config)?;
        let count: i64 = Network::ALL.into_iter().map(|it| architecture.parameters(it)).sum();
        // For weights, gradients and two moments.
        ensure_memory(&architecture, "networks", count, 4, (kind, device))?;
        let (mut g_store, mut d_store) = (nn::VarStore::new(device), nn::VarStore::new(device));
        let model = Self {
            generator: Generator::new(&g_store.root(), &architecture)?,
            discriminator: Discriminator::new(&d_store.root(), &architecture)?,
            architecture,
            kind,
            compute: kind,
            has_plain_convolutions: false,
            device,
        };
        // The kind is set only now, because `tch` creates moving statistics in float32 regardless of the store's
        // kind.
        g_store.set_kind(kind);
        d_store.set_kind(kind);
        for network in Network::ALL {
            initialize(&mut model.variables(network), seed, network as u64)?;
        }
        Ok(model.computing_in(kind))
    }

    /// A model whose generator is a copy of this one's as it is now, with tensors of its own that no optimizer
    /// trains. The discriminator is this model's own. Nothing random is drawn.
    ///
    /// # Errors
    /// If the device cannot hold a second generator.
    pub fn with_copied_generator(&self) -> Result<Self> {
        let Self { architecture, kind, compute, has_plain_convolutions, device, .. } = self;
        let count = architecture.parameters(Network::Generator);
        ensure_memory(architecture, "a second generator", count, 1, (*kind, *device))?;
        let mut store = nn::VarStore::new(*device);
        let copy = Self {
            generator: Generator::new(&store.root(), architecture)?,
            // Casts to the kind that tensors have already are no copies.
            discriminator: self.discriminator.cast(*kind)?,
            architecture: architecture.clone(),
            kind: *kind,
            compute: *compute,
            has_plain_convolutions: false,
            device: *device,
        };
        store.set_kind(*kind);
        store.freeze();
        let _no_grad = tch::no_grad_guard();
        let originals = self.variables(Network::Generator);
        for (mut ours, original) in copy.variables(Network::Generator).into_iter().zip(originals) {
            ours.tensor.f_copy_(&original.tensor)?;
        }
        Ok(copy.computing_in(*compute).with_plain_convolutions(*has_plain_convolutions))
    }

    /// The same model, except that convolutions and dense layers compute in the kind `compute`, on casts of the
    /// weights. This is how float32 networks train in bfloat16: weights, statistics, losses and moments stay in
    /// float32.
    #[must_use]
    pub fn computing_in(mut self, compute: Kind) -> Self {
        self.generator.arrange_for(compute);
        Self { compute, ..self }
    }

    /// The same model. If `is_plain`, libtorch's own kernels compute all convolutions. Otherwise some are computed in a way
    /// that is faster on the CPU and rounds more ([`crate::tf::ConvTranspose`]).
    #[must_use]
    pub fn with_plain_convolutions(mut self, is_plain: bool) -> Self {
        if is_plain == self.has_plain_convolutions {
            return self;
        }
        self.generator.set_plain(is_plain);
        self.discriminator.set_plain(is_plain);
        self.generator.arrange_for(self.compute);
        Self { has_plain_convolutions: is_plain, ..self }
    }

    /// The same model, whose ReLUs are watched by `kinks`, or by nothing.
    #[must_use]
    pub fn watched_by(mut self, kinks: Option<&Rc<Kinks>>) -> Self {
        self.generator.watch_kinks(kinks.cloned());
        self.discriminator.watch_kinks(kinks.cloned());
        self
    }

    /// In which way each convolution is computed in training on batches of so many rows, by its layer's name. Empty on devices
    /// other than the CPU, where libtorch computes all.
    pub fn algorithms(&self, batch: usize) -> Vec<(String, Algorithm)> {
        match self.device {
            Device::Cpu => {
                self.architecture.algorithms(self.compute, batch, self.has_plain_convolutions)
            }
            _ => Vec::new(),
        }
    }

    /// The configuration from which the networks follow.
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

    /// The variables that the optimizer of `network` trains.
    pub fn trainable(&self, network: Network) -> Vec<Variable> {
        let mut variables = self.variables(network);
        variables.retain(|variable| variable.role.is_trainable());
        variables
    }

    /// Gives the variables of a network the values of `tensors`, whose names are those of `tch`'s variable
    /// stores.
    ///
    /// # Errors
    /// If a tensor is missing, unknown, or of another shape. The message names it, and nothing has changed.
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
            bail!("tensor {unknown}: a {} has no tensor of this name", network.name());
        }
        let _no_grad = tch::no_grad_guard();
        for mut variable in variables {
            variable.tensor.f_copy_(&tensors[&variable.torch_name])?;
        }
        Ok(())
    }

    /// Rows of the generator's input as a tensor `[rows, z_dim]` of the model's kind on its device; of a conditional
    /// model `[rows, z_dim + classes]`.
    ///
    /// # Errors
    /// If `values` are not whole rows.
    pub fn z(&self, values: &[f32]) -> Result<Tensor> {
        let z = Tensor::f_from_slice(values)?.f_view([-1, self.config().input_len()])?;
        Ok(z.f_to_device(self.device)?.f_to_kind(self.kind)?)
    }
}

/// Checks that there is enough memory for `copies` times the `count` parameters of `what`, by allocating as much and
/// freeing it at once. Without this check, `tch::nn` would panic if there is too little memory.
fn ensure_memory(
    architecture: &Architecture,
    what: &str,
    count: i64,
    copies: i64,
    (kind, device): (Kind, Device),
) -> Result<()> {
    Tensor::f_empty([copies * count], (kind, device)).map(drop).with_context(|| {
        let gb = copies as f64 * count as f64 * kind.elt_size_in_bytes() as f64 / 1e9;
        let with = if copies > 1 { " with gradients and moments" } else { "" };
        let ModelConfig { base_width, z_dim, .. } = architecture.config;
        Fixable::NetworksTooLarge(format!(
            "no memory for {what} of {count} parameters ({gb:.1} GB{with}) of base width {base_width} and z of length \
             {z_dim}"
        ))
    })
}
