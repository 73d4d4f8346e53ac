//! NumPy's arrays of images: `.npy`.

use std::io::{Cursor, Read};

use anyhow::{Context, Result, bail, ensure};

use super::numbers::{self, Kind, Scaler};
pub use super::numbers::{Range, Reading};
use super::stack::Axes;
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

    fn holds_arrays(&self) -> bool {
        true
    }

    fn takes_range(&self) -> bool {
        true
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        let reading = sink.reading().clone();
        for file in &files {
            read_images(file.open()?, &reading, &mut |part| sink.stack(part, None))
                .with_context(|| file.name.clone())?;
        }
        Ok(())
    }
}

/// Reads a whole `.npy` file. As [`read_images`], all at once.
///
/// # Errors
/// As [`read_images`].
pub fn parse_images(bytes: &[u8], reading: &Reading) -> Result<Stack> {
    let mut all: Option<Stack> = None;
    read_images(bytes, reading, &mut |part| {
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

/// Reads a `.npy` file: `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]` with 1 or 3 channels, or rows that the setting
/// `reshape` gives such a shape; unsigned bytes, or other numbers in a range. Hands on some images at a time.
///
/// # Errors
/// If the file is of another format, rank, type or order, truncated or longer than its header says,
/// or numbers lie outside of the range; the message names what was expected and what was found.
/// [`super::RangeIsMissing`], if numbers need a range and there is none. If `each` fails.
///
/// # Source
/// NEP 1, "A simple file format for NumPy arrays".
pub fn read_images(
    mut source: impl Read,
    reading: &Reading,
    each: &mut dyn FnMut(Stack) -> Result<()>,
) -> Result<()> {
    let (header, rest) = head(&mut source)?;
    let Header { shape, .. } = &header;
    let (kind, is_big) = header.kind().context("NPY")?;
    let axes = Axes::of(shape, reading.reshape.as_deref()).context("NPY")?;
    let mut scaler = Scaler::new(kind, reading.range);
    read_parts(&header, rest.chain(source), axes.count, &mut |part| {
        let pixels = match kind {
            Kind::U8 => Some(part),
            _ => scaler.bytes(&kind.values(&part, is_big)),
        };
        pixels.map_or(Ok(()), |pixels| each(axes.stack(pixels)))
    })?;
    let done = match kind {
        Kind::U8 => Ok(()),
        _ => scaler.finish(),
    };
    done.context("NPY")
}

/// Reads an array of rank 1, or of one column, of whole numbers, such as labels; `None` if it is another one.
///
/// # Errors
/// If it is truncated or longer than its header says.
pub(super) fn read_labels(mut source: impl Read) -> Result<Option<Vec<String>>> {
    let (header, rest) = head(&mut source)?;
    let count = header.labels();
    let (Some(count), Ok((kind, is_big))) = (count, header.kind()) else { return Ok(None) };
    let mut values = Vec::new();
    read_parts(&header, rest.chain(source), count, &mut |part| {
        values.extend(kind.values(&part, is_big));
        Ok(())
    })?;
    Ok(numbers::labels(&values))
}

/// Reads the numbers of an array whose header is `header`, and hands on some at a time: whole ones of `count` parts.
///
/// # Errors
/// If there are fewer or more than the header promises, or `each` fails.
fn read_parts(
    header: &Header,
    mut source: impl Read,
    count: usize,
    each: &mut dyn FnMut(Vec<u8>) -> Result<()>,
) -> Result<()> {
    let shape = &header.shape;
    let size = header.kind()?.0.size() as u64;
    let promised = shape.iter().try_fold(size, |product, &n| product.checked_mul(n as u64));
    let found_of = |found: String| {
        let promised = promised.map_or("too many".to_owned(), |n| n.to_string());
        format!("NPY: shape {shape:?} promises {promised} bytes, found {found}")
    };
    let promised = promised.with_context(|| found_of("fewer".to_owned()))?;
    ensure!(promised > 0, "NPY shape {shape:?}: one is 0");
    let image = promised / count.max(1) as u64;
    let at_a_time = (PART / image).max(1);
    let mut done = 0;
    while done < promised {
        let wanted = image.saturating_mul(at_a_time).min(promised - done);
        // Memory is taken only for bytes that have come, whatever the header promises.
        let mut bytes = Vec::new();
        source.by_ref().take(wanted).read_to_end(&mut bytes).context("NPY")?;
        done += bytes.len() as u64;
        ensure!(bytes.len() as u64 == wanted, "{}", found_of(done.to_string()));
        each(bytes)?;
    }
    let more = source.take(PART).read_to_end(&mut Vec::new()).context("NPY")?;
    ensure!(more == 0, "{}", found_of((done + more as u64).to_string()));
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
    /// The kind of its numbers, and whether their first byte is the most significant one.
    ///
    /// # Errors
    /// If they are no numbers.
    pub(super) fn kind(&self) -> Result<(Kind, bool)> {
        let (order, name) = self.descr.split_at_checked(1).unwrap_or_default();
        let kind = match name {
            "b1" => Kind::Bool,
            "u1" => Kind::U8,
            "i1" => Kind::I8,
            "u2" => Kind::U16,
            "i2" => Kind::I16,
            "u4" => Kind::U32,
            "i4" => Kind::I32,
            "u8" => Kind::U64,
            "i8" => Kind::I64,
            "f2" => Kind::F16,
            "f4" => Kind::F32,
            "f8" => Kind::F64,
            _ if name.starts_with('O') => bail!(
                "expected numbers, found Python objects, which are not read because they could run programs; save \
                 an array of numbers of one shape, as numpy.stack makes it of a list"
            ),
            _ => bail!("expected numbers, found the type {:?}", self.descr),
        };
        match order {
            ">" => Ok((kind, true)),
            "<" | "|" => Ok((kind, false)),
            _ => bail!("expected the order of bytes < or >, found the type {:?}", self.descr),
        }
    }

    /// The array in a line, as messages list it.
    pub(super) fn told(&self) -> String {
        let kind = self.kind().map_or(&*self.descr, |(kind, _)| kind.name());
        format!("{kind} {:?}", self.shape)
    }

    /// How many labels it may hold: as many as it has rows, if it has one column or none.
    pub(super) fn labels(&self) -> Option<usize> {
        match self.shape[..] {
            [count] | [count, 1] => Some(count),
            _ => None,
        }
    }

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

#[cfg(test)]
pub(super) mod tests {
    use super::super::ShapeIsMissing;
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

    fn scaled(low: f64, high: f64) -> Reading {
        Reading { range: Some(Range { low, high }), ..Reading::default() }
    }

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
        assert_eq!(
            parse_images(&file("|u1", false, "(2, 3, 2, 3)", &last), &Reading::default())?,
            expected
        );
        assert_eq!(
            parse_images(&file("|u1", false, "(2, 3, 3, 2)", &planar), &Reading::default())?,
            expected
        );
        let gray = parse_images(&file("|u1", false, "(6, 3, 2)", &last), &Reading::default())?;
        assert_eq!((gray.count, gray.channels), (6, 1));
        let floats: Vec<u8> =
            last.iter().flat_map(|&x| (f32::from(x) / 255.0).to_le_bytes()).collect();
        assert_eq!(
            parse_images(&file("<f4", false, "(2, 3, 2, 3)", &floats), &scaled(0.0, 1.0))?,
            expected
        );
        let doubles: Vec<u8> =
            last.iter().flat_map(|&x| (f64::from(x) / 127.5 - 1.0).to_le_bytes()).collect();
        let reading = scaled(-1.0, 1.0);
        assert_eq!(
            parse_images(&file("<f8", false, "(2, 3, 2, 3)", &doubles), &reading)?,
            expected
        );
        let words: Vec<u8> =
            last.iter().flat_map(|&x| (u16::from(x) * 257).to_be_bytes()).collect();
        let reading = scaled(0.0, 65_535.0);
        assert_eq!(parse_images(&file(">u2", false, "(2, 3, 2, 3)", &words), &reading)?, expected);
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |file: &[u8], reading: &Reading| {
            format!("{:#}", parse_images(file, reading).unwrap_err())
        };
        let bytes = |shape: &str, n: usize| file("|u1", false, shape, &vec![0; n]);
        for (file, told) in [
            (b"PK\x03\x04".to_vec(), "NPY header"),
            (file("|u1", false, "[1]", &[0]), "`shape`: expected a tuple"),
            (file("|u1", false, "()", &[0]), "`shape`: expected whole numbers"),
            (file("|u1', 'descr': '", false, "(1, 1, 1)", &[0]), "`descr` is given twice"),
            (file("|u1', 'x': '", false, "(1, 1, 1)", &[0]), "unknown key `x`"),
            (bytes("(2, 3)", 6), "found 2 rows of 3 numbers"),
            (bytes("(1, 2, 3, 4)", 24), "with C 1 or 3"),
            (bytes("(0, 3, 2)", 0), "one is 0"),
            (bytes("(2, 3, 2)", 11), "promises 12 bytes, found 11"),
            (bytes("(2, 3, 2)", 13), "promises 12 bytes, found 13"),
            (bytes("(4294967296, 4294967296, 2)", 8), "too many bytes, found fewer"),
            (file("<c8", false, "(1, 1, 1)", &[0; 8]), "expected numbers, found the type \"<c8\""),
            (file("|O", false, "(1, 1, 1)", &[0; 8]), "found Python objects"),
            (file("=f4", false, "(1, 1, 1)", &[0; 4]), "the order of bytes"),
            (file("|u1", true, "(1, 1, 1)", &[0]), "found Fortran's"),
            (file("<f4", false, "(1, 1, 1)", &[0; 4]), "the setting `range` must say"),
        ] {
            let error = error(&file, &Reading::default());
            assert!(error.contains(told), "{told}: {error}");
        }
        for bad in [1.01, -0.01, f32::NAN, f32::INFINITY] {
            let file = file("<f4", false, "(1, 1, 1)", &bad.to_le_bytes());
            let error = error(&file, &scaled(0.0, 1.0));
            assert!(error.contains("NPY: value 0: expected 0 to 1"), "{error}");
        }
    }

    #[test]
    fn rows_become_images_of_the_shape_that_is_asked_for_and_errors_propose_one() -> Result<()> {
        let rows = file("|u1", false, "(2, 12)", &(0..24).collect::<Vec<_>>());
        let read = |file: &[u8], shape: &[usize]| {
            let reading = Reading { reshape: Some(shape.to_vec()), ..Reading::default() };
            parse_images(file, &reading)
        };
        let gray = read(&rows, &[3, 4])?;
        assert_eq!((gray.count, gray.height, gray.width, gray.channels), (2, 3, 4, 1));
        assert_eq!(gray.pixels, (0..24).collect::<Vec<_>>());
        let last = read(&rows, &[2, 2, 3])?;
        assert_eq!((last.channels, &last.pixels[..4]), (3, &[0, 1, 2, 3][..]));
        let planar = read(&rows, &[3, 2, 2])?;
        assert_eq!((planar.channels, &planar.pixels[..4]), (3, &[0, 4, 8, 1][..]));
        let error = |file: &[u8], shape: &[usize]| format!("{:#}", read(file, shape).unwrap_err());
        assert!(error(&rows, &[5, 5]).contains("rows of 12 numbers, found 5, 5, which are 25"));
        let told = |columns: usize| {
            let file = file("|u1", false, &format!("(1, {columns})"), &vec![0; columns]);
            parse_images(&file, &Reading::default()).unwrap_err()
        };
        for (columns, shape) in [(784, "28,28"), (3072, "3,32,32"), (6, "2,3")] {
            let error = told(columns);
            let rows = format!("found 1 rows of {columns} numbers");
            assert!(format!("{error:#}").contains(&rows), "{error:#}");
            let likely = error.downcast_ref().map(ShapeIsMissing::likely);
            assert_eq!(likely.as_deref(), Some(shape));
        }
        Ok(())
    }

    #[test]
    fn truncated_or_changed_anywhere_it_never_panics() {
        let whole = file("|u1", false, "(2, 3, 2)", &[7; 12]);
        for length in 0..whole.len() {
            assert!(parse_images(&whole[..length], &Reading::default()).is_err(), "{length}");
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut file = whole.clone();
                file[at] ^= 1 << bit;
                let _ = parse_images(&file, &scaled(0.0, 1.0));
            }
        }
    }
}
