//! The transactions that guarded writes are, and how several of them travel in one.
//!
//! Pure: values in, `Txn` out. A claim's mod revision numbers the ownership; what is written in the owner's name is
//! guarded by it, so a plan made from an old view fails instead of harming.

mod batch;
mod pack;

use manifests::keys::{self, Key};
use model::write::{Guard, Write, WriteOp};
use model::{Rule, Rules};

pub use batch::{Batch, batch};
pub use pack::{WriteBatch, pack};

use crate::kv::{Compare, KeyRange, Relation, Target, Txn};

/// The transaction that a write is, by these rules.
pub fn txn(write: &Write, rules: Rules) -> Txn {
    let changed = rules
        .left_out()
        .map(|rule: Rule| write.clone().without(rule));
    let write = changed.as_ref().unwrap_or(write);
    Txn::new(
        write.guards.iter().flat_map(compares).collect(),
        write.ops.iter().map(WriteOp::op).collect(),
    )
}

fn compares(guard: &Guard) -> Vec<Compare> {
    match guard {
        Guard::Seen(key, rev) => vec![Compare::modified(key, *rev)],
        Guard::NoRecord(host) => vec![Compare::absent(Key::HostRecord(host.clone()))],
        Guard::VoidNext(slot, next) => vec![
            Compare::modified(Key::Next(slot.clone()), next.rev),
            Compare::absent(Key::HostRecord(next.host.clone())),
        ],
        Guard::NoSlots(container) => {
            vec![Compare::none_in(KeyRange::prefix(&keys::slots_of(
                container,
            )))]
        }
        Guard::Cluster(cluster) => vec![Compare::new(
            KeyRange::key(Key::Cluster.to_string()),
            Relation::Equal,
            Target::Value(serde_json::to_vec(cluster).expect("records always serialize")),
        )],
    }
}
