//! Which way a convolution is computed on the CPU. The processor's features and the layer's sizes decide, never a clock, so
//! that equal settings on equal processors give equal bits.

use std::sync::OnceLock;

use serde::{Serialize, Serializer};
use tch::{Device, Kind, Tensor};

use super::frame::KERNEL;
use super::winograd::Winograd;
use crate::shape::Grid;
use crate::torch;

/// The ways to compute a convolution or a transposed convolution. They are one function; only rounding differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// libtorch's own convolution.
    Libtorch,
    /// For gray images: a matrix product for each image, with libtorch's `im2col` and `col2im`.
    Columns,
    /// Winograd's minimal filtering, which needs fewer multiplications (`winograd.rs`).
    MinimalFiltering,
    /// One matrix product for the whole batch, and one for each gradient (`../torch/conv.cpp`).
    MatrixProduct,
}

impl Algorithm {
    /// The way's name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Libtorch => "libtorch",
            Self::Columns => "columns",
            Self::MinimalFiltering => "minimal-filtering",
            Self::MatrixProduct => "matrix-product",
        }
    }
}

impl Serialize for Algorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What decides about the way, of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    /// Whether it multiplies matrices of bfloat16 in tiles (AMX).
    pub amx_bf16: bool,
}

impl Processor {
    /// Of no features that count here.
    pub const PLAIN: Self = Self { amx_bf16: false };

    /// The one that this process runs on. Where matrix products cannot use all threads, its features do not count.
    pub fn here() -> Self {
        static HERE: OnceLock<Processor> = OnceLock::new();
        *HERE.get_or_init(|| Self { amx_bf16: torch::HAS_OPENMP && torch::has_amx_bf16() })
    }
}

/// What decides about the way, of a layer and what it is asked. A convolution leads from the fine grid to the coarse one, a
/// transposed convolution from the coarse grid to the fine one, which has twice as many rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Whether it is a transposed one.
    pub is_transposed: bool,
    /// The kind in which it computes.
    pub kind: Kind,
    /// Number of images.
    pub batch: i64,
    /// The coarse grid.
    pub grid: Grid,
    /// Channels of the coarse grid.
    pub coarse: i64,
    /// Channels of the fine grid.
    pub fine: i64,
    /// Whether a gradient will be asked for.
    pub is_trained: bool,
    /// Whether faster ways that round more are left out.
    pub is_plain: bool,
}

/// What [`Convolution::held_on`] counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Transformed kernels.
    pub kernels: i64,
    /// Transformed images of a batch, or their columns.
    pub images: i64,
    /// Columns in memory that all layers use in turn.
    pub shared: i64,
}

/// Channels of either grid with which matrix products were measured, on a processor with AMX. Narrower ones are not worth the copies: a
/// product's time falls with both numbers of channels, that of the columns only with one.
const LEAST_CHANNELS: i64 = 64;
/// Positions of the largest coarse grid with which they were measured, 8×8.
const LARGEST_GRID: i64 = 8 * 8;
/// Positions of the largest coarse grid on which they are faster in float32: 4×4.
const LARGEST_F32_GRID: i64 = 4 * 4;
/// The most values of columns that are made at once: 128 MB of float32. Half as many cost 3 % of the time, all at once gain
/// nothing (`benches/NOTES.md`).
const MOST_COLUMNS: i64 = 1 << 25;

impl Convolution {
    /// The way on the CPU of this machine.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm_on(Processor::here())
    }

    /// The way on a device; if that is the CPU, on this processor.
    pub(super) fn algorithm_at(&self, device: Device, processor: Processor) -> Algorithm {
        match device {
            Device::Cpu => self.algorithm_on(processor),
            _ => Algorithm::Libtorch,
        }
    }

    /// The way on a processor. `benches/NOTES.md` has the measurements.
    pub fn algorithm_on(&self, processor: Processor) -> Algorithm {
        let Self { is_transposed, kind, batch, grid, fine, .. } = *self;
        if fine == 1 {
            // Gray images: forward and backward together take a convolution's gradient 11 ms by oneDNN and 3 ms this way, a
            // transposed convolution 20 and 11 ms.
            Algorithm::Columns
        } else if self.is_plain {
            Algorithm::Libtorch
        } else if processor.amx_bf16 && self.is_faster_as_product_on_amx() {
            Algorithm::MatrixProduct
        } else if is_transposed && Winograd::is_faster(kind, batch, grid) {
            Algorithm::MinimalFiltering
        } else {
            Algorithm::Libtorch
        }
    }

    fn is_faster_as_product_on_amx(&self) -> bool {
        let Self { is_transposed, kind, grid, coarse, fine, is_trained, .. } = *self;
        // Of a convolution only the gradients gain: oneDNN's forward pass is the faster one.
        (is_transposed || is_trained)
            && coarse.min(fine) >= LEAST_CHANNELS
            && match kind {
                Kind::BFloat16 => grid.cells() <= LARGEST_GRID,
                // Minimal filtering is faster still.
                Kind::Float => !is_transposed && grid.cells() <= LARGEST_F32_GRID,
                _ => false,
            }
    }

    /// How many values a layer holds besides its input, output, kernel and gradients while it is trained on a processor.
    pub fn held_on(&self, processor: Processor) -> Held {
        let columns = KERNEL * KERNEL * self.fine * self.grid.cells(); // of an image
        match self.algorithm_on(processor) {
            Algorithm::Columns if self.is_transposed => {
                Held { images: columns * self.batch, ..Held::default() }
            }
            Algorithm::MinimalFiltering => {
                let (points, products) = Winograd::sizes(self.kind, self.grid);
                Held {
                    kernels: products * self.coarse * self.fine,
                    images: points * self.batch * self.coarse,
                    shared: 0,
                }
            }
            Algorithm::MatrixProduct => {
                Held { shared: columns * self.at_once(), ..Held::default() }
            }
            Algorithm::Columns | Algorithm::Libtorch => Held::default(),
        }
    }

    /// For how many images a matrix product takes columns at a time: all, or as many equal parts as its memory asks for.
    fn at_once(&self) -> i64 {
        let (batch, columns) = (self.batch.max(1), KERNEL * KERNEL * self.fine * self.grid.cells());
        let most = (MOST_COLUMNS / columns.max(1)).max(1);
        let parts = (batch + most - 1) / most;
        (batch + parts - 1) / parts
    }

    /// [`Algorithm::MatrixProduct`], with the tensors that libtorch's operators take.
    pub(super) fn by_product(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: &Tensor,
    ) -> anyhow::Result<Tensor> {
        torch::conv_by_product(x, weight, bias, self.is_transposed, self.at_once())
    }
}

/// Whether gradients of a layer with this input and this kernel will be asked for.
pub(super) fn is_trained(x: &Tensor, weight: &Tensor) -> bool {
    torch::is_grad_enabled() && (x.requires_grad() || weight.requires_grad())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AMX: Processor = Processor { amx_bf16: true };

    /// A layer of the reference: channels of the coarse grid and of the fine one, and a side of the coarse grid.
    fn layer(is_transposed: bool, kind: Kind, coarse: i64, fine: i64, side: i64) -> Convolution {
        let grid = Grid { height: side, width: side };
        Convolution {
            is_transposed,
            kind,
            batch: 128,
            grid,
            coarse,
            fine,
            is_trained: true,
            is_plain: false,
        }
    }

    #[test]
    fn each_layer_of_the_reference_takes_the_way_that_was_measured_for_its_processor() {
        use Algorithm::{
            Columns, Libtorch, MatrixProduct as Product, MinimalFiltering as Filtering,
        };
        // float32 and bfloat16, each without AMX and with it.
        for (transposed, coarse, fine, side, f32, bf16) in [
            (true, 512, 256, 4, [Filtering; 2], [Filtering, Product]),
            (true, 256, 128, 8, [Filtering; 2], [Libtorch, Product]),
            (true, 128, 1, 16, [Columns; 2], [Columns; 2]),
            (true, 128, 3, 16, [Libtorch; 2], [Libtorch; 2]),
            (false, 64, 1, 16, [Columns; 2], [Columns; 2]),
            (false, 64, 3, 16, [Libtorch; 2], [Libtorch; 2]),
            (false, 128, 64, 8, [Libtorch; 2], [Libtorch, Product]),
            (false, 256, 128, 4, [Libtorch, Product], [Libtorch, Product]),
        ] {
            for (kind, expected) in [(Kind::Float, f32), (Kind::BFloat16, bf16)] {
                let layer = layer(transposed, kind, coarse, fine, side);
                let ways = [Processor::PLAIN, AMX].map(|on| layer.algorithm_on(on));
                assert_eq!(ways, expected, "{layer:?}");
            }
        }
    }

    #[test]
    fn products_are_for_wide_layers_on_small_grids_and_for_convolutions_that_are_trained() {
        let is_product = |layer: Convolution| layer.algorithm_on(AMX) == Algorithm::MatrixProduct;
        let kind = Kind::BFloat16;
        for transposed in [true, false] {
            assert!(is_product(layer(transposed, kind, 128, 64, 8)));
            assert!(!is_product(layer(transposed, kind, 64, 32, 8)), "narrow");
            assert!(!is_product(layer(transposed, kind, 128, 64, 16)), "a large grid");
            assert!(!is_product(layer(transposed, Kind::Double, 128, 64, 4)));
            let alone = Convolution { is_trained: false, ..layer(transposed, kind, 128, 64, 8) };
            assert_eq!(is_product(alone), transposed);
        }
    }

    #[test]
    fn plain_layers_leave_to_libtorch_what_would_round_more() {
        for processor in [Processor::PLAIN, AMX] {
            for kind in [Kind::Float, Kind::BFloat16] {
                let plain = |fine| {
                    let layer = Convolution { is_plain: true, ..layer(true, kind, 512, fine, 4) };
                    layer.algorithm_on(processor)
                };
                assert_eq!([plain(256), plain(1)], [Algorithm::Libtorch, Algorithm::Columns]);
            }
        }
    }

    #[test]
    fn columns_are_made_in_equal_parts_that_fit_their_memory() {
        let of_batch = |batch| Convolution { batch, ..layer(true, Kind::Float, 256, 128, 8) };
        // An image has 25 · 128 · 64 = 204,800 values of columns; 163 images fit.
        for (batch, at_once) in [(0, 1), (1, 1), (128, 128), (163, 163), (164, 82), (512, 128)] {
            assert_eq!(of_batch(batch).at_once(), at_once, "{batch}");
        }
        let held = Convolution { kind: Kind::BFloat16, ..of_batch(512) }.held_on(AMX);
        assert_eq!(held, Held { shared: 128 * 204_800, ..Held::default() });
        // One image that does not fit is computed all the same.
        let huge = layer(true, Kind::Float, 64, 4096, 64);
        assert_eq!(huge.at_once(), 1);
    }
}
