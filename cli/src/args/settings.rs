//! Values of the agent's flags other than addresses.

use std::ops::RangeInclusive;
use std::time::Duration;

use conductor::firewall::InstancePorts;
use conductor::ports::PortRange;
use manifests::{HostName, placement};
use model::disk::DiskLimits;

use super::values::duration;

/// Shortest lease.
const LEASE_FLOOR: Duration = Duration::from_secs(5);
/// Ports of the links at the ambassador.
const LINK_PORTS: RangeInclusive<u16> =
    manifests::env::FIRST_LINK_PORT..=manifests::env::LAST_LINK_PORT;

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// User and password of etcd.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EtcdUser {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for EtcdUser {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EtcdUser({})", self.name)
    }
}

/// `name:password`, which no error repeats.
pub(crate) fn etcd_user(text: &str) -> Result<EtcdUser, String> {
    text.split_once(':')
        .filter(|(name, password)| !name.is_empty() && !password.is_empty())
        .map(|(name, password)| EtcdUser {
            name: name.to_owned(),
            password: password.to_owned(),
        })
        .ok_or_else(|| "expected name:password".to_owned())
}

/// Labels or names of one occurrence of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List<T>(pub(crate) Vec<T>);

/// Names, separated by commas.
#[expect(clippy::unnecessary_wraps, reason = "a value parser may fail")]
pub(super) fn names(text: &str) -> Result<List<String>, std::convert::Infallible> {
    Ok(List(parts(text).map(ToOwned::to_owned).collect()))
}

/// Labels, separated by commas.
pub(super) fn labels(text: &str) -> Result<List<(String, String)>, String> {
    parts(text).map(label).collect::<Result<_, _>>().map(List)
}

pub(super) fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or_else(|| format!("`{text}` is not a label; expected key=value"))?;
    placement::check_label(key).map_err(|why| why.to_string())?;
    placement::check_label_value(value).map_err(|why| format!("`{key}` {why}"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Name of this host.
pub(super) fn host_name(text: &str) -> Result<HostName, String> {
    text.trim()
        .parse()
        .map_err(|why: manifests::names::NameError| why.to_string())
}

/// A zone, in lower case, without the last dot: its rules are those of a host name.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let text = text.trim();
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    host_name(&name)
        .map(|_| ())
        .map_err(|why| format!("`{text}` is not a domain name: {why}"))?;
    Ok(name)
}

/// Ports that no link listens on.
pub(super) fn port_range(text: &str) -> Result<PortRange, String> {
    let range: PortRange = text
        .trim()
        .parse()
        .map_err(|why: conductor::ports::PortRangeError| why.to_string())?;
    if range.overlaps(&LINK_PORTS) {
        return Err(format!(
            "`{text}` overlaps {}-{}, where links listen",
            LINK_PORTS.start(),
            LINK_PORTS.end()
        ));
    }
    Ok(range)
}

/// `peers` or `open`.
pub(super) fn instance_ports(text: &str) -> Result<InstancePorts, String> {
    match text.trim() {
        "peers" => Ok(InstancePorts::Peers),
        "open" => Ok(InstancePorts::Open),
        other => Err(format!("`{other}` is neither peers nor open")),
    }
}

/// A flag that a variable may set, too.
pub(super) fn truth(text: &str) -> Result<bool, String> {
    match text.trim() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        other => Err(format!("`{other}` is neither true nor false")),
    }
}

/// Two limits in percent, the lower one first.
pub(super) fn disk_limits(text: &str) -> Result<DiskLimits, String> {
    let percent = |text: &str| {
        text.trim()
            .parse::<u8>()
            .ok()
            .filter(|n| (1..=100).contains(n))
    };
    match text.split_once(',').map(|(a, b)| (percent(a), percent(b))) {
        Some((Some(collect), Some(full))) if collect <= full => Ok(DiskLimits { collect, full }),
        _ => Err(format!(
            "`{text}` is not two percentages, the lower one first, such as 85,95"
        )),
    }
}

/// Time to live of the host's record.
pub(super) fn lease_ttl(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        ttl if ttl < LEASE_FLOOR => Err(format!("`{text}` is too short; at least 5s")),
        ttl => Ok(ttl),
    }
}
