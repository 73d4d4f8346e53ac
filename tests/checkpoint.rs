//! Checkpoints that are damaged, hostile or foreign are an error or a fallback, never a panic.

use std::path::Path;

use anyhow::{Context, Result};
use dcgan::files::TensorFile;
use dcgan::model::Network;
use dcgan::run::checkpoint::{Checkpoint, Folder};
use dcgan::settings::TrainConfig;
use dcgan::shape::ImageShape;
use dcgan::train::state::restore;
use dcgan::train::step::Gan;
use tch::{Device, Kind, Tensor};

use super::common::{SMALL, dcgan, files, one_thread, state, train};

const NEWEST: &str = "checkpoints/iteration-000004.safetensors";

/// Makes a run of 4 iterations with checkpoints at 0, 2 and 4. The file that marks it as finished is removed, so that
/// it can be resumed without asking for more iterations.
fn stopped_run(folder: &Path) -> Result<()> {
    train(folder, &format!("{SMALL} --checkpoint-every 2 --log-every 1 --run run"));
    std::fs::remove_file(folder.join("run/real_vs_generated.png"))?;
    Ok(())
}

/// Replaces the newest checkpoint by `damage` and resumes the run. It must report the damage with the words `told`,
/// take the checkpoint of iteration 2 instead, and end with the same weights as before.
fn assert_falls_back(folder: &Path, damage: &[u8], told: &str) -> Result<()> {
    let run = folder.join("run");
    let weights = |run: &Path| TensorFile::read(&run.join("generator.safetensors"));
    let expected = weights(&run)?.tensors;
    std::fs::write(run.join(NEWEST), damage)?;
    let ran = train(folder, "train --resume run");
    for part in [
        "warning: ",
        NEWEST,
        told,
        "warning: set aside as run/checkpoints/damaged-",
        "resuming after iteration 2 of 4",
    ] {
        assert!(ran.stderr.contains(part), "no `{part}` in\n{}", ran.stderr);
    }
    assert!(weights(&run)?.tensors == expected);
    // The damaged file is kept under another name, and a whole one is in its place.
    let aside = run.join("checkpoints/damaged-iteration-000004.safetensors");
    assert!(std::fs::read(&aside)? == damage);
    assert_eq!(Checkpoint::load(&run.join(NEWEST))?.header.iteration, 4);
    std::fs::remove_file(run.join("real_vs_generated.png"))?;
    Ok(())
}

#[test]
fn a_truncated_or_changed_checkpoint_is_reported_and_the_one_before_it_taken() -> Result<()> {
    let folder = tempfile::tempdir()?;
    stopped_run(folder.path())?;
    let whole = std::fs::read(folder.path().join("run").join(NEWEST))?;
    let header = 8 + u64::from_le_bytes(whole[..8].try_into()?) as usize;
    for length in [0, 7, 8, 100, header, whole.len() / 2, whole.len() - 1] {
        assert_falls_back(folder.path(), &whole[..length], "not a whole safetensors file")?;
    }
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    for at in [header, header + 1001, whole.len() - 1] {
        assert_falls_back(folder.path(), &flipped(at), "damaged: its SHA-256 should be")?;
    }
    let huge = [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat();
    assert_falls_back(folder.path(), &huge, "promise a header of 18446744073709551615 bytes")
}

#[test]
fn cut_at_any_length_or_changed_in_any_byte_a_checkpoint_is_an_error_that_names_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    stopped_run(folder.path())?;
    let whole = std::fs::read(folder.path().join("run").join(NEWEST))?;
    let path = folder.path().join("hurt.safetensors");
    let named = |error: anyhow::Error| {
        let text = format!("{error:#}");
        assert!(text.contains("hurt.safetensors"), "{text}");
    };
    for length in (0..whole.len()).step_by(13) {
        std::fs::write(&path, &whole[..length])?;
        named(Checkpoint::load(&path).unwrap_err());
        named(Checkpoint::header(&path).unwrap_err());
    }
    for at in (0..whole.len()).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes)?;
        match Checkpoint::load(&path) {
            Err(error) => named(error),
            // Only a space after the header may change, into another kind of white space.
            Ok(_) => assert_eq!(whole[at], b' ', "{at}"),
        }
    }
    Ok(())
}

#[test]
fn without_any_checkpoint_that_can_be_read_a_run_is_left_alone() -> Result<()> {
    let folder = tempfile::tempdir()?;
    stopped_run(folder.path())?;
    let checkpoints = Folder::of_run(&folder.path().join("run"));
    for iteration in checkpoints.iterations()? {
        std::fs::write(checkpoints.file(iteration), "not a checkpoint")?;
    }
    let before = files(folder.path())?;
    let ran = dcgan(folder.path(), "train --resume run");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("error: run/checkpoints: none of 3 can be read"), "{}", ran.stderr);
    std::fs::remove_dir_all(checkpoints.path())?;
    let ran = dcgan(folder.path(), "train --resume run");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("the run has no checkpoint; `dcgan --config"), "{}", ran.stderr);
    let mut after = files(folder.path())?;
    after.insert("run/.lock".to_owned(), before["run/.lock"].clone());
    assert!(after.iter().all(|(name, bytes)| before.get(name) == Some(bytes)));
    Ok(())
}

/// Changes the content of the checkpoint at `path`, gives it a new checksum, and returns the error of reading it or of
/// restoring networks from it.
fn error_of(path: &Path, change: impl FnOnce(&mut TensorFile)) -> Result<String> {
    let mut file = TensorFile::read_sealed(path)?;
    change(&mut file);
    let changed = path.with_file_name("changed.safetensors");
    file.write_sealed(&changed)?;
    let config: TrainConfig = TrainConfig { base_width: 1, z_dim: 3, ..Default::default() };
    let model = dcgan::model::Model::new(
        &config.model(ImageShape::reference(1), 0),
        7,
        Device::Cpu,
        Kind::Float,
    )?;
    let mut gan = Gan::new(model, (&config).into())?;
    let before = state(&gan);
    let restored = Checkpoint::load(&changed).and_then(|checkpoint| restore(&mut gan, &checkpoint));
    let error = format!("{:#}", restored.err().context("it was taken")?);
    assert!(error.contains("changed.safetensors"), "{error}");
    assert_eq!(state(&gan), before, "nothing has changed");
    Ok(error)
}

#[test]
fn missing_extra_misshapen_and_non_finite_tensors_are_named() -> Result<()> {
    one_thread();
    let folder = tempfile::tempdir()?;
    stopped_run(folder.path())?;
    let path = folder.path().join("run").join(NEWEST);
    let names: Vec<_> = TensorFile::read(&path)?.tensors.into_keys().collect();
    for network in Network::ALL {
        for part in ["dense.weight", "dense.bias.adam_m", "dense.bias.adam_v", "beta1_power"] {
            let name = format!("{}.{part}", network.name());
            assert!(names.contains(&name), "{names:?}");
            let error = error_of(&path, |file| drop(file.tensors.remove(&name)))?;
            assert!(error.contains(&format!("lacks tensor {name}")), "{error}");
            let error = error_of(&path, |file| {
                file.tensors
                    .insert(name.clone(), Tensor::zeros([2, 2], (Kind::Float, Device::Cpu)));
            })?;
            assert!(error.contains(&format!("tensor {name}: expected shape")), "{error}");
            for bad in [f32::NAN, f32::INFINITY] {
                let error = error_of(&path, |file| {
                    file.tensors.insert(name.clone(), Tensor::from(bad));
                })?;
                assert!(error.contains(&format!("{name}: a value is not finite")), "{error}");
            }
        }
    }
    let error = error_of(&path, |file| {
        file.tensors.insert("more".to_owned(), Tensor::from(1.0_f32));
    })?;
    assert!(error.contains(&format!(
        "expected {} tensors, found {}",
        names.len(),
        names.len() + 1
    )));
    Ok(())
}

#[test]
fn wrong_and_hostile_metadata_are_errors_that_name_the_key() -> Result<()> {
    one_thread();
    let folder = tempfile::tempdir()?;
    stopped_run(folder.path())?;
    let path = folder.path().join("run").join(NEWEST);
    for key in [
        "format",
        "version",
        "origin",
        "iteration",
        "config",
        "set",
        "watch",
        "healthy",
        "salt",
        "rollbacks",
    ] {
        let error = error_of(&path, |file| drop(file.metadata.remove(key)))?;
        assert!(error.contains(key), "{key}: {error}");
    }
    let deep = "[".repeat(100_000);
    for (key, value, told) in [
        ("format", "pt", "found pt"),
        ("version", "2", "this one has version 2"),
        ("iteration", "-1", "`iteration` is \"-1\""),
        ("iteration", "18446744073709551615", "`iteration`"),
        ("healthy", "1e3", "`healthy`"),
        ("config", "batch-size = 0", "`config`: batch-size: expected 1 to 65536"),
        ("config", "batch-size = ", "`config`"),
        ("config", "unknown = 1", "`config`"),
        ("set", r#"{"images":0,"channels":1,"sha256":""}"#, "`set`"),
        ("set", r#"{"images":1,"channels":-1,"sha256":""}"#, "`set`"),
        ("watch", "{}", "`watch`"),
        ("rollbacks", "{}", "`rollbacks`"),
        ("salt", "256", "`salt`"),
        ("origin", "[]", "`origin`"),
        ("rollbacks", &deep, "`rollbacks`"),
        ("watch", &deep, "`watch`"),
    ] {
        let error = error_of(&path, |file| {
            file.metadata.insert(key.to_owned(), value.to_owned());
        })?;
        assert!(error.contains(told), "{key} = {value:.60}: {error:.300}");
    }
    // A wrong setting in a file is no wrong flag.
    let mut file = TensorFile::read_sealed(&path)?;
    file.metadata.insert("config".to_owned(), "image-size = 65".to_owned());
    let wrong = folder.path().join("wrong.safetensors");
    file.write_sealed(&wrong)?;
    for command in
        ["export wrong.safetensors --format tf", "train --resume wrong.safetensors --fork x"]
    {
        let ran = dcgan(folder.path(), command);
        ran.assert_refused(
            command,
            1,
            &["wrong.safetensors: ", "`config`: image-size: images of 65×65"],
        );
    }
    Ok(())
}

#[test]
fn a_checkpoint_named_for_another_iteration_is_not_taken_for_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    stopped_run(folder.path())?;
    let run = folder.path().join("run");
    std::fs::copy(run.join("checkpoints/iteration-000002.safetensors"), run.join(NEWEST))?;
    let ran = train(folder.path(), "train --resume run");
    assert!(ran.stderr.contains("holds iteration 2"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn the_newest_checkpoints_and_those_with_other_names_are_kept() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = SMALL.replace("--iterations 4", "--iterations 9");
    train(folder.path(), &format!("{options} --checkpoint-every 1 --run run"));
    let checkpoints = Folder::of_run(&folder.path().join("run"));
    assert_eq!(checkpoints.iterations()?, [7, 8, 9]);
    let pinned = checkpoints.path().join("good.safetensors");
    std::fs::copy(checkpoints.file(8), &pinned)?;
    train(folder.path(), "train --resume run --iterations 13 --keep 2");
    assert_eq!(checkpoints.iterations()?, [12, 13]);
    assert_eq!(Checkpoint::load(&pinned)?.header.iteration, 8);
    train(folder.path(), "train --resume run/checkpoints/good.safetensors --fork more");
    Ok(())
}

#[test]
fn long_epochs_end_with_a_checkpoint_and_short_ones_do_not() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = "--device cpu --threads 1 --base-width 1 --z-dim 3 --g-steps 1 --keep 99 -q";
    // Of 10,000 images, an epoch has 50 batches of 200, or 49 batches of up to 205.
    for (run, batch, expected) in [("long", 200, &[0, 50, 100, 101][..]), ("short", 205, &[0, 101])]
    {
        let args = format!("{options} --batch-size {batch} --iterations 101 --run {run}");
        train(folder.path(), &args);
        assert_eq!(Folder::of_run(&folder.path().join(run)).iterations()?, expected);
    }
    Ok(())
}

#[test]
fn a_rollback_goes_to_the_last_checkpoint_of_a_run_only_if_a_longer_run_would_have_it_too()
-> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --checkpoint-every 3 --keep 9 --run run"));
    let checkpoints = Folder::of_run(&folder.path().join("run"));
    assert_eq!(checkpoints.iterations()?, [0, 3, 4]);
    assert_eq!(Checkpoint::header(&checkpoints.file(4))?.healthy, 3);
    Ok(())
}
