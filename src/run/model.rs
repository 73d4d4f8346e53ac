//! What a user calls a model: a run, a checkpoint, or exported weights.

use std::path::Path;

use anyhow::{Context, Result};

use super::checkpoint::{Checkpoint, Folder};
use crate::architecture::Network;
use crate::error::Usage;
use crate::files::TensorFile;
use crate::weights::Weights;

/// The weights of `network` in `path`: a run's folder (its newest checkpoint that can be read), a checkpoint, or a
/// file of weights by themselves. `report` is told of every newer checkpoint of a run that cannot be read.
///
/// # Errors
/// [`Usage`], if there is no such thing; if it cannot be read, is something else, is damaged, or holds the other
/// network only.
pub fn read(path: &Path, network: Network, report: impl FnMut(&anyhow::Error)) -> Result<Weights> {
    if path.is_dir() {
        let checkpoint = Folder::of_run(path).latest(u64::MAX, report)?;
        let checkpoint = checkpoint.with_context(|| {
            let message = "expected a run with a checkpoint, found a folder without";
            Usage(format!("{}: {message}", path.display()))
        })?;
        return checkpoint.weights(network);
    }
    ensure_not_exported_as_program(path)?;
    if Checkpoint::is_one(path)? {
        return Checkpoint::load(path)?.weights(network);
    }
    let name = path.display().to_string();
    Weights::parse(&name, &TensorFile::read(path)?, network).context(name)
}

/// Whether `path` may be weights: programs that `torch.jit.load` and onnxruntime run are not read back.
///
/// # Errors
/// [`Usage`], if its name ends in `.onnx` or `.pt`.
fn ensure_not_exported_as_program(path: &Path) -> Result<()> {
    let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if ["onnx", "pt"].contains(&ending.as_str()) {
        let message = "expected a run, a checkpoint or weights (.safetensors); a program that was exported holds \
                       them in a form that is not read back";
        return Err(Usage(format!("{}: {message}", path.display())).into());
    }
    Ok(())
}
