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
