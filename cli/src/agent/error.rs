//! The error that ends an agent for good.

use model::error::chain;

/// Wrong configuration, or something that only the operator can change: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misconfigured(pub(crate) String);

impl Misconfigured {
    /// With the error's causes.
    pub(super) fn by(error: impl std::error::Error + 'static) -> Self {
        Self(chain(&error))
    }
}
