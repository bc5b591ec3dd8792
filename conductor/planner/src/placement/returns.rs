//! The slots that come back to a host which was drained and is active again.

use std::collections::BTreeMap;

use manifests::{ContainerId, HostName, SlotId};
use model::ModRev;
use model::records::{Availability, Phase};
use model::snapshot::{Owner, Snapshot, Successor};

use super::load::{Group, Load};
use super::ranking::Ranking;
use super::{AT_ONCE, places};
use crate::rollout::{handed_over, mark};

/// Slots that a host had when it was drained.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Returns {
    /// Those that come back now.
    pub(crate) now: Vec<SlotId>,
    /// Those that are back, or can't come back, and what to delete of them.
    pub(crate) over: Vec<(SlotId, ModRev)>,
}

/// Stage of one slot.
enum Stage {
    /// It comes back; so much of what may move at once.
    Comes(usize),
    /// It is on its way here; so much of what may move at once.
    UnderWay(usize),
    /// It can't move yet.
    Waits,
    /// It is back, or stays where it is.
    Over,
}

/// Some host gets slots back.
pub(crate) fn is_any_returning(snapshot: &Snapshot) -> bool {
    let mut hosts = snapshot.hosts.iter();
    hosts.any(|(host, view)| {
        !view.moved.is_empty() && view.record.is_some() && !returns(snapshot, host).now.is_empty()
    })
}

/// What comes back to a host: as many slots at once as a drain gives away.
pub(crate) fn returns(snapshot: &Snapshot, host: &HostName) -> Returns {
    let mut found = Returns::default();
    let Some(view) = snapshot.hosts.get(host) else {
        return found;
    };
    if view.moved.is_empty() || view.availability() != Availability::Active {
        return found;
    }
    let mut load = Load::of(snapshot);
    let Some(position) = load.position(host) else {
        return found;
    };
    let mut refused: BTreeMap<&ContainerId, bool> = BTreeMap::new();
    let mut under_way = 0;
    let mut able = Vec::new();
    for (slot, moved) in &view.moved {
        let id = &slot.container;
        let is_refused = match snapshot.containers.get(id) {
            None => true,
            Some(container) => *refused.entry(id).or_insert_with(|| {
                let group = Group::of(&mut load, id, container);
                group.refused[position].is_some()
            }),
        };
        match stage(snapshot, host, slot, is_refused) {
            Stage::Comes(counts) => able.push((slot, counts)),
            Stage::UnderWay(counts) => under_way += counts,
            Stage::Waits => {}
            Stage::Over => found.over.push((slot.clone(), moved.modified)),
        }
    }
    for (slot, counts) in able {
        if under_way + counts > AT_ONCE {
            continue;
        }
        let Some(container) = snapshot.containers.get(&slot.container) else {
            continue;
        };
        // Others may have what it asks for by now: then it waits.
        let mut group = Group::of(&mut load, &slot.container, container);
        let placed = Ranking::of(&load, &group, slot.slot);
        if placed.standing(position).is_some() {
            group.place(&mut load, position, slot);
            under_way += counts;
            found.now.push(slot.clone());
        }
    }
    found
}

fn stage(snapshot: &Snapshot, host: &HostName, slot: &SlotId, is_refused: bool) -> Stage {
    let container = snapshot.containers.get(&slot.container);
    let Some((container, view)) = container.and_then(|c| Some((c, c.slots.get(&slot.slot)?)))
    else {
        return Stage::Over;
    };
    let Owner::Live(claim) = snapshot.owner(view) else {
        return Stage::Over;
    };
    // Data stays where it is.
    if is_refused
        || claim.host == *host
        || view.data.is_some()
        || container.is_global()
        || !container.is_wanted(slot.slot)
    {
        return Stage::Over;
    }
    match snapshot.successor(view) {
        Successor::Live(next) if next.host == *host => {
            return Stage::UnderWay(places(container, claim.version, next.version));
        }
        Successor::Live(_) => return Stage::Waits,
        _ => {}
    }
    let is_ready = view
        .current_state()
        .is_some_and(|s| s.state == Phase::Ready);
    let is_updated = mark(container).is_some_and(|mark| mark.updating.contains(&slot.slot));
    match handed_over(container, claim.version) {
        Some(next) if is_ready && !is_updated => {
            Stage::Comes(places(container, claim.version, next))
        }
        _ => Stage::Waits,
    }
}
