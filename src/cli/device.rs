//! Arguments of every command that computes with networks, `train` aside, where they are settings.

use clap::Args;
use dcgan::device::DeviceChoice;
use dcgan::settings::Switch;

use super::one_of;

/// Where to compute.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda, cuda:N or mps
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// On CUDA, let float32 convolutions and dense layers compute in TensorFloat-32
    #[arg(long, value_parser = one_of(&[("on", Switch::On), ("off", Switch::Off)]), default_value = "off")]
    pub tf32: Switch,
    /// CPU threads [default: OMP_NUM_THREADS, else the physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}
