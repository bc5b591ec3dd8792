#![expect(
    clippy::unwrap_used,
    reason = "a test stops where something is missing"
)]

use std::path::PathBuf;
use std::sync::Mutex;

use manifests::manifest::Pull;
use model::Snapshot;
use model::disk::PulledImage;
use model::snapshot::Change;
use tokio::sync::mpsc;

use super::*;
use crate::images::PullSettings;
use crate::published::Seen;
use engine::memory::{MemEngine, Published as InRegistry};
use engine::{HostFault, Operation};

/// An engine whose disk holds a hundred bytes, with images of ten bytes each.
struct Lab {
    engine: MemEngine,
    published: Arc<Published>,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new(used: u64) -> Self {
        let engine = MemEngine::default();
        engine.world(|world, _| {
            world.image_bytes = 10;
            world.disk = Some(DiskUsage {
                used,
                available: 100 - used,
            });
        });
        let published = Arc::new(Published::default());
        let lab = Self {
            engine,
            published,
            folder: tempfile::tempdir().unwrap(),
        };
        lab.sees(Snapshot::default(), None);
        lab
    }

    fn sees(&self, snapshot: Snapshot, distrust: Option<&str>) {
        let seen = Seen {
            snapshot,
            stale: true,
            distrust: distrust.map(str::to_owned),
        };
        self.published.seen.store(Arc::new(Some(seen)));
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("images.json")
    }

    /// Images that were pulled long ago, the first one first.
    fn pulled(&self, ids: &[&str]) {
        let mut record = model::disk::PulledImages::new();
        for (used, id) in ids.iter().enumerate() {
            let name = format!("{id}:1");
            self.engine
                .world(|world, _| world.add_local_image(&name, id));
            let pulled = PulledImage {
                names: [name].into(),
                content: None,
                used: used as i64,
            };
            record.insert((*id).to_owned(), pulled);
        }
        std::fs::write(self.file(), serde_json::to_vec(&record).unwrap()).unwrap();
    }

    fn images(&self) -> Images {
        let settings = PullSettings {
            docker_config: PathBuf::from("/nonexistent"),
            at_once: 1,
            jitter: Duration::ZERO,
            record: Some(self.file()),
            spool: None,
        };
        Images::new(Arc::new(self.engine.clone()), settings)
    }

    fn collector(&self, told: &Arc<Mutex<Vec<DiskReport>>>) -> Collector<impl Fn(DiskReport)> {
        let told = told.clone();
        Collector {
            images: self.images(),
            published: self.published.clone(),
            limits: DiskLimits::default(),
            tell: move |report| told.lock().unwrap().push(report),
            told: DiskReport::default(),
            helpless: false,
        }
    }

    /// One look; what it told, and which images are left.
    async fn look(&self, pull_failed: bool) -> (Vec<Option<u8>>, Vec<String>) {
        let told: Arc<Mutex<Vec<DiskReport>>> = Arc::default();
        self.collector(&told).look(pull_failed).await.unwrap();
        let told = told.lock().unwrap().iter().map(|r| r.percent).collect();
        (told, self.left())
    }

    fn left(&self) -> Vec<String> {
        let images = self.engine.world(|world, _| world.list_images()).unwrap();
        images.into_iter().map(|image| image.id).collect()
    }
}

#[tokio::test]
async fn the_oldest_go_until_it_is_not_too_full() {
    let lab = Lab::new(100);
    lab.engine
        .world(|world, _| world.add_local_image("foreign:1", "0"));
    lab.pulled(&["c", "b", "a"]);
    let (told, left) = lab.look(false).await;
    assert_eq!(left, ["0", "a"]);
    assert_eq!(told, [Some(100), Some(90), Some(80)]);
}

#[tokio::test]
async fn one_that_can_t_be_removed_holds_up_no_other() {
    let lab = Lab::new(100);
    lab.pulled(&["a", "b", "c"]);
    let busy = EngineError::Engine("device or resource busy".to_owned());
    lab.engine
        .world(|world, _| world.failures.push((Operation::Other, busy)));
    assert_eq!(lab.look(false).await.1, ["a"]);
}

#[tokio::test]
async fn nothing_goes_from_a_disk_that_has_room_or_can_t_be_seen() {
    let lab = Lab::new(84);
    lab.pulled(&["a"]);
    assert_eq!(
        lab.look(false).await,
        (vec![Some(84)], vec!["a".to_owned()])
    );
    lab.engine.world(|world, _| world.disk = None);
    assert_eq!(lab.look(false).await, (vec![], vec!["a".to_owned()]));
}

#[tokio::test]
async fn nothing_goes_while_it_is_not_known_what_is_needed() {
    let lab = Lab::new(99);
    lab.pulled(&["a"]);
    lab.sees(Snapshot::default(), Some("another cluster's etcd"));
    assert_eq!(lab.look(true).await.1, ["a"]);
    lab.published.seen.store(Arc::new(None));
    assert_eq!(lab.look(true).await.1, ["a"]);
}

#[tokio::test]
async fn what_a_manifest_means_and_what_a_container_is_made_from_stays() {
    let lab = Lab::new(99);
    lab.pulled(&["made-from", "meant", "neither"]);
    let spec = engine::CreateSpec {
        image: "made-from:1".to_owned(),
        ..engine::CreateSpec::default()
    };
    lab.engine.create(&spec).await.unwrap();
    let mut snapshot = Snapshot::default();
    let put = Change::Put {
        key: "/apps/shop/web/manifest".to_owned(),
        value: br#"{"image": "meant:1"}"#.to_vec(),
        modified: 1,
        created: 1,
    };
    snapshot.apply([put], 1);
    lab.sees(snapshot, None);
    assert_eq!(lab.look(false).await.1, ["made-from", "meant"]);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_finds_no_room_makes_one_go() {
    let lab = Lab::new(50);
    lab.pulled(&["b", "a"]);
    lab.engine.world(|world, _| {
        let image = InRegistry {
            id: "c".to_owned(),
            ..InRegistry::default()
        };
        world.registry.insert("c:1".to_owned(), image);
        let full = EngineError::host(HostFault::NoSpace, "no space left on device");
        world.failures.push((Operation::Pull, full));
    });
    let images = lab.images();
    let (sender, mut told) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let collecting = tokio::spawn(run(
        images.clone(),
        lab.published.clone(),
        DiskLimits::default(),
        DiskReport::default(),
        move |report: DiskReport| sender.send(report.percent).unwrap(),
        stop.clone(),
    ));
    assert_eq!(told.recv().await, Some(Some(50)));
    let failed = images.decide("c:1", Pull::Missing).await;
    assert!(matches!(failed, Err(EngineError::HostFault { .. })));
    assert_eq!(told.recv().await, Some(Some(40)));
    assert_eq!(lab.left(), ["a"]);
    stop.cancel();
    collecting.await.unwrap();
}

#[tokio::test]
async fn what_the_record_says_already_is_not_told_again() {
    let lab = Lab::new(51);
    let told = DiskReport {
        percent: Some(50),
        full: false,
    };
    let stop = CancellationToken::new();
    stop.cancel();
    let tell = |report: DiskReport| assert_eq!(report, told, "told again");
    let (images, published) = (lab.images(), lab.published.clone());
    run(images, published, DiskLimits::default(), told, tell, stop).await;
}
