//! Exports a generator as ONNX, with standard operators only.
//!
//! Unlike libtorch's, ONNX's transposed convolution supports asymmetric padding. It can therefore crop exactly what
//! TensorFlow's "same" padding crops, so that the kernels are stored upright and no operator has to rotate images. The
//! protobuf messages below list only the fields of `onnx.proto` (ONNX 1.17) that such a file uses.

use anyhow::{Result, bail, ensure};
use prost::Message;
use tch::{Device, Kind, Tensor};

use super::DESCRIPTION;
use crate::architecture::{Activation, Features, Layer, ModelConfig, Network, Operation};
use crate::finite::ensure_finite;
use crate::shape::Grid;
use crate::tf::Role;
use crate::tf::frame::{KERNEL, STRIDE};
use crate::weights::Weights;

/// The version of ONNX's set of operators. All operators used here have been the same since version 14, and runtimes
/// have read version 17 since 2022.
const OPSET: i64 = 17;
/// The version of the file format that came with [`OPSET`].
const IR_VERSION: i64 = 8;
/// How much TensorFlow's "same" padding crops from a transposed convolution's output: top, left, bottom, right.
const PADS: [i64; 4] = [1, 1, 2, 2];

/// The bytes of the ONNX file. Its input is `z` `[batch, z_dim]`, its output `images` `[batch, C, H, W]`, both float32. A
/// conditional generator has a second input, `class` `[batch]` (int64): the number of the class that each image is to be
/// of, in the order of the metadata's `classes`.
///
/// # Errors
/// If the weights are not a generator's or not finite in float32, or the file is larger than the format allows.
pub fn onnx(weights: &Weights) -> Result<Vec<u8>> {
    let _no_grad = tch::no_grad_guard();
    // Batch norm is folded in float64, so that values are rounded only once, at the end.
    let model = weights.generator(Device::Cpu, Kind::Double)?;
    let mut graph = Graph {
        name: "generator".to_owned(),
        doc_string: DESCRIPTION.to_owned(),
        ..Default::default()
    };
    let layers = model.architecture.layers(Network::Generator);
    let variables = model.generator.folded()?.variables();
    let ModelConfig { image, z_dim, classes, .. } = *model.config();
    let mut x = "z".to_owned();
    // Each layer has a kernel and a bias.
    for (layer, variables) in layers.iter().zip(variables.chunks_exact(2)) {
        for variable in variables {
            let upright = variable.layout.tf_from_mirrored(&variable.tensor)?;
            // ONNX orders values by channel, then row, then column.
            let values = match (layer.operation, layer.output.grid(), variable.role) {
                (Operation::Dense, Some(grid), _) => channels_first(&upright, grid)?,
                (Operation::ConvTranspose, _, Role::Kernel) => upright.f_permute([3, 2, 0, 1])?, // hwoi -> iohw
                _ => upright,
            };
            let name = variable.tf_name.replace('/', ".");
            if x == "z" && variable.role == Role::Kernel && classes > 0 {
                // Behind the rows of the noise are those of the classes, of which each image takes one.
                let [of_noise, of_classes] =
                    [values.f_narrow(0, 0, z_dim)?, values.f_narrow(0, z_dim, classes)?];
                graph.initializer.push(tensor(&name, &of_noise)?);
                graph.initializer.push(tensor(&class_kernel(layer), &of_classes)?);
            } else {
                graph.initializer.push(tensor(&name, &values)?);
            }
        }
        x = layer_nodes(&mut graph, layer, &x, x == "z" && classes > 0)?;
    }
    if let Some(Features::Map { channels, grid }) = layers.first().map(|layer| layer.output) {
        graph.initializer.push(shape_tensor("grid", &[-1, channels, grid.height, grid.width]));
    }
    graph.input = vec![value("z", FLOAT, &[z_dim])];
    if classes > 0 {
        graph.input.push(value("class", INT64, &[]));
    }
    let image = [image.channels, image.size.height, image.size.width];
    graph.output = vec![value(&x, FLOAT, &image.map(|n| n as i64))];

    let about = weights.about()?.into_iter();
    let file = Model {
        ir_version: IR_VERSION,
        producer_name: "dcgan".to_owned(),
        producer_version: crate::VERSION.to_owned(),
        doc_string: DESCRIPTION.to_owned(),
        graph: Some(graph),
        opset_import: vec![OperatorSet { domain: String::new(), version: OPSET }],
        metadata_props: about.map(|(key, value)| Entry { key, value }).collect(),
    };
    // A protobuf message cannot be larger than this.
    ensure!(
        i32::try_from(file.encoded_len()).is_ok(),
        "an ONNX file holds up to 2 GB, this generator takes {} bytes; export it as torchscript",
        file.encoded_len()
    );
    Ok(file.encode_to_vec())
}

/// The name of the rows of a dense layer's kernel that belong to classes.
fn class_kernel(layer: &Layer) -> String {
    format!("{}.class_kernel", layer.name)
}

/// Adds the operators of a layer and its activation to `graph`. `x` is the name of the layer's input; if it is
/// `of_classes`, the input `class` steers the layer too. Returns the name of the layer's output.
fn layer_nodes(graph: &mut Graph, layer: &Layer, x: &str, of_classes: bool) -> Result<String> {
    let name = &layer.name;
    let parameters = [format!("{name}.kernel"), format!("{name}.bias")];
    let inputs = [&[x.to_owned()][..], &parameters].concat();
    let mut out = name.clone();
    match layer.operation {
        Operation::Dense => {
            graph.node.push(Node::new("Gemm", &inputs, name, vec![]));
            let mut flat = name.clone();
            if of_classes {
                let (of_noise, chosen) = (flat, format!("{name}.of_class"));
                flat = format!("{name}.sum");
                let rows = [class_kernel(layer), "class".to_owned()];
                graph.node.push(Node::new("Gather", &rows, &chosen, vec![]));
                graph.node.push(Node::new("Add", &[of_noise, chosen], &flat, vec![]));
            }
            let shaped = [flat, "grid".to_owned()];
            out = format!("{name}.grid");
            graph.node.push(Node::new("Reshape", &shaped, &out, vec![]));
        }
        Operation::ConvTranspose => {
            let attributes = vec![
                Attribute::ints("kernel_shape", &[KERNEL, KERNEL]),
                Attribute::ints("pads", &PADS),
                Attribute::ints("strides", &[STRIDE, STRIDE]),
            ];
            graph.node.push(Node::new("ConvTranspose", &inputs, name, attributes));
        }
        Operation::Conv | Operation::Projection => bail!("{name}: a generator has no such layer"),
    }
    let (activation, output) = match layer.activation {
        Activation::Relu => ("Relu", format!("{name}.relu")),
        Activation::Tanh => ("Tanh", "images".to_owned()),
        other => bail!("{name}: a generator has no activation {other:?}"),
    };
    graph.node.push(Node::new(activation, &[out], &output, vec![]));
    Ok(output)
}

/// Reorders the last axis of `x`, which runs over the grid's values in the order (h, w, c), to the order (c, h, w).
fn channels_first(x: &Tensor, grid: Grid) -> Result<Tensor> {
    let shape = x.size();
    let rows: i64 = shape[..shape.len() - 1].iter().product();
    let x = x.f_reshape([rows, grid.height, grid.width, -1])?.f_permute([0, 3, 1, 2])?;
    Ok(x.f_reshape(&shape)?)
}

/// The values of a tensor, as float32.
fn tensor(name: &str, values: &Tensor) -> Result<TensorProto> {
    let flat = values.f_to_kind(Kind::Float)?.f_contiguous()?.f_flatten(0, -1)?;
    ensure_finite(name, &flat)?;
    Ok(TensorProto {
        dims: values.size(),
        data_type: FLOAT,
        name: name.to_owned(),
        raw_data: Vec::<f32>::try_from(flat)?.into_iter().flat_map(f32::to_le_bytes).collect(),
    })
}

/// A shape as a tensor, which the operator `Reshape` takes.
fn shape_tensor(name: &str, shape: &[i64]) -> TensorProto {
    TensorProto {
        dims: vec![shape.len() as i64],
        data_type: INT64,
        name: name.to_owned(),
        raw_data: shape.iter().flat_map(|n| n.to_le_bytes()).collect(),
    }
}

/// The description of an input or output: a tensor of any batch size, whose other sizes are `shape`.
fn value(name: &str, elem_type: i32, shape: &[i64]) -> ValueInfo {
    let batch = Dimension { dim_value: None, dim_param: Some("batch".to_owned()) };
    let fixed = shape.iter().map(|&n| Dimension { dim_value: Some(n), dim_param: None });
    let dim = std::iter::once(batch).chain(fixed).collect();
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType { elem_type, shape: Some(Shape { dim }) }),
        }),
    }
}

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;
/// `TensorProto.DataType.INT64`.
const INT64: i32 = 7;
/// `AttributeProto.AttributeType.INTS`.
const INTS: i32 = 7;

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(string, tag = "2")]
    producer_name: String,
    #[prost(string, tag = "3")]
    producer_version: String,
    #[prost(string, tag = "6")]
    doc_string: String,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "14")]
    metadata_props: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct OperatorSet {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<TensorProto>,
    #[prost(string, tag = "10")]
    doc_string: String,
    #[prost(message, repeated, tag = "11")]
    input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "1")]
    input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

impl Node {
    fn new(op_type: &str, input: &[String], output: &str, attribute: Vec<Attribute>) -> Self {
        Self {
            input: input.to_vec(),
            output: vec![output.to_owned()],
            name: output.to_owned(),
            op_type: op_type.to_owned(),
            attribute,
        }
    }
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, repeated, packed = "false", tag = "8")]
    ints: Vec<i64>,
    #[prost(int32, tag = "20")]
    r#type: i32,
}

impl Attribute {
    fn ints(name: &str, ints: &[i64]) -> Self {
        Self { name: name.to_owned(), ints: ints.to_vec(), r#type: INTS }
    }
}

#[derive(Clone, PartialEq, Message)]
struct TensorProto {
    #[prost(int64, repeated, packed = "false", tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ValueInfo {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    tensor_type: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
struct TensorType {
    #[prost(int32, tag = "1")]
    elem_type: i32,
    #[prost(message, optional, tag = "2")]
    shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(message, repeated, tag = "1")]
    dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
struct Dimension {
    #[prost(int64, optional, tag = "1")]
    dim_value: Option<i64>,
    #[prost(string, optional, tag = "2")]
    dim_param: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use anyhow::Context;

    use super::*;
    use crate::data::Classes;
    use crate::sample::Sampler;
    use crate::settings::{Size, TrainConfig};
    use crate::shape::{ImageShape, ImageSize};

    /// Computes the images of `z` by the definitions of the operators in `file`.
    fn evaluate(file: &[u8], z: &Tensor, class: Option<&Tensor>) -> Result<Tensor> {
        let graph = Model::decode(file)?.graph.context("no graph")?;
        let mut values = BTreeMap::from([("z".to_owned(), z.shallow_clone())]);
        values.extend(class.map(|class| ("class".to_owned(), class.shallow_clone())));
        let inputs: Vec<_> = graph.input.iter().map(|input| &input.name).collect();
        assert!(values.keys().rev().eq(inputs), "{:?}", graph.input);
        for TensorProto { dims, data_type, name, raw_data } in graph.initializer {
            let kind = if data_type == FLOAT { Kind::Float } else { Kind::Int64 };
            values.insert(name, Tensor::f_from_data_size(&raw_data, &dims, kind)?);
        }
        for node in graph.node {
            let x = |i: usize| &values[&node.input[i]];
            let ints = |name: &str| {
                let found = node.attribute.iter().find(|attribute| attribute.name == name);
                found.map(|attribute| attribute.ints.clone()).context(name.to_owned())
            };
            let y = match node.op_type.as_str() {
                "Gemm" => x(0).matmul(x(1)) + x(2),
                "Gather" => x(0).index_select(0, x(1)),
                "Add" => x(0) + x(1),
                "Reshape" => x(0).reshape(Vec::<i64>::try_from(x(1))?),
                "Relu" => x(0).relu(),
                "Tanh" => x(0).tanh(),
                "ConvTranspose" => {
                    let (pads, strides) = (ints("pads")?, ints("strides")?);
                    ensure!(ints("kernel_shape")? == x(1).size()[2..]);
                    // First the whole output without padding, then the pads [top, left, bottom, right] are cut off.
                    let whole =
                        x(0).conv_transpose2d(x(1), Some(x(2)), strides, [0, 0], [0, 0], 1, [1, 1]);
                    let side = |axis: usize| whole.size()[axis] - pads[axis - 2] - pads[axis];
                    whole.narrow(2, pads[0], side(2)).narrow(3, pads[1], side(3))
                }
                other => bail!("{other} is not expected"),
            };
            values.insert(node.output[0].clone(), y);
        }
        values.remove(&graph.output[0].name).context("no output")
    }

    #[test]
    fn the_operators_give_the_images_of_the_sampler() -> Result<()> {
        let weights = Weights::built_in()?;
        let sampler = Sampler::of(&weights, Device::Cpu, Kind::Double)?;
        let z = Tensor::from_slice(&sampler.noise(3, 0, 5)).view([5, -1]);
        let images = evaluate(&onnx(&weights)?, &z, None)?;
        let expected = sampler.upright(&z.to_kind(Kind::Double))?;
        let error = (images.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
        assert!(error <= 1e-5, "{error}");
        Ok(())
    }

    #[test]
    fn a_conditional_generator_of_any_size_takes_the_class_as_its_second_input() -> Result<()> {
        let (z_dim, classes) = (6, 3);
        let config = ModelConfig {
            image: ImageShape { size: ImageSize { width: 80, height: 48 }, channels: 3 },
            base_width: 2,
            z_dim,
            classes,
            ..Default::default()
        };
        let model = crate::model::Model::new(&config, 5, Device::Cpu, Kind::Double)?;
        let names = ["a", "b", "c"].map(str::to_owned).into();
        let known = Classes { names, counts: vec![1, 2, 3], sha256: String::new() };
        let settings = TrainConfig {
            image_size: Size::Of(config.image.size),
            base_width: 2,
            z_dim,
            conditional: true.into(),
            ..Default::default()
        };
        let weights = Weights::of_model(&model, Network::Generator, &settings, 1);
        let weights = Weights { classes: Some(known), ..weights };
        let sampler = Sampler::of(&weights, Device::Cpu, Kind::Double)?;
        let asked = [2, 0, 1, 2];
        let input = sampler.noise_of(3, 0, 4, &asked);
        let input = Tensor::from_slice(&input).view([4, z_dim + classes]);
        let class = Tensor::from_slice(&asked.map(|class| class as i64));
        let images = evaluate(&onnx(&weights)?, &input.narrow(1, 0, z_dim), Some(&class))?;
        let expected = sampler.upright(&input.to_kind(Kind::Double))?;
        assert_eq!(images.size(), [4, 3, 48, 80]);
        let error = (images.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
        assert!(error <= 1e-6, "{error}");
        Ok(())
    }
}
