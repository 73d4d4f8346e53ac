//! What is needed to resume a run, and the checks whether it may be resumed.

use std::path::Path;

use anyhow::{Result, ensure};

use super::folder::RunDir;
use crate::data::SetIdentity;
use crate::error::{Fixable, Usage};
use crate::run::checkpoint::{Checkpoint, Folder, Header, is_failure_of_disk};
use crate::run::journal::RANKS_KEY;
use crate::settings::{Change, ENVIRONMENT_KEY, TrainConfig, read_run_config};

/// A run that was saved to the disk.
#[derive(Debug)]
pub struct Saved {
    /// The run's settings.
    pub config: TrainConfig,
    /// The run's newest readable checkpoint; `None` if it was stopped before it had written the first one, so that it
    /// starts from the beginning.
    pub checkpoint: Option<Checkpoint>,
}

/// The settings of the run in `folder`, from its `config.toml`, or where that is missing from `header`, the header of
/// its newest checkpoint.
///
/// # Errors
/// [`Usage`], if the file cannot be read or does not hold a run's settings.
pub fn config_of(folder: &Path, header: Option<&Header>) -> Result<TrainConfig> {
    let path = folder.join("config.toml");
    match header {
        Some(header) if !path.exists() => Ok(header.config.clone()),
        _ => read_run_config(&path),
    }
}

/// How many ranks have trained the run in `folder` last, as its `config.toml` says.
pub fn ranks_of(folder: &Path) -> usize {
    let text = std::fs::read_to_string(folder.join("config.toml")).unwrap_or_default();
    let table: toml::Table = text.parse().unwrap_or_default();
    let ranks = table.get(ENVIRONMENT_KEY).and_then(|environment| environment.get(RANKS_KEY));
    let ranks = ranks.and_then(toml::Value::as_integer);
    ranks.and_then(|ranks| usize::try_from(ranks).ok()).unwrap_or(1)
}

/// Checks that `folder` holds a run.
///
/// # Errors
/// [`Usage`], if it does not.
pub fn ensure_run(folder: &Path) -> Result<()> {
    if RunDir::is_run(folder) {
        return Ok(());
    }
    let message = "no run has begun there; expected the folder of a run, with its config.toml";
    Err(Usage(format!("{}: {message}", folder.display())).into())
}

impl Saved {
    /// Reads the run in `folder`. `report` is called with the error of every checkpoint that cannot be read and is
    /// newer than the one that is taken.
    ///
    /// # Errors
    /// [`Usage`], if `folder` holds no run. Also if its settings cannot be read, if it has checkpoints but none can be
    /// read, or if it has trained and its checkpoints are gone.
    pub fn read(folder: &Path, report: impl FnMut(&anyhow::Error)) -> Result<Self> {
        ensure_run(folder)?;
        let path = folder.join("config.toml");
        let is_lost = |problem| Fixable::StateIsLost { config: path.clone(), problem };
        let checkpoint = Folder::of_run(folder).latest(u64::MAX, report).map_err(|error| {
            match is_failure_of_disk(&error) {
                // The files may well be whole.
                true => error,
                false => is_lost(format!("{error:#}")).into(),
            }
        })?;
        let config = config_of(folder, checkpoint.as_ref().map(|checkpoint| &checkpoint.header))?;
        let has_trained = folder.join("metrics.jsonl").metadata().is_ok_and(|file| file.len() > 0);
        ensure!(
            checkpoint.is_some() || !has_trained,
            is_lost(format!("{}: the run has no checkpoint", folder.display()))
        );
        Ok(Self { config, checkpoint })
    }

    /// The run in `folder`, from the beginning: its settings.
    ///
    /// # Errors
    /// [`Usage`], if its settings cannot be read.
    pub fn without_checkpoint(folder: &Path) -> Result<Self> {
        Ok(Self { config: config_of(folder, None)?, checkpoint: None })
    }

    /// The number of iterations done, after which the run resumes.
    pub fn iteration(&self) -> u64 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.header.iteration)
    }

    /// The differences between this run and one with `config` on `set`, as far as they decide the result. A run is only
    /// resumed if there are none.
    ///
    /// # Errors
    /// If a setting cannot be written as text.
    pub fn changes(&self, config: &TrainConfig, set: &SetIdentity) -> Result<Vec<Change>> {
        let was = self.checkpoint.as_ref().map_or(&self.config, |saved| &saved.header.config);
        let mut changes = was.changes(config)?;
        if let Some(checkpoint) = &self.checkpoint {
            changes.extend(set_changes(&checkpoint.header.set, set));
        }
        Ok(changes)
    }
}

/// The differences that keep a new run with `config` on `set` from starting with the networks of `checkpoint`: all
/// those that change the networks' shapes.
///
/// # Errors
/// If a setting cannot be written as text.
pub fn network_changes(
    checkpoint: &Checkpoint,
    config: &TrainConfig,
    set: &SetIdentity,
) -> Result<Vec<Change>> {
    let mut changes = checkpoint.header.config.network_changes(config)?;
    let saved = &checkpoint.header.set;
    if saved.shape().size != set.shape().size {
        changes.push(change("size of the images", saved.shape().size, set.shape().size));
    }
    if saved.channels != set.channels {
        changes.push(change("channels of the data set", saved.channels, set.channels));
    }
    // Whether there are any, the setting `conditional` says.
    if let (Some(was), Some(is)) = (&saved.classes, &set.classes)
        && was.names != is.names
    {
        changes.push(change("classes of the data set", was.names.join(","), is.names.join(",")));
    }
    Ok(changes)
}

fn set_changes(was: &SetIdentity, is: &SetIdentity) -> Vec<Change> {
    let labels = |set: &SetIdentity| set.classes.as_ref().map_or("", |c| &c.sha256).to_owned();
    let all = [
        change("number of images", was.images, is.images),
        change("channels of the data set", was.channels, is.channels),
        change("SHA-256 of the images", &was.sha256, &is.sha256),
        change("SHA-256 of the images' classes", labels(was), labels(is)),
    ];
    all.into_iter().filter(|change| change.was != change.is).collect()
}

fn change(key: &str, was: impl ToString, is: impl ToString) -> Change {
    Change { key: key.to_owned(), was: was.to_string(), is: is.to_string() }
}
