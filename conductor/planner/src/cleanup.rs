//! Clean-up: superfluous versions, remains, claims of lost hosts for slots that nobody wants, this host's unfit marks.

use manifests::ContainerId;
use model::snapshot::mod_rev;

use crate::inputs::Inputs;
use crate::memory::UnfitMark;
use crate::output::Report;
use crate::rollout;
use crate::turn::Turn;
use model::Scope;
use model::Write;
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner, Successor};

/// Superfluous versions, remains, and what lost hosts have left.
pub(crate) fn leftovers(inputs: &Inputs<'_>) -> Report {
    let mut report = Report::default();
    let turn = Turn::in_clean_up(inputs.snapshot, &inputs.host.name);
    for (id, container) in &inputs.snapshot.containers {
        left_by_lost_hosts(inputs, turn, id, container, &mut report);
        superfluous(inputs, turn, id, container, &mut report);
    }
    report
}

/// Versions that nobody needs, and what is left of a container that is gone.
fn superfluous(
    inputs: &Inputs<'_>,
    turn: Option<Turn>,
    id: &ContainerId,
    container: &ContainerView,
    report: &mut Report,
) {
    let scope = Scope::Container(id.clone());
    let first_owner = container
        .slots
        .values()
        .find_map(|s| s.claim.as_ref().map(|c| &c.host));
    if container.manifest.is_none() && first_owner.is_none() {
        let remains = !container.versions.is_empty()
            || container.rollout.is_some()
            || container
                .slots
                .values()
                .any(|s| s.state.is_some() || s.next.is_some());
        if remains && inputs.is_my_turn(&mut report.notes, &scope, turn) {
            report.writes.push(Write::sweep(id.clone()));
        }
    } else if first_owner == Some(&inputs.host.name) {
        let versions = rollout::superfluous(container);
        if !versions.is_empty() {
            report.writes.push(Write::prune(id, &versions));
        }
    }
}

/// Claims of hosts that are not live for slots that nobody wants, and handovers that nobody can finish.
fn left_by_lost_hosts(
    inputs: &Inputs<'_>,
    turn: Option<Turn>,
    id: &ContainerId,
    container: &ContainerView,
    report: &mut Report,
) {
    for (number, view) in &container.slots {
        let (lost, unwanted) = match inputs.snapshot.owner(view) {
            Owner::Live(_) => continue,
            Owner::Nobody => (None, false),
            Owner::Lost(claim) => (Some(claim), !container.is_wanted(*number)),
        };
        let void = match inputs.snapshot.successor(view) {
            Successor::Void(next) if inputs.rules.has(Rule::OrphanedNext) => Some(next),
            _ => None,
        };
        if !unwanted && void.is_none() {
            continue;
        }
        let slot = id.slot(*number);
        let scope = Scope::Slot(slot.clone());
        if !inputs.is_my_turn(&mut report.notes, &scope, turn) {
            continue;
        }
        match (lost.filter(|_| unwanted), void) {
            (Some(claim), _) => report.writes.push(Write::delete_unwanted(
                slot,
                claim.modified,
                mod_rev(container.manifest.as_ref()),
                claim.host.clone(),
            )),
            (None, Some(next)) => report
                .writes
                .push(Write::delete_void_next(slot, next.void())),
            (None, None) => {}
        }
    }
}

/// Deletes this host's unfit marks when they have stood for a while, or are about another manifest.
pub(crate) fn marks(inputs: &Inputs<'_>) -> Report {
    let mut report = Report::default();
    let Some(host) = inputs.snapshot.hosts.get(&inputs.host.name) else {
        return report;
    };
    for (id, unfit) in &host.unfit {
        let manifest = inputs
            .snapshot
            .containers
            .get(id)
            .and_then(|c| c.manifest.as_ref())
            .map(|m| m.modified);
        // A mark of an earlier process is deleted at once: its reason may be gone.
        let mark = inputs.memory.unfit.get(id);
        let until = mark
            .filter(|_| manifest == Some(unfit.manifest_rev))
            .map(UnfitMark::until)
            .unwrap_or_default();
        if inputs.now < until {
            report.notes.requeue(until);
            continue;
        }
        if inputs.memory.in_flight.is_stalled(id, inputs.now) {
            continue;
        }
        report.writes.push(Write::fit(
            id.clone(),
            inputs.host.name.clone(),
            unfit.modified,
        ));
    }
    report
}
