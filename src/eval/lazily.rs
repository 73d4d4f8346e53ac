//! Values that are made when they are first asked for.

use std::cell::OnceCell;

use anyhow::Result;

/// The value in `cell`, which `make` makes if there is none yet. (The standard library's own is not stable.)
pub(super) fn get_or_try_init<T>(
    cell: &OnceCell<T>,
    make: impl FnOnce() -> Result<T>,
) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}
