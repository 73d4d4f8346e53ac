//! The training loop. Each iteration takes a batch, trains both networks, and, when due, logs, checks for
//! collapse, samples, evaluates and saves. At the end it writes the weights.

use std::rc::Rc;
use std::time::Instant;

use anyhow::{Context, Result};
use tch::{Device, Tensor};

use super::due::{Due, Occasion};
use super::finite::NonFinite;
use super::graph::GraphedIterations;
use super::inputs::InputMaker;
use super::interrupt::{Interrupt, Request, Signal};
use super::state;
use super::step::{Gan, Inputs, StepStats, StepValues};
use super::together::{Position, agree, hand_out, requested, sampled, unless_any_fails};
use crate::data::ImageSet;
use crate::data::batches::epoch_of;
use crate::data::prefetch::Prefetch;
use crate::distributed::{Ranks, Share};
use crate::eval::evaluator::Evaluator;
use crate::eval::metric::{Better, Measured, Metric};
use crate::files::remove;
use crate::finite::NotFinite;
use crate::model::Network;
use crate::record::jsonl::{Evaluation, Metrics, Rollback};
use crate::rng::{Stream, rng};
use crate::run::RunDir;
use crate::run::checkpoint::{Checkpoint, Header, Origin};
use crate::run::journal::{Journal, config_toml};
use crate::run::observer::Observer;
use crate::run::watch::{Alarm, Collapse, Watch};
use crate::sample::grid::{GRID, class_grid};
use crate::sample::{Sampler, sample};
use crate::settings::{OnCollapse, Switch, TrainConfig};
use crate::torch;

/// How often a run is rolled back before it stops with an error.
pub const MAX_ROLLBACKS: usize = 3;

/// What to train on what, where the files go, and who is told about progress.
#[derive(Debug)]
pub struct Job<'a> {
    /// The settings.
    pub config: &'a TrainConfig,
    /// The device that computes.
    pub device: Device,
    /// The images to train on.
    pub set: ImageSet,
    /// The run's folder.
    pub run: &'a RunDir,
    /// The checkpoint to resume from. Without one, training starts from initial values.
    pub from: Option<Checkpoint>,
    /// The command that repeats the run, which is written to `config.toml` for its readers. `None` if the run was
    /// not started by a command.
    pub how_to_repeat: Option<&'a str>,
    /// Is told about progress, warnings and collapses.
    pub progress: &'a dyn Observer,
    /// Tells whether a signal has asked the run to end.
    pub interrupt: &'a Interrupt,
    /// Measures the quality of samples, if the settings ask for that.
    pub evaluator: Option<Evaluator>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All iterations have been trained and all files written.
    Finished,
    /// A signal asked the run to end. A checkpoint holds its state.
    Interrupted(Signal),
}

/// How a run ended, and how far it got.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// Number of iterations trained, including those before the run was resumed.
    pub iterations: u64,
    /// The last line of metrics, if the run has logged one yet.
    pub last: Option<Metrics>,
    /// Seconds that writing checkpoints took.
    pub checkpoints_s: f64,
}

/// Trains as `job` says, writes everything to the run's folder, and continues the files that are there already.
///
/// [`crate::device::configure`] must have set the number of threads before.
///
/// # Errors
/// [`NonFinite`], [`NotFinite`] or [`Collapse`], if the settings say that these end the run; any other error if a
/// file of the run cannot be written. Only a failure to write TensorBoard's events is just a warning. Whatever
/// the error, existing checkpoints stay whole.
pub fn train(job: Job) -> Result<Outcome> {
    train_among(job, None)
}

/// Trains like [`train`], as rank 0 of `ranks`. The others [`super::assist`].
///
/// # Errors
/// As [`train`]; if another rank has ended or does not answer.
pub fn train_among(job: Job, ranks: Option<Rc<Ranks>>) -> Result<Outcome> {
    let mut trainer = Trainer::begin(job, ranks.clone())?;
    let together = || ranks.as_ref().map_or(Ok(()), |ranks| ranks.barrier());
    while trainer.state.iteration < trainer.total {
        if let Some(request) = requested(trainer.interrupt, ranks.as_deref())? {
            // Saving waits for the device, and only then may a value turn out not to be finite.
            if let Err(error) = trainer.save(Occasion::Unscheduled) {
                trainer.recover(error)?;
            }
            match request {
                Request::Save(signal) => {
                    let iteration = trainer.state.iteration;
                    trainer.progress.saved(iteration, signal.name);
                }
                Request::End(signal) => {
                    together()?;
                    return Ok(trainer.outcome(End::Interrupted(signal)));
                }
            }
        }
        if let Err(error) = trainer.iterate() {
            trainer.recover(error)?;
        }
    }
    trainer.finish()?;
    together()?;
    Ok(trainer.outcome(End::Finished))
}

/// Everything that a run needs while it trains.
struct Trainer<'a> {
    run: &'a RunDir,
    progress: &'a dyn Observer,
    interrupt: &'a Interrupt,
    gan: Gan,
    /// On CUDA, unless the settings say otherwise: what runs iterations as a graph.
    graph: Option<GraphedIterations>,
    inputs: Prefetch<InputMaker>,
    /// Iterations in an epoch.
    per_epoch: u64,
    journal: Journal<'a>,
    /// Measures the quality of samples, if the settings ask for that.
    evaluator: Option<Evaluator>,
    /// What metrics say of real images, once it is known.
    floor: Option<Vec<Measured>>,
    /// The other processes that train with this one, if there are any.
    ranks: Option<Rc<Ranks>>,
    /// The noise from which all sample grids are made.
    fixed_z: Vec<f32>,
    /// What a checkpoint would hold now, except its tensors.
    state: Header,
    /// The iteration whose checkpoint was written or read last.
    saved: Option<u64>,
    /// Number of the last iteration.
    total: u64,
    start: Instant,
    /// Seconds that the run trained before it was resumed.
    elapsed_before_s: f64,
    checkpoints_s: f64,
    /// Number of real images trained on since the last line of metrics.
    images: i64,
    /// Seconds that training took since the last line of metrics.
    training_s: f64,
}

impl<'a> Trainer<'a> {
    fn begin(job: Job<'a>, ranks: Option<Rc<Ranks>>) -> Result<Self> {
        let Job { config, device, set, run, from, how_to_repeat, progress, interrupt, evaluator } =
            job;
        let config = &config.with_size(set.shape().size)?;
        // The networks come first: if they cannot be made, for example for lack of memory, nothing has been
        // written yet.
        let identity = set.identity_for(config.conditional.is_on())?;
        let labels = if config.conditional.is_on() { set.labels() } else { None };
        let graph = prepare_cuda(config, device, ranks.as_deref(), progress)?;
        let mut gan =
            Gan::of_run(config, set.shape(), identity.class_count(), device)?.among(ranks.clone());
        let mut state = Header {
            iteration: 0,
            config: config.clone(),
            set: identity,
            watch: Watch::default(),
            healthy: 0,
            salt: 0,
            rollbacks: Vec::new(),
            origin: Origin::here(),
        };
        // If the checkpoint belongs to this run, the folder has its metrics already. Then this becomes the
        // largest number of iterations expected between two of their lines.
        let mut lines_every = None;
        if let Some(checkpoint) = from {
            // A fork that was stopped before its first line has none.
            let has_begun = run.has_samples()?
                || run.checkpoints().iterations()? != [checkpoint.header.iteration];
            if checkpoint.path.starts_with(run.path()) && has_begun {
                lines_every = Some(checkpoint.header.config.log_every.max(config.log_every));
            }
            state::restore(&mut gan, &checkpoint)?;
            let Header { iteration, watch, healthy, salt, rollbacks, .. } = checkpoint.header;
            state = Header { iteration, watch, healthy, salt, rollbacks, ..state };
        }
        if let Some(ranks) = &ranks {
            hand_out(&mut gan, ranks, Some(&position(&state, evaluator.is_some())))?;
        }
        // The first checkpoint is written before any other file, so that a fork is never without its state.
        // Checkpoints newer than the one that was chosen are damaged, or they would have been chosen.
        let checkpoints = run.checkpoints();
        for damaged in checkpoints.set_aside_after(state.iteration)? {
            progress.warn(&format!("set aside as {}", damaged.display()));
        }
        if !checkpoints.file(state.iteration).exists() {
            write(run, &state, &gan)?;
        }
        let count = ranks.as_ref().map_or(1, |ranks| ranks.share().count);
        let convolutions = gan.model.algorithms(config.batch_size.div_ceil(count));
        let text = config_toml(config, device, &state.set, how_to_repeat, count, &convolutions)?;
        let at = (state.iteration, &state.rollbacks[..]);
        let journal = Journal::open(&text, &set, labels.as_ref(), run, progress, at, lines_every)?;
        let fixed_z = {
            let mut rng = rng(config.seed, Stream::SampleZ, 0);
            let z_dim = gan.model.config().z_dim as usize;
            let z = config.latent.sample(&mut rng, GRID * GRID, z_dim);
            class_grid(&z, z_dim, state.set.class_count())
        };
        let share = ranks.as_ref().map_or(Share::WHOLE, |ranks| ranks.share());
        let of_classes = (labels.as_ref(), state.set.classes.clone());
        let maker = InputMaker::new(config, set, of_classes, device, state.salt, share);
        let per_epoch = maker.batches.per_epoch();
        let inputs = Prefetch::new(maker);
        let trainer = Self {
            run,
            progress,
            interrupt,
            gan,
            graph,
            total: config.total_iterations(per_epoch),
            inputs,
            per_epoch,
            evaluator,
            floor: None,
            ranks,
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
        let iteration = self.state.iteration + 1;
        let due = Due::after(iteration, self.total, self.per_epoch, &self.state.config);

        // Train: one batch of real images, one z.
        let step_start = Instant::now();
        let inputs = self.inputs.get(iteration)?.sent()?;
        let stats = match &mut self.graph {
            Some(graph) => {
                let stats = graph.run(&mut self.gan, &inputs)?;
                if let Some(error) = graph.trouble() {
                    self.progress.warn(&format!(
                        "the iteration cannot become a CUDA graph, so training is slower (with `graph` off it is not tried): {error:#}"
                    ));
                }
                stats
            }
            None => self.gan.run(&inputs, &mut |_| Ok(()))?,
        };
        let Inputs { real, whole: [count, _], .. } = inputs;
        self.images += count;
        // Reading the losses waits for the device, so the time that it takes counts as training.
        let values = if due.is_logged || due.is_checked {
            self.gan.synchronize()?;
            Some(stats.read()?)
        } else {
            None
        };
        self.training_s += step_start.elapsed().as_secs_f64();
        self.state.iteration = iteration;

        // Log.
        if let Some(values) = values.filter(|_| due.is_logged) {
            self.log(values)?;
        }
        self.progress.advance(iteration);

        // Check for collapse.
        if let Some(values) = values.filter(|_| due.is_checked) {
            self.check_for_collapse(values, &stats, &real)?;
        }

        // Histograms, if the settings ask for them.
        if due.has_histograms {
            self.gan.synchronize()?;
            self.journal.histograms(iteration, &weights_and_gradients(&self.gan, &stats));
        }

        // Sample: from the same z every time, with moving statistics.
        if due.is_sampled {
            self.gan.synchronize()?;
            let mut images = sample(self.gan.model_for_images(), &self.fixed_z);
            if let Some(ranks) = &self.ranks {
                images = unless_any_fails(ranks, images);
            }
            self.journal.samples(iteration, &images?)?;
        }

        // Evaluate.
        if due.is_evaluated && self.evaluator.is_some() {
            self.evaluate()?;
        }

        // Save.
        due.saved.map_or(Ok(()), |occasion| self.save(occasion))
    }

    /// Writes a line of metrics.
    fn log(&mut self, values: StepValues) -> Result<()> {
        let iteration = self.state.iteration;
        self.journal.metrics(Metrics {
            iteration,
            epoch: epoch_of(iteration, self.per_epoch),
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

    /// Measures the quality of samples, always from the same z, and saves the state as the best checkpoint if it
    /// is the best so far. All ranks make the samples; this one measures them.
    fn evaluate(&mut self) -> Result<()> {
        let TrainConfig { seed, eval_count, latent, .. } = self.state.config;
        self.gan.synchronize()?;
        let start = Instant::now();
        let sampler = Sampler::new(self.gan.model_for_images(), latent)?
            .of_classes(self.state.set.classes.clone())?;
        match self.ranks.clone() {
            None => {
                let images = sampler.sample(seed, eval_count)?;
                self.measure(&sampler.as_set(seed, images)?, start)
            }
            Some(ranks) => {
                agree(&self.gan, &ranks)?;
                let images = sampled(&sampler, &ranks, seed, eval_count)?.unwrap_or_default();
                let images = sampler.as_set(seed, images)?;
                ranks.first_alone(|| self.measure(&images, start)).map(drop)
            }
        }
    }

    /// The part of an evaluation, begun at `start`, that follows when there are `images`.
    fn measure(&mut self, images: &ImageSet, start: Instant) -> Result<()> {
        let Some(evaluator) = &self.evaluator else { return Ok(()) };
        let config = &self.state.config;
        let measured = match evaluator.measure(images, false, &mut |_| {}) {
            Ok(measured) => measured,
            // A failed measurement must not end the run.
            Err(error) => {
                let iteration = self.state.iteration;
                self.progress.warn(&format!("iteration {iteration}: not evaluated: {error:#}"));
                return Ok(());
            }
        };
        let mut evaluation = Evaluation {
            iteration: self.state.iteration,
            features: evaluator.extractor().mark()?,
            count: config.eval_count,
            evaluation: measured
                .into_iter()
                .map(|measured| (measured.metric.name().to_owned(), measured.value))
                .collect(),
            eval_s: start.elapsed().as_secs_f64(),
            is_best: false,
        };
        evaluation.is_best = self.is_best(&evaluation)?;
        let is_best = evaluation.is_best;
        if self.floor.is_none() && self.journal.has_events() {
            let floor = evaluator.floor(false).unwrap_or_else(|error| {
                self.progress.warn(&format!("the floors of metrics are not known: {error:#}"));
                Vec::new()
            });
            self.floor = Some(floor);
        }
        let floors = self.floor.iter().flatten();
        let floors: Vec<_> = floors.map(|floor| (floor.metric.name(), floor.value)).collect();
        self.journal.evaluation(evaluation, &floors)?;
        let path = self.run.checkpoints().best();
        if is_best || !path.exists() {
            self.journal.sync()?;
            state::save(&path, &self.state, &self.gan)?;
        }
        Ok(())
    }

    /// Whether `evaluation` is the best of the run so far, of those that it can be compared with. A best checkpoint that
    /// was chosen by an evaluation of another kind is set aside, and a warning says so.
    fn is_best(&self, evaluation: &Evaluation) -> Result<bool> {
        let metric = Metric::that_decides(&self.state.config.eval_metric)?;
        let value = |of: &Evaluation| of.evaluation.get(metric.name()).copied();
        let Some(ours) = value(evaluation) else { return Ok(false) };
        // Only evaluations with the same features and the same number of images can be compared.
        let is_comparable = |other: &&Evaluation| {
            (&other.features, other.count) == (&evaluation.features, evaluation.count)
        };
        let is_better = |theirs: f64| match metric.better() {
            Better::Higher => ours > theirs,
            Better::Lower | Better::LikeReal => ours < theirs,
        };
        let all = &self.journal.evaluations;
        let checkpoints = self.run.checkpoints();
        let kept = Checkpoint::header(&checkpoints.best()).ok();
        // One of a later iteration was written before the run was stopped, and is written again.
        let Some(kept) = kept.filter(|kept| kept.iteration < evaluation.iteration) else {
            return Ok(all.iter().filter(is_comparable).filter_map(value).all(is_better));
        };
        let of_kept = all.iter().find(|other| other.iteration == kept.iteration);
        let same = of_kept
            .filter(is_comparable)
            .filter(|_| kept.config.eval_metric == self.state.config.eval_metric);
        if let Some(theirs) = same.and_then(value) {
            return Ok(is_better(theirs));
        }
        let aside = checkpoints.set_best_aside(kept.iteration)?;
        self.progress.warn(&format!(
            "iteration {}: the best checkpoint so far, of iteration {}, was chosen by other features, another number of \
             images or another metric, and cannot be compared; it is now {}",
            evaluation.iteration,
            kept.iteration,
            aside.display()
        ));
        Ok(true)
    }

    /// Lets the watch read this iteration. A collapse is a warning or, if the settings say so, an error.
    fn check_for_collapse(
        &mut self,
        values: StepValues,
        stats: &StepStats,
        real: &Tensor,
    ) -> Result<()> {
        let reading = values.reading(stats.spreads(real)?);
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

    /// Writes a checkpoint, unless this iteration has one, and removes those that are no longer needed.
    fn save(&mut self, occasion: Occasion) -> Result<()> {
        let iteration = self.state.iteration;
        if self.saved == Some(iteration) {
            return Ok(());
        }
        let start = Instant::now();
        self.gan.synchronize()?;
        if let Some(ranks) = &self.ranks {
            agree(&self.gan, ranks)?;
        }
        self.journal.sync()?;
        if occasion == Occasion::Scheduled && self.state.watch.is_calm() {
            self.state.healthy = iteration;
        }
        write(self.run, &self.state, &self.gan)?;
        self.saved = Some(iteration);
        let old = self.run.checkpoints().prunable(self.state.config.keep, self.state.healthy)?;
        old.iter().try_for_each(|path| remove(path))?;
        self.checkpoints_s += start.elapsed().as_secs_f64();
        Ok(())
    }

    /// Rolls back to the last healthy checkpoint, if `error` is a collapse or a value that is not finite and the
    /// settings ask for a rollback. Otherwise, returns the error.
    fn recover(&mut self, error: anyhow::Error) -> Result<()> {
        if !is_divergence(&error) {
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
            "iteration {from}: {because}; back to iteration {to}, resuming with other noise"
        ));

        // The order matters: if the process is killed between two of these steps, the resumed run either starts
        // from the same checkpoint and comes here again, or it starts after the rollback.
        checkpoints.remove_after(to)?;
        let best = checkpoints.best();
        let is_later = |header: &Header| header.iteration > to;
        if Checkpoint::header(&best).is_ok_and(|header| is_later(&header)) {
            remove(&best)?;
        }
        state::restore(&mut self.gan, &checkpoint)?;
        let salt = self.state.salt.wrapping_add(1);
        self.state.salt = salt;
        self.inputs.change(|maker| maker.salt = salt)?;
        self.state.rollbacks.push(Rollback { iteration: to, rolled_back_from: from, because });
        let Header { iteration, watch, healthy, .. } = checkpoint.header;
        (self.state.iteration, self.state.watch, self.state.healthy) = (iteration, watch, healthy);
        self.saved = None;
        if let Some(ranks) = self.ranks.clone() {
            let position = position(&self.state, self.evaluator.is_some());
            hand_out(&mut self.gan, &ranks, Some(&position))?;
        }
        self.save(Occasion::Scheduled)?;
        self.journal.rewind(to, &self.state.rollbacks)?;
        (self.images, self.training_s) = (0, 0.0);
        self.progress.begin(to);
        Ok(())
    }

    /// Writes the weights of both networks (of the generator its moving average, if there is one), and generated images
    /// beside real ones.
    fn finish(&mut self) -> Result<()> {
        let model = self.gan.model_for_images();
        let images = sample(model, &self.fixed_z)?;
        self.journal.finish(&self.state, model, &images)
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

/// The trained variables of both networks and their gradients in the iteration of `stats`, each with its tag for
/// TensorBoard: what it is, and the variable's name in checkpoints.
fn weights_and_gradients(gan: &Gan, stats: &StepStats) -> Vec<(String, Tensor)> {
    let mut all = Vec::new();
    for network in Network::ALL {
        let gradients = stats.gradients(network).unwrap_or_default();
        for (variable, gradient) in gan.model.trainable(network).into_iter().zip(gradients) {
            let name = format!("{}.{}", network.name(), variable.torch_name);
            all.push((format!("weights/{name}"), variable.tensor));
            all.push((format!("gradients/{name}"), gradient.shallow_clone()));
        }
    }
    all
}

/// What other ranks need to know of `header`.
fn position(header: &Header, evaluates: bool) -> Position {
    let Header { iteration, watch, salt, rollbacks, .. } = header;
    let (iteration, salt) = (*iteration, *salt);
    Position { iteration, watch: watch.clone(), salt, rollbacks: rollbacks.len(), evaluates }
}

/// Sets libtorch up for training with CUDA, if that is the device, and gives what runs iterations as a graph. Where there
/// are several ranks, nothing does.
pub(super) fn prepare_cuda(
    config: &TrainConfig,
    device: Device,
    ranks: Option<&Ranks>,
    progress: &dyn Observer,
) -> Result<Option<GraphedIterations>> {
    torch::deterministic(config.deterministic.is_on())?;
    let Device::Cuda(number) = device else { return Ok(None) };
    // Which of cuDNN's algorithms is the fastest depends on the device and the layer: it tries them once.
    tch::Cuda::cudnn_set_benchmark(!config.deterministic.is_on());
    // Collectives are not part of a graph.
    if config.graph == Some(Switch::Off) || ranks.is_some() {
        return Ok(None);
    }
    if !torch::HAS_GRAPHS {
        progress.warn(
            "this program was built without CUDA graphs, because CUDA's headers were missing: the GPU will wait for the host",
        );
        return Ok(None);
    }
    GraphedIterations::new(number).map(Some)
}

/// Writes the checkpoint of the iteration that `header` names.
fn write(run: &RunDir, header: &Header, gan: &Gan) -> Result<()> {
    let checkpoints = run.checkpoints();
    checkpoints.make()?;
    state::save(&checkpoints.file(header.iteration), header, gan)
}

/// Whether training itself has gone wrong, so that other noise or other settings may help: a collapse, or a value that
/// is not finite.
pub fn is_divergence(error: &anyhow::Error) -> bool {
    error.is::<NonFinite>() || error.is::<NotFinite>() || error.is::<Collapse>()
}
