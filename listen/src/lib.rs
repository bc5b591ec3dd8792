//! Listening sockets: bound, or a problem with a name; and how connections are accepted.
//!
//! Every part of the agent that listens binds here, so that a taken port is
//! said in the same words everywhere, with the process that has it. Nothing
//! here is fatal and no bind is tried again: the caller decides. Sockets come back
//! non-blocking and close on exec. The process looks like `dnsmasq (pid 812)`
//! and is only as good as `/proc` shows it: another user's is seen by root.
//!
//! A socket on a loopback address takes packets of the loopback interface
//! only, whatever the machine routes; see [`Acceptor`] for what it accepts.

mod accept;
mod holder;
mod places;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};

pub use accept::{Accepted, Acceptor, WhenFull, reset, watch_peer};
pub use holder::holder;
pub use places::{Full, Limits, Place, Places, Work};

/// Connections that the kernel keeps for a listener that is busy.
const BACKLOG: i32 = 1024;

/// What a port number belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// What the kernel calls it.
    pub name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// Why an address can't be listened on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Somebody listens there; who, if it can be seen.
    Taken(Option<Process>),
    /// No interface has the address, or not yet.
    NoSuchAddress,
    /// The port is for root.
    Denied,
    /// What the kernel said.
    Other(String),
}

/// An address that can't be listened on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problem {
    /// Where.
    pub addr: SocketAddr,
    /// For what.
    pub transport: Transport,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            addr,
            transport,
            reason,
        } = self;
        match reason {
            Reason::Taken(Some(by)) => write!(f, "{addr}/{transport} is taken by {by}"),
            Reason::Taken(None) => write!(f, "{addr}/{transport} is taken by another process"),
            Reason::NoSuchAddress => {
                write!(
                    f,
                    "{addr}/{transport}: no interface has the address {}",
                    addr.ip()
                )
            }
            Reason::Denied => write!(f, "{addr}/{transport}: no right to listen on this port"),
            Reason::Other(text) => write!(f, "{addr}/{transport}: {text}"),
        }
    }
}

/// A listener for connections.
pub fn tcp(addr: SocketAddr) -> Result<TcpListener, Problem> {
    let bind = || -> io::Result<Socket> {
        let socket = socket(addr, Transport::Tcp)?;
        // Connections of a former process that linger must not keep the port.
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    bind()
        .map(Into::into)
        .map_err(|error| problem(addr, Transport::Tcp, &error))
}

/// A socket for datagrams.
pub fn udp(addr: SocketAddr) -> Result<UdpSocket, Problem> {
    let bind = || -> io::Result<Socket> {
        let socket = socket(addr, Transport::Udp)?;
        socket.bind(&addr.into())?;
        Ok(socket)
    };
    bind()
        .map(Into::into)
        .map_err(|error| problem(addr, Transport::Udp, &error))
}

fn socket(addr: SocketAddr, transport: Transport) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(addr), kind, Some(protocol))?;
    if addr.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners.
        socket.set_only_v6(true)?;
    }
    if addr.ip().is_loopback() {
        bind_to_loopback(&socket);
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Packets for 127.0.0.1 that come by another interface (a bridge with `route_localnet`) find no socket.
fn bind_to_loopback(socket: &Socket) {
    // Where it is refused (kernels before 5.7 want a capability), what is accepted is still looked at.
    let _ = socket.bind_device(Some(b"lo"));
}

fn problem(addr: SocketAddr, transport: Transport, error: &io::Error) -> Problem {
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => Reason::Taken(holder(addr, transport)),
        io::ErrorKind::AddrNotAvailable => Reason::NoSuchAddress,
        io::ErrorKind::PermissionDenied => Reason::Denied,
        _ => Reason::Other(error.to_string()),
    };
    Problem {
        addr,
        transport,
        reason,
    }
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
    fn a_taken_port_names_who_has_it() {
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

        let first = udp(any()).expect("free port");
        let addr = first.local_addr().expect("bound");
        let problem = udp(addr).expect_err("taken");
        assert_eq!(problem.reason, Reason::Taken(Some(me())));
        assert!(problem.to_string().contains("/udp is taken by "));
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
        let problem = udp((Ipv4Addr::new(192, 0, 2, 1), 0).into()).expect_err("not ours");
        assert_eq!(problem.reason, Reason::NoSuchAddress);
        assert_eq!(
            problem.to_string(),
            "192.0.2.1:0/udp: no interface has the address 192.0.2.1"
        );
    }
}
