//! Slots, containers and apps.

use std::net::IpAddr;

use manifests::{AppName, ContainerId, ContainerName, HostName, InstanceId, ServiceName};
use serde::{Deserialize, Serialize};
use strum::Display;

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

/// Status of a slot.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Display,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
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
