//! An etcd of three members of which some freeze, lag, end or never come; only a real one has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use store::kv::{KeyRange, Kv, KvError, Range, Watch, WatchReply};
use store::pace;
use store::settle::{Deletions, Mark, settle};
use store::view::{SavedView, ViewOptions, ViewUpdate};
use store::{Compare, Op, Txn};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::cluster::{RealCluster, TTL};
use crate::harness::{put, wait_for};
use crate::view::{Running, cluster, manifest, put_cluster};

/// A view that is trusted all the time, and never goes back.
struct Steady {
    view: Running,
    revision: AtomicI64,
}

impl Steady {
    fn start(kv: Arc<dyn Kv>, options: ViewOptions) -> Self {
        Self {
            view: Running::start(kv, options),
            revision: AtomicI64::new(0),
        }
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&ViewUpdate) -> bool) -> ViewUpdate {
        let last = &self.revision;
        let checked = |update: &ViewUpdate| {
            assert!(update.trust.is_trusted(), "{:?}", update.trust);
            let before = last.swap(update.snapshot.revision, Ordering::Relaxed);
            assert!(before <= update.snapshot.revision, "{before}: {update:?}");
            wanted(update)
        };
        self.view.until(what, checked).await
    }

    /// Waits until it has a write of the one manifest.
    async fn has(&mut self, revision: i64) -> ViewUpdate {
        self.until("a write", |update| {
            update.complete && update.snapshot.revision >= revision
        })
        .await
    }
}

/// Follows `/apps/` with one watch after the other; keys and revisions of its events, up to that of the manifest `end`.
///
/// The first watch is open when this returns.
async fn collect(kv: Arc<dyn Kv>, from: i64) -> JoinHandle<Vec<(String, i64)>> {
    let mut watch = open(&*kv, from).await;
    tokio::spawn(async move {
        let end = manifest("end");
        let mut found: Vec<(String, i64)> = Vec::new();
        loop {
            match watch.replies.recv().await {
                Some(WatchReply::Events(events, _)) => {
                    found.extend(events.iter().map(|e| (e.key().to_owned(), e.modified())));
                    if found.iter().any(|(key, _)| *key == end) {
                        return found;
                    }
                }
                Some(WatchReply::Progress(_)) => {}
                Some(WatchReply::Compacted(at)) => panic!("compacted at {at}"),
                Some(WatchReply::Closed(_)) | None => {
                    let next = found.last().map_or(from, |(_, seen)| seen + 1);
                    watch = open(&*kv, next).await;
                }
            }
        }
    })
}

async fn open(kv: &dyn Kv, from: i64) -> Watch {
    wait_for("a watch", || async {
        kv.watch(KeyRange::prefix("/apps/"), from, false).await.ok()
    })
    .await
}

/// Keeps a lease of this time as a host does; the longest time between two renewals when it ends.
fn keep(kv: Arc<dyn Kv>, lives: Duration, stop: Arc<AtomicBool>) -> JoinHandle<Duration> {
    tokio::spawn(async move {
        let (lease, _) = kv.lease_grant(lives).await.expect("grants");
        let (mut renewed, mut longest) = (Instant::now(), Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let asked = Instant::now();
            match tokio::time::timeout(pace::deadline(TTL), kv.lease_keep_alive(lease)).await {
                Ok(Ok(_)) => {
                    longest = longest.max(asked - renewed);
                    renewed = asked;
                    tokio::time::sleep(pace::every(TTL)).await;
                }
                Ok(Err(KvError::LeaseNotFound)) => panic!("the lease has ended"),
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(_) => {}
            }
        }
        longest.max(renewed.elapsed())
    })
}

/// Puts three manifests in turn; the newest revision.
async fn write(kv: &dyn Kv, times: usize) -> i64 {
    let mut newest = 0;
    for number in 0..times {
        let key = manifest(&format!("a{}", number % 3));
        newest = put(kv, &key, r#"{"image": "nginx"}"#).await;
    }
    newest
}

async fn a_frozen_member_is_left(leads: bool) {
    let etcd = RealCluster::start(3).await;
    let ours = cluster();
    let leader = etcd.leader(0).await;
    let frozen = if leads { leader } else { (leader + 1) % 3 };
    let elsewhere = etcd.only((leader + 2) % 3);
    let from = put_cluster(&*elsewhere, &ours).await;
    let first = write(&*elsewhere, 3).await;
    let mut view = Steady::start(etcd.at(frozen).await, ViewOptions::new(ours, None, None));
    view.has(first).await;
    view.view.take();
    let stop = Arc::new(AtomicBool::new(false));
    // A leader that is frozen for as long as a lease lives takes it for ended when it goes on, whoever has renewed it at
    // another meanwhile (etcd#15247). What was handed on to it keeps it frozen for 5 s.
    let lives = if leads { TTL * 4 } else { TTL };
    let lease = keep(etcd.at(frozen).await, lives, stop.clone());
    let events = collect(etcd.at(frozen).await, from).await;

    etcd.freeze(frozen);
    // What the others had handed on to the leader takes its time; not so what a follower keeps back.
    let newest = write(&*elsewhere, 12).await;
    let since = Instant::now();
    view.has(newest).await;
    let took = since.elapsed();
    assert!(took < TTL, "{took:?}");
    etcd.thaw(frozen);
    let thawed = etcd.only(frozen);
    write(&*thawed, 6).await;
    let end = put(&*thawed, &manifest("end"), "{}").await;
    let update = view.has(end).await;
    let history = collect(elsewhere, from).await.await.expect("reads");
    assert!(history.len() > 3 + 12 + 6, "{history:?}");
    assert_eq!(events.await.expect("follows"), history);
    let newest: BTreeMap<String, i64> = history.into_iter().collect();
    let seen = update.snapshot.containers.iter().map(|(id, container)| {
        let manifest = container.manifest.as_ref().expect("is there");
        (format!("/apps/{id}/manifest"), manifest.modified.0)
    });
    assert_eq!(seen.collect::<BTreeMap<_, _>>(), newest);
    assert_eq!(view.view.take().1, 0, "resumes without a list");
    stop.store(true, Ordering::Relaxed);
    let longest = lease.await.expect("keeps");
    assert!(longest < TTL, "{longest:?}");
    view.view.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_follower_is_left_and_nothing_is_lost_or_seen_twice() {
    a_frozen_member_is_left(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_is_left_and_nothing_is_lost_or_seen_twice() {
    a_frozen_member_is_left(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_makes_no_view_go_back_or_distrust() {
    let etcd = RealCluster::start(3).await;
    let leader = etcd.leader(0).await;
    let (lags, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let elsewhere = etcd.only(other);
    let ours = cluster();
    put_cluster(&*elsewhere, &ours).await;
    let first = write(&*elsewhere, 3).await;
    let options = |saved: Option<SavedView>| ViewOptions::new(ours.clone(), saved, None);
    let mut follows = Steady::start(etcd.at(lags).await, options(None));
    follows.has(first).await;
    let folder = tempfile::TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    let saving = ViewOptions {
        file: Some(file.clone()),
        ..options(None)
    };
    let mut ahead = Steady::start(elsewhere.clone(), saving);
    let starts_there = etcd.at(lags).await;

    etcd.hold(Some(lags));
    let since = Instant::now();
    let newest = write(&*elsewhere, 6).await;
    // One process has seen it all, and the next one resumes at the member that has not.
    ahead.has(newest).await;
    ahead.view.stop().await;
    let saved = store::view::file::load(&file)
        .expect("reads")
        .expect("was saved");
    assert_eq!(saved.revision, newest);
    let mut resumes = Steady::start(starts_there, options(Some(saved)));
    // A keep-alive at another member says how far etcd is.
    follows.view.seen.send_replace(newest);
    follows.until("it to be stale", |update| update.stale).await;
    let elsewhere = |update: &ViewUpdate| {
        update.complete && !update.stale && update.snapshot.revision >= newest
    };
    tokio::join!(
        follows.until("another member", elsewhere),
        resumes.until("another member", elsewhere),
    );
    assert!(since.elapsed() < 3 * TTL, "{:?}", since.elapsed());
    etcd.hold(None);
    let last = put(&*etcd.only(lags), &manifest("b"), "{}").await;
    for view in [&mut follows, &mut resumes] {
        let update = view.has(last).await;
        assert_eq!(update.snapshot.containers.size(), 4);
    }
    follows.view.stop().await;
    resumes.view.stop().await;
}

/// Puts keys of its own, each once, until it is to stop: those that were written, and those of which nobody knows. There
/// are none of the latter if each is settled.
async fn put_each_once(
    kv: Arc<dyn Kv>,
    writer: usize,
    settled: bool,
    written: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
) -> (Vec<String>, Vec<String>) {
    let (mut done, mut unknown) = (Vec::new(), Vec::new());
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("/n/{writer}/{number:04}");
        let put = Txn::new(vec![Compare::absent(&key)], vec![Op::put(&key, "1")]);
        let reply = if settled {
            let mark = Mark {
                key: &key,
                value: b"1",
                after: 1,
                deletions: Deletions::Never,
            };
            settle(&*kv, &put, mark, Instant::now() + 6 * TTL).await
        } else {
            kv.txn(put).await
        };
        match reply {
            Ok(reply) => {
                assert!(reply.succeeded, "{key}");
                written.fetch_add(1, Ordering::Relaxed);
                done.push(key);
            }
            Err(KvError::Unavailable(_)) if !settled => unknown.push(key),
            Err(other) => panic!("{other:?}"),
        }
    }
    (done, unknown)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_killed_no_transaction_is_carried_out_twice_and_all_goes_on() {
    let mut etcd = RealCluster::start(3).await;
    let leader = etcd.leader(0).await;
    let stays = (leader + 1) % 3;
    let ours = cluster();
    let at = put_cluster(&*etcd.only(stays), &ours).await;
    let mut view = Steady::start(etcd.at(leader).await, ViewOptions::new(ours, None, None));
    view.has(at).await;
    let (keeps, stop) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let lease = keep(etcd.at(leader).await, TTL, keeps.clone());
    let mut writers = JoinSet::new();
    let mut written = Vec::new();
    // Two at the leader, so that some of theirs are under way when it ends.
    for (writer, member) in [leader, leader, stays, (leader + 2) % 3]
        .into_iter()
        .enumerate()
    {
        let count = Arc::<AtomicUsize>::default();
        written.push(count.clone());
        writers.spawn(put_each_once(
            etcd.at(member).await,
            writer,
            writer % 2 == 0,
            count,
            stop.clone(),
        ));
    }
    let more = async |than: [usize; 4]| {
        wait_for("writes of all", || async {
            let now = written.iter().map(|count| count.load(Ordering::Relaxed));
            now.zip(than)
                .all(|(now, than)| now >= than + 20)
                .then_some(())
        })
        .await;
    };
    more([0; 4]).await;
    etcd.kill(leader);
    let since = Instant::now();
    let before = std::array::from_fn(|writer| written[writer].load(Ordering::Relaxed));
    more(before).await;
    assert!(since.elapsed() < 2 * TTL, "{:?}", since.elapsed());
    stop.store(true, Ordering::Relaxed);
    let (mut done, mut unknown) = (Vec::new(), Vec::new());
    for (some, others) in writers.join_all().await {
        done.extend(some);
        unknown.extend(others);
    }
    let all = etcd.only(stays);
    let kvs = all.range(Range::new(KeyRange::prefix("/n/"))).await;
    let kvs = kvs.expect("reads").kvs;
    assert!(kvs.iter().all(|kv| kv.created == kv.modified), "twice");
    let there = |key: &String| kvs.iter().any(|kv| kv.key == *key);
    let lost: Vec<_> = done.iter().filter(|key| !there(key)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let carried_out = unknown.iter().filter(|key| there(key)).count();
    assert_eq!(kvs.len(), done.len() + carried_out);
    assert!(!unknown.is_empty(), "the leader ended between two writes");

    let last = put(&*all, &manifest("a"), "{}").await;
    view.has(last).await;
    keeps.store(true, Ordering::Relaxed);
    let longest = lease.await.expect("keeps");
    assert!(longest < TTL, "{longest:?}");
    view.view.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_member_down_from_the_start_every_client_connects() {
    let etcd = RealCluster::start(2).await;
    let ours = cluster();
    put_cluster(&*etcd.only(0), &ours).await;
    let mut clients = JoinSet::new();
    // Each begins at any of the three.
    for number in 0..9 {
        let (kv, options) = (etcd.all(), ViewOptions::new(ours.clone(), None, None));
        clients.spawn(async move {
            let mut view = Steady::start(kv.clone(), options);
            let at = put(&*kv, &manifest(&format!("a{number}")), "{}").await;
            view.has(at).await;
            let lease = kv.lease_grant(TTL).await.expect("grants");
            kv.lease_keep_alive(lease.0).await.ok();
            kv.lease_keep_alive(lease.0).await.expect("renews");
            view.view.stop().await;
        });
    }
    let since = Instant::now();
    clients.join_all().await;
    assert!(since.elapsed() < 2 * TTL, "{:?}", since.elapsed());
    let all = etcd
        .only(1)
        .range(Range::new(KeyRange::prefix("/apps/")))
        .await;
    assert_eq!(all.expect("reads").count, 9);
}

/// More than etcd keeps for a member that lags, which is then sent the whole of its data.
const MANY: usize = 5_700;
const WRITERS: usize = 128;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_sent_all_data_anew_says_nothing_twice() {
    let etcd = RealCluster::start(3).await;
    let leader = etcd.leader(0).await;
    let lags = (leader + 1) % 3;
    let (ahead, behind) = (etcd.only(leader), etcd.only(lags));
    let ours = cluster();
    let from = put_cluster(&*ahead, &ours).await + 1;
    let follows = collect(behind.clone(), from).await;
    let mut view = Steady::start(behind.clone(), ViewOptions::new(ours, None, None));
    let seen = write(&*ahead, 6).await;
    view.has(seen).await;
    view.view.take();

    etcd.hold(Some(lags));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let kv = ahead.clone();
        writers.spawn(async move {
            for _ in 0..MANY / WRITERS {
                put(&*kv, &manifest(&format!("b{writer}")), "{}").await;
            }
        });
    }
    writers.join_all().await;
    // A watch that goes on from where the member has not been yet.
    let future = put(&*ahead, "/outside", "1").await + 1;
    let resumed = collect(behind.clone(), future).await;
    etcd.hold(None);
    let newest = ahead.status().await.expect("a status").raft_index;
    wait_for("all data", || async {
        let status = behind.status().await.ok()?;
        (status.raft_index >= newest).then_some(())
    })
    .await;
    // Until an entry follows what it was sent, etcd takes such a member for far behind, and it refuses writes.
    let end = put(&*etcd.at(lags).await, &manifest("end"), "{}").await;
    assert_eq!(resumed.await.expect("follows"), [(manifest("end"), end)]);
    view.has(end).await;
    put(&*behind, "/outside", "2").await;
    assert_eq!(view.view.take().1, 0, "follows without a list");
    view.view.stop().await;
    let history = collect(ahead, from).await.await.expect("reads");
    let follows = follows.await.expect("follows");
    assert_eq!(follows.len(), history.len());
    assert!(follows == history);
}
