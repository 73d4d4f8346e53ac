//! Training: one iteration ([`step`]), the loop around it and the folder it writes.

mod finite;
mod run_dir;
pub mod step;
mod trainer;

pub use finite::NonFinite;
pub use run_dir::RunDir;
pub use trainer::{Outcome, train};
