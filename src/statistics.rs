//! Means, standard deviations, medians and quantiles of a few numbers.

/// Numbers in ascending order, so that several of their quantiles can be read without sorting them again.
#[derive(Debug, Clone, PartialEq)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts `values`.
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The smallest number, or NaN if there is none.
    pub fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The largest number, or NaN if there is none.
    pub fn greatest(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// The quantile `part / whole`: the number at position `count · part / whole`, rounded down and counted from 0; NaN
    /// if there is none. It is always one of the numbers: `quantile(1, 2)` of an even count is the larger of the two
    /// in the middle.
    pub fn quantile(&self, part: usize, whole: usize) -> f64 {
        self.0.get(self.0.len() * part / whole).copied().unwrap_or(f64::NAN)
    }

    /// The smallest and the largest number that are left after the lowest and the highest `count / n` numbers, rounded
    /// down, are taken away; NaN if no number is left.
    pub fn without_tails(&self, n: usize) -> (f64, f64) {
        let tail = self.0.len() / n;
        let at = |i: Option<usize>| i.and_then(|i| self.0.get(i)).copied().unwrap_or(f64::NAN);
        (at(Some(tail)), at((self.0.len() - tail).checked_sub(1)))
    }

    /// The number in the middle, or the mean of the two in the middle; NaN if there is none.
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            count if count % 2 == 1 => self.0[middle],
            _ => (self.0[middle - 1] + self.0[middle]) / 2.0,
        }
    }
}

/// The median of `values`; see [`Sorted::median`].
pub fn median(values: &[f64]) -> f64 {
    Sorted::new(values.iter().copied()).median()
}

/// The mean and the standard deviation of `values`. The variance is the sum of squares divided by n, the number of
/// values.
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n;
    (mean, variance.sqrt())
}

/// The standard deviation of the source from which `values` were drawn, estimated with n − 1 in place of n. It is 0 for
/// a single value.
pub fn sample_deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    if n < 2.0 { 0.0 } else { mean_and_deviation(values).1 * (n / (n - 1.0)).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_statistics_of_odd_even_and_no_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert!(median(&[]).is_nan() && Sorted::new([]).quantile(1, 2).is_nan());
        let hundred = Sorted::new((0..200).rev().map(f64::from));
        assert_eq!((hundred.least(), hundred.greatest(), hundred.count()), (0.0, 199.0, 200));
        assert_eq!(
            [(1, 100), (1, 2)].map(|(part, whole)| hundred.quantile(part, whole)),
            [2., 100.]
        );
        assert_eq!(hundred.without_tails(100), (2.0, 197.0));
        assert!(Sorted::new([]).without_tails(100).1.is_nan());
    }

    #[test]
    fn deviations_divide_by_n_or_by_one_less() {
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), (2.0, 1.0));
        assert_eq!(sample_deviation(&[1.0, 3.0]), 2.0_f64.sqrt());
        assert_eq!(sample_deviation(&[7.0]), 0.0);
    }
}
