//! Arguments of `film`.

use std::path::PathBuf;

use clap::Args;

use super::frame_rate;

/// Arguments of `film`.
#[derive(Debug, Args)]
pub struct FilmArgs {
    /// The run: its folder, or its name or number under runs/
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The file to write: .gif, or .mp4 where ffmpeg is installed
    #[arg(long, value_name = "FILE", default_value = "training.gif")]
    pub out: PathBuf,
    /// Frames a second
    #[arg(long, value_name = "N", default_value = "8", value_parser = frame_rate)]
    pub fps: f64,
    /// Draw each pixel as an N×N square [default: as many as 410 pixels in width allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub scale: Option<u16>,
    /// Overwrite what is there already
    #[arg(long)]
    pub force: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}
