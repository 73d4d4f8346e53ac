//! Who is told how a run goes, while it goes.

use std::fmt;

use super::watch::Collapse;
use crate::record::jsonl::{Evaluation, Metrics};

/// What a training run tells a program that wants to show it. Nothing here decides anything: a run is the same
/// whoever observes it.
pub trait Observer: fmt::Debug {
    /// Something is wrong that does not stop the run.
    fn warn(&self, text: &str);
    /// A sign of collapse has appeared, and the settings say to train on.
    fn collapse(&self, iteration: u64, collapse: &Collapse) {
        self.warn(&format!("iteration {iteration}: {collapse}"));
    }
    /// Training begins, or resumes, after `iteration`.
    fn begin(&self, _iteration: u64) {}
    /// `iteration` is done.
    fn advance(&self, _iteration: u64) {}
    /// A line of metrics was written.
    fn log(&self, _metrics: &Metrics) {}
    /// Samples were evaluated.
    fn evaluation(&self, _evaluation: &Evaluation) {}
}

/// Tells nobody anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn warn(&self, _text: &str) {}
}
