//! Who calls and what that means: source address and port to a service's endpoints.
//!
//! Pure lookups in two immutable tables. The callers are the containers of
//! this host, few, and swapped whole; the directory is the agent's, shared
//! with DNS. Never blocks a reader: a lookup sees one state of each table.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use manifests::SlotId;
use manifests::manifest::Protocol;
use model::directory::{Caller, Callers, Directory, ServiceId};
use tokio::sync::watch;

/// The tables that connections are decided by.
#[derive(Debug)]
pub struct Tables {
    callers: ArcSwap<Callers>,
    directory: Arc<ArcSwap<Directory>>,
    changed: watch::Sender<()>,
}

impl Tables {
    /// No callers yet, and the agent's directory.
    pub fn new(directory: Arc<ArcSwap<Directory>>) -> Self {
        Self {
            callers: ArcSwap::default(),
            directory,
            changed: watch::Sender::new(()),
        }
    }

    /// Swaps the callers; who waits to be known is looked up again.
    pub fn set_callers(&self, callers: Callers) {
        self.callers.store(Arc::new(callers));
        self.changed.send_replace(());
    }

    /// The callers as they are now.
    pub fn callers(&self) -> Arc<Callers> {
        self.callers.load_full()
    }

    /// Tells of each swap of the callers from now on.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Looks a connection up in the tables as they are now.
    pub fn resolve(&self, caller: IpAddr, port: u16) -> Result<Route, Refusal> {
        resolve(&self.callers.load(), &self.directory.load(), caller, port)
    }
}

/// Where a connection may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Who calls.
    pub slot: SlotId,
    /// What it calls.
    pub service: ServiceId,
    /// Where that is, by container and slot; at least one.
    pub targets: Vec<SocketAddr>,
}

/// Why a connection goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who calls, if known.
    pub slot: Option<SlotId>,
    /// What it calls, if known.
    pub service: Option<ServiceId>,
    /// Why it is refused.
    pub reason: Reason,
}

/// Why a connection goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The source address is no container's of this cluster.
    UnknownCaller,
    /// The container has no link on this port.
    NoLink,
    /// No instance of the service is known.
    NotOffered,
    /// Links carry TCP, and the service is UDP.
    NotTcp,
    /// Instances are known, and none of them is ready.
    NotReady {
        /// How many are known.
        known: usize,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCaller => f.write_str("no container of this host has this address"),
            Self::NoLink => f.write_str("the container has no link on this port"),
            Self::NotOffered => f.write_str("no instance of the service runs"),
            Self::NotTcp => f.write_str("the service is UDP, and links carry TCP"),
            Self::NotReady { known: 1 } => f.write_str("its only instance is not ready"),
            Self::NotReady { known } => write!(f, "none of its {known} instances is ready"),
        }
    }
}

/// Looks a connection up: who calls, what it means by this port, and where that is.
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
            reason: nowhere(directory, service),
        });
    }
    Ok(Route {
        slot: slot.clone(),
        service: service.clone(),
        targets,
    })
}

fn nowhere(directory: &Directory, service: &ServiceId) -> Reason {
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

/// Every port that some caller has a link on.
pub fn ports(callers: &Callers) -> BTreeSet<u16> {
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
    fn one_port_means_what_the_caller_means_by_it() {
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
