//! Plans: `POST plan`.

use std::collections::BTreeMap;

use manifests::changes::FieldChange;
use manifests::{AppName, ContainerId, ContainerName, HostName};
use serde::{Deserialize, Serialize};

/// Body of `POST plan`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Manifests that would be written, by `app/container`: JSON values, or their text, of which errors have a position.
    pub manifests: BTreeMap<String, serde_json::Value>,
    /// What else the named apps have would be removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prune: bool,
}

/// `POST plan`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Something would change.
    pub changes: bool,
    /// Every container of the request, and those that would be removed.
    pub containers: Vec<PlanContainer>,
    /// Revision of the view that it was made from.
    pub revision: i64,
    /// The last known state.
    #[serde(default)]
    pub stale: bool,
    /// Notices for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// What would become of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanContainer {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// What would become of its manifest.
    pub action: PlanAction,
    /// Revision of its present manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
    /// Fields that would change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<FieldChange>,
    /// Command of what runs first, once for the version; none if nothing does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<String>,
    /// How instances are replaced; none if none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<PlanUpdate>,
    /// Its slots.
    pub slots: Vec<PlanSlot>,
    /// Warnings, such as a link to a service that nobody offers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl PlanContainer {
    /// `app/container`.
    pub fn id(&self) -> ContainerId {
        ContainerId::new(self.app.clone(), self.container.clone())
    }
}

/// What would become of a manifest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum PlanAction {
    /// There is none.
    Created,
    /// It differs.
    Changed,
    /// It means the same.
    Unchanged,
    /// It would be pruned.
    Removed,
}

/// How the slots of a container are replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanUpdate {
    /// `start-first` or `stop-first`.
    pub order: String,
    /// Why it is `stop-first`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// So many at a time.
    pub parallelism: u32,
    /// Slots in the order in which they are begun.
    pub slots: Vec<u32>,
}

/// What would become of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSlot {
    /// Its number.
    pub slot: u32,
    /// What happens to it.
    pub action: PlanSlotAction,
    /// Its host afterwards, or that which it is removed from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// The host that it leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<HostName>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What would happen to a slot.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::Display,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum PlanSlotAction {
    /// It is begun.
    Created,
    /// Another instance takes the place of the present one.
    Replaced,
    /// Another host takes it.
    Moved,
    /// It is stopped.
    Removed,
    /// It is wanted, and that can't be done.
    Waiting,
    /// It stays.
    Kept,
}
