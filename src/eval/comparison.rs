//! What metrics are handed: generated images beside real ones, as features, as classes, as pixels or as distances.
//!
//! Whatever several metrics share is computed here, once.

use std::cell::OnceCell;

use anyhow::Result;
use serde::Serialize;
use tch::{Kind, Tensor};

use super::coverage::{Overlap, overlap};
use super::features::Features;
use super::frechet::{Moments, Reference};
use super::lazily::get_or_try_init;
use super::neighbours::{CopyThreshold, nearest};
use super::score::class_shares;
use crate::data::ImageSet;
use crate::pixels::planes;

/// The k of precision, recall, density and coverage: a neighbourhood reaches to the k-th nearest other image.
pub const NEIGHBOURS: i64 = 5;
/// The most images of either side whose neighbourhoods are compared: there are n² distances.
const MAX_OVERLAP_ROWS: i64 = 10_000;
/// The most generated images whose nearest real ones are searched for.
const MAX_SEARCHED: usize = 1000;

/// What a metric says of some images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Estimate {
    /// The metric's value.
    pub value: f64,
    /// A standard deviation of the value: by resampling, by counting or over subsets (see `docs/metrics.md`).
    pub uncertainty: f64,
}

impl Estimate {
    /// A share of `count` images, which varies as such counts do.
    pub fn of_share(share: f64, count: usize) -> Self {
        let uncertainty = (share * (1.0 - share) / count as f64).sqrt();
        Self { value: share, uncertainty }
    }
}

impl From<(f64, f64)> for Estimate {
    fn from((value, uncertainty): (f64, f64)) -> Self {
        Self { value, uncertainty }
    }
}

/// The real images of every comparison by features, prepared once.
#[derive(Debug)]
pub struct RealFeatures {
    /// For Fréchet distances.
    pub frechet: Reference,
    /// `[n, d]`: the features of the first images, for neighbourhoods and subsets.
    pub rows: Tensor,
    /// The share of each class, where there is a classifier.
    pub class_shares: Option<Vec<f64>>,
}

impl RealFeatures {
    /// Prepares the features of real images.
    ///
    /// # Errors
    /// If there are fewer than two images.
    pub fn new(features: &Features) -> Result<Self> {
        let count = features.values.size2()?.0;
        // As if each class had one image more: a class that the classifier finds in no real image is rare, but not
        // impossible, and a divergence from an impossible one would be infinite.
        let smoothed = |shares: Vec<f64>| {
            let all = count as f64 + shares.len() as f64;
            shares.into_iter().map(|share| (share * count as f64 + 1.0) / all).collect()
        };
        Ok(Self {
            frechet: Reference::new(Moments::of(&features.values)?),
            // A copy, so that the memory of the other rows is given back.
            rows: features.values.f_narrow(0, 0, count.min(MAX_OVERLAP_ROWS))?.f_detach_copy()?,
            class_shares: features.logits.as_ref().map(class_shares).transpose()?.map(smoothed),
        })
    }
}

/// Generated images beside real ones, by their features.
#[derive(Debug)]
pub struct FeatureComparison<'a> {
    /// The real images.
    pub real: &'a RealFeatures,
    /// `[n, d]`: the features of the generated images.
    pub generated: &'a Tensor,
    /// Whether uncertainties that take resampling are computed; else they are 0.
    pub resamples: bool,
    /// Decides all random choices.
    pub seed: u64,
    overlap: OnceCell<Overlap>,
}

impl<'a> FeatureComparison<'a> {
    /// Puts the features of generated images, `[n, d]`, beside those of real ones.
    pub fn new(real: &'a RealFeatures, generated: &'a Tensor, resamples: bool, seed: u64) -> Self {
        Self { real, generated, resamples, seed, overlap: OnceCell::new() }
    }

    /// How the neighbourhoods of both sides overlap, for as many images of each side: with other numbers of images,
    /// coverage and recall are other numbers.
    ///
    /// # Errors
    /// If there are too few images.
    pub fn overlap(&self) -> Result<&Overlap> {
        get_or_try_init(&self.overlap, || {
            let equal = self.overlap_rows()?;
            let real = self.real.rows.f_narrow(0, 0, equal)?;
            overlap(&real, &self.generated.f_narrow(0, 0, equal)?, NEIGHBOURS)
        })
    }

    /// How many images of each side [`Self::overlap`] compares.
    ///
    /// # Errors
    /// If the features are not `[n, d]`.
    pub fn overlap_rows(&self) -> Result<i64> {
        Ok(self.generated.size2()?.0.min(self.real.rows.size2()?.0))
    }
}

/// Generated images beside real ones, by the classes that a classifier finds in them.
#[derive(Debug)]
pub struct ClassComparison<'a> {
    /// The share of each class among the real images.
    pub real_shares: &'a [f64],
    /// `[n, classes]`: what the classifier says of the generated images.
    pub logits: &'a Tensor,
    /// `[n]`: the class that each image was asked to be of, as the classifier numbers them, where that is known.
    pub asked: Option<&'a [i64]>,
    /// Whether uncertainties that take resampling are computed; else they are 0.
    pub resamples: bool,
    /// Decides all random choices.
    pub seed: u64,
}

/// Some images of a set.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// The set.
    pub set: &'a ImageSet,
    /// Which of its images.
    pub rows: &'a [usize],
}

impl Images<'_> {
    /// How many they are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// The pixels of the first `count` images.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn bytes(&self, count: usize) -> Result<Vec<u8>> {
        self.set.rows(self.rows[..count].iter().copied())
    }

    /// The first `count` images as `[count, C, H, W]`, 0 to 255, in float64.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn tensor(&self, count: usize) -> Result<Tensor> {
        Ok(planes(&self.bytes(count)?, self.set.shape())?.f_to_kind(Kind::Double)?)
    }
}

/// Generated images (or real ones that were held out) beside the real ones, by their pixels.
#[derive(Debug, Clone, Copy)]
pub struct ImageComparison<'a> {
    /// The real images.
    pub real: Images<'a>,
    /// The generated images.
    pub generated: Images<'a>,
    /// Decides all random choices.
    pub seed: u64,
}

/// How far generated images (or real ones that were held out) are from the nearest real one.
#[derive(Debug)]
pub struct NearestComparison {
    /// The distance of each image to the nearest real one.
    pub distances: Vec<f64>,
    /// Below which distance an image may be a copy; of real images there is none, because they make the threshold.
    pub threshold: Option<CopyThreshold>,
    /// Decides all random choices.
    pub seed: u64,
}

impl NearestComparison {
    /// Searches `set` for the nearest images to generated ones and to `held_out` ones of the set itself: both
    /// comparisons, in this order. `progress` is told of each image of the set that was compared with, twice.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn of_both(
        generated: &Images,
        held_out: &Images,
        set: &ImageSet,
        seed: u64,
        progress: &mut dyn FnMut(usize),
    ) -> Result<[Self; 2]> {
        let mut search = |images: &Images, is_of_set: bool| -> Result<Vec<f64>> {
            let count = MAX_SEARCHED.min(images.count());
            let own = is_of_set.then(|| &images.rows[..count]);
            let found = nearest(&images.bytes(count)?, set, 1, own, progress)?;
            Ok(found.iter().map(|found| found[0].distance).collect())
        };
        let (real, generated) = (search(held_out, true)?, search(generated, false)?);
        let threshold = CopyThreshold::among_real(&real);
        Ok([
            Self { distances: generated, threshold: Some(threshold), seed },
            Self { distances: real, threshold: None, seed },
        ])
    }
}
