#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::memory::{MemEngine, Published};
use engine::{Engine, Operation};
use manifests::manifest::Pull;
use model::disk::{DiskLimits, PulledImages};
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::{Decided, PullSettings, Source, SpoolPlace};
use super::*;

mod chain;

/// Hosts by name, each with an engine and images of its own.
struct Hosts {
    engines: BTreeMap<HostName, MemEngine>,
    images: Arc<BTreeMap<HostName, Images>>,
    way: Arc<Way>,
    _spools: TempDir,
}

/// What becomes of the archives of a host after their beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Held,
    Open,
    Broken,
}

/// What happens between hosts.
#[derive(Default)]
struct Way {
    /// Archives that a host gave.
    given: Mutex<BTreeMap<HostName, u32>>,
    gates: Mutex<BTreeMap<HostName, watch::Receiver<Gate>>>,
    /// Archives of these hosts break off.
    broken: Mutex<BTreeSet<HostName>>,
    /// Archives that were asked for.
    asked: AtomicUsize,
}

struct Others {
    this: HostName,
    all: Arc<BTreeMap<HostName, Images>>,
    way: Arc<Way>,
}

#[async_trait]
impl OtherHosts for Others {
    fn hosts(&self, _image: &str) -> Vec<HostName> {
        let others = self.all.keys().filter(|host| **host != self.this);
        others.cloned().collect()
    }

    async fn offer(
        &self,
        host: &HostName,
        wanted: &WantedImage,
    ) -> Result<Option<OfferedImage>, String> {
        let offer = self.all[host].offer(wanted).await;
        offer.map_err(|error| error.to_string())
    }

    async fn archive(
        &self,
        host: &HostName,
        wanted: &WantedArchive,
    ) -> Result<Option<Archive>, String> {
        self.way.asked.fetch_add(1, Ordering::Relaxed);
        let archive = self.all[host].archive(wanted).await;
        let Some(archive) = archive.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        *(self.way.given.lock().unwrap())
            .entry(host.clone())
            .or_default() += 1;
        if let Some(gate) = self.way.gates.lock().unwrap().get(host) {
            return Ok(Some(gated(archive, gate.clone())));
        }
        if self.way.broken.lock().unwrap().contains(host) {
            let lost = stream::iter([Err(std::io::Error::other("connection lost"))]);
            return Ok(Some(Box::pin(archive.take(1).chain(lost))));
        }
        Ok(Some(archive))
    }
}

/// An archive whose first chunk comes at once.
fn gated(archive: Archive, gate: watch::Receiver<Gate>) -> Archive {
    let state = Some((archive, gate, 0));
    Box::pin(stream::unfold(state, async |state| {
        let (mut archive, mut gate, chunks) = state?;
        if chunks > 0 {
            let opened = gate.wait_for(|gate| *gate != Gate::Held).await;
            if opened.is_ok_and(|gate| *gate == Gate::Broken) {
                let lost = std::io::Error::other("connection lost");
                return Some((Err(lost), None));
            }
        }
        let chunk = archive.next().await?;
        Some((chunk, Some((archive, gate, chunks + 1))))
    }))
}

impl Hosts {
    fn new(names: &[&str]) -> Self {
        Self::with_room(names, u8::MAX)
    }

    /// `below`: an archive is kept on a disk that is less full, in percent.
    fn with_room(names: &[&str], below: u8) -> Self {
        let spools = tempfile::tempdir().unwrap();
        let limits = DiskLimits {
            collect: below,
            full: below,
        };
        let names: Vec<HostName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let engines: BTreeMap<HostName, MemEngine> = names
            .iter()
            .map(|host| (host.clone(), MemEngine::default()))
            .collect();
        let images = engines.iter().map(|(host, engine)| {
            let settings = PullSettings {
                docker_config: PathBuf::from("/nonexistent"),
                at_once: 2,
                jitter: Duration::ZERO,
                record: None,
                spool: Some(SpoolPlace {
                    folder: spools.path().to_owned(),
                    limits,
                }),
            };
            let images = Images::new(Arc::new(engine.clone()), settings);
            (host.clone(), images)
        });
        let images = Arc::new(images.collect::<BTreeMap<_, _>>());
        let way = Arc::new(Way::default());
        for (host, of_host) in images.iter() {
            of_host.meet(Arc::new(Others {
                this: host.clone(),
                all: images.clone(),
                way: way.clone(),
            }));
        }
        Self {
            engines,
            images,
            way,
            _spools: spools,
        }
    }

    fn engine(&self, host: &str) -> &MemEngine {
        &self.engines[&host.parse::<HostName>().unwrap()]
    }

    fn of(&self, host: &str) -> &Images {
        &self.images[&host.parse::<HostName>().unwrap()]
    }

    /// Somebody builds an image there.
    fn build(&self, host: &str, name: &str, id: &str) {
        self.engine(host)
            .world(|world, _| world.add_local_image(name, id));
    }

    fn use_containerd(&self, host: &str) {
        self.engine(host)
            .world(|world, _| world.store.containerd = true);
    }

    fn breaks(&self, host: &str) {
        let mut broken = self.way.broken.lock().unwrap();
        broken.insert(host.parse().unwrap());
    }

    /// Archives of this host come no further than their beginning until the gate is opened.
    fn hold(&self, host: &str) -> watch::Sender<Gate> {
        let (sender, gate) = watch::channel(Gate::Held);
        let mut gates = self.way.gates.lock().unwrap();
        gates.insert(host.parse().unwrap(), gate);
        sender
    }

    /// Archives that this host gave.
    fn given(&self, host: &str) -> u32 {
        let given = self.way.given.lock().unwrap();
        given
            .get(&host.parse::<HostName>().unwrap())
            .copied()
            .unwrap_or_default()
    }

    async fn decide(&self, host: &str, name: &str) -> Decided {
        self.of(host).decide(name, Pull::Missing).await.unwrap()
    }

    async fn ensure(
        &self,
        host: &str,
        name: &str,
        decided: &Decided,
    ) -> Result<Source, EngineError> {
        let content = decided.content.as_deref();
        let images = self.of(host);
        images
            .ensure(name, &decided.image, content, Pull::Never)
            .await
    }

    fn loads(&self, host: &str) -> u32 {
        self.engine(host).world(|world, _| world.loads)
    }

    fn pulls(&self) -> u32 {
        let engines = self.engines.values();
        engines
            .map(|engine| engine.world(|world, _| world.pulls))
            .sum()
    }

    async fn content(&self, host: &str, name: &str) -> Option<String> {
        let image = self.engine(host).image(name).await.unwrap();
        image.map(|image| image.content)
    }

    fn noted(&self, host: &str) -> PulledImages {
        self.of(host).shared.record.pulled()
    }
}

/// As a host of an older version asks for it.
fn own() -> WantedArchive {
    WantedArchive {
        id: "sha256:own".to_owned(),
        beside: None,
    }
}

#[tokio::test]
async fn an_image_of_one_host_comes_once_to_another_for_all_who_wait_and_gets_its_name() {
    let hosts = Hosts::new(&["h1", "h2"]);
    hosts.build("h1", "app:1", "sha256:own");
    let decided = hosts.decide("h1", "app:1").await;
    assert_eq!(decided.image, "local:sha256:own");
    let all = (0..5).map(|_| hosts.ensure("h2", "app:1", &decided));
    for source in futures_util::future::join_all(all).await {
        let source = source.unwrap();
        assert_eq!((source.reference.as_str(), source.note), ("app:1", None));
    }
    assert_eq!(hosts.loads("h2"), 1);
    assert_eq!(hosts.content("h2", "app:1").await, decided.content);
    assert_eq!(hosts.of("h2").progress("app:1"), None);
    // It may be removed when nobody needs it, and no registry has it for that.
    let noted = &hosts.noted("h2")["sha256:own"];
    assert!(noted.names.contains("app:1") && noted.content == decided.content);
    hosts.ensure("h2", "app:1", &decided).await.unwrap();
    assert_eq!((hosts.loads("h2"), hosts.pulls()), (1, 0));
}

#[tokio::test]
async fn an_image_that_is_here_under_another_name_is_not_copied_and_is_used_by_its_id() {
    let hosts = Hosts::new(&["h1", "h2"]);
    hosts.build("h1", "app:2", "sha256:own");
    hosts.build("h2", "app:1", "sha256:own");
    let decided = hosts.decide("h2", "app:2").await;
    assert_eq!(decided.image, "local:sha256:own");
    let source = hosts.ensure("h2", "app:2", &decided).await.unwrap();
    assert_eq!(source.reference, "sha256:own");
    assert!(source.note.unwrap().contains("`app:2`"));
    assert_eq!((hosts.loads("h2"), hosts.pulls()), (0, 0));
}

#[tokio::test]
async fn stores_that_give_other_ids_have_the_same_image() {
    let hosts = Hosts::new(&["h1", "h2", "h3"]);
    hosts.use_containerd("h2");
    hosts.build("h1", "app:1", "sha256:own");
    // Somebody has brought it here by hand.
    hosts.use_containerd("h3");
    hosts.build("h3", "app:1", "sha256:own");
    let decided = hosts.decide("h1", "app:1").await;
    for (host, loads) in [("h2", 1), ("h2", 1), ("h3", 0)] {
        let source = hosts.ensure(host, "app:1", &decided).await.unwrap();
        assert_eq!((source.reference.as_str(), source.note), ("app:1", None));
        assert_eq!(hosts.loads(host), loads);
        let here = hosts.engine(host).image("app:1").await.unwrap().unwrap();
        assert_ne!(format!("local:{}", here.id), decided.image);
    }
    // A digest that containerd made of the name does not make it an image of a registry.
    assert!(
        hosts
            .decide("h2", "app:1")
            .await
            .image
            .starts_with("local:")
    );
}

#[tokio::test]
async fn a_name_that_means_another_image_is_left_alone() {
    let hosts = Hosts::new(&["h1", "h2"]);
    hosts.use_containerd("h2");
    hosts.build("h1", "app:1", "sha256:new");
    hosts.build("h2", "app:1", "sha256:old");
    let before = hosts.content("h2", "app:1").await;
    let decided = hosts.decide("h1", "app:1").await;
    for _ in 0..2 {
        let source = hosts.ensure("h2", "app:1", &decided).await.unwrap();
        assert!(source.reference.starts_with("sha256:new"), "{source:?}");
        assert!(source.note.unwrap().contains("means another image"));
        assert_eq!(
            hosts.content("h2", &source.reference).await,
            decided.content
        );
    }
    assert_eq!(hosts.loads("h2"), 1);
    assert_eq!(hosts.content("h2", "app:1").await, before);
    assert!(
        hosts
            .noted("h2")
            .values()
            .all(|noted| noted.names.is_empty())
    );
}

#[tokio::test]
async fn a_source_that_fails_is_followed_by_the_next_and_none_by_the_registry() {
    let hosts = Hosts::new(&["h1", "h2", "h3"]);
    hosts.build("h1", "app:1", "sha256:own");
    let decided = hosts.decide("h1", "app:1").await;
    hosts.build("h3", "app:1", "sha256:own");
    hosts.breaks("h1");
    hosts.ensure("h2", "app:1", &decided).await.unwrap();
    assert_eq!(hosts.way.asked.load(Ordering::Relaxed), 2);
    assert_eq!(hosts.loads("h2"), 1);

    hosts.engine("h2").world(|world, _| world.images.clear());
    hosts.breaks("h3");
    let missing = hosts.ensure("h2", "app:1", &decided).await.unwrap_err();
    let EngineError::HostFault { fault, message } = missing else {
        panic!("{missing}");
    };
    assert_eq!(fault, HostFault::ImageMissing);
    assert!(message.contains("no other host has it"), "{message}");
    assert_eq!(hosts.pulls(), 0);
    let content = decided.content.as_deref();
    let pulling = hosts
        .of("h2")
        .ensure("app:1", &decided.image, content, Pull::Missing);
    assert!(pulling.await.is_err());
    assert_eq!(hosts.pulls(), 1);
}

#[tokio::test]
async fn a_full_disk_is_this_hosts_fault_and_no_other_source_is_tried() {
    let hosts = Hosts::new(&["h1", "h2", "h3"]);
    hosts.build("h1", "app:1", "sha256:own");
    hosts.build("h3", "app:1", "sha256:own");
    let decided = hosts.decide("h1", "app:1").await;
    let full = EngineError::host(HostFault::NoSpace, "no space left on device");
    hosts
        .engine("h2")
        .world(|world, _| world.failures.push((Operation::Other, full.clone())));
    let failed = hosts.ensure("h2", "app:1", &decided).await;
    assert_eq!(failed.unwrap_err(), full);
    assert_eq!(hosts.loads("h2"), 1);
    // Whoever makes room is told.
    hosts.of("h2").shared.no_room.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_host_serves_a_few_at_a_time_and_the_others_wait() {
    let hosts = Hosts::new(&["h1", "h2"]);
    hosts.build("h1", "app:1", "sha256:own");
    let decided = hosts.decide("h1", "app:1").await;
    let mut served = Vec::new();
    for _ in 0..SERVED {
        served.push(hosts.of("h1").archive(&own()).await.unwrap().unwrap());
    }
    let refused = hosts.of("h1").archive(&own()).await.unwrap();
    assert!(refused.is_none());
    let waits = hosts.ensure("h2", "app:1", &decided);
    tokio::pin!(waits);
    let early = tokio::time::timeout(LONGEST_PAUSE * 3, &mut waits).await;
    assert!(early.is_err());
    let progress = hosts.of("h2").progress("app:1").unwrap();
    assert_eq!(
        progress,
        "waits to copy app:1: other hosts copy it from h1 now"
    );
    // One of them has got all of it, or has gone.
    served.pop();
    let within = tokio::time::timeout(LONGEST_PAUSE * 2, waits);
    within.await.unwrap().unwrap();
    assert_eq!(hosts.way.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_build_on_one_host_is_decided_on_any_and_the_last_one_counts() {
    let hosts = Hosts::new(&["h1", "h2", "h3"]);
    hosts.build("h2", "app:1", "sha256:older");
    hosts.build("h3", "app:1", "sha256:newer");
    hosts.engine("h3").world(|world, _| {
        world.images.get_mut("app:1").unwrap().created = 1;
    });
    let decided = hosts.decide("h1", "app:1").await;
    assert_eq!(decided.image, "local:sha256:newer");
    assert_eq!((hosts.pulls(), hosts.loads("h1")), (0, 1));
    let never = hosts.of("h1").decide("app:1", Pull::Never).await.unwrap();
    assert_eq!(never, decided);
}

#[tokio::test]
async fn what_a_registry_has_is_pulled_from_there_though_another_host_has_it() {
    let hosts = Hosts::new(&["h1", "h2"]);
    for engine in hosts.engines.values() {
        let published = Published {
            id: "sha256:one".to_owned(),
            digest: "sha256:digest".to_owned(),
            ..Published::default()
        };
        engine.world(|world, _| world.registry.insert("team/app:1".to_owned(), published));
    }
    assert_eq!(
        hosts.decide("h2", "team/app:1").await.image,
        "sha256:digest"
    );
    assert_eq!(
        hosts.decide("h1", "team/app:1").await.image,
        "sha256:digest"
    );
    assert_eq!((hosts.pulls(), hosts.loads("h1")), (2, 0));
    // Where nobody is to be asked but the hosts, the other one's will do.
    hosts.engine("h1").world(|world, _| world.images.clear());
    let never = hosts
        .of("h1")
        .decide("team/app:1", Pull::Never)
        .await
        .unwrap();
    assert_eq!(never.image, "local:sha256:one");
    assert_eq!((hosts.pulls(), hosts.loads("h1")), (2, 1));
}

#[tokio::test]
async fn always_asks_the_registry_first() {
    let hosts = Hosts::new(&["h1", "h2"]);
    hosts.build("h2", "app:1", "sha256:own");
    let decided = hosts.of("h1").decide("app:1", Pull::Always).await.unwrap();
    assert_eq!(decided.image, "local:sha256:own");
    assert!(decided.note.unwrap().contains("was not pulled"));
    assert_eq!(hosts.pulls(), 1);
}
