//! Whether GETs come so often that a watch is worth it for them. Pure: the time is an argument.
//!
//! A GET whose answer is kept spares etcd about what it takes to tell a watch of one change.

use std::time::Duration;

use tokio::time::Instant;

/// GETs in a span.
const MANY: u64 = 200;

/// In which they are counted until there are many.
const SPAN: Duration = Duration::from_secs(1);

/// In which they must be many again.
pub(super) const LONG_SPAN: Duration = Duration::from_secs(10);

/// GETs and changes of etcd, counted in spans of time.
#[derive(Debug)]
pub(super) struct Demand {
    begun: Instant,
    gets: u64,
    /// The newest revision at the beginning, and now.
    first: i64,
    newest: i64,
}

impl Demand {
    /// Nothing is counted yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            gets: 0,
            first: 0,
            newest: 0,
        }
    }

    /// GETs were answered, when this revision was the newest.
    pub(super) fn count(&mut self, gets: usize, revision: i64) {
        self.gets += gets as u64;
        self.newest = self.newest.max(revision);
    }

    /// A span that is over is followed by the next one.
    pub(super) fn go_on(&mut self, now: Instant) {
        if now.duration_since(self.begun) > SPAN {
            self.begin(now);
        }
    }

    /// A span begins.
    pub(super) fn begin(&mut self, now: Instant) {
        *self = Self {
            begun: now,
            gets: 0,
            first: self.newest,
            newest: self.newest,
        };
    }

    /// The GETs of this span are many, and more than the changes.
    pub(super) fn is_large(&self) -> bool {
        let changes = self.newest - self.first;
        self.gets >= MANY && self.gets >= changes.unsigned_abs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_gets_in_a_second_are_a_demand() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut demand = Demand::new(start);
        demand.begin(start);
        for nth in 0..400 {
            demand.go_on(at(nth * 10));
            demand.count(1, 7);
            assert!(!demand.is_large(), "100 a second");
        }
        demand.begin(at(4_000));
        demand.count(199, 7);
        demand.go_on(at(4_900));
        assert!(!demand.is_large());
        demand.count(1, 7);
        assert!(demand.is_large());
    }

    #[test]
    fn more_changes_than_gets_are_none() {
        let start = Instant::now();
        let mut demand = Demand::new(start);
        demand.count(1, 1_000);
        demand.begin(start);
        demand.count(300, 1_301);
        assert!(!demand.is_large());
        demand.count(1, 1_301);
        assert!(demand.is_large());
        // etcd was restored.
        demand.begin(start);
        demand.count(200, 3);
        assert!(demand.is_large());
    }
}
