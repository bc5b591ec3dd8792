//! The sockets: UDP and TCP on each address, questions in and answers out.
//!
//! Questions about our zone are answered in the loop that reads them; only a
//! relayed one gets a task. Each address is bound by itself and tried again
//! when it can't be, without a loss for the others. On an address of its own
//! (the bridge's gateway) answers leave from the address that was asked; on a
//! wildcard the kernel chooses it by its route to the client.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use conductor_core::directory::Directory;
use hickory_proto::op::ResponseCode;
use listen::{Problem, Reason, Transport};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::message::{self, Reaction, Way};
use crate::relay::{Relay, read_message, write_message};
use crate::resolv_conf::{Files, Upstreams};
use crate::zone::Zone;

/// Between tries to bind what could not be bound: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Rest after a failed accept or receive: most likely there are no file descriptors left.
const REST: Duration = Duration::from_millis(100);
/// Between two lines on questions that nobody answers.
const SILENT: Duration = Duration::from_secs(60);
/// How long a TCP client may take for a message, either way, before it is closed.
const IDLE: Duration = Duration::from_secs(10);
/// TCP clients at once, per address; others wait to be accepted.
const CLIENTS: usize = 256;
/// Largest message.
const MESSAGE: usize = 65_535;
/// Tries for a port that is free for UDP and TCP, where any will do.
const ANY_PORT_TRIES: usize = 16;

/// How the server works.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens, by UDP and TCP; port 0 is any free one.
    pub listen: Vec<SocketAddr>,
    /// What it answers by itself.
    pub zone: Zone,
    /// Where it finds the resolvers for the rest.
    pub files: Files,
}

/// Questions since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Came by UDP.
    pub udp: AtomicU64,
    /// Came by TCP.
    pub tcp: AtomicU64,
    /// Answered here, errors included.
    pub answered: AtomicU64,
    /// Answered by another resolver.
    pub relayed: AtomicU64,
    /// Not ours, and nobody answered.
    pub failed: AtomicU64,
    /// Were no questions.
    pub dropped: AtomicU64,
}

/// The DNS server of one host.
#[derive(Debug)]
pub struct Dns;

/// A running server.
#[derive(Debug)]
pub struct Handle {
    /// Where it listens.
    pub addresses: watch::Receiver<Vec<SocketAddr>>,
    /// Where it can't listen at the moment.
    pub problems: watch::Receiver<Vec<Problem>>,
    /// Questions since the start.
    pub counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Returns when everything has ended after the shutdown was cancelled.
    pub async fn stopped(self) {
        // It only fails if it panicked, and then it has stopped too.
        let _ = self.task.await;
    }
}

impl Dns {
    /// Starts; a swap of the directory is seen by the next question.
    pub fn start(
        config: Config,
        directory: Arc<ArcSwap<Directory>>,
        shutdown: CancellationToken,
    ) -> Handle {
        let addresses = watch::Sender::new(Vec::new());
        let problems = watch::Sender::new(Vec::new());
        let upstreams = Upstreams::new(config.files, addresses.subscribe());
        let server = Arc::new(Server {
            zone: config.zone,
            directory,
            relay: Relay::new(upstreams),
            turn: AtomicUsize::new(0),
            counters: Arc::default(),
            said: Mutex::default(),
        });
        Handle {
            addresses: addresses.subscribe(),
            problems: problems.subscribe(),
            counters: Arc::clone(&server.counters),
            task: tokio::spawn(
                Listeners {
                    server,
                    addresses,
                    problems,
                    tasks: TaskTracker::new(),
                    shutdown,
                }
                .run(config.listen),
            ),
        }
    }
}

struct Listeners {
    server: Arc<Server>,
    addresses: watch::Sender<Vec<SocketAddr>>,
    problems: watch::Sender<Vec<Problem>>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Listeners {
    async fn run(self, mut missing: Vec<SocketAddr>) {
        let mut rest = RETRY.0;
        loop {
            let mut problems = Vec::new();
            for addr in std::mem::take(&mut missing) {
                match bind(addr).await {
                    Ok(sockets) => self.serve(sockets),
                    Err(problem) => {
                        problems.push(problem);
                        missing.push(addr);
                    }
                }
            }
            self.show(problems);
            tokio::select! {
                () = self.shutdown.cancelled() => break,
                () = sleep(rest), if !missing.is_empty() => rest = (rest * 2).min(RETRY.1),
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn serve(&self, sockets: Sockets) {
        let Sockets { addr, udp, tcp } = sockets;
        info!(%addr, "DNS answers");
        self.addresses.send_modify(|bound| bound.push(addr));
        self.spawn(serve_udp(
            Arc::clone(&self.server),
            Arc::new(udp),
            self.tasks.clone(),
            self.shutdown.clone(),
        ));
        self.spawn(serve_tcp(
            Arc::clone(&self.server),
            tcp,
            self.tasks.clone(),
            self.shutdown.clone(),
        ));
    }

    fn spawn(&self, serving: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            shutdown.run_until_cancelled(serving).await;
        });
    }

    fn show(&self, problems: Vec<Problem>) {
        self.problems.send_if_modified(|shown| {
            for problem in problems.iter().filter(|problem| !shown.contains(problem)) {
                warn!(%problem, "DNS does not answer there, and tries again");
            }
            let is_new = *shown != problems;
            *shown = problems;
            is_new
        });
    }
}

/// Both sockets of an address.
struct Sockets {
    addr: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

async fn bind(addr: SocketAddr) -> Result<Sockets, Problem> {
    let other = |error: &dyn std::fmt::Display| Problem {
        addr,
        transport: Transport::Udp,
        reason: Reason::Other(error.to_string()),
    };
    // Who has a taken port is looked up among all processes: not on this thread.
    let (udp, tcp) = tokio::task::spawn_blocking(move || bind_both(addr))
        .await
        .map_err(|error| other(&error))??;
    let udp = UdpSocket::from_std(udp).map_err(|error| other(&error))?;
    let tcp = TcpListener::from_std(tcp).map_err(|error| other(&error))?;
    let addr = udp.local_addr().map_err(|error| other(&error))?;
    Ok(Sockets { addr, udp, tcp })
}

fn bind_both(addr: SocketAddr) -> Result<(std::net::UdpSocket, std::net::TcpListener), Problem> {
    let mut tries = if addr.port() == 0 { ANY_PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let udp = listen::udp(addr)?;
        let same = udp.local_addr().unwrap_or(addr);
        match listen::tcp(same) {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(problem) if tries == 0 => return Err(problem),
            Err(_) => {}
        }
    }
}

/// What all questions share.
#[derive(Debug)]
struct Server {
    zone: Zone,
    directory: Arc<ArcSwap<Directory>>,
    relay: Relay,
    turn: AtomicUsize,
    counters: Arc<Counters>,
    /// When it was last said that nobody answers.
    said: Mutex<Option<Instant>>,
}

impl Server {
    fn react(&self, packet: &[u8], way: Way) -> Reaction {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let reaction = message::react(&self.zone, &self.directory.load(), packet, way, turn);
        count(match way {
            Way::Udp => &self.counters.udp,
            Way::Tcp => &self.counters.tcp,
        });
        match reaction {
            Reaction::Answer(_) => count(&self.counters.answered),
            Reaction::Drop => count(&self.counters.dropped),
            Reaction::Relay(_) => {}
        }
        reaction
    }

    async fn relay(
        &self,
        packet: &[u8],
        query: hickory_proto::op::Query,
        way: Way,
    ) -> Option<Vec<u8>> {
        if let Some(answer) = self.relay.ask(packet, query, way).await {
            count(&self.counters.relayed);
            return Some(answer);
        }
        count(&self.counters.failed);
        self.say_unanswered();
        match message::failure(packet, ResponseCode::ServFail) {
            Reaction::Answer(answer) => Some(answer),
            Reaction::Relay(_) | Reaction::Drop => None,
        }
    }

    /// One line a minute, however many questions.
    fn say_unanswered(&self) {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| now.saturating_duration_since(at) >= SILENT) {
            *said = Some(now);
            warn!("none of the host's resolvers answered a question");
        }
    }
}

async fn serve_udp(
    server: Arc<Server>,
    socket: Arc<UdpSocket>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let mut packet = vec![0; MESSAGE];
    loop {
        let (length, from) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            Err(error) => {
                warn!(%error, "a question could not be received");
                sleep(REST).await;
                continue;
            }
        };
        let packet = &packet[..length];
        match server.react(packet, Way::Udp) {
            Reaction::Answer(answer) => send(&socket, &answer, from).await,
            Reaction::Relay(query) => {
                let (server, socket) = (Arc::clone(&server), Arc::clone(&socket));
                let (packet, shutdown) = (packet.to_vec(), shutdown.clone());
                tasks.spawn(async move {
                    let relayed = server.relay(&packet, query, Way::Udp);
                    if let Some(Some(answer)) = shutdown.run_until_cancelled(relayed).await {
                        send(&socket, &answer, from).await;
                    }
                });
            }
            Reaction::Drop => {}
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        // Its container has gone; the client is the one to ask again.
        tracing::debug!(%to, %error, "an answer could not be sent");
    }
}

async fn serve_tcp(
    server: Arc<Server>,
    listener: TcpListener,
    tasks: TaskTracker,
    shutdown: CancellationToken,
) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    // It is never closed.
    while let Ok(permit) = Arc::clone(&clients).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (server, shutdown) = (Arc::clone(&server), shutdown.clone());
                tasks.spawn(async move {
                    let served = serve_client(&server, stream);
                    shutdown.run_until_cancelled(served).await;
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "a DNS connection could not be accepted");
                sleep(REST).await;
            }
        }
    }
}

/// Answers one question after the other until the client is silent or gone.
async fn serve_client(server: &Server, mut stream: TcpStream) {
    while let Ok(Ok(packet)) = timeout(IDLE, read_message(&mut stream)).await {
        let answer = match server.react(&packet, Way::Tcp) {
            Reaction::Answer(answer) => Some(answer),
            Reaction::Relay(query) => server.relay(&packet, query, Way::Tcp).await,
            Reaction::Drop => None,
        };
        let Some(answer) = answer else { return };
        let written = timeout(IDLE, write_message(&mut stream, &answer)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
