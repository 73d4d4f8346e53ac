//! A generator as TorchScript: one archive that `torch.jit.load` and libtorch read.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use tch::{CModule, Device, Kind, Tensor};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::DESCRIPTION;
use crate::run::watch::ensure_finite;
use crate::tf::frame::{GRID, OUTPUT_PADDING, PADDING, STRIDE, rotate_images};
use crate::weights::Weights;

/// The archive's bytes. Its `forward` takes z `[N, z_dim]` float32 and gives images `[N, C, 32, 32]`; the
/// weights are constants in it. `extra/dcgan.json` says what it is.
///
/// # Errors
/// If the weights are no generator's or not finite in float32, or memory or the folder for temporary files has no room.
pub fn torchscript(weights: &Weights) -> Result<Vec<u8>> {
    let _no_grad = tch::no_grad_guard();
    // Folded in float64, so that nothing is lost before the last rounding.
    let model = weights.generator(Device::Cpu, Kind::Double)?;
    let variables = model.generator.folded()?.variables();
    let mut parameters = Vec::new();
    for variable in variables {
        let parameter = variable.tensor.f_to_kind(Kind::Float)?.f_contiguous()?;
        ensure_finite(&variable.tf_name, &parameter)?;
        parameters.push(parameter);
    }
    let parameters: [Tensor; 8] =
        parameters.try_into().map_err(|_| anyhow!("a generator has four layers"))?;

    let mut failure = None;
    let mut forward = |inputs: &[Tensor]| match trace(&inputs[0], &parameters) {
        Ok(images) => vec![images],
        Err(error) => {
            failure = Some(error);
            vec![inputs[0].shallow_clone()]
        }
    };
    // More than one row, so that no size is taken for a constant 1.
    let z = Tensor::f_zeros([3, model.config.z_dim], (Kind::Float, Device::Cpu))?;
    let module = CModule::create_by_tracing("Generator", "forward", &[z], &mut forward)?;
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

/// The generator in plain operations, whose sizes do not depend on the batch.
fn trace(z: &Tensor, parameters: &[Tensor; 8]) -> Result<Tensor> {
    let [dense, dense_bias, layers @ ..] = parameters;
    let x = z.f_linear(dense, Some(dense_bias))?.f_relu()?; // [N, 4·4·8w]
    let channels = dense.size()[0] / (GRID * GRID);
    let mut x = x.f_view([-1, GRID, GRID, channels])?.f_permute([0, 3, 1, 2])?; // [N, 8w, 4, 4]
    for (i, layer) in layers.chunks_exact(2).enumerate() {
        let (stride, padding) = ([STRIDE, STRIDE], [PADDING, PADDING]);
        let output_padding = [OUTPUT_PADDING, OUTPUT_PADDING];
        let (weight, bias) = (&layer[0], Some(&layer[1]));
        x = x.f_conv_transpose2d(weight, bias, stride, padding, output_padding, 1, [1, 1])?;
        x = if i < 2 { x.f_relu()? } else { x.f_tanh()? };
    }
    rotate_images(&x) // [N, C, 32, 32], upright
}

/// Adds a record to a TorchScript archive.
fn append(archive: &Path, name: &str, content: &[u8]) -> Result<()> {
    let file = File::options().read(true).write(true).open(archive)?;
    let mut writer = ZipWriter::new_append(file)?;
    // As libtorch stores its own.
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file(name, options)?;
    writer.write_all(content)?;
    writer.finish()?;
    Ok(())
}
