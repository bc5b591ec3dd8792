//! The trait that carries requests out on an etcd.

use std::time::Duration;

use async_trait::async_trait;
pub use model::kv::*;
use tokio::sync::mpsc;

/// A running watch. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    /// What it says.
    pub replies: mpsc::Receiver<WatchReply>,
    /// Asks for a `Progress`. While it is there, the watch asks at a steady pace by itself, too, and says only the
    /// revisions that are new.
    pub progress: mpsc::Sender<()>,
}

/// What the member that answers says of itself and its cluster (Maintenance.Status).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Of etcd's cluster.
    pub cluster_id: u64,
    /// Of the member.
    pub member_id: u64,
    /// The leader as the member knows it; 0 is none.
    pub leader: u64,
    /// The member's version, such as `3.4.23`.
    pub version: String,
    /// The Raft term.
    pub raft_term: u64,
    /// The Raft index.
    pub raft_index: u64,
    /// The alarm that stands; of several the worst.
    pub alarm: Option<Alarm>,
}

/// The seam to etcd. Every call has a deadline of its own.
#[async_trait]
pub trait Kv: Send + Sync + 'static {
    /// Carries out a transaction.
    async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError>;

    /// Reads a range.
    async fn range(&self, range: Range) -> Result<RangeReply, KvError>;

    /// Watches keys from `from` on (0: from now), with the values before each change if `previous`.
    /// Requires a leader. No revision is said twice, and none before one that was said.
    async fn watch(&self, keys: KeyRange, from: i64, previous: bool) -> Result<Watch, KvError>;

    /// What a member says of itself; the in-memory twin answers with fixed ids, and its revision as Raft index.
    async fn status(&self) -> Result<Status, KvError>;

    /// Makes a lease: its id and the time to live that was granted.
    async fn lease_grant(&self, ttl: Duration) -> Result<(i64, Duration), KvError>;

    /// Renews a lease once: the time to live that is left, and the store's revision.
    async fn lease_keep_alive(&self, lease: i64) -> Result<(Duration, i64), KvError>;

    /// Ends a lease and deletes its keys.
    async fn lease_revoke(&self, lease: i64) -> Result<(), KvError>;

    /// Reads a range at the endpoint that streams go to, and nowhere else: what a watch there goes on from.
    async fn range_at_stream(&self, range: Range) -> Result<RangeReply, KvError> {
        self.range(range).await
    }

    /// The endpoint that streams go to: another number once they go elsewhere.
    fn stream_endpoint(&self) -> u64 {
        0
    }

    /// The endpoint that streams go to is distrusted: the next watch goes to another one, if there is one.
    fn avoid_stream_endpoint(&self) {}
}
