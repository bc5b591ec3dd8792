//! What slots and hosts share: versions, remains, claims of lost hosts for what nobody wants, marks.

use manifests::ContainerId;

use crate::inputs::Inputs;
use crate::output::Plan;
use crate::target;
use crate::turn::Turn;
use model::Scope;
use model::Write;
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner, Successor};

/// Superfluous versions, remains, and what lost hosts have left.
pub(super) fn container(
    inputs: &Inputs<'_>,
    id: &ContainerId,
    container: &ContainerView,
    plan: &mut Plan,
) {
    left_by_lost_hosts(inputs, id, container, plan);
    let work = Scope::Container(id.clone());
    if inputs.is_writing(&work) || plan.writes.iter().any(|w| w.scope == work) {
        return;
    }
    let lowest = container
        .slots
        .values()
        .find_map(|s| s.claim.as_ref().map(|c| &c.host));
    if container.manifest.is_none() && lowest.is_none() {
        let remains = !container.versions.is_empty()
            || container.rollout.is_some()
            || container
                .slots
                .values()
                .any(|s| s.state.is_some() || s.next.is_some());
        if remains
            && inputs.is_my_turn(
                plan,
                &work,
                Turn::in_clean_up(inputs.snapshot, &inputs.host.name),
            )
        {
            plan.writes.push(Write::sweep(id.clone()));
        }
    } else if lowest == Some(&inputs.host.name) {
        let versions = target::superfluous(container);
        if !versions.is_empty() {
            plan.writes.push(Write::prune(id, &versions));
        }
    }
}

/// Claims of hosts that are not live for slots that nobody wants, and handovers that nobody can finish.
fn left_by_lost_hosts(
    inputs: &Inputs<'_>,
    id: &ContainerId,
    container: &ContainerView,
    plan: &mut Plan,
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
        let work = Scope::Slot(slot.clone());
        if !inputs.is_my_turn(
            plan,
            &work,
            Turn::in_clean_up(inputs.snapshot, &inputs.host.name),
        ) || inputs.is_writing(&work)
        {
            continue;
        }
        match (lost.filter(|_| unwanted), void) {
            (Some(claim), _) => plan.writes.push(Write::delete_unwanted(
                slot,
                claim.modified,
                container.manifest.as_ref().map_or(0, |m| m.modified),
                claim.host.clone(),
            )),
            (None, Some(next)) => plan.writes.push(Write::delete_void_next(slot, next.void())),
            (None, None) => {}
        }
    }
}

/// Takes this host's marks away when they have stood for a while, or are about another manifest.
pub(super) fn marks(inputs: &Inputs<'_>, plan: &mut Plan) {
    let Some(host) = inputs.snapshot.hosts.get(&inputs.host.name) else {
        return;
    };
    for (id, unfit) in &host.unfit {
        let manifest = inputs
            .snapshot
            .containers
            .get(id)
            .and_then(|c| c.manifest.as_ref())
            .map(|m| m.modified);
        // An earlier process's mark is taken away at once: what it failed for may be gone.
        let mark = inputs.memory.unfit.get(id);
        let until = mark
            .filter(|_| manifest == Some(unfit.manifest_rev))
            .map(crate::memory::UnfitMark::until)
            .unwrap_or_default();
        if inputs.now < until {
            plan.requeue(until);
            continue;
        }
        if inputs.memory.in_flight.is_stalled(id, inputs.now) {
            continue;
        }
        let work = Scope::Container(id.clone());
        if !inputs.is_writing(&work) && plan.writes.iter().all(|w| w.scope != work) {
            plan.writes.push(Write::fit(
                id.clone(),
                inputs.host.name.clone(),
                unfit.modified,
            ));
        }
    }
}
