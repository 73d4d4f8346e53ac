//! All metrics of some generated images, with their floors and with what one should know of them: one value, which
//! serializes to the JSON of `dcgan eval`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use tch::Device;

use super::evaluator::{Evaluator, Settings};
use super::features::Extractor;
use super::metric::{Better, Measured, Metric};
use super::progress::Event;
use super::source::FeatureSource;
use crate::data::ImageSet;
use crate::record::numbers::thousands;

/// The usual number of generated images.
const USUAL_COUNT: usize = 10_000;
/// The share of held-out images that a classifier should classify rightly, at least, for its features to mean much.
const GOOD_ACCURACY: f64 = 0.8;
/// The features of networks that kernel distances are published of are numbers below this.
const LARGE_FEATURES: f64 = 10.0;
/// A kernel distance of this share of the kernels that it is a difference of is a rounding error.
const ROUNDING: f64 = 1e-12;

/// How many images to generate if the user does not say: so many that as many real images can be held out, for values
/// and floors are only comparable for equal counts.
pub fn default_count(set: &ImageSet) -> usize {
    USUAL_COUNT.min((set.count() / 2).max(6))
}

/// What is to be measured, and how.
#[derive(Debug)]
pub struct Request<'a> {
    /// The generated images.
    pub generated: &'a ImageSet,
    /// What the report calls them.
    pub name: String,
    /// The real images.
    pub set: &'a ImageSet,
    /// What the images are compared by.
    pub source: &'a FeatureSource,
    /// Which metrics, in the order of the report.
    pub metrics: &'a [Metric],
    /// Decides which real images are held out, and what is resampled.
    pub seed: u64,
    /// Where features are computed.
    pub device: Device,
    /// The folder in which classifiers and the features of real images are kept; `None` keeps nothing.
    pub cache: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What the generated images are called.
    pub images: String,
    /// The number of generated images.
    pub count: usize,
    /// The name of the data set.
    pub dataset: String,
    /// The number of real images that were compared with.
    pub real: usize,
    /// The number of real images that the floors were measured with.
    pub held_out: usize,
    /// The name of the features.
    pub features: String,
    /// A description of the features.
    #[serde(skip)]
    pub features_described: String,
    /// Dimensions of the features; 0 if no metric needed them.
    pub dimensions: i64,
    /// The seed.
    pub seed: u64,
    /// What one should know of the numbers.
    pub notes: Vec<String>,
    /// The metrics.
    pub metrics: Vec<Row>,
    /// How long it took to measure. Who has done more for the report may count that in.
    pub elapsed_s: f64,
}

/// A metric of a report.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// What it says of the generated images.
    #[serde(flatten)]
    pub measured: Measured,
    /// What it says of held-out real images, where that makes sense.
    pub floor: Option<f64>,
    /// A standard deviation of the floor.
    pub floor_uncertainty: Option<f64>,
    /// Which values are better.
    pub better: Better,
}

/// Measures generated images against real ones. `progress` is told how it goes.
///
/// # Errors
/// If the features cannot be computed, there are too few images for a metric, or an image cannot be read.
pub fn evaluate(request: Request, progress: &mut dyn FnMut(Event)) -> Result<Report> {
    let Request { generated, name, set, source, metrics, seed, device, cache } = request;
    let start = Instant::now();
    let settings = Settings { count: generated.count(), seed, device, cache };
    let evaluator = Evaluator::prepare(set, source, metrics, settings, progress)?;
    let mut measured = evaluator.measure(generated, true, progress)?;
    let mut floor = evaluator.floor(true)?;
    let [of_images, floor_of_images] = evaluator.measure_images(generated, set, progress)?;
    measured.extend(of_images);
    floor.extend(floor_of_images);
    let row = |measured: Measured| {
        let floor = floor.iter().find(|floor| floor.metric == measured.metric);
        Row {
            measured,
            floor: floor.map(|floor| floor.value),
            floor_uncertainty: floor.map(|floor| floor.uncertainty),
            better: measured.metric.better(),
        }
    };
    Ok(Report {
        images: name,
        count: generated.count(),
        dataset: set.name().to_owned(),
        real: evaluator.real_rows.len(),
        held_out: evaluator.held_rows.len(),
        features: evaluator.extractor().name(),
        features_described: evaluator.extractor().describe(),
        dimensions: evaluator.dimensions,
        seed,
        notes: notes(&evaluator, generated, &measured)?,
        metrics: measured.into_iter().map(row).collect(),
        elapsed_s: start.elapsed().as_secs_f64(),
    })
}

/// What one should know of the numbers, in words.
fn notes(
    evaluator: &Evaluator,
    generated: &ImageSet,
    measured: &[Measured],
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let value = |metric| measured.iter().find(|one| one.metric == metric).map(|one| one.value);
    let has_frechet = value(Metric::FrechetDistance).is_some();
    let (count, dimensions) = (generated.count(), evaluator.dimensions);
    let (real, held) = (evaluator.real_rows.len(), evaluator.held_rows.len());
    if has_frechet && (count.min(real) as i64) <= dimensions {
        notes.push(format!(
            "{} images for {} dimensions: the covariance is singular, and the Fréchet distance too large by \
             an amount that depends on the counts; compare it with equal counts only",
            thousands(count.min(real) as i64),
            thousands(dimensions)
        ));
    }
    if held < count {
        notes.push(format!(
            "the floor is of {} held-out images, for there are not {} twice{}",
            thousands(held as i64),
            thousands(count as i64),
            if has_frechet {
                ": as a Fréchet distance of fewer images it is a little too large"
            } else {
                ""
            }
        ));
    }
    if let Some(distance) = value(Metric::KernelDistance) {
        let size = evaluator.feature_size()?;
        if size > LARGE_FEATURES {
            notes.push(format!(
                "the features are numbers of about {size:.0}, and the kernel distance grows with their sixth power: \
                 compare it only with values of the same features"
            ));
        }
        if distance != 0.0 && distance.abs() < ROUNDING * size.powi(6) {
            notes.push(
                "the kernel distance is what rounding leaves of such large features, and says nothing".to_owned(),
            );
        }
    }
    if let Extractor::Classifier(classifier) = evaluator.extractor()
        && classifier.accuracy < GOOD_ACCURACY
    {
        notes.push(format!(
            "the classifier is right on {:.0} % only: its features and classes say little of these images",
            100.0 * classifier.accuracy
        ));
    }
    if generated.range().is_ok_and(|(least, greatest)| least == greatest) {
        notes.push("all generated images are one colour".to_owned());
    }
    Ok(notes)
}
