//! What plans ask of a snapshot, kept up with every change: an answer costs what it names, not all that there is.

use manifests::manifest::Scale;
use manifests::{ContainerId, HostName, SlotId};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use crate::records::JobState;

use super::{ContainerView, Desired, SlotView, Snapshot};

/// Slots, by the host that a key of theirs names.
type ByHost = RedBlackTreeMapSync<HostName, RedBlackTreeSetSync<SlotId>>;

/// Follows from the rest of the snapshot.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Index {
    /// By the claim's host.
    claimed: ByHost,
    /// By the host of `.next`.
    coming: ByHost,
    /// Hosts that are not live, and that a claim or a `.next` names.
    lost: RedBlackTreeSetSync<HostName>,
    /// Containers with wanted slots that have no claim, and how many.
    vacant: RedBlackTreeMapSync<ContainerId, u32>,
    /// Containers whose slots follow from the hosts.
    global: RedBlackTreeSetSync<ContainerId>,
    /// Containers without a manifest.
    bare: RedBlackTreeSetSync<ContainerId>,
    /// Live hosts that give away what they have.
    giving: RedBlackTreeSetSync<HostName>,
    /// Containers of which something runs before a version.
    preparing: RedBlackTreeSetSync<ContainerId>,
}

/// The hosts that a slot's keys name.
#[derive(PartialEq, Eq)]
pub(super) struct Named {
    claim: Option<HostName>,
    next: Option<HostName>,
}

impl Named {
    pub(super) fn by(view: Option<&SlotView>) -> Self {
        let claim = view.and_then(|view| view.claim.as_ref());
        let next = view.and_then(|view| view.next.as_ref());
        Self {
            claim: claim.map(|claim| claim.host.clone()),
            next: next.map(|next| next.host.clone()),
        }
    }

    /// A handover is under way.
    pub(super) fn is_handed(&self) -> bool {
        self.next.is_some()
    }

    /// One of them is this host.
    pub(super) fn names(&self, host: &HostName) -> bool {
        self.claim.as_ref() == Some(host) || self.next.as_ref() == Some(host)
    }
}

impl Snapshot {
    /// The slots whose claim names this host.
    pub fn claimed_by(&self, host: &HostName) -> impl Iterator<Item = &SlotId> {
        self.index.claimed.get(host).into_iter().flatten()
    }

    /// The slots whose `.next` names this host.
    pub fn coming_to(&self, host: &HostName) -> impl Iterator<Item = &SlotId> {
        self.index.coming.get(host).into_iter().flatten()
    }

    /// These slots, each with its container and its keys.
    pub fn known<'a, 's>(
        &'a self,
        slots: impl Iterator<Item = &'s SlotId>,
    ) -> impl Iterator<Item = (&'s SlotId, &'a ContainerView, &'a SlotView)> {
        slots.filter_map(|slot| {
            let container = self.containers.get(&slot.container)?;
            Some((slot, container.as_ref(), container.slots.get(&slot.slot)?))
        })
    }

    /// How many claims and `.next` name this host.
    pub fn held_by(&self, host: &HostName) -> usize {
        let size = |by: &ByHost| by.get(host).map_or(0, RedBlackTreeSetSync::size);
        size(&self.index.claimed) + size(&self.index.coming)
    }

    /// The slots of hosts that are not live: by their claim, and by their `.next`.
    pub fn left_by_lost(&self) -> impl Iterator<Item = &SlotId> {
        let lost = self.index.lost.iter();
        lost.flat_map(|host| self.claimed_by(host).chain(self.coming_to(host)))
    }

    /// Containers with wanted slots that have no claim.
    pub fn vacant(&self) -> impl Iterator<Item = &ContainerId> {
        self.index.vacant.keys()
    }

    /// Containers without a manifest: only remains are left of them.
    pub fn bare(&self) -> impl Iterator<Item = &ContainerId> {
        self.index.bare.iter()
    }

    /// Live hosts that give away what they have.
    pub fn giving(&self) -> impl Iterator<Item = &HostName> {
        self.index.giving.iter()
    }

    /// Containers of which something runs before a version, whichever host runs it.
    pub fn preparing(&self) -> impl Iterator<Item = &ContainerId> {
        self.index.preparing.iter()
    }

    /// A slot changes hands.
    pub fn is_handing_over(&self) -> bool {
        !self.index.coming.is_empty()
    }

    /// There is something that any of several hosts may do: slots to place or to hand over, remains to clear away.
    pub fn has_work_for_any(&self) -> bool {
        let index = &self.index;
        !(index.lost.is_empty()
            && index.vacant.is_empty()
            && index.bare.is_empty()
            && index.giving.is_empty())
    }

    /// This host has a slot of the container, or is to have one.
    pub(super) fn has_some_of(&self, host: &HostName, id: &ContainerId) -> bool {
        let some = |by: &ByHost| {
            let slots = by.get(host).into_iter();
            let mut of_it = slots.flat_map(|slots| slots.range(id.slot(0)..=id.slot(u32::MAX)));
            of_it.next().is_some()
        };
        some(&self.index.claimed) || some(&self.index.coming)
    }

    /// This host has a slot of the container that was claimed for a version before its newest.
    pub(super) fn runs_an_older(&self, host: &HostName, id: &ContainerId) -> bool {
        let Some(container) = self.containers.get(id) else {
            return false;
        };
        let Some(newest) = container.versions.keys().next_back() else {
            return false;
        };
        let held = self.index.claimed.get(host);
        held.into_iter()
            .flat_map(|slots| slots.range(id.slot(0)..=id.slot(u32::MAX)))
            .filter_map(|slot| container.slots.get(&slot.slot)?.claim.as_ref())
            .any(|claim| claim.version < *newest)
    }

    /// The keys of a slot have changed.
    pub(super) fn index_slot(&mut self, slot: &SlotId, before: &Named) {
        let now = Named::by(self.slot(slot));
        if now == *before {
            return;
        }
        moved(
            &mut self.index.claimed,
            slot,
            before.claim.as_ref(),
            now.claim.as_ref(),
        );
        moved(
            &mut self.index.coming,
            slot,
            before.next.as_ref(),
            now.next.as_ref(),
        );
        for host in [&before.claim, &before.next, &now.claim, &now.next] {
            // Of one that is live it makes no difference whether anything names it.
            if let Some(host) = host.as_ref().filter(|host| !self.is_live(host)) {
                self.index_host(host);
            }
        }
        let (had, has) = (before.claim.is_some(), now.claim.is_some());
        if had == has {
            return;
        }
        let id = &slot.container;
        let manifest = self.containers.get(id).and_then(|c| c.manifest.as_ref());
        match manifest.map(|manifest| &manifest.value) {
            Some(Desired::Valid { manifest, .. }) => {
                // Those of a global one follow when all changes have been applied.
                if let Scale::Count(count) = manifest.runs()
                    && slot.slot < count
                {
                    let vacant = self.index.vacant.get(id).copied().unwrap_or_default();
                    let vacant = if has { vacant - 1 } else { vacant + 1 };
                    self.index.is_vacant(id, vacant);
                }
            }
            None => {}
            // What is claimed says what is wanted.
            Some(Desired::Invalid(_)) => self.index_container(id),
        }
    }

    /// The manifest of a container has changed, or it has come or gone.
    pub(super) fn index_container(&mut self, id: &ContainerId) {
        let container = self.containers.get(id).map(AsRef::as_ref);
        let vacant = container.map_or(0, vacant);
        let is_bare = container.is_some_and(|container| container.manifest.is_none());
        self.index.is_vacant(id, vacant);
        belongs(&mut self.index.bare, id, is_bare);
    }

    pub(super) fn index_job(&mut self, id: &ContainerId) {
        let job = self.containers.get(id).and_then(|c| c.job.as_ref());
        let runs = job.is_some_and(|job| job.state == JobState::Running);
        belongs(&mut self.index.preparing, id, runs);
    }

    pub(super) fn index_places(&mut self, id: &ContainerId, is_global: bool) {
        belongs(&mut self.index.global, id, is_global);
    }

    /// Containers whose slots follow from the hosts.
    pub(super) fn global(&self) -> Vec<ContainerId> {
        self.index.global.iter().cloned().collect()
    }

    /// A host has come or gone, or what it is, or what names it.
    pub(super) fn index_host(&mut self, host: &HostName) {
        let is_named =
            self.index.claimed.contains_key(host) || self.index.coming.contains_key(host);
        let is_live = self.is_live(host);
        let is_giving = is_live && self.availability(host).gives_away();
        belongs(&mut self.index.lost, host, is_named && !is_live);
        belongs(&mut self.index.giving, host, is_giving);
    }
}

impl Index {
    fn is_vacant(&mut self, id: &ContainerId, slots: u32) {
        if slots > 0 {
            self.vacant.insert_mut(id.clone(), slots);
        } else {
            self.vacant.remove_mut(id);
        }
    }
}

/// Wanted slots without a claim.
fn vacant(container: &ContainerView) -> u32 {
    if container.is_global() {
        return container.vacant().count() as u32;
    }
    let scale = container.scale().unwrap_or_default();
    let claimed = container.slots.range(..scale);
    let claimed = claimed.filter(|(_, slot)| slot.claim.is_some()).count();
    scale - claimed as u32
}

fn belongs<T: Ord + Clone>(set: &mut RedBlackTreeSetSync<T>, one: &T, does: bool) {
    if does == set.contains(one) {
        return;
    }
    if does {
        set.insert_mut(one.clone());
    } else {
        set.remove_mut(one);
    }
}

fn moved(by: &mut ByHost, slot: &SlotId, before: Option<&HostName>, now: Option<&HostName>) {
    if before == now {
        return;
    }
    if let Some(host) = before
        && let Some(slots) = by.get_mut(host)
    {
        slots.remove_mut(slot);
        if slots.is_empty() {
            by.remove_mut(host);
        }
    }
    if let Some(host) = now {
        if !by.contains_key(host) {
            by.insert_mut(host.clone(), RedBlackTreeSetSync::default());
        }
        if let Some(slots) = by.get_mut(host) {
            slots.insert_mut(slot.clone());
        }
    }
}

#[cfg(test)]
mod tests;
