//! Exports a generator as a program that other software runs.
//!
//! These formats hold a whole program: it takes z, gives upright images, accepts any batch size, and has batch norm
//! folded into its weights. Files that hold only weights, by PyTorch's or TensorFlow's names, are made by
//! [`crate::weights`].

mod onnx;
mod torchscript;

pub use onnx::onnx;
pub use torchscript::torchscript;

/// The description in an exported file, which says what its input and its output are.
const DESCRIPTION: &str = "A DCGAN generator: z -> images in [-1, 1], upright, channels first";
