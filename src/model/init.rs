//! The initial values of variables.

use anyhow::Result;
use rand_distr::{Distribution, StandardNormal};
use tch::Tensor;

use crate::rng::{Stream, rng};
use crate::tf::{Role, Variable};

/// Standard deviation of the initial values of all kernels, those of dense layers included.
pub const KERNEL_STDDEV: f32 = 0.02;

/// Gives each variable its initial values. Kernels are normal with mean 0 and standard deviation 0.02. Biases,
/// beta and moving means are 0; gamma and moving variances are 1.
///
/// The values depend only on `seed`, `network`, and the variable's place in `variables`. They are the same
/// numbers in every kind and on every device.
///
/// # Errors
/// If a value cannot be copied to the variable's device.
pub fn initialize(variables: &mut [Variable], seed: u64, network: u64) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    for (index, variable) in variables.iter_mut().enumerate() {
        match variable.role {
            Role::Kernel => {
                let mut rng = rng(seed, Stream::Init, network << 32 | index as u64);
                let normal = |_| -> f32 { StandardNormal.sample(&mut rng) };
                let values: Vec<f32> =
                    (0..variable.tensor.numel()).map(normal).map(|x| x * KERNEL_STDDEV).collect();
                let values = Tensor::f_from_slice(&values)?.f_view(&variable.tensor.size()[..])?;
                variable.tensor.f_copy_(&values)?;
            }
            Role::Bias | Role::Beta | Role::MovingMean => {
                let _ = variable.tensor.f_fill_(0.)?;
            }
            Role::Gamma | Role::MovingVariance => {
                let _ = variable.tensor.f_fill_(1.)?;
            }
        }
    }
    Ok(())
}
