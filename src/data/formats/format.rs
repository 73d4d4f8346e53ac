//! What every format says of itself.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Fit, Sink, SourceFile};

/// A kind of data set that is on this machine's disk, or within this program.
///
/// A format is a file in this folder with a type that implements this, and a line in [`super::FORMATS`]:
/// from there data sets' names are understood, listed and read.
pub trait Format: fmt::Debug + Sync {
    /// What stands before the colon of a data set's name, such as `zip` in `zip:FILE`.
    fn name(&self) -> &'static str;

    /// What stands for the place behind the colon; `None` for a set that has its images in this program.
    fn place(&self) -> Option<&'static str> {
        Some("FILE")
    }

    /// What `dcgan data` says of it, in a line.
    fn meaning(&self) -> &'static str;

    /// How images of another size come to that of the set, unless the user says.
    fn natural_fit(&self) -> Fit {
        Fit::Pad
    }

    /// Whether it holds arrays, whose axes settings may name.
    fn holds_arrays(&self) -> bool {
        false
    }

    /// Whether it may hold numbers other than bytes, which have a range that the user states.
    fn takes_range(&self) -> bool {
        false
    }

    /// Whether what it holds are image files, each of which says how it is stored.
    fn holds_image_files(&self) -> bool {
        false
    }

    /// The files that the set at `path` is made of. A set is taken from the cache as long as these have not
    /// changed.
    ///
    /// # Errors
    /// If a file cannot be seen, or is of another kind.
    fn files(&self, path: &Path) -> Result<Vec<SourceFile>> {
        Ok(vec![SourceFile::at(path)?])
    }

    /// Counts up when the format comes to read more of the same files, which then have to be read anew.
    fn revision(&self) -> Option<u32> {
        None
    }

    /// Files beside the one at `path` that belong to it, of a public set.
    fn beside(&self, _path: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Hands on all images in `files`, in their order.
    ///
    /// # Errors
    /// If a file cannot be read or is damaged; the message names it. Those of `sink`.
    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()>;
}
