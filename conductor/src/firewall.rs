//! Closes the instances' ports to everybody who is no host of the cluster, and containers, DNS and links to everybody
//! who is not on this machine.
//!
//! A published port of Docker's passes the usual firewalls of a host. So the
//! agent keeps a chain of its own, `DOKKAA`, below Docker's DOCKER-USER and
//! below INPUT: who opens a connection to `--host-ip` within `--port-range`
//! comes from this machine, from a container on it, or from an address in a
//! host record, or is dropped. So is who routes past the published ports, to a
//! container's address or to the gateway. A service with a `host_port` is for
//! the world. What the rules are and what makes them so is decided in `rules`,
//! of values; `iptables` runs the program. The rules outlive the agent, as
//! containers do.

mod ahead;
mod iptables;
mod localnet;
mod rules;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use manifests::HostName;
use manifests::manifest::Protocol;
use model::Snapshot;
pub use model::address::is_global;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::published::{Published, Seen};
use engine::{Bridge, EngineFacts};
use iptables::Iptables;
pub use iptables::IptablesError;
pub use rules::CHAIN;
use rules::{Family, Wanted, change, removal, rules, trial};

/// Time between two looks whether the rules still stand: a reload of another firewall takes them away silently. One costs
/// 1.4 ms of a core with forty rules of others.
pub const RECHECK: Duration = Duration::from_secs(5);
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
    fn host_ip(&self) -> IpAddr {
        let gateway = || self.engine.borrow().bridge.gateway;
        self.host_ip.unwrap_or_else(gateway)
    }
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
    let mut revision = setup.published.revision.subscribe();
    let mut engine = setup.engine.clone();
    let mut tick = tokio::time::interval(setup.every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut keeper = Keeper::new(&setup);
    keeper.take_over().await;
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => false,
            changed = engine.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
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
            debug!(error = %model::error::chain(&error), "no rules for IPv6 could be looked for");
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
    setup: &'a Setup,
    tables: [Table; 2],
    /// Who was let in last, maybe by an earlier start.
    known: BTreeSet<IpAddr>,
}

/// The rules of one family.
struct Table {
    family: Family,
    tables: Iptables,
    /// None where there is nothing to close.
    wanted: Option<Wanted>,
    /// That is known: before the first view of etcd what an earlier start set stands.
    is_decided: bool,
    /// The chain as this machine's program prints it, which differs between versions.
    as_shown: Vec<String>,
    /// It was made so once: where it is not now, somebody else changed it.
    is_set: bool,
}

impl<'a> Keeper<'a> {
    fn new(setup: &'a Setup) -> Self {
        let table = |family| Table {
            family,
            tables: Iptables::new(family),
            wanted: None,
            is_decided: false,
            as_shown: Vec::new(),
            is_set: false,
        };
        Self {
            setup,
            tables: [Family::V4, Family::V6].map(table),
            known: BTreeSet::new(),
        }
    }

    /// Reads what is wanted now; whether that is something new.
    fn follow(&mut self) -> bool {
        let seen = self.setup.published.seen.load();
        let Some(seen) = seen.as_ref() else {
            return false;
        };
        if self.setup.instance_ports == InstancePorts::Open {
            return false;
        }
        let bridge = self.setup.engine.borrow().bridge.clone();
        let site = Site {
            interfaces: &fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default(),
            v6_addresses: &fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default(),
            bridge: &bridge,
        };
        let peers = peers(self.setup.host_ip(), seen, &self.known);
        let mut is_new = false;
        for table in &mut self.tables {
            let wanted = wanted(self.setup, seen, &site, table.family, &peers);
            is_new |= table.want(wanted);
        }
        self.known = peers;
        is_new
    }

    async fn keep(&mut self) {
        let host_ip = self.setup.host_ip();
        let mut problems = Vec::new();
        for table in &mut self.tables {
            match table.set().await {
                Ok(ahead) => problems.extend(ahead),
                Err(source) => {
                    problems.push(model::error::chain(&FirewallError::Close {
                        host_ip,
                        source,
                    }));
                }
            }
        }
        let bridge = self.setup.engine.borrow().bridge.interface.clone();
        let wanted = self.tables.iter().filter_map(|table| table.wanted.as_ref());
        let bridges = wanted.flat_map(|wanted| &wanted.bridges).chain([&bridge]);
        problems.extend(localnet::exposed(bridges.map(String::as_str)));
        self.setup.problems.send_if_modified(|before| {
            if *before == problems {
                return false;
            }
            for problem in problems.iter().filter(|one| !before.contains(one)) {
                warn!("{problem}");
            }
            for problem in before.iter().filter(|one| !problems.contains(one)) {
                info!(%problem, "no longer so");
            }
            *before = problems;
            true
        });
    }

    /// What an earlier start left: those whom it knew stay known. What is not wanted any more goes.
    async fn take_over(&mut self) {
        for table in &self.tables {
            match table.tables.shown().await {
                Ok(shown) => self.known.extend(shown.peers()),
                Err(error) => {
                    debug!(error = %model::error::chain(&error), "what an earlier start left can't be read");
                }
            }
        }
        if self.setup.instance_ports == InstancePorts::Open {
            match remove().await {
                Ok(true) => {
                    info!(
                        "the instances' ports are open to all: the agent's firewall rules are removed"
                    );
                }
                Ok(false) => {}
                Err(error) => {
                    debug!(error = %model::error::chain(&error), "no rules could be looked for")
                }
            }
        }
    }
}

impl Table {
    /// Whether that is something new.
    fn want(&mut self, wanted: Option<Wanted>) -> bool {
        if self.is_decided && self.wanted == wanted {
            return false;
        }
        self.is_decided = true;
        self.as_shown = wanted.as_ref().map(rules).unwrap_or_default();
        self.wanted = wanted;
        self.is_set = false;
        true
    }

    /// Writes only where something else stands; what comes before the rules and lets go what they close.
    async fn set(&mut self) -> Result<Option<String>, IptablesError> {
        let Some(wanted) = &self.wanted else {
            if self.is_decided && !self.is_set {
                self.is_set = true;
                if let Err(error) = remove_of(self.family).await {
                    // A kernel without IPv6 has no rules for it.
                    debug!(family = %self.family, error = %model::error::chain(&error), "no rules could be looked for");
                }
            }
            return Ok(None);
        };
        let mut shown = self.tables.shown().await?;
        if let Some(text) = change(&shown, wanted, &self.as_shown) {
            self.tables.load(&text).await?;
            shown = self.tables.shown().await?;
            self.as_shown = shown.chain.clone().unwrap_or_default();
            if self.is_set {
                warn!(
                    family = %self.family,
                    "the agent's firewall rules were removed or changed by somebody else, and are set again"
                );
            } else {
                let ports = wanted.published.as_ref();
                info!(
                    family = %self.family,
                    ports = ?ports.map(|ports| &ports.range), on = ?ports.map(|ports| ports.host_ip),
                    peers = ports.map(|ports| ports.peers.len()), exempt = ports.map(|ports| ports.exempt.len()),
                    bridge = wanted.closed,
                    "firewall rules are set"
                );
            }
        }
        self.is_set = true;
        Ok(ahead::ahead(&shown, wanted))
    }
}

/// What this machine shows of itself.
struct Site<'a> {
    /// `/proc/net/dev`.
    interfaces: &'a str,
    /// `/proc/net/if_inet6`.
    v6_addresses: &'a str,
    bridge: &'a Bridge,
}

/// Who may connect to instances' ports. From a view that is old or not believed nobody is shut out whom an earlier one
/// let in.
fn peers(host_ip: IpAddr, seen: &Seen, known: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let mut peers = addresses(&seen.snapshot);
    if seen.stale || seen.distrust.is_some() {
        peers.extend(known);
    }
    peers.retain(|peer| peer.is_ipv4() == host_ip.is_ipv4());
    peers
}

/// What the rules of a family are to say; none where there is nothing to close.
fn wanted(
    setup: &Setup,
    seen: &Seen,
    site: &Site<'_>,
    family: Family,
    peers: &BTreeSet<IpAddr>,
) -> Option<Wanted> {
    let bridge = site.bridge;
    let is_routed = match family {
        Family::V4 => bridge.routed.v4,
        Family::V6 => bridge.routed.v6 || !has_global_v6(site.v6_addresses, &bridge.interface),
    };
    let is_here = |ip: &IpAddr| Family::of(*ip) == family;
    let mut bridges = docker_bridges(site.interfaces);
    bridges.insert(bridge.interface.clone());
    let wanted = Wanted {
        family,
        bridges,
        closed: (!is_routed).then(|| bridge.interface.clone()),
        gateway: Some(bridge.gateway).filter(is_here),
        // Nothing comes to a loopback address from outside.
        published: Some(setup.host_ip())
            .filter(|ip| is_here(ip) && !ip.is_loopback())
            .map(|host_ip| rules::InstancePorts {
                host_ip,
                range: setup.range.clone(),
                peers: peers.clone(),
                exempt: host_ports(&seen.snapshot, &setup.host)
                    .into_iter()
                    .filter(|(port, _)| setup.range.contains(port))
                    .collect(),
            }),
    };
    let is_any = family == Family::V4
        || wanted.closed.is_some()
        || wanted.gateway.is_some()
        || wanted.published.is_some();
    is_any.then_some(wanted)
}

/// Whether others can route to the network behind this interface by IPv6; link-local addresses are never routed.
fn has_global_v6(if_inet6: &str, interface: &str) -> bool {
    if_inet6.lines().any(|line| {
        // Address, index, prefix length, scope, flags, name.
        let columns: Vec<&str> = line.split_whitespace().collect();
        matches!(columns.as_slice(), [_, _, _, "00", _, name] if *name == interface)
    })
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
