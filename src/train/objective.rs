//! What the two networks are trained to do: their losses, from logits.
//!
//! Another loss is another variant of [`Objective`]; the compiler names the two places that it needs.

use anyhow::Result;
use tch::Tensor;

use crate::tf::sigmoid_cross_entropy;

/// The losses of both networks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// The reference's: each logit's cross-entropy with its label, a mean over the batch.
    CrossEntropy {
        /// One-sided: real images are labelled 1 − this.
        label_smoothing: f64,
    },
}

impl Default for Objective {
    fn default() -> Self {
        Self::CrossEntropy { label_smoothing: 0.1 }
    }
}

impl Objective {
    /// The discriminator's loss: it is to tell real images from generated ones.
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

    /// The generator's loss: its images are to be taken for real ones.
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
