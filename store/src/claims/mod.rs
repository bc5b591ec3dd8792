//! The guarded transactions by which slots change hands, and all that is written in an owner's name.
//!
//! Pure: values in, `Txn` out. Every write on a claim has its guard, so a plan
//! made from an old view fails instead of harming. A claim's mod revision
//! numbers the ownership; what is written in the owner's name is guarded by it.

mod batch;

use conductor_core::records::{Claim, Data, Rollout, SlotState, Status, Unfit, Version};
use manifests::keys::{self, Key};
use manifests::{ContainerId, HostName, SlotId};

pub use batch::{Batch, batch};

use crate::kv::{Compare, KeyRange, Op, Txn};

/// `.next` as it was seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NextSeen {
    /// There is none.
    #[default]
    Absent,
    /// It is of this revision, and its host was not live.
    Void {
        /// Its revision.
        modified: i64,
        /// Its host.
        host: HostName,
    },
}

impl NextSeen {
    fn guards(&self, slot: &SlotId, guards: &mut Vec<Compare>) {
        match self {
            Self::Absent => guards.push(Compare::absent(Key::Next(slot.clone()))),
            Self::Void { modified, host } => {
                guards.push(Compare::modified(Key::Next(slot.clone()), *modified));
                guards.push(Compare::absent(Key::HostRecord(host.clone())));
            }
        }
    }
}

/// A claim on a free slot.
#[derive(Debug, Clone, PartialEq)]
pub struct FreeSlot<'a> {
    /// Which slot.
    pub slot: &'a SlotId,
    /// What to write.
    pub claim: &'a Claim,
    /// The manifest's revision as seen.
    pub manifest: i64,
    /// `.next` as seen.
    pub next: &'a NextSeen,
    /// Where the slot's data is from now on, and the revision of that key as seen (0: absent).
    pub data: Option<(&'a Data, i64)>,
}

/// Claims a free slot; what a former owner left is deleted with it.
pub fn claim_free(free: FreeSlot<'_>) -> Txn {
    let FreeSlot {
        slot,
        claim,
        manifest,
        next,
        data,
    } = free;
    let mut guards = vec![
        Compare::modified(Key::Claim(slot.clone()), 0),
        manifest_as_seen(&slot.container, manifest),
    ];
    next.guards(slot, &mut guards);
    let mut then = vec![Op::put_json(Key::Claim(slot.clone()), claim)];
    then.extend(delete_former(slot));
    if *next != NextSeen::Absent {
        then.push(Op::delete(Key::Next(slot.clone())));
    }
    if let Some((data, modified)) = data {
        guards.push(Compare::modified(Key::Data(slot.clone()), modified));
        then.push(Op::put_json(Key::Data(slot.clone()), data));
    }
    Txn::new(guards, then)
}

/// Gives up an own claim, of revision `claim`.
pub fn release(slot: &SlotId, claim: i64) -> Txn {
    let mut then = vec![Op::delete(Key::Claim(slot.clone()))];
    then.extend(delete_former(slot));
    Txn::new(vec![own(slot, claim)], then)
}

/// Gives up an own claim because this host can't run it, and says so, in one. Not for a batch: slots share the mark.
pub fn release_unfit(slot: &SlotId, claim: i64, host: &HostName, unfit: &Unfit) -> Txn {
    let mut txn = release(slot, claim);
    txn.then.push(put_mark(host, &slot.container, unfit));
    txn
}

/// Another instance for an own slot.
#[derive(Debug, Clone, PartialEq)]
pub struct NewInstance<'a> {
    /// The slot.
    pub slot: &'a SlotId,
    /// What is written.
    pub new: &'a Claim,
    /// MOD(claim).
    pub claim: i64,
    /// Where its volumes are, if that is to be noted, and MOD(data).
    pub data: Option<(&'a Data, i64)>,
}

/// Gives an own slot to another instance of the same host; what was said of the former one goes.
pub fn new_instance(change: NewInstance<'_>) -> Txn {
    let NewInstance {
        slot,
        new,
        claim,
        data,
    } = change;
    let mut guards = vec![own(slot, claim)];
    let mut then = vec![Op::put_json(Key::Claim(slot.clone()), new)];
    then.extend(delete_former(slot));
    if let Some((data, modified)) = data {
        guards.push(Compare::modified(Key::Data(slot.clone()), modified));
        then.push(Op::put_json(Key::Data(slot.clone()), data));
    }
    Txn::new(guards, then)
}

/// Writes the state of an own slot; `state` is the state's revision as last written or seen (0: absent).
pub fn put_state(slot: &SlotId, claim: i64, state: i64, new: &SlotState) -> Txn {
    Txn::new(
        vec![
            own(slot, claim),
            Compare::modified(Key::State(slot.clone()), state),
        ],
        vec![Op::put_json(Key::State(slot.clone()), new)],
    )
}

/// Writes what people may read of an own slot.
pub fn put_status(slot: &SlotId, claim: i64, status: &Status) -> Txn {
    Txn::new(
        vec![own(slot, claim)],
        vec![Op::put_json(Key::Status(slot.clone()), status)],
    )
}

/// Deletes the claim of a host that is not live, for a slot that is not wanted.
pub fn delete_unwanted(slot: &SlotId, claim: i64, manifest: i64, host: &HostName) -> Txn {
    let mut then = vec![
        Op::delete(Key::Claim(slot.clone())),
        Op::delete(Key::Next(slot.clone())),
    ];
    then.extend(delete_former(slot));
    Txn::new(
        vec![
            own(slot, claim),
            manifest_as_seen(&slot.container, manifest),
            Compare::absent(Key::HostRecord(host.clone())),
        ],
        then,
    )
}

/// Writes a version, the first time; a loser reads what is there. `manifest` is its revision, and the version's name.
pub fn put_version(container: &ContainerId, manifest: i64, version: &Version) -> Txn {
    let key = Key::Version(container.clone(), manifest);
    Txn {
        guards: vec![Compare::absent(&key), manifest_as_seen(container, manifest)],
        then: vec![Op::put_json(&key, version)],
        otherwise: vec![Op::Get(KeyRange::key(key.to_string()))],
    }
}

/// Adds `good` to a version; `seen` is the revision of its key, `version` what it said.
pub fn mark_good(container: &ContainerId, number: i64, seen: i64, version: &Version) -> Txn {
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
pub fn prune_versions(id: &ContainerId, versions: &[(i64, i64)]) -> Txn {
    let mut txn = Txn::default();
    for (number, seen) in versions.iter().take(batch::MAX_OPS) {
        let key = Key::Version(id.clone(), *number);
        txn.guards.push(Compare::modified(&key, *seen));
        txn.then.push(Op::delete(&key));
    }
    txn
}

/// Notes that an update was given up; `rollout` is the key's revision as seen (0: absent).
pub fn put_rollout(container: &ContainerId, manifest: i64, rollout: i64, new: &Rollout) -> Txn {
    let key = Key::Rollout(container.clone());
    Txn::new(
        vec![
            manifest_as_seen(container, manifest),
            Compare::modified(&key, rollout),
        ],
        vec![Op::put_json(&key, new)],
    )
}

/// Takes the note of a given-up update away, as seen.
pub fn clear_rollout(container: &ContainerId, rollout: i64) -> Txn {
    let key = Key::Rollout(container.clone());
    Txn::new(
        vec![Compare::modified(&key, rollout)],
        vec![Op::delete(&key)],
    )
}

/// Deletes what is left of a container that has neither manifest nor slots. Data stays.
pub fn delete_remains(container: &ContainerId) -> Txn {
    let claims = keys::claims_of(container);
    Txn::new(
        vec![
            Compare::none_in(KeyRange::key(Key::Manifest(container.clone()).to_string())),
            Compare::none_in(KeyRange::prefix(&keys::slots_of(container))),
        ],
        vec![
            Op::Delete(KeyRange::prefix(&format!("{claims}versions/"))),
            Op::delete(Key::Rollout(container.clone())),
            Op::Delete(KeyRange::prefix(&format!("{claims}updating/"))),
        ],
    )
}

/// Marks this host unfit for a container; `unfit` is the key's revision as seen (0: absent).
pub fn put_unfit(host: &HostName, container: &ContainerId, unfit: i64, new: &Unfit) -> Txn {
    let key = Key::Unfit(host.clone(), container.clone());
    Txn::new(
        vec![Compare::modified(&key, unfit)],
        vec![put_mark(host, container, new)],
    )
}

/// Takes the mark away, as seen.
pub fn clear_unfit(host: &HostName, container: &ContainerId, unfit: i64) -> Txn {
    let key = Key::Unfit(host.clone(), container.clone());
    Txn::new(vec![Compare::modified(&key, unfit)], vec![Op::delete(&key)])
}

fn put_mark(host: &HostName, container: &ContainerId, unfit: &Unfit) -> Op {
    Op::put_json(Key::Unfit(host.clone(), container.clone()), unfit)
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
