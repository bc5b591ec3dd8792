//! The rollout of a version.
//!
//! - Which version: [`Target::of`] the container, `of_slot` for a slot that
//!   runs, [`placed_anew`] for one that is claimed.
//! - Whose `turn` it is to be updated: one slot at a time, in order of number.
//! - When it is `good`, and when an update is given up (`give_up`): the
//!   other slots stay as they are, and what is placed anew runs the last good
//!   version.
//!
//! A version counts only if it was written after the manifest was created as
//! it is now.

use model::ModRev;
use model::VersionId;
use model::manifest_text::ManifestText;
use model::snapshot::mod_rev;
use std::collections::BTreeSet;
use std::sync::Arc;

use manifests::manifest::Pull;
use manifests::{ContainerId, Manifest, SlotId, canonical};
use model::Write;
use model::records::{Phase, Rollout};
use model::snapshot::{ContainerView, Desired, Owner, ParsedVersion, Rev, Snapshot};

use crate::memory::InstanceMemory;
use crate::waiting::{Failure, Waiting};

/// The newest versions, that stay whether anything needs them or not.
const KEPT: usize = 5;

/// The version that a slot should run.
#[derive(Debug, Clone)]
pub enum Target<'a> {
    /// A version whose image is decided.
    Decided {
        /// Its key.
        rev: VersionId,
        /// The version.
        version: &'a Rev<ParsedVersion>,
        /// Its manifest.
        manifest: &'a Arc<Manifest>,
    },
    /// The newest manifest; nobody has decided its image yet.
    Undecided {
        /// The manifest's revision, which becomes the version's key.
        rev: VersionId,
        /// The manifest.
        manifest: &'a Arc<Manifest>,
        /// As it was written.
        text: &'a ManifestText,
    },
}

impl<'a> Target<'a> {
    /// The version that the slots of this container should run; none without a manifest, or without any version that can
    /// be run.
    pub fn of(container: &'a ContainerView) -> Option<Self> {
        let desired = container.manifest.as_ref()?;
        let newest = counting(container).next_back();
        match &desired.value {
            Desired::Valid { manifest, text, .. } => {
                if let Some((rev, version, old)) = newest
                    && (rev == desired.modified.version()
                        || (old.image == manifest.image
                            && canonical::same_container(old, manifest)
                            && !asks_again(manifest, text, version)))
                {
                    return Some(Self::Decided {
                        rev,
                        version,
                        manifest: old,
                    });
                }
                Some(Self::Undecided {
                    rev: desired.modified.version(),
                    manifest,
                    text,
                })
            }
            Desired::Invalid(_) => last_good(container),
        }
    }

    /// Key of the version, present or future.
    pub fn rev(&self) -> VersionId {
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

    /// An instance of the version `rev` has to be replaced to run this.
    pub fn outdates(&self, container: &ContainerView, rev: VersionId) -> bool {
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

/// The version of a slot that runs `rev`. While an update is given up, or the manifest can't be read, each slot stays with
/// what it has; only the slot that failed is tried on.
pub(crate) fn of_slot(container: &ContainerView, rev: VersionId) -> Option<Target<'_>> {
    let target = Target::of(container)?;
    let is_invalid = |manifest: &Rev<Desired>| matches!(manifest.value, Desired::Invalid(_));
    let is_halted =
        target.was_given_up(container) || container.manifest.as_ref().is_some_and(is_invalid);
    if !is_halted || rev == target.rev() {
        return Some(target);
    }
    let present = container.versions.get(&rev).and_then(|version| {
        let manifest = version.manifest.as_ref()?;
        Some(Target::Decided {
            rev,
            version,
            manifest,
        })
    });
    present.or_else(|| placed_anew(container))
}

/// The version of a slot that is claimed now: the target, or the last good version if the update to it was given up.
pub fn placed_anew(container: &ContainerView) -> Option<Target<'_>> {
    let target = Target::of(container)?;
    if target.was_given_up(container) {
        return last_good(container).or(Some(target));
    }
    Some(target)
}

/// The turn of a slot to be updated: one at a time, in order of number. Every lower slot has to be ready on
/// the new version, if a live host has it.
pub(crate) fn turn(
    snapshot: &Snapshot,
    container: &ContainerView,
    slot: u32,
    target: &Target<'_>,
) -> Result<(), Waiting> {
    for (number, view) in container.slots.range(..slot) {
        let Owner::Live(claim) = snapshot.owner(view) else {
            continue;
        };
        if !container.is_wanted(*number) {
            continue;
        }
        let state = view.current_state();
        let is_ready = state.is_some_and(|state| state.state == Phase::Ready);
        if !is_ready || target.outdates(container, claim.version) {
            return Err(Waiting::LowerSlot(*number));
        }
    }
    Ok(())
}

/// Notes that a version got ready: it is one to fall back to.
pub(crate) fn good(container: &ContainerView, id: &ContainerId, rev: VersionId) -> Option<Write> {
    let version = container.versions.get(&rev).filter(|v| !v.version.good)?;
    Some(Write::good(
        id.clone(),
        rev,
        version.version.clone(),
        version.modified,
    ))
}

/// Gives an update up when the first instance of its version failed. It is none without an older version to stay with;
/// and what slots stay with after an update was given up is not given up in its turn.
pub(crate) fn give_up(
    container: &ContainerView,
    slot: &SlotId,
    rev: VersionId,
    instance: &InstanceMemory,
    target: &Target<'_>,
    failure: Failure,
) -> Option<Write> {
    let has_failed = instance.ends > 0 || instance.running_since.is_some();
    let is_update = container.versions.keys().any(|rev| *rev < target.rev());
    let is_wanted = Target::of(container).is_some_and(|wanted| wanted.rev() == target.rev());
    if !has_failed
        || instance.was_ready
        || !is_update
        || !is_wanted
        || target.outdates(container, rev)
        || target.was_given_up(container)
    {
        return None;
    }
    Some(Write::rollout(
        slot.container.clone(),
        Rollout {
            version: target.rev(),
            failed: true,
            slot: slot.slot,
            reason: failure.to_string(),
        },
        container.manifest.as_ref()?.modified,
        mod_rev(container.rollout.as_ref()),
    ))
}

/// Versions that can be deleted: all but the last five, the newest good one and those that run.
pub fn superfluous(container: &ContainerView) -> Vec<(VersionId, ModRev)> {
    if container.versions.size() <= KEPT {
        return Vec::new();
    }
    let newest = container.versions.keys().rev().take(KEPT);
    let mut keep: BTreeSet<VersionId> = newest.copied().collect();
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
                .map(|c| c.version),
        );
    }
    container
        .versions
        .iter()
        .filter(|(rev, _)| !keep.contains(rev))
        .map(|(rev, version)| (*rev, version.modified))
        .collect()
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

/// Versions that count, oldest first.
fn counting(
    container: &ContainerView,
) -> impl DoubleEndedIterator<Item = (VersionId, &Rev<ParsedVersion>, &Arc<Manifest>)> {
    let since = container
        .manifest
        .as_ref()
        .map_or(ModRev(i64::MAX), |m| m.created);
    container
        .versions
        .iter()
        .filter(move |(rev, version)| rev.manifest_rev() >= since && version.modified > since)
        .filter_map(|(rev, version)| Some((*rev, version, version.manifest.as_ref()?)))
}

/// A PUT without any change and `pull: always`: the user wants what the registry has now.
fn asks_again(manifest: &Manifest, text: &ManifestText, newest: &ParsedVersion) -> bool {
    manifest.pull == Pull::Always && newest.version.manifest == *text
}
