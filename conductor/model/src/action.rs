//! Actions on the engine, and what came of them.

use std::sync::Arc;
use std::time::Duration;

use manifests::{ContainerId, InstanceId, Manifest, SlotId};

use crate::observed::ObservedContainer;
use crate::scope::Scope;

/// An action on the engine. Each may be done twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Decide the image of a version.
    Resolve {
        /// Whose.
        container: ContainerId,
        /// The version's key.
        rev: i64,
        /// Its manifest.
        manifest: Arc<Manifest>,
        /// As it was written.
        json: Arc<serde_json::Value>,
    },
    /// Pull what lacks, and make the container; it is not started.
    Prepare(Prepare),
    /// Start the process.
    Start {
        /// Of which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
    },
    /// Signal (with the one it was made with), and kill after the time-out.
    Stop {
        /// Of which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
        /// Time until SIGKILL.
        timeout: Duration,
    },
    /// Remove a container that does not run.
    Remove {
        /// Of which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
    },
    /// Give it another name.
    Rename {
        /// Of which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Docker's id.
        docker_id: String,
        /// The name.
        name: String,
    },
}

/// A container to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepare {
    /// For which slot.
    pub slot: SlotId,
    /// Which instance.
    pub instance: InstanceId,
    /// The version's key.
    pub rev: i64,
    /// Its manifest.
    pub manifest: Arc<Manifest>,
    /// Its decided image.
    pub image: String,
    /// Its hash, for the label.
    pub hash: String,
    /// Under `<name>.<instance>`, since another container of the slot is there.
    pub temporary_name: bool,
    /// Those of its local volumes that must be there: the slot has them on this machine.
    pub existing: Vec<String>,
}

impl Action {
    /// Actions of one scope follow each other.
    pub fn work(&self) -> Scope {
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

/// Who has to change something before another try can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nobody.
    #[default]
    Passing,
    /// It is not known: the engine failed in a way that has no class.
    Unknown,
    /// The user: no host can run it as it is.
    Manifest,
    /// This host: another one may run it.
    Host,
    /// The user: its volumes on this host are not what it had. Nothing is made before somebody has said what is to be.
    Data,
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActionResult {
    /// The image of a version is decided; the write follows.
    Resolved {
        /// Whose.
        container: ContainerId,
        /// Of which version.
        rev: i64,
        /// A digest, or `local:<image id>`.
        image: String,
        /// Paths at which it declares volumes.
        volumes: Vec<String>,
    },
    /// It is not.
    NotResolved {
        /// Whose.
        container: ContainerId,
        /// Of which version.
        rev: i64,
        /// Why, for people.
        reason: String,
        /// Who has to change something.
        fault: Fault,
    },
    /// A container was made.
    Prepared {
        /// For which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Of which version.
        rev: i64,
    },
    /// It could not be made.
    NotPrepared {
        /// For which slot.
        slot: SlotId,
        /// Of which version.
        rev: i64,
        /// Why, for people.
        reason: String,
        /// Who has to change something.
        fault: Fault,
    },
    /// A start failed.
    NotStarted {
        /// For which slot.
        slot: SlotId,
        /// Which instance.
        instance: InstanceId,
        /// Why, for people.
        reason: String,
        /// Who has to change something.
        fault: Fault,
        /// Its address or port is not to be had: another instance gets another one.
        doomed: bool,
    },
    /// A step ended as it should; what it changed is observed.
    Done {
        /// Of which slot.
        slot: SlotId,
    },
    /// A stop, a removal or a renaming failed.
    Failed {
        /// Of which slot.
        slot: SlotId,
        /// Why, for people.
        reason: String,
    },
}

/// An action that ended, and what it left on the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActionReport {
    /// What came of it.
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
