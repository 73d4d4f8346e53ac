//! How often which values occur in a tensor.

use std::sync::LazyLock;

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

/// The limits of buckets, in order: from 1e-12 on each is 1.1 times the one before, up to 1e20, and the same below 0.
///
/// # Source
/// TensorFlow's `core/lib/histogram/histogram.cc`, whose buckets TensorFlow 1's `tf.summary.histogram` writes and
/// PyTorch's `add_histogram` has as its default.
static LIMITS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let positive: Vec<f64> =
        std::iter::successors(Some(1e-12), |limit| Some(limit * 1.1).filter(|&next| next < 1e20))
            .chain([f64::MAX])
            .collect();
    let negative = positive.iter().rev().map(|limit| -limit);
    negative.chain([0.0]).chain(positive.iter().copied()).collect()
});

/// How many values are looked at together: so many that all cores have work, and little memory is taken.
const CHUNK: i64 = 1 << 20;

/// How often which values occur. Its buckets are as narrow as the values are small, so that it suits weights and
/// gradients of any size.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// The least value.
    pub least: f64,
    /// The largest value.
    pub largest: f64,
    /// The number of values.
    pub count: u64,
    /// The sum of all values.
    pub sum: f64,
    /// The sum of their squares.
    pub sum_of_squares: f64,
    /// The upper end of each bucket, ascending. A bucket holds the values from the end of the one before up to, and
    /// without, its own. The first is empty and says where the second begins; the last is empty, too, because some readers
    /// replace its end.
    pub limits: Vec<f64>,
    /// How many values are in each bucket.
    pub counts: Vec<u64>,
}

impl Histogram {
    /// The histogram of the values of a tensor, of any shape, kind and device.
    ///
    /// # Errors
    /// If there is no value, or one is not finite.
    pub fn of(values: &Tensor) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        let values = values.f_to_device(Device::Cpu)?.f_reshape([-1])?;
        let count = values.numel();
        ensure!(count > 0, "a histogram needs at least one value");
        let limits = Tensor::f_from_slice(&LIMITS)?;
        let buckets = Tensor::f_zeros([LIMITS.len() as i64 + 1], (Kind::Int64, Device::Cpu))?;
        let (mut least, mut largest) = (f64::INFINITY, f64::NEG_INFINITY);
        let (mut sum, mut sum_of_squares) = (0.0, 0.0);
        for chunk in values.f_split(CHUNK, 0)? {
            let chunk = chunk.f_to_kind(Kind::Double)?;
            let (low, high) = chunk.f_aminmax(None::<i64>, false)?;
            let (low, high) = (low.f_double_value(&[])?, high.f_double_value(&[])?);
            ensure!(low.is_finite() && high.is_finite(), "a value is not finite");
            (least, largest) = (least.min(low), largest.max(high));
            sum += chunk.f_sum(Kind::Double)?.f_double_value(&[])?;
            sum_of_squares += chunk.f_dot(&chunk)?.f_double_value(&[])?;
            let bucket_of_each = chunk.f_bucketize(&limits, true, true)?;
            let counts = bucket_of_each.f_bincount(None::<&Tensor>, buckets.size()[0])?;
            let _ = buckets.shallow_clone().f_add_(&counts)?;
        }
        let (limits, counts) = without_gaps(&Vec::<i64>::try_from(buckets)?);
        Ok(Self { least, largest, count: count as u64, sum, sum_of_squares, limits, counts })
    }
}

/// The buckets that are not empty, and one before and behind them. Empty ones beside each other become one.
fn without_gaps(all: &[i64]) -> (Vec<f64>, Vec<u64>) {
    let is_full = |count: &i64| *count > 0;
    let first = all.iter().position(is_full).unwrap_or_default().saturating_sub(1);
    let last = all.iter().rposition(is_full).unwrap_or_default();
    let (mut limits, mut counts) = (Vec::new(), Vec::new());
    let buckets = all.iter().zip(LIMITS.iter()).skip(first).take(last + 2 - first);
    for (&count, &limit) in buckets {
        if count == 0 && counts.last() == Some(&0) {
            limits.pop();
            counts.pop();
        }
        limits.push(limit);
        counts.push(count as u64);
    }
    (limits, counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_bucket_whose_limits_it_lies_between() -> Result<()> {
        for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
            let values = [-2.0, 0.0, 0.0, 1e-3, 0.25, 0.25, 3.0];
            let tensor = Tensor::from_slice(&values).to_kind(kind).view([7, 1]);
            let values = Vec::<f64>::try_from(tensor.view([7]).to_kind(Kind::Double))?;
            let histogram = Histogram::of(&tensor.set_requires_grad(true))?;
            assert_eq!((histogram.least, histogram.largest, histogram.count), (-2.0, 3.0, 7));
            for (found, expected) in [
                (histogram.sum, values.iter().sum::<f64>()),
                (histogram.sum_of_squares, values.iter().map(|x| x * x).sum()),
            ] {
                assert!((found - expected).abs() < 1e-14, "{found} {expected}");
            }
            assert!(histogram.limits.is_sorted_by(|a, b| a < b));
            let mut before = f64::NEG_INFINITY;
            for (&limit, &count) in histogram.limits.iter().zip(&histogram.counts) {
                let expected = values.iter().filter(|&&x| before <= x && x < limit).count();
                assert_eq!(count, expected as u64, "{before} to {limit}");
                before = limit;
            }
            // Five buckets hold values; around each are empty ones, of which many became one.
            assert_eq!(histogram.counts, [0, 1, 0, 2, 0, 1, 0, 2, 0, 1, 0]);
            // Zeros are in a bucket of their own, between 0 and the least limit.
            assert_eq!(histogram.limits[2..4], [0.0, 1e-12]);
            // A bucket is a tenth wider than the one before.
            let width = histogram.limits[9] / histogram.limits[8];
            assert!((width - 1.1).abs() < 1e-12, "{width}");
        }
        Ok(())
    }

    #[test]
    fn many_values_are_all_counted() -> Result<()> {
        let values = Tensor::arange(2 * CHUNK + 3, (Kind::Float, Device::Cpu)).fmod(7.0);
        let histogram = Histogram::of(&values)?;
        let count = values.numel() as u64;
        assert_eq!((histogram.count, histogram.counts.iter().sum::<u64>()), (count, count));
        assert_eq!(histogram.sum, values.sum(Kind::Double).double_value(&[]));
        Ok(())
    }

    #[test]
    fn what_has_no_histogram_is_an_error() {
        for value in [f64::NAN, f64::INFINITY] {
            assert!(Histogram::of(&Tensor::from_slice(&[0.0, value])).is_err());
        }
        assert!(Histogram::of(&Tensor::zeros([0], (Kind::Float, Device::Cpu))).is_err());
    }
}
