//! Compares convolutions as matrix products with libtorch's own in float64.

use anyhow::Result;
use dcgan::torch::conv_by_product;
use tch::{Device, Kind, Tensor};

use super::common::{normal, one_thread};

/// Set in the process that [`threads_share_the_work_and_change_nothing_but_rounding`] starts.
const IS_CHILD: &str = "DCGAN_TEST_THREADS";

/// libtorch's own convolution or transposed convolution.
fn by_libtorch(x: &Tensor, weight: &Tensor, bias: &Tensor, transposed: bool) -> Tensor {
    match transposed {
        true => x.conv_transpose2d(weight, Some(bias), [2, 2], [2, 2], [1, 1], 1, [1, 1]),
        false => x.conv2d(weight, Some(bias), [2, 2], [2, 2], [1, 1], 1),
    }
}

/// A leaf in memory of its own that gradients are asked of.
fn leaf(x: &Tensor, kind: Kind) -> Tensor {
    x.detach().to_kind(kind).copy().set_requires_grad(true)
}

/// `x` `[N, C, H, W]` in channels-last order.
fn channels_last(x: &Tensor) -> Tensor {
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// The gradients of the tensors in `of` where `g` is that of `y`.
fn gradients(y: &Tensor, g: &Tensor, of: &[&Tensor]) -> Vec<Tensor> {
    let loss = (y * g.to_kind(y.kind())).sum(y.kind());
    Tensor::run_backward(&[&loss], of, false, false)
}

/// ‖a − b‖ / ‖b‖.
fn error(a: &Tensor, b: &Tensor) -> f64 {
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(a.to_kind(Kind::Double) - b)) / norm(b)
}

struct Case {
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    /// The gradient of the output.
    g: Tensor,
}

impl Case {
    /// Of `n` images, with `a` channels on a coarse grid of `h` × `w` and `c` on the fine one. Values are those that
    /// bfloat16 can hold, so that rounding the factors is no part of an error.
    fn new(transposed: bool, [n, a, c, h, w]: [i64; 5]) -> Self {
        let of_kind =
            |seed, size: &[i64]| normal(seed, size).to_kind(Kind::BFloat16).to_kind(Kind::Double);
        let (coarse, fine) = (of_kind(1, &[n, a, h, w]), of_kind(2, &[n, c, 2 * h, 2 * w]));
        let weight = of_kind(3, &[a, c, 5, 5]);
        let (x, g) = if transposed { (coarse, fine) } else { (fine, coarse) };
        Self { x, weight, bias: of_kind(4, &[g.size()[1]]), g }
    }
}

const SIZES: [[i64; 5]; 6] = [
    [8, 24, 16, 4, 4],
    [7, 20, 9, 8, 8],
    [3, 16, 3, 5, 2],
    [5, 6, 1, 3, 7],
    [1, 1, 1, 1, 1],
    [2, 33, 17, 1, 6],
];

#[test]
fn both_directions_and_their_gradients_are_libtorchs_but_for_rounding() -> Result<()> {
    one_thread();
    for (kind, bound) in [(Kind::Double, 1e-14), (Kind::Float, 2e-6), (Kind::BFloat16, 6e-3)] {
        for size in SIZES {
            for transposed in [false, true] {
                let Case { x, weight, bias, g } = Case::new(transposed, size);
                let exact = {
                    let [x, weight, bias] = [&x, &weight, &bias].map(|x| leaf(x, Kind::Double));
                    let y = by_libtorch(&x, &weight, &bias, transposed);
                    let mut all = vec![y.detach()];
                    all.extend(gradients(&y, &g, &[&x, &weight, &bias]));
                    all
                };
                // Whole batches, parts that are not equal, and images one by one; in either memory order.
                for (at_once, is_channels_last) in [(size[0], true), (3, true), (1, false)] {
                    let arranged = |x: &Tensor| match is_channels_last {
                        true => leaf(&channels_last(x), kind),
                        false => leaf(&x.contiguous(), kind),
                    };
                    let [x, weight] = [&x, &weight].map(arranged);
                    let bias = leaf(&bias, kind);
                    let y = conv_by_product(&x, &weight, &bias, transposed, at_once)?;
                    let mut ours = vec![y.detach()];
                    ours.extend(gradients(&y, &g, &[&x, &weight, &bias]));
                    for (i, (ours, exact)) in ours.iter().zip(&exact).enumerate() {
                        assert_eq!((ours.size(), ours.kind()), (exact.size(), kind));
                        let error = error(ours, exact);
                        let case = format!("{kind:?}, {size:?}, {transposed}, {at_once}, {i}");
                        assert!(error <= bound, "{case}: {error:e} > {bound:e}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn a_gradient_is_the_same_with_and_without_the_others_and_equal_each_time() -> Result<()> {
    one_thread();
    for kind in [Kind::Float, Kind::BFloat16] {
        for transposed in [true, false] {
            let Case { x, weight, bias, g } = Case::new(transposed, SIZES[1]);
            let [x, weight, bias] = [&x, &weight, &bias].map(|x| leaf(x, kind));
            let y = || conv_by_product(&x, &weight, &bias, transposed, 4);
            let all = gradients(&y()?, &g, &[&x, &weight, &bias]);
            assert_eq!(all, gradients(&y()?, &g, &[&x, &weight, &bias]), "{kind:?}, {transposed}");
            for (i, one) in [&x, &weight, &bias].into_iter().enumerate() {
                assert_eq!(all[i], gradients(&y()?, &g, &[one])[0], "{kind:?}, {transposed}, {i}");
            }
        }
    }
    Ok(())
}

#[test]
fn an_empty_batch_gives_an_empty_output_and_a_gradient_of_zeros() -> Result<()> {
    for transposed in [false, true] {
        let Case { x, weight, bias, g } = Case::new(transposed, [0, 4, 3, 2, 2]);
        let [x, weight, bias] = [&x, &weight, &bias].map(|x| leaf(x, Kind::Float));
        let y = conv_by_product(&x, &weight, &bias, transposed, 1)?;
        assert_eq!(y.size(), g.size());
        let of = gradients(&y, &g, &[&x, &weight]);
        assert_eq!(of[0].size(), x.size());
        assert_eq!(of[1], weight.zeros_like().detach(), "{transposed}");
    }
    Ok(())
}

#[test]
fn what_cannot_be_computed_is_an_error_that_says_why() -> Result<()> {
    let zeros = |size: &[i64], kind| Tensor::zeros(size, (kind, Device::Cpu));
    let (float, half) = (Kind::Float, Kind::Half);
    for (size, kind, of_weight, biases, transposed, at_once, part) in [
        (&[1, 4, 4, 4][..], float, float, 4, false, 1, "do not go together"),
        (&[1, 3, 4, 4], float, float, 3, true, 1, "do not go together"),
        (&[3, 4, 4], float, float, 4, false, 1, "do not go together"),
        (&[1, 3, 4, 4], float, float, 3, false, 1, "do not go together"),
        (&[1, 3, 4, 4], Kind::Double, float, 4, false, 1, "tensors of one kind"),
        (&[1, 3, 4, 4], half, half, 4, false, 1, "expected bfloat16"),
        (&[1, 3, 4, 5], float, float, 4, false, 1, "even sides"),
        (&[1, 3, 4, 4], float, float, 4, false, 0, "at least one image"),
        (&[1, 3, 4, 0], float, float, 4, false, 1, "at least one pixel"),
    ] {
        let (weight, bias) = (zeros(&[4, 3, 5, 5], of_weight), zeros(&[biases], of_weight));
        let x = zeros(size, kind);
        let error = conv_by_product(&x, &weight, &bias, transposed, at_once).unwrap_err();
        assert!(error.to_string().contains(part), "{size:?}, {part}: {error}");
    }
    // A graph of the gradients would be needed for second ones.
    let x = zeros(&[1, 3, 4, 4], float).set_requires_grad(true);
    let (weight, bias) = (zeros(&[4, 3, 5, 5], float), zeros(&[4], float));
    let y = conv_by_product(&x, &weight, &bias, false, 1)?.sum(float);
    let error = Tensor::f_run_backward(&[&y], &[&x], true, true).unwrap_err();
    assert!(error.to_string().contains("no second derivatives"), "{error}");
    Ok(())
}

/// In a process of its own, because the number of threads is one for a process and other tests need it to be 1.
#[test]
fn threads_share_the_work_and_change_nothing_but_rounding() -> Result<()> {
    if std::env::var_os(IS_CHILD).is_none() {
        let name = "products::threads_share_the_work_and_change_nothing_but_rounding";
        let mut child = std::process::Command::new(std::env::current_exe()?);
        let output = child.args(["--exact", name]).env(IS_CHILD, "1").output()?;
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && told.contains("1 passed"), "{told}");
        return Ok(());
    }
    for transposed in [false, true] {
        // Many times what one thread gets at least.
        let Case { x, weight, bias, g } = Case::new(transposed, [16, 16, 32, 8, 8]);
        let results = |threads| -> Result<Vec<Tensor>> {
            tch::set_num_threads(threads);
            let [x, weight, bias] = [&x, &weight, &bias].map(|x| leaf(x, Kind::Double));
            let y = conv_by_product(&x, &weight, &bias, transposed, 16)?;
            let mut all = vec![y.detach()];
            all.extend(gradients(&y, &g, &[&x, &weight, &bias]));
            Ok(all)
        };
        let one = results(1)?;
        for threads in [2, 3, 4] {
            for (i, (x, one)) in results(threads)?.iter().zip(&one).enumerate() {
                let error = error(x, one);
                assert!(error <= 1e-14, "{transposed}, {threads} threads, {i}: {error:e}");
            }
        }
    }
    Ok(())
}
