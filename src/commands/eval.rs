//! `dcgan eval`: how good generated images are.

use std::fmt::Write as _;
use std::ops::Range;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};

use super::dataset::{colours, load_with_progress, options_for_model};
use super::evaluator::{EvaluationBar, cache, features};
use super::generator::device_of;
use super::output::{print, shell_quoted};
use super::progress::{TaskProgress, say};
use crate::cli::EvalArgs;
use crate::cli::Verbosity;
use dcgan::data::RangeIsMissing;
use dcgan::data::builtin::DIGITS;
use dcgan::data::{ImageSet, Options, formats};
use dcgan::error::{Fixable, SettingError, Usage};
use dcgan::eval::features::InputRange;
use dcgan::eval::metric::{Better, Metric};
use dcgan::eval::report::{Report, Request, Row, default_count, evaluate};
use dcgan::eval::source::FeatureSource;
use dcgan::files::own;
use dcgan::files::places::with_home;
use dcgan::record::numbers::{five_digits, thousands};
use dcgan::sample::Sampler;
use dcgan::shape::ImageShape;

/// `dcgan eval`.
///
/// # Errors
/// [`Usage`], if the flags ask for what is impossible; if images, generator or features cannot be read.
pub fn eval(args: &EvalArgs) -> Result<ExitCode> {
    let metrics = metrics_of(&args.metrics)?;
    let start = Instant::now();
    let verbosity = Verbosity::unless(args.quiet || args.json);
    let sampler = match &args.images {
        Some(_) => None,
        None => Some(super::generator::sampler(&args.generator)?),
    };
    if let Some(images) = &args.images {
        ensure_images(images)?;
    }
    let is_named = |metric: Metric| args.metrics.iter().any(|name| name.trim() == metric.name());
    if is_named(Metric::ClassAccuracy) && sampler.as_ref().is_some_and(|s| s.classes().is_none()) {
        let message =
            "--metrics class_accuracy: takes a generator that was trained with --conditional";
        return Err(Usage(message.to_owned()).into());
    }
    let device = match &sampler {
        Some(sampler) => sampler.device(),
        None => device_of(&args.generator.device, args.generator.precision.kind())?,
    };
    let trained_on = sampler.as_ref().and_then(Sampler::dataset);
    let dataset = args.dataset.as_deref().or(trained_on).unwrap_or(DIGITS).to_owned();
    let options = match &sampler {
        Some(sampler) => options_for_model(&args.data, &dataset, sampler, verbosity)?,
        None => args.data.resolve(&dataset, None)?.data(),
    };
    let set = load_with_progress(&dataset, &options, verbosity)?;

    // Whatever does not fit together is refused before anything is computed.
    let channels = set.channels();
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
    let source = source(args, &metrics, &set)?;

    let count = args.count.map_or(default_count(&set), |count| count as usize);
    let (name, generated) = match (&args.images, sampler) {
        (Some(images), _) => {
            let generated = images_of(images, set.shape(), count, verbosity);
            let generated = generated.map_err(without_flags)?;
            if let Some(asked) = args.count.filter(|&asked| asked as usize > generated.count()) {
                say(&format!("note: --count {asked}: there are {} in {images}", generated.count()));
            }
            (images.clone(), generated)
        }
        (None, Some(sampler)) => {
            let model = args.generator.model.as_deref();
            let name = model.map_or("the built-in generator".into(), Path::to_string_lossy);
            (name.into_owned(), generate(&sampler, args.seed, count, verbosity)?)
        }
        (None, None) => return Err(Usage("name a MODEL or --images".to_owned()).into()),
    };
    let request = Request {
        generated: &generated,
        name,
        set: &set,
        source: &source,
        metrics: &metrics,
        seed: args.seed,
        device,
        cache: cache(),
    };
    let mut bar = EvaluationBar::new(verbosity);
    let mut report = evaluate(request, &mut |event| bar.show(event))?;
    // The bar must not come between the lines of the table.
    drop(bar);
    // With the time that loading and generating the images took.
    report.elapsed_s = start.elapsed().as_secs_f64();
    if args.json {
        return print(format!("{}\n", serde_json::to_string_pretty(&report)?).as_bytes());
    }
    print(table(&report)?.as_bytes())
}

/// The metrics of these names, in the order of reports and none of them twice.
///
/// # Errors
/// [`Usage`], if there is no metric of a name.
fn metrics_of(names: &[String]) -> Result<Vec<Metric>> {
    let mut metrics = Vec::new();
    for name in names.iter().map(|name| name.trim()) {
        if name == "all" {
            metrics.extend(Metric::ALL);
        } else if let Some(metric) = Metric::named(name) {
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

/// What the flags ask to compare images by.
///
/// # Errors
/// [`Usage`], if there is no such thing, or if a metric that the user named needs a classifier and there is none.
fn source(args: &EvalArgs, metrics: &[Metric], set: &ImageSet) -> Result<FeatureSource> {
    let size = args.feature_size.map(usize::from);
    // No classifier is trained for metrics that need no features.
    let needs_features = metrics.iter().any(|metric| !metric.is_of_images());
    let name = if needs_features { args.features.as_deref() } else { Some("pixels") };
    let source = features("--features", name, args.feature_range, size, set)?;
    let needs_classes =
        |name: &&String| Metric::named(name.trim()).is_some_and(Metric::is_of_classes);
    if let Some(metric) = args.metrics.iter().find(needs_classes).filter(|_| !source.has_classes())
    {
        let problem = match &args.features {
            Some(found) => format!("takes --features digits, found {found}"),
            None => {
                format!("takes real images with classes, and those of {} have none", set.name())
            }
        };
        return Err(Usage(format!("--metrics {metric}: {problem}")).into());
    }
    let is_module = matches!(source, FeatureSource::Module { .. });
    let ranged = args.feature_range != InputRange::Bytes;
    for (flag, is_given, has_effect, it_is_for) in [
        ("--features", args.features.is_some(), needs_features, "metrics of features"),
        ("--feature-range", ranged, is_module, "features of a FILE.pt"),
        ("--feature-size", args.feature_size.is_some(), is_module, "features of a FILE.pt"),
    ] {
        if is_given && !has_effect {
            say(&format!("note: {flag} changes nothing here: it is for {it_is_for}"));
        }
    }
    Ok(source)
}

/// Images `0..count` of `seed`.
fn generate(sampler: &Sampler, seed: u64, count: usize, verbosity: Verbosity) -> Result<ImageSet> {
    let mut work = TaskProgress::new(verbosity);
    work.images(count);
    let mut pixels = Vec::with_capacity(count * sampler.image_len());
    let noise = |rows: Range<usize>| sampler.noise(seed, rows.start as u64, rows.len());
    sampler.each(count, &noise, &mut |images| {
        pixels.extend_from_slice(images);
        work.advance(images.len() / sampler.image_len());
        Ok(())
    })?;
    sampler.as_set(seed, pixels)
}

/// An error of reading `--images`. The flags that decide how `--dataset` is read do not help here, so the error must not
/// be one against which they are proposed.
fn without_flags(error: anyhow::Error) -> anyhow::Error {
    let is_of_images = matches!(
        error.downcast_ref(),
        Some(Fixable::UnreadableImages(_) | Fixable::TooManyUnreadableImages(_))
    );
    if error.is::<SettingError>() {
        return Usage(format!("{error:#}")).into();
    }
    if error.is::<RangeIsMissing>() {
        // No flag says what such numbers mean here.
        let parts = error.chain().map(|cause| match cause.is::<RangeIsMissing>() {
            true => "the array holds other numbers; expected unsigned bytes, 0 to 255".to_owned(),
            false => cause.to_string(),
        });
        return anyhow!(parts.collect::<Vec<_>>().join(": "));
    }
    if is_of_images { anyhow!("{error:#}") } else { error }
}

/// Checks that `--images` does not name a run, whose pictures are grids.
///
/// # Errors
/// [`Usage`], if it does.
fn ensure_images(images: &str) -> Result<(), Usage> {
    let path = images.strip_prefix("folder:").unwrap_or(images);
    let folder = with_home(path).unwrap_or_else(|_| path.into());
    if !own::is_run(&folder) {
        return Ok(());
    }
    let run = shell_quoted(path);
    Err(Usage(format!(
        "--images {images}: is a run; `dcgan eval {run}` measures what it generates"
    )))
}

/// The images of `--images`, at most `count`.
fn images_of(
    images: &str,
    shape: ImageShape,
    count: usize,
    verbosity: Verbosity,
) -> Result<ImageSet> {
    let path = with_home(images).unwrap_or_else(|_| images.into());
    let names_format =
        images.split_once(':').is_some_and(|(kind, _)| formats::named(kind).is_some());
    let spec = match path.extension().and_then(|ending| ending.to_str()) {
        _ if names_format => images.to_owned(),
        _ if path.is_dir() => format!("folder:{images}"),
        Some(kind) if formats::of_files(kind).is_some() => format!("{kind}:{images}"),
        _ => images.to_owned(),
    };
    let options = |channels| Options {
        size: Some(shape.size),
        channels,
        limit: Some(count),
        ..Options::default()
    };
    let load = |channels| {
        load_with_progress(&spec, &options(channels), verbosity)
            .with_context(|| format!("--images {images}"))
    };
    let set = load(None)?;
    if set.channels() == shape.channels {
        return Ok(set);
    }
    let (found, real) = (colours(set.channels()), colours(shape.channels));
    say(&format!(
        "warning: --images {images}: these images are {found} and the real ones {real}; they are compared {real}"
    ));
    load(Some(shape.channels))
}

/// The report as people read it.
fn table(report: &Report) -> Result<String> {
    let whole = |n: usize| thousands(n as i64);
    let mut text = format!(
        "{} images of {}, against {} of `{}`; floor: {} other real images\nfeatures: {}; {} dimensions\n\n",
        whole(report.count),
        report.images,
        whole(report.real),
        report.dataset,
        whole(report.held_out),
        report.features_described,
        report.dimensions
    );
    let number = |value: Option<f64>| value.map_or("-".to_owned(), five_digits);
    let mut rows = vec![["metric", "value", "±", "floor", "±", "better"].map(str::to_owned)];
    for Row { measured, floor, floor_uncertainty, better } in &report.metrics {
        let better = match better {
            Better::Lower => "lower",
            Better::Higher => "higher",
            Better::LikeReal => "as the floor",
        };
        rows.push([
            measured.metric.name().to_owned(),
            number(Some(measured.value)),
            number(Some(measured.uncertainty)),
            number(*floor),
            number(*floor_uncertainty),
            better.to_owned(),
        ]);
    }
    for [metric, value, uncertainty, floor, of_floor, better] in rows {
        // No number has more than 10 characters.
        writeln!(
            text,
            "{metric:<20}{value:>12}{uncertainty:>12}{floor:>12}{of_floor:>12}   {better}"
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
