//! Takes what formats read, brings it to the size and channels of the set, and hands it to the cache.

use anyhow::{Result, ensure};
use rayon::prelude::*;

use super::cache::Builder;
use super::findings::Findings;
use super::fit::{Decoding, fit, with_channels};
use super::formats::image_file::{MAX_SIDE, Outcome, decode_file, is_possible};
use super::formats::npy::Reading;
use super::formats::{SourceFile, Stack};
use super::load::Event;
use crate::architecture::halvings;
use crate::error::SettingError;
use crate::shape::ImageSize;

/// The most image files that are decoded at a time.
const FILES: usize = 1024;
/// The most images of an array that are brought to the set's size at a time.
const IMAGES: usize = 4096;
/// The most bytes that either may take, unless one image alone takes more.
const BYTES: usize = 64 << 20;

/// Takes images in the order of the set.
pub struct Sink<'a> {
    decoding: Decoding,
    reading: Reading,
    builder: &'a mut Builder,
    tell: &'a mut dyn FnMut(Event),
    findings: Findings,
    /// The size of the first image, where images keep their size.
    own_size: Option<ImageSize>,
    /// Image files that wait to be decoded together, and their bytes in memory.
    waiting: Vec<SourceFile>,
    bytes: usize,
}

impl<'a> Sink<'a> {
    /// A sink that hands images to `builder`, decoded as `decoding` says, and tells how that goes.
    pub(super) fn new(
        decoding: Decoding,
        reading: Reading,
        builder: &'a mut Builder,
        tell: &'a mut dyn FnMut(Event),
    ) -> Self {
        let findings = Findings::default();
        let own_size = None;
        Self { decoding, reading, builder, tell, findings, own_size, waiting: Vec::new(), bytes: 0 }
    }

    /// How the settings say that the numbers of an array are images.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Says something that the user should know.
    pub fn warn(&mut self, text: &str) {
        (self.tell)(Event::Warning(text));
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

    /// Takes images of an array, with the names of their classes where there are any.
    ///
    /// # Errors
    /// If there are too few or too many labels, the images are too large, or the cache cannot be written.
    pub fn stack(&mut self, stack: Stack, labels: Option<&[String]>) -> Result<()> {
        let stack = if self.reading.transpose { stack.transposed() } else { stack };
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
        self.findings.add_images(size, count, if channels == 1 { count } else { 0 });
        let Some(fitted_size) = self.size_of_set(size) else { return Ok(()) };
        let one = |image: &[u8]| -> Result<(usize, Vec<u8>)> {
            let (to, image) = with_channels(channels, image.to_vec(), decoding.channels);
            Ok((to, fit(image, size, to, decoding.size, decoding.fit)?))
        };
        let image = height * width * channels;
        let largest = image.max(fitted_size.width * fitted_size.height * 3);
        let at_a_time = (BYTES / largest).clamp(1, IMAGES);
        for (part, images) in pixels.chunks(image * at_a_time).enumerate() {
            let fitted: Vec<_> = images.par_chunks(image).map(one).collect::<Result<_>>()?;
            for (i, (channels, pixels)) in fitted.iter().enumerate() {
                let class = labels.and_then(|labels| labels.get(part * at_a_time + i));
                let class = class.map(String::as_str);
                self.builder.push(fitted_size, *channels, pixels, class)?;
            }
        }
        Ok(())
    }

    /// The size with which an image of this width and height becomes part of the set; `None` if it does not, because
    /// images are to keep their size and this one has not the size of the first or an impossible one. Then
    /// [`Self::finish`] will be an error.
    fn size_of_set(&mut self, (width, height): (u32, u32)) -> Option<ImageSize> {
        if self.decoding.size.is_some() {
            return self.decoding.size;
        }
        let own = ImageSize { width: width as usize, height: height as usize };
        let first = *self.own_size.get_or_insert(own);
        (own == first && is_possible((width, height))).then_some(own)
    }

    /// Decodes the files that still wait, and gives what was found in all files.
    ///
    /// # Errors
    /// If the cache cannot be written; [`SettingError`], if images are to keep their size and have several ones or one
    /// for which there are no networks.
    pub(super) fn finish(mut self) -> Result<Findings> {
        self.decode_waiting()?;
        if self.decoding.size.is_none() {
            ensure_one_size(&self.findings)
                .map_err(|problem| SettingError::of_value("image-size", "auto", problem))?;
        }
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
        let range = self.reading.range;
        let outcomes: Vec<_> =
            files.par_iter().map(|file| decode_file(file, &decoding, range)).collect();
        for (file, outcome) in files.iter().zip(outcomes) {
            match outcome {
                Outcome::Image(image) => {
                    self.findings.add_images(image.size, 1, usize::from(image.is_gray));
                    if image.channels == 1 && !image.is_gray && decoding.channels.is_none() {
                        self.findings.gray_in_color += 1;
                    }
                    if image.has_more_pages {
                        self.findings.first_pages.add(&file.name);
                    }
                    if let Some(found) = image.deep {
                        self.findings.add_deep(found);
                    }
                    if let Some(size) = self.size_of_set(image.size) {
                        let class = Some(class_of(&file.name));
                        self.builder.push(size, image.channels, &image.pixels, class)?;
                    }
                }
                Outcome::Own => self.findings.own.add(&file.name),
                Outcome::Foreign(kind) => {
                    self.findings.add_foreign(kind.name, kind.remedy, &file.name);
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

/// Whether all images that were found have one size, for which there are networks. Otherwise says which there are.
fn ensure_one_size(findings: &Findings) -> Result<(), String> {
    // A set without images is another error.
    let Some(&((width, height), _)) = findings.sizes_by_count().first() else { return Ok(()) };
    let most = ImageSize { width: width as usize, height: height as usize };
    let possible = halvings(most).map(drop).map_err(|error| error.to_string());
    if findings.sizes.len() == 1 {
        return possible;
    }
    let told = findings.told_sizes(5);
    let remedy = possible.map_or_else(|error| error, |()| format!("{most} is possible"));
    Err(format!("expected images of one size, found {told}; name a size instead: {remedy}"))
}

/// The class of an image file: the name of the folder it is in; no name where it is in none.
fn class_of(name: &str) -> &str {
    let folder = name.rsplit_once(['/', '\\']).map_or("", |(folder, _)| folder);
    folder.rsplit(['/', '\\']).next().filter(|folder| *folder != ".").unwrap_or_default()
}
