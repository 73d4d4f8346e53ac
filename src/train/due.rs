//! What is due after which iteration. All ranks ask here, so that they do the same.

use crate::run::watch::READ_EVERY;
use crate::settings::TrainConfig;

/// An epoch of this many iterations or more ends with a checkpoint.
const LONG_EPOCH: u64 = 50;

/// Why a checkpoint is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The settings ask for a checkpoint at this iteration.
    Scheduled,
    /// A signal came, or this is the last iteration. Rollbacks never return to such a checkpoint: a run that
    /// was not interrupted, or that had more iterations from the start, would not have it, and every run with
    /// the same settings has to roll back to the same iteration.
    Unscheduled,
}

/// What is due after an iteration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// A line of metrics.
    pub(super) is_logged: bool,
    /// A look of the watch for collapse.
    pub(super) is_checked: bool,
    /// A sample grid.
    pub(super) is_sampled: bool,
    /// Histograms of weights and gradients.
    pub(super) has_histograms: bool,
    /// An evaluation, if the run has any.
    pub(super) is_evaluated: bool,
    /// A checkpoint.
    pub(super) saved: Option<Occasion>,
}

impl Due {
    /// After iteration number `iteration` of `total`, of which an epoch has `per_epoch`.
    pub(super) fn after(iteration: u64, total: u64, per_epoch: u64, config: &TrainConfig) -> Self {
        let is_last = iteration == total;
        let is_due = |every: u64| every > 0 && iteration.is_multiple_of(every);
        let every = config.checkpoint_every;
        let is_scheduled =
            is_due(every) || every > 0 && per_epoch >= LONG_EPOCH && is_due(per_epoch);
        Self {
            is_logged: is_due(config.log_every) || is_last,
            is_checked: is_due(READ_EVERY),
            is_sampled: is_due(config.sample_every) || is_last,
            has_histograms: config.histograms.is_some_and(is_due),
            is_evaluated: is_due(config.eval_every) || is_last,
            saved: match (is_scheduled, is_last) {
                (true, _) => Some(Occasion::Scheduled),
                (false, true) => Some(Occasion::Unscheduled),
                (false, false) => None,
            },
        }
    }
}
