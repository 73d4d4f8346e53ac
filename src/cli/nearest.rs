//! Arguments of `nearest`.

use std::path::PathBuf;

use clap::Args;
use dcgan::settings::whole_number;

use super::{DataArgs, GeneratorArgs};

/// Arguments of `nearest`.
#[derive(Debug, Args)]
pub struct NearestArgs {
    /// Which generator, and where it computes.
    #[command(flatten)]
    pub generator: GeneratorArgs,
    /// The images that the model was trained on; `dcgan data` says more [default: what the model names]
    #[arg(long, value_name = "SPEC", help_heading = "Data")]
    pub dataset: Option<String>,
    /// How they are read.
    #[command(flatten)]
    pub data: DataArgs,
    /// How many generated images
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub count: u32,
    /// How many of the nearest images of each
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub neighbours: u32,
    /// Decides the noise
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole_number)]
    pub seed: u64,
    /// The picture to write: a generated image a row, its nearest ones to the right
    #[arg(long, value_name = "FILE.png", default_value = "nearest.png")]
    pub out: PathBuf,
    /// Draw each pixel as an N×N square
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub scale: u16,
    /// Overwrite what is there already
    #[arg(long)]
    pub force: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}
