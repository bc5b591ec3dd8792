//! The host's resolvers, from its `resolv.conf`.
//!
//! systemd-resolved's stub is replaced by the resolvers behind it, since the
//! stub may forward to this server.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;

/// Limit of the C library (MAXNS).
const MAX_SERVERS: usize = 3;
const PORT: u16 = 53;
/// Without a server, the C library asks it.
const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);
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

impl Files {
    /// The resolvers in order of preference; where none are named, those that were before.
    pub(crate) fn read(&self, before: &[SocketAddr]) -> Vec<SocketAddr> {
        let text = fs::read_to_string(&self.resolv_conf).unwrap_or_default();
        let named = parse(&text, interface);
        let is_stub = named.iter().any(|to| STUBS.contains(&to.ip()));
        if !is_stub && !named.is_empty() {
            return named;
        }
        if is_stub {
            let behind = fs::read_to_string(&self.behind_stub).unwrap_or_default();
            let behind = parse(&behind, interface);
            if !behind.is_empty() {
                return behind;
            }
        }
        if !before.is_empty() && before != [DEFAULT] {
            return before.to_vec();
        }
        if is_stub { named } else { vec![DEFAULT] }
    }
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

    fn resolvers(resolv_conf: &str, behind: &str) -> Vec<String> {
        resolvers_after(&[], resolv_conf, behind)
    }

    fn resolvers_after(before: &[&str], resolv_conf: &str, behind: &str) -> Vec<String> {
        let before = before.iter().map(|text| text.parse().expect("address"));
        let before: Vec<_> = before.collect();
        let folder = tempfile::tempdir().expect("folder");
        let files = Files {
            resolv_conf: folder.path().join("resolv.conf"),
            behind_stub: folder.path().join("behind"),
        };
        fs::write(&files.resolv_conf, resolv_conf).expect("file");
        fs::write(&files.behind_stub, behind).expect("file");
        texts(&files.read(&before))
    }

    #[test]
    fn the_stub_is_replaced_by_its_resolvers() {
        let stub = "nameserver 127.0.0.53\noptions edns0 trust-ad\n";
        assert_eq!(resolvers(stub, "nameserver 192.0.2.1\n"), ["192.0.2.1:53"]);
        assert_eq!(resolvers(stub, ""), ["127.0.0.53:53"]);
        assert_eq!(
            resolvers("nameserver 192.0.2.2\n", "nameserver 192.0.2.1\n"),
            ["192.0.2.2:53"]
        );
        assert_eq!(resolvers("", ""), ["127.0.0.1:53"]);
    }
    #[test]
    fn where_none_are_named_those_of_before_stay() {
        let stub = "nameserver 127.0.0.53\n";
        let before = &["192.0.2.1:53"][..];
        assert_eq!(resolvers_after(before, "", ""), before);
        assert_eq!(
            resolvers_after(before, "# none\n", "nameserver 192.0.2.2\n"),
            before
        );
        assert_eq!(
            resolvers_after(before, stub, "# No DNS servers known.\n"),
            before
        );
        let named = resolvers_after(before, "nameserver 127.0.0.1\n", "");
        assert_eq!(named, ["127.0.0.1:53"]);
        let behind = resolvers_after(before, stub, "nameserver 192.0.2.2\n");
        assert_eq!(behind, ["192.0.2.2:53"]);
        // At the start there was neither.
        assert_eq!(
            resolvers_after(&["127.0.0.1:53"], stub, ""),
            ["127.0.0.53:53"]
        );
    }
}
