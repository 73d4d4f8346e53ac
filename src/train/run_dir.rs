//! The folder that a run writes.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::usage::Usage;

/// Where runs go unless the user says otherwise.
const RUNS: &str = "runs";

/// A run's folder. Never one that held anything before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes the folder that the user asked for, or the next numbered, dated one under `runs/`, such
    /// as `runs/0001-2026-01-31-digits`.
    ///
    /// # Errors
    /// [`Usage`], if the folder asked for holds something already; or if none can be made.
    pub fn create(asked: Option<&Path>, dataset: &str) -> Result<Self> {
        let path = match asked {
            Some(path) => {
                Self::check(path)?;
                fs::create_dir_all(path).with_context(|| cannot_make(path))?;
                path.to_path_buf()
            }
            None => next_folder(Path::new(RUNS), dataset)?,
        };
        Ok(Self(path))
    }

    /// Takes the folder: nobody else has begun a run in it, and nobody else will.
    ///
    /// # Errors
    /// [`Usage`], if another process was faster; or if the folder cannot be written.
    pub fn begin(&self) -> Result<()> {
        let samples = self.file("samples");
        match fs::create_dir(&samples) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                Err(taken(&self.0, "another run has just begun there").into())
            }
            done => done.with_context(|| cannot_make(&samples)),
        }
    }

    /// Whether a run may go to `path`: there is nothing, or an empty folder.
    ///
    /// # Errors
    /// [`Usage`], if there is something; or if it cannot be looked at.
    pub fn check(path: &Path) -> Result<()> {
        match fs::read_dir(path) {
            Ok(mut entries) => match entries.next() {
                Some(_) => Err(taken(path, "the folder is not empty").into()),
                None => Ok(()),
            },
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => {
                Err(taken(path, "it is a file").into())
            }
            Err(e) => Err(e).with_context(|| cannot_make(path)),
        }
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The grid of an iteration.
    pub fn sample(&self, iteration: u64) -> PathBuf {
        self.0.join("samples").join(format!("iteration-{iteration:06}.png"))
    }

    /// A file of the run.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

fn taken(path: &Path, what: &str) -> Usage {
    let path = path.display();
    Usage(format!("--run {path}: {what}; a run never writes over another, name a new folder"))
}

fn cannot_make(path: &Path) -> String {
    format!("{}: the run's folder cannot be made", path.display())
}

fn next_folder(runs: &Path, dataset: &str) -> Result<PathBuf> {
    fs::create_dir_all(runs).with_context(|| cannot_make(runs))?;
    let number_of = |name: &str| name.split('-').next()?.parse::<u32>().ok();
    let last = fs::read_dir(runs)
        .with_context(|| format!("{}: cannot be read", runs.display()))?
        .filter_map(|entry| number_of(entry.ok()?.file_name().to_str()?))
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
        run.begin()?;
        assert!(run.begin().unwrap_err().to_string().contains("another run"));
        assert!(run.sample(100).ends_with("a/b/samples/iteration-000100.png"));
        let again = RunDir::create(Some(&asked), "digits").unwrap_err();
        assert!(again.downcast_ref::<Usage>().is_some() && again.to_string().contains("not empty"));
        let file = parent.path().join("file");
        fs::write(&file, "")?;
        assert!(RunDir::create(Some(&file), "digits").unwrap_err().to_string().contains("a file"));
        let empty = parent.path().join("empty");
        fs::create_dir(&empty)?;
        assert!(RunDir::create(Some(&empty), "digits").is_ok());
        Ok(())
    }
}
