//! The types of settings that are a choice of their own.

use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tch::Kind;

use crate::shape::ImageSize;

/// The kinds of numbers that training computes with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// float32.
    #[default]
    F32,
    /// float64.
    F64,
    /// Convolutions and dense layers in bfloat16; weights, statistics, losses and moments in float32.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::F64, Self::Bf16];

    /// Its name, as flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
        }
    }

    /// The precision of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|precision| precision.name() == name)
    }

    /// The kind of weights, statistics, losses and moments.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 | Self::Bf16 => Kind::Float,
            Self::F64 => Kind::Double,
        }
    }

    /// The kind that convolutions and dense layers compute in.
    pub fn compute(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::F64 => Kind::Double,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// A kind of augmentation. What each one computes, [`crate::train::augment`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Another brightness, saturation and contrast.
    Color,
    /// A shift by whole pixels.
    Translation,
    /// A rectangle without an image.
    Cutout,
}

/// Kinds of augmentation, in the order in which they are applied, whatever the order in which they were named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<Policy>")]
pub struct Policies(Vec<Policy>);

impl From<Vec<Policy>> for Policies {
    fn from(mut policies: Vec<Policy>) -> Self {
        policies.sort_unstable();
        Self(policies)
    }
}

impl Policies {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `policy` is one of them.
    pub fn has(&self, policy: Policy) -> bool {
        self.0.contains(&policy)
    }

    /// Whether each is there only once.
    pub(super) fn are_distinct(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0] != pair[1])
    }
}

/// A setting that is on or off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is done.
    On,
    /// It is not done.
    #[default]
    Off,
}

/// Something that is done only where it is asked for. Where it is not, files do not mention it, so that they are the same
/// bytes as those of versions that could not do it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OptIn(bool);

impl OptIn {
    /// Whether it is done.
    pub fn is_on(self) -> bool {
        self.0
    }
}

impl From<bool> for OptIn {
    fn from(on: bool) -> Self {
        Self(on)
    }
}

/// How many channels images are to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channels {
    /// 3 if any image is in colour, else 1.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// Gray.
    #[serde(rename = "1")]
    Gray,
    /// Red, green and blue.
    #[serde(rename = "3")]
    Color,
}

/// The size of a run's images. As text it is `auto`, or what an [`ImageSize`] is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Every image is brought to this size.
    Of(ImageSize),
    /// The images' own size, which all of them must have. Once the images are known, [`Size::Of`] takes its place.
    Auto,
}

impl Size {
    /// The size, unless it is still to be taken from the images.
    pub fn known(self) -> Option<ImageSize> {
        match self {
            Self::Of(size) => Some(size),
            Self::Auto => None,
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => text.parse().map(Self::Of).map_err(|error: String| error + "; or auto"),
        }
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Of(size) => size.serialize(to),
            Self::Auto => to.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected auto, one side or width x height, such as 64 or \"80x48\""
        )]
        enum Written {
            Side(usize),
            Text(String),
        }
        let text = match Written::deserialize(from)? {
            Written::Side(side) => side.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(D::Error::custom)
    }
}

/// A colour: red, green, blue. As text `black`, `white` or `#rrggbb`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Background(pub [u8; 3]);

impl FromStr for Background {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected black, white or #rrggbb, found `{text}`");
        match text {
            "black" => Ok(Self([0; 3])),
            "white" => Ok(Self([255; 3])),
            _ => {
                let mut color = [0; 3];
                let digits = text.strip_prefix('#').ok_or_else(wrong)?;
                hex::decode_to_slice(digits, &mut color).map_err(|_| wrong())?;
                Ok(Self(color))
            }
        }
    }
}

impl TryFrom<String> for Background {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Background> for String {
    fn from(Background(color): Background) -> Self {
        match color {
            [0, 0, 0] => "black".to_owned(),
            [255, 255, 255] => "white".to_owned(),
            color => format!("#{}", hex::encode(color)),
        }
    }
}

/// What happens when a run has collapsed or its values are not finite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnCollapse {
    /// Print a warning and continue; stop where a value is not finite.
    #[default]
    Warn,
    /// Stop.
    Stop,
    /// Return to the last healthy checkpoint and continue with other noise, a few times.
    Rollback,
}
