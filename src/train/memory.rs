//! An estimate of the memory that training takes, from the architecture alone, before anything is allocated.

use crate::architecture::{Architecture, Layer, Network, Operation};
use crate::settings::Precision;

/// The bytes that training takes: weights, gradients and moments of both networks, and what an iteration on `batch`
/// images holds for its backward passes. It is meant to be right within a third; `benches/NOTES.md` has the
/// measurements that its factors were fitted to.
pub fn estimate(architecture: &Architecture, batch: usize, precision: Precision) -> u64 {
    let size_of = |kind: tch::Kind| kind.elt_size_in_bytes() as f64;
    let (own, compute) = (size_of(precision.kind()), size_of(precision.compute()));
    let parameters: i64 =
        Network::ALL.iter().map(|&network| architecture.parameters(network)).sum();
    // The weights and two moments of each; the gradients of one network at a time, and casts of its weights.
    let casts = if compute < own { compute } else { 0.0 };
    let fixed = parameters as f64 * (3.5 * own + casts);
    let held = |network| -> f64 {
        let layers = architecture.layers(network).iter();
        layers.map(|layer| held_values(layer) * compute + held_by_norm(layer) * own).sum()
    };
    // In its own step the discriminator holds two passes, one of real images and one of generated ones.
    let an_image = held(Network::Generator) + 2.0 * held(Network::Discriminator);
    (fixed + batch as f64 * an_image) as u64
}

/// How many values of an image a layer and its activation hold for the backward pass.
fn held_values(layer: &Layer) -> f64 {
    let output = layer.output.values() as f64;
    match layer.operation {
        Operation::Projection => output,
        Operation::Dense | Operation::Conv => 2.0 * output,
        Operation::ConvTranspose => 2.0 * output,
    }
}

/// How many values of an image the batch norm behind a layer holds.
fn held_by_norm(layer: &Layer) -> f64 {
    if layer.norm.is_some() { layer.output.values() as f64 } else { 0.0 }
}
