//! What is wrong with a configuration.

/// A flag that contradicts another or the machine; one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {what}")]
pub(crate) struct ConfigError {
    pub(crate) flag: &'static str,
    /// What is wrong, and what was expected.
    pub(crate) what: String,
}

impl ConfigError {
    pub(super) fn new(flag: &'static str, what: impl Into<String>) -> Self {
        Self {
            flag,
            what: what.into(),
        }
    }
}
