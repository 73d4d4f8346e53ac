//! What a data set's files hold: sizes of images, files that are no images, and images that cannot be read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The most names of files that are kept as examples of one finding.
const EXAMPLES: usize = 5;
/// The most reasons that are told apart; images with any further reason are counted together.
const MAX_REASONS: usize = 8;

/// What was found besides good images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    /// Images by width and height.
    #[serde(with = "pairs")]
    pub sizes: BTreeMap<(u32, u32), usize>,
    /// Images that are stored gray; the others are in colour.
    pub gray: usize,
    /// Files that are no images and are not named as if they were.
    pub others: Examples,
    /// Files of kinds that are not read, by the kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub foreign: BTreeMap<String, Foreign>,
    /// Runs and pictures of this program, which are no data.
    #[serde(default, skip_serializing_if = "Examples::is_empty")]
    pub own: Examples,
    /// Images of which only the first page is taken.
    #[serde(default, skip_serializing_if = "Examples::is_empty")]
    pub first_pages: Examples,
    /// Images that are stored in colour and are gray in every pixel.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gray_in_color: usize,
    /// The values of images that have 16 bits for each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deep: Option<Deep>,
    /// Images that cannot be read, by the reason.
    pub bad: BTreeMap<String, Examples>,
    /// Whether the disk or its permissions kept an image from being read. It may be readable later, so that a set
    /// without it must not be kept in the cache.
    #[serde(skip)]
    pub(super) may_be_readable_later: bool,
}

/// Files of one kind that is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// How many, and a few of them.
    #[serde(flatten)]
    pub files: Examples,
    /// How one comes to images that are read.
    pub remedy: String,
}

/// Images that have 16 bits for each value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deep {
    /// How many there are.
    pub images: usize,
    /// The least value of all.
    pub least: u16,
    /// The greatest value of all.
    pub greatest: u16,
}

// serde passes the field by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// How many, and a few of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examples {
    /// How many.
    pub count: usize,
    /// Names of the first.
    pub names: Vec<String>,
}

impl Examples {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many and which, such as `7 (a.png, b.png, …)`.
    pub fn told(&self) -> String {
        let more = if self.count > self.names.len() { ", …" } else { "" };
        format!("{} ({}{more})", self.count, self.names.join(", "))
    }

    /// Counts one more.
    pub(super) fn add(&mut self, name: &str) {
        self.count += 1;
        if self.names.len() < EXAMPLES {
            self.names.push(printable(name));
        }
    }
}

/// A name from a file system or an archive as one line that does nothing to a terminal.
pub(super) fn printable(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

impl Findings {
    /// Adds `count` images of a width and height, `gray` of them stored gray.
    pub(super) fn add_images(&mut self, size: (u32, u32), count: usize, gray: usize) {
        *self.sizes.entry(size).or_default() += count;
        self.gray += gray;
    }

    /// Adds an image that has 16 bits for each value, of these as the least and the greatest.
    pub(super) fn add_deep(&mut self, (least, greatest): (u16, u16)) {
        let known = self.deep.unwrap_or(Deep { images: 0, least, greatest });
        self.deep = Some(Deep {
            images: known.images + 1,
            least: known.least.min(least),
            greatest: known.greatest.max(greatest),
        });
    }

    /// Adds a file of a kind that is not read.
    pub(super) fn add_foreign(&mut self, kind: &str, remedy: &str, name: &str) {
        let known = self.foreign.entry(kind.to_owned()).or_default();
        known.files.add(name);
        remedy.clone_into(&mut known.remedy);
    }

    /// Adds an image that cannot be read.
    pub(super) fn add_bad(&mut self, reason: String, name: &str) {
        let is_known = self.bad.contains_key(&reason) || self.bad.len() < MAX_REASONS;
        let reason = if is_known { reason } else { "for other reasons".to_owned() };
        self.bad.entry(reason).or_default().add(name);
    }

    /// Width and height of images with how many there are, the most frequent first.
    pub(super) fn sizes_by_count(&self) -> Vec<((u32, u32), usize)> {
        let mut sizes: Vec<_> = self.sizes.iter().map(|(&size, &count)| (size, count)).collect();
        sizes.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        sizes
    }

    /// The sizes of images, the most frequent first, such as `64×64 (97), 100×75 (3)`. Of more than `most` sizes the
    /// rest is only counted.
    pub fn told_sizes(&self, most: usize) -> String {
        let sizes = self.sizes_by_count();
        let told = sizes.iter().take(most);
        let told = told.map(|((width, height), count)| format!("{width}×{height} ({count})"));
        let told = told.collect::<Vec<_>>().join(", ");
        match sizes.len().saturating_sub(most) {
            0 => told,
            more => format!("{told} and {more} other sizes"),
        }
    }

    /// Files of kinds that are not read.
    pub fn foreign_count(&self) -> usize {
        self.foreign.values().map(|kind| kind.files.count).sum()
    }

    /// Images that cannot be read.
    pub fn bad_count(&self) -> usize {
        self.bad.values().map(|examples| examples.count).sum()
    }
}

/// JSON's objects have only text as keys.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Sizes = BTreeMap<(u32, u32), usize>;

    pub fn serialize<S: Serializer>(sizes: &Sizes, to: S) -> Result<S::Ok, S::Error> {
        sizes.iter().collect::<Vec<_>>().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Sizes, D::Error> {
        Ok(Vec::<((u32, u32), usize)>::deserialize(from)?.into_iter().collect())
    }
}
