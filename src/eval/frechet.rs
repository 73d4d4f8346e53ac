//! The Fréchet distance between two sets of features, each described by the normal distribution of its mean and
//! covariance.
//!
//! # Source
//! D. C. Dowson and B. V. Landau, *The Fréchet Distance between Multivariate Normal Distributions* (1982);
//! M. Heusel et al., *GANs Trained by a Two Time-Scale Update Rule …* (2017).

use std::cell::OnceCell;

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::lazily::get_or_try_init;

/// Rows that are converted to float64 at a time.
const BLOCK: i64 = 4096;
/// An eigenvalue of at most this share of the largest one is a rounding error, and counts as 0.
const ROUNDING: f64 = 1e-13;
/// An eigenvalue below minus this share of the largest one is no rounding error: the matrix is no covariance.
const NEGATIVE: f64 = 1e-6;

/// Mean and covariance of a set of features, in float64.
#[derive(Debug)]
pub struct Moments {
    /// The number of rows.
    count: i64,
    /// `[d]`.
    mean: Tensor,
    spread: Spread,
}

/// A covariance, in the form that takes less memory.
#[derive(Debug)]
enum Spread {
    /// The covariance itself, `[d, d]`, divided by n − 1.
    Covariance(Tensor),
    /// The rows less their mean, `[n, d]`, where n is smaller than d.
    Rows(Tensor),
}

impl Moments {
    /// The moments of `features` `[n, d]`, n at least 2.
    ///
    /// # Errors
    /// If there are fewer than two rows.
    pub fn of(features: &Tensor) -> Result<Self> {
        let (count, dimensions) = features.size2()?;
        ensure!(count >= 2, "a covariance takes at least 2 images, found {count}");
        let rows = |start: i64| -> Result<Tensor> {
            let rows = features.f_narrow(0, start, BLOCK.min(count - start))?;
            Ok(rows.f_to_kind(Kind::Double)?)
        };
        let mut mean = Tensor::f_zeros([dimensions], (Kind::Double, features.device()))?;
        for start in (0..count).step_by(BLOCK as usize) {
            let sum = rows(start)?.f_sum_dim_intlist([0i64].as_slice(), false, Kind::Double)?;
            mean = mean.f_add(&sum)?;
        }
        let mean = mean.f_div_scalar(count as f64)?;
        if count < dimensions {
            let rows = features.f_to_kind(Kind::Double)?.f_sub(&mean)?;
            return Ok(Self { count, mean, spread: Spread::Rows(rows) });
        }
        let mut products = Tensor::f_zeros([dimensions; 2], (Kind::Double, features.device()))?;
        for start in (0..count).step_by(BLOCK as usize) {
            let rows = rows(start)?.f_sub(&mean)?;
            products = products.f_add(&rows.f_tr()?.f_mm(&rows)?)?;
        }
        let covariance = products.f_div_scalar((count - 1) as f64)?;
        Ok(Self { count, mean, spread: Spread::Covariance(covariance) })
    }

    /// The covariance, `[d, d]`, divided by n − 1.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn covariance(&self) -> Result<Tensor> {
        Ok(match &self.spread {
            Spread::Covariance(covariance) => covariance.shallow_clone(),
            Spread::Rows(rows) => rows.f_tr()?.f_mm(rows)?.f_div_scalar((self.count - 1) as f64)?,
        })
    }

    /// The trace of the covariance.
    fn trace(&self) -> Result<f64> {
        Ok(match &self.spread {
            Spread::Covariance(covariance) => covariance.f_trace()?.f_double_value(&[])?,
            Spread::Rows(rows) => {
                let squares = rows.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
                squares / (self.count - 1) as f64
            }
        })
    }

    /// The symmetric square root of the covariance.
    fn root(&self) -> Result<Tensor> {
        let (values, vectors) = self.covariance()?.f_linalg_eigh("L")?;
        let roots = Vec::<f64>::try_from(values)?;
        let roots = Tensor::f_from_slice(&roots_of(&roots)?)?.f_to_device(vectors.device())?;
        Ok(vectors.f_mul(&roots)?.f_mm(&vectors.f_tr()?)?)
    }
}

/// One side of any number of distances. What all of them share is computed when it is first needed.
#[derive(Debug)]
pub struct Reference {
    moments: Moments,
    covariance: OnceCell<Tensor>,
    root: OnceCell<Tensor>,
}

impl Reference {
    /// The side with these moments.
    pub fn new(moments: Moments) -> Self {
        Self { moments, covariance: OnceCell::new(), root: OnceCell::new() }
    }

    /// The distance ‖μ₁ − μ₂‖² + tr S₁ + tr S₂ − 2 tr √(√S₁ S₂ √S₁). The last term equals the usual 2 tr √(S₁ S₂), but
    /// its matrix is symmetric, so that rounding gives it no imaginary part. Where S₂ = XᵀX / (n − 1) and X has fewer
    /// rows than dimensions, the smaller matrix X S₁ Xᵀ / (n − 1) has the same eigenvalues except for zeros.
    ///
    /// # Errors
    /// If a matrix is no covariance: it is not finite or has a negative eigenvalue that is no rounding error; if the
    /// other set has other dimensions.
    pub fn distance(&self, other: &Moments) -> Result<f64> {
        let Self { moments, covariance, root } = self;
        ensure!(
            moments.mean.size() == other.mean.size(),
            "features of {:?} and of {:?} dimensions cannot be compared",
            moments.mean.size(),
            other.mean.size()
        );
        let shift = moments.mean.f_sub(&other.mean)?.f_square()?.f_sum(Kind::Double)?;
        let traces = moments.trace()? + other.trace()?;
        let product = match &other.spread {
            Spread::Rows(rows) => {
                let covariance = get_or_try_init(covariance, || moments.covariance())?;
                let product = rows.f_mm(covariance)?.f_mm(&rows.f_tr()?)?;
                product.f_div_scalar((other.count - 1) as f64)?
            }
            Spread::Covariance(covariance) => {
                let root = get_or_try_init(root, || moments.root())?;
                root.f_mm(covariance)?.f_mm(root)?
            }
        };
        let product = product.f_add(&product.f_tr()?)?.f_mul_scalar(0.5)?;
        let values = Vec::<f64>::try_from(product.f_linalg_eigvalsh("L")?)?;
        let root_trace: f64 = roots_of(&values)?.iter().sum();
        let distance = shift.f_double_value(&[])? + traces - 2.0 * root_trace;
        // Rounding may make the distance of equal sets slightly negative.
        Ok(distance.max(0.0))
    }
}

/// The square roots of `values`, the eigenvalues of a positive semidefinite matrix in ascending order.
fn roots_of(values: &[f64]) -> Result<Vec<f64>> {
    let largest = values.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    ensure!(
        values.iter().all(|&value| value >= -NEGATIVE * largest),
        "a covariance has the eigenvalue {:e} beside {largest:e}: the features are not finite or too large",
        values.first().copied().unwrap_or(f64::NAN)
    );
    let rounding = ROUNDING * largest;
    Ok(values.iter().map(|&value| if value > rounding { value.sqrt() } else { 0.0 }).collect())
}
