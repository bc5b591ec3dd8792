//! Gives an instance's services their ports, and keeps the order of use on disk.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use manifests::Manifest;
use manifests::env::{FIRST_LINK_PORT, LAST_LINK_PORT};
use manifests::manifest::Protocol;
use model::observed::{ContainerPort, PublishedPorts, Surroundings};

use crate::ports::{PortPool, PortRange, is_free};
use crate::published::Published;

/// File of the state directory that keeps the order of use.
const FILE: &str = "ports.json";

/// Why an instance gets no ports here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPort {
    /// The range has none left.
    #[error(
        "no port of {0} is free: each is in use, was used within the last ten minutes, or is held by another process; --port-range gives more"
    )]
    RangeIsUsedUp(PortRange),
    /// A service must have this one, and a process that is not ours has it.
    #[error("host port {0} is held by another process on this host")]
    HostPortTaken(SocketAddr),
    /// A service must have this one, and the agent serves something there.
    #[error("host port {at} is kept for {of} of this host's agent")]
    HostPortKept {
        /// What was asked for.
        at: SocketAddr,
        /// What is there.
        of: Kept,
    },
}

/// What the agent serves on ports of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// 10000-10255 at the bridge's gateway.
    Links,
    /// Names.
    Dns,
    /// Its API, metrics, or what other agents ask.
    Listener,
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Links => "the links (10000-10255)",
            Self::Dns => "the DNS server",
            Self::Listener => "a listener",
        })
    }
}

impl Kept {
    /// What the agent has on an address, also where it does not listen yet: link ports are opened as links appear.
    fn on(at: SocketAddr, surroundings: &Surroundings, listeners: &[SocketAddr]) -> Option<Self> {
        let meets = |ip: IpAddr| {
            ip == at.ip() || at.ip().is_unspecified() && ip.is_ipv4() == at.ip().is_ipv4()
        };
        let of_listener = |one: &SocketAddr| {
            let any = one.ip().is_unspecified() && one.is_ipv4() == at.is_ipv4();
            one.port() == at.port() && (any || meets(one.ip()))
        };
        if meets(surroundings.gateway) && (FIRST_LINK_PORT..=LAST_LINK_PORT).contains(&at.port()) {
            Some(Self::Links)
        } else if at.port() == 53 && surroundings.dns.is_some_and(meets) {
            Some(Self::Dns)
        } else if listeners.iter().any(of_listener) {
            Some(Self::Listener)
        } else {
            None
        }
    }
}

/// The ports of this host. Shared by all steps.
#[derive(Debug)]
pub struct Allocation {
    range: PortRange,
    pool: Mutex<PortPool>,
    file: PathBuf,
    published: Arc<Published>,
    /// Where the agent listens.
    listeners: Vec<SocketAddr>,
}

impl Allocation {
    /// Reads what was used before from the state directory.
    pub fn open(
        range: PortRange,
        state_dir: &Path,
        published: Arc<Published>,
        listeners: Vec<SocketAddr>,
    ) -> Self {
        let file = state_dir.join(FILE);
        Self {
            pool: Mutex::new(PortPool::load(range.clone(), &file, now())),
            range,
            file,
            published,
            listeners,
        }
    }

    /// The port is one of ours to choose.
    pub(crate) fn chooses(&self, port: u16) -> bool {
        self.range.contains(port)
    }

    /// A port for each service: the one that it must have, or the next of the range.
    pub(crate) fn take(
        &self,
        manifest: &Manifest,
        surroundings: &Surroundings,
    ) -> Result<PublishedPorts, NoPort> {
        let host_ip = surroundings.host_ip;
        let mut given = PublishedPorts::new();
        let mut chosen = Vec::new();
        for service in manifest.services.values() {
            let inside = ContainerPort {
                port: service.port,
                protocol: service.protocol,
            };
            match service.host_port {
                Some(port) => {
                    let at = SocketAddr::new(service.bind.unwrap_or(host_ip), port);
                    if let Some(of) = Kept::on(at, surroundings, &self.listeners) {
                        return Err(NoPort::HostPortKept { at, of });
                    }
                    // One of ours that has it is on its way out, and is waited for.
                    if !self.is_ours(at) && !is_free(at.ip(), port, service.protocol) {
                        return Err(NoPort::HostPortTaken(at));
                    }
                    given.insert(inside, at);
                }
                // Two services may be one port of the container: it is published once.
                None if !chosen.contains(&inside) => chosen.push(inside),
                None => {}
            }
        }
        chosen.retain(|inside| !given.contains_key(inside));
        if chosen.is_empty() {
            return Ok(given);
        }
        let in_use: BTreeSet<u16> = self
            .published
            .observed
            .load()
            .containers
            .values()
            .flat_map(|c| c.ports.values().map(SocketAddr::port))
            .collect();
        let protocols: Vec<Protocol> = chosen.iter().map(|c| c.protocol).collect();
        let ports = {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.take(&protocols, &in_use, now(), |port, protocol| {
                is_free(host_ip, port, protocol)
            })
            .ok_or_else(|| NoPort::RangeIsUsedUp(self.range.clone()))?
        };
        for (inside, port) in chosen.into_iter().zip(ports) {
            given.insert(inside, SocketAddr::new(host_ip, port));
        }
        self.save();
        Ok(given)
    }

    /// A container of ours publishes this, running or not.
    fn is_ours(&self, at: SocketAddr) -> bool {
        let observed = self.published.observed.load();
        observed
            .containers
            .values()
            .any(|c| c.ports.values().any(|port| *port == at))
    }

    /// The ports of a container that is gone rest from now on.
    pub(crate) fn rest(&self, ports: &PublishedPorts) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        for at in ports.values() {
            pool.mark(at.port(), now());
        }
        drop(pool);
        self.save();
    }

    /// Nobody waits for the disk: what a crash loses here is only the order in which ports come again.
    fn save(&self) {
        let pool = self
            .pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = pool.save(&file) {
                tracing::warn!(file = %file.display(), %error, "the order in which ports were used can't be kept");
            }
        });
    }
}

fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_serves_is_kept_on_each_address_that_meets_it() {
        let surroundings = Surroundings {
            host_ip: [10, 0, 0, 1].into(),
            gateway: [172, 17, 0, 1].into(),
            dns: Some([172, 17, 0, 1].into()),
            domain: "skydns.local".to_owned(),
            network: "bridge".to_owned(),
        };
        let listeners: Vec<SocketAddr> = ["127.0.0.1:4001", "0.0.0.0:4003"]
            .map(|at| at.parse().expect("an address"))
            .into();
        let on = |at: &str| Kept::on(at.parse().expect("an address"), &surroundings, &listeners);
        for at in ["172.17.0.1:10000", "172.17.0.1:10255", "0.0.0.0:10001"] {
            assert_eq!(on(at), Some(Kept::Links), "{at}");
        }
        assert_eq!(on("172.17.0.1:53"), Some(Kept::Dns));
        assert_eq!(on("0.0.0.0:53"), Some(Kept::Dns));
        for at in ["127.0.0.1:4001", "0.0.0.0:4001", "10.0.0.1:4003"] {
            assert_eq!(on(at), Some(Kept::Listener), "{at}");
        }
        for at in [
            "10.0.0.1:53",
            "10.0.0.1:10001",
            "10.0.0.1:4001",
            "172.17.0.1:10256",
            "[::]:10001",
        ] {
            assert_eq!(on(at), None, "{at}");
        }
    }
}
