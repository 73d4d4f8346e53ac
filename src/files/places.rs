//! Where files are kept that no run owns: fetched data sets, and what would have to be computed again.

use std::path::PathBuf;

use anyhow::{Context, Result};
use etcetera::BaseStrategy;

/// Where fetched files are: the folder that `DCGAN_DATA` names, or the user's cache folder.
///
/// # Errors
/// If neither is known.
pub fn data_home() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DCGAN_DATA").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    cache_home()
}

/// The user's cache folder for this program.
///
/// # Errors
/// If it is not known.
pub fn cache_home() -> Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy()
        .context("no home folder is known; set DCGAN_DATA to a folder for data sets")?;
    Ok(strategy.cache_dir().join("dcgan"))
}
