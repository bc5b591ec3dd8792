//! The agent's configuration: its flags, checked against each other and the machine.
//!
//! Pure but for `Machine::look` and the files of etcd. What is wrong is one line that names the flag.

mod error;
mod etcd;
mod machine;
mod other_names;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use conductor::firewall::{InstancePorts, is_global};
use conductor::ports::PortRange;
use manifests::{HostName, placement};
use model::disk::DiskLimits;

use crate::args::AgentArgs;
pub(crate) use crate::args::addresses::DNS_PORT;
use crate::args::addresses::{Listen, PEER_PORT};
use crate::args::settings::List;
pub(crate) use crate::args::settings::LogFormat;
pub(crate) use error::ConfigError;
pub(crate) use etcd::EtcdConfig;
pub(crate) use machine::Machine;
pub(crate) use other_names::OtherNames;

/// All that the agent needs to know before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentConfig {
    pub(crate) etcd: EtcdConfig,
    /// The engine's socket.
    pub(crate) docker: PathBuf,
    /// Directory of the Docker client's `config.json`.
    pub(crate) docker_config: PathBuf,
    /// Docker network of the containers.
    pub(crate) bridge: String,
    /// Published ports.
    pub(crate) port_range: PortRange,
    /// Who may connect to them.
    pub(crate) instance_ports: InstancePorts,
    /// Where the other hosts reach this one.
    pub(crate) host_ip: IpAddr,
    /// Name in the cluster.
    pub(crate) name: HostName,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) state_dir: PathBuf,
    /// The zone, in lower case, without the last dot.
    pub(crate) domain: String,
    /// Its records are written to `/skydns`, too.
    pub(crate) skydns_publish: bool,
    /// The API; empty is off.
    pub(crate) keys_listen: Vec<SocketAddr>,
    pub(crate) dns_listen: DnsListen,
    pub(crate) other_names: OtherNames,
    /// The API for other agents; empty is off.
    pub(crate) peer_listen: Vec<SocketAddr>,
    /// Metrics and health; empty is off.
    pub(crate) metrics_listen: Vec<SocketAddr>,
    /// Names by which the API may be called.
    pub(crate) allow_hosts: Vec<String>,
    /// The API may listen on other addresses than loopback.
    pub(crate) insecure: bool,
    /// Time to live of the host's record.
    pub(crate) lease_ttl: Duration,
    /// Time that slots stay after the agent was stopped.
    pub(crate) restart_grace: Duration,
    pub(crate) disk_limits: DiskLimits,
    pub(crate) log_format: LogFormat,
    pub(crate) log_filter: String,
    /// `host_ip` is the address of the bridge, whatever that is.
    pub(crate) host_ip_is_gateway: bool,
    /// etcd is this machine's own: an empty one is a new cluster's, whatever else the engine runs.
    pub(crate) own_etcd: bool,
    /// Logged at each start.
    pub(crate) warnings: Vec<String>,
}

/// Where DNS listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DnsListen {
    /// The bridge's gateway, port 53: known when the engine was asked.
    Gateway,
    /// Here; empty is off.
    At(Vec<SocketAddr>),
}

/// Configuration of `dokkaa agent`.
pub(crate) fn agent(args: AgentArgs, machine: &Machine) -> Result<AgentConfig, ConfigError> {
    let AgentArgs {
        etcd,
        docker,
        host,
        listeners,
        other_names,
        log,
    } = args;
    let host_ip = host.host_ip.or(machine.route_source).ok_or_else(|| {
        ConfigError::new(
            "--host-ip",
            "this machine has no default route to take an address from; name the address at which the other hosts reach it",
        )
    })?;
    let name = match host.name {
        Some(name) => name,
        None => machine
            .hostname
            .to_ascii_lowercase()
            .parse()
            .map_err(|e| ConfigError::new("--name", format!("the machine's host name {e}")))?,
    };
    let (lease_ttl, restart_grace) = (etcd.lease_ttl, etcd.restart_grace);
    let mut warnings = Vec::new();
    let etcd = EtcdConfig::new(etcd, &mut warnings)?;

    let range = &docker.port_range;
    if let Some(ephemeral) = machine.ephemeral.as_ref().filter(|e| range.overlaps(e)) {
        warnings.push(format!(
            "--port-range {range} overlaps the kernel's ephemeral ports {}-{} (net.ipv4.ip_local_port_range): a port may be taken by an outgoing connection",
            ephemeral.start(), ephemeral.end()
        ));
    }
    if docker.instance_ports == InstancePorts::Open && is_global(host_ip) {
        warnings.push(format!(
            "--instance-ports open: --host-ip {host_ip} is reachable from the internet, and so are the published ports {range} of services"
        ));
    }
    if let Some(open) = beyond_loopback(&listeners.keys_listen) {
        if !listeners.insecure {
            return Err(ConfigError::new(
                "--keys-listen",
                format!(
                    "whoever reaches {open} is root on every host; listen on 127.0.0.1 and use an ssh tunnel, or add --insecure"
                ),
            ));
        }
        warnings.push(format!(
            "--insecure: whoever reaches {open} is root on every host"
        ));
    }
    if let Some(open) = beyond_loopback(&listeners.metrics_listen) {
        warnings.push(format!(
            "--metrics-listen: whoever reaches {open} reads the names and states of all apps and their numbers of connections, without authentication"
        ));
    }
    let peer_listen = listeners.peer_listen.map(|listen| listen.0);
    let dns_listen = listeners
        .dns_listen
        .map_or(DnsListen::Gateway, |listen| DnsListen::At(listen.0));

    Ok(AgentConfig {
        etcd,
        docker: docker.socket,
        docker_config: docker.docker_config,
        bridge: docker.bridge,
        port_range: docker.port_range,
        instance_ports: docker.instance_ports,
        host_ip,
        name,
        labels: labels(host.labels)?,
        state_dir: host.state_dir,
        other_names: OtherNames::new(other_names, &listeners.domain, &dns_listen)?,
        domain: listeners.domain,
        skydns_publish: listeners.skydns_publish,
        keys_listen: listeners.keys_listen.0,
        dns_listen,
        peer_listen: peer_listen.unwrap_or_else(|| vec![SocketAddr::new(host_ip, PEER_PORT)]),
        metrics_listen: listeners.metrics_listen.0,
        allow_hosts: flat(listeners.allow_hosts).collect(),
        insecure: listeners.insecure,
        lease_ttl,
        restart_grace,
        disk_limits: docker.disk_limits,
        log_format: log.log_format,
        log_filter: log.log_filter,
        host_ip_is_gateway: false,
        own_etcd: false,
        warnings,
    })
}

/// Configuration of `dokkaa up`: etcd is its own and not known before it runs. Without `--host-ip`, the host's address
/// is the bridge's gateway: reachable from this machine and its containers only.
pub(crate) fn up(args: AgentArgs, machine: &Machine) -> Result<AgentConfig, ConfigError> {
    let machine = Machine {
        route_source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ..machine.clone()
    };
    Ok(AgentConfig {
        host_ip_is_gateway: args.host.host_ip.is_none(),
        own_etcd: true,
        ..agent(args, &machine)?
    })
}

fn beyond_loopback(listen: &Listen) -> Option<&SocketAddr> {
    listen.0.iter().find(|at| !at.ip().is_loopback())
}

fn labels(given: Vec<List<(String, String)>>) -> Result<BTreeMap<String, String>, ConfigError> {
    let wrong = |what: String| Err(ConfigError::new("--label", what));
    let mut found = BTreeMap::new();
    for (key, value) in flat(given) {
        if found.contains_key(&key) {
            return wrong(format!("`{key}` is listed twice"));
        }
        found.insert(key, value);
    }
    if found.len() > placement::MAX_LABELS {
        return wrong(format!(
            "{} labels; expected at most {}",
            found.len(),
            placement::MAX_LABELS
        ));
    }
    Ok(found)
}

fn flat<T>(lists: Vec<List<T>>) -> impl Iterator<Item = T> {
    lists.into_iter().flat_map(|list| list.0)
}

#[cfg(test)]
mod tests;
