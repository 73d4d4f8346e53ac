//! A run's folder: its lock, checkpoints, journal and samples; how runs are found, listed and resumed.

pub mod checkpoint;
mod folder;
pub(crate) mod journal;
pub mod list;
mod lock;
pub mod model;
pub mod observer;
#[cfg(feature = "cli")]
pub mod report;
pub mod resume;
pub mod watch;

pub(crate) use folder::run_number;
pub use folder::{FILM, RUNS, RunDir};
