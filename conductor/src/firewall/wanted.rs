//! Derives the rules' values from the view of etcd, the engine's network and the interfaces. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use engine::Bridge;
use manifests::HostName;
use manifests::manifest::Protocol;
use model::Snapshot;

use super::rules::{self, Family, Wanted};
use super::setup::Setup;
use crate::published::Seen;

/// Network of this machine.
pub(super) struct Site<'a> {
    /// `/proc/net/dev`.
    pub(super) interfaces: &'a str,
    /// `/proc/net/if_inet6`.
    pub(super) v6_addresses: &'a str,
    pub(super) bridge: &'a Bridge,
}

/// Who may connect to instances' ports. A stale or distrusted view only adds peers, it never removes one.
pub(super) fn peers(host_ip: IpAddr, seen: &Seen, known: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let mut peers = addresses(&seen.snapshot);
    if seen.stale || seen.distrust.is_some() {
        peers.extend(known);
    }
    peers.retain(|peer| peer.is_ipv4() == host_ip.is_ipv4());
    peers
}

/// Content of the rules of a family; none where there is nothing to close.
pub(super) fn wanted(
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
    let manifests = snapshot
        .known(snapshot.claimed_by(host))
        .filter_map(|(_, container, slot)| container.manifest_of(slot.claim.as_ref()?.version));
    let services = manifests.flat_map(|manifest| manifest.services.values());
    services
        .filter_map(|service| Some((service.host_port?, service.protocol)))
        .collect()
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
