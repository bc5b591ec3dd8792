//! Sockets as `/proc/<pid>/net` lists them, and the process that holds one.
//!
//! The kernel lists sockets with their inode, and the open files of each
//! process name the inode.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use manifests::manifest::Protocol;

/// `TCP_LISTEN`.
const LISTEN: &str = "0A";
/// `TCP_ESTABLISHED`, which a connected UDP socket has too.
const ESTABLISHED: &str = "01";
/// `TCP_CLOSE`, which a bound, unconnected UDP socket has.
const CLOSE: &str = "07";

/// A row of a table of sockets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Local address.
    pub local: SocketAddr,
    /// Address of the peer, unspecified if there is none.
    pub peer: SocketAddr,
    /// Inode, as in `/proc/<pid>/fd`.
    pub inode: u64,
    /// Takes traffic from anybody: listens (TCP), or is bound and not connected (UDP).
    pub listens: bool,
    /// Is connected.
    pub connected: bool,
}

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its command name.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The IPv4 or IPv6 sockets in the network namespace of a process: a pid or `self`.
pub fn read(process: &str, protocol: Protocol, v6: bool) -> io::Result<Vec<Socket>> {
    let suffix = if v6 { "6" } else { "" };
    let table = fs::read_to_string(format!("/proc/{process}/net/{protocol}{suffix}"))?;
    Ok(parse(&table, protocol))
}

/// Inodes of the sockets that a process, a pid or `self`, has open; none if they can't be seen.
pub fn open_inodes(process: &str) -> BTreeSet<u64> {
    let files = fs::read_dir(format!("/proc/{process}/fd"));
    let links = files.into_iter().flatten().flatten();
    links
        .filter_map(|file| fs::read_link(file.path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            inode.parse().ok()
        })
        .collect()
}

/// The process that keeps others from listening on an address, if it can be seen.
///
/// Sees this network namespace only. Reads all of `/proc`, some milliseconds.
pub(crate) fn holder(addr: SocketAddr, protocol: Protocol) -> Option<Process> {
    let inodes: BTreeSet<u64> = [false, true]
        .into_iter()
        .filter_map(|v6| read("self", protocol, v6).ok())
        .flatten()
        .filter(|socket| blocks(socket, addr, protocol))
        .map(|socket| socket.inode)
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pid: u32 = processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .find(|pid: &u32| !open_inodes(&pid.to_string()).is_disjoint(&inodes))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Process {
        pid,
        name: name.trim().to_owned(),
    })
}

fn blocks(socket: &Socket, addr: SocketAddr, protocol: Protocol) -> bool {
    let (ip, wanted) = (socket.local.ip().to_canonical(), addr.ip().to_canonical());
    socket.local.port() == addr.port()
        && (ip == wanted || ip.is_unspecified() || wanted.is_unspecified())
        && (socket.listens || protocol == Protocol::Udp)
}

fn parse(table: &str, protocol: Protocol) -> Vec<Socket> {
    let listening = match protocol {
        Protocol::Tcp => LISTEN,
        Protocol::Udp => CLOSE,
    };
    let row = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Socket {
            local: socket_addr(local)?,
            peer: socket_addr(peer)?,
            listens: state == listening,
            connected: state == ESTABLISHED,
            inode: fields.nth(5)?.parse().ok()?,
        })
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// `0100007F:0035`: each 32 bits of the address in the machine's byte order.
fn socket_addr(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
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
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
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
   3: xyz 0 0A
   4: 00:1 0 0A
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
";

    fn blocking(addr: &str, protocol: Protocol) -> Vec<u64> {
        let addr = addr.parse().expect("address");
        let sockets = parse(TCP, protocol).into_iter();
        let blocking = sockets.filter(|socket| blocks(socket, addr, protocol));
        blocking.map(|socket| socket.inode).collect()
    }

    #[test]
    fn listeners_block_an_address_and_connections_do_not() {
        assert_eq!(blocking("172.17.0.1:53", Protocol::Tcp), [101]);
        assert_eq!(blocking("127.0.0.1:53", Protocol::Tcp), [0; 0]);
        assert_eq!(blocking("127.0.0.1:53", Protocol::Udp), [102]);
        assert_eq!(blocking("10.1.2.3:10000", Protocol::Tcp), [103]);
        assert_eq!(blocking("0.0.0.0:53", Protocol::Tcp), [101]);
    }

    fn listening(table: &str, protocol: Protocol) -> Vec<String> {
        let sockets = parse(table, protocol).into_iter();
        let listening = sockets.filter(|socket| socket.listens);
        listening.map(|socket| socket.local.to_string()).collect()
    }

    #[test]
    fn listening_and_bound_sockets_are_found_in_every_table() {
        use Protocol::{Tcp, Udp};
        assert_eq!(listening(TCP, Tcp), ["172.17.0.1:53", "0.0.0.0:10000"]);
        assert_eq!(
            listening(TCP6, Tcp),
            ["[::]:443", "[::1]:3128", "[::ffff:127.0.0.1]:3129"]
        );
        assert_eq!(listening(UDP, Udp), ["0.0.0.0:53"]);
        assert_eq!(parse(UDP, Udp)[1].peer.to_string(), "192.168.0.1:53");
        assert_eq!(listening("", Tcp), [""; 0]);
    }
}
