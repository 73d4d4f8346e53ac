//! Trains a few iterations through the library and prints the losses.
//!
//! `cargo run --release --example train`

use anyhow::Result;
use dcgan::data::{Batches, builtin};
use dcgan::device;
use dcgan::model::Model;
use dcgan::rng::{Stream, rng};
use dcgan::settings::TrainConfig;
use dcgan::train::step::Gan;
use tch::{Device, Kind};

fn main() -> Result<()> {
    device::configure(device::default_threads(), false)?;
    let config = TrainConfig { base_width: 16, batch_size: 64, ..Default::default() };
    let (device, kind) = (Device::Cpu, Kind::Float);

    let mut batches = Batches::new(builtin::digits()?, config.batch_size, config.seed);
    let model = Model::new(&config.model(batches.shape(), 0), config.seed, device, kind)?;
    let mut gan = Gan::new(model, (&config).into())?;

    for iteration in 1..=20 {
        let real = batches.batch(iteration, device, kind)?;
        let mut noise = rng(config.seed, Stream::Z, iteration);
        let z = config.latent.sample(&mut noise, config.batch_size, config.z_dim as usize);
        let values = gan.iteration(&real, &gan.model.z(&z)?)?.read()?;
        println!("{iteration:2}  d_loss {:.4}  g_loss {:.4}", values.d_loss, values.g_loss);
    }
    Ok(())
}
