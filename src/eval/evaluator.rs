//! One data set and one kind of features, prepared so that any number of generated images can be measured.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tch::{Device, Kind};

use super::comparison::{
    ClassComparison, FeatureComparison, ImageComparison, Images, NEIGHBOURS, NearestComparison,
    RealFeatures,
};
use super::draw::Draw;
use super::features::{Extractor, Features};
use super::metric::{Computation, Measured, Metric};
use super::progress::{Event, Stage};
use super::source::FeatureSource;
use crate::data::ImageSet;
use crate::files::TensorFile;
use crate::rng::{Stream, rng, shuffled};

/// Format of the file of cached features. Files of another format are not read, so the features are computed anew.
const FORMAT: &str = "dcgan-features-1";
/// The most real images that are compared with: their features are held in memory.
const MAX_REAL: usize = 50_000;

/// How images are measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The number of generated images. As many real ones are held out, or half of them if there are fewer.
    pub count: usize,
    /// Decides which images are held out, and what is resampled.
    pub seed: u64,
    /// Where features are computed.
    pub device: Device,
    /// The folder in which classifiers and the features of real images are kept; `None` keeps nothing.
    pub cache: Option<PathBuf>,
}

/// Measures generated images against a data set.
#[derive(Debug)]
pub struct Evaluator {
    extractor: Extractor,
    settings: Settings,
    /// The real images that are compared with, and those that were held out; `None` where no metric needs features.
    features: Option<(RealFeatures, Features)>,
    /// The classes of the images that were held out, as the classifier numbers them.
    held_classes: Option<Vec<i64>>,
    metrics: Vec<Metric>,
    /// The real images that are compared with.
    pub real_rows: Vec<usize>,
    /// The real images that are measured as if they were generated: what metrics say of them is the floor.
    pub held_rows: Vec<usize>,
    /// Dimensions of the features; 0 where no metric needs them.
    pub dimensions: i64,
}

impl Evaluator {
    /// Prepares to measure images by `metrics` against `set`, by features from `source`: loads or trains whatever
    /// computes the features, then does as [`Self::new`].
    ///
    /// # Errors
    /// As [`FeatureSource::extractor`] and [`Self::new`].
    pub fn prepare(
        set: &ImageSet,
        source: &FeatureSource,
        metrics: &[Metric],
        settings: Settings,
        progress: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        let cache = settings.cache.as_deref();
        let extractor = source.extractor(set, settings.device, cache, progress)?;
        Self::new(set, extractor, metrics, settings, progress)
    }

    /// Prepares to measure images by `metrics` against `set`: holds real images out and computes the features of all
    /// of them. Metrics of classes are left out if the features come from no classifier.
    ///
    /// # Errors
    /// If the set has fewer than 12 images, an image cannot be read or a feature is not finite.
    pub fn new(
        set: &ImageSet,
        extractor: Extractor,
        metrics: &[Metric],
        settings: Settings,
        progress: &mut dyn FnMut(Event),
    ) -> Result<Self> {
        let least = 2 * (NEIGHBOURS as usize + 1);
        ensure!(
            set.count() >= least,
            "data set {}: metrics take at least {least} real images, found {}",
            set.name(),
            set.count()
        );
        let (real_rows, held_rows) = split(set, settings.count, settings.seed)?;
        let has_classes = matches!(extractor, Extractor::Classifier(_));
        let mut metrics = metrics.to_vec();
        metrics.retain(|metric| has_classes || !metric.is_of_classes());
        let held_classes = classes_by(&extractor, set, &held_rows);
        let mut evaluator = Self {
            held_classes,
            extractor,
            settings,
            features: None,
            metrics,
            real_rows,
            held_rows,
            dimensions: 0,
        };
        if evaluator.metrics.iter().any(|metric| !metric.is_of_images()) {
            let [real, held] = evaluator.real_features(set, progress)?;
            evaluator.dimensions = real.values.size2()?.1;
            evaluator.features = Some((RealFeatures::new(&real)?, held));
        }
        Ok(evaluator)
    }

    /// The features of the real images that are compared with and of those held out, from the cache if they are there.
    fn real_features(
        &self,
        set: &ImageSet,
        progress: &mut dyn FnMut(Event),
    ) -> Result<[Features; 2]> {
        let Self { extractor, settings, real_rows, held_rows, .. } = self;
        let path = settings.cache_file(set, extractor, held_rows.len())?;
        let fits = |[real, held]: &[Features; 2]| {
            real.values.size()[0] == real_rows.len() as i64
                && held.values.size()[0] == held_rows.len() as i64
        };
        let cached = path.as_ref().and_then(|path| read(path).ok());
        if let Some(cached) = cached.filter(fits) {
            return Ok(cached);
        }
        progress(Event::Begun(Stage::Features, real_rows.len() + held_rows.len()));
        let mut advanced = |count| progress(Event::Advanced(count));
        let both = [
            extractor.features(set, real_rows, settings.device, &mut advanced)?,
            extractor.features(set, held_rows, settings.device, &mut advanced)?,
        ];
        if let Some(path) = path {
            // Without a cache the features are computed again next time, which costs only time.
            let _ = write(&path, &both);
        }
        Ok(both)
    }

    /// What computes the features.
    pub fn extractor(&self) -> &Extractor {
        &self.extractor
    }

    /// How large features of real images are: the root of their mean square; 0 where no metric needs them.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn feature_size(&self) -> Result<f64> {
        let Some((real, _)) = &self.features else { return Ok(0.0) };
        Ok(real
            .rows
            .f_to_kind(Kind::Double)?
            .f_square()?
            .f_mean(Kind::Double)?
            .f_double_value(&[])?
            .sqrt())
    }

    /// What the metrics of features say of the real images that were held out. Without `resamples`, uncertainties that
    /// take resampling are 0.
    ///
    /// # Errors
    /// If a metric cannot be computed.
    pub fn floor(&self, resamples: bool) -> Result<Vec<Measured>> {
        match &self.features {
            Some((_, held)) => self.measure_features(held, self.held_classes.as_deref(), resamples),
            None => Ok(Vec::new()),
        }
    }

    /// What the metrics of features say of the images `generated`. `progress` is told of each image. Without
    /// `resamples`, uncertainties that take resampling are 0.
    ///
    /// # Errors
    /// If there are too few images, or a feature is not finite.
    pub fn measure(
        &self,
        generated: &ImageSet,
        resamples: bool,
        progress: &mut dyn FnMut(Event),
    ) -> Result<Vec<Measured>> {
        if self.features.is_none() {
            return Ok(Vec::new());
        }
        let least = NEIGHBOURS as usize + 1;
        ensure!(
            generated.count() >= least,
            "metrics take at least {least} generated images, found {}",
            generated.count()
        );
        let rows = self.shuffled_rows(generated)?;
        progress(Event::Begun(Stage::Features, rows.len()));
        let mut advanced = |count| progress(Event::Advanced(count));
        let features =
            self.extractor.features(generated, &rows, self.settings.device, &mut advanced)?;
        let asked = classes_by(&self.extractor, generated, &rows);
        self.measure_features(&features, asked.as_deref(), resamples)
    }

    fn measure_features(
        &self,
        generated: &Features,
        asked: Option<&[i64]>,
        resamples: bool,
    ) -> Result<Vec<Measured>> {
        let Some((real, _)) = &self.features else { return Ok(Vec::new()) };
        let seed = self.settings.seed;
        let by_features = FeatureComparison::new(real, &generated.values, resamples, seed);
        let both = generated.logits.as_ref().zip(real.class_shares.as_deref());
        let by_classes = both.map(|(logits, real_shares)| ClassComparison {
            real_shares,
            logits,
            asked,
            resamples,
            seed,
        });
        let mut all = Vec::new();
        for &metric in &self.metrics {
            let estimate = match metric.computation() {
                Computation::Features(compute) => Some(compute(&by_features)?),
                Computation::Classes(compute) => {
                    by_classes.as_ref().map(compute).transpose()?.flatten()
                }
                Computation::Images(_) | Computation::Nearest(_) => None,
            };
            all.extend(estimate.map(|estimate| Measured::new(metric, estimate)));
        }
        Ok(all)
    }

    /// What the metrics of images say of the images `generated`, and of the real ones that were held out: the values
    /// and the floor. `set` is the one that this was prepared with. `progress` is told of each real image that is
    /// compared with.
    ///
    /// # Errors
    /// If there are too few images for a metric, or one cannot be read.
    pub fn measure_images(
        &self,
        generated: &ImageSet,
        set: &ImageSet,
        progress: &mut dyn FnMut(Event),
    ) -> Result<[Vec<Measured>; 2]> {
        if !self.metrics.iter().any(|metric| metric.is_of_images()) {
            return Ok([Vec::new(), Vec::new()]);
        }
        let rows = self.shuffled_rows(generated)?;
        let generated = Images { set: generated, rows: &rows };
        let held_out = Images { set, rows: &self.held_rows };
        let real = Images { set, rows: &self.real_rows };
        let seed = self.settings.seed;
        let [mut nearest, mut floor_nearest] = [None, None];
        if self.metrics.iter().any(|metric| metric.is_of_nearest()) {
            progress(Event::Begun(Stage::Comparison, 2 * set.count()));
            let mut advanced = |count| progress(Event::Advanced(count));
            let both = NearestComparison::of_both(&generated, &held_out, set, seed, &mut advanced)?;
            [nearest, floor_nearest] = both.map(Some);
        }
        let measure = |generated, nearest: Option<&NearestComparison>| -> Result<Vec<Measured>> {
            let by_pixels = ImageComparison { real, generated, seed };
            let mut all = Vec::new();
            for &metric in &self.metrics {
                let estimate = match metric.computation() {
                    Computation::Images(compute) => compute(&by_pixels)?,
                    Computation::Nearest(compute) => nearest.and_then(compute),
                    Computation::Features(_) | Computation::Classes(_) => None,
                };
                all.extend(estimate.map(|estimate| Measured::new(metric, estimate)));
            }
            Ok(all)
        };
        Ok([measure(generated, nearest.as_ref())?, measure(held_out, floor_nearest.as_ref())?])
    }

    /// The images of `generated` in a random order: in files, images of a class may follow each other, and some metrics
    /// take only the first ones.
    fn shuffled_rows(&self, generated: &ImageSet) -> Result<Vec<usize>> {
        shuffled(&mut Draw::GeneratedOrder.rng(self.settings.seed), generated.count())
    }
}

impl Settings {
    /// Where the features of a set are kept; `None` for pixels, and where there is no cache.
    fn cache_file(
        &self,
        set: &ImageSet,
        extractor: &Extractor,
        held: usize,
    ) -> Result<Option<PathBuf>> {
        let (Some(cache), Some(id)) = (&self.cache, extractor.cache_key()?) else {
            return Ok(None);
        };
        let key = format!("{FORMAT} {} {id} {held} {}", set.identity()?.pixels_key(), self.seed);
        let name = hex::encode(Sha256::digest(key));
        Ok(Some(cache.join(format!("features-{}.safetensors", &name[..32]))))
    }
}

/// The classes of the images `rows` of `set`, as the classifier numbers them; `None` without a classifier, or if it does
/// not know them all.
fn classes_by(extractor: &Extractor, set: &ImageSet, rows: &[usize]) -> Option<Vec<i64>> {
    let Extractor::Classifier(classifier) = extractor else { return None };
    let labels = set.labels()?;
    let number = |class: &String| classifier.classes.iter().position(|known| known == class);
    let numbers: Vec<_> = labels.classes.iter().map(number).collect::<Option<_>>()?;
    Some(rows.iter().map(|&row| numbers[labels.of_images[row] as usize] as i64).collect())
}

/// Splits the images of `set` at random into those that are compared with and those that are held out to be compared
/// as if they were generated: `count` of them, or half of all if there are fewer.
fn split(set: &ImageSet, count: usize, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    let order = shuffled(&mut rng(seed, Stream::Subset, 2), set.count())?;
    let (held, rest) = order.split_at(count.min(order.len() / 2));
    Ok((rest[..rest.len().min(MAX_REAL)].to_vec(), held.to_vec()))
}

fn write(path: &Path, both: &[Features; 2]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = TensorFile::default();
    file.metadata.insert("format".to_owned(), FORMAT.to_owned());
    for (name, features) in ["real", "held"].into_iter().zip(both) {
        file.tensors.insert(name.to_owned(), features.values.shallow_clone());
        if let Some(logits) = &features.logits {
            file.tensors.insert(format!("{name}_logits"), logits.shallow_clone());
        }
    }
    file.write_sealed(path)
}

fn read(path: &Path) -> Result<[Features; 2]> {
    let TensorFile { metadata, mut tensors } = TensorFile::read_sealed(path)?;
    ensure!(metadata.get("format").is_some_and(|format| format == FORMAT), "another version");
    let mut side = |name: &str| -> Result<Features> {
        let values = tensors.remove(name).context("features are missing")?;
        values.size2()?;
        Ok(Features { values, logits: tensors.remove(&format!("{name}_logits")) })
    };
    Ok([side("real")?, side("held")?])
}
