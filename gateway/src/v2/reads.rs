//! Reads of etcd: what is asked for at the same time goes in one request.
//!
//! A request costs etcd and this process about as much as fifty keys that are
//! read with it. While one is under way, reads wait for the next.
//!
//! Invariant: a read is sent after it was asked for, so it sees all that was
//! written before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use store::kv::{Kv, KvError, Op, Txn, TxnReply};
use tokio::sync::oneshot;

/// etcd takes 128; those of a very deep key are nested, and three more.
const MAX_OPS: usize = 120;

/// Reads of an etcd. Clones share its requests.
#[derive(Clone)]
pub(super) struct Reads {
    kv: Arc<dyn Kv>,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Read>,
    under_way: bool,
}

struct Read {
    ops: Vec<Op>,
    answer: oneshot::Sender<Result<TxnReply, KvError>>,
}

impl Reads {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        Self {
            kv,
            queue: Arc::default(),
        }
    }

    /// Reads at one revision, which is the newest.
    pub(super) async fn read(&self, ops: Vec<Op>) -> Result<TxnReply, KvError> {
        let (answer, told) = oneshot::channel();
        let begins = {
            let mut queue = self.queue();
            queue.waiting.push_back(Read { ops, answer });
            !std::mem::replace(&mut queue.under_way, true)
        };
        if begins {
            // Not by this request, whose client may go.
            tokio::spawn(Sender(self.clone()).run());
        }
        told.await
            .unwrap_or_else(|gone| Err(KvError::Unavailable(Arc::new(gone))))
    }

    /// What goes in the next request; if nothing, none is under way.
    fn next(&self) -> Option<Vec<Read>> {
        let mut queue = self.queue();
        let mut batch: Vec<Read> = Vec::new();
        let mut ops = 0;
        while let Some(read) = queue.waiting.front() {
            ops += read.ops.len();
            if ops > MAX_OPS && !batch.is_empty() {
                break;
            }
            batch.extend(queue.waiting.pop_front());
        }
        if batch.is_empty() {
            queue.under_way = false;
            return None;
        }
        Some(batch)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it is held")
    }
}

/// The task that sends requests, one after the other.
struct Sender(Reads);

impl Sender {
    /// Sends what waits, until nothing does.
    async fn run(self) {
        let Self(reads) = &self;
        loop {
            // Those whose answer has just been told, and those that have just come, ask before this goes on: with
            // sixteen clients, twice as many share a request.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let Some(batch) = reads.next() else { return };
            let ops = batch.iter().flat_map(|read| read.ops.iter().cloned());
            let txn = Txn::new(Vec::new(), ops.collect());
            match reads.kv.txn(txn).await {
                Ok(reply) => tell(batch, reply),
                Err(error) => {
                    // All endpoints were tried: who has waited meanwhile would wait as long again.
                    let waiting = std::mem::take(&mut reads.queue().waiting);
                    for read in batch.into_iter().chain(waiting) {
                        read.answer.send(Err(error.clone())).ok();
                    }
                }
            }
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        // Reads to come must not wait for it for ever.
        if std::thread::panicking() {
            *self.0.queue() = Queue::default();
        }
    }
}

/// Each read's part of the answer.
fn tell(batch: Vec<Read>, reply: TxnReply) {
    let mut replies = reply.replies.into_iter();
    for read in batch {
        let own = TxnReply {
            succeeded: true,
            revision: reply.revision,
            replies: replies.by_ref().take(read.ops.len()).collect(),
        };
        read.answer.send(Ok(own)).ok();
    }
}
