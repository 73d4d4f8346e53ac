//! `dcgan export`: trained networks to other ecosystems.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dcgan::device;
use dcgan::error::Usage;
use dcgan::export::{onnx, torchscript};
use dcgan::files::write_bytes;
use dcgan::model::Network;
use dcgan::run::list::find;
use dcgan::run::model;
use dcgan::weights::{Variant, Weights};

use super::errors::print_warning;
use super::output::{ending, ensure_ending, ensure_free};
use super::progress::say;
use crate::cli::{ExportArgs, ExportFormat};

/// `dcgan export`.
///
/// # Errors
/// [`Usage`], if the flags ask for what cannot be or a file is there already; if the network cannot be
/// read or the file cannot be written.
pub fn export(args: &ExportArgs) -> Result<ExitCode> {
    let network = args.network;
    let (format, out) = format_and_file(args, network)?;
    ensure_free(&out, false, args.force)?;
    device::configure(device::default_threads(), false)?;
    let weights = match &args.model {
        None if network == Network::Generator => Weights::built_in()?.checked(args.weights)?,
        None => {
            let message =
                "--network discriminator: the program holds a generator only; name a MODEL";
            return Err(Usage(message.to_owned()).into());
        }
        Some(model) => model::read(&find(model)?, network, args.weights, print_warning)?,
    };
    // Whatever is wrong with the weights shows before anything is written.
    match format {
        ExportFormat::Safetensors => {
            weights.model(tch::Device::Cpu, weights.kind())?;
            weights.file()?.write(&out)?;
        }
        ExportFormat::Tf => weights.tf_file()?.write(&out)?,
        ExportFormat::Torchscript => write_bytes(&out, &torchscript(&weights)?)?,
        ExportFormat::Onnx => write_bytes(&out, &onnx(&weights)?)?,
    }
    let which = match weights.variant {
        Some(Variant::Average) => " (moving average)",
        Some(Variant::Raw) => " (raw weights)",
        None => "",
    };
    say(&format!("{}{which} of {}: {}", network.name(), weights.name, out.display()));
    Ok(ExitCode::SUCCESS)
}

fn format_and_file(args: &ExportArgs, network: Network) -> Result<(ExportFormat, PathBuf)> {
    let by_name = match args.out.as_deref().map(ending).as_deref() {
        Some("safetensors") => Some(ExportFormat::Safetensors),
        Some("pt") => Some(ExportFormat::Torchscript),
        Some("onnx") => Some(ExportFormat::Onnx),
        _ => None,
    };
    let Some(format) = args.format.or(by_name) else {
        let found =
            args.out.as_ref().map_or(String::new(), |out| format!(", found {}", out.display()));
        let message = format!(
            "--format is missing: expected safetensors, tf, torchscript or onnx, or an --out that ends in .safetensors, \
             .pt or .onnx{found}"
        );
        return Err(Usage(message).into());
    };
    let is_program = matches!(format, ExportFormat::Torchscript | ExportFormat::Onnx);
    if is_program && network == Network::Discriminator {
        let message = "--network discriminator: is exported as safetensors or tf";
        return Err(Usage(message.to_owned()).into());
    }
    if let Some(out) = &args.out {
        let expected = match format {
            ExportFormat::Safetensors | ExportFormat::Tf => "safetensors",
            ExportFormat::Torchscript => "pt",
            ExportFormat::Onnx => "onnx",
        };
        ensure_ending("--out", out, &[expected])?;
    }
    let ending = match format {
        ExportFormat::Safetensors => ".safetensors",
        ExportFormat::Tf => "-tf.safetensors",
        ExportFormat::Torchscript => ".pt",
        ExportFormat::Onnx => ".onnx",
    };
    let default = || format!("{}{ending}", network.name()).into();
    Ok((format, args.out.clone().unwrap_or_else(default)))
}
