//! One HTML file that shows a run: no network, no server, no other file.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use crate::error::Usage;
use crate::record::grid::Picture;
use crate::record::jsonl::{Line, read};
use crate::record::plot::{Plot, digits, thousands};
use crate::run::RunDir;
use crate::run::list::{State, Summary, name_of};
use crate::settings::ENVIRONMENT_KEY;

/// The page, with places for what is in [`html`].
const TEMPLATE: &str = include_str!("report.html");
/// Grids in the timeline at most: more are thinned out evenly, for the file is held by a browser whole.
const TIMELINE: usize = 60;

#[derive(Serialize)]
struct Grid {
    iteration: u64,
    text: String,
    src: String,
}

/// The report of the run in `run`, which the command `how_to_repeat` repeats.
///
/// # Errors
/// [`Usage`], if nothing has been logged yet; if the run's files cannot be read.
pub fn html(run: &Path, how_to_repeat: &str) -> Result<String> {
    let summary = Summary::read(run)?;
    let path = run.join("metrics.jsonl");
    let (mut metrics, mut evaluations) = (Vec::new(), Vec::new());
    for line in if path.exists() { read(&path)? } else { Vec::new() } {
        match line {
            Line::Metrics(line) => metrics.push(line),
            Line::Evaluation(line) => evaluations.push(line),
            Line::Rollback(_) => {}
        }
    }
    let Some(last) = metrics.last().copied() else {
        let message = format!(
            "{}: nothing has been logged yet, so there is nothing to report",
            run.display()
        );
        return Err(Usage(message).into());
    };
    let samples: Vec<_> = RunDir::samples_of(run)?.into_iter().collect();
    let shown = samples.len().min(TIMELINE);
    let mut timeline = Vec::new();
    for i in 0..shown {
        // The first, the last, and evenly between.
        let (iteration, path) = &samples[i * (samples.len() - 1) / (shown - 1).max(1)];
        timeline.push(Grid {
            iteration: *iteration,
            text: thousands(i64::try_from(*iteration)?),
            src: data_uri(path)?,
        });
    }
    let picture = |name: &str| {
        let path = run.join(name);
        if path.exists() {
            data_uri(&path).map(Value::from_safe_string).map(Some)
        } else {
            Ok(None)
        }
    };
    let settings = toml::to_string(&summary.config)?;
    let config = run.join("config.toml");
    let environment = if config.exists() {
        let text = std::fs::read_to_string(&config)
            .with_context(|| format!("{}: cannot be read", config.display()))?;
        let table: toml::Table = text.parse().with_context(|| config.display().to_string())?;
        table.get(ENVIRONMENT_KEY).map(toml::to_string).transpose()?.unwrap_or_default()
    } else {
        String::new()
    };
    // The metrics of the last evaluation, of every one.
    let names: Vec<String> = evaluations
        .last()
        .map(|last| last.evaluation.keys().cloned().collect())
        .unwrap_or_default();
    let rows: Vec<Vec<String>> = evaluations
        .iter()
        .map(|line| {
            let value = |name: &String| {
                line.evaluation.get(name).map_or("-".to_owned(), |value| digits(*value))
            };
            let by = [line.iteration.to_string(), line.count.to_string(), line.features.clone()];
            by.into_iter().chain(names.iter().map(value)).collect()
        })
        .collect();
    let state = match summary.state {
        State::Running { .. } => "running",
        State::Finished => "finished",
        State::Interrupted => "interrupted",
    };
    let mut speeds: Vec<f64> = metrics.iter().map(|line| line.images_per_s).collect();
    speeds.sort_by(f64::total_cmp);
    let facts = [
        ("data set", summary.config.dataset.clone()),
        ("state", state.to_owned()),
        (
            "iterations",
            match summary.total {
                Some(total) => format!(
                    "{} of {}",
                    thousands(i64::try_from(summary.iteration)?),
                    thousands(i64::try_from(total)?)
                ),
                None => thousands(i64::try_from(summary.iteration)?),
            },
        ),
        ("epoch", last.epoch.to_string()),
        ("time", duration(last.elapsed_s)),
        ("images/s", format!("{:.0}", speeds[speeds.len() / 2])),
        ("discriminator loss", format!("{:.4}", last.d_loss)),
        ("generator loss", format!("{:.4}", last.g_loss)),
    ];
    let rollbacks: Vec<_> = summary
        .rollbacks
        .iter()
        .map(|back| format!("{} → {}: {}", back.rolled_back_from, back.iteration, back.because))
        .collect();
    // One a panel, so that they stand side by side or one below the other.
    let Plot { panels, half_window } = Plot::of_runs(&[(String::new(), metrics)]);
    let curve = |panel| Plot { panels: vec![panel], half_window }.svg();
    let curves = panels.into_iter().map(curve).collect::<Result<Vec<_>>>()?;
    let mut page = Environment::new();
    page.set_auto_escape_callback(|_| AutoEscape::Html);
    page.add_template("report", TEMPLATE)?;
    let folder = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
    let name = name_of(&folder);
    Ok(page.get_template("report")?.render(context! {
        name,
        facts,
        rollbacks,
        newest => timeline.last().map(|last| context! { text => &last.text, src => Value::from_safe_string(last.src.clone()) }),
        shown => timeline.len(),
        // Digits, commas and Base64: nothing that ends a script.
        grids => Value::from_safe_string(serde_json::to_string(&timeline)?),
        thinned => samples.len() > shown,
        samples => samples.len(),
        both => picture("real_vs_generated.png")?,
        real => picture("real.png")?,
        curves,
        settings => settings.trim(),
        environment => environment.trim(),
        command => how_to_repeat,
        names,
        rows,
        version => crate::VERSION,
    })?)
}

/// A PNG file as a part of the page.
fn data_uri(path: &Path) -> Result<String> {
    // A browser would show nothing, and say nothing.
    Picture::read(path).with_context(|| format!("{}: remove it", path.display()))?;
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes)))
}

fn duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}
