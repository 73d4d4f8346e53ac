//! Arguments of `bench`.

use clap::Args;
use dcgan::settings::{Precision, Switch, TrainConfig};
use dcgan::shape::ImageSize;

use super::{DeviceArgs, image_size, one_of, precision};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// float32, float64, or bfloat16 in convolutions and dense layers
    #[arg(long, value_parser = precision, default_value = "f32")]
    pub precision: Precision,
    /// Where to compute.
    #[command(flatten)]
    pub device: DeviceArgs,
    /// On the CPU, compute convolutions without faster ways that round more, as the training setting of this name does
    #[arg(long)]
    pub plain_convolutions: bool,
    /// On CUDA, run each iteration as one CUDA graph: one call of the host in place of hundreds
    #[arg(long, value_parser = one_of(&[("on", Switch::On), ("off", Switch::Off)]), default_value = "on")]
    pub graph: Switch,
    /// Images in an iteration
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().batch_size as u32, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub batch_size: u32,
    /// Width of the networks, which scales every layer
    #[arg(long, value_name = "N", default_value_t = TrainConfig::default().base_width as u32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub base_width: u32,
    /// The most channels of a layer [default: 16 times the base width]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub max_width: Option<u32>,
    /// Size of the images: one side such as 64, or width x height such as 80x48
    #[arg(long, value_name = "SIZE", default_value_t = ImageSize::REFERENCE, value_parser = image_size)]
    pub image_size: ImageSize,
    /// Channels of the images
    #[arg(long, value_name = "CHANNELS", default_value = "1", value_parser = one_of(&[("1", 1_usize), ("3", 3)]))]
    pub channels: usize,
    /// Warm-up iterations, not timed; on CUDA at least 10
    #[arg(long, value_name = "N", default_value = "2")]
    pub warmup: u16,
    /// Timed iterations
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u16).range(1..))]
    pub iterations: u16,
    /// Compute each batch with so many processes on this machine, and say what they exchange
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub ranks: Option<u16>,
    /// Measure the convolutions alone, too, each in libtorch's best memory layout
    #[arg(long)]
    pub floor: bool,
    /// Sample this many images, too
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub samples: u32,
    /// Print one line of JSON
    #[arg(long)]
    pub json: bool,
}
