//! TensorFlow's Adam. PyTorch's Adam is a different function: there the bias correction also scales ε.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::cpu::{CHUNK, Element, elements, elements_mut};
use super::flat::{Flat, in_memory_order};
use crate::torch::{AdamState, AdamStep, fused_adam};

/// Hyperparameters of [`Adam`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the square root of the second moment, outside the bias correction.
    pub epsilon: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { learning_rate: 2e-4, beta1: 0.5, beta2: 0.999, epsilon: 1e-8 }
    }
}

/// A trained variable and its two moments. All three have the same shape, kind and memory order.
#[derive(Debug)]
pub struct Slot {
    /// The variable. It shares its memory with the network's, so a step changes the network.
    pub theta: Tensor,
    /// First moment.
    pub m: Tensor,
    /// Second moment.
    pub v: Tensor,
}

/// The optimizer of one network.
#[derive(Debug)]
pub struct Adam {
    hyper: Hyper,
    /// β1^t and β2^t, where t is the number of the next step: scalars on the CPU.
    // TF: these are float32 variables even if the weights are float64, and float64 results show the difference
    // from the first step.
    powers: [Tensor; 2],
    slots: Vec<Slot>,
    /// The memory of all variables, of their first and of their second moments.
    theta: Flat,
    m: Flat,
    v: Flat,
    /// A float32 scalar on the variables' device: see [`fused_adam`].
    many_steps: Tensor,
}

/// So many steps that 1 − β^t rounds to 1 for any β: 2^40.
const MANY_STEPS: f64 = 1_099_511_627_776.0;

/// The hyperparameters as the formula reads them.
// TF: learning rate, betas and ε are float32 tensors, too, even if the weights are float64.
#[derive(Debug, Clone, Copy)]
struct Hyper {
    learning_rate: f32,
    beta1: f32,
    beta2: f32,
    epsilon: f32,
}

/// The numbers that one step multiplies with or adds, in the type of the weights.
#[derive(Debug, Clone, Copy)]
struct Factors<T> {
    /// `lr · sqrt(1 − β2^t) / (1 − β1^t)`
    alpha: T,
    /// `1 − β1`
    m_share: T,
    /// `1 − β2`
    v_share: T,
    epsilon: T,
}

impl Adam {
    /// An optimizer of `variables`, with all moments zero. It moves the variables into one buffer; all handles to them
    /// follow.
    ///
    /// # Errors
    /// If the variables are not all of the same kind and on the same device, or there is no memory for the moments.
    pub fn new(variables: impl IntoIterator<Item = Tensor>, config: AdamConfig) -> Result<Self> {
        let hyper = Hyper {
            learning_rate: config.learning_rate as f32,
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            epsilon: config.epsilon as f32,
        };
        let mut variables: Vec<_> = variables.into_iter().collect();
        let theta = Flat::of(&mut variables)?;
        let (m, v) = (theta.zeros_like()?, theta.zeros_like()?);
        let slots = variables
            .into_iter()
            .zip(m.views()?.into_iter().zip(v.views()?))
            .map(|(theta, (m, v))| Slot { theta, m, v })
            .collect();
        let powers = [hyper.beta1, hyper.beta2].map(Tensor::from);
        let many_steps = Tensor::f_full([0; 0], MANY_STEPS, (Kind::Float, theta.all.device()))?;
        Ok(Self { hyper, powers, slots, theta, m, v, many_steps })
    }

    /// The variables with their moments, in the order they were given.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// β1^t and β2^t, where t is the number of the next step: float32 scalars on the CPU. These are the live
    /// tensors, like the moments in [`Self::slots`]: writing to them changes the next step.
    pub fn powers(&self) -> &[Tensor; 2] {
        &self.powers
    }

    /// The buffer in which all variables lie: `[n]`.
    pub fn theta(&self) -> &Tensor {
        &self.theta.all
    }

    /// The variables alone, as [`Tensor::run_backward`] takes them.
    pub fn variables(&self) -> Vec<&Tensor> {
        self.slots.iter().map(|slot| &slot.theta).collect()
    }

    /// `gradients`, one for each variable and in their order, as one buffer: `[n]`, as [`Self::step_at_once`] takes it.
    ///
    /// # Errors
    /// If the number of gradients is not the number of variables, or a gradient has another shape than its variable.
    pub fn gathered(&self, gradients: &[Tensor]) -> Result<Tensor> {
        let _no_grad = tch::no_grad_guard();
        self.theta.gathered(gradients)
    }

    /// The gradients, one for each variable, in what [`Self::gathered`] gave: views of it.
    ///
    /// # Errors
    /// If it has another length.
    pub fn scattered(&self, gradients: &Tensor) -> Result<Vec<Tensor>> {
        self.theta.views_of(gradients)
    }

    /// One step: `θ −= lr_t · m / (sqrt(v) + ε)`, with `lr_t = lr · sqrt(1 − β2^t) / (1 − β1^t)`. The variables must be
    /// on the CPU.
    ///
    /// `gradients` holds one gradient for each variable, in the variables' order and of the same shape and kind.
    ///
    /// # Errors
    /// If the number of gradients is not the number of variables, or a gradient has another shape or kind
    /// than its variable. Then no variable has changed.
    ///
    /// # Source
    /// Kingma and Ba 2015, section 2, last paragraph. Parity: `tests/parity.rs`.
    pub fn step(&mut self, gradients: &[Tensor]) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let expected = self.slots.len();
        ensure!(
            gradients.len() == expected,
            "expected {expected} gradients, found {}",
            gradients.len()
        );
        for (slot, g) in self.slots.iter().zip(gradients) {
            let (ours, theirs) = ((slot.theta.size(), slot.theta.kind()), (g.size(), g.kind()));
            ensure!(ours == theirs, "expected a gradient of {ours:?}, found {theirs:?}");
        }
        let (narrow, wide) = self.advance()?;
        for (slot, g) in self.slots.iter_mut().zip(gradients) {
            match slot.theta.f_kind()? {
                Kind::Double => slot.step_in_one_pass(g, wide)?,
                _ => slot.step_in_one_pass(g, narrow)?,
            }
        }
        Ok(())
    }

    /// The step size `lr_t` of the next step, in the variables' kind. The step after it is then the next one.
    ///
    /// # Errors
    /// Never; the powers are scalars on the CPU.
    pub fn next_step_size(&mut self) -> Result<f64> {
        let (narrow, wide) = self.advance()?;
        Ok(if self.theta.all.f_kind()? == Kind::Double { wide.alpha } else { narrow.alpha.into() })
    }

    /// One step as [`Self::step`] takes it, on any device and of all variables at once. The host reads nothing back.
    ///
    /// `gradient` is what [`Self::gathered`] gave, `step_size` what [`Self::next_step_size`] gave, as a scalar of the
    /// variables' kind on their device. If `found_inf`, a float32 scalar there, is 1, neither a variable nor a moment
    /// changes; if it is 0, the step is the usual one.
    ///
    /// # Errors
    /// If the gradient has another length or kind.
    pub fn step_at_once(
        &mut self,
        gradient: &Tensor,
        step_size: &Tensor,
        found_inf: &Tensor,
    ) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        let (theta, m, v) = (&self.theta.all, &self.m.all, &self.v.all);
        let Hyper { beta1, beta2, epsilon, .. } = self.hyper;
        let (beta1, beta2, epsilon) = (beta1.into(), beta2.into(), epsilon.into());
        let has_fused = matches!(theta.device(), Device::Cpu | Device::Cuda(_));
        if theta.f_kind()? == Kind::Float && has_fused {
            let many_steps = &self.many_steps;
            let step = AdamStep { alpha: step_size, found_inf, many_steps, beta1, beta2, epsilon };
            return fused_adam(&AdamState { theta, m, v }, gradient, &step);
        }
        // The fused kernel takes a step size in float32 only, and not every device has it.
        let next_m = m.f_lerp(gradient, 1.0 - beta1)?;
        let next_v = v.f_lerp(&gradient.f_square()?, 1.0 - beta2)?;
        let denominator = next_v.f_sqrt()?.f_add_scalar_(epsilon)?;
        let change = next_m.f_mul(step_size)?.f_div_(&denominator)?;
        let next_theta = theta.f_sub(&change)?;
        // Not a product with a gate: 0 times NaN is NaN. `where` chooses instead.
        let is_taken = found_inf.f_eq(0.)?;
        for (old, new) in [(m, next_m), (v, next_v), (theta, next_theta)] {
            let _ = new.f_where_self_out(old, &is_taken, old)?;
        }
        Ok(())
    }

    /// The numbers of the next step, as the formula reads them in float32 and in float64. The step after it is then the
    /// next one.
    fn advance(&mut self) -> Result<(Factors<f32>, Factors<f64>)> {
        let hyper = self.hyper;
        let power = |power: &Tensor| power.f_double_value(&[]).map(|power| power as f32);
        let powers = (power(&self.powers[0])?, power(&self.powers[1])?);
        let next = [powers.0 * hyper.beta1, powers.1 * hyper.beta2];
        for (power, next) in self.powers.iter_mut().zip(next) {
            let _ = power.f_fill_(f64::from(next))?;
        }
        Ok((hyper.factors::<f32>(powers), hyper.factors::<f64>(powers)))
    }
}

impl Hyper {
    fn factors<T: Element + From<f32>>(self, (beta1_power, beta2_power): (f32, f32)) -> Factors<T> {
        let [learning_rate, beta1, beta2, epsilon, beta1_power, beta2_power] =
            [self.learning_rate, self.beta1, self.beta2, self.epsilon, beta1_power, beta2_power]
                .map(<T as From<f32>>::from);
        let one = T::one();
        Factors {
            alpha: learning_rate * (one - beta2_power).sqrt() / (one - beta1_power),
            m_share: one - beta1,
            v_share: one - beta2,
            epsilon,
        }
    }
}

impl Slot {
    /// One step on the CPU, in one pass over memory, on all threads. Operations on whole tensors would
    /// read and write the same memory ten times.
    fn step_in_one_pass<T: Element>(&mut self, g: &Tensor, factors: Factors<T>) -> Result<()> {
        let g = in_memory_order(g, &self.theta.stride())?;
        let written = [&self.theta, &self.m, &self.v].map(Tensor::data_ptr);
        ensure!(
            !written.contains(&g.data_ptr()),
            "a gradient shares its memory with its variable or with one of the moments"
        );
        let Factors { alpha, m_share, v_share, epsilon } = factors;
        let theta = elements_mut::<T>(&mut self.theta)?.par_chunks_mut(CHUNK);
        let m = elements_mut::<T>(&mut self.m)?.par_chunks_mut(CHUNK);
        let v = elements_mut::<T>(&mut self.v)?.par_chunks_mut(CHUNK);
        let g = elements::<T>(&g)?.par_chunks(CHUNK);
        theta.zip(m).zip(v).zip(g).for_each(|(((theta, m), v), g)| {
            for (((theta, m), v), &g) in theta.iter_mut().zip(m).zip(v).zip(g) {
                *m = *m + (g - *m) * m_share;
                *v = *v + (g * g - *v) * v_share;
                *theta = *theta - (*m * alpha) / (v.sqrt() + epsilon);
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// TensorFlow's formula for one float64 weight, written out step by step.
    fn by_hand(config: AdamConfig, gradients: &[f64], mut theta: f64) -> f64 {
        let single = |x: f64| f64::from(x as f32);
        let (b1, b2) = (single(config.beta1), single(config.beta2));
        let (mut m, mut v) = (0.0, 0.0);
        let (mut b1_power, mut b2_power) = (config.beta1 as f32, config.beta2 as f32);
        for &g in gradients {
            let (p1, p2) = (f64::from(b1_power), f64::from(b2_power));
            let lr_t = single(config.learning_rate) * (1.0 - p2).sqrt() / (1.0 - p1);
            m += (g - m) * (1.0 - b1);
            v += (g * g - v) * (1.0 - b2);
            theta -= lr_t * m / (v.sqrt() + single(config.epsilon));
            b1_power *= config.beta1 as f32;
            b2_power *= config.beta2 as f32;
        }
        theta
    }

    fn optimizer(kind: Kind, config: AdamConfig) -> Result<Adam> {
        Adam::new([Tensor::from_slice(&[0.3, -1.0]).to_kind(kind)], config)
    }

    const GRADIENTS: [[f64; 2]; 4] = [[1e-3, -2.0], [-3e-4, 1e-9], [0.0, 5.0], [7e-6, -0.25]];

    #[test]
    fn equals_tensorflows_formula_and_not_pytorchs() -> Result<()> {
        // Epsilon is large, so that it matters where in the formula it is added.
        let config = AdamConfig { epsilon: 1e-3, ..Default::default() };
        let mut adam = optimizer(Kind::Double, config)?;
        for g in &GRADIENTS {
            adam.step(&[Tensor::from_slice(g)])?;
        }
        for (i, start) in [0.3, -1.0].into_iter().enumerate() {
            let gradients = GRADIENTS.map(|g| g[i]);
            let expected = by_hand(config, &gradients, start);
            let found = adam.slots()[0].theta.double_value(&[i as i64]);
            assert!((found - expected).abs() <= 1e-15, "{found} {expected}");
        }
        // PyTorch divides by sqrt(v / (1 - beta2^t)) + epsilon. This is its result after one step.
        let (g, config) = (1e-3_f64, config);
        let torch = 0.3 - config.learning_rate * g / (g + config.epsilon);
        assert!((by_hand(config, &[g], 0.3) - torch).abs() > 1e-6);
        Ok(())
    }

    /// A step of all variables at once, as on a device.
    fn step_at_once(adam: &mut Adam, gradients: &[Tensor], found_inf: f32) -> Result<()> {
        let step_size = Tensor::from(adam.next_step_size()?).to_kind(adam.theta.all.kind());
        let gradient = adam.gathered(gradients)?;
        adam.step_at_once(&gradient, &step_size, &Tensor::from(found_inf))
    }

    #[test]
    fn steps_one_by_one_and_at_once_agree() -> Result<()> {
        for (kind, bound) in [(Kind::Float, 1e-6), (Kind::Double, 1e-15)] {
            let config = AdamConfig::default();
            let (mut fast, mut slow) = (optimizer(kind, config)?, optimizer(kind, config)?);
            for g in &GRADIENTS {
                let g = Tensor::from_slice(g).to_kind(kind);
                fast.step(&[g.shallow_clone()])?;
                step_at_once(&mut slow, &[g], 0.0)?;
            }
            assert_eq!(fast.powers(), slow.powers());
            for (a, b) in [(&fast.slots()[0], &slow.slots()[0])] {
                for (a, b) in [(&a.theta, &b.theta), (&a.m, &b.m), (&a.v, &b.v)] {
                    let error = (a - b).abs().max().double_value(&[]);
                    assert!(error <= bound * b.abs().max().double_value(&[]), "{error}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_step_that_is_not_to_be_taken_keeps_nan_out() -> Result<()> {
        for kind in [Kind::Float, Kind::Double] {
            let mut adam = optimizer(kind, AdamConfig::default())?;
            let before = adam.slots()[0].theta.copy();
            let nan = Tensor::from_slice(&[f32::NAN, 1.0]).to_kind(kind);
            step_at_once(&mut adam, &[nan], 1.0)?;
            let Slot { theta, m, v } = &adam.slots()[0];
            assert_eq!((theta, m, v), (&before, &m.zeros_like(), &v.zeros_like()));
        }
        Ok(())
    }

    #[test]
    fn gradients_in_another_memory_order_or_of_another_shape() -> Result<()> {
        let theta = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let g = Tensor::from_slice(&[1.0_f32, 2., 3., -4., -5., -6.]).view([2, 3]);
        let mut plain = Adam::new([theta.copy()], AdamConfig::default())?;
        let mut turned = Adam::new([theta.copy()], AdamConfig::default())?;
        plain.step(&[g.shallow_clone()])?;
        turned.step(&[g.tr().contiguous().tr()])?;
        assert_eq!(plain.slots()[0].theta, turned.slots()[0].theta);
        assert!(plain.step(&[g.tr()]).is_err());
        assert!(plain.step(&[]).is_err());
        Ok(())
    }
}
