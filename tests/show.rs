//! Films, plots, reports and nearest images.

use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder, Frame};

use super::common::{SMALL, dcgan, files, train};

fn frames(path: &Path) -> Result<Vec<Frame>> {
    let decoder = GifDecoder::new(BufReader::new(std::fs::File::open(path)?))?;
    Ok(decoder.into_frames().collect_frames()?)
}

#[test]
fn a_film_shows_every_grid_in_order_with_its_iteration_and_in_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let ran = train(place, &format!("{SMALL} --sample-every 1 --film --run run"));
    assert!(ran.stderr.contains("the film: run/film.gif"), "{}", ran.stderr);
    let film = frames(&place.join("run/film.gif"))?;
    assert_eq!(film.len(), 4);
    for (i, frame) in film.iter().enumerate() {
        let sample = place.join(format!("run/samples/iteration-{:06}.png", i + 1));
        let sample = image::open(sample)?.into_luma8();
        let shown = frame.buffer();
        // Twice as large, and the iteration below.
        assert_eq!(shown.width(), 2 * sample.width());
        assert!(shown.height() > 2 * sample.height());
        for (x, y, pixel) in sample.enumerate_pixels() {
            let gray = shown.get_pixel(2 * x, 2 * y + 1).0[0];
            assert!(gray.abs_diff(pixel.0[0]) <= 2, "{i} {x} {y}: {gray} {pixel:?}");
        }
        let caption = image::imageops::crop_imm(
            shown,
            0,
            2 * sample.height(),
            shown.width(),
            shown.height() - 2 * sample.height(),
        );
        let white = caption.to_image().pixels().filter(|pixel| pixel.0[0] > 200).count();
        assert!(white > 50, "{i}: {white}");
    }
    // 8 frames a second, in hundredths; the last one stays.
    let total: Duration = film.iter().map(|frame| Duration::from(frame.delay())).sum();
    assert_eq!(total, Duration::from_millis(4 * 125 + 2000));
    assert_ne!(film[0].buffer(), film[3].buffer());
    Ok(())
}

#[test]
fn a_walk_goes_round_and_a_strip_goes_from_key_to_key() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let walk = "interpolate --device cpu --threads 1 --keyframes 2 --scale 1 --quiet";
    for arguments in [
        "--walks 4 --frames 8",
        "--walks 2 --frames 5 --out strip.png",
        "--walks 1 --frames 3 --out arc.png --slerp",
    ] {
        let ran = dcgan(place, &format!("{walk} {arguments}"));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments}");
    }
    let film = frames(&place.join("walk.gif"))?;
    assert_eq!(film.len(), 8);
    assert_eq!(film[0].buffer().dimensions(), (66, 66));
    // There and back: each frame but the turning points comes twice.
    for i in 1..4 {
        assert_eq!(film[i].buffer(), film[8 - i].buffer(), "{i}");
        assert_ne!(film[i].buffer(), film[i - 1].buffer(), "{i}");
    }
    let strip = image::open(place.join("strip.png"))?.into_luma8();
    assert_eq!(strip.dimensions(), (5 * 34 - 2, 66));
    // The ends are the seed's own images: of the first walk 0 and 1, of the second 2 and 3.
    let ran = dcgan(place, "sample --device cpu --threads 1 --count 4 --grid 2x2 --quiet");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let keys = image::open(place.join("samples.png"))?.into_luma8();
    let part = |image: &image::GrayImage, x: u32, y: u32| {
        image::imageops::crop_imm(image, 34 * x, 34 * y, 32, 32).to_image()
    };
    for walk in 0..2 {
        assert_eq!(part(&strip, 0, walk), part(&keys, 0, walk));
        assert_eq!(part(&strip, 4, walk), part(&keys, 1, walk));
    }
    // An arc has the same ends and another middle.
    let arc = image::open(place.join("arc.png"))?.into_luma8();
    assert_eq!(part(&arc, 2, 0), part(&keys, 1, 0));
    assert_ne!(part(&arc, 1, 0), part(&strip, 2, 0));
    Ok(())
}

#[test]
fn plots_and_reports_show_a_run_without_any_other_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    for (run, seed) in [("one", 1), ("two", 2)] {
        train(place, &format!("{SMALL} --seed {seed} --sample-every 1 --log-every 1 --run {run}"));
    }
    for arguments in ["plot one", "plot one two --out both.svg", "report one"] {
        let ran = dcgan(place, arguments);
        assert_eq!(ran.code, Some(0), "{arguments}: {}", ran.stderr);
    }
    let picture = image::open(place.join("losses.png"))?.into_rgb8();
    assert_eq!(picture.dimensions(), (2240, 680));
    let coloured = |pixel: &&image::Rgb<u8>| pixel.0[0].abs_diff(pixel.0[2]) > 100;
    assert!(picture.pixels().filter(coloured).count() > 2000);
    let svg = std::fs::read_to_string(place.join("both.svg"))?;
    for text in ["loss: discriminator", "generated images", ">\none\n<", ">\ntwo\n<"] {
        assert!(svg.contains(text), "{text}");
    }
    let page = std::fs::read_to_string(place.join("report.html"))?;
    // Every grid in the timeline and in its script, and the two pictures.
    assert!(page.matches("data:image/png;base64,").count() > 5);
    for text in ["<svg", "one&#x2f;config.toml", "base-width = 1", "libtorch"] {
        assert!(page.contains(text), "{text}");
    }
    let without_names = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "src=\"/", "@import", "url("] {
        assert!(!without_names.contains(outside), "{outside}");
    }
    // A run that was stopped has no last picture, and is reported all the same.
    std::fs::remove_file(place.join("one/real_vs_generated.png"))?;
    let ran = dcgan(place, "report one --out stopped.html");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let page = std::fs::read_to_string(place.join("stopped.html"))?;
    assert!(page.contains("interrupted") && page.contains("Real images."));
    Ok(())
}

#[test]
fn nearest_images_tell_a_copy_from_a_sample() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let nearest = "nearest --device cpu --threads 1 --count 8 --neighbours 3 --scale 1";
    let ran = dcgan(place, nearest);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stdout.contains("0 of 8 generated images are nearer"), "{}", ran.stdout);
    let picture = image::open(place.join("nearest.png"))?;
    // A sample, a line of 8 and three neighbours; 8 rows.
    assert_eq!((picture.width(), picture.height()), (32 + 8 + 3 * 34 - 2, 8 * 32));
    // A set that holds the samples themselves: each is its own nearest image.
    let sample = "sample --device cpu --threads 1 --count 300 --out-dir copies --quiet";
    assert_eq!(dcgan(place, sample).code, Some(0));
    let ran = dcgan(place, &format!("{nearest} --dataset folder:copies --force"));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for text in ["8 generated images: median 0.0", "8 of 8 generated", "may copy"] {
        assert!(ran.stdout.contains(text), "{text}: {}", ran.stdout);
    }
    Ok(())
}

#[test]
fn what_cannot_be_shown_is_refused_and_nothing_is_written() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    train(place, &format!("{SMALL} --sample-every 1 --run run"));
    // Not one line of metrics yet, and no grid.
    train(place, &format!("{SMALL} --dry-run"));
    std::fs::create_dir(place.join("new"))?;
    std::fs::copy(place.join("run/config.toml"), place.join("new/config.toml"))?;
    std::fs::create_dir(place.join("new/samples"))?;
    std::fs::create_dir(place.join("cut"))?;
    std::fs::create_dir(place.join("cut/samples"))?;
    std::fs::copy(place.join("run/config.toml"), place.join("cut/config.toml"))?;
    std::fs::write(place.join("cut/samples/iteration-000001.png"), b"\x89PNG")?;
    std::fs::write(place.join("taken.gif"), "")?;
    let before = files(place)?;
    for (arguments, code, parts) in [
        ("film nowhere", 2, &["nowhere", "no such run"][..]),
        ("film new", 2, &["new: the run has no samples yet", "--sample-every"]),
        ("film cut", 1, &["cut/samples/iteration-000001.png", "remove it"]),
        ("report cut", 2, &["nothing has been logged"]),
        ("film run --out a.avi", 2, &["--out a.avi", ".gif or .mp4"]),
        ("film run --out taken.gif", 2, &["taken.gif: is there already", "--force"]),
        ("film run --fps 0", 2, &["--fps", "0.1 to 100"]),
        ("interpolate --out a.jpg", 2, &["--out a.jpg", ".gif or .png or .mp4"]),
        ("interpolate --linear --slerp", 2, &["--linear", "--slerp"]),
        ("interpolate --keyframes 1", 2, &["--keyframes", "2..=10000"]),
        ("interpolate --out a.png --frames 100000 --walks 400", 2, &["too large"]),
        ("plot", 2, &["<RUN>"]),
        ("plot new", 2, &["new: nothing has been logged yet"]),
        ("plot run --out a.pdf", 2, &["--out a.pdf", ".png or .svg"]),
        ("report new", 2, &["new: nothing has been logged yet"]),
        ("report run --out nowhere/a.html", 2, &["no folder nowhere"]),
        ("nearest --dataset nope", 2, &["--dataset nope", "no such data set"]),
        ("nearest --dataset digits --channels 3", 2, &["3 channel(s)", "trained on"]),
        ("nearest --count 1000 --neighbours 100 --scale 16", 2, &["too large for one picture"]),
        ("interpolate --fps 60", 2, &["--fps 60", ".mp4"]),
        ("report run --out a.pdf", 2, &["--out a.pdf", ".html"]),
        ("plot run run run run run run run run", 2, &["8 runs", "7 apart"]),
        ("nearest --limit 5 --neighbours 5", 2, &["--neighbours 5", "5 images"]),
    ] {
        let ran = dcgan(place, arguments);
        ran.assert_refused(arguments, code, parts);
        assert_eq!(files(place)?, before, "{arguments}");
    }
    Ok(())
}

/// With and without ffmpeg in PATH.
#[cfg(unix)]
#[test]
fn mp4_is_ffmpegs_and_what_it_says_is_passed_on() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    use super::common::command;

    let folder = tempfile::tempdir()?;
    let place = folder.path();
    train(place, &format!("{SMALL} --sample-every 1 --run run"));
    let film = |ffmpeg: Option<&str>| -> Result<std::process::Output> {
        let programs = place.join("programs");
        std::fs::create_dir_all(&programs)?;
        if let Some(script) = ffmpeg {
            let path = programs.join("ffmpeg");
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
        }
        Ok(command(place, "film run --out a.mp4").env("PATH", &programs).output()?)
    };
    let none = film(None)?;
    let said = String::from_utf8(none.stderr)?;
    assert_eq!(none.status.code(), Some(1), "{said}");
    assert!(said.contains("which is not in PATH") && said.contains("apt install ffmpeg"), "{said}");
    let failing = film(Some("echo no such encoder >&2; exit 3"))?;
    let said = String::from_utf8(failing.stderr)?;
    assert_eq!(failing.status.code(), Some(1), "{said}");
    assert!(said.contains("a.mp4: ffmpeg failed; it said: no such encoder"), "{said}");
    assert!(!place.join("a.mp4").exists());
    // One that writes down what it is given: its last argument is the file.
    let good = film(Some("for last; do :; done; /bin/cat > \"$last\""))?;
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8(good.stderr)?);
    let first = image::open(place.join("run/samples/iteration-000001.png"))?;
    let size = place.join("a.mp4").metadata()?.len();
    let (width, height) = (u64::from(2 * first.width()), u64::from(2 * first.height()));
    // Four gray frames and their captions.
    assert!(size > 4 * width * height && size % (4 * width) == 0, "{size}");
    let unfinished = files(place)?.into_keys().filter(|name| name.contains(".unfinished-"));
    assert_eq!(unfinished.count(), 0);
    Ok(())
}
