//! Images as rows of numbers.

use anyhow::Result;
use tch::{Kind, Tensor};

/// Bytes of whole images of `image_len` bytes → one row of numbers for each image: `[n, image_len]`.
pub(super) fn rows(bytes: &[u8], image_len: usize, kind: Kind) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(bytes)?.f_view([-1, image_len as i64])?.f_to_kind(kind)?)
}
