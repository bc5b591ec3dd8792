//! etcd in memory, synchronous and deterministic: for tests and simulations.
//!
//! It keeps etcd's meaning, not its looks: one revision per transaction that
//! changes something, history until compaction, leases on a clock that the
//! caller moves, watches as queues. The same battery of tests runs against it
//! and against a real etcd; that is what keeps it honest. `MemKv` puts the `Kv`
//! trait before it.

mod check;
mod kv;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use model::Millis;

pub use kv::MemKv;
pub use watches::WatchId;
use watches::Watches;

use crate::kv::{
    Compare, Event, KeyRange, KeyValue, KvError, Op, OpReply, Range, RangeReply, Relation, Target,
    Txn, TxnReply,
};

/// Shortest lease that etcd grants with its default election time-out.
const SHORTEST_LEASE: Duration = Duration::from_secs(2);

/// An etcd in memory. A clone is a snapshot that it can be restored to.
#[derive(Debug, Clone)]
pub struct MemEtcd {
    revision: i64,
    /// 0: never compacted.
    compacted: i64,
    /// Each key's values, oldest first; none is a deletion.
    keys: BTreeMap<String, Vec<(i64, Option<KeyValue>)>>,
    /// Events of each revision since compaction.
    log: BTreeMap<i64, Vec<Event>>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    now: Millis,
    watches: Watches,
}

#[derive(Debug, Clone)]
struct Lease {
    ttl: Duration,
    ends: Millis,
    keys: BTreeSet<String>,
}

impl Default for MemEtcd {
    fn default() -> Self {
        Self::new()
    }
}

impl MemEtcd {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            log: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_lease: 1,
            now: Millis(0),
            watches: Watches::default(),
        }
    }

    /// The newest revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Moves the clock, never back; leases that have ended take their keys with them, each lease at a revision of its
    /// own.
    pub fn advance(&mut self, now: Millis) {
        self.now = self.now.max(now);
        let ended: Vec<i64> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.ends <= self.now)
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            self.end_lease(id);
        }
    }

    /// Carries out a transaction.
    pub fn txn(&mut self, txn: &Txn) -> Result<TxnReply, KvError> {
        check::check(txn)?;
        let path = self.path(txn);
        self.check_leases(txn, &path)?;
        let mut events = Vec::new();
        let mut reply = self.apply(txn, &path, &mut events);
        self.commit(events);
        set_revision(&mut reply, self.revision);
        Ok(reply)
    }

    /// Reads a range.
    pub fn range(&self, range: &Range) -> Result<RangeReply, KvError> {
        if range.revision > self.revision {
            let refused = "etcdserver: mvcc: required revision is a future revision";
            return Err(KvError::Refused(refused.into()));
        }
        if range.revision > 0 && range.revision < self.compacted {
            return Err(KvError::Compacted);
        }
        let at = if range.revision > 0 {
            range.revision
        } else {
            self.revision
        };
        let all: Vec<&KeyValue> = self.at(&range.keys, at).collect();
        let count = all.len() as i64;
        let mut found: Vec<KeyValue> = all
            .into_iter()
            .filter(|kv| kv.modified >= range.min_modified)
            .cloned()
            .collect();
        let more = range.limit > 0 && found.len() as i64 > range.limit;
        if more {
            found.truncate(range.limit as usize);
        }
        if range.keys_only {
            for kv in &mut found {
                kv.value.clear();
            }
        }
        if range.count_only {
            found.clear();
        }
        Ok(RangeReply {
            kvs: found,
            revision: self.revision,
            more: more && !range.count_only,
            count,
        })
    }

    /// Forgets history before `revision`.
    pub fn compact(&mut self, revision: i64) -> Result<(), KvError> {
        if revision > self.revision {
            let refused = "etcdserver: mvcc: required revision is a future revision";
            return Err(KvError::Refused(refused.into()));
        }
        if revision <= self.compacted {
            return Err(KvError::Compacted);
        }
        self.compacted = revision;
        self.log = self.log.split_off(&revision);
        self.keys.retain(|_, values| {
            // The newest value at or below the revision stays, unless it is a deletion.
            if let Some(newest) = values.iter().rposition(|(at, _)| *at <= revision) {
                let keep = usize::from(values[newest].1.is_none());
                values.drain(..newest + keep);
            }
            !values.is_empty()
        });
        Ok(())
    }

    /// etcd's fault that a crash in a compaction takes its revision back to that of the newest key: what was written
    /// last were deletions, and all trace of them is compacted.
    pub fn fall(&mut self) {
        let _ = self.compact(self.revision);
        let newest = self.keys.values().filter_map(|values| values.last());
        self.revision = newest.map(|(at, _)| *at).max().unwrap_or(1);
        self.compacted = self.compacted.min(self.revision);
        self.log = BTreeMap::new();
    }

    /// Makes a lease: its id and the time to live that was granted.
    pub fn lease_grant(&mut self, ttl: Duration) -> (i64, Duration) {
        // etcd counts whole seconds.
        let ttl = Duration::from_secs(ttl.as_millis().div_ceil(1_000) as u64).max(SHORTEST_LEASE);
        let id = self.next_lease;
        self.next_lease += 1;
        let lease = Lease {
            ttl,
            ends: self.now + ttl,
            keys: BTreeSet::new(),
        };
        self.leases.insert(id, lease);
        (id, ttl)
    }

    /// Renews a lease.
    pub fn lease_keep_alive(&mut self, id: i64) -> Result<(Duration, i64), KvError> {
        let lease = self.leases.get_mut(&id).ok_or(KvError::LeaseNotFound)?;
        lease.ends = self.now + lease.ttl;
        Ok((lease.ttl, self.revision))
    }

    /// Ends a lease and deletes its keys.
    pub fn lease_revoke(&mut self, id: i64) -> Result<(), KvError> {
        if !self.leases.contains_key(&id) {
            return Err(KvError::LeaseNotFound);
        }
        self.end_lease(id);
        Ok(())
    }

    fn end_lease(&mut self, id: i64) {
        let Some(lease) = self.leases.remove(&id) else {
            return;
        };
        let mut events = Vec::new();
        for key in lease.keys {
            self.delete(&KeyRange::key(key), &mut events);
        }
        self.commit(events);
    }

    /// Whether each transaction's guards hold, before anything changes: the outer one's, then, in order, those of the
    /// nested ones in the branch that runs.
    fn path(&self, txn: &Txn) -> Path {
        let holds = txn.guards.iter().all(|guard| self.holds(guard));
        let inner = branch(txn, holds)
            .iter()
            .filter_map(|op| match op {
                Op::Txn(inner) => Some(self.path(inner)),
                _ => None,
            })
            .collect();
        Path { holds, inner }
    }

    fn holds(&self, guard: &Compare) -> bool {
        let mut found = self.at(&guard.keys, self.revision).peekable();
        if found.peek().is_none() {
            return compare(guard, None);
        }
        found.all(|kv| compare(guard, Some(kv)))
    }

    fn check_leases(&self, txn: &Txn, path: &Path) -> Result<(), KvError> {
        let mut inner = path.inner.iter();
        for op in branch(txn, path.holds) {
            match op {
                Op::Put { lease, .. } if *lease != 0 && !self.leases.contains_key(lease) => {
                    return Err(KvError::LeaseNotFound);
                }
                Op::Txn(txn) => {
                    if let Some(path) = inner.next() {
                        self.check_leases(txn, path)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn apply(&mut self, txn: &Txn, path: &Path, events: &mut Vec<Event>) -> TxnReply {
        let mut inner = path.inner.iter();
        let mut replies = Vec::new();
        for op in branch(txn, path.holds) {
            replies.push(match op {
                Op::Put { key, value, lease } => {
                    self.put(key, value, *lease, events);
                    OpReply::Put
                }
                Op::Delete(keys) => OpReply::Delete(self.delete(keys, events)),
                Op::Get(keys) => {
                    // Sees what the transaction has done so far.
                    OpReply::Get(self.at(keys, self.revision + 1).cloned().collect())
                }
                Op::First(keys) => {
                    let first = self.at(keys, self.revision + 1).next();
                    let without_value = |kv: &KeyValue| KeyValue {
                        value: Vec::new(),
                        ..kv.clone()
                    };
                    OpReply::Get(first.map(without_value).into_iter().collect())
                }
                Op::Txn(txn) => match inner.next() {
                    Some(path) => OpReply::Txn(self.apply(txn, path, events)),
                    None => unreachable!("a path has one entry for each nested transaction"),
                },
            });
        }
        TxnReply {
            succeeded: path.holds,
            revision: 0,
            replies,
        }
    }

    fn put(&mut self, key: &str, value: &[u8], lease: i64, events: &mut Vec<Event>) {
        let revision = self.revision + 1;
        let before = self.value_at(key, revision).cloned();
        let now = KeyValue {
            key: key.to_owned(),
            value: value.to_vec(),
            created: before.as_ref().map_or(revision, |kv| kv.created),
            modified: revision,
            version: before.as_ref().map_or(0, |kv| kv.version) + 1,
            lease,
        };
        self.detach(before.as_ref());
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.insert(key.to_owned());
        }
        let values = self.keys.entry(key.to_owned()).or_default();
        values.push((revision, Some(now.clone())));
        // An event tells what was before the whole transaction.
        let before = self.value_at(key, self.revision).cloned();
        events.push(Event::Put { now, before });
    }

    fn delete(&mut self, keys: &KeyRange, events: &mut Vec<Event>) -> i64 {
        let revision = self.revision + 1;
        let found: Vec<KeyValue> = self.at(keys, revision).cloned().collect();
        let count = found.len() as i64;
        for before in found {
            self.detach(Some(&before));
            let values = self.keys.entry(before.key.clone()).or_default();
            values.push((revision, None));
            events.push(Event::Delete {
                modified: revision,
                before: self.value_at(&before.key, self.revision).cloned(),
                key: before.key,
            });
        }
        count
    }

    fn detach(&mut self, before: Option<&KeyValue>) {
        if let Some(before) = before
            && let Some(lease) = self.leases.get_mut(&before.lease)
        {
            lease.keys.remove(&before.key);
        }
    }

    fn commit(&mut self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.revision += 1;
        self.watches.notify(&events, self.revision);
        self.log.insert(self.revision, events);
    }

    fn value_at(&self, key: &str, revision: i64) -> Option<&KeyValue> {
        value_at(self.keys.get(key)?, revision)
    }

    fn at<'a>(
        &'a self,
        keys: &'a KeyRange,
        revision: i64,
    ) -> impl Iterator<Item = &'a KeyValue> + 'a {
        let start = String::from_utf8_lossy(&keys.start).into_owned();
        self.keys
            .range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded))
            .take_while(|(key, _)| keys.contains(key))
            .filter_map(move |(_, values)| value_at(values, revision))
            .collect::<Vec<_>>()
            .into_iter()
    }
}

/// Which branches run.
struct Path {
    holds: bool,
    inner: Vec<Path>,
}

fn branch(txn: &Txn, holds: bool) -> &[Op] {
    if holds { &txn.then } else { &txn.otherwise }
}

fn value_at(values: &[(i64, Option<KeyValue>)], revision: i64) -> Option<&KeyValue> {
    let (_, value) = values.iter().rev().find(|(at, _)| *at <= revision)?;
    value.as_ref()
}

fn compare(guard: &Compare, kv: Option<&KeyValue>) -> bool {
    let order = match &guard.target {
        Target::Version(than) => kv.map_or(0, |kv| kv.version).cmp(than),
        Target::Created(than) => kv.map_or(0, |kv| kv.created).cmp(than),
        Target::Modified(than) => kv.map_or(0, |kv| kv.modified).cmp(than),
        Target::Value(than) => match kv {
            Some(kv) => kv.value.cmp(than),
            None => return false,
        },
    };
    match guard.relation {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
    }
}

fn set_revision(reply: &mut TxnReply, revision: i64) {
    reply.revision = revision;
    for reply in &mut reply.replies {
        if let OpReply::Txn(inner) = reply {
            set_revision(inner, revision);
        }
    }
}
