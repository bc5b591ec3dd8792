//! How full the disk of the Docker Engine is, and which images make room on it.
//!
//! Only an image goes that this agent pulled, that no container of the engine
//! is made from and that no version in etcd means: it costs a pull at most.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use manifests::image::Reference;
use serde::{Deserialize, Serialize};

use crate::records::LOCAL;
use crate::snapshot::{ContainerView, Desired, Snapshot};

/// So long an image stays after it was pulled or used: what it was pulled for may not be seen in etcd yet.
pub const REST: Duration = Duration::from_secs(600);

/// A change of the percentage that is worth a write.
const STEP: u8 = 5;
/// So far below a limit it has to fall to count as below it again.
const SLACK: u8 = 2;

/// Where a disk counts as too full, in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskLimits {
    /// From here on images are removed.
    pub collect: u8,
    /// From here on the host gets nothing new.
    pub full: u8,
}

impl Default for DiskLimits {
    fn default() -> Self {
        Self {
            collect: 85,
            full: 95,
        }
    }
}

/// What a file system holds and what still fits, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// What is used.
    pub used: u64,
    /// What can still be written.
    pub available: u64,
}

impl DiskUsage {
    /// How full it is in percent, rounded up, as `df` says it: what only root may use counts neither way.
    pub fn percent(self) -> u8 {
        let used = u128::from(self.used) * 100;
        let whole = u128::from(self.used) + u128::from(self.available);
        match whole {
            0 => 100,
            whole => used.div_ceil(whole) as u8,
        }
    }

    /// Whether so many bytes more leave it less full than this percentage.
    pub fn has_room(self, bytes: u64, below: u8) -> bool {
        let after = Self {
            used: self.used.saturating_add(bytes),
            available: self.available.saturating_sub(bytes),
        };
        bytes <= self.available && after.percent() < below
    }
}

/// An image of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// Its id, `sha256:…`.
    pub id: String,
    /// Its tags and then its digests: `repository:tag`, `repository@sha256:…`.
    pub names: Vec<String>,
    /// A container is made from it, running or not, whoever's it is.
    pub used: bool,
}

/// What is known of an image that this agent pulled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PulledImage {
    /// The names that it was pulled by, or given when it came from another host.
    pub names: BTreeSet<String>,
    /// What it is made of, if it came from another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// When it was pulled or a container was made from it last, in Unix milliseconds by this host's clock.
    pub used: i64,
}

impl PulledImage {
    /// It was pulled from this repository.
    pub fn is_pulled_from(&self, repository: &str) -> bool {
        self.content.is_none() && self.explains(&format!("{repository}@"))
    }

    /// An image gets the name by being pulled as this one was.
    fn explains(&self, name: &str) -> bool {
        let of_repository = |repository: &str| {
            let parsed = self.names.iter().filter_map(|n| n.parse().ok());
            let mut repositories = parsed.map(|n: Reference| n.familiar_repository());
            repositories.any(|pulled| pulled == repository)
        };
        self.names.contains(name)
            || name
                .split_once('@')
                .is_some_and(|(repository, _)| of_repository(repository))
    }
}

/// The images that this agent pulled or got from another host, by id.
pub type PulledImages = BTreeMap<String, PulledImage>;

/// The images that may go, the one that was not used for longest first.
///
/// `wanted`: names and ids that must stay. `now`: Unix milliseconds by this host's clock.
pub fn images_to_remove<'a>(
    images: &'a [LocalImage],
    pulled: &PulledImages,
    wanted: &BTreeSet<String>,
    now: i64,
) -> Vec<&'a LocalImage> {
    let mut removable: Vec<(i64, &LocalImage)> = images
        .iter()
        .filter(|image| !image.used && !wanted.contains(&image.id))
        .filter(|image| !image.names.iter().any(|name| wanted.contains(name)))
        .filter_map(|image| Some((pulled.get(&image.id)?, image)))
        .filter(|(pulled, _)| {
            let content = pulled.content.as_ref();
            content.is_none_or(|content| !wanted.contains(content))
        })
        // A name that somebody else gave it is a wish to keep it.
        .filter(|(pulled, image)| image.names.iter().all(|name| pulled.explains(name)))
        // Where the clock was set back, it rests once more.
        .filter(|(pulled, _)| now.saturating_sub(pulled.used) >= REST.as_millis() as i64)
        .map(|(pulled, image)| (pulled.used, image))
        .collect();
    removable.sort_by(|one, other| (one.0, &one.1.id).cmp(&(other.0, &other.1.id)));
    removable.into_iter().map(|(_, image)| image).collect()
}

/// The names and ids of all images that a manifest or a version of the cluster means.
pub fn images_of(snapshot: &Snapshot) -> BTreeSet<String> {
    let containers = snapshot.containers.values();
    containers
        .flat_map(|container| images_of_container(container))
        .collect()
}

fn images_of_container(container: &ContainerView) -> Vec<String> {
    let mut images = Vec::new();
    let desired = container.manifest.as_ref().map(|manifest| &manifest.value);
    if let Some(Desired::Valid { manifest, .. }) = desired {
        images.extend(parsed(&manifest.image).map(|name| name.familiar()));
    }
    for version in container.versions.values() {
        let decided = &version.version.image;
        if let Some(id) = decided.strip_prefix(LOCAL) {
            images.push(id.to_owned());
            images.extend(version.version.content.clone());
        }
        // Read from the text: this agent may not understand the rest of the manifest.
        let manifest = version.version.manifest.value();
        let name = manifest.get("image");
        let Some(name) = name.and_then(|name| parsed(name.as_str()?)) else {
            continue;
        };
        images.push(name.familiar());
        images.push(format!("{}@{decided}", name.familiar_repository()));
    }
    images
}

fn parsed(name: &str) -> Option<Reference> {
    name.parse().ok()
}

/// What the host's record says of the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskReport {
    /// How full it is; none if that is not known.
    pub percent: Option<u8>,
    /// That is too full for another container.
    pub full: bool,
}

impl DiskReport {
    /// What it should say after a look: the same, unless the change is worth a write, which wakes every agent.
    #[must_use]
    pub fn after(self, percent: Option<u8>, limits: DiskLimits) -> Self {
        let full = is_reached(limits.full, self.full, percent);
        let told = self.percent.is_some_and(|told| told >= limits.collect);
        let collects = is_reached(limits.collect, told, percent);
        let moved = match (self.percent, percent) {
            (Some(told), Some(percent)) => told.abs_diff(percent) >= STEP,
            (told, percent) => told != percent,
        };
        if moved || full != self.full || collects != told {
            Self { percent, full }
        } else {
            self
        }
    }
}

/// Whether a limit counts as reached: below it, once it is, only by a margin.
fn is_reached(limit: u8, reached: bool, percent: Option<u8>) -> bool {
    let margin = if reached { SLACK - 1 } else { 0 };
    percent.is_some_and(|percent| percent.saturating_add(margin) >= limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Change;

    const NOW: i64 = 1_000_000_000;
    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn image(id: &str, names: &[&str]) -> LocalImage {
        LocalImage {
            id: id.to_owned(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
            used: false,
        }
    }

    fn pulled(names: &[&str], used: i64) -> PulledImage {
        PulledImage {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            content: None,
            used,
        }
    }

    fn ids(images: Vec<&LocalImage>) -> Vec<&str> {
        images.iter().map(|image| image.id.as_str()).collect()
    }

    #[test]
    fn a_copy_stays_while_a_version_means_what_it_is_made_of() {
        let copy = PulledImage {
            content: Some("sha256:content".to_owned()),
            ..pulled(&[], 0)
        };
        // In another store it has another id than in the version.
        let here = [image("sha256:here", &[])];
        let pulled = [("sha256:here".to_owned(), copy)].into();
        let left = |wanted: &[&str]| {
            let wanted = wanted.iter().map(|&name| name.to_owned()).collect();
            images_to_remove(&here, &pulled, &wanted, NOW).len()
        };
        assert_eq!(left(&["sha256:there", "sha256:content"]), 0);
        assert_eq!(left(&["sha256:there", "sha256:other"]), 1);
    }

    #[test]
    fn a_digest_is_known_by_a_pull_and_not_by_a_copy() {
        let named = pulled(&["team/app:1"], 0);
        assert!(named.is_pulled_from("team/app"));
        assert!(!named.is_pulled_from("team/other"));
        let copy = PulledImage {
            content: Some("sha256:content".to_owned()),
            ..named
        };
        assert!(!copy.is_pulled_from("team/app"));
    }

    #[test]
    fn a_disk_is_as_full_as_df_says() {
        for (used, available, percent) in [
            (0, 100, 0),
            (1, 999, 1),
            (850, 150, 85),
            (851, 149, 86),
            (100, 0, 100),
            (0, 0, 100),
            (u64::MAX, u64::MAX, 50),
        ] {
            assert_eq!(DiskUsage { used, available }.percent(), percent);
        }
    }

    #[test]
    fn there_is_room_for_what_leaves_a_disk_below_its_limit() {
        let disk = DiskUsage {
            used: 800,
            available: 200,
        };
        for (bytes, below, room) in [
            (0, 80, false),
            (0, 81, true),
            (40, 85, true),
            (50, 85, false),
            (200, 101, true),
            (201, 255, false),
            (u64::MAX, 255, false),
        ] {
            assert_eq!(disk.has_room(bytes, below), room, "{bytes} {below}");
        }
    }

    #[test]
    fn what_was_pulled_and_nobody_needs_goes_oldest_first() {
        let digest = format!("nginx@{DIGEST}");
        let images = [
            image("foreign", &["mine:1"]),
            image("young", &["young:1"]),
            image("new", &["new:1"]),
            image("old", &["nginx:1", &digest]),
            image("nameless", &[]),
            LocalImage {
                used: true,
                ..image("in-use", &["in-use:1"])
            },
            image("named", &["named:1"]),
            image("named-by-id", &["other:1"]),
            image("tagged-by-others", &["team/app:1", "mine:2"]),
            image("other-repository", &["mirror/app@sha256:b"]),
        ];
        let rested = NOW - REST.as_millis() as i64;
        let record: PulledImages = [
            ("young", pulled(&["young:1"], rested + 1)),
            ("new", pulled(&["new:1"], rested)),
            ("old", pulled(&["nginx:1"], 5)),
            ("nameless", pulled(&["nginx:2"], 7)),
            ("in-use", pulled(&["in-use:1"], 1)),
            ("named", pulled(&["named:1"], 1)),
            ("named-by-id", pulled(&["other:1"], 1)),
            ("tagged-by-others", pulled(&["team/app:1"], 1)),
            ("other-repository", pulled(&["team/app:1"], 1)),
            ("gone", pulled(&["gone:1"], 1)),
        ]
        .map(|(id, pulled)| (id.to_owned(), pulled))
        .into();
        let wanted = ["named:1", "named-by-id"].map(str::to_owned).into();
        let removable = images_to_remove(&images, &record, &wanted, NOW);
        assert_eq!(ids(removable), ["old", "nameless", "new"]);
        // The clock was set back.
        let removable = images_to_remove(&images, &record, &wanted, 6);
        assert!(removable.is_empty());
    }

    #[test]
    fn what_a_manifest_or_a_version_means_stays() {
        let mut snapshot = Snapshot::default();
        let put = |key: &str, value: serde_json::Value| Change::Put {
            key: key.to_owned(),
            value: value.to_string().into_bytes(),
            modified: 7,
            created: 7,
        };
        let manifest = |image: &str| serde_json::json!({"image": image});
        let version = |manifest: serde_json::Value, image: &str| serde_json::json!({"manifest": manifest, "image": image});
        let unknown =
            serde_json::json!({"image": "docker.io/library/later", "of": "a later agent"});
        snapshot.apply(
            [
                put("/apps/shop/web/manifest", manifest("nginx")),
                put(
                    "/claims/shop/web/versions/5",
                    version(manifest("nginx:1"), DIGEST),
                ),
                put(
                    "/claims/shop/gone/versions/6",
                    version(unknown, "local:sha256:id"),
                ),
                put("/apps/shop/bad/manifest", manifest("No Image")),
            ],
            7,
        );
        let images = images_of(&snapshot);
        for name in [
            "nginx:latest",
            "nginx:1",
            &format!("nginx@{DIGEST}"),
            "later:latest",
            "sha256:id",
        ] {
            assert!(images.contains(name), "{name} of {images:?}");
        }
    }

    #[test]
    fn a_wobble_is_not_told() {
        let limits = DiskLimits::default();
        for (told, now, worth) in [
            (None, None, false),
            (None, Some(3), true),
            (Some(3), None, true),
            (Some(50), Some(54), false),
            (Some(50), Some(55), true),
            (Some(50), Some(45), true),
            (Some(84), Some(85), true),
            (Some(85), Some(84), false),
            (Some(85), Some(83), true),
            (Some(94), Some(95), true),
            (Some(95), Some(94), false),
            (Some(95), Some(93), true),
            (Some(96), Some(100), false),
        ] {
            let before = DiskReport::default().after(told, limits);
            let after = before.after(now, limits);
            assert_eq!(before.percent, told);
            assert_eq!(after != before, worth, "{told:?} {now:?}");
        }
    }

    #[test]
    fn a_full_disk_is_full_until_it_is_clearly_not() {
        let limits = DiskLimits::default();
        let mut report = DiskReport::default();
        for (percent, full) in [
            (Some(94), false),
            (Some(95), true),
            (Some(94), true),
            (Some(93), false),
            (Some(94), false),
            (Some(99), true),
            (None, false),
        ] {
            report = report.after(percent, limits);
            assert_eq!(report.full, full, "{percent:?}");
        }
    }
}
