//! What an agent writes to etcd, as values: each write says the revisions that its guards compare.
//!
//! The store makes guarded transactions of them; a write that was decided on
//! something that is not so any more fails there, and nothing is harmed.

use manifests::{ContainerId, HostName, SlotId};

use crate::records::{Claim, Cluster, Data, Next, Rollout, SlotState, Status, Unfit, Version};
use crate::scope::Scope;
use crate::snapshot::VoidNext;

/// What lets a promotion end another's ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Over {
    /// The new instance is ready: it may replace one that runs.
    Ready,
    /// Nobody has the slot.
    Nobody,
    /// The owner's record is absent.
    Lost(HostName),
    /// The owner, of this name, has stopped its instance for it: MOD(state).
    Stopped(i64, HostName),
}

/// A write to etcd, with the revisions that its guards compare.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    /// Claims a free slot: MOD(claim) = 0, MOD(manifest), `.next` absent or void, and then deleted.
    Claim {
        /// The slot.
        slot: SlotId,
        /// What is written.
        claim: Claim,
        /// MOD(manifest).
        manifest: i64,
        /// A void `.next`.
        next: Option<VoidNext>,
        /// The slot's data, if it has local volumes and they are not noted so, and MOD(data); 0 if there is none.
        data: Option<(Data, i64)>,
    },
    /// Claims a slot for what is kept without a manifest: neither claim, `.next` nor manifest, and the cluster's key, since
    /// all that is absent holds in any etcd.
    Keep {
        /// The slot.
        slot: SlotId,
        /// What is written.
        claim: Claim,
        /// Its version, if etcd has lost it: absent.
        version: Option<Version>,
        /// `/dokkaa/cluster` as it was seen.
        cluster: Cluster,
    },
    /// Takes a slot over from a host that is not live: MOD(claim), no record of that host, the rest as for a claim.
    TakeOver {
        /// The slot.
        slot: SlotId,
        /// What is written.
        claim: Claim,
        /// MOD(claim) of the lost owner.
        held: i64,
        /// The lost owner.
        lost: HostName,
        /// MOD(manifest).
        manifest: i64,
        /// A void `.next`.
        next: Option<VoidNext>,
        /// As for a claim.
        data: Option<(Data, i64)>,
    },
    /// Takes an own slot back, for an instance that is ready here while the owner's is not: MOD(claim), `.next` and the
    /// owner's state as seen.
    Retake {
        /// The slot.
        slot: SlotId,
        /// What is written.
        claim: Claim,
        /// Its state, `ready`.
        state: SlotState,
        /// MOD(claim) of the owner.
        held: i64,
        /// MOD(state) of the owner; 0 if there is none.
        seen: i64,
        /// MOD(`.next`); 0 if there is none.
        next: i64,
    },
    /// Begins a handover to this host: MOD(claim), MOD(manifest), `.next` absent or void.
    Next {
        /// The slot.
        slot: SlotId,
        /// What is written.
        next: Next,
        /// MOD(claim).
        held: i64,
        /// MOD(manifest).
        manifest: i64,
        /// A void `.next`.
        void: Option<VoidNext>,
    },
    /// Ends a handover: the claim names the new instance: MOD(claim), MOD(manifest), MOD(`.next`), and what `over` says.
    Promote {
        /// The slot.
        slot: SlotId,
        /// What is written.
        claim: Claim,
        /// MOD(claim); 0 if there is none.
        held: i64,
        /// MOD(manifest).
        manifest: i64,
        /// MOD(`.next`), this host's.
        next: i64,
        /// Why it may.
        over: Over,
        /// `ready`, if it is.
        state: Option<SlotState>,
        /// As for a claim.
        data: Option<(Data, i64)>,
    },
    /// Gives a handover up, or clears away one that nobody can finish: MOD(`.next`).
    DeleteNext {
        /// The slot.
        slot: SlotId,
        /// MOD(`.next`).
        seen: i64,
        /// Its host, if it is void: its record is absent. None if it is this host's own.
        void: Option<HostName>,
        /// This host can't run it.
        unfit: Option<(HostName, Unfit)>,
    },
    /// Deletes the claim of a host that is not live, for a slot that is not wanted: MOD(claim), MOD(manifest), no record.
    DeleteUnwanted {
        /// The slot.
        slot: SlotId,
        /// MOD(claim).
        held: i64,
        /// MOD(manifest); 0 if there is none.
        manifest: i64,
        /// The lost owner.
        lost: HostName,
    },
    /// Gives an own slot to another instance of this host: MOD(claim).
    NewInstance {
        /// The slot.
        slot: SlotId,
        /// What is written.
        claim: Claim,
        /// MOD(claim).
        held: i64,
        /// As for a claim.
        data: Option<(Data, i64)>,
    },
    /// Gives an own slot up, with its state and status: MOD(claim).
    Release {
        /// The slot.
        slot: SlotId,
        /// MOD(claim).
        held: i64,
        /// This host can't run it, and says so in the same transaction.
        unfit: Option<(HostName, Unfit)>,
    },
    /// Says how far the own instance is: MOD(claim), MOD(state).
    State {
        /// The slot.
        slot: SlotId,
        /// What is written.
        state: SlotState,
        /// MOD(claim).
        held: i64,
        /// MOD(state); 0 if there is none.
        seen: i64,
    },
    /// Notes of an own slot that its local volumes exist: MOD(claim), MOD(data).
    Data {
        /// The slot.
        slot: SlotId,
        /// What is written, and MOD(data); 0 if there is none.
        data: (Data, i64),
        /// MOD(claim).
        held: i64,
    },
    /// Takes `stopped` back, so that the own instance may start again: as for a state, and `.next` absent or void.
    TakeBack {
        /// The slot.
        slot: SlotId,
        /// What is written.
        state: SlotState,
        /// MOD(claim).
        held: i64,
        /// MOD(state).
        seen: i64,
        /// A void `.next`.
        next: Option<VoidNext>,
    },
    /// Takes this host's mark away, since it may be able to run it now: MOD(unfit).
    Fit {
        /// Whose.
        container: ContainerId,
        /// Who says so.
        host: HostName,
        /// MOD(unfit).
        seen: i64,
    },
    /// Decides the image of a version: absent, MOD(manifest).
    Version {
        /// Whose.
        container: ContainerId,
        /// Its key, which is MOD(manifest).
        rev: i64,
        /// What is written.
        version: Version,
    },
    /// Notes that a version got ready: MOD(version).
    Good {
        /// Whose.
        container: ContainerId,
        /// Its key.
        rev: i64,
        /// What is written.
        version: Version,
        /// MOD(version).
        seen: i64,
    },
    /// Forgets versions that nobody needs: MOD of each.
    Prune {
        /// Whose.
        container: ContainerId,
        /// Their keys and MODs.
        versions: Vec<(i64, i64)>,
    },
    /// Gives an update up: MOD(manifest), MOD(rollout).
    Rollout {
        /// Whose.
        container: ContainerId,
        /// What is written.
        rollout: Rollout,
        /// MOD(manifest).
        manifest: i64,
        /// MOD(rollout); 0 if there is none.
        seen: i64,
    },
    /// Deletes what is left of a container without manifest and claims: both absent.
    Sweep {
        /// Whose.
        container: ContainerId,
    },
    /// Tells people how a slot is: MOD(claim).
    Status {
        /// The slot.
        slot: SlotId,
        /// What is written.
        status: Status,
        /// MOD(claim).
        held: i64,
    },
}

impl Write {
    /// Whose writes follow each other.
    pub fn work(&self) -> Scope {
        match self {
            Self::Claim { slot, .. }
            | Self::Keep { slot, .. }
            | Self::TakeOver { slot, .. }
            | Self::Retake { slot, .. }
            | Self::Next { slot, .. }
            | Self::Promote { slot, .. }
            | Self::DeleteNext { slot, .. }
            | Self::DeleteUnwanted { slot, .. }
            | Self::NewInstance { slot, .. }
            | Self::Release { slot, .. }
            | Self::State { slot, .. }
            | Self::Data { slot, .. }
            | Self::TakeBack { slot, .. }
            | Self::Status { slot, .. } => Scope::Slot(slot.clone()),
            Self::Fit { container, .. }
            | Self::Version { container, .. }
            | Self::Good { container, .. }
            | Self::Prune { container, .. }
            | Self::Rollout { container, .. }
            | Self::Sweep { container } => Scope::Container(container.clone()),
        }
    }

    /// One word, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Claim { .. } => "claim",
            Self::Keep { .. } => "keep",
            Self::TakeOver { .. } => "take-over",
            Self::Retake { .. } => "retake",
            Self::Next { .. } => "next",
            Self::Promote { .. } => "promote",
            Self::DeleteNext { .. } => "delete-next",
            Self::DeleteUnwanted { .. } => "delete-unwanted",
            Self::NewInstance { .. } => "new-instance",
            Self::Release { unfit: None, .. } => "release",
            Self::Release { unfit: Some(_), .. } => "release-unfit",
            Self::State { .. } => "state",
            Self::Data { .. } => "data",
            Self::TakeBack { .. } => "take-back",
            Self::Fit { .. } => "fit",
            Self::Version { .. } => "version",
            Self::Good { .. } => "good",
            Self::Prune { .. } => "prune",
            Self::Rollout { .. } => "rollout",
            Self::Sweep { .. } => "sweep",
            Self::Status { .. } => "status",
        }
    }
}
