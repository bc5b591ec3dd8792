//! `agent`, and what `up` shares with it.

use clap::Args;

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

Hosts need --peer-listen, --port-range and etcd of each other, and nothing has
to be open to the internet. From a laptop: ssh -L 4001:127.0.0.1:4001 <host>.";

/// The agent's flags as they were given; `config::agent` reads them.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AgentArgs {
    /// etcd: `host:port` or URLs, separated by commas [env: ETCD_ADDR] [default: http://127.0.0.1:2379]
    #[arg(long, value_name = "LIST", help_heading = "etcd")]
    pub(crate) etcd: Option<String>,
    /// CA certificate of etcd, PEM; turns TLS on [env: DOKKAA_ETCD_CA]
    #[arg(long, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_ca: Option<String>,
    /// Client certificate for etcd, PEM [env: DOKKAA_ETCD_CERT]
    #[arg(long, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_cert: Option<String>,
    /// Key of the client certificate, PEM [env: DOKKAA_ETCD_KEY]
    #[arg(long, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_key: Option<String>,
    /// File with the user of etcd, as `name:password`; readable by root only [env: DOKKAA_ETCD_USER_FILE]
    #[arg(long, value_name = "FILE", help_heading = "etcd")]
    pub(crate) etcd_user_file: Option<String>,
    /// The same by value, which `ps` shows to everybody; not in a unit [env: DOKKAA_ETCD_USER]
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = "etcd")]
    pub(crate) etcd_user: Option<String>,
    /// Time after which a host that is silent counts as lost, at least 5s [env: DOKKAA_LEASE_TTL] [default: 6s]
    #[arg(long, value_name = "TIME", help_heading = "etcd")]
    pub(crate) lease_ttl: Option<String>,
    /// Time for which the slots of a stopped agent wait for it; then other hosts take them over [env: DOKKAA_RESTART_GRACE] [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "etcd")]
    pub(crate) restart_grace: Option<String>,

    /// The Docker Engine of this machine [env: DOCKER_HOST] [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "URL", help_heading = "Docker")]
    pub(crate) docker: Option<String>,
    /// Directory of the Docker client's config.json, with the registry logins [env: DOKKAA_DOCKER_CONFIG] [default: /root/.docker]
    #[arg(long, value_name = "DIR", help_heading = "Docker")]
    pub(crate) docker_config: Option<String>,
    /// Docker network of the containers; its gateway gets DNS and the link ports [env: DOKKAA_BRIDGE] [default: bridge]
    #[arg(long, value_name = "NETWORK", help_heading = "Docker")]
    pub(crate) bridge: Option<String>,
    /// Ports on --host-ip at which services are published [env: DOKKAA_PORT_RANGE] [default: 20000-29999]
    #[arg(long, value_name = "FIRST-LAST", help_heading = "Docker")]
    pub(crate) port_range: Option<String>,
    /// Who may connect to those ports: peers (this machine and the hosts of the cluster; the agent keeps iptables rules) or open (whoever reaches --host-ip) [env: DOKKAA_INSTANCE_PORTS] [default: peers]
    #[arg(long, value_name = "peers|open", help_heading = "Docker")]
    pub(crate) instance_ports: Option<String>,
    /// How full the disk of Docker may be: from the first on, images that the agent pulled and nobody needs are removed; from the second on, this host gets no new containers; 100,100 waits until it is full [env: DOKKAA_DISK_LIMITS] [default: 85,95]
    #[arg(long, value_name = "PERCENT,PERCENT", help_heading = "Docker")]
    pub(crate) disk_limits: Option<String>,

    /// Address at which the other hosts reach this one [env: HOST_IP] [default: that of the default route]
    #[arg(long, value_name = "IP", help_heading = "This host")]
    pub(crate) host_ip: Option<String>,
    /// Name of this host in the cluster [env: DOKKAA_NAME] [default: the machine's host name]
    #[arg(long, value_name = "NAME", help_heading = "This host")]
    pub(crate) name: Option<String>,
    /// Labels of this host, repeated or separated by commas [env: DOKKAA_LABELS]
    #[arg(long = "label", value_name = "KEY=VALUE", help_heading = "This host")]
    pub(crate) labels: Vec<String>,
    /// Where the agent keeps what must outlive it [env: DOKKAA_STATE_DIR] [default: /var/lib/dokkaa]
    #[arg(long, value_name = "DIR", help_heading = "This host")]
    pub(crate) state_dir: Option<String>,

    /// The API: manifests and commands [env: DOKKAA_KEYS_LISTEN] [default: 127.0.0.1:4001]
    #[arg(long, value_name = "LIST|off", help_heading = "Listening")]
    pub(crate) keys_listen: Option<String>,
    /// DNS [env: DOKKAA_DNS_LISTEN] [default: the bridge's gateway, port 53]
    #[arg(long, value_name = "LIST|off", help_heading = "Listening")]
    pub(crate) dns_listen: Option<String>,
    /// For other agents, with mutual TLS [env: DOKKAA_PEER_LISTEN] [default: port 4003 of --host-ip]
    #[arg(long, value_name = "LIST|off", help_heading = "Listening")]
    pub(crate) peer_listen: Option<String>,
    /// /metrics, /healthz and /readyz, without a password: names and states of apps [env: DOKKAA_METRICS_LISTEN] [default: 127.0.0.1:4002]
    #[arg(long, value_name = "LIST|off", help_heading = "Listening")]
    pub(crate) metrics_listen: Option<String>,
    /// Names by which the API may be called, besides addresses and localhost [env: DOKKAA_ALLOW_HOST]
    #[arg(long = "allow-host", value_name = "NAME", help_heading = "Listening")]
    pub(crate) allow_hosts: Vec<String>,
    /// Let --keys-listen be reached from outside without a login: anyone who reaches it has root on every host [env: DOKKAA_INSECURE]
    #[arg(long, help_heading = "Listening")]
    pub(crate) insecure: bool,
    /// Zone of the services' names [env: DOKKAA_DOMAIN] [default: skydns.local]
    #[arg(long, value_name = "NAME", help_heading = "Listening")]
    pub(crate) domain: Option<String>,

    /// How the log is written: text or json [env: DOKKAA_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Log")]
    pub(crate) log_format: Option<String>,
    /// What is logged, as `info` or `info,store=debug` [env: DOKKAA_LOG_FILTER] [default: info]
    #[arg(long, value_name = "FILTER", help_heading = "Log")]
    pub(crate) log_filter: Option<String>,
}
