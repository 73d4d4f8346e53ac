//! Arguments of `runs`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use dcgan::run::RUNS;

/// Arguments of `runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// What to do; without one: list
    #[command(subcommand)]
    pub command: Option<RunsCommand>,
    /// The folder of the runs
    #[arg(long, value_name = "DIR", default_value = RUNS, global = true)]
    pub dir: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands of `runs`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List all runs (the default)
    List,
    /// Show one run in full
    Show {
        /// Its folder, or its name or number under --dir
        run: PathBuf,
    },
    /// Watch one run: its losses, its newest samples, the time that is left
    ///
    /// On a terminal the view follows a run that is training, until that ends or Ctrl-C ends the view. Elsewhere it is
    /// printed once, as plain text without the samples.
    Watch {
        /// Its folder, or its name or number under --dir
        run: PathBuf,
    },
    /// Compare runs: settings that differ, and metrics side by side
    Compare {
        /// Their folders, or their names or numbers under --dir
        #[arg(required = true, num_args = 2..=8, value_name = "RUN")]
        runs: Vec<PathBuf>,
    },
    /// Remove old checkpoints, after asking
    ///
    /// Keeps the newest of each run, the newest that shows no sign of collapse, and every file that was
    /// given a name of its own. Removes what a resumption has set aside as damaged. Leaves runs alone
    /// that are running, or whose newest checkpoint cannot be read.
    Prune {
        /// Which runs: folders, or names or numbers under --dir [default: all under --dir]
        runs: Vec<PathBuf>,
        /// How many of the newest checkpoints each run keeps
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
        /// Say what would be removed, and stop
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
    },
}
