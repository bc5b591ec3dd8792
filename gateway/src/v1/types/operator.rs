//! What operators' commands ask and are answered: hosts, volumes, backups, the end of a hold.

use std::collections::BTreeMap;

use manifests::{AppName, ContainerName, HostName, SlotId};
use model::records::{Availability, Cluster, Labels};
use serde::{Deserialize, Serialize};
use strum::Display;
use uuid::Uuid;

use super::HostRow;

/// Body of `PUT hosts/<host>/availability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedAvailability {
    /// What is wanted of the host.
    pub availability: Availability,
}

/// What the operator wants of a host and calls it, after a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSettings {
    /// Its name.
    pub host: HostName,
    /// What is wanted of it.
    pub availability: Availability,
    /// Its labels: those that its agent was started with, and over them the operator's.
    pub labels: BTreeMap<String, String>,
    /// It was otherwise before.
    pub changed: bool,
}

/// `GET hosts/<host>`: a host, and what depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDetail {
    /// As in `hosts`.
    pub row: HostRow,
    /// It is live: its agent runs.
    pub live: bool,
    /// Revision of its membership; 0 if it is no member.
    pub member: i64,
    /// The slots that it has.
    pub slots: Vec<HostSlot>,
    /// The slots whose data is on this machine, claimed or not.
    pub data: Vec<HostData>,
}

/// A slot that a host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSlot {
    /// Which.
    pub slot: SlotId,
    /// Why no other host could take it now; none if one could.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<String>,
}

/// The data of a slot on one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostData {
    /// Of which slot.
    pub slot: SlotId,
    /// Names of the volumes in the manifest.
    pub volumes: Vec<String>,
}

/// `DELETE hosts/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRemoved {
    /// Its name.
    pub host: HostName,
    /// The data that was given up.
    pub data: Vec<HostData>,
}

/// Whether a machine is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Presence {
    /// Its agent runs.
    Live,
    /// It is a member, and its agent does not run.
    Missing,
    /// It is no member any more.
    Gone,
}

/// Whether a volume is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "lowercase")]
pub enum VolumeState {
    /// Its host has it.
    Present,
    /// Its host does not have it any more.
    Lost,
    /// It was not made yet.
    #[strum(serialize = "not created")]
    NotCreated,
    /// Its host did not say.
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
    /// The slot that has it.
    pub slot: u32,
    /// Its name in the manifest.
    pub volume: String,
    /// Its name in Docker.
    pub docker: String,
    /// The host it is on, by its present name where it has one.
    pub host: HostName,
    /// Which machine that is.
    pub host_id: Uuid,
    /// Whether that machine is there.
    pub presence: Presence,
    /// Whether the volume is there.
    #[serde(default)]
    pub state: VolumeState,
    /// The manifest wants the slot.
    pub wanted: bool,
    /// Who has the slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_by: Option<HostName>,
}

/// `GET volumes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volumes {
    /// By app, container, slot and name.
    pub volumes: Vec<VolumeRow>,
    /// The revision of etcd that this shows.
    pub revision: i64,
    /// etcd is away or not trusted: this is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// What could not be found out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// `PUT pins/…`: the volumes that the slot has from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesAdopted {
    /// Which slot.
    pub slot: SlotId,
    /// The host that has them.
    pub host: HostName,
    /// Their names in the manifest.
    pub volumes: Vec<String>,
}

/// `DELETE volumes/…`, `DELETE pins/…`: the pin that was forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReleased {
    /// Of which slot.
    pub slot: SlotId,
    /// The host it named.
    pub host: HostName,
    /// Names of the volumes in the manifest.
    pub volumes: Vec<String>,
    /// The volumes themselves were removed, too.
    pub removed: bool,
}

/// Of the form of a backup; another one is refused.
pub const BACKUP_VERSION: u32 = 1;

/// `GET backup`, and the body of `POST restore`: what users and operators put into a cluster.
///
/// The same content gives the same text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// `BACKUP_VERSION`.
    #[serde(rename = "dokkaa_backup")]
    pub version: u32,
    /// Which cluster, and its epoch then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// By `app/container`: the manifest, as a text only where it is no JSON object.
    #[serde(default)]
    pub manifests: BTreeMap<String, serde_json::Value>,
    /// What the operator calls each host.
    #[serde(default)]
    pub labels: BTreeMap<HostName, Labels>,
    /// What the operator wants of each host.
    #[serde(default)]
    pub availability: BTreeMap<HostName, Availability>,
    /// Settings, by their key below `/dokkaa/config/`.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
}

/// What a restore does, or would do, with one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum RestoreAction {
    /// It is not there, and is written.
    Added,
    /// It says something else, and is overwritten.
    Replaced,
    /// It says something else, and stays.
    Kept,
    /// It says the same.
    Same,
    /// It can't be read, and is not written.
    Invalid,
}

/// One key of a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredKey {
    /// The key.
    pub key: String,
    /// What is done with it.
    pub what: RestoreAction,
    /// Why it is kept, or what is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `POST restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// By key.
    pub keys: Vec<RestoredKey>,
    /// The cluster key that is written last, where etcd has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// Why the agent that answers changes nothing, if it is in hold: a restore alone does not end that here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// The revision of etcd that this was decided on.
    pub revision: i64,
    /// It was done, not only looked at.
    pub written: bool,
}

/// `GET hold`: what one host would do if etcd as it is now were accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldReport {
    /// Why it is in hold; none if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// The epoch that it lives in.
    pub epoch: u64,
    /// Running containers that it would stop.
    pub would_stop: Vec<WouldStop>,
    /// Running containers without a manifest: they would be kept.
    pub orphans: Vec<SlotId>,
}

/// A running container that would be stopped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WouldStop {
    /// Of which slot.
    pub slot: SlotId,
    /// Why.
    pub why: String,
}

/// `GET accept`: what accepting etcd as it is now would mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The cluster key as it would be.
    pub cluster: Cluster,
    /// Revision of the cluster key as it is; 0 if there is none.
    pub revision: i64,
    /// The hosts that answered.
    pub hosts: Vec<HostHold>,
    /// Hosts that did not answer; for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
    /// It was accepted, not only looked at.
    pub accepted: bool,
}

/// What one host would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHold {
    /// Its name.
    pub host: HostName,
    /// What it would do.
    pub report: HoldReport,
}
