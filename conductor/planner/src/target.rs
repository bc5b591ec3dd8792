//! Which version the slots of a container should run.
//!
//! A version counts only if it was written after the manifest was created as
//! it is now. An update that was given up leaves the other slots as they are,
//! and what is placed anew runs the last good version.

use std::sync::Arc;

use manifests::manifest::Pull;
use manifests::{Manifest, canonical};

use model::snapshot::{ContainerView, Desired, ParsedVersion, Rev};

/// What the user wants to run now.
#[derive(Debug, Clone)]
pub enum Target<'a> {
    /// A version whose image is decided.
    Decided {
        /// Its key.
        rev: i64,
        /// The version.
        version: &'a Rev<ParsedVersion>,
        /// Its manifest.
        manifest: &'a Arc<Manifest>,
    },
    /// The newest manifest; nobody has decided its image yet.
    Undecided {
        /// The manifest's revision, which becomes the version's key.
        rev: i64,
        /// The manifest.
        manifest: &'a Arc<Manifest>,
        /// As it was written.
        json: &'a Arc<serde_json::Value>,
    },
}

impl<'a> Target<'a> {
    /// What the slots of this container should run; none without a manifest, or if nothing that counts can be run.
    pub fn of(container: &'a ContainerView) -> Option<Self> {
        let desired = container.manifest.as_ref()?;
        let newest = counting(container).next_back();
        match &desired.value {
            Desired::Valid { manifest, json, .. } => {
                if let Some((rev, version, old)) = newest
                    && (rev == desired.modified
                        || (old.image == manifest.image
                            && canonical::same_container(old, manifest)
                            && !asks_again(manifest, json, version)))
                {
                    return Some(Self::Decided {
                        rev,
                        version,
                        manifest: old,
                    });
                }
                Some(Self::Undecided {
                    rev: desired.modified,
                    manifest,
                    json,
                })
            }
            Desired::Invalid(_) => last_good(container),
        }
    }

    /// The version's key, present or future.
    pub fn rev(&self) -> i64 {
        match self {
            Self::Decided { rev, .. } | Self::Undecided { rev, .. } => *rev,
        }
    }

    /// The manifest to run.
    pub fn manifest(&self) -> &'a Arc<Manifest> {
        match self {
            Self::Decided { manifest, .. } | Self::Undecided { manifest, .. } => manifest,
        }
    }

    /// The update to it was given up.
    pub fn was_given_up(&self, container: &ContainerView) -> bool {
        match (&container.rollout, &container.manifest) {
            (Some(rollout), Some(manifest)) => {
                rollout.failed
                    && rollout.version == self.rev()
                    && rollout.modified > manifest.created
            }
            _ => false,
        }
    }

    /// An instance of the version `rev` would have to be replaced to run this.
    pub fn outdates(&self, container: &ContainerView, rev: i64) -> bool {
        if rev == self.rev() {
            return false;
        }
        let Some(old) = container.versions.get(&rev) else {
            return true;
        };
        match self {
            Self::Decided { version, .. } => old.hash != version.hash,
            Self::Undecided { manifest, .. } => {
                // A redeploy of `pull: always` differs in nothing but what the registry has now.
                manifest.pull == Pull::Always
                    || old.manifest.as_ref().is_none_or(|old| {
                        old.image != manifest.image || !canonical::same_container(old, manifest)
                    })
            }
        }
    }
}

/// What a slot that is placed anew runs: the target, or the last good version where the update to it was given up.
pub fn placed_anew(container: &ContainerView) -> Option<Target<'_>> {
    let target = Target::of(container)?;
    if target.was_given_up(container) {
        return last_good(container).or(Some(target));
    }
    Some(target)
}

/// The newest version that got ready once; without one, the newest.
fn last_good(container: &ContainerView) -> Option<Target<'_>> {
    counting(container)
        .rfind(|(_, version, _)| version.version.good)
        .or_else(|| counting(container).next_back())
        .map(|(rev, version, manifest)| Target::Decided {
            rev,
            version,
            manifest,
        })
}

/// The versions that count, oldest first.
fn counting(
    container: &ContainerView,
) -> impl DoubleEndedIterator<Item = (i64, &Rev<ParsedVersion>, &Arc<Manifest>)> {
    let since = container.manifest.as_ref().map_or(i64::MAX, |m| m.created);
    container
        .versions
        .iter()
        .filter(move |(rev, version)| **rev >= since && version.modified > since)
        .filter_map(|(rev, version)| Some((*rev, version, version.manifest.as_ref()?)))
}

/// `pull: always` and a PUT without any change: the user wants what the registry has now.
fn asks_again(manifest: &Manifest, json: &serde_json::Value, newest: &ParsedVersion) -> bool {
    manifest.pull == Pull::Always && newest.version.manifest == *json
}

/// Versions that nobody needs any more: all but the last five, the newest good one and those that run.
pub fn superfluous(container: &ContainerView) -> Vec<(i64, i64)> {
    let mut keep: std::collections::BTreeSet<i64> =
        container.versions.keys().rev().take(5).copied().collect();
    keep.extend(
        container
            .versions
            .iter()
            .rfind(|(_, v)| v.version.good)
            .map(|(rev, _)| *rev),
    );
    for slot in container.slots.values() {
        keep.extend(
            [&slot.claim, &slot.next]
                .into_iter()
                .flatten()
                .map(|c| c.manifest_rev),
        );
    }
    container
        .versions
        .iter()
        .filter(|(rev, _)| !keep.contains(rev))
        .map(|(rev, version)| (*rev, version.modified))
        .collect()
}
