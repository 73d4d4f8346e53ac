//! An estimate of the memory that training takes, from the architecture alone, before anything is allocated.

use crate::architecture::{Architecture, Layer, Network, Operation};
use crate::settings::TrainConfig;
use crate::tf::{Held, Processor};

/// What the program takes before it makes networks, in bytes: above all libtorch.
const PROGRAM: f64 = 155e6;
/// How often the weights lie in memory: themselves, gradients, two moments each, and copies in passing.
const OF_WEIGHTS: f64 = 7.0;
/// What is held for the backward passes, together with what they take in passing, as a multiple of the former.
const OF_ACTIVATIONS: f64 = 1.9;

/// The bytes that the program takes while it trains on the CPU with these settings. The data set, whose images are read
/// from the disk, and evaluations are not counted.
///
/// What is held follows from the layers. The constants above were fitted to what fourteen runs took
/// (`benches/NOTES.md`), none of which took a third more or less than the estimate.
pub fn estimate(architecture: &Architecture, config: &TrainConfig) -> u64 {
    estimate_on(Processor::here(), architecture, config)
}

fn estimate_on(processor: Processor, architecture: &Architecture, config: &TrainConfig) -> u64 {
    let (batch, precision) = (config.batch_size, config.precision);
    let is_plain = config.plain_convolutions.is_on();
    let bytes = |kind: tch::Kind| kind.elt_size_in_bytes() as f64;
    let parameters: i64 =
        Network::ALL.iter().map(|&network| architecture.parameters(network)).sum();
    let (mut once, mut of_images, mut shared) = (0.0, 0.0, 0);
    for network in Network::ALL {
        // In its own step the discriminator holds two passes: of real images and of generated ones.
        let passes = if network == Network::Discriminator { 2.0 } else { 1.0 };
        for layer in architecture.layers(network) {
            let convolution = layer.convolution(precision.compute(), batch as i64, is_plain);
            let held = convolution.map_or(Held::default(), |layer| layer.held_on(processor));
            once += held.kernels as f64;
            of_images += passes * held_outputs(layer) * batch as f64 + held.images as f64;
            shared = held.shared.max(shared);
        }
    }
    let mut values = OF_WEIGHTS * parameters as f64;
    if config.ema.is_some() {
        values += architecture.parameters(Network::Generator) as f64;
    }
    if config.histograms.is_some() {
        // Those gradients are kept until the end of the iteration.
        values += architecture.parameters(Network::Discriminator) as f64;
    }
    if !config.augment.is_empty() {
        // Each augmentation holds its result, or what its gradient needs, of real and of generated images.
        values += (6 * batch * architecture.config.image.len()) as f64;
    }
    let activations =
        (OF_ACTIVATIONS * of_images + once + shared as f64) * bytes(precision.compute());
    (PROGRAM + values * bytes(precision.kind()) + activations) as u64
}

/// How many values are held of a layer's output for an image: the output itself, what batch norm makes of it, and what
/// the activation makes of that, unless it overwrites its input.
fn held_outputs(layer: &Layer) -> f64 {
    let copies = match (layer.operation, &layer.norm) {
        (Operation::Conv, Some(_)) => 3,
        (Operation::Conv, None) | (Operation::Dense | Operation::ConvTranspose, Some(_)) => 2,
        (Operation::Dense | Operation::ConvTranspose | Operation::Projection, _) => 1,
    };
    (copies * layer.output.values()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::ModelConfig;
    use crate::settings::Precision;
    use crate::shape::{ImageShape, ImageSize};

    #[test]
    fn the_estimate_is_within_a_third_of_what_runs_took() -> anyhow::Result<()> {
        // Measured: the most resident memory of runs of two iterations, in 10^6 bytes.
        for (size, channels, base_width, batch, precision, measured) in [
            ("16", 1, 1, 1, Precision::F32, 156.0),
            ("32", 1, 64, 128, Precision::F32, 671.0),
            ("32", 1, 16, 128, Precision::F32, 285.0),
            ("32", 3, 64, 32, Precision::F32, 464.0),
            ("32", 1, 8, 1024, Precision::F32, 584.0),
            ("64", 3, 64, 16, Precision::F32, 978.0),
            ("64", 3, 16, 64, Precision::F32, 347.0),
            ("64", 3, 8, 256, Precision::F32, 541.0),
            ("128", 3, 16, 16, Precision::F32, 375.0),
            ("80x48", 3, 16, 64, Precision::F32, 278.0),
            ("32", 1, 64, 64, Precision::Bf16, 435.0),
            ("64", 3, 16, 64, Precision::Bf16, 294.0),
            ("32", 1, 32, 128, Precision::F64, 608.0),
            ("64", 3, 16, 32, Precision::F64, 484.0),
        ] {
            let size: ImageSize = size.parse().map_err(anyhow::Error::msg)?;
            let image = ImageShape { size, channels };
            let config = ModelConfig { image, base_width, ..Default::default() };
            let settings = TrainConfig { batch_size: batch, precision, ..Default::default() };
            let architecture = Architecture::new(config)?;
            let estimate = estimate_on(Processor::PLAIN, &architecture, &settings) as f64 / 1e6;
            let ratio = estimate / measured;
            assert!((0.75..1.33).contains(&ratio), "{size}, {base_width}, {batch}: {ratio}");
        }
        Ok(())
    }

    #[test]
    fn columns_of_matrix_products_count_once_for_all_layers() -> anyhow::Result<()> {
        let architecture = Architecture::new(ModelConfig::default())?;
        let config = TrainConfig { precision: Precision::Bf16, ..Default::default() };
        let [with, without] = [true, false]
            .map(|amx_bf16| estimate_on(Processor { amx_bf16 }, &architecture, &config) as i64);
        // The most columns: 128 images, a grid of 8×8, 25 · 128 values at each position, 2 bytes each. The first
        // transposed convolution is computed without its 49 transformed kernels of 512 · 256 values, and without the
        // inputs at 64 points, of which the backward pass needs others in passing.
        let columns = 2 * 128 * 64 * 25 * 128;
        let transformed = 2.0 * (49.0 * 512.0 * 256.0 + OF_ACTIVATIONS * 64.0 * 128.0 * 512.0);
        assert!((with - without - columns + transformed as i64).abs() <= 2, "{with}, {without}");
        Ok(())
    }
}
