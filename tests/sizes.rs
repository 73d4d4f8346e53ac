//! Images of other sizes than the reference's, from the first decoded pixel to every export.

use std::path::Path;

use anyhow::{Context, Result};
use dcgan::run::model;
use dcgan::settings::{Size, read_run_config};
use dcgan::shape::{ImageShape, ImageSize};
use image::{Rgb, RgbImage};
use tch::{CModule, Device, Kind, Tensor};

use super::common::{dcgan, one_thread, trace, train};

/// Options of a run that takes less than a second at any size.
const QUICK: &str =
    "--device cpu --threads 1 --base-width 1 --z-dim 3 --batch-size 4 --learning-rate 0.1";

/// A folder of `count` colour images of this size, `name` within `folder`.
fn colour_images(folder: &Path, name: &str, (width, height): (u32, u32), count: u32) -> Result<()> {
    let images = folder.join(name);
    std::fs::create_dir_all(&images)?;
    for i in 0..count {
        let pixel = |x: u32, y: u32| Rgb([(3 * x + i) as u8, (5 * y) as u8, (40 * i) as u8]);
        let image = RgbImage::from_fn(width, height, pixel);
        image.save(images.join(format!("{width}x{height}-{i}.png")))?;
    }
    Ok(())
}

fn size_of_picture(path: &Path) -> Result<(u32, u32)> {
    image::image_dimensions(path).with_context(|| path.display().to_string())
}

#[test]
fn a_run_of_any_size_trains_and_everything_that_is_made_of_it_has_that_size() -> Result<()> {
    one_thread();
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    colour_images(here, "photos", (100, 70), 14)?;
    let run = "--dataset folder:photos --image-size 80x48 --iterations 4 --checkpoint-every 2 --sample-every 2";
    train(here, &format!("{QUICK} {run} --eval-every 4 --eval-count 6 --run wide"));
    let config = read_run_config(&here.join("wide/config.toml"))?;
    assert_eq!(config.image_size, Size::Of(ImageSize { width: 80, height: 48 }));

    // 6 × 6 images with gaps, as at every other size.
    let grid = size_of_picture(&here.join("wide/samples/iteration-000004.png"))?;
    assert_eq!(grid, (6 * (80 + 2) - 2, 6 * (48 + 2) - 2));

    train(here, "sample wide --count 3 --out-dir singles --threads 1");
    assert_eq!(size_of_picture(&here.join("singles/000000.png"))?, (80, 48));
    train(here, "film wide --out film.gif --scale 1");
    train(here, "interpolate wide --frames 3 --walks 2 --scale 1 --out walk.png --threads 1");
    assert_eq!(size_of_picture(&here.join("walk.png"))?, (3 * 82 - 2, 2 * 50 - 2));
    train(
        here,
        "nearest wide --dataset folder:photos --count 2 --neighbours 2 --out nearest.png --threads 1",
    );
    train(here, "report wide --out report.html");
    let measured = train(here, "eval wide --dataset folder:photos --count 6 --json --threads 1");
    let report: serde_json::Value = serde_json::from_str(&measured.stdout)?;
    for metric in ["frechet_distance", "ms_ssim", "sliced_wasserstein"] {
        let found = report["metrics"].to_string();
        assert!(found.contains(metric), "{metric}: {found}");
    }

    let sampler = model::sampler(&here.join("wide"), Device::Cpu, Kind::Double)?;
    assert_eq!(
        sampler.shape(),
        ImageShape { size: config.image_size.known().context("auto")?, channels: 3 }
    );
    let z = Tensor::from_slice(&sampler.noise(1, 0, 5)).view([5, -1]);
    let expected = sampler.upright(&z.to_kind(Kind::Double))?;
    assert_eq!(expected.size(), [5, 3, 48, 80]);

    train(here, "export wide --out wide.pt");
    let exported = CModule::load(here.join("wide.pt"))?.forward_ts(&[&z])?;
    let error = (exported.to_kind(Kind::Double) - &expected).abs().max().double_value(&[]);
    assert!(error <= 1e-5, "{error:e}");
    train(here, "export wide --out wide.onnx");
    for format in ["tf", "safetensors"] {
        train(here, &format!("export wide --format {format} --out {format}.safetensors"));
        let path = here.join(format!("{format}.safetensors"));
        let again =
            model::sampler(&path, Device::Cpu, Kind::Double)?.upright(&z.to_kind(Kind::Double))?;
        assert_eq!(again, expected, "{format}");
    }
    train(here, "export wide --format tf --network discriminator --out d.safetensors");
    train(here, "import tf.safetensors d.safetensors --out imported.safetensors");
    train(
        here,
        "--resume imported.safetensors --fork more --iterations 5 --dataset folder:photos --threads 1",
    );
    Ok(())
}

#[test]
fn a_resumed_run_of_another_size_equals_an_uninterrupted_one_bit_for_bit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    for (size, name) in [("16", "tiny"), ("64", "large"), ("28", "odd"), ("64x16", "wide")] {
        let run = format!("{QUICK} --image-size {size} --limit 40 --max-width 6");
        train(here, &format!("{run} --iterations 4 --run {name}"));
        train(here, &format!("{run} --iterations 2 --run {name}-resumed"));
        train(here, &format!("--resume {name}-resumed --iterations 4"));
        assert_eq!(
            trace(&here.join(name))?.tensors,
            trace(&here.join(format!("{name}-resumed")))?.tensors,
            "{size}"
        );
    }
    // Sizes and widths belong to the networks: neither changes on resume or in a fork.
    for (change, told) in [
        ("--image-size 32", "image-size was 64 and is 32"),
        ("--max-width 8", "max-width was 6 and is 8"),
    ] {
        for command in ["--resume large", "--resume large --fork other"] {
            let ran = dcgan(here, &format!("{command} {change} --iterations 6"));
            ran.assert_refused(change, 2, &[told]);
        }
    }
    Ok(())
}

#[test]
fn the_images_own_size_is_taken_where_all_have_the_same() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    colour_images(here, "same", (48, 32), 5)?;
    let auto = format!("{QUICK} --image-size auto --iterations 1");
    train(here, &format!("{auto} --dataset folder:same --run own"));
    let config = read_run_config(&here.join("own/config.toml"))?;
    assert_eq!(config.image_size, Size::Of(ImageSize { width: 48, height: 32 }));
    // Asked for again, it comes to the same size.
    train(here, "--resume own --image-size auto --iterations 2");
    let shown = train(here, "data show folder:same --image-size auto");
    assert!(shown.stdout.contains("size      48x32"), "{}", shown.stdout);

    colour_images(here, "mixed", (64, 64), 3)?;
    colour_images(here, "mixed", (20, 30), 2)?;
    let ran = dcgan(here, &format!("{auto} --dataset folder:mixed --run mixed-run"));
    ran.assert_refused(
        "several sizes",
        2,
        &[
            "--image-size auto: expected images of one size, found 64×64 (3), 20×30 (2)",
            "64 is possible",
        ],
    );
    colour_images(here, "impossible", (100, 75), 2)?;
    let ran = dcgan(here, &format!("{auto} --dataset folder:impossible --run impossible-run"));
    ran.assert_refused(
        "an impossible size",
        2,
        &["--image-size auto: images of 100×75 pixels are not possible", "the nearest that are"],
    );
    // Arrays know their size, too: the built-in digits are 28×28.
    let shown = train(here, "data show digits --image-size auto");
    assert!(shown.stdout.contains("size      28"), "{}", shown.stdout);
    for name in ["mixed-run", "impossible-run"] {
        assert!(!here.join(name).exists(), "{name}");
    }
    Ok(())
}

#[test]
fn a_dry_run_tells_the_layers_of_a_size_and_the_memory_that_they_take() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = train(folder.path(), "--image-size 64 --dry-run --device cpu");
    for part in
        ["image-size = 64", "conv2d_transpose_3", "1024 × 4 × 4", "512 × 4 × 4", "of memory"]
    {
        assert!(ran.stdout.contains(part), "no `{part}` in\n{}", ran.stdout);
    }
    let narrow = train(folder.path(), "--image-size 64 --max-width 100 --dry-run --device cpu");
    assert!(narrow.stdout.contains("100 × 4 × 4"), "{}", narrow.stdout);
    // No machine has the memory of this one.
    let large = "--image-size 256 --batch-size 65536 --base-width 1024 --dry-run --device cpu";
    let ran = dcgan(folder.path(), &format!("{large} --iterations 1"));
    ran.assert_refused(
        large,
        1,
        &["training takes about", "give a smaller --batch-size, --image-size"],
    );
    Ok(())
}

#[test]
fn an_iteration_of_any_size_can_be_timed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let small =
        "--base-width 2 --batch-size 2 --warmup 0 --iterations 1 --device cpu --threads 1 --json";
    let bench = format!("bench --image-size 80x48 --channels 3 --max-width 4 {small}");
    let result: serde_json::Value = serde_json::from_str(&train(folder.path(), &bench).stdout)?;
    assert!(result["median_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{result}");
    let wrong = dcgan(folder.path(), "bench --image-size 100x75");
    wrong.assert_refused("bench", 2, &["--image-size", "images of 100×75 pixels are not possible"]);
    Ok(())
}
