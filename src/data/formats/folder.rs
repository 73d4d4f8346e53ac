//! Image files in a folder and those below it.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use walkdir::{DirEntry, WalkDir};

use super::image_file::is_named_as_image;
use super::input::Content;
use super::{Fit, Format, Sink, SourceFile};
use crate::files::own;

/// `folder:PATH`.
#[derive(Debug)]
pub struct Folder;

impl Format for Folder {
    fn name(&self) -> &'static str {
        "folder"
    }

    fn place(&self) -> Option<&'static str> {
        Some("PATH")
    }

    fn meaning(&self) -> &'static str {
        "image files in a folder and below it"
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

    fn files(&self, path: &Path) -> Result<Vec<SourceFile>> {
        in_folder(path)
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        sink.expect_files(files.len());
        files.into_iter().try_for_each(|file| sink.image_file(file))
    }
}

/// The files in `folder` and below it that are not hidden, in the order of their paths within it,
/// whatever the file system's is. Of a run of this program there is only its folder, which stands for all that is in it.
///
/// # Errors
/// If it is no folder or cannot be read.
fn in_folder(folder: &Path) -> Result<Vec<SourceFile>> {
    let name = folder.display();
    ensure!(folder.exists(), "{name}: there is no such folder");
    ensure!(
        folder.is_dir(),
        "{name}: is a file; expected the folder that it is in, or of an archive zip:FILE or tar:FILE"
    );
    let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    // A folder that several links lead to is seen once.
    let mut entered = HashSet::new();
    let mut is_new = |entry: &DirEntry| {
        !entry.file_type().is_dir()
            || entry.path().canonicalize().is_ok_and(|path| entered.insert(path))
    };
    if is_of_run(folder) {
        let name = folder.display().to_string();
        return Ok(vec![SourceFile::new(name, Content::Run)]);
    }
    let mut runs = Vec::new();
    let mut is_no_run = |entry: &DirEntry| {
        let is_run = entry.file_type().is_dir() && own::is_run(entry.path());
        if is_run {
            runs.push(entry.path().to_path_buf());
        }
        !is_run
    };
    let walk = WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter();
    let mut found = Vec::new();
    for entry in walk.filter_entry(|entry| {
        (entry.depth() == 0 || !is_hidden(entry.file_name())) && is_new(entry) && is_no_run(entry)
    }) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                found.push((entry.into_path(), None));
            }
            Ok(_) => {}
            // A link that leads back up: what it would show is seen already.
            Err(error) if error.loop_ancestor().is_some() => {}
            Err(error) => match error.path() {
                Some(path) if path != folder => {
                    let reason =
                        error.io_error().map_or("cannot be read".to_owned(), ToString::to_string);
                    let is_gone = error
                        .io_error()
                        .is_none_or(|error| error.kind() != ErrorKind::PermissionDenied);
                    found.push((path.to_path_buf(), Some((reason, is_gone))));
                }
                _ => {
                    return Err(error)
                        .with_context(|| format!("{}: cannot be read", folder.display()));
                }
            },
        }
    }
    // By components: `a/b` comes before `a.b/c` on every system.
    found.sort();
    let name_of =
        |path: &Path| path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned();
    let runs = runs.iter().map(|run| SourceFile::new(name_of(run), Content::Run));
    let file = |(path, unreadable): (PathBuf, Option<(String, bool)>)| {
        let name = name_of(&path);
        let content = match unreadable {
            // A link to nowhere, a link to itself.
            Some((_, true)) if !is_named_as_image(&name) => Content::Bytes(Vec::new()),
            // A folder without permission may hold anything.
            Some((reason, _)) => Content::Unreadable(reason),
            None => Content::At(path),
        };
        SourceFile::new(name, content)
    };
    Ok(found.into_iter().map(file).chain(runs).collect())
}

/// Whether `folder` is that of a run of this program, or the one in it that holds its grids.
fn is_of_run(folder: &Path) -> bool {
    let Ok(path) = folder.canonicalize() else { return false };
    let holds_grids = path.ends_with("samples");
    own::is_run(&path) || holds_grids && path.parent().is_some_and(own::is_run)
}
