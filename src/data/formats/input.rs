//! The files that a data set is made of, and reading them, gzipped or not.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;

use super::{MAX_EXPANDED, expansion_limit};

/// A file that a data set is made of, or a part of it.
#[derive(Debug)]
pub struct SourceFile {
    /// Its path; within the folder or archive where it is in one.
    pub(in crate::data) name: String,
    pub(super) content: Content,
    /// Which part of it is meant, such as an array's name; `None` for what the format finds.
    part: Option<String>,
}

/// Where a file's bytes are.
#[derive(Debug)]
pub(super) enum Content {
    /// On the disk.
    At(PathBuf),
    /// Here, out of an archive.
    Bytes(Vec<u8>),
    /// Out of reach, for this reason.
    Unreadable(String),
    /// The folder of a run of this program, which is never read.
    Run,
}

impl SourceFile {
    /// The file at `path`.
    ///
    /// # Errors
    /// If it cannot be seen, or is no regular file.
    pub fn at(path: &Path) -> Result<Self> {
        length_of(path)?;
        Ok(Self::new(path.display().to_string(), Content::At(path.to_path_buf())))
    }

    /// A file that is called `name`.
    pub(super) fn new(name: String, content: Content) -> Self {
        Self { name, content, part: None }
    }

    /// The file that `path` names, or a part of one: `FILE#PART`, unless there is a file of this whole name.
    ///
    /// # Errors
    /// As [`Self::at`].
    pub(super) fn part_at(path: &Path) -> Result<Self> {
        let split = path.to_str().and_then(|path| path.rsplit_once('#'));
        match split {
            Some((file, part)) if !path.exists() && !part.is_empty() => {
                Ok(Self::at(Path::new(file))?.with_part(part))
            }
            _ => Self::at(path),
        }
    }

    /// Only this part of the file.
    pub(in crate::data) fn with_part(self, part: &str) -> Self {
        Self { name: format!("{}#{part}", self.name), part: Some(part.to_owned()), ..self }
    }

    /// The part of it that is meant.
    pub(super) fn part(&self) -> Option<&str> {
        self.part.as_deref()
    }

    /// What tells this state of the file from every other: its name, length and the time of its last
    /// change in nanoseconds since 1970.
    pub(in crate::data) fn stamp(&self) -> (String, u64, u128) {
        let (length, time) = match &self.content {
            Content::At(path) => stamp(path).unwrap_or_default(),
            _ => (0, 0),
        };
        (self.name.clone(), length, time)
    }

    /// Whether it stands for the folder of a run of this program, of which nothing is read.
    pub(in crate::data) fn is_run(&self) -> bool {
        matches!(self.content, Content::Run)
    }

    /// Its bytes that are in memory.
    pub(in crate::data) fn bytes_in_memory(&self) -> usize {
        match &self.content {
            Content::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// Where it is on the disk.
    ///
    /// # Errors
    /// If it is not there: it is in an archive, or cannot be read.
    pub(in crate::data) fn path(&self) -> Result<&Path> {
        match &self.content {
            Content::At(path) => Ok(path),
            Content::Bytes(_) | Content::Run => {
                bail!("{}: expected a file on the disk", self.name)
            }
            Content::Unreadable(reason) => bail!("{}: cannot be read: {reason}", self.name),
        }
    }

    /// The file, ready to be read.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub(super) fn open(&self) -> Result<BufReader<File>> {
        Ok(BufReader::new(open_file(self.path()?)?.0))
    }

    /// What `parse` makes of its bytes, unpacked where they are gzipped.
    ///
    /// # Errors
    /// If it cannot be read; those of `parse`, which need not name the file.
    pub(super) fn parse<T>(&self, parse: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        let bytes = read_maybe_gzipped(self.path()?, MAX_EXPANDED)?;
        parse(&bytes).with_context(|| self.name.clone())
    }
}

/// A file's length, and the time of its last change in nanoseconds since 1970.
fn stamp(path: &Path) -> std::io::Result<(u64, u128)> {
    let metadata = std::fs::metadata(path)?;
    let time =
        metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok((metadata.len(), time.unwrap_or_default().as_nanos()))
}

/// The length of the file at `path`.
///
/// # Errors
/// If it cannot be seen, or is no regular file: a pipe or a device may have no end.
fn length_of(path: &Path) -> Result<u64> {
    let metadata =
        path.metadata().with_context(|| format!("{}: cannot be read", path.display()))?;
    let found = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
    ensure!(metadata.is_file(), "{}: is {found}, expected a file", path.display());
    Ok(metadata.len())
}

/// The file at `path`, and its length.
///
/// # Errors
/// If it cannot be read, or is no regular file.
pub(super) fn open_file(path: &Path) -> Result<(File, u64)> {
    // Checked before the file is opened, because opening a pipe would wait for its writer.
    let length = length_of(path)?;
    let file = File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok((file, length))
}

/// The first bytes of the file at `path`, as many as there are of 6.
pub(super) fn head(path: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("{}: cannot be read", path.display());
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(6).read_to_end(&mut head)).with_context(cannot)?;
    Ok(head)
}

/// Whether the file at `path` is gzipped.
pub(super) fn is_gzip(path: &Path) -> Result<bool> {
    Ok(head(path)?.starts_with(&[0x1f, 0x8b]))
}

/// The first `length` bytes of the file at `path`, of what it unpacks to where it is gzipped, or all if it is shorter.
pub(super) fn gunzipped_head(path: &Path, length: u64) -> Result<Vec<u8>> {
    let (file, _) = open_file(path)?;
    let mut head = Vec::new();
    let read = match is_gzip(path)? {
        true => MultiGzDecoder::new(BufReader::new(file)).take(length).read_to_end(&mut head),
        false => file.take(length).read_to_end(&mut head),
    };
    read.with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(head)
}

/// The bytes of the file at `path`, gzipped or not.
///
/// # Errors
/// If it cannot be read, is damaged, or expands beyond `limit`.
pub(in crate::data) fn read_maybe_gzipped(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let cannot = || format!("{}: cannot be read", path.display());
    let (file, length) = open_file(path)?;
    let mut bytes = Vec::new();
    let limit = limit.min(expansion_limit(length));
    if is_gzip(path)? {
        MultiGzDecoder::new(BufReader::new(file))
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .with_context(|| format!("{}: not a whole gzip file", path.display()))?;
    } else {
        file.take(limit + 1).read_to_end(&mut bytes).with_context(cannot)?;
    }
    ensure!(bytes.len() as u64 <= limit, "{}: holds more than {limit} bytes", path.display());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzipped(bytes: &[u8]) -> Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes)?;
        Ok(encoder.finish()?)
    }

    #[test]
    fn a_file_that_expands_beyond_the_limit_is_an_error_and_one_of_several_parts_is_whole()
    -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("some.gz");
        std::fs::write(&path, gzipped(&[0; 100_000])?)?;
        assert_eq!(read_maybe_gzipped(&path, 100_000)?.len(), 100_000);
        let error = format!("{:#}", read_maybe_gzipped(&path, 99_999).unwrap_err());
        assert!(error.contains("some.gz: holds more than 99999 bytes"), "{error}");
        std::fs::write(&path, [gzipped(b"two ")?, gzipped(b"parts")?].concat())?;
        assert_eq!(read_maybe_gzipped(&path, 100)?, b"two parts");
        Ok(())
    }
}
