//! What a run leaves behind for people and programs to read. Takes what it is handed.

pub mod grid;
pub mod jsonl;
#[cfg(feature = "cli")]
pub mod movie;
#[cfg(feature = "cli")]
pub mod plot;
#[cfg(feature = "cli")]
pub mod report;
pub mod tensorboard;
