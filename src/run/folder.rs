//! The folder that a run writes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::lock::Lock;
use crate::error::Usage;
use crate::files::{UNFINISHED, remove, remove_if_there, remove_unfinished};
use crate::run::checkpoint::{CHECKPOINTS, Folder, number_of, numbered_name};

/// Where runs go unless the user says otherwise.
pub const RUNS: &str = "runs";
/// The last file that a run writes.
pub(super) const FINISHED: &str = "real_vs_generated.png";
/// The film of a finished run's grids, where one was asked for.
pub const FILM: &str = "film.gif";
/// The folder of grids within a run's.
const SAMPLES: &str = "samples";

/// A run's folder, held by this process alone.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: Lock,
}

impl RunDir {
    /// Makes the folder that the user asked for, or the next numbered, dated one under `runs/`, such
    /// as `runs/0001-2026-01-31-digits`, and takes it.
    ///
    /// # Errors
    /// [`Usage`], if the folder asked for holds something already; if another process has it, or if
    /// none can be made.
    pub fn create(asked: Option<&Path>, dataset: &str) -> Result<Self> {
        let path = match asked {
            Some(path) => {
                Self::check(path)?;
                fs::create_dir_all(path).with_context(|| cannot_make(path))?;
                path.to_path_buf()
            }
            None => next_folder(Path::new(RUNS), dataset)?,
        };
        let run = Self { lock: Lock::take(&path)?, path };
        // Another process may have begun and ended a run in between.
        Self::check(&run.path)?;
        run.remove_unfinished()?;
        Ok(run)
    }

    /// Takes the folder of a run that there is, and removes what was being written when it stopped.
    ///
    /// # Errors
    /// If another process has it, or it cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let run = Self { lock: Lock::take(path)?, path: path.to_path_buf() };
        run.remove_unfinished()?;
        Ok(run)
    }

    fn remove_unfinished(&self) -> Result<()> {
        let folders = [self.path.clone(), self.file(SAMPLES), self.file(CHECKPOINTS)];
        folders.iter().try_for_each(|folder| remove_unfinished(folder))
    }

    /// Whether a run may go to `path`: there is nothing, or a folder that holds nothing of a run.
    ///
    /// # Errors
    /// [`Usage`], if there is something; or if it cannot be looked at.
    pub fn check(path: &Path) -> Result<()> {
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    if !is_of_no_run(&entry.with_context(|| cannot_make(path))?) {
                        return Err(taken(path, "the folder is not empty").into());
                    }
                }
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => {
                Err(taken(path, "it is a file, or below one").into())
            }
            Err(e) => Err(e).with_context(|| cannot_make(path)),
        }
    }

    /// Whether the folder is still there, and the one that was taken.
    ///
    /// # Errors
    /// If it is not: it was removed, moved or replaced.
    pub fn ensure_there(&self) -> Result<()> {
        let path = self.path.display();
        ensure!(
            self.lock.is_in(&self.path),
            "{path}: the run's folder was removed or replaced while the run was writing to it"
        );
        Ok(())
    }

    /// The number of the process that has the run in `path`, 0 where it is not known; `None` if
    /// nobody has.
    pub fn holder(path: &Path) -> Option<u32> {
        Lock::holder(path)
    }

    /// The folder's checkpoints.
    pub fn checkpoints(&self) -> Folder {
        Folder::of_run(&self.path)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The grid of an iteration.
    pub fn sample(&self, iteration: u64) -> PathBuf {
        self.path.join(SAMPLES).join(numbered_name(iteration, "png"))
    }

    /// Makes the folder of grids, and removes those after `iteration`.
    ///
    /// # Errors
    /// If it cannot be made or a file not be removed.
    pub fn remove_samples_after(&self, iteration: u64) -> Result<()> {
        let folder = self.file(SAMPLES);
        fs::create_dir_all(&folder).with_context(|| cannot_make(&folder))?;
        for later in self.samples()?.into_iter().filter(|&number| number > iteration) {
            remove(&self.sample(later))?;
        }
        Ok(())
    }

    /// Whether there is any grid.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn has_samples(&self) -> Result<bool> {
        Ok(!self.samples()?.is_empty())
    }

    /// The iterations of the grids there are.
    fn samples(&self) -> Result<Vec<u64>> {
        Ok(Self::samples_of(&self.path)?.into_keys().collect())
    }

    /// The grids of the run in `path`, by iteration.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn samples_of(path: &Path) -> Result<BTreeMap<u64, PathBuf>> {
        let folder = path.join(SAMPLES);
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.with_context(|| format!("{}: cannot be read", folder.display()))?,
        };
        let numbered = |entry: fs::DirEntry| {
            Some((number_of(entry.file_name().to_str()?, "png")?, entry.path()))
        };
        Ok(entries.flatten().filter_map(numbered).collect())
    }

    /// Whether `path` is a run's folder.
    pub fn is_run(path: &Path) -> bool {
        let has_state = || Folder::of_run(path).iterations().is_ok_and(|all| !all.is_empty());
        path.join("config.toml").is_file() || has_state()
    }

    /// Whether the run in `path` has written everything.
    pub fn is_finished(path: &Path) -> bool {
        path.join(FINISHED).exists()
    }

    /// From now on, the run is not finished.
    ///
    /// # Errors
    /// If the sign of that cannot be removed.
    pub fn reopen(&self) -> Result<()> {
        // What is made of a finished run is not of the longer one.
        remove_if_there(&self.file(FILM))?;
        remove_if_there(&self.file(FINISHED))
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Whether `entry` is of a run that was stopped before it had written anything.
fn is_of_no_run(entry: &fs::DirEntry) -> bool {
    let is_unfinished =
        |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(UNFINISHED);
    let name = entry.file_name();
    if name == CHECKPOINTS {
        let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        return inner.into_iter().all(|entry| is_unfinished(&entry));
    }
    name == super::lock::FILE || is_unfinished(entry)
}

fn taken(path: &Path, what: &str) -> Usage {
    let path = path.display();
    Usage(format!("{path}: {what}; a run never writes over another, name a new folder"))
}

fn cannot_make(path: &Path) -> String {
    format!("{}: the run's folder cannot be made", path.display())
}

/// The number that a run's name begins with, if it has one.
pub(crate) fn run_number(name: &str) -> Option<u32> {
    name.split('-').next()?.parse().ok()
}

fn next_folder(runs: &Path, dataset: &str) -> Result<PathBuf> {
    fs::create_dir_all(runs).with_context(|| cannot_make(runs))?;
    let last = fs::read_dir(runs)
        .with_context(|| format!("{}: cannot be read", runs.display()))?
        .filter_map(|entry| run_number(entry.ok()?.file_name().to_str()?))
        .max();
    let date = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    // A data set may be a path; a folder's name may not.
    let dataset: String =
        dataset.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let mut number = last.unwrap_or(0).saturating_add(1);
    loop {
        let path = runs.join(format!("{number:04}-{date}-{dataset}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            // Another process was faster.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number = number.saturating_add(1),
            Err(e) => return Err(e).with_context(|| cannot_make(&path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_folders_are_numbered_on_and_never_reused() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let runs = parent.path().join("runs");
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name(next_folder(&runs, "digits")?).starts_with("0001-"));
        let second = name(next_folder(&runs, "folder:/a b")?);
        assert!(second.starts_with("0002-") && second.ends_with("-folder--a-b"), "{second}");
        fs::create_dir(runs.join("0041-old-one"))?;
        fs::create_dir(runs.join("not a number"))?;
        assert!(name(next_folder(&runs, "digits")?).starts_with("0042-"));
        Ok(())
    }

    #[test]
    fn a_folder_that_holds_something_is_refused_and_an_empty_one_is_not() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let asked = parent.path().join("a/b");
        let run = RunDir::create(Some(&asked), "digits")?;
        assert!(run.sample(100).ends_with("a/b/samples/iteration-000100.png"));
        // A run that was killed before it had written anything has left a lock and half a file.
        drop(run);
        fs::create_dir(asked.join(CHECKPOINTS))?;
        let halves = [asked.join(".unfinished-abc"), asked.join("checkpoints/.unfinished-abc")];
        halves.iter().try_for_each(|half| fs::write(half, "half"))?;
        let run = RunDir::create(Some(&asked), "digits")?;
        assert!(!halves.iter().any(|half| half.exists()));
        fs::write(run.file("config.toml"), "")?;
        drop(run);
        let again = RunDir::create(Some(&asked), "digits").unwrap_err();
        assert!(again.downcast_ref::<Usage>().is_some() && again.to_string().contains("not empty"));
        let file = parent.path().join("file");
        fs::write(&file, "")?;
        assert!(RunDir::create(Some(&file), "digits").unwrap_err().to_string().contains("a file"));
        Ok(())
    }

    #[test]
    fn a_folder_has_one_holder_at_a_time_who_is_named() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let path = parent.path().join("run");
        let run = RunDir::create(Some(&path), "digits")?;
        let pid = std::process::id();
        assert_eq!(RunDir::holder(&path), Some(pid));
        for error in
            [RunDir::open(&path).unwrap_err(), RunDir::create(Some(&path), "").unwrap_err()]
        {
            assert!(error.to_string().contains(&format!("in use by process {pid}")), "{error}");
        }
        drop(run);
        assert_eq!(RunDir::holder(&path), None);
        RunDir::open(&path)?;
        Ok(())
    }

    #[test]
    fn a_removed_or_replaced_folder_is_noticed() -> Result<()> {
        let parent = tempfile::tempdir()?;
        let path = parent.path().join("run");
        let run = RunDir::create(Some(&path), "digits")?;
        run.ensure_there()?;
        fs::rename(&path, parent.path().join("moved"))?;
        assert!(run.ensure_there().is_err());
        let other = RunDir::create(Some(&path), "digits")?;
        assert!(run.ensure_there().is_err());
        other.ensure_there()
    }
}
