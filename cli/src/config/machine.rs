//! What the machine says where no flag does.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::ops::RangeInclusive;

/// Defaults that depend on the machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) hostname: String,
    /// Source address of the default route.
    pub(crate) route_source: Option<IpAddr>,
    /// Ephemeral ports of the kernel.
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
