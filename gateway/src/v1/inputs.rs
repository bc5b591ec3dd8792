//! Inputs of rows, and the filter of their containers.

use std::collections::BTreeMap;

use manifests::{AppName, ContainerId, ContainerName, HostName, SlotId};
use model::records::Status;
use model::{Directory, Snapshot};
use serde::Deserialize;

use super::types::Reasons;

/// Filter of containers; an empty one matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Filter {
    /// Only of this app.
    pub app: Option<AppName>,
    /// Only this container of it.
    pub container: Option<ContainerName>,
}

impl Filter {
    /// Matches one container.
    pub fn only(id: &ContainerId) -> Self {
        Self {
            app: Some(id.app.clone()),
            container: Some(id.container.clone()),
        }
    }

    /// Whether a container matches.
    pub fn matches(&self, id: &ContainerId) -> bool {
        self.app.as_ref().is_none_or(|app| id.app == *app)
            && self
                .container
                .as_ref()
                .is_none_or(|name| id.container == *name)
    }

    /// Prefix of the keys of matching containers, under one of all.
    pub fn prefix(&self, under: &str) -> String {
        let app = self.app.iter().map(|app| format!("{app}/"));
        let container = self.container.iter().map(|name| format!("{name}/"));
        let names: String = app.chain(container).collect();
        format!("{under}{names}")
    }
}

/// Inputs of rows.
#[derive(Debug, Clone, Copy)]
pub struct RowInputs<'a> {
    /// The last view of etcd.
    pub snapshot: &'a Snapshot,
    /// Services and endpoints in it.
    pub directory: &'a Directory,
    /// Status keys that could be read.
    pub statuses: &'a BTreeMap<SlotId, Status>,
    /// Reasons of the hosts that answered.
    pub answers: &'a BTreeMap<HostName, Reasons>,
    /// Now, in Unix seconds.
    pub now: i64,
}
