//! What this process is writing and has not given its name yet, so that an interrupted process can leave nothing
//! behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The prefix of the names of files and folders that are still being written.
pub const UNFINISHED: &str = ".unfinished-";

static ALL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn all() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file or folder that is removed if the process is interrupted while this value exists.
#[derive(Debug)]
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// What is being written to `path`.
    pub fn at(path: &Path) -> Self {
        all().insert(path.to_owned());
        Self(path.to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        all().remove(&self.0);
    }
}

/// Removes everything that the process has not finished, and lets it begin nothing more. Call it where the process ends
/// at once.
pub fn remove_all_unfinished() {
    let all = all();
    for path in all.iter() {
        // Under another name first: another thread cannot put files into a folder any more that it does not find.
        let mut aside = path.clone().into_os_string();
        aside.push("-removed");
        let aside = PathBuf::from(aside);
        let path = if fs::rename(path, &aside).is_ok() { &aside } else { path };
        // One that was just being made may still have come into it.
        let is_gone = || fs::remove_file(path).is_ok() || fs::remove_dir_all(path).is_ok();
        let _ = (0..10).any(|_| is_gone() || !path.exists());
    }
    std::mem::forget(all);
}

/// Lets a write beyond the limit of a file's size (`ulimit -f`) be an error like that of a full disk. Otherwise the
/// signal SIGXFSZ would end the process.
pub fn let_the_size_limit_be_an_error() {
    #[cfg(unix)]
    // SAFETY: ignoring a signal installs no handler.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}
