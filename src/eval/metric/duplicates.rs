//! Generated images that are equal to each other.

use std::collections::HashMap;

use anyhow::Result;

use crate::eval::comparison::{Estimate, ImageComparison};

/// The share of generated images that equal another one in every pixel.
pub(super) fn share(compared: &ImageComparison) -> Result<Option<Estimate>> {
    let generated = &compared.generated;
    let bytes = generated.bytes(generated.count())?;
    let mut times_seen: HashMap<&[u8], usize> = HashMap::new();
    for image in bytes.chunks_exact(generated.set.image_len()) {
        *times_seen.entry(image).or_default() += 1;
    }
    let twins: usize = times_seen.values().filter(|&&times| times > 1).sum();
    let count = generated.count();
    Ok(Some(Estimate::of_share(twins as f64 / count as f64, count)))
}
