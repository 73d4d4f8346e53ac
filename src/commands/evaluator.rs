//! What generated images are measured by, from settings or arguments; a classifier may be trained for it.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use dcgan::data::ImageSet;
use dcgan::error::Usage;
use dcgan::eval::classifier::Classifier;
use dcgan::eval::evaluator::{Evaluator, Settings};
use dcgan::eval::features::{Extractor, InputRange, Module};
use dcgan::eval::metric::Metric;
use dcgan::files::places;
use dcgan::settings::TrainConfig;
use tch::Device;

use super::progress::{Work, say};
use crate::cli::Verbosity;

/// What is asked for, before it is made.
#[derive(Clone, Copy)]
pub(super) enum Choice<'a> {
    Pixels,
    Digits,
    File(&'a Path),
}

impl<'a> Choice<'a> {
    /// What `flag` asks for; without anything, what the data set allows.
    ///
    /// # Errors
    /// [`Usage`], if the set has no classes to learn, or there is no such file.
    pub(super) fn of(features: Option<&'a str>, set: &ImageSet, flag: &str) -> Result<Self> {
        let has_classes = set.labels().is_some();
        match features {
            None if has_classes => Ok(Self::Digits),
            None | Some("pixels") => Ok(Self::Pixels),
            Some("digits") if has_classes => Ok(Self::Digits),
            Some("digits") => Err(no_classes(flag, set)),
            Some(file) if Path::new(file).is_file() => Ok(Self::File(Path::new(file))),
            Some(file) => Err(no_features(flag, file)),
        }
    }

    /// What training with these settings asks for.
    fn of_training(config: &'a TrainConfig, set: &ImageSet) -> Result<Self> {
        let features = Some(config.eval_features.as_str()).filter(|&features| features != "auto");
        Self::of(features, set, "--eval-features")
    }

    /// Makes it; a classifier may have to be trained.
    pub(super) fn extractor(
        self,
        (range, size): (InputRange, Option<usize>),
        set: &ImageSet,
        device: Device,
        verbosity: Verbosity,
    ) -> Result<Extractor> {
        Ok(match self {
            Self::Pixels => Extractor::Pixels,
            Self::Digits => Extractor::Classifier(classifier(set, device, verbosity)?),
            Self::File(path) => Extractor::Module(Module::load(path, range, size, device)?),
        })
    }
}

/// Whether what `config` asks for can be measured on `set`, as far as that is seen without computing.
///
/// # Errors
/// [`Usage`], if not.
pub(super) fn ensure_possible(config: &TrainConfig, set: &ImageSet) -> Result<()> {
    if config.eval_every == 0 {
        return Ok(());
    }
    let choice = Choice::of_training(config, set)?;
    if config.best_metric()?.is_of_classes() && !matches!(choice, Choice::Digits) {
        let message = format!("--eval-metric {}: takes --eval-features digits", config.eval_metric);
        return Err(Usage(message).into());
    }
    Ok(())
}

fn no_classes(flag: &str, set: &ImageSet) -> anyhow::Error {
    let message = format!(
        "{flag} digits: the images of {} have no classes to train a classifier on; expected pixels or FILE.pt",
        set.name()
    );
    Usage(message).into()
}

fn no_features(flag: &str, file: &str) -> anyhow::Error {
    let message =
        format!("{flag} {file}: expected digits, pixels or a TorchScript file; there is none");
    Usage(message).into()
}

/// What `train --eval-every` measures by; `None` where it is not asked for.
pub(super) fn evaluator(
    config: &TrainConfig,
    set: &ImageSet,
    device: Device,
    verbosity: Verbosity,
) -> Result<Option<Evaluator>> {
    if config.eval_every == 0 {
        return Ok(None);
    }
    let choice = Choice::of_training(config, set)?;
    let extractor = choice.extractor((InputRange::Bytes, None), set, device, verbosity)?;
    let bar = RefCell::new(Work::new(verbosity));
    let evaluator = Evaluator::new(
        set,
        extractor,
        &Metric::ALL,
        Settings { count: config.eval_count, seed: config.seed, device, cache: cache() },
        &mut |count| bar.borrow_mut().features(count),
        &mut |n| bar.borrow_mut().advance(n),
    )?;
    Ok(Some(evaluator))
}

/// The classifier of `set`; says what it is like where it was trained now.
fn classifier(set: &ImageSet, device: Device, verbosity: Verbosity) -> Result<Classifier> {
    let start = Instant::now();
    let mut work = Work::new(verbosity);
    let mut is_trained = false;
    let classifier = Classifier::of(set, device, cache().as_deref(), &mut |_, steps| {
        if !is_trained {
            work.steps(steps);
            is_trained = true;
        }
        work.advance(1);
    })?;
    drop(work);
    if is_trained && verbosity > Verbosity::Quiet {
        say(&format!(
            "trained a classifier of {} classes in {:.0} s: right on {:.2} % of {} images that it was not trained on",
            classifier.classes.len(),
            start.elapsed().as_secs_f64(),
            100.0 * classifier.accuracy,
            classifier.held_out
        ));
    }
    Ok(classifier)
}

/// The user's folder for classifiers and features, where there is one.
pub(super) fn cache() -> Option<PathBuf> {
    places::cache_home().ok().map(|home| home.join("eval"))
}
