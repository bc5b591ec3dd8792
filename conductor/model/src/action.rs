//! Actions on the engine, and their results.

use crate::manifest_text::ManifestText;
use crate::revision::VersionId;
use std::sync::Arc;
use std::time::Duration;

use manifests::{ContainerId, InstanceId, Manifest, SlotId};

use crate::observed::ObservedContainer;
use crate::records::FoundImage;
use crate::scope::Scope;

/// An action on the engine. Each may be carried out twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Decide the image of a version.
    Resolve {
        /// The container.
        container: ContainerId,
        /// Key of the version.
        rev: VersionId,
        /// Its manifest.
        manifest: Arc<Manifest>,
        /// As it was written.
        text: ManifestText,
        /// The image, where it was found in a registry; none: the manifest's own.
        found: Option<FoundImage>,
    },
    /// Pull the image if it is missing, and create the container; it is not started.
    Prepare(Prepare),
    /// Start the process.
    Start {
        /// The slot.
        slot: SlotId,
        /// The instance.
        instance: InstanceId,
        /// Docker's id of the container.
        docker_id: String,
    },
    /// Signal (with the one it was made with), and kill after the time-out.
    Stop {
        /// The slot.
        slot: SlotId,
        /// The instance.
        instance: InstanceId,
        /// Docker's id of the container.
        docker_id: String,
        /// Time until SIGKILL.
        timeout: Duration,
    },
    /// Remove a container that does not run.
    Remove {
        /// The slot.
        slot: SlotId,
        /// The instance.
        instance: InstanceId,
        /// Docker's id of the container.
        docker_id: String,
    },
    /// Rename a container.
    Rename {
        /// The slot.
        slot: SlotId,
        /// The instance.
        instance: InstanceId,
        /// Docker's id of the container.
        docker_id: String,
        /// The new name.
        name: String,
    },
}

/// A container to be created.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepare {
    /// The slot.
    pub slot: SlotId,
    /// The instance.
    pub instance: InstanceId,
    /// Key of the version.
    pub rev: VersionId,
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// Its decided image.
    pub image: String,
    /// What that is made of, where it is in no registry.
    pub content: Option<String>,
    /// Its hash, for the label.
    pub hash: String,
    /// Under `<name>.<instance>`, since another container of the slot is there.
    pub temporary_name: bool,
    /// Those of its local volumes that must exist on this machine already.
    pub existing: Vec<String>,
    /// Docker's storage driver when a container with those was made here last, if that is known.
    pub driver: Option<String>,
    /// It is what runs before the version, no instance of it.
    pub before: bool,
}

impl Action {
    /// Actions of one scope follow each other.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Resolve { container, .. } => Scope::Container(container.clone()),
            Self::Prepare(Prepare { slot, .. })
            | Self::Start { slot, .. }
            | Self::Stop { slot, .. }
            | Self::Remove { slot, .. }
            | Self::Rename { slot, .. } => Scope::Slot(slot.clone()),
        }
    }

    /// One word, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Prepare(_) => "prepare",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Remove { .. } => "remove",
            Self::Rename { .. } => "rename",
        }
    }
}

/// Who has to change something before another attempt can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nobody.
    #[default]
    Passing,
    /// It is not known: the engine's error has no class.
    Unknown,
    /// The user: no host can run this manifest.
    Manifest,
    /// The operator of this host: another host may run it.
    Host,
    /// The user: its volumes on this host are not those that it had. Nothing is created before that is settled.
    Data,
}

/// Result of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionResult {
    /// The image of a version is decided; the write follows.
    Resolved {
        /// The container.
        container: ContainerId,
        /// Key of the version.
        rev: VersionId,
        /// A digest, or `local:<image id>`.
        image: String,
        /// What a `local` image is made of.
        content: Option<String>,
        /// Paths at which it declares volumes.
        volumes: Vec<String>,
    },
    /// The image could not be decided.
    NotResolved {
        /// The container.
        container: ContainerId,
        /// Key of the version.
        rev: VersionId,
        /// Reason, for people.
        reason: String,
        /// Who has to change something.
        fault: Fault,
    },
    /// A container was created.
    Prepared {
        /// The slot.
        slot: SlotId,
        /// The instance.
        instance: InstanceId,
        /// Key of the version.
        rev: VersionId,
        /// It is what runs before the version.
        before: bool,
    },
    /// A container could not be created.
    NotPrepared {
        /// The slot.
        slot: SlotId,
        /// Key of the version.
        rev: VersionId,
        /// Reason, for people.
        reason: String,
        /// Who has to change something.
        fault: Fault,
    },
    /// A start failed.
    NotStarted {
        /// The slot.
        slot: SlotId,
        /// The instance.
        instance: InstanceId,
        /// Reason, for people.
        reason: String,
        /// Who has to change something.
        fault: Fault,
        /// Its address or port is taken: another instance gets another one.
        must_recreate: bool,
    },
    /// An action has succeeded; the engine shows what it changed.
    Done {
        /// The slot.
        slot: SlotId,
    },
    /// A stop or a removal failed.
    Failed {
        /// The slot.
        slot: SlotId,
        /// Reason, for people.
        reason: String,
    },
    /// A renaming failed.
    NotRenamed {
        /// The slot.
        slot: SlotId,
        /// Reason, for people.
        reason: String,
    },
}

/// Report of an action that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionReport {
    /// Its result.
    pub result: ActionResult,
    /// The container as it is now.
    pub container: Option<Box<ObservedContainer>>,
    /// Docker's id of one that is gone.
    pub gone: Option<String>,
}

impl From<ActionResult> for ActionReport {
    fn from(result: ActionResult) -> Self {
        Self {
            result,
            container: None,
            gone: None,
        }
    }
}

impl ActionReport {
    /// With the container as it is now; none is gone.
    pub fn with(
        result: ActionResult,
        docker_id: &str,
        container: Option<ObservedContainer>,
    ) -> Self {
        Self {
            result,
            gone: container.is_none().then(|| docker_id.to_owned()),
            container: container.map(Box::new),
        }
    }
}
