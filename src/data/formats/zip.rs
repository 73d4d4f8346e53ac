//! Image files in a zip archive.

use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result};
use zip::ZipArchive;

use super::archive::{is_hidden_path, open_archive, read_entry};
use super::image_file::MAX_FILE;
use super::input::Content;
use super::{Fit, Format, Sink, SourceFile};

/// `zip:FILE`.
#[derive(Debug)]
pub struct Zip;

impl Format for Zip {
    fn name(&self) -> &'static str {
        "zip"
    }

    fn meaning(&self) -> &'static str {
        "image files in a zip archive"
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

/// Hands on the files in the archive at `path`, in its order.
///
/// # Errors
/// If the archive is damaged or expands beyond all measure, or the sink fails.
fn read(path: &Path, sink: &mut Sink) -> Result<()> {
    let damaged = || format!("{}: cannot be read as a zip archive", path.display());
    let (file, mut expansion) = open_archive(path)?;
    let mut archive = ZipArchive::new(BufReader::new(file)).with_context(damaged)?;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).with_context(damaged)?;
        let name = entry.name().with_context(damaged)?.into_owned();
        if !entry.is_file() || is_hidden_path(&name) {
            continue;
        }
        let content = read_entry(&mut entry).with_context(|| format!("{}: {name}", damaged()))?;
        let bytes = match &content {
            Content::Bytes(bytes) => bytes.len() as u64,
            _ => MAX_FILE,
        };
        expansion.add(bytes, path)?;
        sink.image_file(SourceFile::new(name, content))?;
    }
    Ok(())
}
