//! The shapes of images and of grids of features.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The size of an image. It is written width first: `80x48`, or `64` if both sides are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageSize {
    /// Columns of pixels.
    pub width: usize,
    /// Rows of pixels.
    pub height: usize,
}

impl ImageSize {
    /// The size of the reference's images: 32×32.
    pub const REFERENCE: Self = Self::square(32);

    /// A square of this side.
    pub const fn square(side: usize) -> Self {
        Self { width: side, height: side }
    }
}

impl Default for ImageSize {
    fn default() -> Self {
        Self::REFERENCE
    }
}

impl fmt::Display for ImageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { width, height } if width == height => write!(f, "{width}"),
            Self { width, height } => write!(f, "{width}x{height}"),
        }
    }
}

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.parse::<usize>().ok().filter(|&side| side > 0);
        let size = match text.split_once(['x', '×']) {
            None => side(text).map(Self::square),
            Some((width, height)) => {
                side(width).zip(side(height)).map(|(width, height)| Self { width, height })
            }
        };
        size.ok_or_else(|| {
            format!("expected one side or width x height, such as 64 or 80x48, found `{text}`")
        })
    }
}

/// Square sizes are written as a whole number, others as text.
impl Serialize for ImageSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.width == self.height {
            to.serialize_u64(self.width as u64)
        } else {
            to.collect_str(self)
        }
    }
}

impl<'de> Deserialize<'de> for ImageSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected one side or width x height, such as 64 or \"80x48\""
        )]
        enum Written {
            Side(usize),
            Text(String),
        }
        match Written::deserialize(from)? {
            Written::Side(0) => Err(D::Error::custom("expected a side of 1 or more, found 0")),
            Written::Side(side) => Ok(Self::square(side)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

/// The shape of an image, whose layout in memory is `[H, W, C]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageShape {
    /// Width and height.
    pub size: ImageSize,
    /// 1 for gray images, 3 for colour images. Users of the library may have any other number.
    pub channels: usize,
}

impl ImageShape {
    /// The shape of images of the reference's size, 32×32.
    pub const fn reference(channels: usize) -> Self {
        Self { size: ImageSize::REFERENCE, channels }
    }

    /// Number of values of an image. A value is one byte, so this is also the number of its bytes.
    #[allow(clippy::len_without_is_empty)] // No image is empty.
    pub const fn len(self) -> usize {
        self.pixels() * self.channels
    }

    /// Number of pixels of an image.
    pub const fn pixels(self) -> usize {
        self.size.width * self.size.height
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}×{}×{}", self.size.width, self.size.height, self.channels)
    }
}

/// Height and width of a feature map. The networks turn images into ever smaller maps and those into a vector,
/// or the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grid {
    /// Rows.
    pub height: i64,
    /// Columns.
    pub width: i64,
}

impl Grid {
    /// Number of positions of the grid.
    pub const fn cells(self) -> i64 {
        self.height * self.width
    }

    /// The grid with twice as many rows and columns.
    #[must_use]
    pub const fn doubled(self) -> Self {
        Self { height: 2 * self.height, width: 2 * self.width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_width_by_height_and_squares_are_one_number() {
        let size = |text: &str| text.parse::<ImageSize>();
        assert_eq!(size("64"), Ok(ImageSize::square(64)));
        assert_eq!(size("80x48"), Ok(ImageSize { width: 80, height: 48 }));
        assert_eq!(size("80×48"), size("80x48"));
        assert_eq!(size("80x48").unwrap().to_string(), "80x48");
        assert_eq!(size("48x48").unwrap().to_string(), "48");
        for wrong in ["", "0", "x", "80x", "80x0", "-3", "3.5", "1x2x3", "big"] {
            assert!(size(wrong).unwrap_err().contains("such as 64 or 80x48"), "{wrong}");
        }
    }

    #[test]
    fn sizes_survive_toml() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct Table {
            size: ImageSize,
        }
        for (written, size) in [
            ("size = 32\n", ImageSize::REFERENCE),
            ("size = \"80x48\"\n", ImageSize { width: 80, height: 48 }),
        ] {
            assert_eq!(toml::to_string(&Table { size }).unwrap(), written);
            assert_eq!(toml::from_str::<Table>(written).unwrap(), Table { size });
        }
        for wrong in ["size = 0", "size = \"big\"", "size = 1.5", "size = true"] {
            assert!(toml::from_str::<Table>(wrong).is_err(), "{wrong}");
        }
    }
}
