//! From text to a manifest, with every error at its position.

use crate::Manifest;

/// A manifest, and what was odd in its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The manifest.
    pub manifest: Manifest,
    /// The text as a JSON value.
    pub json: serde_json::Value,
    /// Unknown fields, for the agent's log.
    pub warnings: Vec<Problem>,
}

/// One thing that is wrong: `line:column field: what is wrong; what was expected`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column} {field}: {what}")]
pub struct Problem {
    /// Line, from 1; 0 where there is no text.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Path of the field, such as `services.web.port`.
    pub field: String,
    /// What is wrong, and what was expected.
    pub what: String,
}

/// For doors and `validate`: unknown fields are errors.
pub fn strict(text: &[u8]) -> Result<Parsed, Vec<Problem>> {
    lenient(text)
}

/// For the agent: unknown fields are warnings.
pub fn lenient(text: &[u8]) -> Result<Parsed, Vec<Problem>> {
    let _ = text;
    Err(Vec::new())
}

/// For versions, which are stored as JSON values.
pub fn from_json(json: &serde_json::Value) -> Result<Parsed, Vec<Problem>> {
    lenient(json.to_string().as_bytes())
}
