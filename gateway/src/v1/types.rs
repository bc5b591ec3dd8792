//! What goes over the wire of `/dokkaa/v1`: plain values, shared with the CLI.
//!
//! Fields are only ever added. Readers ignore what they do not know.

mod operator;

use std::collections::BTreeMap;
use std::net::IpAddr;

use manifests::{AppName, ContainerId, ContainerName, HostName, InstanceId, ServiceName, SlotId};
use serde::{Deserialize, Serialize};

pub use operator::*;

/// What is wrong, in the body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// For people, one line.
    pub error: String,
    /// Each thing that is wrong with a manifest: `line:column field: what`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// The manifest's revision, where a precondition failed; 0 is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
}

/// How a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlotStatus {
    /// Takes traffic.
    Ready,
    /// Runs, or should, and takes no traffic.
    Unready,
    /// Claimed; its container is being made.
    Starting,
    /// Its image is being fetched.
    Pulling,
    /// Nobody has it, or its host waits for something.
    Waiting,
    /// The manifest is at fault; tried again with back-off.
    Failed,
    /// Takes no new connections and is about to be stopped.
    Leaving,
    /// Stopped by its owner for a handover.
    Stopped,
    /// Its host is not live.
    Lost,
    /// Kept after an accepted restore, though it has no manifest.
    Orphan,
    /// Of a container without slots: its manifest can't be run.
    Invalid,
}

impl SlotStatus {
    /// As it is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unready => "unready",
            Self::Starting => "starting",
            Self::Pulling => "pulling",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Leaving => "leaving",
            Self::Stopped => "stopped",
            Self::Lost => "lost",
            Self::Orphan => "orphan",
            Self::Invalid => "invalid",
        }
    }
}

impl std::fmt::Display for SlotStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A published port of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Of which service.
    pub service: ServiceName,
    /// Where.
    pub addr: IpAddr,
    /// Which port there.
    pub port: u16,
    /// Where it listens, if the manifest says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<IpAddr>,
    /// It is open to the world: a `host_port` on all addresses of the host, or on one that the internet routes.
    #[serde(default)]
    pub public: bool,
}

/// One line of `ps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRow {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// Its number; none where a manifest is invalid and has no slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// How it is.
    pub status: SlotStatus,
    /// Seconds since its process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
    /// Why it is not ready, or not as wanted; always there if it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Which version of the manifest runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The image of that version, as the manifest names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// It runs something else than the manifest wants.
    #[serde(default)]
    pub outdated: bool,
    /// Its number is not below the scale, or the manifest is gone: it is to go.
    #[serde(default)]
    pub surplus: bool,
    /// An attempt to run the manifest as it is now failed, and the manifest is at fault.
    #[serde(default)]
    pub failed: bool,
    /// Nobody has it, and no host may take it as things stand.
    #[serde(default)]
    pub unplaceable: bool,
    /// Restarts after a crash.
    #[serde(default)]
    pub restarts: u32,
    /// Docker's id of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Last lines of its log, when it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl SlotRow {
    /// Which container.
    pub fn id(&self) -> ContainerId {
        ContainerId::new(self.app.clone(), self.container.clone())
    }
}

/// A container, as far as its slots do not say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRow {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// The manifest's revision; none if it was removed and remains are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// How many slots it wants; none if the manifest can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// The image that it wants, as the manifest names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What is wrong with the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// What is odd but tolerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Paths at which its image declares a volume and its manifest names none: what is written there is lost with each
    /// instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnamed_volumes: Vec<String>,
    /// The update to the manifest was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<GaveUp>,
}

impl ContainerRow {
    /// Which container.
    pub fn id(&self) -> ContainerId {
        ContainerId::new(self.app.clone(), self.container.clone())
    }
}

/// An update that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GaveUp {
    /// At which slot.
    pub slot: u32,
    /// Why.
    pub reason: String,
}

/// `GET apps`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apps {
    /// By name.
    pub apps: Vec<AppRow>,
    /// The revision of etcd that this shows.
    pub revision: i64,
    /// etcd is away or not trusted: this is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// For stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// An app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppRow {
    /// Its name.
    pub app: AppName,
    /// Its containers, by name.
    pub containers: Vec<AppContainer>,
}

/// A container of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppContainer {
    /// Its name.
    pub container: ContainerName,
    /// How many slots it wants; none if the manifest can't be read or is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// How many take traffic.
    pub ready: u32,
    /// The image that it wants, as the manifest names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What needs somebody's attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// `GET slots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Every slot that is or should be, by app, container and number.
    pub slots: Vec<SlotRow>,
    /// Every container.
    pub containers: Vec<ContainerRow>,
    /// The revision of etcd that this shows.
    pub revision: i64,
    /// etcd is away or not trusted: this is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// Where it is stale: when it was etcd's present state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_at: Option<String>,
    /// Hosts that did not answer, and the like; for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// One line of `hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its name.
    pub host: HostName,
    /// `up`, `restarting`, `hold`, `missing`.
    pub state: String,
    /// `active`, `pause`, `drain`, `leave`.
    pub availability: String,
    /// Where its services are published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<IpAddr>,
    /// Slots that it has.
    pub slots: u32,
    /// Running containers that dokkaa did not start.
    #[serde(default)]
    pub foreign: u32,
    /// Processors, in thousandths; 0 if unknown.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Memory in bytes; 0 if unknown.
    #[serde(default)]
    pub memory: u64,
    /// How full the disk of its Docker Engine is, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u8>,
    /// Its Docker Engine answers; none if its agent does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<bool>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its labels: those that its agent was started with, and over them the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What does not work there, and what it does not take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// `GET hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// By name.
    pub hosts: Vec<HostRow>,
    /// The revision of etcd that this shows.
    pub revision: i64,
    /// etcd is away or not trusted: this is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// Where it is stale: when it was etcd's present state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_at: Option<String>,
    /// What keeps the agent that answers from its work; for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// `GET status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Which cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The agent that answers.
    pub host: HostName,
    /// Its version.
    pub agent: String,
    /// etcd answers it, whatever it thinks of the answers.
    pub etcd: bool,
    /// Why it changes nothing, if it distrusts its etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// The revision of etcd that this shows.
    pub revision: i64,
    /// This is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// Hosts by state.
    pub hosts: BTreeMap<String, u32>,
    /// Slots by status.
    pub slots: BTreeMap<String, u32>,
    /// Apps.
    pub apps: u32,
    /// Containers.
    pub containers: u32,
    /// What needs somebody's attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// `GET manifests/<app>/<container>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestText {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// What a precondition names.
    pub revision: i64,
    /// As it was written.
    pub manifest: String,
    /// What is wrong with it; doors let nothing in that is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
}

/// `PUT manifests/<app>/<container>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// The new revision.
    pub revision: i64,
    /// It was not there before.
    pub created: bool,
    /// It says something else than before.
    pub changed: bool,
    /// What is odd but tolerated: a link to a service that nobody offers yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `DELETE manifests/<app>[/<container>]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// What was there.
    pub containers: Vec<ContainerId>,
}

/// `GET why/<app>/<container>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The container; none if only remains are left.
    pub container: ContainerRow,
    /// Its slots.
    pub slots: Vec<WhySlot>,
    /// Its links, in order.
    pub links: Vec<WhyLink>,
    /// This is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// Hosts that did not answer; for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// A slot, and what each host says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhySlot {
    /// As in `ps`.
    pub row: SlotRow,
    /// Every host, the owner and the best first.
    pub hosts: Vec<WhyHost>,
}

/// Why a host has a slot, could have it, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyHost {
    /// The host.
    pub host: HostName,
    /// It may take the slot, or has it.
    pub eligible: bool,
    /// For people.
    pub reason: String,
}

/// A link, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyLink {
    /// As `app/service`.
    pub service: String,
    /// The variable that holds its address.
    pub variable: String,
    /// Its port at the ambassador.
    pub port: u16,
    /// Endpoints, also those that get no traffic.
    pub endpoints: Vec<WhyEndpoint>,
    /// The last connect that failed, on each host that carried one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<LinkFailure>,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyEndpoint {
    /// Which slot.
    pub slot: SlotId,
    /// On which host.
    pub host: HostName,
    /// Where.
    pub addr: IpAddr,
    /// Which port there.
    pub port: u16,
    /// New connections go there.
    pub serving: bool,
    /// Why not, or why all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A connect over a link that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFailure {
    /// Who called.
    pub caller: SlotId,
    /// As `app/service`.
    pub service: String,
    /// On which host.
    pub host: HostName,
    /// When, RFC 3339, by that host's clock.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// What one host knows and does not write to etcd: `GET reasons` of the peer door.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons {
    /// Why its conductor waits with a slot.
    #[serde(default, with = "by_slot")]
    pub waiting: BTreeMap<SlotId, String>,
    /// The last failed connect of each link that its ambassador carried.
    #[serde(default)]
    pub links: Vec<LinkFailure>,
}

/// One line of `logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogEvent {
    /// Output of a slot.
    Line(LogLine),
    /// Something about the answer itself: a host that is not reached. For stderr.
    Notice(String),
}

/// A line that a container wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When, RFC 3339 with nanoseconds, by its host's clock.
    pub time: jiff::Timestamp,
    /// Of which container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerName>,
    /// Which slot.
    pub slot: u32,
    /// On which host.
    pub host: HostName,
    /// Where it was written.
    pub stream: LogSource,
    /// Without its line end.
    pub line: String,
}

/// One line of `events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventLine {
    /// Something that happened.
    Event(HostEvent),
    /// Something about the answer itself: a host that is not reached. For stderr.
    Notice(String),
}

/// Something that happened on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// When, RFC 3339, by its host's clock. Of repeats, when they were told.
    pub time: jiff::Timestamp,
    /// Rises with each event of its host.
    pub id: i64,
    /// On which host.
    pub host: HostName,
    /// How often since the one like it before.
    pub times: u32,
    /// What.
    #[serde(flatten)]
    pub what: model::events::Happened,
}

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogSource {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Which lines: the query of `GET logs/…`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogOptions {
    /// Go on with what comes.
    #[serde(default)]
    pub follow: bool,
    /// Only so many of the last lines of each slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    /// Only lines after this time, itself excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<jiff::Timestamp>,
    /// Of the instance that ended last.
    #[serde(default)]
    pub previous: bool,
}

/// JSON has no keys but texts.
mod by_slot {
    use std::collections::BTreeMap;

    use manifests::SlotId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Entry {
        slot: SlotId,
        reason: String,
    }

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<SlotId, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter().map(|(slot, reason)| Entry {
            slot: slot.clone(),
            reason: reason.clone(),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<SlotId, String>, D::Error> {
        Ok(Vec::<Entry>::deserialize(deserializer)?
            .into_iter()
            .map(|entry| (entry.slot, entry.reason))
            .collect())
    }
}
