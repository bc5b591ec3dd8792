//! Which process has a port, as `/proc` tells it.
//!
//! The kernel lists sockets with their inode, and each process's open files
//! name the inode. Reads only this network namespace; costs a few
//! milliseconds, so it is asked only when a port is taken.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::{Process, Transport};

/// State of a listening TCP socket, as the kernel writes it.
const LISTENING: &str = "0A";

/// Who listens on an address, or on all addresses with this port; none if it can't be seen.
pub fn holder(addr: SocketAddr, transport: Transport) -> Option<Process> {
    let tables = match transport {
        Transport::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Transport::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let links: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| inodes(&table, addr, transport))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if links.is_empty() {
        return None;
    }
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid| has_open(*pid, &links))
        .map(|pid| Process {
            pid,
            name: name_of(pid),
        })
}

fn has_open(pid: u32, links: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files.flatten().any(|file| {
        fs::read_link(file.path())
            .is_ok_and(|target| links.iter().any(|link| target == Path::new(link)))
    })
}

fn name_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// Inodes of the sockets in a `/proc/net` table that keep others from listening on `addr`.
fn inodes(table: &str, addr: SocketAddr, transport: Transport) -> Vec<u64> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let local = socket_addr(fields.nth(1)?)?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?.parse().ok()?;
            let ip = local.ip().to_canonical();
            let same_ip =
                ip == addr.ip().to_canonical() || ip.is_unspecified() || addr.ip().is_unspecified();
            let blocks = transport == Transport::Udp || state == LISTENING;
            (local.port() == addr.port() && same_ip && blocks).then_some(inode)
        })
        .collect()
}

/// `0100007F:0035`: each 32 bits of the address in the machine's byte order.
fn socket_addr(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = ip.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 010011AC:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0
   1: 0100007F:0035 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0
   2: 00000000:2710 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0
   cut off
";

    fn found(addr: &str, transport: Transport) -> Vec<u64> {
        inodes(TCP, addr.parse().expect("address"), transport)
    }

    #[test]
    fn listeners_are_found_and_connections_are_not() {
        assert_eq!(found("172.17.0.1:53", Transport::Tcp), [101]);
        assert_eq!(found("127.0.0.1:53", Transport::Tcp), Vec::<u64>::new());
        assert_eq!(found("127.0.0.1:53", Transport::Udp), [102]);
        assert_eq!(found("10.1.2.3:10000", Transport::Tcp), [103]);
        assert_eq!(found("0.0.0.0:53", Transport::Tcp), [101]);
    }

    #[test]
    fn addresses_are_read_in_both_lengths() {
        assert_eq!(
            socket_addr("0100007F:0035"),
            Some("127.0.0.1:53".parse().expect("address"))
        );
        assert_eq!(
            socket_addr("00000000000000000000000001000000:0FA1"),
            Some("[::1]:4001".parse().expect("address"))
        );
        assert_eq!(socket_addr("0100007F"), None);
        assert_eq!(socket_addr("xyz:0035"), None);
    }
}
