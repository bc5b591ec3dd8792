//! The one way in which connections are accepted, so that no listener forgets a check.
//!
//! What a listener on loopback gets from elsewhere is closed before anything is
//! read: where `route_localnet` is set, a container or a neighbour can send
//! packets to 127.0.0.1. A source above its share is closed; when all places
//! are taken the next connection waits or is closed, as the listener says.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use crate::places::{Full, Place, Places};

/// After an error of `accept`, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log about one listener.
const SILENT: Duration = Duration::from_secs(10);
/// Data that stays without an answer for so long, and silence, mean that the other side has gone.
const UNANSWERED: Duration = Duration::from_secs(30);

/// What happens to a connection when all places are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits, and those behind it too.
    Wait,
    /// It is closed by a reset.
    Refuse,
}

/// A connection that was let in.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Its place.
    pub place: Place,
}

/// A listener, the places of its connections, and what it does when there is none.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    places: Places,
    when_full: WhenFull,
    /// Accepted, and without a place yet.
    pending: Option<(TcpStream, SocketAddr)>,
    said: Said,
}

impl Acceptor {
    /// Over a bound listener.
    pub fn new(listener: TcpListener, places: Places, when_full: WhenFull) -> Self {
        Self {
            listener,
            places,
            when_full,
            pending: None,
            said: Said::default(),
        }
    }

    /// The next connection. Nothing is lost when the future is dropped.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            if self.pending.is_none() {
                self.pending = self.next().await;
            }
            let Some((_, peer)) = self.pending else {
                continue;
            };
            let place = self.places.take(peer.ip(), Instant::now());
            match (place, self.when_full) {
                (Err(full @ Full::All(_)), WhenFull::Wait) => {
                    self.warn(&format!("{full}: a connection of {} waits", peer.ip()));
                    self.places.room().await;
                }
                (Err(full), _) => {
                    self.warn(&format!(
                        "a connection of {} was refused: {full}",
                        peer.ip()
                    ));
                    if let Some((stream, _)) = self.pending.take() {
                        reset(stream);
                    }
                }
                (Ok(place), _) => {
                    if let Some((stream, peer)) = self.pending.take() {
                        return Accepted {
                            stream,
                            peer,
                            place,
                        };
                    }
                }
            }
        }
    }

    /// A connection that came the right way; none after an error.
    async fn next(&mut self) -> Option<(TcpStream, SocketAddr)> {
        let (stream, peer) = match self.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.warn(&format!("a connection can't be accepted: {error}"));
                tokio::time::sleep(PAUSE).await;
                return None;
            }
        };
        // A socket that has no address any more is closed already.
        let local = stream.local_addr().ok()?;
        if is_astray(local.ip(), peer.ip()) {
            self.warn(&format!(
                "a connection of {} was closed: it did not come from this machine, and only packets that another machine or a container forged come here so",
                peer.ip()
            ));
            reset(stream);
            return None;
        }
        Some((stream, peer))
    }

    fn warn(&mut self, what: &str) {
        if let Some(left_out) = self.said.pass(Instant::now()) {
            let listener = self.listener.local_addr().ok();
            warn!(
                listener = listener.map(tracing::field::display),
                left_out, "{what}"
            );
        }
    }
}

/// A connection to a loopback address from somewhere else. The kernel lets none through unless it was told to.
fn is_astray(local: IpAddr, peer: IpAddr) -> bool {
    local.to_canonical().is_loopback() && !peer.to_canonical().is_loopback()
}

/// Closes with a reset instead of an orderly end.
pub fn reset(stream: TcpStream) {
    // It fails only on a socket that is closed already.
    let _ = stream.set_zero_linger();
}

/// Small packets go at once, and a peer that has vanished is noticed, whether data is under way or nothing is.
///
/// What is on this machine ends with a word from the kernel, so a reader there that only rests is not cut.
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

/// Lets one line pass in a while.
#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    left_out: u64,
}

impl Said {
    /// How many lines were left out since the last one, if this one is to be written.
    fn pass(&mut self, now: Instant) -> Option<u64> {
        if self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < SILENT)
        {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::places::Limits;

    const LOCALHOST: &str = "127.0.0.1";

    fn acceptor(limits: Limits, when_full: WhenFull) -> (Acceptor, SocketAddr) {
        let listener = crate::tcp((std::net::Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let at = listener.local_addr().expect("bound");
        let listener = TcpListener::from_std(listener).expect("a listener");
        (Acceptor::new(listener, Places::new(limits), when_full), at)
    }

    const ONE: Limits = Limits {
        all: 1,
        per_source: 1,
    };

    #[test]
    fn only_this_machine_reaches_a_loopback_address() {
        let is_astray = |local: &str, peer: &str| {
            is_astray(
                local.parse().expect("an address"),
                peer.parse().expect("an address"),
            )
        };
        for peer in [LOCALHOST, "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(!is_astray(LOCALHOST, peer), "{peer}");
        }
        for peer in ["172.17.0.2", "10.0.0.1", "::ffff:172.17.0.2", "fe80::1"] {
            assert!(is_astray(LOCALHOST, peer), "{peer}");
            assert!(is_astray("127.9.9.9", peer), "{peer}");
            assert!(is_astray("::1", peer), "{peer}");
            assert!(!is_astray("172.17.0.1", peer), "{peer}");
        }
    }

    #[tokio::test]
    async fn who_finds_no_place_is_reset_or_waits() {
        let (mut refusing, at) = acceptor(ONE, WhenFull::Refuse);
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(at).await.expect("connected"));
        }
        let first = refusing.accept().await;
        assert_eq!(first.peer, clients[0].local_addr().expect("bound"));
        tokio::select! {
            _ = refusing.accept() => panic!("there is no place"),
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
            _ = waiting.accept() => panic!("there is no place"),
            () = tokio::task::yield_now() => {}
        }
        drop(first);
        let accepted = waiting.accept().await;
        assert_eq!(accepted.peer, second.local_addr().expect("bound"));
        // An idle one makes room for the next.
        accepted.place.idle(Instant::now());
        let mut third = TcpStream::connect(at).await.expect("connected");
        let (mut next, ()) = tokio::join!(waiting.accept(), accepted.place.reclaimed());
        next.stream.write_u8(3).await.expect("written");
        assert_eq!(third.read_u8().await.expect("read"), 3);
    }

    #[test]
    fn a_line_and_then_one_each_ten_seconds() {
        let mut said = Said::default();
        let start = Instant::now();
        assert_eq!(said.pass(start), Some(0));
        assert_eq!(said.pass(start), None);
        assert_eq!(said.pass(start + SILENT), Some(1));
    }
}
