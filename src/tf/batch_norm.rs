//! `tf.layers.batch_normalization` over the channels of `[N, C, H, W]`.

use anyhow::{Context, Result};
use tch::{Tensor, nn};

use super::frame::Layout;
use super::variable::{Role, Variable};
use crate::torch::Group;

/// The number of channels and the epsilon of a [`BatchNorm`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    /// Channels of the input.
    pub channels: i64,
    /// Added to the variance before its square root is taken: 1e-5 in the reference.
    pub epsilon: f64,
}

/// Which mean and variance normalize the input, and whether the pass updates the moving statistics.
#[derive(Debug, Clone, Copy)]
pub enum Statistics<'a> {
    /// The mean and variance of the batch normalize it, as in training. The moving statistics stay as they are.
    Batch,
    /// The mean and variance of the batch normalize it, as in training. The moving statistics become
    /// `(1 − momentum) · moving + momentum · batch`. This is momentum in PyTorch's sense: 1 − TensorFlow's
    /// decay.
    BatchUpdating {
        /// The share of the batch's statistics in the new moving statistics.
        momentum: f64,
    },
    /// As the two before, with the mean and variance of the rows of all ranks.
    OfAllRanks {
        /// The ranks.
        group: &'a Group,
        /// As in [`Self::BatchUpdating`]; `None`: the moving statistics stay as they are.
        momentum: Option<f64>,
    },
    /// The moving statistics normalize the batch, as in sampling. They stay as they are.
    Moving,
}

/// Batch normalization with scale and shift.
#[derive(Debug)]
pub struct BatchNorm {
    name: String,
    epsilon: f64,
    gamma: Tensor,
    beta: Tensor,
    moving_mean: Tensor,
    moving_variance: Tensor,
}

impl BatchNorm {
    /// Creates the layer's variables under `path / name`.
    pub fn new(path: &nn::Path, name: &str, config: BatchNormConfig) -> Self {
        let BatchNormConfig { channels, epsilon } = config;
        let (path, shape) = (path / name, [channels]);
        Self {
            name: name.to_owned(),
            epsilon,
            gamma: path.ones("weight", &shape),
            beta: path.zeros("bias", &shape),
            moving_mean: path.zeros_no_train("running_mean", &shape),
            moving_variance: path.ones_no_train("running_var", &shape),
        }
    }

    /// Another handle to the same layer: its variables are the same tensors.
    pub fn shallow_clone(&self) -> Self {
        let Self { name, epsilon, gamma, beta, moving_mean, moving_variance } = self;
        Self {
            name: name.clone(),
            epsilon: *epsilon,
            gamma: gamma.shallow_clone(),
            beta: beta.shallow_clone(),
            moving_mean: moving_mean.shallow_clone(),
            moving_variance: moving_variance.shallow_clone(),
        }
    }

    /// `x` `[N, C, H, W]` → the same shape, kind and device. The computation is in the layer's own kind,
    /// even if `x` has fewer bits.
    ///
    /// The biased variance of the batch normalizes it; the moving variance is updated with the unbiased one.
    /// TensorFlow's fused kernel does the same in float32.
    ///
    /// # Errors
    /// If the channels of `x` are not the layer's.
    pub fn forward(&self, x: &Tensor, statistics: Statistics) -> Result<Tensor> {
        let moving = Some((&self.moving_mean, &self.moving_variance));
        let (moving, training, momentum) = match statistics {
            Statistics::Batch => (None, true, 0.),
            Statistics::BatchUpdating { momentum } => (moving, true, momentum),
            Statistics::Moving => (moving, false, 0.),
            Statistics::OfAllRanks { group, momentum } => {
                let (mean, variance) = (&self.moving_mean, &self.moving_variance);
                let moving = momentum.map(|momentum| (mean, variance, momentum));
                let y = group.batch_norm(x, (&self.gamma, &self.beta), moving, self.epsilon);
                return y.with_context(|| self.name.clone());
            }
        };
        let (mean, var) = moving.unzip();
        let (gamma, beta) = (Some(&self.gamma), Some(&self.beta));
        x.f_batch_norm(gamma, beta, mean, var, training, momentum, self.epsilon, true)
            .with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    /// What the layer computes with its moving statistics: it multiplies each channel by a factor and then
    /// adds a number. Returns the factors and the numbers, each `[C]`.
    ///
    /// # Errors
    /// If the device cannot hold the result.
    pub(super) fn factor_and_addend(&self) -> Result<(Tensor, Tensor)> {
        let factor = self.moving_variance.f_add_scalar(self.epsilon)?.f_rsqrt()?;
        let factor = factor.f_mul(&self.gamma)?;
        let addend = self.beta.f_sub(&self.moving_mean.f_mul(&factor)?)?;
        Ok((factor, addend))
    }

    /// The layer's variables: gamma, beta, moving mean, moving variance.
    pub fn variables(&self) -> Vec<Variable> {
        [
            ("weight", Role::Gamma, &self.gamma),
            ("bias", Role::Beta, &self.beta),
            ("running_mean", Role::MovingMean, &self.moving_mean),
            ("running_var", Role::MovingVariance, &self.moving_variance),
        ]
        .into_iter()
        .map(|(torch_name, role, tensor)| {
            Variable::new(&self.name, torch_name, role, Layout::Channels, tensor)
        })
        .collect()
    }
}
