//! Who may ask for names outside the zone, and whom the rate limit spares.

use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::str::FromStr;

use arc_swap::ArcSwap;
use tokio::sync::watch;

/// A network of addresses, such as `10.0.0.0/8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

/// Error of parsing a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Neither an address nor a network.
    #[error("`{0}` is not a network; expected an address and a prefix, such as `10.0.0.0/8`")]
    NotANetwork(String),
    /// Bits behind the prefix are set: one of the two is wrong.
    #[error("`{given}` is inside a network; expected `{network}`, or an address alone")]
    Inside {
        /// As it was given.
        given: String,
        /// The network that has it.
        network: Network,
    },
}

impl Network {
    /// The network of an address.
    pub(crate) fn of(ip: IpAddr, prefix: u8) -> Self {
        let first = match ip {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(ip) & mask).into())
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(ip) & mask).into())
            }
        };
        Self { first, prefix }
    }

    fn contains(self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.first.is_ipv4() && Self::of(ip, self.prefix) == self
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let not = || NetworkError::NotANetwork(text.to_owned());
        let (ip, prefix) = match text.split_once('/') {
            Some((ip, prefix)) => (ip, Some(prefix)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| not())?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| not())?,
            None => longest,
        };
        if prefix > longest {
            return Err(not());
        }
        let network = Self::of(ip, prefix);
        if network.first != ip {
            let given = text.to_owned();
            return Err(NetworkError::Inside { given, network });
        }
        Ok(network)
    }
}

/// Networks of this host's containers.
#[derive(Debug)]
struct Bridges {
    /// Those that the cluster's are made in: what their resolvers search for is found there.
    ours: Vec<Network>,
    others: Vec<Network>,
}

/// The clients of a server.
#[derive(Debug)]
pub(crate) struct Clients {
    /// Networks of this host's containers.
    bridges: ArcSwap<Bridges>,
    /// Others that may ask for names outside the zone.
    allowed: Vec<Network>,
    /// Addresses of this server.
    own: watch::Receiver<Vec<SocketAddr>>,
}

impl Clients {
    pub(crate) fn new(
        bridges: Vec<Network>,
        allowed: Vec<Network>,
        own: watch::Receiver<Vec<SocketAddr>>,
    ) -> Self {
        Self {
            bridges: ArcSwap::from_pointee(Bridges {
                ours: bridges,
                others: Vec::new(),
            }),
            allowed,
            own,
        }
    }

    pub(crate) fn set_bridges(&self, ours: Vec<Network>, others: Vec<Network>) {
        self.bridges.store(Bridges { ours, others }.into());
    }

    /// A process or a container of this host, as its address alone tells: most of them.
    pub(crate) fn is_near(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let bridges = self.bridges.load();
        ip.is_loopback() || has(&bridges.ours, ip) || has(&bridges.others, ip)
    }

    /// A process or a container of this host.
    pub(crate) fn is_of_this_host(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.is_near(ip) || self.own.borrow().iter().any(|own| own.ip() == ip) || is_local(ip)
    }

    /// A container of this host, in the network that they are made in.
    pub(crate) fn is_container(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        // The bridge's own address is the host's.
        has(&self.bridges.load().ours, ip) && !is_local(ip)
    }

    /// Names outside the zone are answered to it.
    pub(crate) fn is_served_others(&self, ip: IpAddr) -> bool {
        self.is_of_this_host(ip) || has(&self.allowed, ip.to_canonical())
    }
}

/// An address of this machine. Docker masquerades what a process of the host sends to the bridge's gateway, so a client
/// may have any of them.
pub(crate) fn is_local(ip: IpAddr) -> bool {
    let from = match ip {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    };
    // The way to an address of one's own begins there; nothing is sent.
    let begins = UdpSocket::bind((from, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    begins.is_ok_and(|begins| begins.ip() == ip)
}

fn has(networks: &[Network], ip: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        let network = |text: &&str| text.parse().expect("a network");
        texts.iter().map(network).collect()
    }

    #[test]
    fn a_network_is_an_address_or_one_with_a_prefix() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "::/0", "::1/128"] {
            assert_eq!(networks(&[text])[0].to_string(), text);
        }
        assert_eq!(networks(&["10.1.2.3"])[0].to_string(), "10.1.2.3/32");
        for wrong in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "/8",
            "x/8",
        ] {
            let error = wrong.parse::<Network>().expect_err(wrong);
            assert_eq!(error, NetworkError::NotANetwork(wrong.to_owned()));
        }
        let inside = "10.1.2.3/8".parse::<Network>().expect_err("inside");
        assert!(inside.to_string().contains("expected `10.0.0.0/8`"));
    }

    #[test]
    fn this_host_and_who_is_allowed_are_served_other_names() {
        let own = watch::Sender::new(vec!["10.0.0.1:53".parse().expect("address")]);
        let bridges = networks(&["172.17.0.0/16"]);
        let allowed = networks(&["10.0.1.0/24", "fd00::/8"]);
        let clients = Clients::new(bridges, allowed, own.subscribe());
        let of = |text: &str| {
            let ip = text.parse().expect("address");
            (clients.is_of_this_host(ip), clients.is_served_others(ip))
        };
        for near in [
            "127.0.0.1",
            "::1",
            "172.17.3.4",
            "::ffff:172.17.3.4",
            "10.0.0.1",
        ] {
            assert_eq!(of(near), (true, true), "{near}");
        }
        for allowed in ["10.0.1.255", "::ffff:10.0.1.1", "fd12::1"] {
            assert_eq!(of(allowed), (false, true), "{allowed}");
        }
        for other in [
            "10.0.0.2",
            "10.0.2.0",
            "172.18.3.4",
            "fe80::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(of(other), (false, false), "{other}");
        }
        clients.set_bridges(
            networks(&["172.18.0.0/16"]),
            networks(&["172.19.0.0/16", "fd00:19::/64"]),
        );
        for near in ["172.18.3.4", "172.19.3.4", "fd00:19::2"] {
            assert_eq!(of(near), (true, true), "{near}");
        }
        assert_eq!(of("172.17.3.4"), (false, false));
        // Only in a network of ours a resolver searches.
        let is_container = |text: &str| clients.is_container(text.parse().expect("address"));
        assert!(is_container("172.18.3.4") && !is_container("172.19.3.4"));
    }

    #[test]
    fn the_network_of_containers_has_the_host_in_it() {
        let own = watch::Sender::new(Vec::new());
        let clients = Clients::new(
            networks(&["127.0.0.0/8", "198.51.100.0/24"]),
            networks(&["10.0.0.0/8"]),
            own.subscribe(),
        );
        for (addr, is_container) in [
            ("198.51.100.7", true),
            ("::ffff:198.51.100.7", true),
            ("127.0.0.1", false),
            ("10.0.0.7", false),
            ("192.0.2.1", false),
        ] {
            let addr = addr.parse().expect("address");
            assert_eq!(clients.is_container(addr), is_container, "{addr}");
        }
    }

    #[test]
    fn an_address_of_this_machine_is_told_from_others() {
        for (addr, here) in [
            ("127.0.0.1", true),
            ("198.51.100.7", false),
            ("2001:db8::7", false),
        ] {
            assert_eq!(is_local(addr.parse().expect("address")), here, "{addr}");
        }
    }
}
