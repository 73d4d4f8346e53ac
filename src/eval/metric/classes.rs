//! The metrics of classes: the classifier score, the class balance and the class accuracy.

use anyhow::Result;
use rand_chacha::rand_core::Rng;
use tch::{Kind, Tensor};

use crate::eval::comparison::{ClassComparison, Estimate};
use crate::eval::draw::Draw;
use crate::eval::score::{class_balance, class_shares, classifier_score};
use crate::statistics::sample_deviation;

/// How many parts of the generated images have a classifier score of their own.
const SPLITS: i64 = 10;
/// How often the classes are resampled.
const RESAMPLES: usize = 200;

/// Mean and standard deviation over parts of the generated images.
pub(super) fn score(compared: &ClassComparison) -> Result<Option<Estimate>> {
    let count = compared.logits.size2()?.0;
    Ok(Some(classifier_score(compared.logits, SPLITS.min(count))?.into()))
}

/// The share of images that the classifier finds to be of the class that was asked for. `None` if none was.
pub(super) fn accuracy(compared: &ClassComparison) -> Result<Option<Estimate>> {
    let Some(asked) = compared.asked else { return Ok(None) };
    let found = compared.logits.f_argmax(1, false)?;
    let right = found.f_eq_tensor(&Tensor::f_from_slice(asked)?)?;
    let share = right.f_mean(Kind::Double)?.f_double_value(&[])?;
    Ok(Some(Estimate::of_share(share, asked.len())))
}

/// The divergence of the classes; its uncertainty is that of as many classes, drawn from the same shares.
pub(super) fn balance(compared: &ClassComparison) -> Result<Option<Estimate>> {
    let shares = class_shares(compared.logits)?;
    let value = class_balance(&shares, compared.real_shares)?;
    let uncertainty = if compared.resamples { balance_deviation(compared, &shares)? } else { 0.0 };
    Ok(Some(Estimate { value, uncertainty }))
}

fn balance_deviation(compared: &ClassComparison, shares: &[f64]) -> Result<f64> {
    let count = compared.logits.size2()?.0;
    let mut draw = Draw::ClassResamples.rng(compared.seed);
    let mut cumulated = Vec::new();
    let mut sum = 0.0;
    for share in shares {
        sum += share;
        cumulated.push(sum);
    }
    let mut divergences = Vec::new();
    for _ in 0..RESAMPLES {
        let mut drawn = vec![0.0; shares.len()];
        for _ in 0..count {
            let at = sum * (draw.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            let class = cumulated.partition_point(|&end| end <= at).min(shares.len() - 1);
            drawn[class] += 1.0 / count as f64;
        }
        divergences.push(class_balance(&drawn, compared.real_shares)?);
    }
    Ok(sample_deviation(&divergences))
}
