//! `dcgan report`: one page that shows a run.

use std::process::ExitCode;

use anyhow::Result;

use super::output::{ensure_ending, ensure_free};
use crate::cli::ReportArgs;
use crate::files::write_bytes;
use crate::record::progress::say;
use crate::run::list::find;
use crate::run::resume::ensure_run;

/// `dcgan report`.
///
/// # Errors
/// [`Usage`], if there is no such run or a file is there already; as [`crate::record::report::html`].
pub fn report(args: &ReportArgs) -> Result<ExitCode> {
    ensure_ending("--out", &args.out, &["html"])?;
    ensure_free(&args.out, false, args.force)?;
    let run = find(&args.run)?;
    ensure_run(&run)?;
    write_bytes(&args.out, crate::record::report::html(&run)?.as_bytes())?;
    say(&format!("{}: {}", run.display(), args.out.display()));
    Ok(ExitCode::SUCCESS)
}
