//! `agent`, and what `up` shares with it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use conductor::firewall::InstancePorts;
use conductor::ports::PortRange;
use manifests::HostName;
use model::disk::DiskLimits;

use super::addresses::{
    DNS_PORT, Endpoints, KEYS_PORT, Listen, METRICS_PORT, PEER_PORT, docker_socket, endpoints,
    host_ip, listen, networks, resolvers, stubs,
};
use super::settings::{
    EtcdUser, List, LogFormat, disk_limits, domain, etcd_user, host_name, instance_ports, labels,
    lease_ttl, names, port_range, truth,
};
use super::values::duration;

/// Where the agent keeps its state.
pub(crate) const STATE_DIR: &str = "/var/lib/dokkaa";
/// Where Docker listens.
pub(super) const DOCKER_HOST: &str = "unix:///var/run/docker.sock";

pub(super) const EXAMPLES: &str = "Examples:
  dokkaa agent --etcd 10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
      --etcd-ca ca.pem --etcd-cert host.pem --etcd-key host.key
  ETCD_ADDR=127.0.0.1:2379 HOST_IP=10.0.0.1 dokkaa agent
  dokkaa agent --dns-listen off --keys-listen 127.0.0.1:0

The --*-listen flags take a list of ip:port separated by commas (port 0 for any
free port, which is logged), or off. A flag overrides its variable.

SIGTERM stops the agent, not its containers; until it is back, links and DNS of
this host are down. Its slots wait for --restart-grace; then other hosts take
them over, while the containers keep running unattended. To remove a host from
the cluster: dokkaa leave.

Docker publishes ports past the host's firewall, so the agent closes
--port-range on --host-ip itself with the iptables chain DOKKAA: connections
from other machines than this one and the hosts of the cluster are dropped, and
so is traffic that is routed to the bridge, to containers, DNS or links. For
public services, use host_port in the manifest; it listens at --host-ip unless
bind names another address, such as 0.0.0.0. --instance-ports open removes these
rules.

DNS answers names of --domain to whoever reaches it, and forwards all others for
this host and its containers. For the names of a company's own resolver:
  dokkaa agent --dns-stub corp.example=10.0.0.2,10.in-addr.arpa=10.0.0.2

Hosts need --peer-listen, --port-range and etcd of each other, and nothing has
to be open to the internet. From a laptop: ssh -L 4001:127.0.0.1:4001 <host>.";

/// Flags of the agent; `config` checks them against each other and the machine.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentArgs {
    #[command(flatten, next_help_heading = "etcd")]
    pub(crate) etcd: EtcdArgs,
    #[command(flatten, next_help_heading = "Docker")]
    pub(crate) docker: DockerArgs,
    #[command(flatten, next_help_heading = "This host")]
    pub(crate) host: ThisHostArgs,
    #[command(flatten, next_help_heading = "Listeners")]
    pub(crate) listeners: ListenerArgs,
    #[command(flatten, next_help_heading = "Names outside the zone")]
    pub(crate) other_names: OtherNamesArgs,
    #[command(flatten, next_help_heading = "Log")]
    pub(crate) log: LogArgs,
}

/// etcd, and the leases there.
#[derive(Debug, Clone, Args)]
pub(crate) struct EtcdArgs {
    /// Endpoints: host:port or URLs, separated by commas; https with certificates
    #[arg(
        id = "etcd",
        long = "etcd",
        env = "ETCD_ADDR",
        value_name = "LIST",
        default_value = "127.0.0.1:2379",
        value_parser = endpoints
    )]
    pub(crate) endpoints: Endpoints,
    /// CA certificate of etcd, PEM; turns TLS on
    #[arg(long, env = "DOKKAA_ETCD_CA", value_name = "FILE")]
    pub(crate) etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd, PEM
    #[arg(
        long,
        env = "DOKKAA_ETCD_CERT",
        value_name = "FILE",
        requires = "etcd_key"
    )]
    pub(crate) etcd_cert: Option<PathBuf>,
    /// Key of the client certificate, PEM
    #[arg(
        long,
        env = "DOKKAA_ETCD_KEY",
        value_name = "FILE",
        requires = "etcd_cert"
    )]
    pub(crate) etcd_key: Option<PathBuf>,
    /// File with name:password of the etcd user; should be readable by root only
    #[arg(
        long,
        env = "DOKKAA_ETCD_USER_FILE",
        value_name = "FILE",
        conflicts_with = "etcd_user"
    )]
    pub(crate) etcd_user_file: Option<PathBuf>,
    /// Name and password of the etcd user; `ps` shows them to every user of the host
    #[arg(
        long,
        env = "DOKKAA_ETCD_USER",
        hide_env_values = true,
        value_name = "NAME:PASSWORD",
        value_parser = etcd_user
    )]
    pub(crate) etcd_user: Option<EtcdUser>,
    /// The password is an argument of the process.
    #[arg(skip)]
    pub(crate) is_user_visible: bool,
    /// Time after which a silent host counts as lost, at least 5s
    #[arg(
        long,
        env = "DOKKAA_LEASE_TTL",
        value_name = "DURATION",
        default_value = "6s",
        value_parser = lease_ttl
    )]
    pub(crate) lease_ttl: Duration,
    /// Time that the slots of a stopped agent wait for it before other hosts take them over
    #[arg(
        long,
        env = "DOKKAA_RESTART_GRACE",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = duration
    )]
    pub(crate) restart_grace: Duration,
}

/// The engine and what it publishes.
#[derive(Debug, Clone, Args)]
pub(crate) struct DockerArgs {
    /// Docker Engine of this machine
    #[arg(
        id = "docker",
        long = "docker",
        env = "DOCKER_HOST",
        value_name = "URL",
        default_value = DOCKER_HOST,
        value_parser = docker_socket
    )]
    pub(crate) socket: PathBuf,
    /// Directory of the Docker client's config.json, with the registry logins
    #[arg(
        long,
        env = "DOKKAA_DOCKER_CONFIG",
        value_name = "DIR",
        default_value = "/root/.docker"
    )]
    pub(crate) docker_config: PathBuf,
    /// Docker network of the containers; DNS and links listen on its gateway
    #[arg(
        long,
        env = "DOKKAA_BRIDGE",
        value_name = "NETWORK",
        default_value = "bridge"
    )]
    pub(crate) bridge: String,
    /// Ports on --host-ip at which services are published
    #[arg(
        long,
        env = "DOKKAA_PORT_RANGE",
        value_name = "FIRST-LAST",
        default_value_t = PortRange::DEFAULT,
        value_parser = port_range
    )]
    pub(crate) port_range: PortRange,
    /// Who may connect to these ports: peers (this machine and the hosts of the cluster, by iptables rules) or open
    /// (everybody)
    #[arg(
        long,
        env = "DOKKAA_INSTANCE_PORTS",
        value_name = "peers|open",
        default_value = "peers",
        value_parser = instance_ports
    )]
    pub(crate) instance_ports: InstancePorts,
    /// Usage of Docker's disk from which on unused images that the agent pulled are removed, and from which on this
    /// host gets no new containers
    #[arg(
        long,
        env = "DOKKAA_DISK_LIMITS",
        value_name = "PERCENT,PERCENT",
        default_value = "85,95",
        value_parser = disk_limits
    )]
    pub(crate) disk_limits: DiskLimits,
}

/// Address, name and state of the host.
#[derive(Debug, Clone, Args)]
pub(crate) struct ThisHostArgs {
    /// Address at which other hosts reach this one [default: that of the default route]
    #[arg(long, env = "HOST_IP", value_name = "IP", value_parser = host_ip)]
    pub(crate) host_ip: Option<IpAddr>,
    /// Name in the cluster [default: the machine's host name]
    #[arg(long, env = "DOKKAA_NAME", value_name = "NAME", value_parser = host_name)]
    pub(crate) name: Option<HostName>,
    /// Label; repeated, or separated by commas
    #[arg(
        id = "labels",
        long = "label",
        env = "DOKKAA_LABELS",
        value_name = "KEY=VALUE",
        value_parser = labels
    )]
    pub(crate) labels: Vec<List<(String, String)>>,
    /// Directory of the agent's state
    #[arg(
        long,
        env = "DOKKAA_STATE_DIR",
        value_name = "DIR",
        default_value = STATE_DIR
    )]
    pub(crate) state_dir: PathBuf,
}

/// What listens where.
#[derive(Debug, Clone, Args)]
pub(crate) struct ListenerArgs {
    /// API
    #[arg(
        long,
        env = "DOKKAA_KEYS_LISTEN",
        value_name = "LIST|off",
        default_value = "127.0.0.1:4001",
        value_parser = |text: &str| listen(text, KEYS_PORT)
    )]
    pub(crate) keys_listen: Listen,
    /// DNS [default: the bridge's gateway, port 53]
    #[arg(
        long,
        env = "DOKKAA_DNS_LISTEN",
        value_name = "LIST|off",
        value_parser = |text: &str| listen(text, DNS_PORT)
    )]
    pub(crate) dns_listen: Option<Listen>,
    /// API for other agents, with mutual TLS [default: --host-ip, port 4003]
    #[arg(
        long,
        env = "DOKKAA_PEER_LISTEN",
        value_name = "LIST|off",
        value_parser = |text: &str| listen(text, PEER_PORT)
    )]
    pub(crate) peer_listen: Option<Listen>,
    /// /metrics, /healthz and /readyz, without authentication
    #[arg(
        long,
        env = "DOKKAA_METRICS_LISTEN",
        value_name = "LIST|off",
        default_value = "127.0.0.1:4002",
        value_parser = |text: &str| listen(text, METRICS_PORT)
    )]
    pub(crate) metrics_listen: Listen,
    /// Name by which the API may be called, besides addresses and localhost
    #[arg(
        id = "allow_hosts",
        long = "allow-host",
        env = "DOKKAA_ALLOW_HOST",
        value_name = "NAME",
        value_parser = names
    )]
    pub(crate) allow_hosts: Vec<List<String>>,
    /// Allow --keys-listen on other addresses than loopback: whoever can connect is root on every host
    #[arg(long, env = "DOKKAA_INSECURE", value_parser = truth)]
    pub(crate) insecure: bool,
    /// DNS zone of services
    #[arg(
        long,
        env = "DOKKAA_DOMAIN",
        value_name = "NAME",
        default_value = "skydns.local",
        value_parser = domain
    )]
    pub(crate) domain: String,
    /// Write the records of this host's ready instances to /skydns in etcd, too, for SkyDNS and CoreDNS
    #[arg(long, env = "DOKKAA_SKYDNS_PUBLISH", value_parser = truth)]
    pub(crate) skydns_publish: bool,
}

/// What DNS does with names outside the zone.
#[derive(Debug, Clone, Args)]
pub(crate) struct OtherNamesArgs {
    /// Resolver that they are forwarded to, in the place of those in /etc/resolv.conf; repeated, or separated by
    /// commas, in order of preference
    #[arg(
        id = "dns_upstream",
        long = "dns-upstream",
        env = "DOKKAA_DNS_UPSTREAM",
        value_name = "ADDR[:PORT]",
        value_parser = resolvers
    )]
    pub(crate) upstreams: Vec<List<SocketAddr>>,
    /// Resolver of one zone and all names below it, such as corp.example=10.0.0.2; repeated, or separated by commas
    #[arg(
        id = "dns_stub",
        long = "dns-stub",
        env = "DOKKAA_DNS_STUB",
        value_name = "ZONE=ADDR[:PORT]",
        value_parser = stubs
    )]
    pub(crate) stubs: Vec<List<(String, SocketAddr)>>,
    /// Network whose hosts are answered such names, too, such as 10.0.0.0/8; else only this host and its containers
    #[arg(
        id = "dns_allow",
        long = "dns-allow",
        env = "DOKKAA_DNS_ALLOW",
        value_name = "CIDR",
        value_parser = networks
    )]
    pub(crate) allowed: Vec<List<dns::Network>>,
}

/// The agent's log.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// Format of the log
    #[arg(
        long,
        env = "DOKKAA_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,
    /// Levels that are logged, such as `info` or `info,store=debug`
    #[arg(
        long,
        env = "DOKKAA_LOG_FILTER",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub(crate) log_filter: String,
}
