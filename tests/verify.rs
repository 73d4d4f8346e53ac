//! `dcgan verify`: files that agree pass, and whatever is damaged in a file is named.

use std::path::{Path, PathBuf};

use anyhow::Result;
use dcgan::files::TensorFile;
use tch::{Kind, Tensor};

use super::common::dcgan;

/// The reference file that is smallest and takes the least time.
const SMALLEST: &str = "f32_rgb_w2_variance.safetensors";

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

#[test]
fn the_reference_files_pass() {
    let ran = dcgan(
        &reference(),
        &format!(
            "verify --threads 1 {SMALLEST} f32_gray_w6_1it.safetensors f64_rgb_w3_20it.safetensors"
        ),
    );
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    assert!(ran.stdout.ends_with("3 of 3 files agree with TensorFlow\n"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("FAILED"), "{}", ran.stdout);
}

#[test]
fn verbosely_every_tensor_is_listed() {
    let ran = dcgan(&reference(), &format!("verify --threads 1 --verbose {SMALLEST}"));
    assert_eq!(ran.code, Some(0));
    for name in ["forward/generated", "grad/generator/dense/kernel", "trace/d_loss"] {
        assert!(ran.stdout.contains(&format!("ok     {name} ")), "{}", ran.stdout);
    }
}

#[test]
fn a_file_that_cannot_be_read_does_not_keep_the_next_from_being_verified() {
    let ran = dcgan(&reference(), &format!("verify none.safetensors {SMALLEST}"));
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("none.safetensors"), "{}", ran.stderr);
    assert!(ran.stdout.ends_with("1 of 2 files agree with TensorFlow\n"), "{}", ran.stdout);
}

/// Verifies a copy of the smallest file after `damage`, which must end with exit code 1. Returns stdout and stderr.
fn verify_damaged(damage: impl FnOnce(&mut TensorFile)) -> Result<(String, String)> {
    let folder = tempfile::tempdir()?;
    let mut file = TensorFile::read(&reference().join(SMALLEST))?;
    damage(&mut file);
    file.write(&folder.path().join("damaged.safetensors"))?;
    let ran = dcgan(folder.path(), "verify --threads 1 damaged.safetensors");
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    Ok((ran.stdout, ran.stderr))
}

/// Sets the last element of a tensor.
fn set_last(file: &mut TensorFile, name: &str, value: f64) {
    let _ = file.tensors[name].view(-1).slice(0, -1, None, 1).fill_(value);
}

#[test]
fn a_changed_value_fails_and_names_the_tensor_and_the_place() -> Result<()> {
    for (name, value) in [
        ("forward/generated", 0.5),
        ("forward/fake_logits", f64::NAN),
        ("trace/g_loss", 3.0),
        ("grad/discriminator/conv2d/kernel", 7.0),
        ("final/generator/dense/kernel", f64::NAN),
        ("final/generator/batch_normalization_2/moving_variance", 9.0),
        ("final/discriminator/dense/kernel/adam_v", f64::INFINITY),
        ("final/sample", -3.0),
    ] {
        let mut last = Vec::new();
        let (stdout, stderr) = verify_damaged(|file| {
            set_last(file, name, value);
            last = file.tensors[name].size().into_iter().map(|size| size - 1).collect();
        })?;
        assert_eq!(stderr, "", "{name}");
        let failed: Vec<_> = stdout.lines().filter(|line| line.contains("FAILED")).collect();
        // The tensor is named in the table, and again with its error and bound. Nothing else fails.
        assert_eq!(failed.len(), 2, "{name}\n{stdout}");
        assert!(failed.iter().all(|line| line.contains(name)), "{name}\n{stdout}");
        assert!(failed[1].contains("bound"), "{name}\n{stdout}");
        let places: Vec<_> = stdout.lines().filter(|line| line.contains("  at [")).collect();
        assert_eq!(places.len(), 1, "{name}\n{stdout}");
        assert!(places[0].contains(&format!("at {last:?}: expected ")), "{name}\n{stdout}");
        assert!(stdout.ends_with("0 of 1 files agree with TensorFlow\n"), "{stdout}");
    }
    Ok(())
}

#[test]
fn changed_inputs_and_initial_values_fail() -> Result<()> {
    for name in ["input/images/0", "input/z/0", "init/generator/dense/bias"] {
        let (stdout, _) = verify_damaged(|file| set_last(file, name, 30.0))?;
        assert!(stdout.contains("FAILED"), "{name}\n{stdout}");
    }
    Ok(())
}

/// Asserts that `damage` leads to an error that names the file and contains `part`.
fn assert_error(part: &str, damage: impl FnOnce(&mut TensorFile)) -> Result<()> {
    let (stdout, stderr) = verify_damaged(damage)?;
    assert_eq!(stdout, "0 of 1 files agree with TensorFlow\n", "{part}");
    assert!(stderr.contains("damaged.safetensors"), "{stderr}");
    assert!(stderr.contains(part), "no `{part}` in {stderr}");
    Ok(())
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() -> Result<()> {
    for name in ["grad/discriminator/dense/kernel", "init/generator/dense/kernel", "input/z/0"] {
        assert_error(name, |file| drop(file.tensors.remove(name)))?;
    }
    let extra = "final/generator/conv2d_transpose_3/bias";
    assert_error(extra, |file| drop(file.tensors.insert(extra.to_owned(), Tensor::from(1_f32))))?;
    let name = "final/discriminator/dense/kernel";
    assert_error("expected Float", |file| {
        let wide = file.tensors[name].to_kind(Kind::Double);
        file.tensors.insert(name.to_owned(), wide);
    })?;
    assert_error(name, |file| {
        let turned = file.tensors[name].tr();
        file.tensors.insert(name.to_owned(), turned);
    })
}

#[test]
fn wrong_metadata_is_named() -> Result<()> {
    for (key, value, part) in [
        ("format", "another", "expected `dcgan-reference`, found `another`"),
        ("version", "2", "expected `1`, found `2`"),
        ("dtype", "f16", "`f32` or `f64`, found `f16`"),
        ("dtype", "f64", "expected Double"),
        ("batch", "many", "expected a number, found `many`"),
        ("batch", "3", "input/z/0"),
        ("batch", "-1", "expected 1 to"),
        ("base_width", "3", "init/generator/dense/kernel"),
        ("base_width", "99999999999999999999", "base_width"),
        ("channels", "1", "init/generator/conv2d_transpose_2/kernel"),
        ("z_dim", "31", "init/generator/dense/kernel"),
        ("image_size", "50", "metadata `image_size`: images of 50×50 pixels"),
        ("image_size", "big", "metadata `image_size`: expected one side"),
        ("image_size", "64", "init/generator/dense/kernel"),
        ("iterations", "2", "input/images/1"),
        ("g_steps", "0", "g_steps"),
        ("beta2", "nan", "expected a finite number"),
    ] {
        assert_error(part, |file| {
            file.metadata.insert(key.to_owned(), value.to_owned());
        })?;
    }
    assert_error("metadata has no `alpha`", |file| drop(file.metadata.remove("alpha")))?;
    // A wrong value of the right form is no error, but the results differ.
    let (stdout, _) = verify_damaged(|file| {
        file.metadata.insert("alpha".to_owned(), "0.3".to_owned());
    })?;
    assert!(stdout.contains("FAILED"), "{stdout}");
    Ok(())
}

#[test]
fn a_float64_result_that_this_build_does_not_reach_fails_and_its_absence_is_an_error() -> Result<()>
{
    const WITH_TRUTH: &str = "f32_gray_w3_batch32.safetensors";
    let verify = |damage: &dyn Fn(&mut TensorFile)| -> Result<(String, String)> {
        let folder = tempfile::tempdir()?;
        let mut file = TensorFile::read(&reference().join(WITH_TRUTH))?;
        damage(&mut file);
        file.write(&folder.path().join("damaged.safetensors"))?;
        let ran = dcgan(folder.path(), "verify --threads 1 damaged.safetensors");
        assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
        Ok((ran.stdout, ran.stderr))
    };
    let name = "float64/grad/generator/dense/kernel";
    let (stdout, _) = verify(&|file| {
        let _ = file.tensors[name].view(-1).slice(0, 0, 1, 1).f_add_scalar_(1e-9).unwrap();
    })?;
    assert!(stdout.contains(&format!("FAILED {name} error")), "{stdout}");
    // What is wrong in both is seen by the float64 alone: here a generator step less than TensorFlow did.
    let (stdout, _) = verify(&|file| drop(file.metadata.insert("g_steps".into(), "1".into())))?;
    assert!(stdout.contains("FAILED float64/final/generator/dense/kernel error"), "{stdout}");
    let (_, stderr) = verify(&|file| drop(file.tensors.remove(name)))?;
    assert!(stderr.contains(name), "{stderr}");
    let (_, stderr) = verify(&|file| drop(file.metadata.insert("truth".into(), "f16".into())))?;
    assert!(stderr.contains("metadata `truth`: expected `f64`"), "{stderr}");
    Ok(())
}

#[test]
fn a_truncated_or_foreign_file_is_an_error_that_names_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let whole = std::fs::read(reference().join(SMALLEST))?;
    let foreign = b"\x89PNG\r\n\x1a\n and so on".to_vec();
    for bytes in [vec![], whole[..7].to_vec(), whole[..whole.len() - 1].to_vec(), foreign] {
        std::fs::write(folder.path().join("damaged.safetensors"), bytes)?;
        let ran = dcgan(folder.path(), "verify --threads 1 damaged.safetensors");
        let summary = "0 of 1 files agree with TensorFlow\n";
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), summary));
        assert!(ran.stderr.contains("damaged.safetensors"), "{}", ran.stderr);
        assert!(ran.stderr.contains("safetensors file"), "{}", ran.stderr);
    }
    Ok(())
}
