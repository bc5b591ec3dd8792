//! Wire types of `/dokkaa/v1`: plain values, shared with the CLI.
//!
//! Fields are only ever added. Readers ignore what they do not know.

mod check;
mod hosts;
mod lines;
mod manifests;
mod names;
mod operator;
mod plan;
mod slots;
mod updates;
mod why;

use serde::{Deserialize, Serialize};

pub use check::*;
pub use hosts::*;
pub use lines::*;
pub use manifests::*;
pub use names::*;
pub use operator::*;
pub use plan::*;
pub use slots::*;
pub use updates::*;
pub use why::*;

/// Body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// One line for people.
    pub error: String,
    /// Errors of a manifest, each `line:column field: what`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The manifest's revision, where a precondition failed; 0 is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
}

impl ApiError {
    /// An error with this text alone.
    pub fn new(error: impl Into<String>) -> Self {
        Self {
            error: error.into(),
            problems: Vec::new(),
            revision: None,
        }
    }
}
