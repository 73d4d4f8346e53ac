//! Training: one iteration ([`step`]), the loop around it ([`train`]), and what a checkpoint holds ([`state`]).

pub mod augment;
mod due;
mod ema;
mod finite;
pub mod graph;
pub mod import;
pub mod inputs;
pub mod interrupt;
pub mod memory;
pub mod objective;
pub mod state;
pub mod step;
mod together;
mod trainer;
mod worker;

pub use finite::NonFinite;
pub use trainer::{End, Job, MAX_ROLLBACKS, Outcome, is_divergence, train, train_among};
pub use worker::{Work, assist};
