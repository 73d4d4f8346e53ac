//! `metrics.jsonl`, in which each line is a JSON object.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::files::write_bytes;

/// One logged iteration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Counted from 1.
    pub iteration: u64,
    /// Counted from 1.
    pub epoch: u64,
    /// The discriminator's loss, before its update.
    pub d_loss: f64,
    /// The generator's loss in its last step, before that update.
    pub g_loss: f64,
    /// The mean probability of being real that the discriminator gives to real images.
    pub mean_discriminator_output_prob_real: f64,
    /// The mean probability of being real that the discriminator gives to generated images.
    pub mean_discriminator_output_prob_fake: f64,
    /// How many real images were trained on in a second since the line before; sampling and writing are not counted.
    pub images_per_s: f64,
    /// Seconds since the start of training, sampling and writing included.
    pub elapsed_s: f64,
}

/// A run that had collapsed went back to a checkpoint and continued with other noise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// The iteration of the checkpoint it went back to.
    pub iteration: u64,
    /// The iteration at which it collapsed.
    pub rolled_back_from: u64,
    /// What went wrong, in words.
    pub because: String,
}

/// How good generated images were after an iteration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Counted from 1.
    pub iteration: u64,
    /// The features by which images were compared.
    pub features: String,
    /// The number of generated images.
    pub count: usize,
    /// The value of each metric, by its name.
    pub evaluation: BTreeMap<String, f64>,
    /// How long the evaluation took, in seconds.
    pub eval_s: f64,
    /// Whether it is the best so far, of those that it can be compared with. Lines of version 0.3 and before do not say.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_best: bool,
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// A logged iteration.
    Metrics(Metrics),
    /// An evaluation, after a logged iteration or on its own.
    Evaluation(Evaluation),
    /// A rollback, between two iterations.
    Rollback(Rollback),
}

impl Line {
    /// The iteration that the line is of; `None` for a rollback, which goes back to an earlier one.
    fn iteration(&self) -> Option<u64> {
        match self {
            Self::Metrics(metrics) => Some(metrics.iteration),
            Self::Evaluation(evaluation) => Some(evaluation.iteration),
            Self::Rollback(_) => None,
        }
    }
}

/// Appends lines to a file; each is in the file as a whole when `write` returns.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens `path` to append to it, and creates it if it does not exist.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn append(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.with_context(|| cannot_be_written(&path))?;
        Ok(Self { path, file })
    }

    /// Appends `line`.
    ///
    /// # Errors
    /// If it cannot be written; the message names the file.
    pub fn write(&mut self, line: &Line) -> Result<()> {
        let line = text(line)?;
        self.file.write_all(line.as_bytes()).with_context(|| cannot_be_written(&self.path))
    }

    /// Waits until everything that was written is on the disk.
    ///
    /// # Errors
    /// If that fails; the message names the file.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().with_context(|| cannot_be_written(&self.path))
    }
}

fn cannot_be_written(path: &Path) -> String {
    format!("{}: cannot be written", path.display())
}

fn text(line: &Line) -> Result<String> {
    Ok(serde_json::to_string(line)? + "\n")
}

/// Every line of the file at `path`, or what is wrong with that line. A last line that a crash has cut off is left out.
fn parse_lines(path: &Path) -> Result<Vec<Result<Line>>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    // Only a line that ends in a line break is whole. These are bytes, as a crash may cut a character in two.
    let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
    let parse = |(i, line)| {
        serde_json::from_slice(line).map_err(|_| {
            anyhow!("{}: line {} is none of this program's; remove it", path.display(), i + 1)
        })
    };
    let lines = bytes[..whole].split_inclusive(|&byte| byte == b'\n');
    Ok(lines.enumerate().map(parse).collect())
}

/// Every line of the file at `path`. A last line that a crash has cut off is left out.
///
/// # Errors
/// If it cannot be read or a line is none of [`Line`]; the message names the file and the line.
pub fn read(path: &Path) -> Result<Vec<Line>> {
    parse_lines(path)?.into_iter().collect()
}

/// The [`Metrics`] among the lines of the file at `path`.
///
/// # Errors
/// As [`read`].
pub fn read_metrics(path: &Path) -> Result<Vec<Metrics>> {
    let metrics = |line| match line {
        Line::Metrics(metrics) => Some(metrics),
        Line::Evaluation(_) | Line::Rollback(_) => None,
    };
    Ok(read(path)?.into_iter().filter_map(metrics).collect())
}

/// The metrics and the evaluations among the lines of the file at `path`.
///
/// # Errors
/// As [`read`].
pub fn read_series(path: &Path) -> Result<(Vec<Metrics>, Vec<Evaluation>)> {
    let (mut metrics, mut evaluations) = (Vec::new(), Vec::new());
    for line in read(path)? {
        match line {
            Line::Metrics(line) => metrics.push(line),
            Line::Evaluation(line) => evaluations.push(line),
            Line::Rollback(_) => {}
        }
    }
    Ok((metrics, evaluations))
}

/// Rewrites the file at `path` as it must be when training resumes after `iteration`: metrics and evaluations up to
/// that iteration, and `rollbacks`, each where it happened. Returns the metrics and evaluations that are left.
///
/// # Errors
/// As [`read`], or if the file cannot be written.
pub fn rewind(path: &Path, iteration: u64, rollbacks: &[Rollback]) -> Result<Vec<Line>> {
    let lines = if path.exists() { parse_lines(path)? } else { Vec::new() };
    let (mut kept, mut damage) = (Vec::new(), None);
    for line in lines {
        match line {
            Ok(line) if line.iteration().is_some_and(|written| written <= iteration) => {
                // Everything is on the disk before a checkpoint is written, so only lines after it may be damaged;
                // those are dropped.
                if let Some(error) = damage.take() {
                    return Err(error);
                }
                kept.push(line);
            }
            Ok(_) => {}
            Err(error) => damage = damage.or(Some(error)),
        }
    }
    let mut lines = Vec::new();
    let mut rest = kept.iter().cloned().peekable();
    for (i, rollback) in rollbacks.iter().enumerate() {
        // A later rollback that went further back has removed the lines between.
        let place = rollbacks[i..].iter().map(|later| later.iteration).min().unwrap_or_default();
        while let Some(line) = rest.next_if(|line| line.iteration().is_some_and(|i| i <= place)) {
            lines.push(line);
        }
        lines.push(Line::Rollback(rollback.clone()));
    }
    lines.extend(rest);
    let text = lines.iter().map(text).collect::<Result<String>>()?;
    write_bytes(path, text.as_bytes())?;
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(iteration: u64) -> Line {
        Line::Metrics(Metrics {
            iteration,
            epoch: 1,
            // Not every decimal text is read back the same by a careless reader.
            d_loss: 0.1 + 0.2 + iteration as f64 / 3.0,
            g_loss: 1.0 / 49.0,
            mean_discriminator_output_prob_real: 1e-300,
            mean_discriminator_output_prob_fake: 0.3,
            images_per_s: 1.0,
            elapsed_s: 2.0,
        })
    }

    fn rollback(iteration: u64, rolled_back_from: u64) -> Rollback {
        Rollback { iteration, rolled_back_from, because: "it collapsed".to_owned() }
    }

    #[test]
    fn lines_are_read_back_as_they_were_except_one_that_was_cut_off() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        let lines = [metrics(1), Line::Rollback(rollback(1, 5)), metrics(2), metrics(3)];
        let mut file = JsonLines::append(path.clone())?;
        lines.iter().try_for_each(|line| file.write(line))?;
        let whole = std::fs::read(&path)?;
        let ends: Vec<_> = (0..whole.len()).filter(|&i| whole[i] == b'\n').collect();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length])?;
            let complete = ends.iter().filter(|&&end| end < length).count();
            assert_eq!(read(&path)?, lines[..complete], "{length} bytes");
        }
        assert_eq!(read_metrics(&path)?.len(), 3);
        std::fs::write(&path, "{}\n")?;
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(error.contains("metrics.jsonl: line 1"), "{error}");
        Ok(())
    }

    #[test]
    fn rewinding_removes_later_lines_and_writes_each_rollback_once_in_its_place() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("metrics.jsonl");
        assert_eq!(rewind(&path, 7, &[])?, []);
        let write = |iterations: std::ops::RangeInclusive<u64>| {
            let mut file = JsonLines::append(path.clone())?;
            iterations.into_iter().try_for_each(|i| file.write(&metrics(i)))
        };
        let line = |rollback: &Rollback| Line::Rollback(rollback.clone());
        // The run goes back from 5 to 3, on to 6, back to 2 and on to 4.
        let (first, second) = (rollback(3, 5), rollback(2, 6));
        write(1..=5)?;
        rewind(&path, 3, std::slice::from_ref(&first))?;
        write(4..=6)?;
        let both = [first.clone(), second.clone()];
        assert_eq!(rewind(&path, 2, &both)?.len(), 2);
        write(3..=4)?;
        let [one, two, three, four] = [1, 2, 3, 4].map(metrics);
        let expected = [one, two, line(&first), line(&second), three, four];
        assert_eq!(read(&path)?, expected);
        // Rewinding to the end changes nothing.
        assert_eq!(rewind(&path, 4, &both)?.len(), 4);
        assert_eq!(read(&path)?, expected);
        // Lines that a loss of power has turned into zeros are dropped if they came after the checkpoint.
        let mut bytes = std::fs::read(&path)?;
        bytes.extend([0, 0, b'\n']);
        std::fs::write(&path, bytes)?;
        rewind(&path, 4, &both)?;
        assert_eq!(read(&path)?, expected);
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("zeros\n{text}"))?;
        let error = format!("{:#}", rewind(&path, 4, &both).unwrap_err());
        assert!(error.contains("metrics.jsonl: line 1"), "{error}");
        std::fs::write(&path, text)?;
        // A run that resumes from a checkpoint before a rollback knows nothing of it.
        rewind(&path, 1, &[])?;
        assert_eq!(read(&path)?, expected[..1]);
        Ok(())
    }
}
