//! What a classifier says of generated images.
//!
//! # Source
//! T. Salimans et al., *Improved Techniques for Training GANs* (2016), with this program's classifier instead
//! of Inception.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::kernel::mean_and_std;

/// exp of the mean information that an image gives on its class, of `logits` `[n, classes]`: 1 to the number of
/// classes. Mean and standard deviation (of n) over `splits` parts of equal size.
///
/// # Errors
/// If there are fewer rows than parts.
pub fn classifier_score(logits: &Tensor, splits: i64) -> Result<(f64, f64)> {
    let (count, _) = logits.size2()?;
    ensure!(splits >= 1 && count >= splits, "{splits} parts of {count} images");
    let log_p = logits.f_to_kind(Kind::Double)?.f_log_softmax(1, Kind::Double)?;
    let mut scores = Vec::new();
    for part in 0..splits {
        let (begin, end) = (part * count / splits, (part + 1) * count / splits);
        let log_p = log_p.f_narrow(0, begin, end - begin)?;
        let p = log_p.f_exp()?;
        let q = p.f_mean_dim([0i64].as_slice(), true, Kind::Double)?;
        // Where q is 0, so is every p, and 0 · ln 0 is 0.
        let log_q = q.f_clamp_min(f64::MIN_POSITIVE)?.f_log()?;
        let gains = p.f_mul(&log_p.f_sub(&log_q)?)?.f_nan_to_num(0.0, None::<f64>, None::<f64>)?;
        let gain = gains.f_sum(Kind::Double)?.f_double_value(&[])? / (end - begin) as f64;
        scores.push(gain.exp());
    }
    Ok(mean_and_std(&scores))
}

/// KL(generated ‖ real) of the shares of classes, in nats: 0 is as balanced as real images. A class that no
/// generated image has counts nothing, which is what the divergence says.
///
/// # Errors
/// If a class has no real image and a generated one: then it is infinite.
pub fn class_balance(fake: &[f64], real: &[f64]) -> Result<f64> {
    ensure!(fake.len() == real.len(), "{} classes and {}", fake.len(), real.len());
    let mut divergence = 0.0;
    for (class, (&p, &q)) in fake.iter().zip(real).enumerate() {
        ensure!(p == 0.0 || q > 0.0, "no real image is of class {class}, and a generated one is");
        if p > 0.0 {
            divergence += p * (p / q).ln();
        }
    }
    Ok(divergence.max(0.0))
}

/// The share of each class among `logits`' most likely ones.
///
/// # Errors
/// If `logits` is not `[n, classes]`.
pub fn class_shares(logits: &Tensor) -> Result<Vec<f64>> {
    let (count, classes) = logits.size2()?;
    let chosen = logits.f_argmax(1, false)?.f_bincount(None::<Tensor>, classes)?;
    let chosen = Vec::<i64>::try_from(chosen)?;
    Ok(chosen.into_iter().map(|n| n as f64 / count as f64).collect())
}
