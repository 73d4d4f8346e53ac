//! Comparisons of pixels: structural similarity and the sliced Wasserstein distance.

use anyhow::{Result, ensure};
use tch::{Device, Kind, Tensor};

/// SSIM's constants for pixels of 0 to 255: (0.01 · 255)² and (0.03 · 255)².
const C1: f64 = 6.5025;
const C2: f64 = 58.5225;
/// The weights of the five scales in Wang et al. (see [`Similarity::of_pairs`]).
const BETAS: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];

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

    /// Structural similarity on three scales, which suits images of 32×32: a window of 5 pixels, σ 0.5, and the first
    /// three of the usual weights, divided by their sum. The usual window and five scales need 161 pixels a side.
    pub fn multi_scale() -> Self {
        let sum: f64 = BETAS[..3].iter().sum();
        Self { window: 5, sigma: 0.5, betas: BETAS[..3].iter().map(|beta| beta / sum).collect() }
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
        ensure!(x.size() == y.size(), "images {:?} and {:?}", x.size(), y.size());
        let (n, c, h, w) = x.size4()?;
        let smallest = h.min(w) >> (self.betas.len() - 1);
        ensure!(smallest >= self.window, "{smallest} pixels are fewer than {} taps", self.window);
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

/// Two levels of Burt's and Adelson's Laplacian pyramid of images `[n, C, H, W]`, in float64: the detail that a
/// half-size version of the images loses, and that version.
///
/// # Errors
/// If there is not enough memory.
pub fn pyramid(images: &Tensor) -> Result<[Tensor; 2]> {
    let (n, c, h, w) = images.size4()?;
    let images = images.f_to_kind(Kind::Double)?.f_reshape([n * c, 1, h, w])?;
    let taps = Tensor::f_from_slice(&[1.0, 4.0, 6.0, 4.0, 1.0])?.f_div_scalar(16.0)?;
    let kernel = taps.f_outer(&taps)?.f_view([1, 1, 5, 5])?;
    let blur = |x: &Tensor| -> Result<Tensor> {
        let x = x.f_reflection_pad2d([2, 2, 2, 2])?;
        Ok(x.f_conv2d(&kernel, None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)?)
    };
    let half =
        blur(&images)?.f_slice(2, None, None, 2)?.f_slice(3, None, None, 2)?.f_contiguous()?;
    let spread = images.f_zeros_like()?;
    spread.f_slice(2, None, None, 2)?.f_slice(3, None, None, 2)?.f_copy_(&half)?;
    let detail = images.f_sub(&blur(&spread)?.f_mul_scalar(4.0)?)?;
    Ok([detail.f_view([n, c, h, w])?, half.f_view([n, c, h / 2, w / 2])?])
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
        "{} patches of {n} images of {h}×{w}",
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
        "patches {:?} and {:?}",
        real.size(),
        generated.size()
    );
    let sorted = |x: &Tensor| -> Result<Tensor> { Ok(x.f_mm(directions)?.f_sort(0, false)?.0) };
    let distance = sorted(real)?.f_sub(&sorted(generated)?)?.f_abs()?.f_mean(Kind::Double)?;
    Ok(1000.0 * distance.f_double_value(&[])?)
}
