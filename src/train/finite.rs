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

/// How losses and gradients are checked.
#[derive(Debug)]
enum Mode {
    /// The host checks them before each optimizer step. This is for the CPU, where reading a loss is free.
    Immediate,
    /// The device checks them, and the host reads `failed_at` only when it has to wait for the device anyway.
    Deferred {
        /// Scalar of the weights' kind: 1 until the first failure, 0 from then on.
        gate: Tensor,
        /// Int64 scalar: 0 if nothing has failed, otherwise the number of the optimizer step that failed
        /// first, counted from 1 over all iterations.
        failed_at: Tensor,
    },
}

/// Checks every loss and its gradients before the optimizer uses them.
#[derive(Debug)]
pub(super) struct FiniteCheck {
    mode: Mode,
    steps_per_iteration: u64,
}

impl FiniteCheck {
    /// Immediate checks on the CPU, deferred ones on every other device.
    pub(super) fn new(device: Device, kind: Kind, steps_per_iteration: u64) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self { mode: Mode::Immediate, steps_per_iteration }),
            _ => Self::deferred(device, kind, steps_per_iteration),
        }
    }

    /// Deferred checks. They are meant for accelerators but work on any device, so tests can use them on the
    /// CPU.
    pub(super) fn deferred(device: Device, kind: Kind, steps_per_iteration: u64) -> Result<Self> {
        let gate = Tensor::f_ones([0; 0], (kind, device))?;
        let failed_at = Tensor::f_zeros([0; 0], (Kind::Int64, device))?;
        Ok(Self { mode: Mode::Deferred { gate, failed_at }, steps_per_iteration })
    }

    /// Checks a loss and its gradients, and returns the gate for the optimizer step, as
    /// [`crate::tf::Adam::step`] takes it. The gate is `None` if the host knows that everything is finite.
    ///
    /// `iteration` counts from 1, `step` from 0 within the iteration.
    ///
    /// # Errors
    /// [`NonFinite`], if checks are immediate. Deferred checks report failures in [`Self::synchronize`].
    pub(super) fn gate(
        &mut self,
        loss: &Tensor,
        gradients: &[Tensor],
        iteration: u64,
        step: u64,
    ) -> Result<Option<Tensor>> {
        match &mut self.mode {
            Mode::Immediate => {
                let in_loss = !loss.f_double_value(&[])?.is_finite();
                if in_loss || !all_finite(gradients)? {
                    return Err(NonFinite { iteration, step, in_loss: Some(in_loss) }.into());
                }
                Ok(None)
            }
            Mode::Deferred { gate, failed_at } => {
                let _no_grad = tch::no_grad_guard();
                // 0 · x is 0 only if x is finite, so one sum shows whether all values are finite. Gradients
                // are squared first, because Adam's second moment is a mean of squares.
                let mut zero = loss.f_mul_scalar(0.)?;
                for g in gradients {
                    zero = zero.f_add(&g.f_square()?.f_mul_scalar(0.)?.f_sum(g.kind())?)?;
                }
                let ok = zero.f_eq(0.)?;
                let number = 1 + (iteration - 1) * self.steps_per_iteration + step;
                let first = ok.f_logical_not()?.f_logical_and(&failed_at.f_eq(0)?)?;
                *failed_at =
                    failed_at.f_add(&first.f_to_kind(Kind::Int64)?.f_mul_scalar(number as i64)?)?;
                *gate = gate.f_mul(&ok.f_to_kind(gate.kind())?)?;
                Ok(Some(gate.shallow_clone()))
            }
        }
    }

    /// The present gate if checks are deferred, otherwise `None`.
    pub(super) fn current(&self) -> Option<&Tensor> {
        match &self.mode {
            Mode::Immediate => None,
            Mode::Deferred { gate, .. } => Some(gate),
        }
    }

    /// Forgets earlier failures, because the weights have been replaced.
    pub(super) fn reset(&mut self) -> Result<()> {
        if let Mode::Deferred { gate, failed_at } = &mut self.mode {
            let _ = gate.f_fill_(1.)?;
            let _ = failed_at.f_fill_(0)?;
        }
        Ok(())
    }

    /// Waits for the device and reports the first failure, if there was one.
    ///
    /// # Errors
    /// [`NonFinite`], if a deferred check has failed.
    pub(super) fn synchronize(&self) -> Result<()> {
        let Mode::Deferred { failed_at, .. } = &self.mode else { return Ok(()) };
        match failed_at.f_int64_value(&[])? as u64 {
            0 => Ok(()),
            number => {
                let iteration = 1 + (number - 1) / self.steps_per_iteration;
                let step = (number - 1) % self.steps_per_iteration;
                Err(NonFinite { iteration, step, in_loss: None }.into())
            }
        }
    }
}
