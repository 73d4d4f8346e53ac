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
//! - [`shape`]: height, width and channels of images; [`architecture`]: from them to every layer of both networks;
//! - [`tf`]: TensorFlow's layers, losses and Adam on `tch::nn`, in the mirrored frame
//!   ([`tf::frame`]) that makes exactness fast; [`torch`]: what libtorch has and `tch` lacks;
//! - [`model`]: the generator and the discriminator, made by folding over the architecture's layers;
//! - [`data`]: images and batches; [`pixels`]: bytes to floats and back; [`rng`]: noise and shuffles from (seed, stream, step);
//! - [`train`]: one iteration ([`train::step`]), the loop and signals;
//! - [`distributed`]: ranks, processes that train together;
//! - [`run`]: a run's folder: its lock, its checkpoints, its journal, how it is resumed and listed;
//! - [`record`]: what a run leaves behind, films, plots and a page of it;
//! - [`sample`]: images from a generator, and walks through latent space; [`eval`]: how good they are;
//! - [`weights`], [`mod@export`]: networks to other ecosystems and back;
//! - [`verify`]: this build against what the real TensorFlow computed; [`mod@bench`]: its speed;
//! - [`settings`], [`device`], [`files`], [`error`], [`finite`]: settings, machine, files, errors, values that are not
//!   finite; [`statistics`]: means, deviations and medians.
//!
//! The program `dcgan` is built on this library: `main.rs` with its modules `cli` (the command line's types) and
//! `commands` (what each command does). Nothing in here knows them, or any flag.
//!
//! `examples/train.rs` trains a few iterations through this interface, `examples/sample.rs` samples.

pub mod architecture;
pub mod bench;
pub mod data;
pub mod device;
pub mod distributed;
pub mod error;
pub mod eval;
pub mod export;
pub mod files;
pub mod finite;
pub mod model;
pub mod pixels;
pub mod record;
pub mod rng;
pub mod run;
pub mod sample;
pub mod settings;
pub mod shape;
pub mod statistics;
pub mod tf;
pub mod torch;
pub mod train;
pub mod verify;
pub mod weights;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit this program was built from, where it was built from a checkout.
pub const GIT_COMMIT: Option<&str> = option_env!("DCGAN_GIT_COMMIT");
