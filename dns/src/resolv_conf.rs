//! The host's resolvers, as its files name them.
//!
//! Read anew when somebody asks and the last look was a while ago, so that an
//! idle agent reads nothing and a change is followed. systemd-resolved's stub
//! is looked through to the resolvers behind it: it may be told to ask us.
//! Addresses where we listen ourselves are never used.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

/// How old the last look may be.
const LOOK: Duration = Duration::from_secs(2);
/// More are not asked by the C library either.
const MOST: usize = 3;
/// The port of resolvers.
const PORT: u16 = 53;
/// Where systemd-resolved's stub listens.
const STUBS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54)),
];

/// The files that name the host's resolvers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// What the host's programs read.
    pub resolv_conf: PathBuf,
    /// What systemd-resolved's stub asks.
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

/// The resolvers to relay to.
#[derive(Debug)]
pub(crate) struct Upstreams {
    files: Files,
    /// Where we listen.
    own: watch::Receiver<Vec<SocketAddr>>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
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
            seen: Mutex::default(),
        }
    }

    /// The resolvers as they are now, best first.
    pub(crate) fn current(&self) -> Arc<[SocketAddr]> {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.own.borrow();
        let is_fresh = seen
            .at
            .is_some_and(|at| now.saturating_duration_since(at) < LOOK);
        if is_fresh && seen.own == *own {
            return Arc::clone(&seen.used);
        }
        let named = self.named();
        if seen.at.is_none() || seen.named != named || seen.own != *own {
            let (ours, used): (Vec<_>, Vec<_>) =
                named.iter().copied().partition(|to| is_ours(&own, *to));
            if !ours.is_empty() {
                warn!(
                    ?ours,
                    "resolv.conf names the agent's own address; ignoring it"
                );
            }
            info!(?used, "forwarding external DNS queries to");
            seen.used = used.into();
            seen.named = named;
            seen.own.clone_from(&own);
        }
        seen.at = Some(now);
        Arc::clone(&seen.used)
    }

    fn named(&self) -> Vec<SocketAddr> {
        // Without the file, the C library asks this machine.
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

/// An interface of this host has the address: it can be bound.
fn is_local(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

/// The number of an interface.
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

/// `nameserver` lines: an address, with an interface (`fe80::1%eth0`) or a port (`[192.0.2.1]:5353`).
fn parse(text: &str, interface: impl Fn(&str) -> Option<u32>) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "nameserver").then_some(())?;
            address(words.next()?, &interface)
        })
        .take(MOST)
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
    fn nameserver_lines_are_read_and_others_are_not() {
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
    fn the_stub_is_looked_through() {
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
    fn our_own_addresses_are_never_asked() {
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
