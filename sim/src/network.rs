//! Calls to etcd on their way, and what of the network a host has.

use std::time::Duration;

use store::claims::WriteBatch;
use store::kv::{KvError, Range, RangeReply, Txn, TxnReply};
use store::memory::WatchId;

use crate::members::Life;

/// What of the network a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// Its calls reach etcd.
    pub there: bool,
    /// The answers reach it.
    pub back: bool,
    /// What its stream says reaches it.
    pub streams: bool,
}

impl Net {
    /// All of it.
    pub const WHOLE: Self = Self {
        there: true,
        back: true,
        streams: true,
    };
}

/// Who in an agent asks.
#[derive(Debug, Clone)]
pub enum Asker {
    /// Its view.
    View,
    /// Its agent, with writes planned from a view at `seen`.
    Writes {
        /// The writes.
        batch: WriteBatch,
        /// The revision of the view.
        seen: i64,
    },
    /// Its agent, for what an earlier one said.
    Statuses,
    /// Its host's record.
    Host,
    /// Its lease.
    KeepAlive(i64),
}

impl Asker {
    /// It asks the member that the streams go to; the others ask any.
    pub fn asks_a_member(&self) -> bool {
        matches!(self, Self::View | Self::KeepAlive(_))
    }
}

/// What is asked of etcd.
#[derive(Debug, Clone)]
pub enum Request {
    /// A transaction.
    Txn(Txn),
    /// A read.
    Range(Range),
    /// A new stream from a revision.
    Watch(i64),
    /// A lease.
    Grant(Duration),
    /// A keep-alive.
    KeepAlive(i64),
    /// The end of a lease.
    Revoke(i64),
}

/// What etcd answered.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Of a transaction.
    Txn(TxnReply),
    /// Of a read.
    Range(RangeReply),
    /// A stream, and whose.
    Watch(WatchId, Life),
    /// A lease and its time.
    Granted(i64, Duration),
    /// The lease lives on; the store's revision.
    Kept(i64),
    /// It is done.
    Done,
}

/// An answer, or none.
pub type Answered = Result<Reply, KvError>;

/// No answer came in time.
pub fn unavailable() -> KvError {
    KvError::Unavailable(std::sync::Arc::new(std::io::Error::other("cut off")))
}
