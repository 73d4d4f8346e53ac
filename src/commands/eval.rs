//! `dcgan eval`: how good generated images are.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use dcgan::data::builtin::DIGITS;
use dcgan::data::{ImageSet, Options};
use dcgan::error::Usage;
use dcgan::eval::evaluator::{Evaluator, Settings};
use dcgan::eval::features::{Extractor, InputRange};
use dcgan::eval::measure::{Images, Measured, Nearest, measure_images};
use dcgan::eval::metric::{Better, Metric};
use dcgan::record::plot::{digits, thousands};
use dcgan::sample::Sampler;
use serde::Serialize;

use super::dataset::load_with_progress;
use super::evaluator::{Choice, cache};
use super::generator::{device_of, sampler};
use super::output::print;
use super::progress::Work;
use crate::cli::{EvalArgs, Verbosity};

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
        None => Some(sampler(&args.generator)?),
    };
    let device = match &sampler {
        Some(sampler) => sampler.device(),
        None => device_of(&args.generator)?,
    };
    let trained_on = sampler.as_ref().and_then(Sampler::dataset);
    let dataset = args.dataset.as_deref().or(trained_on).unwrap_or(DIGITS).to_owned();
    let options = args.data.resolve(&dataset, None)?.data();
    let set = load_with_progress(&dataset, &options, verbosity)?;
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
            (name.into_owned(), ImageSet::new("generated", channels, pixels)?)
        }
        (Some(images), _) => (images.clone(), generated(images, channels, count, verbosity)?),
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

/// The images of `--images`, at most `count`.
fn generated(
    images: &str,
    channels: usize,
    count: usize,
    verbosity: Verbosity,
) -> Result<ImageSet> {
    let path = Path::new(images);
    let spec = match path.extension().and_then(|ending| ending.to_str()) {
        _ if path.is_dir() => format!("folder:{images}"),
        Some(kind @ ("npz" | "npy" | "zip" | "tar")) if path.is_file() => {
            format!("{kind}:{images}")
        }
        _ => images.to_owned(),
    };
    let options = Options { channels: Some(channels), limit: Some(count), ..Options::default() };
    let set = load_with_progress(&spec, &options, verbosity);
    set.map_err(|error| error.context(format!("--images {images}")))
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
