//! Explanations: `GET why`, and what each host adds to it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use manifests::{HostName, SlotId};
use serde::{Deserialize, Serialize};

use super::slots::{ContainerRow, SlotRow};

/// `GET why/<app>/<container>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The container.
    pub container: ContainerRow,
    /// Its slots.
    pub slots: Vec<WhySlot>,
    /// Of a global container: the hosts that have none, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<WhyHost>,
    /// Its links, in order.
    pub links: Vec<WhyLink>,
    /// The last known state.
    #[serde(default)]
    pub stale: bool,
    /// Notices for stderr, such as hosts that did not answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// A slot, with a reason of each host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhySlot {
    /// Its row in `ps`.
    pub row: SlotRow,
    /// All hosts: the owner, then the best first.
    pub hosts: Vec<WhyHost>,
}

/// Why a host owns a slot, is eligible, or is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyHost {
    /// The host.
    pub host: HostName,
    /// It is eligible, or the live owner.
    pub eligible: bool,
    /// Reason, for people.
    pub reason: String,
}

/// A link and its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyLink {
    /// `app/service`.
    pub service: String,
    /// Environment variable with its address.
    pub variable: String,
    /// Its port of the ambassador.
    pub port: u16,
    /// Endpoints, also those without traffic.
    pub endpoints: Vec<WhyEndpoint>,
    /// Last failed connection on each host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<LinkFailure>,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyEndpoint {
    /// Its slot.
    pub slot: SlotId,
    /// Its host.
    pub host: HostName,
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// New connections are sent there.
    pub serving: bool,
    /// Why not, or why although its host is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A failed connection over a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFailure {
    /// Calling slot.
    pub caller: SlotId,
    /// `app/service`.
    pub service: String,
    /// Its host.
    pub host: HostName,
    /// Time by that host's clock, RFC 3339.
    pub at: String,
    /// Reason.
    pub reason: String,
}

/// State of one host that is not in etcd: `GET reasons` of the peer API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons {
    /// Why slots wait.
    #[serde(default, with = "by_slot")]
    pub waiting: BTreeMap<SlotId, String>,
    /// Last failed connection of each link.
    #[serde(default)]
    pub links: Vec<LinkFailure>,
}

/// A map as a list: keys of JSON objects are strings.
mod by_slot {
    use std::collections::BTreeMap;

    use manifests::SlotId;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Entry {
        slot: SlotId,
        reason: String,
    }

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<SlotId, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter().map(|(slot, reason)| Entry {
            slot: slot.clone(),
            reason: reason.clone(),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<SlotId, String>, D::Error> {
        Ok(Vec::<Entry>::deserialize(deserializer)?
            .into_iter()
            .map(|entry| (entry.slot, entry.reason))
            .collect())
    }
}
