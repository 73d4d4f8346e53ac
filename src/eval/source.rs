//! Choosing the features that images are compared by, before they are made.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use tch::Device;

use super::classifier::Classifier;
use super::features::{Extractor, InputRange, Module};
use super::progress::{Event, Stage};
use crate::data::ImageSet;
use crate::error::Usage;
use crate::files::places;

/// Where features come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureSource {
    /// The pixels themselves.
    Pixels,
    /// A classifier of the data set's own classes.
    Classifier,
    /// A TorchScript module.
    Module {
        /// Its file.
        path: PathBuf,
        /// Which values it expects.
        range: InputRange,
        /// Width and height that images are resized to; `None` leaves them as they are.
        size: Option<usize>,
    },
}

impl FeatureSource {
    /// The source that users call `name`: `digits`, `pixels` or the file of a module. Without a name it is a classifier
    /// if the images of `set` have classes, and pixels if not. `range` and `size` matter to a module alone.
    ///
    /// # Errors
    /// [`Usage`], if the set has no classes to train a classifier on, or if there is no such file.
    pub fn choose(
        name: Option<&str>,
        range: InputRange,
        size: Option<usize>,
        set: &ImageSet,
    ) -> Result<Self> {
        let has_classes = set.labels().is_some();
        match name {
            None if has_classes => Ok(Self::Classifier),
            None | Some("pixels") => Ok(Self::Pixels),
            Some("digits") if has_classes => Ok(Self::Classifier),
            Some("digits") => Err(Usage(format!(
                "the images of {} have no classes to train a classifier on; expected pixels or FILE.pt",
                set.name()
            ))
            .into()),
            Some(file) if places::with_home(file)?.is_file() => {
                Ok(Self::Module { path: places::with_home(file)?, range, size })
            }
            Some(other) => Err(Usage(format!(
                "expected digits, pixels or a TorchScript module's file, found {other}, and there is no such file"
            ))
            .into()),
        }
    }

    /// Whether it tells the classes of images too, which some metrics need.
    pub fn has_classes(&self) -> bool {
        matches!(self, Self::Classifier)
    }

    /// Loads what computes the features. A classifier of `set` that is not in the folder `cache` is trained.
    ///
    /// # Errors
    /// If the module cannot be loaded, or the classifier cannot be trained.
    pub fn extractor(
        &self,
        set: &ImageSet,
        device: Device,
        cache: Option<&Path>,
        progress: &mut dyn FnMut(Event),
    ) -> Result<Extractor> {
        Ok(match self {
            Self::Pixels => Extractor::Pixels,
            Self::Classifier => Extractor::Classifier(classifier(set, device, cache, progress)?),
            Self::Module { path, range, size } => {
                Extractor::Module(Module::load(path, *range, *size, set.shape().size, device)?)
            }
        })
    }
}

fn classifier(
    set: &ImageSet,
    device: Device,
    cache: Option<&Path>,
    progress: &mut dyn FnMut(Event),
) -> Result<Classifier> {
    let start = Instant::now();
    let mut is_trained = false;
    let classifier = Classifier::load_or_train(set, device, cache, &mut |_, steps| {
        if !is_trained {
            progress(Event::Begun(Stage::ClassifierTraining, steps));
            is_trained = true;
        }
        progress(Event::Advanced(1));
    })?;
    if is_trained {
        let seconds = start.elapsed().as_secs_f64();
        progress(Event::ClassifierTrained { classifier: &classifier, seconds });
    }
    Ok(classifier)
}
