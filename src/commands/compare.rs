//! `dcgan runs compare`: settings that differ, and metrics side by side.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use dcgan::eval::metric::{Better, Metric};
use dcgan::record::jsonl::{Evaluation, Metrics, read_series};
use dcgan::record::numbers::{duration, five_digits};
use dcgan::run::checkpoint::{Checkpoint, Folder, Header};
use dcgan::run::list::{Summary, name_of};
use serde_json::{Map, Value, json};

use super::output::{aligned, print};

/// What a run is compared by.
struct Compared {
    name: String,
    summary: Summary,
    /// Of its newest checkpoint, if that can be read.
    header: Option<Header>,
    metrics: Vec<Metrics>,
    evaluations: Vec<Evaluation>,
}

/// A line of the comparison: what it is of, and a text for each run.
type Row = (String, Vec<String>);

/// Compares the runs in `paths`.
///
/// # Errors
/// If one of them cannot be read.
pub(super) fn compare(paths: &[PathBuf], json: bool) -> Result<ExitCode> {
    let runs = paths.iter().map(|path| Compared::read(path)).collect::<Result<Vec<_>>>()?;
    let parts = [("settings", settings(&runs)?), ("metrics", metrics(&runs))];
    if json {
        let table = |rows: &[Row]| {
            let values = |row: &Row| (row.0.clone(), json!(row.1));
            Value::Object(rows.iter().map(values).collect::<Map<_, _>>())
        };
        let names: Vec<_> = runs.iter().map(|run| &run.name).collect();
        let [settings, metrics] = parts.map(|(_, rows)| table(&rows));
        let all = json!({ "runs": names, "settings": settings, "metrics": metrics });
        return print(format!("{}\n", serde_json::to_string_pretty(&all)?).as_bytes());
    }
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(runs.iter().map(|run| run.name.clone()));
    for (title, lines) in parts {
        rows.push(vec![title.to_owned()]);
        if lines.is_empty() {
            rows.push(vec!["  all the same".to_owned()]);
        }
        for (of, values) in lines {
            rows.push([format!("  {of}")].into_iter().chain(values).collect());
        }
    }
    print(aligned(&rows, 1).as_bytes())
}

impl Compared {
    fn read(path: &Path) -> Result<Self> {
        let summary = Summary::read(path)?;
        let newest = summary.checkpoints.last().map(|checkpoint| checkpoint.iteration);
        let header =
            newest.and_then(|newest| Checkpoint::header(&Folder::of_run(path).file(newest)).ok());
        let file = path.join("metrics.jsonl");
        let (metrics, evaluations) =
            if file.exists() { read_series(&file)? } else { Default::default() };
        Ok(Self { name: name_of(path), summary, header, metrics, evaluations })
    }
}

/// The settings, and facts of the data set, that are not the same in all runs.
fn settings(runs: &[Compared]) -> Result<Vec<Row>> {
    let tables = runs
        .iter()
        .map(|run| {
            let mut table = toml::Table::try_from(&run.summary.config)?;
            if let Some(Header { set, origin, .. }) = &run.header {
                table.insert("images".to_owned(), i64::try_from(set.images)?.into());
                table.insert("SHA-256 of the images".to_owned(), set.sha256[..8].into());
                table.insert("dcgan".to_owned(), origin.dcgan.clone().into());
                table.insert("libtorch".to_owned(), origin.libtorch.clone().into());
                table.insert("processor".to_owned(), origin.cpu.clone().into());
            }
            Ok(table)
        })
        .collect::<Result<Vec<_>>>()?;
    let keys: BTreeSet<_> = tables.iter().flat_map(toml::Table::keys).collect();
    let text = |value: Option<&toml::Value>| match value {
        None => "-".to_owned(),
        Some(toml::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let row =
        |key: &String| (key.clone(), tables.iter().map(|table| text(table.get(key))).collect());
    let differs = |(_, values): &Row| values.iter().any(|value| *value != values[0]);
    Ok(keys.into_iter().map(row).filter(differs).collect())
}

/// How far the runs have come, their last losses, and the best of each metric.
fn metrics(runs: &[Compared]) -> Vec<Row> {
    let row = |of: &str, text: &dyn Fn(&Compared) -> Option<String>| {
        let values = runs.iter().map(|run| text(run).unwrap_or_else(|| "-".to_owned()));
        (of.to_owned(), values.collect())
    };
    let last = |pick: fn(&Metrics) -> f64| {
        move |run: &Compared| run.metrics.last().map(|last| five_digits(pick(last)))
    };
    let mut rows = vec![
        row("iterations", &|run| Some(run.summary.iteration.to_string())),
        row("time", &|run| run.metrics.last().map(|last| duration(last.elapsed_s))),
        row("images/s", &last(|line| line.images_per_s)),
        row("d_loss", &last(|line| line.d_loss)),
        row("g_loss", &last(|line| line.g_loss)),
        row("probability, real", &last(|line| line.mean_discriminator_output_prob_real)),
        row("probability, fake", &last(|line| line.mean_discriminator_output_prob_fake)),
        row("rollbacks", &|run| Some(run.summary.rollbacks.len().to_string())),
    ];
    let names: BTreeSet<_> = runs
        .iter()
        .flat_map(|run| &run.evaluations)
        .flat_map(|line| line.evaluation.keys())
        .collect();
    for name in names {
        let best = |run: &Compared| best(&run.evaluations, name);
        rows.push(row(name, &|run| {
            run.evaluations.last()?.evaluation.get(name).copied().map(five_digits)
        }));
        rows.push(row(&format!("{name}, best"), &|run| {
            best(run).map(|(iteration, value)| format!("{} at {iteration}", five_digits(value)))
        }));
    }
    rows
}

/// The best value of the metric `name`, and its iteration.
fn best(evaluations: &[Evaluation], name: &str) -> Option<(u64, f64)> {
    let is_higher =
        Metric::that_decides(name).is_ok_and(|metric| metric.better() == Better::Higher);
    let value = |line: &Evaluation| Some((line.iteration, *line.evaluation.get(name)?));
    evaluations.iter().filter_map(value).reduce(|best, other| {
        let is_better = if is_higher { other.1 > best.1 } else { other.1 < best.1 };
        if is_better { other } else { best }
    })
}
