//! Two writers at once: a write planned on what was seen either fails its
//! guards or does what it would have done if it had been planned just then.

use gateway::v2::lookup::{Lookup, read};
use gateway::v2::path::KeyPath;
use gateway::v2::plan::{Planned, needs_below, plan};
use gateway::v2::request::{Condition, Write, WriteKind};
use store::kv::{KeyRange, Kv, Op, Range, Txn};
use store::memory::MemKv;
use uuid::Uuid;

use crate::stream::Random;

const ROUNDS: u64 = 20_000;

/// Few, so that the two meet.
const NAMES: [&str; 2] = ["a", "b"];

fn key(random: &mut Random) -> KeyPath {
    let depth = 1 + random.below(3);
    let names: Vec<&str> = (0..depth).map(|_| random.pick(&NAMES)).collect();
    KeyPath::new(&names.join("/")).expect("a key")
}

fn change(random: &mut Random, index: u64) -> WriteKind {
    let value = random.pick(&["", "1", "2"]).as_bytes().to_vec();
    let condition = Condition {
        value: random.pick(&["", "1"]).as_bytes().to_vec(),
        index: index * random.below(2),
    };
    match random.below(11) {
        0..4 => WriteKind::Set(value),
        4 => WriteKind::Create(value),
        5 => WriteKind::Update(value),
        6 => WriteKind::CompareAndSwap(condition, value),
        7 => WriteKind::CompareAndDelete(condition),
        _ => WriteKind::Delete {
            dir: random.one_in(2),
            recursive: !random.one_in(3),
        },
    }
}

fn write(random: &mut Random, index: u64) -> Write {
    Write {
        key: key(random),
        change: change(random, index),
        no_value: false,
    }
}

async fn look(kv: &MemKv, write: &Write) -> Lookup {
    let reads = read(&write.key, needs_below(&write.change));
    let reply = kv.txn(Txn::new(Vec::new(), reads)).await.expect("a read");
    Lookup::new(&write.key, reply)
}

async fn carry_out(kv: &MemKv, planned: &Planned) -> bool {
    let reply = kv
        .txn(planned.request(Uuid::nil()).0)
        .await
        .expect("a write");
    reply.succeeded
}

/// Keys, values and revisions of all there is. A directory's index is that of
/// its creation, so it does no harm if two writers make it.
async fn all(kv: &MemKv) -> Vec<(String, Vec<u8>, i64, i64)> {
    let range = Range::new(KeyRange::prefix("/"));
    let reply = kv.range(range).await.expect("a read");
    reply
        .kvs
        .into_iter()
        .map(|kv| {
            let dir = kv.value == br#"{"dir":true}"#;
            let modified = if dir { 0 } else { kv.modified };
            (kv.key, kv.value, kv.created, modified)
        })
        .collect()
}

#[tokio::test]
async fn a_stale_plan_fails_or_does_no_harm() {
    let kv = MemKv::new();
    let mut random = Random::new(1);
    let (mut stale, mut fresh, mut refused) = (0_u64, 0_u64, 0_u64);
    for round in 0..ROUNDS {
        let index = kv.with(|etcd| {
            // Its past is copied below, so it had better have none.
            etcd.compact(etcd.revision()).ok();
            etcd.revision().unsigned_abs()
        });
        let first = write(&mut random, index);
        let seen = look(&kv, &first).await;
        // A directory that v3 gave a value stays one only while there are keys
        // below it, which no guard can say; the write itself puts one there.
        let odd = seen.above().iter().any(|dir| dir.file.is_some());
        let Some(planned) = plan(&first, &seen).ok().filter(|_| !odd) else {
            refused += 1;
            continue;
        };
        // Another agent, or v3 itself, gets in between.
        let second = write(&mut random, index);
        if random.one_in(10) {
            let op = match random.below(3) {
                0 => Op::delete(&second.key),
                _ => Op::put(&second.key, "v3"),
            };
            kv.txn(Txn::new(Vec::new(), vec![op])).await.expect("done");
        } else if let Ok(planned) = plan(&second, &look(&kv, &second).await) {
            assert!(carry_out(&kv, &planned).await, "nobody was in between");
        }
        let now = look(&kv, &first).await;
        let anew = plan(&first, &now);
        let mut twin = kv.with(|etcd| etcd.clone());
        if !carry_out(&kv, &planned).await {
            stale += 1;
            continue;
        }
        fresh += 1;
        let what = format!("round {round}: {first:?}, then {second:?}");
        let anew = anew.unwrap_or_else(|error| panic!("{what}: went through in spite of {error}"));
        assert_eq!(planned.event(0), anew.event(0), "{what}");
        let outcome = all(&kv).await;
        twin.txn(&anew.request(Uuid::nil()).0).expect("a write");
        let twin_kv = MemKv::new();
        twin_kv.with(|etcd| *etcd = twin);
        assert_eq!(outcome, all(&twin_kv).await, "{what}");
    }
    assert!(stale > 300 && fresh > 1000, "{stale} {fresh} {refused}");
}
