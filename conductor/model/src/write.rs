//! Guarded writes to etcd, as values: what must hold, and what is then done at once.
//!
//! The store translates them one to one; a write that was decided on something that
//! is not so any more fails there, and nothing is harmed. Each constructor is a row
//! of `docs/design/ownership.md` or `docs/design/keys.md`.

mod left_out;
mod rows;

use std::fmt;

use manifests::keys::{self, Key};
use manifests::{ContainerId, HostName, InstanceId, SlotId};

use crate::kv::{KeyRange, Op};
use crate::records::{
    Claim, Cluster, Data, FoundImage, Job, Next, Rollout, SlotState, Status, Unfit, Version,
};
use crate::revision::{ModRev, VersionId};
use crate::scope::Scope;
use crate::snapshot::VoidNext;

/// Guards, and operations, of one write: several travel in one transaction, and etcd takes 128 operations in all.
pub const MAX_OPS: usize = 28;

/// A write to etcd: all operations if all guards hold, else none.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Writes of one scope follow each other.
    pub scope: Scope,
    /// Which row of the table.
    pub kind: WriteKind,
    /// What lets it end an ownership or a handover.
    pub over: Over,
    /// What must hold.
    pub guards: Vec<Guard>,
    /// What is done.
    pub ops: Vec<WriteOp>,
}

/// The row of the table that a write is, for logs and metrics.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    strum::Display,
    strum::IntoStaticStr,
    strum::VariantArray,
)]
#[strum(serialize_all = "kebab-case")]
#[expect(missing_docs, reason = "each is the constructor of this name")]
pub enum WriteKind {
    Claim,
    Keep,
    TakeOver,
    Retake,
    Next,
    Promote,
    DeleteNext,
    DeleteUnwanted,
    NewInstance,
    Replace,
    Adopt,
    Release,
    ReleaseUnfit,
    State,
    Data,
    TakeBack,
    Fit,
    Returned,
    Version,
    Good,
    Prune,
    Permit,
    Rollout,
    Found,
    WentBack,
    JobStart,
    JobEnd,
    Sweep,
    Status,
}

/// What lets a write end the ownership or the handover of another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Over {
    /// Nobody has it.
    #[default]
    Nobody,
    /// The new instance is ready, with this state: it may replace one that runs.
    Ready(SlotState),
    /// The record of this host, which has it or was to have it, is absent.
    Lost(HostName),
    /// This host, the owner, has stopped its instance for it: MOD(state).
    Stopped(ModRev, HostName),
}

/// A condition on etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key is as it was seen.
    Seen(Key, ModRev),
    /// The host has no record: it is not live.
    NoRecord(HostName),
    /// `.next` is as it was seen, and its host has no record.
    VoidNext(SlotId, VoidNext),
    /// No key is under `…/slots/`.
    NoSlots(ContainerId),
    /// `/dokkaa/cluster`, byte for byte.
    Cluster(Cluster),
}

/// An operation of a write.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each writes the key of this name")]
pub enum WriteOp {
    Claim(SlotId, Claim),
    Next(SlotId, Next),
    State(SlotId, SlotState),
    Data(SlotId, Data),
    Status(SlotId, Status),
    Version(ContainerId, VersionId, Version),
    Rollout(ContainerId, Rollout),
    FoundImage(ContainerId, FoundImage),
    Before(ContainerId, Job),
    Unfit(HostName, ContainerId, Unfit),
    /// Deletes a key, if it is there.
    Delete(Key),
    /// Deletes all versions.
    DeleteVersions(ContainerId),
}

/// Keys of etcd, as far as guards look at them.
pub trait Keys {
    /// Revision of the key's last change.
    fn modified(&self, key: &Key) -> ModRev;

    /// The key's value.
    fn value(&self, key: &Key) -> Option<&[u8]>;

    /// A key begins with this.
    fn any_under(&self, prefix: &str) -> bool;
}

impl Guard {
    /// It holds there.
    pub fn holds(&self, keys: &impl Keys) -> bool {
        match self {
            Self::Seen(key, rev) => keys.modified(key) == *rev,
            Self::NoRecord(host) => keys.modified(&Key::HostRecord(host.clone())) == ModRev::ABSENT,
            Self::VoidNext(slot, next) => {
                Self::Seen(Key::Next(slot.clone()), next.rev).holds(keys)
                    && Self::NoRecord(next.host.clone()).holds(keys)
            }
            Self::NoSlots(container) => !keys.any_under(&keys::slots_of(container)),
            Self::Cluster(cluster) => keys.value(&Key::Cluster) == Some(json(cluster).as_slice()),
        }
    }
}

impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen(key, rev) => write!(f, "MOD({key}) = {rev}"),
            Self::NoRecord(host) => write!(f, "no record of {host}"),
            Self::VoidNext(slot, next) => write!(
                f,
                "MOD({}) = {}, no record of {}",
                Key::Next(slot.clone()),
                next.rev,
                next.host
            ),
            Self::NoSlots(container) => write!(f, "no key under {}", keys::slots_of(container)),
            Self::Cluster(cluster) => write!(f, "{} of epoch {}", Key::Cluster, cluster.epoch),
        }
    }
}

impl WriteOp {
    /// As etcd carries it out.
    pub fn op(&self) -> Op {
        match self {
            Self::Claim(slot, claim) => Op::put_json(Key::Claim(slot.clone()), claim),
            Self::Next(slot, next) => Op::put_json(Key::Next(slot.clone()), next),
            Self::State(slot, state) => Op::put_json(Key::State(slot.clone()), state),
            Self::Data(slot, data) => Op::put_json(Key::Data(slot.clone()), data),
            Self::Status(slot, status) => Op::put_json(Key::Status(slot.clone()), status),
            Self::Version(container, id, version) => {
                Op::put_json(Key::Version(container.clone(), id.0), version)
            }
            Self::Rollout(container, rollout) => {
                Op::put_json(Key::Rollout(container.clone()), rollout)
            }
            Self::FoundImage(container, found) => {
                Op::put_json(Key::FoundImage(container.clone()), found)
            }
            Self::Before(container, job) => Op::put_json(Key::Before(container.clone()), job),
            Self::Unfit(host, container, unfit) => {
                Op::put_json(Key::Unfit(host.clone(), container.clone()), unfit)
            }
            Self::Delete(key) => Op::delete(key),
            Self::DeleteVersions(container) => {
                Op::Delete(KeyRange::prefix(&keys::versions_of(container)))
            }
        }
    }
}

impl Write {
    /// All its guards hold there.
    pub fn holds(&self, keys: &impl Keys) -> bool {
        self.guards.iter().all(|guard| guard.holds(keys))
    }

    /// The slot, if it is about one.
    pub fn slot(&self) -> Option<&SlotId> {
        match &self.scope {
            Scope::Slot(slot) => Some(slot),
            Scope::Container(_) => None,
        }
    }

    /// The slot that it puts on this host by the order of placement.
    pub fn takes(&self) -> Option<&SlotId> {
        use WriteKind::{Claim, Next, TakeOver};
        self.slot()
            .filter(|_| matches!(self.kind, Claim | TakeOver | Next))
    }

    /// What it makes the claim or `.next` of its slot.
    pub fn claimed(&self) -> Option<&Claim> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::Claim(_, claim) | WriteOp::Next(_, claim) => Some(claim),
            _ => None,
        })
    }

    /// The state that it writes.
    pub fn says(&self) -> Option<&SlotState> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::State(_, state) => Some(state),
            _ => None,
        })
    }

    /// The mark that it sets on this host.
    pub fn unfit(&self) -> Option<&Unfit> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::Unfit(_, _, unfit) => Some(unfit),
            _ => None,
        })
    }

    /// Where it says that the slot's volumes are.
    pub fn pin(&self) -> Option<&Data> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::Data(_, data) => Some(data),
            _ => None,
        })
    }

    /// The status that it writes.
    pub fn status_of(&self) -> Option<&Status> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::Status(_, status) => Some(status),
            _ => None,
        })
    }

    /// The version that it writes, and its key.
    pub fn version_of(&self) -> Option<(VersionId, &Version)> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::Version(_, id, version) => Some((*id, version)),
            _ => None,
        })
    }

    /// How far it says that an update is.
    pub fn rollout_of(&self) -> Option<(&ContainerId, &Rollout)> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::Rollout(container, rollout) => Some((container, rollout)),
            _ => None,
        })
    }

    /// The image that it says is to be run.
    pub fn found_image(&self) -> Option<(&ContainerId, &FoundImage)> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::FoundImage(container, found) => Some((container, found)),
            _ => None,
        })
    }

    /// What it says of a run before a version.
    pub fn job(&self) -> Option<(&ContainerId, &Job)> {
        self.ops.iter().find_map(|op| match op {
            WriteOp::Before(container, job) => Some((container, job)),
            _ => None,
        })
    }

    /// The instance that it is about, if it names one.
    pub fn instance(&self) -> Option<&InstanceId> {
        let claimed = self.claimed().map(|claim| &claim.instance);
        claimed.or_else(|| self.says().map(|state| &state.instance))
    }
}

/// In one line, with its guards.
impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.scope)?;
        if let Some(instance) = self.instance() {
            write!(f, " {instance}")?;
        }
        if let Some(state) = self.says() {
            write!(f, " {:?}", state.state)?;
        }
        if let Some(status) = self.status_of() {
            write!(f, " {}", status.progress)?;
        }
        if let Some((_, job)) = self.job() {
            write!(f, " of {} {} {}", job.version, job.instance, job.state)?;
        }
        let guards: Vec<String> = self.guards.iter().map(Guard::to_string).collect();
        write!(f, " ({})", guards.join(", "))
    }
}

/// As agents write it.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records always serialize")
}
