//! What connections between hosts say: `hosts --check`.

use std::net::SocketAddr;

use manifests::{HostName, SlotId};
use serde::{Deserialize, Serialize};

/// `POST check`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsCheck {
    /// The hosts that were tried, by name.
    pub hosts: Vec<HostName>,
    /// Each port of each host from each other host, as far as that one could be asked.
    pub tries: Vec<Tried>,
    /// What is wrong.
    pub problems: Vec<CheckProblem>,
    /// What was not tried, for stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<String>,
}

/// One thing that is wrong, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProblem {
    /// The hosts that see it; none if nothing could be tried.
    pub from: Vec<HostName>,
    /// The host that is not reached.
    pub to: HostName,
    /// What is wrong.
    pub problem: String,
    /// A command that helps, and where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// Which port of a host was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckedPort {
    /// What other agents ask.
    Peer,
    /// One of the range that instances are published on.
    Instance,
}

/// What came of a try.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reach {
    /// It answered as it should.
    Open,
    /// The machine says that nobody listens there.
    Refused,
    /// No answer at all: what a firewall does.
    TimedOut,
    /// Turned away on the way, or no way there.
    Unreachable,
    /// The connection is accepted, and nothing comes.
    Silent,
    /// Something else answers.
    Wrong,
    /// There was nothing to try.
    Unknown,
}

/// One host's try of another's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Who tried.
    pub from: HostName,
    /// Whom.
    pub to: HostName,
    /// Which port.
    pub port: CheckedPort,
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<SocketAddr>,
    /// The slot that listens there; none for the agent itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotId>,
    /// What came of it.
    pub result: Reach,
    /// How long an answer took; at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// More about a failure, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The range of the asked host's ports, if it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// The firewall of the asked host, if it answered: `ufw`, `firewalld`, `iptables or nftables`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firewall: Option<String>,
}

/// A port that an agent listens on for a check, for a few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckPort {
    /// Its address; none if no port could be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<SocketAddr>,
    /// What it says to who connects.
    #[serde(default)]
    pub token: String,
    /// The range of the host's ports.
    pub range: String,
    /// The firewall of the host.
    pub firewall: String,
}
