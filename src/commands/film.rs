//! `dcgan film`: a run's samples over time.

use std::process::ExitCode;

use anyhow::Result;
use dcgan::run::list::find;
use dcgan::run::resume::ensure_run;

use super::movie::{ensure_rate, write_film};
use super::output::{ensure_ending, ensure_free};
use super::progress::say;
use crate::cli::{FilmArgs, Verbosity};

/// `dcgan film`.
///
/// # Errors
/// [`Usage`], if there is no such run, it has no samples, or a file is there already; if a sample cannot be
/// read or the film cannot be written.
pub fn film(args: &FilmArgs) -> Result<ExitCode> {
    ensure_ending("--out", &args.out, &["gif", "mp4"])?;
    ensure_rate(args.fps, &args.out)?;
    ensure_free(&args.out, false, args.force)?;
    let run = find(&args.run)?;
    ensure_run(&run)?;
    let verbosity = Verbosity::unless(args.quiet);
    let frames = write_film(&run, &args.out, args.fps, args.scale.map(usize::from), verbosity)?;
    if !args.quiet {
        say(&format!("{frames} frames: {}", args.out.display()));
    }
    Ok(ExitCode::SUCCESS)
}
