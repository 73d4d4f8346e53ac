//! Arguments of `train`: the settings of a run, and what is to be done with it.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;

use super::SettingArgs;
use super::{Verbosity, one_of};
use dcgan::error::{SettingError, Usage};
use dcgan::run::RunDir;
use dcgan::settings::{Resolved, TrainConfig, read_file, resolve, resolve_on};
use dcgan::train::interrupt::OnUsr;

/// What `--on-usr` takes.
const ON_USR: &[(&str, OnUsr)] = &[("save", OnUsr::Save), ("stop", OnUsr::Stop)];

/// Raw arguments of `train`: what was given, nothing resolved.
#[derive(Debug, Args)]
pub struct TrainArgs {
    /// The settings.
    #[command(flatten)]
    settings: SettingArgs,
    /// The run's folder, new or empty [default: a new numbered one under runs/]
    #[arg(long, value_name = "DIR", help_heading = "Place")]
    run: Option<PathBuf>,
    /// Resume a run: its folder, or its name or number under runs/. With --fork also a checkpoint
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "config"], help_heading = "Checkpoints")]
    pub resume: Option<PathBuf>,
    /// With --resume: leave that run as it is and continue in this new folder; settings may change
    #[arg(long, value_name = "DIR", requires = "resume", help_heading = "Checkpoints")]
    pub fork: Option<PathBuf>,
    /// With --run: start that run, or resume it if it has begun: for jobs that are started again and again
    #[arg(
        long = "continue",
        requires = "run",
        conflicts_with = "resume",
        help_heading = "Checkpoints"
    )]
    pub is_continued: bool,
    /// Train with so many processes on this machine: one a GPU, or sharing the CPU's threads (docs/cluster.md)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Ranks")]
    pub ranks: Option<u16>,
    /// Seconds to wait for another rank before this one gives up
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = clap::value_parser!(u64).range(1..=86400), help_heading = "Ranks")]
    pub timeout: u64,
    /// What SIGUSR1 and SIGUSR2 do, by which batch systems warn: save a checkpoint and train on, or stop as SIGTERM does
    #[arg(long, value_name = "save|stop", value_parser = one_of(ON_USR), default_value = "save", help_heading = "Checkpoints")]
    pub on_usr: OnUsr,
    /// At the end, make a film of the samples: film.gif in the run's folder
    #[arg(long, help_heading = "Reports")]
    pub film: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Reports")]
    quiet: bool,
    /// Say more: settings and layers
    #[arg(short, long, help_heading = "Reports")]
    verbose: bool,
    /// Settings from a TOML file, by the names of their flags; flags win
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    config: Option<PathBuf>,
    /// Resolve, check and print the configuration and the layers, then stop
    #[arg(long, help_heading = "Configuration")]
    pub dry_run: bool,
}

impl TrainArgs {
    /// The configuration: defaults, overridden by `--config`, overridden by the flags.
    ///
    /// # Errors
    /// As [`read_file`] and [`resolve`].
    pub fn resolve(&self) -> Result<Resolved> {
        let file = match &self.config {
            Some(path) => read_file(path).map_err(|e| anyhow!(Usage(format!("--config {e}"))))?,
            None => toml::Table::new(),
        };
        let Resolved { config, run } = resolve(file, self.settings.given())?;
        Ok(Resolved { config, run: self.run.clone().or(run) })
    }

    /// The configuration of a run that resumes one with `base`, overridden by the flags.
    ///
    /// # Errors
    /// As [`resolve_on`].
    pub fn resolve_on(&self, base: &TrainConfig) -> Result<TrainConfig> {
        resolve_on(base, self.settings.given())
    }

    /// The run that these arguments resume: what `--resume` names, or with `--continue` the run's folder if there is a
    /// run in it.
    pub fn resumed(&self) -> Option<PathBuf> {
        let continued = || self.run.clone().filter(|run| self.is_continued && RunDir::is_run(run));
        self.resume.clone().or_else(continued)
    }

    /// The configuration of the run that `--continue` resumes: as [`Self::resolve_on`], with the settings of `--config`
    /// below the flags.
    ///
    /// # Errors
    /// As [`Self::resolve_on`] and [`Self::resolve`].
    pub fn resolve_continued(&self, base: &TrainConfig) -> Result<TrainConfig> {
        let Some(path) = &self.config else { return self.resolve_on(base) };
        let mut given = read_file(path).map_err(|e| anyhow!(Usage(format!("--config {e}"))))?;
        given.remove("run");
        given.extend(self.settings.given());
        resolve_on(base, given)
    }

    /// Whether a flag gives this setting.
    pub fn gives(&self, setting: &str) -> bool {
        self.settings.given().contains_key(setting)
    }

    /// Says of a setting's error which file the setting comes from, unless a flag gave it.
    pub fn with_its_file(&self, error: SettingError) -> anyhow::Error {
        let file = match (&self.config, &self.resume) {
            (Some(config), _) => format!("--config {}", config.display()),
            (None, Some(run)) => format!("--resume {}", run.display()),
            (None, None) => return error.into(),
        };
        if self.gives(&error.setting) {
            return error.into();
        }
        Usage(format!("{file}: {error}")).into()
    }

    /// How much to say.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        }
    }
}
