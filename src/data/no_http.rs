//! What stands for downloads over HTTP in a build without the feature `cli`.

use std::fs::File;
use std::path::Path;

use anyhow::anyhow;

use super::fetch::{Failure, RetryPolicy};
use super::load::Event;

/// Fails: a build without the feature cannot download.
pub(super) fn append(
    _url: &str,
    _name: &str,
    _file: &mut File,
    _partial: &Path,
    _retry: RetryPolicy,
    _tell: &mut dyn FnMut(Event),
) -> Result<(), Failure> {
    Err(Failure::Mirror(anyhow!("this build cannot download: it lacks the feature `cli`")))
}
