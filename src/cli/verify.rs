//! Arguments of `verify`.

use std::path::PathBuf;

use clap::Args;

use super::DeviceArgs;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(mut_arg("device", |device| device.default_value("cpu")))]
pub struct VerifyArgs {
    /// Reference files, as scripts/make_reference.py writes them
    #[arg(required = true, value_name = "FILE.safetensors")]
    pub files: Vec<PathBuf>,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Print every tensor, not the worst of each group
    #[arg(short, long)]
    pub verbose: bool,
}
