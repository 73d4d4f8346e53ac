//! `dcgan eval`, evaluation during training, and whether metrics order images rightly.

use std::path::Path;

use anyhow::{Context, Result};
use dcgan::data::{ImageSet, builtin};
use dcgan::eval::classifier::Classifier;
use dcgan::eval::evaluator::{Evaluator, Settings};
use dcgan::eval::features::Extractor;
use dcgan::eval::metric::{Measured, Metric};
use dcgan::record::jsonl::{Evaluation, Line, read};
use dcgan::rng::{Latent, Stream, permutation, rng};
use dcgan::shape::ImageShape;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::common::{Ran, SMALL, command, crash, files, one_thread, trace, train};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference");

/// Runs the executable with a cache of its own below `folder`.
fn dcgan(folder: &Path, arguments: &str) -> Ran {
    let mut command = command(folder, arguments);
    command.env("XDG_CACHE_HOME", folder.join("cache"));
    Ran::of(command, arguments)
}

/// What `eval --json` prints, without its time.
fn eval(folder: &Path, arguments: &str) -> Result<Value> {
    let ran = dcgan(folder, &format!("eval --device cpu --threads 1 --json {arguments}"));
    assert_eq!(ran.code, Some(0), "{arguments}\n{}", ran.stderr);
    let mut report: Value = serde_json::from_str(&ran.stdout)?;
    report.as_object_mut().context("no object")?.remove("elapsed_s").context("no time")?;
    Ok(report)
}

fn row<'a>(report: &'a Value, metric: &str) -> Result<&'a Value> {
    let rows = report["metrics"].as_array().context("no metrics")?;
    rows.iter().find(|row| row["metric"] == metric).with_context(|| metric.to_owned())
}

fn value(report: &Value, metric: &str) -> Result<f64> {
    row(report, metric)?["value"].as_f64().context("no number")
}

/// Digits from which each of `classes` is gone.
fn without(set: &ImageSet, class: Option<u32>) -> Result<Vec<u8>> {
    let labels = set.labels().context("no labels")?;
    let mut images = Vec::new();
    // At random: the first half of them is written more neatly.
    for i in permutation(&mut rng(5, Stream::Shuffle, 0), 10_000).into_iter().take(1500) {
        let i = i as usize;
        if Some(labels.of_images[i]) != class {
            images.extend(set.rows(i..i + 1)?);
        }
    }
    Ok(images)
}

/// Images `[n, 32, 32, 1]`, blurred by a Gaussian.
fn blurred(images: &[u8], sigma: f64) -> Result<Vec<u8>> {
    let x = Tensor::from_slice(images).view([-1, 1, 32, 32]).to_kind(Kind::Double);
    let half = (3.0 * sigma).ceil() as i64;
    let taps = Tensor::arange_start(-half, half + 1, (Kind::Double, Device::Cpu));
    let taps = (taps.square() * (-0.5 / sigma.powi(2))).exp();
    let taps = &taps / taps.sum(Kind::Double);
    let row = taps.view([1, 1, 1, -1]);
    let x = x.conv2d(&row, None::<Tensor>, [1, 1], [0, half], [1, 1], 1);
    let x = x.conv2d(&row.transpose(2, 3), None::<Tensor>, [1, 1], [half, 0], [1, 1], 1);
    Ok(Vec::try_from(x.round().clamp(0., 255.).to_kind(Kind::Uint8).flatten(0, -1))?)
}

/// One classifier serves all that needs one: training it takes a quarter of a minute.
#[test]
fn distances_order_noise_blur_and_digits_rightly_and_a_missing_class_shows() -> Result<()> {
    one_thread();
    let cache = tempfile::tempdir()?;
    let cache = cache.path();
    let digits = builtin::digits()?;
    let mut steps = 0;
    let classifier =
        Classifier::load_or_train(&digits, Device::Cpu, Some(cache), &mut |_, all| steps = all)?;
    assert!(steps >= 600 && classifier.accuracy > 0.97, "{steps} {}", classifier.accuracy);
    assert_eq!(classifier.held_out, 1428);
    // The second time it is read.
    let again = Classifier::load_or_train(&digits, Device::Cpu, Some(cache), &mut |_, _| {
        panic!("trained again")
    })?;
    assert_eq!(again.accuracy, classifier.accuracy);

    let extractor = Extractor::Classifier(classifier);
    let evaluator = Evaluator::new(
        &digits,
        extractor,
        &Metric::ALL,
        Settings { count: 1500, seed: 0, device: Device::Cpu, cache: None },
        &mut |_| {},
    )?;
    let real = without(&digits, None)?;
    let measure = |images: Vec<u8>| -> Result<Vec<Measured>> {
        evaluator.measure(
            &ImageSet::new("images", ImageShape::reference(1), images)?,
            true,
            &mut |_| {},
        )
    };
    let get = |measured: &[Measured], metric: Metric| {
        measured.iter().find(|found| found.metric == metric).map(|found| found.value).unwrap()
    };
    let noise = Latent::Uniform.sample(&mut rng(0, Stream::Z, 0), 1500, 32 * 32);
    let noise: Vec<u8> = noise.into_iter().map(|x| ((x + 1.0) * 127.5) as u8).collect();
    let floor = evaluator.floor(true)?;
    // A distance of 1,500 images is not certain, and its uncertainty is no more than itself.
    for measured in &floor {
        let Measured { metric, value, uncertainty } = *measured;
        let is_sane = uncertainty > 0.0 && uncertainty < 3.0 * value.abs().max(1.0);
        assert!(is_sane, "{metric:?}: {value} {uncertainty}");
    }
    let mut ladder = vec![measure(real.clone())?];
    for sigma in [1.0, 2.0, 3.0] {
        ladder.push(measure(blurred(&real, sigma)?)?);
    }
    ladder.push(measure(noise)?);
    for metric in [Metric::FrechetDistance, Metric::KernelDistance] {
        let values: Vec<f64> = ladder.iter().map(|measured| get(measured, metric)).collect();
        assert!(values.windows(2).all(|pair| pair[0] < pair[1]), "{metric:?}: {values:?}");
        // Real images are as far away as the held-out ones are.
        let floor = get(&floor, metric);
        assert!(
            values[0] < 3.0 * floor.abs() + 1.0 && values[1] > 3.0 * floor.abs(),
            "{values:?} {floor}"
        );
    }
    assert!(get(&ladder[0], Metric::Coverage) > 0.9 && get(&ladder[4], Metric::Coverage) < 0.01);

    let complete = get(&ladder[0], Metric::ClassBalance);
    let lacking = measure(without(&digits, Some(7))?)?;
    // A tenth of the mass spread over the others: ln(10/9) = 0.105.
    let missing = get(&lacking, Metric::ClassBalance);
    assert!(complete < 0.02 && (missing - 0.105).abs() < 0.03, "{complete} {missing}");
    assert!(get(&lacking, Metric::Recall) < get(&ladder[0], Metric::Recall));
    // All of one image: nothing is imaginary or infinite.
    let same = measure(real[..1024].repeat(50))?;
    assert!(
        same.iter().all(|measured| measured.value.is_finite() && measured.uncertainty.is_finite())
    );
    assert!((get(&same, Metric::ClassifierScore) - 1.0).abs() < 1e-9);
    assert_eq!(get(&same, Metric::Recall), 0.0);
    Ok(())
}

#[test]
fn the_same_images_give_the_same_numbers_wherever_they_come_from() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let flags = "--features pixels --limit 900 --count 300";
    let of_model = eval(place, flags)?;
    assert_eq!(eval(place, flags)?, of_model);
    assert_ne!(eval(place, &format!("{flags} --seed 1"))?["metrics"], of_model["metrics"]);
    for out in ["--npz images.npz", "--out-dir images"] {
        let ran = dcgan(place, &format!("sample --device cpu --threads 1 --count 300 {out}"));
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
    for images in ["images.npz", "images"] {
        let found = eval(place, &format!("{flags} --images {images}"))?;
        assert_eq!(found["metrics"], of_model["metrics"], "{images}");
    }
    assert_eq!((&of_model["real"], &of_model["held_out"]), (&600.into(), &300.into()));
    assert_eq!(of_model["dimensions"], 1024);
    // Fewer images than dimensions: said in words.
    let notes = of_model["notes"].to_string();
    assert!(notes.contains("300 images for 1,024 dimensions"), "{notes}");
    let rows = of_model["metrics"].as_array().context("no rows")?;
    // Without a classifier: all but the two of classes.
    assert_eq!(rows.len(), 11);
    for row in rows {
        // Of copies the floor is a hundredth by definition.
        let keys: &[_] = match row["metric"] == "copies" {
            true => &["value", "uncertainty"],
            false => &["value", "uncertainty", "floor", "floor_uncertainty"],
        };
        for &key in keys {
            assert!(row[key].as_f64().is_some_and(f64::is_finite), "{key}: {row}");
        }
    }
    let better = |metric: &str| -> Result<bool> {
        Ok(value(&of_model, metric)? > row(&of_model, metric)?["floor"].as_f64().context("")?)
    };
    assert!(
        better("frechet_distance")? && better("kernel_distance")? && better("sliced_wasserstein")?
    );
    Ok(())
}

#[test]
fn copies_duplicates_and_one_colour_are_told() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    // Real digits as if they were generated: each is in the set.
    let digits = builtin::digits()?;
    std::fs::create_dir(place.join("copies"))?;
    std::fs::create_dir(place.join("black"))?;
    for i in 0..40 {
        let image = digits.rows(i / 2..i / 2 + 1)?;
        let picture = image::GrayImage::from_raw(32, 32, image).context("an image")?;
        picture.save(place.join(format!("copies/{i}.png")))?;
        image::GrayImage::new(32, 32).save(place.join(format!("black/{i}.png")))?;
    }
    let flags = "--features pixels --limit 10000";
    let found =
        eval(place, &format!("{flags} --images copies --metrics copies,duplicates,nearest_real"))?;
    assert_eq!(value(&found, "copies")?, 1.0);
    assert_eq!(value(&found, "duplicates")?, 1.0);
    assert_eq!(value(&found, "nearest_real")?, 0.0);
    assert!(row(&found, "copies")?["floor"].is_null());
    let found = eval(place, &format!("{flags} --images black"))?;
    assert!(found["notes"].to_string().contains("one colour"), "{}", found["notes"]);
    assert_eq!(value(&found, "ms_ssim")?, 1.0);
    assert_eq!(value(&found, "recall")?, 0.0);
    Ok(())
}

#[test]
fn torchscript_modules_are_called_as_they_expect() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let flags = "--limit 700 --count 200 --metrics frechet_distance";
    let found = eval(place, &format!("{flags} --features {REFERENCE}/features-flag.pt"))?;
    // With return_features, and on three channels: means and deviations of each.
    assert_eq!(found["dimensions"], 6);
    let plain = format!("{flags} --features {REFERENCE}/features-plain.pt");
    let bytes = eval(place, &plain)?;
    assert_eq!(bytes["dimensions"], 12);
    // Squared distances: of values a 255th as large. Features of real images are read from the cache the second
    // time, and of another range are others.
    let unit = eval(place, &format!("{plain} --feature-range unit"))?;
    let ratio = value(&bytes, "frechet_distance")? / value(&unit, "frechet_distance")?;
    assert!((ratio / 65025.0 - 1.0).abs() < 1e-3, "{ratio}");
    assert_eq!(eval(place, &plain)?, bytes);
    let cached = files(&place.join("cache/dcgan/eval"))?
        .into_keys()
        .filter(|name| name.starts_with("features-"));
    assert_eq!(cached.count(), 3);
    // Of images twice as large, quarters have the same means, but for resampling.
    let large = eval(place, &format!("{plain} --feature-size 64"))?;
    let ratio = value(&large, "frechet_distance")? / value(&bytes, "frechet_distance")?;
    assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
    Ok(())
}

#[test]
fn what_cannot_be_measured_is_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    std::fs::write(place.join("text.pt"), "no module")?;
    std::fs::create_dir(place.join("empty"))?;
    std::fs::create_dir(place.join("damaged"))?;
    std::fs::write(place.join("damaged/0.png"), "no picture")?;
    let nan = format!("--features {REFERENCE}/features-nan.pt --limit 700 --count 20");
    for (arguments, code, parts) in [
        ("--metrics fid", 2, &["--metrics fid", "frechet_distance"][..]),
        ("--metrics class_balance --features pixels", 2, &["class_balance", "--features digits"]),
        ("--features inception", 2, &["--features inception", "digits, pixels or a TorchScript"]),
        ("--features text.pt", 1, &["text.pt: expected a TorchScript module"]),
        (&nan, 1, &["digits: image", "not finite"]),
        ("--count 5", 2, &["--count", "6.."]),
        ("--images gone.npz", 1, &["--images gone.npz: ", "No such file"]),
        ("--images nowhere", 2, &["--images nowhere: dataset nowhere: ", "no such data set"]),
        ("--dataset folder:damaged", 1, &["1 of 1 images cannot be read", "--skip-bad leaves"]),
        ("--images damaged", 1, &["--images damaged: ", "1 of 1 images cannot be read"]),
        ("--images empty", 1, &["--images empty", "no images"]),
        ("--dataset digits --channels 3", 2, &["3 channel(s)", "trained on"]),
        ("--limit 8 --features pixels", 1, &["at least 12 real images, found 8"]),
        ("nowhere", 2, &["nowhere", "no such run"]),
        ("nowhere --images empty", 2, &["--images", "MODEL"]),
    ] {
        let ran = dcgan(place, &format!("eval --device cpu --threads 1 {arguments}"));
        assert_eq!(ran.stdout, "", "{arguments}");
        ran.assert_refused(arguments, code, parts);
        // The flags of --dataset do not change how other images are read.
        let can_skip = arguments.contains("--dataset folder:");
        assert_eq!(ran.stderr.contains("--skip-bad"), can_skip, "{arguments}: {}", ran.stderr);
    }
    for (arguments, parts) in [
        ("--eval-metric fid", ["--eval-metric", "frechet_distance"]),
        ("--eval-metric copies", ["--eval-metric", "found copies"]),
        ("--eval-count 1", ["--eval-count", "6 to"]),
        ("--eval-every 2 --eval-features nothing", ["--eval-features nothing", "digits, pixels"]),
        (
            "--eval-every 2 --eval-features pixels --eval-metric class_balance",
            ["class_balance", "digits"],
        ),
    ] {
        let ran = dcgan(place, &format!("{SMALL} --run run {arguments}"));
        assert!(!place.join("run").exists(), "{arguments}");
        ran.assert_refused(arguments, 2, &parts);
    }
    Ok(())
}

#[test]
fn the_best_checkpoint_stays_when_another_way_of_evaluating_cannot_be_compared() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let args = format!("{SMALL} --limit 24 --eval-every 2 --eval-features pixels --eval-count 6");
    train(place, &format!("{args} --run run"));
    let best = place.join("run/checkpoints/best.safetensors");
    let kept = std::fs::read(&best)?;
    let of_kept = dcgan::run::checkpoint::Checkpoint::header(&best)?.iteration;
    let ran = train(place, "--resume run --iterations 8 --eval-count 7");
    let aside = format!("run/checkpoints/best-of-{of_kept:06}.safetensors");
    assert_eq!(
        ran.stderr.matches(&format!("cannot be compared; it is now {aside}")).count(),
        1,
        "{}",
        ran.stderr
    );
    assert!(std::fs::read(place.join(&aside))? == kept);
    // The best of those that can be compared is marked everywhere.
    let lines = evaluations(&place.join("run"))?;
    let distance = |line: &&Evaluation| line.evaluation["frechet_distance"];
    let later = lines.iter().filter(|line| line.count == 7);
    let best_of_later = later.min_by(|a, b| distance(a).total_cmp(&distance(b))).context("none")?;
    let header = dcgan::run::checkpoint::Checkpoint::header(&best)?;
    assert_eq!((header.iteration, best_of_later.is_best), (best_of_later.iteration, true));
    let shown = train(place, "runs show run").stdout;
    let told = format!("iteration {}: frechet_distance ", header.iteration);
    assert!(shown.contains("best.safetensors") && shown.contains(&told), "{shown}");
    train(place, "report run --out r.html");
    let page = std::fs::read_to_string(place.join("r.html"))?;
    assert!(page.contains(&format!("<td>{} (best)</td>", header.iteration)));
    Ok(())
}

#[test]
fn a_run_is_measured_against_the_images_that_it_was_trained_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    train(place, &format!("{SMALL} --classes 3,7 --limit 40 --fit stretch --run run"));
    let args =
        "eval run --device cpu --threads 1 --metrics duplicates,sliced_wasserstein --count 6";
    let ran = train(place, args);
    assert!(
        ran.stderr.contains("as in training: --fit stretch --classes 3,7 --limit 40"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("against 34 of `digits`"), "{}", ran.stdout);
    // Nobody asked for a Fréchet distance.
    assert!(!ran.stdout.contains("Fréchet"), "{}", ran.stdout);
    let ran = train(place, &format!("{args} --limit 30"));
    assert!(ran.stdout.contains("against 24 of `digits`"), "{}", ran.stdout);
    dcgan(place, "eval --images run").assert_refused(
        "--images",
        2,
        &["is a run; `dcgan eval run`"],
    );
    std::fs::write(place.join("f.pt"), b"PK\x03\x04 and nothing else")?;
    let ran = dcgan(place, "eval run --device cpu --threads 1 --features f.pt");
    ran.assert_refused(
        "f.pt",
        1,
        &["f.pt: expected a TorchScript module", "an archive that is damaged"],
    );
    assert!(!ran.stderr.contains("PytorchStream"), "{}", ran.stderr);
    Ok(())
}

fn evaluations(run: &Path) -> Result<Vec<Evaluation>> {
    let evaluation = |line| match line {
        Line::Evaluation(evaluation) => Some(evaluation),
        _ => None,
    };
    Ok(read(&run.join("metrics.jsonl"))?.into_iter().filter_map(evaluation).collect())
}

#[test]
fn a_run_is_evaluated_keeps_its_best_and_is_the_same_when_resumed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let flags = format!(
        "{SMALL} --iterations 6 --checkpoint-every 1 --keep 9 --eval-every 2 --eval-count 12 --eval-features pixels"
    );
    let ran = train(place, &format!("{flags} --limit 60 --run whole"));
    assert!(ran.stderr.contains("evaluated in"), "{}", ran.stderr);
    let whole = place.join("whole");
    let lines = evaluations(&whole)?;
    assert_eq!(lines.iter().map(|line| line.iteration).collect::<Vec<_>>(), [2, 4, 6]);
    assert!(lines.iter().all(|line| line.count == 12 && line.features == "pixels"));
    // As `dcgan eval` says of the checkpoint, for the same seed and count.
    let by_hand = eval(
        place,
        "whole/checkpoints/iteration-000004.safetensors --limit 60 --count 12 --features pixels",
    )?;
    for metric in ["frechet_distance", "kernel_distance", "density"] {
        let (ours, theirs) = (lines[1].evaluation[metric], value(&by_hand, metric)?);
        assert!((ours - theirs).abs() <= 1e-6 * theirs.abs(), "{metric}: {ours} {theirs}");
    }
    let distance = |line: &Evaluation| line.evaluation["frechet_distance"];
    let best = lines.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).context("none")?;
    let kept = std::fs::read(whole.join("checkpoints/best.safetensors"))?;
    let numbered = whole.join(format!("checkpoints/iteration-{:06}.safetensors", best.iteration));
    assert_eq!(
        dcgan::run::checkpoint::Checkpoint::load(&whole.join("checkpoints/best.safetensors"))?
            .header
            .iteration,
        best.iteration
    );
    let sample = |model: &str| -> Result<Vec<u8>> {
        let ran = dcgan(
            place,
            &format!("sample {model} --device cpu --count 4 --out a.png --force --threads 1"),
        );
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        Ok(std::fs::read(place.join("a.png"))?)
    };
    let numbered = numbered.display().to_string();
    assert_eq!(sample("whole/checkpoints/best.safetensors")?, sample(&numbered)?);

    for iteration in [1, 2, 3, 5] {
        let name = format!("resumed-{iteration}");
        let resumed = place.join(&name);
        crash(&whole, &resumed, iteration)?;
        train(place, &format!("--resume {name}"));
        assert_eq!(trace(&resumed)?, trace(&whole)?, "{iteration}");
        assert_eq!(
            std::fs::read(resumed.join("checkpoints/best.safetensors"))?,
            kept,
            "{iteration}"
        );
    }
    // Evaluating changes nothing of what is trained.
    train(place, &format!("{flags} --limit 60 --eval-every 0 --run plain"));
    let weights =
        |run: &str| std::fs::read(place.join(run).join("checkpoints/iteration-000006.safetensors"));
    let tensors = |bytes: Vec<u8>| -> Result<_> {
        Ok(dcgan::files::TensorFile::parse(Path::new("state"), &bytes)?.tensors)
    };
    assert_eq!(tensors(weights("plain")?)?, tensors(weights("whole")?)?);
    assert_eq!(evaluations(&place.join("plain"))?.len(), 0);
    Ok(())
}
