//! TensorFlow 1's layers, losses and optimizer on `tch::nn`, in the mirrored frame ([`frame`]).
//!
//! Nothing in this module knows about the DCGAN: [`crate::model`] builds the networks from these pieces.

mod adam;
mod algorithm;
mod batch_norm;
mod conv;
mod conv_transpose;
mod cpu;
mod dense;
mod flat;
pub mod frame;
mod kinks;
mod loss;
mod variable;
mod winograd;

pub use adam::{Adam, AdamConfig, Slot};
pub use algorithm::{Algorithm, Convolution, Held, Processor};
pub use batch_norm::{BatchNorm, BatchNormConfig, Statistics};
pub use conv::{Conv, ConvConfig};
pub use conv_transpose::ConvTranspose;
pub use cpu::all_finite;
pub use dense::{Dense, DenseConfig, Projection};
pub use flat::Flat;
pub use kinks::{KinkCount, Kinks};
pub use loss::{leaky_relu, part_of_sigmoid_cross_entropy, sigmoid_cross_entropy};
pub use variable::{Role, Variable};
