//! The update of a container, slot after slot.
//!
//! `/claims/<app>/<container>/rollout` says which slots are being updated, which have failed, and whether the update is
//! halted. It is one key, so that of two owners who take a slot at once only one succeeds: never more slots are down on
//! purpose than the policy allows. A slot holds its place there until its new instance has been ready for `monitor` and
//! `delay`, whatever was written meanwhile.

use std::collections::BTreeSet;

use manifests::update::{OnFailure, Order};
use manifests::{ContainerId, HostName, SlotId};
use model::records::{Phase, Rollout};
use model::snapshot::{ContainerView, Owner, SlotView, Snapshot, mod_rev};
use model::time::Millis;
use model::{VersionId, Write};

use crate::disruption::Pause;
use crate::memory::InstanceMemory;
use crate::output::Notes;
use crate::rollout::{Target, mark, of_slot, policy};
use crate::waiting::{Failure, Waiting};

/// Whether a slot is updated now.
#[derive(Debug, PartialEq)]
pub(crate) enum Turn {
    /// It is.
    Now,
    /// Once it is noted as one that is being updated.
    Noted(Box<Write>),
    /// It waits.
    Waits(Waiting),
}

/// What is known of the update to the newest version: the mark, or a new one with the slots that are still down for an
/// earlier one.
pub fn rollout(container: &ContainerView) -> Option<Rollout> {
    let target = Target::of(container)?;
    let version = target.rev();
    let mark = mark(container).map(|mark| &mark.value);
    Some(match mark {
        Some(mark) if mark.version == version => mark.clone(),
        _ => {
            let mut rollout = Rollout::to(version);
            if let Some(mark) = mark {
                rollout.updating.clone_from(&mark.updating);
                rollout.restart.clone_from(&mark.restart);
            }
            // What is updated needs no restart.
            rollout.restart.retain(|number, _| {
                let claim = container.claim(*number);
                claim.is_some_and(|claim| !target.outdates(container, claim.version))
            });
            rollout
        }
    })
}

/// The instance of this slot is to be replaced by another of its version.
pub fn is_restarting(container: &ContainerView, number: u32) -> bool {
    let goes = mark(container).and_then(|mark| mark.restart.get(&number));
    let claim = container.claim(number);
    goes.is_some_and(|goes| claim.is_some_and(|claim| claim.instance == *goes))
}

/// Its slot is being updated, or has failed in the update. A restart says nothing about a version.
pub(crate) fn is_watched(container: &ContainerView, number: u32) -> bool {
    mark(container).is_some_and(|mark| {
        (mark.updating.contains(&number) || mark.failures.contains(&number))
            && !mark.restart.contains_key(&number)
    })
}

/// The mark by which a slot gets another instance of its version; or why it gets none.
pub fn restart(container: &ContainerView, slot: &SlotId) -> Result<Rollout, String> {
    let (id, number) = (&slot.container, slot.slot);
    if container.wanted().is_some_and(|manifest| manifest.stopped) {
        return Err(format!("{id} is stopped; `dokkaa start {id}` starts it"));
    }
    if !container.is_wanted(number) {
        let all = container
            .slots
            .keys()
            .filter(|one| container.is_wanted(**one));
        let all: Vec<String> = all.map(ToString::to_string).collect();
        return Err(match all.as_slice() {
            [] => format!("{id} has no slot {number}, and no other"),
            all => format!("{id} has no slot {number}; it has {}", all.join(", ")),
        });
    }
    let Some(claim) = container.claim(number) else {
        return Err(format!("no host has {slot}; `dokkaa why {slot}` says why"));
    };
    let target = of_slot(container, number, claim.version);
    let (Some(target), Some(mut rollout)) = (target, rollout(container)) else {
        return Err(format!("{id} has no version that can run"));
    };
    if target.outdates(container, claim.version) {
        return Err(format!(
            "the update to version {} replaces {slot}; `dokkaa rollout status {id}` says when",
            target.rev()
        ));
    }
    rollout.restart.insert(number, claim.instance.clone());
    Ok(rollout)
}

fn is_placed(snapshot: &Snapshot, container: &ContainerView, number: u32, view: &SlotView) -> bool {
    container.is_wanted(number) && matches!(snapshot.owner(view), Owner::Live(_))
}

pub(crate) fn is_ready(view: &SlotView) -> bool {
    let state = view.current_state();
    state.is_some_and(|state| state.state == Phase::Ready)
}

/// Drops slots that nobody has, or wants, any more.
fn tidied(snapshot: &Snapshot, container: &ContainerView, mut rollout: Rollout) -> Rollout {
    let is_placed = |number: &u32| {
        let view = container.slots.get(number);
        view.is_some_and(|view| is_placed(snapshot, container, *number, view))
    };
    rollout.updating.retain(is_placed);
    rollout.restart.retain(|number, goes| {
        let claim = container.claim(*number);
        rollout.updating.contains(number) || claim.is_some_and(|claim| claim.instance == *goes)
    });
    rollout
        .failures
        .retain(|number| container.is_wanted(*number));
    rollout
}

fn written(
    snapshot: &Snapshot,
    container: &ContainerView,
    id: &ContainerId,
    rollout: Rollout,
) -> Option<Write> {
    Some(Write::permit(
        id.clone(),
        tidied(snapshot, container, rollout),
        container.manifest.as_ref()?.modified,
        mod_rev(container.rollout.as_ref()),
    ))
}

/// The turn of a slot whose instance is outdated, in order of number.
///
/// One that is not ready loses nothing, and needs no permission. One that is ready waits while so many others are being
/// updated, or not ready, as the policy allows; those that have failed are not counted.
pub(crate) fn turn(
    snapshot: &Snapshot,
    container: &ContainerView,
    slot: &SlotId,
    target: &Target<'_>,
) -> Turn {
    let Some(mut rollout) = rollout(container) else {
        return Turn::Waits(Waiting::InvalidManifest);
    };
    let number = slot.slot;
    let is_mine = |slots: &BTreeSet<u32>| slots.contains(&number);
    if is_mine(&rollout.updating) || (rollout.failed && is_mine(&rollout.failures)) {
        return Turn::Now;
    }
    if rollout.paused {
        return Turn::Waits(Waiting::UpdatePaused);
    }
    let has_failed = is_mine(&rollout.failures);
    if has_failed && target.manifest().order() == Order::StartFirst {
        // It is tried beside what serves, and waits for nobody, nor anybody for it.
        return Turn::Now;
    }
    let view = container.slots.get(&number);
    let Some(view) = view.filter(|view| is_ready(view)) else {
        return Turn::Now;
    };
    if let Owner::Lost(claim) = snapshot.owner(view) {
        // Others count a slot without a live host neither as serving nor as one that is updated.
        let missing = Pause::JustMissing(claim.host.clone());
        return Turn::Waits(Waiting::Paused(missing));
    }
    let others = || {
        let all = container.slots.iter();
        let placed = all.filter(|(other, view)| is_placed(snapshot, container, **other, view));
        placed.filter(|(other, _)| **other != number)
    };
    let is_busy = |other: &u32, view: &SlotView| {
        rollout.updating.contains(other) || (!is_ready(view) && !rollout.failures.contains(other))
    };
    let mut busy = others().filter(|(other, view)| is_busy(other, view));
    let most = policy(container).parallelism;
    let most = most.of(container.scale().unwrap_or_default());
    let holds = busy.nth(most.saturating_sub(1) as usize);
    let is_before = |(other, view): &(&u32, &SlotView)| {
        // One that is to stop for another attempt goes last.
        (has_failed || **other < number)
            && !is_busy(other, view)
            && !rollout.failures.contains(other)
            && view
                .claim
                .as_ref()
                .is_some_and(|claim| target.outdates(container, claim.version))
    };
    if let Some((other, _)) = holds.or_else(|| others().find(is_before)) {
        return Turn::Waits(Waiting::OtherSlot(*other));
    }
    rollout.updating.insert(number);
    match written(snapshot, container, &slot.container, rollout) {
        Some(write) => Turn::Noted(Box::new(write)),
        None => Turn::Waits(Waiting::InvalidManifest),
    }
}

/// The host that goes on trying what no host can have: that of the first slot whose turn it is.
pub(crate) fn first_to_try<'a>(
    snapshot: &Snapshot,
    container: &'a ContainerView,
    id: &ContainerId,
    target: &Target<'_>,
) -> Option<&'a HostName> {
    let slots = container.slots.iter();
    let mut placed = slots.filter(|(number, view)| is_placed(snapshot, container, **number, view));
    let is_up = |number: u32| {
        let turn = turn(snapshot, container, &id.slot(number), target);
        !matches!(turn, Turn::Waits(_))
    };
    let (_, view) = placed.find(|(number, _)| is_up(**number))?;
    Some(&view.claim.as_ref()?.host)
}

/// Of a slot that is ready on the version it should run: the write by which its update is over, once it has been ready for
/// long enough; or by which an update goes on that had been halted for it.
pub(crate) fn settled(
    snapshot: &Snapshot,
    container: &ContainerView,
    slot: &SlotId,
    (ready_since, now): (Millis, Millis),
    notes: &mut Notes,
) -> Option<Write> {
    let known = mark(container)?;
    let is_newest = Target::of(container)?.rev() == known.version;
    let mut rollout = known.value.clone();
    let was_restarted = rollout.restart.remove(&slot.slot).is_some();
    let policy = policy(container);
    let goes_on = policy.on_failure != OnFailure::Rollback || !rollout.failed;
    if is_newest && goes_on && rollout.failures.remove(&slot.slot) {
        rollout.failed &= rollout.failures.len() > policy.max_failures as usize;
        rollout.updating.insert(slot.slot);
        return written(snapshot, container, &slot.container, rollout);
    }
    if !rollout.updating.remove(&slot.slot) {
        let over = || written(snapshot, container, &slot.container, rollout);
        return was_restarted.then(over).flatten();
    }
    let at = ready_since + policy.monitor + policy.delay;
    if now < at {
        notes.requeue(at);
        return None;
    }
    written(snapshot, container, &slot.container, rollout)
}

/// An instance that failed in an update.
pub(crate) struct Failed<'a> {
    /// Its slot.
    pub(crate) slot: &'a SlotId,
    /// Its version.
    pub(crate) version: VersionId,
    /// What this process knows of it; none of one that could not be made.
    pub(crate) instance: Option<&'a InstanceMemory>,
    /// Why.
    pub(crate) failure: Failure,
}

/// Notes a failure of an instance that has not proven itself; with too many of them the update is halted. It is none
/// without an older version to stay with, what slots stay with, or go back to, does not fail in its turn, and a restart
/// says nothing about the version.
pub(crate) fn failed(
    snapshot: &Snapshot,
    container: &ContainerView,
    target: &Target<'_>,
    failed: Failed<'_>,
) -> Option<Write> {
    let mut rollout = rollout(container)?;
    let (slot, instance) = (failed.slot, failed.instance);
    let has_failed = instance.is_none_or(|one| one.ends > 0 || one.running_since.is_some());
    let is_unproven =
        instance.is_some_and(|one| !one.was_ready) || rollout.updating.contains(&slot.slot);
    let is_update = container.versions.keys().any(|rev| *rev < target.rev());
    if !has_failed
        || !is_unproven
        || !is_update
        || rollout.version != target.rev()
        || target.outdates(container, failed.version)
        || rollout.failed
        || rollout.restart.contains_key(&slot.slot)
        || !rollout.failures.insert(slot.slot)
    {
        return None;
    }
    let policy = policy(container);
    rollout.updating.remove(&slot.slot);
    rollout.failed = policy.on_failure != OnFailure::Continue
        && rollout.failures.len() > policy.max_failures as usize;
    rollout.slot = slot.slot;
    rollout.reason = failed.failure.to_string();
    Some(Write::rollout(
        slot.container.clone(),
        tidied(snapshot, container, rollout),
        container.manifest.as_ref()?.modified,
        mod_rev(container.rollout.as_ref()),
    ))
}
