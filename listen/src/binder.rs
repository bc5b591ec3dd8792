//! Sockets that outlive the process: taken over from the one before, or bound and stored.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manifests::manifest::Protocol;
use socket2::{Socket, Type};
use tokio::net::TcpListener;
use tracing::{debug, warn};

use crate::bind::{self, Problem};
use crate::store::{Entry, FdStore};

/// Where listening sockets come from. By default each is bound, and closed with the process.
///
/// With a store, a socket that was bound stays open until it is released, here
/// and in the store, whoever drops it meanwhile: what connects waits in its
/// queue, and who asks for its address gets it again.
#[derive(Debug, Clone, Default)]
pub struct Binder {
    kept: Option<Arc<Kept>>,
}

#[derive(Debug)]
struct Kept {
    store: Option<FdStore>,
    sockets: Mutex<BTreeMap<Entry, KeptSocket>>,
}

#[derive(Debug)]
struct KeptSocket {
    socket: Socket,
    is_used: bool,
}

impl Binder {
    /// Takes over what the process before has left in the store. Sockets that are not what their name says are closed.
    pub fn new(store: Option<FdStore>, left: Vec<(SocketAddr, Protocol, OwnedFd)>) -> Self {
        let binder = Self {
            kept: Some(Arc::new(Kept {
                store,
                sockets: Mutex::default(),
            })),
        };
        for (addr, protocol, fd) in left {
            let socket = Socket::from(fd);
            match check(&socket, addr, protocol) {
                Ok(true) => binder.insert(addr, protocol, socket, false),
                wrong => {
                    warn!(%addr, %protocol, ?wrong, "a stored socket is not what its name says; closed");
                    binder.forget(Entry::Socket(protocol, addr));
                }
            }
        }
        binder
    }

    /// The kept TCP listener of an address, or a new one.
    pub async fn tcp(&self, addr: SocketAddr) -> Result<TcpListener, Problem> {
        let socket = self.socket(addr, Protocol::Tcp).await?;
        TcpListener::from_std(socket.into())
            .map_err(|error| Problem::new(addr, Protocol::Tcp, &error))
    }

    /// The kept UDP socket of an address, or a new one, and others beside it, so many in all or as many as can be had. Only
    /// the first is kept: packets for the address all go there while it is alone.
    pub async fn udp(&self, addr: SocketAddr, count: usize) -> Result<Vec<UdpSocket>, Problem> {
        let first = self.socket(addr, Protocol::Udp).await?;
        let bound = first.local_addr().ok().and_then(|addr| addr.as_socket());
        let bound = bound.unwrap_or(addr);
        let mut sockets = vec![first];
        while sockets.len() < count {
            match bind::beside(&sockets[0], bound) {
                Ok(socket) => sockets.push(socket),
                Err(error) => {
                    warn!(addr = %bound, %error, sockets = sockets.len(), wanted = count, "fewer UDP sockets");
                    break;
                }
            }
        }
        Ok(sockets.into_iter().map(UdpSocket::from).collect())
    }

    /// Closes a socket for good, once those who got it have dropped it.
    pub async fn release(&self, addr: SocketAddr, protocol: Protocol) {
        self.release_all(vec![Entry::Socket(protocol, addr)]).await;
    }

    /// Closes those that were taken over and that nobody has asked for.
    pub async fn release_unused(&self) {
        let Some(kept) = &self.kept else { return };
        let unused: Vec<Entry> = kept
            .lock()
            .iter()
            .filter(|(_, kept)| !kept.is_used)
            .map(|(entry, _)| *entry)
            .collect();
        for entry in &unused {
            debug!(
                name = entry.name(),
                "a stored socket is not wanted any more; closed"
            );
        }
        self.release_all(unused).await;
    }

    async fn release_all(&self, entries: Vec<Entry>) {
        if self.kept.is_none() || entries.is_empty() {
            return;
        }
        let binder = self.clone();
        // It fails only while the runtime ends.
        let _ = tokio::task::spawn_blocking(move || {
            for entry in entries {
                binder.forget(entry);
            }
        })
        .await;
    }

    async fn socket(&self, addr: SocketAddr, protocol: Protocol) -> Result<Socket, Problem> {
        let binder = self.clone();
        tokio::task::spawn_blocking(move || binder.socket_blocking(addr, protocol))
            .await
            .unwrap_or_else(|error| Err(Problem::new(addr, protocol, &error.into())))
    }

    fn socket_blocking(&self, addr: SocketAddr, protocol: Protocol) -> Result<Socket, Problem> {
        let problem = |error| Problem::new(addr, protocol, &error);
        if let Some(socket) = self.kept_socket(addr, protocol) {
            return socket.map_err(problem);
        }
        let socket = bind::bind(addr, protocol)?;
        // Another process would not know which one it is.
        if self.kept.is_some() && addr.port() != 0 {
            let copy = socket.try_clone().map_err(problem)?;
            self.store(addr, protocol, &copy);
            self.insert(addr, protocol, copy, true);
        }
        Ok(socket)
    }

    fn kept_socket(&self, addr: SocketAddr, protocol: Protocol) -> Option<io::Result<Socket>> {
        let mut sockets = self.kept.as_ref()?.lock();
        let kept = sockets.get_mut(&Entry::Socket(protocol, addr))?;
        kept.is_used = true;
        Some(kept.socket.try_clone())
    }

    fn store(&self, addr: SocketAddr, protocol: Protocol, socket: &Socket) {
        let Some(store) = self.kept.as_ref().and_then(|kept| kept.store.as_ref()) else {
            return;
        };
        let name = Entry::Socket(protocol, addr).name();
        if let Err(error) = store.keep(&name, &[socket.as_fd()]) {
            warn!(%addr, %protocol, %error, "socket not stored: connections are refused while the agent restarts");
        }
    }

    fn insert(&self, addr: SocketAddr, protocol: Protocol, socket: Socket, is_used: bool) {
        if let Some(kept) = &self.kept {
            let kept_socket = KeptSocket { socket, is_used };
            let entry = Entry::Socket(protocol, addr);
            kept.lock().insert(entry, kept_socket);
        }
    }

    fn forget(&self, entry: Entry) {
        let Some(kept) = &self.kept else { return };
        kept.lock().remove(&entry);
        let removed = kept.store.as_ref().map(|store| store.remove(&entry.name()));
        if let Some(Err(error)) = removed {
            warn!(name = entry.name(), %error, "stored socket not closed");
        }
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Entry, KeptSocket>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it listens at the address; as new ones, it does not block and is closed on exec.
fn check(socket: &Socket, addr: SocketAddr, protocol: Protocol) -> io::Result<bool> {
    socket.set_nonblocking(true)?;
    socket.set_cloexec(true)?;
    let is_right = match protocol {
        Protocol::Tcp => socket.r#type()? == Type::STREAM && socket.is_listener()?,
        Protocol::Udp => socket.r#type()? == Type::DGRAM,
    };
    Ok(is_right && socket.local_addr()?.as_socket() == Some(addr))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use socket2::Domain;
    use tokio::net::TcpStream;

    use super::*;
    use crate::Reason;

    fn bound(protocol: Protocol) -> (SocketAddr, Socket) {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let socket = bind::bind(any, protocol).expect("a free port");
        let addr = socket.local_addr().expect("bound").as_socket();
        (addr.expect("an address"), socket)
    }

    fn binder(addr: SocketAddr, protocol: Protocol, socket: Socket) -> Binder {
        Binder::new(None, vec![(addr, protocol, socket.into())])
    }

    #[tokio::test]
    async fn who_connected_before_is_accepted_by_the_process_after() {
        let (addr, socket) = bound(Protocol::Tcp);
        let client = TcpStream::connect(addr).await.expect("queued");
        let binder = binder(addr, Protocol::Tcp, socket);
        let listener = binder.tcp(addr).await.expect("taken over");
        let (_, peer) = listener.accept().await.expect("accepted");
        assert_eq!(peer, client.local_addr().expect("bound"));
        // Dropped, it is still open, and there for who asks again.
        drop(listener);
        let _client = TcpStream::connect(addr).await.expect("queued");
        drop(binder.tcp(addr).await.expect("kept"));
        binder.release_unused().await;
        TcpStream::connect(addr).await.expect("it is used");
        binder.release(addr, Protocol::Tcp).await;
        TcpStream::connect(addr).await.expect_err("closed");
    }

    #[tokio::test]
    async fn what_nobody_asks_for_is_closed() {
        let (addr, socket) = bound(Protocol::Udp);
        let binder = binder(addr, Protocol::Udp, socket);
        let problem = bind::bind(addr, Protocol::Udp).expect_err("taken");
        assert!(matches!(problem.reason, Reason::Taken(_)), "{problem}");
        binder.release_unused().await;
        binder.udp(addr, 1).await.expect("free");
    }

    #[tokio::test]
    async fn sockets_share_an_address_that_nobody_else_has() {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let sockets = Binder::default().udp(any, 3).await.expect("free");
        let addr = sockets[0].local_addr().expect("bound");
        for socket in &sockets {
            assert_eq!(socket.local_addr().expect("bound"), addr);
        }
        let problem = Binder::default().udp(addr, 3).await.expect_err("taken");
        assert!(matches!(problem.reason, Reason::Taken(_)), "{problem}");
    }

    #[tokio::test]
    async fn a_socket_that_can_not_be_had_costs_no_address() {
        let shared = |addr: SocketAddr| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
            socket.set_reuse_address(true).expect("set");
            socket.bind(&addr.into()).expect("shared");
            let addr = socket.local_addr().expect("bound").as_socket();
            (addr.expect("an address"), socket)
        };
        let (addr, first) = shared((Ipv4Addr::LOCALHOST, 0).into());
        // It shares the address with the first one, and with no other.
        let _beside = shared(addr);
        let binder = binder(addr, Protocol::Udp, first);
        let sockets = binder.udp(addr, 3).await.expect("the first");
        assert_eq!(sockets.len(), 1);
    }

    #[tokio::test]
    async fn packets_for_sockets_that_are_closed_go_to_the_kept_one() {
        let (addr, socket) = bound(Protocol::Udp);
        let binder = binder(addr, Protocol::Udp, socket);
        for _ in 0..2 {
            let mut sockets = binder.udp(addr, 3).await.expect("kept");
            sockets.drain(1..);
            let kept = &sockets[0];
            for number in 0..16 {
                let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("free");
                client.send_to(&[number], addr).expect("sent");
                let mut packet = [0; 2];
                let (_, from) = kept.recv_from(&mut packet).expect("loopback is at once");
                assert_eq!(
                    (packet[0], from),
                    (number, client.local_addr().expect("bound"))
                );
            }
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_not_what_its_name_says_is_closed() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let (addr, socket) = bound(Protocol::Udp);
            let (other, _free) = bound(protocol);
            let named = if protocol == Protocol::Tcp {
                addr
            } else {
                other
            };
            let binder = binder(named, protocol, socket);
            assert!(binder.kept_socket(named, protocol).is_none());
            bind::bind(addr, Protocol::Udp).expect("free");
        }
    }

    #[tokio::test]
    async fn without_a_store_a_dropped_listener_is_closed() {
        let (addr, socket) = bound(Protocol::Tcp);
        drop(socket);
        let binder = Binder::default();
        drop(binder.tcp(addr).await.expect("bound"));
        TcpStream::connect(addr).await.expect_err("closed");
    }
}
