//! An etcd that is full: what it refuses, what it takes, and how that is known.

use std::sync::Arc;
use std::time::Duration;

use store::kv::{Alarm, Kv, KvError};
use store::memory::MemKv;
use store::{Op, Txn};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::harness::{RealEtcd, get, txn, wait_for};

const QUOTA: u32 = 1 << 20;

/// Puts large values until it is refused; the last revision.
async fn fill(kv: &dyn Kv) -> i64 {
    let mut revision = 0;
    for n in 0..100 {
        let mut value = vec![0; 100_000];
        value[0] = n;
        match txn(kv, vec![Op::put("/blob", value)]).await {
            Ok(reply) => revision = reply.revision,
            Err(KvError::NoSpace) => return revision,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("it is never full");
}

/// Refuses what puts something and new leases, and nothing else: nested transactions neither, by which slots are claimed.
async fn is_full(kv: &dyn Kv, lease: i64) {
    let put = txn(kv, vec![Op::put("/small", "x")]).await;
    assert!(matches!(put, Err(KvError::NoSpace)), "{put:?}");
    let nested = Op::Txn(Txn::new(Vec::new(), vec![Op::put("/small", "x")]));
    txn(kv, vec![nested])
        .await
        .expect("etcd does not look there");
    assert_eq!(get(kv, "/small").await.as_deref(), Some("x"));
    let granted = kv.lease_grant(Duration::from_secs(10)).await;
    assert!(matches!(granted, Err(KvError::NoSpace)), "{granted:?}");

    kv.lease_keep_alive(lease).await.expect("is kept alive");
    txn(kv, vec![Op::delete("/here")]).await.expect("deletes");
    assert_eq!(get(kv, "/here").await, None);
    assert_eq!(
        kv.status().await.expect("answers").alarm,
        Some(Alarm::NoSpace)
    );
}

async fn prepared(kv: &dyn Kv) -> i64 {
    assert_eq!(kv.status().await.expect("answers").alarm, None);
    txn(kv, vec![Op::put("/here", "x")]).await.expect("puts");
    kv.lease_grant(Duration::from_secs(10))
        .await
        .expect("a lease")
        .0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_takes_deletions_only_until_it_has_room_and_the_alarm_is_cleared() {
    let etcd = RealEtcd::start_with_quota(QUOTA);
    let kv = etcd.kv();
    let lease = prepared(&*kv).await;
    let (says, mut alarm) = watch::channel(None);
    let stop = CancellationToken::new();
    let following = tokio::spawn(store::alarm::follow(
        kv.clone(),
        Duration::from_millis(20),
        move |alarm| {
            says.send_replace(alarm);
        },
        stop.clone(),
    ));
    let revision = fill(&*kv).await;
    is_full(&*kv, lease).await;
    alarm
        .wait_for(|alarm| *alarm == Some(Alarm::NoSpace))
        .await
        .expect("it follows");

    etcd.make_room(revision);
    alarm.wait_for(Option::is_none).await.expect("it follows");
    wait_for("a put", || async {
        txn(&*kv, vec![Op::put("/small", "x")]).await.ok()
    })
    .await;
    stop.cancel();
    following.await.expect("it ends");
}

#[tokio::test]
async fn the_etcd_in_memory_is_full_in_the_same_way() {
    let kv = Arc::new(MemKv::new());
    let lease = prepared(&*kv).await;
    kv.set_no_space(true);
    is_full(&*kv, lease).await;
    kv.set_no_space(false);
    txn(&*kv, vec![Op::put("/small", "x")]).await.expect("puts");
}
