//! The listening side: TLS first, then HTTP, for as long as the caller's record is there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::identity::{Identity, fingerprint};
use super::table::Table;
use super::tls;

/// Connections at once. Hosts are few; each has a stream for each slot that somebody follows.
const CONNECTIONS: usize = 1_024;
const HANDSHAKE: Duration = Duration::from_secs(5);
const HEADERS: Duration = Duration::from_secs(10);
/// A connection whose data stays without an answer for this long is dead.
const UNANSWERED_MS: u32 = 30_000;
/// After a failed accept (no file descriptors left), so that it does not spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves until `shutdown`.
pub async fn serve(
    listeners: Vec<TcpListener>,
    identity: Arc<Identity>,
    table: Arc<Table>,
    router: Router,
    shutdown: CancellationToken,
) -> Result<(), rustls::Error> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(&identity, table.clone())?));
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let mut doors = JoinSet::new();
    for listener in listeners {
        let door = Door {
            acceptor: acceptor.clone(),
            table: table.clone(),
            router: router.clone(),
            connections: connections.clone(),
        };
        doors.spawn(door.accept(listener, shutdown.clone()));
    }
    while doors.join_next().await.is_some() {}
    Ok(())
}

#[derive(Clone)]
struct Door {
    acceptor: TlsAcceptor,
    table: Arc<Table>,
    router: Router,
    connections: Arc<Semaphore>,
}

impl Door {
    async fn accept(self, listener: TcpListener, shutdown: CancellationToken) {
        // Ended with the door: a peer asks another agent then.
        let mut open = JoinSet::new();
        loop {
            let Ok(permit) = self.connections.clone().acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(_) = open.join_next(), if !open.is_empty() => continue,
                accepted = listener.accept() => accepted,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "peer door: accept failed");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let door = self.clone();
            open.spawn(async move {
                if let Err(error) = door.connection(stream).await {
                    tracing::debug!(%from, %error, "peer door: connection ended");
                }
                drop(permit);
            });
        }
    }

    async fn connection(self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_tcp_user_timeout(&stream, UNANSWERED_MS)?;
        let stream = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let caller = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|certificates| certificates.first())
            .map(fingerprint)
            .ok_or_else(|| io::Error::from(io::ErrorKind::PermissionDenied))?;
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS)
            .serve_connection(
                TokioIo::new(stream),
                TowerToHyperService::new(self.router.clone()),
            );
        tokio::select! {
            ended = connection => ended.map_err(io::Error::other),
            () = self.table.forgotten(&caller) => Ok(()),
        }
    }
}
