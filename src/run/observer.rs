//! The interface through which a run reports its progress while it trains.

use std::fmt;

use super::watch::Collapse;
use crate::record::jsonl::{Evaluation, Metrics};

/// What a training run reports to a program that wants to show its progress. An observer decides nothing: a run is the
/// same whether and however it is observed.
pub trait Observer: fmt::Debug {
    /// Something has gone wrong that does not stop the run.
    fn warn(&self, text: &str);
    /// A sign of collapse has appeared, and the settings say that training continues.
    fn collapse(&self, iteration: u64, collapse: &Collapse) {
        self.warn(&format!("iteration {iteration}: {collapse}"));
    }
    /// Training begins, or resumes, after `iteration`.
    fn begin(&self, _iteration: u64) {}
    /// `iteration` is done.
    fn advance(&self, _iteration: u64) {}
    /// A line of metrics was written.
    fn log(&self, _metrics: &Metrics) {}
    /// The state after `iteration` was saved because the signal of this name asked for it.
    fn saved(&self, _iteration: u64, _signal: &str) {}
    /// Samples were evaluated.
    fn evaluation(&self, _evaluation: &Evaluation) {}
}

/// An observer that ignores all reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn warn(&self, _text: &str) {}
}
