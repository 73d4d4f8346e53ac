//! The loop: batch, step, log, look, sample, save, and at the end the weights.

use std::time::Instant;

use anyhow::{Context, Result};
use tch::Device;

use super::finite::NonFinite;
use super::interrupt::{Interrupt, Signal};
use super::state;
use super::step::{Gan, StepStats, StepValues, spread};
use crate::data::{Batches, ImageSet, Prefetch};
use crate::eval::evaluator::Evaluator;
use crate::eval::metric::Better;
use crate::files::remove;
use crate::finite::NotFinite;
use crate::model::Model;
use crate::record::jsonl::{Evaluation, Metrics, Rollback};
use crate::rng::{Stream, noise, rng};
use crate::run::RunDir;
use crate::run::checkpoint::{Checkpoint, Header, Origin};
use crate::run::journal::{GRID, Journal, config_toml};
use crate::run::observer::Observer;
use crate::run::watch::{Alarm, Collapse, READ_EVERY, Reading, Watch};
use crate::sample::{Sampler, sample};
use crate::settings::{OnCollapse, TrainConfig};

/// How often a run is rolled back before it is given up.
pub const MAX_ROLLBACKS: usize = 3;
/// Iterations of an epoch whose end is worth a checkpoint.
const LONG_EPOCH: u64 = 50;

/// What to train, where it goes and who watches.
#[derive(Debug)]
pub struct Job<'a> {
    /// The settings.
    pub config: &'a TrainConfig,
    /// Where to compute.
    pub device: Device,
    /// The images.
    pub set: ImageSet,
    /// The run's folder.
    pub run: &'a RunDir,
    /// The state to go on from; the beginning where there is none.
    pub from: Option<Checkpoint>,
    /// The command that repeats the run, for people who read its `config.toml`; none where there is no command.
    pub how_to_repeat: Option<&'a str>,
    /// Who is told how it goes.
    pub progress: &'a dyn Observer,
    /// Who may ask the run to end.
    pub interrupt: &'a Interrupt,
    /// Measures samples, where the settings ask for that.
    pub evaluator: Option<Evaluator>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All is trained and written.
    Finished,
    /// A signal came; the state is in a checkpoint.
    Interrupted(Signal),
}

/// What a run came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Iterations trained, those before a resumption included.
    pub iterations: u64,
    /// The last line of metrics, if there is one yet.
    pub last: Option<Metrics>,
    /// Seconds that writing checkpoints took.
    pub checkpoints_s: f64,
}

/// Trains as `job` says and writes everything to its folder, continuing what is there.
///
/// [`crate::device::configure`] has set the threads before.
///
/// # Errors
/// [`NonFinite`], [`NotFinite`] or [`Collapse`], where the settings make that the end of the run; if a file of the
/// run cannot be written. TensorBoard's events are not such a file: that is a warning. Whatever the
/// error, the checkpoints that there are stay whole.
pub fn train(job: Job) -> Result<Outcome> {
    let mut trainer = Trainer::begin(job)?;
    while trainer.state.iteration < trainer.total {
        if let Some(signal) = trainer.interrupt.requested() {
            // A value may turn out not to be finite only now.
            if let Err(error) = trainer.save(Occasion::Unscheduled) {
                trainer.recover(error)?;
            }
            return Ok(trainer.outcome(End::Interrupted(signal)));
        }
        if let Err(error) = trainer.iterate() {
            trainer.recover(error)?;
        }
    }
    trainer.finish()?;
    Ok(trainer.outcome(End::Finished))
}

/// Why a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Every run has one there.
    Due,
    /// A signal came, or the end. No rollback goes there: a run that was never stopped, or that had
    /// been asked for more at once, could not.
    Unscheduled,
}

/// A run in memory.
struct Trainer<'a> {
    run: &'a RunDir,
    progress: &'a dyn Observer,
    interrupt: &'a Interrupt,
    gan: Gan,
    batches: Prefetch,
    journal: Journal<'a>,
    /// Measures samples, where that is asked for.
    evaluator: Option<Evaluator>,
    /// Of all sample grids.
    fixed_z: Vec<f32>,
    /// All but the tensors of what a checkpoint would hold now.
    state: Header,
    /// The iteration whose checkpoint was written or read last.
    saved: Option<u64>,
    total: u64,
    start: Instant,
    elapsed_before_s: f64,
    checkpoints_s: f64,
    /// Since the last line of metrics.
    images: i64,
    training_s: f64,
}

impl<'a> Trainer<'a> {
    fn begin(job: Job<'a>) -> Result<Self> {
        let Job { config, device, set, run, from, how_to_repeat, progress, interrupt, evaluator } =
            job;
        // The networks come first: where they do not fit, nothing has been written.
        let kind = config.precision.kind();
        let model = Model::new(&config.model(set.channels()), config.seed, device, kind)?
            .computing_in(config.precision.compute());
        let mut gan = Gan::new(model, config.into())?;
        let mut state = Header {
            iteration: 0,
            config: config.clone(),
            set: set.identity()?,
            watch: Watch::default(),
            healthy: 0,
            salt: 0,
            rollbacks: Vec::new(),
            origin: Origin::here(),
        };
        // A run that was here before has left its metrics.
        let mut lines_every = None;
        if let Some(checkpoint) = from {
            if checkpoint.path.starts_with(run.path()) {
                lines_every = Some(checkpoint.header.config.log_every.max(config.log_every));
            }
            state::restore(&mut gan, &checkpoint)?;
            let Header { iteration, watch, healthy, salt, rollbacks, .. } = checkpoint.header;
            state = Header { iteration, watch, healthy, salt, rollbacks, ..state };
        }
        // Before any other file, so that a fork without its state is none. What is newer than the
        // state that was chosen cannot be read.
        let checkpoints = run.checkpoints();
        for damaged in checkpoints.set_aside_after(state.iteration)? {
            progress.warn(&format!("set aside as {}", damaged.display()));
        }
        if !checkpoints.file(state.iteration).exists() {
            write(run, &state, &gan)?;
        }
        let text = config_toml(config, device, &state.set, how_to_repeat)?;
        let at = (state.iteration, &state.rollbacks[..]);
        let journal = Journal::open(&text, &set, run, progress, at, lines_every)?;
        let fixed_z = {
            let mut rng = rng(config.seed, Stream::SampleZ, 0);
            config.latent.sample(&mut rng, GRID * GRID, gan.model.config().z_dim as usize)
        };
        let batches = Batches::new(set, config.batch_size, config.seed).flipped(config.flip);
        let batches = Prefetch::new(batches, device, kind);
        let trainer = Self {
            run,
            progress,
            interrupt,
            gan,
            total: config.total_iterations(batches.per_epoch()),
            batches,
            evaluator,
            fixed_z,
            saved: Some(state.iteration),
            start: Instant::now(),
            elapsed_before_s: journal.last.map_or(0.0, |last| last.elapsed_s),
            checkpoints_s: 0.0,
            images: 0,
            training_s: 0.0,
            journal,
            state,
        };
        progress.begin(trainer.state.iteration);
        Ok(trainer)
    }

    fn iterate(&mut self) -> Result<()> {
        let config = &self.state.config;
        let iteration = self.state.iteration + 1;
        let is_last = iteration == self.total;
        let is_due = |every: u64| every > 0 && iteration.is_multiple_of(every);
        let is_logged = is_due(config.log_every) || is_last;
        let is_read = is_due(READ_EVERY);

        // Train: one batch of real images, one z.
        let step_start = Instant::now();
        let real = self.batches.batch(iteration)?;
        let z = config.latent.sample(
            &mut noise(config.seed, self.state.salt, iteration),
            config.batch_size,
            self.gan.model.config().z_dim as usize,
        );
        let stats = self.gan.iteration(&real, &self.gan.model.z(&z)?)?;
        self.images += real.size()[0];
        // Reading the losses waits for the device, so it belongs to the time of training.
        let values = if is_logged || is_read {
            self.gan.synchronize()?;
            Some(stats.read()?)
        } else {
            None
        };
        self.training_s += step_start.elapsed().as_secs_f64();
        self.state.iteration = iteration;

        // Log.
        if let Some(values) = values.filter(|_| is_logged) {
            self.log(values)?;
        }
        self.progress.advance(iteration);

        // Look whether it goes well.
        if let Some(values) = values.filter(|_| is_read) {
            self.look(values, &stats, &real)?;
        }

        // Sample: the same 36 z every time, with moving statistics.
        if is_due(self.state.config.sample_every) || is_last {
            self.gan.synchronize()?;
            self.journal.samples(iteration, &sample(&self.gan.model, &self.fixed_z)?)?;
        }

        // Evaluate.
        if is_due(self.state.config.eval_every) || is_last {
            self.evaluate()?;
        }

        // Save.
        let per_epoch = self.batches.per_epoch();
        let every = self.state.config.checkpoint_every;
        if is_due(every) || every > 0 && per_epoch >= LONG_EPOCH && is_due(per_epoch) {
            self.save(Occasion::Due)?;
        } else if is_last {
            self.save(Occasion::Unscheduled)?;
        }
        Ok(())
    }

    fn log(&mut self, values: StepValues) -> Result<()> {
        let iteration = self.state.iteration;
        self.journal.metrics(Metrics {
            iteration,
            epoch: self.batches.epoch_of(iteration),
            d_loss: values.d_loss,
            g_loss: values.g_loss,
            mean_discriminator_output_prob_real: values.mean_discriminator_output_prob_real,
            mean_discriminator_output_prob_fake: values.mean_discriminator_output_prob_fake,
            images_per_s: self.images as f64 / self.training_s,
            elapsed_s: self.elapsed_before_s + self.start.elapsed().as_secs_f64(),
        })?;
        (self.images, self.training_s) = (0, 0.0);
        Ok(())
    }

    /// Measures samples of the same z every time, and keeps the state if it is the best so far.
    fn evaluate(&mut self) -> Result<()> {
        let Some(evaluator) = &self.evaluator else { return Ok(()) };
        let config = &self.state.config;
        self.gan.synchronize()?;
        let start = Instant::now();
        let images =
            Sampler::new(&self.gan.model, config.latent)?.sample(config.seed, config.eval_count)?;
        let images = ImageSet::new("generated", self.state.set.shape(), images)?;
        let measured = match evaluator.measure(&images, false, &mut |_| {}) {
            Ok(measured) => measured,
            // A run is worth more than its metrics.
            Err(error) => {
                let iteration = self.state.iteration;
                self.progress.warn(&format!("iteration {iteration}: not evaluated: {error:#}"));
                return Ok(());
            }
        };
        let evaluation = Evaluation {
            iteration: self.state.iteration,
            features: evaluator.extractor().mark()?,
            count: config.eval_count,
            evaluation: measured
                .into_iter()
                .map(|measured| (measured.metric.name().to_owned(), measured.value))
                .collect(),
            eval_s: start.elapsed().as_secs_f64(),
        };
        let metric = config.best_metric()?;
        // Of other features or counts, numbers cannot be compared.
        let comparable = self.journal.evaluations.iter().filter(|other| {
            (&other.features, other.count) == (&evaluation.features, evaluation.count)
        });
        let value = |of: &Evaluation| of.evaluation.get(metric.name()).copied();
        let is_better = |ours: f64, theirs: f64| match metric.better() {
            Better::Higher => ours > theirs,
            Better::Lower | Better::LikeReal => ours < theirs,
        };
        let is_best = value(&evaluation)
            .is_some_and(|ours| comparable.filter_map(value).all(|theirs| is_better(ours, theirs)));
        self.journal.evaluation(evaluation)?;
        let path = self.run.checkpoints().best();
        if is_best || !path.exists() {
            self.journal.sync()?;
            state::save(&path, &self.state, &self.gan)?;
        }
        Ok(())
    }

    fn look(&mut self, values: StepValues, stats: &StepStats, real: &tch::Tensor) -> Result<()> {
        let reading = Reading {
            d_loss: values.d_loss,
            g_loss: values.g_loss,
            prob_real: values.mean_discriminator_output_prob_real,
            prob_fake: values.mean_discriminator_output_prob_fake,
            spreads: spread(stats.fake())?.zip(spread(real)?),
        };
        match self.state.watch.read(&reading) {
            None => Ok(()),
            Some(Alarm { collapse, is_new })
                if self.state.config.on_collapse == OnCollapse::Warn =>
            {
                if is_new {
                    let iteration = self.state.iteration;
                    self.progress.collapse(iteration, &collapse);
                }
                Ok(())
            }
            Some(Alarm { collapse, .. }) => Err(collapse.into()),
        }
    }

    fn save(&mut self, occasion: Occasion) -> Result<()> {
        let iteration = self.state.iteration;
        if self.saved == Some(iteration) {
            return Ok(());
        }
        let start = Instant::now();
        self.gan.synchronize()?;
        self.journal.sync()?;
        if occasion == Occasion::Due && self.state.watch.is_calm() {
            self.state.healthy = iteration;
        }
        write(self.run, &self.state, &self.gan)?;
        self.saved = Some(iteration);
        let old = self.run.checkpoints().prunable(self.state.config.keep, self.state.healthy)?;
        old.iter().try_for_each(|path| remove(path))?;
        self.checkpoints_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Goes back to the last healthy state where the settings say so and `error` is a reason to.
    fn recover(&mut self, error: anyhow::Error) -> Result<()> {
        if !(error.is::<NonFinite>() || error.is::<NotFinite>() || error.is::<Collapse>()) {
            return Err(error);
        }
        let from = self.state.iteration;
        let because = format!("{error:#}");
        if self.state.config.on_collapse != OnCollapse::Rollback {
            return Err(error.context(format!("training stopped after iteration {from}")));
        }
        if self.state.rollbacks.len() >= MAX_ROLLBACKS {
            let context = format!(
                "training stopped after iteration {from}, rolled back {MAX_ROLLBACKS} times"
            );
            return Err(error.context(context));
        }
        let progress = self.progress;
        let checkpoints = self.run.checkpoints();
        let checkpoint = checkpoints
            .latest(self.state.healthy, |error| progress.warn(&format!("{error:#}")))?
            .context("there is no healthy checkpoint to go back to")?;
        let to = checkpoint.header.iteration;
        progress.warn(&format!(
            "iteration {from}: {because}; back to iteration {to}, on with other noise"
        ));

        // In this order: stopped in between, the run goes on from the same state and comes here again,
        // or has left here.
        checkpoints.remove_after(to)?;
        let best = checkpoints.best();
        let is_later = |header: &Header| header.iteration > to;
        if Checkpoint::header(&best).is_ok_and(|header| is_later(&header)) {
            remove(&best)?;
        }
        state::restore(&mut self.gan, &checkpoint)?;
        self.state.salt = self.state.salt.wrapping_add(1);
        self.state.rollbacks.push(Rollback { iteration: to, rolled_back_from: from, because });
        let Header { iteration, watch, healthy, .. } = checkpoint.header;
        (self.state.iteration, self.state.watch, self.state.healthy) = (iteration, watch, healthy);
        self.saved = None;
        self.save(Occasion::Due)?;
        self.journal.rewind(to, &self.state.rollbacks)?;
        (self.images, self.training_s) = (0, 0.0);
        self.progress.begin(to);
        Ok(())
    }

    /// What was trained, and what it looks like beside what it was trained on.
    fn finish(&mut self) -> Result<()> {
        let images = sample(&self.gan.model, &self.fixed_z)?;
        let Header { config, iteration, .. } = &self.state;
        self.journal.finish(config, *iteration, &self.gan.model, &images)
    }

    fn outcome(&self, end: End) -> Outcome {
        Outcome {
            end,
            iterations: self.state.iteration,
            last: self.journal.last,
            checkpoints_s: self.checkpoints_s,
        }
    }
}

/// Writes the state's checkpoint.
fn write(run: &RunDir, header: &Header, gan: &Gan) -> Result<()> {
    let checkpoints = run.checkpoints();
    checkpoints.make()?;
    state::save(&checkpoints.file(header.iteration), header, gan)
}
