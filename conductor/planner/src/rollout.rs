//! The rollout of a version.
//!
//! Which version: [`Target::of`] the container, `of_slot` for a slot that runs,
//! [`placed_anew`] for one that is claimed. When an update was halted the other
//! slots stay as they are, or all go back; what is placed anew runs the last
//! good version. Whose turn it is, and what halts an update, is in `update.rs`.
//!
//! A version counts only if it was written after the manifest was created as
//! it is now.

use std::collections::BTreeSet;
use std::sync::Arc;

use manifests::manifest::Pull;
use manifests::update::{Before, OnFailure, Update};
use manifests::{ContainerId, Manifest, canonical};
use model::manifest_text::ManifestText;
use model::records::{Claim, FoundImage, LOCAL, Rollout, SkippedImage, Version};
use model::snapshot::{ContainerView, Desired, ParsedVersion, Rev, mod_rev};
use model::{ModRev, VersionId, Write};

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
        /// The image, where it was found for this manifest; its revision becomes the key then.
        found: Option<&'a FoundImage>,
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
                // A PUT that changes nothing asks for what the registry has, where that is what `pull` means.
                let goes_on = |found: &&Rev<FoundImage>| {
                    found.modified >= desired.modified || manifest.pull != Pull::Always
                };
                if let Some(found) = container.found().filter(goes_on) {
                    let rev = found.modified.version();
                    return Some(decided(container, rev).unwrap_or(Self::Undecided {
                        rev,
                        manifest,
                        text,
                        found: Some(&found.value),
                    }));
                }
                if let Some((rev, version, old)) = newest
                    && (rev == desired.modified.version()
                        || (is_same(old, manifest)
                            && !asks_again(manifest, text, version)
                            && !prepares_otherwise(manifest, version)))
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
                    found: None,
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

    /// Instances of it may start: what its manifest wants to run before has been done. Of one whose image nobody has
    /// decided that is not known.
    pub fn is_prepared(&self) -> bool {
        matches!(self, Self::Decided { version, .. } if is_prepared(version))
    }

    /// The update to it was halted.
    pub fn was_given_up(&self, container: &ContainerView) -> bool {
        let mark = mark(container);
        mark.is_some_and(|mark| mark.failed && mark.version == self.rev())
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
            Self::Undecided {
                found: Some(found),
                manifest,
                ..
            } => {
                let own = old.manifest.as_ref();
                old.version.image != found.digest || own.is_none_or(|own| !is_same(own, manifest))
            }
            Self::Undecided { manifest, .. } => {
                // A redeploy of `pull: always` differs in nothing but what the registry has now.
                manifest.pull == Pull::Always
                    || old
                        .manifest
                        .as_ref()
                        .is_none_or(|old| !is_same(old, manifest))
            }
        }
    }
}

/// The version of a slot that runs `rev`. While the manifest can't be read, or an update is halted, each slot stays with
/// what it has, and one that failed is tried on; or all go back.
pub(crate) fn of_slot(container: &ContainerView, slot: u32, rev: VersionId) -> Option<Target<'_>> {
    let target = Target::of(container)?;
    let is_invalid = |manifest: &Rev<Desired>| matches!(manifest.value, Desired::Invalid(_));
    let stays = if target.was_given_up(container) {
        if goes_back(container) {
            return good_before(container, target.rev()).or(Some(target));
        }
        let mark = mark(container);
        !mark.is_some_and(|mark| mark.failures.contains(&slot))
    } else {
        container.manifest.as_ref().is_some_and(is_invalid)
    };
    if !stays || rev == target.rev() {
        return Some(target);
    }
    let own = decided(container, rev).filter(Target::is_prepared);
    own.or_else(|| placed_anew(container))
}

/// The version of a slot that is claimed now: the target, or the last good version if the update to it was halted.
pub fn placed_anew(container: &ContainerView) -> Option<Target<'_>> {
    let target = Target::of(container)?;
    if !target.was_given_up(container) {
        let waits = matches!(target, Target::Decided { .. }) && !target.is_prepared();
        let runs = waits.then(|| good_before(container, target.rev()));
        return runs.flatten().or(Some(target));
    }
    let is_good = matches!(&target, Target::Decided { version, .. } if version.version.good);
    if is_good && !goes_back(container) {
        return Some(target);
    }
    good_before(container, target.rev()).or(Some(target))
}

/// The version of a slot whose container is gone: it needs none that nobody has decided or prepared yet, if there is
/// another version that it can run meanwhile.
pub(crate) fn made_anew<'a>(
    container: &'a ContainerView,
    rev: VersionId,
    target: Target<'a>,
    cannot_be_had: bool,
) -> Target<'a> {
    match target {
        Target::Undecided { .. } => {
            let good = || last_good(container).filter(|_| cannot_be_had);
            let own = decided(container, rev).filter(Target::is_prepared);
            own.or_else(good).unwrap_or(target)
        }
        Target::Decided { version, .. } if !is_prepared(version) => decided(container, rev)
            .filter(Target::is_prepared)
            .or_else(|| good_before(container, target.rev()))
            .unwrap_or(target),
        Target::Decided { .. } => target,
    }
}

/// What its manifest wants to run before it has been done, or there is nothing of the kind. One of which an instance was
/// ready has been prepared, whatever a restore has lost.
pub(crate) fn is_prepared(version: &ParsedVersion) -> bool {
    let wants = version.own.as_ref().and_then(|own| own.before.as_ref());
    version.version.prepared || version.version.good || wants.is_none()
}

/// The version that a slot of this one runs where it is handed over to. None while a new one is being decided or
/// prepared: the handover would only be given up again.
pub(crate) fn handed_over(container: &ContainerView, claimed: VersionId) -> Option<VersionId> {
    let target = placed_anew(container)?;
    if target.is_prepared() {
        return Some(target.rev());
    }
    let may_run = match container.versions.get(&claimed) {
        Some(version) => is_prepared(version),
        None => target.manifest().before.is_none(),
    };
    (may_run && !target.outdates(container, claimed)).then_some(claimed)
}

/// As `is_prepared`, of a version that is decided.
pub(crate) fn is_runnable(container: &ContainerView, rev: VersionId) -> bool {
    let version = container.versions.get(&rev);
    version.is_some_and(|version| is_prepared(version))
}

/// What was to run before it was never done, and the user wants something else by now.
fn prepares_otherwise(manifest: &Manifest, newest: &ParsedVersion) -> bool {
    let wanted = newest.own.as_ref().and_then(|own| own.before.as_ref());
    !is_prepared(newest) && wanted != manifest.before.as_ref()
}

/// What the manifest of a new version of this image wants to run before it has run for the same container, as for one
/// that is only restarted.
pub fn begins_prepared(container: &ContainerView, manifest: &Manifest, image: &str) -> bool {
    let plain = |manifest: &Manifest| Manifest {
        restarted_at: None,
        ..manifest.clone()
    };
    let has_run = |version: &ParsedVersion| {
        let own = version.own.as_ref().filter(|_| version.version.prepared);
        own.is_some_and(|own| {
            own.before == manifest.before
                && version.version.image == image
                && canonical::same_container(&plain(own), &plain(manifest))
        })
    };
    manifest.before.is_some() && counting(container).any(|(_, version, _)| has_run(version))
}

/// What will run before any instance of the version that slots are to run, as far as can be told before its image is
/// decided.
pub(crate) fn to_run_before(container: &ContainerView) -> Option<&Before> {
    let target = Target::of(container)?;
    let has_run = match &target {
        Target::Decided { version, .. } => is_prepared(version),
        Target::Undecided { manifest, .. } => {
            let is_of = |own: &Manifest| own.image == manifest.image;
            let newest = counting(container).rfind(|(_, _, own)| is_of(own));
            newest.is_some_and(|(_, version, _)| {
                begins_prepared(container, manifest, &version.version.image)
            })
        }
    };
    target.manifest().before.as_ref().filter(|_| !has_run)
}

/// An earlier decision on the image of this very container, as when a change is taken back; or on the image that was
/// found for it.
fn decided_before<'a>(
    container: &'a ContainerView,
    manifest: &Manifest,
    found: Option<&FoundImage>,
) -> Option<&'a Version> {
    if let Some(found) = found {
        return counting(container)
            .rfind(|(_, version, old)| {
                version.version.image == found.digest && is_same(old, manifest)
            })
            .map(|(_, version, _)| &version.version);
    }
    if manifest.pull == Pull::Always {
        return None;
    }
    counting(container)
        .rfind(|(_, version, old)| {
            let own = version.own.as_ref();
            own.is_some_and(|own| own.pull == manifest.pull) && is_same(old, manifest)
        })
        .map(|(_, version, _)| &version.version)
}

/// The write by which an earlier decision counts for this version too, if there is one.
pub(crate) fn decided_again(
    id: &ContainerId,
    container: &ContainerView,
    target: &Target<'_>,
) -> Option<Write> {
    let Target::Undecided {
        rev,
        manifest,
        text,
        found,
    } = target
    else {
        return None;
    };
    let before = decided_before(container, manifest, *found)?;
    let version = Version {
        manifest: (*text).clone(),
        ..before.clone()
    };
    Some(decided_write(id, container, (*rev, version), *found))
}

/// The manifest that it was claimed for was deleted, and another was written since. Its owner has not adopted it.
pub fn precedes(container: &ContainerView, claim: &Rev<Claim>) -> bool {
    let manifest = container.manifest.as_ref();
    manifest.is_some_and(|manifest| claim.modified < manifest.created)
}

/// As `decided_again`, by what slots still run from before the manifest was deleted and written again.
pub(crate) fn decided_as_it_runs(
    id: &ContainerId,
    container: &ContainerView,
    target: &Target<'_>,
) -> Option<Write> {
    let Target::Undecided {
        rev,
        manifest,
        text,
        found: None,
    } = target
    else {
        return None;
    };
    let is_it = |version: &ParsedVersion| {
        let own = version.own.as_ref();
        // What was found in the registry is what this manifest wants, too, if it wants to have newer ones.
        let is_wanted = version.version.found.is_none() || manifest.image_policy.is_some();
        manifest.pull != Pull::Always
            && is_wanted
            && own.is_some_and(|own| own.pull == manifest.pull && is_same(own, manifest))
    };
    let claims = container.slots.values().filter_map(|s| s.claim.as_ref());
    let runs = claims.filter_map(|claim| {
        let version = container.versions.get(&claim.version)?;
        is_it(version).then_some((claim.version, &version.version))
    });
    // An update may have been under way, to an image that has not proven itself.
    let (_, runs) = runs.max_by_key(|(rev, version)| (version.good, *rev))?;
    let version = Version {
        manifest: (*text).clone(),
        ..runs.clone()
    };
    Some(decided_write(id, container, (*rev, version), None))
}

/// The write by which the image of a version is decided.
pub fn decided_write(
    id: &ContainerId,
    container: &ContainerView,
    (rev, version): (VersionId, Version),
    found: Option<&FoundImage>,
) -> Write {
    let Some(found) = found else {
        return Write::version(id.clone(), rev, version);
    };
    let version = Version {
        found: Some(found.image.clone()),
        ..version
    };
    let manifest = mod_rev(container.manifest.as_ref());
    Write::version_of_found(id.clone(), rev, version, manifest)
}

/// Both mean the same container of the same image.
pub(crate) fn is_same(one: &Manifest, other: &Manifest) -> bool {
    one.image == other.image && canonical::same_container(one, other)
}

/// A version whose image is decided.
fn decided(container: &ContainerView, rev: VersionId) -> Option<Target<'_>> {
    let version = container.versions.get(&rev)?;
    let manifest = version.manifest.as_ref()?;
    Some(Target::Decided {
        rev,
        version,
        manifest,
    })
}

/// The version that all slots go back to, since the update was halted.
pub fn back_to(container: &ContainerView) -> Option<VersionId> {
    let target = Target::of(container)?;
    let goes = target.was_given_up(container) && goes_back(container);
    let back = good_before(container, target.rev()).filter(|_| goes)?;
    Some(back.rev())
}

/// The rollout mark, if it was written after the manifest was created as it is.
pub(crate) fn mark(container: &ContainerView) -> Option<&Rev<Rollout>> {
    let created = container.manifest.as_ref()?.created;
    container.rollout.as_ref().filter(|r| r.modified > created)
}

/// The update policy; the default where the manifest can't be read.
pub(crate) fn policy(container: &ContainerView) -> Update {
    container
        .wanted()
        .map_or_else(Update::default, |manifest| manifest.update.clone())
}

/// A halted update is taken back.
fn goes_back(container: &ContainerView) -> bool {
    policy(container).on_failure == OnFailure::Rollback
}

/// The version before this one, of the same manifest, whose image may be run again: the newest that has proven itself,
/// else the newest. What is known by an id only can't be asked for by its digest.
pub(crate) fn image_before<'a>(
    container: &'a ContainerView,
    rev: VersionId,
    manifest: &Manifest,
    skipped: &[SkippedImage],
) -> Option<&'a Version> {
    let may_run = |version: &&'a Version| {
        let is_skipped = skipped.iter().any(|one| one.digest == version.image);
        !is_skipped && !version.image.starts_with(LOCAL)
    };
    let before = || {
        counting(container)
            .filter(|(old, _, own)| *old < rev && is_same(own, manifest))
            .map(|(_, version, _)| &version.version)
            .filter(may_run)
    };
    before()
        .rfind(|version| version.good)
        .or_else(|| before().next_back())
}

/// This version, if it is one of the same manifest, and its image can be asked for by its digest.
pub(crate) fn image_of<'a>(
    container: &'a ContainerView,
    rev: VersionId,
    manifest: &Manifest,
) -> Option<&'a Version> {
    let mut all = counting(container);
    let (_, version, own) = all.find(|(id, ..)| *id == rev)?;
    let is_known = is_same(own, manifest) && !version.version.image.starts_with(LOCAL);
    is_known.then_some(&version.version)
}

/// The newest version before this one that has proven itself; without one, the newest before it. None that was never
/// prepared.
fn good_before(container: &ContainerView, rev: VersionId) -> Option<Target<'_>> {
    let is_older = |old: VersionId, version: &ParsedVersion| old < rev && is_prepared(version);
    let older = || counting(container).filter(|(old, version, _)| is_older(*old, version));
    older()
        .rfind(|(_, version, _)| version.version.good)
        .or_else(|| older().next_back())
        .and_then(|(rev, ..)| decided(container, rev))
}

/// Images that are not run, whatever the registry says.
pub fn skipped(container: &ContainerView) -> &[SkippedImage] {
    container.found().map_or(&[], |found| &found.skipped)
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

/// Versions that can be deleted: all but the last five, the newest good one, the one that is wanted and those that run.
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
    // Its revision is an old one where the manifest means an image again that was found long ago.
    keep.extend(Target::of(container).map(|target| target.rev()));
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

/// The newest version that got ready once; without one, the newest. None that was never prepared.
fn last_good(container: &ContainerView) -> Option<Target<'_>> {
    let runnable = || counting(container).filter(|(_, version, _)| is_prepared(version));
    runnable()
        .rfind(|(_, version, _)| version.version.good)
        .or_else(|| runnable().next_back())
        .and_then(|(rev, ..)| decided(container, rev))
}

/// Versions that count and can be read, oldest first.
pub fn counting(
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
