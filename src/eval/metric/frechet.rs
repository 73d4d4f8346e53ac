//! The Fréchet distance as a metric: its uncertainty.

use anyhow::Result;
use tch::Tensor;

use crate::eval::comparison::{Estimate, FeatureComparison};
use crate::eval::draw::Draw;
use crate::eval::frechet::Moments;
use crate::rng::below;
use crate::statistics::sample_deviation;

/// How often the generated images are resampled.
const RESAMPLES: usize = 20;
/// How often, where a distance takes long: with more dimensions than [`MANY_DIMENSIONS`].
const FEW_RESAMPLES: usize = 4;
/// See [`FEW_RESAMPLES`].
const MANY_DIMENSIONS: i64 = 1024;

/// The distance; its uncertainty is that of resampled generated images.
pub(super) fn distance(compared: &FeatureComparison) -> Result<Estimate> {
    let value = compared.real.frechet.distance(&Moments::of(compared.generated)?)?;
    let uncertainty = if compared.resamples { deviation(compared)? } else { 0.0 };
    Ok(Estimate { value, uncertainty })
}

fn deviation(compared: &FeatureComparison) -> Result<f64> {
    let (count, dimensions) = compared.generated.size2()?;
    let resamples = if dimensions > MANY_DIMENSIONS { FEW_RESAMPLES } else { RESAMPLES };
    let mut draw = Draw::FrechetResamples.rng(compared.seed);
    let mut distances = Vec::new();
    for _ in 0..resamples {
        let rows: Vec<i64> = (0..count).map(|_| below(&mut draw, count as usize) as i64).collect();
        let rows = compared.generated.f_index_select(0, &Tensor::f_from_slice(&rows)?)?;
        distances.push(compared.real.frechet.distance(&Moments::of(&rows)?)?);
    }
    Ok(sample_deviation(&distances))
}
