//! The agent behind the API and the other agents, each as a trait.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::Stream;
use manifests::{HostName, SlotId};
use model::events::{Event, Wanted};
use model::logs::OutputStream;
use model::observed::Observed;
use model::records::Cluster;
use model::{Directory, Snapshot};
use serde::{Deserialize, Serialize};

use super::types::{
    CheckPort, DnsServer, HoldReport, LogOptions, NameReport, Reach, Reasons, Tried,
};

/// The last complete view of etcd. Clones are cheap.
#[derive(Debug, Clone)]
pub struct ClusterView {
    /// The watched range.
    pub snapshot: Snapshot,
    /// Services and endpoints in it.
    pub directory: Directory,
    /// Nothing newer is known: etcd is unreachable or distrusted.
    pub stale: bool,
    /// Why etcd is distrusted, and so nothing is changed.
    pub hold: Option<String>,
    /// When this was etcd's present state, if that is known.
    pub known_at: Option<jiff::Timestamp>,
}

impl ClusterView {
    /// When a stale view was etcd's present state.
    pub(super) fn stale_since(&self) -> Option<String> {
        let at = self.known_at.filter(|_| self.stale)?;
        Some(at.to_string())
    }

    /// Age of a stale view in seconds.
    pub(super) fn age(&self) -> Option<u64> {
        let at = self.known_at.filter(|_| self.stale)?;
        let age = jiff::Timestamp::now().duration_since(at);
        age.as_secs().try_into().ok()
    }
}

/// A line of a container's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// When it was written, by its host's clock.
    pub time: jiff::Timestamp,
    /// Standard output or standard error.
    pub source: OutputStream,
    /// Text without its line end.
    pub line: String,
}

/// Lines in the order in which they were written.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogRecord, HostError>> + Send>>;

/// Events of one host, oldest first; or why there are no more of them, for people.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, String>> + Send>>;

/// Errors of a request that one host's engine answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// No such container on this host.
    #[error("no such container here")]
    NotFound,
    /// A container uses the volume.
    #[error("{0}")]
    InUse(String),
    /// The engine failed or did not answer.
    #[error("the Docker Engine: {0}")]
    Engine(String),
    /// The host could not be reached, or the connection was lost.
    #[error("unreachable: {0}")]
    Unreachable(String),
}

/// The agent that serves the API.
#[async_trait]
pub trait AgentHandle: Send + Sync + 'static {
    /// This host's name.
    fn host(&self) -> HostName;

    /// The last complete view; none before the first.
    fn view(&self) -> Option<ClusterView>;

    /// What keeps this agent from its work, beside a hold, for people. Before the first view: what it waits for.
    fn problems(&self) -> Vec<String>;

    /// The cluster's etcd.
    fn kv(&self) -> Arc<dyn store::Kv>;

    /// What this host knows and does not write to etcd.
    fn reasons(&self) -> Reasons;

    /// Where this host answers DNS.
    fn dns(&self) -> DnsServer;

    /// What a name is in this host's DNS; none if it is no domain name.
    fn name(&self, name: &str) -> Option<NameReport>;

    /// Events of this host. Without `follow` the stream ends.
    fn events(&self, wanted: Wanted) -> EventStream;

    /// The cluster that this agent belongs to and its epoch, whatever etcd says now.
    fn cluster(&self) -> Option<Cluster>;

    /// Containers of this host's engine.
    fn observed(&self) -> Observed;

    /// Listens for a few seconds on a port of the range that instances are published on.
    async fn check_port(&self) -> CheckPort;

    /// Docker's names of the volumes on this host.
    async fn volume_names(&self) -> Result<BTreeSet<String>, HostError>;

    /// Removes a volume by Docker's name; succeeds if there is none.
    async fn remove_volume(&self, name: &str) -> Result<(), HostError>;

    /// Lines of a slot's container on this host, oldest first, some of them perhaps before `options.since`. Without
    /// `follow`, and when the container ends, the stream ends.
    async fn local_logs(&self, slot: &SlotId, options: &LogOptions)
    -> Result<LogStream, HostError>;
}

/// The other agents. `PeerClient` in the agent, a double in tests.
#[async_trait]
pub trait Peers: Send + Sync + 'static {
    /// `AgentHandle::reasons` of that host; or why it could not be asked, for people.
    async fn reasons(&self, host: &HostName) -> Result<Reasons, String>;

    /// `AgentHandle::events` of that host; or why it could not be asked, for people.
    async fn events(&self, host: &HostName, wanted: &Wanted) -> Result<EventStream, String>;

    /// Effect on that host if etcd as it is now were accepted; or why it could not be asked, for people.
    async fn hold(&self, host: &HostName) -> Result<HoldReport, String>;

    /// `AgentHandle::check_port` of that host; none from an older agent. Or what came of it instead, and why.
    async fn check_port(&self, host: &HostName) -> Result<Option<CheckPort>, (Reach, String)>;

    /// What that host finds when it tries these hosts; or why it could not be asked, for people.
    async fn check(&self, host: &HostName, hosts: &[HostName]) -> Result<Vec<Tried>, String>;

    /// `AgentHandle::volume_names` of that host.
    async fn volume_names(&self, host: &HostName) -> Result<BTreeSet<String>, HostError>;

    /// Removes a volume of a slot, by its name in the manifest, on that host.
    async fn remove_volume(
        &self,
        host: &HostName,
        slot: &SlotId,
        volume: &str,
    ) -> Result<(), HostError>;

    /// `AgentHandle::local_logs` of that host.
    async fn logs(
        &self,
        host: &HostName,
        slot: &SlotId,
        options: &LogOptions,
    ) -> Result<LogStream, HostError>;
}
