//! Arguments of `export`.

use std::path::PathBuf;

use clap::Args;
use dcgan::model::Network;
use dcgan::weights::Variant;

use super::generator::VARIANTS;
use super::one_of;

/// Arguments of `export`.
#[derive(Debug, Args)]
#[command(after_help = "\
Formats:
  safetensors  weights by PyTorch's names and layouts, in the mirrored frame (see docs/exactness.md)
  tf           weights by TensorFlow's names and layouts, upright, as a safetensors file
  torchscript  a program for torch.jit.load (Python, C++): z [N, z_dim] to images [N, C, H, W]
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
    #[arg(long, value_parser = one_of(NETWORKS), default_value = "generator")]
    pub network: Network,
    /// The generator's moving average (of a run with --ema) or its raw weights [default: the average where there
    /// is one]
    #[arg(long, value_name = "average|raw", value_parser = one_of(VARIANTS))]
    pub weights: Option<Variant>,
    /// Overwrite what is there already
    #[arg(long)]
    pub force: bool,
}

const NETWORKS: &[(&str, Network)] =
    &[("generator", Network::Generator), ("discriminator", Network::Discriminator)];

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
