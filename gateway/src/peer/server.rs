//! Server side of the peer API: TLS, then HTTP, until the client's host record is deleted.
//!
//! Connections before the handshake have few places, for a few seconds, and
//! count as idle: a new one takes the place of the one that is there for longest.
//! So unauthenticated clients use up nothing that members need.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use listen::{Accepted, Acceptor, Limiter, Limits, WhenFull};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::identity::{Identity, fingerprint};
use super::table::PeerTable;
use super::tls;

/// Connections before their handshake: anybody who reaches the port.
const UNAUTHENTICATED: Limits = Limits {
    all: 64,
    per_source: 16,
};
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Time after which a member that hears nothing of what is sent is gone.
const SILENT: Duration = Duration::from_secs(60);
const HEADERS: Duration = Duration::from_secs(10);

/// Serves until `shutdown`. `members` limits authenticated connections; a host has one for each slot whose log is followed.
pub async fn serve(
    listeners: Vec<TcpListener>,
    identity: Arc<Identity>,
    table: Arc<PeerTable>,
    router: Router,
    members: Limits,
    shutdown: CancellationToken,
) -> Result<(), rustls::Error> {
    let server = Server {
        acceptor: TlsAcceptor::from(Arc::new(tls::server(&identity, table.clone())?)),
        table,
        router,
        members: Limiter::new(members),
    };
    let unauthenticated = Limiter::new(UNAUTHENTICATED);
    let mut listening = JoinSet::new();
    for listener in listeners {
        let acceptor = Acceptor::new(listener, unauthenticated.clone(), WhenFull::Refuse);
        listening.spawn(server.clone().accept(acceptor, shutdown.clone()));
    }
    while listening.join_next().await.is_some() {}
    Ok(())
}

#[derive(Clone)]
struct Server {
    acceptor: TlsAcceptor,
    table: Arc<PeerTable>,
    router: Router,
    members: Limiter,
}

impl Server {
    async fn accept(self, acceptor: Acceptor, shutdown: CancellationToken) {
        let serve = |Accepted {
                         stream,
                         peer,
                         permit,
                     }| {
            let server = self.clone();
            async move {
                if let Err(error) = server.connection(stream, peer, permit).await {
                    tracing::debug!(%peer, %error, "peer connection closed");
                }
            }
        };
        // Open connections are aborted at shutdown: clients ask another agent.
        drop(acceptor.serve(shutdown.cancelled(), serve).await);
    }

    async fn connection(
        self,
        stream: TcpStream,
        from: SocketAddr,
        unauthenticated: listen::Permit,
    ) -> io::Result<()> {
        listen::watch_peer(&stream)?;
        unauthenticated.set_idle(Instant::now());
        let handshake = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream));
        let stream = tokio::select! {
            stream = handshake => stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
            () = unauthenticated.evicted() => return Err(io::Error::other("another connection took its place")),
        };
        let caller = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|certificates| certificates.first())
            .map(fingerprint)
            .ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))?;
        let _member = self
            .members
            .acquire(from.ip(), Instant::now())
            .map_err(io::Error::other)?;
        drop(unauthenticated);
        // It reads a log as its own reader does, or an image as its engine unpacks it: it may stop for as long as it is there.
        let socket = stream.get_ref().0.as_fd().try_clone_to_owned()?;
        listen::let_pause(&socket)?;
        let watched = [&socket];
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(self.router.clone()),
            );
        tokio::select! {
            ended = connection => ended.map_err(io::Error::other),
            () = self.table.removed(&caller) => Ok(()),
            error = listen::gone(&watched, SILENT) => Err(error),
        }
    }
}
