//! Two writers at once: a write planned on what was seen either fails its
//! guards or does what it would have done if it had been planned just then.

use gateway::v2::event::OP_KEY;
use gateway::v2::lookup::{Lookup, read, read_key};
use gateway::v2::path::KeyPath;
use gateway::v2::plan::{Planned, expire, needs_below, plain_put, plan};
use gateway::v2::request::{Condition, Content, Write, WriteKind};
use jiff::Timestamp;
use store::kv::{KeyRange, Kv, Op, OpReply, Range, Txn};
use store::memory::MemKv;
use uuid::Uuid;

use crate::client::{Ask, Client};
use crate::harness::TestServer;
use crate::stream::Random;

const ROUNDS: u64 = 20_000;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

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
    let content = match random.below(6) {
        0 => Content::Dir,
        _ => Content::File(value.clone()),
    };
    match random.below(11) {
        0..4 => WriteKind::Set(content),
        4 => WriteKind::Create(content),
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
        ttl: random.one_in(3).then(|| random.below(9)),
        refresh: random.one_in(6),
        no_value: false,
    }
}

async fn look(kv: &MemKv, write: &Write) -> Lookup {
    let read = async |below| {
        let reads = Txn::new(Vec::new(), read(&write.key, below));
        let reply = kv.txn(reads).await.expect("a read");
        Lookup::new(&write.key, reply)
    };
    let seen = read(false).await;
    if needs_below(write, &seen) {
        read(true).await
    } else {
        seen
    }
}

async fn carry_out(kv: &MemKv, planned: &Planned) -> bool {
    let reply = kv
        .txn(planned.request(Uuid::nil(), 0).0)
        .await
        .expect("a write");
    reply.succeeded
}

/// Keys, values and revisions of all there is.
async fn all(kv: &MemKv) -> Vec<(String, Vec<u8>, i64, i64)> {
    let range = Range::new(KeyRange::prefix("/"));
    let reply = kv.range(range).await.expect("a read");
    reply
        .kvs
        .into_iter()
        .map(|kv| (kv.key, kv.value, kv.created, kv.modified))
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
        let Some(planned) = plan(&first, &seen, NOW).ok().filter(|_| !odd) else {
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
        } else if let Ok(planned) = plan(&second, &look(&kv, &second).await, NOW) {
            assert!(carry_out(&kv, &planned).await, "nobody was in between");
        }
        let now = look(&kv, &first).await;
        let anew = plan(&first, &now, NOW);
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
        twin.txn(&anew.request(Uuid::nil(), 0).0).expect("a write");
        let twin_kv = MemKv::new();
        twin_kv.with(|etcd| *etcd = twin);
        assert_eq!(outcome, all(&twin_kv).await, "{what}");
    }
    assert!(stale > 300 && fresh > 1000, "{stale} {fresh} {refused}");
}

#[tokio::test]
async fn a_plain_put_is_what_would_have_been_planned() {
    let kv = MemKv::new();
    let mut random = Random::new(3);
    let (mut held, mut failed) = (0_u64, 0_u64);
    for round in 0..ROUNDS {
        let index = kv.with(|etcd| {
            etcd.compact(etcd.revision()).ok();
            etcd.revision()
        });
        let other = write(&mut random, index.unsigned_abs());
        if random.one_in(6) {
            let op = match random.below(3) {
                0 => Op::delete(&other.key),
                _ => Op::put(&other.key, "v3"),
            };
            kv.txn(Txn::new(Vec::new(), vec![op])).await.expect("done");
        } else if let Ok(planned) = plan(&other, &look(&kv, &other).await, NOW) {
            assert!(carry_out(&kv, &planned).await, "nobody was in between");
        }
        let set = Write {
            change: WriteKind::Set(Content::File(b"3".to_vec())),
            ttl: None,
            refresh: false,
            ..write(&mut random, 0)
        };
        let what = format!("round {round}: {other:?}, then {set:?}");
        // What this host knows is a little older now and then.
        let known = kv.with(|etcd| etcd.revision()) - i64::from(random.one_in(4));
        let plain = plain_put(&set, known).expect("it can be tried");
        let planned = plan(&set, &look(&kv, &set).await, NOW);
        let mut twin = kv.with(|etcd| etcd.clone());
        let reply = kv.txn(plain.txn.clone()).await.expect("an answer");
        if !reply.succeeded {
            let told = kv.txn(Txn::new(Vec::new(), read_key(&set.key)));
            let told = told.await.expect("a read");
            assert_eq!(reply.replies, told.replies, "{what}: no look");
            failed += 1;
            continue;
        }
        held += 1;
        let planned = planned.unwrap_or_else(|error| panic!("{what}: in spite of {error}"));
        let before = match &reply.replies[0] {
            OpReply::Get(found) => found.first(),
            other => panic!("{what}: {other:?}"),
        };
        let event = plain.event(reply.revision, before);
        assert_eq!(event, planned.event(reply.revision), "{what}");
        let again = kv.txn(plain.txn).await.expect("an answer");
        assert!(!again.succeeded, "{what}: carried out twice");
        twin.txn(&planned.request(Uuid::nil(), 0).0)
            .expect("a write");
        let twin_kv = MemKv::new();
        twin_kv.with(|etcd| *etcd = twin);
        let (mut outcome, mut wanted) = (all(&kv).await, all(&twin_kv).await);
        for keys in [&mut outcome, &mut wanted] {
            keys.retain(|(key, ..)| key != OP_KEY);
        }
        assert_eq!(outcome, wanted, "{what}");
    }
    assert!(held > 1000 && failed > 1000, "{held} {failed}");
}

/// A key or a directory with a TTL is written by one while its time comes for another.
#[tokio::test]
async fn what_was_written_anew_does_not_end() {
    let kv = MemKv::new();
    let mut random = Random::new(2);
    let (mut ended, mut stale) = (0_u64, 0_u64);
    for round in 0..5_000 {
        let first = Write {
            ttl: Some(1),
            refresh: false,
            ..write(&mut random, 0)
        };
        let Ok(planned) = plan(&first, &look(&kv, &first).await, NOW) else {
            continue;
        };
        assert!(carry_out(&kv, &planned).await);
        let modified = kv.with(|etcd| etcd.revision());
        let seen = look(&kv, &first).await;
        let Some(expired) = expire(&seen, modified, NOW) else {
            assert!(!planned.ends(), "round {round}: {first:?} does not end");
            continue;
        };
        let second = write(&mut random, 0);
        let between = plan(&second, &look(&kv, &second).await, NOW);
        let what = format!("round {round}: {first:?}, then {second:?}");
        if let Ok(between) = between {
            assert!(carry_out(&kv, &between).await, "nobody was in between");
        }
        let now = look(&kv, &first).await;
        let anew = expire(&now, modified, NOW);
        if carry_out(&kv, &expired).await {
            let anew = anew.map(|planned| planned.event(0));
            assert_eq!(anew, Some(expired.event(0)), "{what}");
            ended += 1;
        } else {
            stale += 1;
        }
    }
    assert!(ended > 300 && stale > 20, "{ended} {stale}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_posted_through_several_hosts_sort_as_they_were_made() {
    let (first, kv) = TestServer::in_memory().await;
    let second = TestServer::over(std::sync::Arc::new(kv)).await;
    let post = async |client: Client, n: u64| {
        let mut made = Vec::new();
        for _ in 0..40 {
            let posted = client
                .send(Ask::new("POST", "/v2/keys/queue").form("value=1"))
                .await;
            assert_eq!(posted.status, 201, "{}", posted.body);
            // Others write, too, so that names and indexes differ.
            client.put(&format!("/v2/keys/other{n}"), "value=1").await;
            let key = posted.json()["node"]["key"].as_str().map(str::to_owned);
            made.push((posted.index(), key.expect("a key")));
        }
        made
    };
    let clients = [&first, &second, &first, &second].map(|server| server.client.clone());
    let posters = clients
        .into_iter()
        .zip(0..)
        .map(|(client, n)| post(client, n));
    let mut made = futures_util::future::join_all(posters).await.concat();
    made.sort();
    assert!(made.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{made:?}");
    let listed = first.client.get("/v2/keys/queue?sorted=true").await.json();
    let listed = listed["node"]["nodes"].as_array().map(Vec::len);
    assert_eq!(listed, Some(160));
}
