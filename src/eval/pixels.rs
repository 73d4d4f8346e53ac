//! Comparisons of pixels: structural similarity and the sliced Wasserstein distance.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

use crate::shape::ImageSize;

/// SSIM's constants for pixels of 0 to 255: (0.01 · 255)² and (0.03 · 255)².
const C1: f64 = 6.5025;
const C2: f64 = 58.5225;
/// The weights of the five scales in Wang et al. (see [`Similarity::of_pairs`]).
const BETAS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

/// The shortest side that the smallest scale of an image may have.
const LEAST_SCALE: usize = 8;

/// How structure is compared: within a Gaussian window, on several scales, each of half the size of the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Similarity {
    /// Width of the window in pixels; odd.
    pub window: i64,
    /// The Gaussian's standard deviation in pixels.
    pub sigma: f64,
    /// The exponent of each scale.
    pub betas: Vec<f64>,
}

impl Similarity {
    /// The usual structural similarity, on one scale: a window of 11 pixels, σ 1.5.
    pub fn single() -> Self {
        Self { window: 11, sigma: 1.5, betas: vec![1.0] }
    }

    /// On several scales, with 5 taps and σ 0.5: the usual five scales, or as many as leave the smallest one
    /// a side of 8 pixels, which is three for images of 32×32. Their weights are the first of the usual
    /// ones, over their sum. The usual eleven taps and five scales want 161 pixels.
    pub fn multi_scale(size: ImageSize) -> Self {
        let side = size.width.min(size.height);
        let is_large_enough = |scale: &usize| side >> scale >= LEAST_SCALE;
        let scales = (0..BETAS.len()).take_while(is_large_enough).count().max(1);
        let sum: f64 = BETAS[..scales].iter().sum();
        let betas = BETAS[..scales].iter().map(|beta| beta / sum).collect();
        Self { window: 5, sigma: 0.5, betas }
    }

    /// The similarity of each pair of images, `x` and `y` `[n, C, H, W]`, 0 to 255: n numbers, 1 for equal images.
    /// Windows lie wholly within the image; channels are averaged before scales are multiplied.
    ///
    /// # Errors
    /// If the shapes differ, or the smallest scale is smaller than the window.
    ///
    /// # Source
    /// Z. Wang et al., *Multi-scale Structural Similarity for Image Quality Assessment* (2003).
    pub fn of_pairs(&self, x: &Tensor, y: &Tensor) -> Result<Vec<f64>> {
        ensure!(
            x.size() == y.size(),
            "expected pairs of images of one shape, found {:?} and {:?}",
            x.size(),
            y.size()
        );
        let (n, c, h, w) = x.size4()?;
        let smallest = h.min(w) >> (self.betas.len() - 1);
        ensure!(
            smallest >= self.window,
            "structural similarity: expected at least {} pixels a side on the smallest scale, found {smallest}",
            self.window
        );
        let half = (self.window / 2) as f64;
        let taps: Vec<f64> = (0..self.window)
            .map(|i| (-0.5 * ((i as f64 - half) / self.sigma).powi(2)).exp())
            .collect();
        let sum: f64 = taps.iter().sum();
        let taps = Tensor::f_from_slice(&taps)?.f_div_scalar(sum)?;
        let window = taps.f_outer(&taps)?.f_view([1, 1, self.window, self.window])?;
        let planes = |x: &Tensor| -> Result<Tensor> {
            Ok(x.f_to_kind(Kind::Double)?.f_reshape([n * c, 1, h, w])?)
        };
        let (mut x, mut y) = (planes(x)?, planes(y)?);
        let mut product = Tensor::f_ones([n], (Kind::Double, Device::Cpu))?;
        for (i, &beta) in self.betas.iter().enumerate() {
            let mean = |x: &Tensor| -> Result<Tensor> {
                Ok(x.f_conv2d(&window, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)?)
            };
            let (mx, my) = (mean(&x)?, mean(&y)?);
            let (mxx, myy, mxy) = (mx.f_square()?, my.f_square()?, mx.f_mul(&my)?);
            let vx = mean(&x.f_square()?)?.f_sub(&mxx)?;
            let vy = mean(&y.f_square()?)?.f_sub(&myy)?;
            let cov = mean(&x.f_mul(&y)?)?.f_sub(&mxy)?;
            let ratio = |top: &Tensor, a: &Tensor, b: &Tensor, c: f64| -> Result<Tensor> {
                let top = top.f_mul_scalar(2.0)?.f_add_scalar(c)?;
                Ok(top.f_div(&a.f_add(b)?.f_add_scalar(c)?)?)
            };
            let mut map = ratio(&cov, &vx, &vy, C2)?;
            let is_last = i + 1 == self.betas.len();
            if is_last {
                map = map.f_mul(&ratio(&mxy, &mxx, &myy, C1)?)?;
            }
            let mean =
                map.f_reshape([n, -1])?.f_mean_dim([1i64].as_slice(), false, Kind::Double)?;
            // A negative mean has no real root.
            let factor = if self.betas.len() > 1 {
                mean.f_clamp_min(0.0)?.f_pow_tensor_scalar(beta)?
            } else {
                mean
            };
            product = product.f_mul(&factor)?;
            if !is_last {
                let half =
                    |x: &Tensor| x.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>);
                (x, y) = (half(&x)?, half(&y)?);
            }
        }
        Ok(Vec::try_from(product)?)
    }
}

/// Width and height of a patch in pixels.
pub const PATCH: i64 = 7;
/// The shortest side that the smallest level of a pyramid may have.
const LEAST_LEVEL: i64 = 16;

/// Burt's and Adelson's pyramid of images `[n, C, H, W]`, in float64: each level but the last less what its
/// half-size version gives back, then that version. It ends before a level's shorter side would be less than
/// 16: two levels for images of 32×32.
///
/// # Errors
/// If memory has no room.
pub fn pyramid(images: &Tensor) -> Result<Vec<Tensor>> {
    let (n, c, h, w) = images.size4()?;
    let mut rest = images.f_to_kind(Kind::Double)?.f_reshape([n * c, 1, h, w])?;
    let mut levels = Vec::new();
    let of_images = |level: Tensor| -> Result<Tensor> {
        let (.., h, w) = level.size4()?;
        Ok(level.f_view([n, c, h, w])?)
    };
    let taps = Tensor::f_from_slice(&[1.0, 4.0, 6.0, 4.0, 1.0])?.f_div_scalar(16.0)?;
    let kernel = taps.f_outer(&taps)?.f_view([1, 1, 5, 5])?;
    let blur = |x: &Tensor| -> Result<Tensor> {
        let x = x.f_reflection_pad2d([2, 2, 2, 2])?;
        Ok(x.f_conv2d(&kernel, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)?)
    };
    while (rest.size()[2].min(rest.size()[3]) + 1) / 2 >= LEAST_LEVEL {
        let half =
            blur(&rest)?.f_slice(2, None, None, 2)?.f_slice(3, None, None, 2)?.f_contiguous()?;
        let spread = rest.f_zeros_like()?;
        spread.f_slice(2, None, None, 2)?.f_slice(3, None, None, 2)?.f_copy_(&half)?;
        levels.push(of_images(rest.f_sub(&blur(&spread)?.f_mul_scalar(4.0)?)?)?);
        rest = half;
    }
    levels.push(of_images(rest)?);
    Ok(levels)
}

/// The 7×7 patches of `level` `[n, C, H, W]` around `places`: `[patches, C·49]`. A place is the row and the column of
/// the patch's middle; each image has equally many, and those of the first image come first. Each channel is
/// normalized over all patches.
///
/// # Errors
/// If a patch reaches beyond its image.
pub fn patches(level: &Tensor, places: &[(i64, i64)]) -> Result<Tensor> {
    let (n, c, h, w) = level.size4()?;
    let half = PATCH / 2;
    let inside =
        |&(y, x): &(i64, i64)| (half..h - half).contains(&y) && (half..w - half).contains(&x);
    ensure!(
        !places.is_empty() && places.len() as i64 % n == 0 && places.iter().all(inside),
        "expected patches that lie within their images, as many of each of {n} images of {w}×{h}, found {} places",
        places.len()
    );
    let each = places.len() as i64 / n;
    // Where each patch begins in memory, and where its pixels are from there.
    let starts: Vec<i64> = places
        .iter()
        .enumerate()
        .map(|(i, (y, x))| i as i64 / each * c * h * w + (y - half) * w + x - half)
        .collect();
    let offsets: Vec<i64> = (0..c)
        .flat_map(|c| (0..PATCH).flat_map(move |y| (0..PATCH).map(move |x| (c * h + y) * w + x)))
        .collect();
    let index =
        Tensor::f_from_slice(&starts)?.f_unsqueeze(1)?.f_add(&Tensor::f_from_slice(&offsets)?)?;
    let patches = level.f_contiguous()?.f_take(&index)?.f_view([-1, c, PATCH * PATCH])?;
    let axes = [0i64, 2];
    let mean = patches.f_mean_dim(axes.as_slice(), true, Kind::Double)?;
    let patches = patches.f_sub(&mean)?;
    let variance = patches.f_square()?.f_mean_dim(axes.as_slice(), true, Kind::Double)?;
    // In a channel of a single value the deviation is 0.
    let deviation = variance.f_sqrt()?.f_clamp_min(1e-12)?;
    Ok(patches.f_div(&deviation)?.f_view([-1, c * PATCH * PATCH])?)
}

/// The mean Wasserstein distance of two equally large sets of patches, projected onto each of `directions`
/// `[C·49, D]`; times 1000, as the source has it.
///
/// # Errors
/// If the shapes do not fit together.
///
/// # Source
/// T. Karras et al., *Progressive Growing of GANs …* (2018).
pub fn sliced_wasserstein(real: &Tensor, generated: &Tensor, directions: &Tensor) -> Result<f64> {
    ensure!(
        real.size() == generated.size(),
        "expected as many patches of either side, found {:?} and {:?}",
        real.size(),
        generated.size()
    );
    let sorted = |x: &Tensor| -> Result<Tensor> { Ok(x.f_mm(directions)?.f_sort(0, false)?.0) };
    let distance = sorted(real)?.f_sub(&sorted(generated)?)?.f_abs()?.f_mean(Kind::Double)?;
    Ok(1000.0 * distance.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_levels_follow_from_the_size() -> Result<()> {
        for (width, height, scales, levels) in [
            (32, 32, 3, vec![[32, 32], [16, 16]]),
            (16, 16, 2, vec![[16, 16]]),
            (28, 28, 2, vec![[28, 28]]),
            (64, 64, 4, vec![[64, 64], [32, 32], [16, 16]]),
            (80, 48, 3, vec![[48, 80], [24, 40]]),
            (33, 45, 3, vec![[45, 33], [23, 17]]),
            (256, 256, 5, vec![[256; 2], [128; 2], [64; 2], [32; 2], [16; 2]]),
        ] {
            let size = ImageSize { width, height };
            let similarity = Similarity::multi_scale(size);
            assert_eq!(similarity.betas.len(), scales, "{size}");
            assert!((similarity.betas.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            let shape = [2, 3, height as i64, width as i64];
            let images = Tensor::rand(shape, (Kind::Double, Device::Cpu)) * 255.0;
            assert!(similarity.of_pairs(&images, &images)?.iter().all(|x| (x - 1.0).abs() < 1e-9));
            let found: Vec<_> = pyramid(&images)?.iter().map(Tensor::size).collect();
            let levels: Vec<_> = levels.into_iter().map(|[h, w]| vec![2, 3, h, w]).collect();
            assert_eq!(found, levels, "{size}");
        }
        Ok(())
    }

    #[test]
    fn a_pyramid_of_one_value_has_no_detail() -> Result<()> {
        let images = Tensor::full([1, 1, 64, 48], 7.0, (Kind::Double, Device::Cpu));
        let levels = pyramid(&images)?;
        let (last, details) = levels.split_last().unwrap();
        assert!(f64::try_from((last - 7.0).abs().max())? < 1e-9);
        assert_eq!(details.len(), 1);
        Ok(())
    }
}
