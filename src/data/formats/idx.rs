//! The IDX format of MNIST: arrays of bytes, images of rank 3 and labels of rank 1.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::input::gunzipped_head;
use super::{Format, Sink, SourceFile, Stack};

/// `idx:FILE`.
#[derive(Debug)]
pub struct Idx;

impl Format for Idx {
    fn name(&self) -> &'static str {
        "idx"
    }

    fn meaning(&self) -> &'static str {
        "an IDX file, as MNIST's (.gz, too); FILE+LABELS names that of their labels"
    }

    fn holds_arrays(&self) -> bool {
        true
    }

    /// The file of images, and that of their labels: named behind a plus sign, or beside it under its usual name.
    fn files(&self, path: &Path) -> Result<Vec<SourceFile>> {
        let (images, labels) = match with_labels(path) {
            Some((images, labels)) => (images, Some(labels)),
            None => (path.to_path_buf(), labels_beside(path)),
        };
        [images].iter().chain(&labels).map(|path| SourceFile::at(path)).collect()
    }

    /// Each file of images may be followed by one of their labels.
    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        let mut files = files.iter();
        while let Some(images) = files.next() {
            if is_of_emnist(images.path()?) && !sink.reading().transpose {
                sink.warn(
                    "EMNIST's files hold images on their side; the setting `transpose` turns them upright, and the \
                     data sets emnist-letters and the like are upright",
                );
            }
            let stack = images.parse(parse_images)?;
            let labels = files.next().map(|labels| labels.parse(parse_labels)).transpose()?;
            sink.stack(stack, labels.as_deref()).with_context(|| images.name.clone())?;
        }
        Ok(())
    }
}

/// The two files that `FILE+LABELS` names, if there is no file of this whole name, but one of images.
fn with_labels(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let text = path.to_str().filter(|_| !path.exists())?;
    let mut pairs = text.match_indices('+').map(|(at, _)| (&text[..at], &text[at + 1..]));
    let (images, labels) = pairs.find(|(images, _)| Path::new(images).is_file())?;
    Some((images.into(), labels.into()))
}

/// The file of the labels of the images at `path`, by the names that MNIST's files and those like them have, if it is
/// there and holds as many labels as there are images.
pub(super) fn labels_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str().filter(|name| name.contains("images"))?;
    let count = |path: &Path, rank: u8| {
        let head = gunzipped_head(path, 8).ok()?;
        head.strip_prefix(&[0, 0, 8, rank]).map(<[u8]>::to_vec)
    };
    let images = count(path, 3)?;
    let labels = name.replace("images", "labels").replace("idx3", "idx1");
    let plain = labels.trim_end_matches(".gz");
    let names = [labels.clone(), plain.to_owned(), format!("{plain}.gz")];
    let mut paths = names.into_iter().map(|name| path.with_file_name(name));
    paths.find(|path| path.is_file() && count(path, 1).as_ref() == Some(&images))
}

/// Whether the file at `path` has a name as EMNIST's files have.
fn is_of_emnist(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    name.starts_with("emnist-") && name.contains("images")
}

/// Reads a rank-3 IDX array of unsigned bytes, `[N, H, W]`; the file is exactly that array.
///
/// # Errors
/// If the header is short or of another type or rank, a dimension is 0, or the file holds fewer or
/// more bytes than the header promises; the message names the offset, what was expected and what
/// was found.
///
/// # Source
/// "The IDX file format", LeCun, Cortes and Burges, the MNIST page.
pub fn parse_images(bytes: &[u8]) -> Result<Stack> {
    let ([count, height, width], pixels) = parse(bytes)?;
    Ok(Stack { count, height, width, channels: 1, pixels: pixels.to_vec() })
}

/// Reads a rank-1 IDX array of unsigned bytes, one label an image. As [`parse_images`].
///
/// # Errors
/// As [`parse_images`].
pub fn parse_labels(bytes: &[u8]) -> Result<Vec<String>> {
    let ([_], labels) = parse(bytes)?;
    Ok(labels.iter().map(u8::to_string).collect())
}

/// The dimensions and the bytes of an array of rank `RANK`.
fn parse<const RANK: usize>(bytes: &[u8]) -> Result<([usize; RANK], &[u8])> {
    let header = 4 + 4 * RANK;
    ensure!(
        bytes.len() >= header,
        "IDX header: expected {header} bytes, found a file of {}",
        bytes.len()
    );
    let (head, data) = bytes.split_at(header);
    let dimensions = dimensions::<RANK>(head)?;
    let promised = dimensions.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
    ensure!(
        promised == Some(data.len()),
        "IDX data at offset {header}: dimensions {dimensions:?} promise {} bytes, found {}",
        promised.map_or("too many".to_owned(), |n| n.to_string()),
        data.len()
    );
    Ok((dimensions, data))
}

/// The dimensions of an array of unsigned bytes of rank `RANK`, of which `head` is the header.
///
/// # Errors
/// If it is of another type or rank, or a dimension is 0.
pub(super) fn dimensions<const RANK: usize>(head: &[u8]) -> Result<[usize; RANK]> {
    let Some(magic) = head.first_chunk::<4>() else { bail!("IDX header: truncated") };
    if let [0, 0, kind, rank] = *magic {
        let kind = match kind {
            8 => "unsigned bytes",
            9 => "signed bytes",
            0x0b => "int16",
            0x0c => "int32",
            0x0d => "float32",
            0x0e => "float64",
            _ => "an unknown type",
        };
        ensure!(
            (kind, usize::from(rank)) == ("unsigned bytes", RANK),
            "expected {}, found {kind} of rank {rank}; {}",
            if RANK == 3 {
                "images, unsigned bytes of rank 3"
            } else {
                "labels, unsigned bytes of rank 1"
            },
            if rank == 1 {
                "this is a file of labels"
            } else {
                "numpy.save makes of it what npy:FILE reads"
            }
        );
    } // Two zeros, type 8 (unsigned byte), rank.
    ensure!(
        *magic == [0, 0, 8, RANK as u8],
        "IDX magic at offset 0: expected 00 00 08 {RANK:02x} (unsigned bytes, rank {RANK}), found {magic:02x?}"
    );
    let mut dimensions = [0; RANK];
    for (dimension, bytes) in dimensions.iter_mut().zip(head[4..].as_chunks().0) {
        *dimension = usize::try_from(u32::from_be_bytes(*bytes))?;
    }
    ensure!(!dimensions.contains(&0), "IDX dimensions at offset 4: found {dimensions:?}, one is 0");
    Ok(dimensions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dimensions: [u32; 3], data: usize) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, 3];
        bytes.extend(dimensions.iter().flat_map(|n| n.to_be_bytes()));
        bytes.resize(16 + data, 7);
        bytes
    }

    #[test]
    fn a_whole_file_is_read() -> Result<()> {
        let bytes = file([2, 3, 4], 24);
        let images = parse_images(&bytes)?;
        assert_eq!((images.count, images.height, images.width), (2, 3, 4));
        assert_eq!((images.channels, images.pixels), (1, vec![7; 24]));
        assert_eq!(parse_labels(&[0, 0, 8, 1, 0, 0, 0, 2, 5, 9])?, ["5", "9"]);
        assert!(parse_labels(&bytes).is_err());
        Ok(())
    }

    #[test]
    fn labels_are_found_beside_their_images_or_where_a_plus_sign_says() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let files = |path: PathBuf| -> Result<Vec<PathBuf>> {
            Idx.files(&path)?.iter().map(|file| Ok(file.path()?.to_path_buf())).collect()
        };
        let images = at("train-images-idx3-ubyte");
        std::fs::write(&images, file([2, 3, 4], 24))?;
        assert_eq!(files(images.clone())?, std::slice::from_ref(&images));
        let labels =
            |count: u8| [0, 0, 8, 1, 0, 0, 0, count, 5, 9, 7][..8 + usize::from(count)].to_vec();
        let beside = at("train-labels-idx1-ubyte");
        // Labels of another number of images are not theirs.
        std::fs::write(&beside, labels(3))?;
        assert_eq!(files(images.clone())?, std::slice::from_ref(&images));
        std::fs::write(&beside, labels(2))?;
        assert_eq!(files(images.clone())?, [images.clone(), beside.clone()]);
        let (odd, other) = (at("a+b"), at("c"));
        std::fs::write(&other, labels(2))?;
        let named = at(&format!("train-images-idx3-ubyte+{}", other.display()));
        assert_eq!(files(named)?, [images, other.clone()]);
        // A file of the whole name is meant by it.
        std::fs::write(&odd, file([2, 3, 4], 24))?;
        assert_eq!(files(odd.clone())?, std::slice::from_ref(&odd));
        let error = files(at("nope+c")).unwrap_err().to_string();
        assert!(error.contains("nope+c: cannot be read"), "{error}");
        let error = parse_images(&labels(2)).unwrap_err().to_string();
        assert!(error.contains("IDX header"), "{error}");
        Ok(())
    }

    #[test]
    fn truncated_anywhere_or_with_bytes_to_spare_is_an_error() {
        let whole = file([2, 3, 4], 24);
        for length in 0..whole.len() {
            assert!(parse_images(&whole[..length]).is_err(), "{length}");
        }
        assert!(parse_images(&file([2, 3, 4], 25)).is_err());
    }

    #[test]
    fn overflowing_empty_and_foreign_headers_are_errors() {
        assert!(parse_images(&file([u32::MAX; 3], 24)).is_err());
        assert!(parse_images(&file([0, 28, 28], 0)).is_err());
        let mut floats = file([2, 3, 4], 24);
        floats[2] = 0x0d;
        assert!(parse_images(&floats).is_err());
    }
}
