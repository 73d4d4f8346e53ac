//! What stands for downloads over HTTP in a build without the feature `cli`.

use std::fs::File;
use std::path::Path;

use anyhow::anyhow;

use super::fetch::{Failure, RetryPolicy};

/// Fails: a build without the feature cannot download.
pub(super) fn append(
    _url: &str,
    _file: &mut File,
    _partial: &Path,
    _retry: RetryPolicy,
    _progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<(), Failure> {
    Err(Failure::Mirror(anyhow!("this build cannot download: it lacks the feature `cli`")))
}
