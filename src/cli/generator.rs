//! Arguments of every command that opens a generator.

use std::path::PathBuf;

use clap::Args;
use dcgan::device::DeviceChoice;
use dcgan::settings::Precision;
use dcgan::weights::Variant;

use super::{one_of, precision};

/// A trained generator, and where it computes.
#[derive(Debug, Args)]
pub struct GeneratorArgs {
    /// A run (its folder, or its name or number under runs/; its newest checkpoint is taken), a
    /// checkpoint, or exported weights [default: the built-in digits]
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// The moving average (of a run with --ema) or the raw weights [default: the average where there is one]
    #[arg(long, value_name = "average|raw", value_parser = one_of(VARIANTS))]
    pub weights: Option<Variant>,
    /// Where to compute: auto, cpu, cuda, cuda:N or mps
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// float32, float64, or bfloat16 in convolutions and dense layers
    #[arg(long, value_parser = precision, default_value = "f32")]
    pub precision: Precision,
    /// CPU threads [default: the physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// What `--weights` takes.
pub(super) const VARIANTS: &[(&str, Variant)] =
    &[("average", Variant::Average), ("raw", Variant::Raw)];
