//! Differentiable augmentation: the discriminator sees only augmented images, real and generated alike, in every
//! step. So it cannot learn a small set by heart. Gradients flow through the augmentation to the generator, which
//! therefore still learns to make images as they are, not augmented ones.
//!
//! The method is DiffAugment: Zhao, Liu, Lin, Zhu and Han, "Differentiable Augmentation for Data-Efficient GAN
//! Training", NeurIPS 2020, section 3.2. Ranges, order and rounding are those that its authors published. Each
//! image x has its own random numbers; u is uniform in [0, 1), another one in each place:
//!
//! - color: brightness, x + (u − 0.5); then saturation, (x − m)·2u + m with the mean m of each pixel over its
//!   channels; then contrast, (x − m)·(u + 0.5) + m with the mean m of the whole image;
//! - translation: a shift by whole pixels in both directions, each uniform in [−s, s], where s is an eighth of the
//!   side, rounded; zeros come in from outside;
//! - cutout: zeros in a rectangle whose sides are half of the image's, rounded, and whose centre is uniform; what
//!   lies outside of the image is clipped.
//!
//! In training, images are mirrored: rotated by 180 degrees. Nothing here depends on that, because every shift is as
//! likely as the opposite one, every rectangle as likely as the rotated one, and colours have no direction.

use anyhow::{Result, ensure};
use rand_chacha::ChaCha8Rng;
use tch::kind::Element;
use tch::{Device, Kind, Tensor};

use crate::pixels::{pinned, sent};
use crate::rng::{augmentations, below, unit};
use crate::settings::{Policies, Policy, TrainConfig};

/// Which augmentations a run has, and the seed of their random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Augmentation {
    color: bool,
    translation: bool,
    cutout: bool,
    seed: u64,
}

impl Augmentation {
    /// The augmentations `policies`, which draw from `seed`; `None` if there are none.
    pub fn new(policies: &Policies, seed: u64) -> Option<Self> {
        let [color, translation, cutout] =
            [Policy::Color, Policy::Translation, Policy::Cutout].map(|policy| policies.has(policy));
        (!policies.is_empty()).then_some(Self { color, translation, cutout, seed })
    }

    /// What the settings ask for.
    pub fn of(config: &TrainConfig) -> Option<Self> {
        Self::new(&config.augment, config.seed)
    }

    /// Begins an iteration. `salt` is the number of times that the run was rolled back.
    pub fn begin(self, salt: u8, iteration: u64) -> Augmenter {
        Augmenter { augmentation: self, rng: augmentations(self.seed, salt, iteration) }
    }
}

/// Augments the batches of one iteration. Each batch gets the random numbers that follow those of the batch before,
/// so no two batches share any.
#[derive(Debug)]
pub struct Augmenter {
    augmentation: Augmentation,
    rng: ChaCha8Rng,
}

impl Augmenter {
    /// Draws the random numbers of the next batch: `count` images of `[height, width]`.
    pub fn draw(&mut self, count: usize, [height, width]: [i64; 2]) -> Draws {
        let Self { augmentation, rng } = self;
        let draws = |is_asked_for: bool| if is_asked_for { count } else { 0 };
        let color = (0..draws(augmentation.color)).map(|_| [unit(rng), unit(rng), unit(rng)]);
        let color = color.collect();
        let mut shift = |side| {
            let largest = largest_shift(side);
            below(rng, (2 * largest + 1) as usize) as i64 - largest
        };
        let shifts = (0..draws(augmentation.translation)).map(|_| [shift(height), shift(width)]);
        let shifts = shifts.collect();
        let mut centre = |side| below(rng, centres(side) as usize) as i64;
        let cuts = (0..draws(augmentation.cutout)).map(|_| [centre(height), centre(width)]);
        Draws { color, shifts, cuts: cuts.collect() }
    }
}

/// By how many pixels an image is shifted at most along a side of this length: an eighth of it, rounded.
fn largest_shift(side: i64) -> i64 {
    (side + 4) / 8
}

/// How many pixels cutout takes of a side of this length, if none of them lie outside: half of it, rounded up.
fn cut_length(side: i64) -> i64 {
    (side + 1) / 2
}

/// How many centres a cut along a side of this length may have. A cut of even length lies half before its centre, so
/// it may also be centred just behind the last pixel; then both ends of the side are cut equally often.
fn centres(side: i64) -> i64 {
    side + 1 - cut_length(side) % 2
}

/// The random numbers that augment a batch. What is empty is not done.
#[derive(Debug, Clone, PartialEq)]
pub struct Draws {
    /// Of each image, u of its brightness, its saturation and its contrast.
    pub color: Vec<[f32; 3]>,
    /// By how many pixels each image is shifted down and to the right.
    pub shifts: Vec<[i64; 2]>,
    /// Row and column of the centre of each image's cut.
    pub cuts: Vec<[i64; 2]>,
}

impl Draws {
    /// The same numbers as tensors on the host, in memory from which they can be sent to `device` without waiting.
    ///
    /// # Errors
    /// If there is no such memory.
    pub fn tensors(&self, device: Device) -> Result<DrawTensors> {
        fn rows<T: Element, const N: usize>(
            rows: &[[T; N]],
            device: Device,
        ) -> Result<Option<Tensor>> {
            if rows.is_empty() {
                return Ok(None);
            }
            let rows = Tensor::f_from_slice(rows.as_flattened())?.f_view([-1, N as i64])?;
            pinned(rows, device).map(Some)
        }
        Ok(DrawTensors {
            color: rows(&self.color, device)?,
            shifts: rows(&self.shifts, device)?,
            cuts: rows(&self.cuts, device)?,
        })
    }
}

/// [`Draws`] as tensors, which is how they augment images.
#[derive(Debug)]
pub struct DrawTensors {
    /// `[N, 3]`, float32.
    color: Option<Tensor>,
    /// `[N, 2]`, int64.
    shifts: Option<Tensor>,
    /// `[N, 2]`, int64.
    cuts: Option<Tensor>,
}

impl DrawTensors {
    /// The same numbers on `device`.
    ///
    /// # Errors
    /// If the device cannot hold them.
    pub fn sent(&self, device: Device) -> Result<Self> {
        self.map(|tensor| sent(tensor, device))
    }

    /// Augments `images` with these numbers. The result is a differentiable function of the images.
    ///
    /// # Shapes
    /// `images` `[N, C, H, W]` → `[N, C, H, W]`, same kind and device.
    ///
    /// # Errors
    /// If `images` is not rank 4, the numbers are those of another number of images, or the device fails.
    pub fn apply(&self, images: &Tensor) -> Result<Tensor> {
        let count = images.size4()?.0;
        for drawn in self.all() {
            let drawn = drawn.size()[0];
            ensure!(
                drawn == count,
                "expected random numbers of {count} images, found those of {drawn}"
            );
        }
        let mut images = images.shallow_clone();
        if let Some(draws) = &self.color {
            images = recolored(&images, draws)?;
        }
        if let Some(shifts) = &self.shifts {
            images = shifted(&images, shifts)?;
        }
        if let Some(centres) = &self.cuts {
            images = cut(&images, centres)?;
        }
        Ok(images)
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Tensor> {
        [&self.color, &self.shifts, &self.cuts].into_iter().flatten()
    }

    /// The same draws, each tensor replaced by what `change` makes of it.
    pub(super) fn map(&self, mut change: impl FnMut(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let mut of = |tensor: &Option<Tensor>| tensor.as_ref().map(&mut change).transpose();
        Ok(Self { color: of(&self.color)?, shifts: of(&self.shifts)?, cuts: of(&self.cuts)? })
    }
}

/// `images` `[N, C, H, W]` with another brightness, saturation and contrast.
fn recolored(images: &Tensor, draws: &Tensor) -> Result<Tensor> {
    let kind = images.kind();
    let draws = draws.f_to_kind(kind)?.f_view([-1, 3, 1, 1])?;
    let u = |which: i64| draws.f_narrow(1, which, 1); // [N, 1, 1, 1]

    let mut x = images.f_add(&u(0)?.f_sub_scalar(0.5)?)?;
    // A gray pixel is its own mean over the channels, so its saturation changes nothing, not even a bit.
    if images.size()[1] > 1 {
        let mean = x.f_mean_dim(&[1_i64][..], true, kind)?; // [N, 1, H, W]
        x = mean.f_addcmul(&x.f_sub(&mean)?, &u(1)?.f_mul_scalar(2.0)?)?;
    }
    let mean = x.f_mean_dim(&[1_i64, 2, 3][..], true, kind)?; // [N, 1, 1, 1]
    Ok(mean.f_addcmul(&x.f_sub(&mean)?, &u(2)?.f_add_scalar(0.5)?)?)
}

/// `images` `[N, C, H, W]`, shifted down and to the right; zeros come in.
fn shifted(images: &Tensor, shifts: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = images.size4()?;
    // Where each row, or column, of the result comes from, and whether that is inside of the image: [N, side].
    let sources = |axis, side| -> Result<(Tensor, Tensor)> {
        let from = positions(side, images)?.f_sub(&shifts.f_narrow(1, axis, 1)?)?;
        let is_inside = from.f_ge(0)?.f_logical_and(&from.f_lt(side)?)?;
        Ok((from.f_clamp(0, side - 1)?, is_inside))
    };
    let ((row, has_row), (column, has_column)) = (sources(0, h)?, sources(1, w)?);
    let from = row.f_unsqueeze(2)?.f_mul_scalar(w)?.f_add(&column.f_unsqueeze(1)?)?; // [N, H, W]
    let from = from.f_view([n, h * w, 1])?.f_expand([n, h * w, c], false)?;

    // Batches lie in this order in memory, so nothing is copied but the pixels that move.
    let pixels = images.f_permute([0, 2, 3, 1])?.f_reshape([n, h * w, c])?; // [N, H·W, C]
    let moved = pixels.f_gather(1, &from, false)?.f_view([n, h, w, c])?.f_permute([0, 3, 1, 2])?;
    // A place whose source is outside has been given a pixel of the border. It becomes 0, and so does its gradient.
    masked(&moved, &of_both(&has_row, &has_column)?)
}

/// `images` `[N, C, H, W]` with zeros in a rectangle around each centre.
fn cut(images: &Tensor, centres: &Tensor) -> Result<Tensor> {
    let (_, _, h, w) = images.size4()?;
    // Whether each row, or column, runs through the rectangle: [N, side].
    let is_cut = |axis, side| -> Result<Tensor> {
        let length = cut_length(side);
        let first = centres.f_narrow(1, axis, 1)?.f_sub_scalar(length / 2)?;
        let from_first = positions(side, images)?.f_sub(&first)?;
        Ok(from_first.f_ge(0)?.f_logical_and(&from_first.f_lt(length)?)?)
    };
    masked(images, &of_both(&is_cut(0, h)?, &is_cut(1, w)?)?.f_logical_not()?)
}

/// The numbers `0..side`: `[side]`, on the device of `images`.
fn positions(side: i64, images: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_arange(side, (Kind::Int64, images.device()))?)
}

/// Where both a row `[N, H]` and a column `[N, W]` are true: `[N, 1, H, W]`.
fn of_both(rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
    Ok(rows.f_unsqueeze(2)?.f_logical_and(&columns.f_unsqueeze(1)?)?.f_unsqueeze(1)?)
}

/// `images` `[N, C, H, W]` where `mask` `[N, 1, H, W]` is true, zeros elsewhere.
fn masked(images: &Tensor, mask: &Tensor) -> Result<Tensor> {
    Ok(images.f_mul(&mask.f_to_kind(images.kind())?)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tch::Device;

    use super::*;
    use crate::rng::{Latent, Stream, rng};

    /// Shapes of batches: as in training, of other sizes and channels, and so small that sides have one pixel.
    const SHAPES: [[i64; 4]; 5] =
        [[6, 1, 32, 32], [6, 3, 32, 32], [9, 3, 11, 6], [9, 2, 5, 18], [9, 1, 1, 2]];

    const SETS: [&[Policy]; 4] = [
        &[Policy::Color],
        &[Policy::Translation],
        &[Policy::Cutout],
        &[Policy::Color, Policy::Translation, Policy::Cutout],
    ];

    fn augmentation(policies: &[Policy]) -> Augmentation {
        Augmentation::new(&policies.to_vec().into(), 5).unwrap()
    }

    fn draw(policies: &[Policy], [n, _, h, w]: [i64; 4]) -> Draws {
        augmentation(policies).begin(0, 1).draw(n as usize, [h, w])
    }

    fn apply(draws: &Draws, images: &Tensor) -> Result<Tensor> {
        draws.tensors(images.device())?.apply(images)
    }

    fn images(step: u64, shape: [i64; 4]) -> Tensor {
        let count = shape.iter().product::<i64>() as usize;
        let pixels = Latent::Normal.sample(&mut rng(0, Stream::SampleZ, step), count, 1);
        Tensor::from_slice(&pixels).to_kind(Kind::Double).view(shape)
    }

    fn numbers(x: &Tensor) -> Vec<f64> {
        Vec::try_from(x.contiguous().flatten(0, -1)).unwrap()
    }

    /// The published formulas, pixel by pixel. `pixels` are `[N, C, H, W]`.
    fn obvious(draws: &Draws, pixels: &[f64], shape: [i64; 4]) -> Vec<f64> {
        let [count, channels, height, width] = shape;
        let at = |n: i64, c: i64, y: i64, x: i64| {
            (((n * channels + c) * height + y) * width + x) as usize
        };
        let places = || {
            (0..channels).flat_map(move |c| {
                (0..height).flat_map(move |y| (0..width).map(move |x| (c, y, x)))
            })
        };
        let mut now = pixels.to_vec();
        for n in 0..count {
            if let Some(u) = draws.color.get(n as usize) {
                let [brightness, saturation, contrast] = u.map(f64::from);
                for (c, y, x) in places() {
                    now[at(n, c, y, x)] += brightness - 0.5;
                }
                for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                    let sum: f64 = (0..channels).map(|c| now[at(n, c, y, x)]).sum();
                    let mean = sum / channels as f64;
                    for c in 0..channels {
                        let value = &mut now[at(n, c, y, x)];
                        *value = (*value - mean) * (2.0 * saturation) + mean;
                    }
                }
                let sum: f64 = places().map(|(c, y, x)| now[at(n, c, y, x)]).sum();
                let mean = sum / (channels * height * width) as f64;
                for (c, y, x) in places() {
                    let value = &mut now[at(n, c, y, x)];
                    *value = (*value - mean) * (contrast + 0.5) + mean;
                }
            }
            if let Some([down, right]) = draws.shifts.get(n as usize) {
                let before = now.clone();
                for (c, y, x) in places() {
                    let (from_y, from_x) = (y - down, x - right);
                    let is_inside = (0..height).contains(&from_y) && (0..width).contains(&from_x);
                    now[at(n, c, y, x)] =
                        if is_inside { before[at(n, c, from_y, from_x)] } else { 0.0 };
                }
            }
            if let Some([centre_y, centre_x]) = draws.cuts.get(n as usize) {
                let length = |side: i64| (side as f64 * 0.5 + 0.5) as i64;
                for i in 0..length(height) {
                    for j in 0..length(width) {
                        let y = (i + centre_y - length(height) / 2).clamp(0, height - 1);
                        let x = (j + centre_x - length(width) / 2).clamp(0, width - 1);
                        (0..channels).for_each(|c| now[at(n, c, y, x)] = 0.0);
                    }
                }
            }
        }
        now
    }

    #[test]
    fn each_policy_and_all_of_them_are_the_published_formulas_pixel_by_pixel() -> Result<()> {
        for (shape, policies) in SHAPES.iter().flat_map(|s| SETS.map(|policies| (*s, policies))) {
            let draws = draw(policies, shape);
            let images = images(1, shape);
            let expected = obvious(&draws, &numbers(&images), shape);
            for (kind, bound) in [(Kind::Double, 1e-12), (Kind::Float, 1e-5)] {
                let ours = apply(&draws, &images.to_kind(kind))?;
                assert_eq!((ours.kind(), ours.size()), (kind, shape.to_vec()));
                for (at, (ours, expected)) in
                    numbers(&ours.to_kind(Kind::Double)).iter().zip(&expected).enumerate()
                {
                    let error = (ours - expected).abs();
                    assert!(error <= bound, "{policies:?} {shape:?} {kind:?} at {at}: {error:e}");
                }
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_are_those_of_what_is_computed() -> Result<()> {
        // Each policy is affine in the images, so a difference of two results is the Jacobian's product with the
        // difference of the images, whatever its size.
        for (shape, policies) in SHAPES.iter().flat_map(|s| SETS.map(|policies| (*s, policies))) {
            let draws = draw(policies, shape);
            let [start, direction, weights] = [1, 2, 3].map(|step| images(step, shape));
            let forward =
                (apply(&draws, &(&start + &direction))? - apply(&draws, &start)?) * &weights;
            let leaf = start.set_requires_grad(true);
            let weighted = (apply(&draws, &leaf)? * &weights).sum(Kind::Double);
            let gradient = &Tensor::f_run_backward(&[&weighted], &[&leaf], false, false)?[0];
            let (forward, back) = (numbers(&forward), numbers(&(gradient * &direction)));
            let scale: f64 = forward.iter().map(|x| x.abs()).sum::<f64>() + 1.0;
            let error = forward.iter().sum::<f64>() - back.iter().sum::<f64>();
            assert!(error.abs() <= 1e-12 * scale, "{policies:?} {shape:?}: {error:e}");
        }
        Ok(())
    }

    #[test]
    fn the_order_of_images_in_memory_changes_no_result() -> Result<()> {
        for policies in SETS {
            let shape = [9, 3, 11, 6];
            let draws = draw(policies, shape);
            let images = images(1, shape);
            let channels_last = images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            let [ours, theirs] = [apply(&draws, &images)?, apply(&draws, &channels_last)?];
            let error = (ours - theirs).abs().max().double_value(&[]);
            assert!(error <= 1e-14, "{policies:?}: {error:e}");
        }
        Ok(())
    }

    #[test]
    fn images_batches_iterations_rollbacks_and_seeds_have_draws_of_their_own() {
        let draws = |seed, salt, iteration, batch: usize| {
            let all = SETS[3].to_vec().into();
            let mut augmenter = Augmentation::new(&all, seed).unwrap().begin(salt, iteration);
            let mut drawn = (0..=batch).map(|_| augmenter.draw(64, [32, 32]));
            drawn.nth(batch).unwrap()
        };
        let one = draws(0, 0, 1, 0);
        assert_eq!(one, draws(0, 0, 1, 0));
        for other in [draws(1, 0, 1, 0), draws(0, 1, 1, 0), draws(0, 0, 2, 0), draws(0, 0, 1, 1)] {
            assert!(one.color != other.color);
            assert!(one.shifts != other.shifts && one.cuts != other.cuts);
        }
        let colors: BTreeSet<_> = one.color.iter().flatten().map(|u| u.to_bits()).collect();
        assert!(colors.len() > 3 * 64 - 3, "each image has three numbers of its own");
        let distinct = |pairs: &[[i64; 2]]| pairs.iter().collect::<BTreeSet<_>>().len();
        assert!(distinct(&one.shifts) > 32 && distinct(&one.cuts) > 32);
    }

    #[test]
    fn draws_reach_both_ends_of_their_ranges_and_nothing_beyond() {
        // The largest shift and the last centre, by the published formulas.
        for (side, shift, centre) in
            [(1, 0, 0), (2, 0, 1), (3, 0, 3), (4, 1, 4), (5, 1, 4), (6, 1, 5), (32, 4, 32)]
        {
            let draws = draw(SETS[3], [4000, 1, side, side]);
            assert!(draws.color.iter().flatten().all(|u| (0.0..1.0).contains(u)));
            let ends = |pairs: &[[i64; 2]], axis: usize| {
                let numbers = || pairs.iter().map(|pair| pair[axis]);
                (numbers().min().unwrap(), numbers().max().unwrap())
            };
            for axis in [0, 1] {
                assert_eq!(ends(&draws.shifts, axis), (-shift, shift), "{side}");
                assert_eq!(ends(&draws.cuts, axis), (0, centre), "{side}");
            }
        }
    }

    #[test]
    fn every_shift_and_every_cut_is_as_likely_as_the_rotated_one() -> Result<()> {
        // Training has its images rotated by 180 degrees.
        for side in 1..=9 {
            let images = Tensor::ones([1, 1, side, side], (Kind::Double, Device::Cpu));
            let all = |draws: Vec<Draws>| -> Result<[Vec<String>; 2]> {
                let mut found = [Vec::new(), Vec::new()];
                for draws in draws {
                    let shown = apply(&draws, &images)?;
                    found[0].push(format!("{:?}", numbers(&shown)));
                    found[1].push(format!("{:?}", numbers(&shown.rot90(2, [2, 3]))));
                }
                found.iter_mut().for_each(|found| found.sort());
                Ok(found)
            };
            let none = || Draws { color: vec![], shifts: vec![], cuts: vec![] };
            let largest = largest_shift(side);
            let shifts = (-largest..=largest).map(|y| Draws { shifts: vec![[y, -y]], ..none() });
            let cuts = (0..centres(side)).map(|y| Draws { cuts: vec![[y, 0]], ..none() });
            let opposite = cuts.clone().map(|draws| {
                let [y, _] = draws.cuts[0];
                Draws { cuts: vec![[y, centres(side) - 1]], ..none() }
            });
            for draws in [shifts.collect(), cuts.chain(opposite).collect()] {
                let [upright, rotated] = all(draws)?;
                assert_eq!(upright, rotated, "{side}");
            }
        }
        Ok(())
    }

    #[test]
    fn numbers_of_another_batch_and_images_of_another_rank_are_refused() {
        let draws = draw(SETS[1], [3, 1, 8, 8]);
        let error = apply(&draws, &images(1, [4, 1, 8, 8])).unwrap_err().to_string();
        assert!(error.contains("4 images, found those of 3"), "{error}");
        assert!(apply(&draws, &images(1, [3, 1, 8, 8]).flatten(1, 3)).is_err());
        assert_eq!(Augmentation::new(&Policies::default(), 0), None);
    }
}
