//! Accepting connections, with the same checks on every listener.
//!
//! A connection to a loopback listener from another source is reset before
//! anything is read: with `route_localnet` on a bridge, containers and
//! neighbours can send packets to 127.0.0.1.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tracing::warn;

use crate::limiter::{LimitReached, Limiter, Permit};
use crate::log_throttle::LogThrottle;

/// Delay after a failed `accept`, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// Interval between log lines of one listener.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Time without an acknowledgement after which a peer counts as gone.
const UNANSWERED: Duration = Duration::from_secs(30);

/// Treatment of a connection above the limit in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits, and those behind it too.
    Wait,
    /// It is reset.
    Refuse,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// The client's address.
    pub peer: SocketAddr,
    /// The connection's permit.
    pub permit: Permit,
}

/// A listener with limits.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    limiter: Limiter,
    when_full: WhenFull,
    /// Accepted by the kernel, and still without a permit.
    pending: Option<(TcpStream, SocketAddr)>,
    log: LogThrottle,
}

/// Logs a warning of a listener, throttled.
macro_rules! warn_throttled {
    ($self:ident, $($line:tt)*) => {
        if let Some(suppressed) = $self.log.pass((), Instant::now()) {
            let listener = $self.listener.local_addr().ok();
            let listener = listener.map(tracing::field::display);
            warn!(listener, suppressed, $($line)*);
        }
    };
}

impl Acceptor {
    /// An acceptor over a bound listener.
    pub fn new(listener: TcpListener, limiter: Limiter, when_full: WhenFull) -> Self {
        Self {
            listener,
            limiter,
            when_full,
            pending: None,
            log: LogThrottle::new(LOG_INTERVAL),
        }
    }

    /// The next connection. Cancellation-safe.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            let Some((stream, peer)) = self.next().await else {
                continue;
            };
            match (
                self.limiter.acquire(peer.ip(), Instant::now()),
                self.when_full,
            ) {
                (Ok(permit), _) => {
                    return Accepted {
                        stream,
                        peer,
                        permit,
                    };
                }
                (Err(reason @ LimitReached::All(_)), WhenFull::Wait) => {
                    self.pending = Some((stream, peer));
                    warn_throttled!(self, peer = %peer.ip(), %reason, "connection is waiting");
                    self.limiter.available().await;
                }
                (Err(reason), _) => {
                    warn_throttled!(self, peer = %peer.ip(), %reason, "connection refused");
                    reset(stream);
                }
            }
        }
    }

    /// Handles each connection in a task of its own until `stop`, then closes the listener. The tasks left are returned.
    pub async fn serve<F: Future<Output = ()> + Send + 'static>(
        mut self,
        stop: impl Future<Output = ()>,
        handle: impl Fn(Accepted) -> F,
    ) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return connections,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = self.accept() => drop(connections.spawn(handle(accepted))),
            }
        }
    }

    /// The pending connection or one from the kernel; none after an error or a misrouted one.
    async fn next(&mut self) -> Option<(TcpStream, SocketAddr)> {
        if let Some(pending) = self.pending.take() {
            return Some(pending);
        }
        let (stream, peer) = match self.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn_throttled!(self, %error, "accept failed; retrying");
                tokio::time::sleep(PAUSE).await;
                return None;
            }
        };
        // A socket without an address is closed already.
        let local = stream.local_addr().ok()?;
        if is_misrouted(local.ip(), peer.ip()) {
            warn_throttled!(
                self,
                peer = %peer.ip(),
                "connection to a loopback address from another machine or a container refused; its packets are forged"
            );
            reset(stream);
            return None;
        }
        Some((stream, peer))
    }
}

/// A connection to a loopback address from elsewhere, which the kernel drops unless `route_localnet` is set.
fn is_misrouted(local: IpAddr, peer: IpAddr) -> bool {
    local.to_canonical().is_loopback() && !peer.to_canonical().is_loopback()
}

/// Closes a connection with a reset.
pub fn reset(stream: TcpStream) {
    // It fails only on a socket that is closed already.
    let _ = stream.set_zero_linger();
}

/// Disables Nagle's algorithm, and detects peers that have vanished, whether data is under way or not.
///
/// Not on loopback: the kernel reports the end of a local peer, and a slow local reader must not be cut off.
pub fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if stream.peer_addr()?.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNANSWERED))?;
    let keepalive = TcpKeepalive::new()
        .with_time(UNANSWERED)
        .with_interval(UNANSWERED / 3)
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)
}

/// The peer of a watched connection may stop to read: with a closed window it would be aborted, though it acknowledges
/// every probe. One that vanishes is noticed by keepalive as before; while data waits for it by [`crate::gone`], or by the
/// kernel after some 15 minutes.
pub fn let_pause(stream: &impl AsFd) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(None)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::limiter::Limits;

    const LOCALHOST: &str = "127.0.0.1";

    fn acceptor(limits: Limits, when_full: WhenFull) -> (Acceptor, SocketAddr) {
        let listener = crate::bind::tcp((std::net::Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let at = listener.local_addr().expect("bound");
        let listener = TcpListener::from_std(listener).expect("a listener");
        (Acceptor::new(listener, Limiter::new(limits), when_full), at)
    }

    const ONE: Limits = Limits {
        all: 1,
        per_source: 1,
    };

    #[test]
    fn only_this_machine_reaches_a_loopback_address() {
        let is_misrouted = |local: &str, peer: &str| {
            is_misrouted(
                local.parse().expect("an address"),
                peer.parse().expect("an address"),
            )
        };
        for peer in [LOCALHOST, "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(!is_misrouted(LOCALHOST, peer), "{peer}");
        }
        for peer in ["172.17.0.2", "10.0.0.1", "::ffff:172.17.0.2", "fe80::1"] {
            assert!(is_misrouted(LOCALHOST, peer), "{peer}");
            assert!(is_misrouted("127.9.9.9", peer), "{peer}");
            assert!(is_misrouted("::1", peer), "{peer}");
            assert!(!is_misrouted("172.17.0.1", peer), "{peer}");
        }
    }

    #[tokio::test]
    async fn who_may_pause_has_no_time_limit() {
        let (mut acceptor, at) = acceptor(ONE, WhenFull::Refuse);
        let (stream, accepted) = tokio::join!(TcpStream::connect(at), acceptor.accept());
        let stream = stream.expect("connected");
        drop(accepted);
        let socket = SockRef::from(&stream);
        let limit = || socket.tcp_user_timeout().expect("an option");
        socket
            .set_tcp_user_timeout(Some(UNANSWERED))
            .expect("an option");
        assert_eq!(limit(), Some(UNANSWERED));
        let_pause(&stream).expect("an option");
        assert_eq!(limit().filter(|limit| !limit.is_zero()), None);
    }

    #[tokio::test]
    async fn a_connection_above_the_limit_is_reset_or_waits() {
        let (mut refusing, at) = acceptor(ONE, WhenFull::Refuse);
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(at).await.expect("connected"));
        }
        let first = refusing.accept().await;
        assert_eq!(first.peer, clients[0].local_addr().expect("bound"));
        tokio::select! {
            _ = refusing.accept() => panic!("no permit is free"),
            read = clients[2].read_u8() => {
                let error = read.expect_err("reset");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
        }

        let (mut waiting, at) = acceptor(ONE, WhenFull::Wait);
        let _client = TcpStream::connect(at).await.expect("connected");
        let first = waiting.accept().await;
        let second = TcpStream::connect(at).await.expect("connected");
        tokio::select! {
            biased;
            _ = waiting.accept() => panic!("no permit is free"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        let accepted = waiting.accept().await;
        assert_eq!(accepted.peer, second.local_addr().expect("bound"));
        // An idle connection is evicted for the next.
        accepted.permit.set_idle(Instant::now());
        let mut third = TcpStream::connect(at).await.expect("connected");
        let (mut next, ()) = tokio::join!(waiting.accept(), accepted.permit.evicted());
        next.stream.write_u8(3).await.expect("written");
        assert_eq!(third.read_u8().await.expect("read"), 3);
    }
}
