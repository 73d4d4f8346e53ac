//! This build against what the real TensorFlow computed (`tests/reference`).

use std::path::Path;

use anyhow::Result;
use dcgan::verify::{Group, verify};
use tch::Device;

use super::common::one_thread;

fn agrees(file: &str) -> Result<()> {
    one_thread();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(file);
    let report = verify(&path, Device::Cpu)?;
    let failures: Vec<_> = report
        .checks
        .iter()
        .filter(|check| !check.passed())
        .map(|c| {
            format!("{}: error {:e}, bound {:e}, at {:?}", c.name, c.error, c.bound, c.first_bad)
        })
        .collect();
    assert!(failures.is_empty(), "{file}:\n{}", failures.join("\n"));
    // The groups that every file has; a comparison that never took place would pass too.
    let groups = report.worst();
    for (group, count) in [
        (Group::Forward, 3),
        (Group::Losses, 2),
        (Group::Gradients, 22),
        (Group::Trace, 2),
        (Group::Variables, 22),
        (Group::Moments, 44),
        (Group::MovingMeans, 3),
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
fn fused_float32_kernels_and_moving_statistics_equal_tensorflows() -> Result<()> {
    agrees("f32_gray_w6_1it.safetensors")
}

#[test]
fn moving_variance_takes_the_unbiased_batch_variance() -> Result<()> {
    agrees("f32_rgb_w2_variance.safetensors")
}
