//! The transactions of a host's life, and what the read before them shows.

use model::ModRev;
use std::collections::BTreeMap;
use std::net::IpAddr;

use manifests::HostName;
use manifests::keys::{self, Key};
use model::records::{Availability, Cluster, HostRecord, Member};
use model::snapshot::{Change, Snapshot};

use super::Disk;
use super::start::Start;
use model::kv::{Compare, KeyRange, KeyValue, Op, OpReply, Relation, Target, Txn, TxnReply};

/// Everything that decides, at one revision.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) snapshot: Snapshot,
    /// The cluster's key as it was read; none if it is absent. Writes are guarded by it.
    pub(super) cluster: Option<Vec<u8>>,
    modified: BTreeMap<String, ModRev>,
}

impl Seen {
    /// From the reply to `read`.
    pub(super) fn of(reply: TxnReply) -> Self {
        let mut seen = Self {
            snapshot: Snapshot::default(),
            cluster: None,
            modified: BTreeMap::new(),
        };
        let mut changes = Vec::new();
        for reply in reply.replies {
            let OpReply::Get(kvs) = reply else { continue };
            for kv in kvs {
                if kv.key == Key::Cluster.to_string() {
                    seen.cluster = Some(kv.value.clone());
                }
                seen.modified.insert(kv.key.clone(), ModRev(kv.modified));
                changes.push(change(kv));
            }
        }
        seen.snapshot.apply(changes, reply.revision);
        seen
    }

    /// Revision of a key's last change, also of one that nobody can read; 0 if it is absent.
    pub(super) fn modified(&self, key: &Key) -> ModRev {
        self.modified
            .get(&key.to_string())
            .copied()
            .unwrap_or_default()
    }

    fn as_seen(&self, key: &Key) -> Compare {
        Compare::modified(key, self.modified(key))
    }
}

fn change(kv: KeyValue) -> Change {
    Change::Put {
        key: kv.key,
        value: kv.value,
        modified: kv.modified,
        created: kv.created,
    }
}

/// Reads everything that decides.
pub(super) fn read() -> Txn {
    Txn::new(
        Vec::new(),
        vec![
            Op::Get(KeyRange::key(Key::Cluster.to_string())),
            Op::Get(KeyRange::prefix(keys::MEMBERS)),
            Op::Get(KeyRange::prefix(keys::HOSTS)),
        ],
    )
}

/// Makes the cluster's key where nothing speaks of a cluster; else reads it.
pub(super) fn create(cluster: &Cluster) -> Txn {
    Txn {
        guards: vec![
            Compare::absent(Key::Cluster),
            Compare::none_in(KeyRange::prefix(keys::CLAIMS)),
            Compare::none_in(KeyRange::prefix(keys::MEMBERS)),
        ],
        then: vec![Op::put_json(Key::Cluster, cluster)],
        otherwise: vec![Op::Get(KeyRange::key(Key::Cluster.to_string()))],
    }
}

/// Why the record can't be put now.
pub(super) enum Blocked {
    /// A record under another name may be this machine's or a copy's: its end is waited for. Its address.
    Waits(IpAddr),
    /// The host of this name has this machine's identity.
    Clone(HostName),
}

/// What a put of the record compares, and what it writes beside it.
#[derive(Debug)]
pub(super) struct Entry {
    /// The cluster's key as it was judged.
    pub(super) cluster: Option<Vec<u8>>,
    guards: Vec<Compare>,
    also: Vec<Op>,
}

impl Entry {
    /// Of a host in hold: its record and nothing else.
    pub(super) fn record_alone(seen: &Seen, name: &HostName) -> Self {
        Self {
            cluster: seen.cluster.clone(),
            guards: vec![
                cluster_as(seen.cluster.as_deref()),
                seen.as_seen(&Key::HostRecord(name.clone())),
            ],
            also: Vec::new(),
        }
    }

    /// With the member's key, and without what this machine left under other names. `judge` says what to do about
    /// another live record with this machine's identity.
    pub(super) fn full(
        seen: &Seen,
        name: &HostName,
        disk: &Disk,
        judge: impl Fn(&HostRecord) -> Start,
    ) -> Result<Self, Blocked> {
        let mut entry = Self::record_alone(seen, name);
        let own = Key::Member(name.clone());
        entry.guards.push(seen.as_seen(&own));
        let member = seen
            .snapshot
            .hosts
            .get(name)
            .and_then(|h| h.member.as_ref());
        if member.is_none_or(|m| m.id != disk.id) {
            entry.also.push(Op::put_json(own, &Member { id: disk.id }));
        }
        for (other, host) in seen
            .snapshot
            .hosts
            .iter()
            .filter(|(other, _)| *other != name)
        {
            let record = host.record.as_ref().filter(|r| r.id == disk.id);
            match record.map(|record| (judge(record), record.addr)) {
                None | Some((Start::GoOn, _)) => {}
                Some((Start::Wait, addr)) => return Err(Blocked::Waits(addr)),
                Some((Start::Exit, _)) => return Err(Blocked::Clone(other.clone())),
            }
            if host.member.as_ref().is_some_and(|m| m.id == disk.id) {
                entry.take_away(seen, &Key::Member(other.clone()));
            }
            if record.is_some() {
                entry.take_away(seen, &Key::HostRecord(other.clone()));
            }
        }
        Ok(entry)
    }

    fn take_away(&mut self, seen: &Seen, key: &Key) {
        self.guards.push(seen.as_seen(key));
        self.also.push(Op::delete(key));
    }

    /// It writes nothing but the record.
    pub(super) fn is_record_alone(&self) -> bool {
        self.also.is_empty()
    }

    /// The transaction.
    pub(super) fn put(&self, name: &HostName, record: &HostRecord, lease: i64) -> Txn {
        let mut then = vec![put_on_lease(name, record, lease)];
        then.extend(self.also.iter().cloned());
        Txn::new(self.guards.clone(), then)
    }
}

/// Takes the host out of the cluster, if the operator wants it to leave: record, member and what the operator wanted go
/// at once.
pub(super) fn leave(seen: &Seen, name: &HostName, disk: &Disk) -> Option<Txn> {
    let host = seen.snapshot.hosts.get(name)?;
    if host.availability() != Availability::Leave {
        return None;
    }
    let mut entry = Entry::record_alone(seen, name);
    if host.member.as_ref().is_some_and(|m| m.id == disk.id) {
        entry.take_away(seen, &Key::Member(name.clone()));
    }
    entry
        .guards
        .push(seen.as_seen(&Key::Availability(name.clone())));
    // With what the operator and the host have said of it.
    let of_host = keys::host(name);
    entry.also.push(Op::Delete(KeyRange::prefix(&of_host)));
    Some(Txn::new(entry.guards, entry.also))
}

/// A write of the record alone, as long as cluster and record are what they were.
pub(super) fn guarded(name: &HostName, modified: ModRev, cluster: Option<&[u8]>, op: Op) -> Txn {
    let key = Key::HostRecord(name.clone());
    Txn::new(
        vec![cluster_as(cluster), Compare::modified(key, modified)],
        vec![op],
    )
}

/// The cluster's key is, byte for byte, what it was, or still absent.
fn cluster_as(value: Option<&[u8]>) -> Compare {
    match value {
        None => Compare::absent(Key::Cluster),
        Some(value) => Compare::new(
            KeyRange::key(Key::Cluster.to_string()),
            Relation::Equal,
            Target::Value(value.to_vec()),
        ),
    }
}

/// Puts the record on a lease.
pub(super) fn put_on_lease(name: &HostName, record: &HostRecord, lease: i64) -> Op {
    Op::Put {
        key: Key::HostRecord(name.clone()).to_string(),
        value: serde_json::to_vec(record).expect("records always serialize"),
        lease,
    }
}
