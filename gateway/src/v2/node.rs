//! Nodes and events as v2 shows them.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use super::ttl::Ttl;

/// Action of an event or answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// A read; never an event.
    Get,
    /// Created or replaced.
    Set,
    /// Created.
    Create,
    /// Replaced.
    Update,
    /// Replaced after a comparison.
    CompareAndSwap,
    /// Deleted.
    Delete,
    /// Deleted after a comparison.
    CompareAndDelete,
    /// Expired.
    Expire,
}

impl Action {
    /// It removes the key, and all keys below a directory.
    pub fn removes(self) -> bool {
        matches!(self, Self::Delete | Self::CompareAndDelete | Self::Expire)
    }
}

/// A file or directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct V2Node {
    /// Its key; empty for the root, which has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// A file's value.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "text")]
    pub value: Option<Arc<[u8]>>,
    /// It is a directory.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dir: bool,
    /// When it ends by itself, if it does.
    #[serde(flatten)]
    pub ttl: Option<Ttl>,
    /// Its nodes, if requested.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<V2Node>,
    /// The index of its last change; 0 for the root.
    #[serde(rename = "modifiedIndex", skip_serializing_if = "is_zero")]
    pub modified: i64,
    /// The index of its creation; 0 for the root.
    #[serde(rename = "createdIndex", skip_serializing_if = "is_zero")]
    pub created: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(index: &i64) -> bool {
    *index == 0
}

/// v3 values are bytes, JSON's are text.
#[expect(clippy::ref_option, reason = "serde passes references")]
fn text<S: Serializer>(value: &Option<Arc<[u8]>>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = value
        .as_ref()
        .map_or(Cow::Borrowed(""), |value| String::from_utf8_lossy(value));
    serializer.serialize_str(&text)
}

/// One change, or the answer to a read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct V2Event {
    /// Its action.
    pub action: Action,
    /// The node after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<V2Node>,
    /// The node before it.
    #[serde(rename = "prevNode", skip_serializing_if = "Option::is_none")]
    pub prev: Option<V2Node>,
    /// Waits are not told: a refresh.
    #[serde(skip)]
    pub silent: bool,
}

impl V2Event {
    /// The answer to a read.
    pub fn get(node: V2Node) -> Self {
        Self {
            action: Action::Get,
            node: Some(node),
            prev: None,
            silent: false,
        }
    }

    /// Its index.
    pub fn index(&self) -> i64 {
        self.node.as_ref().map_or(0, |node| node.modified)
    }

    /// The key it happened at.
    pub fn key(&self) -> &str {
        self.node.as_ref().map_or("", |node| node.key.as_str())
    }

    /// It created a node.
    pub fn is_creation(&self) -> bool {
        match self.action {
            Action::Create => true,
            Action::Set => self.prev.is_none(),
            _ => false,
        }
    }

    /// Approximate memory.
    pub fn size(&self) -> usize {
        let node = |node: &Option<V2Node>| {
            node.as_ref().map_or(0, |node| {
                node.key.len() + node.value.as_ref().map_or(0, |value| value.len())
            })
        };
        size_of::<Self>() + node(&self.node) + node(&self.prev)
    }

    /// The answer's body.
    pub fn body(&self) -> Vec<u8> {
        super::json::line(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_shows_an_empty_value_and_a_directory_none() {
        let file = V2Node {
            key: "/a".into(),
            value: Some(Arc::from(&b""[..])),
            modified: 3,
            created: 2,
            ..V2Node::default()
        };
        let dir = V2Node {
            dir: true,
            nodes: vec![file.clone()],
            ..V2Node::default()
        };
        let event = V2Event {
            action: Action::CompareAndSwap,
            node: Some(dir),
            prev: None,
            silent: false,
        };
        assert_eq!(
            String::from_utf8(event.body()).expect("text"),
            concat!(
                r#"{"action":"compareAndSwap","node":{"dir":true,"nodes":[{"key":"/a","#,
                r#""value":"","modifiedIndex":3,"createdIndex":2}]}}"#,
                "\n"
            )
        );
    }
}
