//! Reads of etcd: what is asked for at the same time goes in one request.
//!
//! A request costs etcd and this process about as much as fifty keys that are
//! read with it. While one is under way, reads wait for the next.
//!
//! Invariant: a read is sent after it was asked for, so it sees all that was
//! written before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::future::join_all;
use store::kv::{Kv, KvError, Op, Txn, TxnReply};
use tokio::sync::oneshot;

/// Forty keys' worth; etcd takes 128.
const MAX_OPS: usize = 120;

/// Of keys in one request: etcd refuses one above 2 MiB.
const MAX_KEY_BYTES: usize = 512 << 10;

/// With more that wait, those whose client has gone are looked for: while etcd hangs, nothing is sent.
const MANY: usize = 512;

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
        // etcd writes nested reads to its log, and all that share a request with them.
        if ops.iter().any(|op| matches!(op, Op::Txn(_))) {
            return self.send(ops).await;
        }
        let (answer, told) = oneshot::channel();
        let begins = {
            let mut queue = self.queue();
            if queue.waiting.len() > MANY {
                queue.waiting.retain(|read| !read.answer.is_closed());
            }
            queue.waiting.push_back(Read { ops, answer });
            !std::mem::replace(&mut queue.under_way, true)
        };
        if begins {
            // Not by this request, whose client may go.
            tokio::spawn(Batches(self.clone()).run());
        }
        told.await
            .unwrap_or_else(|gone| Err(KvError::Unavailable(Arc::new(gone))))
    }

    /// What goes in the next request; if nothing, none is under way.
    fn next(&self) -> Option<Vec<Read>> {
        let mut queue = self.queue();
        let mut batch: Vec<Read> = Vec::new();
        let (mut ops, mut bytes) = (0, 0);
        while let Some(read) = queue.waiting.front() {
            if read.answer.is_closed() {
                queue.waiting.pop_front();
                continue;
            }
            ops += read.ops.len();
            bytes += key_bytes(&read.ops);
            if (ops > MAX_OPS || bytes > MAX_KEY_BYTES) && !batch.is_empty() {
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

    async fn send(&self, ops: Vec<Op>) -> Result<TxnReply, KvError> {
        self.kv.txn(Txn::new(Vec::new(), ops)).await
    }

    /// By a request of its own.
    async fn alone(&self, read: Read) {
        let answer = self.send(read.ops).await;
        read.answer.send(answer).ok();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it is held")
    }
}

/// The task that sends batches, one after the other.
struct Batches(Reads);

impl Batches {
    /// Sends what waits, until nothing does.
    async fn run(self) {
        let Self(reads) = &self;
        let mut failed = false;
        loop {
            // Those whose answer has just been told, and those that have just come, ask before this goes on: with
            // sixteen clients, twice as many share a request.
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            let Some(batch) = reads.next() else { return };
            let ops = batch.iter().flat_map(|read| read.ops.iter().cloned());
            let answer = reads.send(ops.collect()).await;
            let failed_before =
                std::mem::replace(&mut failed, matches!(answer, Err(KvError::Unavailable(_))));
            match answer {
                Ok(reply) => tell(batch, reply),
                // Because of one of them, which the others must not suffer for.
                Err(_) if !failed && batch.len() > 1 => {
                    join_all(batch.into_iter().map(|read| reads.alone(read))).await;
                }
                Err(error) => {
                    let mut untold = VecDeque::from(batch);
                    // All endpoints were tried, twice: who has waited meanwhile would wait as long again.
                    if failed && failed_before {
                        untold.append(&mut reads.queue().waiting);
                    }
                    for read in untold {
                        read.answer.send(Err(error.clone())).ok();
                    }
                }
            }
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        // Reads to come must not wait for it for ever.
        if std::thread::panicking() {
            *self.0.queue() = Queue::default();
        }
    }
}

fn key_bytes(ops: &[Op]) -> usize {
    let of_op = |op: &Op| match op {
        Op::Get(keys) | Op::First(keys) | Op::Delete(keys) => {
            keys.start.len() + keys.end.as_ref().map_or(0, Vec::len)
        }
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Txn(txn) => key_bytes(&txn.then),
    };
    ops.iter().map(of_op).sum()
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use futures_util::FutureExt;
    use store::kv::{KeyRange, OpReply, Range, RangeReply, Status, Watch};

    use super::*;

    type Answers = dyn Fn(&[Op]) -> Result<(), KvError> + Send + Sync;

    /// An etcd that answers transactions as the test says.
    struct Scripted {
        answers: Box<Answers>,
        /// How many operations each had.
        sent: Mutex<Vec<usize>>,
    }

    #[async_trait]
    impl Kv for Scripted {
        async fn txn(&self, txn: Txn) -> Result<TxnReply, KvError> {
            self.sent.lock().expect("a list").push(txn.then.len());
            (self.answers)(&txn.then)?;
            Ok(TxnReply {
                succeeded: true,
                revision: 1,
                replies: vec![OpReply::Get(Vec::new()); txn.then.len()],
            })
        }

        async fn range(&self, _: Range) -> Result<RangeReply, KvError> {
            Err(unavailable())
        }

        async fn watch(&self, _: KeyRange, _: i64, _: bool) -> Result<Watch, KvError> {
            Err(unavailable())
        }

        async fn status(&self) -> Result<Status, KvError> {
            Err(unavailable())
        }

        async fn lease_grant(&self, _: Duration) -> Result<(i64, Duration), KvError> {
            Err(unavailable())
        }

        async fn lease_keep_alive(&self, _: i64) -> Result<(Duration, i64), KvError> {
            Err(unavailable())
        }

        async fn lease_revoke(&self, _: i64) -> Result<(), KvError> {
            Err(unavailable())
        }
    }

    fn unavailable() -> KvError {
        KvError::Unavailable(Arc::new(std::io::Error::other("by the test")))
    }

    fn scripted(
        answers: impl Fn(&[Op]) -> Result<(), KvError> + Send + Sync + 'static,
    ) -> (Reads, Arc<Scripted>) {
        let kv = Arc::new(Scripted {
            answers: Box::new(answers),
            sent: Mutex::default(),
        });
        (Reads::new(kv.clone()), kv)
    }

    fn get(key: &str) -> Op {
        Op::Get(KeyRange::key(key))
    }

    /// Reads all at the same time: how many replies each had.
    async fn read_all(reads: &Reads, asked: Vec<Vec<Op>>) -> Vec<Result<usize, KvError>> {
        let asked = asked.into_iter().map(|ops| reads.read(ops));
        let answers = join_all(asked).await.into_iter();
        answers
            .map(|answer| answer.map(|reply| reply.replies.len()))
            .collect()
    }

    impl Scripted {
        fn sent(&self) -> Vec<usize> {
            self.sent.lock().expect("a list").clone()
        }
    }

    #[tokio::test]
    async fn a_read_that_etcd_refuses_fails_alone() {
        let (reads, kv) = scripted(|ops| {
            if ops.contains(&get("/bad")) {
                return Err(KvError::Refused("permission denied".to_owned()));
            }
            Ok(())
        });
        let asked = vec![
            vec![get("/a"), get("/b")],
            vec![get("/bad")],
            vec![get("/c")],
        ];
        let answers = read_all(&reads, asked).await;
        assert!(
            matches!(answers[..], [Ok(2), Err(KvError::Refused(_)), Ok(1)]),
            "{answers:?}"
        );
        assert_eq!(kv.sent(), [4, 2, 1, 1]);
    }

    #[tokio::test]
    async fn reads_whose_client_has_gone_are_not_sent() {
        let (reads, kv) = scripted(|_| Ok(()));
        for _ in 0..4 * MANY {
            assert!(reads.read(vec![get("/gone")]).now_or_never().is_none());
        }
        assert!(reads.queue().waiting.len() <= MANY + 1);
        let answers = read_all(&reads, vec![vec![get("/a")]]).await;
        assert!(matches!(answers[..], [Ok(1)]), "{answers:?}");
        assert_eq!(kv.sent(), [1]);
    }

    #[tokio::test]
    async fn nested_reads_share_no_request() {
        let (reads, kv) = scripted(|_| Ok(()));
        let nested = Op::Txn(Txn::new(Vec::new(), vec![get("/deep")]));
        let asked = vec![vec![get("/a"); 3], vec![nested; 5], vec![get("/b"); 3]];
        let answers = read_all(&reads, asked).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        assert_eq!(kv.sent(), [5, 6]);
    }

    /// Reads that no two of share a request.
    fn large(count: usize) -> Vec<Vec<Op>> {
        vec![vec![get("/a"); MAX_OPS]; count]
    }

    #[tokio::test]
    async fn one_failure_of_etcd_fails_one_request() {
        let first = AtomicBool::new(true);
        let (reads, kv) = scripted(move |_| {
            if first.swap(false, Ordering::Relaxed) {
                return Err(unavailable());
            }
            Ok(())
        });
        let answers = read_all(&reads, large(3)).await;
        assert!(
            matches!(answers[..], [Err(KvError::Unavailable(_)), Ok(_), Ok(_)]),
            "{answers:?}"
        );
        assert_eq!(kv.sent().len(), 3);
    }

    #[tokio::test]
    async fn an_etcd_that_fails_twice_is_asked_no_third_time() {
        let (reads, kv) = scripted(|_| Err(unavailable()));
        let answers = read_all(&reads, large(5)).await;
        assert!(answers.iter().all(Result::is_err), "{answers:?}");
        assert_eq!(kv.sent().len(), 2);
    }

    #[tokio::test]
    async fn what_is_too_large_for_one_request_goes_in_several() {
        let (reads, kv) = scripted(|_| Ok(()));
        let long = "a".repeat(MAX_KEY_BYTES / 2 + 1);
        let keys = ["/a", "/b", &long, &long, "/c"];
        let asked = keys.map(|key| vec![get(key)]).into();
        let answers = read_all(&reads, asked).await;
        assert!(answers.iter().all(|answer| matches!(answer, Ok(1))));
        assert_eq!(kv.sent(), [3, 2]);
    }
}
