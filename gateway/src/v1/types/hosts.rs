//! Hosts, and the state of the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use manifests::HostName;
use serde::{Deserialize, Serialize};

/// `GET hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// By name.
    pub hosts: Vec<HostRow>,
    /// The revision of etcd that this shows.
    pub revision: i64,
    /// etcd is away or not trusted: this is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// Where it is stale: when it was etcd's present state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_at: Option<String>,
    /// What keeps the agent that answers from its work; for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// One line of `hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its name.
    pub host: HostName,
    /// `up`, `restarting`, `hold`, `missing`.
    pub state: String,
    /// `active`, `pause`, `drain`, `leave`.
    pub availability: String,
    /// Where its services are published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<IpAddr>,
    /// Slots that it has.
    pub slots: u32,
    /// Running containers that dokkaa did not start.
    #[serde(default)]
    pub foreign: u32,
    /// Processors, in thousandths; 0 if unknown.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Memory in bytes; 0 if unknown.
    #[serde(default)]
    pub memory: u64,
    /// How full the disk of its Docker Engine is, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u8>,
    /// Its Docker Engine answers; none if its agent does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<bool>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its labels: those that its agent was started with, and over them the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What does not work there, and what it does not take.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// `GET status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Which cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The agent that answers.
    pub host: HostName,
    /// Its version.
    pub agent: String,
    /// etcd answers it, whatever it thinks of the answers.
    pub etcd: bool,
    /// Why it changes nothing, if it distrusts its etcd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// The revision of etcd that this shows.
    pub revision: i64,
    /// This is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// Hosts by state.
    pub hosts: BTreeMap<String, u32>,
    /// Slots by status.
    pub slots: BTreeMap<String, u32>,
    /// Apps.
    pub apps: u32,
    /// Containers.
    pub containers: u32,
    /// What needs somebody's attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
