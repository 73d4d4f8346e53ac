//! NumPy's arrays of images: `.npy`.

use std::fmt;
use std::io::{Cursor, Read};

use anyhow::{Context, Result, bail, ensure};

use super::{Format, Sink, SourceFile, Stack};

/// `npy:FILE`.
#[derive(Debug)]
pub struct Npy;

impl Format for Npy {
    fn name(&self) -> &'static str {
        "npy"
    }

    fn meaning(&self) -> &'static str {
        "a NumPy array [N, H, W], [N, H, W, C] or [N, C, H, W]"
    }

    fn takes_range(&self) -> bool {
        true
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        for file in &files {
            read_images(file.open()?, sink.range(), &mut |part| sink.stack(part, None))
                .with_context(|| file.name.clone())?;
        }
        Ok(())
    }
}

/// The values that are black and white in an array of floats. Arrays of unsigned bytes need no range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Black: becomes the byte 0.
    pub low: f64,
    /// White: becomes the byte 255.
    pub high: f64,
}

/// Reads a whole `.npy` file. As [`read_images`], all at once.
///
/// # Errors
/// As [`read_images`].
pub fn parse_images(bytes: &[u8], range: Option<Range>) -> Result<Stack> {
    let mut all: Option<Stack> = None;
    read_images(bytes, range, &mut |part| {
        match &mut all {
            None => all = Some(part),
            Some(all) => {
                all.count += part.count;
                all.pixels.extend_from_slice(&part.pixels);
            }
        }
        Ok(())
    })?;
    all.context("NPY: no images")
}

/// Reads a `.npy` file of floats `[N, D]`: its shape, and the values row by row.
///
/// # Errors
/// If the file is of another format, rank, type or order, or truncated or longer than its header says; if a value
/// is not finite in float32. The message names what was expected and what was found.
pub fn read_rows(mut source: impl Read) -> Result<([usize; 2], Vec<f32>)> {
    let (Header { descr, shape, .. }, rest) = head(&mut source)?;
    let size = match descr.as_str() {
        "<f4" => 4,
        "<f8" => 8,
        other => bail!(
            "NPY: expected little-endian float32 or float64, found {other:?}; save such a copy with \
             x.astype('<f4')"
        ),
    };
    let [n, d] = shape[..] else { bail!("NPY: expected [N, D], found {shape:?}") };
    ensure!(n > 0 && d > 0, "NPY shape {shape:?}: one is 0");
    let promised = (n as u64).checked_mul(d as u64).and_then(|values| values.checked_mul(size));
    let promised = promised.with_context(|| format!("NPY shape {shape:?} promises too much"))?;
    // A header may promise more than there is, so memory is taken only for bytes that have come. One byte more than
    // promised is asked for, to notice a file that is too long.
    let mut bytes = Vec::new();
    let source = rest.chain(source);
    source.take(promised.saturating_add(1)).read_to_end(&mut bytes).context("NPY")?;
    ensure!(
        bytes.len() as u64 == promised,
        "NPY: shape {shape:?} promises {promised} bytes, found {}",
        if bytes.len() as u64 > promised { "more".to_owned() } else { bytes.len().to_string() }
    );
    let wide: Vec<f64> = match size {
        4 => bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x).into()).collect(),
        _ => bytes.as_chunks::<8>().0.iter().map(|&x| f64::from_le_bytes(x)).collect(),
    };
    if let Some(i) = wide.iter().position(|&value| !(value as f32).is_finite()) {
        bail!("NPY: row {}, column {} is {}, no finite float32", i / d, i % d, wide[i]);
    }
    Ok(([n, d], wide.into_iter().map(|value| value as f32).collect()))
}

/// The header of a file in C order, and what was read beyond it.
fn head(source: &mut impl Read) -> Result<(Header, Cursor<Vec<u8>>)> {
    let mut head = Vec::new();
    source.take(HEAD as u64).read_to_end(&mut head).context("NPY header")?;
    let (header, rest) = Header::parse(&head).context("NPY header")?;
    ensure!(
        !header.is_fortran,
        "NPY: expected C order, found Fortran's; save a copy with numpy.ascontiguousarray"
    );
    let rest = Cursor::new(rest.to_vec());
    Ok((header, rest))
}

/// The bytes at the beginning of a file within which its header must end.
const HEAD: usize = 64 << 10;
/// Bytes that are read at a time.
const PART: u64 = 16 << 20;

/// Reads a `.npy` file: `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with 1 or 3 channels; unsigned
/// bytes, or float32 or float64 in `range`. Hands on some images at a time.
///
/// # Errors
/// If the file is of another format, rank, type or order, truncated or longer than its header says,
/// or floats lie outside of the range; the message names what was expected and what was found. If
/// `each` fails.
///
/// # Source
/// NEP 1, "A simple file format for NumPy arrays".
pub fn read_images(
    mut source: impl Read,
    range: Option<Range>,
    each: &mut dyn FnMut(Stack) -> Result<()>,
) -> Result<()> {
    let (Header { descr, shape, .. }, rest) = head(&mut source)?;
    let size = match descr.as_str() {
        "|u1" => 1,
        "<f4" => 4,
        "<f8" => 8,
        other => bail!(
            "NPY: expected unsigned bytes or little-endian float32 or float64, found {other:?}; save \
             such a copy with x.astype('u1') or x.astype('<f4')"
        ),
    };
    ensure!(!shape.contains(&0), "NPY shape {shape:?}: one is 0");
    let (count, height, width, channels, is_planar) = match shape[..] {
        [n, h, w] => (n, h, w, 1, false),
        [n, h, w, c @ (1 | 3)] => (n, h, w, c, false),
        [n, c @ (1 | 3), h, w] => (n, h, w, c, true),
        _ => bail!(
            "NPY: expected [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3, found {shape:?}"
        ),
    };
    let promised = shape.iter().try_fold(size, |product: u64, &n| product.checked_mul(n as u64));
    let found_of = |found: u64| {
        let promised = promised.map_or("too many".to_owned(), |n| n.to_string());
        format!("NPY: shape {shape:?} promises {promised} bytes, found {found}")
    };
    let promised = promised.with_context(|| found_of(rest.get_ref().len() as u64))?;
    let image = promised / count as u64;
    let at_a_time = (PART / image).max(1);
    let mut source = rest.chain(source);
    let (mut done, mut first) = (0, 0);
    while done < promised {
        let wanted = image.saturating_mul(at_a_time).min(promised - done);
        // Memory is taken only for bytes that have come, whatever the header promises.
        let mut bytes = Vec::new();
        source.by_ref().take(wanted).read_to_end(&mut bytes).context("NPY")?;
        done += bytes.len() as u64;
        ensure!(bytes.len() as u64 == wanted, "{}", found_of(done));
        let mut pixels = match size {
            1 => bytes,
            4 => {
                let values = bytes.as_chunks::<4>().0.iter().map(|&x| f32::from_le_bytes(x).into());
                scaled(values, first, range)?
            }
            _ => {
                let values = bytes.as_chunks::<8>().0.iter().map(|&x| f64::from_le_bytes(x));
                scaled(values, first, range)?
            }
        };
        first += pixels.len();
        if is_planar && channels > 1 {
            let plane = height * width;
            let mut planar = vec![0; channels * plane];
            for image in pixels.chunks_exact_mut(channels * plane) {
                planar.copy_from_slice(image);
                for (i, value) in image.iter_mut().enumerate() {
                    *value = planar[i % channels * plane + i / channels];
                }
            }
        }
        let count = pixels.len() / (height * width * channels);
        each(Stack { count, height, width, channels, pixels })?;
    }
    let more = source.take(PART).read_to_end(&mut Vec::new()).context("NPY")?;
    ensure!(more == 0, "{}", found_of(done + more as u64));
    Ok(())
}

/// The header of a file: the array's type, order and shape.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// NumPy's name of the type.
    descr: String,
    is_fortran: bool,
    pub(super) shape: Vec<usize>,
}

impl Header {
    /// The header, and what comes after it.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let after =
            bytes.strip_prefix(b"\x93NUMPY").context("expected it to begin with \\x93NUMPY")?;
        let (version, after) = after.split_first_chunk::<2>().context("truncated")?;
        let (length, after) = match version[0] {
            1 => {
                let (length, after) = after.split_first_chunk().context("truncated")?;
                (usize::from(u16::from_le_bytes(*length)), after)
            }
            2 | 3 => {
                let (length, after) = after.split_first_chunk().context("truncated")?;
                (u32::from_le_bytes(*length) as usize, after)
            }
            other => bail!("expected version 1, 2 or 3, found {other}"),
        };
        let (text, rest) = after.split_at_checked(length).context("truncated")?;
        let text = std::str::from_utf8(text).context("expected text")?;
        Ok((Self::from_dict(text.trim()).with_context(|| format!("{text:.200}"))?, rest))
    }

    /// Reads Python's way of writing such a dictionary.
    fn from_dict(text: &str) -> Result<Self> {
        let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}'));
        let mut rest = inner.context("expected a dictionary")?.trim();
        let (mut descr, mut is_fortran, mut shape) = (None, None, None);
        while !rest.is_empty() {
            let (key, after) = quoted(rest).context("expected a key")?;
            let after =
                after.trim_start().strip_prefix(':').context("expected a colon")?.trim_start();
            let is_new = match key {
                "descr" => {
                    // Arrays of records have a list here.
                    let (value, after) =
                        quoted(after).context("`descr`: expected a simple type")?;
                    rest = after;
                    descr.replace(value.to_owned()).is_none()
                }
                "fortran_order" => {
                    let (value, after) =
                        match (after.strip_prefix("True"), after.strip_prefix("False")) {
                            (Some(after), _) => (true, after),
                            (_, Some(after)) => (false, after),
                            _ => bail!("`fortran_order`: expected True or False"),
                        };
                    rest = after;
                    is_fortran.replace(value).is_none()
                }
                "shape" => {
                    let tuple = after.strip_prefix('(').and_then(|after| after.split_once(')'));
                    let (numbers, after) = tuple.context("`shape`: expected a tuple")?;
                    let numbers = numbers.trim().trim_end_matches(',').split(',');
                    let numbers = numbers.map(|n| n.trim().parse()).collect::<Result<Vec<_>, _>>();
                    rest = after;
                    shape.replace(numbers.context("`shape`: expected whole numbers")?).is_none()
                }
                other => bail!("unknown key `{other}`"),
            };
            ensure!(is_new, "`{key}` is given twice");
            rest = rest.trim_start();
            rest = match rest.strip_prefix(',') {
                Some(rest) => rest.trim_start(),
                None => {
                    ensure!(rest.is_empty(), "expected a comma");
                    rest
                }
            };
        }
        Ok(Self {
            descr: descr.context("lacks `descr`")?,
            is_fortran: is_fortran.context("lacks `fortran_order`")?,
            shape: shape.context("lacks `shape`")?,
        })
    }
}

/// A quoted text at the beginning, and what comes after it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| ['\'', '"'].contains(quote))?;
    text[1..].split_once(quote)
}

/// An array is of floats, and nobody has said which of them are black and white.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeIsMissing;

impl fmt::Display for RangeIsMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NPY: the array holds floats; the setting `range` must say which values are black and white")
    }
}

impl std::error::Error for RangeIsMissing {}

/// Floats in `range` as bytes, rounded to nearest; `first` is the number of the first.
fn scaled(
    values: impl Iterator<Item = f64>,
    first: usize,
    range: Option<Range>,
) -> Result<Vec<u8>> {
    let Range { low, high } = range.ok_or(RangeIsMissing)?;
    values
        .enumerate()
        .map(|(i, value)| {
            ensure!(
                (low..=high).contains(&value),
                "NPY value {}: expected {low} to {high}, as the range says, found {value}",
                first + i
            );
            Ok(((value - low) / (high - low) * 255.0).round() as u8)
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::data::formats) fn file(
        descr: &str,
        is_fortran: bool,
        shape: &str,
        data: &[u8],
    ) -> Vec<u8> {
        let order = if is_fortran { "True" } else { "False" };
        let mut header =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let length = u16::try_from(header.len()).unwrap().to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    const UNIT: Option<Range> = Some(Range { low: 0.0, high: 1.0 });

    #[test]
    fn every_layout_gives_the_same_images() -> Result<()> {
        let last: Vec<u8> = (0..36).collect(); // [2, 3, 2, 3]
        let planar: Vec<u8> = (0..36)
            .map(|i| {
                let (x, y, c, n) = (i % 2, i / 2 % 3, i / 6 % 3, i / 18);
                last[((n * 3 + y) * 2 + x) * 3 + c]
            })
            .collect();
        let expected = Stack { count: 2, height: 3, width: 2, channels: 3, pixels: last.clone() };
        assert_eq!(parse_images(&file("|u1", false, "(2, 3, 2, 3)", &last), None)?, expected);
        assert_eq!(parse_images(&file("|u1", false, "(2, 3, 3, 2)", &planar), None)?, expected);
        let gray = parse_images(&file("|u1", false, "(6, 3, 2)", &last), None)?;
        assert_eq!((gray.count, gray.channels), (6, 1));
        let floats: Vec<u8> =
            last.iter().flat_map(|&x| (f32::from(x) / 255.0).to_le_bytes()).collect();
        assert_eq!(parse_images(&file("<f4", false, "(2, 3, 2, 3)", &floats), UNIT)?, expected);
        let doubles: Vec<u8> =
            last.iter().flat_map(|&x| (f64::from(x) / 127.5 - 1.0).to_le_bytes()).collect();
        let range = Some(Range { low: -1.0, high: 1.0 });
        assert_eq!(parse_images(&file("<f8", false, "(2, 3, 2, 3)", &doubles), range)?, expected);
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |file: &[u8], range| format!("{:#}", parse_images(file, range).unwrap_err());
        let bytes = |shape: &str, n: usize| file("|u1", false, shape, &vec![0; n]);
        for (file, told) in [
            (b"PK\x03\x04".to_vec(), "NPY header"),
            (file("|u1", false, "[1]", &[0]), "`shape`: expected a tuple"),
            (file("|u1", false, "()", &[0]), "`shape`: expected whole numbers"),
            (file("|u1', 'descr': '", false, "(1, 1, 1)", &[0]), "`descr` is given twice"),
            (file("|u1', 'x': '", false, "(1, 1, 1)", &[0]), "unknown key `x`"),
            (bytes("(2, 3)", 6), "found [2, 3]"),
            (bytes("(1, 2, 3, 4)", 24), "with C 1 or 3"),
            (bytes("(0, 3, 2)", 0), "one is 0"),
            (bytes("(2, 3, 2)", 11), "promises 12 bytes, found 11"),
            (bytes("(2, 3, 2)", 13), "promises 12 bytes, found 13"),
            (bytes("(4294967296, 4294967296, 2)", 8), "too many bytes, found 8"),
            (file("<i8", false, "(1, 1, 1)", &[0; 8]), "float32 or float64, found"),
            (file(">f4", false, "(1, 1, 1)", &[0; 4]), "little-endian"),
            (file("|u1", true, "(1, 1, 1)", &[0]), "found Fortran's"),
            (file("<f4", false, "(1, 1, 1)", &[0; 4]), "the setting `range` must say"),
        ] {
            assert!(error(&file, None).contains(told), "{told}: {}", error(&file, None));
        }
        for bad in [1.01, -0.01, f32::NAN, f32::INFINITY] {
            let file = file("<f4", false, "(1, 1, 1)", &bad.to_le_bytes());
            assert!(error(&file, UNIT).contains("NPY value 0: expected 0 to 1"));
        }
    }

    #[test]
    fn truncated_or_changed_anywhere_it_never_panics() {
        let whole = file("|u1", false, "(2, 3, 2)", &[7; 12]);
        for length in 0..whole.len() {
            assert!(parse_images(&whole[..length], None).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut file = whole.clone();
                file[at] ^= 1 << bit;
                let _ = parse_images(&file, UNIT);
            }
        }
    }
}
