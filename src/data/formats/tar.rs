//! Image files in a tar archive, gzipped or not.

use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;

use super::archive::{is_hidden_path, open_archive, read_entry};
use super::cifar::Batches;
use super::input::is_gzip;
use super::{Fit, Format, Sink, SourceFile};

/// `tar:FILE`.
#[derive(Debug)]
pub struct Tar;

impl Format for Tar {
    fn name(&self) -> &'static str {
        "tar"
    }

    fn meaning(&self) -> &'static str {
        "image files in a tar archive (.tar.gz, too), or CIFAR's archives"
    }

    fn natural_fit(&self) -> Fit {
        Fit::Crop
    }

    fn takes_range(&self) -> bool {
        true
    }

    fn holds_image_files(&self) -> bool {
        true
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        files.iter().try_for_each(|file| read(file.path()?, sink))
    }
}

/// Hands on the files in the archive at `path`, in its order. CIFAR's batches come last.
///
/// # Errors
/// As [`each_file`]; if a batch is damaged, or the sink fails.
fn read(path: &Path, sink: &mut Sink) -> Result<()> {
    let mut batches = Batches::default();
    each_file(path, &mut |name, mut entry| {
        if batches.take(name, &mut entry)? {
            return Ok(());
        }
        let content = read_entry(&mut entry)?;
        sink.image_file(SourceFile::new(name.to_owned(), content))
    })?;
    batches.hand_on(None, sink).map(drop).with_context(|| path.display().to_string())
}

/// Gives each file in the archive at `path` that is not hidden to `each`, with its name.
///
/// # Errors
/// If the archive is damaged or expands beyond all measure, or `each` fails.
pub(super) fn each_file(
    path: &Path,
    each: &mut dyn FnMut(&str, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let (file, mut expansion) = open_archive(path)?;
    let damaged = || format!("{}: not a whole tar archive", path.display());
    let mut reader: Box<dyn Read> = match is_gzip(path)? {
        true => Box::new(MultiGzDecoder::new(BufReader::new(file)).take(expansion.bound() + 1)),
        false => Box::new(BufReader::new(file)),
    };
    let mut archive = tar::Archive::new(&mut reader);
    for entry in archive.entries().with_context(damaged)? {
        let mut entry = entry.with_context(damaged)?;
        // Nothing is written anywhere, so that a path may be what it likes; links hold no bytes.
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if is_hidden_path(&name) {
            continue;
        }
        expansion.add(entry.size(), path)?;
        each(&name, &mut entry).with_context(damaged)?;
    }
    // A tar archive may end anywhere between two files; what it is packed in may not.
    let rest = std::io::copy(&mut reader, &mut std::io::sink()).with_context(damaged)?;
    expansion.add(rest, path)
}
