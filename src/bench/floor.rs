//! Measures the convolutions alone. Each pass is computed by libtorch's own operator, in the memory layout that is
//! fastest for it. Also, how fast a plain matrix product of their size is, which is nearer to the processor's limit.

use std::time::Instant;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::shape::Grid;
use crate::statistics::median;
use crate::tf::frame::{KERNEL, OUTPUT_PADDING, PADDING, STRIDE};

/// One pass of a convolution with kernel 5 and stride 2 between a coarse grid and one twice as fine.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) direction: Direction,
    /// Number of images.
    pub(super) batch: i64,
    /// Channels of the coarse grid.
    pub(super) coarse: i64,
    /// Channels of the fine grid.
    pub(super) fine: i64,
    /// The coarse grid.
    pub(super) grid: Grid,
}

/// What a pass computes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    /// The forward pass of a transposed convolution, which is also the gradient of a convolution's input.
    FineFromCoarse,
    /// The forward pass of a convolution, which is also the gradient of a transposed convolution's input.
    CoarseFromFine,
    /// The gradient of the weights, which both kinds of convolution compute in the same way.
    Weights,
}

impl Direction {
    /// All three directions.
    pub(super) const ALL: [Self; 3] = [Self::FineFromCoarse, Self::CoarseFromFine, Self::Weights];
}

impl Pass {
    /// The number of floating-point operations of the plain algorithm. Products with the zeros of the padding count.
    pub(super) fn flop(&self) -> f64 {
        let products = self.batch * self.grid.cells() * KERNEL * KERNEL * self.coarse * self.fine;
        2. * products as f64
    }

    /// 10^9 operations per second that libtorch's matrix product does with this pass's numbers, as one product over the
    /// whole batch: `[batch·grid, coarse]` by `[coarse, 25·fine]`. The median of some runs, as for iterations.
    ///
    /// # Errors
    /// If the device cannot hold the matrices.
    pub(super) fn product_gflop_per_s(
        &self,
        device: Device,
        kind: Kind,
        wait: &mut dyn FnMut(),
    ) -> Result<f64> {
        let Self { batch, coarse, fine, grid, .. } = *self;
        let (rows, columns) = (batch * grid.cells(), KERNEL * KERNEL * fine);
        let random = |rows, columns| -> Result<Tensor> {
            Ok(Tensor::f_randn([rows, columns], (Kind::Float, device))?.f_to_kind(kind)?)
        };
        let (a, b) = (random(rows, coarse)?, random(coarse, columns)?);
        let product = Tensor::f_zeros([rows, columns], (kind, device))?;
        let mut times = Vec::new();
        for run in 0..=PRODUCTS {
            let start = Instant::now();
            for _ in 0..IN_A_ROW {
                let _ = a.f_mm_out(&product, &b)?;
            }
            wait();
            // The first ones also set things up.
            if run > 0 {
                times.push(start.elapsed().as_secs_f64() / f64::from(IN_A_ROW));
            }
        }
        Ok(self.flop() / 1e9 / median(&times))
    }

    /// The shortest time that the pass takes in any memory layout, in milliseconds. `wait` waits for the device.
    ///
    /// # Errors
    /// If the device cannot hold the tensors.
    pub(super) fn fastest_ms(
        &self,
        device: Device,
        kind: Kind,
        wait: &mut dyn FnMut(),
    ) -> Result<f64> {
        let Self { direction, batch, coarse, fine, grid } = *self;
        let finer = grid.doubled();
        let random = |shape: [i64; 4]| -> Result<Tensor> {
            Ok(Tensor::f_randn(shape, (Kind::Float, device))?.f_to_kind(kind)?)
        };
        let coarse_grid = random([batch, coarse, grid.height, grid.width])?;
        let fine_grid = random([batch, fine, finer.height, finer.width])?;
        let weight = random([coarse, fine, KERNEL, KERNEL])?;
        let mut least = f64::INFINITY;
        let layouts =
            |x: &Tensor| -> Result<[Tensor; 2]> { Ok([x.shallow_clone(), channels_last(x)?]) };
        for weight in layouts(&weight)? {
            for (coarse_grid, fine_grid) in
                layouts(&coarse_grid)?.into_iter().zip(layouts(&fine_grid)?)
            {
                let mut time = |run: &mut dyn FnMut() -> Result<()>| -> Result<()> {
                    for _ in 0..RUNS {
                        let start = Instant::now();
                        run()?;
                        wait();
                        least = least.min(start.elapsed().as_secs_f64() * 1e3);
                    }
                    Ok(())
                };
                match direction {
                    Direction::CoarseFromFine => {
                        tch::no_grad(|| time(&mut || conv(&fine_grid, &weight).map(drop)))?;
                    }
                    Direction::FineFromCoarse => tch::no_grad(|| {
                        time(&mut || conv_transpose(&coarse_grid, &weight).map(drop))
                    })?,
                    Direction::Weights => {
                        let weight = weight.f_detach()?.f_set_requires_grad(true)?;
                        // The graph is built once and kept, so that only the backward pass is timed.
                        let by_conv =
                            conv(&fine_grid, &weight)?.f_mul(&coarse_grid)?.f_sum(kind)?;
                        let by_transpose = conv_transpose(&coarse_grid, &weight)?
                            .f_mul(&fine_grid)?
                            .f_sum(kind)?;
                        for loss in [by_conv, by_transpose] {
                            time(&mut || {
                                Tensor::f_run_backward(&[&loss], &[&weight], true, false)?;
                                Ok(())
                            })?;
                        }
                    }
                }
            }
        }
        Ok(least)
    }
}

/// How many times a matrix product is timed.
const PRODUCTS: usize = 7;
/// How many of them follow each other without waiting, so that asking a device for one costs no time.
const IN_A_ROW: u32 = 4;
/// How many times a pass is timed in each layout.
const RUNS: usize = 4;

fn channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
}

fn conv(fine: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
    Ok(fine.f_conv2d(weight, None::<&Tensor>, stride, padding, [1, 1], 1)?)
}

fn conv_transpose(coarse: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
    let output_padding = [OUTPUT_PADDING, OUTPUT_PADDING];
    let bias = None::<&Tensor>;
    Ok(coarse.f_conv_transpose2d(weight, bias, stride, padding, output_padding, 1, [1, 1])?)
}
