//! Precision, recall, density and coverage as metrics: their uncertainties.

use anyhow::Result;

use crate::eval::comparison::{Estimate, FeatureComparison};

/// See [`crate::eval::coverage::Overlap::precision`].
pub(super) fn precision(compared: &FeatureComparison) -> Result<Estimate> {
    share(compared, compared.overlap()?.precision)
}

/// See [`crate::eval::coverage::Overlap::recall`].
pub(super) fn recall(compared: &FeatureComparison) -> Result<Estimate> {
    share(compared, compared.overlap()?.recall)
}

/// See [`crate::eval::coverage::Overlap::density`].
pub(super) fn density(compared: &FeatureComparison) -> Result<Estimate> {
    let overlap = compared.overlap()?;
    Ok(Estimate { value: overlap.density, uncertainty: overlap.density_deviation })
}

/// See [`crate::eval::coverage::Overlap::coverage`].
pub(super) fn coverage(compared: &FeatureComparison) -> Result<Estimate> {
    share(compared, compared.overlap()?.coverage)
}

fn share(compared: &FeatureComparison, share: f64) -> Result<Estimate> {
    Ok(Estimate::of_share(share, compared.overlap_rows()? as usize))
}
