//! The nearest images of a set, by their pixels, and which images may be copies.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use super::tensors::rows;
use crate::data::ImageSet;
use crate::statistics::Sorted;

/// The most images of the set that are compared at a time.
const BLOCK: usize = 4096;
/// The most values that images of the set which are compared at a time may have, in float64: 4096 images of 32×32 in
/// colour. Of larger images fewer are compared at a time.
const BLOCK_VALUES: usize = BLOCK * 32 * 32 * 3;

/// An image of a set, and how far away from another image it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its number in the set.
    pub index: usize,
    /// The root mean square of the differences between their pixels, which are 0 to 255.
    pub distance: f64,
}

/// The `k` images of `set` that are nearest to each of `images` `[n, H, W, C]`, nearest first; of equally near ones,
/// those that come first in the set. Where `images` are of the set themselves, `own` are their numbers, because no
/// image is its own neighbour. `progress` is told of how many more images of the set have been compared.
///
/// # Errors
/// If `images` is not whole images of the set's shape, the set has fewer than `k` other images, or it cannot be
/// read.
pub fn nearest(
    images: &[u8],
    set: &ImageSet,
    k: usize,
    own: Option<&[usize]>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Neighbour>>> {
    let length = set.image_len();
    ensure!(
        images.len().is_multiple_of(length),
        "expected whole images of {length} bytes, found {} bytes",
        images.len()
    );
    let others = set.count() - usize::from(own.is_some());
    ensure!(k >= 1, "expected at least one neighbour to look for, found k = 0");
    let count = images.len() / length;
    if let Some(own) = own {
        ensure!(own.len() == count, "expected the numbers of {count} images, found {}", own.len());
    }
    ensure!(k <= others, "expected at least {k} images to compare with, found {others}");
    let queries = rows(images, length, Kind::Double)?;
    let squares = queries.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Double)?; // [n, 1]
    let mut found: Vec<Vec<Neighbour>> = vec![Vec::new(); count];
    let at_a_time = (BLOCK_VALUES / length).clamp(1, BLOCK);
    for start in (0..set.count()).step_by(at_a_time) {
        let end = set.count().min(start + at_a_time);
        let block = rows(&set.rows(start..end)?, length, Kind::Double)?;
        let block_squares =
            block.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        // Pixels are whole numbers, so that these sums are exact in float64.
        let products = queries.f_matmul(&block.f_tr()?)?; // [n, block]
        let distances = squares.f_add(&block_squares)?.f_sub(&products.f_mul_scalar(2.0)?)?;
        if let Some(own) = own {
            for (row, &own) in own.iter().enumerate().filter(|(_, own)| (start..end).contains(own))
            {
                let _ = distances
                    .f_get(row as i64)?
                    .f_get((own - start) as i64)?
                    .f_fill_(f64::INFINITY)?;
            }
        }
        // Whole numbers times the largest block's size leave room for the place in the block, so that of equally near
        // images the first one is nearest.
        let places = Tensor::f_arange((end - start) as i64, (Kind::Double, queries.device()))?;
        let distances = distances.f_mul_scalar(BLOCK as f64)?.f_add(&places)?;
        let k_here = k.min(end - start);
        let (values, indices) = distances.f_topk(k_here as i64, 1, false, true)?;
        let values = Vec::<f64>::try_from(values.f_flatten(0, -1)?)?;
        let indices = Vec::<i64>::try_from(indices.f_flatten(0, -1)?)?;
        let pairs: Vec<_> = values.into_iter().zip(indices).collect();
        for (nearest, pairs) in found.iter_mut().zip(pairs.chunks_exact(k_here)) {
            let finite = pairs.iter().filter(|(value, _)| value.is_finite());
            nearest.extend(finite.map(|&(value, index)| Neighbour {
                index: start + index as usize,
                distance: ((value / BLOCK as f64).floor() / length as f64).sqrt(),
            }));
            nearest.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.index.cmp(&b.index)));
            nearest.truncate(k);
        }
        progress(end - start);
    }
    Ok(found)
}

/// The distance to a real image below which an image may be a copy of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CopyThreshold(f64);

impl CopyThreshold {
    /// The threshold that only a hundredth of real images stay below, if `distances` are those of real images to the
    /// nearest other real one. Images that the set holds twice do not count: they say nothing of how near others are.
    pub fn among_real(distances: &[f64]) -> Self {
        let apart: Vec<_> = distances.iter().copied().filter(|&distance| distance > 0.0).collect();
        Self(if apart.is_empty() { 0.0 } else { Sorted::new(apart).quantile(1, 100) })
    }

    /// The threshold as a distance.
    pub fn distance(self) -> f64 {
        self.0
    }

    /// How many of `distances` to the nearest real image are those of possible copies. At 0, an image is a copy
    /// whatever the threshold is.
    pub fn count(self, distances: &[f64]) -> usize {
        distances.iter().filter(|&&distance| distance == 0.0 || distance < self.0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{ImageShape, ImageSize};

    /// Images that are one gray level each.
    fn flat(levels: impl IntoIterator<Item = u8>) -> Vec<u8> {
        levels.into_iter().flat_map(|level| [level; 1024]).collect()
    }

    #[test]
    fn the_nearest_come_first_across_blocks_and_no_image_is_its_own() -> Result<()> {
        // Levels 0, 1, …, 255, 0, 1, …
        let levels: Vec<u8> = (0..BLOCK + 300).map(|i| (i % 256) as u8).collect();
        let set = ImageSet::new("levels", ImageShape::reference(1), flat(levels.clone()))?;
        let mut compared = 0;
        let found = nearest(&flat([7, 255]), &set, 18, None, &mut |n| compared += n)?;
        assert_eq!(compared, levels.len());
        for (level, found) in [7, 255].into_iter().zip(&found) {
            // The level itself occurs seventeen or eighteen times; its neighbours come after it.
            let equal = levels.iter().filter(|&&other| other == level).count();
            for (i, neighbour) in found.iter().enumerate() {
                let expected = if i < equal { 0.0 } else { 1.0 };
                assert_eq!(neighbour.distance, expected, "{level} {i}");
                assert_eq!(f64::from(levels[neighbour.index].abs_diff(level)), expected);
            }
            assert!(
                found.windows(2).all(
                    |pair| pair[0].distance < pair[1].distance || pair[0].index < pair[1].index
                )
            );
        }
        let found = nearest(&flat([7]), &set, 1, Some(&[7]), &mut |_| {})?;
        assert_eq!(found[0], [Neighbour { index: 263, distance: 0.0 }]);
        assert!(nearest(&flat([7]), &set, levels.len(), Some(&[7]), &mut |_| {}).is_err());
        assert!(nearest(&[1], &set, 1, None, &mut |_| {}).is_err());
        Ok(())
    }

    #[test]
    fn large_images_are_compared_in_smaller_blocks() -> Result<()> {
        let shape = ImageShape { size: ImageSize::square(512), channels: 3 };
        let flat = |level: u8| vec![level; shape.len()];
        let levels = (0..20).flat_map(|level| flat(level % 10));
        let set = ImageSet::new("levels", shape, levels.collect())?;
        let mut told = Vec::new();
        let found = nearest(&flat(8), &set, 3, None, &mut |n| told.push(n))?;
        assert_eq!(told, [16, 4]);
        let expected = [(8, 0.0), (18, 0.0), (7, 1.0)];
        assert_eq!(found[0], expected.map(|(index, distance)| Neighbour { index, distance }));
        Ok(())
    }

    #[test]
    fn a_copy_is_nearer_than_the_nearest_hundredth_of_real_images_or_equal() {
        let real: Vec<f64> = (1..=300).rev().map(f64::from).collect();
        let threshold = CopyThreshold::among_real(&real);
        assert_eq!(threshold.distance(), 4.0);
        assert_eq!(threshold.count(&[0.0, 3.9, 4.0, 5.0]), 2);
        // A set that holds images twice: the others say what is near, and an equal image is a copy all the same.
        let twice: Vec<f64> = [0.0; 20].into_iter().chain(real).collect();
        assert_eq!(CopyThreshold::among_real(&twice), threshold);
        assert_eq!(CopyThreshold::among_real(&[0.0, 0.0]).count(&[0.0, 0.5]), 1);
    }
}
