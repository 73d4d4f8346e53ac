//! One process a run: a lock that dies with its process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The file in the run's folder that is locked. It stays when the run ends: the lock is on the open
/// file, not in its being there.
pub(super) const FILE: &str = ".lock";

/// Times to try, and how long to wait in between: somebody may just be looking who holds it.
const TRIES: u32 = 10;
const WAIT: Duration = Duration::from_millis(50);

/// Holds the folder until it is dropped or its process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of the run in `folder`.
    ///
    /// # Errors
    /// If another process has it, whose number the message names; or if the file cannot be written.
    pub(super) fn take(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let cannot = || format!("{}: cannot be written", path.display());
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(&path);
        let mut lock = Self(file.with_context(cannot)?);
        for attempt in 1.. {
            match lock.0.try_lock() {
                Ok(()) => break,
                // Some network file systems know no locks; then nobody has one.
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

    /// The number of the process that holds the run in `folder`, 0 where it is not known; `None` if
    /// nobody does.
    pub(super) fn holder(folder: &Path) -> Option<u32> {
        let mut lock = Self(File::open(folder.join(FILE)).ok()?);
        // Shared, so that two who look don't take each other for the holder.
        match lock.0.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(lock.pid().unwrap_or(0)),
            _ => None,
        }
    }

    /// Whether `folder` still holds the file that was locked, and not another one or none.
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

    fn pid(&mut self) -> Option<u32> {
        let mut text = String::new();
        self.0.rewind().ok()?;
        self.0.read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}
