//! From a command's arguments to a generator that is ready to sample, and the latents it starts from.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use dcgan::data::npy::read_rows;
use dcgan::device::{self, DeviceChoice, default_threads};
use dcgan::error::Usage;
use dcgan::model::Network;
use dcgan::run::list::find;
use dcgan::run::model;
use dcgan::sample::Sampler;
use dcgan::settings::Switch;
use dcgan::weights::Weights;
use tch::{Device, Kind};

use super::errors::print_warning;
use super::progress::say;
use crate::cli::{DeviceArgs, GeneratorArgs};

/// Sets the device and opens the generator that the flags name, ready to sample.
///
/// # Errors
/// As [`model::read`] and [`device_of`].
pub(super) fn sampler(args: &GeneratorArgs) -> Result<Sampler> {
    let device = device_of(&args.device, args.precision.kind())?;
    let weights = match &args.model {
        None => Weights::built_in()?.checked(args.weights)?,
        Some(model) => {
            let mut is_older = false;
            let mut report = |error: &anyhow::Error| {
                is_older = true;
                print_warning(error);
            };
            let weights =
                model::read(&find(model)?, Network::Generator, args.weights, &mut report)?;
            if is_older {
                say(&format!("note: taking the checkpoint of iteration {}", weights.iteration));
            }
            weights
        }
    };
    Sampler::of(&weights, device, args.precision.kind())?.computing_in(args.precision.compute())
}

/// Sets what decides how libtorch computes, and returns the device that the flags name, which is to compute in `kind`;
/// says which where that was left open.
///
/// # Errors
/// As [`device::configure`] and [`device::resolve`].
pub(super) fn device_of(args: &DeviceArgs, kind: Kind) -> Result<Device> {
    let threads = args.threads.map_or_else(default_threads, usize::from);
    device::configure(threads, args.tf32 == Switch::On)?;
    let device = device::resolve(args.device, kind)?;
    if let Some(note) = note_on(args.device, device) {
        say(note);
    }
    note_on_tf32(args.tf32, device);
    Ok(device)
}

/// Says that TensorFloat-32 was asked for in vain, where it was.
pub(super) fn note_on_tf32(tf32: Switch, device: Device) {
    if tf32 == Switch::On && !device.is_cuda() {
        say("note: --tf32 on changes nothing here: it is for CUDA");
    } else if tf32 == Switch::On
        && std::env::var_os("NVIDIA_TF32_OVERRIDE").is_some_and(|value| value == "0")
    {
        say(
            "note: --tf32 on changes nothing: NVIDIA_TF32_OVERRIDE=0 in the environment turns it off",
        );
    }
}

/// Which device was taken, where `choice` left it open.
pub(super) fn note_on(choice: DeviceChoice, device: Device) -> Option<&'static str> {
    (choice == DeviceChoice::Auto).then_some(match device {
        Device::Cuda(_) => "a CUDA device was found; taking cuda:0",
        Device::Mps => "Apple's GPU was found; taking mps",
        Device::Cpu | Device::Vulkan => {
            "no CUDA device is usable here (`dcgan doctor` says why); computing on the CPU"
        }
    })
}

/// The classes that `--class` asks for, as numbers that `sampler` knows. Each of `texts` is the name of a class, or several
/// with commas between them.
///
/// # Errors
/// [`Usage`], if there is no such class.
pub(super) fn classes_of(sampler: &Sampler, texts: &[String]) -> Result<Vec<usize>> {
    let mut numbers = Vec::new();
    for text in texts {
        let Some(classes) = sampler.classes() else {
            let message =
                "the generator knows no classes; one that is trained with --conditional does";
            return Err(Usage(format!("--class {text}: {message}")).into());
        };
        // A name may have a comma in it.
        if let Some(number) = classes.number(text) {
            numbers.push(number);
            continue;
        }
        for name in text.split(',').map(str::trim) {
            numbers.push(classes.number(name).with_context(|| {
                let known: Vec<_> = classes.names.iter().map(|name| format!("`{name}`")).collect();
                let known = known.join(", ");
                Usage(format!("--class {name}: there is no such class; expected one of {known}"))
            })?);
        }
    }
    Ok(numbers)
}

/// The latents in a `.npy` file, row by row.
pub(super) fn read_z(path: &Path, z_dim: usize) -> Result<Vec<f32>> {
    let name = || format!("--z {}", path.display());
    let file =
        File::open(path).map_err(|error| Usage(format!("{}: cannot be read: {error}", name())))?;
    let ([rows, columns], values) = read_rows(file).with_context(name)?;
    if columns != z_dim {
        let message = format!("{}: expected shape [N, {z_dim}], found [{rows}, {columns}]", name());
        return Err(Usage(message).into());
    }
    Ok(values)
}
