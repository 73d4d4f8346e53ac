//! What a run does when training collapses: it warns, stops or rolls back.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use dcgan::files::TensorFile;
use dcgan::record::jsonl::{Line, Metrics, Rollback, read, read_metrics};
use dcgan::run::checkpoint::{Checkpoint, Folder};
use tch::Tensor;

use super::common::{crash, dcgan, newest, train, without_times};

/// Options of a run that always collapses. The learning rate moves weights by 1 in each step, which saturates
/// every tanh, so all generated images become the same image, whatever the rounding.
pub const HOPELESS: &str = "--device cpu --threads 1 --base-width 1 --batch-size 8 --learning-rate 1 \
                        --iterations 430 --checkpoint-every 30 --keep 99 --quiet";

/// The rollbacks that are recorded in a run's metrics.
fn rollbacks(run: &Path) -> Result<Vec<Rollback>> {
    let rollback = |line| match line {
        Line::Rollback(rollback) => Some(rollback),
        Line::Metrics(_) | Line::Evaluation(_) => None,
    };
    Ok(read(&run.join("metrics.jsonl"))?.into_iter().filter_map(rollback).collect())
}

#[test]
fn by_default_a_collapse_is_told_in_words_and_training_goes_on() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = train(folder.path(), &format!("{HOPELESS} --run run"));
    let first = ran.stderr.lines().next().context("nothing is said")?;
    let iteration = first.strip_prefix("warning: iteration ").context(ran.stderr.clone())?;
    assert!(iteration.split(':').next().context("no number")?.parse::<u64>()? >= 100);
    assert!(
        first
            .ends_with("; try a smaller --learning-rate, another --seed or more --label-smoothing")
    );
    // The warning does not come again every ten iterations.
    assert!(ran.stderr.lines().count() < 9, "{}", ran.stderr);
    assert_eq!(rollbacks(&folder.path().join("run"))?, []);
    Ok(())
}

#[test]
fn a_run_may_stop_at_a_collapse_and_says_what_to_do() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = dcgan(folder.path(), &format!("{HOPELESS} --on-collapse stop --run run"));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let run = folder.path().join("run");
    let last = read_metrics(&run.join("metrics.jsonl"))?.pop().context("no metrics")?;
    let saved = newest(&run)?;
    for part in [
        &*format!("error: training stopped after iteration {}: ", last.iteration),
        &*format!("the state after iteration {saved} is kept"),
        "dcgan train --resume run --on-collapse rollback",
        "dcgan train --resume run --fork NEWRUN",
    ] {
        assert!(ran.stderr.contains(part), "no `{part}` in\n{}", ran.stderr);
    }
    // The collapsed state is not saved, and the last checkpoint knows which one was the last healthy one.
    assert!(saved < last.iteration);
    let header = Checkpoint::header(&Folder::of_run(&run).file(saved))?;
    assert!(header.healthy + 100 <= last.iteration, "{} {}", header.healthy, last.iteration);
    Ok(())
}

#[test]
fn a_run_that_has_collapsed_stops_or_rolls_back_when_that_is_asked_for_later() -> Result<()> {
    let folder = tempfile::tempdir()?;
    train(folder.path(), &format!("{HOPELESS} --run run"));
    let again = "train --resume run --iterations 600 --quiet --on-collapse";
    let ran = dcgan(folder.path(), &format!("{again} stop"));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("training stopped after iteration 440: "), "{}", ran.stderr);
    let ran = dcgan(folder.path(), &format!("{again} rollback"));
    assert!(ran.stderr.contains("warning: iteration 440: "), "{}", ran.stderr);
    assert!(ran.stderr.contains(", resuming with other noise"), "{}", ran.stderr);
    Ok(())
}

#[test]
fn the_last_healthy_checkpoint_is_kept_however_old_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let often =
        HOPELESS.replace("--checkpoint-every 30 --keep 99", "--checkpoint-every 10 --keep 2");
    let ran = dcgan(folder.path(), &format!("{often} --on-collapse stop --run run"));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let checkpoints = Folder::of_run(&folder.path().join("run"));
    let iterations = checkpoints.iterations()?;
    let header = Checkpoint::header(&checkpoints.file(newest(&folder.path().join("run"))?))?;
    assert_eq!((iterations.len(), iterations[0]), (3, header.healthy));
    assert!(header.healthy + 50 <= header.iteration);
    Ok(())
}

#[test]
fn a_run_that_always_collapses_is_given_up_after_three_rollbacks() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let ran = dcgan(folder.path(), &format!("{HOPELESS} --on-collapse rollback --run run"));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches(", resuming with other noise").count(), 3, "{}", ran.stderr);
    assert!(ran.stderr.contains(", rolled back 3 times: "), "{}", ran.stderr);
    assert!(ran.stderr.contains("--fork NEWRUN") && !ran.stderr.contains("--on-collapse"));
    let rollbacks = rollbacks(&folder.path().join("run"))?;
    assert_eq!(rollbacks.len(), 3);
    for Rollback { iteration, rolled_back_from, because } in rollbacks {
        assert!(iteration + 100 <= rolled_back_from && !because.is_empty());
    }
    let shown = train(folder.path(), "runs show run");
    assert_eq!(shown.stdout.matches("rolled back to iteration ").count(), 3, "{}", shown.stdout);
    Ok(())
}

/// The metrics without times, the last iteration and the tensors of a run that has ended.
fn final_state(run: &Path) -> Result<(Vec<Line>, u64, BTreeMap<String, Tensor>)> {
    let lines = read(&run.join("metrics.jsonl"))?.into_iter().map(without_times).collect();
    let newest = newest(run)?;
    Ok((lines, newest, TensorFile::read(&Folder::of_run(run).file(newest))?.tensors))
}

#[test]
fn a_run_that_was_rolled_back_resumes_bit_for_bit_also_from_within_the_rollback() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let whole = folder.path().join("whole");
    let given_up = |args: &str| {
        let ran = dcgan(folder.path(), args);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("rolled back 3 times"), "{}", ran.stderr);
    };
    given_up(&format!("{HOPELESS} --on-collapse rollback --run whole"));
    let expected = final_state(&whole)?;
    let last = rollbacks(&whole)?.pop().context("no rollback")?;
    for (name, iteration, is_recorded) in [
        ("after", expected.1, true),
        ("at", last.iteration, true),
        ("within", last.iteration, false),
    ] {
        let run = folder.path().join(name);
        crash(&whole, &run, iteration)?;
        if !is_recorded {
            // As if the run had been killed in the middle of the rollback: the checkpoint is written, but the
            // metrics do not record the rollback yet.
            let metrics = run.join("metrics.jsonl");
            let text = std::fs::read_to_string(&metrics)?;
            let line = serde_json::to_string(&last)? + "\n";
            let (before, after) = text.rsplit_once(&line).context("no such line")?;
            std::fs::write(&metrics, format!("{before}{after}"))?;
        }
        given_up(&format!("train --resume {name} --quiet"));
        assert!(final_state(&run)? == expected, "{name}");
    }
    // A run that was stopped before its first rollback makes the same three rollbacks after it has resumed.
    let early = HOPELESS.replace("--iterations 430", "--iterations 31");
    train(folder.path(), &format!("{early} --on-collapse rollback --run early"));
    Folder::of_run(&folder.path().join("early")).remove_after(30)?;
    given_up("train --resume early --iterations 430 --quiet");
    assert!(final_state(&folder.path().join("early"))? == expected);
    Ok(())
}

/// The first iteration of a run with these `options` that was rolled back to its beginning, and of one that was not.
/// Before the first update both have the same networks.
fn first_iterations(options: &str) -> Result<[Metrics; 2]> {
    let folder = tempfile::tempdir()?;
    let options =
        HOPELESS.replace("--checkpoint-every 30", "--checkpoint-every 0 --log-every 1") + options;
    let ran = dcgan(folder.path(), &format!("{options} --on-collapse rollback --run rolled"));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    train(folder.path(), &format!("{options} --run warned"));
    let first = |run: &str| -> Result<_> {
        let metrics = read_metrics(&folder.path().join(run).join("metrics.jsonl"))?;
        metrics.first().copied().context("no metrics")
    };
    let both = [first("rolled")?, first("warned")?];
    assert_eq!(both.map(|line| line.iteration), [1, 1]);
    Ok(both)
}

#[test]
fn a_rollback_changes_the_noise_and_not_the_images() -> Result<()> {
    let both = first_iterations("")?;
    let [rolled, warned] = both.map(|line| line.mean_discriminator_output_prob_real);
    assert_eq!(rolled, warned);
    let [rolled, warned] = both.map(|line| line.mean_discriminator_output_prob_fake);
    assert_ne!(rolled, warned);
    Ok(())
}

#[test]
fn a_rollback_augments_the_same_images_in_another_way() -> Result<()> {
    let both = first_iterations(" --augment")?;
    let [rolled, warned] = both.map(|line| line.mean_discriminator_output_prob_real);
    assert_ne!(rolled, warned);
    Ok(())
}
