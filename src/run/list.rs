//! The runs under a folder: finding, summing up and pruning them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{RUNS, RunDir, run_number};
use crate::error::{Fixable, Usage};
use crate::record::jsonl::{Metrics, Rollback, read_metrics};
use crate::run::checkpoint::{Checkpoint, Folder};
use crate::run::resume::config_of;
use crate::settings::TrainConfig;

/// The folder that `name` means: a path, or the name or number of a run under `runs/`.
///
/// # Errors
/// [`Fixable::NoSuchRun`], if there is none; [`Usage`], if there is more than one.
pub fn find(name: &Path) -> Result<PathBuf> {
    find_in(Path::new(RUNS), name)
}

fn find_in(runs: &Path, name: &Path) -> Result<PathBuf> {
    if name.exists() {
        return Ok(name.to_path_buf());
    }
    let text = name.to_string_lossy();
    let mut found: Vec<_> = list(runs)
        .unwrap_or_default()
        .into_iter()
        .filter(|run| {
            let run = run.file_name().unwrap_or_default().to_string_lossy();
            let number = run_number(&run);
            run == text || number.is_some() && number == text.parse().ok()
        })
        .collect();
    match (found.pop(), found.pop()) {
        (Some(run), None) => Ok(run),
        (Some(one), Some(other)) => Err(Usage(format!(
            "{text}: more than one run has that number: {} and {}; give its name",
            one.display(),
            other.display()
        ))
        .into()),
        (None, _) => Err(Fixable::NoSuchRun(text.into_owned()).into()),
    }
}

/// As [`find`], among the runs in `runs`, but what is found is a run's folder.
///
/// # Errors
/// [`Usage`], if there is none.
pub fn find_run(runs: &Path, name: &Path) -> Result<PathBuf> {
    let path = find_in(runs, name)?;
    if RunDir::is_run(&path) {
        return Ok(path);
    }
    let message = format!("{}: no run; expected a folder with a config.toml", path.display());
    Err(Usage(message).into())
}

/// The folders in `runs` that hold a run, by name.
///
/// # Errors
/// If there is no such folder or it cannot be read.
pub fn list(runs: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("{}: cannot be read", runs.display());
    let mut all = Vec::new();
    for entry in std::fs::read_dir(runs).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if RunDir::is_run(&path) {
            all.push(path);
        }
    }
    all.sort();
    Ok(all)
}

/// What the run in `path` is called: its folder, however it was named.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A path as a shell takes it.
pub fn shell_quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !path.is_empty() && path.chars().all(is_plain) {
        return path.to_owned();
    }
    format!("'{}'", path.replace('\'', "'\\''"))
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// A process is at it.
    Running {
        /// Its number, 0 where it is not known.
        pid: u32,
    },
    /// It has trained and written everything.
    Finished,
    /// It can be resumed.
    Interrupted,
}

/// A checkpoint on the disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckpointFile {
    /// Iterations done.
    pub iteration: u64,
    /// Its size.
    pub bytes: u64,
}

/// A run in short.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Its folder.
    pub path: PathBuf,
    /// Where it stands.
    #[serde(flatten)]
    pub state: State,
    /// Its settings.
    pub config: TrainConfig,
    /// Iterations done: of the last line of metrics or the newest checkpoint.
    pub iteration: u64,
    /// Iterations it is to have, where that is known.
    pub total: Option<u64>,
    /// Its last line of metrics.
    pub last: Option<Metrics>,
    /// Of the whole folder.
    pub bytes: u64,
    /// Oldest first.
    pub checkpoints: Vec<CheckpointFile>,
    /// As the newest checkpoint knows them.
    pub rollbacks: Vec<Rollback>,
    /// The newest checkpoint without a sign of collapse, as the newest one knows it.
    pub healthy: Option<u64>,
}

impl Summary {
    /// Sums up the run in `path`.
    ///
    /// # Errors
    /// If its settings cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let metrics = path.join("metrics.jsonl");
        // What cannot be read matters when the run is resumed, not here.
        let last = read_metrics(&metrics).unwrap_or_default().pop();
        let folder = Folder::of_run(path);
        let size = |iteration| fs::metadata(folder.file(iteration)).map_or(0, |file| file.len());
        let checkpoints: Vec<_> = folder
            .iterations()?
            .into_iter()
            .map(|iteration| CheckpointFile { iteration, bytes: size(iteration) })
            .collect();
        let newest = checkpoints.last().map(|checkpoint| folder.file(checkpoint.iteration));
        let header = newest.and_then(|path| Checkpoint::header(&path).ok());
        let config = config_of(path, header.as_ref())?;
        let per_epoch = header.as_ref().map(|header| header.set.per_epoch(config.batch_size));
        let state = match RunDir::holder(path) {
            Some(pid) => State::Running { pid },
            None if RunDir::is_finished(path) => State::Finished,
            None => State::Interrupted,
        };
        let saved = checkpoints.last().map_or(0, |checkpoint| checkpoint.iteration);
        Ok(Self {
            path: path.to_path_buf(),
            state,
            iteration: last.map_or(0, |last| last.iteration).max(saved),
            total: match per_epoch {
                Some(per_epoch) => Some(config.total_iterations(per_epoch)),
                None => config.iterations,
            },
            last,
            bytes: bytes_in(path),
            checkpoints,
            healthy: header.as_ref().map(|header| header.healthy),
            rollbacks: header.map(|header| header.rollbacks).unwrap_or_default(),
            config,
        })
    }
}

/// The size of every file in `folder`; what vanishes meanwhile counts nothing.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// Checkpoints of the run in `path` that nobody needs when the `keep` newest are kept, with their
/// sizes. The newest healthy one is kept too: a rollback goes back to it.
///
/// # Errors
/// If the folder or the newest checkpoint cannot be read: then those before it are what there is.
pub fn needless_checkpoints(path: &Path, keep: usize) -> Result<Vec<(PathBuf, u64)>> {
    let folder = Folder::of_run(path);
    let Some(newest) = folder.iterations()?.pop() else { return Ok(Vec::new()) };
    let newest = Checkpoint::load(&folder.file(newest))?;
    let files = folder.prunable(keep, newest.header.healthy)?.into_iter().chain(folder.damaged()?);
    let with_size = |path: PathBuf| {
        let bytes = fs::metadata(&path).map_or(0, |file| file.len());
        (path, bytes)
    };
    Ok(files.map(with_size).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::is_usage;

    #[test]
    fn a_run_is_found_by_path_name_and_number() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let runs = parent.path().join("runs");
        for name in ["0001-2026-01-31-digits", "0012-2026-01-31-digits", "mine"] {
            std::fs::create_dir_all(runs.join(name))?;
            std::fs::write(runs.join(name).join("config.toml"), "")?;
        }
        let find = |name: &str| find_in(&runs, Path::new(name));
        for name in ["12", "0012", "0012-2026-01-31-digits"] {
            assert_eq!(find(name)?, runs.join("0012-2026-01-31-digits"));
        }
        assert_eq!(find("mine")?, runs.join("mine"));
        assert_eq!(find_in(&runs, &runs.join("mine"))?, runs.join("mine"));
        for name in ["2", "000", "0012-", ""] {
            let error = find(name).unwrap_err();
            assert!(is_usage(&error) && error.to_string().contains("no such run"), "{error}");
        }
        std::fs::create_dir(runs.join("1-copy"))?;
        std::fs::write(runs.join("1-copy/config.toml"), "")?;
        assert!(find("1").unwrap_err().to_string().contains("more than one"));
        Ok(())
    }
}
