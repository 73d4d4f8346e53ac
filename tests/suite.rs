//! All integration tests in one binary, so that libtorch is linked once.

mod checkpoint;
mod cli;
mod common;
mod determinism;
mod frame;
mod init;
mod nonfinite;
mod parity;
mod resume;
mod run_folder;
mod sharing;
mod tensorboard;
mod verify;
