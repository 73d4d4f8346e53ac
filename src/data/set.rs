//! A set of images, upright, and what tells it from every other one.

use std::collections::HashMap;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cache::{Description, Pixels};
use super::findings::Findings;
use crate::error::SettingError;
use crate::rng::{Stream, permutation, rng};
use crate::shape::{ImageShape, ImageSize};

/// Images of one shape, upright, in memory or on the disk.
#[derive(Debug)]
pub struct ImageSet {
    name: String,
    shape: ImageShape,
    /// Number of images that are stored.
    stored: usize,
    /// The pixels of the stored images.
    pixels: Pixels,
    /// Which of the stored images belong to the set; `None` means all of them.
    chosen: Option<Vec<u32>>,
    /// SHA-256 of all stored images, where it is known.
    stored_sha256: Option<String>,
    identity: OnceLock<SetIdentity>,
    findings: Findings,
    /// The class of each stored image, as an index into `classes`; empty where there are no classes.
    labels: Vec<u32>,
    classes: Vec<String>,
}

/// The classes of a set's images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// Their names, in order.
    pub classes: Vec<String>,
    /// Of each image, an index into `classes`.
    pub of_images: Vec<u32>,
}

impl ImageSet {
    /// A set of `pixels` `[N, H, W, C]`, upright.
    ///
    /// # Errors
    /// If there is no image, or `pixels` is not whole images of `shape`.
    pub fn new(name: &str, shape: ImageShape, pixels: Vec<u8>) -> Result<Self> {
        ensure!(!pixels.is_empty() && shape.len() > 0, "data set {name}: no images");
        ensure!(
            pixels.len().is_multiple_of(shape.len()),
            "data set {name}: {} bytes are no whole number of {shape} images",
            pixels.len()
        );
        let stored = pixels.len() / shape.len();
        ensure!(u32::try_from(stored).is_ok(), "data set {name}: more than {} images", u32::MAX);
        Ok(Self {
            name: name.to_owned(),
            shape,
            stored,
            pixels: Pixels::Memory(pixels),
            chosen: None,
            stored_sha256: None,
            identity: OnceLock::new(),
            findings: Findings::default(),
            labels: Vec::new(),
            classes: Vec::new(),
        })
    }

    /// The same images, each of one of `classes`: `labels` are indices into those, one for each image.
    pub fn labelled(self, labels: Vec<u32>, classes: Vec<String>) -> Self {
        Self { labels, classes, ..self }
    }

    /// A set of the images that are stored as `description` says.
    pub(super) fn stored(name: &str, pixels: Pixels, description: Description) -> Self {
        let identity = description.identity;
        Self {
            name: name.to_owned(),
            shape: identity.shape(),
            stored: identity.images,
            pixels,
            chosen: None,
            stored_sha256: Some(identity.sha256),
            identity: OnceLock::new(),
            findings: description.findings,
            labels: description.labels,
            classes: description.classes,
        }
    }

    /// The images of the classes `asked` for; all where none is asked for.
    ///
    /// # Errors
    /// If there is no such class; the message lists those there are.
    pub(super) fn of_classes(mut self, asked: &[String]) -> Result<Self, String> {
        if asked.is_empty() {
            return Ok(self);
        }
        // Files that are in no folder have the class of no name.
        let mut known: Vec<_> =
            self.classes.iter().filter(|class| !class.is_empty()).cloned().collect();
        known.sort();
        if known.is_empty() {
            return Err("it has no classes".to_owned());
        }
        let mut wanted = Vec::new();
        for class in asked.iter().map(|class| class.trim()) {
            let index = self.classes.iter().position(|known| known == class);
            let index = index
                .filter(|_| !class.is_empty())
                .ok_or_else(|| format!("no class `{class}`; it has {}", known.join(", ")))?;
            wanted.push(index as u32);
        }
        let labels = self.labels.iter().zip(0_u32..);
        let chosen = labels.filter(|(label, _)| wanted.contains(label)).map(|(_, i)| i);
        self.chosen = Some(chosen.collect());
        Ok(self)
    }

    /// The set, or `limit` of its images, chosen by `seed`, in their order.
    pub(super) fn limited(mut self, limit: Option<usize>, seed: u64) -> Self {
        let count = self.count();
        let Some(limit) = limit.filter(|&limit| limit < count) else { return self };
        let mut order = permutation(&mut rng(seed, Stream::Subset, 0), count as u32);
        order.truncate(limit);
        order.sort_unstable();
        self.chosen = Some(match self.chosen.take() {
            Some(chosen) => order.into_iter().map(|i| chosen[i as usize]).collect(),
            None => order,
        });
        self
    }

    /// Their classes, where they have any: two or more.
    pub fn labels(&self) -> Option<Labels> {
        // Files that are in no folder have the class of no name.
        let is_one = |label: &u32| !self.classes[*label as usize].is_empty();
        let label = |i: usize| self.labels.get(self.place_of(i)).copied().filter(is_one);
        let of_images: Vec<u32> = (0..self.count()).filter_map(label).collect();
        // The order of names, whatever came first in the files.
        let mut present = of_images.clone();
        present.sort_unstable();
        present.dedup();
        present.sort_by_key(|&label| &self.classes[label as usize]);
        if present.len() < 2 || of_images.len() < self.count() {
            return None;
        }
        let ranks: HashMap<u32, u32> = present.iter().copied().zip(0..).collect();
        Some(Labels {
            classes: present.iter().map(|&label| self.classes[label as usize].clone()).collect(),
            of_images: of_images.iter().map(|label| ranks[label]).collect(),
        })
    }

    /// What the user calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.shape
    }

    /// Channels of an image.
    pub fn channels(&self) -> usize {
        self.shape.channels
    }

    /// Bytes of an image.
    pub fn image_len(&self) -> usize {
        self.shape.len()
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.chosen.as_ref().map_or(self.stored, Vec::len)
    }

    /// What was found in the files besides good images.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// Batches of `batch_size` (at least 1) an epoch, the last, smaller one included.
    pub fn per_epoch(&self, batch_size: usize) -> u64 {
        batches(self.count(), batch_size)
    }

    /// Whether the images that are stored are still those that were decoded.
    ///
    /// # Errors
    /// If they are not, or cannot be read; the message says what to do.
    pub fn verify(&self) -> Result<()> {
        let Some(expected) = &self.stored_sha256 else { return Ok(()) };
        let found = self.pixels.sha256(self.stored, self.shape)?;
        ensure!(
            found == *expected,
            "data set {}: {} is damaged; remove it, and it is made again",
            self.name,
            self.pixels.place()
        );
        Ok(())
    }

    /// The number that image `i` has among those that are stored.
    fn place_of(&self, i: usize) -> usize {
        self.chosen.as_ref().map_or(i, |chosen| chosen[i] as usize)
    }

    /// Copies image `i` into `out`.
    ///
    /// # Errors
    /// If there is no such image, or it cannot be read.
    fn copy(&self, i: usize, out: &mut [u8]) -> Result<()> {
        ensure!(i < self.count(), "data set {}: no image {i}", self.name);
        self.pixels.copy(self.place_of(i) as u64 * self.image_len() as u64, out)
    }

    /// The first images, at most `count`: `[n, H, W, C]`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn first(&self, count: usize) -> Result<Vec<u8>> {
        self.rows(0..count.min(self.count()))
    }

    /// At most `count` images, at even distances over the whole set: `[n, H, W, C]`.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn spread(&self, count: usize) -> Result<Vec<u8>> {
        let taken = count.min(self.count());
        self.rows((0..taken).map(|i| i * self.count() / taken))
    }

    /// The images `rows`, in that order: `[n, H, W, C]`.
    ///
    /// # Errors
    /// If there is no such image, or one cannot be read.
    pub fn rows(&self, rows: impl ExactSizeIterator<Item = usize>) -> Result<Vec<u8>> {
        let mut pixels = vec![0; rows.len() * self.image_len()];
        for (i, image) in rows.zip(pixels.chunks_exact_mut(self.image_len())) {
            self.copy(i, image)?;
        }
        Ok(pixels)
    }

    /// The least and the greatest value of any pixel.
    ///
    /// # Errors
    /// If the images cannot be read.
    pub fn range(&self) -> Result<(u8, u8)> {
        let (mut least, mut greatest) = (u8::MAX, u8::MIN);
        self.for_each(|image| {
            for &value in image {
                (least, greatest) = (least.min(value), greatest.max(value));
            }
        })?;
        Ok((least, greatest))
    }

    /// What tells the set from every other one.
    ///
    /// # Errors
    /// If the images cannot be read.
    pub fn identity(&self) -> Result<SetIdentity> {
        if let Some(identity) = self.identity.get() {
            return Ok(identity.clone());
        }
        let sha256 = match &self.stored_sha256 {
            Some(sha256) if self.chosen.is_none() => sha256.clone(),
            None if self.chosen.is_none() => self.pixels.sha256(self.stored, self.shape)?,
            _ => {
                let mut digest = Sha256::new();
                self.for_each(|image| digest.update(image))?;
                hex::encode(digest.finalize())
            }
        };
        let identity = SetIdentity::new(self.count(), self.shape, sha256);
        Ok(self.identity.get_or_init(|| identity).clone())
    }

    /// As [`Self::identity`], with the classes of the images.
    ///
    /// # Errors
    /// As [`Self::identity`]; [`SettingError`], if the images have no classes.
    pub fn identity_with_classes(&self) -> Result<SetIdentity> {
        let labels = self.labels().ok_or_else(|| {
            let expected = "expected a set with labels, or images in a folder for each class";
            let is_in_none = |i: &usize| {
                let label = self.labels.get(self.place_of(*i));
                label.is_some_and(|&label| self.classes[label as usize].is_empty())
            };
            let (count, in_none) = (self.count(), (0..self.count()).filter(is_in_none).count());
            let found = if in_none > 0 && in_none < count {
                format!("{in_none} of the {count} images of {} are in no folder", self.name)
            } else {
                format!("the images of {} have no classes, or only one", self.name)
            };
            SettingError::new("conditional", format!("{found}; {expected}"))
        })?;
        Ok(SetIdentity { classes: Some(Classes::from(&labels)), ..self.identity()? })
    }

    /// The identity that a run records: with the classes if they steer its networks.
    ///
    /// # Errors
    /// As [`Self::identity_with_classes`].
    pub fn identity_for(&self, conditional: bool) -> Result<SetIdentity> {
        if conditional { self.identity_with_classes() } else { self.identity() }
    }

    /// Hands on each image.
    fn for_each(&self, mut each: impl FnMut(&[u8])) -> Result<()> {
        let mut image = vec![0; self.image_len()];
        for i in 0..self.count() {
            self.copy(i, &mut image)?;
            each(&image);
        }
        Ok(())
    }
}

/// Batches of `batch_size` (at least 1) of `images`, the last, smaller one included.
fn batches(images: usize, batch_size: usize) -> u64 {
    images.div_ceil(batch_size) as u64
}

/// What tells a data set from every other one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetIdentity {
    /// Number of images.
    pub images: usize,
    /// Channels of an image.
    pub channels: usize,
    /// Height of an image. Like the width it is written only where it is not the reference's, so that
    /// checkpoints of the reference's size are the same bytes as those of versions that knew no other.
    #[serde(default = "reference_height", skip_serializing_if = "is_reference_height")]
    pub height: usize,
    /// Width of an image.
    #[serde(default = "reference_width", skip_serializing_if = "is_reference_width")]
    pub width: usize,
    /// SHA-256 of the upright pixels, in hexadecimal.
    pub sha256: String,
    /// The classes of the images, where they steer the networks ([`ImageSet::identity_with_classes`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<Classes>,
}

/// The classes of a set, and how many of its images each has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classes {
    /// The names of the classes, in order.
    pub names: Vec<String>,
    /// How many images each class has.
    pub counts: Vec<u64>,
    /// SHA-256 of the names and of the class of each image, in hexadecimal; empty where the images are not known.
    pub sha256: String,
}

impl Classes {
    /// How many classes there are; 0 without any.
    pub fn count(classes: Option<&Self>) -> usize {
        classes.map_or(0, |classes| classes.names.len())
    }

    /// The class of this name, as its number.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// Whether there are two classes or more, of different names, with as many counts, of which one is above 0.
    pub fn are_possible(&self) -> bool {
        let names: std::collections::BTreeSet<_> = self.names.iter().collect();
        let total = self.counts.iter().try_fold(0_u64, |sum, &count| sum.checked_add(count));
        names.len() == self.names.len()
            && self.names.len() >= 2
            && self.counts.len() == self.names.len()
            && total.is_some_and(|total| total > 0)
    }
}

impl From<&Labels> for Classes {
    fn from(labels: &Labels) -> Self {
        let mut counts = vec![0; labels.classes.len()];
        let mut digest = Sha256::new();
        for name in &labels.classes {
            digest.update((name.len() as u64).to_le_bytes());
            digest.update(name);
        }
        for &label in &labels.of_images {
            counts[label as usize] += 1;
            digest.update(label.to_le_bytes());
        }
        let sha256 = hex::encode(digest.finalize());
        Self { names: labels.classes.clone(), counts, sha256 }
    }
}

fn reference_height() -> usize {
    ImageSize::REFERENCE.height
}

fn reference_width() -> usize {
    ImageSize::REFERENCE.width
}

// serde passes the field by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_reference_height(height: &usize) -> bool {
    *height == reference_height()
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_reference_width(width: &usize) -> bool {
    *width == reference_width()
}

impl SetIdentity {
    /// The identity of `images` images of `shape` whose pixels have this SHA-256.
    pub fn new(images: usize, shape: ImageShape, sha256: String) -> Self {
        let ImageShape { size: ImageSize { width, height }, channels } = shape;
        Self { images, channels, height, width, sha256, classes: None }
    }

    /// The number of classes that steer the networks; 0 where none do.
    pub fn class_count(&self) -> usize {
        Classes::count(self.classes.as_ref())
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        let size = ImageSize { width: self.width, height: self.height };
        ImageShape { size, channels: self.channels }
    }

    /// What names the pixels in the keys of caches: the SHA-256, which sets of the same bytes in another
    /// shape share, and the size where it is not the reference's.
    pub fn pixels_key(&self) -> String {
        match self.shape().size {
            ImageSize::REFERENCE => self.sha256.clone(),
            size => format!("{} {size}", self.sha256),
        }
    }

    /// Batches of `batch_size` (at least 1) an epoch, the last, smaller one included.
    pub fn per_epoch(&self, batch_size: usize) -> u64 {
        batches(self.images, batch_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: ImageShape = ImageShape { size: ImageSize { width: 80, height: 48 }, channels: 3 };

    #[test]
    fn a_set_gives_its_images_as_they_came() -> Result<()> {
        let pixels: Vec<u8> = (0..3 * WIDE.len()).map(|i| (i % 251) as u8).collect();
        let set = ImageSet::new("wide", WIDE, pixels.clone())?;
        assert_eq!((set.count(), set.shape(), set.image_len()), (3, WIDE, 80 * 48 * 3));
        assert!(set.first(9)? == pixels);
        let last = set.rows([2, 0].into_iter())?;
        assert!(last[..WIDE.len()] == pixels[2 * WIDE.len()..]);
        assert!(last[WIDE.len()..] == pixels[..WIDE.len()]);
        assert_eq!(set.identity()?.sha256, hex::encode(Sha256::digest(&pixels)));
        assert!(set.rows(2..4).is_err() && ImageSet::new("part", WIDE, vec![0; 100]).is_err());
        Ok(())
    }

    #[test]
    fn an_identity_has_its_size_where_it_is_not_the_references_and_is_else_what_it_was()
    -> Result<()> {
        let known = r#"{"images":7,"channels":1,"sha256":"ab"}"#;
        let reference = SetIdentity::new(7, ImageShape::reference(1), "ab".to_owned());
        assert_eq!(serde_json::to_string(&reference)?, known);
        assert_eq!(serde_json::from_str::<SetIdentity>(known)?, reference);
        let wide = SetIdentity::new(7, WIDE, "ab".to_owned());
        let written = r#"{"images":7,"channels":3,"height":48,"width":80,"sha256":"ab"}"#;
        assert_eq!(serde_json::to_string(&wide)?, written);
        assert_eq!(serde_json::from_str::<SetIdentity>(written)?, wide);
        assert_ne!(reference.pixels_key(), wide.pixels_key());
        let unknown = r#"{"images":7,"channels":1,"depth":2,"sha256":"ab"}"#;
        assert!(serde_json::from_str::<SetIdentity>(unknown).is_err());
        Ok(())
    }
}
