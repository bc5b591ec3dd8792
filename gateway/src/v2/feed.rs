//! The watch shared by all waits.
//!
//! It starts with the first wait, so that it costs nothing without one, and a
//! thousand revisions back if etcd still has them, so that clients can continue
//! from an index of before the agent's start. After an error it is resumed.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use model::backoff::Exponential;
use store::kv::{KeyRange, Kv, KvError, WatchReply};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::event;
use super::node::V2Event;
use super::path::KeyPath;
use super::ring::{CAPACITY, EventMatch, Position, Ring, RingEvent};
use super::waiters::{Waiter, Waiters};

/// Pause before the watch is resumed.
const RETRY: Exponential = Exponential::new(Duration::from_millis(100), Duration::from_secs(5));

/// Events for waits.
#[derive(Debug)]
pub(super) struct Feed {
    shared: Arc<Shared>,
    task: OnceLock<AbortOnDropHandle<()>>,
    shutdown: CancellationToken,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The ring has changed.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    ring: Ring,
    waiters: Waiters,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    fn extend(&self, events: Vec<V2Event>, seen: i64) {
        let mut state = self.state();
        for event in &events {
            state.waiters.wake(event);
        }
        state.ring.extend(events, seen);
        drop(state);
        self.changed.send_replace(());
    }

    /// Begins anew: what was between is missed.
    fn reset(&self, ring: Ring) {
        let mut state = self.state();
        state.ring = ring;
        state.waiters.wake_all();
        drop(state);
        self.changed.send_replace(());
    }
}

impl Feed {
    /// Not started; waits end with `shutdown`.
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                changed: watch::Sender::new(()),
            }),
            task: OnceLock::new(),
            shutdown,
        }
    }

    /// Starts the watch if it does not run; `revision` is the newest.
    pub(super) fn start(&self, kv: &Arc<dyn Kv>, revision: i64) {
        self.task.get_or_init(|| {
            let from = (revision + 1 - CAPACITY as i64).max(1);
            self.shared.reset(Ring::new(from));
            let task = run(kv.clone(), self.shared.clone());
            AbortOnDropHandle::new(tokio::spawn(task))
        });
    }

    /// Waits until the events up to `revision` are there; at most a second,
    /// as a revision may hold no key that v2 could name.
    pub(super) async fn reached(&self, revision: i64) {
        let mut changed = self.shared.changed.subscribe();
        let reached = async {
            while self.shared.state().ring.seen() < revision {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(1), reached)
            .await
            .ok();
    }

    /// Looks once.
    pub(super) fn look(&self, search: &Search) -> EventMatch {
        let Search {
            key,
            recursive,
            from,
            history,
        } = search;
        let state = self.shared.state();
        state.ring.find(key, *recursive, *from, *history)
    }

    /// Number of waits.
    pub(super) fn waiting(&self) -> usize {
        self.shared.state().waiters.len()
    }

    /// The next event; none at shutdown, or if events were missed: the client asks again.
    pub(super) async fn next(&self, search: &mut Search) -> Option<Arc<RingEvent>> {
        let key = search.key.clone();
        let registered = Registered::new(&self.shared, &key);
        loop {
            match self.look(search) {
                EventMatch::Found(found) => {
                    search.from = search.from.after(&found.event);
                    return Some(found);
                }
                EventMatch::Cleared(_) => return None,
                EventMatch::NotYet(from) => search.from = from,
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = registered.waiter.woken() => {}
            }
            // What lies between may be gone from the ring, and was not for this one.
            let first = registered.waiter.take_first();
            if first > search.from.index {
                search.from = Position::at(first);
            }
        }
    }
}

/// Among those who are woken, until it is dropped.
struct Registered<'a> {
    shared: &'a Shared,
    key: &'a KeyPath,
    number: u64,
    waiter: Arc<Waiter>,
}

impl<'a> Registered<'a> {
    fn new(shared: &'a Shared, key: &'a KeyPath) -> Self {
        let (number, waiter) = shared.state().waiters.add(key);
        Self {
            shared,
            key,
            number,
            waiter,
        }
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.shared.state().waiters.remove(self.key, self.number);
    }
}

/// What a wait is for.
#[derive(Debug, Clone)]
pub(super) struct Search {
    pub(super) key: KeyPath,
    /// Also keys below it.
    pub(super) recursive: bool,
    pub(super) from: Position,
    /// Up to this index it is a look back.
    pub(super) history: i64,
}

async fn run(kv: Arc<dyn Kv>, shared: Arc<Shared>) {
    let mut retry = RETRY;
    loop {
        let from = shared.state().ring.seen() + 1;
        match follow(&*kv, &shared, from).await {
            Ok(events) => {
                debug!(from, "watch closed; resuming");
                if events {
                    retry.reset();
                }
            }
            Err(error) => warn!(%error, from, "watch failed; resuming"),
        }
        tokio::time::sleep(jittered(retry.next_wait())).await;
    }
}

/// Follows the watch until it ends; true if it had events.
async fn follow(kv: &dyn Kv, shared: &Shared, from: i64) -> Result<bool, KvError> {
    // All keys that v2 could name.
    let mut watch = kv.watch(KeyRange::range("/", "0"), from, true).await?;
    let mut any = false;
    while let Some(reply) = watch.replies.recv().await {
        match reply {
            WatchReply::Events(events, _) => {
                any = true;
                let seen = events.iter().map(event::revision).max().unwrap_or(0);
                shared.extend(event::map(&events), seen);
            }
            // Not a revision to resume from: progress may overtake events.
            WatchReply::Progress(_) => {}
            WatchReply::Compacted(oldest) => {
                // Values before the oldest revision are gone too, so it is skipped.
                let first = oldest.max(from) + 1;
                warn!(from, first, "watch compacted; waits may miss events");
                shared.reset(Ring::new(first));
                return Ok(true);
            }
            WatchReply::Closed(reason) => {
                debug!(%reason, "watch closed by etcd");
                return Ok(any);
            }
        }
    }
    Ok(any)
}

/// Between half and the whole, so that agents do not reconnect at the same time.
pub(super) fn jittered(pause: Duration) -> Duration {
    let random = u32::from(random_byte());
    pause / 2 + pause / 2 * random / 256
}

fn random_byte() -> u8 {
    use std::hash::{BuildHasher, RandomState};
    (RandomState::new().hash_one(()) & 0xff) as u8
}
