//! SVHN's files: MATLAB's level 5 MAT-files with an array of images `X` and, maybe, labels `y`.

use std::borrow::Cow;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::ZlibDecoder;

use super::{Format, MAX_EXPANDED, Sink, SourceFile, Stack, expansion_limit};

/// `mat:FILE`.
#[derive(Debug)]
pub struct Mat;

impl Format for Mat {
    fn name(&self) -> &'static str {
        "mat"
    }

    fn meaning(&self) -> &'static str {
        "a MAT-file with X [height, width, channels, N], as SVHN's"
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        for file in &files {
            let MatImages { images, labels } = file.parse(parse_images)?;
            sink.stack(images, labels.as_deref()).with_context(|| file.name.clone())?;
        }
        Ok(())
    }
}

/// Types of data elements, by MATLAB's names.
mod mi {
    pub const INT8: u32 = 1;
    pub const UINT8: u32 = 2;
    pub const INT16: u32 = 3;
    pub const UINT16: u32 = 4;
    pub const INT32: u32 = 5;
    pub const UINT32: u32 = 6;
    pub const SINGLE: u32 = 7;
    pub const DOUBLE: u32 = 9;
    pub const INT64: u32 = 12;
    pub const UINT64: u32 = 13;
    pub const MATRIX: u32 = 14;
    pub const COMPRESSED: u32 = 15;
}

/// Length of the file's header.
const HEADER: usize = 128;
/// The class of arrays of unsigned bytes.
const CLASS_UINT8: u32 = 9;
/// The most dimensions of an array: more than any array of images has.
const MAX_RANK: usize = 32;

/// Images, and their labels where there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatImages {
    /// Of the array `X`, `[height, width, channels, count]` in the file.
    pub images: Stack,
    /// Of the array `y`, one a image; SVHN's 10 is the digit 0.
    pub labels: Option<Vec<u16>>,
}

/// Reads a MAT-file of level 5, compressed or not, of either byte order.
///
/// # Errors
/// If the file is of another format or version, truncated or damaged, or holds no such arrays; the
/// message names the offset or the array, what was expected and what was found.
///
/// # Source
/// "MAT-File Format", MathWorks, chapter 1; the layout is SVHN's (Netzer et al. 2011).
pub fn parse_images(bytes: &[u8]) -> Result<MatImages> {
    ensure!(
        bytes.len() >= HEADER,
        "MAT header: expected {HEADER} bytes, found a file of {}",
        bytes.len()
    );
    let is_hdf5 = bytes.get(512..).is_some_and(|rest| rest.starts_with(b"\x89HDF"))
        || bytes.starts_with(b"\x89HDF")
        || bytes.starts_with(b"MATLAB 7.3");
    ensure!(
        !is_hdf5,
        "MATLAB's version 7.3 (HDF5) is not read; expected version 7 or older: in MATLAB save it with \
         '-v7', in Python with scipy.io.savemat"
    );
    let order = match &bytes[126..128] {
        b"IM" => Order::Little,
        b"MI" => Order::Big,
        found => bail!("MAT header at offset 126: expected `IM` or `MI`, found {found:02x?}"),
    };
    let version = order.u16([bytes[124], bytes[125]]);
    ensure!(version == 0x0100, "MAT version at offset 124: expected 0x0100, found {version:#06x}");

    let mut file = Elements { bytes, at: HEADER, order };
    let (mut images, mut labels, mut found) = (None, None, Vec::new());
    while let Some(element) = file.next()? {
        let offset = element.offset;
        let context = || format!("MAT element at offset {offset}");
        let data = match element.kind {
            mi::MATRIX => Cow::Borrowed(element.data),
            mi::COMPRESSED => Cow::Owned(inflate(element.data, order).with_context(context)?),
            // Elements of other types hold no arrays.
            _ => continue,
        };
        let array = Array::read(&data, order).with_context(context)?;
        match array {
            Some(array) if array.name == "X" && images.is_none() => {
                images = Some(array.images().context("MAT array `X`")?);
            }
            Some(array) if array.name == "y" && labels.is_none() => {
                labels = Some(array.labels().context("MAT array `y`")?);
            }
            Some(array) => found.push(format!("`{}`", array.name)),
            None => {}
        }
    }
    let Some(images) = images else {
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        bail!("MAT: expected an array `X` of images, found {found}");
    };
    if let Some(labels) = &labels {
        ensure!(
            labels.len() == images.count,
            "MAT array `y`: expected {} labels, as many as images, found {}",
            images.count,
            labels.len()
        );
    }
    Ok(MatImages { images, labels })
}

/// The order of bytes in a number.
#[derive(Debug, Clone, Copy)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }

    fn u64(self, bytes: [u8; 8]) -> u64 {
        match self {
            Self::Little => u64::from_le_bytes(bytes),
            Self::Big => u64::from_be_bytes(bytes),
        }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Little => u32::from_le_bytes(bytes),
            Self::Big => u32::from_be_bytes(bytes),
        }
    }
}

/// A data element: a tag and what it announces.
struct Element<'a> {
    offset: usize,
    kind: u32,
    data: &'a [u8],
}

/// Walks over the elements that lie one after the other in `bytes`.
struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
    order: Order,
}

impl<'a> Elements<'a> {
    fn next(&mut self) -> Result<Option<Element<'a>>> {
        let offset = self.at;
        let rest = &self.bytes[offset..];
        if rest.is_empty() {
            return Ok(None);
        }
        let Some((&first, after)) = rest.split_first_chunk::<4>() else {
            bail!("MAT tag at offset {offset}: expected 8 bytes, found {}", rest.len());
        };
        let first = self.order.u32(first);
        // A small element: its size and its data are within the 8 bytes of the tag.
        if first >> 16 != 0 {
            let (kind, size) = (first & 0xffff, (first >> 16) as usize);
            ensure!(
                size <= 4,
                "MAT tag at offset {offset}: a small element of {size} bytes, more than 4"
            );
            let data = after.get(..4).and_then(|data| data.get(..size));
            let data =
                data.with_context(|| format!("MAT element at offset {offset}: truncated"))?;
            self.at = offset + 8;
            return Ok(Some(Element { offset, kind, data }));
        }
        let Some((&size, after)) = after.split_first_chunk::<4>() else {
            bail!("MAT tag at offset {offset}: expected 8 bytes, found {}", rest.len());
        };
        let size = self.order.u32(size) as usize;
        let data = after.get(..size).with_context(|| {
            format!("MAT element at offset {offset}: promises {size} bytes, found {}", after.len())
        })?;
        // All but compressed elements end at a multiple of 8; at the end of a file not everybody pads.
        let padded = if first == mi::COMPRESSED { size } else { size.next_multiple_of(8) };
        self.at = self.bytes.len().min(offset + 8 + padded);
        Ok(Some(Element { offset, kind: first, data }))
    }

    /// The next element, which must be there and of one of `kinds`.
    fn expect(&mut self, what: &str, kinds: &[u32]) -> Result<Element<'a>> {
        let element = self.next()?.with_context(|| format!("lacks its {what}"))?;
        ensure!(
            kinds.contains(&element.kind),
            "{what}: expected data of type {kinds:?}, found {}",
            element.kind
        );
        Ok(element)
    }
}

/// The one element in a compressed one: its data. Memory is taken only for bytes that have come,
/// whatever length the tag promises.
fn inflate(compressed: &[u8], order: Order) -> Result<Vec<u8>> {
    let mut decoder = ZlibDecoder::new(compressed);
    let mut tag = [0; 8];
    decoder.read_exact(&mut tag).context("compressed data")?;
    let [k0, k1, k2, k3, s0, s1, s2, s3] = tag;
    let (kind, size) = (order.u32([k0, k1, k2, k3]), u64::from(order.u32([s0, s1, s2, s3])));
    ensure!(kind == mi::MATRIX, "expected a compressed array, found data of type {kind}");
    let limit = MAX_EXPANDED.min(expansion_limit(compressed.len() as u64));
    ensure!(size <= limit, "promises {size} bytes, more than {limit}");
    let mut data = Vec::new();
    decoder.by_ref().take(size).read_to_end(&mut data).context("compressed data")?;
    ensure!(
        data.len() as u64 == size,
        "compressed data: expected {size} bytes, found {}",
        data.len()
    );
    // Reads the checksum.
    let more = decoder.take(16).read_to_end(&mut Vec::new()).context("compressed data")?;
    ensure!(more < 8, "compressed data: goes on after its array");
    Ok(data)
}

/// A numeric array, in MATLAB's order: the first dimension fastest.
struct Array<'a> {
    name: String,
    dims: Vec<usize>,
    class: u32,
    kind: u32,
    data: &'a [u8],
    order: Order,
}

impl<'a> Array<'a> {
    /// The array in a matrix element's data; `None` if it is not a numeric one.
    fn read(data: &'a [u8], order: Order) -> Result<Option<Self>> {
        let mut parts = Elements { bytes: data, at: 0, order };
        let flags = parts.expect("array flags", &[mi::UINT32])?;
        let word = flags.data.first_chunk::<4>().context("array flags: truncated")?;
        let word = order.u32(*word);
        let (class, is_complex) = (word & 0xff, word & 0x0800 != 0);
        let dims = parts.expect("dimensions", &[mi::INT32])?;
        ensure!(
            dims.data.len().is_multiple_of(4) && dims.data.len() / 4 <= MAX_RANK,
            "dimensions: {} bytes are not up to {MAX_RANK} numbers",
            dims.data.len()
        );
        let dims = dims.data.chunks_exact(4).map(|n| order.u32([n[0], n[1], n[2], n[3]]));
        let dims = dims
            .map(|n| i32::try_from(n).ok().and_then(|n| usize::try_from(n).ok()))
            .collect::<Option<Vec<_>>>()
            .context("dimensions: one is negative")?;
        let name = parts.expect("name", &[mi::INT8])?;
        let name = String::from_utf8_lossy(name.data).into_owned();
        // Only numeric arrays can be images or labels: not cells, structures, text or sparse arrays.
        if !(6..=15).contains(&class) || is_complex {
            return Ok(None);
        }
        let numbers = [
            mi::INT8,
            mi::UINT8,
            mi::INT16,
            mi::UINT16,
            mi::INT32,
            mi::UINT32,
            mi::SINGLE,
            mi::DOUBLE,
            mi::INT64,
            mi::UINT64,
        ];
        let Element { kind, data, .. } = parts.expect("values", &numbers)?;
        Ok(Some(Self { name, dims, class, kind, data, order }))
    }

    fn numel(&self) -> Option<usize> {
        self.dims.iter().try_fold(1_usize, |product, &n| product.checked_mul(n))
    }

    fn images(&self) -> Result<Stack> {
        let &[height, width, channels, count] = self.dims.as_slice() else {
            bail!("expected [height, width, channels, count], found dimensions {:?}", self.dims);
        };
        ensure!(
            self.class == CLASS_UINT8 && self.kind == mi::UINT8,
            "expected unsigned bytes, found class {} stored as type {}",
            self.class,
            self.kind
        );
        ensure!(!self.dims.contains(&0), "found dimensions {:?}, one is 0", self.dims);
        ensure!(channels == 1 || channels == 3, "expected 1 or 3 channels, found {channels}");
        ensure!(
            self.numel() == Some(self.data.len()),
            "dimensions {:?} promise {} bytes, found {}",
            self.dims,
            self.numel().map_or("too many".to_owned(), |n| n.to_string()),
            self.data.len()
        );
        let mut pixels = vec![0; self.data.len()];
        let image = height * width * channels;
        for (source, target) in self.data.chunks_exact(image).zip(pixels.chunks_exact_mut(image)) {
            for (i, &value) in source.iter().enumerate() {
                let (y, x, c) = (i % height, i / height % width, i / height / width);
                target[(y * width + x) * channels + c] = value;
            }
        }
        Ok(Stack { count, height, width, channels, pixels })
    }

    fn labels(&self) -> Result<Vec<u16>> {
        let numel = self.numel();
        let largest = self.dims.iter().max().copied();
        ensure!(numel == largest, "expected one column, found dimensions {:?}", self.dims);
        let order = self.order;
        let (two, four) = (self.data.as_chunks::<2>().0, self.data.as_chunks::<4>().0);
        let eight = self.data.as_chunks::<8>().0.iter().map(|&x| order.u64(x));
        let (two, four) = (two.iter().map(|&x| order.u16(x)), four.iter().map(|&x| order.u32(x)));
        let values: Vec<f64> = match self.kind {
            mi::UINT8 => self.data.iter().map(|&x| f64::from(x)).collect(),
            mi::INT8 => self.data.iter().map(|&x| f64::from(x as i8)).collect(),
            mi::UINT16 => two.map(f64::from).collect(),
            mi::INT16 => two.map(|x| f64::from(x as i16)).collect(),
            mi::UINT32 => four.map(f64::from).collect(),
            mi::INT32 => four.map(|x| f64::from(x as i32)).collect(),
            mi::SINGLE => four.map(|x| f64::from(f32::from_bits(x))).collect(),
            mi::UINT64 => eight.map(|x| x as f64).collect(),
            mi::INT64 => eight.map(|x| x as i64 as f64).collect(),
            _ => eight.map(f64::from_bits).collect(),
        };
        ensure!(
            Some(values.len()) == numel,
            "dimensions {:?} promise {numel:?} values, found {}",
            self.dims,
            values.len()
        );
        // SVHN stores the digit 0 as 10.
        let tens_are_zeros = values.iter().all(|&value| (1.0..=10.0).contains(&value));
        let label = |&value: &f64| {
            let is_label = value.fract() == 0.0 && (0.0..=65_535.0).contains(&value);
            ensure!(is_label, "expected whole numbers from 0 to 65535, found {value}");
            Ok(if value == 10.0 && tens_are_zeros { 0 } else { value as u16 })
        };
        values.iter().map(label).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    /// Writes MAT-files of either order of bytes.
    struct Writer {
        is_big: bool,
    }

    impl Writer {
        fn u32(&self, value: u32) -> [u8; 4] {
            if self.is_big { value.to_be_bytes() } else { value.to_le_bytes() }
        }

        fn element(&self, kind: u32, data: &[u8]) -> Vec<u8> {
            let mut bytes = [self.u32(kind), self.u32(data.len() as u32)].concat();
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            bytes
        }

        /// An element of at most 4 bytes within its tag.
        fn small(&self, kind: u32, data: &[u8]) -> Vec<u8> {
            let mut bytes = self.u32((data.len() as u32) << 16 | kind).to_vec();
            bytes.extend_from_slice(data);
            bytes.resize(8, 0);
            bytes
        }

        fn array(&self, name: &str, class: u32, dims: &[u32], values: Vec<u8>) -> Vec<u8> {
            let dims: Vec<u8> = dims.iter().flat_map(|&n| self.u32(n)).collect();
            let name = match name.len() {
                0..=4 => self.small(mi::INT8, name.as_bytes()),
                _ => self.element(mi::INT8, name.as_bytes()),
            };
            let flags = self.element(mi::UINT32, &[self.u32(class), self.u32(0)].concat());
            let parts = [flags, self.element(mi::INT32, &dims), name, values];
            self.element(mi::MATRIX, &parts.concat())
        }

        fn compressed(&self, element: &[u8]) -> Vec<u8> {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(element).unwrap();
            let data = encoder.finish().unwrap();
            [&self.u32(mi::COMPRESSED)[..], &self.u32(data.len() as u32), &data].concat()
        }

        fn file(&self, elements: &[Vec<u8>]) -> Vec<u8> {
            let mut header = b"MATLAB 5.0 MAT-file".to_vec();
            header.resize(124, b' ');
            header.extend(if self.is_big { *b"\x01\x00MI" } else { *b"\x00\x01IM" });
            [header, elements.concat()].concat()
        }

        /// Two images of 3 rows, 2 columns, 3 channels, whose values tell their places.
        fn images(&self) -> Vec<u8> {
            let mut values = Vec::new();
            for n in 0..2 {
                for c in 0..3 {
                    for x in 0..2 {
                        values.extend((0..3).map(|y| 100 * n + 30 * c + 10 * x + y));
                    }
                }
            }
            self.array("X", CLASS_UINT8, &[3, 2, 3, 2], self.element(mi::UINT8, &values))
        }

        fn labels(&self) -> Vec<u8> {
            // As MATLAB does: doubles that fit are stored as bytes.
            self.array("y", 6, &[2, 1], self.small(mi::UINT8, &[10, 7]))
        }
    }

    fn both() -> [Writer; 2] {
        [Writer { is_big: false }, Writer { is_big: true }]
    }

    #[test]
    fn both_orders_of_bytes_compressed_or_not_give_the_same_images() -> Result<()> {
        for writer in both() {
            let other = writer.array("other", 6, &[1, 1], writer.element(mi::DOUBLE, &[0; 8]));
            let text = writer.array("text", 4, &[1, 2], writer.small(mi::UINT16, &[0, 65, 0, 66]));
            let plain = [other.clone(), text, writer.images(), writer.labels()];
            let packed: Vec<_> = plain.iter().map(|element| writer.compressed(element)).collect();
            for file in [writer.file(&plain), writer.file(&packed)] {
                let MatImages { images, labels } = parse_images(&file)?;
                assert_eq!(
                    (images.count, images.height, images.width, images.channels),
                    (2, 3, 2, 3)
                );
                for (i, &value) in images.pixels.iter().enumerate() {
                    let (c, x, y, n) = (i % 3, i / 3 % 2, i / 6 % 3, i / 18);
                    assert_eq!(usize::from(value), 100 * n + 30 * c + 10 * x + y);
                }
                assert_eq!(labels, Some(vec![0, 7]));
            }
            // All kinds of numbers are labels.
            let order = |little: [u8; 4]| {
                if writer.is_big { [little[3], little[2], little[1], little[0]] } else { little }
            };
            let float = writer.element(
                mi::SINGLE,
                &[order(5_f32.to_le_bytes()), order(6_f32.to_le_bytes())].concat(),
            );
            let file = writer.file(&[writer.images(), writer.array("y", 7, &[1, 2], float)]);
            assert_eq!(parse_images(&file)?.labels, Some(vec![5, 6]));
        }
        Ok(())
    }

    #[test]
    fn truncated_or_changed_anywhere_it_is_an_error_or_another_image_and_never_a_panic() {
        for writer in both() {
            let packed = writer.compressed(&writer.images());
            for file in [writer.file(&[writer.images(), writer.labels()]), writer.file(&[packed])] {
                for length in 0..file.len() {
                    let cut = parse_images(&file[..length]);
                    // Between two elements a file is whole.
                    assert!(
                        cut.is_err() || cut.is_ok_and(|found| found.labels.is_none()),
                        "{length}"
                    );
                }
                for at in 0..file.len() {
                    for bit in 0..8 {
                        let mut file = file.clone();
                        file[at] ^= 1 << bit;
                        let _ = parse_images(&file);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let writer = Writer { is_big: false };
        let error = |file: &[u8]| format!("{:#}", parse_images(file).unwrap_err());
        let images = |class, dims: &[u32], values: Vec<u8>| {
            error(&writer.file(&[writer.array("X", class, dims, values)]))
        };
        let bytes = |n: usize| writer.element(mi::UINT8, &vec![0; n]);
        assert!(error(b"MATLAB 7.3 MAT-file").contains("expected 128 bytes"));
        let mut hdf5 = vec![b' '; 600];
        hdf5[512..516].copy_from_slice(b"\x89HDF");
        assert!(error(&hdf5).contains("HDF5") && error(&hdf5).contains("scipy.io.savemat"));
        assert!(error(&[0; 128]).contains("offset 126"));
        assert!(error(&writer.file(&[])).contains("expected an array `X` of images, found none"));
        assert!(error(&writer.file(&[writer.labels()])).contains("found none"));
        assert!(images(CLASS_UINT8, &[2, 2, 2, 1], bytes(8)).contains("1 or 3 channels, found 2"));
        assert!(images(CLASS_UINT8, &[2, 2], bytes(4)).contains("found dimensions [2, 2]"));
        assert!(images(CLASS_UINT8, &[2, 2, 1, 0], bytes(0)).contains("one is 0"));
        assert!(images(6, &[2, 2, 1, 1], bytes(4)).contains("expected unsigned bytes"));
        assert!(images(CLASS_UINT8, &[2, 2, 1, 1], bytes(5)).contains("promise 4 bytes, found 5"));
        let huge =
            images(CLASS_UINT8, &[i32::MAX as u32, i32::MAX as u32, 3, i32::MAX as u32], bytes(1));
        assert!(huge.contains("too many bytes, found 1"), "{huge}");
        let labels = writer.array("y", 6, &[3, 1], writer.small(mi::UINT8, &[1, 2, 3]));
        assert!(error(&writer.file(&[writer.images(), labels])).contains("expected 2 labels"));
        // A compressed element that promises more than comes, and one that is no array.
        let lie = [writer.u32(mi::MATRIX), writer.u32(1 << 30)].concat();
        let lie = error(&writer.file(&[writer.compressed(&lie)]));
        assert!(lie.contains("expected 1073741824 bytes, found 0"), "{lie}");
        let no_array = error(&writer.file(&[writer.compressed(&bytes(64))]));
        assert!(no_array.contains("expected a compressed array"), "{no_array}");
    }
}
