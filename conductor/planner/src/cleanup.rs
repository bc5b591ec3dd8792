//! Clean-up: superfluous versions, remains, claims of lost hosts for slots that nobody wants, this host's unfit marks.

use std::collections::BTreeSet;

use manifests::{ContainerId, HostName, SlotId};
use model::snapshot::mod_rev;

use crate::inputs::Inputs;
use crate::memory::UnfitMark;
use crate::output::Report;
use crate::rollout;
use crate::turn::Turn;
use model::Scope;
use model::Write;
use model::rules::Rule;
use model::snapshot::{ContainerView, Owner, SlotView, Snapshot, Successor};

/// Superfluous versions, remains, and what lost hosts have left.
pub(crate) fn leftovers(inputs: &Inputs<'_>) -> Report {
    let mut report = Report::default();
    let snapshot = inputs.snapshot;
    let left: BTreeSet<&SlotId> = snapshot.left_by_lost().collect();
    let mut bare = snapshot.bare().peekable();
    if !left.is_empty() || bare.peek().is_some() {
        let turn = Turn::in_clean_up(snapshot, &inputs.host.name);
        for (slot, container, view) in snapshot.known(left.into_iter()) {
            left_by_lost_host(inputs, turn, slot, container, view, &mut report);
        }
        for id in bare {
            remains(inputs, turn, id, &mut report);
        }
    }
    superfluous(inputs, &mut report);
    report
}

/// What is left of a container that is gone.
fn remains(inputs: &Inputs<'_>, turn: Option<Turn>, id: &ContainerId, report: &mut Report) {
    let Some(container) = inputs.snapshot.containers.get(id) else {
        return;
    };
    let mut claims = container.slots.values().filter_map(|s| s.claim.as_ref());
    if claims.next().is_some() {
        return;
    }
    let mut slots = container.slots.values();
    let remains = !container.versions.is_empty()
        || container.rollout.is_some()
        || container.last_found.is_some()
        || container.job.is_some()
        || slots.any(|slot| slot.state.is_some() || slot.next.is_some());
    let scope = Scope::Container(id.clone());
    if remains && inputs.is_my_turn(&mut report.notes, &scope, turn) {
        report.writes.push(Write::sweep(id.clone()));
    }
}

/// Versions that nobody needs, of the containers whose first slot is here.
fn superfluous(inputs: &Inputs<'_>, report: &mut Report) {
    let me = &inputs.host.name;
    for (id, container) in inputs.own_containers() {
        let mut claims = container.slots.values().filter_map(|s| s.claim.as_ref());
        if claims.next().is_some_and(|first| first.host == *me) {
            let versions = rollout::superfluous(container);
            if !versions.is_empty() {
                report.writes.push(Write::prune(id, &versions));
            }
        }
    }
}

fn is_member(snapshot: &Snapshot, host: &HostName) -> bool {
    let view = snapshot.hosts.get(host);
    view.is_some_and(|view| view.member.is_some())
}

/// The claim of a host that is not live for a slot that nobody wants, and a handover that nobody can finish.
fn left_by_lost_host(
    inputs: &Inputs<'_>,
    turn: Option<Turn>,
    slot: &SlotId,
    container: &ContainerView,
    view: &SlotView,
    report: &mut Report,
) {
    let unwanted = match inputs.snapshot.owner(view) {
        Owner::Live(_) => return,
        // What an accepted restore kept has no manifest, and may be back with its host.
        Owner::Lost(claim)
            if container.manifest.is_none()
                && claim.version.is_orphaned()
                && is_member(inputs.snapshot, &claim.host) =>
        {
            None
        }
        Owner::Lost(claim) if !container.is_wanted(slot.slot) => Some(claim),
        Owner::Nobody | Owner::Lost(_) => None,
    };
    let void = match inputs.snapshot.successor(view) {
        Successor::Void(next) if inputs.rules.has(Rule::OrphanedNext) => Some(next),
        _ => None,
    };
    if unwanted.is_none() && void.is_none() {
        return;
    }
    let scope = Scope::Slot(slot.clone());
    if !inputs.is_my_turn(&mut report.notes, &scope, turn) {
        return;
    }
    match (unwanted, void) {
        (Some(claim), _) => report.writes.push(Write::delete_unwanted(
            slot.clone(),
            claim.modified,
            mod_rev(container.manifest.as_ref()),
            claim.host.clone(),
        )),
        (None, Some(next)) => report
            .writes
            .push(Write::delete_void_next(slot.clone(), next.void())),
        (None, None) => {}
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
        // The write that made it may be there before its answer, which says how long it stands.
        if inputs.memory.in_flight.is_writing_of(id) {
            continue;
        }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::net::IpAddr;
    use std::time::Duration;

    use manifests::ContainerId;
    use manifests::keys::Key;
    use model::observed::{Observed, Surroundings};
    use model::records::Unfit;
    use model::rules::Rules;
    use model::snapshot::Change;
    use model::time::Millis;
    use model::{Extent, Host, ModRev, Snapshot, Trust, Write};
    use uuid::Uuid;

    use super::*;
    use crate::memory::AgentMemory;

    #[test]
    fn a_mark_that_is_seen_before_its_answer_stands() {
        let id: ContainerId = "shop/web".parse().unwrap();
        let host = Host {
            name: "h1".parse().unwrap(),
            id: Uuid::from_u128(1),
            surroundings: Surroundings {
                host_ip: IpAddr::from([10, 0, 0, 1]),
                gateway: IpAddr::from([172, 17, 0, 1]),
                dns: None,
                domain: "skydns.local".to_owned(),
                network: "bridge".to_owned(),
            },
        };
        let unfit = Unfit {
            manifest_rev: ModRev(3),
            reason: "no such image".to_owned(),
        };
        let put = |key: Key, value: String, modified| Change::Put {
            key: key.to_string(),
            value: value.into_bytes(),
            modified,
            created: modified,
        };
        let mark = serde_json::to_string(&unfit).unwrap();
        let mut snapshot = Snapshot::default();
        let changes = [
            put(Key::Manifest(id.clone()), r#"{"image":"a"}"#.to_owned(), 3),
            put(Key::Unfit(host.name.clone(), id.clone()), mark, 5),
        ];
        snapshot.apply(changes, 5);
        let observed = Observed::default();
        let fits = |memory: &AgentMemory, now| {
            let inputs = Inputs {
                snapshot: &snapshot,
                observed: &observed,
                memory,
                host: &host,
                trust: Trust::Full,
                rules: Rules::default(),
                extent: Extent::Whole,
                now,
            };
            !marks(&inputs).writes.is_empty()
        };
        let write = Write::release_unfit(id.slot(0), ModRev(4), host.name.clone(), unfit);
        let mut memory = AgentMemory::default();
        let at = Millis(1_000);
        assert!(fits(&memory, at), "of an earlier process");
        memory.begin_write(&write);
        assert!(!fits(&memory, at));
        memory.wrote(&write, true, 5, 4, at);
        assert!(!fits(&memory, at));
        assert!(!fits(&memory, at + Duration::from_secs(9)));
        assert!(fits(&memory, at + Duration::from_secs(10)));
    }
}
