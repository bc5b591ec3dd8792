//! Places for connections: so many in all, so many of one source, the idle given up first.
//!
//! A place is taken when a connection is accepted and given back when it is
//! dropped. A connection that says that it is idle may be closed to make room;
//! one that is at work never is. Holds no socket and reads no clock of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long an idle connection is kept when more than half of the places are taken.
const IDLE_WHEN_BUSY: Duration = Duration::from_secs(10);

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub all: usize,
    /// From one source address (IPv6: from one /64). All of this machine share 127.0.0.1 and ::1, which have no such limit.
    pub per_source: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// This source has all that it may have.
    #[error("it has {0} connections already")]
    Source(usize),
    /// All are taken, and none is idle.
    #[error("all {0} places are taken")]
    All(usize),
}

/// The places of one or more listeners. Clones share them.
#[derive(Debug, Clone)]
pub struct Places {
    limits: Limits,
    taken: Arc<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    open: Mutex<Open>,
    /// A place was given back, or its connection became idle.
    room: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    by_number: BTreeMap<u64, Entry>,
    by_source: BTreeMap<IpAddr, usize>,
    waiting: usize,
}

#[derive(Debug)]
struct Entry {
    source: IpAddr,
    idle_since: Option<Instant>,
    reclaimed: Arc<Notify>,
}

impl Places {
    /// All free.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            taken: Arc::default(),
        }
    }

    /// A place for a connection, which counts as at work until it says that it is idle.
    pub fn take(&self, from: IpAddr, now: Instant) -> Result<Place, Full> {
        let Limits { all, per_source } = self.limits;
        let source = source(from);
        let mut open = self.taken.lock();
        if open.by_number.len() > all / 2 {
            while open.reclaim(|_, since| now.saturating_duration_since(since) >= IDLE_WHEN_BUSY) {}
        }
        let of_source = open.by_source.get(&source).copied().unwrap_or_default();
        if !is_shared(source)
            && of_source >= per_source
            && !open.reclaim(|entry, _| entry.source == source)
        {
            return Err(Full::Source(per_source));
        }
        if open.by_number.len() >= all && !open.reclaim(|_, _| true) {
            return Err(Full::All(all));
        }
        let number = open.next;
        open.next += 1;
        *open.by_source.entry(source).or_default() += 1;
        let reclaimed = Arc::new(Notify::new());
        open.by_number.insert(
            number,
            Entry {
                source,
                idle_since: None,
                reclaimed: Arc::clone(&reclaimed),
            },
        );
        drop(open);
        Ok(Place {
            number,
            reclaimed,
            most_waiting: all - all / 4,
            taken: Arc::clone(&self.taken),
        })
    }

    /// Returns when there may be room again.
    pub async fn room(&self) {
        self.taken.room.notified().await;
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.lock().by_number.len()
    }
}

impl Taken {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Takes the place of the connection that has been idle for longest, of those that are meant. False if there is none.
    fn reclaim(&mut self, meant: impl Fn(&Entry, Instant) -> bool) -> bool {
        let oldest = self
            .by_number
            .iter()
            .filter_map(|(number, entry)| Some((entry.idle_since?, *number, entry)))
            .filter(|(since, _, entry)| meant(entry, *since))
            .map(|(since, number, _)| (since, number))
            .min();
        let Some((_, number)) = oldest else {
            return false;
        };
        if let Some(entry) = self.remove(number) {
            entry.reclaimed.notify_one();
        }
        true
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.by_number.remove(&number)?;
        if let Some(count) = self.by_source.get_mut(&entry.source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&entry.source);
            }
        }
        Some(entry)
    }
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    reclaimed: Arc<Notify>,
    most_waiting: usize,
    taken: Arc<Taken>,
}

impl Place {
    /// Nothing is under way from now on: the connection may be closed when others need the place.
    pub fn idle(&self, now: Instant) {
        if let Some(entry) = self.taken.lock().by_number.get_mut(&self.number) {
            entry.idle_since = Some(now);
        }
        self.taken.room.notify_one();
    }

    /// Something is under way: the place is kept. Idle again when the work is dropped.
    pub fn work(self: &Arc<Self>) -> Work {
        if let Some(entry) = self.taken.lock().by_number.get_mut(&self.number) {
            entry.idle_since = None;
        }
        Work {
            place: Arc::clone(self),
            waits: false,
        }
    }

    /// Returns when another connection has got the place: this one is to be closed.
    pub async fn reclaimed(&self) {
        self.reclaimed.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.lock().remove(self.number);
        self.taken.room.notify_one();
    }
}

/// Something under way on a connection.
#[derive(Debug)]
pub struct Work {
    place: Arc<Place>,
    waits: bool,
}

impl Work {
    /// It has no end of its own: it waits for what happens. False if that many wait already that the
    /// last quarter of the places would go, which is kept for all else.
    pub fn wait(&mut self) -> bool {
        let mut open = self.place.taken.lock();
        if self.waits {
            return true;
        }
        if open.waiting >= self.place.most_waiting {
            return false;
        }
        open.waiting += 1;
        self.waits = true;
        true
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.waits {
            self.place.taken.lock().waiting -= 1;
        }
        self.place.idle(Instant::now());
    }
}

/// All programs of this machine have it.
fn is_shared(source: IpAddr) -> bool {
    source == Ipv4Addr::LOCALHOST || source == Ipv6Addr::LOCALHOST
}

/// Addresses that one machine has as many of as it likes count as one.
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

    fn is_reclaimed(place: &Place) -> bool {
        let mut reclaimed = std::pin::pin!(place.reclaimed());
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        reclaimed.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn one_source_has_its_share() {
        let places = Places::new(LIMITS);
        let now = Instant::now();
        let first = places.take(ip("10.0.0.1"), now).expect("a place");
        let _second = places.take(ip("10.0.0.1"), now).expect("a place");
        let refused = places.take(ip("::ffff:10.0.0.1"), now);
        assert_eq!(refused.expect_err("its share"), Full::Source(2));
        let _other = places.take(ip("10.0.0.2"), now).expect("a place");
        drop(first);
        let _third = places.take(ip("10.0.0.1"), now).expect("given back");
        assert_eq!(places.taken(), 3);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_this_machine_is_none() {
        let places = Places::new(LIMITS);
        let now = Instant::now();
        let _two =
            ["2001:db8::1", "2001:db8::2"].map(|a| places.take(ip(a), now).expect("a place"));
        let refused = places.take(ip("2001:db8::3"), now);
        assert_eq!(refused.expect_err("its share"), Full::Source(2));
        let local = Places::new(LIMITS);
        let _all = [(); 4].map(|()| local.take(ip("127.0.0.1"), now).expect("a place"));
        let refused = local.take(ip("127.0.0.1"), now);
        assert_eq!(refused.expect_err("no place"), Full::All(4));
    }

    #[test]
    fn the_one_that_is_idle_for_longest_makes_room_and_work_is_kept() {
        let places = Places::new(LIMITS);
        let start = Instant::now();
        let later = start + Duration::from_secs(1);
        let all = [(); 4].map(|()| Arc::new(places.take(ip("127.0.0.1"), start).expect("a place")));
        all[2].idle(start);
        all[1].idle(later);
        let work = all[2].work();
        let _new = places.take(ip("127.0.0.1"), later).expect("a place");
        assert!(is_reclaimed(&all[1]));
        assert!(!is_reclaimed(&all[2]));
        let refused = places.take(ip("127.0.0.1"), later);
        assert_eq!(refused.expect_err("all work"), Full::All(4));
        drop(work);
        let _newer = places.take(ip("127.0.0.1"), later).expect("a place");
        assert!(is_reclaimed(&all[2]));
        // Who has lost the place gives nothing back.
        drop(all);
        assert_eq!(places.taken(), 2);
    }

    #[test]
    fn idle_ones_end_sooner_when_half_of_the_places_are_taken() {
        let places = Places::new(LIMITS);
        let start = Instant::now();
        let three = [(); 3].map(|()| places.take(ip("127.0.0.1"), start).expect("a place"));
        three[0].idle(start);
        three[1].idle(start);
        let _soon = places.take(ip("127.0.0.1"), start).expect("a place");
        assert!(!is_reclaimed(&three[0]));
        let _late = places
            .take(ip("127.0.0.1"), start + IDLE_WHEN_BUSY)
            .expect("a place");
        assert!(is_reclaimed(&three[0]) && is_reclaimed(&three[1]));
        assert!(!is_reclaimed(&three[2]));
    }

    #[test]
    fn waits_leave_a_quarter_of_the_places_to_others() {
        let places = Places::new(LIMITS);
        let now = Instant::now();
        let all = [(); 4].map(|()| Arc::new(places.take(ip("127.0.0.1"), now).expect("a place")));
        let mut work = all.each_ref().map(Place::work);
        assert!(work[..3].iter_mut().all(Work::wait));
        assert!(work[0].wait(), "it waits already");
        assert!(!work[3].wait());
        let [first, .., mut last] = work;
        drop(first);
        assert!(last.wait());
    }
}
