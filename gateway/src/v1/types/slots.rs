//! Slots, containers and apps.

use std::net::IpAddr;

use jiff::Timestamp;
use manifests::{AppName, ContainerId, ContainerName, HostName, InstanceId, ServiceName};
use serde::{Deserialize, Serialize};
use strum::Display;

use super::updates::{FoundRow, UpdateRow};

/// `GET slots`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Slots that exist or are wanted, by app, container and number.
    pub slots: Vec<SlotRow>,
    /// All containers.
    pub containers: Vec<ContainerRow>,
    /// Revision of etcd.
    pub revision: i64,
    /// The last known state: etcd is unreachable or distrusted.
    #[serde(default)]
    pub stale: bool,
    /// Time of a stale state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_at: Option<String>,
    /// Notices for stderr, such as hosts that did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
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
    /// Its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Its status.
    pub status: SlotStatus,
    /// Seconds since its process started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Its published ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
    /// Why it is not ready or not up to date; always set if it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Instance that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Version of the manifest that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The image of that version, as the manifest names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// It runs another version than the manifest's.
    #[serde(default)]
    pub outdated: bool,
    /// To be removed: its number is not below the scale, its host is to have none of it, or the manifest was deleted.
    #[serde(default)]
    pub surplus: bool,
    /// The manifest as it is now could not be run, by its own fault.
    #[serde(default)]
    pub failed: bool,
    /// Unclaimed, and no host is eligible.
    #[serde(default)]
    pub unplaceable: bool,
    /// It is ready, and its process has not run for `update.monitor` yet.
    #[serde(default)]
    pub unproven: bool,
    /// Restarts after a crash.
    #[serde(default)]
    pub restarts: u32,
    /// Docker container id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_id: Option<String>,
    /// Last log lines of a failed attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl SlotRow {
    /// Its container.
    pub fn id(&self) -> ContainerId {
        ContainerId::new(self.app.clone(), self.container.clone())
    }
}

/// Status of a slot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum SlotStatus {
    /// Ready for traffic.
    Ready,
    /// Running or starting, not ready for traffic.
    Unready,
    /// Claimed; its container is being created.
    Starting,
    /// Its image is being pulled.
    Pulling,
    /// Unclaimed, or its host waits for something.
    Waiting,
    /// Failed by the manifest's fault; retried with back-off.
    Failed,
    /// Draining connections before it is stopped.
    Leaving,
    /// Stopped by its owner for a handover.
    Stopped,
    /// Its host is not live.
    Lost,
    /// Kept after an accepted restore, though it has no manifest.
    Orphan,
    /// Row of a container whose manifest can't be run.
    Invalid,
}

/// A published port of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPort {
    /// Its service.
    pub service: ServiceName,
    /// Host address.
    pub addr: IpAddr,
    /// Host port.
    pub port: u16,
    /// Listening address, if the manifest sets one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind: Option<IpAddr>,
    /// Reachable from the internet: a `host_port` on all addresses or a global one.
    #[serde(default)]
    pub public: bool,
}

/// A container, without its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRow {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// Revision of the manifest; none if it was removed and slots are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Number of wanted slots; none if the manifest can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// Each host that may have one has one: the number is that of these hosts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub global: bool,
    /// Image in the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Errors in the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// Warnings about the manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Paths at which its image declares a volume and its manifest names none: data there is lost with the instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unnamed_volumes: Vec<String>,
    /// Its manifest says that nothing of it runs, whatever its scale.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// When its manifest, and so all of it, ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// The version that its slots are to run; none without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The update to that version, while there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateRow>,
    /// The image that is run in place of the manifest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<FoundRow>,
    /// Failed rollout of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gave_up: Option<GaveUp>,
}

impl ContainerRow {
    /// Its container.
    pub fn id(&self) -> ContainerId {
        ContainerId::new(self.app.clone(), self.container.clone())
    }
}

/// A failed rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GaveUp {
    /// Slot that failed; none if it was what runs before the version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u32>,
    /// Reason.
    pub reason: String,
}

/// `GET apps`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apps {
    /// By name.
    pub apps: Vec<AppRow>,
    /// Revision of etcd.
    pub revision: i64,
    /// The last known state: etcd is unreachable or distrusted.
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
    /// Number of wanted slots; none if the manifest can't be read or was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// Each host that may have one has one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub global: bool,
    /// Its manifest says that nothing of it runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// Number of ready slots.
    pub ready: u32,
    /// Image in the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// When its manifest, and so all of it, ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Problems that need attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
