//! The convolutions alone: each pass in the best memory layout of libtorch's own operators.

use std::time::Instant;

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::shape::Grid;
use crate::tf::frame::{KERNEL, OUTPUT_PADDING, PADDING, STRIDE};

/// One pass of a convolution of kernel 5 and stride 2 between a coarse and a fine grid.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass {
    pub(super) direction: Direction,
    pub(super) batch: i64,
    /// Channels of the coarse grid.
    pub(super) coarse: i64,
    /// Channels of the fine grid.
    pub(super) fine: i64,
    /// The coarse grid.
    pub(super) grid: Grid,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Direction {
    /// A transposed convolution's forward pass; a plain one's gradient of its input.
    FineFromCoarse,
    /// A convolution's forward pass; a transposed one's gradient of its input.
    CoarseFromFine,
    /// The gradient of either's weights.
    Weights,
}

impl Direction {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::FineFromCoarse, Self::CoarseFromFine, Self::Weights];
}

impl Pass {
    /// Floating-point operations of the plain algorithm, products with padding included.
    pub(super) fn flop(&self) -> f64 {
        let products = self.batch * self.grid.cells() * KERNEL * KERNEL * self.coarse * self.fine;
        2. * products as f64
    }

    /// The least time of a run in any layout, in milliseconds. `wait` waits for the device.
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
                        // Only the way back is timed: the graph is kept.
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

/// Runs of each layout.
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
