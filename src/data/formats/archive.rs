//! What archives of image files have in common.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Result, ensure};

use super::expansion_limit;
use super::image_file::MAX_FILE;
use super::input::{Content, open_file};

/// What an archive may expand to, counted while it is read.
pub(super) struct Expansion {
    bound: u64,
    expanded: u64,
}

impl Expansion {
    /// The most that it may come to.
    pub(super) fn bound(&self) -> u64 {
        self.bound
    }

    /// Counts `bytes` more, of the archive at `path`.
    ///
    /// # Errors
    /// If that is more than any archive of images comes to.
    pub(super) fn add(&mut self, bytes: u64, path: &Path) -> Result<()> {
        self.expanded = self.expanded.saturating_add(bytes);
        ensure!(
            self.expanded <= self.bound,
            "{}: expands to more than {} bytes, as no archive of images does",
            path.display(),
            self.bound
        );
        Ok(())
    }
}

/// The archive at `path`, and what it may expand to.
pub(super) fn open_archive(path: &Path) -> Result<(File, Expansion)> {
    let (file, length) = open_file(path)?;
    Ok((file, Expansion { bound: expansion_limit(length), expanded: 0 }))
}

/// Whether a file or a folder on the way to it is hidden, by its name.
pub(super) fn is_hidden_path(name: &str) -> bool {
    let is_hidden = |part: &str| part.starts_with('.') && part != "." && part != "..";
    name.split(['/', '\\']).any(is_hidden)
}

/// The bytes of a file in an archive, if they are not too many for an image.
pub(super) fn read_entry(entry: &mut impl Read) -> std::io::Result<Content> {
    let mut bytes = Vec::new();
    entry.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() as u64 > MAX_FILE {
        Content::Unreadable(format!("larger than {MAX_FILE} bytes"))
    } else {
        Content::Bytes(bytes)
    })
}
