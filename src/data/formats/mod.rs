//! The formats that data sets are read from, one file each.
//!
//! - [`Format`]: what a format is; [`FORMATS`]: all there are;
//! - [`builtin`]; [`folder`], [`zip`], [`tar`] of image files; [`idx`], [`mat5`], [`npy`], [`npz`] of arrays;
//! - [`cifar`] and [`emnist`], of public sets only;
//! - what they share: [`SourceFile`] (files, gzipped or not), [`image_file`] (one image file; `jpeg`, `tiff` and `foreign`
//!   know these formats and those that are not read), `archive`, `numbers` (of every kind, brought to bytes), and
//!   [`Stack`] (what array files hold).
//!
//! The parsers of arrays know nothing of libtorch, so that `fuzz/` takes them as they are.

mod archive;
pub mod builtin;
pub mod cifar;
pub mod emnist;
pub mod folder;
mod foreign;
mod format;
pub mod idx;
pub mod image_file;
mod input;
mod jpeg;
pub mod mat5;
mod mistaken;
pub mod npy;
pub mod npz;
mod numbers;
mod pickle;
mod stack;
pub mod tar;
mod tiff;
pub mod zip;

pub use format::Format;
pub use input::SourceFile;
pub(super) use input::read_maybe_gzipped;
pub(super) use mistaken::ensure_of_format;
pub use numbers::RangeIsMissing;
pub(super) use stack::MAX_EXPANDED;
use stack::expansion_limit;
pub use stack::{ShapeIsMissing, Stack};

use super::fit::Fit;
use super::sink::Sink;

/// All formats, in the order in which they are listed. A new one is a file in this folder, its `mod` line
/// above and a line here.
pub static FORMATS: &[&dyn Format] = &[
    &builtin::Digits,
    &folder::Folder,
    &zip::Zip,
    &tar::Tar,
    &idx::Idx,
    &mat5::Mat,
    &npy::Npy,
    &npz::Npz,
];

/// The format of that name.
pub fn named(name: &str) -> Option<&'static dyn Format> {
    FORMATS.iter().copied().find(|format| format.name() == name)
}

/// The format of files whose names have this ending, such as `npz`.
pub fn of_files(ending: &str) -> Option<&'static dyn Format> {
    named(ending).filter(|format| format.place() == Some("FILE"))
}

impl PartialEq for dyn Format {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn Format {}
