//! All integration tests in one binary, so that libtorch is linked once.

mod cli;
mod common;
mod determinism;
mod frame;
mod init;
mod nonfinite;
mod parity;
mod run_folder;
mod sharing;
mod tensorboard;
mod verify;
