//! The `Kv` trait over the etcd in memory, with faults that a test switches on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use model::Millis;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{MemEtcd, WatchId};
use crate::kv::{
    Alarm, KeyRange, Kv, KvError, Op, Range, RangeReply, Status, Txn, TxnReply, Watch, WatchReply,
};

/// How often leases are looked at.
const TICK: Duration = Duration::from_millis(20);

/// A client of an etcd in memory. Clones share it; the clock is tokio's.
#[derive(Debug, Clone)]
pub struct MemKv(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    etcd: Mutex<MemEtcd>,
    /// Counts what may have given watches something.
    changes: watch::Sender<u64>,
    start: Instant,
    unavailable: AtomicBool,
    silent: AtomicBool,
    lose_answer: AtomicBool,
    no_space: AtomicBool,
}

impl Default for MemKv {
    fn default() -> Self {
        Self::new()
    }
}

impl MemKv {
    /// An empty etcd. Needs a tokio runtime, on which leases end.
    pub fn new() -> Self {
        let inner = Arc::new(Inner {
            etcd: Mutex::new(MemEtcd::new()),
            changes: watch::channel(0).0,
            start: Instant::now(),
            unavailable: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            lose_answer: AtomicBool::new(false),
            no_space: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&inner);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let Some(inner) = weak.upgrade() else { return };
                inner.change(|_| ());
            }
        });
        Self(inner)
    }

    /// Works on the etcd itself: compaction, a restore (`*etcd = snapshot`), a look.
    pub fn with<T>(&self, work: impl FnOnce(&mut MemEtcd) -> T) -> T {
        self.0.change(work)
    }

    /// No call is answered, and streams break.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.0.unavailable.store(unavailable, Ordering::SeqCst);
        if unavailable {
            self.0.change(|etcd| etcd.close_watches("unavailable"));
        }
    }

    /// Watches can be opened, but say nothing more, not even their progress, as those of a member without quorum.
    pub fn set_silent(&self, silent: bool) {
        self.0.silent.store(silent, Ordering::SeqCst);
        self.0.change(|_| ());
    }

    /// Its alarm NOSPACE stands.
    pub fn set_no_space(&self, no_space: bool) {
        self.0.no_space.store(no_space, Ordering::SeqCst);
    }

    /// The next transaction that is no mere read is carried out, but its answer is lost.
    pub fn lose_next_answer(&self) {
        self.0.lose_answer.store(true, Ordering::SeqCst);
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, MemEtcd> {
        self.etcd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, work: impl FnOnce(&mut MemEtcd) -> T) -> T {
        let mut etcd = self.lock();
        etcd.advance(Millis(self.start.elapsed().as_millis() as u64));
        let result = work(&mut etcd);
        drop(etcd);
        self.changes.send_modify(|count| *count += 1);
        result
    }

    fn answer(&self) -> Result<(), KvError> {
        if self.unavailable.load(Ordering::SeqCst) {
            return Err(unavailable());
        }
        Ok(())
    }

    fn takes_puts(&self) -> Result<(), KvError> {
        if self.no_space.load(Ordering::SeqCst) {
            return Err(KvError::NoSpace);
        }
        Ok(())
    }
}

/// It may put something. etcd looks at both branches, and not into nested transactions.
fn puts(txn: &Txn) -> bool {
    let puts = |op: &Op| matches!(op, Op::Put { .. });
    txn.then.iter().chain(&txn.otherwise).any(puts)
}

fn unavailable() -> KvError {
    KvError::Unavailable(Arc::new(std::io::Error::other("switched off by the test")))
}

#[async_trait]
impl Kv for MemKv {
    async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError> {
        self.0.answer()?;
        if puts(&txn) {
            self.0.takes_puts()?;
        }
        let reply = self.0.change(|etcd| etcd.txn(&txn));
        if !txn.only_reads() && self.0.lose_answer.swap(false, Ordering::SeqCst) {
            return Err(unavailable());
        }
        reply
    }

    async fn range(&self, range: Range) -> Result<RangeReply, KvError> {
        self.0.answer()?;
        self.0.change(|etcd| etcd.range(&range))
    }

    async fn watch(&self, keys: KeyRange, from: i64, previous: bool) -> Result<Watch, KvError> {
        self.0.answer()?;
        // As many replies as a reader may be behind; the rest waits in the etcd's own queue.
        let (sender, replies) = mpsc::channel(64);
        let (progress, asked) = mpsc::channel(1);
        let changes = self.0.changes.subscribe();
        let id = self.0.change(|etcd| etcd.watch(keys, from, previous));
        tokio::spawn(pump(self.0.clone(), id, sender, asked, changes));
        Ok(Watch { replies, progress })
    }

    async fn status(&self) -> Result<Status, KvError> {
        self.0.answer()?;
        Ok(self.0.change(|etcd| Status {
            cluster_id: 1,
            member_id: 1,
            leader: 1,
            version: "3.4.23".to_owned(),
            raft_term: 1,
            raft_index: etcd.revision().unsigned_abs(),
            alarm: self.0.takes_puts().err().map(|_| Alarm::NoSpace),
        }))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<(i64, Duration), KvError> {
        self.0.answer()?;
        self.0.takes_puts()?;
        Ok(self.0.change(|etcd| etcd.lease_grant(ttl)))
    }

    async fn lease_keep_alive(&self, lease: i64) -> Result<(Duration, i64), KvError> {
        self.0.answer()?;
        self.0.change(|etcd| etcd.lease_keep_alive(lease))
    }

    async fn lease_revoke(&self, lease: i64) -> Result<(), KvError> {
        self.0.answer()?;
        self.0.change(|etcd| etcd.lease_revoke(lease))
    }
}

/// Moves replies from the etcd's queue to the watch's reader, until that has gone.
async fn pump(
    inner: Arc<Inner>,
    id: WatchId,
    sender: mpsc::Sender<WatchReply>,
    mut asked: mpsc::Receiver<()>,
    mut changes: watch::Receiver<u64>,
) {
    loop {
        changes.mark_unchanged();
        while !inner.silent.load(Ordering::SeqCst) {
            let Some(reply) = inner.lock().poll(id) else {
                break;
            };
            let ends = matches!(reply, WatchReply::Compacted(_) | WatchReply::Closed(_));
            if sender.send(reply).await.is_err() || ends {
                inner.lock().cancel(id);
                return;
            }
        }
        tokio::select! {
            () = sender.closed() => {
                inner.lock().cancel(id);
                return;
            }
            Some(()) = asked.recv() => inner.lock().progress(id),
            _ = changes.changed() => {}
        }
    }
}
