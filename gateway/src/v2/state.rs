//! State of the v2 API.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use store::kv::{Kv, Status};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::expiry::Expiry;
use super::feed::Feed;
use super::reads::Reads;
use super::stats::Stats;

/// Longest age of the Raft state in headers.
const STATUS_AGE: Duration = Duration::from_secs(1);

/// Concurrent listings: each has its keys in memory, more than once.
const LISTINGS: usize = 4;

/// State of the v2 API.
pub struct V2 {
    pub(super) kv: Arc<dyn Kv>,
    pub(super) reads: Reads,
    pub(super) name: String,
    pub(super) feed: Arc<Feed>,
    pub(super) expiry: Expiry,
    pub(super) stats: Arc<Stats>,
    status: Mutex<Option<(Instant, Arc<Status>)>>,
    pub(super) listings: Semaphore,
    /// Revision of the last write here: later waits must not miss it.
    pub(super) written: AtomicI64,
    /// The newest revision of etcd that is known here.
    revision: AtomicI64,
}

impl V2 {
    /// The API over `kv`, as the member `name`; waits end with `shutdown`. Needs a tokio runtime.
    pub fn new(kv: Arc<dyn Kv>, name: impl Into<String>, shutdown: CancellationToken) -> Arc<Self> {
        let stats = Arc::new(Stats::new());
        let feed = Arc::new(Feed::new(kv.clone(), shutdown));
        Arc::new(Self {
            expiry: Expiry::new(&kv, &stats),
            reads: Reads::new(kv.clone(), feed.clone()),
            kv,
            name: name.into(),
            feed,
            stats,
            status: Mutex::default(),
            listings: Semaphore::new(LISTINGS),
            written: AtomicI64::new(0),
            revision: AtomicI64::new(0),
        })
    }

    /// Status of etcd; the last known one if it does not answer.
    pub(super) async fn status(&self) -> Option<Arc<Status>> {
        let known = self.known_status();
        if let Some((at, status)) = &known
            && at.elapsed() < STATUS_AGE
        {
            return Some(status.clone());
        }
        match self.kv.status().await {
            Ok(status) => {
                let status = Arc::new(status);
                *self.status.lock().expect("nothing panics while it is held") =
                    Some((Instant::now(), status.clone()));
                Some(status)
            }
            Err(_) => known.map(|(_, status)| status),
        }
    }

    pub(super) fn known_status(&self) -> Option<(Instant, Arc<Status>)> {
        self.status
            .lock()
            .expect("nothing panics while it is held")
            .clone()
    }

    pub(super) fn note_write(&self, before: i64, revision: i64) {
        self.written.fetch_max(revision, Ordering::Relaxed);
        self.note(before, revision);
    }

    /// etcd has answered at this revision; `before` was known when it was asked.
    pub(super) fn note(&self, before: i64, revision: i64) {
        // Linearized, it would not lie below: etcd was restored. Others that were asked before see it, too.
        let is_news = |known| (revision < before && known >= before).then_some(revision);
        let ordering = Ordering::Relaxed;
        if self
            .revision
            .fetch_update(ordering, ordering, is_news)
            .is_ok()
        {
            let (_, past) = self.feed.seen();
            self.begin_anew(past, revision);
        } else {
            // Answers overtake each other.
            self.revision.fetch_max(revision, Ordering::Relaxed);
        }
    }

    /// etcd was restored to about this revision since it had this past; which one it has now.
    pub(super) fn begin_anew(&self, past: u64, revision: i64) -> u64 {
        self.written.fetch_min(revision, Ordering::Relaxed);
        self.expiry.begin_anew(revision);
        self.feed.begin_anew(past, revision)
    }

    /// The newest revision of etcd that was answered; most often the present one, or a little older.
    pub(super) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use store::memory::MemKv;

    use super::*;

    #[tokio::test]
    async fn only_a_restored_etcd_takes_the_revision_back() {
        let v2 = V2::new(Arc::new(MemKv::new()), "h1", CancellationToken::new());
        for (before, revision, known) in [
            (0, 100, 100),
            // Asked before the first was told.
            (0, 90, 100),
            (100, 100, 100),
            (100, 99, 99),
            // Another that was asked before it was restored.
            (100, 98, 99),
            (99, 101, 101),
        ] {
            v2.note(before, revision);
            assert_eq!(v2.revision(), known, "{before} {revision}");
        }
        assert_eq!(v2.feed.seen().1, 1, "it was restored once");
    }
}
