//! Carries the plan's writes out: each as a transaction with its guards, several at once in one.

use manifests::keys::{self, Key};
use manifests::{HostName, SlotId};
use model::records::Status;
use model::{Rules, Write};
use store::Kv;
use store::claims::{self, Batch};
use store::kv::{KeyRange, Range};

use model::error::chain;

/// Writes that go to etcd together.
pub(crate) struct Group {
    batch: Batch,
    writes: Vec<Write>,
}

/// Packs writes into as few requests as etcd takes.
pub(crate) fn batches(writes: Vec<Write>) -> Vec<Group> {
    let rules = Rules::default();
    let txns = writes.iter().map(|w| claims::txn(w, rules)).collect();
    let mut left: Vec<Option<Write>> = writes.into_iter().map(Some).collect();
    claims::batch(txns, rules)
        .into_iter()
        .map(|batch| Group {
            writes: batch
                .carries
                .iter()
                .filter_map(|position| left.get_mut(*position)?.take())
                .collect(),
            batch,
        })
        .collect()
}

/// Sends one group. For each write: whether its guards held, none without an answer; and the store's revision.
pub(crate) async fn carry_out(kv: &dyn Kv, group: Group) -> (Vec<(Write, Option<bool>)>, i64) {
    let Group { batch, writes } = group;
    match kv.txn(batch.txn.clone()).await {
        Ok(reply) => {
            let revision = reply.revision;
            let mut held = vec![None; writes.len()];
            for (answer, (_, reply)) in held.iter_mut().zip(batch.results(reply)) {
                *answer = Some(reply.succeeded);
            }
            (writes.into_iter().zip(held).collect(), revision)
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), writes = writes.len(), "etcd did not take what was to be written; it is tried again");
            (writes.into_iter().map(|w| (w, None)).collect(), 0)
        }
    }
}

/// What an earlier agent of this host said of its slots. Without an answer it is said again, and nothing else is lost.
pub(crate) async fn statuses(kv: &dyn Kv, host: &HostName) -> Vec<(SlotId, Status)> {
    match kv.range(Range::new(KeyRange::prefix(keys::STATUS))).await {
        Ok(reply) => reply
            .kvs
            .iter()
            .filter_map(|kv| match Key::parse(&kv.key) {
                Some(Key::Status(slot)) => Some((slot, serde_json::from_slice(&kv.value).ok()?)),
                _ => None,
            })
            .filter(|(_, status): &(SlotId, Status)| status.host == *host)
            .collect(),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the earlier status of slots can't be read");
            Vec::new()
        }
    }
}
