//! Gives an instance's services their ports, and keeps the order of use on disk.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, io};

use manifests::Manifest;
use manifests::env::{FIRST_LINK_PORT, LAST_LINK_PORT};
use manifests::manifest::Protocol;
use model::observed::{ContainerPort, PublishedPorts, Surroundings};

use crate::ports::{PortPool, PortRange, try_bind};
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
    /// No process can have a port there.
    #[error("port {at} can't be had on this host: {why}")]
    Unusable {
        /// What was asked for.
        at: SocketAddr,
        /// Why, for people.
        why: String,
    },
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

impl NoPort {
    /// What a failed bind(2) of a port that a service must have says.
    fn by(at: SocketAddr, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::HostPortTaken(at),
            io::ErrorKind::AddrNotAvailable => Self::Unusable {
                at,
                why: format!("{} is not an address of this host", at.ip()),
            },
            _ => Self::Unusable {
                at,
                why: error.to_string(),
            },
        }
    }
}

/// Who has one can't have the other, too.
fn meet(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let same = one.ip() == other.ip() || any && one.is_ipv4() == other.is_ipv4();
    same && one.port() == other.port()
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
                    if !self.is_ours(at, service.protocol) {
                        let bound = try_bind(at, service.protocol);
                        bound.map_err(|error| NoPort::by(at, &error))?;
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
        let mut unusable = None;
        let ports = {
            let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
            pool.take(&protocols, &in_use, now(), |port, protocol| {
                let at = SocketAddr::new(host_ip, port);
                let no_port = try_bind(at, protocol).map_err(|error| NoPort::by(at, &error));
                let is_free = no_port.is_ok();
                unusable = unusable.take().or(no_port
                    .err()
                    .filter(|why| matches!(why, NoPort::Unusable { .. })));
                is_free
            })
        };
        let used_up = || unusable.unwrap_or(NoPort::RangeIsUsedUp(self.range.clone()));
        let ports = ports.ok_or_else(used_up)?;
        for (inside, port) in chosen.into_iter().zip(ports) {
            given.insert(inside, SocketAddr::new(host_ip, port));
        }
        self.save();
        Ok(given)
    }

    /// A container of ours publishes this, running or not, be it at another address that meets it.
    fn is_ours(&self, at: SocketAddr, protocol: Protocol) -> bool {
        let observed = self.published.observed.load();
        let mut ports = observed.containers.values().flat_map(|c| &c.ports);
        ports.any(|(inside, port)| inside.protocol == protocol && meet(*port, at))
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
    use std::net::TcpListener;

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

    #[test]
    fn addresses_meet_that_one_process_can_have() {
        let meet = |one: &str, other: &str| {
            let at = |text: &str| text.parse().expect("an address");
            meet(at(one), at(other))
        };
        for other in ["10.0.0.1:80", "0.0.0.0:80"] {
            assert!(meet("10.0.0.1:80", other) && meet(other, "10.0.0.1:80"));
        }
        for other in ["10.0.0.2:80", "10.0.0.1:81", "0.0.0.0:81", "[::]:80"] {
            assert!(!meet("10.0.0.1:80", other), "{other}");
        }
    }

    #[test]
    fn an_address_that_is_not_this_hosts_is_not_said_to_be_held() {
        // TEST-NET-1, RFC 5737
        let at: SocketAddr = "192.0.2.1:80".parse().expect("an address");
        let error = try_bind(at, Protocol::Tcp).expect_err("nobody has it");
        assert_eq!(
            NoPort::by(at, &error).to_string(),
            "port 192.0.2.1:80 can't be had on this host: 192.0.2.1 is not an address of this host"
        );
        let here = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = here.local_addr().expect("an address");
        let error = try_bind(at, Protocol::Tcp).expect_err("it is held");
        assert_eq!(NoPort::by(at, &error), NoPort::HostPortTaken(at));
    }
}
