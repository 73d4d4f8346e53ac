//! Makes 16 images with a trained generator through the library and writes them to `samples.png`.
//!
//! `cargo run --release --example sample [MODEL]`, where MODEL is a run's folder, a checkpoint or exported weights.
//! Without it, the built-in generator of digits is used.

use anyhow::Result;
use dcgan::record::grid::Picture;
use dcgan::run::model::sampler;
use dcgan::sample::Sampler;
use tch::{Device, Kind};

fn main() -> Result<()> {
    let sampler = match std::env::args_os().nth(1) {
        Some(model) => sampler(model.as_ref(), Device::Cpu, Kind::Float)?,
        None => Sampler::built_in(Device::Cpu, Kind::Float)?,
    };
    let shape = sampler.shape();
    let images = sampler.sample(7, 16)?; // [16, H, W, C]
    let picture = Picture::grid(&images, shape.size, shape.channels, 4)?;
    std::fs::write("samples.png", picture.png()?)?;
    println!("samples.png: 16 images of {} channel(s)", shape.channels);
    Ok(())
}
