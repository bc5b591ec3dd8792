//! Binding, with errors that name the cause. Nothing is retried here: the caller decides.
//!
//! Sockets are non-blocking and closed on exec.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use manifests::manifest::Protocol;
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use socket2::{Domain, Socket, Type};
use tokio::sync::watch;

use crate::sockets::{Process, holder};

/// Connections that the kernel queues for a busy listener.
const BACKLOG: i32 = 1024;
/// Octets of packets that wait in a UDP socket, with the kernel's own of each.
const RECEIVED: usize = 1 << 20;
/// First and longest delay between attempts to bind.
pub const BIND_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Cause of a failed bind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The port is in use, by this process if it can be seen: another user's only by root.
    Taken(Option<Process>),
    /// No interface has the address, or not yet.
    NoSuchAddress,
    /// A privileged port.
    Denied,
    /// Any other error, as text.
    Other(String),
}

/// An address that can't be listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// The address.
    pub addr: SocketAddr,
    /// The transport.
    pub protocol: Protocol,
    /// The cause.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            addr,
            protocol,
            reason,
        } = self;
        match reason {
            Reason::Taken(Some(by)) => write!(f, "{addr}/{protocol} is taken by {by}"),
            Reason::Taken(None) => write!(f, "{addr}/{protocol} is taken by another process"),
            Reason::NoSuchAddress => {
                write!(
                    f,
                    "{addr}/{protocol}: no interface has the address {}",
                    addr.ip()
                )
            }
            Reason::Denied => write!(f, "{addr}/{protocol}: permission denied"),
            Reason::Other(text) => write!(f, "{addr}/{protocol}: {text}"),
        }
    }
}

impl Problem {
    pub(crate) fn new(addr: SocketAddr, protocol: Protocol, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::AddrInUse => Reason::Taken(holder(addr, protocol)),
            io::ErrorKind::AddrNotAvailable => Reason::NoSuchAddress,
            io::ErrorKind::PermissionDenied => Reason::Denied,
            _ => Reason::Other(error.to_string()),
        };
        Self {
            addr,
            protocol,
            reason,
        }
    }
}

/// Shows the current problems of a listener; each new one is passed to `log` once.
pub fn publish(shown: &watch::Sender<Vec<Problem>>, now: Vec<Problem>, log: impl Fn(&Problem)) {
    shown.send_if_modified(|shown| {
        now.iter().filter(|new| !shown.contains(new)).for_each(log);
        let changed = *shown != now;
        *shown = now;
        changed
    });
}

/// Binds a TCP listener. The search for the holder of a taken port blocks on `/proc`.
pub fn tcp(addr: SocketAddr) -> Result<std::net::TcpListener, Problem> {
    bind(addr, Protocol::Tcp).map(Into::into)
}

/// Binds a socket.
pub(crate) fn bind(addr: SocketAddr, protocol: Protocol) -> Result<Socket, Problem> {
    open(addr, protocol).map_err(|error| Problem::new(addr, protocol, &error))
}

/// Another UDP socket at the address of one that is bound: each client's packets go to one of them.
///
/// The first is bound alone, so that an address that somebody else has is a [`Problem`] and not shared.
pub(crate) fn beside(first: &Socket, addr: SocketAddr) -> io::Result<Socket> {
    first.set_reuse_port(true)?;
    let socket = unbound(addr, Protocol::Udp)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn open(addr: SocketAddr, protocol: Protocol) -> io::Result<Socket> {
    let socket = unbound(addr, protocol)?;
    if protocol == Protocol::Tcp {
        // Connections of a former process in TIME_WAIT must not keep the port.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&addr.into())?;
    if protocol == Protocol::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn unbound(addr: SocketAddr, protocol: Protocol) -> io::Result<Socket> {
    let (kind, of) = match protocol {
        Protocol::Tcp => (Type::STREAM, socket2::Protocol::TCP),
        Protocol::Udp => (Type::DGRAM, socket2::Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(addr), kind, Some(of))?;
    if addr.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners.
        socket.set_only_v6(true)?;
    }
    if addr.ip().is_loopback() {
        // Packets for 127.0.0.1 that arrive on another interface (a bridge with `route_localnet`) find no socket.
        // Kernels before 5.7 want a capability for it; the acceptor checks again.
        let _ = socket.bind_device(Some(b"lo"));
    }
    if protocol == Protocol::Udp {
        // The default holds some 270 packets, 5 ms of a busy service: a pause that is longer would lose some. Above the
        // system's limit only root may go.
        let _ = set_socket_recv_buffer_size_force(&socket, RECEIVED)
            .or_else(|_| set_socket_recv_buffer_size(&socket, RECEIVED));
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn me() -> Process {
        let name = std::fs::read_to_string("/proc/self/comm").expect("own name");
        Process {
            pid: std::process::id(),
            name: name.trim().to_owned(),
        }
    }

    fn any() -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let first = tcp(any()).expect("free port");
        let addr = first.local_addr().expect("bound");
        let problem = tcp(addr).expect_err("taken");
        assert_eq!(problem.reason, Reason::Taken(Some(me())));
        assert_eq!(
            problem.to_string(),
            format!("{addr}/tcp is taken by {}", me())
        );
        drop(first);
        tcp(addr).expect("free again");

        let first = bind(any(), Protocol::Udp).expect("free port");
        let addr = first
            .local_addr()
            .expect("bound")
            .as_socket()
            .expect("an address");
        let problem = bind(addr, Protocol::Udp).expect_err("taken");
        assert_eq!(problem.reason, Reason::Taken(Some(me())));
        assert!(problem.to_string().contains("/udp is taken by "));
    }

    #[test]
    fn packets_wait_in_a_socket_while_nobody_reads_it() {
        let socket: std::net::UdpSocket = bind(any(), Protocol::Udp).expect("free port").into();
        let addr = socket.local_addr().expect("bound");
        let client = std::net::UdpSocket::bind(any()).expect("a client");
        let sent = 1_000;
        for _ in 0..sent {
            client.send_to(&[0; 100], addr).expect("sent");
        }
        let received = || socket.recv_from(&mut [0; 100]).is_ok();
        let waiting = std::iter::repeat_with(received).take_while(|it| *it);
        let root = rustix::process::geteuid().is_root();
        assert!(waiting.count() == sent || !root);
    }

    #[test]
    fn a_wildcard_listener_is_found_too() {
        let first = tcp((Ipv4Addr::UNSPECIFIED, 0).into()).expect("free port");
        let port = first.local_addr().expect("bound").port();
        let problem = tcp((Ipv4Addr::LOCALHOST, port).into()).expect_err("taken");
        assert_eq!(problem.reason, Reason::Taken(Some(me())));
    }

    #[test]
    fn an_address_that_no_interface_has() {
        // TEST-NET-1, RFC 5737.
        let problem =
            bind((Ipv4Addr::new(192, 0, 2, 1), 0).into(), Protocol::Udp).expect_err("not ours");
        assert_eq!(problem.reason, Reason::NoSuchAddress);
        assert_eq!(
            problem.to_string(),
            "192.0.2.1:0/udp: no interface has the address 192.0.2.1"
        );
    }
}
