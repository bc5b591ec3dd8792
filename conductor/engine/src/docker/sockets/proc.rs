//! The tables of sockets in `/proc/<pid>/net`. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use manifests::manifest::Protocol;

/// State of a listening TCP socket.
const LISTEN: &str = "0A";
/// State of a UDP socket that is bound and not connected.
const UNCONNECTED: &str = "07";

/// The local addresses of the sockets in such a table that take traffic.
pub(super) fn parse(text: &str, protocol: Protocol) -> impl Iterator<Item = SocketAddr> + '_ {
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
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(SocketAddr::new(self::address(address)?, port))
    })
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

    fn seen(text: &str, protocol: Protocol) -> Vec<String> {
        parse(text, protocol)
            .map(|found| found.to_string())
            .collect()
    }

    #[test]
    fn sockets_that_listen_or_are_bound_are_found() {
        assert_eq!(
            seen(TCP, Protocol::Tcp),
            ["127.0.0.11:37287", "0.0.0.0:80", "172.17.0.2:8080"]
        );
        assert_eq!(
            seen(TCP6, Protocol::Tcp),
            ["[::]:443", "[::1]:3128", "[::ffff:127.0.0.1]:3129"]
        );
        assert_eq!(seen(UDP, Protocol::Udp), ["0.0.0.0:53", "127.0.0.11:67"]);
    }

    #[test]
    fn what_cannot_be_read_is_skipped() {
        for text in [
            "",
            "header\n",
            "header\n  0: xyz 0 0A\n",
            "header\n 0: 00:1 0 0A\n",
        ] {
            assert_eq!(seen(text, Protocol::Tcp), [""; 0]);
        }
    }
}
