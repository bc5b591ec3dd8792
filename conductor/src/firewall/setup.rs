//! Settings of the firewall and its errors.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use engine::EngineFacts;
use manifests::HostName;
use tokio::sync::watch;

use super::iptables::IptablesError;
use super::rules::CHAIN;
use crate::published::Published;

/// Who may connect to the instances' ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InstancePorts {
    /// This machine and the hosts of the cluster.
    #[default]
    Peers,
    /// Whoever reaches the address.
    Open,
}

/// Why the ports are not as they are to be.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// They can't be closed.
    #[error(
        "the instances' ports on {host_ip} can't be closed to all but the cluster's hosts, nor containers, DNS and links to all but \
         this machine (--instance-ports open accepts that)"
    )]
    Close {
        /// The address that they are published on.
        host_ip: IpAddr,
        /// Why.
        #[source]
        source: IptablesError,
    },
    /// What an agent has set can't be taken away.
    #[error(
        "the firewall rules of the instances' ports can't be removed; `iptables -S {CHAIN}` shows them"
    )]
    Remove(#[source] IptablesError),
}

/// What `run` works with.
#[derive(Debug)]
pub struct Setup {
    /// Who may connect.
    pub instance_ports: InstancePorts,
    /// This host.
    pub host: HostName,
    /// The address that ports are published on; none is the gateway of the network.
    pub host_ip: Option<IpAddr>,
    /// The agent's range of ports.
    pub range: RangeInclusive<u16>,
    /// The network that containers are on. Sent again when the engine has come back, and may have set its own rules anew.
    pub engine: watch::Receiver<EngineFacts>,
    /// Where hosts and claims are read.
    pub published: Arc<Published>,
    /// What is wrong, for people.
    pub problems: watch::Sender<Vec<String>>,
    /// Time between two looks.
    pub every: Duration,
}

impl Setup {
    pub(super) fn host_ip(&self) -> IpAddr {
        let gateway = || self.engine.borrow().bridge.gateway;
        self.host_ip.unwrap_or_else(gateway)
    }
}
