//! Transposed convolutions of kernel 5 and stride 2 with a third of the multiplications.
//!
//! The input is a *coarse grid*, the output a *fine grid* with twice as many rows and columns. Each output
//! belongs to one of four *phases*: its row is even or odd, and so is its column. Within a phase, the
//! 5×5 kernel with stride 2 acts on the coarse grid as a smaller kernel with stride 1: 3×3, 3×2, 2×3 or 2×2.
//! Each of these four is computed by Winograd's minimal filtering in each direction: to get m outputs, inputs
//! and kernels are evaluated at m + 2 *points*, multiplied there, and the products interpolated. (A kernel of
//! 2 needs one point less, because its value at the point 0 is 0.) In float32 m is 4: 4×4 outputs of all
//! phases take 36 + 30 + 30 + 25 = 121 products instead of 16 · 25 = 400. In bfloat16 m is 2, because its few
//! points round less: 49 products instead of 100.
//!
//! This computes the same function as a plain transposed convolution; only the rounding differs. In float32
//! the outputs are off by 1e-6 of their norm instead of 3e-7, and the gradients by 1e-6 instead of 3e-7 to 1e-6; in
//! bfloat16 the errors are 5e-3 instead of 2e-3. `tests/winograd.rs` checks bounds on these errors. Nearly all of
//! the error in float32 is that of the sums of products over channels, made larger where they are interpolated: transforms
//! of more digits would not change it.
//!
//! # Source
//! S. Winograd, *Arithmetic Complexity of Computations* (1980); A. Lavin and S. Gray, *Fast Algorithms
//! for Convolutional Neural Networks* (2016). Points decide how much larger errors become: B. Barabasz et al., *Error
//! Analysis and Improving the Accuracy of Winograd Convolution* (2020). Of all 0, a, b, c, d, ∞ with numbers from 1/4 to 3
//! that were tried, 0, ±2/3, ±3/2, ∞ make those of random products least larger: 2.18 times in each direction, where 0, ±1,
//! 1/2, −2, ∞ make them 2.64 times and 0, ±1, ±1/2, ∞ 3.28 times as large.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::frame::KERNEL;
use crate::shape::Grid;

/// Taps of a phase's kernel in one direction. A kernel of 2 is one of 3 whose first tap is 0.
const TAPS: usize = 3;

/// All points except ∞, which is always the last point. There is one more of these than a tile has outputs
/// in one direction. 0 comes first.
fn finite_points(kind: Kind) -> &'static [f64] {
    match kind {
        // Larger tiles need more points, and bfloat16's 8 bits cannot tell those apart: the error would be
        // 15e-3 instead of 5e-3.
        Kind::BFloat16 => &[0.0, 1.0, -1.0],
        _ => &[0.0, 2.0 / 3.0, -2.0 / 3.0, 1.5, -1.5],
    }
}

/// With fewer positions than this in a whole batch, the transforms cost more than they save. Measured on Zen 4
/// (`benches/NOTES.md`): a batch of 32 on a grid of 4×4.
const LEAST_POSITIONS: i64 = 32 * 4 * 4;
/// Positions of the largest coarse grid on which float32 is faster this way, 8×12. On larger ones libtorch's
/// convolution is faster (`benches/NOTES.md`).
const LARGEST_GRID: i64 = 8 * 12;
/// Positions of the largest coarse grid on which bfloat16 is faster this way, 4×8 (`benches/NOTES.md`).
const LARGEST_BF16_GRID: i64 = 4 * 8;

/// Number of outputs of a tile in one direction.
fn tile(kind: Kind) -> i64 {
    finite_points(kind).len() as i64 - 1
}

/// The matrices that transform inputs, kernels and products, for one grid size and one kind.
///
/// Letters: N is the batch, I the channels of the coarse grid, O the channels of the fine grid, H and W the height
/// and the width of the coarse grid, T the number of tiles that cover the grid, and P the number of pairs of points,
/// one for the rows and one for the columns.
#[derive(Debug)]
pub(super) struct Winograd {
    grid: Grid,
    kind: Kind,
    points: i64,
    /// `[P·T, H·W]`: evaluates the coarse grid at all points of all tiles.
    evaluate: Tensor,
    /// In this order: even rows and even columns, even rows and odd columns, odd and even, odd and odd.
    phases: [Phase; 4],
}

/// The matrices of one phase: the outputs in even or odd rows and in even or odd columns.
#[derive(Debug)]
struct Phase {
    /// Index of the first of the P points at which this phase's kernel is not always 0.
    first: i64,
    /// Number of those points; they follow one another.
    count: i64,
    /// `[count, 25]`: evaluates a 5×5 kernel at those points.
    kernel: Tensor,
    /// `[H·W, count·T]`: interpolates the products, which gives the fine grid's pixels of this phase.
    interpolate: Tensor,
}

impl Winograd {
    /// Whether this algorithm is faster on the CPU than libtorch's convolution, for a batch of `kind` on a
    /// coarse grid of this size. `benches/NOTES.md` has the measurements.
    pub(super) fn is_faster(kind: Kind, batch: i64, grid: Grid) -> bool {
        let Grid { height, width } = grid;
        let is_whole = |side: i64| side > 0 && side % tile(kind) == 0;
        let is_large_enough = batch * grid.cells() >= LEAST_POSITIONS;
        is_whole(height)
            && is_whole(width)
            && is_large_enough
            && match kind {
                Kind::Float | Kind::Double => grid.cells() <= LARGEST_GRID,
                Kind::BFloat16 => grid.cells() <= LARGEST_BF16_GRID,
                _ => false,
            }
    }

    /// At how many points all tiles of a coarse grid are evaluated, and at how many the kernels of all phases.
    pub(super) fn sizes(kind: Kind, grid: Grid) -> (i64, i64) {
        let points = tile(kind) + 2;
        let tiles = (grid.height / tile(kind)) * (grid.width / tile(kind));
        // A phase of a kernel of two taps does without one point.
        (points * points * tiles, (points + points - 1).pow(2))
    }

    /// The matrices for a coarse grid of whole tiles and tensors of `kind` on the CPU.
    pub(super) fn new(grid: Grid, kind: Kind) -> Result<Self> {
        let is_whole = |side: i64| side > 0 && side % tile(kind) == 0;
        ensure!(
            is_whole(grid.height) && is_whole(grid.width),
            "expected whole tiles, found {grid:?}"
        );
        let Filter { outputs, kernels, inputs } = minimal_filtering(finite_points(kind));
        let count = kernels.len();
        let [rows, columns] =
            [grid.height, grid.width].map(|side| Direction::new(side as usize, &inputs, &outputs));
        // The pairs of points are ordered so that each phase uses one contiguous range of them. The first
        // phase uses all pairs; the others leave out those with the point 0 (index 0) in the columns, in the
        // rows, or in either.
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
        let all_tiles = || (0..rows.tiles).flat_map(|i| (0..columns.tiles).map(move |j| (i, j)));
        let pixels =
            || (0..rows.side).flat_map(|row| (0..columns.side).map(move |column| (row, column)));
        let mut values = Vec::new();
        for &(p, q) in &order {
            for (i, j) in all_tiles() {
                let at = |(row, column): (usize, usize)| {
                    rows.evaluate[p][i][row] * columns.evaluate[q][j][column]
                };
                values.extend(pixels().map(at));
            }
        }
        let evaluate = tensor(values, order.len() * rows.tiles * columns.tiles)?;
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
                    let at = |(i, j): (usize, usize)| {
                        rows.interpolate[p][i][row] * columns.interpolate[q][j][column]
                    };
                    values.extend(all_tiles().map(at));
                }
            }
            Ok(Phase {
                first: ranges[number].start as i64,
                count: points.len() as i64,
                kernel: tensor(kernel, points.len())?,
                interpolate: tensor(values, rows.side * columns.side)?,
            })
        };
        let phases = [phase(0)?, phase(1)?, phase(2)?, phase(3)?];
        Ok(Self { grid, kind, points: order.len() as i64, evaluate, phases })
    }

    /// Whether these matrices are for inputs of the size and kind of `x`.
    pub(super) fn fits(&self, x: &Tensor) -> bool {
        let Grid { height, width } = self.grid;
        x.size().get(2..) == Some(&[height, width]) && x.kind() == self.kind
    }

    /// Evaluates a kernel `[I, O, 5, 5]` at the points of each phase: `[count, I, O]`. Copies nothing if the
    /// kernel's memory order is height, width, I, O.
    pub(super) fn kernels(&self, weight: &Tensor) -> Result<[Tensor; 4]> {
        let (inputs, outputs, _, _) = weight.size4()?;
        let taps = weight.f_permute([2, 3, 0, 1])?.f_reshape([KERNEL * KERNEL, -1])?; // [25, I·O]
        let at = |phase: &Phase| -> Result<Tensor> {
            Ok(phase.kernel.f_mm(&taps)?.f_view([phase.count, inputs, outputs])?)
        };
        let [a, b, c, d] = &self.phases;
        Ok([at(a)?, at(b)?, at(c)?, at(d)?])
    }

    /// The transposed convolution of `x` `[N, I, H, W]` with kernels from [`Self::kernels`]. Returns
    /// `[N, O, 2H, 2W]` in channels-last memory order, without a bias.
    pub(super) fn conv_transpose(&self, x: &Tensor, kernels: &[Tensor; 4]) -> Result<Tensor> {
        let (n, inputs, h, w) = x.size4()?;
        let outputs = kernels[0].size()[2];
        let x = x.f_permute([2, 3, 0, 1])?.f_reshape([h * w, n * inputs])?; // [H·W, N·I]
        let x = self.evaluate.f_mm(&x)?.f_view([self.points, -1, inputs])?; // [P, T·N, I]
        let phase = |(phase, kernel): (&Phase, &Tensor)| -> Result<Tensor> {
            // Narrowing to the whole range would cost a copy in the backward pass.
            let x = match phase.count == self.points {
                true => x.shallow_clone(),
                false => x.f_narrow(0, phase.first, phase.count)?,
            };
            let products = x.f_bmm(kernel)?.f_view([-1, n * outputs])?; // [count·T, N·O]
            Ok(phase.interpolate.f_mm(&products)?)
        };
        let fine: Vec<Tensor> =
            self.phases.iter().zip(kernels).map(phase).collect::<Result<_>>()?; // 4 × [H·W, N·O]
        let y = Tensor::f_stack(&fine, 0)?.f_view([2, 2, h, w, n, outputs])?;
        // Interleaves the phases: the first two axes are the parities of the fine grid's rows and columns.
        let y = y.f_permute([4, 2, 0, 3, 1, 5])?.f_reshape([n, 2 * h, 2 * w, outputs])?;
        Ok(y.f_permute([0, 3, 1, 2])?)
    }
}

/// The matrices of one direction: the rows or the columns of a grid.
struct Direction {
    /// Positions in this direction.
    side: usize,
    /// Tiles that cover them.
    tiles: usize,
    /// `[point][tile][position]`: from positions to points.
    evaluate: Vec<Vec<Vec<f64>>>,
    /// `[point][tile][position]`: from points to positions.
    interpolate: Vec<Vec<Vec<f64>>>,
}

impl Direction {
    /// The matrices for `side` positions, from the factors of [`Filter`].
    fn new(side: usize, inputs: &[Vec<f64>], outputs: &[Vec<f64>]) -> Self {
        let (count, tile) = (inputs.len(), outputs[0].len());
        let tiles = side / tile;
        let zeros = || vec![vec![vec![0.0; side]; tiles]; count];
        let (mut evaluate, mut interpolate) = (zeros(), zeros());
        for point in 0..count {
            for i in 0..tiles {
                let start = i * tile;
                for (offset, &value) in inputs[point].iter().enumerate() {
                    // A tile reads one position before it and one after it. What is outside the grid is zero.
                    if let Some(at) = (start + offset).checked_sub(1).filter(|&at| at < side) {
                        evaluate[point][i][at] = value;
                    }
                }
                for (offset, &value) in outputs[point].iter().enumerate() {
                    interpolate[point][i][start + offset] = value;
                }
            }
        }
        Self { side, tiles, evaluate, interpolate }
    }
}

/// The factor of each of the kernel's five taps when the kernel is evaluated at a point, for even or odd rows
/// (or columns) of the fine grid. The fine row 2p reads the coarse rows p − 1, p and p + 1 with the taps 4, 2
/// and 0; the fine row 2p + 1 reads the coarse rows p and p + 1 with the taps 3 and 1.
fn taps(odd: bool, point: &[f64; TAPS]) -> [f64; KERNEL as usize] {
    let [before, at, after] = *point;
    if odd { [0.0, after, 0.0, at, 0.0] } else { [after, 0.0, at, 0.0, before] }
}

/// Minimal filtering in one direction: for each point, the factors of the m outputs, of the three taps and of
/// the m + 2 inputs. `output[k] = Σ_points outputs[k] · (Σ kernels · kernel) · (Σ inputs · input)`.
struct Filter {
    outputs: Vec<Vec<f64>>,
    kernels: Vec<[f64; TAPS]>,
    inputs: Vec<Vec<f64>>,
}

/// The factors of minimal filtering. They come from the Toom-Cook multiplication of polynomials, transposed:
/// the factors of the inputs are the coefficients of the points' Lagrange polynomials, and for the last
/// point, ∞, those of Π (x − point).
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
    // Scales the inputs' factors so that the largest is 1, and the kernel's factors the other way: smaller
    // values round less.
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
            // The value at the first point comes from the first tap alone. Kernels of two taps, whose first
            // tap is 0, can therefore leave that point out.
            assert_eq!(kernels[0][1..], [0.0, 0.0]);
        }
    }
}
