//! What a person sees of a run: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::jsonl::{Evaluation, Metrics};
use super::numbers::five_digits;

/// How much to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors and warnings alone.
    Quiet,
    /// Where the run goes and how it goes.
    #[default]
    Normal,
    /// The layers and settings too.
    Verbose,
}

impl Verbosity {
    /// As usual, unless nothing is to be said.
    pub fn unless(quiet: bool) -> Self {
        if quiet { Self::Quiet } else { Self::Normal }
    }
}

/// Writes a line to standard error. Where nobody reads any more, `eprintln!` would panic; what goes on
/// behind the line need not stop.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The progress of fetching, decoding and sampling, on a terminal alone.
#[derive(Debug)]
pub struct Work {
    is_shown: bool,
    bar: Option<ProgressBar>,
    /// What the bar is of.
    name: String,
}

impl Work {
    /// Nothing is shown before there is work.
    pub fn new(verbosity: Verbosity) -> Self {
        let is_shown = verbosity >= Verbosity::Normal && std::io::stderr().is_terminal();
        Self { is_shown, bar: None, name: String::new() }
    }

    /// So many files are to be decoded.
    pub fn files(&mut self, count: usize) {
        self.show(
            "decoding",
            Some(count as u64),
            "{msg} {bar:24.cyan/blue} {pos}/{len} · {eta} left",
        );
    }

    /// So many images are to be made.
    pub fn images(&mut self, count: usize) {
        self.show(
            "sampling",
            Some(count as u64),
            "{msg} {bar:24.cyan/blue} {pos}/{len} · {per_sec} · {eta} left",
        );
    }

    /// So many frames of a film are to be made.
    pub fn frames(&mut self, count: usize) {
        self.show(
            "filming",
            Some(count as u64),
            "{msg} {bar:24.cyan/blue} {pos}/{len} · {eta} left",
        );
    }

    /// So many steps of a classifier's training.
    pub fn steps(&mut self, count: usize) {
        self.show(
            "training a classifier",
            Some(count as u64),
            "{msg} {bar:24.cyan/blue} {pos}/{len} · {eta} left",
        );
    }

    /// Features of so many images are to be computed.
    pub fn features(&mut self, count: usize) {
        self.show(
            "features",
            Some(count as u64),
            "{msg} {bar:24.cyan/blue} {pos}/{len} · {per_sec} · {eta} left",
        );
    }

    /// So many images are to be compared with.
    pub fn comparisons(&mut self, count: usize) {
        self.show(
            "comparing",
            Some(count as u64),
            "{msg} {bar:24.cyan/blue} {pos}/{len} · {eta} left",
        );
    }

    /// So many more files are decoded, images made or frames filmed.
    pub fn advance(&mut self, count: usize) {
        if self.bar.is_none() {
            self.show("decoding", None, "{msg} {pos} files");
        }
        if let Some(bar) = &self.bar {
            bar.inc(count as u64);
        }
    }

    /// Of file `name`, `bytes` are there, of `total`.
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

    /// Something that is wrong but does not stop the work.
    pub fn warn(&self, text: &str) {
        let text = format!("warning: {text}");
        match &self.bar {
            Some(bar) => bar.suspend(|| say(&text)),
            None => say(&text),
        }
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

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

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
            // What does not fit into the line is cut off at its end.
            let template = "{bar:12.cyan/blue} {pos}/{len} · {eta} left · {wide_msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self { verbosity, total, bar }
    }

    /// A sentence about the run.
    pub fn note(&self, text: &str) {
        if self.verbosity >= Verbosity::Normal {
            self.print(text);
        }
    }

    /// Something that is wrong but does not stop the run; said even when quiet.
    pub fn warn(&self, text: &str) {
        self.print(&format!("warning: {text}"));
    }

    /// Training goes on after `iteration`.
    pub fn begin(&self, iteration: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(iteration);
            // The jump is no speed.
            bar.reset_eta();
        }
    }

    /// After every iteration.
    pub fn advance(&self, iteration: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(iteration);
        }
    }

    /// After every logged iteration.
    pub fn log(&self, metrics: &Metrics) {
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

    /// After an evaluation.
    pub fn evaluation(&self, evaluation: &Evaluation) {
        let Evaluation { iteration, evaluation, eval_s, .. } = evaluation;
        let values =
            evaluation.iter().map(|(name, value)| format!("{name} {}", five_digits(*value)));
        let values = values.collect::<Vec<_>>().join(" · ");
        self.note(&format!("iteration {iteration}: {values} · evaluated in {eval_s:.1} s"));
    }

    fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
