//! `tf.layers.batch_normalization` over the channels of `[N, C, H, W]`.

use anyhow::{Context, Result};
use tch::{Tensor, nn};

use super::frame::Layout;
use super::variable::{Role, Variable};

/// Channels and constant of a [`BatchNorm`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormConfig {
    /// Channels of the input.
    pub channels: i64,
    /// Added to the variance, 1e-5 in the reference.
    pub epsilon: f64,
}

/// Which mean and variance normalize, and what becomes of the moving ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Statistics {
    /// The batch's own, as in training. The moving statistics stay as they are.
    Batch,
    /// The batch's own, as in training. The moving statistics become
    /// `(1 − momentum) · moving + momentum · batch` (PyTorch's sense of the word: 1 − TensorFlow's
    /// decay).
    BatchUpdating {
        /// The share of the batch.
        momentum: f64,
    },
    /// The moving statistics, as in sampling.
    Moving,
}

/// Batch normalization with scale and shift.
#[derive(Debug)]
pub struct BatchNorm {
    name: &'static str,
    epsilon: f64,
    norm: nn::BatchNorm,
}

impl BatchNorm {
    /// Creates the layer's variables under `path / name`.
    pub fn new(path: &nn::Path, name: &'static str, config: BatchNormConfig) -> Self {
        let BatchNormConfig { channels, epsilon } = config;
        let norm = nn::batch_norm2d(
            path / name,
            channels,
            nn::BatchNormConfig {
                // tch draws it from uniform(0, 1).
                ws_init: nn::Init::Const(1.),
                ..Default::default()
            },
        );
        Self { name, epsilon, norm }
    }

    /// `x` `[N, C, H, W]` → the same shape, kind and device.
    ///
    /// The variance that normalizes is the biased one; the one that the moving variance takes is
    /// unbiased, as TensorFlow's fused kernel does in float32.
    ///
    /// # Errors
    /// If the channels of `x` are not the layer's.
    pub fn forward(&self, x: &Tensor, statistics: Statistics) -> Result<Tensor> {
        let nn::BatchNorm { running_mean, running_var, ws, bs, .. } = &self.norm;
        let (moving, training, momentum) = match statistics {
            Statistics::Batch => (None, true, 0.),
            Statistics::BatchUpdating { momentum } => {
                (Some((running_mean, running_var)), true, momentum)
            }
            Statistics::Moving => (Some((running_mean, running_var)), false, 0.),
        };
        let (mean, var) = moving.unzip();
        x.f_batch_norm(ws.as_ref(), bs.as_ref(), mean, var, training, momentum, self.epsilon, true)
            .with_context(|| format!("{}: input {:?}", self.name, x.size()))
    }

    /// The layer's variables: gamma, beta, moving mean, moving variance.
    pub fn variables(&self) -> Vec<Variable> {
        let nn::BatchNorm { running_mean, running_var, ws, bs, .. } = &self.norm;
        [
            ("weight", Role::Gamma, ws.as_ref()),
            ("bias", Role::Beta, bs.as_ref()),
            ("running_mean", Role::MovingMean, Some(running_mean)),
            ("running_var", Role::MovingVariance, Some(running_var)),
        ]
        .into_iter()
        .filter_map(|(torch_name, role, tensor)| {
            Some(Variable::new(self.name, torch_name, role, Layout::Channels, tensor?))
        })
        .collect()
    }
}
