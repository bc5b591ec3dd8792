//! One host's way to etcd: it counts what is written, and a test cuts it, holds it up, or loses answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use store::kv::{
    KeyRange, Kv, KvError, Op, OpReply, Range, RangeReply, Status, Txn, TxnReply, Watch, WatchReply,
};
use store::memory::MemKv;
use tokio::sync::{mpsc, watch};

/// A transaction that was asked for and would change something.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// What it would write or delete.
    pub(crate) keys: Vec<String>,
    /// Its guards held.
    pub(crate) held: bool,
}

/// The way of one host to etcd.
pub(crate) struct Wire {
    kv: MemKv,
    cut: watch::Sender<bool>,
    held_up: watch::Sender<bool>,
    /// Writes of slots and versions whose answers are still to be lost.
    lose: AtomicU32,
    asked: Mutex<Vec<Asked>>,
}

impl Wire {
    pub(crate) fn new(kv: MemKv) -> Self {
        Self {
            kv,
            cut: watch::channel(false).0,
            held_up: watch::channel(false).0,
            lose: AtomicU32::new(0),
            asked: Mutex::default(),
        }
    }

    /// No call is answered any more, and streams break; or all is well again.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    /// Writes wait before they reach etcd; or they go on. Leases are kept.
    pub(crate) fn hold_up(&self, hold: bool) {
        self.held_up.send_replace(hold);
    }

    /// The next writes under `/claims` are carried out, but their answers are lost.
    pub(crate) fn lose_answers(&self, writes: u32) {
        self.lose.store(writes, Ordering::SeqCst);
    }

    /// How many answers are still to be lost.
    pub(crate) fn answers_to_lose(&self) -> u32 {
        self.lose.load(Ordering::SeqCst)
    }

    /// What was asked so far, nested transactions one by one, without the host's own record.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log().clone()
    }

    fn log(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> Result<(), KvError> {
        if *self.cut.borrow() {
            return Err(lost("the wire is cut"));
        }
        Ok(())
    }

    fn note(&self, txn: &Txn, reply: &TxnReply) {
        let done = if reply.succeeded {
            &txn.then
        } else {
            &txn.otherwise
        };
        let mut replies = reply.replies.iter();
        for op in done {
            if let (Op::Txn(inner), Some(OpReply::Txn(reply))) = (op, replies.next()) {
                self.note(inner, reply);
            }
        }
        let keys: Vec<String> = written(txn);
        if !keys.is_empty() && !keys.iter().any(|key| key.starts_with("/hosts/")) {
            self.log().push(Asked {
                keys,
                held: reply.succeeded,
            });
        }
    }
}

fn written(txn: &Txn) -> Vec<String> {
    txn.then
        .iter()
        .filter_map(|op| match op {
            Op::Put { key, .. } => Some(key.clone()),
            Op::Delete(keys) => Some(String::from_utf8_lossy(&keys.start).into_owned()),
            Op::Get(_) | Op::First(_) | Op::Txn(_) => None,
        })
        .collect()
}

fn changes_claims(txn: &Txn) -> bool {
    txn.then.iter().any(|op| match op {
        Op::Put { key, .. } => key.starts_with("/claims/"),
        Op::Txn(inner) => changes_claims(inner),
        Op::Delete(_) | Op::Get(_) | Op::First(_) => false,
    })
}

fn lost(why: &'static str) -> KvError {
    KvError::Unavailable(Arc::new(std::io::Error::other(why)))
}

#[async_trait]
impl Kv for Wire {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError> {
        if changes_claims(&txn) {
            let mut held_up = self.held_up.subscribe();
            // The sender is here: it can't be gone.
            let _ = held_up.wait_for(|held| !held).await;
        }
        self.answer()?;
        let reply = self.kv.txn(txn.clone()).await?;
        self.note(&txn, &reply);
        if changes_claims(&txn) {
            let fewer = |n: u32| n.checked_sub(1);
            if self
                .lose
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer)
                .is_ok()
            {
                return Err(lost("the answer is lost"));
            }
        }
        Ok(reply)
    }

    async fn range(&self, range: Range) -> Result<RangeReply, KvError> {
        self.answer()?;
        self.kv.range(range).await
    }

    async fn watch(&self, keys: KeyRange, from: i64, previous: bool) -> Result<Watch, KvError> {
        self.answer()?;
        let mut inner = self.kv.watch(keys, from, previous).await?;
        let (sender, replies) = mpsc::channel(64);
        let progress = inner.progress.clone();
        let mut cut = self.cut.subscribe();
        tokio::spawn(async move {
            loop {
                let reply = tokio::select! {
                    _ = cut.wait_for(|cut| *cut) => WatchReply::Closed("the wire is cut".into()),
                    () = sender.closed() => return,
                    reply = inner.replies.recv() => match reply {
                        Some(reply) => reply,
                        None => return,
                    },
                };
                let closed = matches!(reply, WatchReply::Closed(_));
                if sender.send(reply).await.is_err() || closed {
                    return;
                }
            }
        });
        Ok(Watch { replies, progress })
    }

    async fn status(&self) -> Result<Status, KvError> {
        self.answer()?;
        self.kv.status().await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<(i64, Duration), KvError> {
        self.answer()?;
        self.kv.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(Duration, i64), KvError> {
        self.answer()?;
        self.kv.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), KvError> {
        self.answer()?;
        self.kv.lease_revoke(lease).await
    }
}
