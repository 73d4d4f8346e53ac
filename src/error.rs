//! Wrong usage and wrong settings, which are exit status 2.

use std::fmt;

/// Something the user can put right in the command or the configuration file.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A setting that cannot be what it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct SettingError {
    /// The setting's name, as in files.
    pub setting: String,
    /// What was expected and what was found.
    pub problem: String,
}

impl SettingError {
    /// A problem with the setting of this name.
    pub fn new(setting: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { setting: setting.into(), problem: problem.into() }
    }
}
