//! The JSON values in etcd: their shape, and nothing about when they are written.
//!
//! Unknown fields are ignored when read, so that an older agent understands a newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use manifests::{HostName, InstanceId, Manifest, ServiceName, canonical};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::manifest_text::ManifestText;
use crate::revision::{ModRev, VersionId};

/// `…/slots/<slot>`: gives a slot to a host and an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The owner.
    pub host: HostName,
    /// Its instance.
    pub instance: InstanceId,
    /// Key of the version that the instance runs.
    pub version: VersionId,
}

/// `…/slots/<slot>.next`: a handover under way.
pub type Next = Claim;

/// State of an instance, as other hosts need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Takes traffic.
    Ready,
    /// Runs, or should, but takes no traffic.
    Unready,
    /// Takes no new connections; is about to be stopped.
    Leaving,
    /// Stopped by its owner for a handover.
    Stopped,
}

/// `…/slots/<slot>.state`: counts only while its instance is the claim's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// The instance.
    pub instance: InstanceId,
    /// Its state.
    pub state: Phase,
    /// Address at which its services are reached.
    pub addr: IpAddr,
    /// Published port of each service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<ServiceName, u16>,
}

/// Prefix of a version's image that is no digest: no registry has the image, so it is known by its id on the host that
/// decided, and elsewhere by its content.
pub const LOCAL: &str = "local:";

/// `…/versions/<mod revision>`: a valid manifest at that revision, and its decided image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Version {
    /// The manifest as the user wrote it.
    pub manifest: ManifestText,
    /// A digest (`sha256:…`), or `local:<image id>`.
    pub image: String,
    /// What a `local` image is made of, in whatever store: ids of different stores can't be compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// An instance of it got ready once.
    #[serde(default)]
    pub good: bool,
    /// What its manifest wants to run before it has run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prepared: bool,
    /// Paths at which the image declares volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Name of the image, where that is not the manifest's: it was found for it in the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

/// `…/image`: the image that is run in place of the one that the manifest names. It counts as long as the manifest means
/// the container that it was found for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundImage {
    /// Hash of what affects the container in the manifest that it was found for, with the image as it is named there.
    pub of: String,
    /// Its name, with its tag.
    pub image: String,
    /// Its digest.
    pub digest: String,
    /// When the registry said so, in Unix seconds, for people; none where nobody asked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// The digest from which it is the way back; none if it is newer than what was run before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_from: Option<String>,
    /// Images that are not run, whatever the registry says; the last one is the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedImage>,
}

/// An image that is not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedImage {
    /// Its name, with its tag.
    pub image: String,
    /// Its digest.
    pub digest: String,
    /// Why, for people.
    pub why: String,
}

impl FoundImage {
    /// What stands in `of`, for this manifest.
    pub fn hash_of(manifest: &Manifest) -> String {
        canonical::hash(manifest, &manifest.image)
    }

    /// As many are remembered.
    const MOST_SKIPPED: usize = 20;

    /// The digest is not to be run.
    pub fn skips(&self, digest: &str) -> bool {
        self.skipped.iter().any(|skipped| skipped.digest == digest)
    }

    /// These, and one more.
    pub fn skip_also(before: &[SkippedImage], one: SkippedImage) -> Vec<SkippedImage> {
        let others = before.iter().filter(|other| other.digest != one.digest);
        let mut skipped: Vec<SkippedImage> = others.cloned().chain([one.clone()]).collect();
        skipped.drain(..skipped.len().saturating_sub(Self::MOST_SKIPPED));
        skipped
    }
}

/// `…/before`: the last run of what a manifest wants to run before a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Key of the version.
    pub version: VersionId,
    /// The host that runs it.
    pub host: HostName,
    /// Its container there.
    pub instance: InstanceId,
    /// How far it is.
    pub state: JobState,
    /// Why it has failed, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// State of a run. It is written before the container is started, and never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum JobState {
    /// It may have been started.
    Running,
    /// It has exited with 0.
    Done,
    /// It has not, or that is not known.
    Failed,
}

/// `…/rollout`: the update to a version, while it is under way or has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Key of the version.
    pub version: VersionId,
    /// It was halted: more of its slots have failed than may, or what runs before it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
    /// It was what runs before it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub before: bool,
    /// Somebody has paused it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Slots that are being updated: down on purpose, or not proven yet.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub updating: BTreeSet<u32>,
    /// Slots that have failed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub failures: BTreeSet<u32>,
    /// Slots that get another instance of the version that they run, each with the instance that goes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub restart: BTreeMap<u32, InstanceId>,
    /// Number of the slot that failed last.
    #[serde(default)]
    pub slot: u32,
    /// Reason, for people; empty while none has failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Rollout {
    /// The update to this version, of which nothing has happened yet.
    pub fn to(version: VersionId) -> Self {
        Self {
            version,
            failed: false,
            before: false,
            paused: false,
            updating: BTreeSet::new(),
            failures: BTreeSet::new(),
            restart: BTreeMap::new(),
            slot: 0,
            reason: String::new(),
        }
    }

    /// What has failed last, for people.
    pub fn failed_at(&self) -> String {
        if self.before {
            "`before`".to_owned()
        } else {
            format!("slot {}", self.slot)
        }
    }

    /// It says nothing that has to be kept.
    pub fn is_over(&self) -> bool {
        let nothing_noted = self.updating.is_empty() && self.failures.is_empty();
        !self.failed && !self.paused && nothing_noted && self.restart.is_empty()
    }
}

/// `…/data/<slot>`: where the local volumes of a slot are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Data {
    /// Name of the machine when this was written.
    pub host: HostName,
    /// Id of the machine.
    pub host_id: Uuid,
    /// Names of the volumes in the manifest.
    pub volumes: Vec<String>,
    /// Those of them that were made there or adopted: one that is missing is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub existing: Vec<String>,
    /// Docker's storage driver when a container with them was made there last: with another one it is hidden, and may run.
    /// None if that is not known, or its end was confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
}

/// `/dokkaa/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Id of the cluster.
    pub id: Uuid,
    /// Number of accepted restores.
    pub epoch: u64,
}

/// `/dokkaa/members/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Id of the machine.
    pub id: Uuid,
}

/// State of a host, by its own record.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, PartialOrd, Ord, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum HostState {
    /// Claims slots and runs them.
    Up,
    /// Its agent restarts: it keeps its slots and gets no new ones.
    Restarting,
    /// Distrusts its etcd and changes nothing.
    Hold,
}

/// Capacity of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Capacity {
    /// Processors, in thousandths.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Memory in bytes.
    #[serde(default)]
    pub memory: u64,
}

/// Peer listener of a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// `ip:port`.
    pub addr: std::net::SocketAddr,
    /// SHA-256 of its certificate, in hex.
    pub fingerprint: String,
}

/// Versions that must agree between hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Of the program, for people.
    pub agent: String,
    /// Placement rules that it knows.
    pub placement: Vec<u32>,
}

/// The Docker Engine of a host, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Docker {
    /// Its version.
    pub version: String,
    /// API version that the agent speaks with it, such as `1.41`.
    pub api: String,
    /// What keeps its images and containers.
    #[serde(flatten)]
    pub store: ImageStore,
    /// What its firewall rules are made with: `iptables`, `nftables`, each also with `+firewalld`.
    pub firewall: String,
    /// Version of its control groups: 1 or 2; 0 if it doesn't say.
    #[serde(default)]
    pub cgroup: u8,
    /// It carries published ports by a process of its own; none if it doesn't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userland_proxy: Option<bool>,
}

/// What keeps the images and containers of an engine. Each store sees its own only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageStore {
    /// The graph driver or snapshotter, such as `overlay2` or `overlayfs`.
    pub driver: String,
    /// It is containerd's.
    #[serde(default)]
    pub containerd: bool,
}

impl fmt::Display for ImageStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.containerd { " (containerd)" } else { "" };
        write!(f, "{}{of}", self.driver)
    }
}

/// `/hosts/<host>/record`: the one key on a lease. A host is live while it exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Id of the machine.
    pub id: Uuid,
    /// Id of the process.
    pub session: Uuid,
    /// Epoch of the cluster that it has joined.
    pub epoch: u64,
    /// Its state.
    pub state: HostState,
    /// Address at which the ports of its containers are published.
    pub addr: IpAddr,
    /// Its peer listener, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
    /// Addresses of its API that other machines reach.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api: Vec<SocketAddr>,
    /// Labels that its agent was started with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its capacity.
    #[serde(default)]
    pub capacity: Capacity,
    /// Versions that must agree.
    pub versions: Versions,
    /// Running containers that dokkaa did not start.
    #[serde(default)]
    pub foreign: u32,
    /// The Docker Engine answers.
    #[serde(default = "yes")]
    pub engine: bool,
    /// What the Docker Engine said of itself last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
    /// Used space on the disk of the Docker Engine, in percent; none if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u8>,
    /// That disk is too full for another container.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disk_full: bool,
    /// Reason of its hold; none if it is not in hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// Parts that do not work now, for people: `dns: 172.17.0.1:53 is taken by dnsmasq`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

fn yes() -> bool {
    true
}

/// Reason for which a host changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// For people.
    pub reason: String,
    /// It may concern all hosts, so none of them claims or takes over while it lasts.
    pub shared: bool,
}

/// `/hosts/<host>/availability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Availability {
    /// Takes slots.
    #[default]
    Active,
    /// Keeps what it has.
    Pause,
    /// Gives away what it has.
    Drain,
    /// Gives away what it has, also slots with local volumes: their data stays on it.
    #[serde(rename = "drain-volumes")]
    #[strum(serialize = "drain-volumes")]
    DrainVolumes,
    /// Gives away what it has, and then is no member any more.
    Leave,
}

impl Availability {
    /// What the host has goes to others.
    pub fn gives_away(self) -> bool {
        matches!(self, Self::Drain | Self::DrainVolumes | Self::Leave)
    }
}

/// `/hosts/<host>/labels`: the operator's labels, over those that the agent was started with.
///
/// Null removes a label.
pub type Labels = BTreeMap<String, Option<String>>;

/// `/hosts/<host>/unfit/<app>/<container>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// Revision of the manifest.
    pub manifest_rev: ModRev,
    /// Reason, for people.
    pub reason: String,
}

/// `/hosts/<host>/moved/<app>/<container>/<slot>`: the host had this slot when it was drained, and gets it back when it is
/// active again, unless it is activated without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {}

/// Progress of a slot, for people.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, strum::Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Progress {
    /// Something else has to happen first.
    Waiting,
    /// The image is being pulled.
    Pulling,
    /// The container is being created.
    Creating,
    /// The container is started, or runs and is not ready yet.
    Starting,
    /// Takes traffic.
    Ready,
    /// Runs and takes no traffic any more.
    Unready,
    /// Stopped by hand; started again after the back-off.
    Restarting,
    /// A new container takes the place of the present one.
    Replacing,
    /// Runs an older version, until its turn in the rollout comes.
    Outdated,
    /// About to be stopped.
    Leaving,
    /// Kept without a manifest since a restore was accepted.
    Orphan,
    /// The last attempt failed; trying again will hardly help where the manifest is at fault.
    Failed,
    /// Written by a newer agent.
    #[serde(other)]
    Unknown,
}

/// `/status/<app>/<container>/<slot>`: for people; no decision depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The instance.
    pub instance: InstanceId,
    /// Its host.
    pub host: HostName,
    /// Its progress.
    pub progress: Progress,
    /// Key of the version that this is about, which may not be the claim's while an update is tried; 0 if unknown.
    #[serde(default)]
    pub version: VersionId,
    /// Reason for which it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Docker's id of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Restarts of the instance after a crash.
    #[serde(default)]
    pub restarts: u32,
    /// Start of the process in Unix seconds, by the host's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// Last lines of its log, when it failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_progress_of_a_newer_agent_is_unknown() {
        let read = |text: &str| serde_json::from_str::<Progress>(text).expect("a progress");
        assert_eq!(read(r#""thawing""#), Progress::Unknown);
        assert_eq!(read(r#""replacing""#), Progress::Replacing);
        let text = serde_json::to_string(&Progress::Orphan).expect("JSON");
        assert_eq!(text, format!("\"{}\"", Progress::Orphan));
    }
}
