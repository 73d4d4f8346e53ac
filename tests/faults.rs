//! A full disk, or a folder that disappears, ends a run with an error at once, and the last checkpoint stays whole.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dcgan::run::checkpoint::Folder;

use super::common::{SMALL, command, dcgan, files, train};

/// Runs the program with a limit of `blocks` blocks of 512 bytes on the size of every file. Writing more fails as on a
/// full disk, because the signal that the system sends in addition is ignored.
fn with_small_files(folder: &Path, blocks: u32, args: &str) -> Result<Output> {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" {args}");
    let mut shell = Command::new("sh");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_dcgan")]).current_dir(folder);
    let output = shell.stdin(Stdio::null()).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    Ok(output)
}

fn assert_nothing_unfinished(folder: &Path) -> Result<()> {
    let left = files(folder)?.into_keys().find(|name| name.contains(".unfinished-"));
    assert_eq!(left, None);
    Ok(())
}

#[test]
fn a_checkpoint_that_does_not_fit_is_an_error_and_leaves_no_part_of_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let args = SMALL.replace("--base-width 1", "--base-width 8");
    let output = with_small_files(folder.path(), 400, &format!("{args} --run run"))?;
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let told = "error: run/checkpoints/iteration-000000.safetensors: cannot be written: ";
    assert!(stderr.contains(told), "{stderr}");
    assert_nothing_unfinished(folder.path())?;
    // Once there is room again, the same run can be started as if nothing had happened.
    train(folder.path(), &format!("{args} --run run"));
    Ok(())
}

#[test]
fn events_that_do_not_fit_are_one_warning_and_training_continues() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let args = SMALL.replace("--iterations 4", "--iterations 40");
    let args = format!("{args} --sample-every 1 --checkpoint-every 0 --quiet --run run");
    let output = with_small_files(folder.path(), 400, &args)?;
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(stderr.starts_with("warning: run/events.out.tfevents."), "{stderr}");
    assert!(stderr.contains("TensorBoard's events cannot be written any more"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(std::fs::read_dir(folder.path().join("run/samples"))?.count(), 40);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_made_is_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Nobody can make folders there, not even root.
    let path = "/proc/nowhere/run";
    let ran = dcgan(folder.path(), &format!("{SMALL} --run {path}"));
    assert_eq!((ran.code, ran.stderr.contains(path)), (Some(1), true), "{}", ran.stderr);
    Ok(())
}

/// Starts a run that does not end by itself, and waits until it has a checkpoint of iteration 20 or later.
fn begin(folder: &Path, options: &str) -> Result<Child> {
    let args = SMALL.replace("--iterations 4", "--iterations 1000000 --quiet --run run");
    let child = command(folder, &format!("{args} {options}"));
    let child = { child }.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let checkpoints = Folder::of_run(&folder.join("run"));
    let deadline = Instant::now() + Duration::from_secs(60);
    while checkpoints.iterations()?.last().is_none_or(|&newest| newest < 20) {
        ensure!(Instant::now() < deadline, "no checkpoint after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(child)
}

/// Waits for a process to end by itself. It must end soon, with exit code 1 and a message that contains `told`.
fn assert_fails_soon(mut child: Child, told: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            anyhow::bail!("the run has not stopped");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    let stderr = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(told) && !stderr.contains("panicked"), "{stderr}");
    Ok(())
}

#[test]
fn a_run_whose_folder_is_removed_ends_at_the_next_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let child = begin(folder.path(), "--checkpoint-every 20 --sample-every 0")?;
    // Removing fails while the run writes a new file to the folder, so it is tried until it succeeds.
    while std::fs::remove_dir_all(folder.path().join("run")).is_err() {}
    assert_fails_soon(child, "error: run")
}

#[test]
fn a_run_whose_folder_is_replaced_does_not_write_into_the_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let child = begin(folder.path(), "--checkpoint-every 20 --sample-every 0 --log-every 1")?;
    let run = folder.path().join("run");
    std::fs::rename(&run, folder.path().join("moved"))?;
    std::fs::create_dir(&run)?;
    assert_fails_soon(child, "run: the run's folder was removed or replaced")?;
    assert_eq!(files(&run)?.len(), 0);
    // The run can be resumed in the folder to which it was moved.
    let last = Folder::of_run(&folder.path().join("moved")).iterations()?.pop();
    let total = last.context("no checkpoint")? + 1;
    train(folder.path(), &format!("train --resume moved --iterations {total}"));
    Ok(())
}

#[test]
fn checkpoints_or_samples_that_cannot_be_written_end_the_run_at_the_next_one() -> Result<()> {
    for (part, options) in [
        ("checkpoints", "--checkpoint-every 20 --sample-every 0"),
        ("samples", "--checkpoint-every 20 --sample-every 7"),
    ] {
        let folder = tempfile::tempdir()?;
        let child = begin(folder.path(), options)?;
        let (run, aside) = (folder.path().join("run"), folder.path().join("aside"));
        let there = run.join(part);
        // Tried until it succeeds, because the run may make the folder again between two of these steps.
        loop {
            let _ = std::fs::rename(&there, &aside);
            let _ = std::fs::remove_dir_all(&there);
            if std::fs::write(&there, "a file").is_ok() {
                break;
            }
        }
        assert_fails_soon(child, &format!("error: run/{part}"))?;
        std::fs::remove_file(&there)?;
        std::fs::rename(&aside, &there)?;
        let last = Folder::of_run(&run).iterations()?.pop();
        let total = last.context("no checkpoint")? + 1;
        train(folder.path(), &format!("train --resume run --iterations {total}"));
    }
    Ok(())
}
