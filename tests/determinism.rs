//! On the CPU, two runs with the same seed and the same number of threads are equal bit for bit.

use std::path::Path;

use anyhow::Result;
use dcgan::files::TensorFile;
use dcgan::record::jsonl::{Metrics, read_metrics};
use tch::Kind;

use super::common::{SMALL, files, train};

const WEIGHTS: [&str; 2] = ["generator.safetensors", "discriminator.safetensors"];

/// Everything in a run's folder that does not depend on the clock.
#[derive(PartialEq)]
struct Trace {
    files: Vec<(String, Vec<u8>)>,
    metrics: Vec<Metrics>,
}

fn trace(run: &Path) -> Result<Trace> {
    let files: Vec<_> = files(run)?
        .into_iter()
        .filter(|(name, _)| name.ends_with(".png") || name.ends_with(".safetensors"))
        .collect();
    // real.png, real_vs_generated.png, two sample grids, two networks and two checkpoints.
    assert_eq!(files.len(), 8);
    let mut metrics: Vec<Metrics> = read_metrics(&run.join("metrics.jsonl"))?;
    for line in &mut metrics {
        (line.images_per_s, line.elapsed_s) = (0.0, 0.0);
    }
    Ok(Trace { files, metrics })
}

fn assert_repeats(options: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let run = |name: &str, seed: u64| {
        let reports = "--log-every 2 --sample-every 2";
        let args = format!("{options} {reports} --seed {seed} --run {name}");
        train(folder.path(), &args);
        trace(&folder.path().join(name))
    };
    let first = run("first", 3)?;
    assert!(first == run("again", 3)?);

    let other = run("other", 4)?;
    for (line, other) in first.metrics.iter().zip(&other.metrics) {
        assert_ne!(line.d_loss, other.d_loss);
    }
    for ((name, bytes), (_, other)) in first.files.iter().zip(&other.files) {
        // real.png shows the first images of the data set, which do not depend on the seed.
        assert_eq!(bytes == other, name == "real.png", "{name}");
    }
    Ok(())
}

#[test]
fn two_runs_with_one_seed_are_bit_identical_and_another_seed_differs() -> Result<()> {
    assert_repeats(&SMALL.replace("--threads 1", "--threads 2"))
}

#[test]
fn layers_large_enough_for_two_threads_repeat_bit_for_bit() -> Result<()> {
    let sizes = "--base-width 16 --batch-size 32 --iterations 4";
    assert_repeats(&format!("--device cpu --threads 2 {sizes}"))
}

#[test]
fn float64_runs_end_to_end_and_repeats_bit_for_bit() -> Result<()> {
    assert_repeats(&format!("{SMALL} --precision f64"))
}

#[test]
fn a_float64_run_has_float64_weights() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --precision f64 --run run"));
    for name in WEIGHTS {
        let file = TensorFile::read(&folder.path().join("run").join(name))?;
        assert!(file.tensors.values().all(|tensor| tensor.kind() == Kind::Double), "{name}");
    }
    Ok(())
}

#[test]
fn how_often_a_run_reports_changes_no_weight() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let run = |name: &str, reports: &str| {
        train(folder.path(), &format!("{SMALL} {reports} --run {name}"));
        WEIGHTS
            .map(|file| Ok(TensorFile::read(&folder.path().join(name).join(file))?.tensors))
            .into_iter()
            .collect::<Result<Vec<_>>>()
    };
    let often = run("often", "--log-every 1 --sample-every 1")?;
    assert!(often == run("seldom", "--log-every 100 --sample-every 0 --quiet")?);
    Ok(())
}

#[test]
fn the_saved_configuration_of_a_run_repeats_it_bit_for_bit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // No option that affects the result has its default value.
    let args = "train --device cpu --threads 1 --base-width 2 --z-dim 7 --latent normal --g-steps 3 \
                --batch-size 3 --iterations 4 --learning-rate 0.003 --beta1 0.4 \
                --label-smoothing 0.2 --seed 9 --log-every 1 --sample-every 3 --run first";
    train(folder.path(), args);
    train(folder.path(), "--config first/config.toml --run again");
    let run = |name: &str| trace(&folder.path().join(name));
    assert!(run("first")? == run("again")?);
    Ok(())
}
