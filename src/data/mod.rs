//! From files to upright u8 images, and from those to batches.

pub mod batches;
pub mod builtin;
pub mod fetch;
mod files;
#[cfg_attr(not(feature = "cli"), path = "no_http.rs")]
mod http;
pub mod idx;
pub mod image_file;
mod load;
pub mod mat5;
pub mod npy;
mod prefetch;
pub mod spec;
mod stack;
mod store;

use std::ops::Range;
use std::sync::OnceLock;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use batches::Batches;
pub use files::{Examples, Findings};
pub use load::{Event, Options, decoded_bytes, load};
pub use prefetch::Prefetch;
pub use stack::Stack;
use stack::{MAX_EXPANDED, expansion_limit};

use crate::tf::frame::rotate_pixels;
use store::{Description, Pixels};

/// Width and height of every image, as a length.
pub const SIZE: usize = 32;

/// Images of 32×32, in memory or on the disk.
#[derive(Debug)]
pub struct ImageSet {
    name: String,
    channels: usize,
    /// Number of images that are stored.
    stored: usize,
    /// Those stored, mirrored: as networks take them.
    pixels: Pixels,
    /// Which of the stored ones are of the set; all where there is no list.
    chosen: Option<Vec<u32>>,
    /// SHA-256 of all that are stored, where that is known.
    stored_sha256: Option<String>,
    identity: OnceLock<SetIdentity>,
    findings: Findings,
    /// The class of each stored image, as an index into `classes`; none where there are no classes.
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
    /// A set of `pixels` `[N, 32, 32, channels]`, upright.
    ///
    /// # Errors
    /// If there is no image, or `pixels` is not whole images.
    pub fn new(name: &str, channels: usize, mut pixels: Vec<u8>) -> Result<Self> {
        let image = SIZE * SIZE * channels;
        ensure!(!pixels.is_empty() && image > 0, "data set {name}: no images");
        ensure!(
            pixels.len().is_multiple_of(image),
            "data set {name}: {} bytes are no whole number of {SIZE}×{SIZE}×{channels} images",
            pixels.len()
        );
        let stored = pixels.len() / image;
        ensure!(u32::try_from(stored).is_ok(), "data set {name}: more than {} images", u32::MAX);
        // Rotated once, here, into the frame of the network.
        for image in pixels.chunks_exact_mut(image) {
            rotate_pixels(image, channels);
        }
        Ok(Self {
            name: name.to_owned(),
            channels,
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

    /// The same images, each of one of `classes`.
    fn labelled(self, labels: Vec<u32>, classes: Vec<String>) -> Self {
        Self { labels, classes, ..self }
    }

    /// Their classes, where they have any: two or more.
    pub fn labels(&self) -> Option<Labels> {
        let stored = |i: usize| self.chosen.as_ref().map_or(i, |chosen| chosen[i] as usize);
        // Files that are in no folder have the class of no name.
        let is_one = |label: &u32| !self.classes[*label as usize].is_empty();
        let label = |i: usize| self.labels.get(stored(i)).copied().filter(is_one);
        let of_images: Vec<u32> = (0..self.count()).filter_map(label).collect();
        // The order of names, whatever came first in the files.
        let mut present = of_images.clone();
        present.sort_unstable();
        present.dedup();
        present.sort_by_key(|&label| &self.classes[label as usize]);
        if present.len() < 2 || of_images.len() < self.count() {
            return None;
        }
        let rank =
            |label: u32| present.iter().position(|&other| other == label).unwrap_or(0) as u32;
        Some(Labels {
            classes: present.iter().map(|&label| self.classes[label as usize].clone()).collect(),
            of_images: of_images.into_iter().map(rank).collect(),
        })
    }

    /// A set of images that are stored as `description` says.
    fn stored(
        name: &str,
        pixels: Pixels,
        description: Description,
        chosen: Option<Vec<u32>>,
    ) -> Self {
        let SetIdentity { images, channels, sha256 } = description.identity;
        Self {
            name: name.to_owned(),
            channels,
            stored: images,
            pixels,
            chosen,
            stored_sha256: Some(sha256),
            identity: OnceLock::new(),
            findings: description.findings,
            labels: description.labels,
            classes: description.classes,
        }
    }

    /// The set, or `limit` of its images, chosen by `seed`.
    fn limited(mut self, limit: Option<usize>, seed: u64) -> Self {
        if let Some(limit) = limit {
            self.chosen = load::limit(self.chosen.take(), self.stored, limit, seed);
        }
        self
    }

    /// What the user calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Channels of an image.
    pub fn channels(&self) -> usize {
        self.channels
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

    /// Bytes of an image.
    pub fn image_len(&self) -> usize {
        SIZE * SIZE * self.channels
    }

    /// Whether the images that are stored are still those that were decoded.
    ///
    /// # Errors
    /// If they are not, or cannot be read; the message says what to do.
    pub fn verify(&self) -> Result<()> {
        let Some(expected) = &self.stored_sha256 else { return Ok(()) };
        let found = self.pixels.sha256(self.stored, self.channels)?;
        ensure!(
            found == *expected,
            "data set {}: {} is damaged; remove it, and it is made anew",
            self.name,
            self.pixels.place()
        );
        Ok(())
    }

    /// Copies image `i`, mirrored, into `out`.
    ///
    /// # Errors
    /// If there is no such image, or it cannot be read.
    fn copy_mirrored(&self, i: usize, out: &mut [u8]) -> Result<()> {
        ensure!(i < self.count(), "data set {}: no image {i}", self.name);
        let stored = self.chosen.as_ref().map_or(i, |chosen| chosen[i] as usize);
        self.pixels.copy(stored as u64 * self.image_len() as u64, out)
    }

    /// The first images, at most `count`: `[n, 32, 32, C]`, upright.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn first(&self, count: usize) -> Result<Vec<u8>> {
        self.images(0..count.min(self.count()))
    }

    /// The images of `range`: `[n, 32, 32, C]`, upright.
    ///
    /// # Errors
    /// If there are not so many, or they cannot be read.
    pub fn images(&self, range: Range<usize>) -> Result<Vec<u8>> {
        self.rows(range)
    }

    /// The images `rows`, in that order: `[n, 32, 32, C]`, upright.
    ///
    /// # Errors
    /// If there is no such image, or one cannot be read.
    pub fn rows(&self, rows: impl ExactSizeIterator<Item = usize>) -> Result<Vec<u8>> {
        let mut pixels = vec![0; rows.len() * self.image_len()];
        for (i, image) in rows.zip(pixels.chunks_exact_mut(self.image_len())) {
            self.copy_mirrored(i, image)?;
            rotate_pixels(image, self.channels);
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
            for &mut value in image {
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
            None if self.chosen.is_none() => self.pixels.sha256(self.stored, self.channels)?,
            _ => {
                let mut digest = Sha256::new();
                self.for_each(|image| {
                    rotate_pixels(image, self.channels);
                    digest.update(image);
                })?;
                hex::encode(digest.finalize())
            }
        };
        let identity = SetIdentity { images: self.count(), channels: self.channels, sha256 };
        Ok(self.identity.get_or_init(|| identity).clone())
    }

    /// Hands on each image, mirrored.
    fn for_each(&self, mut each: impl FnMut(&mut [u8])) -> Result<()> {
        let mut image = vec![0; self.image_len()];
        for i in 0..self.count() {
            self.copy_mirrored(i, &mut image)?;
            each(&mut image);
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
    /// SHA-256 of the upright pixels, in hexadecimal.
    pub sha256: String,
}

impl SetIdentity {
    /// Batches of `batch_size` (at least 1) an epoch, the last, smaller one included.
    pub fn per_epoch(&self, batch_size: usize) -> u64 {
        batches(self.images, batch_size)
    }
}
