//! All metrics of one set of generated images, against one set of real ones.

use std::collections::HashMap;

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;
use tch::{Kind, Tensor};

use super::coverage::overlap;
use super::features::Features;
use super::frechet::{Moments, Reference};
use super::kernel::{deviation, kernel_distance, mean_and_std, subsets};
use super::metric::Metric;
use super::neighbours::{is_copy, nearest, suspicious};
use super::pixels::{PATCH, Similarity, patches, pyramid, sliced_wasserstein};
use super::score::{class_balance, class_shares, classifier_score};
use crate::data::ImageSet;
use crate::pixels::planes;
use crate::rng::{Stream, permutation, rng};

/// The k of neighbourhoods.
pub const NEIGHBOURS: i64 = 5;
/// Rows of either side in neighbourhoods at most: their distances are n².
const OVERLAP_ROWS: i64 = 10_000;
/// Subsets of the kernel distance, and rows of each.
const SUBSETS: usize = 100;
const SUBSET_ROWS: usize = 1000;
/// Parts of the classifier score.
const SPLITS: i64 = 10;
/// Bootstrap samples: of cheap metrics, and of the Fréchet distance.
const RESAMPLED: usize = 200;
const RESAMPLED_FRECHET: usize = 20;
/// Dimensions from which on fewer Fréchet distances are resampled.
const MANY_DIMENSIONS: i64 = 1024;
/// Images of either side whose patches are compared, patches of each, and directions, four times.
const PATCH_IMAGES: usize = 2048;
const PATCHES: usize = 32;
const DIRECTIONS: usize = 128;
const REPEATS: usize = 4;
/// Pairs of generated images whose similarity is looked at.
const PAIRS: usize = 1000;
/// Generated images whose nearest real ones are looked for.
const SEARCHED: usize = 1000;

/// A value and its uncertainty, a standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// What.
    pub metric: Metric,
    /// How much.
    pub value: f64,
    /// Of the value: by resampling, by counting or over subsets (see the README).
    pub uncertainty: f64,
}

/// The real side of all metrics of features.
#[derive(Debug)]
pub struct RealSide {
    reference: Reference,
    /// The first rows, for neighbourhoods and subsets.
    rows: Tensor,
    /// Of classes, where there is a classifier.
    shares: Option<Vec<f64>>,
    seed: u64,
}

impl RealSide {
    /// Of the features of real images.
    ///
    /// # Errors
    /// If there are fewer than two.
    pub fn new(features: &Features, seed: u64) -> Result<Self> {
        let count = features.values.size2()?.0;
        // One image more a class: what the classifier never says of real images is rare, not impossible.
        let smooth = |shares: Vec<f64>| {
            let all = count as f64 + shares.len() as f64;
            shares.into_iter().map(|share| (share * count as f64 + 1.0) / all).collect()
        };
        Ok(Self {
            reference: Reference::new(Moments::of(&features.values)?),
            // Not all of them: the others need not stay in memory.
            rows: features.values.f_narrow(0, 0, count.min(OVERLAP_ROWS))?.f_detach_copy()?,
            shares: features.logits.as_ref().map(class_shares).transpose()?.map(smooth),
            seed,
        })
    }

    /// Those of `metrics` that are of features. Where `is_resampled` is not set, uncertainties that take
    /// resampling are 0.
    ///
    /// # Errors
    /// If there are too few images for a metric; the message says how many it takes.
    pub fn measure(
        &self,
        fake: &Features,
        metrics: &[Metric],
        is_resampled: bool,
    ) -> Result<Vec<Measured>> {
        let mut all = Vec::new();
        let mut add =
            |metric, (value, uncertainty)| all.push(Measured { metric, value, uncertainty });
        let wants = |metric| metrics.contains(&metric);
        let count = fake.values.size2()?.0;
        if wants(Metric::FrechetDistance) {
            let value = self.reference.distance(&Moments::of(&fake.values)?)?;
            let deviation = if is_resampled { self.frechet_deviation(&fake.values)? } else { 0.0 };
            add(Metric::FrechetDistance, (value, deviation));
        }
        if wants(Metric::KernelDistance) {
            let sizes = (self.rows.size2()?.0 as usize, count as usize);
            // Subsets that are all the same would seem to be certain.
            let size = SUBSET_ROWS.min(sizes.0.min(sizes.1) / 2).max(2);
            let mut draw = self.draw(0);
            let subsets = subsets(&mut draw, sizes, SUBSETS, size);
            add(Metric::KernelDistance, kernel_distance(&self.rows, &fake.values, &subsets)?);
        }
        let neighbourly = [Metric::Precision, Metric::Recall, Metric::Density, Metric::Coverage];
        if neighbourly.into_iter().any(wants) {
            // As many of either: of other counts, coverage and recall are other numbers.
            let equal = count.min(self.rows.size2()?.0);
            let (real, rows) =
                (self.rows.f_narrow(0, 0, equal)?, fake.values.f_narrow(0, 0, equal)?);
            let found = overlap(&real, &rows, NEIGHBOURS)?;
            let share = |share| of_share(share, equal as usize);
            for (metric, value) in neighbourly.into_iter().zip([
                share(found.precision),
                share(found.recall),
                (found.density, found.density_deviation),
                share(found.coverage),
            ]) {
                if wants(metric) {
                    add(metric, value);
                }
            }
        }
        if let (Some(logits), Some(real)) = (&fake.logits, &self.shares) {
            if wants(Metric::ClassifierScore) {
                add(Metric::ClassifierScore, classifier_score(logits, SPLITS.min(count))?);
            }
            if wants(Metric::ClassBalance) {
                let shares = class_shares(logits)?;
                let value = class_balance(&shares, real)?;
                let deviation =
                    if is_resampled { self.balance_deviation(&shares, count, real)? } else { 0.0 };
                add(Metric::ClassBalance, (value, deviation));
            }
        }
        Ok(all)
    }

    fn draw(&self, what: u64) -> ChaCha8Rng {
        rng(self.seed, Stream::Evaluation, what)
    }

    /// Of the Fréchet distance, by resampling the generated images.
    fn frechet_deviation(&self, fake: &Tensor) -> Result<f64> {
        let (count, dimensions) = fake.size2()?;
        let resampled = match dimensions {
            d if d > MANY_DIMENSIONS => RESAMPLED_FRECHET / 5,
            _ => RESAMPLED_FRECHET,
        };
        let mut draw = self.draw(1);
        let mut distances = Vec::new();
        for _ in 0..resampled {
            let rows: Vec<i64> =
                (0..count).map(|_| below(&mut draw, count as usize) as i64).collect();
            let rows = fake.f_index_select(0, &Tensor::f_from_slice(&rows)?)?;
            distances.push(self.reference.distance(&Moments::of(&rows)?)?);
        }
        Ok(deviation(&distances))
    }

    /// Of the divergence of classes, by drawing as many images from the shares.
    fn balance_deviation(&self, shares: &[f64], count: i64, real: &[f64]) -> Result<f64> {
        let mut draw = self.draw(2);
        let mut cumulated = Vec::new();
        let mut sum = 0.0;
        for share in shares {
            sum += share;
            cumulated.push(sum);
        }
        let mut divergences = Vec::new();
        for _ in 0..RESAMPLED {
            let mut counts = vec![0.0; shares.len()];
            for _ in 0..count {
                let at = sum * (draw.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
                let class = cumulated.partition_point(|&end| end <= at).min(shares.len() - 1);
                counts[class] += 1.0 / count as f64;
            }
            divergences.push(class_balance(&counts, real)?);
        }
        Ok(deviation(&divergences))
    }
}

/// Generated or held-out images, as metrics of images take them.
#[derive(Debug, Clone, Copy)]
pub struct Images<'a> {
    /// Where they are.
    pub set: &'a ImageSet,
    /// Which of them.
    pub rows: &'a [usize],
    /// Whether the set is the real one itself, so that none is its own nearest image.
    pub is_real: bool,
}

impl Images<'_> {
    fn read(&self, count: usize) -> Result<Vec<u8>> {
        self.set.rows(self.rows[..count].iter().copied())
    }

    /// `[count, C, H, W]`, 0 to 255, float64.
    fn tensor(&self, count: usize) -> Result<Tensor> {
        Ok(planes(&self.read(count)?, self.set.shape())?.f_to_kind(Kind::Double)?)
    }
}

/// Those of `metrics` that are of images: of `images`, against the real ones in `real` (rows of `real_rows`).
/// `nearest` is what [`Metric::NearestReal`] and [`Metric::Copies`] are made of; without it they are left out.
///
/// # Errors
/// If there are too few images for a metric, or one cannot be read.
pub fn measure_images(
    images: &Images,
    (real, real_rows): (&ImageSet, &[usize]),
    metrics: &[Metric],
    nearest: Option<&Nearest>,
    seed: u64,
) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    let mut add = |metric, (value, uncertainty)| all.push(Measured { metric, value, uncertainty });
    let wants = |metric| metrics.contains(&metric);
    let count = images.rows.len();
    if wants(Metric::SlicedWasserstein) {
        let of = PATCH_IMAGES.min(count).min(real_rows.len());
        let theirs = Images { set: real, rows: real_rows, is_real: true }.tensor(of)?;
        add(Metric::SlicedWasserstein, wasserstein(&theirs, &images.tensor(of)?, seed)?);
    }
    if wants(Metric::MsSsim) && count >= 2 {
        let pairs = PAIRS.min(count / 2);
        let tensor = images.tensor(2 * pairs)?;
        let (x, y) =
            (tensor.f_narrow(0, 0, pairs as i64)?, tensor.f_narrow(0, pairs as i64, pairs as i64)?);
        let (mean, spread) =
            mean_and_std(&Similarity::multi_scale(images.set.shape().size).of_pairs(&x, &y)?);
        add(Metric::MsSsim, (mean, spread / (pairs as f64).sqrt()));
    }
    if wants(Metric::Duplicates) {
        let bytes = images.read(count)?;
        let mut seen: HashMap<&[u8], usize> = HashMap::new();
        for image in bytes.chunks_exact(images.set.image_len()) {
            *seen.entry(image).or_default() += 1;
        }
        let twins: usize = seen.values().filter(|&&times| times > 1).sum();
        add(Metric::Duplicates, of_share(twins as f64 / count as f64, count));
    }
    if let Some(Nearest { distances, suspicious }) = nearest {
        if wants(Metric::NearestReal) {
            let mut draw = rng(seed, Stream::Evaluation, 3);
            let medians: Vec<f64> = (0..RESAMPLED)
                .map(|_| {
                    let draws =
                        (0..distances.len()).map(|_| distances[below(&mut draw, distances.len())]);
                    median(draws.collect())
                })
                .collect();
            add(Metric::NearestReal, (median(distances.clone()), deviation(&medians)));
        }
        if wants(Metric::Copies) {
            let copies =
                distances.iter().filter(|&&distance| is_copy(distance, *suspicious)).count();
            let share = copies as f64 / distances.len() as f64;
            add(Metric::Copies, of_share(share, distances.len()));
        }
    }
    Ok(all)
}

/// How far some images are from their nearest real ones.
#[derive(Debug)]
pub struct Nearest {
    distances: Vec<f64>,
    /// What is nearer may be a copy: as far as real images go.
    suspicious: f64,
}

impl Nearest {
    /// Of generated images and of held-out ones. `done` is told of each image of `real` that was compared with,
    /// twice.
    ///
    /// # Errors
    /// If an image cannot be read.
    pub fn of_both(
        fake: &Images,
        held: &Images,
        real: &ImageSet,
        done: &mut dyn FnMut(usize),
    ) -> Result<[Self; 2]> {
        let held = nearest_distances(held, real, done)?;
        let suspicious = suspicious(&held);
        let fake = nearest_distances(fake, real, done)?;
        Ok([fake, held].map(|distances| Self { distances, suspicious }))
    }
}

/// Of the first images, the distance of each to the nearest real one.
fn nearest_distances(
    images: &Images,
    real: &ImageSet,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<f64>> {
    let count = SEARCHED.min(images.rows.len());
    let own = images.is_real.then(|| &images.rows[..count]);
    let found = nearest(&images.read(count)?, real, 1, own, done)?;
    Ok(found.iter().map(|found| found[0].distance).collect())
}

/// A share of so many images, and the standard deviation of such a count.
fn of_share(share: f64, count: usize) -> (f64, f64) {
    (share, (share * (1.0 - share) / count as f64).sqrt())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        (values[middle - 1] + values[middle]) / 2.0
    } else {
        values[middle]
    }
}

/// Mean of all levels over repetitions with other directions, and their standard deviation.
fn wasserstein(real: &Tensor, fake: &Tensor, seed: u64) -> Result<(f64, f64)> {
    let (count, channels, ..) = real.size4()?;
    ensure!(count >= 1, "a sliced Wasserstein distance takes at least one image");
    let mut draw = rng(seed, Stream::Evaluation, 4);
    let (real, fake) = (pyramid(real)?, pyramid(fake)?);
    let levels = real.len() as f64;
    let mut distances = vec![0.0; REPEATS];
    for (real, fake) in real.iter().zip(&fake) {
        let (.., height, width) = real.size4()?;
        let mut places = || -> Vec<(i64, i64)> {
            // Of the middle of a patch that lies within the image.
            let mut place =
                |side: i64| PATCH / 2 + below(&mut draw, (side - PATCH + 1) as usize) as i64;
            (0..count as usize * PATCHES).map(|_| (place(height), place(width))).collect()
        };
        let (real, fake) = (patches(real, &places())?, patches(fake, &places())?);
        for distance in &mut distances {
            let values = (PATCH * PATCH * channels) as usize * DIRECTIONS;
            let normal: Vec<f64> = (0..values).map(|_| StandardNormal.sample(&mut draw)).collect();
            let directions = Tensor::f_from_slice(&normal)?
                .f_view([PATCH * PATCH * channels, DIRECTIONS as i64])?;
            let lengths =
                directions.f_square()?.f_sum_dim_intlist([0i64].as_slice(), true, Kind::Double)?;
            let directions = directions.f_div(&lengths.f_sqrt()?)?;
            *distance += sliced_wasserstein(&real, &fake, &directions)? / levels;
        }
    }
    Ok(mean_and_std(&distances))
}

/// A number below `count`.
fn below(draw: &mut ChaCha8Rng, count: usize) -> usize {
    // As `rng::permutation` draws.
    ((u128::from(draw.next_u64()) * count as u128) >> 64) as usize
}

/// Real images in two parts, by `seed`: those that are compared with, and those that are compared as if they
/// were generated, `count` of them or half of all.
pub fn split(set: &ImageSet, count: usize, seed: u64) -> Result<(Vec<usize>, Vec<usize>)> {
    let order = permutation(&mut rng(seed, Stream::Subset, 2), u32::try_from(set.count())?);
    let order: Vec<usize> = order.into_iter().map(|row| row as usize).collect();
    let (held, rest) = order.split_at(count.min(order.len() / 2));
    Ok((rest[..rest.len().min(MAX_REAL)].to_vec(), held.to_vec()))
}

/// Real images that are compared with, at most: their features are held in memory.
pub const MAX_REAL: usize = 50_000;
