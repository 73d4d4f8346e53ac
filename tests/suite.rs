//! All integration tests in one binary, so that libtorch is linked once.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests may fail like tests; clippy.toml only covers functions that are tests"
)]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod allocations;
mod checkpoint;
mod classes;
mod cli;
mod collapse;
mod common;
mod data;
mod determinism;
mod downstream;
mod ema;
mod eval;
mod export;
mod faults;
mod frame;
mod house;
mod init;
mod metrics;
mod nonfinite;
mod parity;
mod places;
mod precision;
mod products;
mod ranks;
mod resume;
mod run_folder;
mod runs;
mod sample;
mod settings;
mod sharing;
mod show;
mod sizes;
mod tensorboard;
mod verify;
mod winograd;
