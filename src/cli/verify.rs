//! Arguments of `verify`.

use std::path::PathBuf;

use clap::Args;
use dcgan::device::DeviceChoice;

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Reference files, as scripts/make_reference.py writes them
    #[arg(required = true, value_name = "FILE.safetensors")]
    pub files: Vec<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N or mps
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
    /// CPU threads [default: the physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print every tensor, not the worst of each group
    #[arg(short, long)]
    pub verbose: bool,
}
