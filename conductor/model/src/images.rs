//! What hosts ask each other about their images.

use serde::{Deserialize, Serialize};

/// An image that a host lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedImage {
    /// Its name in the manifest.
    pub name: String,
    /// Its id on the host that decided; none if any image of that name will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it is made of, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

impl WantedImage {
    /// Whether an image of this id and content is the one.
    pub fn is(&self, id: &str, content: &str) -> bool {
        match (&self.id, &self.content) {
            (None, None) => true,
            (wanted_id, wanted) => {
                wanted_id.as_deref() == Some(id) || wanted.as_deref() == Some(content)
            }
        }
    }
}

/// An image that a host has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedImage {
    /// Its id there.
    pub id: String,
    /// What it is made of.
    pub content: String,
    /// Its size on disk in bytes.
    pub bytes: u64,
    /// When it was made, in Unix seconds.
    pub created: i64,
    /// It is in a registry.
    pub in_registry: bool,
    /// As many hosts fetch images there as may at a time.
    pub busy: bool,
}
