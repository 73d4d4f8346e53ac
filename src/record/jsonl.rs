//! `metrics.jsonl`: one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One logged iteration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Counted from 1.
    pub iteration: u64,
    /// Counted from 1.
    pub epoch: u64,
    /// Of the discriminator step, before its update.
    pub d_loss: f64,
    /// Of the last generator step, before its update.
    pub g_loss: f64,
    /// Mean probability that the discriminator gives real images.
    pub mean_discriminator_output_prob_real: f64,
    /// Mean probability that the discriminator gives generated images.
    pub mean_discriminator_output_prob_fake: f64,
    /// Real images trained on a second, since the line before; sampling and writing excluded.
    pub images_per_s: f64,
    /// Since the start of training, everything included.
    pub elapsed_s: f64,
}

/// Appends lines to a file; each is there, whole, when `write` returns.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Creates `path`, which must not exist.
    ///
    /// # Errors
    /// If it exists or cannot be created.
    pub fn create(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("{}: cannot be created", path.display()))?;
        Ok(Self { path, file })
    }

    /// Appends `value` as one line.
    ///
    /// # Errors
    /// If it cannot be written; the message names the file.
    pub fn write(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .with_context(|| format!("{}: cannot be written", self.path.display()))
    }
}

/// Reads a file of lines of `T`.
///
/// # Errors
/// If it cannot be read or a line is not such an object; the message names the file and the line.
pub fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{}: cannot be read", path.display()))?;
    let parse = |(i, line)| {
        serde_json::from_str(line).with_context(|| format!("{}: line {}", path.display(), i + 1))
    };
    text.lines().enumerate().map(parse).collect()
}
