//! What a person sees of a run: a bar on a terminal, plain lines elsewhere, nothing when quiet.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::jsonl::Metrics;

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

/// Writes a line to standard error. Where nobody reads any more, `eprintln!` would panic; what goes on
/// behind the line need not stop.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
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
