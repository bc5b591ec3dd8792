//! Requests to etcd and its answers, as values.
//!
//! Names and meaning are those of etcd's API v3 (Range, Txn, Watch, Lease).

use crate::revision::ModRev;

/// A key and its value, with the revisions that guards compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Revision of its creation.
    pub created: i64,
    /// Revision of its last change.
    pub modified: i64,
    /// Number of changes since its creation.
    pub version: i64,
    /// Its lease; 0 is none.
    pub lease: i64,
}

/// Which keys: one, or all from `start` up to `end` (exclusive; `[0]` is "all that follow").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The key, or the first of them.
    pub start: Vec<u8>,
    /// End of the range; none means the one key.
    pub end: Option<Vec<u8>>,
}

impl KeyRange {
    /// Exactly this key.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self {
            start: key.into(),
            end: None,
        }
    }

    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self {
            start: prefix.as_bytes().to_vec(),
            end: Some(manifests::keys::prefix_end(prefix)),
        }
    }

    /// The key lies in the range.
    pub fn contains(&self, key: &str) -> bool {
        let key = key.as_bytes();
        match &self.end {
            None => key == self.start,
            Some(end) => key >= self.start.as_slice() && (end == b"\0" || key < end.as_slice()),
        }
    }

    /// From `start` up to, and without, `end`.
    pub fn range(start: impl Into<Vec<u8>>, end: impl Into<Vec<u8>>) -> Self {
        Self {
            start: start.into(),
            end: Some(end.into()),
        }
    }
}

/// What a guard looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Number of changes; 0 if the key is absent.
    Version(i64),
    /// Revision of creation; 0 if absent.
    Created(i64),
    /// Revision of the last change; 0 if absent.
    Modified(i64),
    /// The value; false if absent.
    Value(Vec<u8>),
}

/// How a guard compares what etcd has with the given value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// etcd's is greater.
    Greater,
    /// etcd's is less.
    Less,
}

/// A guard. Over a range it holds if it holds for every key there; where there is none, if it holds for zeros (and a
/// value never).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Which keys.
    pub keys: KeyRange,
    /// How.
    pub relation: Relation,
    /// What.
    pub target: Target,
}

impl Compare {
    /// The key is as it was at its last change.
    pub fn modified(key: impl ToString, rev: ModRev) -> Self {
        Self::new(
            KeyRange::key(key.to_string()),
            Relation::Equal,
            Target::Modified(rev.0),
        )
    }

    /// The key does not exist.
    pub fn absent(key: impl ToString) -> Self {
        Self::new(
            KeyRange::key(key.to_string()),
            Relation::Equal,
            Target::Version(0),
        )
    }

    /// No key exists in the range.
    pub fn none_in(keys: KeyRange) -> Self {
        Self::new(keys, Relation::Equal, Target::Created(0))
    }

    /// Any guard.
    pub fn new(keys: KeyRange, relation: Relation, target: Target) -> Self {
        Self {
            keys,
            relation,
            target,
        }
    }
}

/// A step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Write a key, on a lease or (0) on none.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease, or 0.
        lease: i64,
    },
    /// Delete keys.
    Delete(KeyRange),
    /// Read keys.
    Get(KeyRange),
    /// Read the first key of a range, without its value: is there any?
    First(KeyRange),
    /// A transaction of its own; its guards see the store as before the whole.
    Txn(Txn),
}

impl Op {
    /// Write a key without a lease.
    pub fn put(key: impl ToString, value: impl Into<Vec<u8>>) -> Self {
        Self::Put {
            key: key.to_string(),
            value: value.into(),
            lease: 0,
        }
    }

    /// Write a record as JSON without a lease.
    pub fn put_json(key: impl ToString, value: &impl serde::Serialize) -> Self {
        Self::put(
            key,
            serde_json::to_vec(value).expect("records always serialize"),
        )
    }

    /// Delete one key.
    pub fn delete(key: impl ToString) -> Self {
        Self::Delete(KeyRange::key(key.to_string()))
    }
}

/// If all guards hold, `then`, else `otherwise`; at once, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// The guards.
    pub guards: Vec<Compare>,
    /// What is done if they hold.
    pub then: Vec<Op>,
    /// What is done if not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// A transaction that does nothing if a guard fails.
    pub fn new(guards: Vec<Compare>, then: Vec<Op>) -> Self {
        Self {
            guards,
            then,
            otherwise: Vec::new(),
        }
    }

    /// Nothing is written, whichever branch runs.
    pub fn only_reads(&self) -> bool {
        self.then.iter().chain(&self.otherwise).all(|op| match op {
            Op::Get(_) | Op::First(_) => true,
            Op::Txn(txn) => txn.only_reads(),
            Op::Put { .. } | Op::Delete(_) => false,
        })
    }
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnReply {
    /// All guards held.
    pub succeeded: bool,
    /// The store's revision after it.
    pub revision: i64,
    /// One reply for each step of the branch that ran.
    pub replies: Vec<OpReply>,
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpReply {
    /// Written.
    Put,
    /// Deleted: how many.
    Delete(i64),
    /// Read, in order of key.
    Get(Vec<KeyValue>),
    /// The inner transaction.
    Txn(TxnReply),
}

/// What a range read found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeReply {
    /// In order of key.
    pub kvs: Vec<KeyValue>,
    /// The store's revision at the read.
    pub revision: i64,
    /// There are more in the range than the limit let through.
    pub more: bool,
    /// How many keys are in the range, whatever limit and filter say.
    pub count: i64,
}

/// A range read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Which keys.
    pub keys: KeyRange,
    /// At which revision; 0 is the newest.
    pub revision: i64,
    /// At most so many; 0 is no limit.
    pub limit: i64,
    /// Answered by one member from what it has, which may be old.
    pub serializable: bool,
    /// Without values.
    pub keys_only: bool,
    /// Only keys whose last change is of this revision or a later one; 0 is no filter.
    pub min_modified: i64,
    /// Nothing but `RangeReply::count`.
    pub count_only: bool,
}

impl Range {
    /// The newest state of these keys, linearizable.
    pub fn new(keys: KeyRange) -> Self {
        Self {
            keys,
            revision: 0,
            limit: 0,
            serializable: false,
            keys_only: false,
            min_modified: 0,
            count_only: false,
        }
    }

    /// The one key, linearizable.
    pub fn key(key: impl ToString) -> Self {
        Self::new(KeyRange::key(key.to_string()))
    }
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Put.
    Put {
        /// The key as it is now.
        now: KeyValue,
        /// As it was, if it was and the watch asked for it.
        before: Option<KeyValue>,
    },
    /// Deleted, also by the end of a lease.
    Delete {
        /// The key.
        key: String,
        /// Revision of the deletion.
        modified: i64,
        /// As it was, if the watch asked for it.
        before: Option<KeyValue>,
    },
}

impl Event {
    /// The key.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { now, .. } => &now.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn modified(&self) -> i64 {
        match self {
            Self::Put { now, .. } => now.modified,
            Self::Delete { modified, .. } => *modified,
        }
    }
}

/// What a watch says. Responses never split a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchReply {
    /// All events of one or more revisions, in order; the header's revision.
    Events(Vec<Event>, i64),
    /// No event up to this revision (answer to a progress request or periodic). Counts for freshness only.
    Progress(i64),
    /// The asked revision is compacted; the oldest that is left. The watch has ended.
    Compacted(i64),
    /// The stream ended; why.
    Closed(String),
}

/// Why etcd could not be asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KvError {
    /// No answer in time, or no connection. The write may or may not have happened.
    #[error("etcd does not answer")]
    Unavailable(#[source] std::sync::Arc<dyn std::error::Error + Send + Sync>),
    /// The revision asked for is compacted.
    #[error("the revision is compacted")]
    Compacted,
    /// The lease does not exist (any more).
    #[error("the lease is gone")]
    LeaseNotFound,
    /// Its alarm NOSPACE stands: puts and new leases are refused; deletions, keep-alives and nested transactions are not.
    #[error("{}: it takes nothing but deletions", Alarm::NoSpace)]
    NoSpace,
    /// etcd answered that it won't (no permission, too large …).
    #[error("etcd refused: {0}")]
    Refused(String),
}

/// Why etcd refuses writes, all over its cluster, until somebody has cleared it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// Its database has reached `--quota-backend-bytes`.
    #[error("etcd is out of space (alarm NOSPACE)")]
    NoSpace,
    /// Its members have different data.
    #[error("etcd's members have different data (alarm CORRUPT)")]
    Corrupt,
}
