//! Precision, recall, density and coverage: how the neighbourhoods of two sets of features overlap.
//!
//! # Source
//! T. Kynkäänniemi et al., *Improved Precision and Recall Metric …* (2019); M. F. Naeem et al., *Reliable
//! Fidelity and Diversity Metrics …* (2020), whose `prdc` compares with `<` throughout, as here; the former's
//! code has `≤`, which differs where distances are equal.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// Rows whose distances are held at a time.
const BLOCK: i64 = 1024;
/// What rounding may make of a squared distance, as a share of the squared lengths. Rows that are nearer are
/// equal; a distance that is nearer to a radius is equal to it, as it is for copies of real images.
const ROUNDING: f64 = 1e-12;

/// The four of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap {
    /// The share of generated rows that lie in the neighbourhood of a real one.
    pub precision: f64,
    /// The share of real rows that lie in the neighbourhood of a generated one.
    pub recall: f64,
    /// In how many neighbourhoods of real rows generated ones lie, over k: 1 is usual, more is possible.
    pub density: f64,
    /// Of the density: the standard deviation of its mean over generated rows.
    pub density_deviation: f64,
    /// The share of real rows in whose neighbourhood a generated one lies.
    pub coverage: f64,
}

/// Of `real` `[n, d]` and `fake` `[m, d]`; a row's neighbourhood reaches to its `k`-th nearest other row.
///
/// # Errors
/// If either has no more than `k` rows, or their dimensions differ.
pub fn overlap(real: &Tensor, fake: &Tensor, k: i64) -> Result<Overlap> {
    let (n, m) = (real.size2()?.0, fake.size2()?.0);
    ensure!(k >= 1 && n > k && m > k, "expected more than k = {k} images, found {n} and {m}");
    // What both share takes no digits.
    let centre =
        real.f_to_kind(Kind::Double)?.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let centred = |x: &Tensor| -> Result<Tensor> { Ok(x.f_to_kind(Kind::Double)?.f_sub(&centre)?) };
    let (real, fake) = (centred(real)?, centred(fake)?);
    let (real_radii, fake_radii) = (radii(&real, k)?, radii(&fake, k)?);

    let (mut precise, mut recalled, mut covered) = (0.0, 0.0, 0.0);
    // In how many neighbourhoods each generated row lies: the sum, and that of squares.
    let (mut within, mut within_squared) = (0.0, 0.0);
    let sum = |x: &Tensor| -> Result<f64> { Ok(x.f_sum(Kind::Double)?.f_double_value(&[])?) };
    // Rows of generated images against all real ones, then the other way round.
    for start in (0..m).step_by(BLOCK as usize) {
        let distances = at_most(&fake.f_narrow(0, start, BLOCK.min(m - start))?, &real)?;
        let inside = distances.f_lt_tensor(&real_radii)?; // [block, n]
        precise += sum(&inside.f_any_dim(1, false)?)?;
        let neighbourhoods = inside.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        within += sum(&neighbourhoods)?;
        within_squared += sum(&neighbourhoods.f_square()?)?;
    }
    for start in (0..n).step_by(BLOCK as usize) {
        let length = BLOCK.min(n - start);
        let distances = at_most(&real.f_narrow(0, start, length)?, &fake)?;
        recalled += sum(&distances.f_lt_tensor(&fake_radii)?.f_any_dim(1, false)?)?;
        let nearest = distances.f_amin([1i64].as_slice(), false)?;
        covered += sum(&nearest.f_lt_tensor(&real_radii.f_narrow(0, start, length)?)?)?;
    }
    Ok(Overlap {
        precision: precise / m as f64,
        recall: recalled / n as f64,
        density: within / (k * m) as f64,
        density_deviation: {
            let (m, k) = (m as f64, k as f64);
            let variance = within_squared / m - (within / m).powi(2);
            (variance.max(0.0) / m).sqrt() / k
        },
        coverage: covered / n as f64,
    })
}

/// The squared distance of each row to its `k`-th nearest other one: `[n]`.
fn radii(x: &Tensor, k: i64) -> Result<Tensor> {
    let count = x.size2()?.0;
    let mut radii = Vec::new();
    for start in (0..count).step_by(BLOCK as usize) {
        let length = BLOCK.min(count - start);
        let distances = squares(&x.f_narrow(0, start, length)?, x)?;
        // A row itself is at 0, and the first of them.
        let (nearest, _) = distances.f_topk(k + 1, 1, false, true)?;
        radii.push(nearest.f_select(1, k)?);
    }
    Ok(Tensor::f_cat(&radii, 0)?)
}

/// Squared distances of rows: `[a, b]`.
fn squares(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (squares, rounding) = squares_and_rounding(a, b)?;
    let is_rounding = squares.f_le_tensor(&rounding)?;
    Ok(squares.f_masked_fill(&is_rounding, 0.0)?)
}

/// The most that squared distances of rows can be without rounding: `[a, b]`.
fn at_most(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (squares, rounding) = squares_and_rounding(a, b)?;
    Ok(squares.f_add(&rounding)?)
}

fn squares_and_rounding(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let lengths = |x: &Tensor, keep: bool| -> Result<Tensor> {
        Ok(x.f_square()?.f_sum_dim_intlist([1i64].as_slice(), keep, Kind::Double)?)
    };
    let both = lengths(a, true)?.f_add(&lengths(b, false)?)?;
    let squares = both.f_sub(&a.f_mm(&b.f_tr()?)?.f_mul_scalar(2.0)?)?;
    Ok((squares, both.f_mul_scalar(ROUNDING)?))
}
