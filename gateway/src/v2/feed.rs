//! The watch shared by all waits, which also keeps up the answers to GETs.
//!
//! It starts with the first wait, so that it costs nothing without one, and a
//! thousand revisions back if etcd still has them, so that clients can continue
//! from an index of before the agent's start. Where GETs come often and no wait
//! has, it starts at present, and ends when they come often no more. After an
//! error it is resumed.
//!
//! Invariant: answers are kept of one stream at a time. When it ends they are
//! forgotten: the etcd that the next one is of may have another past. One that
//! has, because it was restored, is known by a revision below one that was seen:
//! waits from before then end, and the watch begins anew.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use model::backoff::Exponential;
use store::kv::{Event, KeyRange, Kv, KvError, Range, WatchReply};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::cache::Cache;
use super::demand::{Demand, LONG_SPAN};
use super::event::{self, OP_KEY};
use super::path::KeyPath;
use super::ring::{CAPACITY, EventMatch, Position, Ring, RingEvent};
use super::waiters::{Waiter, Waiters};

/// Pause before the watch is resumed.
const RETRY: Exponential = Exponential::new(Duration::from_millis(100), Duration::from_secs(5));

/// Events for waits, and answers to GETs.
pub(super) struct Feed {
    kv: Arc<dyn Kv>,
    shared: Arc<Shared>,
    tasks: Mutex<Tasks>,
    shutdown: CancellationToken,
}

/// What runs at present.
#[derive(Debug, Default)]
struct Tasks {
    watch: Option<AbortOnDropHandle<()>>,
    /// The watch is for waits, and does not end.
    for_waits: bool,
    /// Looks whether GETs still come often.
    demand: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// More events are there.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    /// Of the watch: what an earlier one says late does not count.
    run: u64,
    /// All events up to this revision are there.
    seen: i64,
    /// One more each time etcd is known to be restored.
    past: u64,
    /// The stream of the watch is open.
    is_open: bool,
    ring: Ring,
    waiters: Waiters,
    demand: Demand,
    /// GETs come often.
    in_demand: bool,
    cache: Option<Cache>,
    /// So many caches there were.
    caches: u64,
}

/// Where an answer to a GET may be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// The number of the cache.
    cache: u64,
}

impl State {
    /// The answers that are kept are forgotten.
    fn renew_cache(&mut self) {
        self.caches += 1;
        let kept_up = self.is_open && self.in_demand;
        self.cache = kept_up.then(|| Cache::new(self.seen));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }

    /// Of this run of the watch; none if there was another one since.
    fn state_of(&self, run: u64) -> Option<MutexGuard<'_, State>> {
        Some(self.state()).filter(|state| state.run == run)
    }

    /// A watch begins: its number. It will have all after `seen`.
    fn begin(&self, seen: i64) -> u64 {
        let mut state = self.state();
        state.run += 1;
        state.is_open = false;
        state.renew_cache();
        let run = state.run;
        drop(state);
        self.skip(run, seen);
        run
    }

    /// Begins anew after this revision: what was before is missed.
    fn skip(&self, run: u64, seen: i64) {
        let Some(mut state) = self.state_of(run) else {
            return;
        };
        state.seen = seen;
        state.ring = Ring::new(seen + 1);
        state.waiters.wake_all();
        drop(state);
        self.changed.send_replace(());
    }

    /// etcd was restored: what was waited for may never come.
    fn renew(&self, run: u64, seen: i64) {
        if let Some(mut state) = self.state_of(run) {
            state.past += 1;
        }
        self.skip(run, seen);
    }

    fn set_open(&self, run: u64, is_open: bool) {
        if let Some(mut state) = self.state_of(run) {
            state.is_open = is_open;
            state.renew_cache();
        }
    }

    /// All events of the next revisions that have any.
    fn extend(&self, run: u64, for_waits: bool, events: &[Event]) {
        let told = if for_waits {
            event::map(events)
        } else {
            Vec::new()
        };
        let Some(mut state) = self.state_of(run) else {
            return;
        };
        let seen = events.last().map_or(0, Event::modified);
        state.seen = state.seen.max(seen);
        if let Some(cache) = &mut state.cache {
            cache.apply(events);
        }
        for event in &told {
            state.waiters.wake(event);
        }
        state.ring.extend(told, seen);
        drop(state);
        self.changed.send_replace(());
    }
}

impl Feed {
    /// Not started; waits end with `shutdown`.
    pub(super) fn new(kv: Arc<dyn Kv>, shutdown: CancellationToken) -> Self {
        let state = State {
            run: 0,
            seen: 0,
            past: 0,
            is_open: false,
            ring: Ring::default(),
            waiters: Waiters::default(),
            demand: Demand::new(Instant::now()),
            in_demand: false,
            cache: None,
            caches: 0,
        };
        Self {
            kv,
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: watch::Sender::new(()),
            }),
            tasks: Mutex::default(),
            shutdown,
        }
    }

    /// Starts the watch for waits if it does not run; `revision` is the newest.
    pub(super) fn start(&self, revision: i64) {
        let mut tasks = self.tasks();
        if !tasks.for_waits {
            tasks.for_waits = true;
            // One that is for GETs has nothing of the past.
            self.watch(&mut tasks, before_ring(revision));
        }
    }

    /// etcd is not before this revision, unless it was restored; and which past it has.
    pub(super) fn seen(&self) -> (i64, u64) {
        let state = self.shared.state();
        (state.seen, state.past)
    }

    /// etcd was restored to about this revision since it had this past; which one it has now.
    pub(super) fn begin_anew(&self, past: u64, revision: i64) -> u64 {
        let mut tasks = self.tasks();
        let mut state = self.shared.state();
        if state.past != past {
            return state.past;
        }
        warn!(revision, "etcd was restored; waits begin anew");
        state.past += 1;
        state.seen = state.seen.min(revision);
        let past = state.past;
        drop(state);
        if tasks.watch.is_some() {
            let seen = if tasks.for_waits {
                before_ring(revision)
            } else {
                revision
            };
            self.watch(&mut tasks, seen);
        }
        past
    }

    /// So many GETs were given an answer that was kept, when this revision was the newest.
    pub(super) fn count_kept(&self, gets: usize, revision: i64) {
        self.shared.state().demand.count(gets, revision);
    }

    /// Keeps the answer to a GET of a file without a TTL that was read at a revision. If these come often, they are kept
    /// from now on.
    pub(super) fn keep(
        self: &Arc<Self>,
        place: Option<Place>,
        key: &KeyPath,
        body: &[u8],
        revision: i64,
    ) {
        let mut state = self.shared.state();
        if state.in_demand {
            let of_place = place.is_some_and(|place| place.cache == state.caches);
            if let Some(cache) = state.cache.as_mut().filter(|_| of_place) {
                cache.keep(key.as_str(), body, revision);
            }
            return;
        }
        let now = Instant::now();
        state.demand.go_on(now);
        state.demand.count(1, revision);
        if state.demand.is_large() {
            state.demand.begin(now);
            state.in_demand = true;
            state.renew_cache();
            drop(state);
            self.begin_keeping(revision);
        }
    }

    fn begin_keeping(self: &Arc<Self>, revision: i64) {
        let mut tasks = self.tasks();
        if tasks.watch.is_none() {
            self.watch(&mut tasks, revision);
        }
        let ends = end_without_demand(Arc::downgrade(self));
        tasks.demand = Some(AbortOnDropHandle::new(tokio::spawn(ends)));
    }

    /// GETs come often no more, or what is kept is of another etcd's past: nothing is kept.
    pub(super) fn end_keeping(&self) {
        let mut tasks = self.tasks();
        let mut state = self.shared.state();
        let now = Instant::now();
        state.demand.begin(now);
        state.in_demand = false;
        state.renew_cache();
        tasks.demand = None;
        if !tasks.for_waits {
            tasks.watch = None;
            state.run += 1;
            state.is_open = false;
        }
    }

    /// What is kept, if answers are.
    pub(super) fn with_cache<T>(&self, work: impl FnOnce(&mut Cache) -> T) -> Option<T> {
        self.shared.state().cache.as_mut().map(work)
    }

    /// Where what is read from now on may be kept.
    pub(super) fn place(&self) -> Option<Place> {
        let state = self.shared.state();
        let cache = state.caches;
        state.cache.is_some().then_some(Place { cache })
    }

    fn watch(&self, tasks: &mut Tasks, seen: i64) {
        let run = Run {
            shared: self.shared.clone(),
            number: self.shared.begin(seen),
            for_waits: tasks.for_waits,
        };
        let task = run.follow_all(self.kv.clone());
        tasks.watch = Some(AbortOnDropHandle::new(tokio::spawn(task)));
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().expect("nothing panics while it is held")
    }

    /// Waits until the events up to `revision` are there; at most a second,
    /// as a revision may hold no key that v2 could name.
    pub(super) async fn reached(&self, revision: i64) {
        let mut changed = self.shared.changed.subscribe();
        let reached = async {
            while self.shared.state().seen < revision {
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
            past,
        } = search;
        let state = self.shared.state();
        if state.past != *past {
            return EventMatch::Cleared(state.ring.first());
        }
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
    /// The indices are of this past of etcd.
    pub(super) past: u64,
}

/// The revision after which the ring begins if it is to be full at this one.
fn before_ring(revision: i64) -> i64 {
    (revision - CAPACITY as i64).max(0)
}

/// Ends keeping when GETs come often no more.
async fn end_without_demand(feed: Weak<Feed>) {
    loop {
        tokio::time::sleep(LONG_SPAN).await;
        let Some(feed) = feed.upgrade() else { return };
        let mut state = feed.shared.state();
        if !state.demand.is_large() {
            drop(state);
            feed.end_keeping();
            return;
        }
        state.demand.begin(Instant::now());
    }
}

/// A watch, from its start to its end.
struct Run {
    shared: Arc<Shared>,
    number: u64,
    for_waits: bool,
}

impl Run {
    async fn follow_all(self, kv: Arc<dyn Kv>) {
        let (mut retry, mut resumes) = (RETRY, false);
        loop {
            let from = self.shared.state().seen + 1;
            let followed = self.follow(&*kv, from, resumes).await;
            resumes = true;
            self.shared.set_open(self.number, false);
            match followed {
                Ok(events) => {
                    debug!(from, "watch closed; resuming");
                    if events {
                        retry.reset();
                    }
                }
                Err(error) if self.for_waits => warn!(%error, from, "watch failed; resuming"),
                // GETs are read from etcd meanwhile.
                Err(error) => debug!(%error, from, "watch for GETs failed; resuming"),
            }
            tokio::time::sleep(jittered(retry.next_wait())).await;
        }
    }

    /// Follows one stream until it ends; true if it had events.
    async fn follow(&self, kv: &dyn Kv, from: i64, resumes: bool) -> Result<bool, KvError> {
        // All keys that v2 could name.
        let keys = KeyRange::range("/", "0");
        let mut watch = kv.watch(keys, from, self.for_waits).await?;
        if resumes {
            // etcd takes a watch from a revision that it may never have.
            let revision = newest(kv).await?;
            if revision < from - 1 {
                warn!(from, revision, "etcd was restored; waits begin anew");
                self.shared.renew(self.number, before_ring(revision));
                return Ok(true);
            }
        }
        self.shared.set_open(self.number, true);
        let mut any = false;
        while let Some(reply) = watch.replies.recv().await {
            match reply {
                WatchReply::Events(events, _) => {
                    any = true;
                    self.shared.extend(self.number, self.for_waits, &events);
                }
                // Not a revision to resume from, nor one that is seen: progress may overtake events.
                WatchReply::Progress(_) => {}
                WatchReply::Compacted(oldest) => {
                    // Values before the oldest revision are gone too, so it is skipped.
                    let seen = oldest.max(from);
                    if self.for_waits {
                        warn!(from, seen, "watch compacted; waits may miss events");
                    }
                    self.shared.skip(self.number, seen);
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
}

/// The newest revision of etcd.
async fn newest(kv: &dyn Kv) -> Result<i64, KvError> {
    let count = Range {
        count_only: true,
        ..Range::new(KeyRange::key(OP_KEY))
    };
    Ok(kv.range(count).await?.revision)
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

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use store::kv::{Op, Txn};
    use store::memory::MemKv;

    use super::*;

    fn feed() -> (Arc<Feed>, MemKv) {
        let kv = MemKv::new();
        let feed = Feed::new(Arc::new(kv.clone()), CancellationToken::new());
        (Arc::new(feed), kv)
    }

    async fn until(holds: impl Fn() -> bool) {
        for _ in 0..100_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("it does not hold");
    }

    fn key() -> KeyPath {
        KeyPath::new("/a").expect("a key")
    }

    /// So many GETs are read from etcd.
    fn read(feed: &Arc<Feed>, gets: usize) {
        for _ in 0..gets {
            feed.keep(None, &key(), b"1", 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_for_gets_ends_with_their_demand() {
        let (feed, _kv) = feed();
        read(&feed, 199);
        assert!(feed.tasks().watch.is_none());
        read(&feed, 1);
        until(|| feed.place().is_some()).await;
        feed.count_kept(200, 1);
        tokio::time::sleep(LONG_SPAN + Duration::from_secs(1)).await;
        assert!(feed.place().is_some());
        // Of keys that are not asked for again: nothing is gained.
        read(&feed, 1_000);
        feed.count_kept(199, 1);
        tokio::time::sleep(LONG_SPAN).await;
        assert!(feed.place().is_none());
        assert!(feed.tasks().watch.is_none());
        read(&feed, 200);
        until(|| feed.place().is_some()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_for_waits_outlasts_the_demand_of_gets() {
        let (feed, _kv) = feed();
        read(&feed, 200);
        until(|| feed.place().is_some()).await;
        feed.start(1);
        assert!(feed.place().is_none());
        until(|| feed.place().is_some()).await;
        tokio::time::sleep(2 * LONG_SPAN).await;
        assert!(feed.place().is_none());
        assert!(feed.shared.state().is_open);
        read(&feed, 200);
        assert!(feed.place().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_of_one_stream() {
        let (feed, kv) = feed();
        read(&feed, 200);
        until(|| feed.place().is_some()).await;
        let place = feed.place();
        feed.keep(place, &key(), b"1", 1);
        let kept = || feed.with_cache(|cache| cache.answer("/a", 1)).flatten();
        assert!(kept().is_some());
        kv.set_unavailable(true);
        until(|| feed.place().is_none()).await;
        kv.set_unavailable(false);
        until(|| feed.place().is_some()).await;
        // Read before, and told late.
        feed.keep(place, &key(), b"1", 1);
        assert!(kept().is_none());
    }
    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_resumed_on_a_restored_etcd_begins_anew() {
        let (feed, kv) = feed();
        let put = || {
            let put = Txn::new(Vec::new(), vec![Op::put("/a", "1")]);
            kv.with(|etcd| etcd.txn(&put)).expect("a write").revision
        };
        let saved = kv.with(|etcd| etcd.clone());
        feed.start(put());
        let last = put();
        until(|| feed.seen() == (last, 0)).await;
        let mut search = Search {
            key: key(),
            recursive: false,
            from: Position::at(last + 1),
            history: 0,
            past: 0,
        };
        let mut waits = pin!(feed.next(&mut search));
        kv.set_unavailable(true);
        until(|| !feed.shared.state().is_open).await;
        kv.with(|etcd| *etcd = saved);
        kv.set_unavailable(false);
        let ended = tokio::time::timeout(Duration::from_secs(60), waits.as_mut()).await;
        assert_eq!(ended.expect("an end in time"), None, "it may never come");
        let first = put();
        until(|| feed.seen() == (first, 1)).await;
        // It is known already.
        assert_eq!(feed.begin_anew(0, first), 1);
        assert_eq!(feed.seen(), (first, 1));
    }
}
