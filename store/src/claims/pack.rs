//! Writes on their way to etcd: as few requests as it takes, and for each write whether its guards held.

use model::{Rules, Write};

use super::{Batch, batch, txn};
use crate::kv::{Txn, TxnReply};

/// Writes that travel in one transaction.
#[derive(Debug, Clone)]
pub struct WriteBatch {
    batch: Batch,
    writes: Vec<Write>,
}

/// Packs writes into as few requests as etcd takes.
pub fn pack(writes: Vec<Write>, rules: Rules) -> Vec<WriteBatch> {
    let txns = writes.iter().map(|write| txn(write, rules)).collect();
    let mut left: Vec<Option<Write>> = writes.into_iter().map(Some).collect();
    let mut take = |position: &usize| left.get_mut(*position)?.take();
    batch(txns, rules)
        .into_iter()
        .map(|batch| WriteBatch {
            writes: batch.carries.iter().filter_map(&mut take).collect(),
            batch,
        })
        .collect()
}

impl WriteBatch {
    /// What is sent.
    pub fn txn(&self) -> &Txn {
        &self.batch.txn
    }

    /// Its writes.
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// For each write whether its guards held; none without an answer.
    pub fn answered(self, reply: Option<TxnReply>) -> Vec<(Write, Option<bool>)> {
        let mut held = vec![None; self.writes.len()];
        let results = reply.map(|reply| self.batch.results(reply));
        for (answer, (_, reply)) in held.iter_mut().zip(results.into_iter().flatten()) {
            *answer = Some(reply.succeeded);
        }
        self.writes.into_iter().zip(held).collect()
    }
}
