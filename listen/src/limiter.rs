//! Connection limits: in all and per source, with idle connections evicted first.
//!
//! A permit is acquired when a connection is accepted and released when it is
//! dropped. Only idle connections are evicted. One whose request waits is
//! counted apart, so that waits take no place of others. Holds no sockets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Idle time-out while more than half of the permits are in use.
const IDLE_WHEN_BUSY: Duration = Duration::from_secs(10);

/// Most connections at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub all: usize,
    /// From one source address (IPv6: one /64). 127.0.0.1 and ::1 are shared by all programs and have no such limit.
    pub per_source: usize,
}

/// Cause of a refused permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// The source has its share.
    #[error("limit of {0} connections per source reached")]
    Source(usize),
    /// All are in use, and none is idle.
    #[error("limit of {0} connections reached")]
    All(usize),
}

/// The permits of one or more listeners. Clones share them.
#[derive(Debug, Clone)]
pub struct Limiter {
    limits: Limits,
    /// Connections that wait, beside the others: in all, and half of it from one source.
    max_waiting: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// A permit was released, or its connection became idle.
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    by_number: BTreeMap<u64, Entry>,
    /// Those that wait are not among them.
    by_source: BTreeMap<IpAddr, usize>,
    waiting: usize,
    waiting_by_source: BTreeMap<IpAddr, usize>,
}

#[derive(Debug)]
struct Entry {
    source: IpAddr,
    idle_since: Option<Instant>,
    waits: bool,
    evicted: Arc<Notify>,
}

impl Limiter {
    /// A limiter with all permits free; none may wait.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            max_waiting: 0,
            shared: Arc::default(),
        }
    }

    /// So many may wait besides, half of them from one source.
    #[must_use]
    pub fn with_waiting(self, max_waiting: usize) -> Self {
        Self {
            max_waiting,
            ..self
        }
    }

    /// Acquires a permit for a connection, which counts as busy until [`Permit::set_idle`].
    pub fn acquire(&self, from: IpAddr, now: Instant) -> Result<Permit, LimitReached> {
        let Limits { all, per_source } = self.limits;
        let source = source(from);
        let mut state = self.shared.lock();
        if state.in_use() > all / 2 {
            while state.evict(|_, since| now.saturating_duration_since(since) >= IDLE_WHEN_BUSY) {}
        }
        let of_source = state.by_source.get(&source).copied().unwrap_or_default();
        if !is_shared(source)
            && of_source >= per_source
            && !state.evict(|entry, _| entry.source == source)
        {
            return Err(LimitReached::Source(per_source));
        }
        if state.in_use() >= all && !state.evict(|_, _| true) {
            return Err(LimitReached::All(all));
        }
        let number = state.next;
        state.next += 1;
        *state.by_source.entry(source).or_default() += 1;
        let evicted = Arc::new(Notify::new());
        state.by_number.insert(
            number,
            Entry {
                source,
                idle_since: None,
                waits: false,
                evicted: Arc::clone(&evicted),
            },
        );
        drop(state);
        Ok(Permit {
            number,
            evicted,
            limits: self.limits,
            max_waiting: self.max_waiting,
            shared: Arc::clone(&self.shared),
        })
    }

    /// Returns when [`Self::acquire`] may succeed again.
    pub async fn available(&self) {
        self.shared.released.notified().await;
    }

    /// Number of permits in use, without those that wait.
    pub fn in_use(&self) -> usize {
        self.shared.lock().in_use()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn in_use(&self) -> usize {
        self.by_number.len() - self.waiting
    }

    /// Moves a connection to those that wait; false if there are enough.
    fn wait(&mut self, number: u64, max: usize) -> bool {
        let Some(entry) = self.by_number.get_mut(&number) else {
            return false;
        };
        let source = entry.source;
        let of_source = self.waiting_by_source.get(&source).copied();
        let has_share = of_source.unwrap_or_default() >= max.div_ceil(2);
        if self.waiting >= max || (!is_shared(source) && has_share) {
            return false;
        }
        entry.waits = true;
        *self.waiting_by_source.entry(source).or_default() += 1;
        self.waiting += 1;
        decrement(&mut self.by_source, source);
        true
    }

    /// Moves a connection that waited to the others. Its place may be another's by now: then an idle one is evicted.
    fn end_wait(&mut self, number: u64, limits: Limits) {
        let Some(entry) = self.by_number.get_mut(&number) else {
            return;
        };
        if !entry.waits {
            return;
        }
        entry.waits = false;
        let source = entry.source;
        self.waiting -= 1;
        decrement(&mut self.waiting_by_source, source);
        let of_source = self.by_source.entry(source).or_default();
        *of_source += 1;
        if !is_shared(source) && *of_source > limits.per_source {
            self.evict(|entry, _| entry.source == source);
        }
        if self.in_use() > limits.all {
            self.evict(|_, _| true);
        }
    }

    fn set_idle(&mut self, number: u64, now: Instant) {
        if let Some(entry) = self.by_number.get_mut(&number) {
            entry.idle_since = Some(now);
        }
    }

    /// Evicts the longest idle of the eligible connections; false if there is none.
    fn evict(&mut self, is_eligible: impl Fn(&Entry, Instant) -> bool) -> bool {
        let oldest = self
            .by_number
            .iter()
            .filter_map(|(number, entry)| Some((entry.idle_since?, *number, entry)))
            .filter(|(since, _, entry)| is_eligible(entry, *since))
            .map(|(since, number, _)| (since, number))
            .min();
        let Some((_, number)) = oldest else {
            return false;
        };
        if let Some(entry) = self.remove(number) {
            entry.evicted.notify_one();
        }
        true
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.by_number.remove(&number)?;
        if entry.waits {
            self.waiting -= 1;
            decrement(&mut self.waiting_by_source, entry.source);
        } else {
            decrement(&mut self.by_source, entry.source);
        }
        Some(entry)
    }
}

fn decrement(counts: &mut BTreeMap<IpAddr, usize>, source: IpAddr) {
    if let Some(count) = counts.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&source);
        }
    }
}

/// The right of one connection to be open, released when dropped.
#[derive(Debug)]
pub struct Permit {
    number: u64,
    evicted: Arc<Notify>,
    limits: Limits,
    max_waiting: usize,
    shared: Arc<Shared>,
}

impl Permit {
    /// Marks the connection idle: it may be evicted.
    pub fn set_idle(&self, now: Instant) {
        self.shared.lock().set_idle(self.number, now);
        self.shared.released.notify_one();
    }

    /// Marks the connection busy until the guard is dropped.
    pub fn set_busy(self: &Arc<Self>) -> Busy {
        if let Some(entry) = self.shared.lock().by_number.get_mut(&self.number) {
            entry.idle_since = None;
        }
        Busy {
            permit: Arc::clone(self),
            waits: false,
        }
    }

    /// Returns when the connection is evicted and must be closed.
    pub async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.lock().remove(self.number);
        self.shared.released.notify_one();
    }
}

/// A request under way on a connection.
#[derive(Debug)]
pub struct Busy {
    permit: Arc<Permit>,
    waits: bool,
}

impl Busy {
    /// Marks a request without an end of its own, such as a watch: its connection is counted with those that wait, and
    /// takes no place of others. False if too many wait already.
    pub fn set_waiting(&mut self) -> bool {
        if self.waits {
            return true;
        }
        let permit = &self.permit;
        self.waits = permit.shared.lock().wait(permit.number, permit.max_waiting);
        if self.waits {
            permit.shared.released.notify_one();
        }
        self.waits
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Permit {
            number,
            limits,
            shared,
            ..
        } = &*self.permit;
        let mut state = shared.lock();
        state.set_idle(*number, Instant::now());
        if self.waits {
            state.end_wait(*number, *limits);
        }
        drop(state);
        shared.released.notify_one();
    }
}

/// All programs of this machine have it.
fn is_shared(source: IpAddr) -> bool {
    source == Ipv4Addr::LOCALHOST || source == Ipv6Addr::LOCALHOST
}

/// The address that connections are counted by: an IPv6 host has a /64 to itself.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            let mut segments = ip.segments();
            segments[4..].fill(0);
            Ipv6Addr::from(segments).into()
        }
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        all: 4,
        per_source: 2,
    };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn is_evicted(place: &Permit) -> bool {
        let mut evicted = std::pin::pin!(place.evicted());
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        evicted.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn connections_of_one_source_are_limited() {
        let limiter = Limiter::new(LIMITS);
        let now = Instant::now();
        let first = limiter.acquire(ip("10.0.0.1"), now).expect("a permit");
        let _second = limiter.acquire(ip("10.0.0.1"), now).expect("a permit");
        let refused = limiter.acquire(ip("::ffff:10.0.0.1"), now);
        assert_eq!(refused.expect_err("its share"), LimitReached::Source(2));
        let _other = limiter.acquire(ip("10.0.0.2"), now).expect("a permit");
        drop(first);
        let _third = limiter.acquire(ip("10.0.0.1"), now).expect("released");
        assert_eq!(limiter.in_use(), 3);
    }

    #[test]
    fn an_ipv6_64_is_one_source_and_loopback_has_no_share() {
        let limiter = Limiter::new(LIMITS);
        let now = Instant::now();
        let _two =
            ["2001:db8::1", "2001:db8::2"].map(|a| limiter.acquire(ip(a), now).expect("a permit"));
        let refused = limiter.acquire(ip("2001:db8::3"), now);
        assert_eq!(refused.expect_err("its share"), LimitReached::Source(2));
        let local = Limiter::new(LIMITS);
        let _all = [(); 4].map(|()| local.acquire(ip("127.0.0.1"), now).expect("a permit"));
        let refused = local.acquire(ip("127.0.0.1"), now);
        assert_eq!(refused.expect_err("no permit"), LimitReached::All(4));
    }

    #[test]
    fn the_longest_idle_connection_is_evicted_and_a_busy_one_never() {
        let limiter = Limiter::new(LIMITS);
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let all =
            [(); 4].map(|()| Arc::new(limiter.acquire(ip("127.0.0.1"), start).expect("a permit")));
        all[2].set_idle(start);
        all[1].set_idle(later);
        let busy = all[2].set_busy();
        let _new = limiter.acquire(ip("127.0.0.1"), later).expect("a permit");
        assert!(is_evicted(&all[1]));
        assert!(!is_evicted(&all[2]));
        let refused = limiter.acquire(ip("127.0.0.1"), later);
        assert_eq!(refused.expect_err("all busy"), LimitReached::All(4));
        drop(busy);
        let _newer = limiter.acquire(ip("127.0.0.1"), later).expect("a permit");
        assert!(is_evicted(&all[2]));
        // An evicted permit releases nothing when dropped.
        drop(all);
        assert_eq!(limiter.in_use(), 2);
    }

    #[test]
    fn idle_connections_time_out_sooner_above_half_of_the_limit() {
        let limiter = Limiter::new(LIMITS);
        let start = Instant::now();
        let three = [(); 3].map(|()| limiter.acquire(ip("127.0.0.1"), start).expect("a permit"));
        three[0].set_idle(start);
        three[1].set_idle(start);
        let _soon = limiter.acquire(ip("127.0.0.1"), start).expect("a permit");
        assert!(!is_evicted(&three[0]));
        let _late = limiter
            .acquire(ip("127.0.0.1"), start + IDLE_WHEN_BUSY)
            .expect("a permit");
        assert!(is_evicted(&three[0]) && is_evicted(&three[1]));
        assert!(!is_evicted(&three[2]));
    }

    #[test]
    fn requests_that_wait_take_no_place_of_others() {
        let limiter = Limiter::new(LIMITS).with_waiting(3);
        let now = Instant::now();
        let four =
            || [(); 4].map(|()| Arc::new(limiter.acquire(ip("127.0.0.1"), now).expect("a permit")));
        let first = four();
        let mut busy = first.each_ref().map(Permit::set_busy);
        assert!(busy[..3].iter_mut().all(Busy::set_waiting));
        assert!(busy[0].set_waiting(), "it waits already");
        assert!(!busy[3].set_waiting());
        assert_eq!(limiter.in_use(), 1);
        let second = [(); 3].map(|()| limiter.acquire(ip("127.0.0.1"), now).expect("a permit"));
        let refused = limiter.acquire(ip("127.0.0.1"), now);
        assert_eq!(refused.expect_err("all busy"), LimitReached::All(4));
        // Its place was taken, and it is the only one that is idle.
        let [ended, .., mut last] = busy;
        drop(ended);
        assert!(is_evicted(&first[0]));
        assert_eq!(limiter.in_use(), 4);
        assert!(last.set_waiting());
        assert_eq!(limiter.in_use(), 3);
        drop((last, second, first));
        assert_eq!(limiter.in_use(), 0);
    }

    #[test]
    fn waits_of_one_source_are_limited() {
        let limiter = Limiter::new(LIMITS).with_waiting(4);
        let now = Instant::now();
        let waits = |from: &str| {
            let permit = Arc::new(limiter.acquire(ip(from), now).expect("a permit"));
            let mut busy = permit.set_busy();
            busy.set_waiting().then_some(busy)
        };
        let two = [waits("10.0.0.1"), waits("10.0.0.1")];
        assert!(two.iter().all(Option::is_some));
        assert!(waits("10.0.0.1").is_none());
        assert!(waits("10.0.0.2").is_some());
    }

    #[test]
    fn waits_that_end_give_a_source_no_more_than_its_share() {
        let limiter = Limiter::new(LIMITS).with_waiting(8);
        let now = Instant::now();
        let wait = || {
            let permit = Arc::new(limiter.acquire(ip("10.0.0.1"), now).expect("a permit"));
            let mut busy = permit.set_busy();
            assert!(busy.set_waiting());
            (permit, busy)
        };
        let four = [(); 4].map(|()| wait());
        let again = four.map(|(permit, busy)| {
            drop(busy);
            permit.set_busy()
        });
        assert_eq!(limiter.in_use(), LIMITS.per_source);
        let refused = limiter.acquire(ip("10.0.0.1"), now);
        assert_eq!(refused.expect_err("its share"), LimitReached::Source(2));
        let _other = limiter.acquire(ip("10.0.0.2"), now).expect("a permit");
        drop(again);
    }

    #[test]
    fn a_wait_that_is_refused_leaves_nothing() {
        let limiter = Limiter::new(LIMITS);
        let permit = limiter.acquire(ip("10.0.0.1"), Instant::now());
        let mut busy = Arc::new(permit.expect("a permit")).set_busy();
        assert!(!busy.set_waiting());
        assert!(limiter.shared.lock().waiting_by_source.is_empty());
    }
}
