//! Wires the agent: the one file that knows all its parts.
//!
//! Order of the start: state directory, listeners, engine, then everything at
//! once, on the saved view; the host joins the cluster behind that. Only a first
//! start, which knows no cluster yet, waits for etcd. Order of the stop: the
//! conductor, then the record, then the rest; containers run on.

pub(crate) mod condition;
mod events;
mod handle;
mod leaving;
mod listeners;
mod reachable;
mod reached;
mod signals;
pub(crate) mod standing;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use conductor::actions::Actions;
use conductor::allocation::Allocation;
use conductor::events::Journal;
use conductor::images::{Images, PullSettings, RECORD, collect};
use conductor::instances::Instances;
use conductor::orphans::Orphans;
use conductor::{Published, Setup, firewall};
use engine::{self, Bridge, DockerEngine, Engine, EngineError, EngineFacts, EngineInfo};
use gateway::{listener, peer, v1, v2};
use manifests::HostName;
use model::directory::Callers;
use model::disk::{DiskReport, DiskUsage};
use model::observed::Surroundings;
use model::records::{Capacity, Cluster, HostRecord, HostState, Peer, Versions};
use model::{Host, Rules};
use store::Kv;
use store::etcd::EtcdKv;
use store::host::{HostOptions, HostStatus, KvFactory, StateDir, Stop, Stopped, Waiting};
use store::view::{Known, SavedView, ViewInputs, ViewOptions, run_view, updates};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::config::{AgentConfig, DnsListen};
use crate::limits::{self, Shares};
use crate::metrics;
use crate::up::{Bound, SOON};
use handle::RunningAgent;
use leaving::Leaving;
use listeners::{Listeners, addresses};
use reached::reached_at;
use signals::{Signal, Signals};
use standing::Standing;

/// Time between two tries while the engine does not answer at the start.
const RETRY: Duration = Duration::from_secs(1);
/// Pulls at a time: more share one line.
const PULLS_AT_ONCE: usize = 3;
/// All hosts pull a new version's image at the same moment.
const PULL_JITTER: Duration = Duration::from_millis(500);
/// How long is waited for DNS to be bound; it is tried again behind that.
const DNS_BINDS: Duration = Duration::from_millis(300);
/// How long etcd may take to say whether the host may use its name, before the agent is ready without its word.
const JOINS: Duration = Duration::from_secs(6);
/// How long doors may take to finish what they answer.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// Time from the signal to the exit, however slow etcd and API clients are.
const STOP_WITHIN: Duration = Duration::from_millis(800);
/// Least time for the last write of the host's record. Without it other hosts take the slots over when the lease ends.
const RECORD_WRITTEN: Duration = Duration::from_millis(300);
/// So many copies of containers are named in the host's record.
const COPIES: usize = 5;

/// Wrong configuration, or something that only the operator can change: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misconfigured(pub(crate) String);

/// Runs the agent until a signal ends it. `waits` is told what its start waits for, if that takes long. `ready` is told what was bound once all is up.
pub(crate) async fn run(
    mut config: AgentConfig,
    waits: impl Fn(&str) + Send,
    ready: impl FnOnce(Bound) + Send,
) -> anyhow::Result<ExitCode> {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    // The bridge's address is not known yet, and hardly ever one that the world routes to.
    if !config.host_ip_is_gateway {
        firewall::check(config.instance_ports, config.host_ip)
            .await
            .map_err(|e| Misconfigured(model::error::chain(&e)))?;
    }
    let mut signals = Signals::new().context("can't wait for signals")?;
    let dir = Arc::new(
        StateDir::open(&config.state_dir).map_err(|e| Misconfigured(model::error::chain(&e)))?,
    );
    let shares = Shares::of(limits::raise_open_files());
    let standing = Arc::new(Standing::new(&config));
    let mut listeners = Listeners::open(&config, shares, &standing).await?;

    let engine: Arc<dyn Engine> = Arc::new(DockerEngine::new(&config.docker));
    let known = dir.cluster().map(|cluster| cluster.id);
    let asked = tokio::select! {
        asked = ask_engine(engine, &config, known, |what| {
            standing.engine(Some(what.to_owned()));
            waits(what);
        }) => asked?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    config.host_ip = host_ip(&config, &asked.bridge);
    standing.engine(None);
    let mut begun = begin(&config, &dir, &asked, &listeners)?;
    standing.joins(begun.host.status());
    listeners.tasks.spawn(report_status(
        begun.host.status(),
        (config.name.clone(), config.host_ip),
        config.etcd.endpoints.clone(),
        listeners.stop.clone(),
    ));
    // A first start has nothing to go on with before it has met its cluster.
    let cluster = tokio::select! {
        cluster = begun.cluster() => cluster?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let start = Start {
        asked,
        listeners,
        begun,
        shares,
        standing,
    };
    let agent = Running::start(&config, &dir, start, cluster).await?;
    let mut status = agent.host.status();
    let life = async {
        if let Some(ended) = joins(&mut status).await {
            return ended;
        }
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
        ready(agent.bound.clone());
        info!("the agent is ready");
        ended(&mut status).await
    };
    let ended = tokio::select! {
        signal = signals.next() => Ended::Signal(signal),
        ended = life => ended,
    };
    agent.stop(&ended).await;
    match ended {
        Ended::Signal(_) | Ended::Left => Ok(ExitCode::SUCCESS),
        Ended::Failed(error) => Err(error.into()),
    }
}

/// What ends an agent.
enum Ended {
    /// Somebody stops it.
    Signal(Signal),
    /// The host is no member any more, as the operator wanted.
    Left,
    /// The host can't be in the cluster.
    Failed(Misconfigured),
}

/// Waits until it is known whether the host may use its name: none if it may, or if etcd does not say, since an agent
/// that knows its cluster works without etcd.
async fn joins(status: &mut watch::Receiver<HostStatus>) -> Option<Ended> {
    let silent = tokio::time::sleep(JOINS);
    tokio::pin!(silent);
    loop {
        let waits = match &*status.borrow_and_update() {
            HostStatus::Failed(error) => {
                return Some(Ended::Failed(Misconfigured(model::error::chain(error))));
            }
            HostStatus::Left => return Some(Ended::Left),
            HostStatus::Joining(Waiting::Begun) => false,
            HostStatus::Joining(Waiting::NameTaken(_) | Waiting::Record(_)) => true,
            _ => return None,
        };
        tokio::select! {
            () = &mut silent, if !waits => return None,
            changed = status.changed() => if changed.is_err() { return None },
        }
    }
}

/// Waits until the host has ended by itself.
async fn ended(status: &mut watch::Receiver<HostStatus>) -> Ended {
    loop {
        match &*status.borrow_and_update() {
            HostStatus::Left => return Ended::Left,
            HostStatus::Failed(error) => {
                return Ended::Failed(Misconfigured(model::error::chain(error)));
            }
            _ => {}
        }
        if status.changed().await.is_err() {
            // It is stopped by us alone.
            std::future::pending::<()>().await;
        }
    }
}

/// What the engine said at the start.
struct Asked {
    engine: Arc<dyn Engine>,
    info: EngineInfo,
    bridge: Bridge,
    labelled: bool,
    foreign: u32,
    disk: DiskReport,
}

/// Asks until the engine answers: it may be started after us.
async fn ask_engine(
    engine: Arc<dyn Engine>,
    config: &AgentConfig,
    known: Option<Uuid>,
    waits: impl Fn(&str),
) -> anyhow::Result<Asked> {
    let mut said = String::new();
    let mut say = |what: String| {
        if said != what {
            warn!("waiting for {what}");
            waits(&what);
            said = what;
        }
    };
    let socket = config.docker.display();
    loop {
        let mut answer = std::pin::pin!(ask_once(&engine, config, known));
        let answer = if let Ok(answer) = tokio::time::timeout(SOON, &mut answer).await {
            answer
        } else {
            say(format!(
                "the Docker Engine at {socket}: it takes connections, but does not answer"
            ));
            answer.await
        };
        match answer {
            Ok(asked) => {
                engine::check(&asked.info).map_err(|e| Misconfigured(e.to_string()))?;
                info!(
                    engine = %asked.info.version,
                    api = %asked.info.api_version,
                    bridge = %asked.bridge.interface,
                    gateway = %asked.bridge.gateway,
                    "the Docker Engine answers"
                );
                return Ok(asked);
            }
            Err(error) => {
                say(lack(&config.docker, &error).await);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What an agent lacks that got this error from its engine, and what to do.
async fn lack(socket: &Path, error: &EngineError) -> String {
    let at = socket.display();
    if let EngineError::HostFault { .. } = error {
        return format!("the network of its containers: {error}");
    }
    let start = "start it (systemctl start docker, or service docker start), or name its socket with --docker";
    match tokio::net::UnixStream::connect(socket).await {
        Ok(_) => format!("the Docker Engine at {at}: {error}"),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => {
                format!("the Docker Engine: there is no socket {at}; {start}")
            }
            io::ErrorKind::PermissionDenied => {
                format!("the Docker Engine: no permission to use {at}; run dokkaa as root")
            }
            io::ErrorKind::ConnectionRefused => {
                format!("the Docker Engine: nobody listens on {at}; {start}")
            }
            _ => format!("the Docker Engine at {at}: {error}"),
        },
    }
}

/// Where ports are published.
fn host_ip(config: &AgentConfig, bridge: &Bridge) -> IpAddr {
    if config.host_ip_is_gateway {
        bridge.gateway
    } else {
        config.host_ip
    }
}

/// What containers are made with on this network.
fn surroundings(config: &AgentConfig, bridge: &Bridge) -> Surroundings {
    Surroundings {
        host_ip: host_ip(config, bridge),
        gateway: bridge.gateway,
        dns: dns_addresses(config, bridge.gateway)
            .iter()
            .find(|at| at.port() == crate::config::DNS_PORT)
            .map(SocketAddr::ip),
        domain: config.domain.clone(),
        network: config.bridge.clone(),
    }
}

fn capacity(info: &EngineInfo) -> Capacity {
    Capacity {
        cpu_millis: u64::from(info.cpus) * 1_000,
        memory: info.memory,
    }
}

async fn ask_once(
    engine: &Arc<dyn Engine>,
    config: &AgentConfig,
    known: Option<Uuid>,
) -> Result<Asked, engine::EngineError> {
    let info = engine.info().await?;
    let bridge = engine.bridge(&config.bridge).await?;
    let listing = engine.list(known).await?;
    let used = engine.disk_usage().await?.map(DiskUsage::percent);
    Ok(Asked {
        engine: engine.clone(),
        info,
        bridge,
        labelled: !listing.clusters.is_empty(),
        // Of no cluster yet, it is not known whose they are.
        foreign: known.map_or(0, |_| listing.foreign),
        disk: DiskReport::default().after(used, config.disk_limits),
    })
}

/// A host that begins to join, and what the rest of the start needs.
struct Begun {
    host: store::host::Host,
    kv: Arc<dyn Kv>,
    identity: Option<Arc<peer::Identity>>,
    saved: Option<SavedView>,
}

/// All that the start has got together.
struct Start {
    asked: Asked,
    listeners: Listeners,
    begun: Begun,
    shares: Shares,
    standing: Arc<Standing>,
}

impl Begun {
    /// The cluster that the host belongs to: known from an earlier start, or met.
    async fn cluster(&mut self) -> Result<Cluster, Misconfigured> {
        let (mut cluster, mut status) = (self.host.cluster(), self.host.status());
        tokio::select! {
            Ok(known) = cluster.wait_for(Option::is_some) => {
                if let Some(known) = known.clone() {
                    return Ok(known);
                }
            }
            ended = ended(&mut status) => {
                if let Ended::Failed(error) = ended {
                    return Err(error);
                }
            }
        }
        Err(Misconfigured(
            "the host has ended before it has met a cluster".to_owned(),
        ))
    }
}

fn begin(
    config: &AgentConfig,
    dir: &Arc<StateDir>,
    asked: &Asked,
    listeners: &Listeners,
) -> anyhow::Result<Begun> {
    let identity = match addresses(&listeners.peer).first() {
        None => None,
        Some(_) => Some(Arc::new(
            peer::Identity::load_or_create(dir.path())
                .map_err(|e| Misconfigured(model::error::chain(&e)))?,
        )),
    };
    let options = config
        .etcd
        .options(config.lease_ttl)
        .map_err(|e| Misconfigured(model::error::chain(&e)))?;
    let kv: Arc<dyn Kv> =
        Arc::new(EtcdKv::new(&options).map_err(|e| Misconfigured(model::error::chain(&e)))?);
    let connect: KvFactory = {
        let options = options.clone();
        // What can be wrong with the options was found by the first client.
        Arc::new(move || {
            Arc::new(EtcdKv::new(&options).expect("options that were used before")) as Arc<dyn Kv>
        })
    };
    let saved = store::view::file::load(&dir.view_file()).unwrap_or_else(|error| {
        warn!(error = %model::error::chain(&error), "the saved view can't be read; etcd is listed anew");
        None
    });
    let record = HostRecord {
        id: dir.machine(),
        session: dir.session(),
        epoch: 0,
        state: HostState::Up,
        addr: config.host_ip,
        peer: identity.as_ref().and_then(|identity| {
            Some(Peer {
                addr: *addresses(&listeners.peer).first()?,
                fingerprint: identity.fingerprint().to_owned(),
            })
        }),
        api: reached_at(&listeners.keys, config.host_ip),
        labels: config.labels.clone(),
        capacity: capacity(&asked.info),
        versions: Versions {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            placement: planner::placement::VERSIONS.to_vec(),
        },
        // What the first looks will say, so that a restart writes the record once.
        foreign: asked.foreign,
        engine: true,
        disk: asked.disk.percent,
        disk_full: asked.disk.full,
        hold: None,
        problems: Vec::new(),
    };
    let options = HostOptions {
        name: config.name.clone(),
        ttl: config.lease_ttl,
        restart_grace: config.restart_grace,
        labelled_containers: asked.labelled && !config.own_etcd,
        saved: saved.as_ref().map(|saved| Known {
            cluster: saved.cluster.clone(),
            revision: saved.revision,
        }),
        rules: Rules::default(),
    };
    let host = store::host::Host::start(kv.clone(), connect, dir.clone(), options, record)
        .context("no thread for the lease")?;
    Ok(Begun {
        host,
        kv,
        identity,
        saved,
    })
}

/// The agent at work.
struct Running {
    bound: Bound,
    host: Arc<store::host::Host>,
    restart_grace: Duration,
    work: CancellationToken,
    doors: CancellationToken,
    conductor: tokio::task::JoinHandle<()>,
    tasks: JoinSet<()>,
}

impl Running {
    async fn start(
        config: &AgentConfig,
        dir: &Arc<StateDir>,
        start: Start,
        cluster: Cluster,
    ) -> anyhow::Result<Self> {
        let Start {
            asked,
            listeners,
            begun,
            shares,
            standing,
        } = start;
        let Begun {
            host,
            kv,
            identity,
            saved,
        } = begun;
        let (doors, mut tasks) = (listeners.stop, listeners.tasks);
        let engine = asked.engine;
        let host = Arc::new(host);
        let (journal, writer) = Journal::open(dir.path());
        let published = Arc::new(Published::new(journal.clone()));
        // A view that was saved is as old as its file.
        let saved_at = saved.as_ref().and_then(|_| modified(&dir.view_file()));
        published
            .fresh_at
            .store(saved_at.unwrap_or_default(), Ordering::Relaxed);
        standing.works(published.clone());
        let work = CancellationToken::new();

        tasks.spawn(events::keep(journal, writer, host.status(), doors.clone()));

        // === etcd ===
        tasks.spawn(follow_alarm(
            kv.clone(),
            published.clone(),
            config.own_etcd,
            doors.clone(),
        ));
        let (sender, view) = updates();
        let options = ViewOptions {
            held: dir.hold().is_some(),
            ..ViewOptions::new(cluster.clone(), saved, Some(dir.view_file()))
        };
        let inputs = ViewInputs {
            seen: host.seen(),
            floor: host.floor(),
        };
        tasks.spawn(run_view(kv.clone(), options, inputs, sender, doors.clone()));
        let leaving = Leaving {
            host: host.clone(),
            published: published.clone(),
            engine: engine.clone(),
            cluster: cluster.id,
        };
        tasks.spawn(leaving.watch(doors.clone()));

        // === DNS and links, which containers reach at the bridge's gateway ===
        let gateway = asked.bridge.gateway;
        let dns = dns_addresses(config, gateway);
        let names = dns::Dns::start(
            dns::Config {
                listen: dns.clone(),
                zone: dns::Zone::new(&config.domain, dns.iter().map(SocketAddr::ip))
                    .map_err(|e| Misconfigured(e.to_string()))?,
                files: dns::Files::default(),
            },
            published.directory.clone(),
            doors.clone(),
        );
        let (unknown, mut asked_for) = mpsc::channel(64);
        let tables = Arc::new(ambassador::Tables::new(published.directory.clone()));
        let links = ambassador::Ambassador::start(
            ambassador::Config {
                limits: shares.links,
                ..ambassador::Config::new(gateway)
            },
            tables.clone(),
            unknown,
            doors.clone(),
        );
        tasks.spawn(follow_callers(
            published.callers.subscribe(),
            tables,
            doors.clone(),
        ));
        let (look_again, look_again_out) = mpsc::channel(1);
        tasks.spawn(async move {
            while asked_for.recv().await.is_some() {
                // One look is enough for all who wait for one.
                let _ = look_again.try_send(());
            }
        });
        let facts = watch::Sender::new(EngineFacts {
            info: asked.info,
            bridge: asked.bridge.clone(),
        });
        let (closed, closed_out) = watch::channel(Vec::new());
        let facts_out = facts.subscribe();
        let (lacks, lacks_out) = watch::channel(None);
        tasks.spawn(engine::facts::follow(
            engine.clone(),
            facts,
            lacks,
            published.lists.subscribe(),
            doors.clone(),
        ));
        let (surround, surroundings_out) = watch::channel(surroundings(config, &asked.bridge));
        tasks.spawn(firewall::run(
            firewall::Setup {
                instance_ports: config.instance_ports,
                host: host.name().clone(),
                host_ip: Some(config.host_ip).filter(|_| !config.host_ip_is_gateway),
                range: config.port_range.bounds().clone(),
                engine: facts_out.clone(),
                published: published.clone(),
                problems: closed,
                every: firewall::RECHECK,
            },
            doors.clone(),
        ));
        let (blocked, blocked_out) = watch::channel(None);
        tasks.spawn(reachable::watch(
            reachable::Way {
                published: published.clone(),
                engine: facts_out.clone(),
                surroundings: surroundings_out.clone(),
            },
            blocked,
            doors.clone(),
        ));
        tasks.spawn(report_problems(
            host.clone(),
            names.problems.clone(),
            links.problems.clone(),
            [blocked_out, lacks_out],
            closed_out,
            published.copies.subscribe(),
            doors.clone(),
        ));

        // === doors ===
        let handle: Arc<dyn v1::AgentHandle> = Arc::new(RunningAgent {
            host: host.name().clone(),
            published: published.clone(),
            kv: kv.clone(),
            engine: engine.clone(),
            failures: links.failures.clone(),
            status: host.status(),
            own_etcd: config.own_etcd,
            standing,
        });
        let listening: Vec<SocketAddr> = [
            listeners.keys.clone(),
            addresses(&listeners.peer),
            listeners.metrics.clone(),
        ]
        .concat();
        let mut bound = Bound::default();
        let mut peers: Option<Arc<dyn v1::Peers>> = None;
        if let Some(identity) = identity {
            let table = Arc::new(peer::PeerTable::default());
            tasks.spawn(follow_peers(
                published.clone(),
                table.clone(),
                doors.clone(),
            ));
            peers = Some(Arc::new(peer::PeerClient::new(
                identity.clone(),
                table.clone(),
            )));
            note(&mut bound, "peer", &addresses(&listeners.peer));
            let router = peer::router(handle.clone());
            let token = doors.clone();
            tasks.spawn(async move {
                if let Err(error) =
                    peer::serve(listeners.peer, identity, table, router, shares.peers, token).await
                {
                    error!(error = %model::error::chain(&error), "peer listener failed to start");
                }
            });
        }
        note(&mut bound, "keys", &listeners.keys);
        let keys = listener::routes(
            v2::router(v2::V2::new(
                kv.clone(),
                host.name().to_string(),
                doors.clone(),
            )),
            v1::router(v1::Api {
                agent: handle.clone(),
                peers,
            }),
        );
        // Nobody else sets them.
        let _ = listeners.routes.set(keys);
        note(&mut bound, "metrics", &listeners.metrics);
        let _ = listeners.sources.set(metrics::Sources {
            published: published.clone(),
            links: links.counters.clone(),
            dns: names.counters.clone(),
        });
        note(
            &mut bound,
            "dns",
            &dns_bound(names.addresses.clone(), &dns).await,
        );
        tasks.spawn(follow_held_links(
            links.problems.clone(),
            published.clone(),
            doors.clone(),
        ));
        let moving = Moving {
            config: config.clone(),
            names,
            links,
            host: host.clone(),
            surround,
        };
        tasks.spawn(moving.follow(facts_out, doors.clone()));
        for (what, at) in &bound.listeners {
            info!(what = %what, %at, "listening");
        }

        // === the conductor ===
        let this = Host {
            name: host.name().clone(),
            id: dir.machine(),
            surroundings: surroundings(config, &asked.bridge),
        };
        let images = Images::new(
            engine.clone(),
            PullSettings {
                docker_config: config.docker_config.clone(),
                at_once: PULLS_AT_ONCE,
                jitter: PULL_JITTER,
                record: Some(dir.path().join(RECORD)),
            },
        );
        let record = host.clone();
        tasks.spawn(collect::run(
            images.clone(),
            published.clone(),
            config.disk_limits,
            move |disk| {
                record.update_record(|record| {
                    record.disk = disk.percent;
                    record.disk_full = disk.full;
                });
            },
            doors.clone(),
        ));
        let range = config.port_range.clone();
        let kept = [&listening, &dns].into_iter().flatten().copied().collect();
        let ports = Arc::new(Allocation::open(range, dir.path(), published.clone(), kept));
        let actions = Actions::new(engine.clone(), images, ports, this.clone(), cluster.id);
        let conductor = tokio::spawn(conductor::run(
            Setup {
                surroundings: surroundings_out,
                host: this,
                cluster: cluster.id,
                engine,
                kv,
                updates: view,
                published,
                actions,
                look_again: look_again_out,
                record: host.clone(),
                orphans: Orphans::open(dir.path())
                    .map_err(|e| Misconfigured(model::error::chain(&e)))?,
                instances: Instances::open(dir.path()).context("instances.json can't be read")?,
            },
            work.clone(),
        ));
        Ok(Self {
            bound,
            host,
            restart_grace: config.restart_grace,
            work,
            doors,
            conductor,
            tasks,
        })
    }

    /// The conductor first, so that nothing is done in this host's name after its record says that it is away.
    async fn stop(self, ended: &Ended) {
        let Self {
            host,
            restart_grace,
            work,
            doors,
            conductor,
            mut tasks,
            ..
        } = self;
        sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
        let deadline = Instant::now() + STOP_WITHIN;
        work.cancel();
        let quiet = async {
            if let Err(error) = conductor.await {
                error!(%error, "the conductor ended badly");
            }
            doors.cancel();
            let _ = tokio::time::timeout(LAST_ANSWERS, async {
                while tasks.join_next().await.is_some() {}
            })
            .await;
            tasks.shutdown().await;
        };
        let how = async {
            match ended {
                Ended::Signal(Signal::Terminate) if signals::machine_goes_down().await => {
                    Stop::Shutdown
                }
                _ => Stop::Restart,
            }
        };
        let ((), how) = tokio::join!(quiet, how);
        let Some(host) = Arc::into_inner(host) else {
            warn!("stopped in the middle of something: the record ends with its lease");
            return;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let stopped = tokio::time::timeout(left.max(RECORD_WRITTEN), host.stop(how)).await;
        let stopped = stopped.unwrap_or(Stopped::NotNoted);
        match ended {
            Ended::Signal(_) => info!(
                ?stopped,
                "stopped; containers run on. If the agent is not back in {} s, other hosts take its slots over, while the containers here run on unattended until it is back. To take this host out for good: dokkaa leave",
                restart_grace.as_secs()
            ),
            Ended::Left => info!("this host has left the cluster; nothing of it runs here"),
            Ended::Failed(_) => info!("stopped; containers run on unattended"),
        }
    }
}

/// When a file was written, in Unix seconds.
fn modified(path: &Path) -> Option<i64> {
    let at = std::fs::metadata(path).ok()?.modified().ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since.as_secs() as i64)
}

/// While etcd refuses writes nothing is placed or moved, and everybody is told.
async fn follow_alarm(
    kv: Arc<dyn Kv>,
    published: Arc<Published>,
    own_etcd: bool,
    stop: CancellationToken,
) {
    let says = |alarm: Option<store::Alarm>| {
        if let Some(alarm) = alarm {
            error!("{}", condition::alarm(alarm, own_etcd));
        } else {
            info!("etcd's alarm is cleared: it takes writes again");
        }
        published.alarm.send_replace(alarm);
    };
    store::alarm::follow(kv, store::alarm::EVERY, says, stop).await;
}

/// What moves when the engine's network does.
struct Moving {
    config: AgentConfig,
    names: dns::Handle,
    links: ambassador::Handle,
    host: Arc<store::host::Host>,
    surround: watch::Sender<Surroundings>,
}

impl Moving {
    /// Listeners first: containers are made for them.
    async fn follow(self, mut facts: watch::Receiver<EngineFacts>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = facts.changed() => if changed.is_err() { return },
            }
            let EngineFacts { info, bridge } = facts.borrow_and_update().clone();
            self.names
                .listen_at(dns_addresses(&self.config, bridge.gateway));
            self.links.listen_at(bridge.gateway);
            let now = surroundings(&self.config, &bridge);
            self.host.update_record(|record| {
                record.addr = now.host_ip;
                record.capacity = capacity(&info);
            });
            self.surround.send_replace(now);
        }
    }
}

/// An instance whose link port another process holds is not ready: it would get that one's answers.
async fn follow_held_links(
    mut problems: watch::Receiver<Vec<listen::Problem>>,
    published: Arc<Published>,
    stop: CancellationToken,
) {
    loop {
        let is_held =
            |problem: &&listen::Problem| matches!(problem.reason, listen::Reason::Taken(_));
        let held = problems
            .borrow_and_update()
            .iter()
            .filter(is_held)
            .map(|problem| (problem.addr.port(), problem.to_string()))
            .collect();
        published.held_links.send_if_modified(|before| {
            let is_new = *before != held;
            *before = held;
            is_new
        });
        tokio::select! {
            () = stop.cancelled() => return,
            changed = problems.changed() => if changed.is_err() { return },
        }
    }
}

fn note(bound: &mut Bound, what: &str, at: &[SocketAddr]) {
    for at in at {
        bound.listeners.push((what.to_owned(), at.to_string()));
    }
}

/// Where DNS was bound, or where it will be tried again.
async fn dns_bound(
    mut addresses: watch::Receiver<Vec<SocketAddr>>,
    wanted: &[SocketAddr],
) -> Vec<SocketAddr> {
    let all = addresses.wait_for(|bound| bound.len() >= wanted.len());
    match tokio::time::timeout(DNS_BINDS, all).await {
        Ok(Ok(bound)) => bound.clone(),
        _ => wanted.to_vec(),
    }
}

fn dns_addresses(config: &AgentConfig, gateway: IpAddr) -> Vec<SocketAddr> {
    match &config.dns_listen {
        DnsListen::Gateway => vec![SocketAddr::new(gateway, crate::config::DNS_PORT)],
        DnsListen::At(addresses) => addresses.clone(),
    }
}

/// The ambassador knows who calls as soon as the conductor does.
async fn follow_callers(
    mut callers: watch::Receiver<Arc<Callers>>,
    tables: Arc<ambassador::Tables>,
    stop: CancellationToken,
) {
    loop {
        let now = callers.borrow_and_update().as_ref().clone();
        tables.set_callers(now);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = callers.changed() => if changed.is_err() { return },
        }
    }
}

async fn follow_peers(
    published: Arc<Published>,
    table: Arc<peer::PeerTable>,
    stop: CancellationToken,
) {
    let mut revision = published.revision.subscribe();
    loop {
        if let Some(seen) = published.seen.load().as_ref() {
            table.update(&seen.snapshot, seen.stale);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = revision.changed() => if changed.is_err() { return },
        }
    }
}

/// What does not work stands in the host's record, where `dokkaa hosts` shows it.
async fn report_problems(
    host: Arc<store::host::Host>,
    mut dns: watch::Receiver<Vec<listen::Problem>>,
    mut links: watch::Receiver<Vec<listen::Problem>>,
    [mut blocked, mut lacks]: [watch::Receiver<Option<String>>; 2],
    mut closed: watch::Receiver<Vec<String>>,
    mut copies: watch::Receiver<Vec<String>>,
    stop: CancellationToken,
) {
    loop {
        let mut problems: Vec<String> = [("dns", &mut dns), ("links", &mut links)]
            .into_iter()
            .flat_map(|(part, problems)| {
                problems
                    .borrow_and_update()
                    .iter()
                    .map(|problem| format!("{part}: {problem}"))
                    .collect::<Vec<_>>()
            })
            .collect();
        problems.extend(lacks.borrow_and_update().clone());
        problems.extend(blocked.borrow_and_update().clone());
        problems.extend(closed.borrow_and_update().clone());
        problems.extend(copies.borrow_and_update().iter().take(COPIES).cloned());
        host.update_record(|record| record.problems = problems);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = dns.changed() => if changed.is_err() { return },
            changed = links.changed() => if changed.is_err() { return },
            changed = lacks.changed() => if changed.is_err() { return },
            changed = blocked.changed() => if changed.is_err() { return },
            changed = closed.changed() => if changed.is_err() { return },
            changed = copies.changed() => if changed.is_err() { return },
        }
    }
}

/// Says how the host stands, whenever that changes.
async fn report_status(
    mut status: watch::Receiver<HostStatus>,
    (name, own): (HostName, IpAddr),
    etcd: Vec<String>,
    stop: CancellationToken,
) {
    loop {
        match &*status.borrow_and_update() {
            // A failure ends the agent, which says so.
            HostStatus::Joining(Waiting::Begun) | HostStatus::Failed(_) => {}
            HostStatus::Joining(Waiting::Etcd(error)) => warn!(
                ?etcd,
                error,
                "waiting for etcd; is --etcd right, and does it run? What runs here is looked after meanwhile"
            ),
            HostStatus::Joining(why @ Waiting::Record(_)) => info!("{why}"),
            HostStatus::Joining(why @ Waiting::NameTaken(_)) => error!(%name, %own, "{why}"),
            HostStatus::Joining(why) => error!(
                error = %why,
                "can't join the cluster; nothing is changed, and it is tried again"
            ),
            HostStatus::Live(revision) => info!(revision, "this host's record is in etcd"),
            HostStatus::Lost => {
                warn!("this host's record has ended, or etcd does not answer; it is put again");
            }
            HostStatus::Held(reason) => error!(
                reason,
                "in hold: nothing is stopped, claimed or moved; crashed containers are restarted"
            ),
            HostStatus::Distrusted => error!(
                "etcd's cluster is not the one that this host belongs to: nothing is written"
            ),
            HostStatus::Foreign(session) => error!(
                %session,
                "another process writes this host's record: its identity runs twice. This agent writes nothing any more; stop one of them"
            ),
            HostStatus::Left => info!("this host is no member of the cluster any more"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_start_waits_for_is_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("docker.sock");
        let silent = EngineError::Unresponsive("no answer".to_owned());
        let absent = lack(&socket, &silent).await;
        assert!(absent.contains("there is no socket"), "{absent}");

        let listener = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let answers_badly = lack(&socket, &silent).await;
        assert!(answers_badly.contains("does not answer"), "{answers_badly}");
        drop(listener);
        let left = lack(&socket, &silent).await;
        assert!(left.contains("nobody listens"), "{left}");

        // Whatever the socket is now, the engine answered that.
        let network = EngineError::HostFault {
            fault: engine::HostFault::Network,
            message: "there is no interface `docker0`".to_owned(),
        };
        let network = lack(&socket, &network).await;
        assert!(
            network.starts_with("the network of its containers: "),
            "{network}"
        );
    }
}
