//! Where data sets and caches are, and what an interrupted command leaves.

use std::path::Path;

use anyhow::{Context, Result};

use super::common::{Ran, SMALL, command, dcgan, files, train};

/// Writes a few pictures into `folder`.
fn pictures(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    for i in 0..8u8 {
        let image = image::GrayImage::from_fn(32, 32, |x, y| image::Luma([(x * 3 + y) as u8 + i]));
        image.save(folder.join(format!("{i}.png")))?;
    }
    Ok(())
}

fn key(run: &Path, key: &str) -> Result<String> {
    let table: toml::Table = std::fs::read_to_string(run.join("config.toml"))?.parse()?;
    Ok(table.get(key).and_then(toml::Value::as_str).context("no such key")?.to_owned())
}

#[test]
fn a_run_finds_its_images_from_everywhere_and_its_exports_do_not_tell_where_they_were() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let place = folder.path().canonicalize()?;
    pictures(&place.join("begun/pics"))?;
    train(&place.join("begun"), &format!("{SMALL} --dataset folder:pics --run run"));
    let run = place.join("begun/run");
    let expected = format!("folder:{}/begun/pics", place.display());
    assert_eq!(key(&run, "dataset")?, expected);
    train(&place, "--resume begun/run --iterations 5");
    assert_eq!(key(&run, "dataset")?, expected);
    train(&place, "nearest begun/run --device cpu --threads 1 --count 2 --neighbours 2");
    // What is shared knows the name of the folder and what was in it.
    let weights = std::fs::read(run.join("generator.safetensors"))?;
    let text = String::from_utf8_lossy(&weights);
    let shown: serde_json::Value =
        serde_json::from_str(&train(&place, "data show folder:begun/pics --json").stdout)?;
    assert!(text.contains("\"dataset\":\"folder:pics\""), "{text}");
    assert!(text.contains(shown["sha256"].as_str().context("no hash")?), "{text}");
    assert!(!text.contains("begun/pics"), "{text}");

    std::fs::rename(place.join("begun/pics"), place.join("moved"))?;
    let looked = format!("there is nothing at {}/begun/pics; --dataset SPEC", place.display());
    let ran = dcgan(&place, "--resume begun/run --iterations 6");
    ran.assert_refused("--resume", 2, &["--resume begun/run: ", &looked]);
    train(&place, "--resume begun/run --iterations 6 --dataset folder:moved");
    assert_eq!(key(&run, "dataset")?, format!("folder:{}/moved", place.display()));
    Ok(())
}

#[test]
fn a_tilde_is_the_home_folder() -> Result<()> {
    let home = tempfile::tempdir()?;
    pictures(&home.path().join("pics"))?;
    let mut command = command(home.path(), "data show folder:~/pics");
    let output = command.env("HOME", home.path()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("images    8\n"), "{output:?}");
    Ok(())
}

#[test]
fn without_a_place_for_caches_everything_works_and_that_is_said_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    pictures(&folder.path().join("pics"))?;
    std::fs::write(folder.path().join("file"), "")?;
    let args =
        format!("{SMALL} --dataset folder:pics --eval-every 4 --eval-count 6 --limit 8 --run run");
    for (variable, value) in [("HOME", "/dev/null"), ("XDG_CACHE_HOME", "/dev/null")] {
        let mut command =
            command(folder.path(), &args.replace("run run", &format!("run {variable}")));
        let output = command.env_remove("XDG_CACHE_HOME").env(variable, value).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        // There are too few images to measure, which is another matter.
        assert_eq!(said.matches("nothing is kept for next time: /dev/null/").count(), 1, "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    let cache = folder.path().join("cache");
    let mut command = command(folder.path(), "data show folder:pics");
    // No home folder is needed where the cache folder is named.
    assert!(command.env("XDG_CACHE_HOME", &cache).env_remove("HOME").status()?.success());
    assert!(
        files(&cache)?.keys().any(|name| name.contains("dcgan/decoded")),
        "{:?}",
        files(&cache)?.keys()
    );
    Ok(())
}

#[cfg(unix)]
#[test]
fn an_interrupted_command_leaves_no_half_written_file() -> Result<()> {
    use std::time::{Duration, Instant};
    for out in ["--npz x.npz", "--out-dir x"] {
        let folder = tempfile::tempdir()?;
        let args = format!("sample --device cpu --threads 1 --count 50000000 --quiet {out}");
        let child = command(folder.path(), &args).stderr(std::process::Stdio::piped()).spawn()?;
        let begun = Instant::now();
        while std::fs::read_dir(folder.path())?.next().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is written");
            std::thread::sleep(Duration::from_millis(5));
        }
        // SAFETY: this sends a signal to a child that has not been waited for, so its number is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) }, 0);
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(143), "{said}");
        assert!(said.ends_with("SIGTERM: ended; no half written file is left\n"), "{said}");
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 0, "{out}");
    }
    Ok(())
}

/// Runs the program with files of at most `blocks` times 512 bytes, and its cache in the folder.
#[cfg(unix)]
fn with_small_files(folder: &Path, blocks: usize, args: &str) -> Ran {
    let program = env!("CARGO_BIN_EXE_dcgan");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("ulimit -f {blocks}; exec {program} {args}")]);
    shell.current_dir(folder).env("XDG_CACHE_HOME", folder.join("cache"));
    Ran::of(shell, args)
}

#[cfg(unix)]
#[test]
fn a_cache_that_has_no_room_is_told_of_and_the_images_are_the_same() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let images = tch::Tensor::rand([90, 32, 32], (tch::Kind::Float, tch::Device::Cpu));
    images.write_npy(folder.path().join("x.npy"))?;
    let args = "data show npy:x.npy --range 0,1 --json";
    let small = with_small_files(folder.path(), 100, args);
    assert!(small.stderr.contains("note: nothing is kept for next time: "), "{}", small.stderr);
    assert!(small.stderr.contains("XDG_CACHE_HOME"), "{}", small.stderr);
    let large = with_small_files(folder.path(), 1 << 20, args);
    assert_eq!((large.code, large.stderr.as_str()), (Some(0), ""));
    assert_eq!((small.code, small.stdout), (Some(0), large.stdout));
    Ok(())
}
