//! Which ports listen in a container's network namespace, and how many connections they have: asked of the kernel by
//! `sock_diag(7)`.
//!
//! A netlink socket belongs to the namespace in which it was made. It is made once
//! for each process, on a thread that enters the namespace, and kept: a look is
//! then a few system calls. Where that can't be had, `/proc/<pid>/net` is read: the
//! same answer, but the kernel walks its table of all connections for it. Nothing
//! is connected to: a bare connect is an error to many a server.

mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use listen::sockets;
use manifests::manifest::Protocol;
use model::observed::ContainerPort;
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use self::message::{AnswerError, Family, Wanted};
use crate::EngineError;
use crate::netns::{EnterError, inside};

/// What the kernel sends at once is at most 32 KiB.
const PART: usize = 32 * 1024;
/// The kernel answers at once; whatever happens, the thread ends.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether this process has learnt that it can't have `sock_diag`.
static DENIED: AtomicBool = AtomicBool::new(false);

/// The sockets through which namespaces are asked, by process. One keeps its namespace: `retain` lets them go.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    known: Mutex<BTreeMap<u32, Namespace>>,
    /// What the kernel's answers are read into, one look at a time.
    part: Mutex<Vec<u8>>,
}

#[derive(Debug)]
struct Namespace {
    /// Of the namespace: a process id may be another process's by now.
    inode: u64,
    socket: OwnedFd,
}

impl Namespaces {
    /// The wanted ports that are reached from outside the container.
    pub(super) async fn listening(
        &self,
        pid: u32,
        wanted: &BTreeSet<ContainerPort>,
    ) -> Result<BTreeSet<ContainerPort>, EngineError> {
        let ask = |socket: &OwnedFd, part: &mut Vec<u8>| by_sock_diag(socket, wanted, part);
        let for_proc = wanted.clone();
        self.see(pid, ask, move || by_proc(pid, &for_proc)).await
    }

    /// How many connections these ports have from outside the container.
    pub(super) async fn connections(
        &self,
        pid: u32,
        ports: &BTreeSet<u16>,
    ) -> Result<u32, EngineError> {
        let ask = |socket: &OwnedFd, part: &mut Vec<u8>| {
            let mut sequence = 0;
            count(ports, |family, each| {
                sequence += 1;
                asked(socket, part, sequence, Wanted::Connected, family, each)
            })
        };
        let for_proc = ports.clone();
        let read = move || {
            count(&for_proc, |family, each| {
                let sockets = sockets::read(&pid.to_string(), Protocol::Tcp, family == Family::V6)?;
                let connected = sockets.iter().filter(|socket| socket.connected);
                connected.for_each(|socket| each(socket.local));
                Ok(())
            })
        };
        self.see(pid, ask, read).await
    }

    /// Asks by `sock_diag`, and where that can't be had reads `/proc`.
    async fn see<T: Send + 'static>(
        &self,
        pid: u32,
        ask: impl FnOnce(&OwnedFd, &mut Vec<u8>) -> io::Result<T>,
        read: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, EngineError> {
        if !DENIED.load(Ordering::Relaxed) {
            let error = match self.ask(pid, ask).await {
                Ok(seen) => return Ok(seen),
                Err(error) if is_gone(&error) => return Err(unread(pid, &error)),
                Err(error) => error,
            };
            if is_denial(&error) && !DENIED.swap(true, Ordering::Relaxed) {
                tracing::info!(%error, "no sock_diag here: sockets are read from /proc");
            }
        }
        let reading = tokio::task::spawn_blocking(read);
        let read = reading.await.unwrap_or_else(|ended| Err(ended.into()));
        read.map_err(|error| unread(pid, &error))
    }

    /// Lets the namespaces of all other processes go.
    pub(super) fn retain(&self, running: impl Fn(u32) -> bool) {
        self.lock().retain(|pid, _| running(*pid));
    }

    async fn ask<T>(
        &self,
        pid: u32,
        ask: impl FnOnce(&OwnedFd, &mut Vec<u8>) -> io::Result<T>,
    ) -> io::Result<T> {
        let inode = std::fs::metadata(format!("/proc/{pid}/ns/net"))?.ino();
        // Taken out meanwhile: an answer that was not read to its end is no other look's.
        let known = self
            .lock()
            .remove(&pid)
            .filter(|known| known.inode == inode);
        let socket = match known {
            Some(known) => known.socket,
            None => match inside(pid, "sockets", open_here).await {
                Ok(opened) => opened?,
                Err(EnterError::Enter { source, .. } | EnterError::Thread(source)) => {
                    return Err(source);
                }
            },
        };
        let seen = ask(&socket, &mut lock(&self.part))?;
        self.lock().insert(pid, Namespace { inode, socket });
        Ok(seen)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Namespace>> {
        lock(&self.known)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why nothing could be seen. That this process lacks descriptors or memory says nothing about the container.
fn unread(pid: u32, error: &io::Error) -> EngineError {
    if is_gone(error) {
        EngineError::NotFound(format!("process {pid} is gone"))
    } else {
        EngineError::Engine(format!(
            "the sockets of process {pid} can't be read: {error}"
        ))
    }
}

/// The process has ended.
fn is_gone(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::SRCH].contains(&errno(error))
}

/// Asking again will not help: a kernel without it, or no right to it.
fn is_denial(error: &io::Error) -> bool {
    [
        Errno::NOENT,
        Errno::OPNOTSUPP,
        Errno::PROTONOSUPPORT,
        Errno::AFNOSUPPORT,
        Errno::NOSYS,
        Errno::PERM,
        Errno::ACCESS,
    ]
    .contains(&errno(error))
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Goes through the tables that are needed for these ports. `table` tells the local address of each socket in one.
fn look(
    wanted: &BTreeSet<ContainerPort>,
    mut table: impl FnMut(Protocol, Family, &mut dyn FnMut(SocketAddr)) -> io::Result<()>,
) -> io::Result<BTreeSet<ContainerPort>> {
    let mut ports = BTreeSet::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        // An IPv6 socket takes IPv4 too, as a rule, so any of the two will do.
        for family in [Family::V4, Family::V6] {
            let is_open = |port: &ContainerPort| port.protocol == protocol && !ports.contains(port);
            if !wanted.iter().any(is_open) {
                break;
            }
            let read = table(protocol, family, &mut |local| {
                let port = ContainerPort {
                    port: local.port(),
                    protocol,
                };
                if !is_loopback(local.ip()) && wanted.contains(&port) {
                    ports.insert(port);
                }
            });
            match (read, family) {
                // A kernel without IPv6 has no such tables.
                (Err(error), Family::V6) if errno(&error) == Errno::NOENT => {}
                (read, _) => read?,
            }
        }
    }
    Ok(ports)
}

/// Counts the connections of these ports. `table` tells the local address of each one of a family.
fn count(
    ports: &BTreeSet<u16>,
    mut table: impl FnMut(Family, &mut dyn FnMut(SocketAddr)) -> io::Result<()>,
) -> io::Result<u32> {
    let mut open = 0;
    for family in [Family::V4, Family::V6] {
        let read = table(family, &mut |local| {
            open += u32::from(!is_loopback(local.ip()) && ports.contains(&local.port()));
        });
        match (read, family) {
            // A kernel without IPv6 has no such table.
            (Err(error), Family::V6) if errno(&error) == Errno::NOENT => {}
            (read, _) => read?,
        }
    }
    Ok(open)
}

fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback(),
        IpAddr::V6(address) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|a| a.is_loopback())
        }
    }
}

/// A socket into the network namespace of the calling thread.
fn open_here() -> io::Result<OwnedFd> {
    let socket = net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(net::netlink::SOCK_DIAG),
    )?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
    // To the kernel: what processes of the container send here is turned away.
    net::connect(&socket, &net::netlink::SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

/// The kernel answers within the calls that ask it: nothing is waited for.
fn by_sock_diag(
    socket: &OwnedFd,
    wanted: &BTreeSet<ContainerPort>,
    part: &mut Vec<u8>,
) -> io::Result<BTreeSet<ContainerPort>> {
    let mut sequence = 0;
    let mut ports = BTreeSet::new();
    // Most servers listen at any address: that is one lookup for the kernel, and no walk of its table.
    for port in wanted.iter().filter(|port| port.protocol == Protocol::Tcp) {
        sequence += 1;
        if listens_anywhere(socket, part, sequence, port.port)? {
            ports.insert(*port);
        }
    }
    let others = wanted.difference(&ports).copied().collect();
    ports.extend(look(&others, |protocol, family, each| {
        sequence += 1;
        asked(socket, part, sequence, Wanted::Open(protocol), family, each)
    })?);
    Ok(ports)
}

/// Whether somebody listens on this TCP port, for all addresses.
fn listens_anywhere(
    socket: &OwnedFd,
    part: &mut Vec<u8>,
    sequence: u32,
    port: u16,
) -> io::Result<bool> {
    part.resize(PART, 0);
    let request = message::request_listener(sequence, port);
    retry_on_intr(|| net::send(socket, &request, SendFlags::empty()))?;
    let wanted = Wanted::Open(Protocol::Tcp);
    let mut found = false;
    while !found {
        match receive(socket, part, sequence, wanted, &mut |_| found = true) {
            Ok(_) => {}
            Err(error) if errno(&error) == Errno::NOENT => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// One question and its answer.
fn asked(
    socket: &OwnedFd,
    part: &mut Vec<u8>,
    sequence: u32,
    wanted: Wanted,
    family: Family,
    each: &mut dyn FnMut(SocketAddr),
) -> io::Result<()> {
    part.resize(PART, 0);
    let request = message::request(sequence, wanted, family);
    retry_on_intr(|| net::send(socket, &request, SendFlags::empty()))?;
    while !receive(socket, part, sequence, wanted, each)? {}
    Ok(())
}

/// One part of an answer; whether it was the last.
fn receive(
    socket: &OwnedFd,
    part: &mut [u8],
    sequence: u32,
    wanted: Wanted,
    each: &mut dyn FnMut(SocketAddr),
) -> io::Result<bool> {
    // Says the whole length also of what was cut off.
    let (_, length) = retry_on_intr(|| net::recv(socket, &mut *part, RecvFlags::TRUNC))?;
    let read = part
        .get(..length)
        .filter(|bytes| !bytes.is_empty())
        .ok_or(AnswerError::Malformed)
        .and_then(|bytes| message::read_part(bytes, sequence, wanted, each));
    read.map_err(|error| match error {
        AnswerError::Refused(code) => io::Error::from_raw_os_error(code),
        AnswerError::Malformed => io::ErrorKind::InvalidData.into(),
    })
}

fn by_proc(pid: u32, wanted: &BTreeSet<ContainerPort>) -> io::Result<BTreeSet<ContainerPort>> {
    look(wanted, |protocol, family, each| {
        let sockets = sockets::read(&pid.to_string(), protocol, family == Family::V6)?;
        let listening = sockets.iter().filter(|socket| socket.listens);
        listening.for_each(|socket| each(socket.local));
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn port(port: u16, protocol: Protocol) -> ContainerPort {
        ContainerPort { port, protocol }
    }

    /// What is seen of the wanted ports, and which tables were read for it.
    fn seen(wanted: &[(u16, Protocol)]) -> (Vec<String>, Vec<&'static str>) {
        let wanted = wanted
            .iter()
            .map(|(number, protocol)| port(*number, *protocol));
        let mut read = Vec::new();
        let ports = look(&wanted.collect(), |protocol, family, each| {
            let (name, sockets): (_, &[&str]) = match (protocol, family) {
                (Protocol::Tcp, Family::V4) => (
                    "tcp",
                    &[
                        "127.0.0.11:91",
                        "0.0.0.0:80",
                        "172.17.0.2:8080",
                        "127.0.0.1:443",
                    ],
                ),
                (Protocol::Tcp, Family::V6) => (
                    "tcp6",
                    &["[::]:443", "[::1]:3128", "[::ffff:127.0.0.1]:3129"],
                ),
                (Protocol::Udp, Family::V4) => ("udp", &["0.0.0.0:53", "127.0.0.11:67"]),
                (Protocol::Udp, Family::V6) => {
                    read.push("udp6");
                    return Err(Errno::NOENT.into());
                }
            };
            read.push(name);
            for socket in sockets {
                each(socket.parse().expect("an address"));
            }
            Ok(())
        });
        let ports = ports.expect("looked");
        (ports.iter().map(ToString::to_string).collect(), read)
    }

    #[test]
    fn listening_sockets_count_unless_they_are_on_loopback() {
        use Protocol::{Tcp, Udp};
        let all = [80, 91, 443, 3128, 3129, 8080].map(|number| (number, Tcp));
        let (ports, _) = seen(&[all.as_slice(), &[(53, Udp), (67, Udp), (80, Udp)]].concat());
        assert_eq!(ports, ["53/udp", "80/tcp", "443/tcp", "8080/tcp"]);
    }

    #[test]
    fn only_the_tables_that_are_needed_are_read() {
        use Protocol::{Tcp, Udp};
        assert_eq!(seen(&[]).1, [""; 0]);
        assert_eq!(seen(&[(80, Tcp), (8080, Tcp)]).1, ["tcp"]);
        assert_eq!(seen(&[(80, Tcp), (443, Tcp)]).1, ["tcp", "tcp6"]);
        assert_eq!(seen(&[(53, Udp), (443, Tcp)]).1, ["tcp", "tcp6", "udp"]);
        // Without IPv6 in the kernel, nothing listens there.
        let (ports, read) = seen(&[(54, Udp)]);
        assert_eq!((ports.len(), read), (0, vec!["udp", "udp6"]));
    }

    #[test]
    fn a_table_that_can_t_be_read_is_an_error() {
        for (family, error) in [(Family::V4, Errno::NOENT), (Family::V6, Errno::PERM)] {
            let wanted = [port(80, Protocol::Tcp)].into();
            let looked = look(&wanted, |_, of, _| {
                if of == family {
                    Err(error.into())
                } else {
                    Ok(())
                }
            });
            let looked = looked.expect_err("not readable");
            assert!(is_denial(&looked), "{looked}");
        }
        assert!(!is_denial(&io::ErrorKind::InvalidData.into()));
        assert!(!is_denial(&Errno::MFILE.into()));
    }

    #[test]
    fn what_could_not_be_read_is_not_gone() {
        let unread = |error: Errno| super::unread(7, &error.into());
        for gone in [Errno::NOENT, Errno::SRCH] {
            assert!(matches!(unread(gone), EngineError::NotFound(_)), "{gone}");
        }
        for error in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS] {
            let said = unread(error);
            assert!(matches!(said, EngineError::Engine(_)), "{error}: {said}");
        }
    }

    #[test]
    fn connections_of_the_ports_count_unless_they_are_on_loopback() {
        let counted = count(&[80, 443].into(), |family, each| {
            let local: &[&str] = match family {
                Family::V4 => &["172.17.0.2:80", "172.17.0.2:8080", "127.0.0.1:80"],
                Family::V6 => &["[::ffff:172.17.0.2]:80", "[2001:db8::1]:443", "[::1]:443"],
            };
            for at in local {
                each(at.parse().expect("an address"));
            }
            Ok(())
        });
        assert_eq!(counted.expect("counted"), 3);
        let counted = count(&[80].into(), |family, each| match family {
            Family::V4 => {
                each(SocketAddr::from(([10, 0, 0, 1], 80)));
                Ok(())
            }
            Family::V6 => Err(Errno::NOENT.into()),
        });
        assert_eq!(counted.expect("counted without IPv6"), 1);
        assert!(count(&[80].into(), |_, _| Err(Errno::PERM.into())).is_err());
    }

    #[tokio::test]
    async fn open_connections_are_counted_until_they_are_closed() {
        // An address of this machine beside loopback, where there is one.
        let way = UdpSocket::bind("0.0.0.0:0").expect("a port");
        let ours = way.connect("192.0.2.1:9").and_then(|()| way.local_addr());
        let Ok(ours) = ours.map(|local| local.ip()) else {
            return;
        };
        let server = TcpListener::bind("0.0.0.0:0").expect("a port");
        let port = server.local_addr().expect("bound").port();
        let (here, ports) = (std::process::id(), [port].into());
        let namespaces = Namespaces::default();
        let counted = async || namespaces.connections(here, &ports).await.expect("our own");
        assert_eq!(counted().await, 0);
        let clients = [ours, ours, IpAddr::from([127, 0, 0, 1])];
        let clients = clients.map(|ip| TcpStream::connect((ip, port)).expect("connected"));
        assert_eq!(counted().await, 2);
        let served = clients.each_ref().map(|_| server.accept().expect("one"));
        drop((clients, served));
        assert_eq!(counted().await, 0);
    }

    #[test]
    fn a_listener_at_any_address_is_found_by_one_question() {
        let any = TcpListener::bind("0.0.0.0:0").expect("a port");
        let here = TcpListener::bind("127.0.0.1:0").expect("a port");
        // Where there is IPv6; it takes IPv4, too.
        let both = TcpListener::bind("[::]:0").ok();
        let port = |listener: &TcpListener| listener.local_addr().expect("bound").port();
        let socket = match open_here() {
            Ok(socket) => socket,
            Err(error) => {
                assert!(is_denial(&error), "{error}");
                return;
            }
        };
        let mut sequence = 0;
        let mut found = |port| {
            sequence += 1;
            listens_anywhere(&socket, &mut Vec::new(), sequence, port).expect("asked")
        };
        assert!(found(port(&any)));
        assert!(!found(port(&here)));
        assert!(both.as_ref().is_none_or(|both| found(port(both))));
        let closed = port(&any);
        drop(any);
        assert!(!found(closed));
    }

    #[tokio::test]
    async fn both_ways_see_the_same_and_a_gone_process_is_not_found() {
        let tcp = |at| TcpListener::bind((at, 0)).expect("a port");
        let udp = |at| UdpSocket::bind((at, 0)).expect("a port");
        let open = (tcp("0.0.0.0"), udp("0.0.0.0"));
        let closed = (tcp("127.0.0.1"), udp("127.0.0.1"), udp("0.0.0.0"));
        let server = udp("127.0.0.1").local_addr().expect("bound");
        closed.2.connect(server).expect("connected");
        let mut expected = BTreeSet::from([
            port(open.0.local_addr().expect("bound").port(), Protocol::Tcp),
            port(open.1.local_addr().expect("bound").port(), Protocol::Udp),
        ]);
        let mut wanted = expected.clone();
        wanted.extend([
            port(closed.0.local_addr().expect("bound").port(), Protocol::Tcp),
            port(closed.1.local_addr().expect("bound").port(), Protocol::Udp),
            port(closed.2.local_addr().expect("bound").port(), Protocol::Udp),
        ]);
        // Where there is IPv6.
        let any = TcpListener::bind("[::]:0").ok();
        let any = any
            .as_ref()
            .map(|socket| socket.local_addr().expect("bound"));
        let any = any.map(|at| port(at.port(), Protocol::Tcp));
        expected.extend(any);
        wanted.extend(any);

        // So many that the kernel answers in several parts.
        let many: Vec<TcpListener> = (0..200).map(|_| tcp("0.0.0.0")).collect();
        let numbers = many
            .iter()
            .map(|socket| socket.local_addr().expect("bound").port());
        let numbers: Vec<ContainerPort> =
            numbers.map(|number| port(number, Protocol::Tcp)).collect();
        expected.extend(&numbers);
        wanted.extend(&numbers);

        let here = std::process::id();
        assert_eq!(by_proc(here, &wanted).expect("our own"), expected);
        match open_here().and_then(|socket| by_sock_diag(&socket, &wanted, &mut Vec::new())) {
            Ok(seen) => assert_eq!(seen, expected),
            Err(error) => assert!(is_denial(&error), "{error}"),
        }
        let namespaces = Namespaces::default();
        // A second time by the same socket.
        for _ in 0..2 {
            let seen = namespaces.listening(here, &wanted).await;
            assert_eq!(seen.expect("our own"), expected);
        }
        // Above the largest pid there can be.
        assert!(matches!(
            namespaces.listening(5_000_000, &wanted).await,
            Err(EngineError::NotFound(_))
        ));
        namespaces.retain(|pid| pid != here);
        assert!(namespaces.lock().is_empty());
    }
}
