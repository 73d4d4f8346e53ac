//! Samples and trains five iterations through the library, as a crate that depends on it.

use anyhow::Result;
use dcgan::data::{Batches, builtin};
use dcgan::device;
use dcgan::model::Model;
use dcgan::rng::{Stream, rng};
use dcgan::sample::Sampler;
use dcgan::settings::TrainConfig;
use dcgan::train::step::Gan;
use tch::{Device, Kind};

fn main() -> Result<()> {
    device::configure(2, false)?;
    let sampler = Sampler::built_in(Device::Cpu, Kind::Float)?;
    println!("{} bytes of images", sampler.sample(7, 4)?.len());

    let config = TrainConfig { base_width: 4, batch_size: 8, ..Default::default() };
    let mut batches = Batches::new(builtin::digits()?, config.batch_size, config.seed);
    let model = Model::new(&config.model(batches.shape(), 0), config.seed, Device::Cpu, Kind::Float)?;
    let mut gan = Gan::new(model, (&config).into())?;
    for iteration in 1..=5 {
        let real = batches.batch(iteration, Device::Cpu, Kind::Float)?;
        let mut noise = rng(config.seed, Stream::Z, iteration);
        let z = config.latent.sample(&mut noise, config.batch_size, config.z_dim as usize);
        let losses = gan.iteration(&real, &gan.model.z(&z)?)?.read()?;
        println!("iteration {iteration}: d_loss {}", losses.d_loss);
    }
    Ok(())
}
