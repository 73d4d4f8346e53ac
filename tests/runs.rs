//! `dcgan runs`: listing, showing and pruning runs.

use std::path::Path;

use anyhow::{Context, Result};
use dcgan::run::checkpoint::Folder;

use super::common::{SMALL, dcgan, files, train};

/// Makes a finished run with a default name, a run called `mine` that counts as interrupted, and a folder that is not
/// a run.
fn two_runs(folder: &Path) -> Result<()> {
    let options = format!("{SMALL} --checkpoint-every 1 --keep 9 --log-every 1");
    train(folder, &options);
    train(folder, &format!("{options} --run runs/mine"));
    std::fs::remove_file(folder.join("runs/mine/real_vs_generated.png"))?;
    std::fs::create_dir(folder.join("runs/no-run"))?;
    Ok(())
}

#[test]
fn runs_are_listed_with_their_state() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let none = train(folder.path(), "runs");
    assert_eq!((none.stdout.as_str(), none.stderr.contains("no runs in runs")), ("", true));
    two_runs(folder.path())?;
    for args in ["runs", "runs list", "runs list --dir ./runs"] {
        let listed = train(folder.path(), args).stdout;
        let lines: Vec<Vec<&str>> =
            listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 3, "{listed}");
        assert_eq!(lines[0], ["run", "state", "data", "iteration", "d_loss", "g_loss", "size"]);
        assert!(lines[1][0].starts_with("0001-"), "{listed}");
        assert_eq!(lines[1][1..4], ["finished", "digits", "4/4"]);
        assert_eq!(lines[2][..4], ["mine", "interrupted", "digits", "4/4"]);
    }
    let json: serde_json::Value =
        serde_json::from_str(&train(folder.path(), "runs --json").stdout)?;
    assert_eq!(json[1]["state"], "interrupted");
    assert_eq!(json[1]["last"]["iteration"], 4);
    assert_eq!(json[1]["checkpoints"].as_array().map(Vec::len), Some(5));
    let sum: usize = files(&folder.path().join("runs/mine"))?.values().map(Vec::len).sum();
    assert_eq!(json[1]["bytes"], sum);
    Ok(())
}

#[test]
fn a_run_that_cannot_be_read_is_an_error_and_hides_no_other() -> Result<()> {
    let folder = tempfile::tempdir()?;
    two_runs(folder.path())?;
    std::fs::write(folder.path().join("runs/mine/config.toml"), "seed = 'x'")?;
    let ran = dcgan(folder.path(), "runs");
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("runs/mine") && ran.stderr.contains("seed: expected"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("0001-"), "{}", ran.stdout);
    Ok(())
}

#[test]
fn one_run_is_shown_in_full() -> Result<()> {
    let folder = tempfile::tempdir()?;
    two_runs(folder.path())?;
    for name in ["1", "0001", "runs/mine", "mine"] {
        let shown = train(folder.path(), &format!("runs show {name}")).stdout;
        for part in ["state", "iteration   4/4", "d_loss", "iteration 3 ", "base-width = 1"] {
            assert!(shown.contains(part), "no `{part}` in\n{shown}");
        }
    }
    let json = train(folder.path(), "runs show mine --json").stdout;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json)?["total"], 4);
    for (name, told) in [("2", "no such run"), ("runs", "no run; expected a folder")] {
        let ran = dcgan(folder.path(), &format!("runs show {name}"));
        assert_eq!((ran.code, ran.stderr.contains(told)), (Some(2), true), "{}", ran.stderr);
    }
    Ok(())
}

#[test]
fn pruning_keeps_the_newest_asks_first_and_says_what_it_freed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    two_runs(folder.path())?;
    let mine = Folder::of_run(&folder.path().join("runs/mine"));
    std::fs::copy(mine.file(2), mine.path().join("good.safetensors"))?;
    std::fs::write(mine.path().join("damaged-iteration-000009.safetensors"), "x")?;
    let before = files(folder.path())?;
    let without_locks = |files: std::collections::BTreeMap<String, Vec<u8>>| {
        files.into_iter().filter(|(name, _)| !name.ends_with(".lock")).collect::<Vec<_>>()
    };

    let size = std::fs::metadata(mine.file(0))?.len();
    let looked = train(folder.path(), "runs prune --dry-run");
    assert!(looked.stdout.contains("runs/mine: 5 checkpoints ("), "{}", looked.stdout);
    assert!(looked.stdout.contains("would remove 9 checkpoints of 2 runs, "), "{}", looked.stdout);
    let asked = dcgan(folder.path(), "runs prune");
    assert_eq!(asked.code, Some(2));
    assert!(asked.stderr.contains("expected --yes"), "{}", asked.stderr);
    assert!(without_locks(files(folder.path())?) == without_locks(before), "nothing is removed");

    let pruned = train(folder.path(), "runs prune mine --keep 2 --yes").stdout;
    assert!(pruned.contains("removed 4 checkpoints of 1 run, "), "{pruned}");
    let freed = pruned.rsplit(", ").next().context("no size")?.trim().to_owned();
    let expected = indicatif::DecimalBytes(3 * size + 1).to_string();
    // Checkpoints differ in size by a few digits in their headers, so only the whole part is compared.
    assert_eq!(freed.split('.').next(), expected.split('.').next(), "{pruned}");
    assert_eq!(mine.iterations()?, [3, 4]);
    assert!(mine.path().join("good.safetensors").exists());
    train(folder.path(), "runs prune --yes");
    assert_eq!(mine.iterations()?, [4]);
    assert!(train(folder.path(), "runs prune --yes").stdout.contains("nothing to remove"));
    // The checkpoints that are left are enough to resume the run.
    train(folder.path(), "train --resume mine --iterations 5");
    Ok(())
}

#[test]
fn a_run_whose_newest_checkpoint_is_damaged_is_not_pruned() -> Result<()> {
    let folder = tempfile::tempdir()?;
    two_runs(folder.path())?;
    let mine = Folder::of_run(&folder.path().join("runs/mine"));
    let mut bytes = std::fs::read(mine.file(4))?;
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(mine.file(4), bytes)?;
    let ran = train(folder.path(), "runs prune mine ./runs/mine --yes");
    assert_eq!(ran.stderr.matches("warning: runs/mine: left alone: ").count(), 1, "{}", ran.stderr);
    assert_eq!(mine.iterations()?, [0, 1, 2, 3, 4]);
    Ok(())
}

#[test]
fn only_runs_and_only_checkpoints_are_pruned() -> Result<()> {
    let folder = tempfile::tempdir()?;
    two_runs(folder.path())?;
    let mine = Folder::of_run(&folder.path().join("runs/mine"));
    std::fs::write(mine.path().join("damaged-mine.safetensors"), "x")?;
    std::fs::write(mine.path().join("iteration-7.safetensors"), "x")?;
    train(folder.path(), "runs prune --yes");
    for name in ["damaged-mine.safetensors", "iteration-7.safetensors"] {
        assert!(mine.path().join(name).exists());
    }
    let before = files(folder.path())?;
    let ran = dcgan(folder.path(), "runs prune runs/no-run --yes");
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("runs/no-run: no run; expected"), "{}", ran.stderr);
    assert!(files(folder.path())? == before);
    Ok(())
}

#[test]
fn watching_into_a_pipe_prints_the_state_and_the_curves_once_as_plain_text() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    train(
        at,
        &format!(
            "train {SMALL} --run it --iterations 6 --log-every 2 --eval-every 3 --eval-count 8 --eval-features pixels"
        ),
    );
    let ran = dcgan(at, "runs watch it");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[0], "it · digits · finished");
    assert!(lines[1].contains("iteration 6 of 6, 100 %"), "{}", lines[1]);
    for (line, name) in lines[2..].iter().zip(["d_loss", "g_loss", "P(real)", "P(fake)"]) {
        assert!(line.starts_with(name) && line.contains(" to "), "{line}");
        let bars = line.chars().filter(|c| ('▁'..='█').contains(c)).count();
        assert_eq!(bars, 3, "a bar for each line of metrics: {line}");
    }
    assert!(!ran.stdout.contains('\x1b'), "{:?}", ran.stdout);
    dcgan(at, "runs watch nobody").assert_refused("runs", 2, &["no such run"]);
    Ok(())
}

#[test]
fn comparing_runs_shows_the_settings_that_differ_and_all_metrics() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    train(at, &format!("train {SMALL} --run a --iterations 2"));
    train(at, &format!("train {SMALL} --run b --iterations 2 --learning-rate 0.001"));
    let ran = dcgan(at, "runs compare a b");
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let cells = |name: &str| {
        let line = ran.stdout.lines().find(|line| line.trim_start().starts_with(name));
        line.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(
        cells("learning-rate"),
        Some(vec!["learning-rate".into(), "0.1".into(), "0.001".into()])
    );
    assert_eq!(cells("iterations"), Some(vec!["iterations".into(), "2".into(), "2".into()]));
    assert_eq!(cells("seed"), None, "it is the same in both");
    let json: serde_json::Value =
        serde_json::from_str(&dcgan(at, "runs compare a b --json").stdout)?;
    assert_eq!(json["settings"]["learning-rate"], serde_json::json!(["0.1", "0.001"]));
    dcgan(at, "runs compare a").assert_refused("runs", 2, &["2 values required"]);
    Ok(())
}
