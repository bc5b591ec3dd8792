//! How long to wait after failures, as data.

use std::time::Duration;

use crate::time::Millis;

/// A life of this length forgives the failures before it.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// Exponential back-off: a wait that doubles with each failure in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exponential {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Exponential {
    /// No failure yet.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// Notes a failure.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Wait after the last failure; zero if nothing has failed.
    pub fn wait(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            n => self
                .first
                .saturating_mul(1 << (n - 1).min(16))
                .min(self.longest),
        }
    }

    /// Notes a failure and gives the wait after it.
    pub fn next_wait(&mut self) -> Duration {
        self.failed();
        self.wait()
    }

    /// Upper bound of the waits.
    pub fn longest(&self) -> Duration {
        self.longest
    }
}

/// Back-off of one thing on a clock: 1 s, 2 s, 4 s … up to 5 min.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    waits: Exponential,
    last: Millis,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            waits: Exponential::new(Duration::from_secs(1), Duration::from_secs(300)),
            last: Millis::default(),
        }
    }
}

impl Backoff {
    /// Notes a failure.
    pub fn failed(&mut self, now: Millis) {
        self.waits.failed();
        self.last = now;
    }

    /// Notes that something which started at `since` has worked until now; a long life forgives.
    pub fn lived(&mut self, since: Millis, now: Millis) {
        if now - since >= FORGIVEN_AFTER {
            self.reset();
        }
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.waits.reset();
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.waits.failures()
    }

    /// Wait after the last failure.
    pub fn wait(&self) -> Duration {
        self.waits.wait()
    }

    /// Time of the last failure.
    pub fn last(&self) -> Millis {
        self.last
    }

    /// Time of the next attempt; now, if nothing has failed.
    pub fn next_try(&self) -> Millis {
        match self.failures() {
            0 => Millis::default(),
            _ => self.last + self.wait(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_from_a_second_to_five_minutes_and_is_forgiven_after_ten_minutes_of_life() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next_try(), Millis(0));
        let mut waits = Vec::new();
        for _ in 0..11 {
            backoff.failed(Millis(1_000));
            waits.push((backoff.next_try() - Millis(1_000)).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        backoff.lived(Millis(1_000), Millis(600_999));
        assert_eq!(backoff.failures(), 11);
        backoff.lived(Millis(1_000), Millis(601_000));
        assert_eq!(backoff.failures(), 0);
    }

    #[test]
    fn the_wait_doubles_up_to_the_longest_until_something_works() {
        let mut retry = Exponential::new(Duration::from_millis(200), Duration::from_secs(10));
        assert_eq!(retry.wait(), Duration::ZERO);
        let waits: Vec<u128> = (0..40).map(|_| retry.next_wait().as_millis()).collect();
        assert_eq!(waits[..7], [200, 400, 800, 1_600, 3_200, 6_400, 10_000]);
        assert_eq!(waits[39], 10_000);
        retry.reset();
        assert_eq!(retry.next_wait(), Duration::from_millis(200));
    }
}
