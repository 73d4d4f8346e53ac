//! The IDX format of MNIST: rank-3 arrays of bytes.

use anyhow::{Result, ensure};

/// A stack of one-channel images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdxImages<'a> {
    /// Number of images.
    pub count: usize,
    /// Rows of each.
    pub height: usize,
    /// Columns of each.
    pub width: usize,
    /// `[count, height, width]`.
    pub pixels: &'a [u8],
}

/// Reads a rank-3 IDX array of unsigned bytes; the file is exactly that array.
///
/// # Errors
/// If the header is short or of another type or rank, a dimension is 0, or the file holds fewer or
/// more bytes than the header promises; the message names the offset, what was expected and what
/// was found.
///
/// # Source
/// "The IDX file format", LeCun, Cortes and Burges, the MNIST page.
pub fn parse_images(bytes: &[u8]) -> Result<IdxImages<'_>> {
    const HEADER: usize = 16;
    ensure!(
        bytes.len() >= HEADER,
        "IDX header: expected {HEADER} bytes, found a file of {}",
        bytes.len()
    );
    let (header, pixels) = bytes.split_at(HEADER);
    // Two zeros, type 8 (unsigned byte), rank 3.
    ensure!(
        header[..4] == [0, 0, 8, 3],
        "IDX magic at offset 0: expected 00 00 08 03 (unsigned bytes, rank 3), found {:02x?}",
        &header[..4]
    );
    let mut dimensions = [0; 3];
    for (i, bytes) in header[4..].chunks_exact(4).enumerate() {
        dimensions[i] = bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte));
    }
    ensure!(!dimensions.contains(&0), "IDX dimensions at offset 4: found {dimensions:?}, one is 0");
    let promised = dimensions.iter().try_fold(1_u64, |product, &n| product.checked_mul(n));
    ensure!(
        promised == Some(pixels.len() as u64),
        "IDX data at offset {HEADER}: dimensions {dimensions:?} promise {} bytes, found {}",
        promised.map_or("too many".to_owned(), |n| n.to_string()),
        pixels.len()
    );
    // Each divides the length of a slice in memory.
    let [count, height, width] = dimensions.map(|n| n as usize);
    Ok(IdxImages { count, height, width, pixels })
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
        assert_eq!(images.pixels, [7; 24]);
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
