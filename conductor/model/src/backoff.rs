//! How long to wait after a failure, as data.

use std::time::Duration;

use crate::time::Millis;

/// First wait.
const FIRST: Duration = Duration::from_secs(1);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// A life of this length forgives what was before.
const FORGIVEN_AFTER: Duration = Duration::from_secs(600);

/// Failures in a row: 1 s, 2 s, 4 s … up to 5 min.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    last: Millis,
}

impl Backoff {
    /// Notes a failure.
    pub fn failed(&mut self, now: Millis) {
        self.failures = self.failures.saturating_add(1);
        self.last = now;
    }

    /// Notes that something which started at `since` has worked until now; a long life forgives.
    pub fn lived(&mut self, since: Millis, now: Millis) {
        if now - since >= FORGIVEN_AFTER {
            self.failures = 0;
        }
    }

    /// Forgets all failures.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// How long to wait after the last failure.
    pub fn wait(&self) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 1).min(16)).min(LONGEST),
        }
    }

    /// When it failed last.
    pub fn last(&self) -> Millis {
        self.last
    }

    /// When to try again; now, if nothing has failed.
    pub fn next_try(&self) -> Millis {
        match self.failures {
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
}
