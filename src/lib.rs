//! A DCGAN trainer on libtorch that reproduces a TensorFlow 1 reference exactly.
//!
//! Data flows one way, and dependencies point the same way:
//!
//! ```text
//! files ─ data ──────► batches ─────► train::step ─► StepStats ─► train ─► record
//!         upright u8   mirrored       model on tf                          metrics, TensorBoard, grids
//!         images       f32 in [−1, 1] no files, no clock                   sample, checkpoint
//! ```
//!
//! - [`tf`]: TensorFlow's layers, losses and Adam on `tch::nn`, in the mirrored frame
//!   ([`tf::frame`]) that makes exactness fast;
//! - [`model`]: the generator and the discriminator;
//! - [`data`]: images and batches; [`rng`]: noise and shuffles from (seed, stream, step);
//! - [`train`]: one iteration ([`train::step`]), the loop, the run's folder and going on with a run;
//! - [`checkpoint`]: a run's whole state in a file; [`watch`]: whether it collapses; [`interrupt`]:
//!   signals; [`runs`]: the runs there are;
//! - [`record`]: what a run leaves behind, films and plots of it; [`report`]: one page of it;
//! - [`eval`]: how good generated images are; [`walk`]: ways through latent space; [`sample`]: images from a generator; [`weights`],
//!   [`mod@export`], [`mod@import`]: networks to other ecosystems and back;
//! - [`verify`]: this build against what the real TensorFlow computed; [`mod@bench`]: its speed;
//! - [`config`], [`device`], [`tensor_file`]: settings, machine, files;
//! - [`cli`], [`commands`] and `main`: the command line, which nothing else knows.
//!
//! `examples/train.rs` trains a few iterations through this interface, `examples/sample.rs` samples.

#![deny(missing_docs)]

pub mod bench;
pub mod checkpoint;
pub mod cli;
pub mod commands;
pub mod config;
pub mod data;
pub mod device;
pub mod eval;
pub mod export;
pub mod import;
pub mod interrupt;
pub mod model;
pub mod record;
pub mod report;
pub mod rng;
pub mod runs;
pub mod sample;
pub mod tensor_file;
pub mod tf;
pub mod train;
pub mod usage;
pub mod verify;
pub mod walk;
pub mod watch;
pub mod weights;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this program was built from, where it was built from a checkout.
pub const GIT_COMMIT: Option<&str> = option_env!("DCGAN_GIT_COMMIT");
