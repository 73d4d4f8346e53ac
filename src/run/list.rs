//! The runs in a folder: how they are found, summarized and pruned.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{RUNS, RunDir, run_number};
use crate::error::{Fixable, Usage};
use crate::record::jsonl::{Line, Metrics, Rollback, read, read_metrics};
use crate::run::checkpoint::{Checkpoint, Folder};
use crate::run::resume::config_of;
use crate::settings::TrainConfig;

/// The path that the user means by `name`, which is a path itself, or the name or number of a run in `runs/`.
///
/// # Errors
/// [`Fixable::NoSuchRun`], if there is no such run; [`Usage`], if more than one run has that number.
pub fn find(name: &Path) -> Result<PathBuf> {
    find_in(Path::new(RUNS), name)
}

fn find_in(runs: &Path, name: &Path) -> Result<PathBuf> {
    let text = name.to_string_lossy();
    let is_name = name.components().count() == 1 && !text.starts_with('.');
    // A folder that holds no run does not hide the run of its name.
    let named = runs.join(name);
    if is_name && name.is_dir() && !RunDir::is_run(name) && RunDir::is_run(&named) {
        return Ok(named);
    }
    if name.exists() {
        return Ok(name.to_path_buf());
    }
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

/// Like [`find`], but for the runs in the folder `runs`, and what it finds must be a run's folder.
///
/// # Errors
/// As [`find`]; also [`Usage`], if `name` is the path of something that is not a run.
pub fn find_run(runs: &Path, name: &Path) -> Result<PathBuf> {
    let path = find_in(runs, name)?;
    if RunDir::is_run(&path) {
        return Ok(path);
    }
    let message = format!("{}: no run; expected a folder with a config.toml", path.display());
    Err(Usage(message).into())
}

/// The folders in `runs` that hold a run, sorted by name.
///
/// # Errors
/// If the folder `runs` does not exist or cannot be read.
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

/// The name of the run in `path`: that of its folder, even if `path` is something like `.`.
pub fn name_of(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum State {
    /// A process is training it.
    Running {
        /// The number of that process, 0 where it is not known.
        pid: u32,
    },
    /// It has done all iterations and written all files.
    Finished,
    /// It has stopped before its end, and can be resumed.
    Interrupted,
}

/// A checkpoint on the disk.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckpointFile {
    /// How many iterations are done in it.
    pub iteration: u64,
    /// The size of the file.
    pub bytes: u64,
}

/// The checkpoint of a run's best evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BestCheckpoint {
    /// The file, as it is in the run's folder.
    #[serde(flatten)]
    pub file: CheckpointFile,
    /// The metric that has chosen it.
    pub metric: String,
    /// The metric's value, where it is logged.
    pub value: Option<f64>,
}

impl BestCheckpoint {
    /// The one of the run in `path`; `None` if there is none that can be read.
    pub fn of_run(path: &Path) -> Option<Self> {
        let file = Folder::of_run(path).best();
        let header = Checkpoint::header(&file).ok()?;
        let bytes = fs::metadata(&file).map_or(0, |file| file.len());
        let metric = header.config.eval_metric;
        let lines = read(&path.join("metrics.jsonl")).unwrap_or_default();
        let value = lines.iter().rev().find_map(|line| match line {
            Line::Evaluation(of) if of.iteration == header.iteration => {
                of.evaluation.get(&metric).copied()
            }
            _ => None,
        });
        let file = CheckpointFile { iteration: header.iteration, bytes };
        Some(Self { file, metric, value })
    }
}

/// A summary of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The run's folder.
    pub path: PathBuf,
    /// How far it has come.
    #[serde(flatten)]
    pub state: State,
    /// The run's settings.
    pub config: TrainConfig,
    /// How many iterations are done, by the last line of metrics or the newest checkpoint, whichever is later.
    pub iteration: u64,
    /// How many iterations the run is meant to have, where that is known.
    pub total: Option<u64>,
    /// The last line of metrics.
    pub last: Option<Metrics>,
    /// The size of the whole folder.
    pub bytes: u64,
    /// The run's checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointFile>,
    /// The checkpoint of the best evaluation, if there is one.
    pub best: Option<BestCheckpoint>,
    /// The run's rollbacks, as its newest checkpoint lists them.
    pub rollbacks: Vec<Rollback>,
    /// The iteration of the newest checkpoint without a sign of collapse, as the newest checkpoint states it.
    pub healthy: Option<u64>,
}

impl Summary {
    /// Summarizes the run in `path`.
    ///
    /// # Errors
    /// If the run's settings or its folder of checkpoints cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let metrics = path.join("metrics.jsonl");
        // Damaged metrics are an error when the run is resumed; a summary just does without them.
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
            best: BestCheckpoint::of_run(path),
            healthy: header.as_ref().map(|header| header.healthy),
            rollbacks: header.map(|header| header.rollbacks).unwrap_or_default(),
            config,
        })
    }
}

/// The sum of the sizes of all files in `folder`. A file that is removed meanwhile counts as 0 bytes.
fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_in(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// The checkpoints of the run in `path` that may be removed when the `keep` newest are kept, with their sizes.
/// Damaged ones that were set aside are among them. The newest healthy checkpoint is always kept, because a rollback
/// needs it.
///
/// # Errors
/// If the folder or the newest checkpoint cannot be read. In the second case the older ones are all that the run can
/// be resumed from, so none of them may be removed.
pub fn prunable_checkpoints(path: &Path, keep: usize) -> Result<Vec<(PathBuf, u64)>> {
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
