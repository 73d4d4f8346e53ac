//! The nearest images of a set, by their pixels.

use anyhow::{Result, ensure};
use tch::{Kind, Tensor};

use crate::data::ImageSet;

/// Images of the set that are compared at a time.
const BLOCK: usize = 4096;

/// An image of a set, and how far away it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its number in the set.
    pub index: usize,
    /// Root mean square of the differences of pixels, in levels of 255.
    pub distance: f64,
}

/// The `k` nearest images of `set` to each of `images` `[n, H, W, C]`, nearest first; of equally near ones
/// those that come first. `own` are the numbers of the images themselves, where they are of the set: none is
/// its own neighbour. `done` is told how many of the set have been compared.
///
/// # Errors
/// If `images` is not whole images of the set's shape, the set has fewer than `k` others, or it cannot be
/// read.
pub fn nearest(
    images: &[u8],
    set: &ImageSet,
    k: usize,
    own: Option<&[usize]>,
    done: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<Neighbour>>> {
    let length = set.image_len();
    ensure!(images.len().is_multiple_of(length), "{} bytes are no whole images", images.len());
    let others = set.count() - usize::from(own.is_some());
    ensure!(k >= 1, "at least one neighbour is looked for");
    let count = images.len() / length;
    ensure!(own.is_none_or(|own| own.len() == count), "a number for each of {count} images");
    ensure!(k <= others, "the data set has {others} images to compare with, fewer than {k}");
    let queries = rows(images, length)?;
    let squares = queries.f_square()?.f_sum_dim_intlist([1i64].as_slice(), true, Kind::Double)?; // [n, 1]
    let mut found: Vec<Vec<Neighbour>> = vec![Vec::new(); count];
    for start in (0..set.count()).step_by(BLOCK) {
        let end = set.count().min(start + BLOCK);
        let block = rows(&set.images(start..end)?, length)?;
        let block_squares =
            block.f_square()?.f_sum_dim_intlist([1i64].as_slice(), false, Kind::Double)?;
        // Whole numbers in float64: exact.
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
        // Whole numbers leave room for which comes first, where distances are equal.
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
        done(end - start);
    }
    Ok(found)
}

/// Of the distances of real images to their nearest others, that which the nearest hundredth stays below; there is
/// at least one.
pub fn suspicious(real: &[f64]) -> f64 {
    let mut sorted = real.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 100]
}

/// Whether an image at this distance from its nearest real one may be a copy. An equal one is, whatever is usual.
pub fn is_copy(distance: f64, suspicious: f64) -> bool {
    distance == 0.0 || distance < suspicious
}

/// Bytes as rows of float64: `[n, length]`.
fn rows(bytes: &[u8], length: usize) -> Result<Tensor> {
    let rows = Tensor::f_from_slice(bytes)?.f_view([-1, length as i64])?;
    Ok(rows.f_to_kind(Kind::Double)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::ImageShape;

    /// Images of one level each.
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
            // Seventeen times the level itself (or eighteen), then the next ones.
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
}
