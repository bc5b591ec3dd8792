//! One connection: resolved, connected and carried.
//!
//! Every connection counts as exactly one of ok, refused and failed. A refused
//! or failed one is reset, as if nobody listened. One that is resumed was counted
//! by the agent before.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use listen::LogThrottle;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::carry::{self, Flows};
use crate::connection::{Connection, Server, unpark};
use crate::failing::FailedConnects;
use crate::loads::{Loads, Open};
use crate::outcome::{Counters, Failure, Failures};
use crate::table::{Reason, Refusal, Route, Tables};

/// Endpoints that one connection tries at most; of a host that is unreachable one, while there are others.
const TRIES: usize = 4;
/// Time for which a connection that had no endpoint yet waits for the tables of this agent.
const TABLES: Duration = Duration::from_secs(10);

/// State shared by all connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) tables: Arc<Tables>,
    pub(crate) refresh: mpsc::Sender<()>,
    pub(crate) hold: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) counters: Arc<Counters>,
    pub(crate) failures: Arc<Failures>,
    pub(crate) failed_connects: Arc<FailedConnects>,
    pub(crate) loads: Arc<Loads>,
    pub(crate) log: Mutex<LogThrottle<(IpAddr, u16)>>,
    pub(crate) ending: Ending,
}

/// The end of all connections.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Nothing is accepted or carried any more.
    pub(crate) stop: CancellationToken,
    /// Connections are reset; `stop` is cancelled with it.
    pub(crate) reset: CancellationToken,
    /// Connections that were open at the stop, unless they are reset.
    pub(crate) left: Mutex<Vec<Connection>>,
}

/// A connection that is carried.
struct Carried {
    client: TcpStream,
    port: u16,
    server: TcpStream,
    target: SocketAddr,
    flows: Flows,
}

/// Result of connecting to an endpoint.
enum Reached {
    Server(TcpStream, SocketAddr, Open),
    Failed(Route, String),
}

impl Proxy {
    /// Serves one connection to its end, or until the agent stops.
    pub(crate) async fn serve(&self, client: TcpStream, from: SocketAddr, port: u16) {
        let caller = from.ip().to_canonical();
        if let Err(error) = carry::prepare(&client) {
            debug!(%caller, port, %error, "caller disconnected");
            return;
        }
        let reached = tokio::select! {
            reached = self.reach(caller, port) => reached,
            _ = carry::broken(&client) => {
                debug!(%caller, port, "caller disconnected");
                return;
            }
            () = self.ending.stop.cancelled() => return self.leave(client, port, None),
        };
        match reached {
            Ok(Reached::Server(server, target, open)) => {
                count(&self.counters.ok);
                let carried = Carried {
                    client,
                    port,
                    server,
                    target,
                    flows: Flows::default(),
                };
                self.carry(carried, caller, open).await;
            }
            Ok(Reached::Failed(route, reason)) => {
                count(&self.counters.failed);
                listen::reset(client);
                if let Some(suppressed) = self.pass_log(caller, port) {
                    let Route { slot, service, .. } = &route;
                    warn!(%caller, port, %slot, %service, %reason, suppressed, "link connection failed");
                }
                self.note(&route.slot, &route.service, reason);
            }
            Err(refusal) => {
                count(&self.counters.refused);
                listen::reset(client);
                self.log_refusal(caller, port, &refusal);
            }
        }
    }

    /// Goes on with a connection of the agent before; `bound` has its port once there are tables.
    pub(crate) async fn resume(
        &self,
        connection: Connection,
        from: SocketAddr,
        bound: watch::Receiver<BTreeMap<u16, SocketAddr>>,
    ) {
        let Connection {
            client,
            port,
            server,
        } = connection;
        // Dropped on an error, which only a connection gives that is broken.
        let Ok(client) = unpark(client) else { return };
        let Some(server) = server else {
            tokio::select! {
                () = is_bound(bound, port) => self.serve(client, from, port).await,
                _ = carry::broken(&client) => {}
                () = self.ending.stop.cancelled() => self.leave(client, port, None),
            }
            return;
        };
        let Server {
            stream,
            target,
            flows,
        } = server;
        let Ok(server) = unpark(stream) else {
            return listen::reset(client);
        };
        let carried = Carried {
            client,
            port,
            server,
            target,
            flows,
        };
        let open = self.loads.open_one(target);
        self.carry(carried, from.ip().to_canonical(), open).await;
    }

    /// Carries a connection to its end, or until the agent stops.
    async fn carry(&self, carried: Carried, caller: IpAddr, _open: Open) {
        let _now = Gauge::up(&self.counters.open);
        let Carried {
            client,
            port,
            server,
            target,
            mut flows,
        } = carried;
        let ended = tokio::select! {
            ended = carry::carry(&client, &server, &mut flows) => ended,
            () = self.ending.stop.cancelled() => {
                return self.leave(client, port, Some((server, target, flows)));
            }
        };
        if let Err(error) = ended {
            debug!(%caller, port, %error, "connection lost");
            listen::reset(client);
            listen::reset(server);
        }
    }

    /// Leaves a connection to the next agent, or resets it.
    fn leave(&self, client: TcpStream, port: u16, server: Option<(TcpStream, SocketAddr, Flows)>) {
        // It fails on a connection that is broken already.
        let Ok(connection) = Connection::new(client, port, server) else {
            return;
        };
        if !self.ending.reset.is_cancelled() {
            self.ending.left().push(connection);
        }
    }

    async fn reach(&self, caller: IpAddr, port: u16) -> Result<Reached, Refusal> {
        let route = self.admit(caller, port).await?;
        let order = self
            .loads
            .order(&route.service, &route.targets, Instant::now());
        let (mut left, mut reasons) = (order, String::new());
        for _ in 0..TRIES.min(left.len()) {
            let target = left.remove(0);
            let open = self.loads.open_one(target);
            match self.connect(target).await {
                Ok(server) => {
                    self.loads.answered(target);
                    self.failed_connects.answered(target.ip());
                    return Ok(Reached::Server(server, target, open));
                }
                Err(error) => {
                    let now = Instant::now();
                    self.loads.failed(target, now);
                    if is_unreachable(&error) {
                        put_last(&mut left, target.ip());
                    }
                    self.failed_connects.failed(target.ip(), &error, now);
                    debug!(%caller, port, %target, %error, "endpoint refused the connection");
                    let comma = if reasons.is_empty() { "" } else { ", " };
                    // Writing to a string does not fail.
                    let _ = write!(reasons, "{comma}{target}: {error}");
                }
            }
        }
        Ok(Reached::Failed(route, reasons))
    }

    /// Resolves the connection; an unknown caller is held while the engine is queried.
    async fn admit(&self, caller: IpAddr, port: u16) -> Result<Route, Refusal> {
        // Subscribed before the first lookup, so that no swap is missed.
        let mut changed = self.tables.changed();
        let is_unknown = |found: &Result<Route, Refusal>| matches!(found, Err(refusal) if refusal.reason == Reason::UnknownCaller);
        let found = self.tables.resolve(caller, port);
        if !is_unknown(&found) {
            return found;
        }
        // A full channel has a request for the engine already.
        let _ = self.refresh.try_send(());
        let known = async {
            while changed.changed().await.is_ok() {
                let found = self.tables.resolve(caller, port);
                if !is_unknown(&found) {
                    return found;
                }
            }
            self.tables.resolve(caller, port)
        };
        tokio::time::timeout(self.hold, known)
            .await
            .unwrap_or(found)
    }

    async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        let server = tokio::time::timeout(self.connect_timeout, TcpStream::connect(target))
            .await
            .map_err(|_| {
                let text = format!("timed out after {:?}", self.connect_timeout);
                io::Error::new(io::ErrorKind::TimedOut, text)
            })??;
        carry::prepare(&server)?;
        Ok(server)
    }

    fn log_refusal(&self, caller: IpAddr, port: u16, refusal: &Refusal) {
        let Refusal {
            slot,
            service,
            reason,
        } = refusal;
        if let Some(suppressed) = self.pass_log(caller, port) {
            warn!(
                %caller,
                port,
                slot = slot.as_ref().map(tracing::field::display),
                service = service.as_ref().map(tracing::field::display),
                %reason,
                suppressed,
                "link connection refused"
            );
        }
        if let (Some(slot), Some(service)) = (slot, service) {
            self.note(slot, service, reason.to_string());
        }
    }

    fn note(
        &self,
        slot: &manifests::SlotId,
        service: &model::directory::ServiceId,
        reason: String,
    ) {
        let at = SystemTime::now();
        self.failures.note(slot, service, Failure { at, reason });
    }

    fn pass_log(&self, caller: IpAddr, port: u16) -> Option<u64> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.pass((caller, port), Instant::now())
    }
}

impl Ending {
    pub(crate) fn left(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error is of the whole host. A time-out may be of one instance alone, whose queue of connections is full: it says
/// something about this connection's next target, and not about all those to come.
fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Puts those at this address behind the others.
fn put_last(targets: &mut [SocketAddr], address: IpAddr) {
    targets.sort_by_key(|target| target.ip() == address);
}

/// Waits until a port is bound, but not for ever.
async fn is_bound(mut bound: watch::Receiver<BTreeMap<u16, SocketAddr>>, port: u16) {
    let is_bound = bound.wait_for(|bound| bound.contains_key(&port));
    let _ = tokio::time::timeout(TABLES, is_bound).await;
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A count that is one higher until this is dropped.
struct Gauge<'a>(&'a AtomicU64);

impl<'a> Gauge<'a> {
    fn up(gauge: &'a AtomicU64) -> Self {
        count(gauge);
        Self(gauge)
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_of_an_unreachable_host_are_tried_last() {
        let target = |host, port| SocketAddr::from(([10, 0, 0, host], port));
        let mut left = [(2, 2), (3, 1), (2, 3), (4, 1)].map(|(host, port)| target(host, port));
        put_last(&mut left, [10, 0, 0, 2].into());
        let order = [target(3, 1), target(4, 1), target(2, 2), target(2, 3)];
        assert_eq!(left, order);
        put_last(&mut left, [10, 0, 0, 9].into());
        assert_eq!(left, order);
    }

    #[test]
    fn a_refused_connect_says_nothing_of_its_host() {
        for (kind, of_host) in [
            (io::ErrorKind::TimedOut, true),
            (io::ErrorKind::HostUnreachable, true),
            (io::ErrorKind::NetworkUnreachable, true),
            (io::ErrorKind::ConnectionRefused, false),
            (io::ErrorKind::ConnectionReset, false),
        ] {
            assert_eq!(is_unreachable(&kind.into()), of_host, "{kind}");
        }
    }
}
