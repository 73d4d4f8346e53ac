//! Arguments of `train`: the settings of a run, and how a data set is read.

use std::path::PathBuf;

use anyhow::{Result, anyhow};
use clap::Args;
use dcgan::device::DeviceChoice;
use dcgan::error::Usage;
use dcgan::settings::{
    Background, Precision, Resolved, TrainConfig, read_file, resolve, resolve_on,
};
use serde::Serialize;

use super::{Verbosity, low_and_high, whole};

/// Raw arguments of `train`: what was given, nothing resolved. Serialized, the names are those of
/// [`dcgan::settings::TrainConfig`].
#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainArgs {
    /// Which images: digits (built in), mnist, fashion-mnist, kmnist, svhn, folder:PATH, zip:FILE,
    /// tar:FILE, idx:FILE, mat:FILE, npy:FILE or npz:FILE; `dcgan data` says more [default: digits]
    #[arg(long, value_name = "SPEC", help_heading = "Data")]
    dataset: Option<String>,
    /// How they are read.
    #[command(flatten)]
    #[serde(flatten)]
    data: DataArgs,
    /// Mirror images left to right, each with probability one half [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Data")]
    flip: Option<bool>,
    /// Where to compute: auto, cpu, cuda, cuda:N or mps [default: auto]
    #[arg(long, value_name = "DEVICE", help_heading = "Place")]
    device: Option<DeviceChoice>,
    /// f32: float32; bf16: convolutions and dense layers in bfloat16, faster and less exact; f64:
    /// float64 [default: f32]
    #[arg(long, value_parser = Precision::ALL.map(Precision::name), help_heading = "Place")]
    precision: Option<String>,
    /// On CUDA, let float32 convolutions compute in TensorFloat-32: faster and less exact [default: off]
    #[arg(long, value_parser = ["on", "off"], help_heading = "Place")]
    tf32: Option<String>,
    /// CPU threads [default: the physical cores]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Place")]
    threads: Option<u64>,
    /// The run's folder, new or empty [default: a new numbered one under runs/]
    #[arg(long, value_name = "DIR", help_heading = "Place")]
    run: Option<PathBuf>,

    /// Passes over the data set [default: 10]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Training")]
    epochs: Option<u64>,
    /// Iterations (one discriminator step and --g-steps generator steps each); overrides --epochs
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Training")]
    iterations: Option<u64>,
    /// Images an iteration [default: 128]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Training")]
    batch_size: Option<u64>,
    /// Adam's step size, of both networks [default: 2e-4]
    #[arg(long, value_name = "X", help_heading = "Training")]
    learning_rate: Option<f64>,
    /// Adam's decay of the first moment [default: 0.5]
    #[arg(long, value_name = "X", help_heading = "Training")]
    beta1: Option<f64>,
    /// Real images are labelled 1 - X [default: 0.1]
    #[arg(long, value_name = "X", help_heading = "Training")]
    label_smoothing: Option<f64>,
    /// Generator steps an iteration [default: 2]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Training")]
    g_steps: Option<u64>,
    /// Decides initial weights, noise and the order of images [default: 0]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Training")]
    seed: Option<u64>,

    /// Length of the noise vector z [default: 100]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Networks")]
    z_dim: Option<u64>,
    /// Distribution of z [default: uniform]
    #[arg(long, value_parser = ["uniform", "normal"], help_heading = "Networks")]
    latent: Option<String>,
    /// Scales every layer; the reference's networks have 64 [default: 64]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Networks")]
    base_width: Option<u64>,

    /// Iterations between lines of metrics [default: 10]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Reports")]
    log_every: Option<u64>,
    /// Iterations between sample grids; 0: only at the end [default: 100]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Reports")]
    sample_every: Option<u64>,
    /// Iterations between checkpoints, besides those at the ends of epochs of 50 iterations or more;
    /// 0: only the first and the last [default: 500]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Checkpoints")]
    checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints are kept, besides the newest that shows no sign of collapse
    /// [default: 3]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Checkpoints")]
    keep: Option<u64>,
    /// When the discriminator has won, the samples have become one or the losses have frozen: warn;
    /// stop; or roll back to the last healthy checkpoint and go on with other noise, at most 3 times
    /// [default: warn]
    #[arg(long, value_parser = ["warn", "stop", "rollback"], help_heading = "Checkpoints")]
    on_collapse: Option<String>,
    /// Go on with a run: its folder, or its name or number under runs/. With --fork also a checkpoint
    #[arg(long, value_name = "RUN", conflicts_with_all = ["run", "config"], help_heading = "Checkpoints")]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// With --resume: leave that run as it is and go on in this new folder; settings may change
    #[arg(long, value_name = "DIR", requires = "resume", help_heading = "Checkpoints")]
    #[serde(skip)]
    pub fork: Option<PathBuf>,

    /// Iterations between evaluations, as `dcgan eval` makes them; 0: none. The best checkpoint so far is kept as
    /// checkpoints/best.safetensors [default: 0]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Evaluation")]
    eval_every: Option<u64>,
    /// Images that an evaluation generates [default: 5000]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Evaluation")]
    eval_count: Option<u64>,
    /// What they are compared by: digits, pixels or FILE.pt; auto: digits where the data set has classes, else
    /// pixels [default: auto]
    #[arg(long, value_name = "FEATURES", help_heading = "Evaluation")]
    eval_features: Option<String>,
    /// Which metric decides what is best [default: frechet_distance]
    #[arg(long, value_name = "METRIC", help_heading = "Evaluation")]
    eval_metric: Option<String>,
    /// At the end, make a film of the samples: film.gif in the run's folder
    #[arg(long, help_heading = "Reports")]
    #[serde(skip)]
    pub film: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Reports")]
    #[serde(skip)]
    quiet: bool,
    /// Say more: settings and layers
    #[arg(short, long, help_heading = "Reports")]
    #[serde(skip)]
    verbose: bool,

    /// Options from a TOML file, by the same names; flags win
    #[arg(long, value_name = "FILE", help_heading = "Configuration")]
    #[serde(skip)]
    config: Option<PathBuf>,
    /// Resolve, check and print the configuration and the layers, then stop
    #[arg(long, help_heading = "Configuration")]
    #[serde(skip)]
    pub dry_run: bool,
}

/// How a data set is read.
#[derive(Debug, Args, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DataArgs {
    /// Width and height of the images; this version has one [default: 32]
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Data")]
    image_size: Option<u64>,
    /// Channels: auto (3 if any image is in colour), 1 or 3 [default: auto]
    #[arg(long, value_parser = ["auto", "1", "3"], help_heading = "Data")]
    channels: Option<String>,
    /// Images of another shape: crop (the largest square), pad (with zeros) or stretch [default: crop;
    /// of arrays: pad]
    #[arg(long, value_parser = ["crop", "pad", "stretch"], help_heading = "Data")]
    fit: Option<String>,
    /// Behind transparent pixels: black, white or #rrggbb [default: black]
    #[arg(long, value_name = "COLOUR", help_heading = "Data")]
    background: Option<Background>,
    /// Of arrays of floats: black and white, such as 0,1 or =-1,1
    #[arg(long, value_parser = low_and_high, value_name = "LOW,HIGH", help_heading = "Data")]
    range: Option<[f64; 2]>,
    /// Take these classes only, such as 3,7 (of files: the names of their folders)
    #[arg(long, value_delimiter = ',', value_name = "CLASS,...", help_heading = "Data")]
    classes: Option<Vec<String>>,
    /// Take at most so many images, chosen by the seed
    #[arg(long, value_parser = whole, value_name = "N", help_heading = "Data")]
    limit: Option<u64>,
    /// Leave out images that cannot be read, and say so [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", help_heading = "Data")]
    skip_bad: Option<bool>,
    /// But not if more than so many percent of them cannot [default: 5]
    #[arg(long, value_name = "PERCENT", help_heading = "Data")]
    max_bad: Option<f64>,
}

impl TrainArgs {
    /// The configuration: defaults, overridden by `--config`, overridden by the flags.
    ///
    /// # Errors
    /// [`Usage`], as [`resolve`].
    pub fn resolve(&self) -> Result<Resolved> {
        let file = match &self.config {
            Some(path) => read_file(path).map_err(|e| anyhow!(Usage(format!("--config {e}"))))?,
            None => toml::Table::new(),
        };
        resolve(file, self.flags()?)
    }

    /// The configuration of a run that resumes one with `base`, overridden by the flags.
    ///
    /// # Errors
    /// [`Usage`], as [`resolve_on`].
    pub fn resolve_on(&self, base: &TrainConfig) -> Result<TrainConfig> {
        Ok(resolve_on(base, self.flags()?)?.config)
    }

    fn flags(&self) -> Result<toml::Table> {
        Ok(toml::Table::try_from(self)
            .map_err(|e| Usage(format!("--run: expected a path in UTF-8, found another ({e})")))?)
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

impl DataArgs {
    /// What these flags and defaults come to.
    ///
    /// # Errors
    /// [`Usage`], as [`resolve`].
    pub fn resolve(&self, spec: &str, seed: Option<u64>) -> Result<TrainConfig> {
        let mut flags = toml::Table::try_from(self).map_err(|e| Usage(e.to_string()))?;
        flags.insert("dataset".to_owned(), spec.into());
        if let Some(seed) = seed {
            // `whole` has checked that TOML holds it.
            flags.insert("seed".to_owned(), i64::try_from(seed)?.into());
        }
        Ok(resolve(toml::Table::new(), flags)?.config)
    }
}
