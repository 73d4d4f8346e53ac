//! A run that was stopped, in whatever way, and resumed gives the same bits as a run that was never stopped.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dcgan::files::TensorFile;
use dcgan::record::jsonl::{Line, read, read_metrics};
use dcgan::run::checkpoint::Folder;

use super::common::{
    Ran, SMALL, Trace, command, crash, dcgan, files, newest, trace, train, without_times,
};

/// Options of a run on 10,000 digits in batches of 3,000: an epoch has 4 iterations, the last of them on 1,000 images.
const EPOCHS: &str = "--device cpu --threads 1 --base-width 1 --z-dim 3 --batch-size 3000 --g-steps 1 \
                      --log-every 1 --sample-every 3 --keep 100";

/// Stops a run with `options` at each of `positions`, resumes it, and compares it with the run that was never stopped.
pub fn assert_resumes_everywhere(options: &str, positions: &[u64]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let whole = folder.path().join("whole");
    train(folder.path(), &format!("{options} --run whole"));
    let expected = trace(&whole)?;
    for &iteration in positions {
        let name = format!("from-{iteration}");
        let run = folder.path().join(&name);
        crash(&whole, &run, iteration)?;
        let ran = train(folder.path(), &format!("train --resume {name}"));
        let told = format!("resuming after iteration {iteration} of ");
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
        assert!(trace(&run)? == expected, "from iteration {iteration}");
    }
    Ok(())
}

#[test]
fn a_resumed_run_equals_one_never_stopped_from_every_position() -> Result<()> {
    // At the very beginning, within an epoch, before and after its smaller last batch, and at the end.
    let options = format!("{EPOCHS} --iterations 6 --checkpoint-every 1");
    assert_resumes_everywhere(&options, &[0, 2, 3, 4, 5, 6])
}

#[test]
fn a_float64_run_resumes_bit_for_bit_too() -> Result<()> {
    let options = SMALL.replace("--iterations 4", "--iterations 6");
    let options = format!("{options} --precision f64 --checkpoint-every 2 --keep 9 --log-every 2");
    assert_resumes_everywhere(&options, &[0, 2, 4, 6])
}

#[test]
fn an_augmented_run_resumes_bit_for_bit_too() -> Result<()> {
    // An epoch has 3 iterations, the last of them on 2 images.
    let options = SMALL.replace("--iterations 4", "--iterations 7 --limit 10 --augment");
    let options = format!("{options} --log-every 1 --checkpoint-every 1 --keep 9");
    assert_resumes_everywhere(&options, &[0, 2, 3, 5])
}

#[test]
fn two_threads_and_every_setting_away_from_its_default_resume_bit_for_bit() -> Result<()> {
    let options = "--device cpu --threads 2 --base-width 16 --z-dim 7 --batch-size 32 --iterations 4 \
                   --image-size 16 --max-width 40 --conditional --latent normal --g-steps 3 --ema 0.9 \
                   --augment=cutout,color --learning-rate 3e-3 --beta1 0.4 --label-smoothing 0.2 --seed 9 --histograms 2 \
                   --log-every 1 --sample-every 2 --checkpoint-every 1 --keep 9";
    assert_resumes_everywhere(options, &[1, 3])
}

#[test]
fn how_often_a_run_is_saved_changes_nothing_else() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = SMALL.replace("--iterations 4", "--iterations 7");
    train(folder.path(), &format!("{options} --checkpoint-every 2 --keep 9 --run whole"));
    let whole = folder.path().join("whole");
    crash(&whole, &folder.path().join("stopped"), 4)?;
    let reports = "--checkpoint-every 3 --keep 2 --sample-every 0";
    train(folder.path(), &format!("train --resume stopped {reports}"));
    let stopped = folder.path().join("stopped");
    assert_eq!(Folder::of_run(&stopped).iterations()?, [6, 7]);
    assert!(trace(&stopped)? == trace(&whole)?);
    Ok(())
}

#[test]
fn more_iterations_are_trained_as_if_they_had_been_asked_for_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = format!("{SMALL} --log-every 1 --sample-every 2");
    train(folder.path(), &format!("{options} --run short"));
    train(folder.path(), "train --resume short --iterations 8");
    train(folder.path(), &format!("{options} --iterations 8 --run long"));
    assert!(trace(&folder.path().join("short"))? == trace(&folder.path().join("long"))?);
    let config = std::fs::read_to_string(folder.path().join("short/config.toml"))?;
    assert!(config.contains("iterations = 8\n"), "{config}");
    Ok(())
}

#[test]
fn a_run_with_more_iterations_has_the_weights_of_a_longer_one_whatever_its_reports() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let options = format!("{SMALL} --log-every 3 --sample-every 3 --checkpoint-every 3");
    train(folder.path(), &format!("{options} --run short"));
    train(folder.path(), "train --resume short --iterations 8");
    train(folder.path(), &format!("{options} --iterations 8 --run long"));
    let [short, long] = ["short", "long"].map(|run| trace(&folder.path().join(run)));
    let (mut short, long) = (short?, long?);
    assert!(short.tensors == long.tensors);
    // The end of the short run has left one line and one grid that the long run does not have.
    assert!(short.pictures.remove("samples/iteration-000004.png").is_some());
    short.lines.remove(1);
    assert!(short == long);
    Ok(())
}

#[test]
fn the_flag_for_epochs_wins_over_the_runs_iterations() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{EPOCHS} --iterations 2 --run run"));
    let ran = train(folder.path(), "train --resume run --epochs 1");
    assert!(ran.stderr.contains("after iteration 2 of 4"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn a_finished_run_is_reported_as_finished_and_left_unchanged() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --run run"));
    let before = without_lock(files(folder.path())?);
    let ran = train(folder.path(), "train --resume run");
    assert!(ran.stderr.contains("run: finished, all 4 iterations"), "{}", ran.stderr);
    assert!(without_lock(files(folder.path())?) == before);
    Ok(())
}

fn without_lock(mut files: BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    files.retain(|name, _| !name.ends_with("/.lock"));
    files
}

#[test]
fn a_run_stopped_before_its_first_checkpoint_begins_anew() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --log-every 1 --run whole"));
    let stopped = folder.path().join("stopped");
    std::fs::create_dir(&stopped)?;
    std::fs::copy(folder.path().join("whole/config.toml"), stopped.join("config.toml"))?;
    std::fs::write(stopped.join(".unfinished-x"), "half")?;
    train(folder.path(), "train --resume stopped");
    assert!(trace(&stopped)? == trace(&folder.path().join("whole"))?);
    Ok(())
}

#[test]
fn a_run_without_its_configuration_resumes_with_that_of_its_checkpoint() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --log-every 1 --checkpoint-every 2 --run whole"));
    let stopped = folder.path().join("stopped");
    crash(&folder.path().join("whole"), &stopped, 2)?;
    std::fs::remove_file(stopped.join("config.toml"))?;
    train(folder.path(), "train --resume stopped");
    assert!(trace(&stopped)? == trace(&folder.path().join("whole"))?);
    assert!(stopped.join("config.toml").exists());
    Ok(())
}

#[test]
fn lost_lines_of_metrics_are_a_warning_and_damaged_ones_an_error_that_names_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --log-every 1 --checkpoint-every 2 --keep 9 --run run"));
    let run = folder.path().join("run");
    let metrics = run.join("metrics.jsonl");
    let text = std::fs::read_to_string(&metrics)?;
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    std::fs::write(&metrics, lines[..1].concat())?;
    Folder::of_run(&run).remove_after(2)?;
    let ran = train(folder.path(), "train --resume run");
    let told = "warning: metrics.jsonl: the lines after iteration 1, up to 2, are missing";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    std::fs::write(&metrics, format!("zzz\n{text}"))?;
    let args = "train --resume run --iterations 5";
    refused(
        folder.path(),
        args,
        1,
        &["run/metrics.jsonl: line 1 is none of this program's; remove it"],
    );
    Ok(())
}

#[test]
fn a_damaged_configuration_is_named_with_the_remedy() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --run run"));
    for (text, told) in [("seed = ", "not valid TOML"), ("sed = 1", "did you mean `seed`")] {
        std::fs::write(folder.path().join("run/config.toml"), text)?;
        let ran = refused(
            folder.path(),
            "train --resume run",
            2,
            &["run/config.toml: ", told, "remove it"],
        );
        assert!(!ran.stderr.contains("--config"), "{}", ran.stderr);
    }
    std::fs::remove_file(folder.path().join("run/config.toml"))?;
    let ran = train(folder.path(), "runs show run");
    assert!(ran.stdout.contains("4/4"), "{}", ran.stdout);
    train(folder.path(), "train --resume run --iterations 5");
    Ok(())
}

/// Runs `args` and asserts that they are refused with exit code `code` and a message that contains all of `parts`.
fn refused(folder: &Path, args: &str, code: i32, parts: &[&str]) -> Ran {
    let ran = dcgan(folder, args);
    ran.assert_refused(args, code, parts);
    ran
}

#[test]
fn every_change_of_what_decides_the_result_is_refused_with_both_values() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --checkpoint-every 2 --run run"));
    let before = without_lock(files(folder.path())?);
    for (flag, was, is) in [
        ("precision", "\"f32\"", "\"f64\""),
        ("batch-size", "4", "5"),
        ("learning-rate", "0.1", "0.2"),
        ("beta1", "0.5", "0.25"),
        ("label-smoothing", "0.1", "0.0"),
        ("g-steps", "2", "1"),
        ("latent", "\"uniform\"", "\"normal\""),
        ("z-dim", "3", "4"),
        ("base-width", "1", "2"),
        ("seed", "0", "1"),
    ] {
        let args = format!("train --resume run --iterations 9 --{flag} {}", is.trim_matches('"'));
        // Of a fork, the networks keep their shapes.
        let remedy = if ["z-dim", "base-width"].contains(&flag) { "--run" } else { "--fork" };
        refused(folder.path(), &args, 2, &[&format!("{flag} was {was} and is {is};"), remedy]);
        // The same change in the run's own configuration file is refused, too.
        let config = folder.path().join("run/config.toml");
        let text = std::fs::read_to_string(&config)?;
        let changed = text.replacen(&format!("{flag} = {was}"), &format!("{flag} = {is}"), 1);
        assert_ne!(text, changed, "{flag}");
        std::fs::write(&config, changed)?;
        let parts = [&*format!("{flag} was {was} and is {is};")];
        refused(folder.path(), "train --resume run --iterations 9", 2, &parts);
        std::fs::write(&config, text)?;
    }
    let told = "augment was none and is [\"translation\"];";
    let args = "train --resume run --iterations 9 --augment=translation";
    refused(folder.path(), args, 2, &[told, "--fork"]);
    assert!(without_lock(files(folder.path())?) == before, "nothing is written");
    Ok(())
}

#[test]
fn another_data_set_is_refused_by_its_hash() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --run run"));
    let path = folder.path().join("run/checkpoints/iteration-000004.safetensors");
    let mut file = TensorFile::read_sealed(&path)?;
    let set = file.metadata.get_mut("set").context("no set")?;
    let hash =
        serde_json::from_str::<serde_json::Value>(set)?["sha256"].as_str().map(str::to_owned);
    let hash = hash.context("no hash")?;
    *set = set.replace(&hash, &"0".repeat(64)).replace("10000", "9999");
    file.write_sealed(&path)?;
    refused(
        folder.path(),
        "train --resume run --iterations 9",
        2,
        &[
            "number of images was 9999 and is 10000",
            &format!("SHA-256 of the images was {} and is {hash}", "0".repeat(64)),
        ],
    );
    Ok(())
}

#[test]
fn other_threads_are_allowed_with_a_warning() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --run run"));
    let ran = train(folder.path(), "train --resume run --iterations 5 --threads 2");
    assert!(ran.stderr.contains("warning: threads was 1 and is 2"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn resuming_what_is_not_a_run_or_with_fewer_iterations_is_wrong_usage() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --run run"));
    std::fs::create_dir(folder.path().join("empty"))?;
    let newest = "run/checkpoints/iteration-000004.safetensors";
    for (args, parts) in [
        ("--resume none", ["none: there is no such run", "dcgan runs"]),
        ("--resume empty", ["no run has begun there", "config.toml"]),
        (&*format!("--resume {newest}"), ["newest checkpoint", "--fork"]),
        ("--resume run --iterations 3", ["at iteration 4 already", "3 are asked for"]),
        ("--fork new", ["--resume", "required"]),
        ("--resume run --run new", ["--run", "cannot be used with"]),
        ("--resume run --config x", ["--config", "cannot be used with"]),
        ("--resume run --fork run --iterations 9", ["run: the folder is not empty", "new folder"]),
        ("--resume run --fork new", ["at iteration 4", "more --iterations"]),
        (
            "--resume run --fork new --base-width 2 --z-dim 5 --iterations 9",
            ["base-width was 1 and is 2", "z-dim was 3 and is 5"],
        ),
    ] {
        refused(folder.path(), &format!("train {args}"), 2, &parts);
    }
    assert!(!folder.path().join("new").exists() && files(&folder.path().join("empty"))?.is_empty());
    Ok(())
}

#[test]
fn a_dry_run_of_a_resumption_writes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --run run"));
    let before = files(folder.path())?;
    let ran = train(folder.path(), "train --resume run --iterations 40 --dry-run");
    assert!(ran.stdout.contains("iterations = 40"), "{}", ran.stdout);
    assert!(files(folder.path())? == before);
    Ok(())
}

#[test]
fn a_fork_begins_where_the_checkpoint_ends_with_other_settings() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --log-every 1 --checkpoint-every 2 --run run"));
    let before = files(&folder.path().join("run"))?;
    let from = "train --resume run/checkpoints/iteration-000002.safetensors";
    let changes = "--seed 5 --batch-size 6 --learning-rate 0.01 --iterations 5";
    train(folder.path(), &format!("{from} --fork other {changes}"));
    // A fork from the same state with the same settings gives the same results as the run.
    train(folder.path(), &format!("{from} --fork same"));
    assert!(files(&folder.path().join("run"))? == before, "the run itself stays as it is");
    let lines = |run: &str| -> Result<Vec<Line>> {
        let lines = read(&folder.path().join(run).join("metrics.jsonl"))?;
        Ok(lines.into_iter().map(without_times).collect())
    };
    assert_eq!(lines("same")?, lines("run")?[2..]);
    let other = read_metrics(&folder.path().join("other/metrics.jsonl"))?;
    let iterations: Vec<_> = other.iter().map(|line| line.iteration).collect();
    assert_eq!(iterations, [3, 4, 5]);
    assert_ne!(without_times(Line::Metrics(other[0])), lines("run")?[2]);
    let same = trace(&folder.path().join("same"))?.tensors;
    assert!(same == trace(&folder.path().join("run"))?.tensors);
    Ok(())
}

#[test]
fn a_fork_that_was_stopped_after_its_first_file_resumes_from_its_checkpoint() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{SMALL} --log-every 1 --checkpoint-every 2 --keep 9 --run run"));
    let fork = "--resume run/checkpoints/iteration-000002.safetensors --seed 8 --fork";
    train(folder.path(), &format!("train {fork} whole"));
    train(folder.path(), &format!("train {fork} stopped"));
    let stopped = folder.path().join("stopped");
    for name in files(&stopped)?.into_keys() {
        if name != "checkpoints/iteration-000002.safetensors" {
            std::fs::remove_file(stopped.join(name))?;
        }
    }
    let ran = train(folder.path(), "train --resume stopped");
    assert!(ran.stderr.contains("resuming after iteration 2 of 4"), "{}", ran.stderr);
    assert!(trace(&stopped)? == trace(&folder.path().join("whole"))?);
    Ok(())
}

/// Options of a run that trains until it is stopped.
const ENDLESS: &str = "--device cpu --threads 1 --base-width 1 --z-dim 3 --batch-size 4 --iterations 1000000 \
                       --log-every 1 --sample-every 50 --checkpoint-every 20 --quiet";

/// Starts the program with `args` and waits until `run` has a checkpoint of at least `iteration`.
fn begin(folder: &Path, args: &str, run: &str, iteration: u64) -> Result<Child> {
    let child = command(folder, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    wait_for(&folder.join(run), iteration)?;
    Ok(child)
}

/// Waits until `run` has a checkpoint of at least `iteration`.
fn wait_for(run: &Path, iteration: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while newest(run).ok().is_none_or(|newest| newest < iteration) {
        ensure!(Instant::now() < deadline, "no checkpoint of iteration {iteration} after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(unix)]
mod unix {
    use dcgan::run::checkpoint::Checkpoint;

    use super::*;

    fn signal(child: &Child, number: libc::c_int) {
        // SAFETY: this sends a signal to a child process that has not been waited for, so its number is still its own.
        assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, number) }, 0);
    }

    /// Waits for the end of the process. Returns its exit status and what it printed to stderr.
    fn end(child: Child) -> Result<(Option<i32>, String)> {
        let output = child.wait_with_output()?;
        let stderr = String::from_utf8(output.stderr)?;
        assert!(!stderr.contains("panicked"), "{stderr}");
        Ok((output.status.code(), stderr))
    }

    /// The results of an uninterrupted run of `iterations` iterations.
    fn uninterrupted(folder: &Path, iterations: u64) -> Result<Trace> {
        let args = ENDLESS.replace("1000000", &iterations.to_string());
        train(folder, &format!("{args} --run whole"));
        trace(&folder.join("whole"))
    }

    #[test]
    fn signals_end_a_run_with_its_state_saved_and_a_message_says_how_to_resume() -> Result<()> {
        for (number, name, code) in [
            (libc::SIGINT, "SIGINT", 130),
            (libc::SIGTERM, "SIGTERM", 143),
            (libc::SIGHUP, "SIGHUP", 129),
            (libc::SIGXCPU, "SIGXCPU", 152),
            (libc::SIGUSR1, "SIGUSR1", 138),
        ] {
            let folder = tempfile::tempdir()?;
            let args = format!("{ENDLESS} --run run --on-usr stop");
            let child = begin(folder.path(), &args, "run", 20)?;
            signal(&child, number);
            let (ended, said) = end(child)?;
            assert_eq!(ended, Some(code), "{said}");
            let run = folder.path().join("run");
            let iteration = newest(&run)?;
            let told = format!(
                "{name} after iteration {iteration} of 1000000; nothing is lost: dcgan train --resume run"
            );
            assert!(said.ends_with(&format!("{told}\n")), "{said}");
            let last = read_metrics(&run.join("metrics.jsonl"))?.pop().context("no metrics")?;
            assert_eq!(last.iteration, iteration);
            // A rollback would go to the same checkpoint as in a run that was never stopped.
            let header = Checkpoint::header(&Folder::of_run(&run).file(iteration))?;
            assert!(header.healthy.is_multiple_of(20) && header.healthy <= iteration);

            let total = iteration + 5;
            train(folder.path(), &format!("train --resume run --iterations {total}"));
            assert!(trace(&run)? == uninterrupted(folder.path(), total)?, "{name}");
        }
        Ok(())
    }

    #[test]
    fn the_signals_of_batch_systems_save_a_checkpoint_and_training_goes_on_to_the_same_bits()
    -> Result<()> {
        let folder = tempfile::tempdir()?;
        // Few lines: nobody reads them before the end.
        let args = ENDLESS.replace("1000000", "600").replace("--log-every 1", "--log-every 100");
        let args = args.replace("--quiet", "--keep 1000");
        let child = begin(folder.path(), &format!("{args} --run run"), "run", 20)?;
        let run = folder.path().join("run");
        for number in [libc::SIGUSR1, libc::SIGUSR2] {
            signal(&child, number);
            wait_for(&run, newest(&run)? + 60)?;
        }
        let (ended, said) = end(child)?;
        assert_eq!(ended, Some(0), "{said}");
        for name in ["SIGUSR1", "SIGUSR2"] {
            let told = format!("{name}: the state after iteration ");
            let (_, rest) = said.split_once(&told).context(said.clone())?;
            let iteration = rest.split(' ').next().unwrap_or_default().parse()?;
            assert!(Folder::of_run(&run).file(iteration).exists() && iteration < 600, "{said}");
            assert!(!rest.contains(&told), "{said}");
        }
        train(folder.path(), &format!("{args} --run whole"));
        let [of_run, of_whole] = ["run", "whole"].map(|name| trace(&folder.path().join(name)));
        assert!(of_run? == of_whole?);
        Ok(())
    }

    #[test]
    fn a_limit_on_the_size_of_files_is_an_error_that_names_the_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut shell = std::process::Command::new("sh");
        // A checkpoint of this run has more than 8 blocks of 512 bytes.
        let script = format!("ulimit -f 8; exec \"$0\" {SMALL} --run run");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_dcgan")]).current_dir(folder.path());
        let (ended, said) = end(shell.stderr(Stdio::piped()).spawn()?)?;
        assert_eq!(ended, Some(1), "{said}");
        assert!(said.contains(".safetensors: cannot be written: File too large"), "{said}");
        Ok(())
    }

    #[test]
    fn a_signal_that_is_ignored_from_the_start_stays_ignored() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut shell = std::process::Command::new("sh");
        let script = format!("trap '' HUP; exec \"$0\" {ENDLESS} --run run");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_dcgan")]).current_dir(folder.path());
        let child = shell.stderr(Stdio::piped()).spawn()?;
        let run = folder.path().join("run");
        wait_for(&run, 20)?;
        signal(&child, libc::SIGHUP);
        wait_for(&run, newest(&run)? + 100)?;
        signal(&child, libc::SIGTERM);
        let (ended, said) = end(child)?;
        assert_eq!(ended, Some(143), "{said}");
        Ok(())
    }

    #[test]
    fn a_second_sighup_from_a_closed_terminal_does_not_end_the_run_at_once() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let child = begin(folder.path(), &format!("{ENDLESS} --run run"), "run", 20)?;
        signal(&child, libc::SIGHUP);
        signal(&child, libc::SIGHUP);
        let (ended, said) = end(child)?;
        assert_eq!(ended, Some(129), "{said}");
        assert!(said.contains("SIGHUP after iteration"), "{said}");
        Ok(())
    }

    #[test]
    fn a_second_signal_ends_it_at_once_with_the_last_checkpoint_intact() -> Result<()> {
        let folder = tempfile::tempdir()?;
        // An iteration of this run takes minutes, so the signals come within the first one.
        let slow =
            "--device cpu --threads 1 --base-width 64 --batch-size 8000 --iterations 9 --run run";
        let child = begin(folder.path(), slow, "run", 0)?;
        std::thread::sleep(Duration::from_millis(500));
        signal(&child, libc::SIGTERM);
        std::thread::sleep(Duration::from_millis(100));
        let second = Instant::now();
        signal(&child, libc::SIGINT);
        let (ended, said) = end(child)?;
        assert_eq!(ended, Some(130), "{said}");
        assert!(second.elapsed() < Duration::from_secs(15), "{:?}", second.elapsed());
        assert_eq!(newest(&folder.path().join("run"))?, 0);
        Checkpoint::load(&Folder::of_run(&folder.path().join("run")).file(0))?;
        Ok(())
    }

    #[test]
    fn killed_at_any_instant_and_resumed_a_run_ends_as_one_never_stopped() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let run = folder.path().join("run");
        let mut child = begin(folder.path(), &format!("{ENDLESS} --run run"), "run", 0)?;
        for delay_ms in [0, 3, 37, 61, 98] {
            std::thread::sleep(Duration::from_millis(delay_ms));
            child.kill()?;
            child.wait()?;
            let from = newest(&run)?;
            child = begin(folder.path(), "train --resume run", "run", from + 20)?;
        }
        signal(&child, libc::SIGTERM);
        assert_eq!(end(child)?.0, Some(143));
        let total = newest(&run)? + 1;
        train(folder.path(), &format!("train --resume run --iterations {total}"));
        assert!(trace(&run)? == uninterrupted(folder.path(), total)?);
        Ok(())
    }

    #[test]
    fn a_second_process_is_refused_and_told_the_number_of_the_first() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let mut child = begin(folder.path(), &format!("{ENDLESS} --run run"), "run", 20)?;
        let told = format!("run: in use by process {}", child.id());
        refused(folder.path(), "train --resume run", 1, &[&told]);
        // The lock ends with its process, even if that is killed.
        child.kill()?;
        child.wait()?;
        let total = newest(&folder.path().join("run"))? + 1;
        train(folder.path(), &format!("train --resume run --iterations {total}"));
        Ok(())
    }
}
