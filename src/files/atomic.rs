//! Writes files so that they appear whole or not at all.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::unfinished::{UNFINISHED, Unfinished};

/// Writes a file whole or not at all: to a temporary file in the same folder, which is synced to the disk and renamed;
/// then the folder is synced.
///
/// # Errors
/// If one of these steps fails, or if `path` is a pipe or a device, which renaming would replace. Then `path` is as it
/// was before, and no temporary file is left.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut File) -> std::io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let attempt = || -> Result<()> {
        let is_special = path.metadata().is_ok_and(|found| !found.is_file() && !found.is_dir());
        ensure!(!is_special, "expected a regular file or none, found a pipe or a device");
        let mut builder = tempfile::Builder::new();
        // Temporary files are private by default, but the final file has to be as readable as the user's other files.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut beside = builder.prefix(UNFINISHED).tempfile_in(folder).map_err(of_system)?;
        let _unfinished = Unfinished::at(beside.path());
        write(beside.as_file_mut())?;
        beside.as_file().sync_all()?;
        beside.persist(path).map_err(|failed| failed.error)?;
        #[cfg(unix)]
        File::open(folder)?.sync_all()?;
        Ok(())
    };
    attempt().with_context(|| format!("{}: cannot be written", path.display()))
}

/// Makes a folder beside `path`, for what is to be there once it is whole. It is removed with the values that are
/// returned.
///
/// # Errors
/// If it cannot be made; the message names `path`.
pub fn scratch_beside(path: &Path) -> Result<(tempfile::TempDir, Unfinished)> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempdir_in(folder.unwrap_or(Path::new(".")))
        .map_err(of_system)
        .with_context(|| format!("{}: cannot be written", path.display()))?;
    let unfinished = Unfinished::at(made.path());
    Ok((made, unfinished))
}

/// An error of `tempfile` without the name of the temporary file, which nobody asked for.
fn of_system(error: std::io::Error) -> std::io::Error {
    let text = error.to_string();
    let cause = text.split(" at path ").next().unwrap_or_default();
    std::io::Error::new(error.kind(), cause.to_owned())
}

/// Like [`write_atomically`], for content whose making can fail with errors other than those of writing.
///
/// # Errors
/// As [`write_atomically`], or the error of `write`; the message names the file.
pub fn write_streamed(path: &Path, write: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
    let mut failure = None;
    let written = write_atomically(path, |file| {
        write(file).map_err(|error| {
            failure = Some(error);
            std::io::Error::other("the content cannot be made")
        })
    });
    match failure {
        Some(error) => Err(error.context(format!("{}: cannot be written", path.display()))),
        None => written,
    }
}

/// Writes `bytes` to a file, whole or not at all.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_atomically(path, |file| file.write_all(bytes))
}

/// Removes a file.
///
/// # Errors
/// If it cannot be removed; the message names it.
pub fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("{}: cannot be removed", path.display()))
}

/// Removes a file if it exists.
///
/// # Errors
/// If it cannot be removed; the message names it.
pub fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("{}: cannot be removed", path.display())),
    }
}

/// Removes the unfinished files in `folder`, which are left when a process is stopped while it writes.
///
/// # Errors
/// If such a file cannot be removed or the folder cannot be read.
pub fn remove_unfinished(folder: &Path) -> Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("{}: cannot be read", folder.display()))?,
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn what_is_no_regular_file_is_not_replaced() -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("pipe");
        let name = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `name` is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link)?;
        for target in [&path, &link] {
            let error = format!("{:#}", write_bytes(target, b"x").unwrap_err());
            assert!(error.contains("expected a regular file or none"), "{error}");
        }
        assert!(path.symlink_metadata()?.file_type().is_fifo());
        assert!(link.symlink_metadata()?.file_type().is_symlink());
        assert_eq!(fs::read_dir(folder.path())?.count(), 2);
        Ok(())
    }

    #[test]
    fn what_cannot_be_written_is_named_and_no_temporary_file_is() {
        let path = Path::new("/no such folder/x");
        for error in [write_bytes(path, b"x").unwrap_err(), scratch_beside(path).unwrap_err()] {
            let error = format!("{error:#}");
            assert!(error.starts_with("/no such folder/x: cannot be written: "), "{error}");
            assert!(!error.contains(UNFINISHED), "{error}");
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("kept");
        fs::write(&path, "old")?;
        let failing = |file: &mut File| {
            file.write_all(b"new")?;
            Err(std::io::Error::other("full"))
        };
        assert!(write_atomically(&path, failing).is_err());
        assert_eq!(fs::read_to_string(&path)?, "old");
        assert_eq!(fs::read_dir(folder.path())?.count(), 1);
        Ok(())
    }
}
