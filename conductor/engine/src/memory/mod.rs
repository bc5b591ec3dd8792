//! An engine in memory, for tests and simulations: the same answers, on demand the same troubles.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use model::disk::{DiskUsage, LocalImage};
use model::observed::{ContainerPort, ObservedContainer};
use model::records::Docker;
use model::volumes::Labels;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::{
    Archive, Bridge, CreateSpec, Credentials, Engine, EngineError, EngineEvent, EngineInfo,
    ExecOutput, HostFault, Image, Listening, Listing, LogChunk, LogOptions, LogStream, Named,
    OnProgress, PullProgress, Routed,
};

pub use world::{Program, Published, World};

/// Longest wait until the followers of events and logs look again, where nobody wakes them: the clock may be a
/// simulation's.
const LOOK: Duration = Duration::from_millis(20);

/// Longer than anybody waits.
const NEVER: Duration = Duration::from_secs(3600);
/// Bytes of an archive that come at once.
const ARCHIVE_CHUNK: usize = 16;
/// Bytes of an archive that are looked at, at most.
const LARGEST_HEAD: usize = 64 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The clock of a twin: Unix milliseconds.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// An engine in memory. Cheap to clone; clones are the same engine.
#[derive(Clone)]
pub struct MemEngine {
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    clock: Clock,
    /// Woken after each event.
    changed: Notify,
    /// Where events go.
    readers: Mutex<Vec<mpsc::UnboundedSender<EngineEvent>>>,
}

impl std::fmt::Debug for MemEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemEngine").finish_non_exhaustive()
    }
}

impl Default for MemEngine {
    fn default() -> Self {
        Self::new(Arc::new(|| {
            let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
            since_epoch.map_or(0, |time| time.as_millis() as i64)
        }))
    }
}

impl MemEngine {
    /// An engine with nothing on it, by this clock.
    pub fn new(clock: Clock) -> Self {
        Self {
            shared: Arc::new(Shared {
                world: Mutex::new(World::new()),
                clock,
                changed: Notify::new(),
                readers: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Looks at the world, or changes it; `now` is passed along.
    pub fn world<T>(&self, look: impl FnOnce(&mut World, i64) -> T) -> T {
        let now = (self.shared.clock)();
        let (result, events) = {
            let mut world = lock(&self.shared.world);
            world.advance(now);
            let result = look(&mut world, now);
            (result, world.take_events())
        };
        if !events.is_empty() {
            let mut readers = lock(&self.shared.readers);
            readers.retain(|reader| {
                events
                    .iter()
                    .all(|event| reader.send(event.clone()).is_ok())
            });
            drop(readers);
            self.shared.changed.notify_waiters();
        }
        result
    }

    /// Waits until something may have changed.
    async fn look_again(&self) {
        let _ = timeout(LOOK, self.shared.changed.notified()).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the events of the world: those that a change brought, and those that the time brings.
async fn follow(
    engine: MemEngine,
    mut from: mpsc::UnboundedReceiver<EngineEvent>,
    to: mpsc::Sender<EngineEvent>,
) {
    let mut connected = false;
    loop {
        let answers = engine.world(|world, _| world.ping());
        let word = match (&answers, connected) {
            (Ok(()), false) => Some(EngineEvent::Connected),
            (Err(error), true) => Some(EngineEvent::Lost(error.to_string())),
            _ => None,
        };
        connected = answers.is_ok();
        if let Some(word) = word
            && to.send(word).await.is_err()
        {
            return;
        }
        while let Ok(event) = from.try_recv() {
            if to.send(event).await.is_err() {
                return;
            }
        }
        engine.look_again().await;
    }
}

#[async_trait]
impl Engine for MemEngine {
    async fn ping(&self) -> Result<(), EngineError> {
        self.world(|world, _| world.ping())
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.ping().await?;
        let store = self.world(|world, _| world.store.clone());
        Ok(EngineInfo {
            docker: Docker {
                version: "0.0.0".to_owned(),
                api: "1.41".to_owned(),
                store,
                firewall: "iptables".to_owned(),
                cgroup: 2,
                userland_proxy: None,
            },
            id: "memory".to_owned(),
            cpus: world::CPUS,
            memory: 4 << 30,
            data_root: "/var/lib/docker".to_owned(),
            rootless: false,
            operating_system: "memory".to_owned(),
            insecure_registries: Vec::new(),
        })
    }

    async fn bridge(&self, network: &str) -> Result<Bridge, EngineError> {
        self.ping().await?;
        if network != "bridge" {
            return Err(EngineError::host(
                HostFault::Network,
                format!("network `{network}` does not exist"),
            ));
        }
        Ok(Bridge {
            network: network.to_owned(),
            interface: "docker0".to_owned(),
            gateway: IpAddr::from(Ipv4Addr::new(172, 17, 0, 1)),
            subnet: Some("172.17.0.0/16".to_owned()),
            routed: Routed::default(),
        })
    }

    async fn subnets(&self) -> Result<BTreeSet<String>, EngineError> {
        self.ping().await?;
        Ok(["172.17.0.0/16".to_owned()].into())
    }

    async fn list(&self, cluster: Option<Uuid>) -> Result<Listing, EngineError> {
        self.world(|world, _| world.list(cluster))
    }

    async fn inspect(&self, docker_id: &str) -> Result<Option<ObservedContainer>, EngineError> {
        self.world(|world, _| world.inspect(docker_id))
    }

    fn events(&self) -> mpsc::Receiver<EngineEvent> {
        let (events, reader) = mpsc::channel(256);
        let (sender, from) = mpsc::unbounded_channel();
        lock(&self.shared.readers).push(sender);
        let following = follow(self.clone(), from, events.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = following => (),
                () = events.closed() => (),
            }
        });
        reader
    }

    async fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        progress: OnProgress<'_>,
    ) -> Result<Option<String>, EngineError> {
        let delay = self.world(|world, _| world.pull_delay(image));
        progress(PullProgress {
            layers: 1,
            ..PullProgress::default()
        });
        sleep(delay).await;
        self.world(|world, _| world.pull(image, credentials))
    }

    async fn is_in_registry(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<bool, EngineError> {
        if self.world(|world, _| world.registry_silent) {
            sleep(NEVER).await;
        }
        self.world(|world, _| world.is_in_registry(reference, credentials))
    }

    async fn save(&self, image_id: &str) -> Result<Archive, EngineError> {
        let save = |world: &World| Ok((world.save(image_id)?, world.archive_padding));
        let (head, padding) = self.world(|world, _| save(world))?;
        let chunks = head.chunks(ARCHIVE_CHUNK).map(Bytes::copy_from_slice);
        let chunks: Vec<_> = chunks.map(Ok).collect();
        let whole = (0..padding / ZEROS.len() as u64).map(|_| ZEROS.len());
        let rest = (padding % ZEROS.len() as u64) as usize;
        let zeros = whole.chain((rest > 0).then_some(rest));
        let zeros = zeros.map(|len| Ok(Bytes::from_static(&ZEROS[..len])));
        Ok(Box::pin(stream::iter(chunks.into_iter().chain(zeros))))
    }

    async fn load(&self, mut archive: Archive) -> Result<String, EngineError> {
        let (mut head, mut bytes) = (Vec::new(), 0);
        while let Some(chunk) = archive.next().await {
            let chunk = chunk.map_err(|error| EngineError::Engine(error.to_string()))?;
            bytes += chunk.len() as u64;
            let wanted = LARGEST_HEAD.saturating_sub(head.len()).min(chunk.len());
            head.extend_from_slice(&chunk[..wanted]);
        }
        self.world(|world, _| world.load(&head, bytes))
    }

    async fn tag(&self, image_id: &str, name: &str) -> Result<(), EngineError> {
        self.world(|world, _| world.tag(image_id, name))
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        self.world(|world, _| world.image(name))
    }

    async fn images(&self) -> Result<Vec<LocalImage>, EngineError> {
        self.world(|world, _| world.list_images())
    }

    async fn remove_image(&self, image: &LocalImage) -> Result<bool, EngineError> {
        self.world(|world, _| world.remove_image(image))
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, EngineError> {
        self.ping().await?;
        Ok(self.world(|world, _| world.disk))
    }

    async fn create(&self, spec: &CreateSpec) -> Result<Named<String>, EngineError> {
        self.world(|world, now| world.create(spec, now))
    }

    async fn start(&self, docker_id: &str) -> Result<(), EngineError> {
        self.world(|world, now| world.start(docker_id, now))
    }

    async fn stop(&self, docker_id: &str, timeout: Duration) -> Result<(), EngineError> {
        if self.world(|world, _| world.is_stubborn(docker_id)) {
            sleep(timeout).await;
        }
        self.world(|world, now| world.stop(docker_id, now))
    }

    async fn remove(&self, docker_id: &str, force: bool) -> Result<(), EngineError> {
        self.world(|world, now| world.remove(docker_id, force, now))
    }

    async fn volumes(&self) -> Result<BTreeMap<String, Labels>, EngineError> {
        self.world(|world, _| world.volumes())
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        self.world(|world, _| world.remove_volume(name))
    }

    async fn rename(&self, docker_id: &str, name: &str) -> Result<Named<()>, EngineError> {
        self.world(|world, _| world.rename(docker_id, name))
    }

    async fn exec(
        &self,
        docker_id: &str,
        _command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, EngineError> {
        let result = self.world(|world, _| world.exec(docker_id))?;
        if result.code.is_none() {
            sleep(timeout).await;
        }
        Ok(result)
    }

    async fn listening(
        &self,
        pid: u32,
        wanted: &BTreeSet<ContainerPort>,
    ) -> Result<Listening, EngineError> {
        self.world(|world, now| world.listening(pid, wanted, now))
    }

    async fn connections(&self, pid: u32, ports: &BTreeSet<u16>) -> Result<u32, EngineError> {
        self.world(|world, _| world.connections(pid, ports))
    }

    async fn process_ended(&self, pid: u32) -> Result<(), EngineError> {
        while self.world(|world, _| world.is_alive(pid)) {
            self.look_again().await;
        }
        Ok(())
    }

    async fn logs(&self, docker_id: &str, options: LogOptions) -> Result<LogStream, EngineError> {
        let first = self.world(|world, _| world.log(docker_id, &options, None))?;
        let reader = LogReader {
            engine: self.clone(),
            docker_id: docker_id.to_owned(),
            options,
            at: first.1,
            waiting: first.0.into(),
            more: first.2,
        };
        Ok(Box::pin(stream::unfold(reader, LogReader::next)))
    }
}

struct LogReader {
    engine: MemEngine,
    docker_id: String,
    options: LogOptions,
    at: usize,
    waiting: std::collections::VecDeque<LogChunk>,
    more: bool,
}

impl LogReader {
    async fn next(mut self) -> Option<(Result<LogChunk, EngineError>, Self)> {
        loop {
            if let Some(chunk) = self.waiting.pop_front() {
                return Some((Ok(chunk), self));
            }
            if !self.options.follow || !self.more {
                return None;
            }
            self.engine.look_again().await;
            let read = self
                .engine
                .world(|world, _| world.log(&self.docker_id, &self.options, Some(self.at)));
            // A container that is removed ends its log.
            let (chunks, at, more) = read.ok()?;
            self.at = at;
            self.more = more;
            self.waiting.extend(chunks);
        }
    }
}
