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
    /// It is still being received there, and passed on as it comes.
    #[serde(default)]
    pub receiving: bool,
    /// Hosts that fetch this image there now.
    #[serde(default)]
    pub serving: u32,
}

/// An archive that a host asks another one for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedArchive {
    /// The image's id there.
    pub id: String,
    /// Only while that host serves at most so many others of this image; an older host says nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beside: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_of_an_older_host_is_one_of_a_whole_image_that_serves_nobody() {
        let older =
            r#"{"id":"a","content":"b","bytes":1,"created":2,"in_registry":false,"busy":true}"#;
        let offer: OfferedImage = serde_json::from_str(older).expect("an offer");
        assert!(offer.busy && !offer.receiving && offer.serving == 0);
    }
}
