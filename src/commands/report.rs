//! `dcgan report`: one page that shows a run.

use std::process::ExitCode;

use anyhow::Result;

use super::output::shell_quoted;
use super::progress::say;
use crate::cli::ReportArgs;
use dcgan::files::write_bytes;
use dcgan::run::list::find;
use dcgan::run::report::html;
use dcgan::run::resume::ensure_run;

/// `dcgan report`.
///
/// # Errors
/// [`Usage`](dcgan::error::Usage), if there is no such run or a file is there already; as [`html`].
pub fn report(args: &ReportArgs) -> Result<ExitCode> {
    super::output::ensure_ending("--out", &args.out, &["html"])?;
    super::output::ensure_free(&args.out, false, args.force)?;
    let run = find(&args.run)?;
    ensure_run(&run)?;
    let config = run.canonicalize().unwrap_or_else(|_| run.clone()).join("config.toml");
    let command = format!("dcgan train --config {}", shell_quoted(&config.display().to_string()));
    write_bytes(&args.out, html(&run, &command)?.as_bytes())?;
    say(&format!("{}: {}", run.display(), args.out.display()));
    Ok(ExitCode::SUCCESS)
}
