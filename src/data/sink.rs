//! Takes what formats read, brings it to the size and channels of the set, and hands it to the cache.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::cache::Builder;
use super::findings::Findings;
use super::fit::{Decoding, fit, with_channels};
use super::formats::image_file::{MAX_SIDE, Outcome, decode_file};
use super::formats::npy::Range;
use super::formats::{SourceFile, Stack};
use super::load::Event;

/// The most image files that are decoded at a time.
const FILES: usize = 1024;
/// The most images of an array that are brought to the set's size at a time.
const IMAGES: usize = 4096;
/// The most bytes that either may take, unless one image alone takes more.
const BYTES: usize = 64 << 20;

/// Takes images in the order of the set.
pub struct Sink<'a> {
    decoding: Decoding,
    range: Option<Range>,
    builder: &'a mut Builder,
    tell: &'a mut dyn FnMut(Event),
    findings: Findings,
    /// Image files that wait to be decoded together, and their bytes in memory.
    waiting: Vec<SourceFile>,
    bytes: usize,
}

impl<'a> Sink<'a> {
    /// A sink that hands images to `builder`, decoded as `decoding` says, and tells how that goes.
    pub(super) fn new(
        decoding: Decoding,
        range: Option<Range>,
        builder: &'a mut Builder,
        tell: &'a mut dyn FnMut(Event),
    ) -> Self {
        let findings = Findings::default();
        Self { decoding, range, builder, tell, findings, waiting: Vec::new(), bytes: 0 }
    }

    /// The range of floats, where the user has stated one.
    pub fn range(&self) -> Option<Range> {
        self.range
    }

    /// Announces how many image files will come, where that is known.
    pub fn expect_files(&mut self, count: usize) {
        (self.tell)(Event::Files(count));
    }

    /// Takes a file of a folder or archive: an image whose class is the folder that it is in, or something
    /// else, which is counted.
    ///
    /// # Errors
    /// If the cache cannot be written. An image that cannot be read is no error: it is counted.
    pub fn image_file(&mut self, file: SourceFile) -> Result<()> {
        self.bytes += file.bytes_in_memory();
        self.waiting.push(file);
        if self.waiting.len() >= FILES || self.bytes >= BYTES {
            self.decode_waiting()?;
        }
        Ok(())
    }

    /// Takes all images of an array, with their labels where there are any.
    ///
    /// # Errors
    /// If there are too few or too many labels, the images are too large, or the cache cannot be written.
    pub fn stack(&mut self, stack: Stack, labels: Option<&[u16]>) -> Result<()> {
        let Stack { count, height, width, channels, pixels } = stack;
        if let Some(labels) = labels {
            ensure!(labels.len() == count, "expected {count} labels, found {}", labels.len());
        }
        let size = (u32::try_from(width)?, u32::try_from(height)?);
        ensure!(
            size.0.max(size.1) <= MAX_SIDE,
            "expected images of at most {MAX_SIDE}×{MAX_SIDE}, found {width}×{height}"
        );
        let decoding = self.decoding;
        let one = |image: &[u8]| -> Result<(usize, Vec<u8>)> {
            let (to, image) = with_channels(channels, image.to_vec(), decoding.channels);
            Ok((to, fit(image, size, to, decoding.size, decoding.fit)?))
        };
        let classes: Vec<String> = labels.unwrap_or_default().iter().map(u16::to_string).collect();
        let image = height * width * channels;
        let largest = image.max(decoding.size.width * decoding.size.height * 3);
        let at_a_time = (BYTES / largest).clamp(1, IMAGES);
        for (part, images) in pixels.chunks(image * at_a_time).enumerate() {
            let fitted: Vec<_> = images.par_chunks(image).map(one).collect::<Result<_>>()?;
            for (i, (channels, pixels)) in fitted.iter().enumerate() {
                let class = classes.get(part * at_a_time + i).map(String::as_str);
                self.builder.push(*channels, pixels, class)?;
            }
        }
        self.findings.add_images(size, count, if channels == 1 { count } else { 0 });
        Ok(())
    }

    /// Decodes the files that still wait, and gives what was found in all files.
    ///
    /// # Errors
    /// If the cache cannot be written.
    pub(super) fn finish(mut self) -> Result<Findings> {
        self.decode_waiting()?;
        Ok(self.findings)
    }

    /// Decodes the waiting files on all threads and hands on each good image, in their order.
    fn decode_waiting(&mut self) -> Result<()> {
        // Of a set of arrays no file ever waits, and nobody is told of files.
        if self.waiting.is_empty() {
            return Ok(());
        }
        let files = std::mem::take(&mut self.waiting);
        self.bytes = 0;
        let decoding = self.decoding;
        let outcomes: Vec<_> = files.par_iter().map(|file| decode_file(file, &decoding)).collect();
        for (file, outcome) in files.iter().zip(outcomes) {
            match outcome {
                Outcome::Image(image) => {
                    self.findings.add_images(image.size, 1, usize::from(image.is_gray));
                    let class = Some(class_of(&file.name));
                    self.builder.push(image.channels, &image.pixels, class)?;
                }
                Outcome::Other => self.findings.others.add(&file.name),
                Outcome::Bad(reason) => self.findings.add_bad(reason, &file.name),
                Outcome::Unreadable(reason) => {
                    self.findings.may_be_readable_later = true;
                    self.findings.add_bad(reason, &file.name);
                }
            }
        }
        (self.tell)(Event::Decoded(files.len()));
        Ok(())
    }
}

/// The class of an image file: the name of the folder it is in; no name where it is in none.
fn class_of(name: &str) -> &str {
    let folder = name.rsplit_once(['/', '\\']).map_or("", |(folder, _)| folder);
    folder.rsplit(['/', '\\']).next().filter(|folder| *folder != ".").unwrap_or_default()
}
