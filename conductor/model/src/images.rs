//! What hosts ask each other, and registries, about images.

use std::time::Duration;

use manifests::ContainerId;
use manifests::image_policy::TagPattern;
use serde::{Deserialize, Serialize};

use crate::revision::VersionId;

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

/// What a registry is asked: whether it has a newer image for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageQuestion {
    /// The container.
    pub container: ContainerId,
    /// Its version, whose image is known.
    pub version: VersionId,
    /// Name of that image, with its tag.
    pub image: String,
    /// Tags of which the newest is asked for; none: that of the image.
    pub tags: Option<TagPattern>,
}

/// What it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageAnswer {
    /// The container.
    pub container: ContainerId,
    /// The version that was asked about.
    pub version: VersionId,
    /// The image; or why there is no answer.
    pub said: Result<RegistryImage, NoAnswer>,
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryImage {
    /// Its name, with its tag.
    pub image: String,
    /// Its digest now.
    pub digest: String,
    /// When that was, in Unix seconds.
    pub at: i64,
}

/// No answer of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAnswer {
    /// Why, for people.
    pub reason: String,
    /// It wants to be left alone for so long.
    pub retry_after: Option<Duration>,
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
