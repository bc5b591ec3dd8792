//! Explanations: `GET why`, and what each host adds to it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use manifests::{HostName, SlotId};
use serde::{Deserialize, Serialize};

use super::{ContainerRow, SlotRow};

/// `GET why/<app>/<container>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The container; none if only remains are left.
    pub container: ContainerRow,
    /// Its slots.
    pub slots: Vec<WhySlot>,
    /// Its links, in order.
    pub links: Vec<WhyLink>,
    /// This is the last known state.
    #[serde(default)]
    pub stale: bool,
    /// Hosts that did not answer; for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// A slot, and what each host says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhySlot {
    /// As in `ps`.
    pub row: SlotRow,
    /// Every host, the owner and the best first.
    pub hosts: Vec<WhyHost>,
}

/// Why a host has a slot, could have it, or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyHost {
    /// The host.
    pub host: HostName,
    /// It may take the slot, or has it.
    pub eligible: bool,
    /// For people.
    pub reason: String,
}

/// A link, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyLink {
    /// As `app/service`.
    pub service: String,
    /// The variable that holds its address.
    pub variable: String,
    /// Its port at the ambassador.
    pub port: u16,
    /// Endpoints, also those that get no traffic.
    pub endpoints: Vec<WhyEndpoint>,
    /// The last connect that failed, on each host that carried one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<LinkFailure>,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyEndpoint {
    /// Which slot.
    pub slot: SlotId,
    /// On which host.
    pub host: HostName,
    /// Where.
    pub addr: IpAddr,
    /// Which port there.
    pub port: u16,
    /// New connections go there.
    pub serving: bool,
    /// Why not, or why all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A connect over a link that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFailure {
    /// Who called.
    pub caller: SlotId,
    /// As `app/service`.
    pub service: String,
    /// On which host.
    pub host: HostName,
    /// When, RFC 3339, by that host's clock.
    pub at: String,
    /// Why.
    pub reason: String,
}

/// What one host knows and does not write to etcd: `GET reasons` of the peer door.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons {
    /// Why its conductor waits with a slot.
    #[serde(default, with = "by_slot")]
    pub waiting: BTreeMap<SlotId, String>,
    /// The last failed connect of each link that its ambassador carried.
    #[serde(default)]
    pub links: Vec<LinkFailure>,
}

/// JSON has no keys but texts.
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
