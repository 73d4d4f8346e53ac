//! Compares this build with what the real TensorFlow computed: the files in `tests/reference`.

use std::path::Path;

use anyhow::Result;
use dcgan::model::ModelConfig;
use dcgan::settings::TrainConfig;
use dcgan::shape::ImageShape;
use dcgan::train::step::StepConfig;
use dcgan::verify::{Check, Group, Report, verify};
use tch::Device;

use super::common::one_thread;

fn report(file: &str) -> Result<Report> {
    one_thread();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file);
    verify(&path, Device::Cpu)
}

/// For networks of three halvings, such as the reference's.
fn agrees(file: &str) -> Result<()> {
    agrees_with(file, 3, 0)
}

/// For networks of `levels` halvings, and a conditional file with `projections` more.
fn agrees_with(file: &str, levels: usize, projections: usize) -> Result<()> {
    let report = report(file)?;
    let failures: Vec<_> = report
        .checks
        .iter()
        .filter(|check| !check.passed())
        .map(|c| {
            format!("{}: error {:e}, bound {:e}, at {:?}", c.name, c.error, c.bound, c.first_bad)
        })
        .collect();
    assert!(failures.is_empty(), "{file}:\n{}", failures.join("\n"));
    // Every file has these groups with these numbers of tensors. They are counted because a comparison that never
    // took place would pass, too. Kernels and biases of all layers, and scale and shift of all batch norms, but for
    // the biases of no effect.
    let trained = 4 * (levels + 1) + 2 * (2 * levels - 1) - 2 * (levels - 1) + projections;
    let groups = report.worst();
    for (group, count) in [
        (Group::Forward, 3),
        (Group::Losses, 2),
        (Group::Gradients, trained),
        (Group::Trace, 2),
        (Group::Variables, trained),
        (Group::Moments, 2 * trained),
        (Group::MovingMeans, levels),
    ] {
        assert_eq!(groups.get(&group).map(|(count, _)| *count), Some(count), "{file}: {group:?}");
    }
    Ok(())
}

#[test]
fn twenty_iterations_in_float64_equal_tensorflows() -> Result<()> {
    agrees("f64_rgb_w3_20it.safetensors")
}

#[test]
fn every_setting_away_from_its_default_equals_tensorflows() -> Result<()> {
    agrees("f64_two_channels_w2_3it.safetensors")
}

#[test]
fn gray_images_in_float64_equal_tensorflows() -> Result<()> {
    agrees("f64_gray_w2_5it.safetensors")
}

#[test]
fn images_of_every_size_equal_tensorflows() -> Result<()> {
    agrees_with("f64_gray_w2_16x16_5it.safetensors", 2, 0)?;
    agrees_with("f64_gray_w2_28x28_2it.safetensors", 2, 0)?;
    agrees_with("f64_rgb_w2_64x64_2it.safetensors", 4, 0)?;
    agrees_with("f64_rgb_w2_80x48_2it.safetensors", 3, 0)
}

#[test]
fn widths_that_stop_doubling_equal_tensorflows() -> Result<()> {
    agrees("f64_gray_w2_max_width_3it.safetensors")
}

#[test]
fn classes_that_steer_both_networks_equal_tensorflows() -> Result<()> {
    agrees_with("f64_gray_w2_classes_3it.safetensors", 3, 1)
}

#[test]
fn fused_float32_kernels_and_moving_statistics_equal_tensorflows() -> Result<()> {
    agrees("f32_gray_w6_1it.safetensors")
}

#[test]
fn batches_large_enough_for_fewer_multiplications_equal_tensorflows() -> Result<()> {
    agrees("f64_gray_w2_batch32.safetensors")?;
    agrees("f32_gray_w3_batch32.safetensors")
}

#[test]
fn float32_is_judged_by_tensorflows_float64_of_the_same_values() -> Result<()> {
    let report = report("f32_gray_w3_batch32.safetensors")?;
    let (of_float64, kinks) = report.float64.as_ref().expect("the file holds the truth");
    assert!(of_float64.len() > 100 && of_float64.iter().all(Check::passed));
    // 6 passes of the discriminator and 3 of the generator of 86,016 and 57,344 activations an image, a width of 3 in
    // place of 64 and 32 images.
    assert_eq!(kinks.activations, 516_096);
    assert!(kinks.crossed <= kinks.near && kinks.near < 1000, "{kinks:?}");
    assert!((1e-8..1e-5).contains(&kinks.rounding), "{kinks:?}");
    for check in report.checks.iter().filter(|check| check.group == Group::Gradients) {
        let truth = check.truth.expect("the file holds the truth");
        assert!(truth.tensorflow > 0.0 && truth.ours > 0.0, "{check:?}");
        assert!(truth.ours <= check.error + truth.kinks + 1e-12, "{check:?}");
    }
    Ok(())
}

#[test]
fn moving_variance_takes_the_unbiased_batch_variance() -> Result<()> {
    agrees("f32_rgb_w2_variance.safetensors")
}

#[test]
fn the_defaults_are_the_references() -> Result<()> {
    // This file was made with the reference's settings, except for the sizes.
    let settings = report("f64_rgb_w3_20it.safetensors")?.settings;
    let (ours, model) = (TrainConfig::default(), ModelConfig::default());
    assert_eq!(StepConfig::from(&ours), settings.step);
    assert_eq!((model.alpha, model.bn_epsilon), (settings.model.alpha, settings.model.bn_epsilon));
    assert!((model.bn_momentum - settings.model.bn_momentum).abs() < 1e-15);
    // The reference's own sizes and intervals.
    assert_eq!(ours.model(ImageShape::reference(1), 0), model);
    assert_eq!((ours.batch_size, model.z_dim, model.base_width), (128, 100, 64));
    assert_eq!((ours.log_every, ours.sample_every), (10, 100));
    Ok(())
}
