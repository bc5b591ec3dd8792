//! Where other machines reach the API of this agent, for its host record.

use std::net::{IpAddr, SocketAddr};

/// Without loopback; an unspecified address stands for the host's own.
pub(super) fn reached_at(listening: &[SocketAddr], host_ip: IpAddr) -> Vec<SocketAddr> {
    let mut reached = Vec::new();
    for at in listening {
        let ip = match at.ip() {
            ip if ip.is_loopback() => continue,
            ip if !ip.is_unspecified() => ip,
            any if any.is_ipv4() == host_ip.is_ipv4() && !host_ip.is_loopback() => host_ip,
            _ => continue,
        };
        let at = SocketAddr::new(ip, at.port());
        if !reached.contains(&at) {
            reached.push(at);
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_left_out_and_any_address_is_the_hosts() {
        let host_ip = "10.0.0.7".parse().expect("an address");
        for (listening, expected) in [
            (vec!["127.0.0.1:4001", "[::1]:4001"], vec![]),
            (vec!["0.0.0.0:4001", "[::]:4001"], vec!["10.0.0.7:4001"]),
            (vec!["10.0.0.7:4001", "0.0.0.0:4001"], vec!["10.0.0.7:4001"]),
            (
                vec!["127.0.0.1:4001", "192.0.2.1:81", "[2001:db8::1]:82"],
                vec!["192.0.2.1:81", "[2001:db8::1]:82"],
            ),
        ] {
            let parsed = |all: &[&str]| -> Vec<SocketAddr> {
                all.iter()
                    .map(|at| at.parse().expect("an address"))
                    .collect()
            };
            assert_eq!(reached_at(&parsed(&listening), host_ip), parsed(&expected));
        }
    }
}
