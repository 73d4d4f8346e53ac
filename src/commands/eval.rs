//! `dcgan eval`: how good generated images are.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tch::Device;

use super::data::load_aloud;
use super::print;
use crate::cli::EvalArgs;
use crate::data::builtin::DIGITS;
use crate::data::{ImageSet, Options, formats};
use crate::error::Usage;
use crate::eval::classifier::Classifier;
use crate::eval::evaluator::{Evaluator, Settings};
use crate::eval::features::{Extractor, InputRange, Module};
use crate::eval::measure::{Images, Measured, Nearest, measure_images};
use crate::eval::metric::{Better, Metric};
use crate::files::places;
use crate::record::plot::{digits, thousands};
use crate::record::progress::{Verbosity, Work, say};
use crate::sample::Sampler;
use crate::settings::TrainConfig;
use crate::shape::ImageShape;

/// `dcgan eval`.
///
/// # Errors
/// [`Usage`], if the flags ask for what cannot be; if images, generator or features cannot be read.
pub fn eval(args: &EvalArgs) -> Result<ExitCode> {
    let metrics = metrics_of(&args.metrics)?;
    let start = Instant::now();
    let verbosity = Verbosity::unless(args.quiet || args.json);
    let sampler = match &args.images {
        Some(_) => None,
        None => Some(super::sampler(&args.generator)?),
    };
    let device = match &sampler {
        Some(sampler) => sampler.device(),
        None => super::device_of(&args.generator)?,
    };
    let trained_on = sampler.as_ref().and_then(Sampler::dataset);
    let dataset = args.dataset.as_deref().or(trained_on).unwrap_or(DIGITS).to_owned();
    let mut options = args.data.resolve(&dataset, None)?.data();
    if let Some(sampler) = &sampler {
        options.size = sampler.shape().size;
    }
    let set = load_aloud(&dataset, &options, verbosity)?;
    let channels = set.channels();
    // Whatever does not fit is said before anything is computed.
    let found = match (&sampler, &args.images) {
        (Some(sampler), _) => sampler.channels(),
        _ => channels,
    };
    if found != channels {
        let message = format!(
            "--dataset {dataset}: its images have {channels} channel(s), the generator's {found}; name the set that it \
             was trained on, or read it so with --channels {found}"
        );
        return Err(Usage(message).into());
    }
    let mut work = Work::new(verbosity);
    // As many as can be held out, so that value and floor are of equal counts.
    let half = (set.count() / 2).max(6);
    let count = args.count.map_or(DEFAULT_COUNT.min(half), |count| count as usize);
    let (name, fake) = match (&args.images, sampler) {
        (None, Some(sampler)) => {
            work.images(count);
            let mut pixels = Vec::with_capacity(count * set.image_len());
            for first in (0..count).step_by(GENERATED) {
                let z = sampler.noise(args.seed, first as u64, GENERATED.min(count - first));
                sampler.each(&z, &mut |images| {
                    pixels.extend_from_slice(images);
                    work.advance(images.len() / sampler.image_len());
                    Ok(())
                })?;
            }
            let model = args.generator.model.as_deref();
            let name = model.map_or("the built-in generator".into(), Path::to_string_lossy);
            (name.into_owned(), ImageSet::new("generated", set.shape(), pixels)?)
        }
        (Some(images), _) => (images.clone(), generated(images, set.shape(), count, verbosity)?),
        (None, None) => return Err(Usage("name a MODEL or --images".to_owned()).into()),
    };

    drop(work);
    let range = match args.feature_range.as_str() {
        "unit" => InputRange::Unit,
        "symmetric" => InputRange::Symmetric,
        _ => InputRange::Bytes,
    };
    let size = args.feature_size.map(usize::from);
    let wants_features = metrics.iter().any(|metric| !metric.is_of_images());
    let features = if wants_features { args.features.as_deref() } else { Some("pixels") };
    let choice = Choice::of(features, &set, "--features")?;
    let extractor = choice.extractor((range, size), &set, device, verbosity)?;
    if let Some(name) = args.metrics.iter().find(|name| {
        let named = metrics.iter().find(|metric| metric.name() == name.trim());
        named.is_some_and(|metric| metric.is_of_classes())
            && !matches!(extractor, Extractor::Classifier(_))
    }) {
        let message =
            format!("--metrics {name}: takes --features digits, found {}", extractor.name());
        return Err(Usage(message).into());
    }
    // Two closures draw on one bar.
    let bar = RefCell::new(Work::new(verbosity));
    let evaluator = Evaluator::new(
        &set,
        extractor,
        &metrics,
        Settings { count: fake.count(), seed: args.seed, device, cache: cache() },
        &mut |count| bar.borrow_mut().features(count),
        &mut |n| bar.borrow_mut().advance(n),
    )?;
    bar.borrow_mut().features(fake.count());
    let mut measured = evaluator.measure(&fake, true, &mut |n| bar.borrow_mut().advance(n))?;
    let mut floor = evaluator.floor()?;
    if metrics.iter().any(|metric| metric.is_of_images()) {
        let held = Images { set: &set, rows: &evaluator.held_rows, is_real: true };
        let rows = evaluator.shuffled(&fake)?;
        let ours = Images { set: &fake, rows: &rows, is_real: false };
        let real = (&set, &evaluator.real_rows[..]);
        let searches = metrics.contains(&Metric::NearestReal) || metrics.contains(&Metric::Copies);
        bar.borrow_mut().comparisons(if searches { 2 * set.count() } else { 1 });
        let mut done = |n| bar.borrow_mut().advance(n);
        let nearest = match searches {
            true => Some(Nearest::of_both(&ours, &held, &set, &mut done)?),
            false => None,
        };
        let [of_ours, of_held] = [0, 1].map(|i| nearest.as_ref().map(|both| &both[i]));
        measured.extend(measure_images(&ours, real, &metrics, of_ours, args.seed)?);
        // Of the share of copies it is a hundredth by definition.
        let others: Vec<_> =
            metrics.iter().copied().filter(|metric| *metric != Metric::Copies).collect();
        floor.extend(measure_images(&held, real, &others, of_held, args.seed)?);
    }
    drop(bar);

    let report = Report {
        images: name,
        count: fake.count(),
        dataset,
        real: evaluator.real_rows.len(),
        held_out: evaluator.held_rows.len(),
        features: evaluator.extractor().name(),
        dimensions: evaluator.dimensions,
        seed: args.seed,
        notes: notes(&evaluator, &fake),
        metrics: measured
            .into_iter()
            .map(|measured| {
                let floor = floor.iter().find(|floor| floor.metric == measured.metric);
                Row {
                    measured,
                    floor: floor.map(|floor| floor.value),
                    floor_uncertainty: floor.map(|floor| floor.uncertainty),
                    better: measured.metric.better(),
                }
            })
            .collect(),
        elapsed_s: start.elapsed().as_secs_f64(),
    };
    if args.json {
        return print(format!("{}\n", serde_json::to_string_pretty(&report)?).as_bytes());
    }
    print(table(&report, &evaluator.extractor().describe())?.as_bytes())
}

/// Images that are generated, unless the user says otherwise or half of the data set is less.
const DEFAULT_COUNT: usize = 10_000;
/// Images that are generated at a time.
const GENERATED: usize = 1024;

#[derive(Serialize)]
struct Report {
    images: String,
    count: usize,
    dataset: String,
    real: usize,
    held_out: usize,
    features: String,
    dimensions: i64,
    seed: u64,
    notes: Vec<String>,
    metrics: Vec<Row>,
    elapsed_s: f64,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    measured: Measured,
    floor: Option<f64>,
    floor_uncertainty: Option<f64>,
    better: Better,
}

fn metrics_of(names: &[String]) -> Result<Vec<Metric>> {
    let mut metrics = Vec::new();
    for name in names.iter().map(|name| name.trim()) {
        if name == "all" {
            metrics.extend(Metric::ALL);
        } else if let Some(metric) = Metric::ALL.into_iter().find(|metric| metric.name() == name) {
            metrics.push(metric);
        } else {
            let known = Metric::ALL.map(Metric::name).join(", ");
            return Err(Usage(format!("--metrics {name}: expected all, or of {known}")).into());
        }
    }
    metrics.sort();
    metrics.dedup();
    Ok(metrics)
}

/// The user's folder for classifiers and features, where there is one.
fn cache() -> Option<PathBuf> {
    places::cache_home().ok().map(|home| home.join("eval"))
}

/// The images of `--images`, at most `count`.
fn generated(
    images: &str,
    shape: ImageShape,
    count: usize,
    verbosity: Verbosity,
) -> Result<ImageSet> {
    let path = Path::new(images);
    let spec = match path.extension().and_then(|ending| ending.to_str()) {
        _ if path.is_dir() => format!("folder:{images}"),
        Some(kind) if path.is_file() && formats::named(kind).is_some() => {
            format!("{kind}:{images}")
        }
        _ => images.to_owned(),
    };
    let options = Options {
        size: shape.size,
        channels: Some(shape.channels),
        limit: Some(count),
        ..Options::default()
    };
    let set = load_aloud(&spec, &options, verbosity);
    set.map_err(|error| error.context(format!("--images {images}")))
}

/// What is asked for, before it is made.
#[derive(Clone, Copy)]
enum Choice<'a> {
    Pixels,
    Digits,
    File(&'a Path),
}

impl<'a> Choice<'a> {
    /// What `flag` asks for; without anything, what the data set allows.
    ///
    /// # Errors
    /// [`Usage`], if the set has no classes to learn, or there is no such file.
    fn of(features: Option<&'a str>, set: &ImageSet, flag: &str) -> Result<Self> {
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
    fn extractor(
        self,
        (range, size): (InputRange, Option<usize>),
        set: &ImageSet,
        device: Device,
        verbosity: Verbosity,
    ) -> Result<Extractor> {
        Ok(match self {
            Self::Pixels => Extractor::Pixels,
            Self::Digits => Extractor::Classifier(classifier(set, device, verbosity)?),
            Self::File(path) => {
                Extractor::Module(Module::load(path, range, size, set.shape().size, device)?)
            }
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

/// What one should know of the numbers.
fn notes(evaluator: &Evaluator, fake: &ImageSet) -> Vec<String> {
    let mut notes = Vec::new();
    let (count, dimensions) = (fake.count(), evaluator.dimensions);
    let (real, held) = (evaluator.real_rows.len(), evaluator.held_rows.len());
    if dimensions > 0 && (count.min(real) as i64) <= dimensions {
        notes.push(format!(
            "{} images for {} dimensions: the covariance is singular, and the Fréchet distance too large by \
             an amount that depends on the counts; compare it with equal counts only",
            thousands(count.min(real) as i64),
            thousands(dimensions)
        ));
    }
    if held < count {
        notes.push(format!(
            "the floor is of {} held-out images, for there are not {} twice: as a Fréchet distance of fewer images \
             it is a little too large",
            thousands(held as i64),
            thousands(count as i64)
        ));
    }
    if let Extractor::Classifier(classifier) = evaluator.extractor()
        && classifier.accuracy < 0.8
    {
        notes.push(format!(
            "the classifier is right on {:.0} % only: its features and classes say little of these images",
            100.0 * classifier.accuracy
        ));
    }
    if fake.range().is_ok_and(|(least, greatest)| least == greatest) {
        notes.push("all generated images are one colour".to_owned());
    }
    notes
}

fn table(report: &Report, features: &str) -> Result<String> {
    let whole = |n: usize| thousands(n as i64);
    let mut text = format!(
        "{} images of {}, against {} of `{}`; floor: {} other real images\nfeatures: {features}; {} dimensions\n\n",
        whole(report.count),
        report.images,
        whole(report.real),
        report.dataset,
        whole(report.held_out),
        report.dimensions
    );
    writeln!(
        text,
        "{:<20}{:>12}{:>12}{:>12}{:>12}   better",
        "metric", "value", "±", "floor", "±"
    )?;
    let number = |value: Option<f64>| value.map_or("-".to_owned(), digits);
    for Row { measured, floor, floor_uncertainty, better } in &report.metrics {
        let better = match better {
            Better::Lower => "lower",
            Better::Higher => "higher",
            Better::LikeReal => "as the floor",
        };
        writeln!(
            text,
            "{:<20}{:>12}{:>12}{:>12}{:>12}   {better}",
            measured.metric.name(),
            digits(measured.value),
            digits(measured.uncertainty),
            number(*floor),
            number(*floor_uncertainty)
        )?;
    }
    for note in &report.notes {
        write!(text, "\nnote: {note}")?;
    }
    if !report.notes.is_empty() {
        text.push('\n');
    }
    writeln!(text, "\n{:.1} s", report.elapsed_s)?;
    Ok(text)
}
