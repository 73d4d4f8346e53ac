//! The folders for files that belong to no run: downloaded data sets, and caches of what takes long to compute.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use etcetera::BaseStrategy;

/// The folder for downloaded data sets: the one that `DCGAN_DATA` names, or the user's cache folder.
///
/// # Errors
/// If the variable is not set and the user's cache folder is not known.
pub fn data_home() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("DCGAN_DATA").filter(|folder| !folder.is_empty()) {
        return Ok(folder.into());
    }
    let home = cache_home();
    home.map_err(|error| anyhow!("{error:#}; set DCGAN_DATA to a folder for data sets"))
}

/// The folder for this program in the user's cache folder.
///
/// # Errors
/// If the user's cache folder is not known.
pub fn cache_home() -> Result<PathBuf> {
    let strategy = etcetera::choose_base_strategy()
        .context("the user's cache folder is not known, because no home folder is")?;
    Ok(strategy.cache_dir().join("dcgan"))
}
