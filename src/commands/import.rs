//! `dcgan import`: trained networks from other ecosystems.

use std::process::ExitCode;

use anyhow::Result;
use dcgan::device;
use dcgan::error::Usage;
use dcgan::train::import::Imported;

use super::output::{ensure_ending, ensure_free, shell_quoted};
use super::progress::say;
use crate::cli::ImportArgs;

/// `dcgan import`.
///
/// # Errors
/// As [`Imported::read`]; if a file is there already or cannot be written.
pub fn import(args: &ImportArgs) -> Result<ExitCode> {
    ensure_ending("--out", &args.out, &["safetensors"])?;
    if let Some(input) = args.files.iter().find(|file| **file == args.out) {
        let message = format!("--out {}: is what is imported; name another file", input.display());
        return Err(Usage(message).into());
    }
    ensure_free(&args.out, false, args.force)?;
    device::configure(device::default_threads(), false)?;
    let imported = Imported::read(&args.files)?;
    imported.save(&args.out)?;
    imported.notes.iter().for_each(|note| say(note));
    let (out, iteration) = (args.out.display().to_string(), imported.iteration());
    let quoted = shell_quoted(&out);
    say(&format!(
        "{out}: iteration {iteration}; resume it with: dcgan train --resume {quoted} --fork NEWRUN --iterations N (more than \
         {iteration}, and --dataset SPEC where it is another)"
    ));
    Ok(ExitCode::SUCCESS)
}
