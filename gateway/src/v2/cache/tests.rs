//! What is kept, beside an etcd in memory whose events come late.

use proptest::collection::vec;
use proptest::prelude::*;
use store::kv::{KeyRange, Op, OpReply, Range, Txn, TxnReply, WatchReply};
use store::memory::{MemEtcd, WatchId};

use super::*;
use crate::v2::lookup::{self, Lookup};
use crate::v2::path::KeyPath;

/// Keys and what is above and below them, side keys, a key that v2 can't name, one outside of what is watched, and the
/// name under which a key that is no text is told.
const WRITTEN: [&str; 11] = [
    "/a",
    "/a/b",
    "/a/b/c",
    "/a/",
    "/a//x",
    "/b",
    "/v2meta/a",
    "/v2meta/a/b",
    "/v2meta/b",
    "/\u{fffd}",
    "z",
];

const ASKED: [&str; 5] = ["/a", "/a/b", "/b", "/v2meta/a", "/\u{fffd}"];

const SIDES: [&str; 4] = [
    r#"{"created":1}"#,
    r#"{"dir":true}"#,
    r#"{"expires":"2030-01-01T00:00:00Z"}"#,
    "{}",
];

#[derive(Debug, Clone)]
enum Step {
    /// Keys that are put, with a value, or deleted; at one revision.
    Write(Vec<(usize, Option<u8>)>),
    /// So many revisions' events come, in one reply.
    Events(usize),
    /// A key is read; its answer is kept later.
    Read(usize),
    Keep(usize),
    /// A GET takes the revision; it is answered later.
    Ask(usize),
    Answer(usize),
    /// The stream ends, and goes on in another one.
    Reopen,
    /// What a restore brings back, and a restore.
    Save,
    Restore,
}

/// One of so many, most often the first, so that steps meet.
fn one_of(keys: usize) -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 1 => 0..keys]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = || proptest::option::weighted(0.8, 0..4_u8);
    let write = prop_oneof![
        3 => vec((one_of(WRITTEN.len()), value()), 1..3),
        // A file and its side key.
        1 => (value(), value()).prop_map(|(file, side)| vec![(0, file), (6, side)]),
        1 => (value(), value()).prop_map(|(file, side)| vec![(7, side), (1, file)]),
    ];
    let step = prop_oneof![
        8 => write.prop_map(Step::Write),
        10 => (1..4_usize).prop_map(Step::Events),
        8 => one_of(ASKED.len()).prop_map(Step::Read),
        8 => (0..2_usize).prop_map(Step::Keep),
        8 => one_of(ASKED.len()).prop_map(Step::Ask),
        8 => (0..2_usize).prop_map(Step::Answer),
        1 => Just(Step::Reopen),
        1 => Just(Step::Save),
        1 => Just(Step::Restore),
    ];
    vec(step, 1..200)
}

struct World {
    etcd: MemEtcd,
    saved: MemEtcd,
    watch: WatchId,
    cache: Cache,
    read: Vec<(&'static str, Bytes, i64)>,
    asked: Vec<(&'static str, i64)>,
    answered: usize,
}

fn watch(etcd: &mut MemEtcd, from: i64) -> WatchId {
    etcd.watch(KeyRange::range("/", "0"), from, false)
}

/// What etcd gives for a file without a TTL at a revision.
fn body(etcd: &MemEtcd, key: &str, revision: i64) -> Option<Bytes> {
    let key = KeyPath::new(key).expect("a key");
    let read = |op| {
        let (Op::Get(keys) | Op::First(keys)) = op else {
            unreachable!("reads");
        };
        let range = Range {
            revision,
            ..Range::new(keys)
        };
        OpReply::Get(etcd.range(&range).expect("a read").kvs)
    };
    let reply = TxnReply {
        succeeded: true,
        revision,
        replies: lookup::read_alone(&key).into_iter().map(read).collect(),
    };
    let seen = Lookup::alone(&key, reply).filter(|seen| !seen.is_dir())?;
    let node = tree::node(&key, &seen, false, Timestamp::UNIX_EPOCH)?;
    node.ttl.is_none().then(|| V2Event::get(node).body().into())
}

impl World {
    fn new() -> Self {
        let mut etcd = MemEtcd::new();
        Self {
            saved: etcd.clone(),
            watch: watch(&mut etcd, 2),
            cache: Cache::new(1),
            etcd,
            read: Vec::new(),
            asked: Vec::new(),
            answered: 0,
        }
    }

    fn step(&mut self, step: Step, nth: usize) {
        match step {
            Step::Write(writes) => self.write(&writes, nth),
            Step::Events(replies) => self.events(replies),
            Step::Read(key) => {
                let (key, revision) = (ASKED[key], self.etcd.revision());
                if let Some(body) = body(&self.etcd, key, revision) {
                    self.read.push((key, body, revision));
                }
            }
            Step::Keep(at) if at < self.read.len() => {
                let (key, body, revision) = self.read.remove(at);
                self.cache.keep(key, &body, revision);
            }
            Step::Ask(key) => {
                let revision = self.etcd.revision();
                if revision < self.cache.newest() {
                    self.open(revision);
                }
                self.asked.push((ASKED[key], revision));
            }
            Step::Answer(at) if at < self.asked.len() => {
                let (key, revision) = self.asked.remove(at);
                self.answer(key, revision);
            }
            Step::Keep(_) | Step::Answer(_) => {}
            Step::Reopen => self.open(self.cache.seen),
            Step::Save => self.saved = self.etcd.clone(),
            Step::Restore => {
                self.etcd = self.saved.clone();
                self.asked.clear();
                self.open(self.cache.seen);
            }
        }
    }

    fn write(&mut self, writes: &[(usize, Option<u8>)], nth: usize) {
        let mut keys = Vec::new();
        let mut ops = Vec::new();
        for (key, value) in writes {
            let key = WRITTEN[*key];
            if keys.contains(&key) {
                continue;
            }
            keys.push(key);
            ops.push(match value {
                Some(kind) if key.starts_with(V2_META) => Op::put(key, SIDES[usize::from(*kind)]),
                Some(_) => Op::put(key, format!("{nth}")),
                None => Op::delete(key),
            });
        }
        self.etcd.txn(&Txn::new(Vec::new(), ops)).expect("a write");
    }

    fn events(&mut self, replies: usize) {
        let mut events = Vec::new();
        for _ in 0..replies {
            match self.etcd.poll(self.watch) {
                Some(WatchReply::Events(more, _)) => events.extend(more),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
        }
        self.cache.apply(&events);
    }

    fn answer(&mut self, key: &str, revision: i64) {
        let Some((answer, at)) = self.cache.answer(key, revision) else {
            return;
        };
        assert!((revision..=self.etcd.revision()).contains(&at), "{at}");
        assert_eq!(Some(answer), body(&self.etcd, key, at), "{key} at {at}");
        self.answered += 1;
    }

    /// As the feed does it: what is kept is of one stream.
    fn open(&mut self, seen: i64) {
        self.watch = watch(&mut self.etcd, seen + 1);
        self.cache = Cache::new(seen);
        self.read.clear();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_is_what_etcd_has_had_since_the_question(steps in steps()) {
        let mut world = World::new();
        for (nth, step) in steps.into_iter().enumerate() {
            world.step(step, nth);
        }
        // In the end all is seen, and what is read then is kept.
        world.events(usize::MAX >> 48);
        for key in ASKED {
            let revision = world.etcd.revision().max(world.cache.seen);
            if let Some(body) = body(&world.etcd, key, world.etcd.revision()) {
                world.cache.keep(key, &body, revision);
                let kept = world.cache.answer(key, world.cache.seen);
                prop_assert_eq!(kept.is_some(), revision == world.cache.seen);
            }
        }
    }
}

fn put(etcd: &mut MemEtcd, key: &str, value: &str) {
    let put = Txn::new(Vec::new(), vec![Op::put(key, value)]);
    etcd.txn(&put).expect("a write");
}

#[test]
fn a_put_takes_the_place_of_what_is_kept() {
    let mut world = World::new();
    put(&mut world.etcd, "/a", "1");
    world.events(1);
    let read = body(&world.etcd, "/a", 2).expect("a file");
    world.cache.keep("/a", &read, 2);
    assert_eq!(world.cache.answer("/a", 2), Some((read.clone(), 2)));
    put(&mut world.etcd, "/a", "2");
    assert_eq!(world.cache.answer("/a", 3), None);
    assert_eq!(world.cache.answer("/a", 2), Some((read.clone(), 2)));
    // Read before the PUT, and kept after it was seen: then it is not.
    world.events(1);
    world.cache.keep("/a", &read, 2);
    let now = body(&world.etcd, "/a", 3).expect("a file");
    assert_eq!(world.cache.answer("/a", 3), Some((now, 3)));
}

#[test]
fn what_is_asked_for_stays_and_all_has_an_end() {
    let mut cache = Cache::new(1);
    let body = [b'x'; 1 << 10];
    let mut kept = 0;
    for n in 0..100_000 {
        cache.keep(&format!("/k{n}"), &body, 1);
        assert!(cache.answer("/k0", 1).is_some(), "{n}");
        let (young, old) = (&cache.young, &cache.old);
        assert!(young.bytes + old.bytes <= MAX_BYTES);
        kept = young.answers.len() + old.answers.len();
    }
    assert!((3_000..8_000).contains(&kept), "{kept}");
    for generation in [&cache.young, &cache.old] {
        let all = generation.answers.iter();
        let bytes: usize = all.map(|(key, answer)| answer.bytes(key)).sum();
        assert_eq!(bytes, generation.bytes);
    }
}

#[test]
fn large_answers_are_not_kept() {
    let mut world = World::new();
    world.cache.keep("/a", "x".repeat(MAX_ENTRY).as_bytes(), 1);
    assert!(!world.cache.has("/a"));
    world.cache.keep("/a", b"1", 1);
    put(&mut world.etcd, "/a", &"x".repeat(MAX_ENTRY));
    world.events(1);
    assert!(!world.cache.has("/a"));
    assert_eq!((world.cache.young.bytes, world.cache.old.bytes), (0, 0));
}
