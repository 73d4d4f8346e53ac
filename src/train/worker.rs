//! A rank other than the first. It computes its rows of every batch and writes nothing: rank 0 is a whole run
//! ([`super::train_among`]). What both do with each other is in [`super::together`].

use std::rc::Rc;

use anyhow::{Context, Result};
use tch::Device;

use super::due::Due;
use super::inputs::InputMaker;
use super::interrupt::{Interrupt, Request};
use super::step::Gan;
use super::together::{Position, agree, hand_out, requested, sampled, unless_any_fails};
use super::trainer::{End, MAX_ROLLBACKS, is_divergence, prepare_cuda};
use crate::data::prefetch::Prefetch;
use crate::data::{Classes, ImageSet};
use crate::distributed::Ranks;
use crate::run::observer::Silent;
use crate::sample::Sampler;
use crate::settings::{OnCollapse, TrainConfig};

/// What a rank other than the first does.
#[derive(Debug)]
pub struct Work<'a> {
    /// The settings: those of rank 0, but for device and threads.
    pub config: &'a TrainConfig,
    /// The device that computes.
    pub device: Device,
    /// The images to train on: the same as those of rank 0.
    pub set: ImageSet,
    /// All ranks.
    pub ranks: Rc<Ranks>,
    /// Tells whether a signal has asked the run to end.
    pub interrupt: &'a Interrupt,
}

struct Worker<'a> {
    config: &'a TrainConfig,
    ranks: Rc<Ranks>,
    gan: Gan,
    /// The classes that steer the networks, of a conditional model.
    classes: Option<Classes>,
    inputs: Prefetch<InputMaker>,
    per_epoch: u64,
    total: u64,
    position: Position,
    /// The iteration at which rank 0 has written or read a checkpoint last.
    saved: Option<u64>,
}

/// Trains together with rank 0, until that is finished.
///
/// # Errors
/// Those of [`super::train`] that all ranks come to; if another rank has ended or does not answer.
pub fn assist(work: Work) -> Result<End> {
    let interrupt = work.interrupt;
    let mut worker = Worker::begin(work)?;
    let ranks = Rc::clone(&worker.ranks);
    while worker.position.iteration < worker.total {
        if let Some(request) = requested(interrupt, Some(&ranks))? {
            if let Err(error) = worker.save() {
                worker.recover(error)?;
            }
            if let Request::End(signal) = request {
                ranks.barrier()?;
                return Ok(End::Interrupted(signal));
            }
        }
        if let Err(error) = worker.iterate() {
            worker.recover(error)?;
        }
    }
    ranks.barrier()?;
    Ok(End::Finished)
}

impl<'a> Worker<'a> {
    fn begin(work: Work<'a>) -> Result<Self> {
        let Work { config, device, set, ranks, .. } = work;
        let identity = set.identity_for(config.conditional.is_on())?;
        let labels = if config.conditional.is_on() { set.labels() } else { None };
        prepare_cuda(config, device, Some(&ranks), &Silent)?;
        let mut gan = Gan::of_run(config, set.shape(), identity.class_count(), device)?
            .among(Some(Rc::clone(&ranks)));
        let position = hand_out(&mut gan, &ranks, None)?;
        let classes = identity.classes;
        let of_classes = (labels.as_ref(), classes.clone());
        let maker = InputMaker::new(config, set, of_classes, device, position.salt, ranks.share());
        let per_epoch = maker.batches.per_epoch();
        let inputs = Prefetch::new(maker);
        let total = config.total_iterations(per_epoch);
        let saved = Some(position.iteration);
        Ok(Self { config, ranks, gan, classes, inputs, per_epoch, total, position, saved })
    }

    fn iterate(&mut self) -> Result<()> {
        let iteration = self.position.iteration + 1;
        let due = Due::after(iteration, self.total, self.per_epoch, self.config);
        let inputs = self.inputs.get(iteration)?.sent()?;
        let stats = self.gan.run(&inputs, &mut |_| Ok(()))?;
        let mut values = None;
        if due.is_logged || due.is_checked {
            self.gan.synchronize()?;
            values = Some(stats.read()?);
        }
        self.position.iteration = iteration;
        if let Some(values) = values.filter(|_| due.is_checked) {
            let reading = values.reading(stats.spreads(&inputs.real)?);
            if let Some(alarm) = self.position.watch.read(&reading)
                && self.config.on_collapse != OnCollapse::Warn
            {
                return Err(alarm.collapse.into());
            }
        }
        if due.has_histograms {
            // Rank 0 makes them.
            self.gan.synchronize()?;
        }
        if due.is_sampled {
            self.gan.synchronize()?;
            // Rank 0 makes the grid.
            unless_any_fails(&self.ranks, Ok(()))?;
        }
        if due.is_evaluated && self.position.evaluates {
            self.gan.synchronize()?;
            agree(&self.gan, &self.ranks)?;
            let TrainConfig { seed, eval_count, latent, .. } = *self.config;
            let sampler = Sampler::new(self.gan.model_for_images(), latent)?
                .of_classes(self.classes.clone())?;
            sampled(&sampler, &self.ranks, seed, eval_count)?;
            self.ranks.first_alone(|| Ok(()))?;
        }
        if due.saved.is_some() {
            self.save()?;
        }
        Ok(())
    }

    /// What rank 0 does with the others when it saves.
    fn save(&mut self) -> Result<()> {
        if self.saved == Some(self.position.iteration) {
            return Ok(());
        }
        self.gan.synchronize()?;
        agree(&self.gan, &self.ranks)?;
        self.saved = Some(self.position.iteration);
        Ok(())
    }

    /// Rolls back together with rank 0, where that does.
    fn recover(&mut self, error: anyhow::Error) -> Result<()> {
        let rolls_back = is_divergence(&error) && self.config.on_collapse == OnCollapse::Rollback;
        if !rolls_back || self.position.rollbacks >= MAX_ROLLBACKS {
            return Err(error);
        }
        self.position = hand_out(&mut self.gan, &self.ranks, None).context("rolling back")?;
        let salt = self.position.salt;
        self.inputs.change(|maker| maker.salt = salt)?;
        self.saved = None;
        self.save()
    }
}
