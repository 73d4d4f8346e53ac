//! The command line: clap types, one file a command, turned into settings.

mod bench;
mod data;
mod device;
mod eval;
mod export;
mod film;
mod generator;
mod import;
mod interpolate;
mod misread;
mod nearest;
mod plot;
mod report;
mod runs;
mod sample;
mod settings;
mod train;
mod verify;

use std::ffi::OsString;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use dcgan::architecture::halvings;
use dcgan::files::places::with_home as with_home_folder;
use dcgan::settings::Precision;
use dcgan::shape::ImageSize;

pub use bench::BenchArgs;
pub use data::{DataCommand, DataCommandArgs};
pub use device::DeviceArgs;
pub use eval::EvalArgs;
pub use export::{ExportArgs, ExportFormat};
pub use film::FilmArgs;
pub use generator::GeneratorArgs;
pub use import::ImportArgs;
pub use interpolate::InterpolateArgs;
pub use nearest::NearestArgs;
pub use plot::PlotArgs;
pub use report::ReportArgs;
pub use runs::{RunsArgs, RunsCommand};
pub use sample::{GridSize, SampleArgs};
pub use settings::{DataArgs, SettingArgs};
pub use train::TrainArgs;
pub use verify::VerifyArgs;

/// Train a DCGAN exactly as the TensorFlow 1 reference does.
#[derive(Debug, Parser)]
#[command(
    name = "dcgan",
    version,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    allow_negative_numbers = true,
    after_help = "\
Training is the default command: `dcgan --epochs 5` is `dcgan train --epochs 5`. Ctrl-C (SIGINT), \
SIGTERM and SIGHUP end a run with its state saved (exit status 130, 143, 129), and --resume continues it. \
SIGUSR1 and SIGUSR2 save the state, and training goes on.

Examples:
  dcgan                                  train on the built-in digits, on the best device
  dcgan --device cuda --epochs 50        longer, on the GPU
  dcgan --iterations 20 --base-width 8   a first look, in seconds
  dcgan --config runs/NAME/config.toml   repeat a run
  dcgan --resume runs/NAME               resume one
  tensorboard --logdir runs              watch"
)]
pub struct Cli {
    /// What to do; without one: train.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `train`.
    #[command(flatten)]
    pub train: TrainArgs,
}

/// An argument with the user's home folder in place of `~`, where a shell has left that alone: in quotes, or behind the
/// equals sign of a flag, as in `--run=~/x`. Otherwise a folder of the name `~` would be made.
fn with_home(argument: OsString) -> OsString {
    let Some(text) = argument.to_str() else { return argument };
    let (flag, path) = match text.split_once('=') {
        Some((flag, path)) if flag.starts_with("--") => (Some(flag), path),
        _ => (None, text),
    };
    match with_home_folder(path) {
        Ok(home) if path.starts_with("~/") => {
            let flag = flag.map(|flag| format!("{flag}=")).unwrap_or_default();
            (flag + &home.display().to_string()).into()
        }
        _ => argument,
    }
}

impl Cli {
    /// The arguments of this process, and the name of its command, such as `train` or `data show`.
    pub fn of_process() -> (Self, String) {
        let arguments: Vec<_> = std::env::args_os().map(with_home).collect();
        let matches = Self::command().try_get_matches_from(&arguments).unwrap_or_else(|error| {
            match misread::explained(&error, &arguments) {
                Some(text) => Self::command().error(error.kind(), text).exit(),
                None => misread::without_far_proposal(error).exit(),
            }
        });
        let cli = Self::from_arg_matches(&matches)
            .unwrap_or_else(|error| error.format(&mut Self::command()).exit());
        let (mut names, mut at) = (Vec::new(), &matches);
        while let Some((name, within)) = at.subcommand() {
            names.push(name);
            at = within;
        }
        let name = if names.is_empty() { "train".to_owned() } else { names.join(" ") };
        (cli, name)
    }

    /// Whether the command is `train`.
    pub fn trains(&self) -> bool {
        matches!(self.command, None | Some(Command::Train(_)))
    }

    /// Whether the command computes with networks.
    pub fn computes(&self) -> bool {
        matches!(
            self.command,
            None | Some(
                Command::Train(_)
                    | Command::Sample(_)
                    | Command::Interpolate(_)
                    | Command::Nearest(_)
                    | Command::Eval(_)
                    | Command::Verify(_)
                    | Command::Bench(_)
            )
        )
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a GAN (the default)
    #[command(args_override_self = true, allow_negative_numbers = true)]
    Train(Box<TrainArgs>),
    /// Make images with a trained generator
    ///
    /// Without MODEL: with the small generator of handwritten digits that the program holds.
    Sample(SampleArgs),
    /// Walk through latent space: an animation (.gif, .mp4) or a strip (.png)
    Interpolate(InterpolateArgs),
    /// Make a film of a run's samples, the iteration on each frame (.gif, or .mp4 with ffmpeg)
    Film(FilmArgs),
    /// Plot losses and probabilities of one run or several (.png, .svg)
    Plot(PlotArgs),
    /// Write one HTML file that shows a run: samples over time, curves, settings, how to repeat it
    Report(ReportArgs),
    /// Show generated images beside the nearest images of a data set: does the model copy?
    Nearest(NearestArgs),
    /// Measure how good generated images are: Fréchet and kernel distance, precision, recall and more
    ///
    /// Each metric is printed with its uncertainty (a standard deviation) and its floor: what it says of real
    /// images that were held out.
    Eval(Box<EvalArgs>),
    /// Write a trained network for PyTorch, TensorFlow, libtorch or onnxruntime
    Export(ExportArgs),
    /// Make a checkpoint of exported weights, to train on from
    ///
    /// `dcgan train --resume CHECKPOINT --fork NEWRUN` then trains on, on a data set of the same channels.
    Import(ImportArgs),
    /// Check this build against files of what the real TensorFlow computed
    ///
    /// Prints a table of errors and bounds for each file; exit status 1 if any fails.
    Verify(VerifyArgs),
    /// Measure the time of an iteration on this machine
    Bench(BenchArgs),
    /// Say what this build and this machine can do, and what to do about each 'no'
    Doctor,
    /// List data sets, look into one, or fetch one
    Data(DataCommandArgs),
    /// List the runs under runs/, show one, or remove old checkpoints
    Runs(RunsArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print a manual page, for `man`
    Man {
        /// The command that the page is about; without one, the whole program
        command: Option<String>,
    },
}

/// Whether the command of this name, such as `train` or `data show`, has this flag, given without its dashes.
pub fn has_flag(command: &str, flag: &str) -> bool {
    let mut found = Cli::command();
    for name in command.split(' ') {
        let Some(within) = found.find_subcommand(name).cloned() else { return false };
        found = within;
    }
    found.get_arguments().any(|argument| argument.get_long() == Some(flag))
}

/// How much to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors and warnings alone.
    Quiet,
    /// Where the run goes and how it goes.
    #[default]
    Normal,
    /// The layers and settings too.
    Verbose,
}

impl Verbosity {
    /// As usual, unless nothing is to be said.
    pub fn unless(quiet: bool) -> Self {
        if quiet { Self::Quiet } else { Self::Normal }
    }
}

/// Frames a second.
fn frame_rate(text: &str) -> Result<f64, String> {
    let fps = text.parse().ok().filter(|fps| (0.1..=100.0).contains(fps));
    fps.ok_or_else(|| "expected 0.1 to 100 frames a second".to_owned())
}

fn precision(text: &str) -> Result<Precision, String> {
    let names = Precision::ALL.map(Precision::name).join(", ");
    Precision::from_name(text).ok_or_else(|| format!("expected one of {names}"))
}

/// A size for which networks can be made.
fn image_size(text: &str) -> Result<ImageSize, String> {
    let size: ImageSize = text.parse()?;
    halvings(size).map(|_| size).map_err(|error| error.to_string())
}

/// The value that each of these words stands for.
fn one_of<T: Clone + Send + Sync>(
    words: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words.iter().map(|(word, _)| word)).try_map(|text| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| value.clone()).ok_or("expected one of the words")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_of_every_command_names_every_flag() {
        let mut cli = Cli::command();
        cli.build();
        let commands = cli.get_subcommands().filter(|command| command.get_name() != "help");
        let mut commands: Vec<_> = commands.cloned().collect();
        assert_eq!(commands.len(), 17);
        commands.push(cli);
        for mut command in commands {
            let texts = [command.render_help().to_string(), command.render_long_help().to_string()];
            for flag in command.get_arguments().filter_map(|argument| argument.get_long()) {
                let is_named = texts.iter().all(|text| text.contains(&format!("--{flag}")));
                assert!(is_named, "{}: --{flag}", command.get_name());
            }
        }
    }

    #[test]
    fn every_command_that_computes_on_a_device_takes_the_same_flags_for_it() {
        let flags = ["device", "tf32", "threads"];
        for command in ["train", "sample", "interpolate", "nearest", "eval", "verify", "bench"] {
            let has = flags.map(|flag| has_flag(command, flag));
            assert_eq!(has, [true; 3], "{command}");
        }
        for command in ["export", "import", "doctor"] {
            assert!(!flags.iter().any(|flag| has_flag(command, flag)), "{command}");
        }
    }
}
