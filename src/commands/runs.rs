//! `dcgan runs`: list runs, show one, remove old checkpoints. Watching and comparing have files of their own.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use dcgan::error::Usage;
use dcgan::files::remove;
use dcgan::record::numbers::five_digits;
use dcgan::run::list::{BestCheckpoint, State, Summary, find_run, list, prunable_checkpoints};
use dcgan::run::{RUNS, RunDir};
use indicatif::DecimalBytes;

use super::compare::compare;
use super::errors::{print_error, print_warning};
use super::output::{aligned, print};
use super::progress::say;
use super::watch::watch;
use crate::cli::{RunsArgs, RunsCommand};

/// `dcgan runs`.
///
/// # Errors
/// [`Usage`], if there is no such run; if one that was named cannot be read, or a checkpoint not be
/// removed.
pub fn runs(args: &RunsArgs) -> Result<ExitCode> {
    let RunsArgs { command, dir, json } = args;
    match command {
        None | Some(RunsCommand::List) => list_runs(dir, *json),
        Some(RunsCommand::Show { run }) => show(&find_run(dir, run)?, *json),
        Some(RunsCommand::Watch { run }) if *json => show(&find_run(dir, run)?, true),
        Some(RunsCommand::Watch { run }) => watch(&find_run(dir, run)?),
        Some(RunsCommand::Compare { runs }) => {
            let paths = runs.iter().map(|run| find_run(dir, run)).collect::<Result<Vec<_>>>()?;
            compare(&paths, *json)
        }
        Some(RunsCommand::Prune { runs, keep, yes, dry_run }) => {
            let runs = if runs.is_empty() {
                list_all(dir)?
            } else {
                let named = runs.iter().map(|run| find_run(dir, run));
                let mut named = named.collect::<Result<Vec<_>>>()?;
                // A run may be named by its number and by its path.
                named.sort_by_cached_key(|run| run.canonicalize().ok());
                named.dedup_by_key(|run| run.canonicalize().ok());
                named
            };
            prune(&runs, *keep as usize, *yes, *dry_run)
        }
    }
}

/// The runs in `dir`; none where the usual folder is not there yet.
fn list_all(dir: &Path) -> Result<Vec<PathBuf>> {
    if dir.exists() {
        return list(dir);
    }
    if dir == Path::new(RUNS) {
        return Ok(Vec::new());
    }
    Err(Usage(format!("--dir {}: there is no such folder", dir.display())).into())
}

fn list_runs(dir: &Path, json: bool) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut summaries = Vec::new();
    for path in list_all(dir)? {
        // One run that cannot be read hides no other.
        match Summary::read(&path) {
            Ok(summary) => summaries.push(summary),
            Err(error) => {
                print_error(&error.context(path.display().to_string()), "runs");
                code = ExitCode::FAILURE;
            }
        }
    }
    if json {
        print(format!("{}\n", serde_json::to_string_pretty(&summaries)?).as_bytes())?;
    } else if summaries.is_empty() {
        say(&format!("no runs in {}; `dcgan train` begins one", dir.display()));
    } else {
        print(table(&summaries).as_bytes())?;
    }
    Ok(code)
}

fn table(summaries: &[Summary]) -> String {
    let header = ["run", "state", "data", "iteration", "d_loss", "g_loss", "size"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for summary in summaries {
        let loss = |pick: fn(&Summary) -> Option<f64>| {
            pick(summary).map_or("-".to_owned(), |loss| format!("{loss:.4}"))
        };
        rows.push(vec![
            summary.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            state(summary.state),
            summary.config.dataset.clone(),
            progress(summary),
            loss(|summary| Some(summary.last?.d_loss)),
            loss(|summary| Some(summary.last?.g_loss)),
            DecimalBytes(summary.bytes).to_string(),
        ]);
    }
    aligned(&rows, 3)
}

fn state(state: State) -> String {
    match state {
        State::Running { pid: 0 } => "running".to_owned(),
        State::Running { pid } => format!("running ({pid})"),
        State::Finished => "finished".to_owned(),
        State::Interrupted => "interrupted".to_owned(),
    }
}

fn progress(summary: &Summary) -> String {
    let total = summary.total.map_or("?".to_owned(), |total| total.to_string());
    format!("{}/{total}", summary.iteration)
}

fn show(path: &Path, json: bool) -> Result<ExitCode> {
    let summary = Summary::read(path)?;
    if json {
        return print(format!("{}\n", serde_json::to_string_pretty(&summary)?).as_bytes());
    }
    let mut text = format!("{}\n", path.display());
    let size = DecimalBytes(summary.bytes);
    writeln!(text, "  state       {}", state(summary.state))?;
    writeln!(text, "  iteration   {}", progress(&summary))?;
    if let Some(last) = &summary.last {
        writeln!(
            text,
            "  last line   iteration {}, epoch {}: d_loss {:.4}, g_loss {:.4}, probabilities {:.3} real, {:.3} fake",
            last.iteration,
            last.epoch,
            last.d_loss,
            last.g_loss,
            last.mean_discriminator_output_prob_real,
            last.mean_discriminator_output_prob_fake
        )?;
        writeln!(text, "  trained     {:.0} s", last.elapsed_s)?;
    }
    writeln!(text, "  size        {size}")?;
    for rollback in &summary.rollbacks {
        writeln!(
            text,
            "  rolled back to iteration {} from {}: {}",
            rollback.iteration, rollback.rolled_back_from, rollback.because
        )?;
    }
    writeln!(text, "  checkpoints")?;
    for checkpoint in &summary.checkpoints {
        let size = DecimalBytes(checkpoint.bytes);
        let note = match Some(checkpoint.iteration) == summary.healthy {
            true => ", the newest without a sign of collapse",
            false => "",
        };
        writeln!(text, "    iteration {:<10} {size}{note}", checkpoint.iteration)?;
    }
    if let Some(BestCheckpoint { file, metric, value }) = &summary.best {
        let size = DecimalBytes(file.bytes);
        let value = value.map_or(String::new(), |value| format!(" {}", five_digits(value)));
        writeln!(
            text,
            "    best.safetensors     {size}, iteration {}: {metric}{value}",
            file.iteration
        )?;
    }
    write!(text, "\n{}", toml::to_string(&summary.config)?)?;
    print(text.as_bytes())
}

fn prune(runs: &[PathBuf], keep: usize, yes: bool, dry_run: bool) -> Result<ExitCode> {
    let (mut files, mut of_runs, mut bytes, mut text) = (Vec::new(), 0, 0, String::new());
    // Held until the files are gone: nobody begins to use them meanwhile.
    let mut held = Vec::new();
    for path in runs {
        if let Some(pid) = RunDir::holder(path) {
            say(&format!("{}: running (process {pid}), left alone", path.display()));
            continue;
        }
        if !dry_run {
            held.push(RunDir::open(path)?);
        }
        let old = match prunable_checkpoints(path, keep) {
            Ok(old) => old,
            Err(error) => {
                print_warning(&error.context(format!("{}: left alone", path.display())));
                continue;
            }
        };
        if old.is_empty() {
            continue;
        }
        let sum = old.iter().map(|(_, bytes)| bytes).sum();
        writeln!(text, "{}: {} ({})", path.display(), count(old.len()), DecimalBytes(sum))?;
        files.extend(old.into_iter().map(|(path, _)| path));
        bytes += sum;
        of_runs += 1;
    }
    let all =
        format!("{} of {}, {}", count(files.len()), count_of(of_runs, "run"), DecimalBytes(bytes));
    if files.is_empty() {
        return print(b"nothing to remove\n");
    }
    print(text.as_bytes())?;
    if dry_run {
        return print(format!("would remove {all}\n").as_bytes());
    }
    if !yes && !agreed(&format!("remove {all}? [y/N] "))? {
        return print(b"nothing removed\n");
    }
    files.iter().try_for_each(|path| remove(path))?;
    print(format!("removed {all}\n").as_bytes())
}

fn count(checkpoints: usize) -> String {
    count_of(checkpoints, "checkpoint")
}

fn count_of(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Asks on the terminal.
fn agreed(question: &str) -> Result<bool> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(
            Usage("nobody is there to ask; expected --yes, or --dry-run to look".into()).into()
        );
    }
    print(question.as_bytes())?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("no answer could be read")?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
