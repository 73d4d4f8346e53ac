//! Compares an iteration, whose first two steps share one pass of the generator, with the slow, obvious form:
//! separate runs that each compute their own pass.

use anyhow::Result;
use dcgan::model::{Model, ModelConfig, Network};
use dcgan::settings::Policy;
use dcgan::shape::ImageShape;
use dcgan::tf::{Adam, AdamConfig, Statistics, sigmoid_cross_entropy};
use dcgan::train::augment::Augmentation;
use dcgan::train::objective::Objective;
use dcgan::train::step::{Gan, StepConfig, StepValues};
use tch::{Device, Kind, Tensor};

use super::common::{assert_close, named, normal, one_thread, state};

const Z_DIM: i64 = 5;

fn model() -> Result<Model> {
    one_thread();
    let config = ModelConfig {
        image: ImageShape::reference(3),
        base_width: 2,
        z_dim: Z_DIM,
        ..Default::default()
    };
    Model::new(&config, 1, Device::Cpu, Kind::Double)
}

/// Inputs of an iteration: `real_rows` real images and 4 rows of noise.
fn inputs(iteration: u64, real_rows: i64) -> (Tensor, Tensor) {
    let real = normal(2 * iteration, &[real_rows, 3, 32, 32]).tanh();
    (real, normal(2 * iteration + 1, &[4, Z_DIM]))
}

/// One iteration as TensorFlow runs it: each run computes the generator's images again and updates its moving
/// statistics again. Whatever the discriminator sees is augmented first, if the settings ask for that.
fn separate_runs(
    gan: &mut Gan,
    step: &StepConfig,
    iteration: u64,
    real: &Tensor,
    z: &Tensor,
) -> Result<StepValues> {
    let Gan { model, g_adam, d_adam, .. } = gan;
    let mut augmenter = step.augment.map(|augment| augment.begin(0, iteration));
    let mut seen = |images: &Tensor| match &mut augmenter {
        Some(augmenter) => {
            let draws = augmenter.draw(images.size()[0] as usize, [32, 32]);
            draws.tensors(Device::Cpu)?.apply(images)
        }
        None => Ok(images.shallow_clone()),
    };
    let updating = Statistics::BatchUpdating { momentum: model.config().bn_momentum };
    let step_with = |adam: &mut Adam, loss: &Tensor| {
        let gradients = Tensor::f_run_backward(&[loss], &adam.variables(), false, false)?;
        adam.step(&gradients)
    };
    let mean_prob = |logits: &Tensor| logits.sigmoid().mean(Kind::Double).double_value(&[]);

    let fake = model.generator.forward(z, updating)?;
    let real_logits = model.discriminator.forward(&seen(real)?, None, updating)?;
    let fake_logits = model.discriminator.forward(&seen(&fake)?, None, updating)?;
    let Objective::CrossEntropy { label_smoothing } = step.objective;
    let d_loss = sigmoid_cross_entropy(&real_logits, 1.0 - label_smoothing)?
        + sigmoid_cross_entropy(&fake_logits, 0.0)?;
    let mut values = StepValues {
        d_loss: d_loss.double_value(&[]),
        g_loss: f64::NAN,
        mean_discriminator_output_prob_real: mean_prob(&real_logits),
        mean_discriminator_output_prob_fake: mean_prob(&fake_logits),
    };
    step_with(d_adam, &d_loss)?;
    for _ in 0..step.g_steps {
        let fake = model.generator.forward(z, updating)?;
        let fake_logits = model.discriminator.forward(&seen(&fake)?, None, Statistics::Batch)?;
        let g_loss = sigmoid_cross_entropy(&fake_logits, 1.0)?;
        values.g_loss = g_loss.double_value(&[]);
        step_with(g_adam, &g_loss)?;
    }
    Ok(values)
}

fn assert_separate_runs_agree(step: StepConfig) -> Result<()> {
    let (mut shared, mut separate) = (Gan::new(model()?, step)?, Gan::new(model()?, step)?);
    // The last batch of an epoch is smaller, and training continues after it.
    for (iteration, real_rows) in [(1, 4), (2, 4), (3, 1), (4, 4), (5, 3)] {
        let (real, z) = inputs(iteration, real_rows);
        let fake = shared.model.generator.forward(&z, Statistics::Batch)?;
        let stats = shared.iteration(&real, &z)?;
        assert_close("fake", stats.fake(), &fake, 1e-12);
        let ours = stats.read()?;
        let theirs = separate_runs(&mut separate, &step, iteration, &real, &z)?;
        for (name, ours, theirs) in [
            ("d_loss", ours.d_loss, theirs.d_loss),
            ("g_loss", ours.g_loss, theirs.g_loss),
            (
                "mean_discriminator_output_prob_real",
                ours.mean_discriminator_output_prob_real,
                theirs.mean_discriminator_output_prob_real,
            ),
            (
                "mean_discriminator_output_prob_fake",
                ours.mean_discriminator_output_prob_fake,
                theirs.mean_discriminator_output_prob_fake,
            ),
        ] {
            let name = format!("{name} of iteration {iteration}");
            assert_close(&name, &Tensor::from(ours), &Tensor::from(theirs), 1e-12);
        }
    }
    let of_no_effect = shared.model.architecture.biases_of_no_effect();
    for ((name, ours), (_, theirs)) in state(&shared).iter().zip(&state(&separate)) {
        // Batch norm subtracts these biases, so their true gradient is 0 and only rounding errors change them.
        if of_no_effect.iter().any(|bias| name.starts_with(bias)) {
            let difference = (ours - theirs).abs().max().double_value(&[]);
            assert!(difference <= 1e-8, "{name}: {difference:e}");
        } else {
            assert_close(name, ours, theirs, 1e-12);
        }
    }
    Ok(())
}

#[test]
fn one_shared_forward_pass_equals_three_passes_moving_statistics_included() -> Result<()> {
    assert_separate_runs_agree(StepConfig::default())
}

#[test]
fn one_generator_step_shares_its_pass_as_well() -> Result<()> {
    assert_separate_runs_agree(StepConfig { g_steps: 1, ..Default::default() })
}

#[test]
fn three_generator_steps_and_other_settings_equal_separate_passes() -> Result<()> {
    let adam = AdamConfig { learning_rate: 1e-2, beta1: 0.3, ..Default::default() };
    let objective = Objective::CrossEntropy { label_smoothing: 0.25 };
    assert_separate_runs_agree(StepConfig::new(objective, 3, adam))
}

#[test]
fn every_pass_of_the_discriminator_sees_augmented_images_with_draws_of_their_own() -> Result<()> {
    let all = vec![Policy::Color, Policy::Translation, Policy::Cutout];
    for policies in [vec![Policy::Translation], all] {
        let augment = Augmentation::new(&policies.into(), 3);
        assert!(augment.is_some());
        assert_separate_runs_agree(StepConfig { augment, ..Default::default() })?;
    }
    Ok(())
}

#[test]
fn generator_steps_change_no_variable_of_the_discriminator() -> Result<()> {
    let discriminator =
        |model: &Model| named(Network::Discriminator, &model.variables(Network::Discriminator));
    let after = |g_steps| -> Result<_> {
        let mut gan = Gan::new(model()?, StepConfig { g_steps, ..Default::default() })?;
        let (real, z) = inputs(1, 4);
        gan.iteration(&real, &z)?;
        // The variables include its moving statistics, which only its own step may update.
        Ok(discriminator(&gan.model))
    };
    assert_eq!(after(1)?, after(3)?);
    assert_ne!(after(1)?, discriminator(&model()?));
    Ok(())
}

#[test]
fn a_gan_without_generator_steps_is_refused() -> Result<()> {
    let error = Gan::new(model()?, StepConfig { g_steps: 0, ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("g_steps"), "{error}");
    Ok(())
}
