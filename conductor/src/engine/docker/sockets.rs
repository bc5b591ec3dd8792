//! Which sockets listen in a container's network namespace, read from `/proc/<pid>/net`.
//!
//! Nothing is connected to: a bare connect is an error to many a server.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conductor_core::observed::ContainerPort;
use manifests::manifest::Protocol;

use crate::engine::{EngineError, Listening};

/// State of a listening TCP socket.
const LISTEN: &str = "0A";
/// State of a UDP socket that is bound and not connected.
const UNCONNECTED: &str = "07";

const FILES: [(&str, Protocol); 4] = [
    ("tcp", Protocol::Tcp),
    ("tcp6", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("udp6", Protocol::Udp),
];

pub(super) async fn read(pid: u32) -> Result<Listening, EngineError> {
    let reading = tokio::task::spawn_blocking(move || {
        let mut ports = BTreeSet::new();
        let mut readable = false;
        for (file, protocol) in FILES {
            // A kernel without IPv6 has no tcp6 and udp6.
            if let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/net/{file}")) {
                readable = true;
                ports.extend(parse(&text, protocol));
            }
        }
        readable.then_some(Listening { ports })
    });
    reading
        .await
        .ok()
        .flatten()
        .ok_or_else(|| EngineError::NotFound(format!("process {pid} is gone")))
}

/// The ports in one such file that are reached from outside the container.
fn parse(text: &str, protocol: Protocol) -> impl Iterator<Item = ContainerPort> + '_ {
    let wanted = match protocol {
        Protocol::Tcp => LISTEN,
        Protocol::Udp => UNCONNECTED,
    };
    text.lines().skip(1).filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        if state != wanted {
            return None;
        }
        let (address, port) = local.split_once(':')?;
        let outside = !is_loopback(self::address(address)?);
        outside.then_some(ContainerPort {
            port: u16::from_str_radix(port, 16).ok()?,
            protocol,
        })
    })
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|a| a.is_loopback())
        }
    }
}

/// The kernel writes each 32-bit word of an address in the machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |text: &str| Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(hex)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(hex.get(index * 8..index * 8 + 8)?)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00007F:91A7 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26510 1 0000000000000000 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26585 1 0000000000000000 100 0 0 10 0
   2: 020011AC:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 26586 1 0000000000000000 100 0 0 10 0
   3: 020011AC:8D2C 0100A8C0:01BB 01 00000000:00000000 00:00000000 00000000     0        0 26587 1 0000000000000000 100 0 0 10 0
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 27001 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:0C38 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 27002 1 0000000000000000 100 0 0 10 0
   2: 0000000000000000FFFF00000100007F:0C39 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 27003 1 0000000000000000 100 0 0 10 0
";
    const UDP: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  471: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 28001 2 0000000000000000 0
  472: 020011AC:A1B2 0100A8C0:0035 01 00000000:00000000 00:00000000 00000000     0        0 28002 2 0000000000000000 0
  473: 0B00007F:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 28003 2 0000000000000000 0
";

    fn ports(text: &str, protocol: Protocol) -> Vec<u16> {
        parse(text, protocol).map(|found| found.port).collect()
    }

    #[test]
    fn listening_sockets_count_unless_they_are_on_loopback() {
        assert_eq!(ports(TCP, Protocol::Tcp), [80, 8080]);
        assert_eq!(ports(TCP6, Protocol::Tcp), [443]);
        assert_eq!(ports(UDP, Protocol::Udp), [53]);
    }

    #[test]
    fn what_cannot_be_read_is_skipped() {
        for text in [
            "",
            "header\n",
            "header\n  0: xyz 0 0A\n",
            "header\n 0: 00:1 0 0A\n",
        ] {
            assert_eq!(ports(text, Protocol::Tcp), [0_u16; 0]);
        }
    }

    #[tokio::test]
    async fn a_socket_of_this_process_is_seen_and_a_gone_process_is_not_found() {
        let here = std::net::TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = here.local_addr().expect("bound").port();
        let seen = read(std::process::id()).await.expect("our own");
        let wanted = ContainerPort {
            port,
            protocol: Protocol::Tcp,
        };
        assert!(seen.ports.contains(&wanted));
        // Above the largest pid there can be.
        assert!(matches!(
            read(5_000_000).await,
            Err(EngineError::NotFound(_))
        ));
    }
}
