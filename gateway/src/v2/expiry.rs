//! The end of keys whose TTL is over.
//!
//! A file is ended by the API that wrote it, at its time; it also lies on a
//! lease that is a little longer, in case that API is gone. A directory has no
//! lease, which could not take along what is in it: every API reads the TTLs of
//! all directories, and ends those that the writer has left over.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use store::kv::{KeyRange, KeyValue, Kv, KvError, Range, Txn};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::feed::jittered;
use super::lookup::{self, Lookup};
use super::path::{DIR_TTLS, KeyPath};
use super::plan;
use super::schedule::{Due, Schedule};
use super::stats::Stats;
use super::ttl::Ttl;

/// How much longer a lease is than the TTL: time for the writer to be first.
const LEASE_EXTRA: u64 = 2;

/// How long other APIs leave a directory to the one that wrote its TTL.
const GRACE: Duration = Duration::from_secs(3);

/// How often the TTLs of directories are read.
const DIRS_READ: Duration = Duration::from_secs(30);

/// Pause after etcd did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Keys that are ended at the same time.
const PARALLEL: usize = 16;

/// Longest sleep: timers are not made for centuries.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Ends keys until it is dropped.
#[derive(Debug)]
pub(super) struct Expiry {
    shared: Arc<Shared>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

#[derive(Debug, Default)]
struct Shared {
    schedule: Mutex<Schedule>,
    changed: Notify,
}

impl Shared {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        self.schedule
            .lock()
            .expect("nothing panics while it is held")
    }

    fn put(&self, due: Due, at: Instant) {
        self.schedule().put(due, at);
        self.changed.notify_one();
    }
}

impl Expiry {
    pub(super) fn new(kv: &Arc<dyn Kv>, stats: &Arc<Stats>) -> Self {
        let shared = Arc::new(Shared::default());
        let ends = run(kv.clone(), shared.clone(), stats.clone());
        let follows = follow_dirs(kv.clone(), shared.clone());
        Self {
            shared,
            _tasks: [
                AbortOnDropHandle::new(tokio::spawn(ends)),
                AbortOnDropHandle::new(tokio::spawn(follows)),
            ],
        }
    }

    /// The key as it was written at a revision ends at this time.
    pub(super) fn ends(&self, key: &KeyPath, modified: i64, at: Instant) {
        let key = key.clone();
        self.shared.put(Due { key, modified }, at);
    }

    /// At this revision the key was written without a TTL, or deleted.
    pub(super) fn stays(&self, key: &KeyPath, revision: i64) {
        self.shared.schedule().forget(key, revision);
    }

    /// etcd was restored to this revision.
    pub(super) fn begin_anew(&self, revision: i64) {
        self.shared.schedule().forget_after(revision);
    }
}

async fn run(kv: Arc<dyn Kv>, shared: Arc<Shared>, stats: Arc<Stats>) {
    loop {
        let now = Instant::now();
        let due = shared.schedule().take(now);
        if due.is_empty() {
            let longest = now + LONGEST_SLEEP;
            let next = shared.schedule().next().unwrap_or(longest);
            tokio::select! {
                () = shared.changed.notified() => {}
                () = tokio::time::sleep_until(next.min(longest)) => {}
            }
            continue;
        }
        let end = async |due: Due| match end(&*kv, &due).await {
            Ok(true) => stats.expired(),
            Ok(false) => {}
            Err(error) => {
                warn!(%error, key = %due.key, "expiry failed; trying again");
                shared.put(due, Instant::now() + PAUSE);
            }
        };
        stream::iter(due).for_each_concurrent(PARALLEL, end).await;
    }
}

/// Ends a key, unless it was changed; true if it has ended now.
async fn end(kv: &dyn Kv, due: &Due) -> Result<bool, KvError> {
    let reads = lookup::read(&due.key, false);
    let reply = kv.txn(Txn::new(Vec::new(), reads.clone())).await?;
    let mut seen = Lookup::new(&due.key, reply);
    while let Some(planned) = plan::expire(&seen, due.modified, Timestamp::now()) {
        let (mut txn, _) = planned.request(Uuid::new_v4(), 0);
        txn.otherwise.clone_from(&reads);
        let reply = kv.txn(txn).await?;
        if reply.succeeded {
            info!(key = %due.key, index = reply.revision, "expired");
            return Ok(true);
        }
        seen = Lookup::new(&due.key, reply);
    }
    Ok(false)
}

/// Knows the TTLs of all directories. They are read now and then: a watch would wake every idle host more often.
async fn follow_dirs(kv: Arc<dyn Kv>, shared: Arc<Shared>) {
    let keys = KeyRange::prefix(&format!("{DIR_TTLS}/"));
    let (mut last_read, mut newest) = (false, 0);
    loop {
        let pause = match kv.range(Range::new(keys.clone())).await {
            Ok(listed) => {
                if listed.revision < newest {
                    shared.schedule().forget_after(listed.revision);
                }
                newest = listed.revision;
                for kv in &listed.kvs {
                    see(&shared, kv, last_read);
                }
                last_read = true;
                DIRS_READ
            }
            Err(error) => {
                debug!(%error, "TTLs of directories unknown; trying again");
                last_read = false;
                PAUSE
            }
        };
        tokio::time::sleep(jittered(pause)).await;
    }
}

/// One that is `new` was written a moment ago: its TTL is measured, as clocks may differ. Others go by the clock.
fn see(shared: &Shared, kv: &KeyValue, new: bool) {
    let ttl = serde_json::from_slice::<Ttl>(&kv.value);
    let (Some(key), Ok(ttl)) = (dir_of(&kv.key), ttl) else {
        return;
    };
    let now = Timestamp::now();
    let left = if new {
        ttl
    } else {
        Ttl::new(ttl.expiration, now)
    }
    .left;
    let left = Duration::from_secs(left.max(0).unsigned_abs());
    let modified = kv.modified;
    shared.put(Due { key, modified }, Instant::now() + left + GRACE);
}

fn dir_of(ttl_key: &str) -> Option<KeyPath> {
    KeyPath::new(ttl_key.strip_prefix(DIR_TTLS)?)
}

/// A lease for a file of this TTL.
pub(super) async fn lease(kv: &dyn Kv, ttl: u64, until: Instant) -> Result<i64, KvError> {
    let ttl = Duration::from_secs(ttl + LEASE_EXTRA);
    loop {
        match kv.lease_grant(ttl).await {
            Ok((lease, _)) => return Ok(lease),
            Err(KvError::Unavailable(_)) if Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Ends a lease that has no key any more; if that fails, it ends by itself.
pub(super) fn revoke(kv: &Arc<dyn Kv>, lease: i64) {
    let kv = kv.clone();
    tokio::spawn(async move {
        if let Err(error) = kv.lease_revoke(lease).await {
            debug!(%error, lease, "a lease was not revoked");
        }
    });
}
