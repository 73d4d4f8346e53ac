//! The check that values are finite, before they are written to a file or shown.

use anyhow::{Result, anyhow, ensure};
use tch::{Kind, Tensor};

/// The error that a value which was to be written or shown is NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite;

impl std::fmt::Display for NotFinite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value is not finite")
    }
}

impl std::error::Error for NotFinite {}

/// Checks that `tensor` holds floats, and that every one of them is finite.
///
/// # Errors
/// [`NotFinite`], if a value is not. The message says that it is one of `what`.
pub fn ensure_finite(what: &str, tensor: &Tensor) -> Result<()> {
    let kind = tensor.f_kind()?;
    ensure!(kind != Kind::Int64, "{what}: expected floats, found {kind:?}");
    ensure_every(what, tensor.f_isfinite()?.f_all()?.f_int64_value(&[])? != 0)
}

/// Checks that every one of some values is finite, where that `is_finite` is known already.
///
/// # Errors
/// As [`ensure_finite`].
pub fn ensure_every(what: &str, is_finite: bool) -> Result<()> {
    if is_finite { Ok(()) } else { Err(anyhow!(NotFinite).context(what.to_owned())) }
}
