//! The GAN as a value: from the shape of an image and a few widths to every layer of both networks.
//!
//! This is the only source of sizes, names and numbers of layers. Networks are made by folding over these layers
//! ([`crate::model`]); weights, exports, the comparison with TensorFlow, the counts of operations and the table of
//! layers are made from them, too.
//!
//! The reference is the case of 32×32 pixels of a rule. Each of L layers halves an image in the discriminator, or
//! doubles a grid in the generator. L is the number for which the smaller side of the grid is 4 to 7. Widths double
//! towards the grid and stop at [`ModelConfig::max_width`].

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::shape::{Grid, ImageShape, ImageSize};
use crate::tf::Variable;
use crate::tf::frame::KERNEL;

/// The few numbers that decide both networks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelConfig {
    /// Shape of an image.
    pub image: ImageShape,
    /// Channels of the discriminator's first layer; every other layer's are multiples of it.
    pub base_width: i64,
    /// The most channels that any layer has; without it, 16 times the base width.
    pub max_width: Option<i64>,
    /// Length of the noise vector.
    pub z_dim: i64,
    /// Slope of the leaky ReLU.
    pub alpha: f64,
    /// Share of the batch in the moving statistics: 1 − TensorFlow's decay.
    pub bn_momentum: f64,
    /// Added to the variance in batch norm.
    pub bn_epsilon: f64,
}

/// The reference's numbers, for gray images.
impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            image: ImageShape::reference(1),
            base_width: 64,
            max_width: None,
            z_dim: 100,
            alpha: 0.2,
            bn_momentum: 0.1,
            bn_epsilon: 1e-5,
        }
    }
}

/// Which of the two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// z → images.
    Generator,
    /// images → logits.
    Discriminator,
}

impl Network {
    /// Both, in TensorFlow's order of creation.
    pub const ALL: [Self; 2] = [Self::Generator, Self::Discriminator];

    /// TensorFlow's variable scope, and the stem of the file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Discriminator => "discriminator",
        }
    }

    /// TensorFlow's whole name of one of the network's variables, such as `generator/dense/kernel`.
    pub fn full_name(self, variable: &Variable) -> String {
        format!("{}/{}", self.name(), variable.tf_name)
    }
}

/// What goes into a layer or comes out of it, without the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// So many values.
    Vector(i64),
    /// So many channels at each position of a grid.
    Map {
        /// Values at each position.
        channels: i64,
        /// The positions.
        grid: Grid,
    },
}

impl Features {
    /// Number of values.
    pub fn len(self) -> i64 {
        match self {
            Self::Vector(length) => length,
            Self::Map { channels, grid } => channels * grid.cells(),
        }
    }

    /// Whether there are none, as in no network.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Values at each position; of a vector all of them.
    pub fn channels(self) -> i64 {
        match self {
            Self::Vector(length) => length,
            Self::Map { channels, .. } => channels,
        }
    }

    /// The positions, where there are any.
    pub fn grid(self) -> Option<Grid> {
        match self {
            Self::Vector(_) => None,
            Self::Map { grid, .. } => Some(grid),
        }
    }
}

/// What a layer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A matrix product: `tf.layers.dense`.
    Dense,
    /// Halves a grid: `tf.layers.conv2d`.
    Conv,
    /// Doubles a grid: `tf.layers.conv2d_transpose`.
    ConvTranspose,
}

impl Operation {
    /// TensorFlow's name of such a layer, before it is counted.
    fn name(self) -> &'static str {
        match self {
            Self::Dense => "dense",
            Self::Conv => "conv2d",
            Self::ConvTranspose => "conv2d_transpose",
        }
    }
}

/// What follows a layer and its batch norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing: logits.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, alpha · x)`.
    LeakyRelu,
    /// The hyperbolic tangent, onto [−1, 1].
    Tanh,
}

/// A layer with bias, perhaps a batch norm behind it, and an activation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// TensorFlow's name, such as `conv2d_transpose_1`.
    pub name: String,
    /// What it does.
    pub operation: Operation,
    /// What goes in.
    pub input: Features,
    /// What comes out.
    pub output: Features,
    /// TensorFlow's name of the batch norm behind it, such as `batch_normalization_1`.
    pub norm: Option<String>,
    /// What follows.
    pub activation: Activation,
}

impl Layer {
    /// Shape of the kernel in TensorFlow's layout.
    pub fn tf_kernel_shape(&self) -> Vec<i64> {
        let (inputs, outputs) = (self.input.channels(), self.output.channels());
        match self.operation {
            Operation::Dense => vec![self.input.len(), self.output.len()],
            Operation::Conv => vec![KERNEL, KERNEL, inputs, outputs],
            Operation::ConvTranspose => vec![KERNEL, KERNEL, outputs, inputs],
        }
    }

    /// Trained values of the layer itself: kernel and bias.
    pub fn parameters(&self) -> i64 {
        let biases = match self.operation {
            Operation::Dense => self.output.len(),
            Operation::Conv | Operation::ConvTranspose => self.output.channels(),
        };
        self.tf_kernel_shape().iter().product::<i64>() + biases
    }

    /// Trained values of its batch norm: scale and shift.
    pub fn norm_parameters(&self) -> i64 {
        if self.norm.is_some() { 2 * self.output.channels() } else { 0 }
    }

    /// Names of its weights, and of its batch norm's, in `tch`'s variable stores.
    fn torch_names(&self) -> impl Iterator<Item = String> {
        let own = ["weight", "bias"].map(|name| format!("{}.{name}", self.name));
        let norm = self.norm.iter().flat_map(|norm| {
            ["weight", "bias", "running_mean", "running_var"].map(|name| format!("{norm}.{name}"))
        });
        own.into_iter().chain(norm)
    }
}

/// Both networks, layer by layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// What they follow from.
    pub config: ModelConfig,
    /// The generator's layers, in order.
    pub generator: Vec<Layer>,
    /// The discriminator's layers, in order.
    pub discriminator: Vec<Layer>,
}

/// The smallest and the largest side of an image.
const SIDES: std::ops::RangeInclusive<usize> = 16..=256;
/// The larger side of an image is at most so many times the smaller one.
const MAX_ASPECT: usize = 4;
/// The smaller side of the grid is less than this: with twice as much there would be another layer.
const MAX_GRID_SIDE: usize = 8;

/// How often an image of this size is halved until its grid is reached, and that grid.
///
/// # Errors
/// If there are no networks for images of this size; the message names the nearest that there are networks for.
pub fn halvings(size: ImageSize) -> Result<(u32, Grid)> {
    let ImageSize { width, height } = size;
    let (smaller, larger) = (width.min(height), width.max(height));
    let is_in_range = SIDES.contains(&smaller) && SIDES.contains(&larger);
    if is_in_range && larger <= MAX_ASPECT * smaller {
        let levels = (smaller / MAX_GRID_SIDE).ilog2() + 1;
        let unit = 1 << levels;
        if width.is_multiple_of(unit) && height.is_multiple_of(unit) {
            let (height, width) = ((height / unit) as i64, (width / unit) as i64);
            return Ok((levels, Grid { height, width }));
        }
    }
    let why = if is_in_range && larger <= MAX_ASPECT * smaller {
        "both sides must be halved several times without a rest"
    } else {
        "sides are 16 to 256 pixels, the larger one at most 4 times the smaller"
    };
    bail!(
        "images of {width}×{height} pixels are not possible ({why}); the nearest that are: {}",
        nearest(size)
    )
}

/// The possible sizes nearest to `size`, a smaller and a larger one where there are both.
fn nearest(size: ImageSize) -> String {
    // A possible size from below and from above, found by walking each side to its multiples.
    let rounded = |up: bool| {
        let limit = |side: usize| side.clamp(*SIDES.start(), *SIDES.end());
        let (width, height) = (limit(size.width), limit(size.height));
        let least = width.max(height).div_ceil(MAX_ASPECT);
        let (width, height) = (width.max(least), height.max(least));
        let levels = (width.min(height) / MAX_GRID_SIDE).ilog2() + 1;
        let unit = 1_usize << levels;
        let round =
            |side: usize| limit(if up { side.next_multiple_of(unit) } else { side / unit * unit });
        ImageSize { width: round(width), height: round(height) }
    };
    let mut found: Vec<_> = [rounded(false), rounded(true)]
        .into_iter()
        .filter(|&size| halvings(size).is_ok())
        .collect();
    found.dedup();
    found.iter().map(ImageSize::to_string).collect::<Vec<_>>().join(" and ")
}

impl Architecture {
    /// The layers that follow from `config`.
    ///
    /// # Errors
    /// If there are no networks for images of that size, or a number is not above 0.
    pub fn new(config: ModelConfig) -> Result<Self> {
        let ModelConfig { image, base_width, z_dim, .. } = config;
        let most = config.max_width.unwrap_or(base_width.saturating_mul(16));
        let channels = i64::try_from(image.channels)?;
        for (name, value) in [
            ("base_width", base_width),
            ("z_dim", z_dim),
            ("max_width", most),
            ("channels", channels),
        ] {
            ensure!(value > 0, "{name}: expected 1 or more, found {value}");
        }
        let (levels, grid) = halvings(image.size)?;
        // Channels of a map that is `halvings` times as coarse as an image.
        let width = |halvings: u32| base_width.saturating_mul(1 << halvings).min(most);

        let mut names = Names::default();
        let mut generator = Vec::new();
        let mut input = Features::Vector(z_dim);
        let mut output = Features::Map { channels: width(levels), grid };
        generator.push(names.layer(Operation::Dense, input, output, true, Activation::Relu));
        for left in (0..levels).rev() {
            let is_last = left == 0;
            input = output;
            output = Features::Map {
                channels: if is_last { channels } else { width(left) },
                grid: input.grid().context("a map")?.doubled(),
            };
            let activation = if is_last { Activation::Tanh } else { Activation::Relu };
            generator.push(names.layer(
                Operation::ConvTranspose,
                input,
                output,
                !is_last,
                activation,
            ));
        }

        let mut names = Names::default();
        let mut discriminator = Vec::new();
        let mut x = output; // An image, from which the way goes back.
        for level in 0..levels {
            let fine = x.grid().context("a map")?;
            let grid = Grid { height: fine.height / 2, width: fine.width / 2 };
            let coarse = Features::Map { channels: width(level), grid };
            let has_norm = level > 0;
            discriminator.push(names.layer(
                Operation::Conv,
                x,
                coarse,
                has_norm,
                Activation::LeakyRelu,
            ));
            x = coarse;
        }
        let logit = Features::Vector(1);
        discriminator.push(names.layer(Operation::Dense, x, logit, false, Activation::None));
        Ok(Self { config, generator, discriminator })
    }

    /// The layers of `network`, in order.
    pub fn layers(&self, network: Network) -> &[Layer] {
        match network {
            Network::Generator => &self.generator,
            Network::Discriminator => &self.discriminator,
        }
    }

    /// Trained values of `network`.
    pub fn parameters(&self, network: Network) -> i64 {
        let layers = self.layers(network).iter();
        layers.map(|layer| layer.parameters() + layer.norm_parameters()).sum()
    }

    /// Names of the weights and moving statistics of `network` in `tch`'s variable stores.
    pub fn torch_names(&self, network: Network) -> impl Iterator<Item = String> {
        self.layers(network).iter().flat_map(Layer::torch_names)
    }

    /// TensorFlow's whole names of the biases of convolutions that feed a batch norm, which takes them out again:
    /// their true gradient is 0, and rounding alone moves them.
    pub fn biases_of_no_effect(&self) -> Vec<String> {
        let of_network = |network: Network| {
            let layers = self.layers(network).iter();
            layers
                .filter(|layer| layer.operation != Operation::Dense && layer.norm.is_some())
                .map(move |layer| format!("{}/{}/bias", network.name(), layer.name))
        };
        Network::ALL.into_iter().flat_map(of_network).collect()
    }

    /// The rows of a table of the layers of `network`, batch norms in rows of their own.
    pub fn table(&self, network: Network) -> Vec<LayerRow> {
        let mut rows = Vec::new();
        for layer in self.layers(network) {
            let output = match layer.output {
                Features::Vector(length) => length.to_string(),
                Features::Map { channels, grid } => {
                    format!("{channels} × {} × {}", grid.height, grid.width)
                }
            };
            let activation = match layer.activation {
                Activation::None => "",
                Activation::Relu => ", relu",
                Activation::LeakyRelu => ", leaky_relu",
                Activation::Tanh => ", tanh",
            };
            let row = |name: &str, activation: &str, parameters| LayerRow {
                layer: format!("{name}{activation}"),
                output: output.clone(),
                parameters,
            };
            match &layer.norm {
                None => rows.push(row(&layer.name, activation, layer.parameters())),
                Some(norm) => {
                    rows.push(row(&layer.name, "", layer.parameters()));
                    rows.push(row(norm, activation, layer.norm_parameters()));
                }
            }
        }
        rows
    }
}

/// One row of the table of layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerRow {
    /// Name, as in TensorFlow's variables, and the activation behind it.
    pub layer: String,
    /// Shape of the output without the batch: channels, height, width.
    pub output: String,
    /// Trained values.
    pub parameters: i64,
}

/// Names layers as TensorFlow does: the first of a kind has no number.
#[derive(Default)]
struct Names(BTreeMap<&'static str, u32>);

impl Names {
    fn next(&mut self, kind: &'static str) -> String {
        let count = self.0.entry(kind).or_default();
        let name = if *count == 0 { kind.to_owned() } else { format!("{kind}_{count}") };
        *count += 1;
        name
    }

    fn layer(
        &mut self,
        operation: Operation,
        input: Features,
        output: Features,
        has_norm: bool,
        activation: Activation,
    ) -> Layer {
        Layer {
            name: self.next(operation.name()),
            operation,
            input,
            output,
            norm: has_norm.then(|| self.next("batch_normalization")),
            activation,
        }
    }
}

/// The configuration that the shapes of TensorFlow's variables tell, for images that are as wide as high: of a file
/// that does not say it. `shape` gives the shape of a variable by its whole name.
///
/// # Errors
/// If no network's shapes are there, or they are those of no such networks.
pub fn infer(shape: impl Fn(&str) -> Option<Vec<i64>>) -> Result<ModelConfig> {
    let count = |network: Network, operation: Operation| {
        let name = |names: &mut Names| {
            format!("{}/{}/kernel", network.name(), names.next(operation.name()))
        };
        let mut names = Names::default();
        std::iter::from_fn(|| shape(&name(&mut names))).collect::<Vec<_>>()
    };
    let generator = count(Network::Generator, Operation::ConvTranspose);
    let discriminator = count(Network::Discriminator, Operation::Conv);
    // TensorFlow's layouts: [5, 5, out, in] transposed, [5, 5, in, out] otherwise.
    let (levels, channels, base_width) = match (generator.last(), discriminator.first()) {
        (Some(last), _) if last.len() == 4 => (generator.len(), last[2], last[3] / 2),
        (None, Some(first)) if first.len() == 4 => (discriminator.len(), first[2], first[3]),
        _ => bail!(
            "lacks `config`, and generator/conv2d_transpose/kernel or discriminator/conv2d/kernel of rank 4, which \
             would tell its sizes"
        ),
    };
    let mut config = ModelConfig { base_width, ..Default::default() };
    config.image.channels = usize::try_from(channels)?;
    if let Some([z_dim, _]) = shape("generator/dense/kernel").as_deref() {
        config.z_dim = *z_dim;
    }
    // The dense layers tell how many positions the grid has.
    let axis = |kernel: Option<&Vec<i64>>, axis: usize| {
        kernel.and_then(|shape| shape.get(axis)).copied().unwrap_or(0)
    };
    let (length, per_position) = match shape("generator/dense/kernel").as_deref() {
        Some([_, length]) => (*length, axis(generator.first(), 3)),
        _ => (axis(shape("discriminator/dense/kernel").as_ref(), 0), axis(discriminator.last(), 3)),
    };
    let cells = usize::try_from(length.checked_div(per_position).unwrap_or(0))?;
    let side = cells.isqrt().saturating_mul(1 << levels.min(16));
    config.image.size = ImageSize::square(side);
    halvings(config.image.size).context("the variables' shapes")?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_size(text: &str, channels: usize) -> Result<Architecture> {
        let size = text.parse().map_err(anyhow::Error::msg)?;
        Architecture::new(ModelConfig {
            image: ImageShape { size, channels },
            ..Default::default()
        })
    }

    fn outputs(layers: &[Layer]) -> Vec<(i64, Option<(i64, i64)>)> {
        let grid = |layer: &Layer| layer.output.grid().map(|grid| (grid.height, grid.width));
        layers.iter().map(|layer| (layer.output.channels(), grid(layer))).collect()
    }

    #[test]
    fn the_reference_is_the_case_of_32_by_32() -> Result<()> {
        let architecture = of_size("32", 3)?;
        let square = |side| Some((side, side));
        assert_eq!(
            outputs(&architecture.generator),
            [(512, square(4)), (256, square(8)), (128, square(16)), (3, square(32))]
        );
        assert_eq!(
            outputs(&architecture.discriminator),
            [(64, square(16)), (128, square(8)), (256, square(4)), (1, None)]
        );
        let names: Vec<_> =
            architecture.table(Network::Generator).into_iter().map(|row| row.layer).collect();
        assert_eq!(
            names,
            [
                "dense",
                "batch_normalization, relu",
                "conv2d_transpose",
                "batch_normalization_1, relu",
                "conv2d_transpose_1",
                "batch_normalization_2, relu",
                "conv2d_transpose_2, tanh"
            ]
        );
        assert_eq!(
            architecture.biases_of_no_effect(),
            [
                "generator/conv2d_transpose/bias",
                "generator/conv2d_transpose_1/bias",
                "discriminator/conv2d_1/bias",
                "discriminator/conv2d_2/bias"
            ]
        );
        Ok(())
    }

    #[test]
    fn other_sizes_follow_the_same_rule() -> Result<()> {
        for (size, levels, grid, widths) in [
            ("16", 2, (4, 4), &[256_i64, 128, 1][..]),
            ("28", 2, (7, 7), &[256, 128, 1]),
            ("64", 4, (4, 4), &[1024, 512, 256, 128, 1]),
            ("80x48", 3, (6, 10), &[512, 256, 128, 1]),
            ("128", 5, (4, 4), &[1024, 1024, 512, 256, 128, 1]),
            ("256", 6, (4, 4), &[1024, 1024, 1024, 512, 256, 128, 1]),
        ] {
            let architecture = of_size(size, 1)?;
            let found: Vec<_> =
                architecture.generator.iter().map(|l| l.output.channels()).collect();
            assert_eq!(found, widths, "{size}");
            assert_eq!(
                architecture.generator[0].output.grid(),
                Some(Grid { height: grid.0, width: grid.1 })
            );
            assert_eq!(architecture.discriminator.len(), levels + 1, "{size}");
            let last = &architecture.generator[levels].output;
            let image = architecture.config.image.size;
            assert_eq!(
                *last,
                Features::Map {
                    channels: 1,
                    grid: Grid { height: image.height as i64, width: image.width as i64 }
                }
            );
            assert_eq!(architecture.discriminator[0].input, *last);
        }
        Ok(())
    }

    #[test]
    fn impossible_sizes_are_errors_that_name_the_nearest_possible_ones() {
        for (size, nearest) in [
            ("50", "48 and 56"),
            ("8", "16"),
            ("300", "256"),
            ("33x32", "32 and 40x32"),
            ("128x16", "128x32"),
            ("100", "96 and 112"),
        ] {
            let error = of_size(size, 1).unwrap_err().to_string();
            assert!(
                error.contains("not possible") && error.ends_with(&format!(": {nearest}")),
                "{size}: {error}"
            );
        }
    }

    #[test]
    fn the_shapes_of_tensorflows_variables_tell_the_sizes() -> Result<()> {
        for (size, channels, network) in
            [("32", 3, 0), ("32", 1, 1), ("64", 1, 0), ("28", 3, 1), ("16", 2, 0)]
        {
            let architecture = of_size(size, channels)?;
            let network = Network::ALL[network];
            let shapes: BTreeMap<_, _> = architecture
                .layers(network)
                .iter()
                .map(|layer| {
                    (format!("{}/{}/kernel", network.name(), layer.name), layer.tf_kernel_shape())
                })
                .collect();
            assert_eq!(infer(|name| shapes.get(name).cloned())?, architecture.config, "{size}");
        }
        assert!(infer(|_| None).unwrap_err().to_string().contains("lacks `config`"));
        Ok(())
    }
}
