//! The sliced Wasserstein distance as a metric: its patches and directions.

use anyhow::{Result, ensure};
use rand_distr::{Distribution, StandardNormal};
use tch::{Kind, Tensor};

use crate::eval::comparison::{Estimate, ImageComparison};
use crate::eval::draw::Draw;
use crate::eval::pixels::{PATCH, patches, pyramid, sliced_wasserstein};
use crate::rng::below;
use crate::statistics::mean_and_deviation;

/// The most images of either side whose patches are compared.
const MAX_IMAGES: usize = 2048;
/// Patches of each image.
const PATCHES: usize = 32;
/// Directions along which patches are compared.
const DIRECTIONS: usize = 128;
/// How often, each time along other directions.
const REPEATS: usize = 4;

/// The distance of the images and those of their smaller versions, averaged; mean and standard deviation over
/// repetitions with other directions.
pub(super) fn distance(compared: &ImageComparison) -> Result<Option<Estimate>> {
    let count = MAX_IMAGES.min(compared.generated.count()).min(compared.real.count());
    ensure!(count >= 1, "a sliced Wasserstein distance takes at least one image");
    let size = compared.real.set.shape().size;
    ensure!(
        size.width.min(size.height) >= PATCH as usize,
        "a sliced Wasserstein distance takes images of at least {PATCH}×{PATCH}, found {size}"
    );
    let (real, generated) = (compared.real.tensor(count)?, compared.generated.tensor(count)?);
    let patch_len = PATCH * PATCH * real.size4()?.1;
    let mut draw = Draw::Patches.rng(compared.seed);
    let mut distances = vec![0.0; REPEATS];
    let (real, generated) = (pyramid(&real)?, pyramid(&generated)?);
    let levels = real.len() as f64;
    for (real, generated) in real.iter().zip(&generated) {
        let (_, _, height, width) = real.size4()?;
        let mut places = || -> Vec<(i64, i64)> {
            // A patch lies wholly within its image.
            let mut place =
                |side: i64| PATCH / 2 + below(&mut draw, (side - PATCH + 1) as usize) as i64;
            (0..count * PATCHES).map(|_| (place(height), place(width))).collect()
        };
        let (real, generated) = (patches(real, &places())?, patches(generated, &places())?);
        for distance in &mut distances {
            let values = patch_len as usize * DIRECTIONS;
            let normal: Vec<f64> = (0..values).map(|_| StandardNormal.sample(&mut draw)).collect();
            let directions =
                Tensor::f_from_slice(&normal)?.f_view([patch_len, DIRECTIONS as i64])?;
            let lengths =
                directions.f_square()?.f_sum_dim_intlist([0i64].as_slice(), true, Kind::Double)?;
            let directions = directions.f_div(&lengths.f_sqrt()?)?;
            *distance += sliced_wasserstein(&real, &generated, &directions)? / levels;
        }
    }
    Ok(Some(mean_and_deviation(&distances).into()))
}
