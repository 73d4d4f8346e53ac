//! Non-finite values never enter a weight.

use std::fmt;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::tf::all_finite;

/// A loss or a gradient that is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonFinite {
    /// The iteration, counted from 1.
    pub iteration: u64,
    /// The optimizer step within it: 0 the discriminator's, 1, 2, … the generator's.
    pub step: u64,
    /// Whether the loss itself was found to be non-finite, rather than one of its gradients;
    /// unknown on an accelerator, where nobody looks until the next logging step.
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

/// Where the losses are looked at.
#[derive(Debug)]
enum Mode {
    /// On the CPU at once: reading a loss there is free.
    Immediate,
    /// On the device: the host reads `failed_at` only when it must wait anyway.
    Deferred {
        /// Scalar of the weights' kind: 1 until the first failure, then 0 for good.
        gate: Tensor,
        /// Int64 scalar: 0, or 1 + the number of the optimizer step that failed first.
        failed_at: Tensor,
    },
}

/// Looks at every loss and its gradients before they are used.
#[derive(Debug)]
pub(super) struct FiniteCheck {
    mode: Mode,
    steps_per_iteration: u64,
}

impl FiniteCheck {
    /// The check that suits `device`.
    pub(super) fn new(device: Device, kind: Kind, steps_per_iteration: u64) -> Result<Self> {
        match device {
            Device::Cpu => Ok(Self { mode: Mode::Immediate, steps_per_iteration }),
            _ => Self::deferred(device, kind, steps_per_iteration),
        }
    }

    /// The check for accelerators, which works on any device.
    pub(super) fn deferred(device: Device, kind: Kind, steps_per_iteration: u64) -> Result<Self> {
        let gate = Tensor::f_ones([0; 0], (kind, device))?;
        let failed_at = Tensor::f_zeros([0; 0], (Kind::Int64, device))?;
        Ok(Self { mode: Mode::Deferred { gate, failed_at }, steps_per_iteration })
    }

    /// The gate of an optimizer step: `None` where the host knows that all is well.
    ///
    /// `iteration` counts from 1, `step` from 0 within it.
    ///
    /// # Errors
    /// [`NonFinite`], on the CPU, at once.
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
                // 0 · x is 0 only where x is finite: one number tells of all. Of a gradient the square,
                // because Adam's second moment takes it.
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

    /// The gate as it is now, where the host does not know.
    pub(super) fn current(&self) -> Option<&Tensor> {
        match &self.mode {
            Mode::Immediate => None,
            Mode::Deferred { gate, .. } => Some(gate),
        }
    }

    /// Forgets what has failed: the state is another one now.
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
    /// [`NonFinite`].
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
