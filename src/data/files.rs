//! Image files in folders and archives: which there are, and what they are decoded to.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use flate2::read::MultiGzDecoder;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use walkdir::{DirEntry, WalkDir};
use zip::ZipArchive;

use super::expansion_limit;
use super::image_file::{Decoded, Decoding, decode, is_image};

/// What one file may hold.
const MAX_FILE: u64 = 256 << 20;
/// Files, and bytes of files, that are decoded at a time.
const BATCH: usize = 1024;
const BATCH_BYTES: usize = 64 << 20;
/// Names that are kept of the files of which something is told.
const EXAMPLES: usize = 5;
/// Reasons that are told apart.
const MAX_REASONS: usize = 8;
/// Ends of the names of image files: if their content is none, they are damaged.
const EXTENSIONS: [&str; 9] = ["png", "jpg", "jpeg", "jpe", "bmp", "gif", "webp", "tif", "tiff"];

/// A file to be decoded.
#[derive(Debug)]
pub(super) struct Item {
    /// Its path within the folder or archive.
    pub name: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    At(PathBuf),
    Bytes(Vec<u8>),
    Unreadable(String),
}

/// What was found besides good images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Images by width and height.
    #[serde(with = "pairs")]
    pub sizes: BTreeMap<(u32, u32), usize>,
    /// Images that are stored gray; the others are in colour.
    pub gray: usize,
    /// Files that are no images and are not named as if they were.
    pub others: Examples,
    /// Images that cannot be read, by the reason.
    pub bad: BTreeMap<String, Examples>,
    /// Whether any could not be read for a reason that is none of its own: that may pass.
    #[serde(skip)]
    pub(super) is_passing: bool,
}

/// How many, and a few of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examples {
    /// How many.
    pub count: usize,
    /// Names of the first.
    pub names: Vec<String>,
}

impl Examples {
    fn add(&mut self, name: &str) {
        self.count += 1;
        if self.names.len() < EXAMPLES {
            self.names.push(printable(name));
        }
    }
}

/// A name from a file system or an archive as one line that does nothing to a terminal.
fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

impl Findings {
    /// Adds the images of `other`.
    pub(super) fn add_images(&mut self, other: Self) {
        self.gray += other.gray;
        for (size, count) in other.sizes {
            *self.sizes.entry(size).or_default() += count;
        }
    }

    fn add_bad(&mut self, reason: String, name: &str) {
        let is_known = self.bad.contains_key(&reason) || self.bad.len() < MAX_REASONS;
        let reason = if is_known { reason } else { "for other reasons".to_owned() };
        self.bad.entry(reason).or_default().add(name);
    }

    /// Images that cannot be read.
    pub fn bad_count(&self) -> usize {
        self.bad.values().map(|examples| examples.count).sum()
    }
}

/// JSON's objects have only text as keys.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Sizes = BTreeMap<(u32, u32), usize>;

    pub fn serialize<S: Serializer>(sizes: &Sizes, to: S) -> Result<S::Ok, S::Error> {
        sizes.iter().collect::<Vec<_>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sizes, D::Error> {
        Ok(Vec::<((u32, u32), usize)>::deserialize(from)?.into_iter().collect())
    }
}

/// The files in `folder` and below it that are not hidden, in the order of their paths within it,
/// whatever the file system's is.
///
/// # Errors
/// If it is no folder or cannot be read.
pub(super) fn in_folder(folder: &Path) -> Result<Vec<Item>> {
    ensure!(folder.is_dir(), "{}: expected a folder", folder.display());
    let is_hidden = |name: &std::ffi::OsStr| name.as_encoded_bytes().starts_with(b".");
    // A folder that several links lead to is seen once.
    let mut entered = HashSet::new();
    let mut is_new = |entry: &DirEntry| {
        !entry.file_type().is_dir()
            || entry.path().canonicalize().is_ok_and(|path| entered.insert(path))
    };
    let walk = WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter();
    let mut found = Vec::new();
    for entry in walk.filter_entry(|entry| {
        (entry.depth() == 0 || !is_hidden(entry.file_name())) && is_new(entry)
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
    let item = |(path, unreadable): (PathBuf, Option<(String, bool)>)| {
        let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
        let content = match unreadable {
            // A link to nowhere, a link to itself.
            Some((_, true)) if !is_named_as_image(&name) => Content::Bytes(Vec::new()),
            // A folder without permission may hold anything.
            Some((reason, _)) => Content::Unreadable(reason),
            None => Content::At(path),
        };
        Item { name, content }
    };
    Ok(found.into_iter().map(item).collect())
}

/// What tells a state of the folder's files from every other.
pub(super) fn fingerprint(items: &[Item]) -> Vec<(String, u64, u128)> {
    items
        .iter()
        .map(|item| match &item.content {
            Content::At(path) => {
                let (length, time) = stamp(path).unwrap_or_default();
                (item.name.clone(), length, time)
            }
            _ => (item.name.clone(), 0, 0),
        })
        .collect()
}

/// A file's length, and the time of its last change in nanoseconds since 1970.
pub(super) fn stamp(path: &Path) -> Result<(u64, u128)> {
    let metadata =
        std::fs::metadata(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let time =
        metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Ok((metadata.len(), time.unwrap_or_default().as_nanos()))
}

/// Decodes `items` on all threads and hands each good image on, in their order. `progress` is told of
/// every file that is done.
///
/// # Errors
/// If `each` fails.
pub(super) fn decode_folder(
    items: Vec<Item>,
    decoding: &Decoding,
    progress: &mut dyn FnMut(usize),
    each: &mut dyn FnMut(&str, Decoded) -> Result<()>,
) -> Result<Findings> {
    let mut findings = Findings::default();
    for batch in items.chunks(BATCH) {
        decode_batch(batch, decoding, &mut findings, each)?;
        progress(batch.len());
    }
    Ok(findings)
}

/// As [`decode_folder`], of the files in the tar archive at `path`, in its order.
///
/// # Errors
/// If the archive is damaged or expands beyond all measure, or `each` fails.
pub(super) fn decode_tar(
    path: &Path,
    decoding: &Decoding,
    progress: &mut dyn FnMut(usize),
    each: &mut dyn FnMut(&str, Decoded) -> Result<()>,
) -> Result<Findings> {
    let (file, bound) = open_archive(path)?;
    let packed = packed_by(path)?;
    ensure!(
        packed.is_none(),
        "{}: compressed by {}; expected tar or tar.gz: unpack it first",
        path.display(),
        packed.unwrap_or_default()
    );
    let damaged = || format!("{}: not a whole tar archive", path.display());
    let mut reader: Box<dyn Read> = match is_gzip(path)? {
        true => Box::new(MultiGzDecoder::new(BufReader::new(file)).take(bound + 1)),
        false => Box::new(BufReader::new(file)),
    };
    let mut findings = Findings::default();
    let mut batch = Batch::default();
    let mut archive = tar::Archive::new(&mut reader);
    let mut expanded = 0;
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
        expanded += entry.size();
        ensure!(expanded <= bound, "{}: {}", path.display(), too_large(bound));
        let content = read_entry(&mut entry).with_context(damaged)?;
        batch.add(Item { name, content }, decoding, &mut findings, progress, each)?;
    }
    batch.finish(decoding, &mut findings, progress, each)?;
    // A tar archive may end anywhere between two files; what it is packed in may not.
    let rest = std::io::copy(&mut reader, &mut std::io::sink()).with_context(damaged)?;
    ensure!(rest < bound, "{}: {}", path.display(), too_large(bound));
    Ok(findings)
}

/// As [`decode_folder`], of the files in the zip archive at `path`, in its order.
///
/// # Errors
/// If the archive is damaged or expands beyond all measure, or `each` fails.
pub(super) fn decode_zip(
    path: &Path,
    decoding: &Decoding,
    progress: &mut dyn FnMut(usize),
    each: &mut dyn FnMut(&str, Decoded) -> Result<()>,
) -> Result<Findings> {
    let damaged = || format!("{}: cannot be read as a zip archive", path.display());
    let (file, bound) = open_archive(path)?;
    let mut archive = ZipArchive::new(BufReader::new(file)).with_context(damaged)?;
    let mut findings = Findings::default();
    let mut batch = Batch::default();
    let mut expanded = 0;
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).with_context(damaged)?;
        let name = entry.name().with_context(damaged)?.into_owned();
        if !entry.is_file() || is_hidden_path(&name) {
            continue;
        }
        let content = read_entry(&mut entry).with_context(|| format!("{}: {name}", damaged()))?;
        expanded += match &content {
            Content::Bytes(bytes) => bytes.len() as u64,
            _ => MAX_FILE,
        };
        ensure!(expanded <= bound, "{}: {}", path.display(), too_large(bound));
        batch.add(Item { name, content }, decoding, &mut findings, progress, each)?;
    }
    batch.finish(decoding, &mut findings, progress, each)?;
    Ok(findings)
}

fn open_archive(path: &Path) -> Result<(File, u64)> {
    let (file, length) = open_file(path)?;
    Ok((file, expansion_limit(length)))
}

/// The file at `path`, and its length.
///
/// # Errors
/// If it cannot be read, or is no regular file: a pipe or a device may have no end.
pub(super) fn open_file(path: &Path) -> Result<(File, u64)> {
    let cannot = || format!("{}: cannot be read", path.display());
    // Before it is opened, which waits at a pipe.
    let metadata = path.metadata().with_context(cannot)?;
    let found = if metadata.is_dir() { "a folder" } else { "a pipe or a device" };
    ensure!(metadata.is_file(), "{}: is {found}, expected a file", path.display());
    Ok((File::open(path).with_context(cannot)?, metadata.len()))
}

fn too_large(bound: u64) -> String {
    format!("expands to more than {bound} bytes, as no archive of images does")
}

/// The first bytes of the file at `path`, as many as there are of 6.
fn head(path: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("{}: cannot be read", path.display());
    let mut head = Vec::new();
    File::open(path).and_then(|file| file.take(6).read_to_end(&mut head)).with_context(cannot)?;
    Ok(head)
}

/// Whether the file at `path` is gzipped.
pub(super) fn is_gzip(path: &Path) -> Result<bool> {
    Ok(head(path)?.starts_with(&[0x1f, 0x8b]))
}

/// The program that packed the file at `path`, if it is one whose files are not read here.
fn packed_by(path: &Path) -> Result<Option<&'static str>> {
    let head = head(path)?;
    let known: [(&[u8], &str); 4] = [
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"PK\x03\x04", "zip"),
    ];
    Ok(known.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| name))
}

/// The bytes of the file at `path`, gzipped or not.
///
/// # Errors
/// If it cannot be read, is damaged, or expands beyond `limit`.
pub(super) fn read_maybe_gzipped(path: &Path, limit: u64) -> Result<Vec<u8>> {
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

fn is_hidden_path(name: &str) -> bool {
    let is_hidden = |part: &str| part.starts_with('.') && part != "." && part != "..";
    name.split(['/', '\\']).any(is_hidden)
}

fn read_entry(entry: &mut impl Read) -> std::io::Result<Content> {
    let mut bytes = Vec::new();
    entry.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() as u64 > MAX_FILE {
        Content::Unreadable(format!("larger than {MAX_FILE} bytes"))
    } else {
        Content::Bytes(bytes)
    })
}

/// Files of an archive that wait to be decoded together.
#[derive(Default)]
struct Batch {
    items: Vec<Item>,
    bytes: usize,
}

impl Batch {
    fn add(
        &mut self,
        item: Item,
        decoding: &Decoding,
        findings: &mut Findings,
        progress: &mut dyn FnMut(usize),
        each: &mut dyn FnMut(&str, Decoded) -> Result<()>,
    ) -> Result<()> {
        if let Content::Bytes(bytes) = &item.content {
            self.bytes += bytes.len();
        }
        self.items.push(item);
        if self.items.len() >= BATCH || self.bytes >= BATCH_BYTES {
            self.finish(decoding, findings, progress, each)?;
        }
        Ok(())
    }

    fn finish(
        &mut self,
        decoding: &Decoding,
        findings: &mut Findings,
        progress: &mut dyn FnMut(usize),
        each: &mut dyn FnMut(&str, Decoded) -> Result<()>,
    ) -> Result<()> {
        decode_batch(&self.items, decoding, findings, each)?;
        progress(self.items.len());
        (self.items, self.bytes) = (Vec::new(), 0);
        Ok(())
    }
}

/// What became of a file.
enum Outcome {
    Image(Decoded),
    Other,
    /// Its content is damaged.
    Bad(String),
    /// Its content is not known.
    Unreadable(String),
}

fn decode_batch(
    batch: &[Item],
    decoding: &Decoding,
    findings: &mut Findings,
    each: &mut dyn FnMut(&str, Decoded) -> Result<()>,
) -> Result<()> {
    let outcomes: Vec<_> = batch.par_iter().map(|item| outcome(item, decoding)).collect();
    for (item, outcome) in batch.iter().zip(outcomes) {
        match outcome {
            Outcome::Image(image) => {
                *findings.sizes.entry(image.size).or_default() += 1;
                findings.gray += usize::from(image.is_gray);
                each(&item.name, image)?;
            }
            Outcome::Other => findings.others.add(&item.name),
            Outcome::Bad(reason) => findings.add_bad(reason, &item.name),
            Outcome::Unreadable(reason) => {
                findings.is_passing = true;
                findings.add_bad(reason, &item.name);
            }
        }
    }
    Ok(())
}

fn outcome(item: &Item, decoding: &Decoding) -> Outcome {
    // The causes, on one line; decoders repeat a cause's words in their own.
    let told = |error: anyhow::Error| {
        let mut parts: Vec<String> = Vec::new();
        for cause in error.chain().map(ToString::to_string) {
            if parts.last().is_none_or(|last| !last.contains(cause.trim_end_matches('.'))) {
                parts.push(cause);
            }
        }
        printable(&parts.join(": "))
    };
    let file;
    let bytes = match &item.content {
        Content::Unreadable(reason) => return Outcome::Unreadable(reason.clone()),
        Content::Bytes(bytes) => bytes,
        Content::At(path) => match read_file(path) {
            Ok(bytes) => {
                file = bytes;
                &file
            }
            Err(error) => return Outcome::Unreadable(told(error)),
        },
    };
    match decode_checked(bytes, &item.name, decoding) {
        Ok(Some(image)) => Outcome::Image(image),
        Ok(None) => Outcome::Other,
        Err(error) => Outcome::Bad(told(error)),
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_FILE {
        bail!("larger than {MAX_FILE} bytes");
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_named_as_image(name: &str) -> bool {
    let extension =
        Path::new(name).extension().unwrap_or_default().to_string_lossy().to_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

/// The image, or nothing where the file neither is one nor is named as one.
fn decode_checked(bytes: &[u8], name: &str, decoding: &Decoding) -> Result<Option<Decoded>> {
    if is_image(bytes) {
        return decode(bytes, decoding).map(Some);
    }
    if is_named_as_image(name) {
        let what =
            if bytes.is_empty() { "empty" } else { "no image of a format that is read here" };
        bail!("{what}");
    }
    Ok(None)
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
