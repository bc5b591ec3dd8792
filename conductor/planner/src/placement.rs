//! Which host gets an unclaimed slot: a pure function of the snapshot.
//!
//! Every agent computes the same answer from the same revision and claims its
//! own share at once. Fewest containers first, then fewest of the same
//! container, then rendezvous hash; its test vectors are fixed for ever,
//! because agents of different releases must agree.

mod candidates;
mod load;
mod ranking;
mod rebalance;
mod returns;

use std::collections::{BTreeMap, BTreeSet};

use crate::handover::holder_stops_first;
use crate::refusal::Refusal;
use crate::rollout::{handed_over, precedes};
use crate::update::is_ready;
use manifests::{ContainerId, HostName, SlotId};
use model::VersionId;
use model::snapshot::{ContainerView, SlotView, Snapshot, Successor};

pub use candidates::Candidates;
use load::{Group, Load};
pub use load::{VERSIONS, version};
pub(crate) use ranking::Ranking;
pub(crate) use rebalance::{is_uneven, rebalance};
pub(crate) use returns::returns;

/// Places every unclaimed slot of the snapshot, in order of container and number, each on top of those before.
pub fn unclaimed(snapshot: &Snapshot) -> Vec<Candidates> {
    let mut found = Vec::new();
    each_unclaimed(snapshot, |ranking| found.push(ranking.candidates()));
    found
}

/// As `unclaimed`, for who asks each slot for little.
pub(crate) fn each_unclaimed(snapshot: &Snapshot, mut visit: impl FnMut(&Ranking<'_>)) {
    let mut load: Option<Load<'_>> = None;
    let lost = snapshot.left_by_lost().map(|slot| &slot.container);
    let containers: BTreeSet<&ContainerId> = snapshot.vacant().chain(lost).collect();
    for id in containers {
        let Some(container) = snapshot.containers.get(id) else {
            continue;
        };
        let mut group: Option<Group<'_>> = None;
        for number in unclaimed_of(snapshot, container) {
            let load = load.get_or_insert_with(|| Load::of(snapshot));
            let group = group.get_or_insert_with(|| Group::of(load, id, container));
            let placed = Ranking::of(load, group, number);
            visit(&placed);
            if let Some(host) = placed.first() {
                let slot = placed.slot;
                group.place(load, host, &slot);
            }
        }
    }
}

/// Wanted slots that no live host has. Nobody takes over what a lost host has of a global container.
fn unclaimed_of(snapshot: &Snapshot, container: &ContainerView) -> Vec<u32> {
    if container.is_global() {
        return container.vacant().map(|(number, _)| number).collect();
    }
    let is_unclaimed = |number: &u32| snapshot.is_unclaimed(container.slots.get(number));
    (0..container.scale().unwrap_or_default())
        .filter(is_unclaimed)
        .collect()
}

/// Slots that a host gives away, or gets back, at once. One that has to stop here before it starts elsewhere goes alone.
const AT_ONCE: usize = 2;

/// How many of those that move at once a slot counts for: all where it is down meanwhile.
fn places(container: &ContainerView, held: VersionId, next: VersionId) -> usize {
    if holder_stops_first(container, held, next) {
        AT_ONCE
    } else {
        1
    }
}

/// The next slots of each host that gives away what it has, and who should have them: the next one when one before is
/// ready where it goes. Slots that are ready go first, and those that nobody can take stay for last.
pub fn handovers(snapshot: &Snapshot) -> Vec<Candidates> {
    let mut giving = snapshot.giving().peekable();
    if giving.peek().is_none() {
        return Vec::new();
    }
    let mut under_way: BTreeMap<&HostName, usize> = BTreeMap::new();
    let mut slots: BTreeMap<&HostName, Vec<(&ContainerId, &ContainerView, u32, usize)>> =
        BTreeMap::new();
    for host in giving {
        for (slot, container, view) in snapshot.known(snapshot.claimed_by(host)) {
            let Some(claim) = view
                .claim
                .as_ref()
                .filter(|_| container.is_wanted(slot.slot))
            else {
                continue;
            };
            if let Successor::Live(next) = snapshot.successor(view) {
                *under_way.entry(host).or_default() +=
                    places(container, claim.version, next.version);
            } else if let Some(next) = handed_over(container, claim.version) {
                let counts = places(container, claim.version, next);
                let of_host = slots.entry(host).or_default();
                of_host.push((&slot.container, container, slot.slot, counts));
            }
        }
    }
    let mut load = Load::of(snapshot);
    let mut groups: BTreeMap<&ContainerId, Group<'_>> = BTreeMap::new();
    let mut found = Vec::new();
    for (host, mut slots) in slots {
        let under_way = under_way.entry(host).or_default();
        // What is in trouble may take long, and would have the rest wait for it.
        slots.sort_by_key(|(_, container, number, _)| {
            !container.slots.get(number).is_some_and(is_ready)
        });
        for (id, container, number, counts) in slots {
            if *under_way + counts > AT_ONCE {
                continue;
            }
            let group = groups
                .entry(id)
                .or_insert_with(|| Group::of(&mut load, id, container));
            let placed = Ranking::of(&load, group, number);
            let Some(host) = placed.first() else { continue };
            let placed = placed.candidates();
            group.place(&mut load, host, &placed.slot);
            *under_way += counts;
            found.push(placed);
        }
    }
    found
}

/// Candidates for one slot, as if nobody had it: for `why`.
pub fn explain(snapshot: &Snapshot, slot: &SlotId) -> Option<Candidates> {
    let container = snapshot.containers.get(&slot.container)?;
    let mut load = Load::of(snapshot);
    let group = Group::of(&mut load, &slot.container, container);
    Some(Ranking::of(&load, &group, slot.slot).candidates())
}

/// Live hosts that are to have no slot of a global container, each with its reason: for `why`.
pub fn without_slot(snapshot: &Snapshot, id: &ContainerId) -> Vec<(HostName, Refusal)> {
    let Some(container) = snapshot.containers.get(id).filter(|c| c.is_global()) else {
        return Vec::new();
    };
    let mut load = Load::of(snapshot);
    let group = Group::of(&mut load, id, container);
    let hosts = load.hosts.iter().zip(&group.refused);
    hosts
        .filter(|(host, _)| !container.has_host(host.name))
        .filter_map(|(host, why)| Some((host.name.clone(), why.clone()?)))
        .collect()
}

/// First constraint of a container that holds no more on a host that runs it; it stays there all the same.
pub fn outlived(snapshot: &Snapshot, container: &ContainerView, host: &HostName) -> Option<String> {
    let unmet = snapshot.hosts.get(host)?.unmet(container.wanted()?);
    unmet.map(ToString::to_string)
}

/// As `outlived`, of a slot that goes for it: it was claimed for a manifest that was deleted, and the one that was written
/// since never allowed its host. Of what a restore kept nobody has deleted the manifest, and labels may have been lost with
/// it; and which labels a host has is not known while it is missing.
pub(crate) fn was_written_elsewhere(
    snapshot: &Snapshot,
    container: &ContainerView,
    slot: &SlotView,
) -> Option<String> {
    let claim = slot.claim.as_ref()?;
    if !precedes(container, claim) || claim.version.is_orphaned() {
        return None;
    }
    let machine = snapshot.hosts.get(&claim.host)?.record.as_ref()?.id;
    let data = slot.data.as_ref();
    if data.is_some_and(|data| data.host_id == machine) {
        return None;
    }
    outlived(snapshot, container, &claim.host)
}

#[cfg(test)]
mod tests;
