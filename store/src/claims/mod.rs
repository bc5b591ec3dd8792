//! The guarded transactions by which slots change hands, and all that is written in an owner's name.
//!
//! Pure: values in, `Txn` out. Every write on a claim has its guard, so a plan
//! made from an old view fails instead of harming. A claim's mod revision
//! numbers the ownership; what is written in the owner's name is guarded by it.

mod batch;

use manifests::keys::{self, Key};
use manifests::{ContainerId, HostName, SlotId};
use model::records::{Claim, Data, Rollout, SlotState, Unfit, Version};
use model::snapshot::VoidNext;
use model::write::{Over, Write};
use model::{Rule, Rules};

pub use batch::{Batch, batch};

use crate::kv::{Compare, KeyRange, Op, Relation, Target, Txn};

/// The transaction that a planned write is, by these rules.
pub fn txn(write: &Write, rules: Rules) -> Txn {
    match write {
        Write::Claim {
            slot,
            claim,
            manifest,
            next,
            data,
        } => {
            let mut txn = take(slot, claim, 0);
            place(
                &mut txn,
                slot,
                *manifest,
                next.as_ref(),
                data.as_ref(),
                rules,
            );
            txn
        }
        Write::Keep {
            slot,
            claim,
            version,
            cluster,
        } => {
            let mut txn = take(slot, claim, 0);
            txn.guards.extend([
                Compare::absent(Key::Manifest(slot.container.clone())),
                Compare::absent(Key::Next(slot.clone())),
                Compare::new(
                    KeyRange::key(Key::Cluster.to_string()),
                    Relation::Equal,
                    Target::Value(json(cluster)),
                ),
            ]);
            if let Some(version) = version {
                let key = Key::Version(slot.container.clone(), claim.manifest_rev);
                txn.guards.push(Compare::absent(&key));
                txn.then.push(Op::put_json(&key, version));
            }
            txn
        }
        Write::TakeOver {
            slot,
            claim,
            held,
            lost,
            manifest,
            next,
            data,
        } => {
            let mut txn = take(slot, claim, *held);
            txn.guards
                .push(Compare::absent(Key::HostRecord(lost.clone())));
            place(
                &mut txn,
                slot,
                *manifest,
                next.as_ref(),
                data.as_ref(),
                rules,
            );
            txn
        }
        Write::Retake {
            slot,
            claim,
            state,
            held,
            seen,
            next,
        } => retake(slot, claim, state, (*held, *seen, *next), rules),
        Write::Next {
            slot,
            next,
            held,
            manifest,
            void,
        } => {
            let mut txn = Txn::new(
                vec![
                    own(slot, *held),
                    manifest_as_seen(&slot.container, *manifest),
                ],
                vec![Op::put_json(Key::Next(slot.clone()), next)],
            );
            guard_next(&mut txn, slot, void.as_ref(), rules);
            txn
        }
        Write::Promote {
            slot,
            claim,
            held,
            manifest,
            next,
            over,
            state,
            data,
        } => {
            let mut txn = Txn::new(
                vec![
                    own(slot, *held),
                    manifest_as_seen(&slot.container, *manifest),
                    Compare::modified(Key::Next(slot.clone()), *next),
                ],
                vec![
                    Op::put_json(Key::Claim(slot.clone()), claim),
                    Op::delete(Key::Next(slot.clone())),
                    Op::delete(Key::Status(slot.clone())),
                    state_or_none(slot, state.as_ref()),
                ],
            );
            match over {
                Over::Ready | Over::Nobody => {}
                Over::Lost(host) => txn
                    .guards
                    .push(Compare::absent(Key::HostRecord(host.clone()))),
                Over::Stopped(seen, _) if rules.has(Rule::StoppedGuard) => txn
                    .guards
                    .push(Compare::modified(Key::State(slot.clone()), *seen)),
                Over::Stopped(_, holder) => txn
                    .guards
                    .push(Compare::absent(Key::HostRecord(holder.clone()))),
            }
            note_data(&mut txn, slot, data.as_ref());
            txn
        }
        Write::DeleteNext {
            slot,
            seen,
            void,
            unfit,
        } => {
            let key = Key::Next(slot.clone());
            let mut txn = Txn::new(vec![Compare::modified(&key, *seen)], vec![Op::delete(&key)]);
            let host = match void {
                Some(host) if rules.has(Rule::VoidGuard) => Some(host),
                _ => None,
            };
            txn.guards
                .extend(host.map(|host| Compare::absent(Key::HostRecord(host.clone()))));
            txn.then.extend(mark(slot, unfit.as_ref()));
            txn
        }
        Write::DeleteUnwanted {
            slot,
            held,
            manifest,
            lost,
        } => {
            let mut txn = Txn::new(
                vec![
                    own(slot, *held),
                    manifest_as_seen(&slot.container, *manifest),
                ],
                vec![Op::delete(Key::Claim(slot.clone()))],
            );
            if rules.has(Rule::GarbageGuard) {
                let record = Key::HostRecord(lost.clone());
                txn.guards.push(Compare::absent(record));
            }
            txn.then.extend(delete_former(slot));
            txn
        }
        Write::NewInstance {
            slot,
            claim,
            held,
            data,
        } => {
            let mut txn = take(slot, claim, *held);
            note_data(&mut txn, slot, data.as_ref());
            txn
        }
        Write::Release { slot, held, unfit } => {
            let mut txn = Txn::new(
                vec![own(slot, *held)],
                vec![Op::delete(Key::Claim(slot.clone()))],
            );
            txn.then.extend(delete_former(slot));
            txn.then.extend(mark(slot, unfit.as_ref()));
            txn
        }
        Write::State {
            slot,
            state,
            held,
            seen,
        } => put_state(slot, state, *held, *seen, rules),
        Write::Data { slot, data, held } => {
            let mut txn = Txn::new(vec![own(slot, *held)], Vec::new());
            note_data(&mut txn, slot, Some(data));
            txn
        }
        Write::TakeBack {
            slot,
            state,
            held,
            seen,
            next,
        } => {
            let mut txn = put_state(slot, state, *held, *seen, rules);
            replace_void(&mut txn, slot, next.as_ref(), rules);
            txn
        }
        Write::Fit {
            container,
            host,
            seen,
        } => {
            let key = Key::Unfit(host.clone(), container.clone());
            Txn::new(vec![Compare::modified(&key, *seen)], vec![Op::delete(&key)])
        }
        Write::Version {
            container,
            rev,
            version,
        } => put_version(container, *rev, version),
        Write::Good {
            container,
            rev,
            version,
            seen,
        } => mark_good(container, *rev, *seen, version),
        Write::Prune {
            container,
            versions,
        } => prune_versions(container, versions),
        Write::Rollout {
            container,
            rollout,
            manifest,
            seen,
        } => put_rollout(container, *manifest, *seen, rollout),
        Write::Sweep { container } => delete_remains(container),
        Write::Status { slot, status, held } => Txn::new(
            vec![own(slot, *held)],
            vec![Op::put_json(Key::Status(slot.clone()), status)],
        ),
    }
}

/// The claim as it was seen (0: absent) becomes this one, and what the former owner said goes.
fn take(slot: &SlotId, claim: &Claim, held: i64) -> Txn {
    let mut txn = Txn::new(
        vec![own(slot, held)],
        vec![Op::put_json(Key::Claim(slot.clone()), claim)],
    );
    txn.then.extend(delete_former(slot));
    txn
}

/// What every placement compares and writes beside the claim.
fn place(
    txn: &mut Txn,
    slot: &SlotId,
    manifest: i64,
    next: Option<&VoidNext>,
    data: Option<&(Data, i64)>,
    rules: Rules,
) {
    txn.guards.push(manifest_as_seen(&slot.container, manifest));
    replace_void(txn, slot, next, rules);
    note_data(txn, slot, data);
}

/// `.next` is as it was seen: absent, or void and its host is not live.
fn guard_next(txn: &mut Txn, slot: &SlotId, void: Option<&VoidNext>, rules: Rules) {
    let key = Key::Next(slot.clone());
    match void {
        None => txn.guards.push(Compare::absent(key)),
        Some(void) => {
            txn.guards.push(Compare::modified(key, void.modified));
            if rules.has(Rule::VoidGuard) {
                let record = Key::HostRecord(void.host.clone());
                txn.guards.push(Compare::absent(record));
            }
        }
    }
}

/// As `guard_next`, and a void one goes.
fn replace_void(txn: &mut Txn, slot: &SlotId, void: Option<&VoidNext>, rules: Rules) {
    guard_next(txn, slot, void, rules);
    if void.is_some() && rules.has(Rule::VoidDelete) {
        txn.then.push(Op::delete(Key::Next(slot.clone())));
    }
}

fn note_data(txn: &mut Txn, slot: &SlotId, data: Option<&(Data, i64)>) {
    if let Some((data, seen)) = data {
        let key = Key::Data(slot.clone());
        txn.guards.push(Compare::modified(&key, *seen));
        txn.then.push(Op::put_json(&key, data));
    }
}

fn mark(slot: &SlotId, unfit: Option<&(HostName, Unfit)>) -> Option<Op> {
    let (host, unfit) = unfit?;
    let key = Key::Unfit(host.clone(), slot.container.clone());
    Some(Op::put_json(key, unfit))
}

fn state_or_none(slot: &SlotId, state: Option<&SlotState>) -> Op {
    let key = Key::State(slot.clone());
    state.map_or_else(|| Op::delete(&key), |state| Op::put_json(&key, state))
}

/// The revisions are those of the claim, its state and `.next`.
fn retake(
    slot: &SlotId,
    claim: &Claim,
    state: &SlotState,
    (held, seen, next): (i64, i64, i64),
    rules: Rules,
) -> Txn {
    let with_state = rules.has(Rule::RetakeState).then_some(state);
    let mut txn = Txn::new(
        vec![
            own(slot, held),
            Compare::modified(Key::State(slot.clone()), seen),
        ],
        vec![
            Op::put_json(Key::Claim(slot.clone()), claim),
            Op::delete(Key::Status(slot.clone())),
            state_or_none(slot, with_state),
        ],
    );
    if rules.has(Rule::RetakeNext) {
        let key = Key::Next(slot.clone());
        txn.guards.push(Compare::modified(&key, next));
        if next != 0 {
            txn.then.push(Op::delete(&key));
        }
    }
    txn
}

fn put_state(slot: &SlotId, state: &SlotState, held: i64, seen: i64, rules: Rules) -> Txn {
    let guards = if rules.has(Rule::StateGuard) {
        vec![
            own(slot, held),
            Compare::modified(Key::State(slot.clone()), seen),
        ]
    } else {
        Vec::new()
    };
    Txn::new(guards, vec![Op::put_json(Key::State(slot.clone()), state)])
}

/// Writes a version, the first time; a loser reads what is there.
fn put_version(container: &ContainerId, rev: i64, version: &Version) -> Txn {
    let key = Key::Version(container.clone(), rev);
    Txn {
        guards: vec![Compare::absent(&key), manifest_as_seen(container, rev)],
        then: vec![Op::put_json(&key, version)],
        otherwise: vec![Op::Get(KeyRange::key(key.to_string()))],
    }
}

/// Adds `good` to a version; `seen` is the revision of its key, `version` what it said.
fn mark_good(container: &ContainerId, number: i64, seen: i64, version: &Version) -> Txn {
    let key = Key::Version(container.clone(), number);
    let good = Version {
        good: true,
        ..version.clone()
    };
    Txn::new(
        vec![Compare::modified(&key, seen)],
        vec![Op::put_json(&key, &good)],
    )
}

/// Forgets versions, by their keys and MODs as seen; those that are too many for one transaction stay for the next.
fn prune_versions(id: &ContainerId, versions: &[(i64, i64)]) -> Txn {
    let mut txn = Txn::default();
    for (number, seen) in versions.iter().take(batch::MAX_OPS) {
        let key = Key::Version(id.clone(), *number);
        txn.guards.push(Compare::modified(&key, *seen));
        txn.then.push(Op::delete(&key));
    }
    txn
}

/// Notes that an update was given up; `rollout` is the key's revision as seen (0: absent).
fn put_rollout(container: &ContainerId, manifest: i64, rollout: i64, new: &Rollout) -> Txn {
    let key = Key::Rollout(container.clone());
    Txn::new(
        vec![
            manifest_as_seen(container, manifest),
            Compare::modified(&key, rollout),
        ],
        vec![Op::put_json(&key, new)],
    )
}

/// Deletes what is left of a container that has neither manifest nor slots. Data stays.
fn delete_remains(container: &ContainerId) -> Txn {
    let claims = keys::claims_of(container);
    Txn::new(
        vec![
            Compare::none_in(KeyRange::key(Key::Manifest(container.clone()).to_string())),
            Compare::none_in(KeyRange::prefix(&keys::slots_of(container))),
        ],
        vec![
            Op::Delete(KeyRange::prefix(&format!("{claims}versions/"))),
            Op::delete(Key::Rollout(container.clone())),
        ],
    )
}

/// As agents write it.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records always serialize")
}

fn own(slot: &SlotId, claim: i64) -> Compare {
    Compare::modified(Key::Claim(slot.clone()), claim)
}

fn manifest_as_seen(container: &ContainerId, manifest: i64) -> Compare {
    Compare::modified(Key::Manifest(container.clone()), manifest)
}

/// State and status of the instance that was.
fn delete_former(slot: &SlotId) -> [Op; 2] {
    [
        Op::delete(Key::State(slot.clone())),
        Op::delete(Key::Status(slot.clone())),
    ]
}
