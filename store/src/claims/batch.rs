//! Several guarded transactions in one: an outer one without guards, and each of them nested.
//!
//! Each keeps its own guard, so losers fail alone; guards see the store as
//! before the whole. etcd refuses a transaction that names a key twice, even in
//! a loser, so a transaction that shares a written key goes into another batch.

use model::write::MAX_OPS;
use model::{Rule, Rules};

use crate::kv::{KeyRange, Op, OpReply, Txn, TxnReply};

/// Transactions in one batch: with the next limit this fills etcd's 128 operations a transaction.
const MAX_TXNS: usize = 100;
/// Bytes in one batch; etcd refuses requests above 1.5 MiB.
const MAX_BYTES: usize = 1 << 20;

/// A transaction to send, and which of the given ones it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What to send.
    pub txn: Txn,
    /// Position of each nested transaction among those given to `batch`, in order.
    pub carries: Vec<usize>,
    nested: bool,
}

impl Batch {
    /// What came of each: its position among those given, and its own reply.
    pub fn results(&self, reply: TxnReply) -> Vec<(usize, TxnReply)> {
        if !self.nested {
            return self
                .carries
                .iter()
                .copied()
                .map(|i| (i, reply.clone()))
                .collect();
        }
        let inner = reply.replies.into_iter().filter_map(|reply| match reply {
            OpReply::Txn(reply) => Some(reply),
            _ => None,
        });
        self.carries.iter().copied().zip(inner).collect()
    }
}

/// Packs transactions into as few as etcd takes. Those that write the same key stay in the order given.
pub fn batch(txns: Vec<Txn>, rules: Rules) -> Vec<Batch> {
    let mut open: Vec<Pack> = Vec::new();
    let mut done: Vec<Batch> = Vec::new();
    for (position, txn) in txns.into_iter().enumerate() {
        let writes: Vec<KeyRange> = writes(&txn);
        let bytes = size(&txn);
        if too_big(&txn) {
            // It can't be nested; what came before it goes before it.
            done.extend(open.drain(..).map(|pack| pack.close(rules)));
            done.push(Batch {
                txn,
                carries: vec![position],
                nested: false,
            });
            continue;
        }
        // After the last pack that writes one of its keys.
        let first = open
            .iter()
            .rposition(|pack| pack.clashes(&writes))
            .map_or(0, |last| last + 1);
        let fits = (first..open.len()).find(|i| open[*i].has_room(bytes));
        let pack = if let Some(fits) = fits {
            &mut open[fits]
        } else {
            open.push(Pack::default());
            open.last_mut().expect("just pushed")
        };
        pack.txns.push((position, txn));
        pack.writes.extend(writes);
        pack.bytes += bytes;
    }
    done.extend(open.into_iter().map(|pack| pack.close(rules)));
    done
}

#[derive(Default)]
struct Pack {
    txns: Vec<(usize, Txn)>,
    writes: Vec<KeyRange>,
    bytes: usize,
}

impl Pack {
    fn clashes(&self, writes: &[KeyRange]) -> bool {
        writes
            .iter()
            .any(|new| self.writes.iter().any(|old| overlap(old, new)))
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.txns.len() < MAX_TXNS && self.bytes + bytes <= MAX_BYTES
    }

    fn close(mut self, rules: Rules) -> Batch {
        if self.txns.len() == 1 {
            let (position, txn) = self.txns.remove(0);
            return Batch {
                txn,
                carries: vec![position],
                nested: false,
            };
        }
        let carries = self.txns.iter().map(|(position, _)| *position).collect();
        if !rules.has(Rule::NestedBatch) {
            let then = self
                .txns
                .into_iter()
                .flat_map(|(_, txn)| txn.then)
                .collect();
            return Batch {
                txn: Txn::new(Vec::new(), then),
                carries,
                nested: false,
            };
        }
        let inner = self.txns.into_iter().map(|(_, txn)| Op::Txn(txn)).collect();
        Batch {
            txn: Txn::new(Vec::new(), inner),
            carries,
            nested: true,
        }
    }
}

fn too_big(txn: &Txn) -> bool {
    let most = txn
        .guards
        .len()
        .max(txn.then.len())
        .max(txn.otherwise.len());
    most > MAX_OPS
}

/// What either branch writes or deletes.
fn writes(txn: &Txn) -> Vec<KeyRange> {
    let mut found = Vec::new();
    for op in txn.then.iter().chain(&txn.otherwise) {
        match op {
            Op::Put { key, .. } => found.push(KeyRange::key(key.as_str())),
            Op::Delete(keys) => found.push(keys.clone()),
            Op::Get(_) | Op::First(_) => {}
            Op::Txn(inner) => found.extend(writes(inner)),
        }
    }
    found
}

fn size(txn: &Txn) -> usize {
    let of_op = |op: &Op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete(keys) | Op::Get(keys) | Op::First(keys) => keys.start.len() * 2,
        Op::Txn(inner) => size(inner),
    };
    let guards: usize = txn.guards.iter().map(|g| g.keys.start.len() * 2 + 64).sum();
    let ops = txn.then.iter().chain(&txn.otherwise);
    guards + ops.map(|op| of_op(op) + 32).sum::<usize>()
}

fn overlap(a: &KeyRange, b: &KeyRange) -> bool {
    before_end(&a.start, b) && before_end(&b.start, a)
}

/// The key is not after the range.
fn before_end(key: &[u8], range: &KeyRange) -> bool {
    match &range.end {
        None => key <= range.start.as_slice(),
        Some(end) => end == b"\0" || key < end.as_slice(),
    }
}
