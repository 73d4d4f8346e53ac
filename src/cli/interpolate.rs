//! Arguments of `interpolate`.

use std::path::PathBuf;

use clap::Args;
use dcgan::settings::whole_number;

use super::{GeneratorArgs, frame_rate};

/// Arguments of `interpolate`.
#[derive(Debug, Args)]
pub struct InterpolateArgs {
    /// Which generator, and where it computes.
    #[command(flatten)]
    pub generator: GeneratorArgs,
    /// The file to write: walk.gif or walk.mp4, which go round in a circle, or walk.png, a row of images a
    /// walk
    #[arg(long, value_name = "FILE", default_value = "walk.gif")]
    pub out: PathBuf,
    /// Frames of an animation, images of a strip [default: 60; of a strip 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub frames: Option<u32>,
    /// Random z that a walk passes through [default: 8; of a strip 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub keyframes: Option<u32>,
    /// How many walks, side by side [default: 16; of a strip 8, one below the other]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=400))]
    pub walks: Option<u32>,
    /// Decides the noise
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole_number)]
    pub seed: u64,
    /// Your own keyframes of one walk instead: a .npy file of floats [N, z_dim]
    #[arg(long, value_name = "FILE.npy", conflicts_with_all = ["seed", "keyframes", "walks"])]
    pub z: Option<PathBuf>,
    /// Of a conditional generator (train --conditional): stay in this class, or go from class to class with the same z,
    /// such as 3,8
    #[arg(long = "class", value_name = "CLASS,...")]
    pub classes: Vec<String>,
    /// Straight from z to z [default for uniform noise]
    #[arg(long, conflicts_with = "slerp")]
    pub linear: bool,
    /// Along the sphere, keeping z's length [default for normal noise]
    #[arg(long)]
    pub slerp: bool,
    /// Frames a second
    #[arg(long, value_name = "N", default_value = "20", value_parser = frame_rate)]
    pub fps: f64,
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
