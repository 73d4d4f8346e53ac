//! Numbers of any kind in array files, and bringing them to bytes.

use std::fmt;

use anyhow::{Result, ensure};

/// The values that are black and white in an array of numbers. Arrays of unsigned bytes need no range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Range {
    /// Black: becomes the byte 0.
    pub low: f64,
    /// White: becomes the byte 255.
    pub high: f64,
}

/// How the settings say that the numbers of an array are images.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reading {
    /// Black and white of numbers other than unsigned bytes.
    pub range: Option<Range>,
    /// The shape of each image where an array holds them as rows of numbers.
    pub reshape: Option<Vec<usize>>,
    /// Whether rows and columns of each image change places.
    pub transpose: bool,
}

/// A kind of number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// False and true: black and white.
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
}

impl Kind {
    /// Bytes of one.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// NumPy's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "uint8",
            Self::I8 => "int8",
            Self::U16 => "uint16",
            Self::I16 => "int16",
            Self::U32 => "uint32",
            Self::I32 => "int32",
            Self::U64 => "uint64",
            Self::I64 => "int64",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
        }
    }

    /// The whole numbers in `bytes`, of either order. Integers above 2^53 are rounded, which no image or label notices.
    pub(super) fn values(self, bytes: &[u8], is_big: bool) -> Vec<f64> {
        macro_rules! values {
            ($type:ty) => {{
                let value = |&x| {
                    let number =
                        if is_big { <$type>::from_be_bytes(x) } else { <$type>::from_le_bytes(x) };
                    number as f64
                };
                bytes.as_chunks().0.iter().map(value).collect()
            }};
        }
        match self {
            Self::Bool => bytes.iter().map(|&x| f64::from(u8::from(x != 0))).collect(),
            Self::U8 => bytes.iter().map(|&x| f64::from(x)).collect(),
            Self::I8 => bytes.iter().map(|&x| f64::from(x.cast_signed())).collect(),
            Self::U16 => values!(u16),
            Self::I16 => values!(i16),
            Self::U32 => values!(u32),
            Self::I32 => values!(i32),
            Self::U64 => values!(u64),
            Self::I64 => values!(i64),
            Self::F16 => {
                let bits = |&x| if is_big { u16::from_be_bytes(x) } else { u16::from_le_bytes(x) };
                bytes.as_chunks().0.iter().map(|x| half(bits(x))).collect()
            }
            Self::F32 => {
                let bits = |&x| if is_big { u32::from_be_bytes(x) } else { u32::from_le_bytes(x) };
                bytes.as_chunks().0.iter().map(|x| f32::from_bits(bits(x)).into()).collect()
            }
            Self::F64 => {
                let bits = |&x| if is_big { u64::from_be_bytes(x) } else { u64::from_le_bytes(x) };
                bytes.as_chunks().0.iter().map(|x| f64::from_bits(bits(x))).collect()
            }
        }
    }
}

/// The number whose 16 bits are those of an IEEE 754 binary16: sign, 5 bits of exponent, 10 of fraction.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 1023));
    let size = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2_f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// Labels of classes, which are whole numbers; `None` if one is not.
pub(super) fn labels(values: &[f64]) -> Option<Vec<String>> {
    let label = |&value: &f64| {
        let is_whole = value.fract() == 0.0 && value.abs() < 1e9;
        is_whole.then(|| (value as i64).to_string())
    };
    values.iter().map(label).collect()
}

/// Numbers of which nobody has said which are black and white.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RangeIsMissing {
    kind: &'static str,
    found: Range,
}

impl RangeIsMissing {
    /// The range that such values most likely have.
    pub fn likely(&self) -> Range {
        let Range { low, high } = self.found;
        let is_float = self.kind.starts_with("float");
        let unit = if is_float { vec![(0.0, 1.0), (-1.0, 1.0)] } else { vec![] };
        let common = [(0.0, 255.0), (0.0, 4095.0), (0.0, 65_535.0)];
        let holds = |&(least, most): &(f64, f64)| least <= low && high <= most;
        let (low, high) = unit.into_iter().chain(common).find(holds).unwrap_or((low, high));
        Range { low, high }
    }
}

impl fmt::Display for RangeIsMissing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, found } = self;
        write!(f, "the array holds {kind} from {} to {}; ", found.low, found.high)?;
        f.write_str("the setting `range` must say which values are black and white")
    }
}

impl std::error::Error for RangeIsMissing {}

/// Brings numbers to bytes by a range. Once one does not fit, it only looks at the others, so that the error says what
/// range all of them have.
#[derive(Debug)]
pub(super) struct Scaler {
    kind: Kind,
    range: Option<Range>,
    /// How many values came.
    count: usize,
    /// Where the first is that is out of the range, and its value.
    outside: Option<(usize, f64)>,
    low: f64,
    high: f64,
}

impl Scaler {
    pub(super) fn new(kind: Kind, range: Option<Range>) -> Self {
        let range = if kind == Kind::Bool { Some(Range { low: 0.0, high: 1.0 }) } else { range };
        Self { kind, range, count: 0, outside: None, low: f64::INFINITY, high: f64::NEG_INFINITY }
    }

    /// `values` in the range as bytes, rounded to nearest; `None` once there will be an error.
    pub(super) fn bytes(&mut self, values: &[f64]) -> Option<Vec<u8>> {
        let first = self.count;
        self.count += values.len();
        if let (Some(Range { low, high }), None) = (self.range, self.outside) {
            match values.iter().position(|value| !(low..=high).contains(value)) {
                Some(i) => self.outside = Some((first + i, values[i])),
                None => {
                    self.look_at(values);
                    let byte = |&value: &f64| ((value - low) / (high - low) * 255.0).round() as u8;
                    return Some(values.iter().map(byte).collect());
                }
            }
        }
        self.look_at(values);
        None
    }

    fn look_at(&mut self, values: &[f64]) {
        for &value in values {
            (self.low, self.high) = (self.low.min(value), self.high.max(value));
        }
    }

    /// Whether all values that came are bytes now.
    ///
    /// # Errors
    /// [`RangeIsMissing`], if there is no range; if values lie outside of it.
    pub(super) fn finish(self) -> Result<()> {
        let found = Range { low: self.low, high: self.high };
        let Some(Range { low, high }) = self.range else {
            return Err(RangeIsMissing { kind: self.kind.name(), found }.into());
        };
        let at = self.outside.map_or(0, |(at, _)| at);
        ensure!(
            self.outside.is_none(),
            "value {at}: expected {low} to {high}, as the range says, found {}; all values are from {} to {}",
            self.outside.map_or(0.0, |(_, value)| value),
            found.low,
            found.high
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_kind_and_order_are_read() {
        for (kind, little, expected) in [
            (Kind::Bool, &[0, 2][..], &[0.0, 1.0][..]),
            (Kind::I8, &[255, 5], &[-1.0, 5.0]),
            (Kind::U16, &[1, 2], &[513.0]),
            (Kind::I16, &[254, 255], &[-2.0]),
            (Kind::U32, &[0, 0, 0, 128], &[2_147_483_648.0]),
            (Kind::I32, &[0, 0, 0, 128], &[-2_147_483_648.0]),
            (Kind::U64, &[7, 0, 0, 0, 0, 0, 0, 0], &[7.0]),
            (Kind::I64, &[255; 8], &[-1.0]),
            (Kind::F32, &[0, 0, 128, 63], &[1.0]),
            (Kind::F64, &[0, 0, 0, 0, 0, 0, 240, 191], &[-1.0]),
        ] {
            assert_eq!(kind.values(little, false), expected, "{kind:?}");
            let reversed: Vec<u8> = little
                .chunks(kind.size())
                .flat_map(|number| number.iter().rev().copied())
                .collect();
            assert_eq!(kind.values(&reversed, true), expected, "{kind:?}");
        }
    }

    #[test]
    fn every_half_is_what_the_standard_says() {
        // The examples of IEEE 754 binary16: the least subnormal, the greatest one, the least normal number, the
        // greatest below 1, 1, the least above it, the greatest of all.
        for (bits, value) in [
            (0x0001, 2_f64.powi(-24)),
            (0x03ff, 1023.0 * 2_f64.powi(-24)),
            (0x0400, 2_f64.powi(-14)),
            (0x3bff, 1.0 - 2_f64.powi(-11)),
            (0x3c00, 1.0),
            (0x3c01, 1.0 + 2_f64.powi(-10)),
            (0x7bff, 65_504.0),
            (0xc000, -2.0),
            (0xfc00, f64::NEG_INFINITY),
        ] {
            assert_eq!(half(bits), value, "{bits:#x}");
        }
        assert!(half(0x7c01).is_nan());
    }

    #[test]
    fn what_is_out_of_range_or_has_none_is_told_with_the_range_of_all_values() {
        let range = Some(Range { low: 0.0, high: 4095.0 });
        let mut scaler = Scaler::new(Kind::U16, range);
        assert_eq!(scaler.bytes(&[0.0, 4095.0, 2047.5]), Some(vec![0, 255, 128]));
        assert_eq!(scaler.bytes(&[5000.0]), None);
        assert_eq!(scaler.bytes(&[60_000.0]), None);
        let error = scaler.finish().unwrap_err().to_string();
        assert!(error.contains("value 3: expected 0 to 4095"), "{error}");
        assert!(error.contains("found 5000; all values are from 0 to 60000"), "{error}");
        for (kind, values, told, likely) in [
            (Kind::U16, [12.0, 4000.0], "uint16 from 12 to 4000", (0.0, 4095.0)),
            (Kind::F32, [0.25, 0.5], "float32 from 0.25 to 0.5", (0.0, 1.0)),
            (Kind::F64, [-0.5, 1.0], "float64 from -0.5 to 1", (-1.0, 1.0)),
            (Kind::I64, [0.0, 1.0], "int64 from 0 to 1", (0.0, 255.0)),
            (Kind::F32, [-3.5, 9.0], "float32 from -3.5 to 9", (-3.5, 9.0)),
        ] {
            let mut scaler = Scaler::new(kind, None);
            assert_eq!(scaler.bytes(&values), None);
            let error = scaler.finish().unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
            let found = error.downcast_ref().map(RangeIsMissing::likely);
            assert_eq!(found, Some(Range { low: likely.0, high: likely.1 }));
        }
        // Of bits it is clear.
        assert_eq!(Scaler::new(Kind::Bool, None).bytes(&[0.0, 1.0]), Some(vec![0, 255]));
    }
}
