//! The start protocol as pure decisions: whether this process may take the host's name, and the cluster's key.

use std::time::Duration;

use model::records::{Cluster, HostRecord, HostState};
use model::snapshot::Rev;

use super::Disk;
use crate::view::{FirstRead, Known, Reason, Trust, check};

/// What to do about the own name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The name is free, or an earlier process of this machine had it.
    GoOn,
    /// Another machine may live under this name: look again when its record may have ended.
    Wait,
    /// Another machine does live under this name.
    Exit,
}

/// Judges the record under the own name; `waited` since the first look, `limit` is TTL + grace.
pub fn decide(
    record: Option<&HostRecord>,
    disk: &Disk,
    boot_id: &str,
    waited: Duration,
    limit: Duration,
) -> Start {
    let Some(record) = record else {
        return Start::GoOn;
    };
    let ended = record.state == HostState::Restarting && disk.knows(record.session);
    if ended || disk.is_of_boot(record.session, boot_id) {
        Start::GoOn
    } else if waited < limit {
        Start::Wait
    } else {
        Start::Exit
    }
}

/// Judges a live record under another name with this machine's UUID: `GoOn` if an earlier process of ours had it before
/// the machine was renamed, and it may be deleted; `Exit` if two machines have one identity.
pub fn decide_other(
    record: &HostRecord,
    disk: &Disk,
    boot_id: &str,
    waited: Duration,
    limit: Duration,
) -> Start {
    if disk.knows(record.session) {
        // The original of a copied disk has that session too: it is told apart as under the own name.
        decide(Some(record), disk, boot_id, waited, limit)
    } else {
        Start::Exit
    }
}

/// What to do about the cluster's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterStart {
    /// It is the known one, or the first one that this host meets.
    Use(Cluster),
    /// The known one after an accepted restore: the same id, a higher epoch.
    Accept(Cluster),
    /// There is none, and nothing speaks against making one; the transaction has guards of its own.
    Create,
    /// Change nothing.
    Distrust(Reason),
    /// There is none, and none may be made here: why.
    Missing(&'static str),
}

/// Whether this host may make a new cluster, and what it knows of an old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterFacts<'a> {
    /// On disk.
    pub known: Option<&'a Cluster>,
    /// Revision of the saved view; 0 is none.
    pub saved_revision: i64,
    /// The engine has a container with a `dokkaa.cluster` label.
    pub labelled_containers: bool,
    /// Some host's record is in etcd.
    pub live_records: bool,
}

/// Judges the cluster's key as read, linearizable, at `revision`.
pub fn decide_cluster(
    facts: ClusterFacts<'_>,
    found: Option<&Rev<Cluster>>,
    revision: i64,
) -> ClusterStart {
    match (facts.known, found) {
        (Some(known), Some(found)) if found.id == known.id && found.epoch > known.epoch => {
            ClusterStart::Accept(found.value.clone())
        }
        (Some(known), found) => {
            let known = Known {
                cluster: known.clone(),
                revision: facts.saved_revision,
            };
            let read = FirstRead {
                cluster: found.map(|c| c.value.clone()),
                revision,
            };
            match check(&known, &read) {
                Trust::Trusted => ClusterStart::Use(known.cluster),
                Trust::Distrust(reason) => ClusterStart::Distrust(reason),
            }
        }
        (None, Some(found)) => ClusterStart::Use(found.value.clone()),
        (None, None) if facts.labelled_containers => {
            ClusterStart::Missing("this machine has containers of a cluster")
        }
        (None, None) if facts.live_records => {
            ClusterStart::Missing("other hosts have records in this etcd")
        }
        (None, None) => ClusterStart::Create,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any id will do in a test")]
mod tests;
