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
    /// Train with so many processes on this machine, which together compute each batch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub ranks: Option<u16>,
    /// Print every tensor, not the worst of each group
    #[arg(short, long)]
    pub verbose: bool,
}
