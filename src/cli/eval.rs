//! Arguments of `eval`.

use clap::Args;
use dcgan::eval::features::InputRange;
use dcgan::settings::whole_number;

use super::{DataArgs, GeneratorArgs, one_of};

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
    #[arg(long, value_name = "DIR|FILE.npz|SPEC", conflicts_with_all = ["model", "weights"])]
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
    #[arg(long, value_parser = one_of(RANGES), default_value = "bytes", value_name = "RANGE")]
    pub feature_range: InputRange,
    /// Resize images for FILE.pt to this width and height [default: as they are]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(8..=1024))]
    pub feature_size: Option<u16>,
    /// Which metrics: all, or names with commas between them
    #[arg(long, value_name = "METRIC,...", default_value = "all", value_delimiter = ',')]
    pub metrics: Vec<String>,
    /// Decides the noise, which real images are held out, and what is resampled
    #[arg(long, value_name = "N", default_value = "0", value_parser = whole_number)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Say nothing but the result, errors and warnings
    #[arg(short, long)]
    pub quiet: bool,
}

const RANGES: &[(&str, InputRange)] = &[
    ("bytes", InputRange::Bytes),
    ("unit", InputRange::Unit),
    ("symmetric", InputRange::Symmetric),
];
