//! Reads weights from everything that a user may name as a model: a run, a checkpoint, or exported weights.

use std::path::Path;

use anyhow::{Context, Result};
use tch::{Device, Kind};

use super::checkpoint::{Checkpoint, Folder};
use crate::architecture::Network;
use crate::error::Usage;
use crate::files::TensorFile;
use crate::sample::Sampler;
use crate::weights::{Variant, Weights};

/// Reads the weights of `network` from `path`: a run's folder (of which the newest readable checkpoint is taken), a
/// checkpoint, or a file that holds only weights. Of a generator these are the weights of `variant`, or without one the
/// moving average where there is one. `report` is called with the error of every newer checkpoint of a run
/// that cannot be read.
///
/// # Errors
/// [`Usage`], if `path` is a folder without a checkpoint or an exported program. As [`Weights::checked`], if there are
/// no weights of `variant`. Also if the file cannot be read, is
/// of another format or damaged, or holds only the other network.
pub fn read(
    path: &Path,
    network: Network,
    variant: Option<Variant>,
    report: impl FnMut(&anyhow::Error),
) -> Result<Weights> {
    if path.is_dir() {
        let checkpoint = Folder::of_run(path).latest(u64::MAX, report)?;
        let checkpoint = checkpoint.with_context(|| {
            let message = "expected a run with a checkpoint, found a folder without";
            Usage(format!("{}: {message}", path.display()))
        })?;
        return checkpoint.weights(network, variant);
    }
    ensure_not_exported_as_program(path)?;
    if Checkpoint::is_one(path)? {
        return Checkpoint::load(path)?.weights(network, variant);
    }
    let name = path.display().to_string();
    Weights::parse(&name, &TensorFile::read(path)?, network).context(name)?.checked(variant)
}

/// The generator in `path`, for making images: a run's folder (of which the newest readable checkpoint is taken), a
/// checkpoint, or exported weights. Where there is a moving average, it is taken.
///
/// # Errors
/// As [`read`] and [`Sampler::of`].
pub fn sampler(path: &Path, device: Device, kind: Kind) -> Result<Sampler> {
    Sampler::of(&read(path, Network::Generator, None, |_| {})?, device, kind)
}

/// Refuses exported programs, which `torch.jit.load` and onnxruntime can run but this program cannot read back.
///
/// # Errors
/// [`Usage`], if the name ends in `.onnx` or `.pt`.
fn ensure_not_exported_as_program(path: &Path) -> Result<()> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if ["onnx", "pt"].contains(&ending.as_str()) {
        let message = "expected a run, a checkpoint or weights (.safetensors); a generator that was exported as a \
                       program (.onnx, .pt) cannot be read back";
        return Err(Usage(format!("{}: {message}", path.display())).into());
    }
    Ok(())
}
