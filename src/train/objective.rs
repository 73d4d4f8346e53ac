//! What the two networks are trained to do: their losses, computed from logits.
//!
//! To add a loss, add a variant to [`Objective`]. The compiler then names the two functions that need it.

use anyhow::Result;
use tch::Tensor;

use crate::tf::sigmoid_cross_entropy;

/// The losses of both networks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// The reference's losses: the cross-entropy of each logit with its label, averaged over the batch.
    CrossEntropy {
        /// Label smoothing for real images only: their label is 1 − this.
        label_smoothing: f64,
    },
}

impl Default for Objective {
    fn default() -> Self {
        Self::CrossEntropy { label_smoothing: 0.1 }
    }
}

impl Objective {
    /// The discriminator's loss. It is low if the discriminator tells real images from generated ones.
    ///
    /// # Shapes
    /// `real_logits` `[n, 1]`, `fake_logits` `[N, 1]` → scalar.
    ///
    /// # Errors
    /// If the logits are not of a floating kind.
    pub fn discriminator(&self, real_logits: &Tensor, fake_logits: &Tensor) -> Result<Tensor> {
        match *self {
            Self::CrossEntropy { label_smoothing } => {
                let real = sigmoid_cross_entropy(real_logits, 1.0 - label_smoothing)?;
                Ok(real.f_add(&sigmoid_cross_entropy(fake_logits, 0.0)?)?)
            }
        }
    }

    /// The generator's loss. It is low if the discriminator takes the generator's images for real ones.
    ///
    /// # Shapes
    /// `fake_logits` `[N, 1]` → scalar.
    ///
    /// # Errors
    /// If the logits are not of a floating kind.
    pub fn generator(&self, fake_logits: &Tensor) -> Result<Tensor> {
        match self {
            Self::CrossEntropy { .. } => sigmoid_cross_entropy(fake_logits, 1.0),
        }
    }
}
