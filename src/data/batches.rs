//! Batches of real images: the entrance to the mirrored frame.

use anyhow::Result;
use rand_chacha::rand_core::Rng;
use tch::{Device, Kind, Tensor};

use super::{ImageSet, Labels};
use crate::distributed::Share;
use crate::pixels;
use crate::rng::{Stream, permutation, rng};
use crate::shape::ImageShape;
use crate::tf::frame::rotate_pixels;

/// The images of an iteration and, where they are asked for, their classes.
#[derive(Debug)]
pub struct Batch {
    /// `[n, C, H, W]` in [−1, 1], mirrored, in channels-last memory order.
    pub images: Tensor,
    /// `[n]`, int64: of each image, an index into the set's classes.
    pub classes: Option<Tensor>,
    /// The number of images in the whole batch of all ranks; with one rank, `n`.
    pub whole: usize,
}

/// A data set in training order: shuffled once an epoch, the last, smaller batch kept.
#[derive(Debug)]
pub struct Batches {
    set: ImageSet,
    batch_size: usize,
    /// Whether half of the images are mirrored left to right.
    flip: bool,
    /// The class of each image, where batches are to have them.
    labels: Option<Vec<u32>>,
    /// The rows of each batch that are wanted.
    share: Share,
    seed: u64,
    /// The epoch whose order is at hand, counted from 0, and that order.
    order: (u64, Vec<u32>),
}

impl Batches {
    /// Batches of `batch_size` (at least 1) from `set`, in an order that `seed` decides.
    pub fn new(set: ImageSet, batch_size: usize, seed: u64) -> Self {
        let order = order_of(&set, seed, 0);
        let batch_size = batch_size.max(1);
        let (flip, labels, share) = (false, None, Share::WHOLE);
        Self { set, batch_size, flip, labels, share, seed, order: (0, order) }
    }

    /// The same, but each image of a batch is mirrored left to right with probability one half.
    #[must_use]
    pub fn flipped(self, flip: bool) -> Self {
        Self { flip, ..self }
    }

    /// The same, but each batch comes with the classes of its images: `labels` are those of the whole set.
    #[must_use]
    pub fn labelled(self, labels: Option<&Labels>) -> Self {
        Self { labels: labels.map(|labels| labels.of_images.clone()), ..self }
    }

    /// The same, but of each batch only the rows of a rank.
    #[must_use]
    pub fn shared(self, share: Share) -> Self {
        Self { share, ..self }
    }

    /// Number of images.
    pub fn count(&self) -> usize {
        self.set.count()
    }

    /// The shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.set.shape()
    }

    /// Channels of an image.
    pub fn channels(&self) -> usize {
        self.set.channels()
    }

    /// Batches an epoch.
    pub fn per_epoch(&self) -> u64 {
        self.set.per_epoch(self.batch_size)
    }

    /// The epoch of an iteration; both counted from 1.
    pub fn epoch_of(&self, iteration: u64) -> u64 {
        epoch_of(iteration, self.per_epoch())
    }

    /// The batch of an iteration, counted from 1: `[n, C, H, W]` in [−1, 1], mirrored, in
    /// channels-last memory order.
    ///
    /// # Errors
    /// If an image cannot be read, or the device cannot hold the batch.
    pub fn batch(&mut self, iteration: u64, device: Device, kind: Kind) -> Result<Tensor> {
        pixels::place(self.prepare(iteration, device, kind)?.images, device, kind)
    }

    /// The batch of an iteration on the host, its images as [`pixels::place`] takes them. Starts no thread of libtorch's.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn prepare(&mut self, iteration: u64, device: Device, kind: Kind) -> Result<Batch> {
        let epoch = self.epoch_of(iteration) - 1;
        if self.order.0 != epoch {
            self.order = (epoch, order_of(&self.set, self.seed, epoch));
        }
        let position = (iteration.saturating_sub(1) % self.per_epoch()) as usize * self.batch_size;
        let order = &self.order.1;
        let rows = &order[position..order.len().min(position + self.batch_size)];
        let (whole, own) = (rows.len(), self.share.of(rows.len()));
        let rows = &rows[own.clone()];
        let ImageShape { size, channels } = self.shape();
        let mut bytes = self.set.rows(rows.iter().map(|&row| row as usize))?;
        let mut flips = rng(self.seed, Stream::Flip, iteration);
        if self.flip {
            // One for each image of the whole batch.
            for _ in 0..own.start {
                let _ = flips.next_u32();
            }
        }
        for image in bytes.chunks_exact_mut(self.set.image_len()) {
            rotate_pixels(image, channels);
            if self.flip && flips.next_u32() >> 31 == 1 {
                for row in image.chunks_exact_mut(size.width * channels) {
                    // Pixels end for end, each with its channels in order.
                    row.reverse();
                    row.chunks_exact_mut(channels).for_each(<[u8]>::reverse);
                }
            }
        }
        let class = |labels: &Vec<u32>| -> Result<Tensor> {
            let classes: Vec<i64> = rows.iter().map(|&row| labels[row as usize].into()).collect();
            Ok(Tensor::f_from_slice(&classes)?)
        };
        let classes = self.labels.as_ref().map(class).transpose()?;
        let images = pixels::prepare(&bytes, self.shape(), device, kind)?;
        Ok(Batch { images, classes, whole })
    }
}

/// The epoch of an iteration, where an epoch has `per_epoch` batches; both counted from 1.
pub fn epoch_of(iteration: u64, per_epoch: u64) -> u64 {
    1 + iteration.saturating_sub(1) / per_epoch
}

fn order_of(set: &ImageSet, seed: u64, epoch: u64) -> Vec<u32> {
    // A set's count is held to what fits.
    permutation(&mut rng(seed, Stream::Shuffle, epoch), set.count() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageSize;
    use crate::tf::frame::rotate_images;

    const SHAPE: ImageShape = ImageShape::reference(3);

    /// Image i is filled with i, but for its first pixel, which is 200.
    fn numbered(count: u8) -> Result<ImageSet> {
        let image = |i| {
            let mut image = vec![i; SHAPE.len()];
            image[..3].copy_from_slice(&[200, 210, 220]);
            image
        };
        ImageSet::new("numbered", SHAPE, (0..count).flat_map(image).collect())
    }

    fn last_pixels(batch: &Tensor) -> Vec<i64> {
        // Upright, the last pixel is the image's number.
        let bytes = ((rotate_images(batch).unwrap() + 1.) * 127.5).round().to_kind(Kind::Int64);
        Vec::try_from(bytes.select(3, 31).select(2, 31).select(1, 0)).unwrap()
    }

    #[test]
    fn an_epoch_holds_every_image_once_and_keeps_the_smaller_last_batch() -> Result<()> {
        let mut batches = Batches::new(numbered(10)?, 4, 0);
        assert_eq!(batches.per_epoch(), 3);
        let mut epochs = Vec::new();
        for epoch in 0..2 {
            let mut seen = Vec::new();
            for (i, size) in [(1, 4), (2, 4), (3, 2)] {
                let batch = batches.batch(epoch * 3 + i, Device::Cpu, Kind::Float)?;
                assert_eq!(batch.size(), [size, 3, 32, 32]);
                seen.extend(last_pixels(&batch));
            }
            epochs.push(seen.clone());
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1], "shuffled anew");
        assert_eq!((batches.epoch_of(3), batches.epoch_of(4)), (1, 2));
        Ok(())
    }

    #[test]
    fn pixels_are_mirrored_and_scaled_as_the_reference_does() -> Result<()> {
        let mut batches = Batches::new(numbered(1)?, 1, 0);
        let batch = batches.batch(1, Device::Cpu, Kind::Double)?;
        let red = batch.double_value(&[0, 0, 31, 31]);
        assert_eq!(red, 200.0 / 127.5 - 1.0);
        assert_eq!(batch.double_value(&[0, 2, 31, 31]), 220.0 / 127.5 - 1.0);
        assert_eq!(batch.double_value(&[0, 0, 0, 0]), -1.0);
        Ok(())
    }

    #[test]
    fn flipping_mirrors_about_half_of_the_images_left_to_right_and_nothing_else() -> Result<()> {
        // Each row of each channel counts up from left to right.
        let image: Vec<u8> = (0..SHAPE.len()).map(|i| ((i / 3 % 32) * 3 + i % 3) as u8).collect();
        let set = || ImageSet::new("ramps", SHAPE, image.repeat(200));
        let plain = Batches::new(set()?, 200, 0).batch(1, Device::Cpu, Kind::Float)?;
        let flipped =
            Batches::new(set()?, 200, 0).flipped(true).batch(1, Device::Cpu, Kind::Float)?;
        let mirrored = plain.flip([3]);
        let mut count = 0;
        for i in 0..200 {
            let image = flipped.get(i);
            assert!(image == plain.get(i) || image == mirrored.get(i));
            count += u32::from(image == mirrored.get(i));
        }
        assert!((70..130).contains(&count), "{count}");
        let again =
            Batches::new(set()?, 200, 0).flipped(true).batch(1, Device::Cpu, Kind::Float)?;
        assert_eq!(flipped, again);
        Ok(())
    }

    #[test]
    fn the_shares_of_ranks_are_the_batch_in_order_flips_and_classes_too() -> Result<()> {
        let labels = Labels {
            classes: vec!["even".to_owned(), "odd".to_owned()],
            of_images: (0..10).map(|i| i % 2).collect(),
        };
        let batches = || -> Result<Batches> {
            let batches = Batches::new(numbered(10)?, 4, 3).flipped(true);
            Ok(batches.labelled(Some(&labels)))
        };
        for iteration in 1..=3 {
            let prepare =
                |mut batches: Batches| batches.prepare(iteration, Device::Cpu, Kind::Float);
            let whole = prepare(batches()?)?;
            for count in [2, 3] {
                let of_rank = |rank| prepare(batches()?.shared(Share { rank, count }));
                let parts = (0..count).map(of_rank).collect::<Result<Vec<_>>>()?;
                let images: Vec<_> = parts.iter().map(|part| &part.images).collect();
                assert_eq!(Tensor::cat(&images, 0), whole.images);
                let classes: Vec<_> = parts.iter().filter_map(|p| p.classes.as_ref()).collect();
                assert_eq!(Some(Tensor::cat(&classes, 0)), whole.classes);
                assert!(parts.iter().all(|part| part.whole == whole.whole));
            }
        }
        Ok(())
    }

    #[test]
    fn any_iteration_can_be_asked_for_in_any_order() -> Result<()> {
        let mut forward = Batches::new(numbered(10)?, 3, 5);
        let mut jumping = Batches::new(numbered(10)?, 3, 5);
        let all: Vec<_> =
            (1..=12).map(|i| forward.batch(i, Device::Cpu, Kind::Float)).collect::<Result<_>>()?;
        for i in [12, 3, 4, 11, 1] {
            assert_eq!(jumping.batch(i, Device::Cpu, Kind::Float)?, all[i as usize - 1]);
        }
        Ok(())
    }

    #[test]
    fn a_set_is_upright_and_batches_mirror_it_at_any_size() -> Result<()> {
        let shape = ImageShape { size: ImageSize { width: 80, height: 48 }, channels: 3 };
        let pixels: Vec<u8> = (0..2 * shape.len()).map(|i| (i * i / 7 % 251) as u8).collect();
        let set = ImageSet::new("wide", shape, pixels.clone())?;
        assert!(set.first(2)? == pixels);
        let mut batches = Batches::new(set, 2, 0);
        assert_eq!(batches.shape(), shape);
        let batch = batches.batch(1, Device::Cpu, Kind::Float)?;
        assert_eq!(batch.size(), [2, 3, 48, 80]);
        let upright = pixels::to_bytes(&rotate_images(&batch)?)?;
        // The order of two images is either one.
        let (first, second) = pixels.split_at(shape.len());
        assert!(upright == pixels || upright == [second, first].concat());
        Ok(())
    }
}
