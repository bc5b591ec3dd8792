//! Names in DNS: `GET dns`.

use std::net::SocketAddr;

use manifests::{HostName, SlotId};
use serde::{Deserialize, Serialize};

/// `GET dns`: where the agent answers DNS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsServer {
    /// Domain of the names of services.
    pub domain: String,
    /// Addresses at which it answers at present.
    pub listen: Vec<SocketAddr>,
}

/// `GET dns/<name>`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameReport {
    /// In full.
    pub name: String,
    /// What it is, in words.
    pub meaning: String,
    /// All its records, as in a zone file.
    pub records: Vec<String>,
    /// Instances that it means and that are in no answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
    /// So many keys under `/skydns` have the name, and are not answered: a service has it.
    #[serde(default)]
    pub hidden: usize,
    /// The last known state.
    #[serde(default)]
    pub stale: bool,
    /// Notices for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// An instance that is in no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its slot.
    pub slot: SlotId,
    /// Its host.
    pub host: HostName,
    /// Why, for people.
    pub reason: String,
}
