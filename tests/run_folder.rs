//! The files that a run writes to its folder.

use std::path::Path;

use anyhow::{Context, Result};
use dcgan::data::builtin;
use dcgan::files::TensorFile;
use dcgan::model::{Model, ModelConfig, Network};
use dcgan::record::grid::Picture;
use dcgan::record::jsonl::{Metrics, read_metrics};
use dcgan::rng::{Latent, Stream, rng};
use dcgan::sample::sample;
use dcgan::settings::TrainConfig;
use dcgan::shape::{ImageShape, ImageSize};
use image::GenericImageView;
use tch::{Device, Kind};

use super::common::{Ran, SMALL, dcgan, files, train};

/// Trains 4 iterations, with lines of metrics after 3 and 4, and samples after 2 and 4.
fn small_run(folder: &Path) -> Ran {
    train(folder, &format!("{SMALL} --log-every 3 --sample-every 2 --run run"))
}

#[test]
fn a_run_leaves_exactly_its_files() -> Result<()> {
    let folder = tempfile::tempdir()?;
    small_run(folder.path());
    let files = files(folder.path())?;
    let names: Vec<_> = files.keys().filter(|name| !name.contains("tfevents")).collect();
    let expected = [
        "run/.lock",
        "run/checkpoints/iteration-000000.safetensors",
        "run/checkpoints/iteration-000004.safetensors",
        "run/config.toml",
        "run/discriminator.safetensors",
        "run/generator.safetensors",
        "run/metrics.jsonl",
        "run/real.png",
        "run/real_vs_generated.png",
        "run/samples/iteration-000002.png",
        "run/samples/iteration-000004.png",
    ];
    assert_eq!(names, expected);
    assert_eq!(files.len(), expected.len() + 1, "there is one event file, too");
    Ok(())
}

#[test]
fn runs_without_a_name_get_numbered_folders_of_their_own() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), SMALL);
    let second = train(folder.path(), SMALL);
    let mut runs = Vec::new();
    for entry in std::fs::read_dir(folder.path().join("runs"))? {
        runs.push(entry?.file_name().into_string().unwrap());
    }
    runs.sort();
    assert_eq!(runs.len(), 2);
    assert!(runs[0].starts_with("0001-") && runs[1].starts_with("0002-"), "{runs:?}");
    assert!(runs.iter().all(|run| run.ends_with("-digits")), "{runs:?}");
    assert!(second.stderr.contains(&format!("runs/{}", runs[1])), "{}", second.stderr);
    Ok(())
}

#[test]
fn metrics_are_lines_of_json_with_the_agreed_keys() -> Result<()> {
    let folder = tempfile::tempdir()?;
    small_run(folder.path());
    let path = folder.path().join("run/metrics.jsonl");
    for line in std::fs::read_to_string(&path)?.lines() {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line)?;
        let mut keys: Vec<_> = object.keys().collect();
        keys.sort();
        let expected = [
            "d_loss",
            "elapsed_s",
            "epoch",
            "g_loss",
            "images_per_s",
            "iteration",
            "mean_discriminator_output_prob_fake",
            "mean_discriminator_output_prob_real",
        ];
        assert_eq!(keys, expected);
    }
    let metrics: Vec<Metrics> = read_metrics(&path)?;
    let iterations: Vec<_> = metrics.iter().map(|line| (line.iteration, line.epoch)).collect();
    assert_eq!(iterations, [(3, 1), (4, 1)]);
    for line in metrics {
        let probabilities =
            [line.mean_discriminator_output_prob_real, line.mean_discriminator_output_prob_fake];
        assert!(probabilities.iter().all(|p| (0.0..=1.0).contains(p)), "{line:?}");
        assert!(line.d_loss > 0.0 && line.g_loss > 0.0, "{line:?}");
        assert!(line.images_per_s > 0.0 && line.elapsed_s > 0.0, "{line:?}");
    }
    Ok(())
}

#[test]
fn epochs_are_counted_and_the_last_smaller_batch_of_each_is_trained_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // 10,000 digits: batches of 6,000 and 4,000 images.
    let args = "--device cpu --threads 1 --base-width 1 --z-dim 1 --batch-size 6000 --epochs 2 --log-every 1 \
                --g-steps 1 --sample-every 0 --run run";
    train(folder.path(), args);
    let metrics: Vec<Metrics> = read_metrics(&folder.path().join("run/metrics.jsonl"))?;
    let iterations: Vec<_> = metrics.iter().map(|line| (line.iteration, line.epoch)).collect();
    assert_eq!(iterations, [(1, 1), (2, 1), (3, 2), (4, 2)]);
    Ok(())
}

#[test]
fn the_saved_configuration_is_complete_and_says_where_it_ran() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --seed 12 --run run"));
    let text = std::fs::read_to_string(folder.path().join("run/config.toml"))?;
    let mut table: toml::Table = text.parse()?;
    let environment = table.remove("environment").context("no [environment]")?;
    let keys: Vec<_> = environment.as_table().context("no table")?.keys().cloned().collect();
    let expected = [
        "convolutions",
        "cpu",
        "dcgan",
        "device",
        "git-commit",
        "images",
        "images-sha256",
        "libtorch",
        "threads",
    ];
    assert_eq!(keys, expected);
    let ways = environment["convolutions"].as_table().context("no table")?;
    let layers: Vec<_> = ways.keys().map(String::as_str).collect();
    let of_generator = ["conv2d_transpose", "conv2d_transpose_1", "conv2d_transpose_2"];
    assert_eq!(layers, [&["conv2d", "conv2d_1", "conv2d_2"], &of_generator[..]].concat());
    // The layer that makes gray images takes one way on every processor.
    assert_eq!(ways["conv2d_transpose_2"].as_str(), Some("columns"));
    assert_eq!(environment["dcgan"].as_str(), Some(env!("CARGO_PKG_VERSION")));
    assert_eq!(environment["device"].as_str(), Some("cpu"));
    assert_eq!(environment["threads"].as_integer(), Some(1));
    assert_eq!(environment["images"].as_integer(), Some(10_000));
    assert_eq!(
        environment["images-sha256"].as_str(),
        Some(&*builtin::digits()?.identity()?.sha256)
    );

    let config: TrainConfig = table.try_into()?;
    let expected = TrainConfig {
        device: "cpu".parse().map_err(anyhow::Error::msg)?,
        base_width: 1,
        z_dim: 3,
        batch_size: 4,
        learning_rate: 0.1,
        iterations: Some(4),
        threads: Some(1),
        seed: 12,
        ..Default::default()
    };
    assert_eq!(config, expected);
    Ok(())
}

fn open(path: &Path) -> Result<image::DynamicImage> {
    image::open(path).with_context(|| path.display().to_string())
}

#[test]
fn pictures_show_digits_from_all_over_the_set_and_the_last_samples_side_by_side() -> Result<()> {
    let folder = tempfile::tempdir()?;
    small_run(folder.path());
    let run = folder.path().join("run");
    let real = open(&run.join("real.png"))?;
    let digits = builtin::digits()?;
    let spread = digits.rows((0..36).map(|i| i * 10_000 / 36))?;
    assert!(real.as_bytes() == Picture::grid(&spread, ImageSize::REFERENCE, 1, 6)?.pixels);

    let side = 6 * 32 + 5 * 2;
    let samples = open(&run.join("samples/iteration-000004.png"))?;
    let both = open(&run.join("real_vs_generated.png"))?;
    for (picture, width) in [(&real, side), (&samples, side), (&both, 2 * side + 8)] {
        assert_eq!(picture.dimensions(), (width, side));
        assert_eq!(picture.color(), image::ColorType::L8);
    }
    let part = |x, width| both.crop_imm(x, 0, width, side).into_bytes();
    assert!(part(0, side) == real.as_bytes());
    assert!(part(side, 8).iter().all(|&pixel| pixel == 255), "a white divider");
    assert!(part(side + 8, side) == samples.as_bytes());
    let first = open(&run.join("samples/iteration-000002.png"))?;
    assert!(first.as_bytes() != samples.as_bytes(), "training changes the samples");
    Ok(())
}

#[test]
fn the_saved_weights_are_the_networks_and_draw_the_last_samples() -> Result<()> {
    let folder = tempfile::tempdir()?;
    small_run(folder.path());
    let run = folder.path().join("run");
    let config = ModelConfig { base_width: 1, z_dim: 3, ..Default::default() };
    let model = Model::new(&config, 99, Device::Cpu, Kind::Float)?;
    for network in Network::ALL {
        let file = TensorFile::read(&run.join(format!("{}.safetensors", network.name())))?;
        assert_eq!(file.metadata["network"], network.name());
        let variables = model.variables(network);
        assert_eq!(file.tensors.len(), variables.len());
        for mut variable in variables {
            let saved = &file.tensors[&variable.torch_name];
            assert_eq!(saved.size(), variable.tensor.size(), "{}", variable.torch_name);
            tch::no_grad(|| variable.tensor.copy_(saved));
        }
    }
    let z = Latent::Uniform.sample(&mut rng(0, Stream::SampleZ, 0), 36, 3);
    let picture = Picture::grid(&sample(&model, &z)?, ImageSize::REFERENCE, 1, 6)?;
    let samples = open(&run.join("samples/iteration-000004.png"))?;
    assert!(samples.as_bytes() == picture.pixels);
    Ok(())
}

#[test]
fn an_existing_run_is_refused_and_stays_untouched() -> Result<()> {
    let folder = tempfile::tempdir()?;
    small_run(folder.path());
    let before = files(folder.path())?;
    let again = dcgan(folder.path(), &format!("{SMALL} --seed 5 --run run"));
    assert_eq!(again.code, Some(2));
    for part in ["run: the folder is not empty", "name a new folder"] {
        assert!(again.stderr.contains(part), "{}", again.stderr);
    }
    assert!(files(folder.path())? == before);
    Ok(())
}

#[test]
fn a_dry_run_writes_nothing_and_prints_the_configuration_and_the_layers() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = train(folder.path(), "--dry-run --device cpu --base-width 2 --z-dim 7 --run run");
    assert_eq!(files(folder.path())?.len(), 0);
    assert!(!folder.path().join("run").exists() && !folder.path().join("runs").exists());
    assert_eq!(ran.stderr, "");

    // The output begins with the configuration, as TOML.
    let toml = ran.stdout.split("\n#").next().unwrap_or_default();
    let config: TrainConfig = toml::from_str(toml)?;
    assert_eq!((config.base_width, config.z_dim), (2, 7));
    // There are 10,000 images in batches of 128, for 10 epochs.
    assert!(ran.stdout.contains("79 iterations an epoch, 790 in all"), "{}", ran.stdout);

    // The table of layers states as many trained values as the networks have.
    let model =
        Model::new(&config.model(ImageShape::reference(1), 0), 0, Device::Cpu, Kind::Float)?;
    let sums: Vec<usize> = ran
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("  all ")?.trim().parse().ok())
        .collect();
    let trained = |network| {
        let variables = model.trainable(network);
        variables.iter().map(|variable| variable.tensor.numel()).sum::<usize>()
    };
    assert_eq!(sums, Network::ALL.map(trained));
    Ok(())
}
