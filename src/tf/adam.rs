//! TensorFlow's Adam. PyTorch's Adam is a different function: there the bias correction also scales ε.

use anyhow::{Result, ensure};
use rayon::prelude::*;
use tch::{Device, Kind, Tensor};

use super::cpu::{CHUNK, Element, elements, elements_mut};

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
}

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
    /// An optimizer of `variables`, with all moments zero.
    ///
    /// # Errors
    /// If the moments cannot be allocated.
    pub fn new(variables: impl IntoIterator<Item = Tensor>, config: AdamConfig) -> Result<Self> {
        let hyper = Hyper {
            learning_rate: config.learning_rate as f32,
            beta1: config.beta1 as f32,
            beta2: config.beta2 as f32,
            epsilon: config.epsilon as f32,
        };
        let slots = variables
            .into_iter()
            .map(|theta| {
                let zeros = || theta.f_zeros_like().map(|x| x.detach());
                Ok(Slot { m: zeros()?, v: zeros()?, theta })
            })
            .collect::<Result<_>>()?;
        let powers = [hyper.beta1, hyper.beta2].map(Tensor::from);
        Ok(Self { hyper, powers, slots })
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

    /// The variables alone, as [`Tensor::run_backward`] takes them.
    pub fn variables(&self) -> Vec<&Tensor> {
        self.slots.iter().map(|slot| &slot.theta).collect()
    }

    /// One step: `θ −= lr_t · m / (sqrt(v) + ε)`, with `lr_t = lr · sqrt(1 − β2^t) / (1 − β1^t)`.
    ///
    /// `gradients` holds one gradient for each variable, in the variables' order and of the same shape and
    /// kind. `gate`, if given, is a scalar of the variables' kind on their device: if it is 0, the step
    /// changes neither a variable nor a moment; if it is 1, the step is the usual one. The host never waits
    /// to learn which of the two it is.
    ///
    /// # Errors
    /// If the number of gradients is not the number of variables, or a gradient has another shape or kind
    /// than its variable. Then no variable has changed.
    ///
    /// # Source
    /// Kingma and Ba 2015, section 2, last paragraph. Parity: `tests/parity.rs`.
    pub fn step(&mut self, gradients: &[Tensor], gate: Option<&Tensor>) -> Result<()> {
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
        let hyper = self.hyper;
        let power = |power: &Tensor| power.f_double_value(&[]).map(|power| power as f32);
        let powers = (power(&self.powers[0])?, power(&self.powers[1])?);
        let (narrow, wide) = (hyper.factors::<f32>(powers), hyper.factors::<f64>(powers));
        for (slot, g) in self.slots.iter_mut().zip(gradients) {
            match (slot.theta.device(), slot.theta.f_kind()?, gate) {
                (Device::Cpu, Kind::Float, None) => slot.step_in_one_pass(g, narrow)?,
                (Device::Cpu, Kind::Double, None) => slot.step_in_one_pass(g, wide)?,
                (_, Kind::Double, _) => slot.step_by_operations(g, wide, gate)?,
                _ => slot.step_by_operations(g, narrow.widen(), gate)?,
            }
        }
        let next = [powers.0 * hyper.beta1, powers.1 * hyper.beta2];
        for (power, next) in self.powers.iter_mut().zip(next) {
            let _ = power.f_fill_(f64::from(next))?;
        }
        Ok(())
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

impl Factors<f32> {
    fn widen(self) -> Factors<f64> {
        let Self { alpha, m_share, v_share, epsilon } = self;
        Factors {
            alpha: alpha.into(),
            m_share: m_share.into(),
            v_share: v_share.into(),
            epsilon: epsilon.into(),
        }
    }
}

impl Slot {
    /// One step on the CPU, in one pass over memory, on all threads. Operations on whole tensors would
    /// read and write the same memory ten times.
    fn step_in_one_pass<T: Element>(&mut self, g: &Tensor, factors: Factors<T>) -> Result<()> {
        let g = with_memory_order_of(&self.theta, g)?;
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

    /// One step on any device, by operations on whole tensors. The host reads nothing back.
    fn step_by_operations(
        &mut self,
        g: &Tensor,
        factors: Factors<f64>,
        gate: Option<&Tensor>,
    ) -> Result<()> {
        let Factors { alpha, m_share, v_share, epsilon } = factors;
        let dm = g.f_sub(&self.m)?.f_mul_scalar_(m_share)?;
        let dv = g.f_square()?.f_sub_(&self.v)?.f_mul_scalar_(v_share)?;
        let m = self.m.f_add(&dm)?;
        let v = self.v.f_add(&dv)?;
        let denominator = v.f_sqrt()?.f_add_scalar_(epsilon)?;
        let theta = self.theta.f_sub(&m.f_mul_scalar(alpha)?.f_div_(&denominator)?)?;
        for (old, new) in [(&mut self.m, m), (&mut self.v, v), (&mut self.theta, theta)] {
            match gate {
                None => old.f_copy_(&new)?,
                // Not a product with the gate: 0 times NaN is NaN. `where` chooses instead.
                Some(gate) => {
                    let chosen = new.f_where_self(&gate.f_ne(0.)?, old)?;
                    old.f_copy_(&chosen)?;
                }
            }
        }
        Ok(())
    }
}

/// `x` in the memory order of `like`: `x` itself if it has that order already, otherwise a copy.
fn with_memory_order_of(like: &Tensor, x: &Tensor) -> Result<Tensor> {
    if x.stride() == like.stride() {
        return Ok(x.shallow_clone());
    }
    let mut copy = like.f_empty_like()?.detach();
    copy.f_copy_(x)?;
    Ok(copy)
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
            adam.step(&[Tensor::from_slice(g)], None)?;
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

    #[test]
    fn one_pass_and_whole_tensor_operations_agree() -> Result<()> {
        for (kind, bound) in [(Kind::Float, 1e-6), (Kind::Double, 1e-15)] {
            let config = AdamConfig::default();
            let (mut fast, mut slow) = (optimizer(kind, config)?, optimizer(kind, config)?);
            let open = Tensor::from(1.0).to_kind(kind);
            for g in &GRADIENTS {
                let g = Tensor::from_slice(g).to_kind(kind);
                fast.step(&[g.shallow_clone()], None)?;
                slow.step(&[g], Some(&open))?;
            }
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
    fn a_closed_gate_keeps_nan_out() -> Result<()> {
        let mut adam = optimizer(Kind::Float, AdamConfig::default())?;
        let nan = Tensor::from_slice(&[f32::NAN, 1.0]);
        adam.step(&[nan], Some(&Tensor::from(0.0_f32)))?;
        assert_eq!(adam.slots()[0].theta, Tensor::from_slice(&[0.3_f32, -1.0]));
        assert_eq!(adam.slots()[0].v, Tensor::from_slice(&[0.0_f32, 0.0]));
        Ok(())
    }

    #[test]
    fn gradients_in_another_memory_order_or_of_another_shape() -> Result<()> {
        let theta = Tensor::zeros([2, 3], (Kind::Float, Device::Cpu));
        let g = Tensor::from_slice(&[1.0_f32, 2., 3., -4., -5., -6.]).view([2, 3]);
        let mut plain = Adam::new([theta.copy()], AdamConfig::default())?;
        let mut turned = Adam::new([theta.copy()], AdamConfig::default())?;
        plain.step(&[g.shallow_clone()], None)?;
        turned.step(&[g.tr().contiguous().tr()], None)?;
        assert_eq!(plain.slots()[0].theta, turned.slots()[0].theta);
        assert!(plain.step(&[g.tr()], None).is_err());
        assert!(plain.step(&[], None).is_err());
        Ok(())
    }
}
