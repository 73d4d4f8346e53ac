//! `dcgan doctor`: what this build and this machine can do.

use std::process::ExitCode;

use anyhow::Result;

use super::output::print;
use crate::device;

/// `dcgan doctor`.
///
/// # Errors
/// If standard output fails.
pub fn doctor() -> Result<ExitCode> {
    print(format!("{}\n", device::doctor()).as_bytes())
}
