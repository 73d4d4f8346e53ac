//! `dcgan man`: manual pages, made of the same descriptions as `--help`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::CommandFactory;
use dcgan::error::Usage;

use crate::cli::Cli;

/// Prints the manual page of `command`, or that of the whole program.
pub fn man(command: Option<&str>) -> Result<ExitCode> {
    let mut page = Cli::command();
    page.build();
    if let Some(name) = command {
        page = page.find_subcommand(name).cloned().ok_or_else(|| {
            Usage(format!("man {name}: there is no such command; `dcgan --help` lists all"))
        })?;
    }
    let mut text = Vec::new();
    clap_mangen::Man::new(page).render(&mut text).context("can't make the manual page")?;
    super::print(&text)
}
