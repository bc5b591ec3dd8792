//! What the API needs from the agent around it: one trait, with one fake in the tests.
//!
//! The API decides nothing about the cluster; it shows what the agent sees and
//! writes manifests.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::Stream;
use manifests::{HostName, SlotId};
use model::events::{Event, Wanted};
use model::observed::Observed;
use model::records::Cluster;
use model::{Directory, Snapshot};
use serde::{Deserialize, Serialize};

use super::types::{HoldReport, LogOptions, LogSource, Reasons};

/// The last complete view of etcd. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The watched range.
    pub snapshot: Snapshot,
    /// The table made from it.
    pub directory: Directory,
    /// etcd is away, or not trusted: nothing newer is known.
    pub stale: bool,
    /// When this was known to be etcd's present state, as far as that is known.
    pub known_at: Option<jiff::Timestamp>,
}

/// A line of a container, as its engine gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When it was written, by this host's clock.
    pub time: jiff::Timestamp,
    /// Where it was written.
    pub source: LogSource,
    /// Without its line end.
    pub line: String,
}

/// Lines in the order in which they were written.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogRecord, LogsError>> + Send>>;

/// Events of one host, oldest first; or why there are no more of them, for people.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, String>> + Send>>;

/// Why there are no lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogsError {
    /// This host has no such container.
    #[error("no such container here")]
    NotFound,
    /// The engine did not answer, or refused.
    #[error("the engine: {0}")]
    Engine(String),
    /// The host was not reached, or the connection to it was lost; why.
    #[error("unreachable: {0}")]
    Unreachable(String),
}

/// Why volumes were not listed, or one was not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// A container has it; which, for people.
    #[error("{0}")]
    InUse(String),
    /// The engine did not answer, or refused.
    #[error("the engine: {0}")]
    Engine(String),
    /// The host was not reached; why.
    #[error("unreachable: {0}")]
    Unreachable(String),
}

/// The agent, as the API sees it.
#[async_trait]
pub trait Facilities: Send + Sync + 'static {
    /// This host's name.
    fn host(&self) -> HostName;

    /// The last complete view; none before the first.
    fn snapshot(&self) -> Option<Seen>;

    /// What this agent waits for before it has a view; for people.
    fn lacks(&self) -> Vec<String> {
        Vec::new()
    }

    /// Why this agent changes nothing, if it distrusts its etcd.
    fn hold(&self) -> Option<String>;

    /// What keeps this agent from its work, beside a hold: for `status`, `hosts` and `ps`.
    fn troubles(&self) -> Vec<String>;

    /// etcd, for status and manifests.
    fn kv(&self) -> Arc<dyn store::Kv>;

    /// What this host knows and does not write to etcd.
    fn reasons(&self) -> Reasons;

    /// What happened on this host. Without `follow` the stream ends.
    fn events(&self, wanted: Wanted) -> EventStream;

    /// The cluster that this agent is of, and the epoch that it lives in, whatever etcd says now.
    fn cluster(&self) -> Option<Cluster>;

    /// What the engine of this host shows.
    fn observed(&self) -> Observed;

    /// Docker's names of the volumes on this host.
    async fn volume_names(&self) -> Result<BTreeSet<String>, VolumeError>;

    /// Removes a volume by Docker's name. One that does not exist is removed.
    async fn remove_volume(&self, name: &str) -> Result<(), VolumeError>;

    /// Lines of a slot's container on this host, oldest first. Lines up to `options.since` may be given too; they are
    /// dropped later. Without `follow`, and when the container ends, the stream ends.
    async fn local_logs(&self, slot: &SlotId, options: &LogOptions)
    -> Result<LogStream, LogsError>;
}

/// The other agents. The peer door carries it out; a test answers by itself.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// What that host knows and does not write to etcd; or why it could not be asked, for people.
    async fn reasons(&self, host: &HostName) -> Result<Reasons, String>;

    /// `Facilities::events` of that host; or why it could not be asked, for people.
    async fn events(&self, host: &HostName, wanted: &Wanted) -> Result<EventStream, String>;

    /// What that host would do if etcd as it is now were accepted; or why it could not be asked, for people.
    async fn hold(&self, host: &HostName) -> Result<HoldReport, String>;

    /// `Facilities::volume_names` of that host.
    async fn volume_names(&self, host: &HostName) -> Result<BTreeSet<String>, VolumeError>;

    /// Removes a volume of a slot, by its name in the manifest, on that host.
    async fn remove_volume(
        &self,
        host: &HostName,
        slot: &SlotId,
        volume: &str,
    ) -> Result<(), VolumeError>;

    /// `Facilities::local_logs` of that host.
    async fn logs(
        &self,
        host: &HostName,
        slot: &SlotId,
        options: &LogOptions,
    ) -> Result<LogStream, LogsError>;
}
