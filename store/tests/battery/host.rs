//! The host's start, life and stop, on both etcds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conductor_core::Millis;
use conductor_core::records::{Capacity, Cluster, HostRecord, HostState, Member, Versions};
use conductor_core::snapshot::Rev;
use store::Op;
use store::host::{
    Host, HostOptions, HostStatus, JoinError, StateDir, StateDirError, Stop, Stopped, boottime,
    join,
};
use store::kv::{Kv, KvError, Range};
use store::memory::MemKv;
use store::view::Reason;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{Backend, both, delete, get, put, txn, wait_for};

both!(
    the_first_host_makes_the_cluster_and_the_second_joins_it,
    an_emptied_etcd_gets_nothing_from_a_host_that_knows_a_cluster,
    no_new_cluster_is_made_where_members_are,
    no_new_cluster_is_made_by_a_host_with_labelled_containers,
    an_etcd_with_another_cluster_gets_nothing,
    an_etcd_below_the_saved_view_gets_nothing,
    after_a_stop_the_record_says_restarting_and_the_next_process_goes_on_at_once,
    after_a_kill_in_the_same_boot_the_next_process_goes_on_at_once,
    after_a_reboot_the_record_of_the_killed_process_is_waited_for,
    a_name_that_another_machine_lives_under_is_not_taken,
    a_copied_state_directory_is_found,
    a_renamed_machine_takes_its_old_names_away,
    a_shutdown_deletes_the_record,
    a_dropped_host_lets_its_lease_end,
    a_lost_lease_brings_a_new_record,
    a_record_that_was_deleted_comes_back,
    another_session_on_the_record_ends_all_writing,
    a_stuck_main_loop_loses_the_lease,
    a_change_of_state_is_written_at_once_and_of_the_rest_when_it_holds,
    when_the_clusters_key_changes_the_record_is_not_written,
);

const TTL: Duration = Duration::from_secs(2);

fn facts() -> HostRecord {
    HostRecord {
        id: Uuid::nil(),
        session: Uuid::nil(),
        epoch: 0,
        state: HostState::Up,
        addr: "10.99.0.11".parse().expect("an address"),
        peer: None,
        labels: BTreeMap::new(),
        capacity: Capacity::default(),
        versions: Versions {
            agent: "0.1.0".into(),
            placement: vec![1],
        },
        foreign: 0,
        engine: true,
        disk: None,
        disk_full: false,
        hold: None,
        problems: Vec::new(),
    }
}

/// A machine with its disk.
struct Machine {
    folder: TempDir,
    boot: String,
}

impl Machine {
    fn new() -> Self {
        Self {
            folder: TempDir::new().expect("a folder"),
            boot: "boot-1".into(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn dir(&self) -> Arc<StateDir> {
        Arc::new(StateDir::open_in_boot(&self.path(), &self.boot).expect("opens"))
    }

    async fn try_join(&self, b: &Backend, name: &str) -> Result<Host, JoinError> {
        self.join_as(b, options(name)).await
    }

    async fn join_as(&self, b: &Backend, options: HostOptions) -> Result<Host, JoinError> {
        // The lock of a process that has just ended may live a moment longer.
        let dir = wait_for("the state directory", || async {
            match StateDir::open_in_boot(&self.path(), &self.boot) {
                Ok(dir) => Some(Arc::new(dir)),
                Err(StateDirError::Locked(_)) => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await;
        join(b.kv.clone(), b.factory(), dir, options, facts()).await
    }

    async fn join(&self, b: &Backend, name: &str) -> Host {
        self.try_join(b, name).await.expect("joins")
    }
}

fn options(name: &str) -> HostOptions {
    HostOptions {
        name: name.parse().expect("a name"),
        ttl: TTL,
        restart_grace: Duration::from_secs(20),
        labelled_containers: false,
        saved_revision: 0,
    }
}

async fn record(kv: &dyn Kv, name: &str) -> Option<Rev<HostRecord>> {
    let key = format!("/hosts/{name}/record");
    let reply = kv.range(Range::key(key)).await.expect("reads");
    let kv = reply.kvs.into_iter().next()?;
    Some(Rev {
        value: serde_json::from_slice(&kv.value).expect("a record"),
        modified: kv.modified,
        created: kv.created,
    })
}

async fn member(kv: &dyn Kv, name: &str) -> Option<Uuid> {
    let json = get(kv, &format!("/dokkaa/members/{name}")).await?;
    let member: Member = serde_json::from_str(&json).expect("a member");
    Some(member.id)
}

async fn until(status: &mut watch::Receiver<HostStatus>, wanted: impl Fn(&HostStatus) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), status.wait_for(wanted));
    waited.await.expect("in time").expect("the host lives");
}

async fn put_record(kv: &dyn Kv, name: &str, record: &HostRecord) -> i64 {
    let put = Op::put_json(format!("/hosts/{name}/record"), record);
    txn(kv, vec![put]).await.expect("puts").revision
}

async fn the_first_host_makes_the_cluster_and_the_second_joins_it(b: Backend) {
    let (first, second) = (Machine::new(), Machine::new());
    let one = first.join(&b, "h1").await;
    let two = second.join(&b, "h2").await;
    assert_eq!(one.cluster(), two.cluster());
    let there = get(&*b.kv, "/dokkaa/cluster").await.expect("is there");
    let there: Cluster = serde_json::from_str(&there).expect("a cluster");
    assert_eq!(&there, one.cluster());
    for (host, name) in [(&one, "h1"), (&two, "h2")] {
        let record = record(&*b.kv, name).await.expect("is there");
        assert_eq!(record.session, host.session());
        assert_eq!((record.epoch, record.state), (1, HostState::Up));
        assert_eq!(member(&*b.kv, name).await, Some(record.id));
        assert_eq!(*host.floor().borrow(), record.modified);
        assert_eq!(*host.status().borrow(), HostStatus::Live(record.modified));
    }
    // Both live on, and keep-alive answers carry the store's revision.
    let at = put(&*b.kv, "/outside", "1").await;
    let mut seen = one.seen();
    let waited = tokio::time::timeout(Duration::from_secs(60), seen.wait_for(|seen| *seen >= at));
    waited.await.expect("in time").expect("the host lives");
    assert!(record(&*b.kv, "h2").await.is_some());
    drop((one, two));
    assert!(first_cluster(&first.path()).is_some());
}

fn first_cluster(path: &Path) -> Option<Cluster> {
    let json = std::fs::read(path.join("cluster.json")).ok()?;
    serde_json::from_slice(&json).ok()
}

async fn an_emptied_etcd_gets_nothing_from_a_host_that_knows_a_cluster(b: Backend) {
    let machine = Machine::new();
    let known = Cluster {
        id: Uuid::new_v4(),
        epoch: 1,
    };
    machine.dir().note_cluster(&known).expect("notes");
    let before = put(&*b.kv, "/outside", "1").await;
    let error = machine.try_join(&b, "h1").await.expect_err("refused");
    assert!(matches!(
        error,
        JoinError::Distrust(Reason::ClusterMissing(id)) if id == known.id
    ));
    assert!(!error.is_final());
    let now = b.kv.range(Range::key("/")).await.expect("reads").revision;
    assert_eq!(now, before, "nothing was written");
}

async fn no_new_cluster_is_made_where_members_are(b: Backend) {
    let at = put(&*b.kv, "/dokkaa/members/h9", "{}").await;
    let error = Machine::new().try_join(&b, "h1").await;
    let error = error.expect_err("refused");
    assert!(matches!(error, JoinError::NoCluster(_)), "{error}");
    let now = b.kv.range(Range::key("/")).await.expect("reads").revision;
    assert_eq!(now, at);
}

async fn no_new_cluster_is_made_by_a_host_with_labelled_containers(b: Backend) {
    let options = HostOptions {
        labelled_containers: true,
        ..options("h1")
    };
    let error = Machine::new().join_as(&b, options.clone()).await;
    let error = error.expect_err("refused");
    assert!(matches!(error, JoinError::NoCluster(_)), "{error}");
    // One that is there is taken.
    let first = Machine::new();
    let host = first.join(&b, "h2").await;
    let other = Machine::new();
    let joined = other.join_as(&b, options).await.expect("joins");
    assert_eq!(joined.cluster(), host.cluster());
}

async fn an_etcd_with_another_cluster_gets_nothing(b: Backend) {
    let machine = Machine::new();
    let known = Cluster {
        id: Uuid::new_v4(),
        epoch: 1,
    };
    machine.dir().note_cluster(&known).expect("notes");
    let other = Cluster {
        id: Uuid::new_v4(),
        epoch: 1,
    };
    let put = Op::put_json("/dokkaa/cluster", &other);
    let before = txn(&*b.kv, vec![put]).await.expect("puts").revision;
    let error = machine.try_join(&b, "h1").await.expect_err("refused");
    assert!(matches!(
        error,
        JoinError::Distrust(Reason::OtherCluster { .. })
    ));
    let now = b.kv.range(Range::key("/")).await.expect("reads").revision;
    assert_eq!(now, before);
    assert_eq!(first_cluster(&machine.path()), Some(known));
}

async fn an_etcd_below_the_saved_view_gets_nothing(b: Backend) {
    let machine = Machine::new();
    drop(machine.join(&b, "h1").await);
    let options = HostOptions {
        saved_revision: 1_000_000,
        ..options("h1")
    };
    let error = machine.join_as(&b, options).await.expect_err("refused");
    assert!(matches!(error, JoinError::Distrust(Reason::Rewound { .. })));
}

async fn after_a_stop_the_record_says_restarting_and_the_next_process_goes_on_at_once(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let session = host.session();
    let at = record(&*b.kv, "h1").await.expect("is there").modified;
    assert_eq!(host.stop(Stop::Restart).await, Stopped::Noted);
    let stopped = record(&*b.kv, "h1").await.expect("stays");
    assert_eq!(
        (stopped.state, stopped.session, stopped.modified),
        (HostState::Restarting, session, at + 1)
    );
    // Also in another boot: the session is on this disk, and nobody runs with it.
    let machine = Machine {
        boot: "boot-2".into(),
        ..machine
    };
    let host = machine.join(&b, "h1").await;
    let back = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!((back.state, back.created), (HostState::Up, stopped.created));
    assert_eq!(back.modified, at + 2, "a restart writes two keys");
    assert_ne!(host.session(), session);
}

async fn after_a_kill_in_the_same_boot_the_next_process_goes_on_at_once(b: Backend) {
    let machine = Machine::new();
    let options = HostOptions {
        ttl: Duration::from_secs(60),
        ..options("h1")
    };
    drop(machine.join_as(&b, options.clone()).await.expect("joins"));
    let killed = record(&*b.kv, "h1").await.expect("is still there");
    let host = machine.join_as(&b, options).await.expect("joins");
    let back = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!(back.created, killed.created, "it never went away");
    assert_eq!(back.session, host.session());
}

async fn after_a_reboot_the_record_of_the_killed_process_is_waited_for(b: Backend) {
    let machine = Machine::new();
    drop(machine.join(&b, "h1").await);
    let killed = record(&*b.kv, "h1").await.expect("is still there");
    let machine = Machine {
        boot: "boot-2".into(),
        ..machine
    };
    let host = machine.join(&b, "h1").await;
    let back = record(&*b.kv, "h1").await.expect("is there");
    assert!(
        back.created > killed.created,
        "the old one has ended before"
    );
    assert_eq!(back.session, host.session());
}

async fn a_name_that_another_machine_lives_under_is_not_taken(b: Backend) {
    let (first, second) = (Machine::new(), Machine::new());
    let host = first.join(&b, "h1").await;
    let options = HostOptions {
        restart_grace: Duration::from_millis(500),
        ..options("h1")
    };
    let error = second.join_as(&b, options).await.expect_err("refused");
    assert!(matches!(error, JoinError::NameTaken { .. }), "{error}");
    assert!(error.is_final());
    let record = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!(record.session, host.session());
    assert_eq!(*host.status().borrow(), HostStatus::Live(record.modified));
}

async fn a_copied_state_directory_is_found(b: Backend) {
    let original = Machine::new();
    let copy = Machine {
        boot: "boot-of-another".into(),
        ..Machine::new()
    };
    drop(original.dir());
    std::fs::create_dir(copy.path()).expect("makes");
    std::fs::copy(
        original.path().join("host.json"),
        copy.path().join("host.json"),
    )
    .expect("copies");
    let host = original.join(&b, "h1").await;
    let error = copy.try_join(&b, "h2").await.expect_err("refused");
    assert!(matches!(error, JoinError::Clone { .. }), "{error}");
    assert!(error.is_final());
    assert_eq!(record(&*b.kv, "h2").await.map(|r| r.id), None);
    // With an identity of its own it is a host like any other.
    let dir = copy.dir();
    dir.reset_id().expect("resets");
    drop(dir);
    let other = copy.join(&b, "h2").await;
    assert_ne!(
        record(&*b.kv, "h1").await.map(|r| r.id),
        record(&*b.kv, "h2").await.map(|r| r.id)
    );
    drop((host, other));
}

async fn a_renamed_machine_takes_its_old_names_away(b: Backend) {
    let machine = Machine::new();
    drop(machine.join(&b, "old").await);
    let id = member(&*b.kv, "old").await.expect("a member");
    let host = machine.join(&b, "new").await;
    assert_eq!(member(&*b.kv, "old").await, None);
    assert_eq!(record(&*b.kv, "old").await.map(|r| r.id), None);
    assert_eq!(member(&*b.kv, "new").await, Some(id));
    drop(host);
}

async fn a_shutdown_deletes_the_record(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    assert_eq!(host.stop(Stop::Shutdown).await, Stopped::Noted);
    assert_eq!(record(&*b.kv, "h1").await.map(|r| r.id), None);
    assert!(
        member(&*b.kv, "h1").await.is_some(),
        "who is missing is known"
    );
}

async fn a_dropped_host_lets_its_lease_end(b: Backend) {
    let machine = Machine::new();
    drop(machine.join(&b, "h1").await);
    wait_for("the end of the record", || async {
        record(&*b.kv, "h1").await.is_none().then_some(())
    })
    .await;
}

async fn lease_of(kv: &dyn Kv, name: &str) -> i64 {
    let key = format!("/hosts/{name}/record");
    let reply = kv.range(Range::key(key)).await.expect("reads");
    reply.kvs.first().map_or(0, |kv| kv.lease)
}

async fn a_lost_lease_brings_a_new_record(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let before = record(&*b.kv, "h1").await.expect("is there");
    let lease = lease_of(&*b.kv, "h1").await;
    b.kv.lease_revoke(lease).await.expect("revokes");
    let mut status = host.status();
    until(
        &mut status,
        |s| matches!(s, HostStatus::Live(at) if *at > before.modified),
    )
    .await;
    let after = record(&*b.kv, "h1").await.expect("is there");
    assert!(after.created > before.created);
    assert_eq!(after.session, host.session());
    assert_eq!(*host.floor().borrow(), after.modified);
    assert_ne!(lease_of(&*b.kv, "h1").await, lease);
}

async fn a_record_that_was_deleted_comes_back(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let before = record(&*b.kv, "h1").await.expect("is there");
    let at = delete(&*b.kv, "/hosts/h1/record").await;
    host.observe(at, None);
    let mut status = host.status();
    until(
        &mut status,
        |s| matches!(s, HostStatus::Live(now) if *now > at),
    )
    .await;
    let after = record(&*b.kv, "h1").await.expect("is there");
    assert!(after.created > before.created);
    assert_eq!(*host.floor().borrow(), after.modified);
}

async fn another_session_on_the_record_ends_all_writing(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let ours = record(&*b.kv, "h1").await.expect("is there");
    let other = HostRecord {
        session: Uuid::new_v4(),
        ..ours.value.clone()
    };
    let at = put_record(&*b.kv, "h1", &other).await;
    let there = Rev {
        value: other.clone(),
        modified: at,
        created: ours.created,
    };
    host.observe(at, Some(&there));
    let mut status = host.status();
    until(&mut status, |s| *s == HostStatus::Foreign(other.session)).await;
    host.update_record(|record| record.state = HostState::Hold);
    assert_eq!(host.stop(Stop::Restart).await, Stopped::NotNoted);
    let record = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!((record.modified, record.session), (at, other.session));
}

async fn a_stuck_main_loop_loses_the_lease(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let Millis(now) = boottime();
    host.gate().stamp(Millis(now.saturating_sub(31_000)));
    wait_for("the end of the record", || async {
        record(&*b.kv, "h1").await.is_none().then_some(())
    })
    .await;
    // It goes on, and so does the host.
    host.pass_done();
    wait_for("a new record", || async { record(&*b.kv, "h1").await }).await;
}

async fn a_change_of_state_is_written_at_once_and_of_the_rest_when_it_holds(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let before = record(&*b.kv, "h1").await.expect("is there").modified;
    // A count that comes and goes is never written.
    host.update_record(|record| record.foreign = 3);
    host.update_record(|record| record.foreign = 0);
    host.update_record(|record| {
        record.id = Uuid::new_v4();
        record.session = Uuid::new_v4();
    });
    host.update_record(|record| record.engine = false);
    let mut status = host.status();
    until(&mut status, |s| *s == HostStatus::Live(before + 1)).await;
    let written = record(&*b.kv, "h1").await.expect("is there");
    assert!(!written.engine);
    assert_eq!((written.foreign, written.session), (0, host.session()));
    host.update_record(|record| record.foreign = 5);
    until(&mut status, |s| *s == HostStatus::Live(before + 2)).await;
    let written = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!((written.foreign, written.engine), (5, false));
    assert_eq!(
        *host.floor().borrow(),
        before,
        "the record is on the same lease"
    );
}

async fn when_the_clusters_key_changes_the_record_is_not_written(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let before = record(&*b.kv, "h1").await.expect("is there").modified;
    let ours = get(&*b.kv, "/dokkaa/cluster").await.expect("is there");
    let other = Cluster {
        id: Uuid::new_v4(),
        epoch: 1,
    };
    let json = serde_json::to_string(&other).expect("serializes");
    put(&*b.kv, "/dokkaa/cluster", &json).await;
    host.update_record(|record| record.state = HostState::Hold);
    let mut status = host.status();
    until(&mut status, |s| *s == HostStatus::Distrusted).await;
    let record = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!(record.modified, before);
    // It was a mistake: the host goes on.
    put(&*b.kv, "/dokkaa/cluster", &ours).await;
    until(
        &mut status,
        |s| matches!(s, HostStatus::Live(at) if *at > before),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_in_time_when_etcd_does_not_answer() {
    let kv = MemKv::new();
    let machine = Machine::new();
    let factory = kv.clone();
    let host = join(
        Arc::new(kv.clone()),
        Arc::new(move || Arc::new(factory.clone())),
        machine.dir(),
        options("h1"),
        facts(),
    )
    .await
    .expect("joins");
    kv.set_unavailable(true);
    let started = Instant::now();
    assert_eq!(host.stop(Stop::Restart).await, Stopped::NotNoted);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_answer_was_lost_is_known_again() {
    let kv = MemKv::new();
    let machine = Machine::new();
    let dir = machine.dir();
    let factory = kv.clone();
    let join = || {
        let factory = factory.clone();
        join(
            Arc::new(kv.clone()),
            Arc::new(move || Arc::new(factory.clone())),
            dir.clone(),
            options("h1"),
            facts(),
        )
    };
    // First the cluster's key, then the record: both happen, neither answer arrives.
    kv.lose_next_answer();
    for _ in 0..2 {
        let error = join().await.expect_err("no answer");
        assert!(matches!(error, JoinError::Kv(KvError::Unavailable(_))));
        kv.lose_next_answer();
    }
    let written = record(&kv, "h1").await.expect("it was written");
    kv.with(|_| ());
    // The third try goes on at once: the session on the record is the one on disk.
    let error = join().await.expect_err("no answer");
    assert!(matches!(error, JoinError::Kv(KvError::Unavailable(_))));
    let host = join().await.expect("joins");
    let now = record(&kv, "h1").await.expect("is there");
    assert_eq!(
        (now.session, now.created),
        (host.session(), written.created)
    );
}

#[test]
fn a_second_process_does_not_get_the_state_directory() {
    let machine = Machine::new();
    let first = machine.dir();
    let second = StateDir::open_in_boot(&machine.path(), "boot-1");
    assert!(matches!(second, Err(StateDirError::Locked(_))));
    drop(first);
    machine.dir();
}

#[test]
fn the_identity_stays_and_knows_its_boot() {
    let machine = Machine::new();
    let dir = machine.dir();
    let id = dir.machine();
    assert!(!dir.same_boot(), "nothing ran before");
    dir.note_session().expect("notes");
    let session = dir.session();
    drop(dir);
    let dir = machine.dir();
    assert!(dir.same_boot());
    assert_eq!(dir.machine(), id);
    assert!(dir.disk().knows(session) && session != dir.session());
    dir.note_session().expect("notes");
    assert!(dir.disk().knows(session) && dir.disk().knows(dir.session()));
    dir.session_is_written().expect("notes");
    assert!(!dir.disk().knows(session) && dir.disk().knows(dir.session()));
    drop(dir);
    let rebooted = Machine {
        boot: "boot-2".into(),
        ..machine
    };
    assert!(!rebooted.dir().same_boot());
}

#[test]
fn a_damaged_identity_is_an_error_and_not_a_new_one() {
    let machine = Machine::new();
    drop(machine.dir());
    std::fs::write(machine.path().join("host.json"), "{").expect("writes");
    let opened = StateDir::open_in_boot(&machine.path(), "boot-1");
    assert!(matches!(opened, Err(StateDirError::Damaged(..))));
}
