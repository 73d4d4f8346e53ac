//! Transposed convolutions of kernel 5 and stride 2 with a third of the multiplications.
//!
//! Of the coarse grid, a stride-2 kernel of 5 is four kernels of 3×3, 3×2, 2×3 and 2×2: one for each
//! parity of the fine grid's rows and columns (a *phase*). Each runs with stride 1 and is computed by
//! Winograd's minimal filtering in each direction: inputs and kernels are evaluated at m + 2 *points*
//! for m outputs (one less for a kernel of 2, whose value at the point 0 is 0), multiplied there, and
//! interpolated. In float32 m is 4: for 4×4 outputs of each phase 36 + 30 + 30 + 25 = 121 products
//! instead of 16 · 25 = 400. In bfloat16 it is 2, whose points are kinder: 49 instead of 100.
//!
//! It is the same function: only the rounding differs. In float32 the outputs are off by 2e-6 of their
//! norm instead of 4e-7, the gradients by 2e-6 instead of 1e-6; in bfloat16 by 5e-3 instead of 2e-3
//! (`tests/winograd.rs` holds them to that).
//!
//! # Source
//! S. Winograd, *Arithmetic Complexity of Computations* (1980); A. Lavin and S. Gray, *Fast Algorithms
//! for Convolutional Neural Networks* (2016). The points 0, ±1, 1/2, −2, ∞ are among those that round
//! least: B. Barabasz et al., *Error Analysis and Improving the Accuracy of Winograd Convolution* (2020).

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::frame::KERNEL;
use crate::shape::Grid;

/// Taps of a phase's kernel in one direction.
const TAPS: usize = 3;

/// The points but for ∞, which is the last one: as many as a tile has outputs in one direction, and
/// one. 0 comes first.
fn finite_points(kind: Kind) -> &'static [f64] {
    match kind {
        // Larger tiles need points that bfloat16's 8 bits cannot tell apart: 15e-3 instead of 5e-3.
        Kind::BFloat16 => &[0.0, 1.0, -1.0],
        _ => &[0.0, 1.0, -1.0, 0.5, -2.0],
    }
}

/// Positions of a whole batch below which the transforms cost more than they save. Measured on Zen 4
/// (`benches/NOTES.md`): a batch of 32 on a grid of 4×4.
const LEAST_POSITIONS: i64 = 32 * 4 * 4;
/// The largest grid on which float32 is faster this way; above, libtorch's convolution is (measured likewise).
const LARGEST_SIDE: i64 = 8;
/// The grid on which bfloat16 is faster this way (measured likewise).
const BF16_SIDE: i64 = 4;

/// Outputs of a tile in one direction.
fn tile(kind: Kind) -> i64 {
    finite_points(kind).len() as i64 - 1
}

/// The matrices of one grid size, in one kind.
///
/// Letters: N batch, I channels of the coarse grid, O channels of the fine grid, H height and width of
/// the coarse grid, T tiles in the grid, P points in both directions.
#[derive(Debug)]
pub(super) struct Winograd {
    height: i64,
    kind: Kind,
    points: i64,
    /// `[P·T, H·H]`: the coarse grid at all points of all tiles.
    evaluate: Tensor,
    phases: [Phase; 4],
}

#[derive(Debug)]
struct Phase {
    /// The points whose product is not 0: a range of the P.
    first: i64,
    count: i64,
    /// `[count, 25]`: the kernel at those points.
    kernel: Tensor,
    /// `[H·H, count·T]`: from the products to the fine grid's pixels of this phase.
    interpolate: Tensor,
}

impl Winograd {
    /// Whether it is faster on the CPU than libtorch's convolution, for a batch of `kind` on a coarse
    /// grid of this size. `benches/NOTES.md` has the measurements.
    pub(super) fn pays(kind: Kind, batch: i64, grid: Grid) -> bool {
        let Grid { height, width } = grid;
        let is_whole = height == width && height > 0 && height % tile(kind) == 0;
        let is_large_enough = batch * grid.cells() >= LEAST_POSITIONS;
        is_whole
            && is_large_enough
            && match kind {
                Kind::Float | Kind::Double => height <= LARGEST_SIDE,
                Kind::BFloat16 => height == BF16_SIDE,
                _ => false,
            }
    }

    /// The matrices for a coarse grid `[height, height]` and tensors of `kind` on the CPU.
    pub(super) fn new(height: i64, kind: Kind) -> Result<Self> {
        let tile = tile(kind);
        ensure!(height > 0 && height % tile == 0, "expected whole tiles of {tile}, found {height}");
        let Filter { outputs, kernels, inputs } = minimal_filtering(finite_points(kind));
        let count = kernels.len();
        let (h, tiles) = (height as usize, (height / tile) as usize);
        // In one direction: `[point][tile][row]`, from rows to points and from points to rows.
        let zeros = || vec![vec![vec![0.0; h]; tiles]; count];
        let (mut evaluate, mut interpolate) = (zeros(), zeros());
        for point in 0..count {
            for i in 0..tiles {
                let start = i * tile as usize;
                for (offset, &value) in inputs[point].iter().enumerate() {
                    // One row before the tile, one after it; beyond the grid is zero.
                    if let Some(row) = (start + offset).checked_sub(1).filter(|&row| row < h) {
                        evaluate[point][i][row] = value;
                    }
                }
                for (offset, &value) in outputs[point].iter().enumerate() {
                    interpolate[point][i][start + offset] = value;
                }
            }
        }
        // Every phase takes a range of this order: all; without the point 0 in the columns; in the
        // rows; in both.
        let rest = || 1..count;
        let order: Vec<(usize, usize)> = rest()
            .map(|row| (row, 0))
            .chain(rest().flat_map(|row| rest().map(move |column| (row, column))))
            .chain(rest().map(|column| (0, column)))
            .chain([(0, 0)])
            .collect();
        let last = order.len();
        let ranges = [0..last, count - 1..last - 1, 0..last - count, count - 1..last - count];

        let tensor = |values: Vec<f64>, rows: usize| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(&values)?.f_view([rows as i64, -1])?.f_to_kind(kind)?)
        };
        let each = || (0..tiles).flat_map(|i| (0..tiles).map(move |j| (i, j)));
        let pixels = || (0..h).flat_map(|row| (0..h).map(move |column| (row, column)));
        let mut values = Vec::new();
        for &(p, q) in &order {
            for (i, j) in each() {
                let at =
                    |(row, column): (usize, usize)| evaluate[p][i][row] * evaluate[q][j][column];
                values.extend(pixels().map(at));
            }
        }
        let evaluate = tensor(values, order.len() * tiles * tiles)?;
        let phase = |number: usize| -> Result<Phase> {
            let points = &order[ranges[number].clone()];
            let taps = |odd: bool, point: usize| taps(odd, &kernels[point]);
            let mut kernel = Vec::new();
            for &(p, q) in points {
                let (rows, columns) = (taps(number / 2 == 1, p), taps(number % 2 == 1, q));
                kernel.extend(rows.iter().flat_map(|a| columns.iter().map(move |b| a * b)));
            }
            let mut values = Vec::new();
            for (row, column) in pixels() {
                for &(p, q) in points {
                    values.extend(
                        each().map(|(i, j)| interpolate[p][i][row] * interpolate[q][j][column]),
                    );
                }
            }
            Ok(Phase {
                first: ranges[number].start as i64,
                count: points.len() as i64,
                kernel: tensor(kernel, points.len())?,
                interpolate: tensor(values, h * h)?,
            })
        };
        let phases = [phase(0)?, phase(1)?, phase(2)?, phase(3)?];
        Ok(Self { height, kind, points: order.len() as i64, evaluate, phases })
    }

    /// Whether these are the matrices for such a coarse grid.
    pub(super) fn serves(&self, x: &Tensor) -> bool {
        x.size().get(2) == Some(&self.height) && x.kind() == self.kind
    }

    /// A kernel `[I, O, 5, 5]` at the points of each phase: `[count, I, O]`. Without a copy if the
    /// kernel's memory runs over height, width, I, O.
    pub(super) fn kernels(&self, weight: &Tensor) -> Result<[Tensor; 4]> {
        let (inputs, outputs, _, _) = weight.size4()?;
        let taps = weight.f_permute([2, 3, 0, 1])?.f_reshape([KERNEL * KERNEL, -1])?; // [25, I·O]
        let at = |phase: &Phase| -> Result<Tensor> {
            Ok(phase.kernel.f_mm(&taps)?.f_view([phase.count, inputs, outputs])?)
        };
        let [a, b, c, d] = &self.phases;
        Ok([at(a)?, at(b)?, at(c)?, at(d)?])
    }

    /// The transposed convolution of `x` `[N, I, H, H]` with [`Self::kernels`]: `[N, O, 2H, 2H]` in
    /// channels-last memory order, without a bias.
    pub(super) fn conv_transpose(&self, x: &Tensor, kernels: &[Tensor; 4]) -> Result<Tensor> {
        let (n, inputs, h, _) = x.size4()?;
        let outputs = kernels[0].size()[2];
        let x = x.f_permute([2, 3, 0, 1])?.f_reshape([h * h, n * inputs])?; // [H·H, N·I]
        let x = self.evaluate.f_mm(&x)?.f_view([self.points, -1, inputs])?; // [P, T·N, I]
        let phase = |(phase, kernel): (&Phase, &Tensor)| -> Result<Tensor> {
            // A view of everything would cost the way back a copy.
            let x = match phase.count == self.points {
                true => x.shallow_clone(),
                false => x.f_narrow(0, phase.first, phase.count)?,
            };
            let products = x.f_bmm(kernel)?.f_view([-1, n * outputs])?; // [count·T, N·O]
            Ok(phase.interpolate.f_mm(&products)?)
        };
        let fine: Vec<Tensor> =
            self.phases.iter().zip(kernels).map(phase).collect::<Result<_>>()?; // 4 × [H·H, N·O]
        let y = Tensor::f_stack(&fine, 0)?.f_view([2, 2, h, h, n, outputs])?;
        // The phases are the parities of rows and columns.
        let y = y.f_permute([4, 2, 0, 3, 1, 5])?.f_reshape([n, 2 * h, 2 * h, outputs])?;
        Ok(y.f_permute([0, 3, 1, 2])?)
    }
}

/// What the five taps of a kernel come to at a point, by parity of the fine grid's row (or column):
/// row 2p takes the taps 4, 2, 0 of the coarse rows p − 1, p, p + 1; row 2p + 1 the taps 3, 1 of p,
/// p + 1.
fn taps(odd: bool, point: &[f64; TAPS]) -> [f64; KERNEL as usize] {
    let [before, at, after] = *point;
    if odd { [0.0, after, 0.0, at, 0.0] } else { [after, 0.0, at, 0.0, before] }
}

/// Minimal filtering in one direction: for each point the factors of the m outputs, the three taps and
/// the m + 2 inputs. `output[k] = Σ_points outputs[k] · (Σ kernels · kernel) · (Σ inputs · input)`.
struct Filter {
    outputs: Vec<Vec<f64>>,
    kernels: Vec<[f64; TAPS]>,
    inputs: Vec<Vec<f64>>,
}

/// Toom's and Cook's multiplication of polynomials, transposed: inputs meet the coefficients of
/// Lagrange's polynomials of the points; for ∞, the last one, those of Π (x − point).
fn minimal_filtering(finite: &[f64]) -> Filter {
    let points = finite.len() + 1;
    let m = points + 1 - TAPS;
    // The coefficients of Π (x − root), lowest first.
    let product = |roots: &mut dyn Iterator<Item = f64>| {
        let mut coefficients = vec![0.0; points];
        coefficients[0] = 1.0;
        for root in roots {
            for i in (0..points).rev() {
                let lower = if i > 0 { coefficients[i - 1] } else { 0.0 };
                coefficients[i] = lower - root * coefficients[i];
            }
        }
        coefficients
    };
    let mut filter = Filter { outputs: Vec::new(), kernels: Vec::new(), inputs: Vec::new() };
    for &point in finite {
        let others = || finite.iter().copied().filter(move |&other| other != point);
        let scale: f64 = others().map(|other| point - other).product();
        filter.outputs.push((0..m as i32).map(|power| point.powi(power)).collect());
        filter.kernels.push([1.0, point, point * point].map(|x| x / scale));
        filter.inputs.push(product(&mut others()));
    }
    filter.outputs.push((0..m).map(|power| f64::from(power + 1 == m)).collect());
    filter.kernels.push([0.0, 0.0, 1.0]);
    filter.inputs.push(product(&mut finite.iter().copied()));
    // What the inputs' factors have too much, the kernel's get: smaller values round less.
    for (inputs, kernels) in filter.inputs.iter_mut().zip(&mut filter.kernels) {
        let largest = inputs.iter().fold(0.0_f64, |largest, x| largest.max(x.abs()));
        inputs.iter_mut().for_each(|x| *x /= largest);
        kernels.iter_mut().for_each(|x| *x *= largest);
    }
    filter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimal_filtering_is_the_plain_correlation() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let Filter { outputs, kernels, inputs } = minimal_filtering(finite_points(kind));
            let (kernel, input) = ([0.3, -1.7, 2.9], [1.1, -0.4, 0.7, 2.3, -3.1, 0.9]);
            let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            for k in 0..tile(kind) as usize {
                let plain: f64 = (0..TAPS).map(|j| kernel[j] * input[k + j]).sum();
                let at = |p: usize| dot(&kernels[p], &kernel) * dot(&inputs[p], &input);
                let fast: f64 = (0..kernels.len()).map(|p| outputs[p][k] * at(p)).sum();
                assert!((plain - fast).abs() <= 1e-13, "{k}: {plain} {fast}");
            }
            // Kernels of two taps, whose first is 0, can leave the first point out.
            assert_eq!(kernels[0][1..], [0.0, 0.0]);
        }
    }
}
