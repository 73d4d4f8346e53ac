//! `dcgan doctor`: what this build and this machine can do.

use std::process::ExitCode;

use anyhow::Result;
use dcgan::device;

use super::output::print;

/// `dcgan doctor`.
///
/// # Errors
/// If standard output fails.
pub fn doctor() -> Result<ExitCode> {
    print(format!("{}\n", device::doctor()).as_bytes())
}
