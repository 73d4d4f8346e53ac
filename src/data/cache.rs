//! Decoded images on the disk, so that the second start is instant and a set may be larger than the
//! memory.
//!
//! A file holds the pixels, upright, one image after the other, then a description in JSON, its
//! length and a mark. It is named for what it was made of, appears whole or not at all and never
//! changes, so that it can be read by position at any time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::findings::Findings;
use super::set::SetIdentity;
use crate::architecture::halvings;
use crate::files::{UNFINISHED, write_streamed};
use crate::shape::{ImageShape, ImageSize};

/// The last bytes of every file, which also tell the version of its format.
const MARK: &[u8; 8] = b"dcgan-d2";
/// The last bytes of files of version 0.2 and before, whose pixels are mirrored. Their names differ, so that
/// none is ever opened.
const OLD_MARK: &[u8; 8] = b"dcgan-d1";
/// How the name of every file ends.
const ENDING: &str = ".images";
/// The folder of these files.
const FOLDER: &str = "decoded";
/// The longest description that is read, in bytes.
const MAX_DESCRIPTION: u64 = 1 << 30;

/// Everything about a stored set but its pixels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Description {
    /// Of all images.
    pub identity: SetIdentity,
    /// The class of each image, as an index into `classes`; none where there are no classes.
    pub labels: Vec<u32>,
    /// Names of the classes.
    pub classes: Vec<String>,
    /// What was found in the files.
    pub findings: Findings,
}

/// Upright pixels, in memory or in a file.
#[derive(Debug)]
pub(super) enum Pixels {
    Memory(Vec<u8>),
    /// From the file's beginning on.
    File(File, PathBuf),
}

impl Pixels {
    /// Copies what begins at `offset` into `out`.
    pub(super) fn copy(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        match self {
            Self::Memory(pixels) => {
                let begin = usize::try_from(offset)?;
                let part = pixels.get(begin..begin + out.len()).context("no such image")?;
                out.copy_from_slice(part);
                Ok(())
            }
            Self::File(file, path) => read_at(file, offset, out)
                .with_context(|| format!("{}: cannot be read", path.display())),
        }
    }

    /// Where they are.
    pub(super) fn place(&self) -> String {
        match self {
            Self::Memory(_) => "the memory".to_owned(),
            Self::File(_, path) => path.display().to_string(),
        }
    }

    /// The SHA-256 of the first `images` of `shape`, one after the other.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) fn sha256(&self, images: usize, shape: ImageShape) -> Result<String> {
        let length = shape.len();
        let mut digest = Sha256::new();
        let mut image = vec![0; length];
        for i in 0..images {
            self.copy((i * length) as u64, &mut image)?;
            digest.update(&image);
        }
        Ok(hex::encode(digest.finalize()))
    }
}

#[cfg(unix)]
fn read_at(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, mut offset: u64, mut out: &mut [u8]) -> std::io::Result<()> {
    while !out.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, out, offset)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        offset += read as u64;
        out = &mut out[read..];
    }
    Ok(())
}

/// Takes images of one size one after the other, gray and in colour, upright.
pub(super) struct Builder {
    /// `None` until the first image tells it.
    size: Option<ImageSize>,
    scratch: Scratch,
    /// Whether each has three channels.
    /// The bytes of all images so far.
    bytes: u64,
    /// Why the file for images as they came could not be written any more, if that has happened.
    failure: Option<std::io::Error>,
    in_color: Vec<bool>,
    labels: Vec<u32>,
    classes: Vec<String>,
    /// The index of each class.
    numbers: HashMap<String, u32>,
}

/// Images as they came.
enum Scratch {
    Memory(Vec<u8>),
    File(BufWriter<File>),
}

impl Builder {
    /// A builder that keeps images in a file in `folder`, if that can be written, else in memory.
    pub(super) fn new(folder: Option<&Path>) -> Self {
        let file = folder.and_then(|folder| tempfile::tempfile_in(folder).ok());
        let scratch = match file {
            Some(file) => Scratch::File(BufWriter::with_capacity(1 << 20, file)),
            None => Scratch::Memory(Vec::new()),
        };
        Self {
            size: None,
            scratch,
            bytes: 0,
            failure: None,
            in_color: Vec::new(),
            labels: Vec::new(),
            classes: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// Adds an image `[H, W, channels]`, upright, of the class of that name.
    ///
    /// # Errors
    /// If it has another size than the images before, or the cache cannot be written.
    pub(super) fn push(
        &mut self,
        size: ImageSize,
        channels: usize,
        pixels: &[u8],
        class: Option<&str>,
    ) -> Result<()> {
        let shape = ImageShape { size: *self.size.get_or_insert(size), channels };
        ensure!(
            size == shape.size && (channels == 1 || channels == 3) && pixels.len() == shape.len(),
            "expected {} bytes, an image of {shape}, found {} of {size}",
            shape.len(),
            pixels.len()
        );
        ensure!(u32::try_from(self.in_color.len() + 1).is_ok(), "more than {} images", u32::MAX);
        if let Scratch::File(file) = &mut self.scratch
            && let Err(error) = file.write_all(pixels)
        {
            self.take_back(error)?;
        }
        if let Scratch::Memory(all) = &mut self.scratch {
            all.extend_from_slice(pixels);
        }
        self.bytes += pixels.len() as u64;
        self.in_color.push(channels == 3);
        if let Some(class) = class {
            // There are at most as many classes as images.
            let next = self.classes.len() as u32;
            let index = *self.numbers.entry(class.to_owned()).or_insert(next);
            if index == next {
                self.classes.push(class.to_owned());
            }
            self.labels.push(index);
        }
        Ok(())
    }

    /// Goes on in memory, because the file cannot be written any more: its disk is full, or it may not become larger.
    fn take_back(&mut self, error: std::io::Error) -> Result<()> {
        let Scratch::File(file) = std::mem::replace(&mut self.scratch, Scratch::Memory(Vec::new()))
        else {
            return Ok(());
        };
        let (mut file, waiting) = file.into_parts();
        let mut all = Vec::new();
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut all))?;
        all.extend_from_slice(&waiting.unwrap_or_default());
        // A part of the image that could not be written is in it, too.
        all.truncate(usize::try_from(self.bytes)?);
        ensure!(all.len() as u64 == self.bytes, "the cache folder cannot be written: {error}");
        self.scratch = Scratch::Memory(all);
        self.failure = Some(error);
        Ok(())
    }

    /// Why images are no longer kept on the disk, if they were.
    pub(super) fn failure(&mut self) -> Option<&std::io::Error> {
        if let Scratch::File(file) = &mut self.scratch
            && let Err(error) = file.flush()
        {
            // What cannot be taken back is an error when it is read.
            let _ = self.take_back(error);
        }
        self.failure.as_ref()
    }

    /// Whether what came is on the disk and not in memory.
    pub(super) fn is_on_disk(&self) -> bool {
        matches!(self.scratch, Scratch::File(_))
    }

    /// Number of images so far.
    pub(super) fn count(&self) -> usize {
        self.in_color.len()
    }

    /// Everything in memory, and what it is.
    pub(super) fn into_memory(mut self, findings: Findings) -> Result<(Pixels, Description)> {
        let mut pixels = Vec::new();
        let description = self.write(&mut pixels, findings)?;
        Ok((Pixels::Memory(pixels), description))
    }

    /// Everything in the file at `path`, and what it is.
    pub(super) fn write_file(
        &mut self,
        path: &Path,
        findings: Findings,
    ) -> Result<(Pixels, Description)> {
        write_streamed(path, |file| {
            let mut out = BufWriter::with_capacity(1 << 20, file);
            let description = self.write(&mut out, findings)?;
            let description = serde_json::to_vec(&description)?;
            out.write_all(&description)?;
            out.write_all(&(description.len() as u64).to_le_bytes())?;
            out.write_all(MARK)?;
            Ok(out.flush()?)
        })?;
        open(path, self.size)
    }

    /// Writes the images, each with as many channels as any.
    fn write(&mut self, out: &mut impl Write, findings: Findings) -> Result<Description> {
        let channels = if self.in_color.contains(&true) { 3 } else { 1 };
        let shape = ImageShape { size: self.size.unwrap_or_default(), channels };
        let gray = shape.pixels();
        let mut digest = Sha256::new();
        let mut source: Box<dyn Read> = match &mut self.scratch {
            Scratch::Memory(all) => Box::new(&all[..]),
            Scratch::File(file) => {
                file.flush()?;
                let file = file.get_mut();
                file.seek(SeekFrom::Start(0))?;
                Box::new(std::io::BufReader::with_capacity(1 << 20, file))
            }
        };
        let mut image = vec![0; shape.len()];
        for &in_color in &self.in_color {
            if in_color || channels == 1 {
                source.read_exact(&mut image)?;
            } else {
                source.read_exact(&mut image[..gray])?;
                for i in (0..gray).rev() {
                    let value = image[i];
                    image[3 * i..3 * i + 3].fill(value);
                }
            }
            digest.update(&image);
            out.write_all(&image)?;
        }
        drop(source);
        let count = self.in_color.len();
        // Classes of some images only are none.
        let has_classes = self.labels.len() == count;
        Ok(Description {
            identity: SetIdentity::new(count, shape, hex::encode(digest.finalize())),
            labels: if has_classes { self.labels.clone() } else { Vec::new() },
            classes: if has_classes { self.classes.clone() } else { Vec::new() },
            findings,
        })
    }
}

/// Up to this length a set is read whole and its digest compared when it is opened: a tenth of a second.
const VERIFIED: u64 = 128 << 20;

/// Opens what [`Builder::write_file`] wrote of images of `size`; without one, of any that is possible.
///
/// # Errors
/// If it cannot be read, is not whole or has images of another size.
pub(super) fn open(path: &Path, size: Option<ImageSize>) -> Result<(Pixels, Description)> {
    let cannot = || format!("{}: cannot be read", path.display());
    let mut file = File::open(path).with_context(cannot)?;
    let length = file.metadata().with_context(cannot)?.len();
    let not_whole = || format!("{}: not a whole file of images", path.display());
    ensure!(length >= 16, "{}", not_whole());
    file.seek(SeekFrom::End(-16)).with_context(cannot)?;
    let mut end = [0; 16];
    file.read_exact(&mut end).with_context(cannot)?;
    let (described, mark) = end.split_at(8);
    let described = u64::from_le_bytes(described.try_into()?);
    let has_room = described <= MAX_DESCRIPTION && described <= length - 16;
    ensure!(mark == MARK && has_room, "{}", not_whole());
    file.seek(SeekFrom::Start(length - 16 - described)).with_context(cannot)?;
    let mut description = vec![0; described as usize];
    file.read_exact(&mut description).with_context(cannot)?;
    let description: Description = serde_json::from_slice(&description).with_context(not_whole)?;
    let SetIdentity { images, channels, height, width, .. } = description.identity;
    let promised = [images, channels, height, width]
        .into_iter()
        .try_fold(1_u64, |product, n| product.checked_mul(n as u64));
    let found = ImageSize { width, height };
    // Images of the expected size take no more memory than was meant to be taken.
    ensure!(
        size.map_or_else(|| halvings(found).is_ok(), |size| found == size)
            && images > 0
            && (channels == 1 || channels == 3)
            && promised == Some(length - 16 - described),
        "{}",
        not_whole()
    );
    let labels = &description.labels;
    ensure!(
        (labels.is_empty() || labels.len() == images)
            && labels.iter().all(|&label| (label as usize) < description.classes.len()),
        "{}",
        not_whole()
    );
    let pixels = Pixels::File(file, path.to_path_buf());
    if length <= VERIFIED {
        let found = pixels.sha256(images, description.identity.shape())?;
        let expected = &description.identity.sha256;
        ensure!(found == *expected, "{}: damaged", path.display());
    }
    Ok((pixels, description))
}

/// The file of that name in `folder`.
pub(super) fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}{ENDING}"))
}

/// The folder of decoded sets under `home`, made if it is not there.
pub(super) fn folder(home: &Path) -> Result<PathBuf> {
    let folder = home.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|file| file.modified()).map(|time| time.elapsed());
        let is_old = age.is_ok_and(|age| age.is_ok_and(|age| age > Duration::from_secs(86_400)));
        let name = entry.file_name().to_string_lossy().into_owned();
        // Old unfinished files are left from processes that were killed; a young one may still be being written.
        // Files of an older version are removed too: only that version reads them, and it can make them again.
        let is_left = name.starts_with(UNFINISHED) && is_old;
        if is_left || name.ends_with(ENDING) && has_old_mark(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(folder)
}

/// Whether the file at `path` ends as those of an older version do.
fn has_old_mark(path: &Path) -> bool {
    let mut end = [0; OLD_MARK.len()];
    let mut read = || -> std::io::Result<()> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-(OLD_MARK.len() as i64)))?;
        file.read_exact(&mut end)
    };
    read().is_ok() && end == *OLD_MARK
}

/// The bytes of all decoded sets under `home`.
pub(super) fn bytes_in(home: &Path) -> u64 {
    let files = fs::read_dir(home.join(FOLDER)).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: ImageSize = ImageSize { width: 20, height: 12 };

    fn builder(folder: Option<&Path>) -> Result<Builder> {
        let mut builder = Builder::new(folder);
        builder.push(SIZE, 1, &[7; 240], Some("gray"))?;
        builder.push(SIZE, 3, &(0..720).map(|i| i as u8).collect::<Vec<_>>(), Some("colour"))?;
        Ok(builder)
    }

    #[test]
    fn a_file_holds_upright_images_of_one_shape_and_is_what_memory_would_hold() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = file(folder.path(), "some");
        let (_, written) = builder(Some(folder.path()))?.write_file(&path, Findings::default())?;
        let (pixels, read) = open(&path, Some(SIZE))?;
        let shape = ImageShape { size: SIZE, channels: 3 };
        assert_eq!((read.identity.shape(), read.identity.images), (shape, 2));
        assert_eq!(read.identity, written.identity);
        let mut image = vec![0; shape.len()];
        pixels.copy(0, &mut image)?;
        assert_eq!(image, [7; 720]);
        pixels.copy(720, &mut image)?;
        assert!((0..720).map(|i| i as u8).eq(image));
        let (_, in_memory) = builder(None)?.into_memory(Findings::default())?;
        assert_eq!(in_memory.identity, read.identity);
        assert!(builder(None)?.push(SIZE, 1, &[0; 241], None).is_err());
        Ok(())
    }

    #[test]
    fn a_file_of_an_older_version_is_not_read_and_is_removed() -> Result<()> {
        let home = tempfile::tempdir()?;
        let path = file(&folder(home.path())?, "some");
        builder(None)?.write_file(&path, Findings::default())?;
        let new = fs::read(&path)?;
        let old = file(&folder(home.path())?, "old");
        fs::write(&old, [&new[..new.len() - 8], OLD_MARK].concat())?;
        let error = format!("{:#}", open(&old, Some(SIZE)).map(|_| ()).unwrap_err());
        assert!(error.contains("not a whole file of images"), "{error}");
        folder(home.path())?;
        assert!(path.exists() && !old.exists());
        assert_eq!(bytes_in(home.path()), new.len() as u64);
        Ok(())
    }

    #[test]
    fn a_file_of_no_images_is_an_error_whatever_their_size() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = file(folder.path(), "some");
        let (_, mut description) =
            builder(Some(folder.path()))?.write_file(&path, Findings::default())?;
        for size in [SIZE, ImageSize::square(0), ImageSize::square(u32::MAX as usize)] {
            let shape = ImageShape { size, channels: 3 };
            description.identity = SetIdentity::new(0, shape, "0".repeat(64));
            description.labels.clear();
            let description = serde_json::to_vec(&description)?;
            let length = (description.len() as u64).to_le_bytes();
            fs::write(&path, [&description[..], &length, MARK].concat())?;
            let error = format!("{:#}", open(&path, Some(SIZE)).map(|_| ()).unwrap_err());
            assert!(error.contains("not a whole file of images"), "{size}: {error}");
        }
        Ok(())
    }

    #[test]
    fn a_file_that_promises_other_sizes_than_it_holds_is_an_error() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = file(folder.path(), "some");
        builder(None)?.write_file(&path, Findings::default())?;
        let whole = fs::read(&path)?;
        // As many bytes of description, another width or height.
        for (was, is) in [("\"width\":20", "\"width\":21"), ("\"height\":12", "\"height\":99")] {
            let mut changed = whole.clone();
            let windows = changed.windows(was.len());
            let at = windows.into_iter().position(|part| part == was.as_bytes()).context(was)?;
            changed[at..at + was.len()].copy_from_slice(is.as_bytes());
            fs::write(&path, changed)?;
            assert!(open(&path, Some(SIZE)).is_err(), "{is}");
        }
        // A whole file of another size.
        fs::write(&path, &whole)?;
        assert!(open(&path, Some(SIZE)).is_ok());
        assert!(open(&path, None).is_err(), "no network takes images so small");
        assert!(open(&path, Some(ImageSize { width: 12, height: 20 })).is_err());
        Ok(())
    }
}
