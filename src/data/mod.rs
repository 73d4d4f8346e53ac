//! From files to upright u8 images, and from those to batches.

pub mod batches;
pub mod builtin;
pub mod idx;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use batches::Batches;

use crate::tf::frame::IMAGE_SIZE;

/// Width and height of every image, as a length.
pub const SIZE: usize = IMAGE_SIZE as usize;

/// Images as people see them, in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSet {
    name: String,
    channels: usize,
    /// `[N, 32, 32, C]`, upright.
    pixels: Vec<u8>,
}

impl ImageSet {
    /// A set of `pixels` `[N, 32, 32, channels]`, upright.
    ///
    /// # Errors
    /// If there is no image, or `pixels` is not whole images.
    pub fn new(name: &str, channels: usize, pixels: Vec<u8>) -> Result<Self> {
        let image = SIZE * SIZE * channels;
        ensure!(!pixels.is_empty() && image > 0, "data set {name}: no images");
        ensure!(
            pixels.len().is_multiple_of(image),
            "data set {name}: {} bytes are no whole number of {SIZE}×{SIZE}×{channels} images",
            pixels.len()
        );
        ensure!(
            u32::try_from(pixels.len() / image).is_ok(),
            "data set {name}: more than {} images",
            u32::MAX
        );
        Ok(Self { name: name.to_owned(), channels, pixels })
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
        self.pixels.len() / (SIZE * SIZE * self.channels)
    }

    /// Batches of `batch_size` (at least 1) an epoch, the last, smaller one included.
    pub fn per_epoch(&self, batch_size: usize) -> u64 {
        self.count().div_ceil(batch_size) as u64
    }

    /// The first images, at most `count`: `[n, 32, 32, C]`, upright.
    pub fn first(&self, count: usize) -> &[u8] {
        &self.pixels[..count.min(self.count()) * SIZE * SIZE * self.channels]
    }

    /// What tells the set from every other one.
    pub fn identity(&self) -> SetIdentity {
        SetIdentity {
            images: self.count(),
            channels: self.channels,
            sha256: hex::encode(Sha256::digest(&self.pixels)),
        }
    }
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
        self.images.div_ceil(batch_size) as u64
    }
}

/// The data set that `spec` names.
///
/// # Errors
/// [`crate::usage::Usage`], if there is none of that name; it lists those there are.
pub fn load(spec: &str) -> Result<ImageSet> {
    match spec {
        builtin::DIGITS => builtin::digits(),
        other => Err(crate::usage::Usage(format!(
            "--dataset {other}: no such data set; this version has `{}`",
            builtin::DIGITS
        ))
        .into()),
    }
}
