//! How good generated images are: metrics, each with its source, its floor and its uncertainty.
//!
//! # The way of an evaluation
//!
//! [`report::evaluate`] gives all that `dcgan eval` prints as one value; `train` asks an [`evaluator`] itself. Either
//! way:
//!
//! 1. [`source`] chooses what images are compared by, and [`features`] computes it: pixels, the last layer of a
//!    [`classifier`] of this program's own, or a TorchScript module.
//! 2. The [`evaluator`] splits the real images: it compares generated ones with one part, and the other part is held
//!    out. What a metric says of the held-out images is its floor.
//! 3. It puts generated images beside real ones in [`comparison`]s: by features, by classes, by pixels, or by the
//!    distance to the nearest real image.
//! 4. Each [`metric`] makes an estimate of such a comparison: a value and its uncertainty.
//!
//! The formulas are in [`frechet`], [`kernel`], [`coverage`], [`score`], [`pixels`] and [`neighbours`], which know
//! nothing of the rest. They compute in float64, and `tests/metrics.rs` compares them with the standard Python tools.
//! Random choices are in [`draw`]; [`progress`] is what others are told in the meantime.
//!
//! # How to add a metric
//!
//! 1. Write `src/eval/metric/NAME.rs` with a function that makes an [`Estimate`](comparison::Estimate) of one of the
//!    four comparisons that [`Computation`](metric::Computation) lists. If it draws random numbers, give it a purpose
//!    of its own in [`Draw`](draw::Draw). A formula that others have published goes into a file of its own beside
//!    [`kernel`], so that it can be compared with their tools.
//! 2. In `src/eval/metric/mod.rs`, declare the file and add the metric's line to the table: its documentation, its
//!    name, which values are better, the comparison it takes and the function. The compiler says what is missing.
//!    From the table, `eval`, its JSON, reports and TensorBoard know the metric.
//! 3. Describe it in `docs/metrics.md` (a test fails if its name is not there), and add a test to `tests/metrics.rs`,
//!    against recorded values of another tool where there is one.

pub mod classifier;
pub mod comparison;
pub mod coverage;
pub mod draw;
pub mod evaluator;
pub mod features;
pub mod frechet;
pub mod kernel;
mod lazily;
pub mod metric;
pub mod neighbours;
pub mod pixels;
pub mod progress;
pub mod report;
pub mod score;
pub mod source;
mod tensors;
