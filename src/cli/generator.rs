//! Arguments of every command that opens a generator.

use std::path::PathBuf;

use clap::Args;
use dcgan::settings::Precision;
use dcgan::weights::Variant;

use super::{DeviceArgs, one_of, precision};

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
    /// Where it computes.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// float32, float64, or bfloat16 in convolutions and dense layers
    #[arg(long, value_parser = precision, default_value = "f32")]
    pub precision: Precision,
}

/// What `--weights` takes.
pub(super) const VARIANTS: &[(&str, Variant)] =
    &[("average", Variant::Average), ("raw", Variant::Raw)];
