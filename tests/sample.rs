//! `dcgan sample`: images from runs, checkpoints, weights and the built-in generator.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use tch::{Kind, Tensor};

use super::common::{Ran, dcgan, files, normal, train};

fn pixels(path: &Path) -> Result<image::DynamicImage> {
    image::open(path).with_context(|| path.display().to_string())
}

/// Runs `dcgan sample` with `arguments` on the CPU.
fn sample(folder: &Path, arguments: &str) -> Ran {
    dcgan(folder, &format!("sample --device cpu --threads 1 {arguments}"))
}

fn refused(folder: &Path, arguments: &str, code: i32, parts: &[&str]) {
    sample(folder, arguments).assert_refused(arguments, code, parts);
}

#[test]
fn without_a_model_the_built_in_generator_shows_digits() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = sample(folder.path(), "");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let picture = pixels(&folder.path().join("samples.png"))?.into_luma8();
    // 8 × 8 images of 32×32 pixels, with gaps of 2 pixels.
    assert_eq!(picture.dimensions(), (270, 270));
    // Digits are mostly black, with white in them.
    let white = picture.pixels().filter(|pixel| pixel.0[0] > 200).count();
    let black = picture.pixels().filter(|pixel| pixel.0[0] < 30).count();
    assert!(white > 2000 && black > 40_000, "{white} {black}");
    // An existing file is replaced only with --force.
    refused(folder.path(), "", 2, &["samples.png: is there already", "--force"]);
    let again = sample(folder.path(), "--force --seed 1");
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert_ne!(pixels(&folder.path().join("samples.png"))?.into_luma8(), picture);
    assert_eq!(files(folder.path())?.len(), 1);
    Ok(())
}

#[test]
fn pictures_folders_and_arrays_hold_the_same_images_whatever_the_count() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    for arguments in [
        "--count 70 --out-dir many",
        "--count 3 --grid 3x1 --out row.png",
        "--count 70 --npz all.npz",
    ] {
        let ran = sample(folder.path(), &format!("{arguments} --seed 5"));
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.stderr);
    }
    assert_eq!(files(&at("many"))?.len(), 70);
    let row = pixels(&at("row.png"))?.into_luma8();
    let mut archive = zip::ZipArchive::new(std::fs::File::open(at("all.npz"))?)?;
    let mut array = Vec::new();
    archive.by_name("arr_0.npy")?.read_to_end(&mut array)?;
    let data = &array[array.len() - 70 * 32 * 32..];
    let header = String::from_utf8_lossy(&array[..array.len() - data.len()]);
    assert!(header.contains("'shape': (70, 32, 32, 1)") && header.contains("|u1"), "{header}");
    assert_eq!((array.len() - data.len()) % 64, 0);
    let ran = sample(folder.path(), "--count 70 --npy all.npy --seed 5");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let floats = Tensor::read_npy(at("all.npy"))?;
    assert_eq!(floats.size(), [70, 1, 32, 32]);
    let bytes = ((floats + 1.0) * 127.5).round().to_kind(Kind::Uint8).flatten(0, -1);
    assert_eq!(Vec::<u8>::try_from(bytes)?, data);
    // bfloat16 has a mantissa of only 8 bits, so the images differ, but not much.
    let ran = sample(folder.path(), "--count 70 --npy bf16.npy --seed 5 --precision bf16");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let difference = Tensor::read_npy(at("bf16.npy"))? - Tensor::read_npy(at("all.npy"))?;
    let mean = difference.abs().mean(None).double_value(&[]);
    assert!(1e-5 < mean && mean < 1e-2, "{mean}");
    for (i, image) in data.chunks_exact(32 * 32).enumerate() {
        let file = pixels(&at(&format!("many/{i:06}.png")))?.into_luma8();
        assert_eq!(file.as_raw(), image, "{i}");
        if i < 3 {
            let part = image::imageops::crop_imm(&row, 34 * i as u32, 0, 32, 32).to_image();
            assert_eq!(part.as_raw(), image, "{i}");
        }
    }
    Ok(())
}

#[test]
fn a_run_its_checkpoint_and_its_weights_give_the_runs_own_samples() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let run =
        "train --device cpu --threads 1 --base-width 2 --z-dim 5 --batch-size 4 --iterations 3";
    train(folder.path(), &format!("{run} --run run"));
    let z = dcgan::rng::Latent::Uniform.sample(
        &mut dcgan::rng::rng(0, dcgan::rng::Stream::SampleZ, 0),
        36,
        5,
    );
    Tensor::from_slice(&z).view([36, 5]).write_npy(folder.path().join("z.npy"))?;
    // The run's last sample grid is made from the same z, but in a batch of another size. Float32 then rounds
    // differently, so that pixels may differ by one level of 255.
    let expected = pixels(&folder.path().join("run/samples/iteration-000003.png"))?.into_luma8();
    for model in
        ["run", "run/checkpoints/iteration-000003.safetensors", "run/generator.safetensors"]
    {
        let ran =
            sample(folder.path(), &format!("{model} --z z.npy --grid 6x6 --out a.png --force"));
        assert_eq!(ran.code, Some(0), "{model}: {}", ran.stderr);
        let found = pixels(&folder.path().join("a.png"))?.into_luma8();
        assert_eq!(found.dimensions(), expected.dimensions());
        let worst = found.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst <= Some(1), "{model}: {worst:?}");
    }
    Ok(())
}

#[test]
fn impossible_requests_are_refused_before_a_file_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    std::fs::write(place.join("text.safetensors"), "no tensors")?;
    std::fs::create_dir(place.join("empty"))?;
    std::fs::create_dir(place.join("full"))?;
    std::fs::write(place.join("full/a"), "")?;
    normal(1, &[3, 7]).write_npy(place.join("wide.npy"))?;
    (normal(1, &[1, 100]) / 0.).write_npy(place.join("inf.npy"))?;
    std::fs::create_dir(place.join("folder.npy"))?;
    normal(1, &[3, 100]).write_npy(place.join("whole.npy"))?;
    let whole = std::fs::read(place.join("whole.npy"))?;
    std::fs::write(place.join("cut.npy"), &whole[..whole.len() / 2])?;
    let before = files(place)?;
    let reference =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/f32_gray_w6_1it.safetensors");
    for (arguments, code, parts) in [
        ("nowhere", 2, &["nowhere", "no such run"][..]),
        ("empty", 2, &["empty: expected a run with a checkpoint"]),
        ("text.safetensors", 1, &["text.safetensors: not a safetensors file"]),
        (&reference.display().to_string(), 1, &["expected a checkpoint", "dcgan-reference"]),
        ("--out a.jpg", 2, &["--out a.jpg", ".png"]),
        ("--out nowhere/a.png", 2, &["there is no folder nowhere"]),
        ("--out empty", 2, &["--out empty"]),
        ("--out-dir full", 2, &["full: is there and not empty", "--force"]),
        ("--out-dir text.safetensors", 2, &["is a file, expected a folder"]),
        ("--npz empty", 2, &["--npz empty", ".npz"]),
        ("--npy folder.npy", 2, &["folder.npy: is a folder"]),
        ("--count 0", 2, &["--count", "0"]),
        ("--count 5 --grid 2x2", 2, &["--grid 2x2: has no room for 5 images"]),
        ("--count 10001", 2, &["--out-dir or --npz"]),
        ("--grid 2by2", 2, &["--grid", "such as 8x8"]),
        ("--z nowhere.npy", 2, &["--z nowhere.npy"]),
        ("--z wide.npy", 2, &["--z wide.npy", "[N, 100]", "[3, 7]"]),
        ("--z inf.npy", 1, &["--z inf.npy", "row 0, column 0"]),
        ("--z cut.npy", 1, &["--z cut.npy", "promises", "found"]),
        ("--z wide.npy --seed 3", 2, &["--z", "--seed"]),
        ("--npz a.npz --npy a.npy", 2, &["--npz", "--npy"]),
        ("--precision f16", 2, &["--precision", "bf16"]),
    ] {
        refused(place, arguments, code, parts);
        assert_eq!(files(place)?, before, "{arguments}");
    }
    Ok(())
}
