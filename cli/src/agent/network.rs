//! Addresses that depend on the engine's network, and the parts that follow when they change.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use engine::{Bridge, EngineFacts, EngineInfo};
use model::observed::Surroundings;
use model::records::Capacity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{AgentConfig, DNS_PORT, DnsListen, OtherNames};

/// How long the start waits for DNS to be bound; it is tried again behind that.
const DNS_BINDS: Duration = Duration::from_millis(300);

/// Address that ports are published on.
pub(super) fn host_ip(config: &AgentConfig, bridge: &Bridge) -> IpAddr {
    if config.host_ip_is_gateway {
        bridge.gateway
    } else {
        config.host_ip
    }
}

/// Surroundings of containers that are made on this network.
pub(super) fn surroundings(config: &AgentConfig, bridge: &Bridge) -> Surroundings {
    Surroundings {
        host_ip: host_ip(config, bridge),
        gateway: bridge.gateway,
        dns: dns_addresses(config, bridge.gateway)
            .iter()
            .find(|at| at.port() == DNS_PORT)
            .map(SocketAddr::ip),
        domain: config.domain.clone(),
        network: config.bridge.clone(),
    }
}

pub(super) fn capacity(info: &EngineInfo) -> Capacity {
    Capacity {
        cpu_millis: u64::from(info.cpus) * 1_000,
        memory: info.memory,
    }
}

/// Parts that depend on the engine's network.
pub(super) struct NetworkFollower {
    pub(super) config: AgentConfig,
    pub(super) names: dns::Handle,
    pub(super) links: Arc<ambassador::Handle>,
    pub(super) host: Arc<store::host::Host>,
    pub(super) surround: watch::Sender<Surroundings>,
}

impl NetworkFollower {
    /// Moves them when a restart of the engine has changed its network. Listeners first: containers are made for them.
    pub(super) async fn follow(
        self,
        mut facts: watch::Receiver<EngineFacts>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = facts.changed() => if changed.is_err() { return },
            }
            let EngineFacts {
                info,
                bridge,
                subnets,
            } = facts.borrow_and_update().clone();
            self.names
                .listen_at(dns_addresses(&self.config, bridge.gateway));
            self.names
                .set_bridges(dns_clients(&bridge), other_dns_clients(&subnets));
            self.links.listen_at(bridge.gateway);
            let now = surroundings(&self.config, &bridge);
            self.host.update_record(|record| {
                record.addr = now.host_ip;
                record.capacity = capacity(&info);
                record.docker = Some(info.docker);
            });
            self.surround.send_replace(now);
        }
    }
}

/// The network that this host's containers are made in.
pub(super) fn dns_clients(bridge: &Bridge) -> Vec<dns::Network> {
    let subnet = bridge.subnet.as_deref();
    subnet
        .and_then(|subnet| subnet.parse().ok())
        .into_iter()
        .collect()
}

/// Networks of the engine's other containers, for which names outside the zone are forwarded, too.
pub(super) fn other_dns_clients(subnets: &BTreeSet<String>) -> Vec<dns::Network> {
    let parsed = subnets.iter().filter_map(|subnet| subnet.parse().ok());
    parsed.collect()
}

/// What DNS does with names outside the zone.
pub(super) fn forwarding(names: &OtherNames) -> Result<dns::Forwarding, dns::DomainError> {
    let stubs = names.stubs.iter();
    Ok(dns::Forwarding {
        files: dns::Files::default(),
        upstreams: names.upstreams.clone(),
        stubs: stubs
            .map(|(zone, to)| dns::Stub::new(zone, to.clone()))
            .collect::<Result<_, _>>()?,
    })
}

/// Addresses that DNS has bound, or those that it will try again.
pub(super) async fn dns_bound(
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
    wanted: &[SocketAddr],
) -> Vec<SocketAddr> {
    let all = addresses.wait_for(|bound| bound.len() >= wanted.len());
    match tokio::time::timeout(DNS_BINDS, all).await {
        Ok(Ok(bound)) => bound.clone(),
        _ => wanted.to_vec(),
    }
}

pub(super) fn dns_addresses(config: &AgentConfig, gateway: IpAddr) -> Vec<SocketAddr> {
    match &config.dns_listen {
        DnsListen::Gateway => vec![SocketAddr::new(gateway, DNS_PORT)],
        DnsListen::At(addresses) => addresses.clone(),
    }
}
