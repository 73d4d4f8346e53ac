//! Parse, dispatch, print the error chain, choose the exit code.

mod cli;
mod commands;

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;
use dcgan::files;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let (cli, command) = Cli::of_process();
    if cli.computes() {
        // This may start the program anew, so it comes before anything is read that could change in between.
        commands::let_idle_threads_sleep();
    }
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            commands::wait_if_interrupted();
            commands::print_error(&error, &command);
            commands::exit_code(&error)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    files::let_the_size_limit_be_an_error();
    if !cli.trains() {
        commands::leave_nothing_when_interrupted()?;
    }
    match cli.command {
        None => commands::train(&cli.train),
        Some(Command::Train(args)) => commands::train(&args),
        Some(Command::Verify(args)) => commands::verify(&args),
        Some(Command::Bench(args)) => commands::bench(&args),
        Some(Command::Sample(args)) => commands::sample(&args),
        Some(Command::Interpolate(args)) => commands::interpolate(&args),
        Some(Command::Film(args)) => commands::film(&args),
        Some(Command::Plot(args)) => commands::plot(&args),
        Some(Command::Report(args)) => commands::report(&args),
        Some(Command::Nearest(args)) => commands::nearest(&args),
        Some(Command::Eval(args)) => commands::eval(&args),
        Some(Command::Export(args)) => commands::export(&args),
        Some(Command::Import(args)) => commands::import(&args),
        Some(Command::Data(args)) => commands::data(&args),
        Some(Command::Runs(args)) => commands::runs(&args),
        Some(Command::Doctor) => commands::doctor(),
        Some(Command::Man { command }) => commands::man(command.as_deref()),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "dcgan", &mut script);
            commands::print(&script)
        }
    }
}
