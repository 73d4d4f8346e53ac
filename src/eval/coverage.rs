//! Precision, recall, density and coverage: how the neighbourhoods of two sets of features overlap.
//!
//! A row's neighbourhood is a ball around it that reaches to its k-th nearest other row of the same set.
//!
//! # Source
//! T. Kynkäänniemi et al., *Improved Precision and Recall Metric …* (2019); M. F. Naeem et al., *Reliable
//! Fidelity and Diversity Metrics …* (2020). A ball is open here, as in the latter's `prdc`, which compares with `<`
//! throughout; the former's code compares with `≤`, which differs where distances are equal.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

/// Rows whose distances to all others are held in memory at a time.
const BLOCK: i64 = 1024;
/// How large the rounding error of a squared distance may be, as a share of the squared lengths of both rows. Rows
/// that are nearer than that count as equal, and a distance that is nearer than that to a radius counts as equal to
/// the radius: copies of real images have such distances.
const ROUNDING: f64 = 1e-12;

/// All four of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap {
    /// The share of generated rows that lie in the neighbourhood of a real one.
    pub precision: f64,
    /// The share of real rows that lie in the neighbourhood of a generated one.
    pub recall: f64,
    /// The mean number of neighbourhoods of real rows in which a generated row lies, divided by k. Real images have
    /// about 1; more is possible.
    pub density: f64,
    /// The standard deviation of the density, which is a mean over generated rows.
    pub density_deviation: f64,
    /// The share of real rows in whose neighbourhood a generated one lies.
    pub coverage: f64,
}

/// How the neighbourhoods of `real` `[n, d]` and `generated` `[m, d]` overlap; each reaches to the `k`-th nearest other
/// row.
///
/// # Errors
/// If either has no more than `k` rows, or their dimensions differ.
pub fn overlap(real: &Tensor, generated: &Tensor, k: i64) -> Result<Overlap> {
    let (n, m) = (real.size2()?.0, generated.size2()?.0);
    ensure!(k >= 1 && n > k && m > k, "expected more than k = {k} images, found {n} and {m}");
    // Distances do not change when all rows are moved, and are more exact near the origin.
    let centre =
        real.f_to_kind(Kind::Double)?.f_mean_dim([0i64].as_slice(), false, Kind::Double)?;
    let centred = |x: &Tensor| -> Result<Tensor> { Ok(x.f_to_kind(Kind::Double)?.f_sub(&centre)?) };
    let (real, generated) = (centred(real)?, centred(generated)?);
    let (real_radii, generated_radii) = (squared_radii(&real, k)?, squared_radii(&generated, k)?);

    let (mut precise, mut recalled, mut covered) = (0.0, 0.0, 0.0);
    // The number of neighbourhoods in which a generated row lies: its sum over rows, and that of its squares.
    let (mut within, mut within_squared) = (0.0, 0.0);
    let sum = |x: &Tensor| -> Result<f64> { Ok(x.f_sum(Kind::Double)?.f_double_value(&[])?) };
    for start in (0..m).step_by(BLOCK as usize) {
        let block = generated.f_narrow(0, start, BLOCK.min(m - start))?;
        let distances = upper_bounds(&block, &real)?; // [block, n]
        let inside = distances.f_lt_tensor(&real_radii)?;
        precise += sum(&inside.f_any_dim(1, false)?)?;
        let neighbourhoods = inside.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        within += sum(&neighbourhoods)?;
        within_squared += sum(&neighbourhoods.f_square()?)?;
    }
    for start in (0..n).step_by(BLOCK as usize) {
        let length = BLOCK.min(n - start);
        let distances = upper_bounds(&real.f_narrow(0, start, length)?, &generated)?; // [block, m]
        recalled += sum(&distances.f_lt_tensor(&generated_radii)?.f_any_dim(1, false)?)?;
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
fn squared_radii(x: &Tensor, k: i64) -> Result<Tensor> {
    let count = x.size2()?.0;
    let mut radii = Vec::new();
    for start in (0..count).step_by(BLOCK as usize) {
        let length = BLOCK.min(count - start);
        let (squares, rounding) = squared_distances(&x.f_narrow(0, start, length)?, x)?;
        let squares = squares.f_masked_fill(&squares.f_le_tensor(&rounding)?, 0.0)?;
        // The nearest row of all is the row itself, at 0.
        let (nearest, _) = squares.f_topk(k + 1, 1, false, true)?;
        radii.push(nearest.f_select(1, k)?);
    }
    Ok(Tensor::f_cat(&radii, 0)?)
}

/// The largest values that the squared distances between rows may have without rounding: `[a, b]`.
fn upper_bounds(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (squares, rounding) = squared_distances(a, b)?;
    Ok(squares.f_add(&rounding)?)
}

/// The squared distances between the rows of `a` and of `b`, and how large their rounding errors may be: `[a, b]` each.
fn squared_distances(a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor)> {
    let lengths = |x: &Tensor, keep: bool| -> Result<Tensor> {
        Ok(x.f_square()?.f_sum_dim_intlist([1i64].as_slice(), keep, Kind::Double)?)
    };
    let both = lengths(a, true)?.f_add(&lengths(b, false)?)?;
    let squares = both.f_sub(&a.f_mm(&b.f_tr()?)?.f_mul_scalar(2.0)?)?;
    Ok((squares, both.f_mul_scalar(ROUNDING)?))
}
