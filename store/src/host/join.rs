//! The start: reads everything that decides at one revision, decides, and puts record and member in one transaction.

use std::sync::Arc;
use std::time::Duration;

use conductor_core::records::{Cluster, HostRecord, HostState, Member};
use conductor_core::snapshot::{Change, Rev, Snapshot};
use manifests::HostName;
use manifests::keys::{self, Key};
use tokio::time::Instant;
use tracing::info;

use super::disk::{StateDir, StateDirError};
use super::lease::{Gate, KeepAlive, Keeper, Lease};
use super::start::{
    ClusterFacts, ClusterStart, OtherName, Start, decide, decide_cluster, decide_other, new_cluster,
};
use super::writer::{Own, Writer};
use super::{Clock, Host, HostOptions, KvFactory, longest_wait};
use crate::kv::{Compare, KeyRange, KeyValue, Kv, KvError, Op, OpReply, Relation, Target, Txn};
use crate::view::Reason;

/// How often a record that has to end is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Why the host could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// etcd can't be asked now: try again.
    #[error("etcd can't be used")]
    Kv(#[from] KvError),
    /// It is not the etcd that this host knows: change nothing, and try again.
    #[error("this is not the etcd that is known here: {0}")]
    Distrust(Reason),
    /// There is no cluster, and none may be made: change nothing, and try again.
    #[error("etcd has no /dokkaa/cluster, and {0}: not a place for a new cluster")]
    NoCluster(String),
    /// The cluster's key is there, but not as an agent writes it: change nothing, and try again.
    #[error("/dokkaa/cluster can't be read")]
    UnreadableCluster,
    /// Another machine has this name.
    #[error(
        "another machine ({addr}) runs under the name {name}; give this one another name with --name"
    )]
    NameTaken {
        /// The name.
        name: HostName,
        /// The address in its record.
        addr: std::net::IpAddr,
    },
    /// Another machine has this machine's identity.
    #[error(
        "the host {other} runs with this machine's identity: was the disk copied? `dokkaa reset-id` gives this one an identity of its own"
    )]
    Clone {
        /// The other's name.
        other: HostName,
    },
    /// The state directory fails.
    #[error("the state directory fails")]
    Disk(#[from] StateDirError),
    /// No thread for the lease.
    #[error("no thread for the lease")]
    Thread(#[source] std::io::Error),
}

impl JoinError {
    /// Trying again does not help.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::NameTaken { .. } | Self::Clone { .. })
    }
}

/// Everything that decides, at one revision.
struct Seen {
    snapshot: Snapshot,
    /// The cluster's key as bytes: what later writes are guarded by.
    cluster: Vec<u8>,
}

/// Joins the cluster: takes or makes its key, waits for an old record to end, puts record and member.
///
/// `record` says what is to stand in it; its id, session, epoch and state are set here. The returned host keeps its
/// lease and its record by itself. An error that is not `is_final` is to be tried again after a pause.
pub async fn join(
    kv: Arc<dyn Kv>,
    keep_alive: KvFactory,
    dir: Arc<StateDir>,
    options: HostOptions,
    record: HostRecord,
) -> Result<Host, JoinError> {
    let (keeper, clock) = (Keeper::Thread(keep_alive), Clock::machine());
    join_with(kv, keeper, clock, dir, options, record).await
}

/// As `join`, for simulations: time is `clock`, and the lease is kept by a task of this runtime.
pub async fn join_simulated(
    kv: Arc<dyn Kv>,
    clock: Clock,
    dir: Arc<StateDir>,
    options: HostOptions,
    record: HostRecord,
) -> Result<Host, JoinError> {
    let keeper = Keeper::Task(kv.clone());
    join_with(kv, keeper, clock, dir, options, record).await
}

async fn join_with(
    kv: Arc<dyn Kv>,
    keeper: Keeper,
    clock: Clock,
    dir: Arc<StateDir>,
    options: HostOptions,
    record: HostRecord,
) -> Result<Host, JoinError> {
    let start = Instant::now();
    let gate = Gate::default();
    gate.stamp(clock.now());
    loop {
        let seen = read(&*kv).await?;
        let Some(cluster) = settle_cluster(&*kv, &dir, &options, &seen).await? else {
            continue;
        };
        let disk = dir.disk();
        let own = seen.snapshot.record(&options.name);
        match decide(
            own.map(|r| &r.value),
            &disk,
            dir.boot_id(),
            start.elapsed(),
            longest_wait(&options),
        ) {
            Start::GoOn => {}
            Start::Wait => {
                if start.elapsed() < LOOK {
                    info!(name = %options.name, "another process has a record under this name: waiting for its end");
                }
                tokio::time::sleep(LOOK).await;
                continue;
            }
            Start::Exit => {
                let addr = own.map_or(record.addr, |r| r.addr);
                let name = options.name;
                return Err(JoinError::NameTaken { name, addr });
            }
        }
        let others = former_names(&seen.snapshot, &dir, &options.name)?;
        let record = HostRecord {
            id: disk.id,
            session: dir.session(),
            epoch: cluster.epoch,
            state: HostState::Up,
            ..record.clone()
        };
        let (id, ttl) = kv.lease_grant(options.ttl).await?;
        let lease = Lease { id, ttl };
        dir.note_session()?;
        let txn = put_record(&options.name, &record, lease.id, &seen, &others);
        let reply = match kv.txn(txn).await {
            Ok(reply) => reply,
            Err(error) => {
                // It may have been written: the next try finds its own session.
                return Err(error.into());
            }
        };
        if !reply.succeeded {
            kv.lease_revoke(lease.id).await.ok();
            continue;
        }
        dir.session_is_written()?;
        info!(name = %options.name, cluster = %cluster.id, revision = reply.revision, "joined");
        let keep =
            KeepAlive::start(keeper, clock, gate.clone(), lease).map_err(JoinError::Thread)?;
        let own = Own {
            cluster,
            cluster_value: seen.cluster,
            record,
            modified: reply.revision,
            lease,
            clock,
        };
        return Ok(Writer::start(kv, options, gate, keep, own));
    }
}

/// Makes the cluster's key if this etcd is a place for a new cluster (`up`, `init`), and notes it on disk; returns what
/// is there.
pub async fn create_cluster(
    kv: &dyn Kv,
    dir: &StateDir,
    options: &HostOptions,
) -> Result<Cluster, JoinError> {
    loop {
        let seen = read(kv).await?;
        if let Some(cluster) = settle_cluster(kv, dir, options, &seen).await? {
            return Ok(cluster);
        }
    }
}

/// None: something was written, look again.
async fn settle_cluster(
    kv: &dyn Kv,
    dir: &StateDir,
    options: &HostOptions,
    seen: &Seen,
) -> Result<Option<Cluster>, JoinError> {
    if seen.snapshot.cluster.is_none() && !seen.cluster.is_empty() {
        return Err(JoinError::UnreadableCluster);
    }
    let known = dir.cluster();
    let facts = ClusterFacts {
        known: known.as_ref(),
        saved_revision: options.saved_revision,
        labelled_containers: options.labelled_containers,
        live_records: seen.snapshot.live().next().is_some(),
    };
    let found = seen.snapshot.cluster.as_ref();
    match decide_cluster(facts, found, seen.snapshot.revision) {
        ClusterStart::Use(cluster) => {
            if known.as_ref() != Some(&cluster) {
                dir.note_cluster(&cluster)?;
            }
            Ok(Some(cluster))
        }
        ClusterStart::Distrust(reason) => Err(JoinError::Distrust(reason)),
        ClusterStart::Missing(why) => Err(JoinError::NoCluster(why.into())),
        ClusterStart::Create => {
            let cluster = new_cluster();
            let reply = kv
                .txn(Txn {
                    guards: vec![
                        Compare::absent(Key::Cluster),
                        Compare::none_in(KeyRange::prefix(keys::CLAIMS)),
                        Compare::none_in(KeyRange::prefix(keys::MEMBERS)),
                    ],
                    then: vec![Op::put_json(Key::Cluster, &cluster)],
                    otherwise: vec![Op::Get(KeyRange::key(Key::Cluster.to_string()))],
                })
                .await?;
            let there = matches!(reply.replies.first(), Some(OpReply::Get(kvs)) if !kvs.is_empty());
            if reply.succeeded {
                info!(cluster = %cluster.id, "made a new cluster");
            } else if !there {
                let why = "there are claims or members of a cluster in it";
                return Err(JoinError::NoCluster(why.into()));
            }
            Ok(None)
        }
    }
}

/// Records and members that this machine left under other names: (name, revision of the record, of the member; 0 is
/// none).
fn former_names(
    snapshot: &Snapshot,
    dir: &StateDir,
    name: &HostName,
) -> Result<Vec<(HostName, i64, i64)>, JoinError> {
    let disk = dir.disk();
    let mut former = Vec::new();
    for (other, host) in snapshot.hosts.iter().filter(|(other, _)| *other != name) {
        let record = host.record.as_ref().filter(|r| r.id == disk.id);
        let member = host.member.as_ref().filter(|m| m.id == disk.id);
        if let Some(record) = record
            && decide_other(record, &disk) == OtherName::Clone
        {
            return Err(JoinError::Clone {
                other: other.clone(),
            });
        }
        if record.is_some() || member.is_some() {
            let modified = |revision: Option<i64>| revision.unwrap_or_default();
            former.push((
                other.clone(),
                modified(record.map(|r| r.modified)),
                modified(member.map(|m| m.modified)),
            ));
        }
    }
    Ok(former)
}

fn put_record(
    name: &HostName,
    record: &HostRecord,
    lease: i64,
    seen: &Seen,
    former: &[(HostName, i64, i64)],
) -> Txn {
    let revision = |r: Option<i64>| r.unwrap_or_default();
    let host = seen.snapshot.hosts.get(name);
    let member = host.and_then(|h| h.member.as_ref());
    let mut txn = Txn::new(
        vec![
            same_cluster(&seen.cluster),
            Compare::modified(
                Key::HostRecord(name.clone()),
                revision(host.and_then(|h| h.record.as_ref()).map(|r| r.modified)),
            ),
            Compare::modified(
                Key::Member(name.clone()),
                revision(member.map(|m| m.modified)),
            ),
        ],
        vec![put_on_lease(name, record, lease)],
    );
    if member.is_none_or(|m| m.id != record.id) {
        let key = Key::Member(name.clone());
        txn.then.push(Op::put_json(key, &Member { id: record.id }));
    }
    for (other, record, member) in former {
        for (key, modified) in [
            (Key::HostRecord(other.clone()), *record),
            (Key::Member(other.clone()), *member),
        ] {
            txn.guards.push(Compare::modified(&key, modified));
            if modified != 0 {
                txn.then.push(Op::delete(key));
            }
        }
    }
    txn
}

/// The cluster's key is, byte for byte, what it was.
pub(super) fn same_cluster(value: &[u8]) -> Compare {
    Compare::new(
        KeyRange::key(Key::Cluster.to_string()),
        Relation::Equal,
        Target::Value(value.to_vec()),
    )
}

pub(super) fn put_on_lease(name: &HostName, record: &HostRecord, lease: i64) -> Op {
    Op::Put {
        key: Key::HostRecord(name.clone()).to_string(),
        value: serde_json::to_vec(record).expect("records always serialize"),
        lease,
    }
}

async fn read(kv: &dyn Kv) -> Result<Seen, KvError> {
    let reply = kv
        .txn(Txn::new(
            Vec::new(),
            vec![
                Op::Get(KeyRange::key(Key::Cluster.to_string())),
                Op::Get(KeyRange::prefix(keys::MEMBERS)),
                Op::Get(KeyRange::prefix(keys::HOSTS)),
            ],
        ))
        .await?;
    let mut snapshot = Snapshot::default();
    let mut cluster = Vec::new();
    let mut changes = Vec::new();
    for reply in reply.replies {
        let OpReply::Get(kvs) = reply else { continue };
        for kv in kvs {
            if kv.key == Key::Cluster.to_string() {
                cluster.clone_from(&kv.value);
            }
            changes.push(change(kv));
        }
    }
    snapshot.apply(changes, reply.revision);
    Ok(Seen { snapshot, cluster })
}

fn change(kv: KeyValue) -> Change {
    Change::Put {
        key: kv.key,
        value: kv.value,
        modified: kv.modified,
        created: kv.created,
    }
}

/// Reads a record; none if it is not there or can't be read.
pub(super) fn record_of(kvs: &[KeyValue]) -> Option<Rev<HostRecord>> {
    let kv = kvs.first()?;
    Some(Rev {
        value: serde_json::from_slice(&kv.value).ok()?,
        modified: kv.modified,
        created: kv.created,
    })
}
