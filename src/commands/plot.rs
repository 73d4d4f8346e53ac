//! `dcgan plot`: the curves of one run or of several.

use std::process::ExitCode;

use anyhow::Result;

use super::progress::say;
use crate::cli::PlotArgs;
use dcgan::error::Usage;
use dcgan::files::write_bytes;
use dcgan::record::jsonl::read_metrics;
use dcgan::record::plot::{CURVES, Curves, Plot};
use dcgan::run::list::{BestCheckpoint, find, name_of};
use dcgan::run::resume::ensure_run;

/// `dcgan plot`.
///
/// # Errors
/// [`Usage`], if there is no such run, nothing is logged, or a file is there already; if it cannot be read or
/// written.
pub fn plot(args: &PlotArgs) -> Result<ExitCode> {
    super::output::ensure_ending("--out", &args.out, &["png", "svg"])?;
    if args.runs.len() > CURVES {
        let message = format!("{} runs: a plot tells {CURVES} apart at most", args.runs.len());
        return Err(Usage(message).into());
    }
    super::output::ensure_free(&args.out, false, args.force)?;
    let mut runs = Vec::new();
    for run in &args.runs {
        let path = find(run)?;
        ensure_run(&path)?;
        let file = path.join("metrics.jsonl");
        let metrics = if file.exists() { read_metrics(&file)? } else { Vec::new() };
        if metrics.is_empty() {
            return Err(Usage(format!("{}: nothing has been logged yet", path.display())).into());
        }
        let name = name_of(&path);
        // Runs in different folders may have the same name; then the path tells which is which.
        let is_taken = runs.iter().any(|other: &Curves| other.name == name);
        let name = if is_taken { path.display().to_string() } else { name };
        let best = BestCheckpoint::of_run(&path).map(|best| best.file.iteration);
        runs.push(Curves { name, metrics, best });
    }
    let plot = Plot::of_runs(&runs);
    let bytes = if super::output::ending(&args.out) == "svg" {
        plot.svg()?.into_bytes()
    } else {
        plot.picture()?.png()?
    };
    write_bytes(&args.out, &bytes)?;
    say(&format!("{} run(s): {}", runs.len(), args.out.display()));
    Ok(ExitCode::SUCCESS)
}
