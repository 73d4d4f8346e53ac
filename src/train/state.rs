//! Everything that a checkpoint holds of the networks and their optimizers, listed once.
//!
//! Saving, restoring, importing and comparing with TensorFlow all iterate over the list that [`state`] returns.
//! To put more into checkpoints, add it to that list. [`restore`] needs every entry, so let an entry depend on a
//! setting, as the moving average does, or checkpoints written before it cannot be resumed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use tch::{Device, Kind, Tensor};

use super::step::Gan;
use crate::architecture::Network;
use crate::finite::ensure_finite;
use crate::run::checkpoint::{AVERAGE_ENDING, Checkpoint, Header};
use crate::tf::Role;
use crate::tf::frame::Layout;

/// What one of a checkpoint's tensors is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A variable of the network, trained or not.
    Variable(Role),
    /// Adam's first moment of a trained variable.
    FirstMoment,
    /// Adam's second moment of a trained variable.
    SecondMoment,
    /// The moving average of a variable of the generator, trained or not.
    Average(Role),
    /// One of Adam's powers β1^t and β2^t: one number, float32 in every precision.
    Power,
}

impl Part {
    /// Whether it belongs to the optimizer, not to the network.
    pub fn is_of_adam(self) -> bool {
        match self {
            Self::FirstMoment | Self::SecondMoment | Self::Power => true,
            Self::Variable(_) | Self::Average(_) => false,
        }
    }

    /// Checks that `values`, which are finite, are possible for this part.
    ///
    /// # Errors
    /// If a second moment is negative, or if a power is not in [0, 1) as float32.
    pub fn ensure_possible(self, values: &Tensor) -> Result<()> {
        match self {
            Self::SecondMoment => {
                let least = values.f_min()?.f_double_value(&[])?;
                ensure!(least >= 0.0, "expected means of squares, found {least}");
            }
            Self::Power => {
                let power = values.f_to_kind(Kind::Float)?.f_double_value(&[])?;
                ensure!((0.0..1.0).contains(&power), "expected 0 or more, below 1, found {power}");
            }
            Self::FirstMoment | Self::Variable(_) | Self::Average(_) => {}
        }
        Ok(())
    }
}

/// One of a checkpoint's tensors.
#[derive(Debug)]
pub struct Entry {
    /// The network that it belongs to.
    pub network: Network,
    /// What it is.
    pub part: Part,
    /// Its name in checkpoints, such as `generator.dense.weight.adam_m`.
    pub name: String,
    /// TensorFlow's name, such as `generator/dense/kernel/adam_m`.
    pub tf_name: String,
    /// How it maps between TensorFlow's upright frame and the mirrored frame. A power is a number and has none.
    pub layout: Option<Layout>,
    /// The live tensor: writing to it changes the networks or the optimizers.
    pub tensor: Tensor,
}

/// Every tensor that has to be saved so that a resumed run equals an uninterrupted one bit for bit.
pub fn state(gan: &Gan) -> Vec<Entry> {
    let mut all = Vec::new();
    for network in Network::ALL {
        let (scope, adam) = (network.name(), gan.adam(network));
        let entry = |part, torch: String, tf: String, layout, tensor: &Tensor| Entry {
            network,
            part,
            name: format!("{scope}.{torch}"),
            tf_name: format!("{scope}/{tf}"),
            layout,
            tensor: tensor.shallow_clone(),
        };
        for v in gan.model.variables(network) {
            let part = Part::Variable(v.role);
            all.push(entry(part, v.torch_name, v.tf_name, Some(v.layout), &v.tensor));
        }
        let average = gan.average().filter(|_| network == Network::Generator);
        for v in average.into_iter().flat_map(|average| average.variables(network)) {
            let (torch, tf) =
                (format!("{}{AVERAGE_ENDING}", v.torch_name), format!("{}/ema", v.tf_name));
            all.push(entry(Part::Average(v.role), torch, tf, Some(v.layout), &v.tensor));
        }
        for (v, slot) in gan.model.trainable(network).iter().zip(adam.slots()) {
            for (part, moment, tensor) in
                [(Part::FirstMoment, "adam_m", &slot.m), (Part::SecondMoment, "adam_v", &slot.v)]
            {
                let (torch, tf) =
                    (format!("{}.{moment}", v.torch_name), format!("{}/{moment}", v.tf_name));
                all.push(entry(part, torch, tf, Some(v.layout), tensor));
            }
        }
        for (power, tensor) in ["beta1_power", "beta2_power"].into_iter().zip(adam.powers()) {
            all.push(entry(Part::Power, power.to_owned(), power.to_owned(), None, tensor));
        }
    }
    all
}

/// Writes a checkpoint of `gan` to `path`.
///
/// # Errors
/// [`crate::finite::NotFinite`], if a value is not finite; any other error if the file cannot be written. There
/// is no partial file then.
pub fn save(path: &Path, header: &Header, gan: &Gan) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for Entry { name, tensor, .. } in state(gan) {
        let tensor = tensor.f_detach()?.f_to_device(Device::Cpu)?;
        ensure_finite(&name, &tensor)?;
        tensors.insert(name, tensor);
    }
    Checkpoint::write(path, header, tensors)
}

/// Puts `gan` into the state that `checkpoint` holds. If only `gan` has a moving average, it begins as the saved
/// weights; if only the checkpoint has one, it is left behind.
///
/// # Errors
/// If a tensor is missing, has another shape or impossible values, the message names it. It is an error, too, if the
/// checkpoint holds more tensors than expected. In either case nothing has changed.
pub fn restore(gan: &mut Gan, checkpoint: &Checkpoint) -> Result<()> {
    let restore = || -> Result<()> {
        let (mut pairs, mut expected_names) = (Vec::new(), BTreeSet::new());
        let has_average = checkpoint.header.config.ema.is_some();
        if has_average && gan.average().is_none() {
            let left_behind = gan.model.variables(Network::Generator).into_iter();
            let network = Network::Generator.name();
            expected_names
                .extend(left_behind.map(|v| format!("{network}.{}{AVERAGE_ENDING}", v.torch_name)));
        }
        for Entry { mut name, part, tensor, .. } in state(gan) {
            if matches!(part, Part::Average(_)) && !has_average {
                name.truncate(name.len() - AVERAGE_ENDING.len());
            }
            let saved = checkpoint.tensor(&name).with_context(|| format!("lacks tensor {name}"))?;
            let (expected, found) = (tensor.size(), saved.size());
            ensure!(
                found == expected,
                "tensor {name}: expected shape {expected:?}, found {found:?}"
            );
            let kind = saved.kind();
            ensure!(
                part != Part::Power || kind == Kind::Float,
                "tensor {name}: expected kind Float, found {kind:?}"
            );
            part.ensure_possible(saved).with_context(|| format!("tensor {name}"))?;
            pairs.push((saved, tensor));
            expected_names.insert(name);
        }
        let (expected, found) = (expected_names.len(), checkpoint.tensor_count());
        ensure!(found == expected, "expected {expected} tensors, found {found}");
        let _no_grad = tch::no_grad_guard();
        for (saved, mut live) in pairs {
            live.f_copy_(saved)?;
        }
        Ok(())
    };
    restore().with_context(|| checkpoint.path.display().to_string())?;
    gan.continue_from(checkpoint.header.iteration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_that_rounds_to_1_and_a_negative_mean_of_squares_are_impossible() {
        let is_possible = |part: Part, value: f64| {
            let values = Tensor::from_slice(&[value]).reshape([0; 0]);
            part.ensure_possible(&values).is_ok()
        };
        assert!(is_possible(Part::Power, 0.999) && is_possible(Part::Power, 0.0));
        // As float32, in which Adam computes, this is 1, and Adam would divide by 1 - 1.
        assert!(!is_possible(Part::Power, 1.0 - 1e-12) && !is_possible(Part::Power, -0.1));
        assert!(is_possible(Part::SecondMoment, 0.0) && !is_possible(Part::SecondMoment, -1e-30));
        assert!(is_possible(Part::FirstMoment, -1.0));
    }
}
