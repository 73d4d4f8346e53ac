//! Errors that callers tell apart. [`anyhow::Error`] carries every error of this library; `is` and `downcast_ref`
//! find those of these kinds in it, whatever context was added.
//!
//! Texts name settings as files do (`batch-size`), never a flag or a command: the library does not know whether there
//! are any. A program that has flags says them itself, from a [`SettingError`]'s field and from the kind of a
//! [`Fixable`] error.

use std::path::PathBuf;

use thiserror::Error;

/// A request that cannot be fulfilled as it is, and that the user can correct.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A setting's value is not allowed, or does not fit the other settings or the machine.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{setting}{}: {problem}", .value.as_ref().map(|value| format!(" {value}")).unwrap_or_default())]
pub struct SettingError {
    /// The setting's name, as in files.
    pub setting: String,
    /// The value, where the problem does not name it.
    pub value: Option<String>,
    /// What was expected and what was found.
    pub problem: String,
}

impl SettingError {
    /// A problem with the setting of this name.
    pub fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), value: None, problem: problem.into() }
    }

    /// A problem with this value of the setting of this name.
    pub fn of_value(
        setting: impl Into<String>,
        value: impl ToString,
        problem: impl Into<String>,
    ) -> Self {
        Self { value: Some(value.to_string()), ..Self::new(setting, problem) }
    }
}

/// An error that the user can do something about. What that is depends on the program, so the program says it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fixable {
    /// There is no run of this name.
    #[error("{0}: there is no such run")]
    NoSuchRun(String),
    /// What was to be imported is the checkpoint of a run already.
    #[error("{}: is a checkpoint already, which a run can begin from as it is", .0.display())]
    IsCheckpoint(PathBuf),
    /// A run has lost its state; its settings, in the file at `config`, are enough to repeat it.
    #[error("{problem}")]
    StateIsLost {
        /// The run's settings.
        config: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file of a public data set could not be downloaded.
    #[error("{problem}")]
    NotFetched {
        /// The data set's name.
        collection: String,
        /// What is wrong, and what each mirror had.
        problem: String,
    },
    /// Images of a data set cannot be read, and are not to be left out.
    #[error("{0}")]
    UnreadableImages(String),
    /// More images of a data set cannot be read than may be left out.
    #[error("{0}")]
    TooManyUnreadableImages(String),
    /// Memory does not suffice for networks of this size.
    #[error("{0}")]
    NetworksTooLarge(String),
    /// Memory does not suffice for training networks of this size on batches of this size.
    #[error("{0}")]
    TrainingTooLarge(String),
}

/// Whether an error is wrong usage, rather than something that went wrong: programs tell the two apart by their
/// exit code.
pub fn is_usage(error: &anyhow::Error) -> bool {
    let is_fixable_usage =
        |fixable: &Fixable| matches!(fixable, Fixable::NoSuchRun(_) | Fixable::IsCheckpoint(_));
    error.is::<Usage>()
        || error.is::<SettingError>()
        || error.downcast_ref().is_some_and(is_fixable_usage)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn usage_is_found_below_any_context() {
        let usage = [
            anyhow!(Usage("x".to_owned())),
            anyhow!(SettingError::new("seed", "x")),
            anyhow!(Fixable::NoSuchRun("x".to_owned())),
        ];
        for error in usage {
            assert!(is_usage(&error.context("while it did that").context("and that")));
        }
        assert!(!is_usage(&anyhow!("x")));
        assert!(!is_usage(&anyhow!(Fixable::UnreadableImages("x".to_owned()))));
    }

    #[test]
    fn a_setting_is_named_as_in_files_with_its_value_where_that_is_not_told() {
        let error = SettingError::new("batch-size", "expected 1 to 65536, found 0");
        assert_eq!(error.to_string(), "batch-size: expected 1 to 65536, found 0");
        let error = SettingError::of_value("device", "mps", "there is none");
        assert_eq!(error.to_string(), "device mps: there is none");
    }
}
