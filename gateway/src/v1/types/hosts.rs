//! Hosts, and the state of the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;

use manifests::HostName;
use model::records::Docker;
use serde::{Deserialize, Serialize};

/// `GET hosts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// By name.
    pub hosts: Vec<HostRow>,
    /// Revision of etcd.
    pub revision: i64,
    /// The last known state: etcd is unreachable or distrusted.
    #[serde(default)]
    pub stale: bool,
    /// Time of a stale state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_at: Option<String>,
    /// Problems of the answering agent, for stderr.
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
    /// Address of its published services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addr: Option<IpAddr>,
    /// Number of slots it owns.
    pub slots: u32,
    /// Number of running containers that dokkaa did not start.
    #[serde(default)]
    pub foreign: u32,
    /// Processors, in thousandths; 0 if unknown.
    #[serde(default)]
    pub cpu_millis: u64,
    /// Memory in bytes; 0 if unknown.
    #[serde(default)]
    pub memory: u64,
    /// Disk usage of its Docker Engine, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u8>,
    /// Docker Engine is up; none if its agent does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<bool>,
    /// What its Docker Engine said of itself last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<Docker>,
    /// Version of its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Labels of its agent, overridden by the operator's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Problems, and containers it is unfit for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// `GET status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Cluster id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Host of the answering agent.
    pub host: HostName,
    /// Its version.
    pub agent: String,
    /// etcd answers it, trusted or not.
    pub etcd: bool,
    /// Why it is in hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Revision of etcd.
    pub revision: i64,
    /// The last known state.
    #[serde(default)]
    pub stale: bool,
    /// Time of a stale state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_at: Option<String>,
    /// Hosts by state.
    pub hosts: BTreeMap<String, u32>,
    /// Of these, those that operators have set to something else than `active`, by availability.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub availability: BTreeMap<String, u32>,
    /// Slots by status.
    pub slots: BTreeMap<String, u32>,
    /// Apps.
    pub apps: u32,
    /// Containers.
    pub containers: u32,
    /// Problems that need attention.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}
