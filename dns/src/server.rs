//! Listeners, UDP and TCP.
//!
//! Each address is bound and retried by itself, over UDP once for each thread. On a wildcard address the
//! kernel chooses the source of answers by its route to the client.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::available_parallelism;

use arc_swap::ArcSwap;
use listen::{BIND_RETRY, Binder, Limiter, Problem};
use manifests::manifest::Protocol;
use model::backoff::Exponential;
use model::directory::Directory;
use model::skydns::{RecordError, Records};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{self, JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::clients::{Clients, Network};
use crate::counters::Counters;
use crate::handler::Handler;
use crate::upstreams::{Forwarding, Upstreams};
use crate::zone::{Explanation, Zone};
use crate::{tcp, udp};

/// Attempts to find a port that is free for both UDP and TCP.
const ANY_PORT_TRIES: usize = 16;
/// Threads of an address, at most; fewer where there are fewer processors.
const THREADS: usize = 4;

/// Configuration of the server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses to listen on, UDP and TCP; port 0 is any free one.
    pub listen: Vec<SocketAddr>,
    /// The authoritative zone.
    pub zone: Zone,
    /// Records of others.
    pub records: Arc<ArcSwap<Records>>,
    /// Where other names are asked for.
    pub forwarding: Forwarding,
    /// Networks that this host's containers are made in.
    pub bridges: Vec<Network>,
    /// Other networks whose names outside the zone are forwarded.
    pub allowed: Vec<Network>,
    /// Where the sockets come from.
    pub binder: Binder,
    /// Queries wait in the sockets until this is cancelled: until there is a directory.
    pub begin: CancellationToken,
}

/// The DNS server of one host.
#[derive(Debug)]
pub struct Dns;

/// A running server.
#[derive(Debug)]
pub struct Handle {
    /// Addresses it listens on.
    pub addresses: watch::Receiver<Vec<SocketAddr>>,
    /// Addresses it can't listen on at the moment.
    pub problems: watch::Receiver<Vec<Problem>>,
    /// Counts of queries.
    pub counters: Arc<Counters>,
    /// What it answers from.
    pub names: Names,
    wanted: watch::Sender<Vec<SocketAddr>>,
    clients: Arc<Clients>,
    task: JoinHandle<()>,
}

/// What a server answers from, for people. Clones share it.
#[derive(Debug, Clone)]
pub struct Names(Handler);

impl Names {
    /// Explains a name, in full or without the domain; none if it is no domain name.
    pub fn explain(&self, name: &str) -> Option<Explanation> {
        self.0.explain(name)
    }

    /// Keys under `/skydns` that are no records, and why.
    pub fn unreadable(&self) -> Vec<(String, RecordError)> {
        self.0.unreadable()
    }
}

impl Handle {
    /// Replaces the addresses to listen on.
    pub fn listen_at(&self, addresses: Vec<SocketAddr>) {
        self.wanted.send_if_modified(|before| {
            let is_new = *before != addresses;
            *before = addresses;
            is_new
        });
    }

    /// Replaces the networks of this host's containers: those that the cluster's are made in, and the engine's others.
    pub fn set_bridges(&self, ours: Vec<Network>, others: Vec<Network>) {
        self.clients.set_bridges(ours, others);
    }

    /// Waits for the end, after the shutdown was cancelled.
    pub async fn stopped(self) {
        let _ = self.task.await;
    }
}

impl Dns {
    /// Starts the server; a swap of the directory holds from the next query on.
    pub fn start(
        config: Config,
        directory: Arc<ArcSwap<Directory>>,
        shutdown: CancellationToken,
    ) -> Handle {
        let addresses = watch::Sender::new(Vec::new());
        let problems = watch::Sender::new(Vec::new());
        let upstreams = Upstreams::new(config.forwarding, &addresses.subscribe());
        let clients = Clients::new(config.bridges, config.allowed, addresses.subscribe());
        let clients = Arc::new(clients);
        let wanted = watch::Sender::new(config.listen);
        let (binder, begin) = (config.binder, config.begin);
        let handler = Handler::new(
            config.zone,
            directory,
            config.records,
            upstreams,
            Arc::clone(&clients),
        );
        Handle {
            addresses: addresses.subscribe(),
            problems: problems.subscribe(),
            counters: handler.counters(),
            names: Names(handler.clone()),
            wanted: wanted.clone(),
            clients,
            task: tokio::spawn(
                Listeners {
                    binder,
                    begin,
                    handler,
                    connections: Limiter::new(tcp::CONNECTIONS),
                    addresses,
                    problems,
                    serving: JoinSet::new(),
                    bound: Vec::new(),
                    open: BTreeMap::new(),
                    shutdown,
                }
                .run(wanted.subscribe()),
            ),
        }
    }
}

struct Listeners {
    binder: Binder,
    begin: CancellationToken,
    handler: Handler,
    connections: Limiter,
    addresses: watch::Sender<Vec<SocketAddr>>,
    problems: watch::Sender<Vec<Problem>>,
    /// A task per listener.
    serving: JoinSet<()>,
    /// What each task listens on: also where it is not wanted any more, and has not ended.
    bound: Vec<(task::Id, SocketAddr)>,
    /// The listener of each wanted address.
    open: BTreeMap<SocketAddr, Listener>,
    shutdown: CancellationToken,
}

struct Listener {
    task: task::Id,
    addr: SocketAddr,
    end: CancellationToken,
}

impl Listeners {
    async fn run(mut self, mut wanted: watch::Receiver<Vec<SocketAddr>>) {
        let mut retry = Exponential::new(BIND_RETRY.0, BIND_RETRY.1);
        let mut missing = wanted.borrow_and_update().clone();
        loop {
            let mut problems = Vec::new();
            for addr in std::mem::take(&mut missing) {
                match bind(&self.binder, addr).await {
                    Ok(sockets) => self.serve(addr, sockets),
                    Err(problem) => {
                        problems.push(problem);
                        missing.push(addr);
                    }
                }
            }
            if !missing.is_empty() {
                retry.failed();
            }
            listen::publish(&self.problems, problems, |problem| {
                warn!(%problem, "DNS listener failed; retrying");
            });
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => break,
                Some(ended) = self.serving.join_next_with_id() => {
                    let task = ended.map_or_else(
                        |error| {
                            warn!(%error, "DNS listener failed; restarting");
                            error.id()
                        },
                        |(task, ())| task,
                    );
                    missing.extend(self.ended(task).await);
                }
                Ok(()) = wanted.changed() => {
                    retry.reset();
                    let wanted = wanted.borrow_and_update().clone();
                    missing = self.move_to(&wanted).await;
                }
                () = sleep(retry.wait()), if !missing.is_empty() => {}
            }
        }
        while self.serving.join_next().await.is_some() {}
    }

    /// Takes notice of the end of a task; returns the address to bind anew if it was not told to end. Another one may listen
    /// at the same address by now.
    async fn ended(&mut self, task: task::Id) -> Option<SocketAddr> {
        self.bound.retain(|(of, _)| *of != task);
        self.show();
        let mut open = self.open.iter();
        let wanted = *open.find(|(_, listener)| listener.task == task)?.0;
        let Listener { addr, .. } = self.open.remove(&wanted)?;
        release(&self.binder, addr).await;
        Some(wanted)
    }

    fn show(&self) {
        let bound = self.bound.iter().map(|(_, addr)| *addr);
        self.addresses.send_replace(bound.collect());
    }

    /// Stops the listeners that are not wanted; returns the addresses to bind.
    async fn move_to(&mut self, wanted: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut ended = Vec::new();
        self.open.retain(|from, listener| {
            let stays = wanted.contains(from);
            if !stays {
                listener.end.cancel();
                ended.push(listener.addr);
            }
            stays
        });
        for addr in ended {
            release(&self.binder, addr).await;
        }
        self.handler
            .set_addresses(wanted.iter().map(SocketAddr::ip).collect());
        let is_missing = |addr: &&SocketAddr| !self.open.contains_key(addr);
        wanted.iter().filter(is_missing).copied().collect()
    }

    fn serve(&mut self, wanted: SocketAddr, sockets: Sockets) {
        let addr = sockets.addr;
        let end = self.shutdown.child_token();
        let until = end.clone();
        let (handler, connections) = (self.handler.clone(), self.connections.clone());
        let begin = self.begin.clone();
        let serving = self.serving.spawn(async move {
            tokio::select! {
                () = begin.cancelled() => {}
                () = until.cancelled() => return,
            }
            serve(sockets, connections, handler, &until).await;
        });
        let task = serving.id();
        self.open.insert(wanted, Listener { task, addr, end });
        self.bound.push((task, addr));
        info!(%addr, "DNS listener started");
        self.show();
    }
}

/// The sockets of an address.
struct Sockets {
    addr: SocketAddr,
    /// One for each thread.
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

async fn bind(binder: &Binder, addr: SocketAddr) -> Result<Sockets, Problem> {
    let mut tries = if addr.port() == 0 { ANY_PORT_TRIES } else { 1 };
    let threads = available_parallelism().map_or(1, usize::from);
    loop {
        tries -= 1;
        let udp = binder.udp(addr, threads.min(THREADS)).await?;
        let bound = udp.first().and_then(|socket| socket.local_addr().ok());
        let addr = bound.unwrap_or(addr);
        match binder.tcp(addr).await {
            Ok(tcp) => return Ok(Sockets { addr, udp, tcp }),
            Err(problem) if tries == 0 => return Err(problem),
            Err(_) => {}
        }
    }
}

async fn release(binder: &Binder, addr: SocketAddr) {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        binder.release(addr, protocol).await;
    }
}

/// Serves until the shutdown, or until a socket fails.
async fn serve(
    sockets: Sockets,
    connections: Limiter,
    handler: Handler,
    shutdown: &CancellationToken,
) {
    let Sockets { addr, udp, tcp } = sockets;
    let tcp = tcp::serve(tcp, connections, handler.clone());
    let ended = tokio::select! {
        ended = udp::serve(udp, handler, shutdown) => ended,
        never = tcp => match never {},
    };
    let Err(error) = ended else { return };
    warn!(%addr, %error, "DNS listener failed; restarting");
    shutdown.run_until_cancelled(sleep(BIND_RETRY.0)).await;
}
