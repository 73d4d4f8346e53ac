//! Parse, dispatch, print the error chain, choose the exit code.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};
use dcgan::cli::{Cli, Command};
use dcgan::config::Usage;
use dcgan::{commands, device};

fn main() -> ExitCode {
    // SAFETY: nothing has started a thread yet.
    unsafe { device::forbid_tf32() };
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // `eprintln!` panics where nobody reads any more.
            let _ = writeln!(std::io::stderr(), "error: {}", readable(&error));
            ExitCode::from(if error.downcast_ref::<Usage>().is_some() { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        None => commands::train(&cli.train),
        Some(Command::Train(args)) => commands::train(&args),
        Some(Command::Verify(args)) => commands::verify(&args),
        Some(Command::Bench(args)) => commands::bench(&args),
        Some(Command::Doctor) => commands::doctor(),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dcgan", &mut script);
            commands::print(&script)
        }
    }
}

/// The chain in one line, without the stack of C++ frames that libtorch appends to its messages.
fn readable(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        let text = text.split("\nException raised from").next().unwrap_or_default().trim();
        // Some errors repeat their source in their own message.
        if parts.last().is_none_or(|last| !last.contains(text)) {
            parts.push(text.to_owned());
        }
    }
    parts.join(": ")
}
