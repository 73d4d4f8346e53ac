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
    /// Images that cannot be read, by the reason.
    pub bad: BTreeMap<String, Examples>,
    /// Whether the disk or its permissions kept an image from being read. It may be readable later, so that a set
    /// without it must not be kept in the cache.
    #[serde(skip)]
    pub(super) may_be_readable_later: bool,
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
