//! Addresses: of etcd, of the Docker Engine, and those that the agent listens on.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use super::settings::{List, domain, parts};

/// Port of the API.
pub(crate) const KEYS_PORT: u16 = 4001;
/// Port of metrics and health.
pub(crate) const METRICS_PORT: u16 = 4002;
/// Port of the API of other agents.
pub(crate) const PEER_PORT: u16 = 4003;
/// Port of DNS.
pub(crate) const DNS_PORT: u16 = 53;
/// Port of etcd.
const ETCD_PORT: u16 = 2379;

/// Addresses of a listener; none if it is off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) Vec<SocketAddr>);

/// A list of `ip:port`, or `off`.
pub(super) fn listen(text: &str, port: u16) -> Result<Listen, String> {
    let mut found = Vec::new();
    for part in text.trim().split(',').map(str::trim) {
        if text.trim() == "off" {
            break;
        }
        let numeric = part.replacen("localhost", "127.0.0.1", 1);
        let addr = numeric
            .parse()
            .or_else(|_| numeric.parse().map(|ip: IpAddr| SocketAddr::new(ip, port)))
            .map_err(|_| {
                format!(
                    "`{part}` is not an address; expected ip:port, such as `127.0.0.1:{port}`, a list of them, or off"
                )
            })?;
        if addr.port() != 0 && found.contains(&addr) {
            return Err(format!("`{part}` is listed twice"));
        }
        found.push(addr);
    }
    Ok(Listen(found))
}

/// Resolvers, separated by commas.
pub(super) fn resolvers(text: &str) -> Result<List<SocketAddr>, String> {
    parts(text)
        .map(resolver)
        .collect::<Result<_, _>>()
        .map(List)
}

/// `ip` or `ip:port` of a resolver.
fn resolver(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let addr: SocketAddr = text
        .parse()
        .or_else(|_| {
            let ip: Result<IpAddr, _> = bare.unwrap_or(text).parse();
            ip.map(|ip| SocketAddr::new(ip, DNS_PORT))
        })
        .map_err(|_| {
            format!("`{text}` is not a resolver; expected ip or ip:port, such as `10.0.0.2`")
        })?;
    if addr.ip().is_unspecified() || addr.ip().is_multicast() || addr.port() == 0 {
        return Err(format!(
            "`{text}` must be a unicast address and a port above 0"
        ));
    }
    Ok(addr)
}

/// Zones with resolvers of their own, separated by commas.
pub(super) fn stubs(text: &str) -> Result<List<(String, SocketAddr)>, String> {
    parts(text).map(stub).collect::<Result<_, _>>().map(List)
}

fn stub(text: &str) -> Result<(String, SocketAddr), String> {
    let (zone, addr) = text.split_once('=').ok_or_else(|| {
        format!("`{text}` is not a zone with its resolver; expected zone=ip, such as `corp.example=10.0.0.2`")
    })?;
    Ok((domain(zone)?, resolver(addr.trim())?))
}

/// Networks, separated by commas.
pub(super) fn networks(text: &str) -> Result<List<dns::Network>, String> {
    parts(text)
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map(List)
        .map_err(|why: dns::NetworkError| why.to_string())
}

/// Address at which other hosts reach this one.
pub(super) fn host_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text
        .trim()
        .parse()
        .map_err(|_| format!("`{text}` is not an IP address, such as `10.0.0.1`"))?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("`{ip}` must be a unicast address"));
    }
    Ok(ip)
}

/// How an endpoint of etcd is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Of `host:port`: https with certificates, else http.
    Any,
    Http,
    Https,
    Unix,
}

/// An endpoint of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) scheme: Scheme,
    /// `host:port`, or a path.
    pub(crate) at: String,
}

/// Endpoints of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoints(pub(crate) Vec<Endpoint>);

/// `host:port` or URLs, separated by commas.
pub(super) fn endpoints(text: &str) -> Result<Endpoints, String> {
    let parts = text.split(',').map(|part| endpoint(part.trim()));
    parts.collect::<Result<_, _>>().map(Endpoints)
}

/// A URL without a path, from `host:port` or a URL.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    let wrong = || {
        format!(
            "`{text}` is not an endpoint; expected host:port, http://…, https://… or unix:///path"
        )
    };
    let (scheme, rest) = match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => {
            return Ok(Endpoint {
                scheme: Scheme::Unix,
                at: path.to_owned(),
            });
        }
        Some(("http", rest)) => (Scheme::Http, rest),
        Some(("https", rest)) => (Scheme::Https, rest),
        Some(_) => return Err(wrong()),
        None => (Scheme::Any, text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => {
            (host, port.parse::<u16>().map_err(|_| wrong())?)
        }
        _ => (rest, ETCD_PORT),
    };
    let legal =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || port == 0 || bare_v6 || !host.chars().all(legal) {
        return Err(wrong());
    }
    Ok(Endpoint {
        scheme,
        at: format!("{host}:{port}"),
    })
}

/// Socket of the Docker Engine, which must be root's on this machine: the agent enters the namespaces of its containers.
pub(super) fn docker_socket(text: &str) -> Result<PathBuf, String> {
    let text = text.trim();
    let (wrong, expected) = match text.strip_prefix("unix://").unwrap_or(text) {
        path if path.starts_with("/run/user/") => (
            "is a rootless engine, whose containers the agent can't reach",
            "install Docker Engine for root and give",
        ),
        path if path.contains("/.docker/desktop/") => (
            "is Docker Desktop, whose containers run in a virtual machine",
            "install Docker Engine and give",
        ),
        path if path.starts_with('/') => return Ok(path.into()),
        _ if text.starts_with("unix://") => ("is not an absolute path", "expected"),
        _ => (
            "is not an engine on this machine",
            "run an agent on each machine that has one and give it",
        ),
    };
    Err(format!(
        "`{text}` {wrong}; {expected} unix:///var/run/docker.sock"
    ))
}
