//! The slots of a global container: one on each host that may have it.
//!
//! A host has the slot that it has claimed, whatever its number, and loses it when it is not to have one any more. One that
//! lacks a slot takes a number that nobody has: that of its local volumes, or else, of the hosts that lack one in order of
//! name, the first takes the lowest free number, the second the next one, so that they don't race for the same.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::manifest::{Constraint, Scale};
use manifests::{ContainerId, HostName, Manifest};

use super::{ContainerView, Desired, HostView, Rev, SlotView, Snapshot};
use crate::records::{Availability, Data};

/// The slots of a global container. They follow from its slots and the hosts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Places {
    /// Those that hosts have.
    kept: BTreeSet<u32>,
    /// Those that hosts are to take.
    vacant: BTreeMap<u32, HostName>,
}

impl Places {
    pub(super) fn numbers(&self) -> BTreeSet<u32> {
        let vacant = self.vacant.keys();
        self.kept.iter().chain(vacant).copied().collect()
    }

    pub(super) fn count(&self) -> u32 {
        (self.kept.len() + self.vacant.len()) as u32
    }

    pub(super) fn has(&self, number: u32) -> bool {
        self.kept.contains(&number) || self.vacant.contains_key(&number)
    }
}

impl ContainerView {
    /// Each host that may have one has one.
    pub fn is_global(&self) -> bool {
        self.places.is_some()
    }

    /// The slots that are to be claimed, each with its host; none unless it is global.
    pub fn vacant(&self) -> impl Iterator<Item = (u32, &HostName)> {
        let places = self.places.iter();
        places.flat_map(|places| places.vacant.iter().map(|(number, host)| (*number, host)))
    }

    /// The host that has this slot of a global container, or is to take it.
    pub fn host_of(&self, number: u32) -> Option<&HostName> {
        let places = self.places.as_ref()?;
        places.vacant.get(&number).or_else(|| {
            let view = self.slots.get(&number);
            let claim = view
                .filter(|_| places.kept.contains(&number))?
                .claim
                .as_ref()?;
            Some(&claim.host)
        })
    }

    /// This host has a slot of a global container, or is to take one.
    pub fn has_host(&self, host: &HostName) -> bool {
        let numbers = self.numbers().into_iter();
        self.is_global()
            && numbers
                .filter_map(|number| self.host_of(number))
                .any(|one| one == host)
    }

    /// This host may have this slot: if it is global its own, or one that nobody has while it lacks one.
    pub fn may_have(&self, number: u32, host: &HostName) -> bool {
        let Some(places) = &self.places else {
            return self.is_wanted(number);
        };
        let view = self.slots.get(&number);
        if let Some(claim) = view.and_then(|view| view.claim.as_ref()) {
            return claim.host == *host && places.kept.contains(&number);
        }
        let is_its = |data: &Rev<Data>| data.host == *host;
        let is_free =
            |view: &SlotView| view.next.is_none() && view.data.as_ref().is_none_or(is_its);
        view.is_none_or(is_free) && places.vacant.values().any(|one| one == host)
    }

    /// Its manifest, if it is global. While that can't be read, its newest version says so.
    fn global(&self) -> Option<&Arc<Manifest>> {
        let desired = self.manifest.as_ref()?;
        let manifest = match &desired.value {
            Desired::Valid { manifest, .. } => manifest,
            Desired::Invalid(_) => {
                let (_, newest) = self.versions.iter().next_back()?;
                let counts = newest.modified > desired.created;
                newest.own.as_ref().filter(|_| counts)?
            }
        };
        (manifest.runs() == Scale::Global).then_some(manifest)
    }
}

impl HostView {
    /// The first constraint of a manifest that does not hold here.
    pub fn unmet<'m>(&self, manifest: &'m Manifest) -> Option<&'m Constraint> {
        if manifest.placement.constraints.is_empty() {
            return None;
        }
        unmet(&self.labels(), manifest)
    }

    /// It keeps its slot of a global container. What labels it has is not known while it is missing.
    fn keeps(&self, manifest: &Manifest) -> bool {
        (self.member.is_some() || self.record.is_some())
            && !self.availability().gives_away()
            && (self.record.is_none() || self.unmet(manifest).is_none())
    }

    /// It may take a slot of a global container, sooner or later.
    fn takes(&self, manifest: &Manifest) -> bool {
        self.record.is_some()
            && self.availability() == Availability::Active
            && self.unmet(manifest).is_none()
    }
}

/// The first constraint of a manifest that does not hold on a host with these labels.
pub fn unmet<'m>(labels: &BTreeMap<&str, &str>, manifest: &'m Manifest) -> Option<&'m Constraint> {
    manifest.placement.constraints.iter().find(|constraint| {
        let value = labels.get(constraint.label.as_str());
        (value == Some(&constraint.value.as_str())) != constraint.equal
    })
}

impl Snapshot {
    /// The places of a container, or of a host, have changed.
    pub(super) fn place(&mut self, id: &ContainerId) {
        let Some(view) = self.containers.get(id) else {
            return self.index_places(id, false);
        };
        let places = self.places(view).map(Arc::new);
        self.index_places(id, places.is_some());
        let view = self.containers.get_mut(id);
        let Some(view) = view.filter(|view| view.places != places) else {
            return;
        };
        Arc::make_mut(view).places = places;
        self.index_container(id);
    }

    pub(super) fn places(&self, container: &ContainerView) -> Option<Places> {
        let manifest = container.global()?;
        if container.wanted().is_none() {
            return Some(self.left_alone(container));
        }
        let mut held: BTreeMap<&HostName, (_, u32)> = BTreeMap::new();
        for (number, view) in &container.slots {
            let Some(claim) = &view.claim else { continue };
            let host = self.hosts.get(&claim.host);
            if !host.is_some_and(|host| host.keeps(manifest)) {
                continue;
            }
            // Of several claims of a host the oldest counts: one that comes late makes no container that runs superfluous.
            let one = (claim.created, *number);
            let kept = held.entry(&claim.host).or_insert(one);
            *kept = one.min(*kept);
        }
        Some(Places {
            vacant: self.vacancies(container, manifest, &held),
            kept: held.values().map(|(_, number)| *number).collect(),
        })
    }

    /// While the manifest can't be read, and nobody knows what it says: what hosts have, but for those that are drained.
    fn left_alone(&self, container: &ContainerView) -> Places {
        let stays = |view: &SlotView| {
            let claim = view.claim.as_ref();
            claim.is_some_and(|claim| !self.availability(&claim.host).gives_away())
        };
        let slots = container.slots.iter();
        let kept = slots.filter(|(_, view)| stays(view));
        Places {
            kept: kept.map(|(number, _)| *number).collect(),
            vacant: BTreeMap::new(),
        }
    }

    /// The numbers of the hosts that lack a slot.
    fn vacancies<T>(
        &self,
        container: &ContainerView,
        manifest: &Manifest,
        held: &BTreeMap<&HostName, T>,
    ) -> BTreeMap<u32, HostName> {
        let lacks = |(name, host): &(&HostName, &Arc<HostView>)| {
            !held.contains_key(name) && host.takes(manifest)
        };
        let mut lacking: Vec<_> = self.hosts.iter().filter(lacks).collect();
        let mut vacant = BTreeMap::new();
        if lacking.is_empty() {
            return vacant;
        }
        let is_nobodys = |view: &SlotView| view.claim.is_none() && view.next.is_none();
        let free = container.slots.iter().filter(|(_, view)| is_nobodys(view));
        let pins = free.filter_map(|(number, view)| Some((*number, view.data.as_ref()?)));
        let pins: Vec<_> = pins.collect();
        // By its machine, or else by its name: then it waits, since its data was on another machine.
        for is_by_name in [false, true] {
            lacking.retain(|(name, host)| {
                let machine = host.record.as_ref().map(|record| record.id);
                let is_its = |data: &Data| {
                    if is_by_name {
                        data.host == **name
                    } else {
                        Some(data.host_id) == machine
                    }
                };
                let mut pinned = pins.iter().filter(|(_, data)| is_its(data));
                let Some((number, _)) = pinned.find(|(number, _)| !vacant.contains_key(number))
                else {
                    return true;
                };
                vacant.insert(*number, (*name).clone());
                false
            });
        }
        let is_free = |number: &u32| !container.slots.contains_key(number);
        vacant.extend(
            (0..)
                .filter(is_free)
                .zip(lacking.into_iter().map(|(name, _)| name.clone())),
        );
        vacant
    }
}

#[cfg(test)]
mod tests;
