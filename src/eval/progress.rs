//! What an evaluation reports while it works, so that a program can show how far it is.

use super::classifier::Classifier;

/// A part of an evaluation that takes a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A classifier is trained; the work is counted in steps.
    ClassifierTraining,
    /// Features are computed; the work is counted in images.
    Features,
    /// Images are compared with real ones; the work is counted in real images.
    Comparison,
}

/// What has just happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A stage begins, which has so much work.
    Begun(Stage, usize),
    /// So much more of the stage's work is done.
    Advanced(usize),
    /// A classifier has been trained, because the cache had none for these images.
    ClassifierTrained {
        /// The classifier.
        classifier: &'a Classifier,
        /// How long that took.
        seconds: f64,
    },
}
