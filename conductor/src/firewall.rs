//! Closes the instances' ports to everybody who is no host of the cluster.
//!
//! A published port of Docker's passes the usual firewalls of a host. So the
//! agent keeps a chain of its own, `DOKKAA`, below Docker's DOCKER-USER and
//! below INPUT: who opens a connection to `--host-ip` within `--port-range`
//! comes from this machine, from a container on it, or from an address in a
//! host record, or is dropped. A service with a `host_port` is for the world.
//! What the rules are and what makes them so is decided in `rules`, of values;
//! `iptables` runs the program. The rules outlive the agent, as containers do.

mod iptables;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use conductor_core::Snapshot;
use manifests::HostName;
use manifests::manifest::Protocol;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::published::{Published, Seen};
pub use iptables::IptablesError;
use iptables::{Family, Iptables};
pub use rules::{CHAIN, Wanted};
use rules::{change, removal, rules, trial};

/// Time between two looks whether the rules still stand: a reload of another firewall takes them away silently.
pub const RECHECK: Duration = Duration::from_secs(30);
/// Changes that come this close together are one.
const GATHER: Duration = Duration::from_millis(100);

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
        "the instances' ports on {host_ip} can't be closed to all but the cluster's hosts (--instance-ports open accepts that)"
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
    /// The address that ports are published on.
    pub host_ip: IpAddr,
    /// The agent's range of ports.
    pub range: RangeInclusive<u16>,
    /// The interface of the network that containers are on.
    pub bridge: String,
    /// Where hosts and claims are read.
    pub published: Arc<Published>,
    /// Look now: the engine has come back, and may have set its own rules anew.
    pub again: Arc<Notify>,
    /// What is wrong, for people; none if nothing is.
    pub problem: watch::Sender<Option<String>>,
    /// Time between two looks.
    pub every: Duration,
}

/// Whether an agent may start: the instances' ports are to be open, the world does not get to the address, or the rules
/// can be set. That is tried with a chain that nothing leads to.
pub async fn check(instance_ports: InstancePorts, host_ip: IpAddr) -> Result<(), FirewallError> {
    if instance_ports == InstancePorts::Open || !is_global(host_ip) {
        return Ok(());
    }
    let tables = Iptables::of(host_ip);
    let (set, unset) = trial(host_ip);
    let tried = async {
        tables.load(&set).await?;
        tables.load(&unset).await
    };
    tried
        .await
        .map_err(|source| FirewallError::Close { host_ip, source })
}

/// Keeps the rules until it is stopped, and leaves them then. Where the ports are open to all, only removes what an
/// earlier start left.
pub async fn run(setup: Setup, stop: CancellationToken) {
    // Nothing from outside comes to a loopback address.
    if setup.instance_ports == InstancePorts::Open || setup.host_ip.is_loopback() {
        match remove().await {
            Ok(true) => {
                info!("the instances' ports are open to all: their firewall rules are removed");
            }
            Ok(false) => {}
            Err(error) => debug!(error = %crate::chain(&error), "no rules could be looked for"),
        }
        // Who follows the problems does so until the end.
        return stop.cancelled().await;
    }
    let mut revision = setup.published.revision.subscribe();
    let mut tick = tokio::time::interval(setup.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut keeper = Keeper::new(&setup);
    keeper.take_over().await;
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => false,
            () = setup.again.notified() => false,
            changed = revision.changed() => match changed {
                Ok(()) => true,
                Err(_) => return,
            },
        };
        if changed {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(GATHER) => revision.mark_unchanged(),
            }
        }
        if keeper.follow() || !changed {
            keeper.keep().await;
        }
    }
}

/// Removes all that an agent has set on this machine; whether there was anything.
pub async fn remove() -> Result<bool, FirewallError> {
    let found = remove_of(Family::V4).await.map_err(FirewallError::Remove)?;
    match remove_of(Family::V6).await {
        Ok(more) => Ok(found || more),
        // A kernel without IPv6 has no rules for it.
        Err(error) => {
            debug!(error = %crate::chain(&error), "no rules for IPv6 could be looked for");
            Ok(found)
        }
    }
}

async fn remove_of(family: Family) -> Result<bool, IptablesError> {
    let tables = Iptables::new(family);
    let shown = match tables.shown().await {
        // Without the program nothing was ever set.
        Err(IptablesError::Missing { .. }) => return Ok(false),
        shown => shown?,
    };
    match removal(&shown) {
        None => Ok(false),
        Some(text) => tables.load(&text).await.map(|()| true),
    }
}

/// What is kept between two looks.
struct Keeper<'a> {
    tables: Iptables,
    setup: &'a Setup,
    /// None before the first view of etcd: what an earlier start set stands until then.
    wanted: Option<Wanted>,
    /// Who was let in last, maybe by an earlier start.
    known: BTreeSet<IpAddr>,
    /// The chain as this machine's program prints it, which differs between versions.
    as_shown: Vec<String>,
    /// These rules were set once: where they are not now, somebody else took them away.
    is_set: bool,
}

impl<'a> Keeper<'a> {
    fn new(setup: &'a Setup) -> Self {
        Self {
            tables: Iptables::of(setup.host_ip),
            setup,
            wanted: None,
            known: BTreeSet::new(),
            as_shown: Vec::new(),
            is_set: false,
        }
    }

    /// Reads what is wanted now; whether that is something new.
    fn follow(&mut self) -> bool {
        let seen = self.setup.published.seen.load();
        let Some(seen) = seen.as_ref() else {
            return false;
        };
        let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        let now = wanted(self.setup, seen, &interfaces, &self.known);
        if self.wanted.as_ref() == Some(&now) {
            return false;
        }
        self.as_shown = rules(&now);
        self.known.clone_from(&now.peers);
        self.wanted = Some(now);
        self.is_set = false;
        true
    }

    async fn keep(&mut self) {
        let Some(wanted) = self.wanted.clone() else {
            return;
        };
        let problem = match self.set(&wanted).await {
            Ok(()) => None,
            Err(source) => {
                let host_ip = self.setup.host_ip;
                Some(crate::chain(&FirewallError::Close { host_ip, source }))
            }
        };
        self.setup.problem.send_if_modified(|before| {
            if *before == problem {
                return false;
            }
            match &problem {
                Some(problem) => warn!("{problem}"),
                None => {
                    info!("the instances' ports are closed again to all but the cluster's hosts");
                }
            }
            *before = problem;
            true
        });
    }

    /// Writes only where something else stands.
    async fn set(&mut self, wanted: &Wanted) -> Result<(), IptablesError> {
        let shown = self.tables.shown().await?;
        let Some(text) = change(&shown, wanted, &self.as_shown) else {
            self.is_set = true;
            return Ok(());
        };
        self.tables.load(&text).await?;
        self.as_shown = self.tables.shown().await?.chain.unwrap_or_default();
        if std::mem::replace(&mut self.is_set, true) {
            warn!(
                "somebody removed or changed the firewall rules of the instances' ports: they are set again"
            );
        } else {
            info!(
                ports = ?wanted.ports, on = %wanted.host_ip, peers = wanted.peers.len(), exempt = wanted.exempt.len(),
                "the instances' ports are closed to all but the cluster's hosts"
            );
        }
        Ok(())
    }

    /// What an earlier start left: those whom it knew stay known, and the rules of an address of the other family go.
    async fn take_over(&mut self) {
        match self.tables.shown().await {
            Ok(shown) => self.known = shown.peers(),
            Err(error) => {
                debug!(error = %crate::chain(&error), "what an earlier start left can't be read");
            }
        }
        if let Err(error) = remove_of(Family::of(self.setup.host_ip).other()).await {
            debug!(error = %crate::chain(&error), "no rules of the other family could be looked for");
        }
    }
}

/// What the rules are to say. From a view that is old or not believed nobody is shut out whom an earlier one let in.
fn wanted(setup: &Setup, seen: &Seen, interfaces: &str, known: &BTreeSet<IpAddr>) -> Wanted {
    let mut peers = addresses(&seen.snapshot);
    peers.retain(|peer| peer.is_ipv4() == setup.host_ip.is_ipv4());
    if seen.stale || seen.distrust.is_some() {
        peers.extend(known);
    }
    let mut bridges = docker_bridges(interfaces);
    bridges.insert(setup.bridge.clone());
    Wanted {
        host_ip: setup.host_ip,
        ports: setup.range.clone(),
        bridges,
        peers,
        exempt: host_ports(&seen.snapshot, &setup.host)
            .into_iter()
            .filter(|(port, _)| setup.range.contains(port))
            .collect(),
    }
}

/// The addresses in host records.
fn addresses(snapshot: &Snapshot) -> BTreeSet<IpAddr> {
    let of_records = snapshot.live().flat_map(|(_, record)| {
        let peer = record.peer.as_ref().map(|peer| peer.addr.ip());
        [Some(record.addr), peer]
    });
    of_records
        .flatten()
        .filter(|ip| !ip.is_unspecified())
        .collect()
}

/// The ports that manifests name for what this host has claimed.
fn host_ports(snapshot: &Snapshot, host: &HostName) -> BTreeSet<(u16, Protocol)> {
    let mut ports = BTreeSet::new();
    for (_, container) in &snapshot.containers {
        let claims = container.slots.values().filter_map(|s| s.claim.as_ref());
        for claim in claims.filter(|claim| claim.host == *host) {
            let services = container
                .manifest_of(claim.manifest_rev)
                .into_iter()
                .flat_map(|manifest| manifest.services.values());
            ports.extend(services.filter_map(|s| Some((s.host_port?, s.protocol))));
        }
    }
    ports
}

/// Docker's bridges among the interfaces, by the names that it gives them; `/proc/net/dev` lists interfaces.
fn docker_bridges(interfaces: &str) -> BTreeSet<String> {
    let names = interfaces
        .lines()
        .filter_map(|line| line.split_once(':').map(|(name, _)| name.trim()));
    let is_network = |name: &str| {
        name.strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()))
    };
    names
        .filter(|name| matches!(*name, "docker0" | "docker_gwbridge") || is_network(name))
        .map(ToOwned::to_owned)
        .collect()
}

/// Routable on the internet, as far as the address alone says.
pub fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            let benchmark = a == 198 && (b == 18 || b == 19);
            !(ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_documentation()
                || shared
                || benchmark)
        }
        IpAddr::V6(ip) => {
            // 2000::/3 without the documentation prefix.
            let [first, second, ..] = ip.segments();
            first & 0xe000 == 0x2000 && !(first == 0x2001 && second == 0x0db8)
        }
    }
}
