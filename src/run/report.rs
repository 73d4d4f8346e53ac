//! A report on a run as one HTML file, which works without a network, a server or any other file.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use super::RunDir;
use super::list::{State, Summary, name_of};
use crate::error::Usage;
use crate::record::grid::Picture;
use crate::record::jsonl::{Evaluation, Metrics, read_series};
use crate::record::numbers::{duration, five_digits, thousands};
use crate::record::plot::{Curves, Plot};
use crate::settings::ENVIRONMENT_KEY;
use crate::statistics::Sorted;

/// The template of the page, whose placeholders [`html`] fills in.
const TEMPLATE: &str = include_str!("report.html");
/// The most sample grids that the page shows: a browser holds all of them in memory.
const MAX_GRIDS: usize = 60;

/// A sample grid, in the form in which the page's script reads it.
#[derive(Serialize)]
struct Grid {
    iteration: u64,
    text: String,
    src: String,
}

/// The report on the run in the folder `run`. It shows `how_to_repeat` as the command that repeats the run.
///
/// # Errors
/// [`Usage`], if the run has logged nothing yet. Also if the run's files cannot be read.
pub fn html(run: &Path, how_to_repeat: &str) -> Result<String> {
    let summary = Summary::read(run)?;
    let path = run.join("metrics.jsonl");
    let (metrics, evaluations) =
        if path.exists() { read_series(&path)? } else { Default::default() };
    let Some(last) = metrics.last().copied() else {
        let message = format!(
            "{}: nothing has been logged yet, so there is nothing to report",
            run.display()
        );
        return Err(Usage(message).into());
    };
    let samples: Vec<_> = RunDir::samples_of(run)?.into_iter().collect();
    let shown = samples.len().min(MAX_GRIDS);
    let mut grids = Vec::new();
    for i in 0..shown {
        // The grids that are shown are the first, the last, and others at even distances between them.
        let (iteration, path) = &samples[i * (samples.len() - 1) / (shown - 1).max(1)];
        let text = thousands(i64::try_from(*iteration)?);
        grids.push(Grid { iteration: *iteration, text, src: data_uri(path)? });
    }
    let picture = |name: &str| {
        let path = run.join(name);
        if path.exists() {
            data_uri(&path).map(Value::from_safe_string).map(Some)
        } else {
            Ok(None)
        }
    };
    let facts = facts(&summary, &metrics, &last)?;
    let best = summary.best.as_ref().map(|best| best.file.iteration);
    let (names, rows) = table(&evaluations, best);
    let rollbacks: Vec<_> = summary
        .rollbacks
        .iter()
        .map(|back| format!("{} → {}: {}", back.rolled_back_from, back.iteration, back.because))
        .collect();
    // One plot for each panel, so that the page can put them side by side or one below the other.
    let of_run = Curves { name: String::new(), metrics, best };
    let Plot { panels, half_window } = Plot::of_runs(&[of_run]);
    let curve = |panel| Plot { panels: vec![panel], half_window }.svg();
    let curves = panels.into_iter().map(curve).collect::<Result<Vec<_>>>()?;
    // The page is made to be passed on.
    let settings = toml::to_string(&summary.config.portable())?;
    let environment = environment(run)?;
    let mut page = Environment::new();
    page.set_auto_escape_callback(|_| AutoEscape::Html);
    page.add_template("report", TEMPLATE)?;
    Ok(page.get_template("report")?.render(context! {
        name => name_of(run),
        facts,
        rollbacks,
        newest => grids.last().map(|last| context! { text => &last.text, src => Value::from_safe_string(last.src.clone()) }),
        shown => grids.len(),
        // This goes into a script unescaped, which is safe: digits, commas and Base64 cannot end a script.
        grids => Value::from_safe_string(serde_json::to_string(&grids)?),
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

/// The table at the top of the page, as pairs of name and value.
fn facts(
    summary: &Summary,
    metrics: &[Metrics],
    last: &Metrics,
) -> Result<Vec<(&'static str, String)>> {
    let state = match summary.state {
        State::Running { .. } => "running",
        State::Finished => "finished",
        State::Interrupted => "interrupted",
    };
    let done = thousands(i64::try_from(summary.iteration)?);
    let iterations = match summary.total {
        Some(total) => format!("{done} of {}", thousands(i64::try_from(total)?)),
        None => done,
    };
    let speeds = Sorted::new(metrics.iter().map(|line| line.images_per_s));
    let mut facts = vec![
        ("data set", summary.config.portable().dataset),
        ("state", state.to_owned()),
        ("iterations", iterations),
        ("epoch", last.epoch.to_string()),
        ("time", duration(last.elapsed_s)),
        ("images/s", format!("{:.0}", speeds.quantile(1, 2))),
        ("discriminator loss", format!("{:.4}", last.d_loss)),
        ("generator loss", format!("{:.4}", last.g_loss)),
    ];
    if let Some(decay) = summary.config.ema {
        facts.push((
            "images and weights",
            format!("moving average of the generator, decay {decay}"),
        ));
    }
    Ok(facts)
}

/// The table of evaluations: the names of the last evaluation's metrics, and a row for each evaluation. That of the
/// iteration `best` is marked.
fn table(evaluations: &[Evaluation], best: Option<u64>) -> (Vec<String>, Vec<Vec<String>>) {
    let names: Vec<String> = evaluations
        .last()
        .map(|last| last.evaluation.keys().cloned().collect())
        .unwrap_or_default();
    let rows = evaluations
        .iter()
        .map(|line| {
            let value = |name: &String| {
                line.evaluation.get(name).map_or("-".to_owned(), |value| five_digits(*value))
            };
            let mark = if best == Some(line.iteration) { " (best)" } else { "" };
            let by = [
                format!("{}{mark}", line.iteration),
                line.count.to_string(),
                line.features.clone(),
            ];
            by.into_iter().chain(names.iter().map(value)).collect()
        })
        .collect();
    (names, rows)
}

/// The environment in which the run was trained, as its configuration file states it; empty if it states none.
fn environment(run: &Path) -> Result<String> {
    let config = run.join("config.toml");
    if !config.exists() {
        return Ok(String::new());
    }
    let text = std::fs::read_to_string(&config)
        .with_context(|| format!("{}: cannot be read", config.display()))?;
    let table: toml::Table = text.parse().with_context(|| config.display().to_string())?;
    Ok(table.get(ENVIRONMENT_KEY).map(toml::to_string).transpose()?.unwrap_or_default())
}

/// A PNG file as a `data:` address, which embeds it in the page.
fn data_uri(path: &Path) -> Result<String> {
    // Decoded only to find out whether it is whole: a browser would leave out a damaged picture without a word.
    Picture::read(path).with_context(|| format!("{}: remove it", path.display()))?;
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    Ok(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(bytes)))
}
