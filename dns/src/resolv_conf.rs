//! The host's upstream resolvers, from its `resolv.conf`.
//!
//! Read again on a query, at most every 2 s. systemd-resolved's stub is
//! replaced by the resolvers behind it, since the stub may forward to this
//! server; the server's own addresses are left out.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

/// Time for which the files are not read again.
const FRESH: Duration = Duration::from_secs(2);
/// Limit of the C library (MAXNS).
const MAX_SERVERS: usize = 3;
const PORT: u16 = 53;
/// Addresses of systemd-resolved's stub.
const STUBS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54)),
];

/// Paths of the files that name the host's resolvers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// The resolvers of systemd-resolved's stub.
    pub behind_stub: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            behind_stub: "/run/systemd/resolve/resolv.conf".into(),
        }
    }
}

/// The upstream resolvers.
#[derive(Debug)]
pub(crate) struct Upstreams {
    files: Files,
    /// Addresses of this server.
    own: watch::Receiver<Vec<SocketAddr>>,
    cache: Mutex<Cache>,
}

#[derive(Debug, Default)]
struct Cache {
    at: Option<Instant>,
    own: Vec<SocketAddr>,
    named: Vec<SocketAddr>,
    used: Arc<[SocketAddr]>,
}

impl Upstreams {
    pub(crate) fn new(files: Files, own: watch::Receiver<Vec<SocketAddr>>) -> Self {
        Self {
            files,
            own,
            cache: Mutex::default(),
        }
    }

    /// The resolvers in order of preference.
    pub(crate) fn current(&self) -> Arc<[SocketAddr]> {
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.own.borrow();
        let is_fresh = cache
            .at
            .is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        if is_fresh && cache.own == *own {
            return Arc::clone(&cache.used);
        }
        let named = self.read();
        if cache.at.is_none() || cache.named != named || cache.own != *own {
            let (ours, used): (Vec<_>, Vec<_>) =
                named.iter().copied().partition(|to| is_ours(&own, *to));
            if !ours.is_empty() {
                warn!(
                    addresses = ?ours,
                    "resolv.conf names the agent's own address; ignoring it"
                );
            }
            info!(resolvers = ?used, "forwarding external DNS queries to");
            cache.used = used.into();
            cache.named = named;
            cache.own.clone_from(&own);
        }
        cache.at = Some(now);
        Arc::clone(&cache.used)
    }

    fn read(&self) -> Vec<SocketAddr> {
        // Without a server, the C library asks 127.0.0.1.
        let text = fs::read_to_string(&self.files.resolv_conf).unwrap_or_default();
        let mut named = parse(&text, interface);
        if named.iter().any(|to| STUBS.contains(&to.ip())) {
            let behind = fs::read_to_string(&self.files.behind_stub).unwrap_or_default();
            let behind = parse(&behind, interface);
            if !behind.is_empty() {
                named = behind;
            }
        }
        if named.is_empty() {
            named.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        named
    }
}

fn is_ours(own: &[SocketAddr], to: SocketAddr) -> bool {
    own.iter().any(|own| {
        own.port() == to.port()
            && (own.ip() == to.ip() || (own.ip().is_unspecified() && is_local(to.ip())))
    })
}

/// An interface of this host has the address.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// Index of a network interface.
fn interface(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let is_name = !name.is_empty() && !name.contains('/');
    let path = format!("/sys/class/net/{name}/ifindex");
    is_name
        .then(|| fs::read_to_string(path).ok()?.trim().parse().ok())
        .flatten()
}

/// Parses `nameserver` lines: an address, with an interface (`fe80::1%eth0`) or a port (`[192.0.2.1]:5353`).
fn parse(text: &str, interface: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            address(words.next()?, &interface)
        })
        .take(MAX_SERVERS)
        .collect()
}

fn address(text: &str, interface: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Some((ip, port)) = text
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]:"))
    {
        return Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?));
    }
    if let Some((ip, scope)) = text.split_once('%') {
        let addr = SocketAddrV6::new(ip.parse().ok()?, PORT, 0, interface(scope)?);
        return Some(addr.into());
    }
    Some(SocketAddr::new(text.parse().ok()?, PORT))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(addrs: &[SocketAddr]) -> Vec<String> {
        addrs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_nameserver_lines_are_read() {
        let text = "\
# nameserver 192.0.2.9
search example.com
nameserver 192.0.2.1
 nameserver\t2001:db8::1 # comment
nameserver nonsense
nameserver
nameserver fe80::1%eth0
nameserver 192.0.2.4
";
        let eth0 = |name: &str| (name == "eth0").then_some(7);
        assert_eq!(
            texts(&parse(text, eth0)),
            ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%7]:53"]
        );
        assert_eq!(
            texts(&parse("nameserver [127.0.0.1]:5353", eth0)),
            ["127.0.0.1:5353"]
        );
    }

    fn upstreams(resolv_conf: &str, behind: &str, own: &[&str]) -> Vec<String> {
        let folder = tempfile::tempdir().expect("folder");
        let files = Files {
            resolv_conf: folder.path().join("resolv.conf"),
            behind_stub: folder.path().join("behind"),
        };
        fs::write(&files.resolv_conf, resolv_conf).expect("file");
        fs::write(&files.behind_stub, behind).expect("file");
        let own = own.iter().map(|own| own.parse().expect("address"));
        let own = watch::Sender::new(own.collect::<Vec<SocketAddr>>());
        texts(&Upstreams::new(files, own.subscribe()).current())
    }

    #[test]
    fn the_stub_is_replaced_by_its_resolvers() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n";
        assert_eq!(
            upstreams(stub, "nameserver 192.0.2.1\n", &[]),
            ["192.0.2.1:53"]
        );
        assert_eq!(upstreams(stub, "", &[]), ["127.0.0.53:53"]);
        assert_eq!(
            upstreams("nameserver 192.0.2.2\n", "nameserver 192.0.2.1\n", &[]),
            ["192.0.2.2:53"]
        );
        assert_eq!(upstreams("", "", &[]), ["127.0.0.1:53"]);
    }

    #[test]
    fn the_servers_own_addresses_are_left_out() {
        let text = "nameserver 172.17.0.1\nnameserver 127.0.0.1\nnameserver 192.0.2.1\n";
        assert_eq!(
            upstreams(text, "", &["172.17.0.1:53"]),
            ["127.0.0.1:53", "192.0.2.1:53"]
        );
        assert_eq!(
            upstreams(text, "", &["172.17.0.1:5353"]),
            ["172.17.0.1:53", "127.0.0.1:53", "192.0.2.1:53"]
        );
        let all = upstreams(text, "", &["0.0.0.0:53"]);
        assert!(!all.contains(&"127.0.0.1:53".to_owned()));
        assert!(all.contains(&"192.0.2.1:53".to_owned()));
        assert!(upstreams("nameserver 127.0.0.1\n", "", &["127.0.0.1:53"]).is_empty());
    }
}
