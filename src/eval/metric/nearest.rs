//! How near generated images are to real ones: a generator that copies its training set is too near.

use crate::eval::comparison::{Estimate, NearestComparison};
use crate::eval::draw::Draw;
use crate::rng::below;
use crate::statistics::{median, sample_deviation};

/// How often the distances are resampled.
const RESAMPLES: usize = 200;

/// The median distance; its uncertainty is that of resampled distances.
#[allow(clippy::unnecessary_wraps)] // The table of metrics takes functions of one type.
pub(super) fn median_distance(compared: &NearestComparison) -> Option<Estimate> {
    let distances = &compared.distances;
    let mut draw = Draw::NearestResamples.rng(compared.seed);
    let mut resampled = || -> Vec<f64> {
        (0..distances.len()).map(|_| distances[below(&mut draw, distances.len())]).collect()
    };
    let medians: Vec<f64> = (0..RESAMPLES).map(|_| median(&resampled())).collect();
    Some(Estimate { value: median(distances), uncertainty: sample_deviation(&medians) })
}

/// The share of images that may be copies. Of real images it is a hundredth by definition, so they have none.
pub(super) fn copies(compared: &NearestComparison) -> Option<Estimate> {
    let count = compared.distances.len();
    let copies = compared.threshold?.count(&compared.distances);
    Some(Estimate::of_share(copies as f64 / count as f64, count))
}
