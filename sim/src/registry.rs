//! The registry that all hosts ask.

use std::collections::BTreeMap;

use manifests::Manifest;

use crate::engine::{IMAGES, digest};

/// The images that are followed.
pub(crate) const REPOSITORY: &str = "good:";

/// What the registry has.
#[derive(Debug)]
pub struct Registry {
    /// Digests, by name.
    pub(crate) images: BTreeMap<String, String>,
    pub(crate) pushes: u64,
}

impl Default for Registry {
    fn default() -> Self {
        let images = IMAGES.iter().enumerate();
        let images = images.map(|(number, name)| ((*name).to_owned(), digest(number as u64)));
        Self {
            images: images.collect(),
            pushes: 0,
        }
    }
}

impl Registry {
    /// What a manifest's policy means now, from this image on.
    pub(crate) fn newest(&self, manifest: &Manifest, present: &str) -> Option<(String, String)> {
        let policy = manifest.image_policy.as_ref()?;
        let mut image = present.to_owned();
        if let Some(pattern) = &policy.tags {
            let tags = self.images.keys();
            let tags = tags.filter_map(|name| name.strip_prefix(REPOSITORY));
            let newest = pattern.newest(present.strip_prefix(REPOSITORY), tags)?;
            image = format!("{REPOSITORY}{newest}");
        }
        let digest = self.images.get(&image)?;
        Some((image, digest.clone()))
    }
}
