//! How similar generated images are to each other: a generator that always makes the same image has 1.

use anyhow::Result;

use crate::eval::comparison::{Estimate, ImageComparison};
use crate::eval::pixels::Similarity;
use crate::statistics::mean_and_deviation;

/// The most pairs of generated images that are compared.
const MAX_PAIRS: usize = 1000;

/// Mean structural similarity of pairs of generated images, and the standard deviation of that mean.
pub(super) fn of_pairs(compared: &ImageComparison) -> Result<Option<Estimate>> {
    let pairs = MAX_PAIRS.min(compared.generated.count() / 2);
    if pairs == 0 {
        return Ok(None);
    }
    let images = compared.generated.tensor(2 * pairs)?;
    let half = |first: usize| images.f_narrow(0, first as i64, pairs as i64);
    let similarities = Similarity::multi_scale(compared.generated.set.shape().size)
        .of_pairs(&half(0)?, &half(pairs)?)?;
    let (mean, deviation) = mean_and_deviation(&similarities);
    Ok(Some(Estimate { value: mean, uncertainty: deviation / (pairs as f64).sqrt() }))
}
