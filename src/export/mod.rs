//! Trained networks for other ecosystems.
//!
//! Weights by PyTorch's and TensorFlow's names are [`crate::weights`]' own; here are the formats that hold a
//! whole program: z in, upright images out, with batch norm folded into the weights and any batch size.

mod onnx;
mod torchscript;

pub use onnx::onnx;
pub use torchscript::torchscript;

/// What z and images are, for those who read a file's description.
const DESCRIPTION: &str = "A DCGAN generator: z -> images in [-1, 1], upright, channels first";
