//! MATLAB's level 5 MAT-files with an array of images, as SVHN's, whose images are `X` and whose labels are `y`.

use std::borrow::Cow;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::ZlibDecoder;

use super::npy::Reading;
use super::numbers::{self, Kind, Scaler};
use super::stack::{Axes, labels_of};
use super::{Format, MAX_EXPANDED, Sink, SourceFile, Stack, expansion_limit};

/// `mat:FILE`.
#[derive(Debug)]
pub struct Mat;

impl Format for Mat {
    fn name(&self) -> &'static str {
        "mat"
    }

    fn meaning(&self) -> &'static str {
        "a MAT-file with X [height, width, channels, N], as SVHN's; FILE#NAME takes another array"
    }

    fn holds_arrays(&self) -> bool {
        true
    }

    fn takes_range(&self) -> bool {
        true
    }

    fn files(&self, path: &Path) -> Result<Vec<SourceFile>> {
        Ok(vec![SourceFile::part_at(path)?])
    }

    fn read(&self, files: Vec<SourceFile>, sink: &mut Sink) -> Result<()> {
        let reading = sink.reading().clone();
        for file in &files {
            let MatImages { images, labels } =
                file.parse(|bytes| parse_images(bytes, file.part(), &reading))?;
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
    pub const UTF8: u32 = 16;
}

/// Length of the file's header.
const HEADER: usize = 128;
/// The most dimensions of an array: more than any array of images has.
const MAX_RANK: usize = 32;
/// The first bytes of an array, within which its class, dimensions and name are.
const ARRAY_HEAD: u64 = 4096;

/// Images, and their labels where there are any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatImages {
    /// Of the array that was chosen.
    pub images: Stack,
    /// One an image; SVHN's 10 is the digit 0.
    pub labels: Option<Vec<String>>,
}

/// Reads a MAT-file of level 5, compressed or not, of either byte order: the array called `name`; without a name, that
/// called `X` or the only one that can be images. That is `[height, width, channels, N]`, `[height, width, N]`, one
/// that Python has saved with N first, or rows that the setting `reshape` gives a shape.
///
/// # Errors
/// If the file is of another format or version, truncated or damaged, or holds no such arrays; the
/// message names the offset or the array, what was expected and what was found. Those of numbers in a range, as
/// [`super::npy::read_images`].
///
/// # Source
/// "MAT-File Format", MathWorks, chapter 1; the layout is SVHN's (Netzer et al. 2011).
pub fn parse_images(bytes: &[u8], name: Option<&str>, reading: &Reading) -> Result<MatImages> {
    let advice = "in MATLAB save it with '-v7', in Python with scipy.io.savemat";
    ensure!(
        !is_version_4(bytes),
        "MATLAB's version 4 is not read, whose arrays have two dimensions; expected version 5 to 7: {advice}"
    );
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
        "MATLAB's version 7.3 (HDF5) is not read; expected version 7 or older: {advice}"
    );
    let order = match &bytes[126..128] {
        b"IM" => Order::Little,
        b"MI" => Order::Big,
        found => bail!(
            "not a MAT-file of MATLAB 5 to 7: at offset 126 expected `IM` or `MI`, found {found:02x?}"
        ),
    };
    let version = order.u16([bytes[124], bytes[125]]);
    ensure!(version == 0x0100, "MAT version at offset 124: expected 0x0100, found {version:#06x}");

    let variables = Variable::all(bytes, order)?;
    let chosen = choose(&variables, name, reading)?;
    let context = |variable: &Variable| format!("MAT array `{}`", variable.name);
    let images = chosen.data()?.images(chosen, reading).with_context(|| context(chosen))?;
    let mut labels = None;
    for label in labels_of(&chosen.name) {
        let Some(variable) = variables.iter().find(|variable| variable.name == label) else {
            continue;
        };
        // SVHN's are there for nothing else; those of any other name may be of something else.
        let is_svhn = chosen.name == "X" && label == "y" && variable.kind().is_some();
        if is_svhn || variable.is_column_of(images.count) {
            let found = variable.data().and_then(|array| array.labels(variable, images.count));
            let found = found.with_context(|| context(variable));
            labels = if is_svhn { Some(found?) } else { found.ok() };
            break;
        }
    }
    Ok(MatImages { images, labels })
}

/// Whether these are the first bytes of a file of MATLAB's version 4: a number whose decimal digits say the order of
/// bytes, 0, the kind of number and that of matrix; rows; columns; 0 or 1 for complex numbers; the length of the name.
fn is_version_4(bytes: &[u8]) -> bool {
    let Some(head) = bytes.first_chunk::<20>() else { return false };
    [Order::Little, Order::Big].into_iter().any(|order| {
        let mut numbers = head.as_chunks::<4>().0.iter().map(|&number| order.u32(number));
        let mut next = || numbers.next().unwrap_or_default();
        let (digits, rows, columns, complex, name) = (next(), next(), next(), next(), next());
        let [m, o, p, t] = [digits / 1000, digits / 100 % 10, digits / 10 % 10, digits % 10];
        let is_kind = m <= 4 && o == 0 && p <= 5 && t <= 2;
        let sides = i32::MAX as u32;
        is_kind && complex <= 1 && (2..=256).contains(&name) && rows.max(columns) <= sides
    })
}

/// An array in a file: what its head says.
struct Variable<'a> {
    name: String,
    /// MATLAB's number of its class.
    class: u32,
    is_complex: bool,
    is_logical: bool,
    dims: Vec<usize>,
    element: Element<'a>,
    order: Order,
}

impl<'a> Variable<'a> {
    /// The arrays in a file.
    fn all(bytes: &'a [u8], order: Order) -> Result<Vec<Self>> {
        let mut file = Elements { bytes, at: HEADER, order };
        let mut all = Vec::new();
        while let Some(element) = file.next()? {
            let offset = element.offset;
            let context = || format!("MAT element at offset {offset}");
            let head = match element.kind {
                mi::MATRIX => Cow::Borrowed(element.data),
                mi::COMPRESSED => {
                    let (mut decoder, size) = inflate(element.data, order).with_context(context)?;
                    let mut head = Vec::new();
                    let read = decoder.by_ref().take(size.min(ARRAY_HEAD)).read_to_end(&mut head);
                    read.context("compressed data").with_context(context)?;
                    Cow::Owned(head)
                }
                // Elements of other types hold no arrays.
                _ => continue,
            };
            let mut parts = Elements { bytes: &head, at: 0, order };
            let (class, is_complex, is_logical, dims, name) =
                array_head(&mut parts).with_context(context)?;
            // MATLAB keeps some of its own data under no name.
            if !name.is_empty() {
                all.push(Self { name, class, is_complex, is_logical, dims, element, order });
            }
        }
        Ok(all)
    }

    /// The kind of its numbers, if it is an array of real ones.
    fn kind(&self) -> Option<Kind> {
        let kind = match self.class {
            _ if self.is_complex => return None,
            9 if self.is_logical => Kind::Bool,
            6 => Kind::F64,
            7 => Kind::F32,
            8 => Kind::I8,
            9 => Kind::U8,
            10 => Kind::I16,
            11 => Kind::U16,
            12 => Kind::I32,
            13 => Kind::U32,
            14 => Kind::I64,
            15 => Kind::U64,
            _ => return None,
        };
        Some(kind)
    }

    /// What it is, in MATLAB's words.
    fn class_name(&self) -> &'static str {
        match self.class {
            1 => "cell",
            2 => "struct",
            3 => "object",
            4 => "text",
            5 => "sparse",
            16 => "function",
            17 => "opaque object",
            _ if self.is_complex => "complex",
            _ => self.kind().map_or("unknown", Kind::name),
        }
    }

    /// It in a few words, as messages list it.
    fn told(&self) -> String {
        format!("{} ({} {:?})", self.name, self.class_name(), self.dims)
    }

    /// What makes an array of numbers of it.
    fn advice(&self) -> String {
        let name = &self.name;
        match self.class {
            1 => {
                format!("in MATLAB `X = cat(4, {name}{{:}})` makes an array of images of one size")
            }
            2 => format!(
                "in MATLAB `X = {name}.FIELD` takes the field that holds the images; save that"
            ),
            5 => format!("in MATLAB `X = full({name})` makes a full array of it"),
            _ => "save the images as an array of numbers".to_owned(),
        }
    }

    /// Whether it is numbers, `count` of them in one column or row.
    fn is_column_of(&self, count: usize) -> bool {
        let product = self.dims.iter().try_fold(1_usize, |product, &n| product.checked_mul(n));
        self.kind().is_some() && product == Some(count) && self.dims.contains(&count)
    }

    /// Its numbers.
    ///
    /// # Errors
    /// If it has none, or they are damaged.
    fn data(&self) -> Result<Array<'a>> {
        let (offset, order) = (self.element.offset, self.order);
        let context = || format!("MAT element at offset {offset}");
        ensure!(
            self.kind().is_some(),
            "MAT array `{}`: expected numbers, found {} {:?}; {}",
            self.name,
            self.class_name(),
            self.dims,
            self.advice()
        );
        let data = match self.element.kind {
            mi::MATRIX => Cow::Borrowed(self.element.data),
            _ => Cow::Owned(inflate_all(self.element.data, order).with_context(context)?),
        };
        Ok(Array { data })
    }
}

/// The array called `name`; without a name, the one that can be images.
fn choose<'v, 'a>(
    variables: &'v [Variable<'a>],
    name: Option<&str>,
    reading: &Reading,
) -> Result<&'v Variable<'a>> {
    let told = || {
        let told: Vec<_> = variables.iter().map(Variable::told).collect();
        if told.is_empty() { "none".to_owned() } else { told.join(", ") }
    };
    let wanted = name.unwrap_or("X");
    if let Some(found) = variables.iter().find(|variable| variable.name == wanted) {
        return Ok(found);
    }
    ensure!(name.is_none(), "MAT: no array `{wanted}`; its arrays: {}", told());
    let ranks = if reading.reshape.is_some() { 2..=4 } else { 3..=4 };
    let can_be_images = |variable: &&Variable| {
        variable.kind().is_some()
            && ranks.contains(&variable.dims.len())
            && !variable.dims.contains(&1)
    };
    let expected = "expected an array `X` of images, or one of 3 or 4 dimensions";
    let mut found = variables.iter().filter(can_be_images);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => bail!(
            "MAT: {expected}, found several; name the one you want behind the file's name, as in FILE#NAME; its \
             arrays: {}",
            told()
        ),
        (None, _) => {
            let nested = variables.iter().find(|variable| [1, 2].contains(&variable.class));
            let advice = nested.map(|variable| format!("; {}", variable.advice()));
            bail!(
                "MAT: {expected}, found none; its arrays: {}{}",
                told(),
                advice.unwrap_or_default()
            )
        }
    }
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

/// The one element in a compressed one: its bytes, ready to be read, and how many there are.
fn inflate(compressed: &[u8], order: Order) -> Result<(ZlibDecoder<&[u8]>, u64)> {
    let mut decoder = ZlibDecoder::new(compressed);
    let mut tag = [0; 8];
    decoder.read_exact(&mut tag).context("compressed data")?;
    let [k0, k1, k2, k3, s0, s1, s2, s3] = tag;
    let (kind, size) = (order.u32([k0, k1, k2, k3]), u64::from(order.u32([s0, s1, s2, s3])));
    ensure!(kind == mi::MATRIX, "expected a compressed array, found data of type {kind}");
    let limit = MAX_EXPANDED.min(expansion_limit(compressed.len() as u64));
    ensure!(size <= limit, "promises {size} bytes, more than {limit}");
    Ok((decoder, size))
}

/// All bytes of the one element in a compressed one. Memory is taken only for bytes that have come,
/// whatever length the tag promises.
fn inflate_all(compressed: &[u8], order: Order) -> Result<Vec<u8>> {
    let (mut decoder, size) = inflate(compressed, order)?;
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

/// The head of an array: its class, whether its numbers are complex, whether they are logical, its dimensions and name.
fn array_head(parts: &mut Elements) -> Result<(u32, bool, bool, Vec<usize>, String)> {
    let order = parts.order;
    let flags = parts.expect("array flags", &[mi::UINT32])?;
    let word = flags.data.first_chunk::<4>().context("array flags: truncated")?;
    let word = order.u32(*word);
    let class = word & 0xff;
    // Opaque objects have names where others have dimensions.
    if class == 17 {
        let name = parts.expect("name", &[mi::INT8])?;
        return Ok((
            class,
            false,
            false,
            Vec::new(),
            String::from_utf8_lossy(name.data).into_owned(),
        ));
    }
    let dims = parts.expect("dimensions", &[mi::INT32, mi::UINT32])?;
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
    let name = parts.expect("name", &[mi::INT8, mi::UINT8, mi::UTF8])?;
    let name = String::from_utf8_lossy(name.data).into_owned();
    Ok((class, word & 0x0800 != 0, word & 0x0200 != 0, dims, name))
}

/// The bytes of a numeric array, in MATLAB's order: the first dimension fastest.
struct Array<'a> {
    data: Cow<'a, [u8]>,
}

impl Array<'_> {
    /// The kind of numbers as they are stored, which may be smaller than those of the array's class, and their bytes.
    fn stored(&self, variable: &Variable) -> Result<(Kind, &[u8])> {
        let mut parts = Elements { bytes: &self.data, at: 0, order: variable.order };
        array_head(&mut parts)?;
        let element = parts.next()?.context("lacks its values")?;
        let kind = match element.kind {
            mi::INT8 => Kind::I8,
            mi::UINT8 => Kind::U8,
            mi::INT16 => Kind::I16,
            mi::UINT16 => Kind::U16,
            mi::INT32 => Kind::I32,
            mi::UINT32 => Kind::U32,
            mi::SINGLE => Kind::F32,
            mi::DOUBLE => Kind::F64,
            mi::INT64 => Kind::I64,
            mi::UINT64 => Kind::U64,
            other => bail!("values: expected numbers, found data of type {other}"),
        };
        let (promised, found) = (numel(&variable.dims), element.data.len() / kind.size());
        ensure!(
            promised == Some(found) && element.data.len().is_multiple_of(kind.size()),
            "dimensions {:?} promise {} values, found {found}",
            variable.dims,
            promised.map_or("too many".to_owned(), |n| n.to_string()),
        );
        Ok((kind, element.data))
    }

    fn images(&self, variable: &Variable, reading: &Reading) -> Result<Stack> {
        let view = View::of(&variable.dims, reading.reshape.as_deref())?;
        let (stored, data) = self.stored(variable)?;
        let is_big = matches!(variable.order, Order::Big);
        let class = variable.kind().context("expected numbers")?;
        if class == Kind::U8 && stored == Kind::U8 {
            return Ok(view.gather(data));
        }
        let mut scaler = Scaler::new(class, reading.range);
        let mut bytes = Vec::with_capacity(data.len() / stored.size());
        for part in data.chunks(stored.size() << 20) {
            bytes.extend(scaler.bytes(&stored.values(part, is_big)).unwrap_or_default());
        }
        scaler.finish()?;
        Ok(view.gather(&bytes))
    }

    /// The labels of `count` images.
    fn labels(&self, variable: &Variable, count: usize) -> Result<Vec<String>> {
        let (numel, largest) = (numel(&variable.dims), variable.dims.iter().max().copied());
        ensure!(numel == largest, "expected one column, found dimensions {:?}", variable.dims);
        let (stored, data) = self.stored(variable)?;
        let mut values = stored.values(data, matches!(variable.order, Order::Big));
        ensure!(
            values.len() == count,
            "expected {count} labels, as many as images, found {}",
            values.len()
        );
        // SVHN stores the digit 0 as 10.
        if variable.name == "y" && values.iter().all(|&value| (1.0..=10.0).contains(&value)) {
            values.iter_mut().filter(|value| **value == 10.0).for_each(|value| *value = 0.0);
        }
        numbers::labels(&values).context("expected whole numbers, found others")
    }
}

/// The product of the dimensions, if it is a number of this machine.
fn numel(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1_usize, |product, &n| product.checked_mul(n))
}

/// Where in an array each pixel of each image is.
struct View {
    /// Images, rows, columns, channels.
    sizes: [usize; 4],
    /// How far apart two of each are.
    steps: [usize; 4],
}

impl View {
    /// Of an array of these dimensions, of which each row or column has the shape `reshape` if that is given.
    ///
    /// # Errors
    /// If they are not those of images; the message says what was expected and what was found.
    fn of(dims: &[usize], reshape: Option<&[usize]>) -> Result<Self> {
        ensure!(!dims.contains(&0), "found dimensions {dims:?}, one is 0");
        ensure!(numel(dims).is_some(), "dimensions {dims:?} promise too many values");
        // The first dimension is the fastest.
        let step = |axis: usize| dims.iter().take(axis).product::<usize>();
        let view = |axes: [Option<usize>; 4]| Self {
            sizes: axes.map(|axis| axis.and_then(|axis| dims.get(axis)).copied().unwrap_or(1)),
            steps: axes.map(|axis| axis.map_or(0, step)),
        };
        // From any order to that of images, rows, columns, channels.
        let order = |[n, h, w]: [usize; 3], c: Option<usize>| view([Some(n), Some(h), Some(w), c]);
        Ok(match *dims {
            [rows, columns] => {
                let length = reshape.and_then(numel);
                let is_in_columns = length == Some(rows) && length != Some(columns);
                let (count, length) = if is_in_columns { (columns, rows) } else { (rows, columns) };
                let axes = Axes::of(&[count, length], reshape)?;
                let (of_image, of_number) = if is_in_columns { (rows, 1) } else { (1, rows) };
                let Axes { height, width, channels, is_planar, .. } = axes;
                let [h, w, c] = match is_planar {
                    true => [width, 1, height * width],
                    false => [width * channels, channels, 1],
                };
                let steps = [of_image, h * of_number, w * of_number, c * of_number];
                Self { sizes: [count, height, width, channels], steps }
            }
            // Python's [N, H, W] is told from MATLAB's [H, W, N] by the sides of square images.
            [a, b, c] if a != b && b == c => order([0, 1, 2], None),
            [_, _, _] => order([2, 0, 1], None),
            [_, _, 1 | 3, _] => order([3, 0, 1], Some(2)),
            [_, _, _, 1 | 3] => order([0, 1, 2], Some(3)),
            [_, 1 | 3, _, _] => order([0, 2, 3], Some(1)),
            [_, _, channels, _] => {
                bail!("expected 1 or 3 channels, found {channels}, of dimensions {dims:?}")
            }
            _ => bail!("expected [height, width, channels, count], found dimensions {dims:?}"),
        })
    }

    /// The images that are so in `bytes`.
    fn gather(&self, bytes: &[u8]) -> Stack {
        let ([count, height, width, channels], [by_image, by_row, by_column, by_channel]) =
            (self.sizes, self.steps);
        let mut pixels = Vec::with_capacity(bytes.len());
        for n in 0..count {
            for y in 0..height {
                for x in 0..width {
                    let at = n * by_image + y * by_row + x * by_column;
                    pixels.extend((0..channels).filter_map(|c| bytes.get(at + c * by_channel)));
                }
            }
        }
        Stack { count, height, width, channels, pixels }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::super::npy::Range;
    use super::*;

    /// The class of arrays of unsigned bytes.
    const CLASS_UINT8: u32 = 9;

    fn parse(bytes: &[u8]) -> Result<MatImages> {
        parse_images(bytes, None, &Reading::default())
    }

    fn texts(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|&label| label.to_owned()).collect()
    }

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
                let MatImages { images, labels } = parse(&file)?;
                assert_eq!(
                    (images.count, images.height, images.width, images.channels),
                    (2, 3, 2, 3)
                );
                for (i, &value) in images.pixels.iter().enumerate() {
                    let (c, x, y, n) = (i % 3, i / 3 % 2, i / 6 % 3, i / 18);
                    assert_eq!(usize::from(value), 100 * n + 30 * c + 10 * x + y);
                }
                assert_eq!(labels, Some(texts(&["0", "7"])));
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
            assert_eq!(parse(&file)?.labels, Some(texts(&["5", "6"])));
        }
        Ok(())
    }

    #[test]
    fn truncated_or_changed_anywhere_it_is_an_error_or_another_image_and_never_a_panic() {
        for writer in both() {
            let packed = writer.compressed(&writer.images());
            for file in [writer.file(&[writer.images(), writer.labels()]), writer.file(&[packed])] {
                for length in 0..file.len() {
                    let cut = parse(&file[..length]);
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
                        let _ = parse(&file);
                    }
                }
            }
        }
    }

    #[test]
    fn an_array_is_chosen_by_name_or_as_the_only_one_and_read_in_any_order_of_its_axes()
    -> Result<()> {
        let writer = Writer { is_big: false };
        let array = |name: &str, dims: &[u32], values: &[u8]| {
            writer.array(name, CLASS_UINT8, dims, writer.element(mi::UINT8, values))
        };
        let all: Vec<u8> = (0..12).collect();
        let read = |elements: &[Vec<u8>], name: Option<&str>, reading: &Reading| {
            parse_images(&writer.file(elements), name, reading)
        };
        let plain = Reading::default();
        // As notMNIST's: [height, width, N], with labels beside.
        let images = array("images", &[2, 3, 2], &all);
        let labels = array("labels", &[2, 1], &[10, 4]);
        let found = read(&[labels.clone(), images.clone()], None, &plain)?;
        let Stack { count, height, width, channels, .. } = found.images;
        assert_eq!((count, height, width, channels), (2, 2, 3, 1));
        assert_eq!(found.images.pixels, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
        assert_eq!(found.labels, Some(texts(&["10", "4"])));
        // As Python saves [N, height, width]: of both images the first pixel comes first.
        let python = read(&[array("x", &[3, 2, 2], &all)], None, &plain)?.images;
        assert_eq!((python.count, &python.pixels[..4]), (3, &[0, 6, 3, 9][..]));
        let two = [images.clone(), array("masks", &[2, 3, 2], &[7; 12])];
        assert_eq!(read(&two, Some("masks"), &plain)?.images.pixels, [7; 12]);
        let error = format!("{:#}", read(&two, None, &plain).unwrap_err());
        assert!(error.contains("images (uint8 [2, 3, 2]), masks (uint8 [2, 3, 2])"), "{error}");
        let error = format!("{:#}", read(&two, Some("nope"), &plain).unwrap_err());
        assert!(error.contains("no array `nope`; its arrays: images"), "{error}");
        // Rows, and columns, of four numbers.
        let reading = Reading { reshape: Some(vec![2, 2]), ..Reading::default() };
        let rows = read(&[array("data", &[3, 4], &all)], None, &reading)?.images;
        assert_eq!(rows.pixels, [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
        let columns = read(&[array("data", &[4, 3], &all)], None, &reading)?.images;
        assert_eq!((columns.count, columns.pixels), (3, all));
        // Doubles that are stored as bytes are numbers in a range all the same.
        let range = Some(Range { low: 0.0, high: 10.0 });
        let reading = Reading { range, ..Reading::default() };
        let doubles = writer.array("X", 6, &[1, 2, 1, 1], writer.element(mi::UINT8, &[0, 10]));
        assert_eq!(read(&[doubles], None, &reading)?.images.pixels, [0, 255]);
        Ok(())
    }

    #[test]
    fn what_is_wrong_is_named() {
        let writer = Writer { is_big: false };
        let error = |file: &[u8]| format!("{:#}", parse(file).unwrap_err());
        let images = |class, dims: &[u32], values: Vec<u8>| {
            error(&writer.file(&[writer.array("X", class, dims, values)]))
        };
        let bytes = |n: usize| writer.element(mi::UINT8, &vec![0; n]);
        assert!(error(b"MATLAB 7.3 MAT-file").contains("expected 128 bytes"));
        let mut hdf5 = vec![b' '; 600];
        hdf5[512..516].copy_from_slice(b"\x89HDF");
        assert!(error(&hdf5).contains("HDF5") && error(&hdf5).contains("scipy.io.savemat"));
        assert!(error(&[b' '; 128]).contains("offset 126"));
        assert!(
            error(&writer.file(&[])).contains(
                "expected an array `X` of images, or one of 3 or 4 dimensions, found none"
            )
        );
        assert!(error(&writer.file(&[writer.labels()])).contains("found none"));
        assert!(images(CLASS_UINT8, &[2, 2, 2, 2], bytes(16)).contains("1 or 3 channels, found 2"));
        assert!(images(CLASS_UINT8, &[2, 4], bytes(8)).contains("found 2 rows of 4 numbers"));
        assert!(images(CLASS_UINT8, &[2, 2, 1, 0], bytes(0)).contains("one is 0"));
        let doubles = images(6, &[2, 2, 1, 1], writer.element(mi::UINT8, &[1, 2, 3, 9]));
        assert!(doubles.contains("holds float64 from 1 to 9; the setting `range`"), "{doubles}");
        for (class, told) in [(1, "found cell"), (2, "found struct"), (5, "found sparse")] {
            let error = images(class, &[1, 4], Vec::new());
            assert!(error.contains(told) && error.contains("in MATLAB `X = "), "{error}");
        }
        for (class, advice) in [(1, "`X = cat(4, s{:})`"), (2, "`X = s.FIELD`")] {
            let error = error(&writer.file(&[writer.array("s", class, &[1, 4], Vec::new())]));
            assert!(error.contains("found none") && error.contains(advice), "{error}");
        }
        let mut version_4 = [0, 2, 2, 0, 2].map(u32::to_le_bytes).concat();
        version_4.extend(b"X\0");
        assert!(error(&version_4).contains("MATLAB's version 4"), "{}", error(&version_4));
        assert!(images(CLASS_UINT8, &[2, 2, 1, 1], bytes(5)).contains("promise 4 values, found 5"));
        let huge =
            images(CLASS_UINT8, &[i32::MAX as u32, i32::MAX as u32, 3, i32::MAX as u32], bytes(1));
        assert!(huge.contains("promise too many values"), "{huge}");
        let labels = writer.array("y", 6, &[3, 1], writer.small(mi::UINT8, &[1, 2, 3]));
        assert!(error(&writer.file(&[writer.images(), labels])).contains("expected 2 labels"));
        // A compressed element that promises more than comes, and one that is no array.
        let lie = [writer.u32(mi::MATRIX), writer.u32(1 << 30)].concat();
        let lie = error(&writer.file(&[writer.compressed(&lie)]));
        assert!(lie.contains("lacks its array flags"), "{lie}");
        let no_array = error(&writer.file(&[writer.compressed(&bytes(64))]));
        assert!(no_array.contains("expected a compressed array"), "{no_array}");
    }
}
