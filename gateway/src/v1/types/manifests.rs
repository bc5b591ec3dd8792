//! Manifests, read and written.

use manifests::{AppName, ContainerId, ContainerName};
use serde::{Deserialize, Serialize};

/// `GET manifests/<app>/<container>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestText {
    /// The app.
    pub app: AppName,
    /// The container.
    pub container: ContainerName,
    /// Revision, for preconditions.
    pub revision: i64,
    /// Its text, unchanged.
    pub manifest: String,
    /// Errors, if it was written with `etcdctl`: the APIs refuse it.
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
    /// There was none before.
    pub created: bool,
    /// Its text differs from the one before.
    pub changed: bool,
    /// Warnings, such as a link to a service that nobody offers yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `DELETE manifests/<app>[/<container>]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Removed containers.
    pub containers: Vec<ContainerId>,
}
