//! The host's identity and its record in etcd: how it joins, stays, holds, and stops.
//!
//! `/hosts/<name>/record` is the one key on a lease; a host is live while it
//! exists. It is only ever written guarded by what was read of it, and by the
//! cluster's key as it is known, so that neither another machine's record nor
//! another cluster's etcd is touched. An agent that sees its record with a
//! session it did not write stops writing and says so.
//!
//! `HostMachine` decides, as a pure state machine; `store::host::Host` carries it out.

mod facts;
mod machine;
mod record;
mod start;
mod txn;

use std::net::IpAddr;
use std::time::Duration;

use manifests::HostName;
use model::Rules;
use uuid::Uuid;

pub use facts::{Disk, Facts, Note};
pub use machine::{HostAnswer, HostMachine, HostStep, Verdict};
pub use start::{ClusterFacts, ClusterStart, Start, decide, decide_cluster, decide_other};

use crate::view::Known;

/// Shortest time to live of the host's lease.
pub const SHORTEST_TTL: Duration = Duration::from_secs(5);
/// The usual one.
pub const DEFAULT_TTL: Duration = Duration::from_secs(6);
/// How long a stopped agent keeps its host's slots, usually.
pub const DEFAULT_RESTART_GRACE: Duration = Duration::from_secs(30);

/// How a host lives in the cluster.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// The machine's name.
    pub name: HostName,
    /// Time to live of the lease; what etcd grants counts.
    pub ttl: Duration,
    /// How long the record stays, as `restarting`, after a stop.
    pub restart_grace: Duration,
    /// The engine has a container with a `dokkaa.cluster` label: no new cluster is made.
    pub labelled_containers: bool,
    /// What the saved view shows. It counts only while it is of the cluster and epoch that are noted on disk.
    pub saved: Option<Known>,
    /// The rules in force.
    pub rules: Rules,
}

/// How the host stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostStatus {
    /// This process has no record in etcd yet; why it waits.
    Joining(Waiting),
    /// Its record is in etcd, put on its lease at this revision.
    Live(i64),
    /// Its lease or record is gone; a new one is being put.
    Lost,
    /// Etcd is distrusted, for this reason: nothing is written but the record, which says so.
    Held(String),
    /// Etcd is another cluster's: nothing is written.
    Distrusted,
    /// Another process writes this host's record: its identity runs twice. This one writes nothing any more.
    Foreign(Uuid),
    /// It can't join, and trying again does not help.
    Failed(JoinError),
    /// It is no member any more, as the operator wanted.
    Left,
}

/// Why a host has not joined yet. Nothing is changed, and it is tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Waiting {
    /// It has only begun.
    #[error("etcd has not answered yet")]
    Begun,
    /// Etcd can't be asked.
    #[error("etcd can't be used: {0}")]
    Etcd(String),
    /// There is no cluster, and none may be made.
    #[error("etcd has no /dokkaa/cluster, and {0}: not a place for a new cluster")]
    NoCluster(String),
    /// The cluster's key is there, but not as an agent writes it.
    #[error("/dokkaa/cluster can't be read")]
    UnreadableCluster,
    /// A record of this machine stands that an earlier process may have left.
    #[error("an earlier record of this machine is still in etcd: waiting for its end")]
    Record(IpAddr),
    /// Another machine has a record under this name.
    #[error(
        "another machine ({0}) runs under this host's name: waiting for its end; if it is to stay, give this one another name with --name"
    )]
    NameTaken(IpAddr),
    /// The state directory fails.
    #[error("the state directory fails: {0}")]
    Disk(String),
}

/// Why a host can't join, for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Another machine has this name.
    #[error(
        "another machine ({addr}) runs under the name {name}; give this one another name with --name"
    )]
    NameTaken {
        /// The name.
        name: HostName,
        /// The address in its record.
        addr: IpAddr,
    },
    /// Another machine has this machine's identity.
    #[error(
        "the host {other} runs with this machine's identity: was the disk copied? `dokkaa reset-id` gives this one an identity of its own"
    )]
    Clone {
        /// The other's name.
        other: HostName,
    },
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Which.
    pub id: i64,
    /// The time to live that was granted.
    pub ttl: Duration,
}

/// How to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The agent is back soon: the record stays for the grace as `restarting`.
    Restart,
    /// The machine goes down: the record goes, others start at once.
    Shutdown,
}

/// What a stop could still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The record says so.
    Noted,
    /// etcd did not answer in time or the record was not ours: it ends with its lease.
    NotNoted,
}

/// Time until the record of a killed process has ended, or of a stopped one: the longest wait of a start.
fn longest_wait(options: &HostOptions) -> Duration {
    options.ttl + options.restart_grace
}
