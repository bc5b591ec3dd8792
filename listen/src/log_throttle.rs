//! Log lines that outsiders can cause, at most one per key and interval.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Keys that are told apart; beyond it, lines of further keys are suppressed.
const MAX_KEYS: usize = 1024;

/// Passes one log line per key and interval, and counts those it suppresses.
#[derive(Debug)]
pub struct LogThrottle<K = ()> {
    interval: Duration,
    last: BTreeMap<K, (Instant, u64)>,
}

impl<K: Ord> LogThrottle<K> {
    /// A throttle that has passed nothing yet.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: BTreeMap::new(),
        }
    }

    /// Number of lines suppressed since the last one, if this one is to be logged.
    pub fn pass(&mut self, key: K, now: Instant) -> Option<u64> {
        let is_over = |at: Instant| now.saturating_duration_since(at) >= self.interval;
        if let Some((at, suppressed)) = self.last.get_mut(&key) {
            if !is_over(*at) {
                *suppressed += 1;
                return None;
            }
            *at = now;
            return Some(std::mem::take(suppressed));
        }
        if self.last.len() >= MAX_KEYS {
            self.last.retain(|_, (at, _)| !is_over(*at));
        }
        if self.last.len() >= MAX_KEYS {
            return None;
        }
        self.last.insert(key, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn one_line_per_key_and_interval() {
        let mut throttle = LogThrottle::new(INTERVAL);
        let start = Instant::now();
        assert_eq!(throttle.pass((2, 10_000), start), Some(0));
        assert_eq!(throttle.pass((2, 10_000), start), None);
        assert_eq!(throttle.pass((2, 10_000), start), None);
        assert_eq!(throttle.pass((2, 10_001), start), Some(0));
        assert_eq!(throttle.pass((3, 10_000), start), Some(0));
        assert_eq!(throttle.pass((2, 10_000), start + INTERVAL), Some(2));
        assert_eq!(throttle.pass((2, 10_000), start + INTERVAL), None);
    }

    #[test]
    fn keys_are_bounded() {
        let mut throttle = LogThrottle::new(INTERVAL);
        let start = Instant::now();
        for key in 0..2000 {
            throttle.pass(key, start);
        }
        assert_eq!(throttle.last.len(), MAX_KEYS);
        assert_eq!(throttle.pass(5000, start + INTERVAL), Some(0));
        assert_eq!(throttle.last.len(), 1);
    }
}
