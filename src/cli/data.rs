//! Arguments of `data`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dcgan::settings::whole_number;

use super::DataArgs;

/// Arguments of `data`.
#[derive(Debug, Args)]
pub struct DataCommandArgs {
    /// What to do; without one: list
    #[command(subcommand)]
    pub command: Option<DataCommand>,
}

/// The commands of `data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Say which data sets there are, and which of them are here (the default)
    List,
    /// Say what a data set holds, and draw images from all over it
    Show {
        /// Which images, as for --dataset
        spec: String,
        /// How they are read.
        #[command(flatten)]
        options: DataArgs,
        /// Chooses the images of --limit
        #[arg(long, value_parser = whole_number, value_name = "N")]
        seed: Option<u64>,
        /// Where the contact sheet of up to 144 images goes; with none, no sheet is drawn
        #[arg(long, value_name = "FILE.png")]
        sheet: Option<PathBuf>,
        /// Overwrite a sheet that is there already
        #[arg(long)]
        force: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Download a public data set, and verify what is there
    Fetch {
        /// mnist, fashion-mnist, kmnist, svhn, cifar10, cifar100, emnist-letters or the like; a part of one, such as
        /// svhn:extra
        spec: String,
        /// A mirror to take instead of the known ones: the URL of the folder of its files; file: too
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
    },
}
