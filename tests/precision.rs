//! Training in bfloat16: the networks are float32, and convolutions and dense layers compute on bfloat16 casts.

use anyhow::Result;
use dcgan::model::{Model, ModelConfig, Network};
use dcgan::rng::{Latent, Stream, rng};
use dcgan::settings::Precision;
use dcgan::train::step::{Gan, StepConfig, StepValues};
use tch::{Device, Kind, Tensor};

use super::common::{one_thread, state};

const BATCH: usize = 32;

/// A small GAN after `iterations` iterations, and what each iteration reported.
fn trained(precision: Precision, iterations: u64) -> Result<(Gan, Vec<StepValues>)> {
    one_thread();
    let config = ModelConfig { base_width: 8, z_dim: 10, ..Default::default() };
    let model =
        Model::new(&config, 1, Device::Cpu, precision.kind())?.computing_in(precision.compute());
    let mut gan = Gan::new(model, StepConfig::default())?;
    let mut values = Vec::new();
    for iteration in 0..iterations {
        let mut noise = rng(0, Stream::Z, iteration);
        let pixels = Latent::Uniform.sample(&mut noise, BATCH, 32 * 32);
        let real = Tensor::from_slice(&pixels).view([BATCH as i64, 1, 32, 32]);
        let z = gan.model.z(&Latent::Uniform.sample(&mut noise, BATCH, 10))?;
        values.push(gan.iteration(&real, &z)?.read()?);
    }
    Ok((gan, values))
}

#[test]
fn bfloat16_keeps_weights_statistics_and_moments_in_float32() -> Result<()> {
    let (gan, _) = trained(Precision::Bf16, 2)?;
    assert_eq!(gan.model.compute, Kind::BFloat16);
    for network in Network::ALL {
        for variable in gan.model.variables(network) {
            assert_eq!(variable.tensor.kind(), Kind::Float, "{}", network.full_name(&variable));
        }
    }
    for (name, tensor) in state(&gan) {
        assert_eq!(tensor.kind(), Kind::Float, "{name}");
        // If a tensor had been stored in bfloat16, rounding it to bfloat16 would change nothing. Tensors that
        // start as a constant, or are small, may by chance hold only such values.
        let rounded = tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float);
        let starts_constant =
            name.ends_with("bias") || name.ends_with("beta") || name.ends_with("gamma");
        assert!(starts_constant || tensor.numel() < 8 || rounded != tensor, "{name}");
    }
    Ok(())
}

#[test]
fn bfloat16_is_near_float32_and_repeats_itself() -> Result<()> {
    let (_, single) = trained(Precision::F32, 3)?;
    let (gan, half) = trained(Precision::Bf16, 3)?;
    assert_ne!(single, half);
    for (single, half) in single.iter().zip(&half) {
        assert!((single.d_loss - half.d_loss).abs() < 0.02, "{single:?} {half:?}");
        assert!((single.g_loss - half.g_loss).abs() < 0.02, "{single:?} {half:?}");
    }
    let (again, values) = trained(Precision::Bf16, 3)?;
    assert_eq!(values, half);
    assert_eq!(state(&again), state(&gan));
    Ok(())
}
