//! The listeners: one for each port that a caller has a link on.
//!
//! Listeners are added as links appear, and stay; there are at most as many as
//! a container may have links. Each is bound and retried by itself. Those of the
//! agent before are taken over: what has connected meanwhile waits in their queue
//! until there are tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use listen::{
    Accepted, Acceptor, BIND_RETRY, Binder, Limiter, Limits, LogThrottle, Problem, WhenFull,
};
use manifests::env::MAX_LINKS;
use manifests::manifest::Protocol;
use model::backoff::Exponential;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::connection::Connection;
use crate::failing::FailedConnects;
use crate::loads::Loads;
use crate::outcome::{Counters, Failures};
use crate::proxy::{Ending, Proxy};
use crate::table::Tables;

/// Interval between log lines of one caller and port.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Time for all connections to leave their tasks, which do not wait for anything.
const HAND_OVER: Duration = Duration::from_millis(500);

/// Choice of the port that is bound for a link port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// The link port.
    AsLinked,
    /// Any free one, for tests; see [`Handle::addresses`].
    Ephemeral,
}

/// Configuration of the ambassador.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address to listen on: the bridge's gateway.
    pub addr: IpAddr,
    /// Choice of ports.
    pub ports: Ports,
    /// Time that an unknown caller is held while the engine is queried.
    pub hold: Duration,
    /// Connect time-out of one endpoint; the next is tried then.
    pub connect_timeout: Duration,
    /// Limits of connections, in all and per caller.
    pub limits: Limits,
    /// Where the listeners come from.
    pub binder: Binder,
}

impl Config {
    /// Defaults at an address.
    pub fn new(addr: IpAddr) -> Self {
        Self {
            addr,
            ports: Ports::AsLinked,
            hold: Duration::from_secs(1),
            // A lost SYN is sent again after 1 s.
            connect_timeout: Duration::from_millis(1500),
            limits: Limits {
                all: 1_024,
                per_source: 256,
            },
            binder: Binder::default(),
        }
    }
}

/// The link proxy of one host.
#[derive(Debug)]
pub struct Ambassador;

/// A running ambassador.
#[derive(Debug)]
pub struct Handle {
    /// Bound addresses by link port.
    pub addresses: watch::Receiver<BTreeMap<u16, SocketAddr>>,
    /// Addresses it can't listen on at the moment.
    pub problems: watch::Receiver<Vec<Problem>>,
    /// Connections by result.
    pub counters: Arc<Counters>,
    /// The last failure of each link.
    pub failures: Arc<Failures>,
    /// Failed connects by host.
    pub failed_connects: Arc<FailedConnects>,
    /// Open connections by endpoint.
    pub loads: Arc<Loads>,
    addr: watch::Sender<IpAddr>,
    proxy: Arc<Proxy>,
    limiter: Limiter,
    tasks: TaskTracker,
    task: JoinHandle<()>,
}

impl Handle {
    /// Replaces the address to listen on. Open connections stay.
    pub fn listen_at(&self, addr: IpAddr) {
        self.addr
            .send_if_modified(|before| std::mem::replace(before, addr) != addr);
    }

    /// Goes on with connections that another ambassador has handed over. They count for the limits.
    pub fn resume(&self, connections: Vec<Connection>) {
        for connection in connections {
            // Its client is gone: the endpoint's side is reset with it.
            let Ok(peer) = connection.client.peer_addr() else {
                continue;
            };
            let permit = match self.limiter.acquire(peer.ip(), Instant::now()) {
                Ok(permit) => permit,
                Err(reason) => {
                    debug!(%peer, %reason, "connection not resumed");
                    continue;
                }
            };
            let (proxy, bound) = (Arc::clone(&self.proxy), self.addresses.clone());
            self.tasks.spawn(async move {
                proxy.resume(connection, peer, bound).await;
                drop(permit);
            });
        }
    }

    /// Stops to accept and to carry, and returns what was open. It is reset if it is dropped.
    pub async fn hand_over(&self) -> Vec<Connection> {
        self.proxy.ending.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(HAND_OVER, self.tasks.wait()).await;
        std::mem::take(&mut *self.proxy.ending.left())
    }

    /// Waits for the end, after the shutdown was cancelled.
    pub async fn stopped(self) {
        let _ = self.task.await;
    }
}

impl Ambassador {
    /// Starts the ambassador. `refresh` makes the agent list the engine's containers and swap the callers.
    pub fn start(
        config: Config,
        tables: Arc<Tables>,
        refresh: mpsc::Sender<()>,
        shutdown: CancellationToken,
    ) -> Handle {
        let proxy = Arc::new(Proxy {
            tables,
            refresh,
            hold: config.hold,
            connect_timeout: config.connect_timeout,
            counters: Arc::default(),
            failures: Arc::default(),
            failed_connects: Arc::default(),
            loads: Arc::default(),
            log: Mutex::new(LogThrottle::new(LOG_INTERVAL)),
            ending: Ending {
                stop: shutdown.child_token(),
                reset: shutdown,
                left: Mutex::default(),
            },
        });
        let (limiter, tasks) = (Limiter::new(config.limits), TaskTracker::new());
        let addresses = watch::Sender::new(BTreeMap::new());
        let problems = watch::Sender::new(Vec::new());
        let addr = watch::Sender::new(config.addr);
        Handle {
            addr: addr.clone(),
            addresses: addresses.subscribe(),
            problems: problems.subscribe(),
            counters: Arc::clone(&proxy.counters),
            failures: Arc::clone(&proxy.failures),
            failed_connects: Arc::clone(&proxy.failed_connects),
            loads: Arc::clone(&proxy.loads),
            proxy: Arc::clone(&proxy),
            limiter: limiter.clone(),
            tasks: tasks.clone(),
            task: tokio::spawn(
                Listeners {
                    binder: config.binder,
                    limiter,
                    ports: config.ports,
                    addr: addr.subscribe(),
                    open: proxy.ending.stop.child_token(),
                    proxy,
                    addresses,
                    problems,
                    tasks,
                }
                .run(),
            ),
        }
    }
}

struct Listeners {
    binder: Binder,
    ports: Ports,
    addr: watch::Receiver<IpAddr>,
    /// Stops the listeners at the current address.
    open: CancellationToken,
    limiter: Limiter,
    proxy: Arc<Proxy>,
    addresses: watch::Sender<BTreeMap<u16, SocketAddr>>,
    problems: watch::Sender<Vec<Problem>>,
    tasks: TaskTracker,
}

impl Listeners {
    async fn run(mut self) {
        let mut changed = self.proxy.tables.changed();
        let mut retry = Exponential::new(BIND_RETRY.0, BIND_RETRY.1);
        loop {
            changed.mark_unchanged();
            self.forget();
            let problems = self.bind_missing().await;
            let again = !problems.is_empty();
            if again {
                retry.failed();
            }
            listen::publish(&self.problems, problems, |problem| {
                warn!(%problem, "link listener failed; retrying");
            });
            tokio::select! {
                () = self.proxy.ending.stop.cancelled() => break,
                _ = changed.changed() => retry.reset(),
                Ok(()) = self.addr.changed() => {
                    retry.reset();
                    self.open.cancel();
                    self.open = self.proxy.ending.stop.child_token();
                    for addr in self.addresses.send_replace(BTreeMap::new()).into_values() {
                        self.binder.release(addr, Protocol::Tcp).await;
                    }
                }
                () = tokio::time::sleep(retry.wait()), if again => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Forgets the state of containers and links that are gone.
    fn forget(&self) {
        let callers = self.proxy.tables.callers();
        let slots: BTreeSet<_> = callers.values().map(|caller| &caller.slot).collect();
        self.proxy.failures.retain(&slots);
        let links = callers.values().flat_map(|caller| &caller.links);
        let services: BTreeSet<_> = links.map(|(_, service)| service).collect();
        self.proxy.loads.retain(&services);
    }

    async fn bind_missing(&self) -> Vec<Problem> {
        let bound = self.addresses.borrow().clone();
        let room = MAX_LINKS.saturating_sub(bound.len());
        let wanted = self.proxy.tables.ports().into_iter();
        let missing: Vec<u16> = wanted
            .filter(|port| !bound.contains_key(port))
            .take(room)
            .collect();
        let mut problems = Vec::new();
        let at = *self.addr.borrow();
        for link in missing {
            let port = match self.ports {
                Ports::AsLinked => link,
                Ports::Ephemeral => 0,
            };
            let addr = SocketAddr::new(at, port);
            match self.binder.tcp(addr).await {
                Ok(listener) => {
                    let addr = listener.local_addr().unwrap_or(addr);
                    info!(%addr, "link listener started");
                    self.addresses.send_modify(|bound| {
                        bound.insert(link, addr);
                    });
                    self.tasks.spawn(accept(
                        Arc::clone(&self.proxy),
                        Acceptor::new(listener, self.limiter.clone(), WhenFull::Refuse),
                        link,
                        self.tasks.clone(),
                        self.open.clone(),
                    ));
                }
                Err(problem) => problems.push(problem),
            }
        }
        problems
    }
}

async fn accept(
    proxy: Arc<Proxy>,
    acceptor: Acceptor,
    link: u16,
    tasks: TaskTracker,
    open: CancellationToken,
) {
    let carry = |accepted| {
        let proxy = Arc::clone(&proxy);
        tasks.track_future(async move {
            let Accepted {
                stream,
                peer,
                permit,
            } = accepted;
            proxy.serve(stream, peer, link).await;
            drop(permit);
        })
    };
    let mut carried = acceptor.serve(open.cancelled(), carry).await;
    carried.detach_all();
}
