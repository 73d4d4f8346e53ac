//! Arguments of `plot`.

use std::path::PathBuf;

use clap::Args;

/// Arguments of `plot`.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// Runs: their folders, or their names or numbers under runs/
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// The file to write: .png or .svg
    #[arg(long, value_name = "FILE", default_value = "losses.png")]
    pub out: PathBuf,
    /// Overwrite what is there already
    #[arg(long)]
    pub force: bool,
}
