//! Newer images: which registry is asked when, what follows from its answer, and the way back from one that fails.
//!
//! One host asks for a container: the live one with its lowest slot. What it finds is one key beside the claims, guarded
//! by the manifest and by the key itself, and the key's revision is that of a new version: everything after it is an
//! update as any other. The manifest is never written. The way back is the same key again, with the image before and
//! the digest that failed, which is skipped from then on.

use std::time::Duration;

use manifests::{ContainerId, Manifest};
use model::Scope;
use model::images::ImageQuestion;
use model::records::{FoundImage, SkippedImage, Version};
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner, mod_rev};
use model::{VersionId, Write};
use xxhash_rust::xxh3::xxh3_64;

use crate::inputs::Inputs;
use crate::output::Report;
use crate::rollout::{self, Target};
use crate::turn::Turn;

/// Asks registries for newer images of the containers whose first slot is here, and takes what they have.
pub(crate) fn newer_images(inputs: &Inputs<'_>) -> Report {
    let mut report = Report::default();
    let me = &inputs.host.name;
    for (id, container) in inputs.own_containers() {
        let policy = container.wanted().and_then(|m| m.image_policy.as_ref());
        let write = way_back(id, container).or_else(|| decided(id, container));
        if policy.is_none() && write.is_none() {
            continue;
        }
        // It costs as much as the container has slots.
        let turn = Turn::among_owners(inputs.snapshot, container, me);
        if policy.is_some() && turn.is_first() {
            report.notes.followed.insert(id.clone());
        }
        if let Some(write) = write {
            let scope = Scope::Container(id.clone());
            if inputs.is_my_turn(&mut report.notes, &scope, Some(turn)) {
                report.writes.push(write);
            }
        } else if turn.is_first() {
            follow(inputs, id, container, &mut report);
        }
    }
    report
}

/// The registry is asked for this container by this host: when, and what follows.
fn follow(inputs: &Inputs<'_>, id: &ContainerId, container: &ContainerView, report: &mut Report) {
    let Some(manifest) = container.wanted().filter(|manifest| !manifest.stopped) else {
        return;
    };
    let Some(policy) = &manifest.image_policy else {
        return;
    };
    let Some(present) = Present::of(container, manifest) else {
        return;
    };
    if !present.may_change(inputs, id, container) {
        return;
    }
    let check = inputs.memory.checks.get(id);
    let version = present.target.rev();
    let said = check.and_then(|check| check.said_of(version));
    if let Some(newer) = said.filter(|said| said.digest != present.digest) {
        let skipped = rollout::skipped(container);
        let is_skipped = skipped.iter().any(|one| one.digest == newer.digest);
        if !is_skipped || !inputs.rules.has(Rule::SkippedImage) {
            let found = FoundImage {
                of: FoundImage::hash_of(manifest),
                image: newer.image.clone(),
                digest: newer.digest.clone(),
                since: Some(newer.at),
                back_from: None,
                skipped: skipped.to_vec(),
            };
            let (manifest, before) = revisions(container);
            report
                .writes
                .push(Write::found(id.clone(), found, manifest, before));
            return;
        }
    }
    let Some(check) = check else { return };
    let Some(due) = check.due(policy.check, part_of(policy.check, id)) else {
        return;
    };
    if inputs.now < due {
        report.notes.requeue(due);
        return;
    }
    report.asks.push(ImageQuestion {
        container: id.clone(),
        version,
        image: present.image.to_owned(),
        tags: policy.tags.clone(),
    });
}

/// The image that is to be run now.
struct Present<'a> {
    target: Target<'a>,
    image: &'a str,
    digest: &'a str,
}

impl<'a> Present<'a> {
    /// None while nobody has decided what the manifest's image is.
    fn of(container: &'a ContainerView, manifest: &'a Manifest) -> Option<Self> {
        let target = Target::of(container)?;
        let (image, digest) = match &target {
            Target::Decided { version, .. } => name_and_digest(&version.version, manifest),
            Target::Undecided {
                found: Some(found), ..
            } => (found.image.as_str(), found.digest.as_str()),
            Target::Undecided { found: None, .. } => return None,
        };
        Some(Self {
            target,
            image,
            digest,
        })
    }

    /// No update is under way: it has come to its end, or can't.
    fn may_change(&self, inputs: &Inputs<'_>, id: &ContainerId, container: &ContainerView) -> bool {
        let rev = self.target.rev();
        if let Some(mark) = rollout::mark(container) {
            if mark.version == rev && mark.failed {
                return !mark.paused;
            }
            // What nobody has, or wants, any more may be left in it.
            let is_placed = |number: &u32| {
                let slot = container.slots.get(number);
                container.is_wanted(*number)
                    && slot
                        .is_some_and(|slot| matches!(inputs.snapshot.owner(slot), Owner::Live(_)))
            };
            if mark.paused || mark.updating.iter().any(is_placed) {
                return false;
            }
        }
        if let Target::Undecided { .. } = self.target {
            let trouble = inputs.memory.images.get(id);
            return trouble.is_some_and(|trouble| trouble.rev == rev);
        }
        let mut slots = container.slots.iter();
        slots.all(|(number, slot)| {
            let outdated = match inputs.snapshot.owner(slot) {
                Owner::Live(claim) => self.target.outdates(container, claim.version),
                Owner::Nobody | Owner::Lost(_) => false,
            };
            !outdated || !container.is_wanted(*number)
        })
    }
}

/// The name and digest of a version's image.
fn name_and_digest<'a>(version: &'a Version, manifest: &'a Manifest) -> (&'a str, &'a str) {
    let name = version.found.as_deref().unwrap_or(&manifest.image);
    (name, &version.image)
}

/// The write by which the image before is run again, since the update to one that was found was halted; none if it is
/// the way back that has failed, or if there is none.
fn way_back(id: &ContainerId, container: &ContainerView) -> Option<Write> {
    let failed = container.found()?;
    let target = Target::of(container)?;
    if failed.back_from.is_some() || !target.was_given_up(container) {
        return None;
    }
    let mark = rollout::mark(container)?;
    let manifest = container.wanted()?;
    let skipped = FoundImage::skip_also(
        rollout::skipped(container),
        SkippedImage {
            image: failed.image.clone(),
            digest: failed.digest.clone(),
            why: format!("{}: {}", mark.failed_at(), mark.reason),
        },
    );
    let before = rollout::image_before(container, target.rev(), manifest, &skipped)?;
    let (image, digest) = name_and_digest(before, manifest);
    let back = FoundImage {
        of: failed.of.clone(),
        image: image.to_owned(),
        digest: digest.to_owned(),
        since: None,
        back_from: Some(failed.digest.clone()),
        skipped,
    };
    let (manifest, before) = revisions(container);
    Some(Write::went_back(id.clone(), back, manifest, before))
}

/// The version of an image that ran before, or still does, is decided, though no slot may be outdated by it: what is not
/// decided can't be followed.
fn decided(id: &ContainerId, container: &ContainerView) -> Option<Write> {
    let policy = container.wanted()?.image_policy.as_ref();
    if policy.is_none() && container.found().is_none() {
        return None;
    }
    let target = Target::of(container)?;
    rollout::decided_again(id, container, &target)
        .or_else(|| rollout::decided_as_it_runs(id, container, &target))
}

/// What is to be run where somebody goes back to the image of an earlier version: it, and not what is run now, nor what
/// the registry had when it was asked last. None if it is no version of this manifest, or not known by its digest.
pub fn went_back(container: &ContainerView, to: VersionId) -> Option<FoundImage> {
    let manifest = container.wanted()?;
    let version = rollout::image_of(container, to, manifest)?;
    let (image, digest) = name_and_digest(version, manifest);
    let now = Present::of(container, manifest).filter(|now| now.digest != digest);
    let mut skipped = rollout::skipped(container).to_vec();
    skipped.retain(|one| one.digest != digest);
    if let Some(now) = &now {
        let one = SkippedImage {
            image: now.image.to_owned(),
            digest: now.digest.to_owned(),
            why: "somebody went back from it".to_owned(),
        };
        skipped = FoundImage::skip_also(&skipped, one);
    }
    Some(FoundImage {
        of: FoundImage::hash_of(manifest),
        image: image.to_owned(),
        digest: digest.to_owned(),
        since: None,
        back_from: now.map(|now| now.digest.to_owned()),
        skipped,
    })
}

/// Of the manifest, and of the image that was found for it.
fn revisions(container: &ContainerView) -> (model::ModRev, model::ModRev) {
    (
        mod_rev(container.manifest.as_ref()),
        mod_rev(container.last_found.as_ref()),
    )
}

/// A part of a time, by the container: what a host follows is not asked for all at once.
fn part_of(whole: Duration, id: &ContainerId) -> Duration {
    let of_all = xxh3_64(id.to_string().as_bytes()) % 1_000;
    whole.mul_f64(of_all as f64 / 1_000.0)
}
