//! Reads of etcd: what is asked for at the same time goes in one request.
//!
//! A request costs etcd and this process about as much as fifty keys that are
//! read with it. While one is under way, reads wait for the next. A GET whose
//! answer is kept adds nothing to it: it takes the revision from it, and its
//! answer from the cache.
//!
//! Invariant: a read is sent after it was asked for, so it sees all that was
//! written before. So is the revision of an answer that is kept: that revision
//! is at least the one of every write before, and the answer is given only if
//! all events up to it have been seen. It is then what etcd has had at a
//! revision between the asking and the answering.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::future::join_all;
use store::kv::{KeyRange, Kv, KvError, Op, Range, Txn, TxnReply};
use tokio::sync::oneshot;

use super::cache::Cache;
use super::event::OP_KEY;
use super::feed::{Feed, Place};
use super::lookup;
use super::path::KeyPath;

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
    feed: Arc<Feed>,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Read>,
    under_way: bool,
}

struct Read {
    asked: Asked,
    answer: oneshot::Sender<Result<Found, KvError>>,
}

enum Asked {
    Ops(Vec<Op>),
    /// The answer to a GET of this key, or [`lookup::read_alone`] of it.
    Get(KeyPath),
    /// The same, where what is kept was too old, or is gone.
    GetAnew(KeyPath),
}

/// What a read has found.
pub(super) enum Found {
    /// An answer that was kept, and the revision that it is of.
    Kept(Bytes, i64),
    /// What etcd has answered, and where an answer that is made of it may be kept.
    Read(TxnReply, Option<Place>),
}

/// What goes in one request.
struct Batch {
    /// How many of the operations are of each; none if its answer is kept.
    reads: Vec<(Read, usize)>,
    ops: Vec<Op>,
    place: Option<Place>,
    /// etcd is not before this revision, unless it was restored.
    known: i64,
}

impl Reads {
    pub(super) fn new(kv: Arc<dyn Kv>, feed: Arc<Feed>) -> Self {
        Self {
            kv,
            feed,
            queue: Arc::default(),
        }
    }

    /// Reads at one revision, which is the newest.
    pub(super) async fn read(&self, ops: Vec<Op>) -> Result<TxnReply, KvError> {
        // etcd writes nested reads to its log, and all that share a request with them.
        if ops.iter().any(|op| matches!(op, Op::Txn(_))) {
            return self.send(ops).await;
        }
        match self.ask(Asked::Ops(ops)).await? {
            Found::Read(reply, _) => Ok(reply),
            Found::Kept(..) => unreachable!("that is for GETs alone"),
        }
    }

    /// The answer to a GET of this key, or what it is made of, at the newest revision or one that came since.
    pub(super) async fn get(&self, key: &KeyPath) -> Result<Found, KvError> {
        self.ask(Asked::Get(key.clone())).await
    }

    async fn ask(&self, asked: Asked) -> Result<Found, KvError> {
        let (answer, told) = oneshot::channel();
        let begins = {
            let mut queue = self.queue();
            if queue.waiting.len() > MANY {
                queue.waiting.retain(|read| !read.answer.is_closed());
            }
            queue.waiting.push_back(Read { asked, answer });
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
    fn next(&self) -> Option<Batch> {
        let place = self.feed.place();
        let mut batch = Batch {
            reads: Vec::new(),
            ops: Vec::new(),
            place,
            known: 0,
        };
        let mut queue = self.queue();
        let kept = self
            .feed
            .with_cache(|cache| batch.fill(&mut queue.waiting, Some(cache)));
        if kept.is_none() {
            batch.fill(&mut queue.waiting, None);
        }
        if batch.reads.is_empty() {
            queue.under_way = false;
            return None;
        }
        Some(batch)
    }

    /// The reply to these reads at one revision; if there are none, the revision.
    async fn send(&self, ops: Vec<Op>) -> Result<TxnReply, KvError> {
        if !ops.is_empty() {
            return self.kv.txn(Txn::new(Vec::new(), ops)).await;
        }
        let count = Range {
            count_only: true,
            ..Range::new(KeyRange::key(OP_KEY))
        };
        Ok(TxnReply {
            succeeded: true,
            revision: self.kv.range(count).await?.revision,
            replies: Vec::new(),
        })
    }

    /// Tells each read its part of the reply. Those whose answer was kept and is not for this revision read next.
    fn tell(&self, batch: Batch, reply: TxnReply) {
        let revision = reply.revision;
        if revision < batch.known {
            // Its past is another one now.
            self.feed.end_keeping();
        }
        let mut replies = reply.replies.into_iter();
        let (mut kept, mut again) = (0, Vec::new());
        for (read, ops) in batch.reads {
            let found = match &read.asked {
                Asked::Get(key) if ops == 0 => {
                    let answer = |cache: &mut Cache| cache.answer(key.as_str(), revision);
                    let Some((body, at)) = self.feed.with_cache(answer).flatten() else {
                        again.push(read);
                        continue;
                    };
                    kept += 1;
                    Found::Kept(body, at)
                }
                _ => {
                    let own = TxnReply {
                        succeeded: true,
                        revision,
                        replies: replies.by_ref().take(ops).collect(),
                    };
                    Found::Read(own, batch.place)
                }
            };
            read.answer.send(Ok(found)).ok();
        }
        self.feed.count_kept(kept, revision);
        self.read_next(again);
    }

    fn read_next(&self, reads: Vec<Read>) {
        let mut queue = self.queue();
        for read in reads.into_iter().rev() {
            queue.waiting.push_front(read.anew());
        }
    }

    /// After etcd has refused a batch: because of one of them, which the others must not suffer for.
    async fn part(&self, batch: Batch, error: KvError) {
        let (kept, mut read): (Vec<_>, Vec<_>) =
            batch.reads.into_iter().partition(|(_, ops)| *ops == 0);
        self.read_next(kept.into_iter().map(|(read, _)| read).collect());
        if read.len() == 1
            && let Some((read, _)) = read.pop()
        {
            read.answer.send(Err(error)).ok();
        }
        join_all(
            read.into_iter()
                .map(|(read, _)| self.alone(read, batch.place)),
        )
        .await;
    }

    /// By a request of its own.
    async fn alone(&self, read: Read, place: Option<Place>) {
        let answer = self.send(read.ops()).await;
        let found = answer.map(|reply| Found::Read(reply, place));
        read.answer.send(found).ok();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nothing panics while it is held")
    }
}

impl Read {
    fn ops(&self) -> Vec<Op> {
        match &self.asked {
            Asked::Ops(ops) => ops.clone(),
            Asked::Get(key) | Asked::GetAnew(key) => lookup::read_alone(key),
        }
    }

    /// By etcd, whatever is kept.
    fn anew(mut self) -> Self {
        if let Asked::Get(key) = self.asked {
            self.asked = Asked::GetAnew(key);
        }
        self
    }
}

impl Batch {
    /// Takes of what waits as much as goes in one request.
    fn fill(&mut self, waiting: &mut VecDeque<Read>, cache: Option<&mut Cache>) {
        self.known = cache.as_ref().map_or(0, |cache| cache.newest());
        let mut bytes = 0;
        while let Some(read) = waiting.pop_front() {
            if read.answer.is_closed() {
                continue;
            }
            let ops = match (&read.asked, &cache) {
                (Asked::Get(key), Some(cache)) if cache.has(key.as_str()) => Vec::new(),
                _ => read.ops(),
            };
            bytes += key_bytes(&ops);
            let is_full = self.ops.len() + ops.len() > MAX_OPS || bytes > MAX_KEY_BYTES;
            if is_full && !self.ops.is_empty() {
                waiting.push_front(read);
                break;
            }
            self.reads.push((read, ops.len()));
            self.ops.extend(ops);
        }
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
            let Some(mut batch) = reads.next() else {
                return;
            };
            let answer = reads.send(std::mem::take(&mut batch.ops)).await;
            let failed_before =
                std::mem::replace(&mut failed, matches!(answer, Err(KvError::Unavailable(_))));
            match answer {
                Ok(reply) => reads.tell(batch, reply),
                Err(error) if !failed => reads.part(batch, error).await,
                Err(error) => {
                    let read = |(read, _)| read;
                    let mut untold: VecDeque<Read> = batch.reads.into_iter().map(read).collect();
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use futures_util::FutureExt;
    use store::kv::{OpReply, RangeReply, Status, Watch};
    use tokio_util::sync::CancellationToken;

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
        let feed = Arc::new(Feed::new(kv.clone(), CancellationToken::new()));
        (Reads::new(kv.clone(), feed), kv)
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
