//! Operators' requests: hosts, volumes, backups, acceptance of etcd.

use std::collections::BTreeMap;

use manifests::{AppName, ContainerName, HostName, SlotId};
use model::records::{Availability, Cluster, Data, Labels};
use serde::{Deserialize, Serialize};
use strum::Display;
use uuid::Uuid;

use super::hosts::HostRow;

/// Body of `PUT hosts/<host>/availability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedAvailability {
    /// Wanted availability.
    pub availability: Availability,
    /// With `active`: what a drain has moved away comes back.
    #[serde(default, rename = "return", skip_serializing_if = "std::ops::Not::not")]
    pub returns: bool,
}

/// Availability and labels of a host after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSettings {
    /// Its name.
    pub host: HostName,
    /// Its availability.
    pub availability: Availability,
    /// Labels of its agent, overridden by the operator's.
    pub labels: BTreeMap<String, String>,
    /// They differ from before.
    pub changed: bool,
    /// Slots that come back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returns: Vec<SlotId>,
}

/// `GET hosts/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDetail {
    /// Its row in `hosts`.
    pub row: HostRow,
    /// Its agent runs.
    pub live: bool,
    /// Revision of its membership; 0 is none.
    pub member: i64,
    /// Slots it owns.
    pub slots: Vec<HostSlot>,
    /// Slots with data on this machine, claimed or not.
    pub data: Vec<HostData>,
    /// Slots that a drain has moved away: they come back if it is active.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moved: Vec<SlotId>,
}

/// A slot owned by a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSlot {
    /// The slot.
    pub slot: SlotId,
    /// Why no other host could take it; none if one could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
    /// It is one of a global container: no other host takes it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub global: bool,
}

/// The data of a slot on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostData {
    /// The slot.
    pub slot: SlotId,
    /// Names of the volumes in the manifest.
    pub volumes: Vec<String>,
}

/// `DELETE hosts/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRemoved {
    /// Its name.
    pub host: HostName,
    /// Data that was on it.
    pub data: Vec<HostData>,
}

/// Presence of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Presence {
    /// Its agent runs.
    Live,
    /// A member whose agent does not run.
    Missing,
    /// No member any more.
    Gone,
}

/// State of a volume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "lowercase")]
pub enum VolumeState {
    /// Its host has it.
    Present,
    /// Missing on its host.
    Lost,
    /// Not created yet.
    #[strum(serialize = "not created")]
    NotCreated,
    /// Its host did not answer.
    #[default]
    Unknown,
}

/// One line of `volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRow {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// Slot number.
    pub slot: u32,
    /// Its name in the manifest.
    pub volume: String,
    /// Its name in Docker.
    pub docker: String,
    /// Its host, by its present name.
    pub host: HostName,
    /// Id of that machine.
    pub host_id: Uuid,
    /// Presence of that machine.
    pub presence: Presence,
    /// State of the volume.
    #[serde(default)]
    pub state: VolumeState,
    /// The slot is wanted.
    pub wanted: bool,
    /// Owner of the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<HostName>,
}

/// `GET volumes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volumes {
    /// By app, container, slot and name.
    pub volumes: Vec<VolumeRow>,
    /// Revision of etcd.
    pub revision: i64,
    /// The last known state: etcd is unreachable or distrusted.
    #[serde(default)]
    pub stale: bool,
    /// Notices for stderr, such as hosts that did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// `PUT pins/…`: the slot's volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesAdopted {
    /// The slot.
    pub slot: SlotId,
    /// Their host.
    pub host: HostName,
    /// Their names in the manifest.
    pub volumes: Vec<String>,
}

/// `DELETE volumes/…`, `DELETE pins/…`: the deleted pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReleased {
    /// The slot.
    pub slot: SlotId,
    /// Its host.
    pub host: HostName,
    /// Names of the volumes in the manifest.
    pub volumes: Vec<String>,
    /// The volumes were removed, too.
    pub removed: bool,
}

/// Version of the backup format; others are refused.
pub const BACKUP_VERSION: u32 = 1;

/// `GET backup`, and the body of `POST restore`: the keys of users and operators. Deterministic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// `BACKUP_VERSION`.
    #[serde(rename = "dokkaa_backup")]
    pub version: u32,
    /// Cluster and epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// Manifests by `app/container`; as text if not a JSON object.
    #[serde(default)]
    pub manifests: BTreeMap<String, serde_json::Value>,
    /// Operator's labels of each host.
    #[serde(default)]
    pub labels: BTreeMap<HostName, Labels>,
    /// Availability of each host.
    #[serde(default)]
    pub availability: BTreeMap<HostName, Availability>,
    /// Settings by key below `/dokkaa/config/`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// Where the local volumes of slots are, by `app/container/slot`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pins: BTreeMap<String, Data>,
}

/// Action of a restore on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum RestoreAction {
    /// Absent; written.
    Added,
    /// Different; overwritten.
    Replaced,
    /// Different; kept.
    Kept,
    /// Equal.
    Same,
    /// Invalid in the backup; not written.
    Invalid,
}

/// One key of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredKey {
    /// The key.
    pub key: String,
    /// The action.
    pub what: RestoreAction,
    /// Why it is kept or invalid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `POST restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// By key.
    pub keys: Vec<RestoredKey>,
    /// Cluster key, written last where etcd has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// Hold of the answering agent, which a restore alone does not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Revision of etcd this was decided on.
    pub revision: i64,
    /// It was carried out.
    pub written: bool,
}

/// `GET hold`: effect on one host if etcd as it is now were accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Reason of its hold; none if it is not in hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Its epoch.
    pub epoch: u64,
    /// Running containers it would stop.
    pub would_stop: Vec<WouldStop>,
    /// Running containers without a manifest, which it would keep.
    pub orphans: Vec<SlotId>,
}

/// A running container that would be stopped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WouldStop {
    /// The slot.
    pub slot: SlotId,
    /// Reason.
    pub why: String,
}

/// `GET accept`: effect of accepting etcd as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// Cluster key after it.
    pub cluster: Cluster,
    /// Revision of the present cluster key; 0 is none.
    pub revision: i64,
    /// Hosts that answered.
    pub hosts: Vec<HostHold>,
    /// Notices for stderr, such as hosts that did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// It was carried out.
    pub accepted: bool,
}

/// Effect on one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHold {
    /// Its name.
    pub host: HostName,
    /// The effect.
    pub report: HoldReport,
}
