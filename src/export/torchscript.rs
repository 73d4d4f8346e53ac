//! Exports a generator as TorchScript: an archive that `torch.jit.load` and libtorch read.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tch::{CModule, Device, Kind, Tensor};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::DESCRIPTION;
use crate::architecture::{Activation, Features, Layer, ModelConfig, Network, Operation};
use crate::finite::ensure_finite;
use crate::tf::frame::{OUTPUT_PADDING, PADDING, STRIDE, rotate_images};
use crate::weights::Weights;

/// The bytes of the archive. Its `forward` takes z `[N, z_dim]` in float32 and gives images `[N, C, H, W]`; of a conditional
/// generator it takes the classes `[N]` (int64) too, as numbers in the order of the metadata's `classes`. The weights are
/// constants in it. The file `extra/dcgan.json` in it says where the generator comes from.
///
/// # Errors
/// If the weights are not a generator's or not finite in float32, or if memory or the folder for temporary files has no
/// room.
pub fn torchscript(weights: &Weights) -> Result<Vec<u8>> {
    let _no_grad = tch::no_grad_guard();
    // Batch norm is folded in float64, so that values are rounded only once, at the end.
    let model = weights.generator(Device::Cpu, Kind::Double)?;
    let variables = model.generator.folded()?.variables();
    let mut parameters = Vec::new();
    for variable in variables {
        let parameter = variable.tensor.f_to_kind(Kind::Float)?.f_contiguous()?;
        ensure_finite(&variable.tf_name, &parameter)?;
        parameters.push(parameter);
    }
    let layers = model.architecture.layers(Network::Generator);
    let mut failure = None;
    let ModelConfig { z_dim, classes, .. } = *model.config();
    let mut forward = |inputs: &[Tensor]| match trace(inputs, classes, layers, &parameters) {
        Ok(images) => vec![images],
        Err(error) => {
            failure = Some(error);
            vec![inputs[0].shallow_clone()]
        }
    };
    // Traced with more than one row, so that the batch size is not recorded as the constant 1.
    let mut inputs = vec![Tensor::f_zeros([3, z_dim], (Kind::Float, Device::Cpu))?];
    if classes > 0 {
        inputs.push(Tensor::f_zeros([3], (Kind::Int64, Device::Cpu))?);
    }
    let module = CModule::create_by_tracing("Generator", "forward", &inputs, &mut forward)?;
    if let Some(error) = failure {
        return Err(error);
    }

    // libtorch names the folder within the archive after the file.
    let folder = tempfile::tempdir().context("no folder for a temporary file")?;
    let path = folder.path().join("generator.pt");
    module.save(&path)?;
    let about = serde_json::json!({ "description": DESCRIPTION, "about": weights.about()? });
    append(&path, "generator/extra/dcgan.json", &serde_json::to_vec_pretty(&about)?)
        .context("the archive has no room for its description")?;
    std::fs::read(&path).context("the archive cannot be read back")
}

/// Computes the generator's images in plain operations, which are recorded and must not fix the batch size.
/// `inputs` are z and, where there are `classes`, those asked for. `parameters` are each layer's kernel and bias.
fn trace(
    inputs: &[Tensor],
    classes: i64,
    layers: &[Layer],
    parameters: &[Tensor],
) -> Result<Tensor> {
    let mut x = inputs[0].shallow_clone();
    if let Some(asked) = inputs.get(1) {
        let one_hot = asked.f_one_hot(classes)?.f_to_kind(Kind::Float)?;
        x = Tensor::f_cat(&[x, one_hot], 1)?;
    }
    for (layer, parameters) in layers.iter().zip(parameters.chunks_exact(2)) {
        let (weight, bias) = (&parameters[0], Some(&parameters[1]));
        x = match layer.operation {
            Operation::Dense => x.f_linear(weight, bias)?,
            Operation::ConvTranspose => {
                let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
                let output_padding = [OUTPUT_PADDING, OUTPUT_PADDING];
                x.f_conv_transpose2d(weight, bias, stride, padding, output_padding, 1, [1, 1])?
            }
            Operation::Conv | Operation::Projection => {
                bail!("{}: a generator has no such layer", layer.name)
            }
        };
        x = match layer.activation {
            Activation::Relu => x.f_relu()?,
            Activation::Tanh => x.f_tanh()?,
            other => bail!("{}: a generator has no activation {other:?}", layer.name),
        };
        if let (Operation::Dense, Features::Map { channels, grid }) =
            (layer.operation, layer.output)
        {
            let shape = [-1, grid.height, grid.width, channels];
            x = x.f_view(shape)?.f_permute([0, 3, 1, 2])?; // [N, H·W·C] -> [N, C, H, W]
        }
    }
    rotate_images(&x) // [N, C, H, W], upright
}

/// Adds a file to a TorchScript archive.
fn append(archive: &Path, name: &str, content: &[u8]) -> Result<()> {
    let file = File::options().read(true).write(true).open(archive)?;
    let mut writer = ZipWriter::new_append(file)?;
    // Not compressed, as libtorch stores its own files.
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file(name, options)?;
    writer.write_all(content)?;
    writer.finish()?;
    Ok(())
}
