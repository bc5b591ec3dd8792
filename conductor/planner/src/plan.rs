//! The plan: what one host writes and does now, and why the rest waits.
//!
//! `plan` is total: it returns no error. Every write carries the revisions it
//! was decided on, so a plan that became stale fails in etcd and is made
//! again. Of each slot at most one action and one write are under way.

mod share;

use std::collections::{BTreeMap, BTreeSet};

use manifests::{InstanceId, SlotId};
use model::observed::{EngineState, ObservedContainer};
use model::records::Claim;
use model::snapshot::{Owner, SlotView};
use model::volumes;
use model::write::Write;
use model::{Scope, Trust};

use crate::inputs::Inputs;
use crate::output::Plan;
use crate::placement;
use crate::slot;
use crate::target;
use crate::target::Target;
use crate::waiting::Waiting;

/// What this host writes and does now. `fresh` gives a new instance at each call.
pub fn plan(inputs: Inputs<'_>, fresh: &mut dyn FnMut() -> InstanceId) -> Plan {
    let mut plan = Plan {
        partial: inputs.trust == Trust::RestartsOnly,
        ..Plan::default()
    };
    let hangs = match &inputs.observed.engine {
        EngineState::Up => None,
        EngineState::Unresponsive(why) => Some(why.as_str()),
    };
    plan.partial |= hangs.is_some();
    let mut here: BTreeMap<&SlotId, Vec<&ObservedContainer>> = BTreeMap::new();
    for container in inputs.observed.containers.values() {
        here.entry(&container.owner.slot)
            .or_default()
            .push(container);
    }
    let me = &inputs.host.name;
    let shares = inputs.trust == Trust::Full && inputs.snapshot.in_hold().is_none();
    // Slots about which everything is said: placement has no word in them.
    let mut settled = BTreeSet::new();
    for (id, container) in &inputs.snapshot.containers {
        for (number, view) in &container.slots {
            let claim = view.claim.as_ref().filter(|claim| claim.host == *me);
            let next = view.next.as_ref().filter(|next| next.host == *me);
            if claim.is_none() && next.is_none() {
                continue;
            }
            let slot = id.slot(*number);
            let containers = here.remove(&slot).unwrap_or_default();
            settled.insert(slot.clone());
            if let Some(claim) = claim {
                let own = slot::Own {
                    slot,
                    container,
                    view,
                    claim,
                    containers: &containers,
                };
                match hangs {
                    None => slot::own(&inputs, own, &mut plan, fresh),
                    Some(why) => slot::own_without_engine(&inputs, &own, why, &mut plan),
                }
            } else if let Some(next) = next
                && inputs.trust == Trust::Full
                && hangs.is_none()
            {
                let incoming = slot::Incoming {
                    slot: &slot,
                    container,
                    view,
                    next,
                    containers: &containers,
                };
                slot::incoming(&inputs, &incoming, &mut plan);
            }
        }
        if shares {
            share::container(&inputs, id, container, &mut plan);
        }
    }
    if inputs.trust == Trust::RestartsOnly || hangs.is_some() {
        return plan;
    }
    for (slot, containers) in here {
        if containers.iter().all(|c| c.is_going()) {
            continue;
        }
        if slot::not_own(&inputs, slot, &containers, &mut plan) == slot::Rest::Settled {
            settled.insert(slot.clone());
        }
    }
    claim(&inputs, &settled, &mut plan, fresh);
    hand_over(&inputs, &settled, &mut plan, fresh);
    share::marks(&inputs, &mut plan);
    plan
}

/// Claims this host's share of what nobody has, and takes over what lost hosts have.
fn claim(
    inputs: &Inputs<'_>,
    settled: &BTreeSet<SlotId>,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) {
    placement::each_unclaimed(inputs.snapshot, |placed| {
        if settled.contains(&placed.slot) {
            return;
        }
        if let Some(reason) = placed.why_waiting() {
            plan.waiting.insert(placed.slot.clone(), reason);
            return;
        }
        let Some(container) = inputs.snapshot.containers.get(&placed.slot.container) else {
            return;
        };
        let none = SlotView::default();
        let view = container.slots.get(&placed.slot.slot).unwrap_or(&none);
        let owner = inputs.snapshot.owner(view);
        if let Err(pause) = inputs.may_place(owner) {
            plan.requeue_with(inputs.memory.disruption.next_change(inputs.now));
            plan.waiting
                .insert(placed.slot.clone(), Waiting::Paused(pause));
            return;
        }
        let work = Scope::Slot(placed.slot.clone());
        let turn = placed.turn(&inputs.host.name);
        let is_taking = inputs.memory.in_flight.is_placing();
        if !inputs.is_my_turn(plan, &work, turn) || inputs.is_writing(&work) || is_taking {
            return;
        }
        let (Some(manifest), Some(target)) = (&container.manifest, target::placed_anew(container))
        else {
            plan.waiting
                .insert(placed.slot.clone(), Waiting::InvalidManifest);
            return;
        };
        let claim = Claim {
            host: inputs.host.name.clone(),
            instance: fresh(),
            manifest_rev: target.rev(),
        };
        let data = volumes::pin(inputs.host, Some(view), target.manifest());
        let slot = placed.slot.clone();
        let modified = manifest.modified;
        // A void `.next` goes with the claim.
        plan.writes.retain(|w| w.scope != work);
        plan.writes
            .extend(take(inputs, slot, view, claim, modified).map(|write| write.with_data(data)));
    });
}

/// Claims a slot that nobody has, or takes it over from a lost host; none from a live one.
pub(crate) fn take(
    inputs: &Inputs<'_>,
    slot: SlotId,
    view: &SlotView,
    claim: Claim,
    manifest: i64,
) -> Option<Write> {
    let next = inputs.snapshot.successor(view).void();
    match inputs.snapshot.owner(view) {
        Owner::Live(_) => None,
        Owner::Nobody => Some(Write::claim(slot, claim, manifest, next)),
        Owner::Lost(lost) => {
            let from = (lost.modified, lost.host.clone());
            Some(Write::take_over(slot, claim, from, manifest, next))
        }
    }
}

/// Begins this host's share of the handovers from hosts that give away what they have.
fn hand_over(
    inputs: &Inputs<'_>,
    settled: &BTreeSet<SlotId>,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) {
    for placed in placement::handovers(inputs.snapshot) {
        if settled.contains(&placed.slot) || inputs.memory.disruption.may_place(inputs.now).is_err()
        {
            continue;
        }
        let Some(container) = inputs.snapshot.containers.get(&placed.slot.container) else {
            continue;
        };
        let (Some(manifest), Some(target), Some(view)) = (
            &container.manifest,
            target::placed_anew(container),
            container.slots.get(&placed.slot.slot),
        ) else {
            continue;
        };
        let Owner::Live(claim) = inputs.snapshot.owner(view) else {
            continue;
        };
        let rev = match target {
            Target::Decided { rev, .. } => rev,
            Target::Undecided { .. } if !target.outdates(container, claim.manifest_rev) => {
                claim.manifest_rev
            }
            // While a new version is being decided, a handover would only be given up again.
            Target::Undecided { .. } => continue,
        };
        let work = Scope::Slot(placed.slot.clone());
        let turn = placed.turn(&inputs.host.name);
        let is_taking = inputs.memory.in_flight.is_placing();
        if !inputs.is_my_turn(plan, &work, turn) || inputs.is_writing(&work) || is_taking {
            continue;
        }
        let next = Claim {
            host: inputs.host.name.clone(),
            instance: fresh(),
            manifest_rev: rev,
        };
        let void = inputs.snapshot.successor(view).void();
        plan.writes.push(Write::next(
            placed.slot,
            next,
            claim.modified,
            manifest.modified,
            void,
        ));
    }
}

#[cfg(test)]
mod tests;
