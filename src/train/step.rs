//! One iteration: a discriminator step and `g_steps` generator steps on the same z.
//!
//! This module uses no files and no clock and prints nothing. The generator runs once for the discriminator
//! step and the first generator step together, because neither its weights nor z change in between.

use std::rc::Rc;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use super::augment::{Augmentation, DrawTensors};
use super::ema::Ema;
use super::finite::{DeferredCheck, ensure_finite};
use super::objective::Objective;
use crate::distributed::{Ranks, Share};
use crate::model::{Discriminator, Model, Network};
use crate::pixels::{pinned, sent};
use crate::run::watch::Reading;
use crate::settings::TrainConfig;
use crate::shape::ImageShape;
use crate::tf::{Adam, AdamConfig, Flat, Statistics};
use crate::torch::GroupError;

/// The settings of an iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepConfig {
    /// What both networks are trained to do.
    pub objective: Objective,
    /// Number of generator steps in each iteration; at least 1.
    pub g_steps: u64,
    /// Hyperparameters of both optimizers.
    pub adam: AdamConfig,
    /// The decay of a moving average of the generator; `None`: there is no average.
    pub ema: Option<f64>,
    /// How the images that the discriminator sees are augmented, if they are.
    pub augment: Option<Augmentation>,
    /// Whether [`StepStats::gradients`] gives the gradients of an iteration.
    pub keeps_gradients: bool,
}

impl Default for StepConfig {
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            g_steps: 2,
            adam: AdamConfig::default(),
            ema: None,
            augment: None,
            keeps_gradients: false,
        }
    }
}

impl StepConfig {
    /// The number of images in each batch that the discriminator sees in an iteration, in order: real ones `n`, then
    /// generated ones `N`, and once more in each generator step.
    pub(super) fn shown(&self, n: usize, generated: usize) -> Vec<usize> {
        let mut counts = vec![n];
        counts.resize(2 + self.g_steps as usize, generated);
        counts
    }

    /// What decides an iteration of the reference; whatever else there is, is as by default.
    pub fn new(objective: Objective, g_steps: u64, adam: AdamConfig) -> Self {
        Self { objective, g_steps, adam, ..Self::default() }
    }
}

impl From<&TrainConfig> for StepConfig {
    fn from(config: &TrainConfig) -> Self {
        Self {
            objective: config.into(),
            g_steps: config.g_steps,
            adam: AdamConfig {
                learning_rate: config.learning_rate,
                beta1: config.beta1,
                ..Default::default()
            },
            ema: config.ema,
            augment: Augmentation::of(config),
            keeps_gradients: config.histograms.is_some(),
        }
    }
}

/// A part of an iteration. [`Gan::run`] reports each, so that benchmarks can time them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// A forward pass of the generator, from z to images.
    GeneratorForward,
    /// Forward passes of the discriminator, from images to logits and the loss.
    DiscriminatorForward,
    /// The backward pass of the discriminator's step, from its loss to its weights.
    DiscriminatorBackward,
    /// The backward pass of a generator's step: through the discriminator to the images, and through the
    /// generator to its weights.
    GeneratorBackward,
    /// The check that loss and gradients are finite, and Adam's step.
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
    /// The moving average of the generator, if there is one.
    ema: Option<Ema>,
    config: StepConfig,
    /// On a device, what checks losses and gradients; `None` on the CPU, where the host does.
    deferred: Option<DeferredCheck>,
    /// The live moving statistics of both networks.
    moving: Flat,
    /// Their values before the iteration: `[n]`.
    moving_before: Tensor,
    iterations_done: u64,
    /// The processes that train together with this one, if there are any.
    ranks: Option<Rc<Ranks>>,
}

/// What an iteration reads besides the networks, all of it on their device.
#[derive(Debug)]
pub struct Inputs {
    /// Real images `[n, C, H, W]` in [−1, 1], mirrored.
    pub real: Tensor,
    /// The generator's input `[N, z_dim]`; of conditional networks `[N, z_dim + classes]`. `n` and `N` may differ.
    pub z: Tensor,
    /// The classes, of conditional networks only.
    pub classes: Option<BatchClasses>,
    /// What augments the batches that the discriminator sees, in order: real ones, generated ones, and once more
    /// those of each generator step. Empty without augmentation.
    pub draws: Vec<DrawTensors>,
    /// The rows of real and of generated images in the whole batch of all ranks; with one rank, `[n, N]`.
    pub whole: [i64; 2],
}

/// The classes of an iteration's images, for conditional networks. Both tensors are int64 and on the model's device.
#[derive(Debug)]
pub struct BatchClasses {
    /// Of the real images: `[n]`.
    pub real: Tensor,
    /// Of the images that are generated: `[N]`. The rows of z ask for the same classes.
    pub generated: Tensor,
}

/// What an iteration reports, as tensors that are still on the device.
#[derive(Debug)]
pub struct StepStats {
    d_loss: Tensor,
    g_loss: Tensor,
    real_logits: Tensor,
    fake_logits: Tensor,
    /// The generated images of the discriminator step, mirrored.
    fake: Tensor,
    /// If the settings keep them: the gradients of the discriminator's step and of the last generator step.
    gradients: Option<[Vec<Tensor>; 2]>,
    /// Where logits and images are the rows of one of several ranks: the ranks, and the rows of all in `[n, N]`.
    of_all: Option<(Rc<Ranks>, [i64; 2])>,
}

/// What an iteration reports, as numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepValues {
    /// The discriminator's loss in its step, before the update of its weights.
    pub d_loss: f64,
    /// The generator's loss in its last step, before the update of its weights.
    pub g_loss: f64,
    /// Mean probability that the discriminator gives the real images in its step: the sigmoid of its logits.
    pub mean_discriminator_output_prob_real: f64,
    /// Mean probability that the discriminator gives the generated images in its step.
    pub mean_discriminator_output_prob_fake: f64,
}

impl StepValues {
    /// What the watch for collapse reads, with `spreads` from [`StepStats::spreads`].
    pub(super) fn reading(&self, spreads: Option<(f64, f64)>) -> Reading {
        Reading {
            d_loss: self.d_loss,
            g_loss: self.g_loss,
            prob_real: self.mean_discriminator_output_prob_real,
            prob_fake: self.mean_discriminator_output_prob_fake,
            spreads,
        }
    }
}

impl StepStats {
    /// The generated images of the discriminator's step, not augmented: `[N, C, H, W]`, mirrored.
    pub fn fake(&self) -> &Tensor {
        &self.fake
    }

    /// The gradients that the optimizer of `network` has used in the iteration, in the order of [`Model::trainable`]:
    /// those of the discriminator's step, or of the last generator step. Where there are several ranks, their sums.
    /// `None` without [`StepConfig::keeps_gradients`].
    pub fn gradients(&self, network: Network) -> Option<&[Tensor]> {
        let [of_discriminator, of_generator] = self.gradients.as_ref()?;
        Some(match network {
            Network::Generator => of_generator,
            Network::Discriminator => of_discriminator,
        })
    }

    #[cfg(test)]
    pub(super) fn of_nothing() -> Self {
        let [d_loss, g_loss, real_logits, fake_logits, fake] = [(); 5].map(|()| Tensor::new());
        Self { d_loss, g_loss, real_logits, fake_logits, fake, gradients: None, of_all: None }
    }

    /// Other handles to the same tensors.
    pub(super) fn shallow_clone(&self) -> Self {
        let Self { d_loss, g_loss, real_logits, fake_logits, fake, gradients, of_all } = self;
        let [d_loss, g_loss, real_logits, fake_logits, fake] =
            [d_loss, g_loss, real_logits, fake_logits, fake].map(Tensor::shallow_clone);
        let handles = |all: &Vec<Tensor>| all.iter().map(Tensor::shallow_clone).collect();
        let gradients = gradients.as_ref().map(|both| both.each_ref().map(handles));
        Self { d_loss, g_loss, real_logits, fake_logits, fake, gradients, of_all: of_all.clone() }
    }

    /// Waits for the device and reads the numbers: where there are several ranks, of all together.
    ///
    /// # Errors
    /// If the device fails, or another rank does.
    pub fn read(&self) -> Result<StepValues> {
        let mean_prob =
            |logits: &Tensor| logits.f_sigmoid()?.f_mean(logits.kind())?.f_double_value(&[]);
        let [real, fake] = match &self.of_all {
            None => [mean_prob(&self.real_logits)?, mean_prob(&self.fake_logits)?],
            Some((ranks, [n, generated])) => {
                let part = |logits: &Tensor, rows: i64| -> Result<f64> {
                    let sum = logits.f_sigmoid()?.f_sum(Kind::Double)?.f_double_value(&[])?;
                    Ok(sum / rows as f64)
                };
                let parts = [part(&self.real_logits, *n)?, part(&self.fake_logits, *generated)?];
                let means = Tensor::f_from_slice(&parts)?;
                ranks.sum(&means)?;
                [means.f_double_value(&[0])?, means.f_double_value(&[1])?]
            }
        };
        Ok(StepValues {
            d_loss: self.d_loss.f_double_value(&[])?,
            g_loss: self.g_loss.f_double_value(&[])?,
            mean_discriminator_output_prob_real: real,
            mean_discriminator_output_prob_fake: fake,
        })
    }

    /// How much the images of the batch differ from each other ([`spread`]): first the generated ones, then the real
    /// ones. `real` are those of this process.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn spreads(&self, real: &Tensor) -> Result<Option<(f64, f64)>> {
        let Some((ranks, [n, generated])) = &self.of_all else {
            return Ok(spread(&self.fake)?.zip(spread(real)?));
        };
        let fake = spread_over(ranks, &self.fake, *generated)?;
        Ok(fake.zip(spread_over(ranks, real, *n)?))
    }
}

/// How much the images of a batch `[N, C, H, W]` differ from each other: the standard deviation over the batch,
/// averaged over channels and pixels. `None` if the batch is a single image.
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

/// [`spread`] of the images of all ranks, of which there are `count`.
fn spread_over(ranks: &Ranks, images: &Tensor, count: i64) -> Result<Option<f64>> {
    if count < 2 {
        return Ok(None);
    }
    let kind = images.kind();
    let sum = |x: &Tensor| -> Result<Tensor> {
        let sum = x.f_sum_dim_intlist(&[0_i64][..], true, kind)?.f_contiguous()?; // [1, C, H, W]
        ranks.sum(&sum)?;
        Ok(sum)
    };
    let mean = sum(images)?.f_div_scalar(count)?;
    let squares = sum(&images.f_sub(&mean)?.f_square()?)?;
    let deviation = squares.f_div_scalar(count)?.f_sqrt()?;
    Ok(Some(deviation.f_mean(kind)?.f_double_value(&[])?))
}

/// The discriminator's logits for `images`. Every image that training shows to the discriminator passes through
/// here, whether real or generated, and is augmented here if there is something to augment it with.
fn judge(
    discriminator: &Discriminator,
    images: &Tensor,
    classes: Option<&Tensor>,
    draws: Option<&DrawTensors>,
    statistics: Statistics,
) -> Result<Tensor> {
    match draws {
        None => discriminator.forward(images, classes, statistics),
        Some(draws) => discriminator.forward(&draws.apply(images)?, classes, statistics),
    }
}

impl Gan {
    /// A GAN of the networks of `model` and new optimizers for them.
    ///
    /// # Errors
    /// If `g_steps` is 0, or the optimizers' moments or the moving average cannot be allocated.
    pub fn new(model: Model, config: StepConfig) -> Result<Self> {
        let is_deferred = model.device != Device::Cpu;
        Self::with_check(model, config, is_deferred)
    }

    /// The networks and optimizers of a new run on images of the shape `image`, with `classes` classes if the run is
    /// conditional.
    ///
    /// # Errors
    /// If the device has not enough memory.
    pub(super) fn of_run(
        config: &TrainConfig,
        image: ImageShape,
        classes: usize,
        device: Device,
    ) -> Result<Self> {
        let model = config.model(image, classes);
        let model = Model::new(&model, config.seed, device, config.precision.kind())?
            .computing_in(config.precision.compute())
            .with_plain_convolutions(config.plain_convolutions.is_on());
        Self::new(model, config.into())
    }

    fn with_check(model: Model, config: StepConfig, is_deferred: bool) -> Result<Self> {
        ensure!(config.g_steps > 0, "g_steps is 0; the generator would never be trained");
        let adam = |network| {
            let variables = model.trainable(network).into_iter().map(|variable| variable.tensor);
            Adam::new(variables, config.adam)
        };
        let (g_adam, d_adam) = (adam(Network::Generator)?, adam(Network::Discriminator)?);
        let mut moving: Vec<_> = Network::ALL
            .into_iter()
            .flat_map(|network| model.variables(network))
            .filter(|variable| !variable.role.is_trainable())
            .map(|variable| variable.tensor)
            .collect();
        let moving = Flat::of(&mut moving)?;
        let deferred = match is_deferred {
            true => Some(DeferredCheck::new(model.device, 1 + config.g_steps)?),
            false => None,
        };
        let ema = config.ema.map(|decay| Ema::new(&model, decay)).transpose()?;
        let ema = match ema {
            Some(ema) if is_deferred => Some(ema.in_buffers(g_adam.theta(), &moving.all)?),
            ema => ema,
        };
        let moving_before = moving.all.f_detach_copy()?;
        Ok(Self {
            model,
            g_adam,
            d_adam,
            ema,
            config,
            deferred,
            moving,
            moving_before,
            iterations_done: 0,
            ranks: None,
        })
    }

    /// The same, but each iteration is that of all `ranks` together. All must have the same weights.
    #[must_use]
    pub fn among(self, ranks: Option<Rc<Ranks>>) -> Self {
        Self { ranks, ..self }
    }

    /// The processes that train together with this one, if there are any.
    pub fn ranks(&self) -> Option<&Ranks> {
        self.ranks.as_deref()
    }

    /// Runs one iteration. Where there are several ranks, each is given the whole batch, and takes its rows.
    ///
    /// # Shapes
    /// `real` is `[n, C, H, W]` in [−1, 1], mirrored; `z` is `[N, z_dim]`; `n` and `N` may differ. Both are of
    /// the model's kind and on its device.
    ///
    /// # Errors
    /// [`super::NonFinite`] on the CPU, before a value that is not finite has entered a weight. On an
    /// accelerator, [`Self::synchronize`] reports it instead.
    pub fn iteration(&mut self, real: &Tensor, z: &Tensor) -> Result<StepStats> {
        self.observed_iteration(real, z, None, &mut |_| Ok(()))
    }

    /// Runs one iteration like [`Self::iteration`], of conditional networks with `classes`, and calls `done` after each
    /// part of it. On an accelerator the part may only have been queued by then.
    ///
    /// # Errors
    /// As [`Self::iteration`], and the errors of `done`.
    pub fn observed_iteration(
        &mut self,
        real: &Tensor,
        z: &Tensor,
        classes: Option<BatchClasses>,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<StepStats> {
        let whole = [real.size()[0], z.size()[0]];
        let share = self.ranks.as_ref().map_or(Share::WHOLE, |ranks| ranks.share());
        let (real, z) = (share.rows(real)?, share.rows(z)?);
        let draws = match self.config.augment {
            None => Vec::new(),
            Some(augmentation) => {
                let mut augmenter = augmentation.begin(0, self.iterations_done + 1);
                let (_, _, height, width) = real.size4()?;
                let shown = self.config.shown(whole[0] as usize, whole[1] as usize);
                let device = self.model.device;
                let draw = |count| {
                    let draws = augmenter.draw(count, [height, width]).tensors(device)?;
                    draws.sent(device)?.map(|draws| share.rows(draws))
                };
                shown.into_iter().map(draw).collect::<Result<_>>()?
            }
        };
        let classes = match classes {
            None => None,
            Some(BatchClasses { real, generated }) => {
                let (real, generated) = (share.rows(&real)?, share.rows(&generated)?);
                Some(BatchClasses { real, generated })
            }
        };
        self.run(&Inputs { real, z, classes, draws, whole }, done)
    }

    /// Runs one iteration on `inputs`, and calls `done` after each part of it. On an accelerator the part may only have
    /// been queued by then.
    ///
    /// # Errors
    /// As [`Self::iteration`], and the errors of `done`. After an error only [`Self::continue_from`] may follow.
    pub fn run(
        &mut self,
        inputs: &Inputs,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<StepStats> {
        let numbers = self.begin()?;
        self.queue(inputs, numbers.as_ref(), done)
    }

    /// What an iteration does on the host: counts it, and makes the numbers that differ from one iteration to the next.
    /// On the CPU there are none. On a device they are a tensor there, of the model's kind: the step size of each
    /// optimizer step, and by which share the moving average moves.
    ///
    /// # Errors
    /// If the device fails.
    pub(super) fn begin(&mut self) -> Result<Option<Tensor>> {
        self.iterations_done += 1;
        if self.deferred.is_none() {
            return Ok(None);
        }
        let mut numbers = vec![self.d_adam.next_step_size()?];
        for _ in 0..self.config.g_steps {
            numbers.push(self.g_adam.next_step_size()?);
        }
        numbers.push(self.ema.as_ref().map_or(0.0, |ema| ema.share(self.iterations_done)));
        let numbers = Tensor::f_from_slice(&numbers)?.f_to_kind(self.model.kind)?;
        Ok(Some(sent(&pinned(numbers, self.model.device)?, self.model.device)?))
    }

    /// The rest of an iteration: computes on the device, whose `numbers` are those of [`Self::begin`]. There the host
    /// waits for nothing, so this can become a graph.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) fn queue(
        &mut self,
        inputs: &Inputs,
        numbers: Option<&Tensor>,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<StepStats> {
        tch::no_grad(|| self.moving_before.f_copy_(&self.moving.all))?;
        let stats = self.steps(inputs, numbers, done);
        // A pass that failed may have updated the moving statistics with values that are not finite.
        let _no_grad = tch::no_grad_guard();
        match (&stats, &self.deferred) {
            // The first error is the one to be told.
            (Err(_), _) => drop(self.moving.all.f_copy_(&self.moving_before)),
            (Ok(_), Some(check)) => {
                let (live, before) = (&self.moving.all, &self.moving_before);
                let _ = live.f_where_self_out(live, &check.is_fine()?, before)?;
            }
            (Ok(_), None) => {}
        }
        // After the moving statistics have been set right, because they are averaged too.
        if let (Ok(_), Some(ema)) = (&stats, &mut self.ema) {
            match (&self.deferred, numbers) {
                (Some(check), Some(numbers)) => {
                    let share = number(numbers, -1)?;
                    ema.update_on_device(&share.f_mul(&check.is_fine()?)?)?;
                }
                _ => ema.update(ema.share(self.iterations_done))?,
            }
        }
        stats
    }

    /// Counts on from `iteration`. To be called after weights, moments and powers have been replaced by those of
    /// that iteration.
    ///
    /// # Errors
    /// If the device fails.
    pub fn continue_from(&mut self, iteration: u64) -> Result<()> {
        self.iterations_done = iteration;
        self.deferred.as_mut().map_or(Ok(()), DeferredCheck::reset)
    }

    /// Waits for the device.
    ///
    /// # Errors
    /// [`super::NonFinite`], if a loss or gradient of any iteration so far was not finite. The weights are those
    /// before the optimizer step that failed.
    pub fn synchronize(&self) -> Result<()> {
        self.deferred.as_ref().map_or(Ok(()), |check| check.synchronize(self.iterations_done))
    }

    fn steps(
        &mut self,
        inputs: &Inputs,
        numbers: Option<&Tensor>,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<StepStats> {
        let StepConfig { objective, g_steps, .. } = self.config;
        let Inputs { real, z, classes, draws, whole } = inputs;
        let mut draws = draws.iter();
        let momentum = self.model.config().bn_momentum;
        let ranks = self.ranks.clone();
        let statistics = |momentum: Option<f64>| match (&ranks, momentum) {
            (Some(ranks), momentum) => Statistics::OfAllRanks { group: ranks.group(), momentum },
            (None, Some(momentum)) => Statistics::BatchUpdating { momentum },
            (None, None) => Statistics::Batch,
        };
        let updating = statistics(Some(momentum));
        // Where there are several ranks, losses are the parts that this rank's rows have in them.
        let rows = ranks.as_ref().map(|_| *whole);
        // In TensorFlow, the discriminator's run and the first generator run each update the generator's moving
        // statistics. Here both share one pass, which therefore applies two updates at once.
        let twice = statistics(Some(1.0 - (1.0 - momentum).powi(2)));

        // Weights change only in optimizer steps, so they are cast once after each.
        let compute = self.model.compute;
        let mut fake = self.model.generator.cast(compute)?.forward(z, twice)?; // [N, C, H, W]
        done(Phase::GeneratorForward)?;

        // TF: real and generated images are two batches, each normalized with its own statistics.
        let discriminator = self.model.discriminator.cast(compute)?;
        let of_real = classes.as_ref().map(|classes| &classes.real);
        let of_fake = classes.as_ref().map(|classes| &classes.generated);
        let real_logits = judge(&discriminator, real, of_real, draws.next(), updating)?; // [n, 1]
        let d_fake = fake.f_detach()?;
        let fake_logits = judge(&discriminator, &d_fake, of_fake, draws.next(), updating)?; // [N, 1]
        let d_loss = objective.part_of_discriminator(&real_logits, &fake_logits, rows)?;
        done(Phase::DiscriminatorForward)?;
        let (d_loss, d_gradients) =
            self.update(Network::Discriminator, &d_loss, 0, numbers, done)?;

        let discriminator = self.model.discriminator.cast(compute)?;
        let (mut g_loss, mut g_gradients) = (Tensor::new(), None);
        for g_step in 1..=g_steps {
            if g_step > 1 {
                fake = self.model.generator.cast(compute)?.forward(z, updating)?;
                done(Phase::GeneratorForward)?;
            }
            // TF: this run also feeds the discriminator's moving statistics, which nothing reads.
            let logits = judge(&discriminator, &fake, of_fake, draws.next(), statistics(None))?;
            let loss = objective.part_of_generator(&logits, rows.map(|[_, fake]| fake))?;
            done(Phase::DiscriminatorForward)?;
            (g_loss, g_gradients) =
                self.update(Network::Generator, &loss, g_step, numbers, done)?;
        }
        Ok(StepStats {
            d_loss,
            g_loss,
            real_logits: real_logits.f_detach()?,
            fake_logits: fake_logits.f_detach()?,
            fake: d_fake,
            gradients: d_gradients.zip(g_gradients).map(<[_; 2]>::from),
            of_all: ranks.zip(rows),
        })
    }

    /// One optimizer step of `network` that lowers `loss`, or the sum of `loss` over all ranks. Returns that loss, without
    /// a history, and its gradients if they are to be kept. `step` is its number within the iteration, from 0.
    fn update(
        &mut self,
        network: Network,
        loss: &Tensor,
        step: u64,
        numbers: Option<&Tensor>,
        done: &mut dyn FnMut(Phase) -> Result<()>,
    ) -> Result<(Tensor, Option<Vec<Tensor>>)> {
        // Gradients are computed only for the weights that this step changes.
        let variables = self.adam(network).variables();
        let gradients = Tensor::f_run_backward(&[loss], &variables, false, false);
        let mut gradients = match &self.ranks {
            None => gradients?,
            // Batch norm exchanges sums in the backward pass, too.
            Some(_) => gradients.map_err(GroupError::in_backward)?,
        };
        let mut loss = loss.f_detach()?;
        done(match network {
            Network::Generator => Phase::GeneratorBackward,
            Network::Discriminator => Phase::DiscriminatorBackward,
        })?;
        let adam = match network {
            Network::Generator => &mut self.g_adam,
            Network::Discriminator => &mut self.d_adam,
        };
        // The sums are the same bits on all ranks, and so is whether they are finite.
        let mut gathered = None;
        if let Some(ranks) = &self.ranks {
            let sum = adam.gathered(&gradients)?;
            ranks.sum(&sum)?;
            gradients = adam.scattered(&sum)?;
            gathered = Some(sum);
            loss = loss.f_detach_copy()?;
            ranks.sum(&loss)?;
        }
        match (&mut self.deferred, numbers) {
            (Some(check), Some(numbers)) => {
                let gathered = match gathered {
                    Some(gathered) => gathered,
                    None => adam.gathered(&gradients)?,
                };
                let found_inf = check.check(&loss, &gathered)?;
                adam.step_at_once(&gathered, &number(numbers, step as i64)?, found_inf)?;
            }
            _ => {
                ensure_finite(&loss, &gradients, self.iterations_done, step)?;
                adam.step(&gradients)?;
            }
        }
        done(Phase::Optimizers)?;
        Ok((loss, self.config.keeps_gradients.then_some(gradients)))
    }

    /// Where the weights and the moving statistics lie, which a graph of an iteration writes to.
    pub(super) fn memory(&self) -> [usize; 3] {
        let all = [self.g_adam.theta(), self.d_adam.theta(), &self.moving.all];
        all.map(|tensor| tensor.data_ptr() as usize)
    }

    /// The optimizer of `network`.
    pub fn adam(&self, network: Network) -> &Adam {
        match network {
            Network::Generator => &self.g_adam,
            Network::Discriminator => &self.d_adam,
        }
    }

    /// The networks that images are to be made with: those with the moving average of the generator if there is
    /// one, otherwise the trained ones.
    pub fn model_for_images(&self) -> &Model {
        self.average().unwrap_or(&self.model)
    }

    /// The networks with the moving average in place of the generator, if there is one.
    pub fn average(&self) -> Option<&Model> {
        self.ema.as_ref().map(Ema::model)
    }
}

/// Number `index` of [`Gan::begin`]'s, counted from the end if it is negative: a scalar on the device.
fn number(numbers: &Tensor, index: i64) -> Result<Tensor> {
    Ok(numbers.f_select(0, index)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use anyhow::Context;
    use tch::{Device, Kind};

    use super::super::NonFinite;
    use super::*;
    use crate::model::ModelConfig;
    use crate::rng::{Latent, Stream, rng};
    use crate::settings::Policy;
    use crate::tf::Role;

    const Z_DIM: usize = 5;

    /// A small GAN on the CPU. If `deferred`, it checks its losses as on an accelerator, otherwise at once.
    fn gan(deferred: bool, kind: Kind, learning_rate: f64) -> Result<Gan> {
        gan_with(deferred, kind, learning_rate, None)
    }

    /// Like [`gan`], with a moving average of decay `ema`.
    fn gan_with(deferred: bool, kind: Kind, learning_rate: f64, ema: Option<f64>) -> Result<Gan> {
        let model = ModelConfig { base_width: 2, z_dim: Z_DIM as i64, ..Default::default() };
        let model = Model::new(&model, 1, Device::Cpu, kind)?;
        let adam = AdamConfig { learning_rate, ..Default::default() };
        Gan::with_check(model, StepConfig { adam, ema, ..Default::default() }, deferred)
    }

    /// Runs an iteration on random inputs that follow from its number. If `poisoned`, one pixel is NaN.
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

    /// Copies of the moments and variables, first the generator's, then the discriminator's.
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

    /// Operators for which a device has nothing to do: they look at memory in another way or allocate it.
    const FREE: [&str; 24] = [
        "alias",
        "as_strided",
        "as_strided_",
        "detach",
        "empty",
        "empty_like",
        "empty_strided",
        "expand",
        "is_pinned",
        "item",
        "_local_scalar_dense",
        "narrow",
        "new_empty",
        "permute",
        "reshape",
        "resize_",
        "resolve_conj",
        "resolve_neg",
        "select",
        "slice",
        "t",
        "transpose",
        "unsqueeze",
        "view",
    ];

    /// What an iteration asks of a device, by operator. `size` is the side of its images.
    fn operations(config: StepConfig, size: usize) -> Result<BTreeMap<String, u64>> {
        let size_of = crate::shape::ImageSize { width: size, height: size };
        let image = crate::shape::ImageShape { size: size_of, channels: 1 };
        let model = ModelConfig { image, base_width: 2, z_dim: Z_DIM as i64, ..Default::default() };
        // As on a device, which has no algorithms of this program and keeps weights in one memory order.
        let model = Model::new(&model, 1, Device::Cpu, Kind::Double)?.with_plain_convolutions(true);
        let mut gan = Gan::with_check(model, config, true)?;
        let real = Tensor::zeros([4, 1, size as i64, size as i64], (Kind::Double, Device::Cpu));
        let z = gan.model.z(&[0.5; 4 * Z_DIM])?;
        gan.iteration(&real, &z)?;
        let (_, mut counts) = crate::torch::counted(|| gan.iteration(&real, &z))?;
        counts.retain(|name, _| {
            let name = name.strip_prefix("aten::").unwrap_or(name);
            !FREE.contains(&name) && !name.starts_with("autograd::engine")
        });
        Ok(counts)
    }

    #[test]
    fn an_iteration_on_a_device_takes_few_operations_and_its_optimizers_no_more_for_more_variables()
    -> Result<()> {
        let counts = operations(StepConfig::default(), 32)?;
        let total: u64 = counts.values().sum();
        assert!((100..=350).contains(&total), "{total}: {counts:?}");
        // Twice as many layers at four times the side.
        let augment = Augmentation::new(&vec![Policy::Color].into(), 1);
        for config in
            [StepConfig::default(), StepConfig { ema: Some(0.9), augment, ..Default::default() }]
        {
            let (few, many) = (operations(config, 16)?, operations(config, 128)?);
            let of = |counts: &BTreeMap<String, u64>, names: &[&str]| -> u64 {
                let of_name = |name: &&str| counts.get(&format!("aten::{name}")).copied();
                names.iter().filter_map(of_name).sum()
            };
            for names in [
                // A large `cat` copies by `copy_`.
                &["cat", "copy_"][..],
                &["aminmax"],
                &["addcmul", "addcmul_"],
                &["ne"],
                &["maximum"],
                &["where"],
                &["lerp", "lerp_"],
                &["sqrt"],
            ] {
                assert_eq!(of(&few, names), of(&many, names), "{names:?}: {few:?} {many:?}");
            }
        }
        Ok(())
    }

    #[test]
    fn an_optimizer_step_in_float32_on_a_device_takes_15_operations_at_most() -> Result<()> {
        let mut gan = gan(true, Kind::Float, 2e-4)?;
        run(&mut gan, 1, false)?;
        let numbers = gan.begin()?.unwrap();
        let Gan { g_adam: adam, deferred, moving, moving_before, .. } = &mut gan;
        let check = deferred.as_mut().unwrap();
        let gradients: Vec<_> =
            adam.variables().into_iter().map(|x| x.ones_like().detach()).collect();
        assert!(gradients.len() > 10);
        let loss = Tensor::from(1.0_f32);
        let ((), mut counts) = crate::torch::counted(|| {
            let gradients = adam.gathered(&gradients)?;
            let found_inf = check.check(&loss, &gradients)?;
            adam.step_at_once(&gradients, &number(&numbers, 1)?, found_inf)?;
            // Once in an iteration.
            let is_fine = check.is_fine()?;
            let _ = moving.all.f_where_self_out(&moving.all, &is_fine, moving_before)?;
            Ok(())
        })?;
        counts.retain(|name, _| !FREE.contains(&name.trim_start_matches("aten::")));
        let total: u64 = counts.values().sum();
        assert!((8..=15).contains(&total), "{total}: {counts:?}");
        Ok(())
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
    fn an_iteration_that_fails_does_not_move_the_average() -> Result<()> {
        let averages = |gan: &Gan| -> Vec<Tensor> {
            let model = gan.average().into_iter();
            let all = model.flat_map(|average| average.variables(Network::Generator));
            all.map(|variable| variable.tensor.copy()).collect()
        };
        for (deferred, kind) in
            [(true, Kind::Float), (true, Kind::Double), (false, Kind::Float), (false, Kind::Double)]
        {
            // In the discriminator's step.
            let mut poisoned = gan_with(deferred, kind, 2e-4, Some(0.9))?;
            run(&mut poisoned, 1, false)?;
            let before = averages(&poisoned);
            assert!(!before.is_empty());
            assert_eq!(run(&mut poisoned, 2, true).is_ok(), deferred);
            assert_eq!(averages(&poisoned), before);
            if deferred {
                // Nothing moves any more until a state from outside replaces this one.
                run(&mut poisoned, 3, false)?;
                assert_eq!(averages(&poisoned), before);
                poisoned.continue_from(2)?;
            }
            run(&mut poisoned, 3, false)?;
            assert_ne!(averages(&poisoned), before);
        }
        // In the generator's first step: the discriminator's makes its weights so large that its next logits overflow.
        for deferred in [true, false] {
            let mut overflowing = gan_with(deferred, Kind::Float, 1e30, Some(0.9))?;
            let before = averages(&overflowing);
            assert_eq!(run(&mut overflowing, 1, false).is_ok(), deferred);
            assert_eq!(averages(&overflowing), before);
        }
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
    fn gradients_that_are_kept_are_those_that_moved_the_moments_and_change_nothing() -> Result<()> {
        for (deferred, g_steps) in [(false, 1), (true, 1), (false, 2), (true, 2)] {
            let gan = |keeps_gradients| {
                let model =
                    ModelConfig { base_width: 2, z_dim: Z_DIM as i64, ..Default::default() };
                let model = Model::new(&model, 1, Device::Cpu, Kind::Double)?;
                let config = StepConfig { g_steps, keeps_gradients, ..Default::default() };
                Gan::with_check(model, config, deferred)
            };
            let (mut keeping, mut plain) = (gan(true)?, gan(false)?);
            for iteration in 1..=3 {
                let moments = |gan: &Gan| {
                    let of = |network| gan.adam(network).slots().iter().map(|slot| slot.m.copy());
                    Network::ALL.map(|network| of(network).collect::<Vec<_>>())
                };
                let before = moments(&keeping);
                let stats = run(&mut keeping, iteration, false)?;
                assert!(run(&mut plain, iteration, false)?.gradients(Network::Generator).is_none());
                assert_eq!(state(&keeping), state(&plain));
                for ((network, before), after) in
                    Network::ALL.into_iter().zip(before).zip(moments(&keeping))
                {
                    let gradients = stats.gradients(network).context("no gradients")?;
                    assert_eq!(gradients.len(), before.len());
                    // After two steps the moment is a mean of both gradients: that of the first step is not known.
                    if network == Network::Generator && g_steps > 1 {
                        continue;
                    }
                    let beta1 = f64::from(AdamConfig::default().beta1 as f32);
                    for ((g, before), after) in gradients.iter().zip(before).zip(after) {
                        let expected = &before + (g - &before) * (1.0 - beta1);
                        let error = (&expected - &after).abs().max().double_value(&[]);
                        assert!(error <= 1e-15 * expected.abs().max().double_value(&[]), "{error}");
                    }
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_device_and_the_cpu_train_alike_whatever_the_settings() -> Result<()> {
        let augment =
            Augmentation::new(&vec![Policy::Color, Policy::Translation, Policy::Cutout].into(), 1);
        for config in [
            StepConfig::default(),
            StepConfig { g_steps: 1, ema: Some(0.9), ..Default::default() },
            StepConfig { g_steps: 3, ema: Some(0.5), augment, ..Default::default() },
        ] {
            for classes in [0, 3] {
                trains_alike(config, classes)?;
            }
        }
        Ok(())
    }

    /// Compares four iterations of the CPU's path, which the reference's files check, with those of the device's.
    fn trains_alike(config: StepConfig, classes: i64) -> Result<()> {
        let gan = |deferred| {
            let model =
                ModelConfig { base_width: 2, z_dim: Z_DIM as i64, classes, ..Default::default() };
            Gan::with_check(Model::new(&model, 1, Device::Cpu, Kind::Double)?, config, deferred)
        };
        let mut both = [gan(true)?, gan(false)?];
        let mut values = Vec::new();
        for iteration in 1..=4 {
            let mut noise = rng(0, Stream::Z, iteration);
            let pixels = Latent::Uniform.sample(&mut noise, 4, 32 * 32);
            let real = Tensor::from_slice(&pixels).view([4, 1, 32, 32]).to_kind(Kind::Double);
            let z = Latent::Uniform.sample(&mut noise, 4, Z_DIM);
            let z = crate::sample::with_classes(&z, Z_DIM, &[0, 2, 1, 1], classes as usize);
            for gan in &mut both {
                let classes = (classes > 0).then(|| BatchClasses {
                    real: Tensor::from_slice(&[2_i64, 0, 1, 0]),
                    generated: Tensor::from_slice(&[0_i64, 2, 1, 1]),
                });
                let z = gan.model.z(&z)?;
                let stats = gan.observed_iteration(&real, &z, classes, &mut |_| Ok(()))?;
                values.push(stats.read()?);
                gan.synchronize()?;
            }
        }
        for pair in values.chunks(2) {
            let (deferred, immediate) = (pair[0], pair[1]);
            assert!((deferred.d_loss - immediate.d_loss).abs() <= 1e-12);
            assert!((deferred.g_loss - immediate.g_loss).abs() <= 1e-12);
        }
        // The two optimizers round differently: one computes with whole tensors, the other element by element.
        let [deferred, immediate] = &both;
        let models = [
            Some((&deferred.model, &immediate.model)),
            deferred.average().zip(immediate.average()),
        ];
        for (deferred, immediate) in models.into_iter().flatten() {
            let of_no_effect = deferred.architecture.biases_of_no_effect();
            for network in Network::ALL {
                let variables = deferred.variables(network);
                for (ours, theirs) in variables.iter().zip(immediate.variables(network)) {
                    // If the true gradient of a bias is 0, the bias consists of rounding errors, and the moving
                    // mean behind it contains the bias.
                    let name = network.full_name(ours);
                    let rounding = ours.role == Role::MovingMean || of_no_effect.contains(&name);
                    let bound = if rounding { 1e-8 } else { 1e-12 };
                    let error = (&ours.tensor - &theirs.tensor).abs().max().double_value(&[]);
                    assert!(error <= bound, "{name}: {error:e}");
                }
            }
        }
        Ok(())
    }
}
