//! `dcgan data`: list data sets, look into one, fetch one.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use dcgan::data::fetch::{self, COLLECTIONS, RetryPolicy};
use dcgan::data::spec::{self, Spec};
use dcgan::data::{self, Classes, Event, Findings, Options, SetIdentity};
use dcgan::error::Usage;
use dcgan::files::{places, write_bytes};
use dcgan::record::grid::Picture;
use indicatif::DecimalBytes;
use serde::Serialize;

use super::dataset::load_with_progress;
use super::output::{ensure_ending, print};
use super::progress::TaskProgress;
use crate::cli::{DataCommand, DataCommandArgs, Verbosity};

/// Columns of a contact sheet, and images at most.
const COLUMNS: usize = 12;

const SHEET: usize = 144;
/// Classes that are listed at most.
const CLASSES: usize = 20;

/// `dcgan data`.
///
/// # Errors
/// [`Usage`], if there is no such data set; as [`data::load`].
pub fn data(args: &DataCommandArgs) -> Result<ExitCode> {
    match &args.command {
        None | Some(DataCommand::List) => list(),
        Some(DataCommand::Show { spec, options, seed, sheet, force, json }) => {
            let options = options.resolve(spec, *seed)?.data();
            show(spec, &options, (sheet.as_deref(), *force), *json)
        }
        Some(DataCommand::Fetch { spec, mirror }) => fetch_with_progress(spec, mirror.as_deref()),
    }
}

fn list() -> Result<ExitCode> {
    let home = places::data_home()?;
    let mut text = "what --dataset takes:\n".to_owned();
    let names = spec::names();
    let width = names.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, meaning) in names {
        writeln!(text, "  {name:<width$}  {meaning}")?;
    }
    writeln!(text, "\nin {}:", home.display())?;
    for part in fetch::status(&home)? {
        let there = part.bytes.map_or("-".to_owned(), |bytes| DecimalBytes(bytes).to_string());
        writeln!(text, "  {:<22} {there:>10}", part.name)?;
    }
    // Where no cache folder is known, nothing is kept there.
    let decoded = data::decoded_bytes().unwrap_or(0);
    if decoded > 0 {
        writeln!(text, "  {:<22} {:>10}", "decoded images", DecimalBytes(decoded).to_string())?;
    }
    text += "\norigin and licence:\n";
    for collection in &COLLECTIONS {
        writeln!(text, "  {:<22} {}", collection.name, collection.origin)?;
    }
    print(text.as_bytes())
}

fn fetch_with_progress(spec: &str, mirror: Option<&str>) -> Result<ExitCode> {
    let usage = |message: String| Usage(format!("{spec}: {message}"));
    let parsed: Spec = spec.parse().map_err(usage)?;
    let Spec::Public(collection, part) = parsed else {
        let names: Vec<_> = COLLECTIONS.iter().map(|collection| collection.name).collect();
        let message = format!("nothing to fetch; expected one of {}", names.join(", "));
        return Err(usage(message).into());
    };
    let is_url = |url: &str| ["http://", "https://", "file:"].iter().any(|s| url.starts_with(s));
    if let Some(mirror) = mirror.filter(|mirror| !is_url(mirror)) {
        let message =
            format!("--mirror {mirror}: expected a URL that begins with https:, http: or file:");
        return Err(Usage(message).into());
    }
    let home = places::data_home()?;
    let mut work = TaskProgress::new(Verbosity::Normal);
    let mut files = collection.fetch(
        part,
        &home,
        mirror,
        RetryPolicy::default(),
        &mut |event| match event {
            Event::Warning(text) => work.warn(text),
            Event::Fetched(name, bytes, total) => work.bytes(name, bytes, total),
            Event::Files(_) | Event::Decoded(_) | Event::NoCache(_) => {}
        },
    )?;
    // Several parts may be in one file.
    files.dedup();
    for file in collection.verify(part, &home)? {
        work.warn(&format!(
            "{}: is not compared with what was published: no checksum of it is known",
            file.display()
        ));
    }
    drop(work);
    let mut text = String::new();
    for file in files {
        writeln!(text, "{}", file.display())?;
    }
    print(text.as_bytes())
}

/// What is reported about a data set.
#[derive(Serialize)]
struct Shown<'a> {
    spec: &'a str,
    #[serde(flatten)]
    identity: SetIdentity,
    #[serde(skip_serializing_if = "Option::is_none")]
    classes: Option<Classes>,
    least_value: u8,
    greatest_value: u8,
    findings: &'a Findings,
}

fn show(
    spec: &str,
    options: &Options,
    (sheet, force): (Option<&Path>, bool),
    json: bool,
) -> Result<ExitCode> {
    if let Some(path) = sheet {
        ensure_ending("--sheet", path, &["png"])?;
        if !force && path.exists() {
            let message =
                format!("--sheet {}: is there already; --force replaces it", path.display());
            return Err(Usage(message).into());
        }
    }
    let set = load_with_progress(spec, options, Verbosity::Normal)?;
    set.verify()?;
    let (least_value, greatest_value) = set.range()?;
    if let Some(path) = sheet {
        let images = set.spread(SHEET)?;
        let png = Picture::grid(&images, set.shape().size, set.channels(), COLUMNS)?.png()?;
        write_bytes(path, &png)?;
    }
    let shown = Shown {
        spec,
        identity: set.identity()?,
        classes: set.labels().as_ref().map(Classes::from),
        least_value,
        greatest_value,
        findings: set.findings(),
    };
    if json {
        return print(format!("{}\n", serde_json::to_string_pretty(&shown)?).as_bytes());
    }
    let SetIdentity { images, channels, sha256, .. } = &shown.identity;
    let mut text = format!("{spec}\n");
    writeln!(text, "  images    {images}")?;
    writeln!(text, "  size      {}", set.shape().size)?;
    writeln!(text, "  channels  {channels}")?;
    writeln!(text, "  values    {least_value} to {greatest_value}")?;
    writeln!(text, "  SHA-256   {sha256}")?;
    if let Some(classes) = &shown.classes {
        let known = classes.names.iter().zip(&classes.counts);
        let known: Vec<_> = known.map(|(name, count)| format!("`{name}` ({count})")).collect();
        let more = if known.len() > CLASSES { ", …" } else { "" };
        let first = known[..known.len().min(CLASSES)].join(", ");
        writeln!(text, "  classes   {}: {first}{more}", known.len())?;
    }
    let Findings { sizes, gray, others, foreign, own, bad, .. } = shown.findings;
    let stored: usize = sizes.values().sum();
    if stored > 0 {
        writeln!(text, "  stored    {stored}: {gray} gray, {} in colour", stored - gray)?;
        writeln!(text, "  sizes     {}", shown.findings.told_sizes(5))?;
    }
    if !others.is_empty() {
        writeln!(text, "  no images {}", others.told())?;
    }
    if !own.is_empty() {
        writeln!(text, "  own       {}", own.told())?;
    }
    for (kind, found) in foreign {
        writeln!(text, "  not read  {}: {kind}", found.files.told())?;
    }
    for (reason, examples) in bad {
        writeln!(text, "  not read  {}: {reason}", examples.told())?;
    }
    if let Some(path) = sheet {
        writeln!(text, "  sheet     {}", path.display())?;
    }
    print(text.as_bytes())
}
