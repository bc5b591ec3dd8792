//! The host's identity and its record in etcd: how it joins, stays, and stops.
//!
//! `/hosts/<name>/record` is the one key on a lease; a host is live while it
//! exists. It is only ever written guarded by what was read of it, and by the
//! cluster's key as it is known, so that neither another machine's record nor
//! another cluster's etcd is touched. An agent that sees its record with a
//! session it did not write stops writing and says so.

mod clock;
mod disk;
mod join;
mod lease;
mod record;
mod start;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use conductor_core::Millis;
use conductor_core::records::{Cluster, HostRecord};
use conductor_core::snapshot::Rev;
use manifests::HostName;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

pub use clock::Clock;
pub use disk::{Disk, StateDir, StateDirError};
pub use join::{JoinError, create_cluster, join, join_simulated};
pub use lease::{Gate, LeaseReport, boottime};
pub use start::{
    ClusterFacts, ClusterStart, OtherName, Start, decide, decide_cluster, decide_other,
};

use crate::kv::Kv;

/// Shortest time to live of the host's lease.
pub const SHORTEST_TTL: Duration = Duration::from_secs(5);
/// The usual one.
pub const DEFAULT_TTL: Duration = Duration::from_secs(6);
/// How long a stopped agent keeps its host's slots, usually.
pub const DEFAULT_RESTART_GRACE: Duration = Duration::from_secs(30);
/// How long `Host::stop` takes at most, whatever etcd does.
const STOP: Duration = Duration::from_millis(800);

/// Makes a `Kv` whose connections live on the runtime that calls it.
pub type KvFactory = Arc<dyn Fn() -> Arc<dyn Kv> + Send + Sync>;

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
    /// The revision of the saved view; 0 is none.
    pub saved_revision: i64,
}

/// How the host stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostStatus {
    /// Its record is in etcd, put on its lease at this revision.
    Live(i64),
    /// Its lease or record is gone, or could not be put; a new one is being put.
    Lost,
    /// The cluster's key is not the known one: nothing is written.
    Distrusted,
    /// Another process writes this host's record: its identity runs twice. This one writes nothing any more.
    Foreign(Uuid),
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

/// A host that has joined. Dropped, it lets its lease end.
#[derive(Debug)]
pub struct Host {
    name: HostName,
    session: Uuid,
    cluster: Cluster,
    clock: Clock,
    gate: Gate,
    wanted: watch::Sender<HostRecord>,
    observed: watch::Sender<Option<Observed>>,
    status: watch::Receiver<HostStatus>,
    floor: watch::Receiver<i64>,
    seen: watch::Receiver<i64>,
    lease: watch::Receiver<LeaseReport>,
    stop: mpsc::Sender<(Stop, oneshot::Sender<Stopped>)>,
}

/// The own record as a view showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Observed {
    /// The view's revision.
    revision: i64,
    /// Session and revision of the record; none if it was not there.
    record: Option<(Uuid, i64)>,
}

impl Host {
    /// Its name.
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// The session of this process.
    pub fn session(&self) -> Uuid {
        self.session
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// How it stands.
    pub fn status(&self) -> watch::Receiver<HostStatus> {
        self.status.clone()
    }

    /// Newest revision in keep-alive answers: for `ViewInputs::seen`.
    pub fn seen(&self) -> watch::Receiver<i64> {
        self.seen.clone()
    }

    /// Revision at which the record was put on its lease: for `ViewInputs::floor`.
    pub fn floor(&self) -> watch::Receiver<i64> {
        self.floor.clone()
    }

    /// When the lease was renewed last.
    pub fn lease(&self) -> watch::Receiver<LeaseReport> {
        self.lease.clone()
    }

    /// The main loop finished a pass; to be called at least every few seconds, or the lease ends.
    pub fn pass_done(&self) {
        self.gate.stamp(self.clock.now());
    }

    /// The clock that it lives by.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// The gate, for a loop that does not own the host.
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Changes what the record should say. Identity, session and epoch stay what they are.
    pub fn update_record(&self, change: impl FnOnce(&mut HostRecord)) {
        self.wanted.send_if_modified(|wanted| {
            let mut new = wanted.clone();
            change(&mut new);
            new.id = wanted.id;
            new.session = wanted.session;
            new.epoch = wanted.epoch;
            let differs = new != *wanted;
            *wanted = new;
            differs
        });
    }

    /// A trusted, complete view shows this own record: heals a lost one, finds a second process.
    pub fn observe(&self, revision: i64, record: Option<&Rev<HostRecord>>) {
        let observed = Observed {
            revision,
            record: record.map(|r| (r.session, r.modified)),
        };
        self.observed.send_if_modified(|last| {
            let news = last.is_none_or(|last| last.record != observed.record);
            *last = Some(observed);
            news
        });
    }

    /// Says good-bye, within a second whatever etcd does.
    pub async fn stop(self, how: Stop) -> Stopped {
        let (sender, receiver) = oneshot::channel();
        let stop = async {
            self.stop.send((how, sender)).await.ok()?;
            receiver.await.ok()
        };
        tokio::time::timeout(STOP, stop)
            .await
            .ok()
            .flatten()
            .unwrap_or(Stopped::NotNoted)
    }
}

/// Time until the record of a killed process has ended, or of a stopped one: the longest wait of a start.
fn longest_wait(options: &HostOptions) -> Duration {
    options.ttl + options.restart_grace
}

/// A point in time on the clock that the writer sleeps by.
fn later(after: Millis, now: Millis) -> tokio::time::Instant {
    tokio::time::Instant::now() + (after - now)
}
