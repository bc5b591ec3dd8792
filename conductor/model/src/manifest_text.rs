//! A manifest as it was written, kept as text: a tree of values takes ten times the memory.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A manifest as the user wrote it: its JSON value without spaces and with keys in order. Texts of equal values are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Value", into = "Value")]
pub struct ManifestText(Arc<str>);

impl ManifestText {
    /// As a value.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl From<Value> for ManifestText {
    fn from(mut value: Value) -> Self {
        value.sort_all_objects();
        Self(value.to_string().into())
    }
}

impl From<ManifestText> for Value {
    fn from(text: ManifestText) -> Self {
        text.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_equal_texts_and_the_value_is_kept() {
        let read = |text: &str| serde_json::from_str::<ManifestText>(text).expect("JSON");
        let text = read(r#"{ "image": "a", "env": {"B": "1", "A": 2.50} }"#);
        assert_eq!(text, read(r#"{"env":{"A":2.5,"B":"1"},"image":"a"}"#));
        assert_ne!(text, read(r#"{"env":{"A":2.5,"B":"1"},"image":"b"}"#));
        let again = serde_json::to_string(&text).expect("JSON");
        assert_eq!(read(&again), text);
    }
}
