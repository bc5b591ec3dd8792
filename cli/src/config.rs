//! The agent's configuration: flags, else the environment, else defaults, read once into plain values.
//!
//! Pure but for `Machine::look`, which asks the machine what the defaults
//! depend on, and `etcd_options`, which looks whether the certificates can be
//! read. What is wrong is one line that names the flag.

mod etcd;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use conductor::firewall::{InstancePorts, is_global};
use manifests::{HostName, placement};
use model::disk::DiskLimits;

use crate::args::AgentArgs;
use etcd::etcd;
pub(crate) use etcd::{EtcdConfig, etcd_options};

/// Shortest lease.
pub(crate) const LEASE_FLOOR: Duration = Duration::from_secs(5);
/// Port of the door for manifests and commands.
pub(crate) const KEYS_PORT: u16 = 4001;
/// Port of metrics and health.
pub(crate) const METRICS_PORT: u16 = 4002;
/// Port of the door for other agents.
pub(crate) const PEER_PORT: u16 = 4003;
/// Port of DNS.
pub(crate) const DNS_PORT: u16 = 53;
/// Ports of the links at the ambassador; `--port-range` keeps off.
const LINK_PORTS: RangeInclusive<u16> =
    manifests::env::FIRST_LINK_PORT..=manifests::env::LAST_LINK_PORT;

/// All that the agent needs to know before it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentConfig {
    /// Where etcd is and who we are there.
    pub(crate) etcd: EtcdConfig,
    /// The engine's socket.
    pub(crate) docker: PathBuf,
    /// Directory of the Docker client's `config.json`.
    pub(crate) docker_config: PathBuf,
    /// Docker network of the containers.
    pub(crate) bridge: String,
    /// Published ports.
    pub(crate) port_range: RangeInclusive<u16>,
    /// Who may connect to them.
    pub(crate) instance_ports: InstancePorts,
    /// Where the other hosts reach this one.
    pub(crate) host_ip: IpAddr,
    /// Name in the cluster.
    pub(crate) name: HostName,
    /// The operator's labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// What must outlive the process.
    pub(crate) state_dir: PathBuf,
    /// The zone, in lower case, without the last dot.
    pub(crate) domain: String,
    /// The door for manifests and commands; empty is off.
    pub(crate) keys_listen: Vec<SocketAddr>,
    /// DNS.
    pub(crate) dns_listen: DnsListen,
    /// The door for other agents; empty is off.
    pub(crate) peer_listen: Vec<SocketAddr>,
    /// Metrics and health; empty is off.
    pub(crate) metrics_listen: Vec<SocketAddr>,
    /// Names by which the door may be called.
    pub(crate) allow_hosts: Vec<String>,
    /// The door may be reached from outside without a login.
    pub(crate) insecure: bool,
    /// Time to live of the host's record.
    pub(crate) lease_ttl: Duration,
    /// Time that slots stay after the agent was stopped.
    pub(crate) restart_grace: Duration,
    pub(crate) disk_limits: DiskLimits,
    /// How the log is written.
    pub(crate) log_format: LogFormat,
    /// What is logged.
    pub(crate) log_filter: String,
    /// `host_ip` is the address of the bridge, whatever that is.
    pub(crate) host_ip_is_gateway: bool,
    /// etcd is this machine's own: an empty one is a new cluster's, whatever else the engine runs.
    pub(crate) own_etcd: bool,
    /// What the log says at each start.
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

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What the machine says where neither flag nor variable does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Its host name.
    pub(crate) hostname: String,
    /// Source address of its default route.
    pub(crate) route_source: Option<IpAddr>,
    /// The kernel's ephemeral ports.
    pub(crate) ephemeral: Option<RangeInclusive<u16>>,
}

impl Machine {
    /// Asks the machine; sends nothing.
    pub(crate) fn look() -> Self {
        // Connecting a UDP socket only chooses a route. The address is of TEST-NET-1: no host has it.
        let route_source = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
            .and_then(|socket| {
                socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
                socket.local_addr()
            })
            .ok()
            .map(|addr| addr.ip())
            .filter(|ip| !ip.is_unspecified() && !ip.is_loopback());
        Self {
            hostname: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
            route_source,
            ephemeral: std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
                .ok()
                .and_then(|text| {
                    let (first, last) = text.trim().split_once(char::is_whitespace)?;
                    Some(first.parse().ok()?..=last.trim().parse().ok()?)
                }),
        }
    }
}

/// One thing that is wrong with the configuration, for one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {what}")]
pub(crate) struct ConfigError {
    /// The flag, or its variable where that was used.
    pub(crate) flag: String,
    /// What is wrong, and what was expected.
    pub(crate) what: String,
}

impl ConfigError {
    fn new(flag: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            flag: flag.into(),
            what: what.into(),
        }
    }
}

/// Reads the agent's configuration.
pub(crate) fn agent(
    args: &AgentArgs,
    env: &BTreeMap<String, String>,
    machine: &Machine,
) -> Result<AgentConfig, ConfigError> {
    let read = Reader { env };
    let mut warnings = Vec::new();

    let etcd = etcd(args, read, &mut warnings)?;
    let docker = docker(&read.text(args.docker.as_ref(), "docker", "DOCKER_HOST"))?;

    let host_ip = match read.text(args.host_ip.as_ref(), "host-ip", "HOST_IP") {
        Given { text: None, .. } => machine.route_source.ok_or_else(|| {
            ConfigError::new(
                "--host-ip",
                "this machine has no default route to take an address from; name the address at which the other hosts reach it",
            )
        })?,
        given => given.parse::<IpAddr>("an IP address, such as `10.0.0.1`")?,
    };
    if host_ip.is_unspecified() || host_ip.is_multicast() {
        return Err(ConfigError::new(
            "--host-ip",
            format!("`{host_ip}` is no address of one host"),
        ));
    }
    let name = match read.text(args.name.as_ref(), "name", "DOKKAA_NAME") {
        Given { text: None, .. } => {
            let name = machine.hostname.to_ascii_lowercase();
            name.parse()
                .map_err(|e| ConfigError::new("--name", format!("the machine's host name {e}")))?
        }
        given => given.read(|text| text.parse::<HostName>().map_err(|e| e.to_string()))?,
    };

    let port_range = match read.text(args.port_range.as_ref(), "port-range", "DOKKAA_PORT_RANGE") {
        Given { text: None, .. } => 20_000..=29_999,
        given => given.read(port_range)?,
    };
    if let Some(ephemeral) = machine
        .ephemeral
        .as_ref()
        .filter(|e| overlap(e, &port_range))
    {
        warnings.push(format!(
            "--port-range {}-{} overlaps the kernel's ephemeral ports {}-{} (net.ipv4.ip_local_port_range): a port may be taken by an outgoing connection",
            port_range.start(), port_range.end(), ephemeral.start(), ephemeral.end()
        ));
    }

    let instance_ports = match read.text(
        args.instance_ports.as_ref(),
        "instance-ports",
        "DOKKAA_INSTANCE_PORTS",
    ) {
        Given { text: None, .. } => InstancePorts::default(),
        given => given.read(|text| match text {
            "peers" => Ok(InstancePorts::Peers),
            "open" => Ok(InstancePorts::Open),
            other => Err(format!("`{other}` is neither peers nor open")),
        })?,
    };
    if instance_ports == InstancePorts::Open && is_global(host_ip) {
        warnings.push(format!(
            "--instance-ports open: --host-ip {host_ip} is reachable from the internet, and so are the published ports {}-{} of services",
            port_range.start(), port_range.end()
        ));
    }

    let insecure = args.insecure
        || match read.text(None, "insecure", "DOKKAA_INSECURE") {
            Given { text: None, .. } => false,
            given => given.read(truth)?,
        };
    let keys_listen = read
        .text(
            args.keys_listen.as_ref(),
            "keys-listen",
            "DOKKAA_KEYS_LISTEN",
        )
        .listen(KEYS_PORT)?
        .unwrap_or_else(|| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, KEYS_PORT))]);
    if let Some(open) = keys_listen.iter().find(|a| !a.ip().is_loopback()) {
        if !insecure {
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
    let dns_listen = read
        .text(args.dns_listen.as_ref(), "dns-listen", "DOKKAA_DNS_LISTEN")
        .listen(DNS_PORT)?
        .map_or(DnsListen::Gateway, DnsListen::At);
    let peer_listen = read
        .text(
            args.peer_listen.as_ref(),
            "peer-listen",
            "DOKKAA_PEER_LISTEN",
        )
        .listen(PEER_PORT)?
        .unwrap_or_else(|| vec![SocketAddr::new(host_ip, PEER_PORT)]);
    let metrics_listen = read
        .text(
            args.metrics_listen.as_ref(),
            "metrics-listen",
            "DOKKAA_METRICS_LISTEN",
        )
        .listen(METRICS_PORT)?
        .unwrap_or_else(|| vec![SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT))]);
    if let Some(open) = metrics_listen.iter().find(|at| !at.ip().is_loopback()) {
        warnings.push(format!(
            "--metrics-listen: whoever reaches {open} reads the names and the state of all apps, and how many connections there are; nobody is asked who he is"
        ));
    }

    let lease_ttl = match read.text(args.lease_ttl.as_ref(), "lease-ttl", "DOKKAA_LEASE_TTL") {
        Given { text: None, .. } => Duration::from_secs(6),
        given => given.read(|text| match duration(text)? {
            ttl if ttl < LEASE_FLOOR => Err(format!("`{text}` is too short; at least 5s")),
            ttl => Ok(ttl),
        })?,
    };
    let restart_grace = match read.text(
        args.restart_grace.as_ref(),
        "restart-grace",
        "DOKKAA_RESTART_GRACE",
    ) {
        Given { text: None, .. } => Duration::from_secs(30),
        given => given.read(duration)?,
    };
    let disk_limits = match read.text(
        args.disk_limits.as_ref(),
        "disk-limits",
        "DOKKAA_DISK_LIMITS",
    ) {
        Given { text: None, .. } => DiskLimits::default(),
        given => given.read(percents)?,
    };

    Ok(AgentConfig {
        etcd,
        docker,
        docker_config: read
            .text(
                args.docker_config.as_ref(),
                "docker-config",
                "DOKKAA_DOCKER_CONFIG",
            )
            .or("/root/.docker")
            .into(),
        bridge: read
            .text(args.bridge.as_ref(), "bridge", "DOKKAA_BRIDGE")
            .or("bridge"),
        port_range,
        instance_ports,
        host_ip,
        name,
        labels: labels(&args.labels, read)?,
        state_dir: state_dir(args.state_dir.as_ref(), env),
        domain: match read.text(args.domain.as_ref(), "domain", "DOKKAA_DOMAIN") {
            Given { text: None, .. } => "skydns.local".to_owned(),
            given => given.read(domain)?,
        },
        keys_listen,
        dns_listen,
        peer_listen,
        metrics_listen,
        allow_hosts: read.list(&args.allow_hosts, "DOKKAA_ALLOW_HOST"),
        insecure,
        lease_ttl,
        restart_grace,
        disk_limits,
        log_format: match read.text(args.log_format.as_ref(), "log-format", "DOKKAA_LOG_FORMAT") {
            Given { text: None, .. } => LogFormat::Text,
            given => given.read(|text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                other => Err(format!("`{other}` is no format; expected text or json")),
            })?,
        },
        log_filter: read
            .text(args.log_filter.as_ref(), "log-filter", "DOKKAA_LOG_FILTER")
            .or("info"),
        host_ip_is_gateway: false,
        own_etcd: false,
        warnings,
    })
}

/// What `dokkaa up` changes: etcd is its own, and there are no other agents to talk to. `etcd` is not known before it
/// runs; where no `--host-ip` is given, it is the bridge's gateway: reachable from this machine and its containers only.
pub(crate) fn up(
    args: &AgentArgs,
    env: &BTreeMap<String, String>,
    machine: &Machine,
) -> Result<AgentConfig, ConfigError> {
    let flags = [
        ("--etcd", &args.etcd),
        ("--etcd-ca", &args.etcd_ca),
        ("--etcd-cert", &args.etcd_cert),
        ("--etcd-key", &args.etcd_key),
        ("--etcd-user", &args.etcd_user),
        ("--etcd-user-file", &args.etcd_user_file),
    ];
    if let Some((flag, _)) = flags.iter().find(|(_, given)| given.is_some()) {
        return Err(ConfigError::new(
            *flag,
            "dokkaa up runs an etcd of its own; dokkaa agent joins another",
        ));
    }
    let mut env = env.clone();
    env.retain(|name, _| name != "ETCD_ADDR" && !name.starts_with("DOKKAA_ETCD_"));
    env.entry("DOKKAA_PEER_LISTEN".to_owned())
        .or_insert_with(|| "off".to_owned());
    let machine = Machine {
        route_source: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ..machine.clone()
    };
    Ok(AgentConfig {
        host_ip_is_gateway: !is_host_ip_given(args, &env),
        own_etcd: true,
        ..agent(args, &env, &machine)?
    })
}

/// `--host-ip` or its variable says where the other hosts reach this one.
fn is_host_ip_given(args: &AgentArgs, env: &BTreeMap<String, String>) -> bool {
    Reader { env }
        .text(args.host_ip.as_ref(), "host-ip", "HOST_IP")
        .text
        .is_some()
}

/// `--state-dir` alone.
pub(crate) fn state_dir(flag: Option<&String>, env: &BTreeMap<String, String>) -> PathBuf {
    Reader { env }
        .text(flag, "state-dir", "DOKKAA_STATE_DIR")
        .or("/var/lib/dokkaa")
        .into()
}

/// `--docker` alone.
pub(crate) fn docker_socket(
    flag: Option<&String>,
    env: &BTreeMap<String, String>,
) -> Result<PathBuf, ConfigError> {
    docker(&Reader { env }.text(flag, "docker", "DOCKER_HOST"))
}

// === one value, from a flag or a variable ===

#[derive(Clone, Copy)]
struct Reader<'a> {
    env: &'a BTreeMap<String, String>,
}

/// A text, and what to call it when it is wrong.
struct Given {
    name: String,
    text: Option<String>,
}

impl Reader<'_> {
    /// The flag wins; an empty variable counts as none.
    fn text(self, flag: Option<&String>, name: &str, variable: &str) -> Given {
        if let Some(text) = flag {
            return Given {
                name: format!("--{name}"),
                text: Some(text.clone()),
            };
        }
        match self.env.get(variable).filter(|text| !text.is_empty()) {
            Some(text) => Given {
                name: variable.to_owned(),
                text: Some(text.clone()),
            },
            None => Given {
                name: format!("--{name}"),
                text: None,
            },
        }
    }

    fn list(self, flags: &[String], variable: &str) -> Vec<String> {
        let from_env = self.env.get(variable).filter(|_| flags.is_empty());
        flags
            .iter()
            .chain(from_env)
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(ToOwned::to_owned)
            .collect()
    }
}

impl Given {
    fn or(self, default: &str) -> String {
        self.text.unwrap_or_else(|| default.to_owned())
    }

    fn read<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        read(self.text.as_deref().unwrap_or_default().trim())
            .map_err(|what| ConfigError::new(&self.name, what))
    }

    fn parse<T: std::str::FromStr>(&self, expected: &str) -> Result<T, ConfigError> {
        self.read(|text| {
            text.parse()
                .map_err(|_| format!("`{text}` is not {expected}"))
        })
    }

    /// A list of addresses; `off` is an empty one; `None` if nothing was given.
    fn listen(&self, port: u16) -> Result<Option<Vec<SocketAddr>>, ConfigError> {
        match self.text.as_deref().map(str::trim) {
            None => Ok(None),
            Some("off") => Ok(Some(Vec::new())),
            Some(_) => self.read(|text| {
                let mut found = Vec::new();
                for part in text.split(',').map(str::trim) {
                    let addr = listen_addr(part, port)?;
                    if addr.port() != 0 && found.contains(&addr) {
                        return Err(format!("`{part}` is there twice"));
                    }
                    found.push(addr);
                }
                Ok(Some(found))
            }),
        }
    }
}

fn listen_addr(text: &str, port: u16) -> Result<SocketAddr, String> {
    let numeric = text.replacen("localhost", "127.0.0.1", 1);
    if let Ok(addr) = numeric.parse() {
        return Ok(addr);
    }
    match numeric.parse() {
        Ok(ip) => Ok(SocketAddr::new(ip, port)),
        Err(_) => Err(format!(
            "`{text}` is not an address; expected ip:port, such as `127.0.0.1:{port}`, a list of them, or off"
        )),
    }
}

// === the parts ===

/// The engine must be root's on this machine: the agent looks into its containers' namespaces.
fn docker(given: &Given) -> Result<PathBuf, ConfigError> {
    let text = given
        .text
        .as_deref()
        .unwrap_or("unix:///var/run/docker.sock");
    let wrong = |what: String| Err(ConfigError::new(&given.name, what));
    let path = match text.strip_prefix("unix://") {
        Some(path) => path,
        None if text.starts_with('/') => text,
        None => {
            return wrong(format!(
                "`{text}` is not an engine on this machine; run an agent on each machine that has one and give it unix:///var/run/docker.sock"
            ));
        }
    };
    if path.starts_with("/run/user/") {
        return wrong(format!(
            "`{text}` is a rootless engine, whose containers the agent can't reach; install Docker Engine for root and give unix:///var/run/docker.sock"
        ));
    }
    if path.contains("/.docker/desktop/") {
        return wrong(format!(
            "`{text}` is Docker Desktop, whose containers run in a virtual machine; install Docker Engine and give unix:///var/run/docker.sock"
        ));
    }
    if !path.starts_with('/') {
        return wrong(format!(
            "`{text}` is not an absolute path; expected unix:///var/run/docker.sock"
        ));
    }
    Ok(path.into())
}

fn labels(flags: &[String], read: Reader<'_>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut found = BTreeMap::new();
    for text in read.list(flags, "DOKKAA_LABELS") {
        let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(ConfigError::new(
                "--label",
                format!("`{text}` is no label; expected key=value"),
            ));
        };
        let checked = placement::check_label(key)
            .map_err(|error| error.to_string())
            .and_then(|()| {
                placement::check_label_value(value).map_err(|error| format!("`{key}` {error}"))
            });
        checked.map_err(|why| ConfigError::new("--label", why))?;
        if found.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(ConfigError::new(
                "--label",
                format!("`{key}` is there twice"),
            ));
        }
    }
    if found.len() > placement::MAX_LABELS {
        return Err(ConfigError::new(
            "--label",
            format!(
                "{} labels; expected at most {}",
                found.len(),
                placement::MAX_LABELS
            ),
        ));
    }
    Ok(found)
}

fn domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    // A host name's rules are those of a zone's name.
    match name.parse::<HostName>() {
        Ok(_) => Ok(name),
        Err(e) => Err(e.to_string()),
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let wrong =
        || format!("`{text}` is not a range of ports; expected first-last, such as `20000-29999`");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let range = first.trim().parse::<u16>().map_err(|_| wrong())?
        ..=last.trim().parse::<u16>().map_err(|_| wrong())?;
    if range.is_empty() || *range.start() == 0 {
        return Err(wrong());
    }
    if overlap(&range, &LINK_PORTS) {
        return Err(format!(
            "`{text}` overlaps {}-{}, where links listen",
            LINK_PORTS.start(),
            LINK_PORTS.end()
        ));
    }
    Ok(range)
}

fn overlap(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

/// A time with a unit: `500ms`, `6s`, `2m`, `1h`.
/// Two limits in percent, the lower one first.
fn percents(text: &str) -> Result<DiskLimits, String> {
    let read = |text: &str| {
        text.trim()
            .parse::<u8>()
            .ok()
            .filter(|n| (1..=100).contains(n))
    };
    match text.split_once(',').map(|(a, b)| (read(a), read(b))) {
        Some((Some(collect), Some(full))) if collect <= full => Ok(DiskLimits { collect, full }),
        _ => Err(format!(
            "`{text}` is not two percentages, the lower one first, such as 85,95"
        )),
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{text}` is not a time; expected a number and ms, s, m or h, such as `30s`");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests;
