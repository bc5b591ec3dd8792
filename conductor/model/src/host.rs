//! The host that an agent runs on, and how far it trusts etcd.

use manifests::HostName;
use uuid::Uuid;

use crate::observed::Surroundings;

/// The host that a plan is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name in claims.
    pub name: HostName,
    /// Id of the machine.
    pub id: Uuid,
    /// Network settings of its containers.
    pub surroundings: Surroundings,
}

/// Trust in the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It is fresh and complete.
    Full,
    /// It is old, or not complete yet: crashed containers are restarted, nothing else is done.
    RestartsOnly,
}
