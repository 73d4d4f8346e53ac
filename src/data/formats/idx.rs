//! The IDX format of MNIST: arrays of bytes, images of rank 3 and labels of rank 1.

use anyhow::{Context, Result, ensure};

use super::{Format, Sink, SourceFile, Stack};

/// `idx:FILE`.
#[derive(Debug)]
pub struct Idx;

impl Format for Idx {
    fn name(&self) -> &'static str {
        "idx"
    }

    fn meaning(&self) -> &'static str {
        "an IDX file, as MNIST's (.gz, too)"
    }

    /// Each file of images may be followed by one of their labels.
    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        let mut files = files.iter();
        while let Some(images) = files.next() {
            let stack = images.parse(parse_images)?;
            let labels = files.next().map(|labels| labels.parse(parse_labels)).transpose()?;
            sink.stack(stack, labels.as_deref()).with_context(|| images.name.clone())?;
        }
        Ok(())
    }
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
pub fn parse_labels(bytes: &[u8]) -> Result<Vec<u16>> {
    let ([_], labels) = parse(bytes)?;
    Ok(labels.iter().map(|&label| label.into()).collect())
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
    // Two zeros, type 8 (unsigned byte), rank.
    ensure!(
        head[..4] == [0, 0, 8, RANK as u8],
        "IDX magic at offset 0: expected 00 00 08 {RANK:02x} (unsigned bytes, rank {RANK}), found {:02x?}",
        &head[..4]
    );
    let mut dimensions = [0_u64; RANK];
    for (dimension, bytes) in dimensions.iter_mut().zip(head[4..].chunks_exact(4)) {
        *dimension = bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
    }
    ensure!(!dimensions.contains(&0), "IDX dimensions at offset 4: found {dimensions:?}, one is 0");
    let promised = dimensions.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    ensure!(
        promised == Some(data.len() as u64),
        "IDX data at offset {header}: dimensions {dimensions:?} promise {} bytes, found {}",
        promised.map_or("too many".to_owned(), |n| n.to_string()),
        data.len()
    );
    // Each divides the length of a slice in memory.
    Ok((dimensions.map(|n| n as usize), data))
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
        assert_eq!(parse_labels(&[0, 0, 8, 1, 0, 0, 0, 2, 5, 9])?, [5, 9]);
        assert!(parse_labels(&bytes).is_err());
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
