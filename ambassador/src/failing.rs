//! Connects to endpoints that failed lately, by the address of their host.
//!
//! A firewall between two hosts fails every link between them and nothing else.
//! One connect that succeeds ends the count: the way is free.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How long a failure counts.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Failures before they say something about the host, and the time between the first and the last: an instance that has
/// just ended refuses, too.
const FEW: usize = 3;
const LONG: Duration = Duration::from_secs(5);
/// Failures that are kept of an address.
const KEPT: usize = 1_000;

/// Why a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    TimedOut,
    Refused,
    Other,
}

/// Failed connects since the last that succeeded.
#[derive(Debug)]
pub struct FailedConnects {
    by_address: Mutex<BTreeMap<IpAddr, VecDeque<(Instant, Why)>>>,
    changed: watch::Sender<()>,
}

impl Default for FailedConnects {
    fn default() -> Self {
        Self {
            by_address: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl FailedConnects {
    /// Changes with each failure.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// No failure counts any more.
    pub fn is_empty(&self, now: Instant) -> bool {
        let mut by_address = self.lock();
        by_address.retain(|_, failures| {
            failures.retain(|(at, _)| now.saturating_duration_since(*at) < WINDOW);
            !failures.is_empty()
        });
        by_address.is_empty()
    }

    /// Addresses to which every connect has failed for a while, and how: `12 of 12 connects in the last minute timed out`.
    pub fn failing(&self, now: Instant) -> BTreeMap<IpAddr, String> {
        let is_late = |at: Instant| now.saturating_duration_since(at) < WINDOW;
        let mut failing = BTreeMap::new();
        for (address, failures) in self.lock().iter() {
            let late: Vec<_> = failures.iter().filter(|(at, _)| is_late(*at)).collect();
            let (Some((first, why)), Some((last, _))) = (late.first(), late.last()) else {
                continue;
            };
            if late.len() < FEW || last.saturating_duration_since(*first) < LONG {
                continue;
            }
            let how = match why {
                Why::TimedOut if late.iter().all(|(_, other)| other == why) => "timed out",
                Why::Refused if late.iter().all(|(_, other)| other == why) => "were refused",
                _ => "failed",
            };
            let count = late.len();
            let text = format!("{count} of {count} connects in the last minute {how}");
            failing.insert(*address, text);
        }
        failing
    }

    pub(crate) fn failed(&self, address: IpAddr, error: &io::Error, now: Instant) {
        let why = match error.kind() {
            io::ErrorKind::TimedOut => Why::TimedOut,
            io::ErrorKind::ConnectionRefused => Why::Refused,
            _ => Why::Other,
        };
        let mut by_address = self.lock();
        let failures = by_address.entry(address).or_default();
        if failures.len() == KEPT {
            failures.pop_front();
        }
        failures.push_back((now, why));
        drop(by_address);
        self.changed.send_replace(());
    }

    pub(crate) fn answered(&self, address: IpAddr) {
        self.lock().remove(&address);
    }

    /// How many there are of an address.
    #[cfg(test)]
    pub(crate) fn failures(&self, address: IpAddr) -> usize {
        self.lock().get(&address).map_or(0, VecDeque::len)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<IpAddr, VecDeque<(Instant, Why)>>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_fails_when_all_connects_did_for_a_while_until_one_succeeds() {
        let failed = FailedConnects::default();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        for _ in 0..5 {
            failed.failed(one, &late(), begun);
        }
        assert!(failed.failing(begun).is_empty(), "all at one moment");
        failed.failed(one, &late(), after(6));
        failed.failed(other, &late(), after(6));
        let text = "6 of 6 connects in the last minute timed out";
        let expected = BTreeMap::from([(one, text.to_owned())]);
        assert_eq!(failed.failing(after(7)), expected);
        failed.failed(one, &io::ErrorKind::ConnectionRefused.into(), after(8));
        assert!(failed.failing(after(8))[&one].starts_with("7 of 7 connects in the last minute f"));

        failed.answered(one);
        assert!(failed.failing(after(8)).is_empty());
        assert!(!failed.is_empty(after(8)), "the other one");
        for second in [10, 20, 30] {
            failed.failed(one, &io::ErrorKind::ConnectionRefused.into(), after(second));
        }
        assert!(failed.failing(after(31))[&one].ends_with("were refused"));
        assert!(failed.failing(after(75)).is_empty(), "too long ago");
        assert!(failed.is_empty(after(91)));
    }
}
