//! What a person sees while the program works: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use dcgan::record::jsonl::{Evaluation, Metrics};
use dcgan::record::numbers::five_digits;
use dcgan::run::observer::Observer;
use dcgan::run::watch::Collapse;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::Verbosity;

/// Writes a line to standard error. `eprintln!` would panic if nobody reads there any more, and end the work with that.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A bar for a piece of work such as decoding or sampling. It is shown on a terminal only.
#[derive(Debug)]
pub struct TaskProgress {
    is_shown: bool,
    bar: Option<ProgressBar>,
    /// What the bar is of.
    name: String,
}

impl TaskProgress {
    /// Shows nothing until there is work.
    pub fn new(verbosity: Verbosity) -> Self {
        let is_shown = verbosity >= Verbosity::Normal && std::io::stderr().is_terminal();
        Self { is_shown, bar: None, name: String::new() }
    }

    /// So many files are to be decoded.
    pub fn files(&mut self, count: usize) {
        self.begin("decoding", count, "{eta} left");
    }

    /// So many images are to be made.
    pub fn images(&mut self, count: usize) {
        self.begin("sampling", count, "{per_sec} · {eta} left");
    }

    /// So many frames of a film are to be made.
    pub fn frames(&mut self, count: usize) {
        self.begin("filming", count, "{eta} left");
    }

    /// A classifier is to be trained in so many steps.
    pub fn steps(&mut self, count: usize) {
        self.begin("training a classifier", count, "{eta} left");
    }

    /// Features of so many images are to be computed.
    pub fn features(&mut self, count: usize) {
        self.begin("features", count, "{per_sec} · {eta} left");
    }

    /// So many images are to be compared with.
    pub fn comparisons(&mut self, count: usize) {
        self.begin("comparing", count, "{eta} left");
    }

    /// So much more of the work is done. Without a number of files, they are counted as they are decoded.
    pub fn advance(&mut self, count: usize) {
        if self.bar.is_none() {
            self.show("decoding", None, "{msg} {pos} files");
        }
        if let Some(bar) = &self.bar {
            bar.inc(count as u64);
        }
    }

    /// Of the file `name`, so many bytes have been fetched, out of `total` if that is known.
    pub fn bytes(&mut self, name: &str, bytes: u64, total: Option<u64>) {
        if self.name != name {
            let template = match total {
                Some(_) => "{msg} {bar:24.cyan/blue} {bytes}/{total_bytes} · {eta} left",
                None => "{msg} {bytes}",
            };
            self.show(name, total, template);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    /// Prints a warning of something that does not stop the work.
    pub fn warn(&self, text: &str) {
        let text = format!("warning: {text}");
        match &self.bar {
            Some(bar) => bar.suspend(|| say(&text)),
            None => say(&text),
        }
    }

    /// Shows a bar of `count` pieces of work, and after it what `rest` says.
    fn begin(&mut self, name: &str, count: usize, rest: &str) {
        let template = format!("{{msg}} {{bar:24.cyan/blue}} {{pos}}/{{len}} · {rest}");
        self.show(name, Some(count as u64), &template);
    }

    fn show(&mut self, name: &str, total: Option<u64>, template: &str) {
        self.name = name.to_owned();
        if !self.is_shown {
            return;
        }
        let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        if let Some(before) = self.bar.replace(bar) {
            before.finish_and_clear();
        }
    }
}

impl Drop for TaskProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What helps against a collapse, in a few words.
const AGAINST_COLLAPSE: &str =
    "try a smaller --learning-rate, another --seed or more --label-smoothing";

/// The progress of one run, on standard error.
#[derive(Debug)]
pub struct Progress {
    verbosity: Verbosity,
    total: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Progress over `total` iterations.
    pub fn new(verbosity: Verbosity, total: u64) -> Self {
        let bar = (verbosity >= Verbosity::Normal && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total);
            // A message that does not fit into the line is cut off at its end.
            let template = "{bar:12.cyan/blue} {pos}/{len} · {eta} left · {wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self { verbosity, total, bar }
    }

    /// Prints a sentence about the run, unless quiet.
    pub fn note(&self, text: &str) {
        if self.verbosity >= Verbosity::Normal {
            self.print(text);
        }
    }

    fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }
}

impl Observer for Progress {
    /// Also when quiet.
    fn warn(&self, text: &str) {
        self.print(&format!("warning: {text}"));
    }

    fn collapse(&self, iteration: u64, collapse: &Collapse) {
        self.warn(&format!("iteration {iteration}: {collapse}; {AGAINST_COLLAPSE}"));
    }

    fn begin(&self, iteration: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(iteration);
            // The bar must not take this jump for speed.
            bar.reset_eta();
        }
    }

    fn advance(&self, iteration: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(iteration);
        }
    }

    fn log(&self, metrics: &Metrics) {
        let Metrics { iteration, epoch, d_loss, g_loss, images_per_s, elapsed_s, .. } = *metrics;
        let losses = format!("d_loss {d_loss:.4} · g_loss {g_loss:.4}");
        let speed = format!("{images_per_s:.0} images/s");
        match &self.bar {
            Some(bar) => bar.set_message(format!("{losses} · {speed} · epoch {epoch}")),
            None => {
                let left_s = elapsed_s / iteration as f64 * (self.total - iteration) as f64;
                let left = Duration::from_secs(left_s as u64);
                let left = indicatif::HumanDuration(left);
                self.note(&format!(
                    "iteration {iteration}/{} · epoch {epoch} · {losses} · {speed} · {left} left",
                    self.total
                ));
            }
        }
    }

    fn saved(&self, iteration: u64, signal: &str) {
        self.note(&format!(
            "{signal}: the state after iteration {iteration} is saved; training goes on"
        ));
    }

    fn evaluation(&self, evaluation: &Evaluation) {
        let Evaluation { iteration, evaluation, eval_s, .. } = evaluation;
        let values =
            evaluation.iter().map(|(name, value)| format!("{name} {}", five_digits(*value)));
        let values = values.collect::<Vec<_>>().join(" · ");
        self.note(&format!("iteration {iteration}: {values} · evaluated in {eval_s:.1} s"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
