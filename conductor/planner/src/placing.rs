//! This host's share of placement: slots that nobody has, and those that hosts give away.

use manifests::{ContainerId, InstanceId, SlotId};
use model::Scope;
use model::Write;
use model::records::Claim;
use model::rules::Rule;
use model::snapshot::{Owner, SlotView};
use model::volumes;

use crate::inputs::Inputs;
use crate::output::Report;
use crate::ownership::take;
use crate::placement;
use crate::rollout::{self, placed_anew};
use crate::slots::Slots;
use crate::turn::Turn;
use crate::waiting::Waiting;

/// Claims slots that nobody has, and takes over those of lost hosts; and whether there are any that a host can take.
pub(crate) fn claims(
    inputs: &Inputs<'_>,
    slots: &Slots<'_>,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> (Report, bool) {
    let mut report = Report::default();
    let mut is_placing = false;
    placement::each_unclaimed(inputs.snapshot, |placed| {
        is_placing |= placed.first().is_some();
        if slots.is_here(&placed.slot) {
            return;
        }
        if let Some(reason) = placed.why_waiting() {
            report.waiting.insert(placed.slot.clone(), reason);
            return;
        }
        let Some(container) = inputs.snapshot.containers.get(&placed.slot.container) else {
            return;
        };
        // Never two of it here: what leaves is gone first, and what runs is claimed as it is.
        let is_any_here = || slots.is_any_here(&placed.slot.container);
        if container.is_global() && inputs.rules.has(Rule::OnePerHost) && is_any_here() {
            return;
        }
        let none = SlotView::default();
        let view = container.slots.get(&placed.slot.slot).unwrap_or(&none);
        let owner = inputs.snapshot.owner(view);
        if let Err(pause) = inputs.may_place(owner) {
            let change = inputs.memory.disruption.next_change(inputs.now);
            change.inspect(|at| report.notes.requeue(*at));
            report
                .waiting
                .insert(placed.slot.clone(), Waiting::Paused(pause));
            return;
        }
        let scope = Scope::Slot(placed.slot.clone());
        let noted = inputs.noted(&scope);
        let turn = placed.turn(&inputs.host.name, inputs.is_first_turn(noted));
        let is_placing = inputs.memory.in_flight.is_placing();
        if !inputs.is_turn(&mut report.notes, scope, turn, noted) || is_placing {
            return;
        }
        let (Some(manifest), Some(target)) = (&container.manifest, placed_anew(container)) else {
            report
                .waiting
                .insert(placed.slot.clone(), Waiting::InvalidManifest);
            return;
        };
        let claim = Claim {
            host: inputs.host.name.clone(),
            instance: fresh(),
            version: target.rev(),
        };
        let data = volumes::pin(inputs.host, Some(view), target.manifest());
        let slot = placed.slot.clone();
        let modified = manifest.modified;
        // A void `.next` goes with the claim.
        report
            .writes
            .extend(take(inputs, slot, view, claim, modified).map(|write| write.with_data(data)));
    });
    (report, is_placing)
}

/// Begins handovers from hosts that give away what they have.
pub(crate) fn handovers(
    inputs: &Inputs<'_>,
    slots: &Slots<'_>,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Report {
    let mut report = Report::default();
    for placed in placement::handovers(inputs.snapshot) {
        let turn = placed.turn(&inputs.host.name);
        begins(inputs, slots, placed.slot, turn, fresh, &mut report);
    }
    report
}

/// Begins the handovers of slots that this host had when it was drained, and forgets those that are back or can't come.
pub(crate) fn returning(
    inputs: &Inputs<'_>,
    slots: &Slots<'_>,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Report {
    let mut report = Report::default();
    let me = &inputs.host.name;
    let returns = placement::returns(inputs.snapshot, me);
    for slot in returns.now {
        let turn = Some(Turn::in_placement(0));
        begins(inputs, slots, slot, turn, fresh, &mut report);
    }
    let over = returns.over.into_iter();
    let over = over.map(|(slot, moved)| Write::returned(slot, me.clone(), moved));
    report.writes.extend(over);
    report
}

/// Begins the handover of a slot to this host, which has fewer containers than the one that has it.
pub(crate) fn rebalancing(
    inputs: &Inputs<'_>,
    slots: &Slots<'_>,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Report {
    let mut report = Report::default();
    let at = inputs.memory.disruption.may_rebalance_at();
    if inputs.now < at {
        // What moves is asked then: that costs more than all else, and slots come and go until then.
        if placement::is_uneven(inputs.snapshot) {
            report.notes.requeue(at);
        }
        return report;
    }
    let me = &inputs.host.name;
    let could_not = |id: &ContainerId| {
        let container = inputs.snapshot.containers.get(id);
        let manifest = container.and_then(|container| container.manifest.as_ref());
        let mark = inputs.memory.unfit.get(id);
        mark.zip(manifest)
            .is_some_and(|(mark, manifest)| mark.is_about(manifest.modified))
    };
    if let Some((slot, turn)) = placement::rebalance(inputs.snapshot, me, could_not) {
        begins(inputs, slots, slot, turn, fresh, &mut report);
    }
    report
}

/// Begins the handover of a slot to this host, if it is its turn.
fn begins(
    inputs: &Inputs<'_>,
    slots: &Slots<'_>,
    slot: SlotId,
    turn: Option<Turn>,
    fresh: &mut dyn FnMut() -> InstanceId,
    report: &mut Report,
) {
    if slots.is_here(&slot) || inputs.memory.disruption.may_place(inputs.now).is_err() {
        return;
    }
    let Some(container) = inputs.snapshot.containers.get(&slot.container) else {
        return;
    };
    let view = container.slots.get(&slot.slot);
    let Some((manifest, view)) = container.manifest.as_ref().zip(view) else {
        return;
    };
    let Owner::Live(claim) = inputs.snapshot.owner(view) else {
        return;
    };
    let Some(rev) = rollout::handed_over(container, claim.version) else {
        return;
    };
    let scope = Scope::Slot(slot.clone());
    let is_placing = inputs.memory.in_flight.is_placing();
    if !inputs.is_my_turn(&mut report.notes, &scope, turn) || is_placing {
        return;
    }
    let next = Claim {
        host: inputs.host.name.clone(),
        instance: fresh(),
        version: rev,
    };
    let void = inputs.snapshot.successor(view).void();
    report.writes.push(Write::next(
        slot,
        next,
        claim.modified,
        manifest.modified,
        void,
    ));
}
