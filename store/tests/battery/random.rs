//! Random operations: both etcds say the same, and a view is what a list says.

use std::sync::Arc;
use std::time::Duration;

use manifests::keys::{WATCH_END, WATCH_START};
use model::snapshot::{Change, Snapshot};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use store::kv::{
    Compare, Event, KeyRange, Kv, KvError, Op, OpReply, Range, Relation, Target, Txn, TxnReply,
    WatchReply,
};
use store::memory::MemKv;
use store::view::{Trust, ViewInputs, ViewOptions, run_view, updates};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::RealEtcd;
use crate::view::{Running, cluster, put_cluster};

/// Few keys, so that they meet.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..4u8).prop_map(|i| format!("/apps/shop/c{i}/manifest")),
        (0..3u8).prop_map(|i| format!("/claims/shop/c0/slots/{i}")),
        (0..3u8).prop_map(|i| format!("/hosts/h{i}/record")),
        Just("/outside".to_owned()),
    ]
}

fn keys() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        3 => key().prop_map(KeyRange::key),
        1 => prop_oneof![Just("/apps/"), Just("/claims/shop/"), Just("/hosts/")]
            .prop_map(KeyRange::prefix),
    ]
}

fn guard() -> impl Strategy<Value = Compare> {
    let relation = prop_oneof![
        Just(Relation::Equal),
        Just(Relation::NotEqual),
        Just(Relation::Greater),
        Just(Relation::Less)
    ];
    let target = prop_oneof![
        (0..4i64).prop_map(Target::Version),
        (0..30i64).prop_map(Target::Created),
        (0..30i64).prop_map(Target::Modified),
        (0..3u8).prop_map(|v| Target::Value(vec![b'0' + v])),
    ];
    (keys(), relation, target)
        .prop_map(|(keys, relation, target)| Compare::new(keys, relation, target))
}

fn op() -> impl Strategy<Value = Op> {
    let leaf = prop_oneof![
        4 => (key(), 0..3u8).prop_map(|(key, v)| Op::put(key, vec![b'0' + v])),
        2 => keys().prop_map(Op::Delete),
        1 => keys().prop_map(Op::Get),
        1 => keys().prop_map(Op::First),
    ];
    leaf.prop_recursive(2, 12, 3, |inner| {
        (
            vec(guard(), 0..2),
            vec(inner.clone(), 0..3),
            vec(inner, 0..2),
        )
            .prop_map(|(guards, then, otherwise)| {
                Op::Txn(Txn {
                    guards,
                    then,
                    otherwise,
                })
            })
    })
}

fn any_txn() -> impl Strategy<Value = Txn> {
    (vec(guard(), 0..2), vec(op(), 1..4), vec(op(), 0..2)).prop_map(|(guards, then, otherwise)| {
        Txn {
            guards,
            then,
            otherwise,
        }
    })
}

/// Revisions relative to where the case began: the real etcd goes on from case to case.
fn shift_guards(txn: &mut Txn, by: i64) {
    for guard in &mut txn.guards {
        if let Target::Created(at) | Target::Modified(at) = &mut guard.target
            && *at > 0
        {
            *at += by;
        }
    }
    for op in txn.then.iter_mut().chain(&mut txn.otherwise) {
        if let Op::Txn(inner) = op {
            shift_guards(inner, by);
        }
    }
}

fn shift_reply(reply: &mut TxnReply, by: i64) {
    reply.revision -= by;
    for reply in &mut reply.replies {
        match reply {
            OpReply::Get(kvs) => {
                for kv in kvs {
                    kv.created -= by;
                    kv.modified -= by;
                }
            }
            OpReply::Txn(inner) => shift_reply(inner, by),
            OpReply::Put | OpReply::Delete(_) => {}
        }
    }
}

async fn empty(kv: &dyn Kv) -> i64 {
    let all = Op::Delete(KeyRange::range("/", vec![0]));
    let txn = Txn::new(Vec::new(), vec![Op::put("/~", "1")]);
    kv.txn(Txn::new(Vec::new(), vec![all])).await.expect("runs");
    kv.txn(txn).await.expect("runs").revision
}

/// What came of a transaction, as both can say it.
async fn outcome(kv: &dyn Kv, mut txn: Txn, base: i64) -> Result<TxnReply, String> {
    shift_guards(&mut txn, base);
    match kv.txn(txn).await {
        Ok(mut reply) => {
            shift_reply(&mut reply, base);
            Ok(reply)
        }
        Err(KvError::Refused(why)) => Err(why),
        Err(error) => panic!("{error}"),
    }
}

async fn events(kv: &dyn Kv, from: i64, to: i64, base: i64) -> Vec<Event> {
    let keys = KeyRange::range("/", vec![0]);
    let mut watch = kv.watch(keys, from, true).await.expect("watches");
    let mut found: Vec<Event> = Vec::new();
    while found.last().is_none_or(|event| event.modified() < to) {
        let reply = tokio::time::timeout(Duration::from_secs(30), watch.replies.recv()).await;
        match reply.expect("in time").expect("open") {
            WatchReply::Events(events, _) => found.extend(events),
            WatchReply::Progress(_) => {}
            other => panic!("{other:?}"),
        }
    }
    for event in &mut found {
        match event {
            Event::Put { now, before } => {
                shift(now, base);
                shift_before(before, base);
            }
            Event::Delete {
                modified, before, ..
            } => {
                *modified -= base;
                shift_before(before, base);
            }
        }
    }
    found
}

fn shift_before(before: &mut Option<store::kv::KeyValue>, base: i64) {
    if let Some(kv) = before {
        shift(kv, base);
    }
}

fn shift(kv: &mut store::kv::KeyValue, base: i64) {
    kv.created -= base;
    kv.modified -= base;
}

/// What one etcd says to a list of transactions: each outcome, and all events with what was before.
async fn history(kv: &dyn Kv, txns: &[Txn]) -> (Vec<Result<TxnReply, String>>, Vec<Event>) {
    let base = empty(kv).await;
    let mut outcomes = Vec::new();
    for txn in txns {
        outcomes.push(outcome(kv, txn.clone(), base).await);
    }
    let put = Txn::new(Vec::new(), vec![Op::put("/~", "2")]);
    let last = kv.txn(put).await.expect("runs").revision;
    let events = events(kv, base + 1, last, base).await;
    (outcomes, events)
}

#[test]
fn the_twin_says_what_etcd_says() {
    let etcd = RealEtcd::start();
    let runtime = Runtime::new().expect("a runtime");
    let (real, memory) = runtime.block_on(async { (etcd.kv(), MemKv::new()) });
    let mut runner = TestRunner::new(ProptestConfig {
        // A resumed watch costs etcd 100 ms: few cases, and long ones.
        cases: 30,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let checked = runner.run(&vec(any_txn(), 1..60), |txns| {
        let (theirs, ours) = runtime
            .block_on(async { (history(&*real, &txns).await, history(&memory, &txns).await) });
        prop_assert_eq!(theirs, ours);
        Ok(())
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

/// The watched range as one list says it.
async fn listed(kv: &dyn Kv) -> Snapshot {
    let range = Range::new(KeyRange::range(WATCH_START, WATCH_END));
    let reply = kv.range(range).await.expect("reads");
    let mut snapshot = Snapshot::default();
    let changes: Vec<Change> = reply
        .kvs
        .into_iter()
        .map(|kv| Change::Put {
            key: kv.key,
            value: kv.value,
            modified: kv.modified,
            created: kv.created,
        })
        .collect();
    snapshot.apply(changes, reply.revision);
    snapshot
}

/// Runs transactions under a view, with `between` after each, and compares the view with a list at the end.
async fn view_follows(
    kv: Arc<dyn Kv>,
    txns: &[Txn],
    mut between: impl AsyncFnMut(usize),
) -> Result<(), TestCaseError> {
    empty(&*kv).await;
    let cluster = cluster();
    put_cluster(&*kv, &cluster).await;
    let (sender, mut updates) = updates();
    let (_seen, seen) = watch::channel(0);
    let (_floor, floor) = watch::channel(0);
    let stop = CancellationToken::new();
    let options = ViewOptions {
        page: 3,
        ..ViewOptions::new(cluster, None, None)
    };
    let task = tokio::spawn(run_view(
        kv.clone(),
        options,
        ViewInputs { seen, floor },
        sender,
        stop.clone(),
    ));
    for (i, txn) in txns.iter().enumerate() {
        kv.txn(txn.clone()).await.ok();
        between(i).await;
    }
    // The last write is in the range, so that its revision is reached.
    let end = Txn::new(Vec::new(), vec![Op::put("/apps/end/end/manifest", "1")]);
    kv.txn(end).await.expect("runs");
    let wanted = listed(&*kv).await;
    let mut last = None;
    let reached = tokio::time::timeout(Duration::from_secs(30), async {
        while let Some(update) = updates.next().await {
            let there = update.complete && update.snapshot.revision >= wanted.revision;
            last = Some(update);
            if there {
                break;
            }
        }
    });
    let in_time = reached.await.is_ok();
    stop.cancel();
    task.await.expect("ends");
    prop_assert!(in_time, "the view did not come to {}", wanted.revision);
    let update = last.expect("an update");
    prop_assert_eq!(update.trust, Trust::Trusted);
    prop_assert_eq!(update.snapshot, wanted);
    Ok(())
}

#[test]
fn a_view_is_what_a_list_says_after_anything() {
    let etcd = RealEtcd::start();
    let runtime = Runtime::new().expect("a runtime");
    let real = runtime.block_on(async { etcd.kv() });
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 30,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let checked = runner.run(&vec(any_txn(), 1..20), |txns| {
        runtime.block_on(view_follows(real.clone(), &txns, async |_| ()))
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

#[test]
fn a_view_is_what_a_list_says_whatever_happens_to_its_stream() {
    // Time is that of the test: pauses cost nothing.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let faults = vec(0..6u8, 1..20);
    let checked = runner.run(&(vec(any_txn(), 1..20), faults), |(txns, faults)| {
        runtime.block_on(async {
            let kv = MemKv::new();
            let shared: Arc<dyn Kv> = Arc::new(kv.clone());
            view_follows(shared, &txns, async |i| match faults[i % faults.len()] {
                0 => kv.with(|etcd| etcd.close_watches("cut")),
                1 => {
                    kv.with(|etcd| {
                        let at = etcd.revision();
                        etcd.compact(at).ok();
                    });
                }
                2 => {
                    kv.set_unavailable(true);
                    tokio::task::yield_now().await;
                    kv.set_unavailable(false);
                }
                3 => tokio::time::sleep(Duration::from_millis(3)).await,
                _ => {}
            })
            .await
        })
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}

/// A view has followed `before` and `lost`; then etcd is restored to where it was after `before`, and `after` happens.
async fn restored(before: &[Txn], lost: &[Txn], after: &[Txn]) -> Result<(), TestCaseError> {
    let kv = MemKv::new();
    let mut known = cluster();
    put_cluster(&kv, &known).await;
    for txn in before {
        kv.txn(txn.clone()).await.ok();
    }
    let backup = kv.with(|etcd| etcd.clone());
    for txn in lost {
        kv.txn(txn.clone()).await.ok();
    }
    // Nothing else writes this key, so that the view is part of no other history.
    let last = Txn::new(Vec::new(), vec![Op::put("/apps/end/end/manifest", "1")]);
    kv.txn(last).await.expect("runs");
    let seen = listed(&kv).await;
    let options = ViewOptions {
        page: 3,
        ..ViewOptions::new(known.clone(), None, None)
    };
    let mut view = Running::start(Arc::new(kv.clone()), options);
    view.until("all", |u| u.complete).await;
    kv.set_unavailable(true);
    view.until("the end of it", |u| !u.complete).await;
    kv.with(|etcd| *etcd = backup);
    kv.set_unavailable(false);
    for txn in after {
        // Longer than the longest pause: it is looked at whenever something has happened.
        tokio::time::sleep(Duration::from_secs(6)).await;
        if let Some(update) = view.unread() {
            prop_assert!(!update.complete && !update.trust.is_trusted());
            prop_assert_eq!(&update.snapshot, &seen);
        }
        kv.txn(txn.clone()).await.ok();
    }
    known.epoch += 1;
    let at = put_cluster(&kv, &known).await;
    let update = view
        .until("the acceptance", |u| {
            u.complete && u.snapshot.revision >= at
        })
        .await;
    prop_assert_eq!(update.accepted, Some(known));
    prop_assert_eq!(update.snapshot, listed(&kv).await);
    view.stop().await;
    Ok(())
}

#[test]
fn no_history_but_the_one_it_has_followed_reaches_a_view_before_it_is_accepted() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let txns = |most| vec(any_txn(), 0..most);
    let checked = runner.run(&(txns(10), txns(10), txns(20)), |(before, lost, after)| {
        runtime.block_on(restored(&before, &lost, &after))
    });
    if let Err(error) = checked {
        panic!("{error}");
    }
}
