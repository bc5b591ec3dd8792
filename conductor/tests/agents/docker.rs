//! One host's engine: it writes down every call that changes something, and a test takes its events away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use engine::memory::{MemEngine, World};
use engine::{
    Archive, Bridge, CreateSpec, Credentials, Engine, EngineError, EngineEvent, EngineInfo,
    ExecOutput, Image, Listening, Listing, LogOptions, LogStream, Named, OnProgress,
};
use manifests::SlotId;
use model::disk::{DiskUsage, LocalImage};
use model::observed::{ContainerPort, LABEL_CLUSTER, ObservedContainer, Ownership};
use model::volumes::Labels;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// A call that changes something, and what ran on all engines after it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) host: String,
    pub(crate) what: &'static str,
    pub(crate) slot: Option<SlotId>,
    pub(crate) succeeded: bool,
    pub(crate) running: BTreeMap<SlotId, u32>,
}

/// What was done on all engines of a cluster, in order.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    engines: Mutex<Vec<MemEngine>>,
    calls: Mutex<Vec<Call>>,
    /// A host may be lost, and then its slots run there and elsewhere until it is back.
    hosts_are_lost: AtomicBool,
    /// How many calls there were.
    length: watch::Sender<usize>,
}

impl Journal {
    pub(crate) fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    pub(crate) fn hosts_are_lost(&self) {
        self.hosts_are_lost.store(true, Ordering::Relaxed);
    }

    /// Waits until there were so many calls.
    pub(crate) async fn reaches(&self, calls: usize) {
        let mut length = self.length.subscribe();
        // The sender is here: it can't be gone.
        let _ = length.wait_for(|length| *length >= calls).await;
    }

    /// How many calls of this kind there were.
    pub(crate) fn count(&self, what: &str) -> usize {
        lock(&self.calls).iter().filter(|c| c.what == what).count()
    }

    /// How many processes each slot has, on all engines.
    pub(crate) fn running(&self) -> BTreeMap<SlotId, u32> {
        let by_engine = self.running_by_engine();
        let sum = |(slot, engines): (SlotId, Vec<u32>)| (slot, engines.iter().sum());
        by_engine.into_iter().map(sum).collect()
    }

    /// As `running`, by engine, for those that have any.
    fn running_by_engine(&self) -> BTreeMap<SlotId, Vec<u32>> {
        let mut running: BTreeMap<SlotId, Vec<u32>> = BTreeMap::new();
        for engine in lock(&self.engines).iter() {
            let mut here: BTreeMap<SlotId, u32> = BTreeMap::new();
            for container in all(engine) {
                if container.running().is_some() {
                    *here.entry(container.owner.slot).or_default() += 1;
                }
            }
            for (slot, processes) in here {
                running.entry(slot).or_default().push(processes);
            }
        }
        running
    }

    /// No slot runs on two hosts, and none more than twice: an update starts the new instance before it stops the old one.
    fn note(&self, host: &str, what: &'static str, slot: Option<SlotId>, succeeded: bool) {
        let by_engine = self.running_by_engine();
        let twice: Vec<_> = by_engine
            .iter()
            .filter(|(_, engines)| engines.len() > 1 || engines.iter().any(|n| *n > 2))
            .collect();
        let may = self.hosts_are_lost.load(Ordering::Relaxed);
        assert!(may || twice.is_empty(), "after {what} on {host}: {twice:?}");
        let running = self.running();
        lock(&self.calls).push(Call {
            host: host.to_owned(),
            what,
            slot,
            succeeded,
            running,
        });
        self.length.send_modify(|length| *length += 1);
    }
}

/// Every container of ours, also while the engine hangs.
fn all(engine: &MemEngine) -> Vec<ObservedContainer> {
    engine.world(|world, _| {
        let hangs = std::mem::replace(&mut world.hangs, false);
        let clusters = world.list(None).map(|list| list.clusters);
        let found = clusters.unwrap_or_default().into_keys().filter_map(|id| {
            let id: Uuid = id.parse().ok()?;
            world.list(Some(id)).ok()
        });
        let found = found.flat_map(|list| list.labelled).collect();
        world.hangs = hangs;
        found
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An engine in memory, watched.
pub(crate) struct Docker {
    host: String,
    engine: MemEngine,
    journal: Arc<Journal>,
    deaf: watch::Sender<bool>,
    /// Calls whose answers are still to be lost.
    lose: AtomicU32,
    /// Looks at sockets fail.
    blind: AtomicBool,
}

impl Docker {
    pub(crate) fn new(host: &str, engine: MemEngine, journal: Arc<Journal>) -> Self {
        lock(&journal.engines).push(engine.clone());
        Self {
            host: host.to_owned(),
            engine,
            journal,
            deaf: watch::channel(false).0,
            lose: AtomicU32::new(0),
            blind: AtomicBool::new(false),
        }
    }

    /// Looks at the engine, or changes it behind everybody's back.
    pub(crate) fn world<T>(&self, look: impl FnOnce(&mut World, i64) -> T) -> T {
        self.engine.world(look)
    }

    /// Every container of ours.
    pub(crate) fn containers(&self) -> Vec<ObservedContainer> {
        all(&self.engine)
    }

    /// Events are lost from now on, or not any more.
    pub(crate) fn lose_events(&self, lose: bool) {
        self.deaf.send_replace(lose);
    }

    /// The process of a slot ends by itself.
    pub(crate) fn crash(&self, slot: &SlotId) {
        let runs = self
            .containers()
            .into_iter()
            .find(|c| c.owner.slot == *slot && c.running().is_some());
        let runs = runs.expect("it runs");
        self.world(|world, now| world.crash(&runs.docker_id, 1, now));
    }

    /// The next calls that change something are carried out, but their answers are lost.
    pub(crate) fn lose_answers(&self, calls: u32) {
        self.lose.store(calls, Ordering::SeqCst);
    }

    /// Looks at sockets fail from now on, or not any more.
    pub(crate) fn fail_looks(&self, fail: bool) {
        self.blind.store(fail, Ordering::Relaxed);
    }

    /// Writes a call down, and loses its answer if that was asked for.
    fn note<T>(
        &self,
        what: &'static str,
        slot: Option<SlotId>,
        result: Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.journal.note(&self.host, what, slot, result.is_ok());
        let fewer = |n: u32| n.checked_sub(1);
        let lost = self
            .lose
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer);
        match lost {
            Ok(_) => Err(EngineError::Unresponsive("the answer is lost".to_owned())),
            Err(_) => result,
        }
    }

    fn slot(&self, docker_id: &str) -> Option<SlotId> {
        let mut all = self.containers().into_iter();
        all.find(|c| c.docker_id == docker_id).map(|c| c.owner.slot)
    }
}

#[async_trait]
impl Engine for Docker {
    async fn ping(&self) -> Result<(), EngineError> {
        self.engine.ping().await
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.engine.info().await
    }

    async fn bridge(&self, network: &str) -> Result<Bridge, EngineError> {
        self.engine.bridge(network).await
    }

    async fn subnets(&self) -> Result<BTreeSet<String>, EngineError> {
        self.engine.subnets().await
    }

    async fn list(&self, cluster: Option<Uuid>) -> Result<Listing, EngineError> {
        self.engine.list(cluster).await
    }

    async fn inspect(&self, docker_id: &str) -> Result<Option<ObservedContainer>, EngineError> {
        self.engine.inspect(docker_id).await
    }

    fn events(&self) -> mpsc::Receiver<EngineEvent> {
        let mut inner = self.engine.events();
        let deaf = self.deaf.subscribe();
        let (sender, events) = mpsc::channel(256);
        tokio::spawn(async move {
            while let Some(event) = inner.recv().await {
                let lost = *deaf.borrow() && matches!(event, EngineEvent::Container { .. });
                if !lost && sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        events
    }

    async fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        progress: OnProgress<'_>,
    ) -> Result<Option<String>, EngineError> {
        let pulled = self.engine.pull(image, credentials, progress).await;
        self.note("pull", None, pulled)
    }

    async fn is_in_registry(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<bool, EngineError> {
        self.engine.is_in_registry(reference, credentials).await
    }

    async fn save(&self, image_id: &str) -> Result<Archive, EngineError> {
        self.engine.save(image_id).await
    }

    async fn load(&self, archive: Archive) -> Result<String, EngineError> {
        let loaded = self.engine.load(archive).await;
        self.note("load", None, loaded)
    }

    async fn tag(&self, image_id: &str, name: &str) -> Result<(), EngineError> {
        self.engine.tag(image_id, name).await
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        self.engine.image(name).await
    }

    async fn images(&self) -> Result<Vec<LocalImage>, EngineError> {
        self.engine.images().await
    }

    async fn remove_image(&self, image: &LocalImage) -> Result<bool, EngineError> {
        self.engine.remove_image(image).await
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, EngineError> {
        self.engine.disk_usage().await
    }

    async fn create(&self, spec: &CreateSpec) -> Result<Named<String>, EngineError> {
        let created = self.engine.create(spec).await;
        let slot = spec
            .labels
            .contains_key(LABEL_CLUSTER)
            .then(|| Ownership::read(&spec.labels).map(|owner| owner.slot))
            .flatten();
        self.note("create", slot, created)
    }

    async fn start(&self, docker_id: &str) -> Result<(), EngineError> {
        let started = self.engine.start(docker_id).await;
        self.note("start", self.slot(docker_id), started)
    }

    async fn stop(&self, docker_id: &str, timeout: Duration) -> Result<(), EngineError> {
        let slot = self.slot(docker_id);
        let stopped = self.engine.stop(docker_id, timeout).await;
        self.note("stop", slot, stopped)
    }

    async fn remove(&self, docker_id: &str, force: bool) -> Result<(), EngineError> {
        let slot = self.slot(docker_id);
        let removed = self.engine.remove(docker_id, force).await;
        self.note("remove", slot, removed)
    }

    async fn volumes(&self) -> Result<BTreeMap<String, Labels>, EngineError> {
        self.engine.volumes().await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.engine.remove_volume(name).await
    }

    async fn rename(&self, docker_id: &str, name: &str) -> Result<Named<()>, EngineError> {
        let renamed = self.engine.rename(docker_id, name).await;
        self.note("rename", self.slot(docker_id), renamed)
    }

    async fn exec(
        &self,
        docker_id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, EngineError> {
        self.engine.exec(docker_id, command, timeout).await
    }

    async fn listening(
        &self,
        pid: u32,
        wanted: &BTreeSet<ContainerPort>,
    ) -> Result<Listening, EngineError> {
        if self.blind.load(Ordering::Relaxed) {
            return Err(EngineError::Engine("too many open files".to_owned()));
        }
        self.engine.listening(pid, wanted).await
    }

    async fn connections(&self, pid: u32, ports: &BTreeSet<u16>) -> Result<u32, EngineError> {
        if self.blind.load(Ordering::Relaxed) {
            return Err(EngineError::Engine("too many open files".to_owned()));
        }
        self.engine.connections(pid, ports).await
    }

    async fn process_ended(&self, pid: u32) -> Result<(), EngineError> {
        self.engine.process_ended(pid).await
    }

    async fn logs(&self, docker_id: &str, options: LogOptions) -> Result<LogStream, EngineError> {
        self.engine.logs(docker_id, options).await
    }
}
