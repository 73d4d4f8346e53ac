//! A generator as ONNX: standard operators only.
//!
//! Asymmetric padding crops what TensorFlow's "same" crops, so that kernels stand upright and no operator
//! turns images. The messages are those fields of `onnx.proto` (ONNX 1.17) that such a file has.

use anyhow::{Context, Result, ensure};
use prost::Message;
use tch::{Device, Kind, Tensor};

use super::DESCRIPTION;
use crate::run::watch::ensure_finite;
use crate::tf::frame::{GRID, IMAGE_SIZE, STRIDE};
use crate::weights::Weights;

/// Of the operators. Everything used here is the same from 14 on, and 17 is read by runtimes since 2022.
const OPSET: i64 = 17;
/// Of the file format, that of [`OPSET`].
const IR_VERSION: i64 = 8;
/// What TensorFlow's "same" padding crops of a transposed convolution: top, left, bottom, right.
const PADS: [i64; 4] = [1, 1, 2, 2];

/// The file's bytes. Input `z` `[batch, z_dim]`, output `images` `[batch, C, 32, 32]`, both float32.
///
/// # Errors
/// If the weights are no generator's or not finite in float32, or the file is larger than the format allows.
pub fn onnx(weights: &Weights) -> Result<Vec<u8>> {
    let _no_grad = tch::no_grad_guard();
    // Folded in float64, so that nothing is lost before the last rounding.
    let model = weights.generator(Device::Cpu, Kind::Double)?;
    let mut graph = Graph {
        name: "generator".to_owned(),
        doc_string: DESCRIPTION.to_owned(),
        ..Default::default()
    };
    let mut x = "z".to_owned();
    for variable in model.generator.folded()?.variables() {
        let upright = variable.layout.tf_from_mirrored(&variable.tensor)?;
        let name = variable.tf_name.replace('/', ".");
        let (layer, what) = name.split_once('.').context("a variable without a layer")?;
        // To the order of channels, rows, columns, which is ONNX's.
        let values = match (layer, what) {
            ("dense", _) => channels_first(&upright)?,
            (_, "kernel") => upright.f_permute([3, 2, 0, 1])?, // hwoi -> iohw
            _ => upright,
        };
        graph.initializer.push(tensor(&name, &values)?);
        // A layer's kernel comes before its bias.
        if what == "bias" {
            x = layer_nodes(&mut graph, layer, &x);
        }
    }
    let grid = [-1, 8 * model.config.base_width, GRID, GRID];
    graph.initializer.push(shape_tensor("grid", &grid));
    graph.input = vec![value("z", &[model.config.z_dim])];
    let size = IMAGE_SIZE;
    graph.output = vec![value(&x, &[model.config.channels, size, size])];

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
    // Where protobuf ends.
    ensure!(
        i32::try_from(file.encoded_len()).is_ok(),
        "an ONNX file holds up to 2 GB, this generator takes {} bytes; export it as torchscript",
        file.encoded_len()
    );
    Ok(file.encode_to_vec())
}

/// A layer and its activation; the name of what comes out.
fn layer_nodes(graph: &mut Graph, layer: &str, x: &str) -> String {
    let parameters = [format!("{layer}.kernel"), format!("{layer}.bias")];
    let inputs = [&[x.to_owned()][..], &parameters].concat();
    if layer == "dense" {
        graph.node.push(Node::new("Gemm", &inputs, layer, vec![]));
        let shaped = ["dense".to_owned(), "grid".to_owned()];
        graph.node.push(Node::new("Reshape", &shaped, "dense.grid", vec![]));
        graph.node.push(Node::new("Relu", &["dense.grid".to_owned()], "dense.relu", vec![]));
        return "dense.relu".to_owned();
    }
    let attributes = vec![
        Attribute::ints("kernel_shape", &[5, 5]),
        Attribute::ints("pads", &PADS),
        Attribute::ints("strides", &[STRIDE, STRIDE]),
    ];
    graph.node.push(Node::new("ConvTranspose", &inputs, layer, attributes));
    let (activation, output) = match layer {
        "conv2d_transpose_2" => ("Tanh", "images".to_owned()),
        _ => ("Relu", format!("{layer}.relu")),
    };
    graph.node.push(Node::new(activation, &[layer.to_owned()], &output, vec![]));
    output
}

/// A tensor whose last axis runs over (h, w, c) of the grid, with that in the order (c, h, w).
fn channels_first(x: &Tensor) -> Result<Tensor> {
    let shape = x.size();
    let rows: i64 = shape[..shape.len() - 1].iter().product();
    let x = x.f_reshape([rows, GRID, GRID, -1])?.f_permute([0, 3, 1, 2])?;
    Ok(x.f_reshape(&shape)?)
}

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

fn shape_tensor(name: &str, shape: &[i64]) -> TensorProto {
    TensorProto {
        dims: vec![shape.len() as i64],
        data_type: INT64,
        name: name.to_owned(),
        raw_data: shape.iter().flat_map(|n| n.to_le_bytes()).collect(),
    }
}

/// A float32 tensor of any batch size.
fn value(name: &str, shape: &[i64]) -> ValueInfo {
    let batch = Dimension { dim_value: None, dim_param: Some("batch".to_owned()) };
    let fixed = shape.iter().map(|&n| Dimension { dim_value: Some(n), dim_param: None });
    let dim = std::iter::once(batch).chain(fixed).collect();
    ValueInfo {
        name: name.to_owned(),
        r#type: Some(Type {
            tensor_type: Some(TensorType { elem_type: FLOAT, shape: Some(Shape { dim }) }),
        }),
    }
}

/// `TensorProto.DataType`.
const FLOAT: i32 = 1;
/// `TensorProto.DataType`.
const INT64: i32 = 7;
/// `AttributeProto.AttributeType`.
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

    use anyhow::bail;

    use super::*;
    use crate::sample::Sampler;

    /// What the operators' definitions say of `file`, for `z`.
    fn evaluate(file: &[u8], z: &Tensor) -> Result<Tensor> {
        let graph = Model::decode(file)?.graph.context("no graph")?;
        let mut values = BTreeMap::from([("z".to_owned(), z.shallow_clone())]);
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
                "Reshape" => x(0).reshape(Vec::<i64>::try_from(x(1))?),
                "Relu" => x(0).relu(),
                "Tanh" => x(0).tanh(),
                "ConvTranspose" => {
                    let (pads, strides) = (ints("pads")?, ints("strides")?);
                    ensure!(ints("kernel_shape")? == x(1).size()[2..]);
                    // All of it, then cut: [top, left, bottom, right].
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
        let images = evaluate(&onnx(&weights)?, &z)?;
        let expected = sampler.upright(&z.to_kind(Kind::Double))?;
        let error = (images.to_kind(Kind::Double) - expected).abs().max().double_value(&[]);
        assert!(error <= 1e-5, "{error}");
        Ok(())
    }
}
