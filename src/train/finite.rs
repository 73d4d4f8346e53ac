//! Keeps losses and gradients that are NaN or infinite from reaching a weight.

use std::fmt;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::tf::all_finite;

/// A loss or a gradient that is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonFinite {
    /// The iteration, counted from 1.
    pub iteration: u64,
    /// The optimizer step within the iteration: 0 is the discriminator's; 1, 2, … are the generator's.
    pub step: u64,
    /// `true` if the loss itself is not finite, `false` if only one of its gradients is not. `None` on an
    /// accelerator: there the host learns only which step failed.
    pub in_loss: Option<bool>,
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let loss = if self.step == 0 { "discriminator_loss" } else { "generator_loss" };
        let what = match self.in_loss {
            Some(true) => loss.to_owned(),
            Some(false) => format!("a gradient of {loss}"),
            None => format!("{loss} or one of its gradients"),
        };
        write!(f, "{what} is not finite at iteration {}", self.iteration)?;
        if self.step > 0 {
            write!(f, ", generator step {}", self.step)?;
        }
        Ok(())
    }
}

impl std::error::Error for NonFinite {}

/// Checks losses and gradients on a device before the optimizer uses them. The host never waits to learn the outcome: it
/// reads `skipped` only when it has to wait for the device anyway.
///
/// On the CPU, where reading a loss is free, [`ensure_finite`] is used instead.
#[derive(Debug)]
pub(super) struct DeferredCheck {
    /// Float32 scalar: 0 until the first failure, 1 from then on.
    found_inf: Tensor,
    /// Float32 scalar: the number of optimizer steps that were not taken.
    skipped: Tensor,
    steps_per_iteration: u64,
}

impl DeferredCheck {
    /// Nothing has failed so far. It works on any device, so tests can use it on the CPU.
    pub(super) fn new(device: Device, steps_per_iteration: u64) -> Result<Self> {
        let zero = || Tensor::f_zeros([0; 0], (Kind::Float, device));
        Ok(Self { found_inf: zero()?, skipped: zero()?, steps_per_iteration })
    }

    /// Checks a loss and its gradients (`[n]`) and returns what the optimizer step asks for, as
    /// [`crate::tf::Adam::step_at_once`] takes it: 1 if this or an earlier check has failed, else 0.
    pub(super) fn check(&mut self, loss: &Tensor, gradients: &Tensor) -> Result<&Tensor> {
        let _no_grad = tch::no_grad_guard();
        // NaN is the least and the largest of all. Gradients are squared, because Adam's second moment is a mean of
        // squares; and 0 · x is 0 only if x is finite.
        let (least, largest) = gradients.f_aminmax(None::<i64>, false)?;
        let mut worst = loss.f_addcmul(&largest, &largest)?.f_addcmul_(&least, &least)?;
        let failed = worst.f_mul_scalar_(0.)?.f_ne(0.)?;
        let _ = self.found_inf.f_maximum_out(&self.found_inf, &failed.f_to_kind(Kind::Float)?)?;
        let _ = self.skipped.f_add_(&self.found_inf)?;
        Ok(&self.found_inf)
    }

    /// Whether a check has failed, as a bool scalar on the device: true as long as none has.
    pub(super) fn is_fine(&self) -> Result<Tensor> {
        Ok(self.found_inf.f_eq(0.)?)
    }

    /// Forgets earlier failures, because the weights have been replaced.
    pub(super) fn reset(&mut self) -> Result<()> {
        for scalar in [&mut self.found_inf, &mut self.skipped] {
            let _ = scalar.f_fill_(0.)?;
        }
        Ok(())
    }

    /// Waits for the device and reports the first failure, if there was one. `iterations` have been done by now.
    ///
    /// # Errors
    /// [`NonFinite`], if a check has failed.
    pub(super) fn synchronize(&self, iterations: u64) -> Result<()> {
        let skipped = self.skipped.f_double_value(&[])? as u64;
        if skipped == 0 {
            return Ok(());
        }
        let first = (iterations * self.steps_per_iteration).saturating_sub(skipped); // counted from 0
        let (iteration, step) =
            (first / self.steps_per_iteration, first % self.steps_per_iteration);
        Err(NonFinite { iteration: 1 + iteration, step, in_loss: None }.into())
    }
}

/// Checks a loss and its gradients on the CPU, before optimizer step number `step` (from 0) of an iteration.
///
/// # Errors
/// [`NonFinite`].
pub(super) fn ensure_finite(
    loss: &Tensor,
    gradients: &[Tensor],
    iteration: u64,
    step: u64,
) -> Result<()> {
    let in_loss = !loss.f_double_value(&[])?.is_finite();
    if in_loss || !all_finite(gradients)? {
        return Err(NonFinite { iteration, step, in_loss: Some(in_loss) }.into());
    }
    Ok(())
}
