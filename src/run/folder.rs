//! The folder that a run writes to.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::lock::Lock;
use crate::error::Usage;
use crate::files::{UNFINISHED, remove, remove_if_there, remove_unfinished};
use crate::run::checkpoint::{CHECKPOINTS, Folder, number_of, numbered_name};

/// The folder in which runs are made unless the user names another.
pub const RUNS: &str = "runs";
/// The last file that a run writes. A run that has it is finished.
pub(super) const FINISHED: &str = "real_vs_generated.png";
/// The film of a finished run's grids, which is made where the user asked for one.
pub const FILM: &str = "film.gif";
/// The name of the folder within a run's folder that holds its sample grids.
const SAMPLES: &str = "samples";

/// A run's folder, locked by this process.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    lock: Lock,
}

impl RunDir {
    /// Makes a folder for a new run and locks it: the folder `asked`, or without one the next in `runs/` with a number
    /// and the date, such as `runs/0001-2026-01-31-digits`.
    ///
    /// # Errors
    /// [`Usage`], if the folder `asked` already holds something. Also if another process has locked it, or if the
    /// folder cannot be made.
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
        // Checked again under the lock: another process may have begun and ended a run between the first check and it.
        Self::check(&run.path)?;
        run.remove_unfinished()?;
        Ok(run)
    }

    /// Locks the folder of an existing run, and removes the files that were half written when the run stopped.
    ///
    /// # Errors
    /// If another process has locked the folder, or it cannot be written to.
    pub fn open(path: &Path) -> Result<Self> {
        let run = Self { lock: Lock::take(path)?, path: path.to_path_buf() };
        run.remove_unfinished()?;
        Ok(run)
    }

    fn remove_unfinished(&self) -> Result<()> {
        let folders = [self.path.clone(), self.file(SAMPLES), self.file(CHECKPOINTS)];
        folders.iter().try_for_each(|folder| remove_unfinished(folder))
    }

    /// Checks that a new run may be written to `path`: nothing exists there, or a folder that holds no part of a run.
    ///
    /// # Errors
    /// [`Usage`], if something is there. Also if the folder cannot be read.
    pub fn check(path: &Path) -> Result<()> {
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    if !is_leftover(&entry.with_context(|| cannot_make(path))?) {
                        return Err(taken(path, "the folder is not empty").into());
                    }
                }
                Ok(())
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => {
                Err(taken(path, "it is a file, or lies below a file").into())
            }
            Err(e) => Err(e).with_context(|| cannot_make(path)),
        }
    }

    /// Checks that the folder still exists and is the one that was locked.
    ///
    /// # Errors
    /// If the folder was removed, moved or replaced.
    pub fn ensure_there(&self) -> Result<()> {
        let path = self.path.display();
        ensure!(
            self.lock.is_in(&self.path),
            "{path}: the run's folder was removed or replaced while the run was writing to it"
        );
        Ok(())
    }

    /// The number of the process that has locked the run in `path`, 0 where the number is not known; `None` if no
    /// process has.
    pub fn holder(path: &Path) -> Option<u32> {
        Lock::holder(path)
    }

    /// The folder of the run's checkpoints.
    pub fn checkpoints(&self) -> Folder {
        Folder::of_run(&self.path)
    }

    /// The path of the run's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of an iteration's sample grid, whether it exists or not.
    pub fn sample(&self, iteration: u64) -> PathBuf {
        self.path.join(SAMPLES).join(numbered_name(iteration, "png"))
    }

    /// Makes the folder of sample grids, unless it exists, and removes the grids of iterations after `iteration`.
    ///
    /// # Errors
    /// If the folder cannot be made or a file cannot be removed.
    pub fn remove_samples_after(&self, iteration: u64) -> Result<()> {
        let folder = self.file(SAMPLES);
        fs::create_dir_all(&folder).with_context(|| cannot_make(&folder))?;
        for later in self.samples()?.into_iter().filter(|&number| number > iteration) {
            remove(&self.sample(later))?;
        }
        Ok(())
    }

    /// Whether the run has any sample grid.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn has_samples(&self) -> Result<bool> {
        Ok(!self.samples()?.is_empty())
    }

    /// The iterations that have a sample grid.
    fn samples(&self) -> Result<Vec<u64>> {
        Ok(Self::samples_of(&self.path)?.into_keys().collect())
    }

    /// The sample grids of the run in `path`, by iteration. Empty if it has none.
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

    /// Whether `path` is a run's folder: it has a configuration or a checkpoint.
    pub fn is_run(path: &Path) -> bool {
        let has_state = || Folder::of_run(path).iterations().is_ok_and(|all| !all.is_empty());
        path.join("config.toml").is_file() || has_state()
    }

    /// Whether the run in `path` is finished, that is, has written its last file.
    pub fn is_finished(path: &Path) -> bool {
        path.join(FINISHED).exists()
    }

    /// Makes a finished run unfinished, so that it can be trained further.
    ///
    /// # Errors
    /// If the film or the file that marks the run as finished cannot be removed.
    pub fn reopen(&self) -> Result<()> {
        // The film shows the run as it was; it would be out of date once the run is longer.
        remove_if_there(&self.file(FILM))?;
        remove_if_there(&self.file(FINISHED))
    }

    /// The path of the file or folder `name` in the run's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// Whether `entry` is all that is left of a run that was stopped before it had written anything: its lock, a half
/// written file, or a folder of checkpoints with nothing but half written files.
fn is_leftover(entry: &fs::DirEntry) -> bool {
    let is_unfinished =
        |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(UNFINISHED);
    let name = entry.file_name();
    if name == CHECKPOINTS {
        let inner = fs::read_dir(entry.path()).into_iter().flatten().flatten();
        return inner.into_iter().all(|entry| is_unfinished(&entry));
    }
    name == super::lock::FILE || is_unfinished(entry)
}

/// The error that a new run cannot be written to `path`, because of `what` is there.
fn taken(path: &Path, what: &str) -> Usage {
    let advice = if RunDir::is_run(path) {
        "it holds a run, which can be resumed; for another, name a new folder"
    } else {
        "a run never writes over anything, name a new folder"
    };
    Usage(format!("{}: {what}; {advice}", path.display()))
}

fn cannot_make(path: &Path) -> String {
    format!("{}: the run's folder cannot be made", path.display())
}

/// The number at the beginning of a run's name, if there is one.
pub(crate) fn run_number(name: &str) -> Option<u32> {
    name.split('-').next()?.parse().ok()
}

/// Makes the folder of the next run in `runs`: one more than the highest number there, the date and the data set.
fn next_folder(runs: &Path, dataset: &str) -> Result<PathBuf> {
    fs::create_dir_all(runs).with_context(|| cannot_make(runs))?;
    let last = fs::read_dir(runs)
        .with_context(|| format!("{}: cannot be read", runs.display()))?
        .filter_map(|entry| run_number(entry.ok()?.file_name().to_str()?))
        .max();
    let date = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    // A data set's name may be a path, with characters that a folder's name cannot have.
    let dataset: String =
        dataset.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    let mut number = last.unwrap_or(0).saturating_add(1);
    loop {
        let path = runs.join(format!("{number:04}-{date}-{dataset}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            // Another process has just made this folder, so the next number is tried.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => number = number.saturating_add(1),
            Err(e) => return Err(e).with_context(|| cannot_make(&path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_folders_get_the_next_number_and_are_never_reused() -> Result<()> {
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
        // A run that was killed before it had written anything leaves a lock and half a file.
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
