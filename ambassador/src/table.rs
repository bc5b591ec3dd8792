//! Resolution of a connection: source address and port to a service's endpoints.
//!
//! Looked up in two immutable tables that are swapped whole: the callers, which
//! are the containers of this host, and the agent's directory, shared with DNS.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use manifests::SlotId;
use manifests::manifest::Protocol;
use model::directory::{Caller, Callers, Directory, ServiceId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The tables of the ambassador.
#[derive(Debug)]
pub struct Tables {
    callers: ArcSwap<Callers>,
    awaited: ArcSwap<BTreeSet<u16>>,
    directory: Arc<ArcSwap<Directory>>,
    changed: watch::Sender<()>,
}

impl Tables {
    /// Tables without callers.
    pub fn new(directory: Arc<ArcSwap<Directory>>) -> Self {
        Self {
            callers: ArcSwap::default(),
            awaited: ArcSwap::default(),
            directory,
            changed: watch::Sender::new(()),
        }
    }

    /// Swaps the callers; held connections are resolved again.
    pub fn set_callers(&self, callers: Callers) {
        self.callers.store(Arc::new(callers));
        self.changed.send_replace(());
    }

    /// Swaps the link ports of containers that are made and may be started at any moment: a connection must not be refused
    /// because it is their first.
    pub fn set_awaited(&self, ports: BTreeSet<u16>) {
        self.awaited.store(Arc::new(ports));
        self.changed.send_replace(());
    }

    /// Swaps the callers, and the ports of those to come, whenever they change.
    pub async fn follow(
        self: Arc<Self>,
        mut callers: watch::Receiver<Arc<Callers>>,
        mut awaited: watch::Receiver<BTreeSet<u16>>,
        shutdown: CancellationToken,
    ) {
        self.set_callers(callers.borrow_and_update().as_ref().clone());
        self.set_awaited(awaited.borrow_and_update().clone());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = awaited.changed() => match changed {
                    Ok(()) => self.set_awaited(awaited.borrow_and_update().clone()),
                    Err(_) => return,
                },
                changed = callers.changed() => match changed {
                    Ok(()) => self.set_callers(callers.borrow_and_update().as_ref().clone()),
                    Err(_) => return,
                },
            }
        }
    }

    /// Ports that a caller has a link on, or will have.
    pub fn ports(&self) -> BTreeSet<u16> {
        let mut ports = ports(&self.callers.load());
        ports.extend(self.awaited.load().iter());
        ports
    }

    /// The current callers.
    pub fn callers(&self) -> Arc<Callers> {
        self.callers.load_full()
    }

    /// Notifications of swaps of the callers.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Resolves a connection with the current tables.
    pub fn resolve(&self, caller: IpAddr, port: u16) -> Result<Route, Refusal> {
        resolve(&self.callers.load(), &self.directory.load(), caller, port)
    }
}

/// A resolved connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The caller.
    pub slot: SlotId,
    /// The service.
    pub service: ServiceId,
    /// Its endpoints by container and slot; at least one.
    pub targets: Vec<SocketAddr>,
}

/// A refused connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The caller, if known.
    pub slot: Option<SlotId>,
    /// The service, if known.
    pub service: Option<ServiceId>,
    /// The reason.
    pub reason: Reason,
}

/// Reason of a refused connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No container of this host has the source address.
    UnknownCaller,
    /// The container has no link on this port.
    NoLink,
    /// The service has no endpoints.
    NotOffered,
    /// The service is UDP.
    NotTcp,
    /// No endpoint is ready.
    NotReady {
        /// Number of endpoints.
        known: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCaller => f.write_str("no container of this host has this address"),
            Self::NoLink => f.write_str("the container has no link on this port"),
            Self::NotOffered => f.write_str("the service has no instances"),
            Self::NotTcp => f.write_str("the service is UDP; links are TCP only"),
            Self::NotReady { known: 1 } => f.write_str("its only instance is not ready"),
            Self::NotReady { known } => write!(f, "none of its {known} instances is ready"),
        }
    }
}

/// Resolves a connection of a caller to a link port.
pub fn resolve(
    callers: &Callers,
    directory: &Directory,
    caller: IpAddr,
    port: u16,
) -> Result<Route, Refusal> {
    let Some(Caller { slot, links }) = callers.get(&caller.to_canonical()) else {
        return Err(Refusal {
            slot: None,
            service: None,
            reason: Reason::UnknownCaller,
        });
    };
    let Some((_, service)) = links.iter().find(|(link, _)| *link == port) else {
        return Err(Refusal {
            slot: Some(slot.clone()),
            service: None,
            reason: Reason::NoLink,
        });
    };
    let targets: Vec<SocketAddr> = directory
        .serving(service)
        .into_iter()
        .filter(|endpoint| endpoint.protocol == Protocol::Tcp)
        .map(|endpoint| SocketAddr::new(endpoint.addr, endpoint.port))
        .collect();
    if targets.is_empty() {
        return Err(Refusal {
            slot: Some(slot.clone()),
            service: Some(service.clone()),
            reason: no_endpoint(directory, service),
        });
    }
    Ok(Route {
        slot: slot.clone(),
        service: service.clone(),
        targets,
    })
}

fn no_endpoint(directory: &Directory, service: &ServiceId) -> Reason {
    let Some(endpoints) = directory.endpoints(service).filter(|all| !all.is_empty()) else {
        return Reason::NotOffered;
    };
    let known = endpoints
        .values()
        .filter(|endpoint| endpoint.protocol == Protocol::Tcp)
        .count();
    match known {
        0 => Reason::NotTcp,
        known => Reason::NotReady { known },
    }
}

/// Ports that a caller has a link on.
fn ports(callers: &Callers) -> BTreeSet<u16> {
    callers
        .values()
        .flat_map(|caller| caller.links.iter().map(|(port, _)| *port))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{Cluster, caller, service};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn one_port_is_another_service_for_each_caller() {
        let mut cluster = Cluster::default();
        cluster.ready("shop/web/0", "web", "10.0.0.1:20000");
        cluster.ready("shop/web/1", "web", "10.0.0.2:20000");
        cluster.ready("blog/db/0", "db", "10.0.0.2:20001");
        let directory = cluster.directory();
        let callers = Callers::from([
            caller("172.17.0.2", "shop/crawler/0", &["shop/web"]),
            caller("172.17.0.3", "blog/front/0", &["blog/db", "shop/web"]),
        ]);

        let route = resolve(&callers, &directory, ip("172.17.0.2"), 10_000).expect("route");
        assert_eq!(route.service, service("shop/web"));
        assert_eq!(
            route.targets,
            ["10.0.0.1:20000", "10.0.0.2:20000"].map(|t| t.parse().expect("address"))
        );
        let route = resolve(&callers, &directory, ip("172.17.0.3"), 10_000).expect("route");
        assert_eq!(route.service, service("blog/db"));
        let route = resolve(&callers, &directory, ip("::ffff:172.17.0.3"), 10_001).expect("route");
        assert_eq!(route.service, service("shop/web"));
        assert_eq!(ports(&callers), BTreeSet::from([10_000, 10_001]));
    }

    #[test]
    fn every_refusal_has_its_reason() {
        let mut cluster = Cluster::default();
        cluster.state("shop/web/0", "web", "10.0.0.1:20000", "unready");
        cluster.state("shop/web/1", "web", "10.0.0.1:20001", "leaving");
        cluster.state("shop/one/0", "one", "10.0.0.1:20002", "unready");
        let directory = cluster.directory();
        let callers = Callers::from([caller(
            "172.17.0.2",
            "shop/crawler/0",
            &["shop/web", "shop/gone", "shop/one"],
        )]);
        let reason = |from: &str, port| {
            resolve(&callers, &directory, ip(from), port)
                .expect_err("refused")
                .reason
        };
        assert_eq!(reason("172.17.0.9", 10_000), Reason::UnknownCaller);
        assert_eq!(reason("172.17.0.2", 10_009), Reason::NoLink);
        assert_eq!(reason("172.17.0.2", 10_000), Reason::NotReady { known: 2 });
        assert_eq!(reason("172.17.0.2", 10_001), Reason::NotOffered);
        assert_eq!(
            reason("172.17.0.2", 10_002).to_string(),
            "its only instance is not ready"
        );
    }
}
