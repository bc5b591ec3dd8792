//! Guards by their evaluator and by etcd: every row holds where it was decided, and fails with any one guard broken.

use std::collections::{BTreeMap, BTreeSet};

use manifests::keys::Key;
use manifests::{ContainerId, HostName, SlotId};
use model::records::{
    Claim, Cluster, Data, FoundImage, Job, Phase, Rollout, SlotState, Unfit, Version,
};
use model::snapshot::VoidNext;
use model::write::{Guard, Keys, Over};
use model::{ModRev, Rules, VersionId, Write, WriteKind};
use serde_json::{Value, json};
use store::kv::{KeyRange, KeyValue, Range};
use store::memory::MemEtcd;
use store::{Op, Txn};
use strum::VariantArray;

/// All keys of a store at one revision.
struct Seen(BTreeMap<String, KeyValue>);

impl Seen {
    fn of(etcd: &MemEtcd) -> Self {
        let all = etcd.range(&Range::new(KeyRange::prefix("/")));
        let kvs = all.expect("reads").kvs.into_iter();
        Self(kvs.map(|kv| (kv.key.clone(), kv)).collect())
    }
}

impl Keys for Seen {
    fn modified(&self, key: &Key) -> ModRev {
        let kv = self.0.get(&key.to_string());
        kv.map_or(ModRev::ABSENT, |kv| ModRev(kv.modified))
    }

    fn value(&self, key: &Key) -> Option<&[u8]> {
        self.0.get(&key.to_string()).map(|kv| kv.value.as_slice())
    }

    fn any_under(&self, prefix: &str) -> bool {
        self.0.keys().any(|key| key.starts_with(prefix))
    }
}

fn of<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("a record")
}

fn web() -> ContainerId {
    "shop/web".parse().expect("an id")
}

fn slot() -> SlotId {
    web().slot(0)
}

fn host(name: &str) -> HostName {
    name.parse().expect("a name")
}

fn claim() -> Claim {
    of(json!({"host": "h1", "instance": "i-1", "version": 7}))
}

fn state() -> SlotState {
    of(json!({"instance": "i-1", "state": Phase::Ready, "addr": "10.0.0.1"}))
}

fn cluster() -> Cluster {
    of(json!({"id": "00000000-0000-0000-0000-000000000000", "epoch": 3}))
}

fn data() -> Data {
    of(json!({"host": "h1", "host_id": "00000000-0000-0000-0000-000000000000", "volumes": ["db"]}))
}

fn version() -> Version {
    of(json!({"manifest": {"image": "nginx"}, "image": "sha256:a"}))
}

fn unfit() -> Unfit {
    of(json!({"manifest_rev": 7, "reason": "port 80 is taken"}))
}

fn found() -> FoundImage {
    of(json!({"of": "1:a", "image": "nginx:2", "digest": "sha256:b"}))
}

fn job() -> Job {
    of(json!({"version": 7, "host": "h1", "instance": "i-2", "state": "running"}))
}

fn rollout() -> Rollout {
    of(json!({"version": 7, "failed": true, "slot": 0, "reason": "exit code 1"}))
}

/// Every row, as it would be decided on what is there: where a key is absent, its guard says so.
fn rows(seen: &Seen) -> Vec<Write> {
    let rev = |key: Key| seen.modified(&key);
    let manifest = rev(Key::Manifest(web()));
    let (own, said) = (rev(Key::Claim(slot())), rev(Key::State(slot())));
    let next = rev(Key::Next(slot()));
    let void = (next != ModRev::ABSENT).then(|| VoidNext {
        rev: next,
        host: host("h2"),
    });
    let pin = || Some((data(), rev(Key::Data(slot()))));
    let promote = |over| Write::promote(slot(), claim(), own, manifest, next, over);
    let image = rev(Key::FoundImage(web()));
    let noted = rev(Key::Version(web(), 7));
    let prune = [(VersionId(7), noted)];
    let mut rows = vec![
        Write::claim(slot(), claim(), manifest, void.clone()).with_data(pin()),
        Write::keep(slot(), claim(), Some(version()), cluster()),
        Write::keep(slot(), claim(), None, cluster()),
        Write::take_over(slot(), claim(), (own, host("h3")), manifest, void.clone()),
        Write::new_instance(slot(), claim(), own).with_data(pin()),
        Write::new_instance_in_turn(slot(), claim(), own, rev(Key::Rollout(web()))),
        Write::replace(slot(), claim(), own, state()).with_data(pin()),
        Write::adopt(slot(), claim(), own, manifest),
        Write::release(slot(), own),
        Write::release_unfit(slot(), own, host("h1"), unfit()),
        Write::status(
            slot(),
            of(json!({"instance": "i-1", "host": "h1", "progress": "ready"})),
            own,
        ),
        Write::state(slot(), state(), own, said),
        Write::data(slot(), pin().expect("a pin"), own),
        Write::take_back(slot(), state(), own, said, void.clone()),
        Write::next(slot(), claim(), own, manifest, void.clone()),
        promote(Over::Ready(state())),
        promote(Over::Nobody),
        promote(Over::Lost(host("h3"))),
        promote(Over::Stopped(said, host("h3"))),
        Write::retake(slot(), claim(), state(), own, said, next),
        Write::delete_next(slot(), next, None),
        Write::delete_next(slot(), next, Some((host("h1"), unfit()))),
        Write::delete_unwanted(slot(), own, manifest, host("h3")),
        Write::version(web(), manifest.version(), version()),
        Write::version_of_found(web(), image.version(), version(), manifest),
        Write::found(web(), found(), manifest, image),
        Write::went_back(web(), found(), manifest, image),
        Write::good(web(), VersionId(7), version(), noted),
        Write::prune(&web(), &prune),
        Write::job_start(web(), job(), manifest, rev(Key::Before(web()))),
        Write::job_start(web(), job(), manifest, rev(Key::Before(web()))).over_removed(host("h3")),
        Write::job_done(
            web(),
            job(),
            rev(Key::Before(web())),
            Some((version(), noted)),
        ),
        Write::job_failed(
            web(),
            job(),
            rev(Key::Before(web())),
            Some((rollout(), manifest, rev(Key::Rollout(web())))),
        ),
        Write::rollout(web(), rollout(), manifest, rev(Key::Rollout(web()))),
        Write::permit(web(), rollout(), manifest, rev(Key::Rollout(web()))),
        Write::permit(
            web(),
            Rollout::to(VersionId(7)),
            manifest,
            rev(Key::Rollout(web())),
        ),
        Write::sweep(web()),
        Write::fit(web(), host("h1"), rev(Key::Unfit(host("h1"), web()))),
        Write::returned(slot(), host("h1"), rev(Key::Moved(host("h1"), slot()))),
    ];
    rows.extend(void.map(|void| Write::delete_void_next(slot(), void)));
    rows
}

/// What may be there or not, each of the first six by itself.
fn keys() -> [Key; 12] {
    [
        Key::Manifest(web()),
        Key::Claim(slot()),
        Key::State(slot()),
        Key::Next(slot()),
        Key::HostRecord(host("h2")),
        Key::HostRecord(host("h3")),
        Key::Data(slot()),
        Key::Version(web(), 7),
        Key::Rollout(web()),
        Key::FoundImage(web()),
        Key::Unfit(host("h1"), web()),
        Key::Moved(host("h1"), slot()),
    ]
}

fn put(etcd: &mut MemEtcd, key: &Key, value: Vec<u8>) {
    let txn = Txn::new(Vec::new(), vec![Op::put(key, value)]);
    etcd.txn(&txn).expect("puts");
}

/// Whether it holds, by both.
fn holds(etcd: &MemEtcd, write: &Write) -> bool {
    let txn = store::claims::txn(write, Rules::default());
    let by_etcd = etcd.clone().txn(&txn).expect("runs").succeeded;
    let by_guards = write.holds(&Seen::of(etcd));
    assert_eq!(by_guards, by_etcd, "{write}");
    by_etcd
}

/// Keys of which another value, or one at all, breaks it.
fn breaks(guard: &Guard) -> Vec<Key> {
    match guard {
        Guard::Seen(key, _) => vec![key.clone()],
        Guard::NoRecord(host) => vec![Key::HostRecord(host.clone())],
        Guard::VoidNext(slot, next) => {
            vec![Key::Next(slot.clone()), Key::HostRecord(next.host.clone())]
        }
        Guard::NoSlots(container) => vec![Key::State(container.slot(3))],
        Guard::Cluster(_) => vec![Key::Cluster],
    }
}

#[test]
fn a_row_fails_with_any_one_guard_broken() {
    let mut held = BTreeSet::new();
    for present in 0..1_u32 << 7 {
        let mut etcd = MemEtcd::new();
        let json = serde_json::to_vec(&cluster()).expect("JSON");
        put(&mut etcd, &Key::Cluster, json);
        for (bit, key) in keys().iter().enumerate() {
            if present & (1 << bit.min(6)) != 0 {
                put(&mut etcd, key, b"{}".to_vec());
            }
        }
        for write in rows(&Seen::of(&etcd)) {
            if !holds(&etcd, &write) {
                continue;
            }
            held.insert(write.kind);
            for guard in &write.guards {
                for key in breaks(guard) {
                    let mut other = etcd.clone();
                    put(&mut other, &key, b"{\"other\": 1}".to_vec());
                    assert!(!holds(&other, &write), "{write} though {guard} is broken");
                }
            }
        }
    }
    let all: BTreeSet<WriteKind> = WriteKind::VARIANTS.iter().copied().collect();
    assert_eq!(held, all, "each row holds somewhere");
}
