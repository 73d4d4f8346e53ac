//! Compares transposed convolutions by Winograd's minimal filtering, which needs fewer multiplications, with
//! libtorch's own in float64.

use anyhow::Result;
use dcgan::shape::Grid;
use dcgan::tf::{ConvConfig, ConvTranspose};
use tch::{Device, Kind, Tensor, nn};

use super::common::{normal, one_thread, randomize};

const BATCH: i64 = 32;

/// The output, and the gradients of input, kernel and bias. `g` is the gradient of the output.
fn output_and_gradients(
    y: &Tensor,
    x: &Tensor,
    kernel: &Tensor,
    bias: &Tensor,
    g: &Tensor,
) -> Vec<Tensor> {
    let loss = (y * g.to_kind(y.kind())).sum(y.kind());
    let mut all = vec![y.detach()];
    all.extend(Tensor::run_backward(&[&loss], &[x, kernel, bias], false, false));
    all
}

/// ‖a − b‖ / ‖b‖.
fn error(a: &Tensor, b: &Tensor) -> f64 {
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(a.to_kind(Kind::Double) - b)) / norm(b)
}

#[test]
fn outputs_and_gradients_are_libtorchs_but_for_rounding() -> Result<()> {
    one_thread();
    for (kind, height, bounds) in [
        (Kind::Double, 4, [1e-14; 4]),
        (Kind::Double, 8, [1e-14; 4]),
        (Kind::Float, 4, [2e-6; 4]),
        (Kind::Float, 8, [2e-6; 4]),
        (Kind::BFloat16, 4, [1e-2; 4]),
    ] {
        let config = ConvConfig { in_channels: 48, out_channels: 24 };
        let mut store = nn::VarStore::new(Device::Cpu);
        let mut layer = ConvTranspose::new(&store.root(), "t", config);
        if kind == Kind::Double {
            store.double();
        }
        randomize(&mut layer.variables(), 1);
        layer.arrange_for(kind, Grid { height, width: height });
        let g = normal(3, &[BATCH, 24, 2 * height, 2 * height]);
        let x = normal(2, &[BATCH, 48, height, height]).to_kind(kind);
        let weights: Vec<Tensor> =
            layer.variables().iter().map(|variable| variable.tensor.to_kind(kind)).collect();

        // The exact result is computed from inputs and weights that are already rounded to `kind`, so that this
        // rounding does not count as an error.
        let exact = {
            let double =
                |x: &Tensor| x.detach().to_kind(Kind::Double).copy().set_requires_grad(true);
            let (x, kernel, bias) = (double(&x), double(&weights[0]), double(&weights[1]));
            let y = x.conv_transpose2d(&kernel, Some(&bias), [2, 2], [2, 2], [1, 1], 1, [1, 1]);
            output_and_gradients(&y, &x, &kernel, &bias, &g.to_kind(kind))
        };
        let x = x.set_requires_grad(true);
        let variables = layer.variables();
        let y = layer.cast(kind)?.forward(&x)?;
        let ours = output_and_gradients(&y, &x, &variables[0].tensor, &variables[1].tensor, &g);
        for (i, bound) in bounds.into_iter().enumerate() {
            let error = error(&ours[i], &exact[i]);
            assert!(error <= bound, "{kind:?}, height {height}, {i}: {error:e} > {bound:e}");
        }
        // A plain layer leaves it to libtorch.
        layer.set_plain(true);
        layer.arrange_for(kind, Grid { height, width: height });
        let theirs = x.conv_transpose2d(
            &layer.variables()[0].tensor.to_kind(kind),
            Some(&weights[1]),
            [2, 2],
            [2, 2],
            [1, 1],
            1,
            [1, 1],
        );
        assert_eq!(layer.cast(kind)?.forward(&x)?.detach(), theirs.detach(), "{kind:?}");
        // Both compute the same function in different ways, so the rounding differs. If the bits were equal,
        // the layer would not have used Winograd's filtering, and this test would test nothing.
        if kind != Kind::Double {
            let bias = Some(&weights[1]);
            let theirs = x.conv_transpose2d(&weights[0], bias, [2, 2], [2, 2], [1, 1], 1, [1, 1]);
            assert_ne!(y.detach(), theirs.detach(), "{kind:?}, height {height}");
        }
    }
    Ok(())
}

#[test]
fn a_batch_too_small_and_a_grid_of_odd_size_are_computed_all_the_same() -> Result<()> {
    one_thread();
    let config = ConvConfig { in_channels: 3, out_channels: 2 };
    let mut store = nn::VarStore::new(Device::Cpu);
    let layer = ConvTranspose::new(&store.root(), "t", config);
    store.double();
    randomize(&mut layer.variables(), 1);
    let weights: Vec<Tensor> = layer.variables().into_iter().map(|v| v.tensor).collect();
    for (batch, height, width) in
        [(1, 4, 4), (31, 4, 4), (64, 5, 5), (64, 4, 8), (64, 4, 16), (40, 8, 8)]
    {
        let x = normal(2, &[batch, 3, height, width]);
        let bias = Some(&weights[1]);
        let theirs = x.conv_transpose2d(&weights[0], bias, [2, 2], [2, 2], [1, 1], 1, [1, 1]);
        let error = error(&layer.forward(&x)?.detach(), &theirs.detach());
        assert!(error <= 1e-14, "{batch}, {height}×{width}: {error:e}");
    }
    Ok(())
}

/// The numbers in `docs/exactness.md`.
#[test]
#[ignore = "measures, with libtorch's own way beside it: cargo test --release --test suite rounding_of_the_layers -- --ignored --nocapture"]
fn rounding_of_the_layers_of_full_width() -> Result<()> {
    for kind in [Kind::Float, Kind::BFloat16] {
        for (side, inputs, outputs) in [(4, 512, 256), (8, 256, 128)] {
            let config = ConvConfig { in_channels: inputs, out_channels: outputs };
            let store = nn::VarStore::new(Device::Cpu);
            let mut layer = ConvTranspose::new(&store.root(), "t", config);
            randomize(&mut layer.variables(), 1);
            // As behind batch norm and ReLU.
            let x = normal(2, &[128, inputs, side, side]).relu().to_kind(kind);
            let g = normal(3, &[128, outputs, 2 * side, 2 * side]).to_kind(kind);
            let weights: Vec<Tensor> =
                layer.variables().iter().map(|variable| variable.tensor.to_kind(kind)).collect();
            let by_libtorch = |kind: Kind| {
                let leaf = |x: &Tensor| x.detach().to_kind(kind).copy().set_requires_grad(true);
                let (x, kernel, bias) = (leaf(&x), leaf(&weights[0]), leaf(&weights[1]));
                let y = x.conv_transpose2d(&kernel, Some(&bias), [2, 2], [2, 2], [1, 1], 1, [1, 1]);
                output_and_gradients(&y, &x, &kernel, &bias, &g)
            };
            let exact = by_libtorch(Kind::Double);
            layer.arrange_for(kind, Grid { height: side, width: side });
            let leaf = x.copy().set_requires_grad(true);
            let variables = layer.variables();
            let y = layer.cast(kind)?.forward(&leaf)?;
            let ours =
                output_and_gradients(&y, &leaf, &variables[0].tensor, &variables[1].tensor, &g);
            for (who, found) in [("this program", ours), ("libtorch", by_libtorch(kind))] {
                let errors: Vec<_> = found
                    .iter()
                    .zip(&exact)
                    .map(|(found, exact)| format!("{:.1e}", error(found, exact)))
                    .collect();
                println!(
                    "{kind:?} {inputs}→{outputs} on {side}×{side}, {who}: output, gradients of input, kernel, bias: {}",
                    errors.join(", ")
                );
            }
        }
    }
    Ok(())
}
