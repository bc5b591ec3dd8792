//! The plan of one host: its writes and actions, and the reasons for which the rest waits.
//!
//! `plan` is total: it returns no error. Every write carries the revisions it
//! was decided on, so a plan that became stale fails in etcd and is made
//! again.

use manifests::InstanceId;
use model::{Extent, WriteKind};

use crate::cleanup;
use crate::gate::admit;
use crate::handover;
use crate::image_policy;
use crate::inputs::Inputs;
use crate::jobs;
use crate::lifecycle;
use crate::output::Plan;
use crate::ownership;
use crate::placing;
use crate::slots::Slots;

/// What this host writes and does now. `fresh` gives a new instance at each call.
///
/// The rules in order; each reports, and `admit` takes into the plan what may go now. Two questions are asked by
/// several of them: which version a slot runs (`rollout`), and whether slots may change hands (`disruption`).
///
/// A plan of what is here (`Extent::Here`) is the beginning of the whole one.
pub fn plan(inputs: Inputs<'_>, fresh: &mut dyn FnMut() -> InstanceId) -> Plan {
    let inputs = &inputs;
    let slots = Slots::of(inputs);
    let mut plan = Plan {
        partial: !(inputs.is_trusted() && inputs.has_engine()) || inputs.extent == Extent::Here,
        ..Plan::default()
    };

    // Life cycle: what this host has runs. Without trust crashed containers are restarted, and nothing else is done.
    admit(
        inputs,
        lifecycle::own_slots(inputs, &slots.own, fresh),
        &mut plan,
    );
    let is_able = inputs.is_trusted() && inputs.has_engine();
    if is_able {
        // Jobs: what runs here before a version is started, and its end is written.
        admit(inputs, jobs::jobs(inputs), &mut plan);
        // Handover: what comes here is made, started and promoted.
        admit(
            inputs,
            handover::incoming(inputs, &slots.incoming),
            &mut plan,
        );
        // Ownership: what runs here and is another's or nobody's is claimed, taken back or ended.
        admit(inputs, ownership::strays(inputs, &slots.strays), &mut plan);
    }
    if inputs.extent == Extent::Here {
        return plan;
    }
    let of_here = plan.requeue_at.take();
    if is_able {
        // Placement: this host's share of what nobody has, and of what hosts give away; what it gets back.
        // Each knows what the snapshot shows, not what is taken just now: a host port, say. It is shown soon.
        let (mut claims, is_placing) = placing::claims(inputs, &slots, fresh);
        if takes_a_slot(&plan) {
            claims.writes.clear();
        }
        admit(inputs, claims, &mut plan);
        if !takes_a_slot(&plan) {
            admit(inputs, placing::handovers(inputs, &slots, fresh), &mut plan);
        }
        if !takes_a_slot(&plan) {
            admit(inputs, placing::returning(inputs, &slots, fresh), &mut plan);
        }
        if !is_placing && !takes_a_slot(&plan) {
            let moves = placing::rebalancing(inputs, &slots, fresh);
            admit(inputs, moves, &mut plan);
        }
    }
    // Clean-up: what any host may delete, and this host's marks.
    if inputs.is_trusted() && inputs.snapshot.in_hold().is_none() {
        admit(inputs, cleanup::leftovers(inputs), &mut plan);
    }
    if is_able {
        // Newer images: what registries have, and the way back from what fails.
        if inputs.snapshot.in_hold().is_none() {
            admit(inputs, image_policy::newer_images(inputs), &mut plan);
        }
        admit(inputs, cleanup::marks(inputs), &mut plan);
    }
    plan.requeue_whole_at = std::mem::replace(&mut plan.requeue_at, of_here);
    plan
}

/// A slot comes to this host by it.
fn takes_a_slot(plan: &Plan) -> bool {
    let mut kinds = plan.writes.iter().map(|write| write.kind);
    kinds.any(|kind| {
        matches!(
            kind,
            WriteKind::Claim | WriteKind::TakeOver | WriteKind::Next
        )
    })
}

#[cfg(test)]
mod tests;
