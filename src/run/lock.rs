//! A lock that lets only one process at a time train a run. The system releases it when the process ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The file in the run's folder that is locked. It stays there when the run ends, which does no harm: a run is locked
/// by a lock on the open file, not by the existence of the file.
pub(super) const FILE: &str = ".lock";

/// How many times to try to take the lock, because another process that only asks who holds it locks it for a moment.
const TRIES: u32 = 10;
/// How long to wait between two tries.
const WAIT: Duration = Duration::from_millis(50);

/// Locks a run's folder until this value is dropped or the process ends, even if it is killed.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of the run in `folder`.
    ///
    /// # Errors
    /// If another process holds the lock; the message names its number. Also if the file cannot be written.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let cannot = || format!("{}: cannot be written", path.display());
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path);
        let mut lock = Self(file.with_context(cannot)?);
        for attempt in 1.. {
            match lock.0.try_lock() {
                Ok(()) => break,
                // Some network file systems do not support locks. A run there has none.
                Err(TryLockError::Error(e)) if e.kind() == ErrorKind::Unsupported => break,
                Err(TryLockError::Error(e)) => return Err(e).with_context(cannot),
                Err(TryLockError::WouldBlock) if attempt < TRIES => std::thread::sleep(WAIT),
                Err(TryLockError::WouldBlock) => bail!(
                    "{}: in use by process {}; wait until it ends, or stop it",
                    folder.display(),
                    lock.pid().map_or("unknown".to_owned(), |pid| pid.to_string())
                ),
            }
        }
        lock.0.set_len(0).with_context(cannot)?;
        lock.0.rewind().with_context(cannot)?;
        writeln!(lock.0, "{}", std::process::id()).with_context(cannot)?;
        Ok(lock)
    }

    /// The number of the process that has locked the run in `folder`, 0 where the number is not known; `None` if no
    /// process has.
    pub(super) fn holder(folder: &Path) -> Option<u32> {
        let mut lock = Self(File::open(folder.join(FILE)).ok()?);
        // A shared lock, so that two processes that ask at once do not take each other for the holder.
        match lock.0.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(lock.pid().unwrap_or(0)),
            _ => None,
        }
    }

    /// Whether the lock file in `folder` still exists and is the very file that was locked.
    pub(super) fn is_in(&self, folder: &Path) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
            let there = std::fs::metadata(folder.join(FILE)).ok().map(id);
            there.is_some() && there == self.0.metadata().ok().map(id)
        }
        #[cfg(not(unix))]
        folder.join(FILE).exists()
    }

    /// The number of the process that wrote the lock file last.
    fn pid(&mut self) -> Option<u32> {
        let mut text = String::new();
        self.0.rewind().ok()?;
        self.0.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}
