//! The table of metrics: their names, which way is better, and how each is computed.

mod classes;
mod duplicates;
mod frechet;
mod kernel;
mod nearest;
mod neighbourhoods;
mod similarity;
mod wasserstein;

use anyhow::Result;
use serde::Serialize;

use crate::error::SettingError;

use super::comparison::{
    ClassComparison, Estimate, FeatureComparison, ImageComparison, NearestComparison,
};

/// Which values of a metric are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Smaller ones.
    Lower,
    /// Larger ones.
    Higher,
    /// Those that are near the value of real images.
    LikeReal,
}

/// What a metric is computed from, and by which function. `None` is an estimate that makes no sense for these images,
/// and is left out of reports.
#[derive(Debug, Clone, Copy)]
pub enum Computation {
    /// From features of the images.
    Features(fn(&FeatureComparison) -> Result<Estimate>),
    /// From the classes that a classifier finds in the images.
    Classes(fn(&ClassComparison) -> Result<Option<Estimate>>),
    /// From the images themselves.
    Images(fn(&ImageComparison) -> Result<Option<Estimate>>),
    /// From the distances of images to the nearest real ones.
    Nearest(fn(&NearestComparison) -> Option<Estimate>),
}

/// Makes the enum [`Metric`] and its properties from one table, so that no metric can lack one of them.
macro_rules! metrics {
    ($($(#[$doc:meta])* $metric:ident: $name:literal, $better:ident, $input:ident($compute:path);)*) => {
        /// What is measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub enum Metric {
            $($(#[$doc])* #[serde(rename = $name)] $metric,)*
        }

        impl Metric {
            /// All metrics, in the order of reports.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$metric),*];

            /// The name that `eval`, JSON and TensorBoard use.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$metric => $name,)*
                }
            }

            /// Which values are better.
            pub fn better(self) -> Better {
                match self {
                    $(Self::$metric => Better::$better,)*
                }
            }

            /// How it is computed.
            pub fn computation(self) -> Computation {
                match self {
                    $(Self::$metric => Computation::$input($compute),)*
                }
            }
        }
    };
}

metrics! {
    /// The Fréchet distance between the features of both sides.
    FrechetDistance: "frechet_distance", Lower, Features(frechet::distance);
    /// The kernel distance between the features of both sides.
    KernelDistance: "kernel_distance", Lower, Features(kernel::distance);
    /// The share of generated images that lie in the neighbourhood of a real one.
    Precision: "precision", Higher, Features(neighbourhoods::precision);
    /// The share of real images that lie in the neighbourhood of a generated one.
    Recall: "recall", Higher, Features(neighbourhoods::recall);
    /// In how many neighbourhoods of real images a generated one lies, divided by k.
    Density: "density", Higher, Features(neighbourhoods::density);
    /// The share of real images in whose neighbourhood a generated one lies.
    Coverage: "coverage", Higher, Features(neighbourhoods::coverage);
    /// How sure the classifier is of each image, and how many classes there are.
    ClassifierScore: "classifier_score", Higher, Classes(classes::score);
    /// How far the shares of classes are from those of real images.
    ClassBalance: "class_balance", Lower, Classes(classes::balance);
    /// The share of images that are of the class that the generator was asked for.
    ClassAccuracy: "class_accuracy", Higher, Classes(classes::accuracy);
    /// How far patches of generated images are from patches of real ones.
    SlicedWasserstein: "sliced_wasserstein", Lower, Images(wasserstein::distance);
    /// How similar pairs of generated images are.
    MsSsim: "ms_ssim", LikeReal, Images(similarity::of_pairs);
    /// The share of generated images that equal another one in every pixel.
    Duplicates: "duplicates", Lower, Images(duplicates::share);
    /// The median distance to the nearest real image.
    NearestReal: "nearest_real", LikeReal, Nearest(nearest::median_distance);
    /// The share of generated images that are nearer to a real one than the nearest hundredth of real ones.
    Copies: "copies", Lower, Nearest(nearest::copies);
}

impl Metric {
    /// The metric of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// The metric that the setting `eval-metric` names: it decides which checkpoint is the best.
    ///
    /// # Errors
    /// If there is no such metric, or if it is computed from the images themselves: training measures only the others.
    pub fn that_decides(name: &str) -> Result<Self, SettingError> {
        Self::named(name).filter(|metric| !metric.is_of_images()).ok_or_else(|| {
            let deciding = Self::ALL.into_iter().filter(|metric| !metric.is_of_images());
            let names = deciding.map(Self::name).collect::<Vec<_>>().join(", ");
            SettingError::new("eval-metric", format!("expected one of {names}, found {name}"))
        })
    }

    /// Whether it is computed from the images themselves, not from their features.
    pub fn is_of_images(self) -> bool {
        matches!(self.computation(), Computation::Images(_) | Computation::Nearest(_))
    }

    /// Whether it is computed from what a classifier says of the images.
    pub fn is_of_classes(self) -> bool {
        matches!(self.computation(), Computation::Classes(_))
    }

    /// Whether the nearest real images have to be searched for.
    pub fn is_of_nearest(self) -> bool {
        matches!(self.computation(), Computation::Nearest(_))
    }
}

/// A metric and what it says of some images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// Which metric.
    pub metric: Metric,
    /// Its value.
    pub value: f64,
    /// A standard deviation of the value.
    pub uncertainty: f64,
}

impl Measured {
    /// What `metric` says.
    pub fn new(metric: Metric, Estimate { value, uncertainty }: Estimate) -> Self {
        Self { metric, value, uncertainty }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::TrainConfig;

    #[test]
    fn only_metrics_that_training_measures_can_decide() {
        let default = TrainConfig::default().eval_metric;
        assert_eq!(Metric::that_decides(&default), Ok(Metric::FrechetDistance));
        for name in ["copies", "fid"] {
            let error = Metric::that_decides(name).unwrap_err().to_string();
            assert!(error.starts_with("eval-metric: expected one of frechet_distance, "));
            assert!(error.ends_with(&format!("class_accuracy, found {name}")), "{error}");
        }
    }
}
