//! `dcgan runs watch`: a run on the terminal, while it trains or afterwards.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use console::{Term, colors_enabled, truncate_str};
use dcgan::record::grid::{GAP, Picture};
use dcgan::record::jsonl::{Metrics, read_series};
use dcgan::record::numbers::{duration, five_digits};
use dcgan::run::RunDir;
use dcgan::run::list::{State, Summary, name_of};
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

use super::output::print;

/// How often the view is drawn anew.
const EVERY: Duration = Duration::from_secs(1);
/// How wide curves are, in characters.
const CURVE: usize = 40;
/// The widest that samples are shown, in characters, each of which is one pixel wide and two high.
const SAMPLES: usize = 80;
/// Lines below the samples that stay free for the prompt.
const FREE: usize = 2;

/// Shows the run in `path`: on a terminal as long as it trains, elsewhere once.
///
/// # Errors
/// If its settings cannot be read.
pub(super) fn watch(path: &Path) -> Result<ExitCode> {
    let terminal = Term::stdout();
    if !terminal.is_term() {
        return print(facts(path, &Summary::read(path)?).as_bytes());
    }
    let mut drawn = 0;
    loop {
        let (rows, columns) = terminal.size();
        let (rows, columns) = (usize::from(rows), usize::from(columns));
        let summary = Summary::read(path)?;
        let text = facts(path, &summary);
        let mut lines: Vec<_> =
            text.lines().map(|line| truncate_str(line, columns, "…").into_owned()).collect();
        let free = rows.saturating_sub(lines.len() + FREE);
        // Without colours there is nothing to draw images with.
        if colors_enabled() {
            lines.extend(samples(path, &summary, columns.min(SAMPLES), free));
        }
        lines.truncate(rows.saturating_sub(1));
        terminal.move_cursor_up(drawn)?;
        terminal.clear_to_end_of_screen()?;
        terminal.write_str(&(lines.join("\n") + "\n"))?;
        drawn = lines.len();
        if !matches!(summary.state, State::Running { .. }) {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(EVERY);
    }
}

/// How far the run has come, and its curves.
fn facts(path: &Path, summary: &Summary) -> String {
    // A line that is being written now is missing for a moment.
    let (metrics, evaluations) = read_series(&path.join("metrics.jsonl")).unwrap_or_default();
    let state = match summary.state {
        State::Running { .. } => "training",
        State::Finished => "finished",
        State::Interrupted => "interrupted",
    };
    let mut text = format!("{} · {} · {state}\n", name_of(path), summary.config.dataset);
    let Summary { iteration, total, .. } = *summary;
    let done = match total.filter(|&total| total > 0) {
        Some(total) => {
            let share = iteration as f64 / total as f64;
            let full = (share * 24.0) as usize;
            let bar = "█".repeat(full.min(24)) + &"░".repeat(24_usize.saturating_sub(full));
            format!("{bar} iteration {iteration} of {total}, {:.0} %", 100.0 * share)
        }
        None => format!("iteration {iteration}"),
    };
    text += &done;
    if let Some(last) = metrics.last() {
        let _ = write!(text, " · epoch {} · {:.0} images/s", last.epoch, last.images_per_s);
        if let (State::Running { .. }, Some(left_s)) = (summary.state, left_s(&metrics, total)) {
            let _ = write!(text, " · {} left", duration(left_s));
        }
    }
    text.push('\n');
    let mut of_metrics = |name, value: fn(&Metrics) -> f64| {
        curve(&mut text, name, &metrics.iter().map(value).collect::<Vec<_>>());
    };
    of_metrics("d_loss", |line| line.d_loss);
    of_metrics("g_loss", |line| line.g_loss);
    of_metrics("P(real)", |line| line.mean_discriminator_output_prob_real);
    of_metrics("P(fake)", |line| line.mean_discriminator_output_prob_fake);
    if let Some(last) = evaluations.last() {
        let name = &summary.config.eval_metric;
        let values = evaluations.iter().filter(|line| line.features == last.features);
        let values: Vec<_> = values.filter_map(|line| line.evaluation.get(name)).copied().collect();
        curve(&mut text, name, &values);
    }
    text
}

/// A line of `text`: the last of some values, all of them as a curve, and their range.
fn curve(text: &mut String, name: &str, values: &[f64]) {
    let Some(last) = values.last() else { return };
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let range = format!("{} to {}", five_digits(low), five_digits(high));
    let _ = writeln!(text, "{name:<8} {:>8}  {}  {range}", five_digits(*last), sparkline(values));
}

/// The values as bars of eighths, each of so many values that there are [`CURVE`] at most.
fn sparkline(values: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let count = values.len().min(CURVE);
    let means: Vec<_> = (0..count)
        .map(|i| {
            let part = &values[i * values.len() / count..(i + 1) * values.len() / count];
            part.iter().sum::<f64>() / part.len() as f64
        })
        .collect();
    let (low, high) =
        means.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let bar = |value: f64| match high > low {
        true => BARS[((value - low) / (high - low) * 7.0).round() as usize],
        false => BARS[3],
    };
    means.into_iter().map(bar).collect()
}

/// The seconds that training will take, at the speed of the last lines of metrics.
fn left_s(metrics: &[Metrics], total: Option<u64>) -> Option<f64> {
    let last = metrics.last()?;
    let before = metrics.iter().rev().nth(10).or(metrics.first())?;
    let done = last.iteration.checked_sub(before.iteration).filter(|&done| done > 0)?;
    let each_s = (last.elapsed_s - before.elapsed_s) / done as f64;
    Some(each_s * total?.checked_sub(last.iteration)? as f64)
}

/// The newest sample grid, in lines of half blocks: as many of its rows of images as fit into `lines`.
fn samples(path: &Path, summary: &Summary, columns: usize, lines: usize) -> Vec<String> {
    let newest = RunDir::samples_of(path).ok().and_then(|all| all.into_iter().next_back());
    let Some((iteration, file)) = newest else { return Vec::new() };
    let Ok(picture) = Picture::read(&file) else { return Vec::new() };
    let Some(whole) = in_colour(&picture) else { return Vec::new() };
    // One line says what it is.
    let lines = lines.saturating_sub(1);
    let width = columns.min(picture.width) as u32;
    let scale = f64::from(width) / picture.width as f64;
    let scaled =
        resize(&whole, width, (picture.height as f64 * scale).round() as u32, FilterType::Triangle);
    // Whole rows of images only.
    let Some(size) = summary.config.image_size.known() else { return Vec::new() };
    let row = (size.height + GAP) as f64 * scale;
    let height = (((2 * lines) as f64 / row).floor() * row) as u32;
    let height = height.min(scaled.height());
    if height < 2 {
        return Vec::new();
    }
    let mut text = vec![format!("samples after iteration {iteration}")];
    for y in (0..height - 1).step_by(2) {
        let mut line = String::new();
        for x in 0..width {
            let (Rgb([r, g, b]), Rgb([br, bg, bb])) =
                (scaled.get_pixel(x, y), scaled.get_pixel(x, y + 1));
            let _ = write!(line, "\x1b[38;2;{r};{g};{b}m\x1b[48;2;{br};{bg};{bb}m▀");
        }
        text.push(line + "\x1b[0m");
    }
    text
}

fn in_colour(picture: &Picture) -> Option<RgbImage> {
    let pixels = match picture.channels {
        1 => picture.pixels.iter().flat_map(|&gray| [gray; 3]).collect(),
        _ => picture.pixels.clone(),
    };
    RgbImage::from_raw(picture.width as u32, picture.height as u32, pixels)
}
