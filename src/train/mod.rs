//! Training: one iteration ([`step`]), the loop around it and the folder it writes.

mod finite;
mod journal;
mod lock;
pub mod resume;
mod run_dir;
pub mod step;
mod trainer;

pub use finite::NonFinite;
pub(crate) use run_dir::run_number;
pub use run_dir::{FILM, RUNS, RunDir};
pub use trainer::{End, Job, MAX_ROLLBACKS, Outcome, train};
