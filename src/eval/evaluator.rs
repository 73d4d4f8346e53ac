//! One data set and one kind of features, ready to measure generated images by.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use tch::Device;

use super::features::{Extractor, Features};
use super::measure::{Measured, NEIGHBOURS, RealSide, split};
use super::metric::Metric;
use crate::data::ImageSet;
use crate::files::TensorFile;
use crate::rng::{Stream, permutation, rng};

/// Of the file of features: with another one, they are computed anew.
const FORMAT: &str = "dcgan-features-1";

/// How one measures.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Generated images; as many real ones are held out, or half of them.
    pub count: usize,
    /// Decides what is held out and what is resampled.
    pub seed: u64,
    /// Where features are computed.
    pub device: Device,
    /// The folder in which features of real images are kept, but for pixels.
    pub cache: Option<PathBuf>,
}

/// What generated images are measured by.
#[derive(Debug)]
pub struct Evaluator {
    extractor: Extractor,
    settings: Settings,
    /// What is measured against, and what is held out; `None` where no metric is of features.
    features: Option<(RealSide, Features)>,
    metrics: Vec<Metric>,
    /// Real images that are compared with.
    pub real_rows: Vec<usize>,
    /// Real images that are measured as if they were generated: the floor.
    pub held_rows: Vec<usize>,
    /// Of features; 0 where there are none.
    pub dimensions: i64,
}

impl Evaluator {
    /// Of `set`. `begin` is told how many features there are to compute, `done` of each that is.
    ///
    /// # Errors
    /// If the set has fewer than 12 images, an image cannot be read or a feature is not finite.
    pub fn new(
        set: &ImageSet,
        extractor: Extractor,
        metrics: &[Metric],
        settings: Settings,
        begin: &mut dyn FnMut(usize),
        done: &mut dyn FnMut(usize),
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
        metrics.retain(|metric| !metric.is_of_images() && (has_classes || !metric.is_of_classes()));
        let mut evaluator = Self {
            extractor,
            settings,
            features: None,
            metrics,
            real_rows,
            held_rows,
            dimensions: 0,
        };
        if !evaluator.metrics.is_empty() {
            let [real, held] = evaluator.real_features(set, begin, done)?;
            evaluator.dimensions = real.values.size2()?.1;
            evaluator.features = Some((RealSide::new(&real, evaluator.settings.seed)?, held));
        }
        Ok(evaluator)
    }

    /// Of both parts of the real images, from the cache if they are there.
    fn real_features(
        &self,
        set: &ImageSet,
        begin: &mut dyn FnMut(usize),
        done: &mut dyn FnMut(usize),
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
        begin(real_rows.len() + held_rows.len());
        let both = [
            extractor.features(set, real_rows, settings.device, done)?,
            extractor.features(set, held_rows, settings.device, done)?,
        ];
        if let Some(path) = path {
            // A cache that cannot be written costs time, not results.
            let _ = write(&path, &both);
        }
        Ok(both)
    }

    /// The features.
    pub fn extractor(&self) -> &Extractor {
        &self.extractor
    }

    /// What the metrics of features say of real images that were held out.
    ///
    /// # Errors
    /// If a metric cannot be computed.
    pub fn floor(&self) -> Result<Vec<Measured>> {
        let Some((real, held)) = &self.features else { return Ok(Vec::new()) };
        real.measure(held, &self.metrics, true)
    }

    /// The rows of `fake` in an order by chance: in files, classes may stand together, and some metrics take the
    /// first so many.
    ///
    /// # Errors
    /// If there are too many to count.
    pub fn shuffled(&self, fake: &ImageSet) -> Result<Vec<usize>> {
        let mut draw = rng(self.settings.seed, Stream::Evaluation, 5);
        let order = permutation(&mut draw, u32::try_from(fake.count())?);
        Ok(order.into_iter().map(|row| row as usize).collect())
    }

    /// The metrics of features of the generated images `fake`. `done` is told of each image. Where
    /// `is_resampled` is not set, uncertainties that take resampling are 0.
    ///
    /// # Errors
    /// If there are too few images, or a feature is not finite.
    pub fn measure(
        &self,
        fake: &ImageSet,
        is_resampled: bool,
        done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Measured>> {
        let Some((real, _)) = &self.features else { return Ok(Vec::new()) };
        let least = NEIGHBOURS as usize + 1;
        ensure!(
            fake.count() >= least,
            "metrics take at least {least} generated images, found {}",
            fake.count()
        );
        let rows = self.shuffled(fake)?;
        let features = self.extractor.features(fake, &rows, self.settings.device, done)?;
        real.measure(&features, &self.metrics, is_resampled)
    }
}

impl Settings {
    /// Where the features of a set are kept; `None` for pixels and where there is no cache.
    fn cache_file(
        &self,
        set: &ImageSet,
        extractor: &Extractor,
        held: usize,
    ) -> Result<Option<PathBuf>> {
        let (Some(cache), Some(id)) = (&self.cache, extractor.id()?) else { return Ok(None) };
        let key = format!("{FORMAT} {} {id} {held} {}", set.identity()?.pixels_key(), self.seed);
        let name = hex::encode(Sha256::digest(key));
        Ok(Some(cache.join(format!("features-{}.safetensors", &name[..32]))))
    }
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
