//! Scores from what a classifier says of generated images.
//!
//! # Source
//! T. Salimans et al., *Improved Techniques for Training GANs* (2016): the Inception score, with this program's
//! classifier instead of Inception.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use crate::statistics::mean_and_deviation;

/// The exponential of the mean information that an image gives about its class, from `logits` `[n, classes]`: between 1
/// and the number of classes. It is computed for `splits` parts of equal size; the result is the mean of the parts and
/// their standard deviation (dividing by n, not n − 1).
///
/// # Errors
/// If there are fewer rows than parts.
pub fn classifier_score(logits: &Tensor, splits: i64) -> Result<(f64, f64)> {
    let (count, _) = logits.size2()?;
    ensure!(
        splits >= 1 && count >= splits,
        "expected at least one image for each of {splits} parts, found {count}"
    );
    let log_p = logits.f_to_kind(Kind::Double)?.f_log_softmax(1, Kind::Double)?;
    let mut scores = Vec::new();
    for part in 0..splits {
        let (begin, end) = (part * count / splits, (part + 1) * count / splits);
        let log_p = log_p.f_narrow(0, begin, end - begin)?;
        let p = log_p.f_exp()?;
        let q = p.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
        // Where q is 0, every p is 0 too, and 0 · ln 0 counts as 0.
        let log_q = q.f_clamp_min(f64::MIN_POSITIVE)?.f_log()?;
        let gains = p.f_mul(&log_p.f_sub(&log_q)?)?.f_nan_to_num(0.0, None::<f64>, None::<f64>)?;
        let gain = gains.f_sum(Kind::Double)?.f_double_value(&[])? / (end - begin) as f64;
        scores.push(gain.exp());
    }
    Ok(mean_and_deviation(&scores))
}

/// The Kullback-Leibler divergence, in nats, of the shares of classes among generated images from those among real
/// ones: 0 if they are equal. A class without a generated image adds nothing, as p · ln(p / q) is 0 where p is 0.
///
/// # Errors
/// If a class has a generated image but no real one: the divergence is infinite then.
pub fn class_balance(generated: &[f64], real: &[f64]) -> Result<f64> {
    ensure!(
        generated.len() == real.len(),
        "expected the shares of {} classes, found {}",
        real.len(),
        generated.len()
    );
    let mut divergence = 0.0;
    for (class, (&p, &q)) in generated.iter().zip(real).enumerate() {
        ensure!(p == 0.0 || q > 0.0, "no real image is of class {class}, and a generated one is");
        if p > 0.0 {
            divergence += p * (p / q).ln();
        }
    }
    Ok(divergence.max(0.0))
}

/// The share of images in which each class is the most likely one, from `logits` `[n, classes]`.
///
/// # Errors
/// If `logits` is not `[n, classes]`.
pub fn class_shares(logits: &Tensor) -> Result<Vec<f64>> {
    let (count, classes) = logits.size2()?;
    let chosen = logits.f_argmax(1, false)?.f_bincount(None::<Tensor>, classes)?;
    let chosen = Vec::<i64>::try_from(chosen)?;
    Ok(chosen.into_iter().map(|n| n as f64 / count as f64).collect())
}
