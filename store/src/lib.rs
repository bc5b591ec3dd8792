//! etcd v3: what the agent reads from it and writes to it.
//!
//! `Kv` is the narrow seam: transactions, ranges, watches and leases as plain
//! values. `etcd` carries them out on a real etcd, `memory` in memory; one
//! battery of tests runs against both. On top stand the `view` (list, then
//! watch), the `host`'s record on its lease, `claims`, the guarded transactions by
//! which slots change hands, `settle`, which finds out whether a write happened, and
//! `skydns`, the records of others in DNS.

pub mod alarm;
pub mod claims;
pub mod etcd;
pub mod host;
pub mod kv;
#[cfg(feature = "testing")]
pub mod memory;
pub mod pace;
pub mod settle;
pub mod skydns;
pub mod state_file;
pub mod view;

pub use kv::{Alarm, Compare, Kv, KvError, Op, OpReply, Txn, TxnReply};
