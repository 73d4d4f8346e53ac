//! Values that are not finite enter no weight and no file.

use anyhow::{Result, anyhow};
use tch::Tensor;

/// A value that was to be kept or shown is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value is not finite")
    }
}

impl std::error::Error for NotFinite {}

/// Whether every value of `tensor` is finite.
///
/// # Errors
/// [`NotFinite`], of `what`, if one is not.
pub fn ensure_finite(what: &str, tensor: &Tensor) -> Result<()> {
    let finite = tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0;
    if finite { Ok(()) } else { Err(anyhow!(NotFinite).context(what.to_owned())) }
}
