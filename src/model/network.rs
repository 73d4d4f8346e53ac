//! What both networks share: a stack of layers, built from the architecture's list of layers.

use std::rc::Rc;

use anyhow::{Context, Result, bail};
use tch::{Kind, Tensor, nn};

use crate::architecture::{Activation, Features, Layer, ModelConfig, Operation};
use crate::tf::{
    BatchNorm, BatchNormConfig, Conv, ConvConfig, ConvTranspose, Dense, DenseConfig, Kinks,
    Projection, Statistics, Variable, leaky_relu,
};

/// The layers of a network, in order and in the mirrored frame.
#[derive(Debug)]
pub(super) struct Stack {
    blocks: Vec<Block>,
    /// What the classes of the images add to the output of the last block, from the same input.
    projection: Option<Projection>,
    /// Slope of the leaky ReLU.
    alpha: f64,
    /// What watches on which side of their kinks values fall, if anything does.
    kinks: Option<Rc<Kinks>>,
}

/// A layer, the batch norm behind it, if there is one, and the activation behind both.
#[derive(Debug)]
struct Block {
    operation: TfLayer,
    norm: Option<BatchNorm>,
    activation: Activation,
    input: Features,
    output: Features,
}

/// One of TensorFlow's layers.
#[derive(Debug)]
enum TfLayer {
    Dense(Dense),
    Conv(Conv),
    ConvTranspose(ConvTranspose),
}

impl TfLayer {
    fn new(path: &nn::Path, layer: &Layer) -> Result<Self> {
        let channels = ConvConfig {
            in_channels: layer.input.channels(),
            out_channels: layer.output.channels(),
        };
        let name = &layer.name;
        Ok(match (layer.operation, layer.input, layer.output) {
            (Operation::Dense, Features::Vector(features), Features::Map { channels, grid }) => {
                let to_grid = DenseConfig::ToGrid { features, channels, grid };
                Self::Dense(Dense::new(path, name, to_grid))
            }
            (Operation::Dense, Features::Map { channels, grid }, Features::Vector(features)) => {
                let from_grid = DenseConfig::FromGrid { channels, grid, features };
                Self::Dense(Dense::new(path, name, from_grid))
            }
            (Operation::Projection, ..) => bail!("{name}: a projection must be the last layer"),
            (Operation::Dense, ..) => {
                bail!("{name}: a dense layer connects a vector and a grid, in either direction")
            }
            (Operation::Conv, ..) => Self::Conv(Conv::new(path, name, channels)),
            (Operation::ConvTranspose, ..) => {
                Self::ConvTranspose(ConvTranspose::new(path, name, channels))
            }
        })
    }

    fn cast(&self, kind: Kind) -> Result<Self> {
        Ok(match self {
            Self::Dense(layer) => Self::Dense(layer.cast(kind)?),
            Self::Conv(layer) => Self::Conv(layer.cast(kind)?),
            Self::ConvTranspose(layer) => Self::ConvTranspose(layer.cast(kind)?),
        })
    }

    fn variables(&self) -> Vec<Variable> {
        match self {
            Self::Dense(layer) => layer.variables(),
            Self::Conv(layer) => layer.variables(),
            Self::ConvTranspose(layer) => layer.variables(),
        }
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(layer) => layer.forward(x),
            Self::Conv(layer) => layer.forward(x),
            Self::ConvTranspose(layer) => layer.forward(x),
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Dense(layer) => layer.kind(),
            Self::Conv(layer) => layer.kind(),
            Self::ConvTranspose(layer) => layer.kind(),
        }
    }
}

impl Block {
    /// Computes the layer's output before its batch norm and its activation.
    fn linear(&self, x: &Tensor) -> Result<Tensor> {
        let flat = match (&self.operation, self.input) {
            (TfLayer::Dense(_), Features::Map { .. }) => Some(flattened(x)?),
            _ => None,
        };
        let y = self.operation.forward(flat.as_ref().unwrap_or(x))?;
        match (&self.operation, self.output) {
            (TfLayer::Dense(_), Features::Map { channels, grid }) => {
                let y = y.f_view([-1, grid.height, grid.width, channels])?;
                Ok(y.f_permute([0, 3, 1, 2])?) // [N, H·W·C] -> [N, C, H, W]
            }
            _ => Ok(y),
        }
    }
}

/// A grid as the vector that dense layers read: `[N, C, H, W]` → `[N, H·W·C]`.
fn flattened(x: &Tensor) -> Result<Tensor> {
    // TF: dense layers read and write grids as vectors in (h, w, c) order. This is libtorch's channels-last memory
    // order, so the permutations here and in `Block::linear` move nothing in memory.
    Ok(x.f_permute([0, 2, 3, 1])?.f_flatten(1, 3)?)
}

impl Stack {
    /// Creates the variables of `layers` under `path`; [`super::initialize`] fills them.
    pub(super) fn new(path: &nn::Path, layers: &[Layer], config: &ModelConfig) -> Result<Self> {
        let block = |layer: &Layer| -> Result<Block> {
            let norm = |name: &String| {
                let channels = layer.output.channels();
                BatchNorm::new(path, name, BatchNormConfig { channels, epsilon: config.bn_epsilon })
            };
            Ok(Block {
                operation: TfLayer::new(path, layer)?,
                norm: layer.norm.as_ref().map(norm),
                activation: layer.activation,
                input: layer.input,
                output: layer.output,
            })
        };
        let (projections, layers): (Vec<_>, Vec<_>) =
            layers.iter().partition(|layer| layer.operation == Operation::Projection);
        let projection = |layer: &Layer| match (layer.input, layer.output) {
            (Features::Map { channels, grid }, Features::Vector(classes)) => {
                Ok(Projection::new(path, &layer.name, channels, grid, classes))
            }
            _ => bail!("{}: a projection connects a grid and a vector", layer.name),
        };
        Ok(Self {
            blocks: layers.into_iter().map(block).collect::<Result<_>>()?,
            projection: projections.first().map(|layer| projection(layer)).transpose()?,
            alpha: config.alpha,
            kinks: None,
        })
    }

    /// The same stack, with the layer and the batch norm of each block replaced by what `change` returns, and without
    /// its projection.
    fn map(&self, change: impl Fn(&Block) -> Result<(TfLayer, Option<BatchNorm>)>) -> Result<Self> {
        let block = |block: &Block| -> Result<Block> {
            let (operation, norm) = change(block)?;
            let Block { activation, input, output, .. } = *block;
            Ok(Block { operation, norm, activation, input, output })
        };
        Ok(Self {
            blocks: self.blocks.iter().map(block).collect::<Result<_>>()?,
            projection: None,
            alpha: self.alpha,
            kinks: self.kinks.clone(),
        })
    }

    /// The same network, computing in `kind`. Its kernels and biases are casts of the variables, made once for
    /// any number of passes, and gradients flow through them to the variables. Batch norm stays in the
    /// variables' kind.
    pub(super) fn cast(&self, kind: Kind) -> Result<Self> {
        let cast = self.map(|block| {
            let norm = block.norm.as_ref().map(BatchNorm::shallow_clone);
            Ok((block.operation.cast(kind)?, norm))
        })?;
        let projection = self.projection.as_ref().map(|projection| projection.cast(kind));
        Ok(Self { projection: projection.transpose()?, ..cast })
    }

    /// The network for sampling: each batch norm, with its moving statistics, is folded into the weights of the
    /// layer before it. A layer without batch norm keeps its own weights, not copies of them.
    pub(super) fn folded(&self) -> Result<Self> {
        let _no_grad = tch::no_grad_guard();
        self.map(|block| {
            let operation = match (&block.operation, &block.norm) {
                (operation, None) => operation.cast(operation.kind())?,
                (TfLayer::Dense(layer), Some(norm)) => TfLayer::Dense(layer.folded(norm)?),
                (TfLayer::ConvTranspose(layer), Some(norm)) => {
                    TfLayer::ConvTranspose(layer.folded(norm)?)
                }
                (TfLayer::Conv(_), Some(_)) => bail!(
                    "a batch norm can be folded into a dense layer or a transposed convolution, \
                     not into a convolution"
                ),
            };
            Ok((operation, None))
        })
    }

    /// Lets `kinks` watch the values that go into ReLUs, or nothing.
    pub(super) fn watch_kinks(&mut self, kinks: Option<Rc<Kinks>>) {
        self.kinks = kinks;
    }

    /// Leaves faster ways that round more to libtorch, or not. To be called before [`Self::arrange_for`].
    pub(super) fn set_plain(&mut self, is_plain: bool) {
        for block in &mut self.blocks {
            match &mut block.operation {
                TfLayer::Dense(_) => {}
                TfLayer::Conv(layer) => layer.set_plain(is_plain),
                TfLayer::ConvTranspose(layer) => layer.set_plain(is_plain),
            }
        }
    }

    /// Puts the weights of transposed convolutions into the memory order that is fastest for computing in `kind`.
    pub(super) fn arrange_for(&mut self, kind: Kind) {
        for block in &mut self.blocks {
            if let (TfLayer::ConvTranspose(layer), Features::Map { grid, .. }) =
                (&mut block.operation, block.input)
            {
                layer.arrange_for(kind, grid);
            }
        }
    }

    /// Passes `x` through all layers. The output has the kind of `x`, whatever kind the layers compute in. `classes` `[N]`
    /// (int64) are those of the rows of `x`, for a stack with a projection.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        classes: Option<&Tensor>,
        statistics: Statistics,
    ) -> Result<Tensor> {
        let (last, inner) = self.blocks.split_last().context("the network has no layers")?;
        let mut y = x.f_to_kind(last.operation.kind())?;
        for block in inner {
            y = block.linear(&y)?;
            if let Some(norm) = &block.norm {
                y = norm.forward(&y, statistics)?;
            }
            y = self.activate(y, block.activation)?;
        }
        let mut output = last.linear(&y)?.f_to_kind(x.kind())?;
        match (&self.projection, classes) {
            (None, None) => {}
            (Some(projection), Some(classes)) => {
                let of_classes = projection.forward(&flattened(&y)?, classes)?;
                output = output.f_add(&of_classes.f_to_kind(x.kind())?)?;
            }
            (Some(_), None) => {
                bail!("the network judges images of classes, and no classes are given")
            }
            (None, Some(_)) => bail!("the network knows no classes, and classes are given"),
        }
        self.activate(output, last.activation)
    }

    fn activate(&self, mut x: Tensor, activation: Activation) -> Result<Tensor> {
        let slope = match activation {
            Activation::Relu => Some(0.0),
            Activation::LeakyRelu => Some(self.alpha),
            Activation::None | Activation::Tanh => None,
        };
        if let (Some(kinks), Some(slope)) = (&self.kinks, slope)
            && let Some(y) = kinks.relu(&x, slope)?
        {
            return Ok(y);
        }
        Ok(match activation {
            Activation::None => x,
            // This may overwrite its input, because no gradient of an earlier layer needs the old values.
            Activation::Relu => x.f_relu_()?,
            Activation::LeakyRelu => leaky_relu(&x, self.alpha)?,
            Activation::Tanh => x.f_tanh()?,
        })
    }

    /// The variables, in TensorFlow's order of creation.
    pub(super) fn variables(&self) -> Vec<Variable> {
        let of_block = |block: &Block| {
            let norm = block.norm.iter().flat_map(BatchNorm::variables);
            block.operation.variables().into_iter().chain(norm).collect::<Vec<_>>()
        };
        let projection = self.projection.iter().flat_map(Projection::variables);
        self.blocks.iter().flat_map(of_block).chain(projection).collect()
    }
}
