//! A cluster of agents on one etcd in memory, and what a test asks of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use conductor::actions::Actions;
use conductor::allocation::Allocation;
use conductor::images::{Images, PullSettings, RECORD};
use conductor::instances::Instances;
use conductor::orphans::Orphans;
use conductor::{Published, Setup};
use engine::memory::{MemEngine, Program, Published as InRegistry};
use manifests::keys::Key;
use manifests::{ContainerId, HostName, SlotId};
use model::observed::{ContainerState, ObservedContainer, Surroundings};
use model::records::{Capacity, HostRecord, HostState, Phase, Versions};
use model::snapshot::{Change, Desired, Snapshot};
use model::{Host as ThisHost, Rules};
use store::host::{Clock, Host, HostOptions, HostStatus, StateDir, StateDirError, Stop};
use store::kv::{KeyRange, Kv, Op, Range, Txn};
use store::memory::MemKv;
use store::view::{Known, SavedView, ViewInputs, ViewOptions, run_view, updates};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::agents::docker::{Docker, Journal};
use crate::agents::history::History;
use crate::agents::wire::Wire;

/// Longest wait for a state, on the cluster's clock.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often a state is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(crate) struct Cluster {
    pub(crate) kv: MemKv,
    pub(crate) journal: Arc<Journal>,
    pub(crate) agents: Vec<Agent>,
    clock: Clock,
}

/// A host: its disk, its engine, its way to etcd, and its agent while that runs.
pub(crate) struct Agent {
    pub(crate) name: HostName,
    pub(crate) wire: Arc<Wire>,
    pub(crate) docker: Arc<Docker>,
    disk: TempDir,
    /// How often the machine was started.
    boots: u32,
    clock: Clock,
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

impl Drop for Running {
    fn drop(&mut self) {
        self.view.cancel();
        self.conductor.abort();
        self.viewing.abort();
    }
}

impl Cluster {
    /// So many hosts, `a`, `b` …, with their agents at work.
    pub(crate) async fn of(hosts: usize) -> Self {
        let mut cluster = Self {
            kv: MemKv::new(),
            journal: Arc::default(),
            agents: Vec::new(),
            clock: Clock::runtime(),
        };
        for letter in ('a'..).take(hosts) {
            let mut agent = cluster.host(&letter.to_string());
            agent.start().await;
            cluster.agents.push(agent);
        }
        let live = |cluster: &Self| {
            let live = cluster.snapshot().live().count();
            (live == hosts).then_some(()).ok_or(format!("{live} live"))
        };
        cluster.wait("all hosts are live", live).await;
        cluster
    }

    /// A host whose agent does not run yet.
    fn host(&self, name: &str) -> Agent {
        let clock = self.clock;
        let engine = MemEngine::new(Arc::new(move || clock.wall()));
        engine.world(|world, _| {
            for image in ["app:1", "app:2", "app:3"] {
                let published = InRegistry {
                    id: format!("sha256:id-of-{image}"),
                    digest: format!("sha256:{:064x}", image.as_bytes()[4]),
                    ..InRegistry::default()
                };
                world.registry.insert(image.to_owned(), published);
            }
            let never = Program {
                listens: None,
                ..Program::default()
            };
            let crash = Program {
                ends: Some((Duration::from_millis(100), 1)),
                ..never.clone()
            };
            let ends = |after: u64| Program {
                ends: Some((Duration::from_millis(after), 1)),
                ..Program::default()
            };
            let programs = [
                ("crash", crash),
                ("never-ready", never),
                ("ends-soon", ends(700)),
                ("ends-later", ends(3_000)),
            ];
            world.programs = programs
                .into_iter()
                .map(|(command, program)| (vec![command.to_owned()], program))
                .collect();
        });
        Agent {
            name: name.parse().expect("a name"),
            wire: Arc::new(Wire::new(self.kv.clone())),
            docker: Arc::new(Docker::new(name, engine, self.journal.clone())),
            disk: TempDir::new().expect("a directory"),
            boots: 1,
            clock,
            running: None,
        }
    }

    pub(crate) fn agent(&self, name: &str) -> &Agent {
        let mut agents = self.agents.iter();
        agents
            .find(|agent| agent.name.as_str() == name)
            .expect("a host of this cluster")
    }

    pub(crate) fn agent_mut(&mut self, name: &str) -> &mut Agent {
        let mut agents = self.agents.iter_mut();
        agents
            .find(|agent| agent.name.as_str() == name)
            .expect("a host of this cluster")
    }

    /// The agent that has this slot.
    pub(crate) fn owner(&self, slot: &SlotId) -> &Agent {
        let snapshot = self.snapshot();
        let claim = snapshot.slot(slot).and_then(|view| view.claim.as_ref());
        self.agent(claim.expect("a claim").host.as_str())
    }

    // === what the user does ===

    /// Writes a manifest; its revision.
    pub(crate) fn put(&self, id: &str, manifest: &str) -> i64 {
        let key = Key::Manifest(container(id)).to_string();
        let put = Op::Put {
            key,
            value: manifest.as_bytes().to_vec(),
            lease: 0,
        };
        let reply = self.kv.with(|etcd| etcd.txn(&Txn::new(vec![], vec![put])));
        reply.expect("written").revision
    }

    pub(crate) fn delete(&self, id: &str) {
        let delete = Op::delete(Key::Manifest(container(id)));
        let reply = self
            .kv
            .with(|etcd| etcd.txn(&Txn::new(vec![], vec![delete])));
        reply.expect("deleted");
    }

    // === what there is ===

    pub(crate) fn revision(&self) -> i64 {
        self.kv.with(|etcd| etcd.revision())
    }

    pub(crate) fn history(&self, since: i64) -> History {
        History::since(&self.kv, since)
    }

    /// Every key and value under a prefix.
    pub(crate) fn keys(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let range = Range::new(KeyRange::prefix(prefix));
        let found = self.kv.with(|etcd| etcd.range(&range)).expect("readable");
        found.kvs.into_iter().map(|kv| (kv.key, kv.value)).collect()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let range = Range::new(KeyRange::prefix("/"));
        let found = self.kv.with(|etcd| etcd.range(&range)).expect("readable");
        let changes = found.kvs.into_iter().map(|kv| Change::Put {
            key: kv.key,
            value: kv.value,
            modified: kv.modified,
            created: kv.created,
        });
        let mut snapshot = Snapshot::default();
        snapshot.apply(changes, found.revision);
        snapshot
    }

    pub(crate) fn containers(&self) -> Vec<(HostName, ObservedContainer)> {
        let of = |agent: &Agent| {
            let name = agent.name.clone();
            agent
                .docker
                .containers()
                .into_iter()
                .map(move |container| (name.clone(), container))
                .collect::<Vec<_>>()
        };
        self.agents.iter().flat_map(of).collect()
    }

    /// How many containers of ours each host runs.
    pub(crate) fn load(&self) -> BTreeMap<String, usize> {
        let mut load: BTreeMap<String, usize> = self
            .agents
            .iter()
            .map(|agent| (agent.name.to_string(), 0))
            .collect();
        for (host, container) in self.containers() {
            if container.running().is_some() {
                *load.entry(host.to_string()).or_default() += 1;
            }
        }
        load
    }

    /// Every wanted slot of the container is claimed, runs where its claim says and as its manifest says, is known as
    /// ready, and nothing else of it is there; else why not.
    pub(crate) fn is_as_wanted(&self, id: &str) -> Result<(), String> {
        let id = container(id);
        let snapshot = self.snapshot();
        let view = snapshot.containers.get(&id).ok_or("there is no manifest")?;
        let manifest = view.manifest.as_ref().ok_or("there is no manifest")?;
        let Desired::Valid { manifest, .. } = &manifest.value else {
            return Err("its manifest is not valid".to_owned());
        };
        let claimed: BTreeSet<u32> = view.slots.keys().copied().collect();
        if claimed != view.numbers() {
            return Err(format!("slots {claimed:?} of {}", manifest.scale));
        }
        let mut named = BTreeSet::new();
        for (number, slot) in &view.slots {
            let claim = slot.claim.as_ref().ok_or(format!("{number} is free"))?;
            let runs = view.manifest_of(claim.version);
            if runs.is_none_or(|m| m.image != manifest.image || m.command != manifest.command) {
                return Err(format!("{number} runs something else"));
            }
            let state = slot.current_state().map(|s| s.state);
            if state != Some(Phase::Ready) {
                return Err(format!("{number} is {state:?}"));
            }
            named.insert((claim.host.clone(), claim.instance.clone()));
        }
        let mut running = BTreeSet::new();
        for (host, found) in self.containers() {
            if found.owner.slot.container != id {
                continue;
            }
            if found.running().is_some() {
                running.insert((host, found.owner.instance));
            } else if !matches!(found.state, ContainerState::Exited(_)) {
                return Err(format!("{} is {:?}", found.name, found.state));
            }
        }
        if running != named {
            return Err(format!("{running:?} run and {named:?} should"));
        }
        Ok(())
    }

    /// Nothing of the container is left, on no engine and in no key.
    pub(crate) fn is_gone(&self, id: &str) -> Result<(), String> {
        let id = container(id);
        let found = self.containers();
        let left = found.iter().find(|(_, c)| c.owner.slot.container == id);
        if let Some((host, left)) = left {
            return Err(format!("{host} has {}", left.name));
        }
        for prefix in ["/claims", "/status"] {
            let keys = self.keys(&format!("{prefix}/{id}/"));
            if !keys.is_empty() {
                return Err(format!("{:?}", keys.keys()));
            }
        }
        Ok(())
    }

    // === waiting ===

    /// Waits for a state; fails with the last reason why it is not, and all there is.
    pub(crate) async fn wait(&self, what: &str, is_so: impl Fn(&Self) -> Result<(), String>) {
        let ended = tokio::time::Instant::now() + PATIENCE;
        loop {
            let Err(why) = is_so(self) else { return };
            assert!(
                tokio::time::Instant::now() < ended,
                "not so: {what}: {why}\n{}",
                self.all()
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) async fn wait_as_wanted(&self, id: &str) {
        self.wait(&format!("{id} is as wanted"), |c| c.is_as_wanted(id))
            .await;
    }

    /// Waits until nobody has written anything for so long, and gives the last revision. What goes on for ever fails.
    pub(crate) async fn quiet(&self) -> i64 {
        self.quiet_for(Duration::from_secs(15)).await
    }

    pub(crate) async fn quiet_for(&self, time: Duration) -> i64 {
        let ended = tokio::time::Instant::now() + PATIENCE;
        let mut since = (self.revision(), tokio::time::Instant::now());
        while since.1.elapsed() < time {
            assert!(
                tokio::time::Instant::now() < ended,
                "it goes on and on:\n{}",
                self.all()
            );
            tokio::time::sleep(LOOK).await;
            if self.revision() != since.0 {
                since = (self.revision(), tokio::time::Instant::now());
            }
        }
        since.0
    }

    /// Time passes.
    pub(crate) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// All keys and containers, for whoever reads a failure.
    fn all(&self) -> String {
        let mut text = String::new();
        for (key, value) in self.keys("/") {
            let _ = writeln!(text, "{key} {}", String::from_utf8_lossy(&value));
        }
        for (host, container) in self.containers() {
            let state = format!("{:?}", container.state);
            let _ = writeln!(
                text,
                "{host} {} {} {state}",
                container.name, container.owner.instance
            );
        }
        for agent in &self.agents {
            if let Some(running) = &agent.running {
                for (slot, why) in running.published.waiting.load().iter() {
                    let _ = writeln!(text, "{} {slot} waits: {why}", agent.name);
                }
            }
        }
        for call in self.journal.calls().iter().rev().take(20).rev() {
            let _ = writeln!(text, "{} {} {:?}", call.host, call.what, call.slot);
        }
        text
    }
}

impl Agent {
    /// Starts the agent, and returns when its host is live.
    pub(crate) async fn start(&mut self) {
        self.begin().await;
        let mut status = self.running.as_ref().expect("it runs").host.status();
        let joined = status.wait_for(|status| !matches!(status, HostStatus::Joining(_)));
        let joined = joined.await.expect("the host lives").clone();
        assert!(!matches!(joined, HostStatus::Failed(_)), "{joined:?}");
    }

    /// Starts the agent as `dokkaa` does: on what its disk has, and if it has never met a cluster, when it has.
    pub(crate) async fn begin(&mut self) {
        let dir = self.dir().await;
        let saved = store::view::file::load(&dir.view_file()).expect("readable");
        // An address of its own on loopback: ports are probed there.
        let number = self.name.as_str().as_bytes()[0];
        let host_ip = IpAddr::from([127, 54, std::process::id() as u8, number]);
        let options = HostOptions {
            name: self.name.clone(),
            ttl: store::host::DEFAULT_TTL,
            restart_grace: store::host::DEFAULT_RESTART_GRACE,
            labelled_containers: !self.docker.containers().is_empty(),
            saved: saved.as_ref().map(|saved| Known {
                cluster: saved.cluster.clone(),
                revision: saved.revision,
            }),
            rules: Rules::default(),
        };
        let record = record(dir.machine(), host_ip);
        let kv: Arc<dyn Kv> = self.wire.clone();
        let host = Host::start_simulated(kv.clone(), self.clock, dir.clone(), options, record);
        let host = Arc::new(host.expect("a task needs nothing"));
        let met = host.cluster().wait_for(Option::is_some).await.is_ok();
        assert!(met, "the host lives");
        self.running = Some(self.work(kv, &dir, host, saved, host_ip));
    }

    /// The lock of an agent that was killed lives until its tasks have ended.
    async fn dir(&self) -> Arc<StateDir> {
        loop {
            match StateDir::open_in_boot(self.disk.path(), &self.boots.to_string()) {
                Ok(dir) => return Arc::new(dir),
                Err(StateDirError::Locked(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn work(
        &self,
        kv: Arc<dyn Kv>,
        dir: &StateDir,
        host: Arc<Host>,
        saved: Option<SavedView>,
        host_ip: IpAddr,
    ) -> Running {
        let cluster = host.cluster().borrow().clone().expect("it has met one");
        let (work, view) = (CancellationToken::new(), CancellationToken::new());
        let (sender, updates) = updates();
        let options = ViewOptions {
            seed: u64::from(self.name.as_str().as_bytes()[0]),
            held: dir.hold().is_some(),
            ..ViewOptions::new(cluster.clone(), saved, Some(dir.view_file()))
        };
        let inputs = ViewInputs {
            seen: host.seen(),
            floor: host.floor(),
        };
        let viewing = tokio::spawn(run_view(kv.clone(), options, inputs, sender, view.clone()));
        let published = Arc::new(Published::default());
        let alarm = {
            let published = published.clone();
            move |alarm| {
                published.alarm.send_replace(alarm);
            }
        };
        tokio::spawn(store::alarm::follow(
            kv.clone(),
            store::alarm::EVERY,
            alarm,
            view.clone(),
        ));
        let this = ThisHost {
            name: self.name.clone(),
            id: dir.machine(),
            surroundings: Surroundings {
                host_ip,
                gateway: IpAddr::from([172, 17, 0, 1]),
                dns: None,
                domain: "skydns.local".to_owned(),
                network: "bridge".to_owned(),
            },
        };
        let settings = PullSettings {
            docker_config: dir.path().join("no-logins"),
            at_once: 3,
            jitter: Duration::from_millis(100),
            record: Some(dir.path().join(RECORD)),
            spool: None,
        };
        let images = Images::new(self.docker.clone(), settings);
        let range = "20000-20999".parse().expect("a range");
        let ports = Arc::new(Allocation::open(
            range,
            dir.path(),
            published.clone(),
            Vec::new(),
        ));
        let actions = Actions::new(self.docker.clone(), images, ports, this.clone(), cluster.id);
        let (look_again, asked) = mpsc::channel(1);
        let setup = Setup {
            surroundings: watch::channel(this.surroundings.clone()).1,
            host: this,
            cluster: cluster.id,
            engine: self.docker.clone(),
            kv,
            updates,
            published: published.clone(),
            actions,
            look_again: asked,
            record: host.clone(),
            orphans: Orphans::open(dir.path()).expect("a note that can be read"),
            instances: Instances::open(dir.path()).expect("notes that can be read"),
        };
        Running {
            host,
            published,
            conductor: tokio::spawn(conductor::run(setup, work.clone())),
            work,
            view,
            viewing,
            _look_again: look_again,
        }
    }

    pub(crate) fn published(&self) -> &Published {
        &self.running.as_ref().expect("it runs").published
    }

    /// Stops the agent as `dokkaa` does at SIGTERM. Containers run on.
    pub(crate) async fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.work.cancel();
        (&mut running.conductor).await.expect("it ends well");
        running.view.cancel();
        (&mut running.viewing).await.expect("it ends well");
        let host = running.host.clone();
        drop(running);
        let host = Arc::into_inner(host).expect("nobody else has it");
        host.stop(Stop::Restart).await;
    }

    /// The agent's process is killed: nothing is said, nothing is saved.
    pub(crate) async fn kill(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.conductor.abort();
        running.viewing.abort();
        // They are gone when their tasks say so; why does not matter.
        let _ = (&mut running.conductor).await;
        let _ = (&mut running.viewing).await;
    }
}

impl Agent {
    /// The machine loses its power, and is on again: nothing runs on it.
    pub(crate) async fn reboot(&mut self) {
        self.kill().await;
        for container in self.docker.containers() {
            if container.running().is_some() {
                self.docker.crash(&container.owner.slot);
            }
        }
        self.boots += 1;
    }

    /// Containers of ours that run.
    pub(crate) fn runs(&self) -> usize {
        let containers = self.docker.containers();
        containers.iter().filter(|c| c.running().is_some()).count()
    }
}

fn record(id: Uuid, addr: IpAddr) -> HostRecord {
    HostRecord {
        id,
        session: Uuid::nil(),
        epoch: 0,
        state: HostState::Up,
        addr,
        peer: None,
        api: Vec::new(),
        labels: BTreeMap::new(),
        capacity: Capacity::default(),
        versions: Versions {
            agent: "0.0.0".to_owned(),
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

pub(crate) fn container(id: &str) -> ContainerId {
    id.parse().expect("<app>/<container>")
}

pub(crate) fn slot(id: &str, number: u32) -> SlotId {
    container(id).slot(number)
}

/// A manifest with one service, by image and scale.
pub(crate) fn manifest(image: &str, scale: u32) -> String {
    format!(r#"{{"image": "{image}", "scale": {scale}, "services": {{"http": 80}}}}"#)
}
