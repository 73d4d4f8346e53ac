//! Arguments of `sample`.

use std::path::PathBuf;

use clap::Args;
use dcgan::settings::whole_number;

use super::GeneratorArgs;

/// Arguments of `sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Which generator, and where it computes.
    #[command(flatten)]
    pub generator: GeneratorArgs,
    /// How many images [default: 64, or what --grid or --z holds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub count: Option<u32>,
    /// Decides the noise; each image has its own, whatever --count is
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole_number)]
    pub seed: u64,
    /// Your own z instead: a .npy file of floats [N, z_dim]
    #[arg(long, value_name = "FILE.npy", conflicts_with = "seed")]
    pub z: Option<PathBuf>,
    /// Of a conditional generator (train --conditional): images of this class; of several, such as cat,dog, in turn
    /// [default: each class as often as in training; with --z all classes in turn]
    #[arg(long = "class", value_name = "CLASS,...")]
    pub classes: Vec<String>,
    /// Columns and rows of the picture [default: as square as --count allows]
    #[arg(long, value_name = "COLUMNSxROWS", value_parser = grid_size, conflicts_with_all = ["out_dir", "npz", "npy"])]
    pub grid: Option<GridSize>,
    /// One picture of all images [default: samples.png]
    #[arg(long, value_name = "FILE.png", conflicts_with_all = ["out_dir", "npz", "npy"])]
    pub out: Option<PathBuf>,
    /// One PNG an image in this new folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["npz", "npy"])]
    pub out_dir: Option<PathBuf>,
    /// One array of bytes [N, H, W, C], as metric tools read it
    #[arg(long, value_name = "FILE.npz", conflicts_with = "npy")]
    pub npz: Option<PathBuf>,
    /// One array of float32 [N, C, H, W] in [-1, 1], as the network gives them
    #[arg(long, value_name = "FILE.npy")]
    pub npy: Option<PathBuf>,
    /// Overwrite what is there already
    #[arg(long)]
    pub force: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

/// Columns and rows of a picture of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GridSize {
    /// Images side by side.
    pub columns: usize,
    /// Images one below the other.
    pub rows: usize,
}

/// Such as 8x8.
fn grid_size(text: &str) -> Result<GridSize, String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=10_000).contains(side));
    text.split_once(['x', '×'])
        .and_then(|(columns, rows)| Some(GridSize { columns: side(columns)?, rows: side(rows)? }))
        .ok_or_else(|| "expected columns and rows, such as 8x8".to_owned())
}
