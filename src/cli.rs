//! The command line: clap types, turned into configurations.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use serde::Serialize;

use crate::device::DeviceChoice;
use crate::error::Usage;
use crate::record::progress::Verbosity;
use crate::run::RUNS;
use crate::settings::{Background, Precision, Resolved, TrainConfig, resolve, resolve_on};

/// Train a DCGAN exactly as the TensorFlow 1 reference does.
#[derive(Debug, Parser)]
#[command(
    name = "dcgan",
    version,
    args_conflicts_with_subcommands = true,
    args_override_self = true,
    allow_negative_numbers = true,
    after_help = "\
Training is the default command: `dcgan --epochs 5` is `dcgan train --epochs 5`. Ctrl-C (SIGINT), SIGTERM
and SIGHUP end a run with its state saved (exit status 130, 143, 129), and --resume goes on with it.

Examples:
  dcgan                                  train on the built-in digits, on the best device
  dcgan --device cuda --epochs 50        longer, on the GPU
  dcgan --iterations 20 --base-width 8   a first look, in seconds
  dcgan --config runs/NAME/config.toml   repeat a run
  dcgan --resume runs/NAME               go on with one
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

impl Cli {
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
    /// Make a checkpoint of exported weights, to go on from
    ///
    /// `dcgan train --resume CHECKPOINT --fork NEWRUN` then goes on, on a data set of the same channels.
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
}

/// Raw arguments of `train`: what was given, nothing resolved. Serialized, the names are those of
/// [`crate::settings::TrainConfig`].
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
        resolve(self.config.as_deref(), self.flags()?)
    }

    /// The configuration of a run that goes on from one with `base`, overridden by the flags.
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

/// A trained generator, and where it computes.
#[derive(Debug, Args)]
pub struct GeneratorArgs {
    /// A run (its folder, or its name or number under runs/; its newest checkpoint is taken), a
    /// checkpoint, or exported weights [default: the built-in digits]
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N or mps
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// float32, float64, or bfloat16 in convolutions and dense layers
    #[arg(long, value_parser = precision, default_value = "f32")]
    pub precision: Precision,
    /// CPU threads [default: the physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
}

/// Arguments of `interpolate`.
#[derive(Debug, Args)]
pub struct InterpolateArgs {
    /// Which generator, and where it computes.
    #[command(flatten)]
    pub generator: GeneratorArgs,
    /// The file to write: walk.gif or walk.mp4, which go round in a circle, or walk.png, a row of images a
    /// walk
    #[arg(long, value_name = "FILE", default_value = "walk.gif")]
    pub out: PathBuf,
    /// Frames of an animation, images of a strip [default: 60; of a strip 16]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub frames: Option<u32>,
    /// Random z that a walk passes through [default: 8; of a strip 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub keyframes: Option<u32>,
    /// How many walks, side by side [default: 16; of a strip 8, one below the other]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=400))]
    pub walks: Option<u32>,
    /// Decides the noise
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole)]
    pub seed: u64,
    /// Your own keyframes of one walk instead: a .npy file of floats [N, z_dim]
    #[arg(long, value_name = "FILE.npy", conflicts_with_all = ["seed", "keyframes", "walks"])]
    pub z: Option<PathBuf>,
    /// Straight from z to z [default for uniform noise]
    #[arg(long, conflicts_with = "slerp")]
    pub linear: bool,
    /// Along the sphere, keeping z's length [default for normal noise]
    #[arg(long)]
    pub slerp: bool,
    /// Frames a second
    #[arg(long, value_name = "N", default_value = "20", value_parser = frame_rate)]
    pub fps: f64,
    /// Each pixel as a square of so many
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub scale: u16,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `film`.
#[derive(Debug, Args)]
pub struct FilmArgs {
    /// The run: its folder, or its name or number under runs/
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The file to write: .gif, or .mp4 where ffmpeg is installed
    #[arg(long, value_name = "FILE", default_value = "training.gif")]
    pub out: PathBuf,
    /// Frames a second
    #[arg(long, value_name = "N", default_value = "8", value_parser = frame_rate)]
    pub fps: f64,
    /// Each pixel as a square of so many [default: as many as 410 pixels in width allow]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub scale: Option<u16>,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `plot`.
#[derive(Debug, Args)]
pub struct PlotArgs {
    /// Runs: their folders, or their names or numbers under runs/
    #[arg(value_name = "RUN", required = true)]
    pub runs: Vec<PathBuf>,
    /// The file to write: .png or .svg
    #[arg(long, value_name = "FILE", default_value = "losses.png")]
    pub out: PathBuf,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run: its folder, or its name or number under runs/
    #[arg(value_name = "RUN")]
    pub run: PathBuf,
    /// The file to write
    #[arg(long, value_name = "FILE.html", default_value = "report.html")]
    pub out: PathBuf,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `nearest`.
#[derive(Debug, Args)]
pub struct NearestArgs {
    /// Which generator, and where it computes.
    #[command(flatten)]
    pub generator: GeneratorArgs,
    /// The images that the model was trained on; `dcgan data` says more [default: what the model names]
    #[arg(long, value_name = "SPEC", help_heading = "Data")]
    pub dataset: Option<String>,
    /// How they are read.
    #[command(flatten)]
    pub data: DataArgs,
    /// How many generated images
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub count: u32,
    /// How many of the nearest images of each
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub neighbours: u32,
    /// Decides the noise
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole)]
    pub seed: u64,
    /// The picture to write: a generated image a row, its nearest ones to the right
    #[arg(long, value_name = "FILE.png", default_value = "nearest.png")]
    pub out: PathBuf,
    /// Each pixel as a square of so many
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..=16))]
    pub scale: u16,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(after_help = "\
Features:
  digits    the last layer of a classifier that this program trains on the data set's classes, once (a minute or
            two on two cores; kept in the cache folder)
  pixels    the pixels themselves
  FILE.pt   a TorchScript module [N, 3, H, W] -> [N, d]. inception-2015-12-05.pt of StyleGAN's authors takes bytes
            of any size (the defaults) and gives the 2048 features that published Fréchet distances are of; another
            one may need --feature-range and --feature-size

Metrics:
  of features          frechet_distance, kernel_distance, precision, recall, density, coverage
  of digits only       classifier_score, class_balance
  of images            sliced_wasserstein, ms_ssim, duplicates, nearest_real, copies

Examples:
  dcgan eval runs/NAME --dataset mnist
  dcgan eval --images samples.npz --dataset mnist --json
  dcgan eval runs/NAME --dataset svhn --features inception-2015-12-05.pt --count 50000")]
pub struct EvalArgs {
    /// Which generator, and where it computes.
    #[command(flatten)]
    pub generator: GeneratorArgs,
    /// Images that are there already instead of MODEL: a folder, or any other data set SPEC such as npz:FILE
    #[arg(long, value_name = "DIR|FILE.npz|SPEC", conflicts_with = "model")]
    pub images: Option<String>,
    /// The real images; `dcgan data` says more [default: what the model was trained on; of --images digits]
    #[arg(long, value_name = "SPEC", help_heading = "Data")]
    pub dataset: Option<String>,
    /// How they are read.
    #[command(flatten)]
    pub data: DataArgs,
    /// How many generated images [default: 10000, or half of the real ones if they are fewer]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(6..=1_000_000))]
    pub count: Option<u32>,
    /// digits, pixels or FILE.pt [default: digits where the data set has classes, else pixels]
    #[arg(long, value_name = "FEATURES")]
    pub features: Option<String>,
    /// How FILE.pt takes pixels: bytes (0 to 255), unit (0 to 1) or symmetric (-1 to 1)
    #[arg(long, value_parser = ["bytes", "unit", "symmetric"], default_value = "bytes", value_name = "RANGE")]
    pub feature_range: String,
    /// Resize images for FILE.pt to this width and height [default: as they are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(8..=1024))]
    pub feature_size: Option<u16>,
    /// Which metrics: all, or names with commas between them
    #[arg(long, value_name = "METRIC,...", default_value = "all", value_delimiter = ',')]
    pub metrics: Vec<String>,
    /// Decides the noise, which real images are held out, and what is resampled
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Say nothing but the result, errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Formats:
  safetensors  weights by PyTorch's names and layouts, in the mirrored frame (see README)
  tf           weights by TensorFlow's names and layouts, upright, as a safetensors file
  torchscript  a program for torch.jit.load (Python, C++): z [N, z_dim] to images [N, C, 32, 32]
  onnx         the same for onnxruntime and others, standard operators of opset 17")]
pub struct ExportArgs {
    /// A run (its folder, or its name or number under runs/; its newest checkpoint is taken), a
    /// checkpoint, or exported weights [default: the built-in digits]
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// The format [default: what the name of --out ends in: .onnx, .pt or .safetensors]
    #[arg(long, value_enum)]
    pub format: Option<ExportFormat>,
    /// The file to write [default: generator.safetensors, generator-tf.safetensors, generator.pt or
    /// generator.onnx]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Which network; the discriminator as safetensors or tf only
    #[arg(long, value_parser = ["generator", "discriminator"], default_value = "generator")]
    pub network: String,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
}

/// What `export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ExportFormat {
    /// Weights for PyTorch.
    Safetensors,
    /// Weights for TensorFlow.
    Tf,
    /// A program for libtorch.
    Torchscript,
    /// A program for other runtimes.
    Onnx,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// What `dcgan export` or a run wrote (safetensors or tf), or what
    /// scripts/tf_checkpoint_to_safetensors.py made: both networks in one file, or one in each of two.
    /// A network that is in none begins with initial values
    #[arg(value_name = "FILE", required = true, num_args = 1..=2)]
    pub files: Vec<PathBuf>,
    /// The checkpoint to write
    #[arg(long, value_name = "CHECKPOINT.safetensors")]
    pub out: PathBuf,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// Which generator, and where it computes.
    #[command(flatten)]
    pub generator: GeneratorArgs,
    /// How many images [default: 64, or what --grid or --z holds]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub count: Option<u32>,
    /// Decides the noise; each image has its own, whatever --count is
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole)]
    pub seed: u64,
    /// Your own z instead: a .npy file of floats [N, z_dim]
    #[arg(long, value_name = "FILE.npy", conflicts_with = "seed")]
    pub z: Option<PathBuf>,
    /// Columns and rows of the picture [default: as square as --count allows]
    #[arg(long, value_name = "COLUMNSxROWS", value_parser = grid_size, conflicts_with_all = ["out_dir", "npz", "npy"])]
    pub grid: Option<GridSize>,
    /// One picture of all images [default: samples.png]
    #[arg(long, value_name = "FILE.png", conflicts_with_all = ["out_dir", "npz", "npy"])]
    pub out: Option<PathBuf>,
    /// One PNG an image in this new folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["npz", "npy"])]
    pub out_dir: Option<PathBuf>,
    /// One array of bytes [N, 32, 32, C], as metric tools read it
    #[arg(long, value_name = "FILE.npz", conflicts_with = "npy")]
    pub npz: Option<PathBuf>,
    /// One array of float32 [N, C, 32, 32] in [-1, 1], as the network gives them
    #[arg(long, value_name = "FILE.npy")]
    pub npy: Option<PathBuf>,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
    /// Say nothing but errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

/// Columns and rows of a picture of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GridSize {
    /// Images side by side.
    pub columns: usize,
    /// Images one below the other.
    pub rows: usize,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Reference files, as scripts/make_reference.py writes them
    #[arg(required = true, value_name = "FILE.safetensors")]
    pub files: Vec<PathBuf>,
    /// Where to compute: auto, cpu, cuda, cuda:N or mps
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
    /// CPU threads [default: the physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Print every tensor, not the worst of each group
    #[arg(short, long)]
    pub verbose: bool,
}

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// float32, float64, or bfloat16 in convolutions and dense layers
    #[arg(long, value_parser = precision, default_value = "f32")]
    pub precision: Precision,
    /// Where to compute: auto, cpu, cuda, cuda:N or mps
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// On CUDA, let float32 convolutions compute in TensorFloat-32
    #[arg(long, value_parser = ["on", "off"], default_value = "off")]
    pub tf32: String,
    /// CPU threads [default: the physical cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Images an iteration
    #[arg(long, value_name = "N", default_value = "128", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch_size: u32,
    /// Scales every layer
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub base_width: u32,
    /// Iterations that are not counted
    #[arg(long, value_name = "N", default_value = "2")]
    pub warmup: u16,
    /// Iterations that are
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u16).range(1..))]
    pub iterations: u16,
    /// Measure the convolutions alone, too, each in libtorch's best memory layout
    #[arg(long)]
    pub floor: bool,
    /// Sample so many images, too
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub samples: u32,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `data`.
#[derive(Debug, Args)]
pub struct DataCommandArgs {
    /// What to do; without one: list
    #[command(subcommand)]
    pub command: Option<DataCommand>,
}

/// The commands of `data`.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Say which data sets there are, and which of them are here (the default)
    List,
    /// Say what a data set holds, and draw its first images
    Show {
        /// Which images, as for --dataset
        spec: String,
        /// How they are read.
        #[command(flatten)]
        options: DataArgs,
        /// Chooses the images of --limit
        #[arg(long, value_parser = whole, value_name = "N")]
        seed: Option<u64>,
        /// Where the contact sheet of up to 144 images goes; with none, no sheet is drawn
        #[arg(long, value_name = "FILE.png")]
        sheet: Option<PathBuf>,
        /// Replace a sheet that is there
        #[arg(long)]
        force: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Download a public data set, verified
    Fetch {
        /// mnist, fashion-mnist, kmnist or svhn; a part of one, such as svhn:extra
        spec: String,
        /// A mirror to take instead of the known ones: the URL of the folder of its files; file: too
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
    },
}

/// Arguments of `runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    /// What to do; without one: list
    #[command(subcommand)]
    pub command: Option<RunsCommand>,
    /// The folder of the runs
    #[arg(long, value_name = "DIR", default_value = RUNS, global = true)]
    pub dir: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// The commands of `runs`.
#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List all runs (the default)
    List,
    /// Show one run in full
    Show {
        /// Its folder, or its name or number under --dir
        run: PathBuf,
    },
    /// Remove old checkpoints, after asking
    ///
    /// Keeps the newest of each run, the newest that shows no sign of collapse, and every file that was
    /// given a name of its own. Removes what a resumption has set aside as damaged. Leaves runs alone
    /// that are running, or whose newest checkpoint cannot be read.
    Prune {
        /// Which runs: folders, or names or numbers under --dir [default: all under --dir]
        runs: Vec<PathBuf>,
        /// How many of the newest checkpoints each run keeps
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
        /// Say what would be removed, and stop
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
    },
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
        Ok(resolve(None, flags)?.config)
    }
}

/// A whole number as far as TOML's go; the configuration checks each one's own range.
fn whole(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|&number| number <= i64::MAX as u64);
    number.ok_or_else(|| "expected a whole number, 0 or more".to_owned())
}

/// Frames a second.
fn frame_rate(text: &str) -> Result<f64, String> {
    let fps = text.parse().ok().filter(|fps| (0.1..=100.0).contains(fps));
    fps.ok_or_else(|| "expected 0.1 to 100 frames a second".to_owned())
}

/// Such as 8x8.
fn grid_size(text: &str) -> Result<GridSize, String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=10_000).contains(side));
    text.split_once(['x', '×'])
        .and_then(|(columns, rows)| Some(GridSize { columns: side(columns)?, rows: side(rows)? }))
        .ok_or_else(|| "expected columns and rows, such as 8x8".to_owned())
}

fn precision(text: &str) -> Result<Precision, String> {
    let names = Precision::ALL.map(Precision::name).join(", ");
    Precision::from_name(text).ok_or_else(|| format!("expected one of {names}"))
}

/// Two numbers; the configuration checks their order.
fn low_and_high(text: &str) -> Result<[f64; 2], String> {
    let numbers = text
        .split_once(',')
        .and_then(|(low, high)| Some([low.trim().parse().ok()?, high.trim().parse().ok()?]));
    numbers.ok_or_else(|| "expected two numbers, such as 0,1".to_owned())
}
