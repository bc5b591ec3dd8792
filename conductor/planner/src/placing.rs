//! This host's share of placement: slots that nobody has, and those that hosts give away.

use manifests::InstanceId;
use model::Scope;
use model::Write;
use model::records::Claim;
use model::snapshot::{Owner, SlotView};
use model::volumes;

use crate::inputs::Inputs;
use crate::output::Report;
use crate::ownership::take;
use crate::placement;
use crate::rollout::{Target, placed_anew};
use crate::slots::Slots;
use crate::waiting::Waiting;

/// Claims slots that nobody has, and takes over those of lost hosts.
pub(crate) fn claims(
    inputs: &Inputs<'_>,
    slots: &Slots<'_>,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Report {
    let mut report = Report::default();
    placement::each_unclaimed(inputs.snapshot, |placed| {
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
        let turn = placed.turn(&inputs.host.name, inputs.is_first_turn(&scope));
        let is_placing = inputs.memory.in_flight.is_placing();
        if !inputs.is_my_turn(&mut report.notes, &scope, turn) || is_placing {
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
    report
}

/// Begins handovers from hosts that give away what they have.
pub(crate) fn handovers(
    inputs: &Inputs<'_>,
    slots: &Slots<'_>,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Report {
    let mut report = Report::default();
    for placed in placement::handovers(inputs.snapshot) {
        if slots.is_here(&placed.slot) || inputs.memory.disruption.may_place(inputs.now).is_err() {
            continue;
        }
        let Some(container) = inputs.snapshot.containers.get(&placed.slot.container) else {
            continue;
        };
        let (Some(manifest), Some(target), Some(view)) = (
            &container.manifest,
            placed_anew(container),
            container.slots.get(&placed.slot.slot),
        ) else {
            continue;
        };
        let Owner::Live(claim) = inputs.snapshot.owner(view) else {
            continue;
        };
        let rev = match target {
            Target::Decided { rev, .. } => rev,
            Target::Undecided { .. } if !target.outdates(container, claim.version) => claim.version,
            // While a new version is being decided, a handover would only be given up again.
            Target::Undecided { .. } => continue,
        };
        let scope = Scope::Slot(placed.slot.clone());
        let turn = placed.turn(&inputs.host.name);
        let is_placing = inputs.memory.in_flight.is_placing();
        if !inputs.is_my_turn(&mut report.notes, &scope, turn) || is_placing {
            continue;
        }
        let next = Claim {
            host: inputs.host.name.clone(),
            instance: fresh(),
            version: rev,
        };
        let void = inputs.snapshot.successor(view).void();
        report.writes.push(Write::next(
            placed.slot,
            next,
            claim.modified,
            manifest.modified,
            void,
        ));
    }
    report
}
