//! Forms in which results are shown and kept: lines of metrics, TensorBoard events, pictures, plots, films. Nothing here
//! knows how a run is trained or where it lies.

pub mod grid;
pub mod histogram;
pub mod jsonl;
#[cfg(feature = "cli")]
pub mod movie;
pub mod numbers;
#[cfg(feature = "cli")]
pub mod plot;
#[cfg_attr(not(feature = "cli"), path = "no_tensorboard.rs")]
pub mod tensorboard;
