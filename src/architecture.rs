//! The GAN as a value: the layers of both networks, computed from the shape of an image and a few widths.
//!
//! This is the only place that decides how many layers there are, their sizes and their names. The networks are
//! built by going over these layers ([`crate::model`]). Weights, exports, the comparison with TensorFlow, the
//! counts of operations and the table of layers are made from them, too.
//!
//! All image sizes follow one rule, which gives the reference's networks for 32×32 pixels. The discriminator
//! halves an image L times, until only a small *grid* of features is left; the generator starts from such a grid
//! and doubles it L times. L is chosen so that the smaller side of the grid has 4 to 7 positions. The number of
//! channels (the *width* of a layer) doubles with each halving, up to [`ModelConfig::max_width`].

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tch::Kind;

use crate::shape::{Grid, ImageShape, ImageSize};
use crate::tf::frame::KERNEL;
use crate::tf::{Algorithm, Convolution, Variable};

/// The few numbers from which both networks follow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ModelConfig {
    /// Shape of an image.
    pub image: ImageShape,
    /// Channels that the discriminator's first layer puts out. The number doubles with each further halving.
    pub base_width: i64,
    /// The largest number of channels that a layer may have. `None` means 16 times the base width.
    pub max_width: Option<i64>,
    /// Length of the noise vector.
    pub z_dim: i64,
    /// Number of classes that steer both networks; 0 for networks that know no classes.
    pub classes: i64,
    /// Slope of the leaky ReLU.
    pub alpha: f64,
    /// Share of a new batch's statistics in batch norm's moving statistics: 1 − TensorFlow's decay.
    pub bn_momentum: f64,
    /// Added to the variance in batch norm before its square root is taken.
    pub bn_epsilon: f64,
}

/// The numbers of the reference, for gray images of 32×32 pixels.
impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            image: ImageShape::reference(1),
            base_width: 64,
            max_width: None,
            z_dim: 100,
            classes: 0,
            alpha: 0.2,
            bn_momentum: 0.1,
            bn_epsilon: 1e-5,
        }
    }
}

impl ModelConfig {
    /// Length of a row of the generator's input: the noise and, where there are classes, which one is asked for, as
    /// one 1 among zeros.
    pub fn input_len(&self) -> i64 {
        self.z_dim + self.classes
    }
}

/// One of the two networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The generator: z → images.
    Generator,
    /// The discriminator: images → logits.
    Discriminator,
}

impl Network {
    /// Both networks, in the order in which TensorFlow creates them.
    pub const ALL: [Self; 2] = [Self::Generator, Self::Discriminator];

    /// The network's name: TensorFlow's variable scope, and the stem of its file's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Generator => "generator",
            Self::Discriminator => "discriminator",
        }
    }

    /// TensorFlow's full name of one of the network's variables, such as `generator/dense/kernel`.
    pub fn full_name(self, variable: &Variable) -> String {
        format!("{}/{}", self.name(), variable.tf_name)
    }
}

/// The shape of a layer's input or output for one image, without the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// A vector of this many values.
    Vector(i64),
    /// A feature map: the same number of channels at each position of a grid.
    Map {
        /// Number of values at each position.
        channels: i64,
        /// Height and width of the grid.
        grid: Grid,
    },
}

impl Features {
    /// Number of values.
    pub fn values(self) -> i64 {
        match self {
            Self::Vector(length) => length,
            Self::Map { channels, grid } => channels * grid.cells(),
        }
    }

    /// Number of values at each position of a map, or the length of a vector.
    pub fn channels(self) -> i64 {
        match self {
            Self::Vector(length) => length,
            Self::Map { channels, .. } => channels,
        }
    }

    /// The grid of a map. A vector has none.
    pub fn grid(self) -> Option<Grid> {
        match self {
            Self::Vector(_) => None,
            Self::Map { grid, .. } => Some(grid),
        }
    }
}

/// What a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A matrix product, as `tf.layers.dense`.
    Dense,
    /// A convolution that halves height and width, as `tf.layers.conv2d`.
    Conv,
    /// A transposed convolution that doubles height and width, as `tf.layers.conv2d_transpose`.
    ConvTranspose,
    /// The projection of a conditional discriminator: a matrix product without bias that gives a value for each class,
    /// of which that of the image's class is added to the logit (T. Miyato and M. Koyama, *cGANs with Projection
    /// Discriminator*, 2018). It has the same input as the layer before it.
    Projection,
}

impl Operation {
    /// TensorFlow's name of such a layer, before a number is appended.
    fn name(self) -> &'static str {
        match self {
            Self::Dense | Self::Projection => "dense",
            Self::Conv => "conv2d",
            Self::ConvTranspose => "conv2d_transpose",
        }
    }
}

/// The activation behind a layer and its batch norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// No activation: the output is logits.
    None,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, alpha · x)`.
    LeakyRelu,
    /// The hyperbolic tangent, whose values are in [−1, 1].
    Tanh,
}

/// A layer with bias, the batch norm behind it, if there is one, and the activation behind both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// TensorFlow's name, such as `conv2d_transpose_1`.
    pub name: String,
    /// What it computes.
    pub operation: Operation,
    /// Shape of its input.
    pub input: Features,
    /// Shape of its output.
    pub output: Features,
    /// TensorFlow's name of the batch norm behind it, such as `batch_normalization_1`. `None` if there is none.
    pub norm: Option<String>,
    /// The activation behind the layer and its batch norm.
    pub activation: Activation,
}

impl Layer {
    /// Shape of the kernel in TensorFlow's layout.
    pub fn tf_kernel_shape(&self) -> Vec<i64> {
        let (inputs, outputs) = (self.input.channels(), self.output.channels());
        match self.operation {
            Operation::Dense | Operation::Projection => {
                vec![self.input.values(), self.output.values()]
            }
            Operation::Conv => vec![KERNEL, KERNEL, inputs, outputs],
            Operation::ConvTranspose => vec![KERNEL, KERNEL, outputs, inputs],
        }
    }

    /// What a convolution or a transposed convolution is asked to compute while it is trained in `kind` on a batch; `None`
    /// for layers of other kinds. If `is_plain`, faster ways that round more are left out.
    pub fn convolution(&self, kind: Kind, batch: i64, is_plain: bool) -> Option<Convolution> {
        let is_transposed = match self.operation {
            Operation::Conv => false,
            Operation::ConvTranspose => true,
            Operation::Dense | Operation::Projection => return None,
        };
        let (coarse, fine) = match is_transposed {
            true => (self.input, self.output),
            false => (self.output, self.input),
        };
        let (grid, coarse, fine) = (coarse.grid()?, coarse.channels(), fine.channels());
        let is_trained = true;
        Some(Convolution { is_transposed, kind, batch, grid, coarse, fine, is_trained, is_plain })
    }

    /// Number of trained values in the kernel and the bias.
    pub fn parameters(&self) -> i64 {
        let biases = match self.operation {
            Operation::Dense => self.output.values(),
            Operation::Conv | Operation::ConvTranspose => self.output.channels(),
            Operation::Projection => 0,
        };
        self.tf_kernel_shape().iter().product::<i64>() + biases
    }

    /// Number of trained values in the batch norm's scale and shift.
    pub fn norm_parameters(&self) -> i64 {
        if self.norm.is_some() { 2 * self.output.channels() } else { 0 }
    }

    /// Names of the layer's variables and of its batch norm's variables in `tch`'s variable stores.
    fn torch_names(&self) -> impl Iterator<Item = String> {
        let own: &[_] =
            if self.operation == Operation::Projection { &["weight"] } else { &["weight", "bias"] };
        let own = own.iter().map(|name| format!("{}.{name}", self.name));
        let norm = self.norm.iter().flat_map(|norm| {
            ["weight", "bias", "running_mean", "running_var"].map(|name| format!("{norm}.{name}"))
        });
        own.chain(norm)
    }
}

/// Both networks, layer by layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// The numbers from which the layers follow.
    pub config: ModelConfig,
    /// The generator's layers, in order.
    pub generator: Vec<Layer>,
    /// The discriminator's layers, in order.
    pub discriminator: Vec<Layer>,
}

/// The largest number of channels of a layer, as a multiple of the base width, if nothing else is said.
const USUAL_MAX_WIDTH: i64 = 16;
/// The sides that an image may have, in pixels.
const SIDES: std::ops::RangeInclusive<usize> = 16..=256;
/// The larger side of an image is at most this many times the smaller one.
const MAX_ASPECT: usize = 4;
/// The smaller side of the grid is less than this. A larger grid is halved once more.
const MAX_GRID_SIDE: usize = 8;

/// How often images of this size are halved, and the grid that is left then.
///
/// # Errors
/// If images of this size are not supported. The message names the nearest sizes that are.
pub fn halvings(size: ImageSize) -> Result<(u32, Grid)> {
    let ImageSize { width, height } = size;
    try_halvings(size).with_context(|| {
        let why = if is_in_range(size) {
            "both sides must be divisible by 2 several times"
        } else {
            "sides are 16 to 256 pixels, the larger one at most 4 times the smaller"
        };
        let nearest: Vec<_> = nearest(size).iter().map(ImageSize::to_string).collect();
        let nearest = nearest.join(" and ");
        format!(
            "images of {width}×{height} pixels are not possible ({why}); the nearest that are: {nearest}"
        )
    })
}

fn is_in_range(ImageSize { width, height }: ImageSize) -> bool {
    let (smaller, larger) = (width.min(height), width.max(height));
    SIDES.contains(&smaller) && SIDES.contains(&larger) && larger <= MAX_ASPECT * smaller
}

/// As [`halvings`], or `None` if images of this size are not supported.
fn try_halvings(size: ImageSize) -> Option<(u32, Grid)> {
    let ImageSize { width, height } = size;
    let levels = is_in_range(size).then(|| (width.min(height) / MAX_GRID_SIDE).ilog2() + 1)?;
    let unit = 1 << levels;
    let grid = Grid { height: (height / unit) as i64, width: (width / unit) as i64 };
    (width.is_multiple_of(unit) && height.is_multiple_of(unit)).then_some((levels, grid))
}

/// The supported sizes nearest to `size`: one that is not larger in either direction, and one that is not smaller.
/// There may be only one of them. If there is neither, it is the nearest of all.
fn nearest(size: ImageSize) -> Vec<ImageSize> {
    let sides = || SIDES.filter(|side| side.is_multiple_of(2));
    // Who asks for a square is helped by squares.
    let is_square = size.width == size.height;
    let all: Vec<_> = sides()
        .flat_map(|height| sides().map(move |width| ImageSize { width, height }))
        .filter(|&other| !is_square || other.width == other.height)
        .filter(|&size| try_halvings(size).is_some())
        .collect();
    let nearest = |is_candidate: &dyn Fn(&ImageSize) -> bool| {
        let distance = |other: &ImageSize| {
            size.width.abs_diff(other.width).saturating_add(size.height.abs_diff(other.height))
        };
        all.iter().copied().filter(is_candidate).min_by_key(distance)
    };
    let smaller = nearest(&|other| other.width <= size.width && other.height <= size.height);
    let larger = nearest(&|other| other.width >= size.width && other.height >= size.height);
    match (smaller, larger) {
        (None, None) => nearest(&|_| true).into_iter().collect(),
        (smaller, larger) => smaller.into_iter().chain(larger).collect(),
    }
}

impl Architecture {
    /// The layers that follow from `config`.
    ///
    /// # Errors
    /// If images of the configured size are not supported, or a width, `z_dim` or the number of channels is not
    /// above 0.
    pub fn new(config: ModelConfig) -> Result<Self> {
        let ModelConfig { image, base_width, z_dim, classes, .. } = config;
        ensure!(classes >= 0, "classes: expected 0 or more, found {classes}");
        let max_width = config.max_width.unwrap_or(base_width.saturating_mul(USUAL_MAX_WIDTH));
        let channels = i64::try_from(image.channels)?;
        for (name, value) in [
            ("base_width", base_width),
            ("z_dim", z_dim),
            ("max_width", max_width),
            ("channels", channels),
        ] {
            ensure!(value > 0, "{name}: expected 1 or more, found {value}");
        }
        let (levels, grid) = halvings(image.size)?;
        // Both networks double the channels towards the grid: `doublings` is 0 for the map next to the image in
        // the discriminator.
        let width = |doublings: u32| base_width.saturating_mul(1 << doublings).min(max_width);

        let mut names = LayerNames::default();
        let mut generator = Vec::new();
        let mut input = Features::Vector(config.input_len());
        let mut output = Features::Map { channels: width(levels), grid };
        generator.push(names.layer(Operation::Dense, input, output, true, Activation::Relu));
        for left in (0..levels).rev() {
            let is_last = left == 0;
            input = output;
            output = Features::Map {
                channels: if is_last { channels } else { width(left) },
                grid: input.grid().context("expected a feature map, found a vector")?.doubled(),
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

        let mut names = LayerNames::default();
        let mut discriminator = Vec::new();
        let mut x = output; // The generator's output is an image, and so is the discriminator's input.
        for level in 0..levels {
            let fine = x.grid().context("expected a feature map, found a vector")?;
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
        if classes > 0 {
            let of_classes = Features::Vector(classes);
            let projection = Operation::Projection;
            discriminator.push(names.layer(projection, x, of_classes, false, Activation::None));
        }
        Ok(Self { config, generator, discriminator })
    }

    /// The layers of `network`, in order.
    pub fn layers(&self, network: Network) -> &[Layer] {
        match network {
            Network::Generator => &self.generator,
            Network::Discriminator => &self.discriminator,
        }
    }

    /// In which way each convolution is computed on the CPU of this machine while the networks are trained in `kind`, by
    /// its layer's name. Those of the generator come first.
    pub fn algorithms(&self, kind: Kind, batch: usize, is_plain: bool) -> Vec<(String, Algorithm)> {
        let layers = Network::ALL.iter().flat_map(|&network| self.layers(network));
        let algorithm = |layer: &Layer| {
            let convolution = layer.convolution(kind, batch as i64, is_plain)?;
            Some((layer.name.clone(), convolution.algorithm()))
        };
        layers.filter_map(algorithm).collect()
    }

    /// Number of trained values of `network`.
    pub fn parameters(&self, network: Network) -> i64 {
        let layers = self.layers(network).iter();
        layers.map(|layer| layer.parameters() + layer.norm_parameters()).sum()
    }

    /// Names of the weights and moving statistics of `network` in `tch`'s variable stores.
    pub fn torch_names(&self, network: Network) -> impl Iterator<Item = String> {
        self.layers(network).iter().flat_map(Layer::torch_names)
    }

    /// TensorFlow's full names of the biases that have no effect: those of convolutions with a batch norm behind
    /// them. Batch norm subtracts the mean, and with it the bias. The true gradient of such a bias is 0, so
    /// only rounding errors change it.
    pub fn biases_of_no_effect(&self) -> Vec<String> {
        let of_network = |network: Network| {
            let layers = self.layers(network).iter();
            layers
                .filter(|layer| layer.operation != Operation::Dense && layer.norm.is_some())
                .map(move |layer| format!("{}/{}/bias", network.name(), layer.name))
        };
        Network::ALL.into_iter().flat_map(of_network).collect()
    }

    /// The rows of a table of the layers of `network`. Batch norms have rows of their own.
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
    /// The layer's name, as in TensorFlow's variables, and the activation behind it.
    pub layer: String,
    /// Shape of the output without the batch: channels, height, width.
    pub output: String,
    /// Number of trained values.
    pub parameters: i64,
}

/// Numbers layers as TensorFlow does: the first of a kind has no number, the second has `_1`.
#[derive(Default)]
struct LayerNames(BTreeMap<&'static str, u32>);

impl LayerNames {
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

/// Infers the configuration from the shapes of TensorFlow's variables, for files that do not state it. Images are
/// assumed to be square. `shape` returns the shape of the variable with a given full name, if it is in the file.
///
/// # Errors
/// If the variables of both networks are missing, or their shapes are not those of supported networks.
pub fn infer(shape: impl Fn(&str) -> Option<Vec<i64>>) -> Result<ModelConfig> {
    let kernel_shapes = |network: Network, operation: Operation| {
        let name = |names: &mut LayerNames| {
            format!("{}/{}/kernel", network.name(), names.next(operation.name()))
        };
        let mut names = LayerNames::default();
        std::iter::from_fn(|| shape(&name(&mut names))).collect::<Vec<_>>()
    };
    let generator = kernel_shapes(Network::Generator, Operation::ConvTranspose);
    let discriminator = kernel_shapes(Network::Discriminator, Operation::Conv);
    // TensorFlow's layout is [5, 5, out, in] for transposed convolutions and [5, 5, in, out] for convolutions.
    let (levels, channels, base_width) = match (generator.last(), discriminator.first()) {
        (Some(last), _) if last.len() == 4 => (generator.len(), last[2], last[3] / 2),
        (None, Some(first)) if first.len() == 4 => (discriminator.len(), first[2], first[3]),
        _ => bail!(
            "lacks `config`, and its sizes cannot be inferred: it has neither generator/conv2d_transpose/kernel nor \
             discriminator/conv2d/kernel of rank 4"
        ),
    };
    let mut config = ModelConfig { base_width, ..Default::default() };
    config.image.channels = usize::try_from(channels)?;
    if let Some([z_dim, _]) = shape("generator/dense/kernel").as_deref() {
        config.z_dim = *z_dim;
    }
    // The dense layer next to the grid has a value for each channel at each position of it. This gives the number
    // of positions, which is the square of the grid's side.
    let (network, axis, channels) = match (generator.first(), discriminator.last()) {
        (Some(first), _) => (Network::Generator, 1, first.get(3)),
        (None, last) => (Network::Discriminator, 0, last.and_then(|shape| shape.get(3))),
    };
    let name = format!("{}/dense/kernel", network.name());
    let dense = shape(&name).with_context(|| format!("lacks tensor {name}"))?;
    let length = dense.get(axis).copied().unwrap_or(0);
    let per_position = channels.copied().unwrap_or(0);
    let cells = usize::try_from(length.checked_div(per_position).unwrap_or(0))?;
    let grid = cells.isqrt();
    ensure!(
        grid as i64 * grid as i64 * per_position == length,
        "tensor {name}: its shape {dense:?} is not that of a square grid of {per_position} channels; files of \
         other images state their `config`"
    );
    // The widest layer lies next to the grid. Its width tells whether doubling was stopped before the usual end.
    let doublings = if network == Network::Generator { levels } else { levels.saturating_sub(1) };
    let usual = base_width.saturating_mul((1 << doublings.min(16)).min(USUAL_MAX_WIDTH));
    config.max_width = (per_position < usual).then_some(per_position);
    let side = grid.saturating_mul(1 << levels.min(16));
    config.image.size = ImageSize::square(side);
    let (expected, _) =
        halvings(config.image.size).context("inferred from the shapes of variables")?;
    ensure!(
        levels == expected as usize,
        "expected {expected} convolutions for images of {side}×{side} pixels, found {levels}"
    );
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
            ("128x16", "64x16 and 128x32"),
            ("116x30", "112x28 and 120x32"),
            ("1000x20", "80x20"),
            ("100", "96 and 112"),
            ("72", "64 and 80"),
        ] {
            let error = of_size(size, 1).unwrap_err().to_string();
            assert!(
                error.contains("not possible") && error.ends_with(&format!(": {nearest}")),
                "{size}: {error}"
            );
        }
    }

    #[test]
    fn every_impossible_size_has_a_nearest_possible_one() {
        for height in (1..300).step_by(13) {
            for width in (1..300).step_by(3) {
                let size = ImageSize { width, height };
                let found = nearest(size);
                assert!(!found.is_empty(), "{size}");
                assert!(found.iter().all(|&size| halvings(size).is_ok()), "{size}: {found:?}");
            }
        }
    }

    #[test]
    fn the_shapes_of_tensorflows_variables_tell_the_sizes() -> Result<()> {
        for (size, channels, network) in [
            ("32", 3, 0),
            ("32", 1, 1),
            ("64", 1, 0),
            ("28", 3, 1),
            ("16", 2, 0),
            ("128", 1, 0),
            ("256", 3, 1),
        ] {
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
            let narrow = ModelConfig { max_width: Some(4), base_width: 2, ..architecture.config };
            let layers = Architecture::new(narrow)?;
            let kernels = layers.layers(network).iter();
            let kernels: BTreeMap<_, _> = kernels
                .map(|layer| (format!("{}/{}/kernel", network.name(), layer.name), layer))
                .collect();
            let found = infer(|name| kernels.get(name).map(|layer| layer.tf_kernel_shape()))?;
            assert_eq!(Architecture::new(found)?.layers(network), layers.layers(network), "{size}");

            let dense = format!("{}/dense/kernel", network.name());
            let message = |dense_shape: Option<Vec<i64>>| {
                let shape = |name: &str| {
                    if name == dense { dense_shape.clone() } else { shapes.get(name).cloned() }
                };
                format!("{:#}", infer(shape).unwrap_err())
            };
            assert!(message(None).contains(&format!("lacks tensor {dense}")), "{}", message(None));
            let doubled = shapes[&dense].iter().map(|length| 2 * length).collect();
            let doubled = message(Some(doubled));
            assert!(doubled.contains("not that of a square grid"), "{doubled}");
        }
        assert!(infer(|_| None).unwrap_err().to_string().contains("lacks `config`"));
        Ok(())
    }
}
