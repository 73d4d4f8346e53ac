//! The folders for files that belong to no run, downloaded data sets and caches of what takes long to compute, and the
//! places that users write in short.

use std::path::{Path, PathBuf, absolute};

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

/// The folder for this program in the user's cache folder, which `XDG_CACHE_HOME` may name.
///
/// # Errors
/// If the user's cache folder is not known.
pub fn cache_home() -> Result<PathBuf> {
    // `etcetera` asks for a home folder first, which users of containers may not have. Relative paths do not count.
    let named = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let named = named.filter(|folder| cfg!(unix) && folder.is_absolute());
    let found = named.map_or_else(|| Ok(etcetera::choose_base_strategy()?.cache_dir()), anyhow::Ok);
    Ok(found
        .context("the user's cache folder is not known, because no home folder is")?
        .join("dcgan"))
}

/// Makes sure that files can be written to the folder `path` of a cache.
///
/// # Errors
/// If not; the message names the folder, and says what to do.
pub fn ensure_cache(path: &Path) -> Result<()> {
    let remedy = "XDG_CACHE_HOME can name another folder";
    std::fs::create_dir_all(path).and_then(|()| tempfile::tempfile_in(path).map(drop)).map_err(
        |error| anyhow!("{}: cannot be written ({}); {remedy}", path.display(), error.kind()),
    )
}

/// The path that a user means by `path`: `~` at its beginning is the user's home folder.
///
/// # Errors
/// If the home folder is not known.
pub fn with_home(path: &str) -> Result<PathBuf> {
    Ok(match path.strip_prefix('~') {
        // Of another user's home folder nothing is known here: `~name` is a name like any other.
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            let home = etcetera::home_dir().context("`~`: no home folder is known")?;
            // Without an empty part at its end.
            home.join(rest.trim_start_matches('/')).components().collect()
        }
        _ => PathBuf::from(path),
    })
}

/// As [`with_home`], and absolute, seen from where the process was started.
///
/// # Errors
/// If the home folder is not known, or the folder of the process is gone.
pub fn resolved(path: &str) -> Result<PathBuf> {
    absolute(with_home(path)?).context("the folder in which this was started is gone")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_home_folder_or_from_where_the_process_is() -> Result<()> {
        let (home, here) = (etcetera::home_dir()?, std::env::current_dir()?);
        for (path, expected) in [
            ("~", home.clone()),
            ("~/a b/c", home.join("a b/c")),
            ("~a/b", here.join("~a/b")),
            ("a/~/b", here.join("a/~/b")),
            ("./a", here.join("a")),
            ("../a", here.join("../a")),
            ("/a", "/a".into()),
        ] {
            assert_eq!(resolved(path)?, expected, "{path}");
        }
        Ok(())
    }
}
