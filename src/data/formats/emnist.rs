//! EMNIST: MNIST's format, but each image lies on its side, and all sets are in one zip archive.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use flate2::read::MultiGzDecoder;
use zip::ZipArchive;

use super::idx::{self, labels_beside};
use super::input::{head, is_gzip};
use super::stack::of_count;
use super::{Format, Sink, SourceFile, Stack};

/// The archive of all sets, or a set's file of images beside those of its labels and classes. A part is called like
/// `letters-train`.
#[derive(Debug)]
pub struct Emnist;

impl Format for Emnist {
    fn name(&self) -> &'static str {
        "emnist"
    }

    fn meaning(&self) -> &'static str {
        "EMNIST's files"
    }

    fn holds_arrays(&self) -> bool {
        true
    }

    fn beside(&self, path: &Path) -> Vec<PathBuf> {
        labels_beside(path).into_iter().chain(mapping_beside(path)).collect()
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        // Those without a part are beside the one before them.
        for file in &files {
            let Some(part) = file.part() else { continue };
            let path = file.path()?;
            let source = if head(path)?.starts_with(b"PK") {
                let archive = ZipArchive::new(file.open()?).with_context(|| file.name.clone())?;
                Source::Archive(Box::new(archive), part)
            } else {
                Source::Loose(path)
            };
            read(source, sink).with_context(|| file.name.clone())?;
        }
        Ok(())
    }
}

/// Images that are read at a time.
const IMAGES: usize = 16_384;
/// The most bytes of labels or of a file of classes: many times those of the largest set.
const MAX_LABELS: u64 = 64 << 20;

/// Where a set's files are.
enum Source<'a> {
    /// In the archive, and the part's name.
    Archive(Box<ZipArchive<BufReader<File>>>, &'a str),
    /// Beside this file of images.
    Loose(&'a Path),
}

/// The file of a set's classes beside its images at `path`.
fn mapping_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let set = name.split("-train-").next()?.split("-test-").next()?;
    Some(path.with_file_name(format!("{set}-mapping.txt"))).filter(|path| path.is_file())
}

impl Source<'_> {
    /// The bytes of the file of labels or of classes, unpacked; `None` if there is none.
    fn small(&mut self, what: &str) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match self {
            Self::Archive(archive, part) => {
                let set = part.rsplit_once('-').map_or(*part, |(set, _)| set);
                let name = match what {
                    "labels" => format!("gzip/emnist-{part}-labels-idx1-ubyte.gz"),
                    _ => format!("gzip/emnist-{set}-mapping.txt"),
                };
                let entry = archive.by_name(&name).with_context(|| name.clone())?;
                let read = match what {
                    "labels" => MultiGzDecoder::new(entry).take(MAX_LABELS).read_to_end(&mut bytes),
                    _ => entry.take(MAX_LABELS).read_to_end(&mut bytes),
                };
                read.with_context(|| name)?;
            }
            Self::Loose(path) => {
                let beside =
                    if what == "labels" { labels_beside(path) } else { mapping_beside(path) };
                let Some(beside) = beside else { return Ok(None) };
                bytes = super::read_maybe_gzipped(&beside, MAX_LABELS)?;
            }
        }
        Ok(Some(bytes))
    }

    /// The file of images, unpacked.
    fn images(&mut self) -> Result<Box<dyn Read + '_>> {
        Ok(match self {
            Self::Archive(archive, part) => {
                let name = format!("gzip/emnist-{part}-images-idx3-ubyte.gz");
                let entry = archive.by_name(&name).with_context(|| name.clone())?;
                Box::new(MultiGzDecoder::new(entry))
            }
            Self::Loose(path) => {
                let file = BufReader::new(File::open(&path)?);
                if is_gzip(path)? { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) }
            }
        })
    }
}

/// Hands on all images of a set, upright.
fn read(mut source: Source, sink: &mut Sink) -> Result<()> {
    let names = source.small("mapping")?.map(|bytes| mapping(&bytes)).transpose()?;
    let labels = source.small("labels")?.map(|bytes| idx::parse_labels(&bytes)).transpose()?;
    let labels = match (labels, names) {
        (Some(labels), Some(names)) => {
            let name = |label: String| {
                let found = names.iter().find(|(known, _)| *known == label);
                found.map(|(_, name)| name.clone()).with_context(|| {
                    format!("expected labels that the file of classes names, found {label}")
                })
            };
            Some(labels.into_iter().map(name).collect::<Result<Vec<_>>>()?)
        }
        (labels, _) => labels,
    };
    let mut images = source.images()?;
    let mut header = [0; 16];
    images.read_exact(&mut header).context("IDX header")?;
    let [count, height, width] = idx::dimensions(&header)?;
    let fits = labels.as_ref().is_none_or(|labels| labels.len() == count);
    ensure!(fits, "expected as many labels as images, {count}");
    let image = height.checked_mul(width).context("IDX: images too large")?;
    let mut at = 0;
    while at < count {
        let wanted = (count - at).min(IMAGES);
        let bytes = wanted.checked_mul(image).context("IDX: images too large")?;
        let mut pixels = Vec::new();
        images.by_ref().take(bytes as u64).read_to_end(&mut pixels).context("images")?;
        ensure!(pixels.len() == bytes, "expected {count} images, found fewer");
        let stack = Stack { count: wanted, height, width, channels: 1, pixels };
        let labels = of_count(labels.as_deref(), &mut at, wanted);
        sink.stack(stack.transposed(), labels)?;
    }
    // Reads the checksum.
    let more = images.take(1).read_to_end(&mut Vec::new()).context("images")?;
    ensure!(more == 0, "expected {count} images, found more");
    Ok(())
}

/// The names of classes by their labels: each line has a label and the codes of the characters that it stands for, of
/// which the first is the capital letter.
fn mapping(bytes: &[u8]) -> Result<Vec<(String, String)>> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let pair = |line: &str| {
        let mut numbers = line.split_whitespace().map(|number| number.parse::<u32>().ok());
        let (label, code) = (numbers.next()??, numbers.next()??);
        Some((label.to_string(), char::from_u32(code)?.to_string()))
    };
    lines
        .map(|line| {
            pair(line).with_context(|| {
                format!(
                    "file of classes: expected a label and codes of characters, found {line:.40}"
                )
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_the_characters_that_the_file_of_classes_names() -> Result<()> {
        let pairs = mapping(b"0 48\n1 65 97\n\n36 97\r\n")?;
        let expected =
            [("0", "0"), ("1", "A"), ("36", "a")].map(|(l, n)| (l.to_owned(), n.to_owned()));
        assert_eq!(pairs, expected);
        assert!(mapping(b"1 x").unwrap_err().to_string().contains("found 1 x"));
        Ok(())
    }
}
