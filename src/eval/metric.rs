//! The names of metrics, and which way is better.

use serde::Serialize;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// [`super::frechet`].
    FrechetDistance,
    /// [`super::kernel`].
    KernelDistance,
    /// [`super::coverage`].
    Precision,
    /// [`super::coverage`].
    Recall,
    /// [`super::coverage`].
    Density,
    /// [`super::coverage`].
    Coverage,
    /// [`super::score::classifier_score`].
    ClassifierScore,
    /// [`super::score::class_balance`].
    ClassBalance,
    /// [`super::pixels::sliced_wasserstein`], of the images and of their half-size versions.
    SlicedWasserstein,
    /// [`super::pixels::Similarity`] of pairs of generated images.
    MsSsim,
    /// The share of generated images that equal another one in every pixel.
    Duplicates,
    /// The median distance to the nearest real image ([`super::neighbours`]).
    NearestReal,
    /// The share of generated images that are nearer to a real one than the nearest hundredth of real ones.
    Copies,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    /// Less of it.
    Lower,
    /// More of it.
    Higher,
    /// As much as real images have.
    LikeReal,
}

impl Metric {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 13] = [
        Self::FrechetDistance,
        Self::KernelDistance,
        Self::Precision,
        Self::Recall,
        Self::Density,
        Self::Coverage,
        Self::ClassifierScore,
        Self::ClassBalance,
        Self::SlicedWasserstein,
        Self::MsSsim,
        Self::Duplicates,
        Self::NearestReal,
        Self::Copies,
    ];

    /// As people ask for it, and as JSON and TensorBoard have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::FrechetDistance => "frechet_distance",
            Self::KernelDistance => "kernel_distance",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::Density => "density",
            Self::Coverage => "coverage",
            Self::ClassifierScore => "classifier_score",
            Self::ClassBalance => "class_balance",
            Self::SlicedWasserstein => "sliced_wasserstein",
            Self::MsSsim => "ms_ssim",
            Self::Duplicates => "duplicates",
            Self::NearestReal => "nearest_real",
            Self::Copies => "copies",
        }
    }

    /// Which way is better.
    pub fn better(self) -> Better {
        match self {
            Self::FrechetDistance
            | Self::KernelDistance
            | Self::ClassBalance
            | Self::SlicedWasserstein
            | Self::Duplicates
            | Self::Copies => Better::Lower,
            Self::Precision
            | Self::Recall
            | Self::Density
            | Self::Coverage
            | Self::ClassifierScore => Better::Higher,
            Self::MsSsim | Self::NearestReal => Better::LikeReal,
        }
    }

    /// Whether it needs images, not features.
    pub fn is_of_images(self) -> bool {
        matches!(
            self,
            Self::SlicedWasserstein
                | Self::MsSsim
                | Self::Duplicates
                | Self::NearestReal
                | Self::Copies
        )
    }

    /// Whether it needs a classifier.
    pub fn is_of_classes(self) -> bool {
        matches!(self, Self::ClassifierScore | Self::ClassBalance)
    }
}
