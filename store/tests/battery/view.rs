//! The view on both etcds: lists, follows, resumes, and trusts only what it knows.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use manifests::ContainerId;
use model::records::Cluster;
use model::snapshot::{Snapshot, Touched};
use store::Op;
use store::kv::{KeyRange, Kv, KvError, Range, RangeReply, Status, Txn, TxnReply, Watch};
use store::memory::{MemEtcd, MemKv};
use store::view::{
    Reason, SavedView, Trust, Updates, ViewInputs, ViewOptions, ViewUpdate, run_view, updates,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{Backend, Backup, both, delete, put, txn, wait_for};

both!(
    a_view_lists_page_by_page_and_follows,
    a_stream_that_breaks_is_resumed_and_deletions_come_as_events,
    after_compaction_a_list_brings_the_deletions,
    a_saved_view_is_resumed_without_a_list,
    a_saved_view_whose_history_is_compacted_is_healed_by_a_list,
    an_etcd_of_another_cluster_changes_nothing,
    when_the_clusters_key_goes_nothing_else_is_believed,
    a_view_below_the_own_record_is_not_complete,
    keys_that_are_not_ours_are_skipped_but_counted,
    a_restored_etcd_is_not_believed_before_or_after_it_has_overtaken_the_view,
    an_agent_that_starts_in_hold_trusts_a_restored_etcd_no_more_than_before,
    an_emptied_etcd_and_one_of_another_cluster_are_not_believed_and_the_old_one_is,
    an_accepted_restore_is_what_counts_from_then_on,
    an_acceptance_in_an_unbroken_watch_leads_to_a_list,
    what_was_accepted_while_the_agent_was_away_is_told_from_the_view_before,
    most_manifests_may_not_go_where_history_is_compacted,
    a_user_may_delete_all_apps,
    a_view_of_many_pages_is_proven_at_each_connect,
);

const MANIFEST: &str = r#"{"image": "nginx"}"#;

pub(crate) fn cluster() -> Cluster {
    Cluster {
        id: Uuid::new_v4(),
        epoch: 1,
    }
}

pub(crate) async fn put_cluster(kv: &dyn Kv, cluster: &Cluster) -> i64 {
    let put = Op::put_json("/dokkaa/cluster", cluster);
    txn(kv, vec![put]).await.expect("puts").revision
}

pub(crate) fn manifest(name: &str) -> String {
    format!("/apps/shop/{name}/manifest")
}

pub(crate) fn id(name: &str) -> ContainerId {
    format!("shop/{name}").parse().expect("a name")
}

fn has(snapshot: &Snapshot, name: &str) -> bool {
    snapshot
        .containers
        .get(&id(name))
        .is_some_and(|c| c.manifest.is_some())
}

/// A running view and what it has said.
pub(crate) struct Running {
    updates: Updates,
    stop: CancellationToken,
    task: JoinHandle<()>,
    pub(crate) seen: watch::Sender<i64>,
    pub(crate) floor: watch::Sender<i64>,
    /// All that was touched since it was last taken.
    touched: Touched,
    resyncs: usize,
}

impl Running {
    pub(crate) fn start(kv: Arc<dyn Kv>, options: ViewOptions) -> Self {
        let (sender, updates) = updates();
        let (seen, seen_receiver) = watch::channel(0);
        let (floor, floor_receiver) = watch::channel(0);
        let inputs = ViewInputs {
            seen: seen_receiver,
            floor: floor_receiver,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(run_view(kv, options, inputs, sender, stop.clone()));
        Self {
            updates,
            stop,
            task,
            seen,
            floor,
            touched: Touched::default(),
            resyncs: 0,
        }
    }

    /// The first update that is as wanted.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        wanted: impl Fn(&ViewUpdate) -> bool,
    ) -> ViewUpdate {
        let mut last = None;
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                let update = self.updates.next().await.expect("the view runs");
                self.touched.extend(update.touched.clone());
                self.resyncs += usize::from(update.resync);
                if wanted(&update) {
                    return update;
                }
                last = Some(update);
            }
        })
        .await;
        waited.unwrap_or_else(|_| panic!("waited in vain for {what}; last {last:?}"))
    }

    /// What it has said and nobody has read yet.
    pub(crate) fn unread(&mut self) -> Option<ViewUpdate> {
        self.updates.try_next()
    }

    /// What was touched, and how many resyncs there were, since the last call.
    pub(crate) fn take(&mut self) -> (Vec<String>, usize) {
        let touched = std::mem::take(&mut self.touched);
        let names = touched.containers.iter().map(ToString::to_string).collect();
        (names, std::mem::take(&mut self.resyncs))
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("ends");
    }
}

fn options(cluster: &Cluster) -> ViewOptions {
    ViewOptions::new(cluster.clone(), None, None)
}

async fn a_view_lists_page_by_page_and_follows(b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    for i in 0..7 {
        put(&*b.kv, &manifest(&format!("c{i}")), MANIFEST).await;
    }
    put(&*b.kv, "/outside", "1").await;
    let options = ViewOptions {
        page: 3,
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let first = view.until("a complete view", |u| u.complete).await;
    assert_eq!(first.snapshot.containers.size(), 7);
    assert_eq!(first.trust, Trust::Trusted);
    assert!(!first.stale);
    let (touched, resyncs) = view.take();
    assert_eq!((touched.len(), resyncs), (7, 1));

    let at = put(&*b.kv, &manifest("new"), MANIFEST).await;
    let next = view.until("the new one", |u| has(&u.snapshot, "new")).await;
    assert_eq!(next.snapshot.revision, at);
    assert!(next.complete);
    assert_eq!(view.take(), (vec!["shop/new".to_owned()], 0));

    let gone = txn(&*b.kv, vec![Op::Delete(KeyRange::prefix("/apps/shop/c"))])
        .await
        .expect("deletes")
        .revision;
    let last = view
        .until("only one", |u| u.snapshot.containers.size() == 1)
        .await;
    assert_eq!(last.snapshot.revision, gone);
    assert_eq!(view.take().0.len(), 7);
    view.stop().await;
}

async fn a_stream_that_breaks_is_resumed_and_deletions_come_as_events(mut b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    put(&*b.kv, &manifest("a"), MANIFEST).await;
    put(&*b.kv, &manifest("b"), MANIFEST).await;
    let mut view = Running::start(b.kv.clone(), options(&cluster));
    view.until("a complete view", |u| u.complete).await;
    view.take();
    b.restart();
    put(&*b.kv, &manifest("c"), MANIFEST).await;
    delete(&*b.kv, &manifest("a")).await;
    // A write elsewhere: the first read is above anything that is seen.
    put(&*b.kv, "/outside", "1").await;
    let update = view
        .until("both changes", |u| {
            u.complete && has(&u.snapshot, "c") && !has(&u.snapshot, "a")
        })
        .await;
    assert!(has(&update.snapshot, "b"));
    let (touched, resyncs) = view.take();
    assert_eq!(
        (touched, resyncs),
        (vec!["shop/a".to_owned(), "shop/c".to_owned()], 0)
    );
    view.stop().await;
}

async fn after_compaction_a_list_brings_the_deletions(mut b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    put(&*b.kv, &manifest("a"), MANIFEST).await;
    put(&*b.kv, &manifest("b"), MANIFEST).await;
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    let view_options = ViewOptions {
        file: Some(file.clone()),
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), view_options);
    view.until("a complete view", |u| u.complete).await;
    view.stop().await;

    delete(&*b.kv, &manifest("a")).await;
    let at = put(&*b.kv, &manifest("c"), MANIFEST).await;
    b.compact(at).await;
    b.restart();
    let saved = store::view::file::load(&file).expect("reads");
    let options = ViewOptions {
        saved,
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let update = view
        .until("the list", |u| u.complete && has(&u.snapshot, "c"))
        .await;
    assert!(!has(&update.snapshot, "a") && has(&update.snapshot, "b"));
    assert!(view.take().0.contains(&"shop/a".to_owned()));
    view.stop().await;
}

/// A view that ran, was saved, and missed a put and a deletion.
async fn saved(b: &Backend, cluster: &Cluster) -> (SavedView, PathBuf, TempDir) {
    put_cluster(&*b.kv, cluster).await;
    put(&*b.kv, &manifest("a"), MANIFEST).await;
    put(&*b.kv, &manifest("b"), MANIFEST).await;
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    let options = ViewOptions {
        file: Some(file.clone()),
        ..options(cluster)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let update = view.until("a complete view", |u| u.complete).await;
    view.stop().await;
    let saved = store::view::file::load(&file)
        .expect("reads")
        .expect("is there");
    assert_eq!(saved.revision, update.snapshot.revision);
    assert_eq!(saved.len(), 3);
    (saved, file, folder)
}

async fn a_saved_view_is_resumed_without_a_list(b: Backend) {
    let cluster = cluster();
    let (saved, _, _folder) = saved(&b, &cluster).await;
    delete(&*b.kv, &manifest("a")).await;
    let options = ViewOptions {
        saved: Some(saved),
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let update = view.until("a complete view", |u| u.complete).await;
    assert!(!has(&update.snapshot, "a") && has(&update.snapshot, "b"));
    assert_eq!(view.take().1, 1, "the saved one, and no list after it");
    view.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_view_is_shown_without_an_etcd() {
    let b = Backend::memory();
    let cluster = cluster();
    let (saved, _, _folder) = saved(&b, &cluster).await;
    let gone = MemKv::new();
    gone.set_unavailable(true);
    let options = ViewOptions {
        saved: Some(saved),
        ..options(&cluster)
    };
    let mut view = Running::start(Arc::new(gone), options);
    let first = view.until("anything", |_| true).await;
    assert!(first.resync && !first.complete && has(&first.snapshot, "a"));
    let update = view.until("stale", |u| u.stale).await;
    assert!(!update.complete && has(&update.snapshot, "a"));
    view.stop().await;
}

async fn a_saved_view_whose_history_is_compacted_is_healed_by_a_list(b: Backend) {
    let cluster = cluster();
    let (saved, _, _folder) = saved(&b, &cluster).await;
    delete(&*b.kv, &manifest("a")).await;
    let at = put(&*b.kv, &manifest("c"), MANIFEST).await;
    b.compact(at).await;
    let options = ViewOptions {
        saved: Some(saved),
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let update = view
        .until("a complete view", |u| u.complete && has(&u.snapshot, "c"))
        .await;
    assert!(!has(&update.snapshot, "a"));
    view.stop().await;
}

async fn an_etcd_of_another_cluster_changes_nothing(b: Backend) {
    let cluster = cluster();
    let (saved, _, _folder) = saved(&b, &cluster).await;
    let other = self::cluster();
    put_cluster(&*b.kv, &other).await;
    delete(&*b.kv, &manifest("a")).await;
    let options = ViewOptions {
        saved: Some(saved),
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let update = view.until("distrust", |u| !u.trust.is_trusted()).await;
    let reason = Reason::OtherCluster {
        known: cluster.id,
        found: other.id,
    };
    assert_eq!(update.trust, Trust::Distrust(reason));
    assert!(!update.complete && has(&update.snapshot, "a"));
    view.stop().await;
}

async fn when_the_clusters_key_goes_nothing_else_is_believed(b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    put(&*b.kv, &manifest("a"), MANIFEST).await;
    let mut view = Running::start(b.kv.clone(), options(&cluster));
    let before = view.until("a complete view", |u| u.complete).await;
    txn(&*b.kv, vec![Op::Delete(KeyRange::range("/", vec![0]))])
        .await
        .expect("deletes");
    let update = view.until("distrust", |u| !u.trust.is_trusted()).await;
    assert_eq!(
        update.trust,
        Trust::Distrust(Reason::ClusterMissing(cluster.id))
    );
    assert!(!update.complete && has(&update.snapshot, "a"));
    assert_eq!(update.snapshot.revision, before.snapshot.revision);
    view.stop().await;
}

fn distrusts(update: &ViewUpdate, wanted: impl Fn(&Reason) -> bool) -> bool {
    matches!(&update.trust, Trust::Distrust(reason) if wanted(reason))
}

fn is_other_history(reason: &Reason) -> bool {
    matches!(reason, Reason::OtherHistory { .. })
}

/// A view that follows, and a backup from before it saw `c`.
async fn with_backup(b: &Backend, options: ViewOptions) -> (Running, Backup) {
    put_cluster(&*b.kv, &options.cluster).await;
    put(&*b.kv, &manifest("a"), MANIFEST).await;
    put(&*b.kv, &manifest("b"), MANIFEST).await;
    let mut view = Running::start(b.kv.clone(), options);
    view.until("a complete view", |u| u.complete).await;
    let backup = b.back_up();
    put(&*b.kv, &manifest("c"), MANIFEST).await;
    delete(&*b.kv, &manifest("b")).await;
    view.until("both changes", |u| {
        has(&u.snapshot, "c") && !has(&u.snapshot, "b")
    })
    .await;
    (view, backup)
}

/// Restores a backup under a running view.
async fn restore(b: &mut Backend, view: &mut Running, backup: Option<&Backup>) {
    b.go_down();
    view.until("the end of it", |u| !u.complete).await;
    b.come_up_with(backup);
}

/// As much happens in a restored etcd as had happened before, and more.
async fn overtake(b: &Backend) {
    for name in ["d", "e", "f", "g"] {
        put(&*b.kv, &manifest(name), MANIFEST).await;
    }
}

async fn a_restored_etcd_is_not_believed_before_or_after_it_has_overtaken_the_view(mut b: Backend) {
    let cluster = cluster();
    let (mut view, backup) = with_backup(&b, options(&cluster)).await;
    restore(&mut b, &mut view, Some(&backup)).await;
    let update = view.until("distrust", |u| !u.trust.is_trusted()).await;
    assert!(
        distrusts(&update, |reason| matches!(reason, Reason::Rewound { .. })),
        "{:?}",
        update.trust
    );
    overtake(&b).await;
    let update = view
        .until("distrust for another reason", |u| {
            assert!(!u.trust.is_trusted() && !u.complete, "{u:?}");
            distrusts(u, is_other_history)
        })
        .await;
    assert!(has(&update.snapshot, "c") && !has(&update.snapshot, "b"));
    // It was a mistake, and the right one is there again.
    b.go_down();
    b.come_up_with_its_own();
    let update = view.until("trust", |u| u.complete).await;
    assert!(update.trust.is_trusted() && has(&update.snapshot, "c"));
    assert!(!has(&update.snapshot, "d") && update.accepted.is_none());
    let at = put(&*b.kv, &manifest("h"), MANIFEST).await;
    let update = view
        .until("what comes next", |u| has(&u.snapshot, "h"))
        .await;
    assert_eq!(update.snapshot.revision, at);
    view.stop().await;
}

async fn an_agent_that_starts_in_hold_trusts_a_restored_etcd_no_more_than_before(mut b: Backend) {
    let cluster = cluster();
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    let with_file = ViewOptions {
        file: Some(file.clone()),
        ..options(&cluster)
    };
    let (view, backup) = with_backup(&b, with_file).await;
    view.stop().await;
    b.go_down();
    b.come_up_with(Some(&backup));
    overtake(&b).await;
    for held in [false, true] {
        let options = ViewOptions {
            saved: store::view::file::load(&file).expect("reads"),
            held,
            file: Some(file.clone()),
            ..options(&cluster)
        };
        let mut view = Running::start(b.kv.clone(), options);
        let update = view
            .until("distrust", |u| {
                assert!(!u.complete && has(&u.snapshot, "c") && !has(&u.snapshot, "d"));
                assert!(!held || !u.trust.is_trusted());
                distrusts(u, is_other_history)
            })
            .await;
        assert!(update.trust != Trust::Trusted);
        // The view before is what stays on disk.
        view.stop().await;
    }
}

async fn an_emptied_etcd_and_one_of_another_cluster_are_not_believed_and_the_old_one_is(
    mut b: Backend,
) {
    let cluster = cluster();
    let (mut view, _) = with_backup(&b, options(&cluster)).await;
    restore(&mut b, &mut view, None).await;
    let update = view.until("distrust", |u| !u.trust.is_trusted()).await;
    let missing = Reason::ClusterMissing(cluster.id);
    assert_eq!(update.trust, Trust::Distrust(missing));
    assert!(has(&update.snapshot, "c"));
    let other = self::cluster();
    put_cluster(&*b.kv, &other).await;
    overtake(&b).await;
    let another = Reason::OtherCluster {
        known: cluster.id,
        found: other.id,
    };
    let update = view
        .until("another cluster", |u| distrusts(u, |r| *r == another))
        .await;
    assert!(has(&update.snapshot, "c") && !has(&update.snapshot, "d"));
    b.go_down();
    b.come_up_with_its_own();
    let update = view.until("trust", |u| u.trust.is_trusted()).await;
    assert!(update.complete && has(&update.snapshot, "c") && !has(&update.snapshot, "d"));
    view.stop().await;
}

fn next_epoch(cluster: &Cluster) -> Cluster {
    Cluster {
        epoch: cluster.epoch + 1,
        ..cluster.clone()
    }
}

async fn an_accepted_restore_is_what_counts_from_then_on(mut b: Backend) {
    let cluster = cluster();
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    let with_file = ViewOptions {
        file: Some(file.clone()),
        ..options(&cluster)
    };
    let (mut view, backup) = with_backup(&b, with_file).await;
    restore(&mut b, &mut view, Some(&backup)).await;
    let update = view.until("distrust", |u| !u.trust.is_trusted()).await;
    let saved = store::view::file::load(&file)
        .expect("reads")
        .expect("is there");
    assert_eq!(saved.cluster, cluster);
    assert_eq!(
        saved.revision, update.snapshot.revision,
        "the view before the hold is on disk, whatever happens to the agent"
    );
    view.take();
    let restored = next_epoch(&cluster);
    put_cluster(&*b.kv, &restored).await;
    let update = view
        .until("the acceptance", |u| {
            assert!(u.trust.is_trusted() == u.accepted.is_some(), "{u:?}");
            u.accepted.is_some()
        })
        .await;
    assert_eq!(update.accepted, Some(restored.clone()));
    assert!(update.resync && has(&update.snapshot, "b") && !has(&update.snapshot, "c"));
    let (touched, _) = view.take();
    assert_eq!(touched, ["shop/b", "shop/c"]);
    put(&*b.kv, &manifest("d"), MANIFEST).await;
    let update = view
        .until("what comes next", |u| has(&u.snapshot, "d"))
        .await;
    assert!(update.complete && update.accepted.is_none() && !update.stale);
    view.stop().await;
    let saved = store::view::file::load(&file)
        .expect("reads")
        .expect("is there");
    assert_eq!(saved.cluster, restored);
    // And the etcd from before is another one now.
    b.go_down();
    b.come_up_with_its_own();
    let options = ViewOptions {
        saved: Some(saved),
        ..options(&restored)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let old = Reason::OtherEpoch { known: 2, found: 1 };
    view.until("distrust", |u| distrusts(u, |r| *r == old))
        .await;
    view.stop().await;
}

async fn an_acceptance_in_an_unbroken_watch_leads_to_a_list(b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    put(&*b.kv, &manifest("a"), MANIFEST).await;
    let mut view = Running::start(b.kv.clone(), options(&cluster));
    view.until("a complete view", |u| u.complete).await;
    view.take();
    let restored = next_epoch(&cluster);
    let at = put_cluster(&*b.kv, &restored).await;
    let update = view.until("the acceptance", |u| u.accepted.is_some()).await;
    assert_eq!(update.accepted, Some(restored));
    assert!(update.complete && update.trust.is_trusted() && has(&update.snapshot, "a"));
    // The stream does not prove the values from before it: a list comes first.
    assert_eq!((update.snapshot.revision, view.take().1), (at, 1));
    view.stop().await;
}

async fn what_was_accepted_while_the_agent_was_away_is_told_from_the_view_before(mut b: Backend) {
    let cluster = cluster();
    let (saved, _, _folder) = saved(&b, &cluster).await;
    let restored = next_epoch(&cluster);
    delete(&*b.kv, &manifest("a")).await;
    put_cluster(&*b.kv, &restored).await;
    // The start protocol may have noted the new epoch already.
    for known in [&cluster, &restored] {
        let options = ViewOptions {
            saved: Some(saved.clone()),
            held: true,
            ..options(known)
        };
        // Updates are folded while nobody reads: the saved view is seen alone only where none can follow it.
        b.go_down();
        let mut view = Running::start(b.kv.clone(), options);
        let first = view.until("the saved one", |_| true).await;
        assert!(has(&first.snapshot, "a") && !first.trust.is_trusted());
        b.come_up();
        let update = view.until("a complete view", |u| u.complete).await;
        assert_eq!(update.accepted.as_ref(), Some(&restored));
        assert!(!has(&update.snapshot, "a") && update.trust.is_trusted());
        view.stop().await;
    }
}

async fn most_manifests_may_not_go_where_history_is_compacted(b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    let name = |i: i32| format!("c{i}");
    for i in 0..8 {
        put(&*b.kv, &manifest(&name(i)), MANIFEST).await;
    }
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("view");
    let with_file = ViewOptions {
        file: Some(file.clone()),
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), with_file);
    view.until("a complete view", |u| u.complete).await;
    view.stop().await;
    let mut last = 0;
    for i in 0..6 {
        last = delete(&*b.kv, &manifest(&name(i))).await;
    }
    b.compact(last).await;
    let options = ViewOptions {
        saved: store::view::file::load(&file).expect("reads"),
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let gone = Reason::ManifestsGone { known: 8, left: 2 };
    let update = view
        .until("distrust", |u| distrusts(u, |r| *r == gone))
        .await;
    assert!(!gone.is_shared() && !update.complete);
    assert_eq!(update.snapshot.containers.size(), 8);
    // Four of them are put back.
    for i in 0..4 {
        put(&*b.kv, &manifest(&name(i)), MANIFEST).await;
    }
    let update = view.until("trust", |u| u.complete).await;
    assert!(update.trust.is_trusted());
    assert_eq!(update.snapshot.containers.size(), 6);
    view.stop().await;
}

async fn a_user_may_delete_all_apps(mut b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    let fill = async |b: &Backend| {
        for i in 0..8 {
            put(&*b.kv, &manifest(&format!("c{i}")), MANIFEST).await;
        }
    };
    let empty = async |b: &Backend| {
        let all = vec![Op::Delete(KeyRange::prefix("/apps/"))];
        txn(&*b.kv, all).await.expect("deletes");
    };
    fill(&b).await;
    let mut view = Running::start(b.kv.clone(), options(&cluster));
    view.until("a complete view", |u| u.complete).await;
    empty(&b).await;
    let update = view
        .until("nothing", |u| u.snapshot.containers.is_empty())
        .await;
    assert!(update.trust.is_trusted() && update.complete);
    // Also while the view is cut off: its history is still there.
    fill(&b).await;
    view.until("all", |u| u.snapshot.containers.size() == 8)
        .await;
    view.take();
    b.restart();
    wait_for("etcd", || async { txn(&*b.kv, Vec::new()).await.ok() }).await;
    empty(&b).await;
    let update = view
        .until("nothing", |u| {
            assert!(u.trust.is_trusted(), "{:?}", u.trust);
            u.complete && u.snapshot.containers.is_empty()
        })
        .await;
    assert!(update.trust.is_trusted());
    assert_eq!(view.take().1, 0, "no list");
    view.stop().await;
}

async fn a_view_of_many_pages_is_proven_at_each_connect(mut b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    let puts = |from: i32| {
        let put = |i: i32| Op::put(manifest(&format!("c{i}")), MANIFEST);
        (from..from + 100).map(put).collect::<Vec<_>>()
    };
    for from in [0, 100, 200] {
        txn(&*b.kv, puts(from)).await.expect("puts");
    }
    let options = ViewOptions {
        page: 7,
        ..options(&cluster)
    };
    let mut view = Running::start(b.kv.clone(), options);
    let first = view.until("a complete view", |u| u.complete).await;
    assert_eq!(first.snapshot.containers.size(), 300);
    view.take();
    b.restart();
    let at = put(&*b.kv, &manifest("new"), MANIFEST).await;
    let update = view
        .until("the new one", |u| u.complete && has(&u.snapshot, "new"))
        .await;
    assert_eq!(update.snapshot.revision, at);
    assert_eq!(view.take(), (vec!["shop/new".to_owned()], 0));
    view.stop().await;
}

async fn a_view_below_the_own_record_is_not_complete(b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    let mut view = Running::start(b.kv.clone(), options(&cluster));
    let update = view.until("a complete view", |u| u.complete).await;
    view.floor.send_replace(update.snapshot.revision + 1);
    view.until("not complete", |u| !u.complete).await;
    let at = put(&*b.kv, &manifest("a"), MANIFEST).await;
    let update = view.until("complete again", |u| u.complete).await;
    assert_eq!(update.snapshot.revision, at);
    view.stop().await;
}

async fn keys_that_are_not_ours_are_skipped_but_counted(mut b: Backend) {
    let cluster = cluster();
    put_cluster(&*b.kv, &cluster).await;
    put(&*b.kv, "/apps/shop/not-a-manifest", "1").await;
    put(&*b.kv, &manifest("broken"), "{").await;
    let mut view = Running::start(b.kv.clone(), options(&cluster));
    let update = view.until("a complete view", |u| u.complete).await;
    assert_eq!(update.snapshot.containers.size(), 1);
    b.restart();
    let at = put(&*b.kv, "/dokkaa/other", "1").await;
    put(&*b.kv, "/outside", "1").await;
    view.until("complete again", |u| {
        u.complete && u.snapshot.revision == at
    })
    .await;
    view.stop().await;
}

/// A view on the etcd in memory, with a time that runs as fast as it can.
async fn on_memory() -> (MemKv, Cluster, Running) {
    let kv = MemKv::new();
    let cluster = cluster();
    put_cluster(&kv, &cluster).await;
    put(&kv, &manifest("a"), MANIFEST).await;
    let mut view = Running::start(Arc::new(kv.clone()), options(&cluster));
    view.until("a complete view", |u| u.complete).await;
    view.take();
    (kv, cluster, view)
}

#[tokio::test(start_paused = true)]
async fn a_silent_watch_is_noticed_and_replaced_by_a_list() {
    let (kv, _, mut view) = on_memory().await;
    kv.set_silent(true);
    delete(&kv, &manifest("a")).await;
    view.seen.send_replace(kv.with(|etcd| etcd.revision()));
    let update = view.until("stale", |u| u.stale).await;
    assert!(has(&update.snapshot, "a"));
    let update = view.until("the deletion", |u| !has(&u.snapshot, "a")).await;
    assert!(update.resync && !update.stale);
    view.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_view_whose_watch_answers_is_never_stale() {
    let (kv, _, mut view) = on_memory().await;
    // Others write elsewhere all the time; the watched range is quiet.
    for _ in 0..100 {
        let at = put(&kv, "/outside", "1").await;
        view.seen.send_replace(at);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    put(&kv, &manifest("b"), MANIFEST).await;
    let update = view.until("anything", |_| true).await;
    assert!(has(&update.snapshot, "b") && !update.stale && !update.resync);
    view.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_an_etcd_the_view_turns_stale_and_comes_back() {
    let (kv, _, mut view) = on_memory().await;
    kv.set_unavailable(true);
    view.until("not complete", |u| !u.complete).await;
    view.until("stale", |u| u.stale).await;
    kv.set_unavailable(false);
    delete(&kv, &manifest("a")).await;
    let update = view.until("back", |u| u.complete && !u.stale).await;
    assert!(!has(&update.snapshot, "a"));
    assert_eq!(view.take().1, 0, "resumed, not listed");
    view.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_heals_from_time_to_time() {
    let kv = MemKv::new();
    let cluster = cluster();
    put_cluster(&kv, &cluster).await;
    put(&kv, &manifest("a"), MANIFEST).await;
    let options = ViewOptions {
        heal_every: Duration::from_secs(20),
        ..options(&cluster)
    };
    let mut view = Running::start(Arc::new(kv.clone()), options);
    view.until("a complete view", |u| u.complete).await;
    for _ in 0..3 {
        view.until("a list", |u| u.resync).await;
    }
    put(&kv, &manifest("b"), MANIFEST).await;
    view.until("what comes after", |u| has(&u.snapshot, "b"))
        .await;
    view.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restored_etcd_is_not_believed_until_it_is_the_old_one_again() {
    let (kv, _, mut view) = on_memory().await;
    let old = kv.with(|etcd| etcd.clone());
    put(&kv, &manifest("b"), MANIFEST).await;
    view.until("the new one", |u| has(&u.snapshot, "b")).await;
    let new = kv.with(|etcd| std::mem::replace(etcd, old));
    kv.set_unavailable(true);
    kv.set_unavailable(false);
    let update = view.until("distrust", |u| !u.trust.is_trusted()).await;
    assert!(matches!(
        update.trust,
        Trust::Distrust(Reason::Rewound { .. })
    ));
    assert!(has(&update.snapshot, "b") && !update.complete);
    kv.with(|etcd| *etcd = new);
    let update = view.until("trust", |u| u.complete).await;
    assert!(update.trust.is_trusted() && has(&update.snapshot, "b"));
    view.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_history_that_is_another_one_is_found_by_a_list_where_it_is_compacted() {
    let (kv, _, mut view) = on_memory().await;
    let old = kv.with(|etcd| etcd.clone());
    put(&kv, &manifest("b"), MANIFEST).await;
    view.until("the new one", |u| has(&u.snapshot, "b")).await;
    // Restored, and further than the view by now, with another past.
    kv.with(|etcd| *etcd = old);
    put(&kv, &manifest("c"), MANIFEST).await;
    put(&kv, &manifest("d"), MANIFEST).await;
    put(&kv, &manifest("e"), MANIFEST).await;
    let at = kv.with(|etcd| etcd.revision());
    kv.with(|etcd| etcd.compact(at)).expect("compacts");
    kv.set_unavailable(true);
    kv.set_unavailable(false);
    let update = view.until("distrust", |u| !u.trust.is_trusted()).await;
    assert!(matches!(
        update.trust,
        Trust::Distrust(Reason::OtherHistory { .. })
    ));
    assert!(has(&update.snapshot, "b") && !has(&update.snapshot, "c"));
    view.stop().await;
}

/// The etcd in memory, and another one that takes its place between two calls of a view.
struct Replaced {
    kv: MemKv,
    /// After so many calls, by this one.
    by: Mutex<(usize, Option<MemEtcd>)>,
}

impl Replaced {
    /// One call more.
    async fn call(&self) {
        let other = {
            let mut by = self.by.lock().expect("nobody panics");
            match by.0.checked_sub(1) {
                Some(left) => {
                    by.0 = left;
                    None
                }
                None => by.1.take(),
            }
        };
        if let Some(other) = other {
            replace(&self.kv, other).await;
        }
    }
}

/// Puts another etcd in an etcd's place; all streams have ended before.
async fn replace(kv: &MemKv, other: MemEtcd) {
    kv.set_unavailable(true);
    tokio::time::sleep(Duration::from_millis(1)).await;
    kv.with(|etcd| *etcd = other);
    kv.set_unavailable(false);
}

#[async_trait]
impl Kv for Replaced {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError> {
        self.kv.txn(txn).await
    }

    async fn range(&self, range: Range) -> Result<RangeReply, KvError> {
        self.call().await;
        self.kv.range(range).await
    }

    async fn watch(&self, keys: KeyRange, from: i64, previous: bool) -> Result<Watch, KvError> {
        self.call().await;
        self.kv.watch(keys, from, previous).await
    }

    async fn status(&self) -> Result<Status, KvError> {
        self.kv.status().await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<(i64, Duration), KvError> {
        self.kv.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(Duration, i64), KvError> {
        self.kv.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), KvError> {
        self.kv.lease_revoke(lease).await
    }
}

/// A restored etcd, further than the view, takes the place of the right one between any two steps of a connect: what
/// the view shows is one history or the other, and what it knows of the right one is not given up for the other.
#[tokio::test(start_paused = true)]
async fn an_etcd_that_is_replaced_in_the_middle_of_a_connect_is_noticed() {
    // Up to the last call: read, watch, what changed, proof; of an old view also read, list, watch, proof, proof; of
    // none read, list, watch, proof.
    let steps = [(true, false, 4), (true, true, 9), (false, false, 4)];
    for (knows, compacted, calls) in steps
        .into_iter()
        .flat_map(|(knows, old, all)| (0..all).map(move |calls| (knows, old, calls)))
    {
        let (kv, cluster, view) = on_memory().await;
        view.stop().await;
        let mut restored = kv.with(|etcd| etcd.clone());
        put(&kv, &manifest("c"), MANIFEST).await;
        let folder = TempDir::new().expect("a folder");
        let file = folder.path().join("view");
        let with_file = ViewOptions {
            file: Some(file.clone()),
            ..options(&cluster)
        };
        let mut view = Running::start(Arc::new(kv.clone()), with_file);
        view.until("a complete view", |u| u.complete).await;
        view.stop().await;
        // Seen by nobody yet.
        put(&kv, &manifest("h"), MANIFEST).await;
        if compacted {
            let at = kv.with(|etcd| etcd.revision());
            kv.with(|etcd| etcd.compact(at)).expect("compacts");
        }
        for name in ["d", "e", "f", "g"] {
            let put = Txn::new(Vec::new(), vec![Op::put(manifest(name), MANIFEST)]);
            restored.txn(&put).expect("puts");
        }
        let right = kv.with(|etcd| etcd.clone());
        let replaced = Replaced {
            kv: kv.clone(),
            by: Mutex::new((calls, Some(restored))),
        };
        let saved = store::view::file::load(&file).expect("reads");
        let options = ViewOptions {
            saved: saved.filter(|_| knows),
            ..options(&cluster)
        };
        let case = format!("after {calls} calls, {knows}, {compacted}");
        let one_of_both = |u: &ViewUpdate| {
            let names = ["c", "h"].iter().any(|name| has(&u.snapshot, name));
            let others = ["d", "e", "f", "g"].iter().any(|n| has(&u.snapshot, n));
            assert!(!(names && others), "{case}: {u:?}");
            assert!(!(knows && others), "{case}: {u:?}");
        };
        let mut view = Running::start(Arc::new(replaced), options);
        let update = view
            .until(&case, |u| {
                one_of_both(u);
                assert!(!knows || !u.complete, "{case}: {u:?}");
                u.complete || !u.trust.is_trusted()
            })
            .await;
        assert_eq!(distrusts(&update, is_other_history), knows, "{case}");
        if knows {
            replace(&kv, right).await;
            put(&kv, &manifest("i"), MANIFEST).await;
            let update = view
                .until("the right one", |u| {
                    one_of_both(u);
                    u.complete && has(&u.snapshot, "i")
                })
                .await;
            assert!(
                update.trust.is_trusted() && has(&update.snapshot, "h"),
                "{case}"
            );
        }
        view.stop().await;
    }
}
