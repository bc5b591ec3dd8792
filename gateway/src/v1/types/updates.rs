//! Versions of a container, and the update to the newest.

use manifests::{AppName, ContainerId, ContainerName, HostName, InstanceId, SlotId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `GET versions/<app>/<container>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// Revision of the manifest, for preconditions.
    pub revision: i64,
    /// The version that the manifest means; none while it can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<i64>,
    /// The update to it, while it is under way, paused or halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateRow>,
    /// The manifest as it is now; none if it is not JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Value>,
    /// Versions that are kept, newest first.
    pub versions: Vec<VersionRow>,
}

impl History {
    /// Its container.
    pub fn id(&self) -> ContainerId {
        ContainerId::new(self.app.clone(), self.container.clone())
    }
}

/// A version of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Its key: the revision of its manifest, or of the image that was found for it.
    pub version: i64,
    /// Its image, as the manifest names it, or as it was found in the registry.
    pub image: String,
    /// The image that was decided on: a digest, or `local:<image id>`; none while nobody has decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// An instance of it has stayed ready once.
    #[serde(default)]
    pub good: bool,
    /// Slots that run it, or one that means the same container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<u32>,
    /// Its manifest.
    pub manifest: Value,
}

/// Body of `PUT rollout/<app>/<container>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedRollout {
    /// No further slot is updated; or the update goes on, also one that was halted.
    pub paused: bool,
}

/// `PUT restart/<app>/<container>/<slot>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRestart {
    /// The slot.
    pub slot: SlotId,
    /// The host that has it.
    pub host: HostName,
    /// The instance that goes.
    pub instance: InstanceId,
    /// It waits until the update, which is paused, goes on.
    #[serde(default)]
    pub paused: bool,
    /// Revision of the manifest.
    pub manifest: i64,
    /// Revision at which this was written.
    pub revision: i64,
}

/// Body of `PUT image/<app>/<container>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedImage {
    /// The version whose image is run again.
    pub version: i64,
    /// Revision of the manifest that this is about.
    pub revision: i64,
}

/// The image that is run in place of the one that the manifest names: a registry had it, or somebody went back to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundRow {
    /// Its name, with its tag.
    pub image: String,
    /// Its digest.
    pub digest: String,
    /// When the registry said so, in Unix seconds; none where it is the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
    /// The digest from which it is the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_from: Option<String>,
    /// Images that are not run, whatever the registry says; the last one is the newest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<SkippedRow>,
}

/// An image that is not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedRow {
    /// Its name, with its tag.
    pub image: String,
    /// Its digest.
    pub digest: String,
    /// Why.
    pub why: String,
}

/// The update of a container to a version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRow {
    /// The version.
    pub version: i64,
    /// Slots that are being updated, or have not stayed ready for long enough yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub updating: Vec<u32>,
    /// Slots that have failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<u32>,
    /// Slots that get another instance of the version that they run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<u32>,
    /// More slots have failed than may: no further one is updated.
    #[serde(default)]
    pub halted: bool,
    /// It was halted because what runs before the version has failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub before: bool,
    /// Somebody has paused it: no further slot is updated.
    #[serde(default)]
    pub paused: bool,
    /// The slot that failed last, if one has.
    #[serde(default)]
    pub slot: u32,
    /// Why it failed; empty while none has.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The version that all slots go back to, since it was halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<i64>,
}
