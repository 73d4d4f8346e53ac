//! Losses and gradients that are not finite never reach a weight or a file.

use anyhow::{Context, Result};
use dcgan::data::ImageSet;
use dcgan::model::{Model, ModelConfig, Network};
use dcgan::run::RunDir;
use dcgan::run::observer::Silent;
use dcgan::settings::TrainConfig;
use dcgan::shape::ImageShape;
use dcgan::tf::AdamConfig;
use dcgan::train::interrupt::Interrupt;
use dcgan::train::step::{Gan, StepConfig};
use dcgan::train::{Job, NonFinite, train};
use tch::{Device, Kind, Tensor};

use super::common::{files, named, normal, one_thread, state};

const Z_DIM: i64 = 5;

fn gan(kind: Kind, adam: AdamConfig) -> Result<Gan> {
    one_thread();
    let config = ModelConfig { base_width: 2, z_dim: Z_DIM, ..Default::default() };
    let model = Model::new(&config, 1, Device::Cpu, kind)?;
    Gan::new(model, StepConfig { adam, ..Default::default() })
}

fn inputs(iteration: u64, kind: Kind) -> (Tensor, Tensor) {
    let real = normal(2 * iteration, &[4, 1, 32, 32]).tanh();
    (real.to_kind(kind), normal(2 * iteration + 1, &[4, Z_DIM]).to_kind(kind))
}

fn poison(x: &Tensor, value: f64) {
    let _ = x.view(-1).narrow(0, 17, 1).fill_(value);
}

/// The error of an iteration that must fail.
fn failure(gan: &mut Gan, (real, z): (Tensor, Tensor)) -> Result<NonFinite> {
    let error = gan.iteration(&real, &z).err().context("the iteration went through")?;
    error.downcast::<NonFinite>()
}

fn trained_gan(kind: Kind) -> Result<Gan> {
    let mut gan = gan(kind, AdamConfig::default())?;
    let (real, z) = inputs(1, kind);
    gan.iteration(&real, &z)?;
    Ok(gan)
}

#[test]
fn a_bad_real_batch_is_an_error_and_changes_no_bit() -> Result<()> {
    for kind in [Kind::Float, Kind::Double] {
        for value in [f64::NAN, f64::INFINITY] {
            let mut gan = trained_gan(kind)?;
            let before = state(&gan);
            let (real, z) = inputs(2, kind);
            poison(&real, value);
            let error = failure(&mut gan, (real, z))?;
            assert_eq!(error, NonFinite { iteration: 2, step: 0, in_loss: Some(true) });
            assert_eq!(error.to_string(), "discriminator_loss is not finite at iteration 2");
            assert_eq!(state(&gan), before, "{kind:?}, {value}");
        }
    }
    Ok(())
}

#[test]
fn bad_noise_changes_no_bit_moving_statistics_included() -> Result<()> {
    let mut gan = trained_gan(Kind::Float)?;
    let before = state(&gan);
    let (real, z) = inputs(2, Kind::Float);
    poison(&z, f64::NAN);
    assert_eq!(failure(&mut gan, (real, z))?.step, 0);
    assert_eq!(state(&gan), before);
    Ok(())
}

#[test]
fn training_goes_on_after_a_bad_batch_as_if_it_had_never_been() -> Result<()> {
    let (mut hit, mut spared) = (trained_gan(Kind::Float)?, trained_gan(Kind::Float)?);
    let (real, z) = inputs(2, Kind::Float);
    poison(&real, f64::NAN);
    failure(&mut hit, (real, z))?;
    for gan in [&mut hit, &mut spared] {
        let (real, z) = inputs(3, Kind::Float);
        gan.iteration(&real, &z)?;
    }
    assert_eq!(state(&hit), state(&spared));
    Ok(())
}

#[test]
fn an_overflowing_gradient_of_a_finite_loss_is_caught_too() -> Result<()> {
    let mut gan = gan(Kind::Float, AdamConfig::default())?;
    // The input of a batch norm has nearly no variance, and huge weights follow it. The batch norm's outputs are
    // so small that the logits stay finite. In the backward pass, however, it multiplies by 1/√ε, and the
    // gradients overflow.
    for (name, factor) in [("conv2d_2/kernel", 1e-6), ("dense/kernel", 1e38)] {
        let variables = gan.model.variables(Network::Discriminator);
        let variable = variables.into_iter().find(|variable| variable.tf_name == name);
        let mut tensor = variable.context(name)?.tensor;
        let _ = tch::no_grad(|| tensor.f_mul_scalar_(factor))?;
    }
    let before = state(&gan);
    let error = failure(&mut gan, inputs(1, Kind::Float))?;
    assert_eq!(error, NonFinite { iteration: 1, step: 0, in_loss: Some(false) });
    assert!(error.to_string().starts_with("a gradient of discriminator_loss is not finite"));
    assert_eq!(state(&gan), before);
    Ok(())
}

#[test]
fn a_generator_step_that_fails_changes_no_bit_of_the_generator() -> Result<()> {
    // The discriminator's step makes its weights so large that its next logits overflow.
    let mut gan = gan(Kind::Float, AdamConfig { learning_rate: 1e30, ..Default::default() })?;
    let generator = |gan: &Gan| named(Network::Generator, &gan.model.variables(Network::Generator));
    let (before, all_before) = (generator(&gan), state(&gan));
    let error = failure(&mut gan, inputs(1, Kind::Float))?;
    assert_eq!(error, NonFinite { iteration: 1, step: 1, in_loss: Some(true) });
    let message = "generator_loss is not finite at iteration 1, generator step 1";
    assert_eq!(error.to_string(), message);
    assert_eq!(generator(&gan), before);
    // The discriminator's step before that has changed its weights, and they are finite.
    assert_ne!(state(&gan), all_before);
    for (name, tensor) in state(&gan) {
        assert_eq!(tensor.isfinite().all(), Tensor::from(true), "{name}");
    }
    Ok(())
}

#[test]
fn a_run_whose_loss_is_not_finite_ends_with_that_error_and_without_weights() -> Result<()> {
    one_thread();
    let folder = tempfile::tempdir()?;
    let run = RunDir::create(Some(&folder.path().join("run")), "noise")?;
    let pixels = (0..8 * 32 * 32).map(|i| (i * i % 251) as u8).collect();
    // The command line accepts no learning rate that is large enough for an overflow. The library accepts this.
    let config = TrainConfig {
        learning_rate: 1e30,
        base_width: 1,
        z_dim: 3,
        batch_size: 4,
        log_every: 1,
        sample_every: 1,
        ..Default::default()
    };
    let set = ImageSet::new("noise", ImageShape::reference(1), pixels)?;
    let error = train(Job {
        config: &config,
        device: Device::Cpu,
        set,
        run: &run,
        from: None,
        how_to_repeat: None,
        progress: &Silent,
        interrupt: &Interrupt::default(),
        evaluator: None,
    });
    let error = error.err().context("the run went through")?;
    let expected = NonFinite { iteration: 1, step: 1, in_loss: Some(true) };
    assert_eq!(error.downcast_ref(), Some(&expected));

    let files = files(folder.path())?;
    assert_eq!(files["run/metrics.jsonl"], b"");
    let state = "run/checkpoints/iteration-000000.safetensors";
    let unwanted = |name: &&String| {
        (name.contains("safetensors") || name.contains("iteration")) && name.as_str() != state
    };
    assert_eq!(files.keys().find(unwanted), None);
    assert!(files.contains_key(state));
    Ok(())
}
