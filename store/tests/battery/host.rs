//! The host's start, life and stop, on both etcds.

use model::ModRev;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use model::records::{
    Availability, Capacity, Cluster, Hold, HostRecord, HostState, Member, Versions,
};
use model::snapshot::Rev;
use model::{Millis, Rules};
use store::Op;
use store::host::{
    Host, HostOptions, HostStatus, JoinError, StateDir, StateDirError, Stop, Stopped, Waiting,
    boottime,
};
use store::kv::{Kv, Range};
use store::memory::MemKv;
use store::view::Known;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::harness::{Backend, both, delete, get, put, txn, wait_for};

both!(
    the_first_host_makes_the_cluster_and_the_second_joins_it,
    a_host_that_knows_a_cluster_is_in_hold_on_an_emptied_etcd,
    no_new_cluster_is_made_where_members_are,
    no_new_cluster_is_made_by_a_host_with_labelled_containers,
    an_etcd_with_another_cluster_gets_nothing,
    an_etcd_below_the_saved_view_begins_a_hold_that_only_the_view_ends,
    a_hold_is_written_at_once_and_anew_after_the_loss_of_the_lease,
    an_accepted_restore_puts_record_and_member_anew,
    a_host_that_is_to_leave_takes_its_keys_away,
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
        api: Vec::new(),
        labels: BTreeMap::new(),
        capacity: Capacity::default(),
        versions: Versions {
            agent: "0.1.0".into(),
            placement: vec![1],
        },
        foreign: 0,
        engine: true,
        docker: None,
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

    /// The directory of a process that has just ended, whose lock may live a moment longer.
    async fn dir_again(&self) -> Arc<StateDir> {
        wait_for("the state directory", || async {
            match StateDir::open_in_boot(&self.path(), &self.boot) {
                Ok(dir) => Some(Arc::new(dir)),
                Err(StateDirError::Locked(_)) => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await
    }

    async fn begin(&self, b: &Backend, options: HostOptions) -> Host {
        let dir = self.dir_again().await;
        Host::start(b.kv.clone(), b.factory(), dir, options, facts()).expect("starts")
    }

    /// A host that has come to this.
    async fn until(
        &self,
        b: &Backend,
        options: HostOptions,
        wanted: impl Fn(&HostStatus) -> bool,
    ) -> Host {
        let host = self.begin(b, options).await;
        until(&mut host.status(), wanted).await;
        host
    }

    async fn join_as(&self, b: &Backend, options: HostOptions) -> Host {
        self.until(b, options, is_live).await
    }

    async fn join(&self, b: &Backend, name: &str) -> Host {
        self.join_as(b, options(name)).await
    }

    /// A host that can't join.
    async fn refused(&self, b: &Backend, options: HostOptions) -> JoinError {
        let failed = |status: &HostStatus| matches!(status, HostStatus::Failed(_));
        let host = self.until(b, options, failed).await;
        match &*host.status().borrow() {
            HostStatus::Failed(error) => error.clone(),
            status => panic!("{status:?}"),
        }
    }
}

fn is_live(status: &HostStatus) -> bool {
    matches!(status, HostStatus::Live(_))
}

fn is_held(status: &HostStatus) -> bool {
    matches!(status, HostStatus::Held(_))
}

fn finds_no_cluster(status: &HostStatus) -> bool {
    matches!(status, HostStatus::Joining(Waiting::NoCluster(_)))
}

fn known(epoch: u64) -> Cluster {
    Cluster {
        id: Uuid::new_v4(),
        epoch,
    }
}

async fn revision(kv: &dyn Kv) -> i64 {
    kv.range(Range::key("/")).await.expect("reads").revision
}

fn options(name: &str) -> HostOptions {
    HostOptions {
        name: name.parse().expect("a name"),
        ttl: TTL,
        restart_grace: Duration::from_secs(20),
        labelled_containers: false,
        saved: None,
        rules: Rules::default(),
    }
}

async fn record(kv: &dyn Kv, name: &str) -> Option<Rev<HostRecord>> {
    let key = format!("/hosts/{name}/record");
    let reply = kv.range(Range::key(key)).await.expect("reads");
    let kv = reply.kvs.into_iter().next()?;
    Some(Rev {
        value: serde_json::from_slice(&kv.value).expect("a record"),
        modified: ModRev(kv.modified),
        created: ModRev(kv.created),
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
    assert_eq!(*one.cluster().borrow(), *two.cluster().borrow());
    let there = get(&*b.kv, "/dokkaa/cluster").await.expect("is there");
    let there: Cluster = serde_json::from_str(&there).expect("a cluster");
    assert_eq!(Some(there), *one.cluster().borrow());
    for (host, name) in [(&one, "h1"), (&two, "h2")] {
        let record = record(&*b.kv, name).await.expect("is there");
        assert_eq!(record.session, host.session());
        assert_eq!((record.epoch, record.state), (1, HostState::Up));
        assert_eq!(member(&*b.kv, name).await, Some(record.id));
        assert_eq!(*host.floor().borrow(), record.modified.0);
        assert_eq!(*host.status().borrow(), HostStatus::Live(record.modified.0));
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

async fn a_host_that_knows_a_cluster_is_in_hold_on_an_emptied_etcd(b: Backend) {
    let machine = Machine::new();
    machine.dir().note_cluster(&known(1)).expect("notes");
    let at = put(&*b.kv, "/outside", "1").await;
    let host = machine.until(&b, options("h1"), is_held).await;
    let written = wait_for("the record", || record(&*b.kv, "h1")).await;
    assert_eq!(written.state, HostState::Hold);
    let hold = written.hold.clone().expect("it says why");
    assert!(hold.reason.contains("/dokkaa/cluster is missing") && hold.shared);
    assert_eq!(revision(&*b.kv).await, at + 1, "nothing else is written");
    let mut floor = host.floor();
    let floor = floor.wait_for(|floor| *floor != 0).await;
    assert_eq!(*floor.expect("the host lives"), written.modified.0);
    drop(host);
    assert_eq!(machine.dir_again().await.hold(), Some(hold));
}

async fn no_new_cluster_is_made_where_members_are(b: Backend) {
    let at = put(&*b.kv, "/dokkaa/members/h9", "{}").await;
    let machine = Machine::new();
    let host = machine.until(&b, options("h1"), finds_no_cluster).await;
    assert_eq!(*host.cluster().borrow(), None);
    assert_eq!(revision(&*b.kv).await, at);
}

async fn no_new_cluster_is_made_by_a_host_with_labelled_containers(b: Backend) {
    let options = HostOptions {
        labelled_containers: true,
        ..options("h1")
    };
    let machine = Machine::new();
    let waiting = machine.until(&b, options, finds_no_cluster).await;
    // One that is there is taken.
    let host = Machine::new().join(&b, "h2").await;
    until(&mut waiting.status(), is_live).await;
    assert_eq!(*waiting.cluster().borrow(), *host.cluster().borrow());
}

async fn an_etcd_with_another_cluster_gets_nothing(b: Backend) {
    let machine = Machine::new();
    let ours = known(1);
    machine.dir().note_cluster(&ours).expect("notes");
    // However high its epoch is.
    let put = Op::put_json("/dokkaa/cluster", &known(7));
    let before = txn(&*b.kv, vec![put]).await.expect("puts").revision;
    let host = machine
        .until(&b, options("h1"), |s| *s == HostStatus::Distrusted)
        .await;
    assert_eq!(revision(&*b.kv).await, before);
    assert_eq!(first_cluster(&machine.path()), Some(ours.clone()));
    // It is tried again: it was the wrong etcd.
    let put = Op::put_json("/dokkaa/cluster", &ours);
    txn(&*b.kv, vec![put]).await.expect("puts");
    until(&mut host.status(), is_live).await;
}

async fn an_etcd_below_the_saved_view_begins_a_hold_that_only_the_view_ends(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let cluster = host.cluster().borrow().clone().expect("it has joined");
    drop(host);
    let options = HostOptions {
        saved: Some(Known {
            cluster,
            revision: 1_000_000,
        }),
        ..options("h1")
    };
    let host = machine.until(&b, options, is_held).await;
    wait_for("the record", || async {
        let record = record(&*b.kv, "h1").await?;
        (record.state == HostState::Hold).then_some(())
    })
    .await;
    host.stop(Stop::Restart).await;
    // The next process has it from its disk, and ends it when its view has passed all checks.
    let host = machine.begin(&b, self::options("h1")).await;
    assert!(is_held(&host.status().borrow()));
    wait_for("the record of the next process", || async {
        let record = record(&*b.kv, "h1").await?;
        (record.session == host.session() && record.state == HostState::Hold).then_some(())
    })
    .await;
    host.hold(None);
    until(&mut host.status(), is_live).await;
    let record = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!((record.state, record.hold.clone()), (HostState::Up, None));
    drop(host);
    assert_eq!(machine.dir_again().await.hold(), None);
}

async fn a_hold_is_written_at_once_and_anew_after_the_loss_of_the_lease(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    delete(&*b.kv, "/dokkaa/cluster").await;
    delete(&*b.kv, "/dokkaa/members/h1").await;
    let hold = Hold {
        reason: "most manifests are gone".to_owned(),
        shared: false,
    };
    host.hold(Some(hold.clone()));
    let in_hold = || async {
        let record = record(&*b.kv, "h1").await?;
        (record.hold.as_ref() == Some(&hold)).then_some(record.created)
    };
    let first = wait_for("the record", in_hold).await;
    let lease = lease_of(&*b.kv, "h1").await;
    b.kv.lease_revoke(lease).await.expect("revokes");
    let second = wait_for("another record", in_hold).await;
    assert!(second > first);
    for key in ["/dokkaa/cluster", "/dokkaa/members/h1"] {
        assert_eq!(get(&*b.kv, key).await, None);
    }
}

async fn an_accepted_restore_puts_record_and_member_anew(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let cluster = host.cluster().borrow().clone().expect("it has joined");
    delete(&*b.kv, "/dokkaa/cluster").await;
    delete(&*b.kv, "/dokkaa/members/h1").await;
    host.hold(Some(Hold {
        reason: "the cluster's key is gone".to_owned(),
        shared: true,
    }));
    until(&mut host.status(), is_held).await;
    let accepted = Cluster {
        epoch: 2,
        ..cluster
    };
    let put = Op::put_json("/dokkaa/cluster", &accepted);
    txn(&*b.kv, vec![put]).await.expect("puts");
    host.accept(accepted.clone());
    until(&mut host.status(), is_live).await;
    let written = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!((written.state, written.epoch), (HostState::Up, 2));
    assert!(member(&*b.kv, "h1").await.is_some());
    assert_eq!(*host.cluster().borrow(), Some(accepted.clone()));
    drop(host);
    let dir = machine.dir_again().await;
    assert_eq!((dir.cluster(), dir.hold()), (Some(accepted.clone()), None));
    drop(dir);
    // One that did not run meanwhile accepts it at its start.
    let put = Op::put_json(
        "/dokkaa/cluster",
        &Cluster {
            epoch: 3,
            ..accepted
        },
    );
    txn(&*b.kv, vec![put]).await.expect("puts");
    let host = machine.join(&b, "h1").await;
    let epoch = host.cluster().borrow().as_ref().map(|c| c.epoch);
    assert_eq!(epoch, Some(3));
}

async fn a_host_that_is_to_leave_takes_its_keys_away(b: Backend) {
    let (machine, other) = (Machine::new(), Machine::new());
    let (host, stays) = (machine.join(&b, "h1").await, other.join(&b, "h2").await);
    let leave = Op::put_json("/hosts/h1/availability", &Availability::Leave);
    txn(&*b.kv, vec![leave]).await.expect("puts");
    host.leave();
    until(&mut host.status(), |s| *s == HostStatus::Left).await;
    for key in [
        "/hosts/h1/record",
        "/hosts/h1/availability",
        "/dokkaa/members/h1",
    ] {
        assert_eq!(get(&*b.kv, key).await, None, "{key}");
    }
    assert_eq!(host.stop(Stop::Restart).await, Stopped::NotNoted);
    assert!(is_live(&stays.status().borrow()));
}

async fn after_a_stop_the_record_says_restarting_and_the_next_process_goes_on_at_once(b: Backend) {
    let machine = Machine::new();
    let host = machine.join(&b, "h1").await;
    let session = host.session();
    let at = record(&*b.kv, "h1").await.expect("is there").modified.0;
    assert_eq!(host.stop(Stop::Restart).await, Stopped::Noted);
    let stopped = record(&*b.kv, "h1").await.expect("stays");
    assert_eq!(
        (stopped.state, stopped.session, stopped.modified.0),
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
    assert_eq!(back.modified.0, at + 2, "a restart writes two keys");
    assert_ne!(host.session(), session);
}

async fn after_a_kill_in_the_same_boot_the_next_process_goes_on_at_once(b: Backend) {
    let machine = Machine::new();
    let options = HostOptions {
        ttl: Duration::from_secs(60),
        ..options("h1")
    };
    drop(machine.join_as(&b, options.clone()).await);
    let killed = record(&*b.kv, "h1").await.expect("is still there");
    let host = machine.join_as(&b, options).await;
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
    let error = second.refused(&b, options).await;
    assert!(matches!(error, JoinError::NameTaken { .. }), "{error}");
    let record = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!(record.session, host.session());
    assert_eq!(*host.status().borrow(), HostStatus::Live(record.modified.0));
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
    let error = copy.refused(&b, options("h2")).await;
    assert!(matches!(error, JoinError::Clone { .. }), "{error}");
    assert_eq!(record(&*b.kv, "h2").await.map(|r| r.id), None);
    // With an identity of its own it is a host like any other.
    drop(copy.dir_again().await);
    StateDir::reset_id(&copy.path()).expect("resets");
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
        |s| matches!(s, HostStatus::Live(at) if *at > before.modified.0),
    )
    .await;
    let after = record(&*b.kv, "h1").await.expect("is there");
    assert!(after.created > before.created);
    assert_eq!(after.session, host.session());
    assert_eq!(*host.floor().borrow(), after.modified.0);
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
    assert_eq!(*host.floor().borrow(), after.modified.0);
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
        modified: ModRev(at),
        created: ours.created,
    };
    host.observe(at, Some(&there));
    let mut status = host.status();
    until(&mut status, |s| *s == HostStatus::Foreign(other.session)).await;
    host.update_record(|record| record.engine = false);
    assert_eq!(host.stop(Stop::Restart).await, Stopped::NotNoted);
    let record = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!((record.modified.0, record.session), (at, other.session));
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
    let before = record(&*b.kv, "h1").await.expect("is there").modified.0;
    // A count that comes and goes is never written.
    host.update_record(|record| record.foreign = 3);
    host.update_record(|record| record.foreign = 0);
    host.update_record(|record| {
        record.id = Uuid::new_v4();
        record.session = Uuid::new_v4();
        record.state = HostState::Hold;
    });
    host.update_record(|record| record.engine = false);
    let mut status = host.status();
    until(&mut status, |s| *s == HostStatus::Live(before + 1)).await;
    let written = record(&*b.kv, "h1").await.expect("is there");
    assert!(!written.engine);
    assert_eq!((written.foreign, written.session), (0, host.session()));
    assert_eq!(written.state, HostState::Up, "that is not the caller's");
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
    let before = record(&*b.kv, "h1").await.expect("is there").modified.0;
    let ours = get(&*b.kv, "/dokkaa/cluster").await.expect("is there");
    let other = Cluster {
        id: Uuid::new_v4(),
        epoch: 1,
    };
    let json = serde_json::to_string(&other).expect("serializes");
    put(&*b.kv, "/dokkaa/cluster", &json).await;
    host.update_record(|record| record.engine = false);
    let mut status = host.status();
    until(&mut status, |s| *s == HostStatus::Distrusted).await;
    let record = record(&*b.kv, "h1").await.expect("is there");
    assert_eq!(record.modified.0, before);
    // It was a mistake: the host goes on.
    put(&*b.kv, "/dokkaa/cluster", &ours).await;
    until(
        &mut status,
        |s| matches!(s, HostStatus::Live(at) if *at > before),
    )
    .await;
}

fn start(kv: &MemKv, machine: &Machine) -> Host {
    let factory = kv.clone();
    Host::start(
        Arc::new(kv.clone()),
        Arc::new(move || Arc::new(factory.clone())),
        machine.dir(),
        options("h1"),
        facts(),
    )
    .expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_in_time_when_etcd_does_not_answer() {
    let kv = MemKv::new();
    let machine = Machine::new();
    let host = start(&kv, &machine);
    until(&mut host.status(), is_live).await;
    kv.set_unavailable(true);
    let started = Instant::now();
    assert_eq!(host.stop(Stop::Restart).await, Stopped::NotNoted);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_whose_answer_was_lost_is_known_again() {
    let kv = MemKv::new();
    let machine = Machine::new();
    kv.set_unavailable(true);
    let host = start(&kv, &machine);
    let away = |s: &HostStatus| matches!(s, HostStatus::Joining(Waiting::Etcd(_)));
    until(&mut host.status(), away).await;
    // The cluster's key is written, and the answer is lost.
    kv.lose_next_answer();
    kv.set_unavailable(false);
    wait_for("the cluster's key", || get(&kv, "/dokkaa/cluster")).await;
    // And so is the record, if the time is enough to lose it: it is this process's own in any case.
    kv.lose_next_answer();
    until(&mut host.status(), is_live).await;
    let written = record(&kv, "h1").await.expect("is there");
    assert_eq!(written.session, host.session());
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
fn a_damaged_identity_is_an_error_until_it_is_reset() {
    let machine = Machine::new();
    let reset = || StateDir::reset_id(&machine.path());
    assert!(reset().is_err(), "there is no machine yet");
    assert!(!machine.path().exists());
    drop(machine.dir());
    let damaged = |file: &str| {
        std::fs::write(machine.path().join(file), "{").expect("writes");
        let opened = StateDir::open_in_boot(&machine.path(), "boot-1");
        let error = opened.expect_err("is damaged");
        assert!(matches!(error, StateDirError::Damaged(..)));
        error.to_string().contains("dokkaa reset-id")
    };
    assert!(damaged("host.json"));
    let id = reset().expect("is reset");
    let dir = machine.dir();
    assert_eq!(dir.machine(), id);
    assert!(
        matches!(reset(), Err(StateDirError::Locked(_))),
        "an agent runs"
    );
    drop(dir);
    // Another identity would not help.
    assert!(!damaged("cluster.json"));
}
