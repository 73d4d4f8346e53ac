//! The kernel distance as a metric: its subsets.

use anyhow::Result;

use crate::eval::comparison::{Estimate, FeatureComparison};
use crate::eval::draw::Draw;
use crate::eval::kernel::{kernel_distance, subsets};

/// How many subsets of each side are compared.
const SUBSETS: usize = 100;
/// The most images of a subset.
const MAX_SUBSET_ROWS: usize = 1000;

/// Mean and standard deviation over random subsets.
pub(super) fn distance(compared: &FeatureComparison) -> Result<Estimate> {
    let (real, generated) = (&compared.real.rows, compared.generated);
    let counts = (real.size2()?.0 as usize, generated.size2()?.0 as usize);
    // At most half of the images: subsets of all images would be equal, and the value would seem to be certain.
    let size = MAX_SUBSET_ROWS.min(counts.0.min(counts.1) / 2).max(2);
    let subsets = subsets(&mut Draw::KernelSubsets.rng(compared.seed), counts, SUBSETS, size);
    Ok(kernel_distance(real, generated, &subsets)?.into())
}
