//! A moving average of the generator: of its weights and of its moving statistics.
//!
//! Images of the average change less from iteration to iteration than those of the weights themselves, which follow
//! every step of the discriminator.

use anyhow::Result;
use tch::Tensor;

use crate::architecture::Network;
use crate::model::Model;
use crate::tf::{Flat, Variable};

/// A moving average of a generator.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    /// The networks with the average in place of the generator.
    model: Model,
    /// The generator's variables, live, each with its average; on a device all together, in buffers.
    pairs: Vec<(Tensor, Tensor)>,
}

impl Ema {
    /// An average that begins as the weights and moving statistics that the generator of `model` has now.
    ///
    /// # Errors
    /// If the device cannot hold a second generator.
    pub(super) fn new(model: &Model, decay: f64) -> Result<Self> {
        let average = model.with_copied_generator()?;
        let live = model.variables(Network::Generator).into_iter();
        let pairs = live
            .zip(average.variables(Network::Generator))
            .map(|(live, average)| (live.tensor, average.tensor))
            .collect();
        Ok(Self { decay, model: average, pairs })
    }

    /// The same average, but it moves in one operation each for `trained`, the buffer of the generator's trained variables,
    /// and `moving`, that of moving statistics, of which the generator's come first.
    ///
    /// # Errors
    /// If the device cannot hold the generator a third time, which it does in passing.
    pub(super) fn in_buffers(self, trained: &Tensor, moving: &Tensor) -> Result<Self> {
        let (ours, others): (Vec<_>, Vec<_>) = self
            .model
            .variables(Network::Generator)
            .into_iter()
            .partition(|variable| variable.role.is_trainable());
        let buffer = |variables: Vec<Variable>| {
            let mut tensors: Vec<_> = variables.into_iter().map(|it| it.tensor).collect();
            Flat::of(&mut tensors).map(|flat| flat.all)
        };
        let pair = |live: &Tensor, average: Tensor| -> Result<(Tensor, Tensor)> {
            Ok((live.f_narrow(0, 0, average.size1()?)?, average))
        };
        let pairs = vec![pair(trained, buffer(ours)?)?, pair(moving, buffer(others)?)?];
        Ok(Self { pairs, ..self })
    }

    /// The networks with the average in place of the generator. The discriminator is the one in training.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// By which share of the distance the average moves towards the weights after iteration number `iteration` (counted
    /// from 1).
    pub(super) fn share(&self, iteration: u64) -> f64 {
        1.0 - decay_at(self.decay, iteration)
    }

    /// Moves the average towards the present weights by `share`.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn update(&mut self, share: f64) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for (live, average) in &mut self.pairs {
            // average + share · (live − average)
            let _ = average.f_lerp_(live, share)?;
        }
        Ok(())
    }

    /// Like [`Self::update`], with the share as a scalar of the weights' kind on their device.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn update_on_device(&mut self, share: &Tensor) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for (live, average) in &mut self.pairs {
            let _ = average.f_lerp_tensor_(live, share)?;
        }
        Ok(())
    }
}

/// The decay in iteration number `iteration`: at most `decay`, and less in early iterations, so that the average
/// does not consist of initial weights for long.
fn decay_at(decay: f64, iteration: u64) -> f64 {
    let t = iteration as f64;
    decay.min((1.0 + t) / (10.0 + t))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::model::ModelConfig;

    #[test]
    fn the_decay_rises_to_what_was_asked_for_as_computed_by_hand() {
        let expected = [2.0 / 11.0, 3.0 / 12.0, 4.0 / 13.0, 5.0 / 14.0];
        for (iteration, expected) in (1..).zip(expected) {
            assert_eq!(decay_at(0.999, iteration), expected);
        }
        // (1 + t) / (10 + t) passes 0.9 at t = 80.
        assert_eq!(decay_at(0.9, 79), 80.0 / 89.0);
        assert_eq!([80, 81, 1 << 40].map(|t| decay_at(0.9, t)), [0.9; 3]);
    }

    #[test]
    fn the_average_of_every_variable_is_what_the_formula_says_by_hand() -> Result<()> {
        let config = ModelConfig { base_width: 1, z_dim: 3, ..Default::default() };
        let model = Model::new(&config, 0, Device::Cpu, Kind::Double)?;
        let set = |value: f64| {
            let _no_grad = tch::no_grad_guard();
            for mut variable in model.variables(Network::Generator) {
                let _ = variable.tensor.fill_(value);
            }
        };
        set(1.0);
        let mut ema = Ema::new(&model, 0.3)?;
        // The decays are 2/11, 1/4, then 0.3, which is less than 4/13 = 0.3077.
        for (iteration, weights, expected) in [
            (1, 12.0, 10.0),           // 2/11 · 1 + 9/11 · 12
            (2, -2.0, 1.0),            // 1/4 · 10 + 3/4 · −2
            (3, 0.5, 0.65),            // 0.3 · 1 + 0.7 · 0.5
            (4, 1e6, 700_000.195),     // 0.3 · 0.65 + 0.7 · 1,000,000
            (5, -1e6, -489_999.941_5), // 0.3 · 700,000.195 − 700,000
        ] {
            set(weights);
            ema.update(ema.share(iteration))?;
            for average in ema.model().variables(Network::Generator) {
                let error = (average.tensor - expected).abs().max().double_value(&[]);
                assert!(error <= 1e-15 * f64::abs(expected), "{iteration}: {error:e}");
            }
            for live in model.variables(Network::Generator) {
                assert_eq!(live.tensor, live.tensor.full_like(weights), "the weights stay");
            }
        }
        Ok(())
    }

    #[test]
    fn a_share_on_the_device_changes_no_bit_of_the_update_and_0_keeps_the_average() -> Result<()> {
        for kind in [Kind::Float, Kind::Double] {
            let config = ModelConfig { base_width: 1, z_dim: 3, ..Default::default() };
            let model = Model::new(&config, 0, Device::Cpu, kind)?;
            let averages = |ema: &Ema| -> Vec<Tensor> {
                let all = ema.model().variables(Network::Generator).into_iter();
                all.map(|variable| variable.tensor.copy()).collect()
            };
            let mut both = [Ema::new(&model, 0.9)?, Ema::new(&model, 0.9)?];
            for mut variable in model.variables(Network::Generator) {
                let _ = tch::no_grad(|| variable.tensor.g_mul_scalar_(0.7).g_add_scalar_(0.1));
            }
            let on_device = |share: f64| Tensor::from(share).to_kind(kind);
            let before = averages(&both[0]);
            both[0].update_on_device(&on_device(0.0))?;
            assert_eq!(averages(&both[0]), before);
            let share = both[0].share(20);
            both[0].update_on_device(&on_device(share))?;
            both[1].update(share)?;
            assert_ne!(averages(&both[0]), before);
            assert_eq!(averages(&both[0]), averages(&both[1]));
        }
        Ok(())
    }
}
