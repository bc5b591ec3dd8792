//! The slots that concern this host, by what it is to them.

use std::collections::{BTreeMap, BTreeSet};

use manifests::{ContainerId, SlotId};
use model::Scope;
use model::observed::ObservedContainer;
use model::records::{Claim, Next};
use model::snapshot::{ContainerView, Owner, Rev, SlotView};

use crate::inputs::Inputs;

/// A slot that this host has.
pub(crate) struct OwnSlot<'a> {
    /// Its id.
    pub(crate) slot: SlotId,
    /// Its container.
    pub(crate) container: &'a ContainerView,
    /// Its keys in etcd.
    pub(crate) view: &'a SlotView,
    /// This host's claim.
    pub(crate) claim: &'a Rev<Claim>,
    /// Its containers on the engine.
    pub(crate) containers: Vec<&'a ObservedContainer>,
}

/// A slot that another host has or had, and that this one is to have.
pub(crate) struct IncomingSlot<'a> {
    /// Its id.
    pub(crate) slot: SlotId,
    /// Its container.
    pub(crate) container: &'a ContainerView,
    /// Its keys in etcd.
    pub(crate) view: &'a SlotView,
    /// This host's `.next`.
    pub(crate) next: &'a Rev<Next>,
    /// Its containers on the engine.
    pub(crate) containers: Vec<&'a ObservedContainer>,
}

/// A slot that this host neither has nor is to have, and of which it has containers.
pub(crate) struct StraySlot<'a> {
    /// Its id.
    pub(crate) slot: SlotId,
    /// Its container, if etcd knows it.
    pub(crate) container: Option<&'a ContainerView>,
    /// Its containers on the engine.
    pub(crate) containers: Vec<&'a ObservedContainer>,
}

/// The slots that concern this host.
#[derive(Default)]
pub(crate) struct Slots<'a> {
    /// Those that it has.
    pub(crate) own: Vec<OwnSlot<'a>>,
    /// Those that come here. While an own write on one is not in the view yet, it is left out.
    pub(crate) incoming: Vec<IncomingSlot<'a>>,
    /// Those of which it only has containers. While an own write on one is not in the view yet, it is left out.
    pub(crate) strays: Vec<StraySlot<'a>>,
    here: BTreeSet<SlotId>,
}

impl<'a> Slots<'a> {
    pub(crate) fn of(inputs: &Inputs<'a>) -> Self {
        let mut engine: BTreeMap<&SlotId, Vec<&ObservedContainer>> = BTreeMap::new();
        for container in inputs.observed.containers.values() {
            let of_slot = engine.entry(&container.owner.slot).or_default();
            of_slot.push(container);
        }
        let is_behind = |slot: &SlotId| inputs.is_behind(&Scope::Slot(slot.clone()));
        let me = &inputs.host.name;
        let mut slots = Self::default();
        let snapshot = inputs.snapshot;
        for (slot, container, view) in snapshot.known(snapshot.claimed_by(me)) {
            let Some(claim) = &view.claim else { continue };
            slots.here.insert(slot.clone());
            slots.own.push(OwnSlot {
                slot: slot.clone(),
                container,
                view,
                claim,
                containers: engine.remove(slot).unwrap_or_default(),
            });
        }
        for (slot, container, view) in snapshot.known(snapshot.coming_to(me)) {
            let Some(next) = view.next.as_ref().filter(|_| !slots.is_here(slot)) else {
                continue;
            };
            let containers = engine.remove(slot).unwrap_or_default();
            slots.here.insert(slot.clone());
            if !is_behind(slot) {
                slots.incoming.push(IncomingSlot {
                    slot: slot.clone(),
                    container,
                    view,
                    next,
                    containers,
                });
            }
        }
        for (slot, containers) in engine {
            let container = inputs.snapshot.containers.get(&slot.container);
            let stray = StraySlot {
                slot: slot.clone(),
                container: container.map(AsRef::as_ref),
                containers,
            };
            if is_behind(slot) {
                slots.here.insert(slot.clone());
            } else if !stray.is_left_to_placement(inputs) {
                slots.here.insert(slot.clone());
                slots.strays.push(stray);
            }
        }
        slots
    }

    /// As `is_here`, of any slot of this container.
    pub(crate) fn is_any_here(&self, id: &ContainerId) -> bool {
        let mut here = self.here.range(id.slot(0)..=id.slot(u32::MAX));
        here.next().is_some()
    }

    /// The host has it, is to have it, or has to do with a container of it: placement leaves it alone.
    pub(crate) fn is_here(&self, slot: &SlotId) -> bool {
        self.here.contains(slot)
    }
}

impl StraySlot<'_> {
    /// Nothing runs of it that could be claimed, and no live host has it; or all of it is being removed.
    fn is_left_to_placement(&self, inputs: &Inputs<'_>) -> bool {
        let is_live = |slot: &SlotView| matches!(inputs.snapshot.owner(slot), Owner::Live(_));
        let is_free = self.container.is_some_and(|container| {
            let view = container.slots.get(&self.slot.slot);
            let me = &inputs.host.name;
            container.may_have(self.slot.slot, me) && !view.is_some_and(is_live)
        });
        let runs = self.containers.iter().any(|c| c.running().is_some());
        (is_free && !runs) || self.containers.iter().all(|c| c.is_going())
    }
}
