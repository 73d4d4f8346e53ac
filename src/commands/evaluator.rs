//! What `dcgan eval` and `dcgan train --eval-every` share: their features, their cache and their progress bar.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use tch::Device;

use super::dataset::without_cache;
use super::progress::{TaskProgress, say};
use crate::cli::Verbosity;
use dcgan::data::ImageSet;
use dcgan::error::Usage;
use dcgan::eval::evaluator::{Evaluator, Settings};
use dcgan::eval::features::InputRange;
use dcgan::eval::metric::Metric;
use dcgan::eval::progress::{Event, Stage};
use dcgan::eval::source::FeatureSource;
use dcgan::files::places;
use dcgan::settings::TrainConfig;

/// The user's folder for classifiers and features, where there is one. What is there is read even if nothing can be
/// written.
pub(super) fn cache() -> Option<PathBuf> {
    let folder = places::cache_home().map(|home| home.join("eval"));
    let usable =
        folder.as_deref().map_err(|error| anyhow!("{error:#}")).and_then(places::ensure_cache);
    if let Err(error) = usable {
        without_cache(&format!("{error:#}"));
    }
    folder.ok()
}

/// The features that `flag` asks for by `name`; without a name, those that suit the data set.
///
/// # Errors
/// As [`FeatureSource::choose`]; the message names the flag.
pub(super) fn features(
    flag: &str,
    name: Option<&str>,
    range: InputRange,
    size: Option<usize>,
    set: &ImageSet,
) -> Result<FeatureSource> {
    let flag = || format!("{flag} {}", name.unwrap_or_default());
    FeatureSource::choose(name, range, size, set).with_context(flag)
}

/// The features by which training with these settings measures its samples.
///
/// # Errors
/// As [`features`].
fn features_of_training(config: &TrainConfig, set: &ImageSet) -> Result<FeatureSource> {
    let name = Some(config.eval_features.as_str()).filter(|&name| name != "auto");
    features("--eval-features", name, InputRange::Bytes, None, set)
}

/// Checks, before anything is computed, that training with these settings can measure its samples on `set`, among
/// others by `metric`, which decides.
///
/// # Errors
/// [`Usage`], if it cannot.
pub(super) fn ensure_possible(config: &TrainConfig, metric: Metric, set: &ImageSet) -> Result<()> {
    if config.eval_every == 0 {
        return Ok(());
    }
    let source = features_of_training(config, set)?;
    if metric.is_of_classes() && !source.has_classes() {
        let message = format!("--eval-metric {}: takes --eval-features digits", config.eval_metric);
        return Err(Usage(message).into());
    }
    if metric == Metric::ClassAccuracy && !config.conditional.is_on() {
        let message = format!("--eval-metric {}: takes --conditional", config.eval_metric);
        return Err(Usage(message).into());
    }
    Ok(())
}

/// The evaluator of training with these settings; `None` if they ask for no evaluation.
///
/// # Errors
/// As [`Evaluator::prepare`].
pub(super) fn evaluator(
    config: &TrainConfig,
    set: &ImageSet,
    device: Device,
    verbosity: Verbosity,
) -> Result<Option<Evaluator>> {
    if config.eval_every == 0 {
        return Ok(None);
    }
    let source = features_of_training(config, set)?;
    let settings = Settings { count: config.eval_count, seed: config.seed, device, cache: cache() };
    let mut bar = EvaluationBar::new(verbosity);
    let evaluator =
        Evaluator::prepare(set, &source, &Metric::ALL, settings, &mut |event| bar.show(event))?;
    Ok(Some(evaluator))
}

/// Shows how an evaluation goes.
pub(super) struct EvaluationBar {
    verbosity: Verbosity,
    work: TaskProgress,
}

impl EvaluationBar {
    /// A bar that shows nothing yet.
    pub(super) fn new(verbosity: Verbosity) -> Self {
        Self { verbosity, work: TaskProgress::new(verbosity) }
    }

    /// Shows what has just happened.
    pub(super) fn show(&mut self, event: Event) {
        match event {
            Event::Begun(Stage::ClassifierTraining, steps) => self.work.steps(steps),
            Event::Begun(Stage::Features, images) => self.work.features(images),
            Event::Begun(Stage::Comparison, images) => self.work.comparisons(images),
            Event::Advanced(count) => self.work.advance(count),
            Event::ClassifierTrained { classifier, seconds } => {
                // Clears the line of the bar first.
                self.work = TaskProgress::new(self.verbosity);
                if self.verbosity > Verbosity::Quiet {
                    say(&format!(
                        "trained a classifier of {} classes in {seconds:.0} s: right on {:.2} % of {} images that it was not trained on",
                        classifier.classes.len(),
                        100.0 * classifier.accuracy,
                        classifier.held_out
                    ));
                }
            }
        }
    }
}
