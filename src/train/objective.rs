//! What the two networks are trained to do: their losses, computed from logits.
//!
//! To add a loss, add a variant to [`Objective`]. The compiler then names the two functions that need it.

use anyhow::Result;
use tch::Tensor;

use crate::settings::TrainConfig;
use crate::tf::{part_of_sigmoid_cross_entropy, sigmoid_cross_entropy};

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

impl From<&TrainConfig> for Objective {
    fn from(config: &TrainConfig) -> Self {
        Self::CrossEntropy { label_smoothing: config.label_smoothing }
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
        self.part_of_discriminator(real_logits, fake_logits, None)
    }

    /// The part that these logits have in [`Self::discriminator`] of a batch with `rows` real and generated images. The
    /// parts of a batch add up to its loss. Without `rows` it is the loss itself.
    ///
    /// # Errors
    /// As [`Self::discriminator`].
    pub fn part_of_discriminator(
        &self,
        real_logits: &Tensor,
        fake_logits: &Tensor,
        rows: Option<[i64; 2]>,
    ) -> Result<Tensor> {
        match *self {
            Self::CrossEntropy { label_smoothing } => {
                let [real_rows, fake_rows] = [rows.map(|rows| rows[0]), rows.map(|rows| rows[1])];
                let real = cross_entropy(real_logits, 1.0 - label_smoothing, real_rows)?;
                Ok(real.f_add(&cross_entropy(fake_logits, 0.0, fake_rows)?)?)
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
        self.part_of_generator(fake_logits, None)
    }

    /// As [`Self::part_of_discriminator`], of [`Self::generator`].
    ///
    /// # Errors
    /// As [`Self::generator`].
    pub fn part_of_generator(&self, fake_logits: &Tensor, rows: Option<i64>) -> Result<Tensor> {
        match self {
            Self::CrossEntropy { .. } => cross_entropy(fake_logits, 1.0, rows),
        }
    }
}

/// The mean over the batch; with `rows`, the part that these logits have in the mean over so many.
fn cross_entropy(logits: &Tensor, label: f64, rows: Option<i64>) -> Result<Tensor> {
    match rows {
        None => sigmoid_cross_entropy(logits, label),
        Some(rows) => part_of_sigmoid_cross_entropy(logits, label, rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// −log of the probability that the logit gives a label between 0 and 1.
    fn cross_entropy(logit: f64, label: f64) -> f64 {
        let probability = 1.0 / (1.0 + (-logit).exp());
        -(label * probability.ln() + (1.0 - label) * (1.0 - probability).ln())
    }

    #[test]
    fn the_references_losses_are_means_of_cross_entropies_with_smoothed_real_labels() -> Result<()>
    {
        let (real, fake) = ([1.5, -0.25], [0.5, -2.0, 3.0]);
        let column = |logits: &[f64]| Tensor::from_slice(logits).view([-1, 1]);
        let mean = |logits: &[f64], label: f64| {
            logits.iter().map(|&x| cross_entropy(x, label)).sum::<f64>() / logits.len() as f64
        };
        for label_smoothing in [0.0, 0.1, 0.3] {
            let objective = Objective::CrossEntropy { label_smoothing };
            let d_loss = objective.discriminator(&column(&real), &column(&fake))?;
            let expected = mean(&real, 1.0 - label_smoothing) + mean(&fake, 0.0);
            assert!((d_loss.double_value(&[]) - expected).abs() <= 1e-14, "{label_smoothing}");
            let g_loss = objective.generator(&column(&fake))?.double_value(&[]);
            assert!((g_loss - mean(&fake, 1.0)).abs() <= 1e-14, "{label_smoothing}");
        }
        Ok(())
    }
}
