//! One iteration: a discriminator step and `g_steps` generator steps on the same z.
//!
//! No files, no clock, no printing. The generator's forward pass of the discriminator step serves the
//! first generator step as well, because neither its weights nor z change in between.

use anyhow::{Result, ensure};
use tch::Tensor;

use super::finite::FiniteCheck;
use super::objective::Objective;
use crate::model::{Discriminator, Model, Network};
use crate::settings::TrainConfig;
use crate::tf::{Adam, AdamConfig, Statistics};

/// What one iteration does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepConfig {
    /// What both networks are trained to do.
    pub objective: Objective,
    /// Generator steps an iteration; at least 1.
    pub g_steps: u64,
    /// Of both optimizers.
    pub adam: AdamConfig,
}

impl Default for StepConfig {
    fn default() -> Self {
        Self { objective: Objective::default(), g_steps: 2, adam: AdamConfig::default() }
    }
}

impl StepConfig {
    /// What decides an iteration of the reference; whatever else there is, is as by default.
    pub fn new(objective: Objective, g_steps: u64, adam: AdamConfig) -> Self {
        Self { objective, g_steps, adam }
    }
}

impl From<&TrainConfig> for StepConfig {
    fn from(config: &TrainConfig) -> Self {
        Self {
            objective: Objective::CrossEntropy { label_smoothing: config.label_smoothing },
            g_steps: config.g_steps,
            adam: AdamConfig {
                learning_rate: config.learning_rate,
                beta1: config.beta1,
                ..Default::default()
            },
        }
    }
}

/// A part of an iteration, for those who measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// z → images, in all steps.
    GeneratorForward,
    /// Images → logits → losses, in all steps.
    DiscriminatorForward,
    /// Back through the discriminator to its weights.
    DiscriminatorBackward,
    /// Back through the discriminator to the images, and through the generator to its weights.
    GeneratorBackward,
    /// Whether gradients are finite, and Adam.
    Optimizers,
}

/// Both networks and their optimizers.
#[derive(Debug)]
pub struct Gan {
    /// The networks.
    pub model: Model,
    /// The generator's optimizer.
    pub g_adam: Adam,
    /// The discriminator's optimizer.
    pub d_adam: Adam,
    config: StepConfig,
    finite: FiniteCheck,
    /// Live moving statistics, and what they were before the iteration.
    moving: Vec<(Tensor, Tensor)>,
    iterations_done: u64,
}

/// What an iteration reports, still on the device.
#[derive(Debug)]
pub struct StepStats {
    d_loss: Tensor,
    g_loss: Tensor,
    real_logits: Tensor,
    fake_logits: Tensor,
    /// The discriminator step's, mirrored.
    fake: Tensor,
}

/// What an iteration reports, as numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepValues {
    /// Of the discriminator step, before its update.
    pub d_loss: f64,
    /// Of the last generator step, before its update.
    pub g_loss: f64,
    /// Mean sigmoid of the discriminator step's logits on real images.
    pub mean_discriminator_output_prob_real: f64,
    /// The same on generated ones.
    pub mean_discriminator_output_prob_fake: f64,
}

impl StepStats {
    /// The images that the discriminator step was shown as generated: `[N, C, H, W]`, mirrored.
    pub fn fake(&self) -> &Tensor {
        &self.fake
    }

    /// Reads the numbers; waits for the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self) -> Result<StepValues> {
        let mean_prob =
            |logits: &Tensor| logits.f_sigmoid()?.f_mean(logits.kind())?.f_double_value(&[]);
        Ok(StepValues {
            d_loss: self.d_loss.f_double_value(&[])?,
            g_loss: self.g_loss.f_double_value(&[])?,
            mean_discriminator_output_prob_real: mean_prob(&self.real_logits)?,
            mean_discriminator_output_prob_fake: mean_prob(&self.fake_logits)?,
        })
    }
}

/// How much the images of a batch `[N, C, H, W]` differ: the standard deviation over the batch, as a
/// mean over the pixels. `None` of a single image.
///
/// # Errors
/// If the device fails.
pub fn spread(images: &Tensor) -> Result<Option<f64>> {
    if images.size().first().is_none_or(|&count| count < 2) {
        return Ok(None);
    }
    let deviation = images.f_std_dim(&[0_i64][..], false, false)?; // [C, H, W]
    Ok(Some(deviation.f_mean(images.kind())?.f_double_value(&[])?))
}

/// What the discriminator says of images, real or generated: the one place where images meet it in training.
fn judge(discriminator: &Discriminator, images: &Tensor, statistics: Statistics) -> Result<Tensor> {
    discriminator.forward(images, statistics)
}

impl Gan {
    /// Fresh optimizers around `model`.
    ///
    /// # Errors
    /// If `g_steps` is 0, or the moments cannot be allocated.
    pub fn new(model: Model, config: StepConfig) -> Result<Self> {
        let finite = FiniteCheck::new(model.device, model.kind, 1 + config.g_steps)?;
        Self::with_check(model, config, finite)
    }

    fn with_check(model: Model, config: StepConfig, finite: FiniteCheck) -> Result<Self> {
        ensure!(config.g_steps > 0, "g_steps is 0; the generator would never be trained");
        let adam = |network| {
            let variables = model.trainable(network).into_iter().map(|variable| variable.tensor);
            Adam::new(variables, config.adam)
        };
        let (g_adam, d_adam) = (adam(Network::Generator)?, adam(Network::Discriminator)?);
        let moving = Network::ALL
            .into_iter()
            .flat_map(|network| model.variables(network))
            .filter(|variable| !variable.role.is_trainable())
            .map(|variable| Ok((variable.tensor.f_detach_copy()?, variable.tensor)))
            .map(|pair| pair.map(|(before, live)| (live, before)))
            .collect::<Result<_>>()?;
        Ok(Self { model, g_adam, d_adam, config, finite, moving, iterations_done: 0 })
    }

    /// One iteration.
    ///
    /// # Shapes
    /// `real` `[n, C, H, W]` in [−1, 1], mirrored; `z` `[N, z_dim]`; `n` and `N` may differ.
    /// Both of the model's kind, on its device.
    ///
    /// # Errors
    /// [`super::NonFinite`] on the CPU, before anything non-finite has entered a weight; on an
    /// accelerator [`Self::synchronize`] reports it.
    pub fn iteration(&mut self, real: &Tensor, z: &Tensor) -> Result<StepStats> {
        self.observed_iteration(real, z, &mut |_| Ok(()))
    }

    /// [`Self::iteration`], which calls `done` whenever a part of it has been done (or, on an
    /// accelerator, asked for).
    ///
    /// # Errors
    /// As [`Self::iteration`]; those of `done`.
    pub fn observed_iteration(
        &mut self,
        real: &Tensor,
        z: &Tensor,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<StepStats> {
        self.iterations_done += 1;
        tch::no_grad(|| {
            self.moving.iter_mut().try_for_each(|(live, before)| before.f_copy_(live))
        })?;
        let stats = self.steps(real, z, done);
        match (&stats, self.finite.current()) {
            // What a non-finite pass left in the moving statistics goes.
            (Err(_), _) => self.restore_moving(None)?,
            (Ok(_), Some(gate)) => {
                let gate = gate.shallow_clone();
                self.restore_moving(Some(&gate))?;
            }
            (Ok(_), None) => {}
        }
        stats
    }

    /// The state is that after `iteration` iterations now: weights, moments and powers have been put
    /// there from outside.
    ///
    /// # Errors
    /// If the device fails.
    pub fn continue_from(&mut self, iteration: u64) -> Result<()> {
        self.iterations_done = iteration;
        self.finite.reset()
    }

    /// Waits for the device.
    ///
    /// # Errors
    /// [`super::NonFinite`], if any iteration so far has met one; the weights are those before that
    /// optimizer step.
    pub fn synchronize(&self) -> Result<()> {
        self.finite.synchronize()
    }

    fn steps(
        &mut self,
        real: &Tensor,
        z: &Tensor,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<StepStats> {
        let StepConfig { objective, g_steps, .. } = self.config;
        let momentum = self.model.config().bn_momentum;
        let updating = Statistics::BatchUpdating { momentum };
        // Both the discriminator's run and the first generator run update the generator's moving
        // statistics, from this one pass: two decays at once.
        let twice = Statistics::BatchUpdating { momentum: 1.0 - (1.0 - momentum).powi(2) };

        // The weights change with each optimizer step only, so they are cast once for each.
        let compute = self.model.compute;
        let mut fake = self.model.generator.cast(compute)?.forward(z, twice)?; // [N, C, H, W]
        done(Phase::GeneratorForward)?;

        // TF: real and fake are two batches, each with its own statistics.
        let discriminator = self.model.discriminator.cast(compute)?;
        let real_logits = judge(&discriminator, real, updating)?; // [n, 1]
        let d_fake = fake.f_detach()?;
        let fake_logits = judge(&discriminator, &d_fake, updating)?; // [N, 1]
        let d_loss = objective.discriminator(&real_logits, &fake_logits)?;
        done(Phase::DiscriminatorForward)?;
        self.update(Network::Discriminator, &d_loss, 0, done)?;

        let discriminator = self.model.discriminator.cast(compute)?;
        let mut g_loss = Tensor::new();
        for g_step in 1..=g_steps {
            if g_step > 1 {
                fake = self.model.generator.cast(compute)?.forward(z, updating)?;
                done(Phase::GeneratorForward)?;
            }
            // TF: this run also feeds the discriminator's moving statistics, which nothing reads.
            let logits = judge(&discriminator, &fake, Statistics::Batch)?;
            let loss = objective.generator(&logits)?;
            done(Phase::DiscriminatorForward)?;
            self.update(Network::Generator, &loss, g_step, done)?;
            g_loss = loss.f_detach()?;
        }
        Ok(StepStats {
            d_loss: d_loss.f_detach()?,
            g_loss,
            real_logits: real_logits.f_detach()?,
            fake_logits: fake_logits.f_detach()?,
            fake: d_fake,
        })
    }

    /// One optimizer step of `network`, the `step`-th of the iteration, down the gradients of `loss`.
    fn update(
        &mut self,
        network: Network,
        loss: &Tensor,
        step: u64,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<()> {
        // Only the stepped network's weights get gradients.
        let variables = self.adam(network).variables();
        let gradients = Tensor::f_run_backward(&[loss], &variables, false, false)?;
        done(match network {
            Network::Generator => Phase::GeneratorBackward,
            Network::Discriminator => Phase::DiscriminatorBackward,
        })?;
        let gate = self.finite.gate(loss, &gradients, self.iterations_done, step)?;
        let adam = match network {
            Network::Generator => &mut self.g_adam,
            Network::Discriminator => &mut self.d_adam,
        };
        adam.step(&gradients, gate.as_ref())?;
        done(Phase::Optimizers)
    }

    /// The optimizer of `network`.
    pub fn adam(&self, network: Network) -> &Adam {
        match network {
            Network::Generator => &self.g_adam,
            Network::Discriminator => &self.d_adam,
        }
    }

    /// Takes the moving statistics back to before the iteration: always, or where `gate` is 0.
    fn restore_moving(&mut self, gate: Option<&Tensor>) -> Result<()> {
        let _no_grad = tch::no_grad_guard();
        for (live, before) in &mut self.moving {
            match gate {
                None => live.f_copy_(before)?,
                Some(gate) => {
                    let chosen = live.f_where_self(&gate.f_ne(0.)?, before)?;
                    live.f_copy_(&chosen)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::super::NonFinite;
    use super::*;
    use crate::model::ModelConfig;
    use crate::rng::{Latent, Stream, rng};
    use crate::tf::Role;

    const Z_DIM: usize = 5;

    /// A small one on the CPU that looks at its losses as one on an accelerator does, or at once.
    fn gan(deferred: bool, kind: Kind, learning_rate: f64) -> Result<Gan> {
        let model = ModelConfig { base_width: 2, z_dim: Z_DIM as i64, ..Default::default() };
        let model = Model::new(&model, 1, Device::Cpu, kind)?;
        let adam = AdamConfig { learning_rate, ..Default::default() };
        let config = StepConfig { adam, ..Default::default() };
        if !deferred {
            return Gan::new(model, config);
        }
        let finite = FiniteCheck::deferred(Device::Cpu, kind, 1 + config.g_steps)?;
        Gan::with_check(model, config, finite)
    }

    /// Runs an iteration on batches of its own; one pixel is NaN if `poisoned`.
    fn run(gan: &mut Gan, iteration: u64, poisoned: bool) -> Result<StepStats> {
        let mut noise = rng(0, Stream::Z, iteration);
        let mut pixels = Latent::Uniform.sample(&mut noise, 4, 32 * 32);
        if poisoned {
            pixels[100] = f32::NAN;
        }
        let real = Tensor::from_slice(&pixels).view([4, 1, 32, 32]).to_kind(gan.model.kind);
        let z = gan.model.z(&Latent::Uniform.sample(&mut noise, 4, Z_DIM))?;
        gan.iteration(&real, &z)
    }

    /// The generator's moments and variables, then the discriminator's: copies.
    fn state(gan: &Gan) -> [Vec<Tensor>; 2] {
        [(Network::Generator, &gan.g_adam), (Network::Discriminator, &gan.d_adam)].map(
            |(network, adam)| {
                let moments = adam.slots().iter().flat_map(|slot| [slot.m.copy(), slot.v.copy()]);
                let variables = gan.model.variables(network);
                moments.chain(variables.iter().map(|v| v.tensor.detach().copy())).collect()
            },
        )
    }

    fn failure(gan: &Gan) -> Option<NonFinite> {
        gan.synchronize().err()?.downcast().ok()
    }

    #[test]
    fn a_deferred_failure_leaves_every_bit_as_it_was_and_is_reported_later() -> Result<()> {
        for kind in [Kind::Float, Kind::Double] {
            let mut gan = gan(true, kind, 2e-4)?;
            run(&mut gan, 1, false)?;
            gan.synchronize()?;
            let before = state(&gan);
            for iteration in 2..=4 {
                run(&mut gan, iteration, iteration == 2)?;
            }
            assert_eq!(failure(&gan), Some(NonFinite { iteration: 2, step: 0, in_loss: None }));
            assert_eq!(state(&gan), before);
        }
        Ok(())
    }

    #[test]
    fn a_deferred_failure_of_a_generator_step_keeps_the_generator() -> Result<()> {
        // The discriminator's step makes its weights so large that its next logits overflow.
        let mut gan = gan(true, Kind::Float, 1e30)?;
        let [generator, discriminator] = state(&gan);
        for iteration in 1..=2 {
            run(&mut gan, iteration, false)?;
        }
        let error = failure(&gan);
        assert_eq!(error, Some(NonFinite { iteration: 1, step: 1, in_loss: None }));
        let message =
            "generator_loss or one of its gradients is not finite at iteration 1, generator step 1";
        assert_eq!(error.map(|error| error.to_string()).as_deref(), Some(message));
        assert_eq!(state(&gan)[0], generator);
        assert_ne!(state(&gan)[1], discriminator, "its own step was a right one");
        assert!(state(&gan).iter().flatten().all(|x| x.isfinite().all() == Tensor::from(true)));
        Ok(())
    }

    #[test]
    fn a_state_from_outside_forgets_the_failure_and_counts_on_from_its_iteration() -> Result<()> {
        let mut gan = gan(true, Kind::Float, 2e-4)?;
        run(&mut gan, 1, true)?;
        assert!(failure(&gan).is_some());
        gan.continue_from(41)?;
        gan.synchronize()?;
        let before = state(&gan);
        run(&mut gan, 42, false)?;
        assert_ne!(state(&gan), before, "the gate is open again");
        run(&mut gan, 43, true)?;
        assert_eq!(failure(&gan), Some(NonFinite { iteration: 43, step: 0, in_loss: None }));
        Ok(())
    }

    #[test]
    fn without_a_failure_deferred_and_immediate_checks_train_alike() -> Result<()> {
        let mut both = [gan(true, Kind::Double, 2e-4)?, gan(false, Kind::Double, 2e-4)?];
        let mut values = Vec::new();
        for iteration in 1..=4 {
            for gan in &mut both {
                values.push(run(gan, iteration, false)?.read()?);
                gan.synchronize()?;
            }
        }
        for pair in values.chunks(2) {
            let (deferred, immediate) = (pair[0], pair[1]);
            assert!((deferred.d_loss - immediate.d_loss).abs() <= 1e-12);
            assert!((deferred.g_loss - immediate.g_loss).abs() <= 1e-12);
        }
        // Their Adams round differently: one works by whole tensors, one by elements.
        let [deferred, immediate] = &both;
        let of_no_effect = deferred.model.architecture.biases_of_no_effect();
        for network in Network::ALL {
            let variables = deferred.model.variables(network);
            for (ours, theirs) in variables.iter().zip(immediate.model.variables(network)) {
                // Where the true gradient is 0, rounding is all there is, and a moving mean holds
                // such a bias.
                let name = network.full_name(ours);
                let rounding = ours.role == Role::MovingMean || of_no_effect.contains(&name);
                let bound = if rounding { 1e-8 } else { 1e-12 };
                let error = (&ours.tensor - &theirs.tensor).abs().max().double_value(&[]);
                assert!(error <= bound, "{name}: {error:e}");
            }
        }
        Ok(())
    }
}
