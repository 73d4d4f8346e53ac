//! The cross-entropy loss, and a leaky ReLU of any slope, which `tch` lacks.

use anyhow::Result;
use tch::{Reduction, Tensor};

/// `tf.nn.sigmoid_cross_entropy_with_logits(logits, label)`, averaged over the batch.
///
/// # Shapes
/// `logits` `[N, 1]` → scalar, same kind and device. `label` is the same for every row.
///
/// # Errors
/// If `logits` is not of a floating kind.
pub fn sigmoid_cross_entropy(logits: &Tensor, label: f64) -> Result<Tensor> {
    let labels = logits.f_full_like(label)?.f_detach()?;
    Ok(logits.f_binary_cross_entropy_with_logits::<&Tensor>(
        &labels,
        None,
        None,
        Reduction::Mean,
    )?)
}

/// The part of [`sigmoid_cross_entropy`] that these logits have in the average over a batch of `rows`: the parts of a
/// batch, some of which may be empty, add up to it.
///
/// # Errors
/// As [`sigmoid_cross_entropy`].
pub fn part_of_sigmoid_cross_entropy(logits: &Tensor, label: f64, rows: i64) -> Result<Tensor> {
    let labels = logits.f_full_like(label)?.f_detach()?;
    let sum = logits.f_binary_cross_entropy_with_logits::<&Tensor>(
        &labels,
        None,
        None,
        Reduction::Sum,
    )?;
    Ok(sum.f_div_scalar(rows)?)
}

/// `max(alpha · x, x)` for 0 < `alpha` < 1 and any shape. Forward and backward are one kernel each.
///
/// # Errors
/// If `x` is not of a floating kind.
pub fn leaky_relu(x: &Tensor, alpha: f64) -> Result<Tensor> {
    // `tch`'s leaky_relu takes no slope, but its leaky_relu_backward does. With x as the gradient argument, at
    // the point x, its value is x · (x > 0 ? 1 : alpha): the leaky ReLU. The point is detached, so what flows
    // back is the derivative by the gradient argument, and that is the leaky ReLU's derivative.
    Ok(x.f_detach()?.f_leaky_relu_backward(x, alpha, false)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Kind;

    #[test]
    fn leaky_relu_has_the_value_and_the_gradient_of_the_obvious_form() -> Result<()> {
        let x = Tensor::from_slice(&[-2.0, -0.5, 0.25, 3.0]).set_requires_grad(true);
        let weights = Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]);
        let obvious = x.maximum(&(&x * 0.2));
        let ours = leaky_relu(&x, 0.2)?;
        assert_eq!(ours, obvious);
        let gradient = |y: &Tensor| {
            Tensor::run_backward(&[(y * &weights).sum(Kind::Double)], &[&x], false, false)
        };
        assert_eq!(gradient(&ours), gradient(&obvious));
        assert_eq!(gradient(&leaky_relu(&x, 0.2)?)[0], Tensor::from_slice(&[0.2, 0.4, 3.0, 4.0]));
        Ok(())
    }

    #[test]
    fn cross_entropy_is_the_stable_formula_even_for_large_logits() -> Result<()> {
        let x = [-800.0_f64, -3.0, 0.0, 0.5, 700.0];
        for label in [0.0, 0.9, 1.0] {
            let logits = Tensor::from_slice(&x).view([5, 1]);
            let ours = sigmoid_cross_entropy(&logits, label)?.double_value(&[]);
            let term = |x: f64| x.max(0.0) - x * label + (-x.abs()).exp().ln_1p();
            let expected = x.iter().map(|&x| term(x)).sum::<f64>() / 5.0;
            assert!((ours - expected).abs() <= 1e-14 * expected.abs(), "{ours} {expected}");
        }
        Ok(())
    }
}
