//! Wires the agent: the one file that knows all its parts.
//!
//! Order of the start: state directory, listeners, engine, then everything at
//! once, on the saved view; the host joins the cluster behind that. Only a first
//! start, which knows no cluster yet, waits for etcd. Order of the stop: the
//! conductor, the links, the rest, then the record; containers run on.

mod api;
pub(crate) mod condition;
mod dataplane;
mod docker;
mod error;
mod events;
mod handle;
mod images;
mod inheritance;
mod join;
mod leaving;
mod listeners;
mod network;
mod parts;
mod planning;
mod problems;
mod publishing;
mod reached;
mod signals;
mod unreached;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use conductor::events::Journal;
use conductor::{Published, firewall};
use engine::{DockerEngine, Engine};
use model::records::Cluster;
use store::host::{StateDir, Stop, Stopped};
use store::view::{ViewInputs, ViewOptions, run_view, updates};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::AgentConfig;
use crate::limits::{self, Shares};
use crate::up::Bound;
use api::Served;
use condition::{Condition, follow_alarm};
use docker::DockerStart;
pub(crate) use error::Misconfigured;
pub(crate) use inheritance::Inheritance;
use join::{Ended, Join};
use leaving::Leaving;
use listeners::{Listeners, addresses};
use network::host_ip;
use parts::{Parts, Tasks};
use signals::{Signal, Signals};

/// How long containers wait for the saved view. Other names than the cluster's are answered without one.
const FIRST_VIEW: Duration = Duration::from_secs(5);
/// How long the API may take to finish what it answers.
const LAST_ANSWERS: Duration = Duration::from_millis(100);
/// Time from the signal to the exit, however slow etcd and API clients are.
const STOP_WITHIN: Duration = Duration::from_millis(800);
/// Least time for the last write of the host's record. Without it other hosts take the slots over when the lease ends.
const RECORD_WRITTEN: Duration = Duration::from_millis(300);

/// Runs the agent until a signal ends it. `waits` is told what its start waits for, if that takes long. `ready` is told what was bound once all is up.
pub(crate) async fn run(
    mut config: AgentConfig,
    inheritance: Inheritance,
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
            .map_err(Misconfigured::by)?;
    }
    let mut signals = Signals::new().context("can't wait for signals")?;
    let dir = Arc::new(StateDir::open(&config.state_dir).map_err(Misconfigured::by)?);
    let shares = Shares::of(limits::raise_open_files());
    let condition = Arc::new(Condition::new(&config));
    let mut listeners = Listeners::open(&config, &inheritance.binder, shares, &condition).await?;

    let engine: Arc<dyn Engine> = Arc::new(DockerEngine::new(&config.docker));
    let known = dir.cluster().map(|cluster| cluster.id);
    let docker = tokio::select! {
        docker = docker::connect(engine, &config, known, |what| {
            condition.engine(Some(what.to_owned()));
            waits(what);
        }) => docker?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    config.host_ip = host_ip(&config, &docker.bridge);
    condition.engine(None);
    let mut join = join::begin(&config, &dir, &docker, &listeners)?;
    condition.joins(join.host.status());
    let (status, etcd) = (join.host.status(), config.etcd.endpoints.clone());
    let own = (config.name.clone(), config.host_ip);
    listeners
        .tasks
        .spawn(|stop| store::host::log_status(status, own, etcd, stop));
    // A first start has nothing to go on with before it has met its cluster.
    let cluster = tokio::select! {
        cluster = join.cluster() => cluster?,
        _ = signals.next() => return Ok(ExitCode::SUCCESS),
    };
    let start = Start {
        docker,
        listeners,
        join,
        shares,
        condition,
        inheritance,
    };
    let agent = Running::start(config, dir, start, cluster).await?;
    let mut status = agent.host.status();
    let life = async {
        if let Some(ended) = join::joins(&mut status, agent.view.clone()).await {
            return ended;
        }
        sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
        ready(agent.bound.clone());
        info!("the agent is ready");
        join::ended(&mut status).await
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

/// All that the start has got together.
struct Start {
    docker: DockerStart,
    listeners: Listeners,
    join: Join,
    shares: Shares,
    condition: Arc<Condition>,
    inheritance: Inheritance,
}

/// The agent at work.
struct Running {
    bound: Bound,
    host: Arc<store::host::Host>,
    /// Revision of the view, 0 before the first, and whether it is stale.
    view: watch::Receiver<(i64, bool)>,
    restart_grace: Duration,
    work: CancellationToken,
    conductor: tokio::task::JoinHandle<()>,
    links: Arc<ambassador::Handle>,
    inheritance: Inheritance,
    tasks: Tasks,
}

impl Running {
    async fn start(
        config: AgentConfig,
        dir: Arc<StateDir>,
        start: Start,
        cluster: Cluster,
    ) -> anyhow::Result<Self> {
        let Start {
            docker,
            listeners,
            join,
            shares,
            condition,
            mut inheritance,
        } = start;
        let mut tasks = listeners.tasks;
        let (journal, writer) = Journal::open(dir.path());
        let parts = Parts {
            shares,
            dir: dir.clone(),
            cluster: cluster.id,
            host: Arc::new(join.host),
            kv: join.kv,
            engine: docker.engine,
            disk: docker.disk,
            published: Arc::new(Published::new(journal.clone())),
            config,
        };
        let (host, published) = (&parts.host, &parts.published);
        // A view that was saved is as old as its file.
        let saved_at = join.saved.as_ref().and_then(|_| modified(&dir.view_file()));
        published
            .fresh_at
            .store(saved_at.unwrap_or_default(), Ordering::Relaxed);
        condition.works(published.clone());
        let (sender, view) = updates();
        condition.follows(view.failing());
        let signs = events::Signs {
            host: host.status(),
            etcd: view.failing(),
        };
        tasks.spawn(|stop| events::keep(journal, writer, signs, stop));

        let (kv, own_etcd) = (parts.kv.clone(), parts.config.own_etcd);
        let alarms = published.clone();
        tasks.spawn_on(&join.etcd_thread, |stop| {
            follow_alarm(kv, alarms, own_etcd, stop)
        });
        let known = CancellationToken::new();
        if join.saved.is_none() {
            known.cancel();
        }
        let (waiting, revision) = (known.clone(), published.revision.subscribe());
        tasks.spawn(|stop| async move {
            stop.run_until_cancelled(first_view(revision, waiting))
                .await;
        });
        let options = ViewOptions {
            held: dir.hold().is_some(),
            ..ViewOptions::new(cluster, join.saved, Some(dir.view_file()))
        };
        let inputs = ViewInputs {
            seen: host.seen(),
            floor: host.floor(),
        };
        let kv = parts.kv.clone();
        tasks.spawn(|stop| run_view(kv, options, inputs, sender, stop));
        let leaving = Leaving {
            host: host.clone(),
            published: published.clone(),
            engine: parts.engine.clone(),
            cluster: parts.cluster,
        };
        tasks.spawn(|stop| leaving.watch(stop));

        let dataplane = dataplane::start(
            &parts,
            docker.info,
            docker.bridge,
            &mut inheritance,
            known,
            &mut tasks,
        )
        .await?;
        publishing::start(&parts, &mut tasks)?;
        let links = dataplane.links.clone();
        let peer = addresses(&listeners.peer);
        let mut bound = Bound::default();
        for (what, at) in [
            ("peer", &peer),
            ("keys", &listeners.keys),
            ("metrics", &listeners.metrics),
            ("dns", &dataplane.dns_bound),
        ] {
            for at in at {
                info!(what, %at, "listening");
                bound.listeners.push((what.to_owned(), at.to_string()));
            }
        }
        let listening: Vec<SocketAddr> = [listeners.keys, peer, listeners.metrics].concat();
        let served = Served {
            peer: listeners.peer,
            routes: listeners.routes,
            sources: listeners.sources,
        };
        let images = planning::images(&parts);
        api::start(
            &parts,
            &images,
            &dataplane,
            served,
            join.identity,
            condition,
            &mut tasks,
        );
        let work = CancellationToken::new();
        let conductor = planning::start(
            &parts,
            images,
            dataplane,
            view,
            listening,
            work.clone(),
            &mut tasks,
        )?;
        Ok(Self {
            bound,
            host: parts.host,
            view: parts.published.revision.subscribe(),
            restart_grace: parts.config.restart_grace,
            work,
            conductor,
            links,
            inheritance,
            tasks,
        })
    }

    /// The conductor first, so that nothing is done in this host's name after its record says that it is away.
    async fn stop(self, ended: &Ended) {
        let Self {
            host,
            restart_grace,
            work,
            conductor,
            links,
            inheritance,
            mut tasks,
            ..
        } = self;
        sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
        let deadline = Instant::now() + STOP_WITHIN;
        work.cancel();
        let how = async {
            match ended {
                Ended::Signal(Signal::Terminate) if signals::machine_goes_down().await => {
                    Stop::Shutdown
                }
                _ => Stop::Restart,
            }
        };
        let (conducted, how) = tokio::join!(conductor, how);
        if let Err(error) = conducted {
            error!(%error, "conductor failed");
        }
        // Whether it is a restart is not known: systemd closes what it has when it is none.
        if matches!((ended, how), (Ended::Signal(_), Stop::Restart)) {
            inheritance.leave(&links).await;
        }
        tasks.stop.cancel();
        let _ = tokio::time::timeout(LAST_ANSWERS, async {
            while tasks.running.join_next().await.is_some() {}
        })
        .await;
        tasks.running.shutdown().await;
        let Some(host) = Arc::into_inner(host) else {
            warn!("stopped while the host record was in use: it ends with its lease");
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

/// Cancels `known` with the first view, which a saved one gives at once.
async fn first_view(mut revision: watch::Receiver<(i64, bool)>, known: CancellationToken) {
    let first = revision.wait_for(|(revision, _)| *revision > 0);
    let _ = tokio::time::timeout(FIRST_VIEW, first).await;
    known.cancel();
}

/// When a file was written, in Unix seconds.
fn modified(path: &Path) -> Option<i64> {
    let at = std::fs::metadata(path).ok()?.modified().ok()?;
    let since = at.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(since.as_secs() as i64)
}
