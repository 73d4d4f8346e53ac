//! Conditional training: the classes of the images steer both networks.

use anyhow::{Context, Result};
use dcgan::run::model;
use dcgan::settings::read_run_config;
use image::{GrayImage, Luma};
use tch::{CModule, Device, Kind, Tensor};

use super::common::{Ran, command, dcgan, files, one_thread, trace, train};

/// Options of a conditional run of the built-in digits that takes less than a second.
const QUICK: &str = "--device cpu --threads 1 --base-width 1 --z-dim 3 --batch-size 16 --learning-rate 0.1 \
                     --conditional";

#[test]
fn a_resumed_conditional_run_equals_an_uninterrupted_one_bit_for_bit() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    // 60 images in batches of 16: the last batch of an epoch is smaller.
    let run =
        format!("{QUICK} --limit 60 --ema 0.9 --augment --flip --checkpoint-every 1 --keep 9");
    train(here, &format!("{run} --iterations 5 --run whole"));
    for stopped_at in [1, 3] {
        let name = format!("stopped-{stopped_at}");
        train(here, &format!("{run} --iterations {stopped_at} --run {name}"));
        train(here, &format!("--resume {name} --iterations 5"));
        let (whole, resumed) = (trace(&here.join("whole"))?, trace(&here.join(&name))?);
        assert_eq!(whole.tensors, resumed.tensors, "{stopped_at}");
        let last =
            |trace: &super::common::Trace| trace.pictures["samples/iteration-000005.png"].clone();
        assert!(last(&whole) == last(&resumed), "{stopped_at}");
    }
    // A row for each of the ten classes, of six images each.
    let grid = image::image_dimensions(here.join("whole/samples/iteration-000005.png"))?;
    assert_eq!(grid, (6 * 34 - 2, 10 * 34 - 2));
    Ok(())
}

#[test]
fn a_class_that_is_asked_for_is_the_one_that_the_generator_is_given() -> Result<()> {
    one_thread();
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    train(here, &format!("{QUICK} --limit 200 --iterations 6 --run run"));
    let sampler = model::sampler(&here.join("run"), Device::Cpu, Kind::Float)?;
    let classes = sampler.classes().context("no classes")?;
    assert_eq!(classes.names.join(""), "0123456789");
    assert_eq!(classes.counts.iter().sum::<u64>(), 200);

    // The same noise, another class: another image.
    train(here, "sample run --class 7 --count 2 --out-dir sevens --threads 1");
    train(here, "sample run --class 7,3 --count 2 --out-dir both --threads 1");
    let (sevens, both) = (files(&here.join("sevens"))?, files(&here.join("both"))?);
    assert_eq!(sevens["000000.png"], both["000000.png"]);
    assert_ne!(sevens["000001.png"], both["000001.png"]);
    let expected = sampler.all(&sampler.noise_of(0, 0, 2, &[7, 3]))?;
    for (i, name) in ["000000.png", "000001.png"].into_iter().enumerate() {
        let image = image::load_from_memory(&both[name])?.into_luma8().into_raw();
        assert!(image == expected[i * 1024..][..1024], "{name}");
    }

    // From one class to the other with the same z: the ends are images of those classes.
    train(
        here,
        "interpolate run --class 3,8 --frames 5 --walks 1 --scale 1 --out walk.png --threads 1",
    );
    let strip = image::open(here.join("walk.png"))?.into_luma8();
    let ends = sampler
        .all(&[sampler.noise_of(0, 0, 1, &[3]), sampler.noise_of(0, 0, 1, &[8])].concat())?;
    for (i, left) in [(0, 0), (1, 4 * 34)] {
        let shown: Vec<u8> =
            (0..32 * 32).map(|p| strip.get_pixel(left + p % 32, p / 32)[0]).collect();
        assert!(shown == ends[i * 1024..][..1024], "end {i}");
    }

    // Exports take the class too.
    train(here, "export run --out run.pt");
    let asked = [4, 0, 9];
    let input = Tensor::from_slice(&sampler.noise_of(5, 0, 3, &asked)).view([3, 13]);
    let class = Tensor::from_slice(&asked.map(|class| class as i64));
    let images = CModule::load(here.join("run.pt"))?
        .forward_ts(&[&input.narrow(1, 0, 3).contiguous(), &class])?;
    let error = (images - sampler.upright(&input)?).abs().max().double_value(&[]);
    assert!(error <= 1e-5, "{error:e}");
    train(here, "export run --out run.onnx");
    for format in ["tf", "safetensors"] {
        train(here, &format!("export run --format {format} --out g-{format}.safetensors"));
        let path = here.join(format!("g-{format}.safetensors"));
        let again = model::sampler(&path, Device::Cpu, Kind::Float)?;
        assert_eq!(again.sample(1, 9)?, sampler.sample(1, 9)?, "{format}");
        train(
            here,
            &format!(
                "export run --network discriminator --format {format} --out d-{format}.safetensors"
            ),
        );
        train(
            here,
            &format!(
                "import g-{format}.safetensors d-{format}.safetensors --out {format}.safetensors"
            ),
        );
        train(
            here,
            &format!(
                "--resume {format}.safetensors --fork more-{format} --iterations 7 --threads 1"
            ),
        );
    }
    train(here, "eval run --count 12 --limit 200 --features pixels --threads 1");
    Ok(())
}

#[test]
fn folders_are_classes_and_rare_ones_are_asked_for_rarely() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    for (name, count, level) in [("cats, big", 9, 40), ("dogs", 3, 200)] {
        std::fs::create_dir_all(here.join("pets").join(name))?;
        for i in 0..count {
            let image = GrayImage::from_pixel(32, 32, Luma([level + i]));
            image.save(here.join(format!("pets/{name}/{i}.png")))?;
        }
    }
    train(here, &format!("{QUICK} --dataset folder:pets --iterations 2 --run pets-run"));
    // Each class has three rows, because two would make a small picture.
    let grid = image::image_dimensions(here.join("pets-run/real.png"))?;
    assert_eq!(grid, (6 * 34 - 2, 6 * 34 - 2));
    let sampler = model::sampler(&here.join("pets-run"), Device::Cpu, Kind::Float)?;
    // A comma in a name is no separator where there is a class of that name.
    let mut asked = command(here, "sample pets-run --count 2 --out-dir both --threads 1");
    asked.args(["--class", "cats, big", "--class", "dogs"]);
    assert_eq!(Ran::of(asked, "sample").code, Some(0));
    let shown = train(here, "data show folder:pets");
    assert!(shown.stdout.contains("classes   2: `cats, big` (9), `dogs` (3)"), "{}", shown.stdout);
    let drawn = sampler.drawn_classes(0, 0, 1000).context("no classes")?;
    let dogs = drawn.iter().filter(|&&class| class == 1).count();
    assert!((200..300).contains(&dogs), "{dogs} of 1000, where 250 are expected");
    Ok(())
}

#[test]
fn what_classes_cannot_do_is_said_in_one_line_and_nothing_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    std::fs::create_dir(here.join("plain"))?;
    for i in 0..4 {
        GrayImage::from_pixel(32, 32, Luma([i])).save(here.join(format!("plain/{i}.png")))?;
    }
    train(here, &format!("{QUICK} --limit 40 --iterations 2 --run run"));
    train(
        here,
        &format!("{} --limit 40 --iterations 2 --run without", QUICK.replace("--conditional", "")),
    );
    assert!(!std::fs::read_to_string(here.join("without/config.toml"))?.contains("conditional"));
    assert!(read_run_config(&here.join("run/config.toml"))?.conditional.is_on());
    for class in ["cat", "dog"] {
        std::fs::create_dir_all(here.join("stray").join(class))?;
        for i in 0..3 {
            let image = GrayImage::from_pixel(32, 32, Luma([i]));
            image.save(here.join(format!("stray/{class}/{i}.png")))?;
        }
    }
    GrayImage::from_pixel(32, 32, Luma([9])).save(here.join("stray/stray.png"))?;
    let quick = QUICK;
    for (arguments, told) in [
        (
            format!("{quick} --dataset folder:stray --run x"),
            "--conditional: 1 of the 7 images of folder:stray are in no folder",
        ),
        (
            format!(
                "{} --eval-every 1 --eval-metric class_accuracy --run x",
                quick.replace("--conditional", "")
            ),
            "--eval-metric class_accuracy: takes --conditional",
        ),
        (
            "eval without --metrics class_accuracy --threads 1".to_owned(),
            "--metrics class_accuracy: takes a generator",
        ),
        (
            format!("{quick} --dataset folder:plain --run x"),
            "--conditional: the images of folder:plain have no classes",
        ),
        (
            format!("{quick} --classes 3 --run x"),
            "--conditional: the images of digits have no classes, or only one",
        ),
        (
            "sample run --class 11 --out x".to_owned(),
            "--class 11: there is no such class; expected one of `0`, `1`, `2`",
        ),
        (
            "sample without --class 1 --out x".to_owned(),
            "--class 1: the generator knows no classes",
        ),
        ("sample --class 1 --out x".to_owned(), "--class 1: the generator knows no classes"),
        ("interpolate run --class 1,x --out x.png".to_owned(), "--class x: there is no such class"),
        (
            "interpolate run --class 1,2 --keyframes 5 --out x.png".to_owned(),
            "--keyframes 5: a walk from class to class",
        ),
        (
            "--resume run --conditional=false --iterations 3".to_owned(),
            "conditional was true and is false",
        ),
        (
            "--resume without --conditional --fork x --iterations 3".to_owned(),
            "conditional was false and is true",
        ),
        (
            "--resume run --classes 1,2 --iterations 3 --fork x".to_owned(),
            "classes of the data set was 0,1,2",
        ),
    ] {
        // The ending of a picture's name is checked first.
        let arguments =
            if arguments.ends_with("--out x") { format!("{arguments}.png") } else { arguments };
        dcgan(here, &arguments).assert_refused(&arguments, 2, &[told]);
        assert!(!here.join("x").exists() && !here.join("x.png").exists(), "{arguments}");
    }
    Ok(())
}

#[test]
fn a_run_is_not_resumed_on_the_same_images_with_other_classes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let here = folder.path();
    for i in 0..6_u8 {
        let path = here.join("set").join(if i % 2 == 0 { "even" } else { "odd" });
        std::fs::create_dir_all(&path)?;
        GrayImage::from_pixel(32, 32, Luma([20 * i])).save(path.join(format!("{i}.png")))?;
    }
    train(here, &format!("{QUICK} --dataset folder:set --iterations 1 --run run"));
    for name in ["even", "odd"] {
        std::fs::rename(here.join("set").join(name), here.join("set").join(format!("{name}-")))?;
    }
    let ran = dcgan(here, "--resume run --iterations 2");
    ran.assert_refused("renamed classes", 2, &["SHA-256 of the images' classes"]);
    Ok(())
}
