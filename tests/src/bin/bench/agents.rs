//! Agents in this process: of each the real loop, view and host record, with an engine in memory, on a real etcd.
//!
//! They share one connection and one watch, so that what is measured is their
//! own work and not that of a hundred clients on one machine.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use conductor::actions::Actions;
use conductor::allocation::Allocation;
use conductor::images::{Images, PullSettings};
use conductor::instances::Instances;
use conductor::orphans::Orphans;
use conductor::{Published, Setup};
use engine::memory::{MemEngine, Published as InRegistry};
use manifests::HostName;
use manifests::keys::{Key, WATCH_END, WATCH_START};
use model::observed::Surroundings;
use model::records::{Capacity, HostRecord, HostState, Versions};
use model::{Directory, Rules};
use store::etcd::{EtcdKv, EtcdOptions};
use store::host::{Clock, Host, HostOptions, HostStatus, StateDir, StateDirError, Stop};
use store::kv::{
    Event, KeyRange, Kv, KvError, Op, OpReply, Range, RangeReply, Status, Txn, TxnReply, Watch,
    WatchReply,
};
use store::view::{Known, SavedView, ViewInputs, ViewOptions, run_view, updates};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// What every engine has and every slot runs.
pub(crate) const IMAGE: &str = "app:1";
/// Longest wait for anything here.
pub(crate) const CAP: Duration = Duration::from_secs(120);
/// In a second of `/proc/<pid>/stat`: the same on every Linux.
const TICKS: f64 = 100.0;
/// Of each host's lease: nothing here is about lost hosts.
const TTL: Duration = Duration::from_secs(60);

/// A client of an etcd.
pub(crate) fn client(url: &str) -> anyhow::Result<EtcdKv> {
    let mut options = EtcdOptions::new([url]);
    options.call_timeout = CAP;
    Ok(EtcdKv::new(&options)?)
}

/// The one range that agents watch.
pub(crate) fn watched() -> KeyRange {
    KeyRange::range(WATCH_START, WATCH_END)
}

/// What has been asked of etcd.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    /// Requests that write.
    pub(crate) requests: u64,
    pub(crate) claims: u64,
    /// Claims whose guard did not hold.
    pub(crate) claims_lost: u64,
    pub(crate) states: u64,
    /// Of versions, decided or good.
    pub(crate) versions: u64,
    pub(crate) versions_lost: u64,
    /// Outside the watched range.
    pub(crate) statuses: u64,
}

impl Asked {
    /// Adds what was asked between two moments.
    pub(crate) fn add_difference(&mut self, before: &Self, after: &Self) {
        self.requests += after.requests - before.requests;
        self.claims += after.claims - before.claims;
        self.claims_lost += after.claims_lost - before.claims_lost;
        self.states += after.states - before.states;
        self.versions += after.versions - before.versions;
        self.versions_lost += after.versions_lost - before.versions_lost;
        self.statuses += after.statuses - before.statuses;
    }

    fn add(&mut self, txn: &Txn, reply: &TxnReply) {
        for (op, reply) in txn.then.iter().zip(&reply.replies) {
            if let (Op::Txn(inner), OpReply::Txn(reply)) = (op, reply) {
                self.add(inner, reply);
            }
        }
        let lost = u64::from(!reply.succeeded);
        for op in &txn.then {
            let Op::Put { key, .. } = op else { continue };
            match Key::parse(key) {
                Some(Key::Claim(_)) => {
                    self.claims += 1;
                    self.claims_lost += lost;
                }
                Some(Key::State(_)) => self.states += 1,
                Some(Key::Version(..)) => {
                    self.versions += 1;
                    self.versions_lost += lost;
                }
                Some(Key::Status(_)) => self.statuses += 1,
                _ => {}
            }
        }
    }
}

/// The connection and the watch that all agents share.
pub(crate) struct Shared {
    etcd: EtcdKv,
    asked: Mutex<Asked>,
    /// All that the watch has said.
    said: Mutex<Vec<Arc<WatchReply>>>,
    length: watch::Sender<usize>,
}

impl Shared {
    async fn open(url: &str) -> anyhow::Result<Arc<Self>> {
        let etcd = client(url)?;
        let mut watch = etcd.watch(watched(), 1, false).await?;
        let shared = Arc::new(Self {
            etcd,
            asked: Mutex::default(),
            said: Mutex::default(),
            length: watch::Sender::new(0),
        });
        let weak = Arc::downgrade(&shared);
        tokio::spawn(async move {
            while let Some(reply) = watch.replies.recv().await {
                let Some(shared) = weak.upgrade() else { return };
                let length = {
                    let mut said = lock(&shared.said);
                    said.push(Arc::new(reply));
                    said.len()
                };
                shared.length.send_replace(length);
            }
        });
        Ok(shared)
    }

    /// All that has been asked so far.
    pub(crate) fn asked(&self) -> Asked {
        *lock(&self.asked)
    }

    /// How much the watch has said.
    pub(crate) fn position(&self) -> usize {
        lock(&self.said).len()
    }

    fn since(&self, position: usize) -> Vec<Arc<WatchReply>> {
        lock(&self.said)[position..].to_vec()
    }

    /// The events since a position.
    pub(crate) fn events(&self, position: usize) -> Vec<Event> {
        let mut events = Vec::new();
        for reply in self.since(position) {
            if let WatchReply::Events(more, _) = reply.as_ref() {
                events.extend(more.iter().cloned());
            }
        }
        events
    }

    /// Waits until `enough` says so of an event since `position`; when that event was seen.
    pub(crate) async fn follow(
        &self,
        mut position: usize,
        what: &str,
        mut enough: impl FnMut(&Event) -> bool,
    ) -> anyhow::Result<Instant> {
        let mut length = self.length.subscribe();
        let ended = tokio::time::Instant::now() + CAP;
        loop {
            for reply in self.since(position) {
                position += 1;
                if let WatchReply::Events(events, _) = reply.as_ref()
                    && events.iter().any(&mut enough)
                {
                    return Ok(Instant::now());
                }
            }
            tokio::time::timeout_at(ended, length.wait_for(|length| *length > position))
                .await
                .with_context(|| format!("waited for {what}"))??;
        }
    }

    /// Waits until the watch has said nothing new for so long.
    pub(crate) async fn quiet(&self, time: Duration) -> anyhow::Result<()> {
        let ended = Instant::now() + CAP;
        let mut since = (self.events(0).len(), Instant::now());
        while since.1.elapsed() < time {
            if Instant::now() > ended {
                bail!("something is written again and again");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let events = self.events(0).len();
            if events != since.0 {
                since = (events, Instant::now());
            }
        }
        Ok(())
    }

    /// Passes on what the watch said and says, from a revision on.
    async fn pass_on(self: Arc<Self>, from: i64, to: mpsc::Sender<WatchReply>) {
        let mut length = self.length.subscribe();
        let mut position = 0;
        loop {
            for reply in self.since(position) {
                position += 1;
                let reply = match reply.as_ref() {
                    WatchReply::Events(events, revision) => {
                        let is_new = |event: &&Event| event.modified() >= from;
                        let events: Vec<Event> = events.iter().filter(is_new).cloned().collect();
                        if events.is_empty() {
                            continue;
                        }
                        WatchReply::Events(events, *revision)
                    }
                    other => other.clone(),
                };
                if to.send(reply).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = to.closed() => return,
                more = length.wait_for(|length| *length > position) => {
                    if more.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

/// An agent's way to etcd.
struct Way(Arc<Shared>);

#[async_trait]
impl Kv for Way {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError> {
        let reply = self.0.etcd.txn(txn.clone()).await?;
        let mut asked = lock(&self.0.asked);
        asked.requests += 1;
        asked.add(&txn, &reply);
        Ok(reply)
    }

    async fn range(&self, range: Range) -> Result<RangeReply, KvError> {
        self.0.etcd.range(range).await
    }

    async fn watch(&self, _: KeyRange, from: i64, _: bool) -> Result<Watch, KvError> {
        let (sender, replies) = mpsc::channel(16);
        // The shared watch asks for its progress by itself.
        let (progress, _) = mpsc::channel(1);
        tokio::spawn(self.0.clone().pass_on(from, sender));
        Ok(Watch { replies, progress })
    }

    async fn status(&self) -> Result<Status, KvError> {
        self.0.etcd.status().await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<(i64, Duration), KvError> {
        self.0.etcd.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(Duration, i64), KvError> {
        self.0.etcd.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), KvError> {
        self.0.etcd.lease_revoke(lease).await
    }
}

/// A host: its disk, its engine, and its agent while that runs.
pub(crate) struct Agent {
    pub(crate) name: HostName,
    pub(crate) engine: MemEngine,
    kv: Arc<dyn Kv>,
    disk: PathBuf,
    address: IpAddr,
    running: Option<Running>,
}

struct Running {
    host: Arc<Host>,
    published: Arc<Published>,
    work: CancellationToken,
    view: CancellationToken,
    conductor: JoinHandle<()>,
    viewing: JoinHandle<()>,
    _look_again: mpsc::Sender<()>,
}

impl Agent {
    /// The host of this number, with its agent still to be started.
    pub(crate) fn new(number: u16, kv: Arc<dyn Kv>, disk: PathBuf) -> anyhow::Result<Self> {
        let engine = MemEngine::default();
        engine.world(|world, _| {
            let published = InRegistry {
                id: format!("sha256:{:064x}", 1),
                digest: format!("sha256:{:064x}", 2),
                ..InRegistry::default()
            };
            world.registry.insert(IMAGE.to_owned(), published);
            world.pull(IMAGE, None)
        })?;
        let [high, low] = number.to_be_bytes();
        Ok(Self {
            name: host_name(number)?,
            engine,
            kv,
            disk,
            // An address of its own on loopback: ports are probed there.
            address: Ipv4Addr::new(127, 77, high, low).into(),
            running: None,
        })
    }

    /// Starts the agent, as `dokkaa` does, and waits until its host is live.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        let dir = Arc::new(self.dir().await?);
        let saved = store::view::file::load(&dir.view_file())?;
        let containers = self.engine.world(|world, _| world.list(None))?.labelled;
        let options = HostOptions {
            name: self.name.clone(),
            ttl: TTL,
            restart_grace: store::host::DEFAULT_RESTART_GRACE,
            labelled_containers: !containers.is_empty(),
            saved: saved.as_ref().map(|saved| Known {
                cluster: saved.cluster.clone(),
                revision: saved.revision,
            }),
            rules: Rules::default(),
        };
        let record = record(dir.machine(), self.address);
        let clock = Clock::machine();
        let host = Host::start_simulated(self.kv.clone(), clock, dir.clone(), options, record)?;
        let host = Arc::new(host);
        host.cluster().wait_for(Option::is_some).await?;
        let mut status = host.status();
        self.running = Some(self.run(&dir, host, saved)?);
        let settled = |status: &HostStatus| !matches!(status, HostStatus::Joining(_));
        match &*status.wait_for(settled).await? {
            HostStatus::Live(_) => Ok(()),
            other => bail!("{}: {other:?}", self.name),
        }
    }

    /// Its disk: the lock of an agent that was stopped lives until its tasks have ended.
    async fn dir(&self) -> anyhow::Result<StateDir> {
        loop {
            match StateDir::open(&self.disk) {
                Err(StateDirError::Locked(_)) => tokio::task::yield_now().await,
                opened => return Ok(opened?),
            }
        }
    }

    fn run(
        &self,
        dir: &StateDir,
        host: Arc<Host>,
        saved: Option<SavedView>,
    ) -> anyhow::Result<Running> {
        let cluster = host.cluster().borrow().clone().context("a cluster")?;
        let (work, view) = (CancellationToken::new(), CancellationToken::new());
        let (sender, updates) = updates();
        let options = ViewOptions::new(cluster.clone(), saved, Some(dir.view_file()));
        let inputs = ViewInputs {
            seen: host.seen(),
            floor: host.floor(),
        };
        let kv = &self.kv;
        let viewing = tokio::spawn(run_view(kv.clone(), options, inputs, sender, view.clone()));
        let published = Arc::new(Published::default());
        let this = model::Host {
            name: self.name.clone(),
            id: dir.machine(),
            surroundings: Surroundings {
                host_ip: self.address,
                gateway: IpAddr::from([172, 17, 0, 1]),
                dns: None,
                domain: "skydns.local".to_owned(),
                network: "bridge".to_owned(),
            },
        };
        let engine = Arc::new(self.engine.clone());
        let settings = PullSettings {
            docker_config: dir.path().join("no-logins"),
            at_once: 3,
            jitter: Duration::ZERO,
            record: None,
            spool: None,
        };
        let images = Images::new(engine.clone(), settings);
        let range = "20000-20999".parse().context("a port range")?;
        let ports = Arc::new(Allocation::open(
            range,
            dir.path(),
            published.clone(),
            Vec::new(),
        ));
        let actions = Actions::new(engine.clone(), images, ports, this.clone(), cluster.id);
        let (look_again, asked) = mpsc::channel(1);
        let setup = Setup {
            surroundings: watch::channel(this.surroundings.clone()).1,
            host: this,
            cluster: cluster.id,
            engine,
            kv: kv.clone(),
            updates,
            published: published.clone(),
            actions,
            look_again: asked,
            record: host.clone(),
            orphans: Orphans::open(dir.path())?,
            instances: Instances::open(dir.path())?,
        };
        Ok(Running {
            host,
            published,
            conductor: tokio::spawn(conductor::run(setup, work.clone())),
            work,
            view,
            viewing,
            _look_again: look_again,
        })
    }

    /// Waits until it sees all there is at a revision, and acts on it.
    pub(crate) async fn sees(&self, wanted: i64) -> anyhow::Result<()> {
        let running = self.running.as_ref().context("no agent")?;
        let mut revision = running.published.revision.subscribe();
        let sees = revision.wait_for(|(revision, stale)| *revision >= wanted && !stale);
        tokio::time::timeout(CAP, sees)
            .await
            .with_context(|| format!("{} to see revision {wanted}", self.name))??;
        Ok(())
    }

    /// What its DNS server answers from, while it runs.
    pub(crate) fn directory(&self) -> Option<Arc<ArcSwap<Directory>>> {
        let running = self.running.as_ref()?;
        Some(Arc::clone(&running.published.directory))
    }

    /// Stops the agent as `dokkaa` does at SIGTERM. Containers run on.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("no agent")?;
        running.work.cancel();
        (&mut running.conductor).await?;
        running.view.cancel();
        (&mut running.viewing).await?;
        let host = Arc::into_inner(running.host).context("somebody else has the host")?;
        host.stop(Stop::Restart).await;
        Ok(())
    }
}

/// A host's name by its number.
pub(crate) fn host_name(number: u16) -> anyhow::Result<HostName> {
    Ok(format!("h{number:04}").parse()?)
}

/// What a host says of itself.
pub(crate) fn record(id: Uuid, addr: IpAddr) -> HostRecord {
    HostRecord {
        id,
        session: Uuid::nil(),
        epoch: 0,
        state: HostState::Up,
        addr,
        peer: None,
        api: Vec::new(),
        labels: [].into(),
        capacity: Capacity::default(),
        versions: Versions {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            placement: planner::placement::VERSIONS.to_vec(),
        },
        foreign: 0,
        engine: true,
        docker: None,
        disk: None,
        disk_full: false,
        hold: None,
        problems: Vec::new(),
    }
}

/// An etcd, and agents on it.
pub(crate) struct Cluster {
    pub(crate) agents: Vec<Agent>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) etcd: dokkaa_tests::etcd::Etcd,
    _disks: tempfile::TempDir,
}

impl Cluster {
    /// So many hosts, with their agents at work.
    pub(crate) async fn start(hosts: u16) -> anyhow::Result<Self> {
        let etcd = dokkaa_tests::etcd::Etcd::start(&dokkaa_tests::etcd::EtcdOptions::default())?;
        let shared = Shared::open(&etcd.url()).await?;
        let disks = tempfile::Builder::new().prefix("dokkaa-bench-").tempdir()?;
        let mut agents = Vec::new();
        for number in 0..hosts {
            let disk = disks.path().join(number.to_string());
            agents.push(Agent::new(number, Arc::new(Way(shared.clone())), disk)?);
        }
        let mut tasks = Vec::new();
        for (number, mut agent) in agents.into_iter().enumerate() {
            // The first one makes the cluster.
            if number == 0 {
                agent.start().await?;
                tasks.push(tokio::spawn(async { anyhow::Ok(agent) }));
            } else {
                tasks.push(tokio::spawn(async move {
                    agent.start().await?;
                    Ok(agent)
                }));
            }
        }
        let mut agents = Vec::new();
        for task in tasks {
            agents.push(task.await??);
        }
        let cluster = Self {
            agents,
            shared,
            etcd,
            _disks: disks,
        };
        // A record is written again when its host has been seen for a while.
        cluster.shared.quiet(Duration::from_secs(3)).await?;
        cluster.all_see().await?;
        Ok(cluster)
    }

    /// Waits until every agent sees all there is.
    async fn all_see(&self) -> anyhow::Result<()> {
        let newest = self.shared.events(0).iter().map(Event::modified).max();
        for agent in &self.agents {
            agent.sees(newest.unwrap_or_default()).await?;
        }
        Ok(())
    }

    /// Puts a container whose slots are ready as soon as they run.
    pub(crate) async fn put(&self, container: &str, scale: usize) -> anyhow::Result<i64> {
        let key = Key::Manifest(container.parse()?);
        let manifest = serde_json::json!({
            "image": IMAGE,
            "scale": scale,
            "services": {"web": 80},
            "stop_signal": "SIGKILL",
        });
        let put = Op::put(key, manifest.to_string());
        let reply = self.shared.etcd.txn(Txn::new(vec![], vec![put])).await?;
        Ok(reply.revision)
    }

    /// Plans that all agents have made.
    pub(crate) fn plans(&self) -> u64 {
        let of = |agent: &Agent| {
            let running = agent.running.as_ref()?;
            Some(running.published.counters.plans.load(Relaxed))
        };
        self.agents.iter().filter_map(of).sum()
    }

    /// Deletes what was put.
    pub(crate) async fn delete(&self, container: &str) -> anyhow::Result<()> {
        let delete = Op::delete(Key::Manifest(container.parse()?));
        self.shared.etcd.txn(Txn::new(vec![], vec![delete])).await?;
        Ok(())
    }

    /// Waits until so many slots that were not ready at `position` are; when they were.
    pub(crate) async fn ready(&self, position: usize, slots: usize) -> anyhow::Result<Instant> {
        let mut ready = std::collections::BTreeSet::new();
        let what = format!("{slots} ready slots");
        self.shared
            .follow(position, &what, |event| {
                if let Event::Put { now, .. } = event
                    && matches!(Key::parse(&now.key), Some(Key::State(_)))
                    && now.value.windows(7).any(|part| part == b"\"ready\"")
                {
                    ready.insert(now.key.clone());
                }
                ready.len() == slots
            })
            .await
    }

    /// Deletes containers, and waits until nothing is left of them.
    pub(crate) async fn clear(&self, containers: &[String]) -> anyhow::Result<()> {
        for container in containers {
            self.delete(container).await?;
        }
        let range = Range::new(KeyRange::prefix("/claims/"));
        let ended = Instant::now() + CAP;
        loop {
            let left = self.shared.etcd.range(range.clone()).await?.count;
            if left == 0 {
                break;
            }
            if Instant::now() > ended {
                bail!("{left} keys are left");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.shared.quiet(Duration::from_secs(1)).await
    }
}

/// Seconds on a processor, of all threads of a process.
pub(crate) fn on_processor(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').context("a name")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    Ok(ticks / TICKS)
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
