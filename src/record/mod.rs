//! What a run leaves behind for people and programs to read. Takes what it is handed.

pub mod grid;
pub mod jsonl;
pub mod movie;
pub mod numbers;
pub mod plot;
pub mod progress;
pub mod tensorboard;
