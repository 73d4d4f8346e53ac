//! The kernel distance (KID): the squared maximum mean discrepancy between two sets of features, with a cubic
//! polynomial kernel.
//!
//! # Source
//! M. Bińkowski et al., *Demystifying MMD GANs* (2018): k(x, y) = (x·y / d + 1)³, the unbiased estimate, averaged over
//! subsets.

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use crate::rng::permutation;
use crate::statistics::mean_and_deviation;

/// The unbiased estimate from all rows of `x` `[n, d]` and all rows of `y` `[m, d]`.
///
/// # Errors
/// If either has fewer than two rows, or their dimensions differ.
pub fn mmd2(x: &Tensor, y: &Tensor) -> Result<f64> {
    let ((n, d), (m, _)) = (x.size2()?, y.size2()?);
    ensure!(n >= 2 && m >= 2, "a kernel distance takes at least 2 images, found {n} and {m}");
    let (x, y) = (x.f_to_kind(Kind::Double)?, y.f_to_kind(Kind::Double)?);
    let kernel = |a: &Tensor, b: &Tensor| -> Result<Tensor> {
        let products = a.f_mm(&b.f_tr()?)?.f_div_scalar(d as f64)?.f_add_scalar(1.0)?;
        Ok(products.f_pow_tensor_scalar(3)?)
    };
    let total = |k: &Tensor| -> Result<f64> { Ok(k.f_sum(Kind::Double)?.f_double_value(&[])?) };
    let within = |a: &Tensor, n: i64| -> Result<f64> {
        let k = kernel(a, a)?;
        let diagonal = k.f_trace()?.f_double_value(&[])?;
        Ok((total(&k)? - diagonal) / (n * (n - 1)) as f64)
    };
    let between = total(&kernel(&x, &y)?)? / (n * m) as f64;
    Ok(within(&x, n)? + within(&y, m)? - 2.0 * between)
}

/// Mean and standard deviation (dividing by n, not n − 1) over `subsets`: pairs of row numbers of `real` and
/// `generated`.
///
/// # Errors
/// As [`mmd2`]; if there is no subset, or a subset names a row that does not exist.
pub fn kernel_distance(
    real: &Tensor,
    generated: &Tensor,
    subsets: &[(Vec<i64>, Vec<i64>)],
) -> Result<(f64, f64)> {
    ensure!(!subsets.is_empty(), "a kernel distance takes at least one subset");
    let mut estimates = Vec::new();
    for (of_real, of_generated) in subsets {
        let x = real.f_index_select(0, &Tensor::f_from_slice(of_real)?)?;
        let y = generated.f_index_select(0, &Tensor::f_from_slice(of_generated)?)?;
        estimates.push(mmd2(&x, &y)?);
    }
    Ok(mean_and_deviation(&estimates))
}

/// `count` random pairs of subsets: `size` of `real` rows and `size` of `generated` rows, none of them twice in a
/// subset.
pub fn subsets(
    rng: &mut ChaCha8Rng,
    (real, generated): (usize, usize),
    count: usize,
    size: usize,
) -> Vec<(Vec<i64>, Vec<i64>)> {
    let mut draw = |of: usize| -> Vec<i64> {
        permutation(rng, of as u32).into_iter().take(size).map(i64::from).collect()
    };
    (0..count).map(|_| (draw(real), draw(generated))).collect()
}
