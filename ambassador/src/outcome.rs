//! What became of connections: counts, the last failure of each link, and what is worth a line in the log.
//!
//! Bounded whatever callers do: a line per caller and port each ten seconds,
//! failures only of slots that are there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use manifests::SlotId;
use model::directory::ServiceId;

/// Link connections since the start, by result.
#[derive(Debug, Default)]
pub struct Counters {
    /// Reached an endpoint.
    pub ok: AtomicU64,
    /// Refused: unknown caller, no such link, or nothing that serves it.
    pub refused: AtomicU64,
    /// There were endpoints, and none took the connection.
    pub failed: AtomicU64,
    /// Open now.
    pub open: AtomicU64,
}

/// A connection of a link that was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// Why, for people.
    pub reason: String,
}

/// The last failure of each link of each caller.
#[derive(Debug, Default)]
pub struct Failures {
    last: Mutex<BTreeMap<SlotId, BTreeMap<ServiceId, Failure>>>,
}

impl Failures {
    /// The last failure of a slot's link to a service; connections that worked since do not remove it.
    pub fn last(&self, slot: &SlotId, service: &ServiceId) -> Option<Failure> {
        self.lock().get(slot)?.get(service).cloned()
    }

    pub(crate) fn note(&self, slot: &SlotId, service: &ServiceId, failure: Failure) {
        self.lock()
            .entry(slot.clone())
            .or_default()
            .insert(service.clone(), failure);
    }

    /// Forgets slots that are not here any more.
    pub(crate) fn retain(&self, here: &BTreeSet<&SlotId>) {
        self.lock().retain(|slot, _| here.contains(slot));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SlotId, BTreeMap<ServiceId, Failure>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a caller's port is silent after a line.
const SILENT: Duration = Duration::from_secs(10);
/// Most callers and ports that are told apart; above it, lines are left out.
const REMEMBERED: usize = 1024;

/// Lets one line per caller and port pass each ten seconds.
#[derive(Debug, Default)]
pub(crate) struct LogGate {
    said: BTreeMap<(IpAddr, u16), (Instant, u64)>,
}

impl LogGate {
    /// How many lines were left out since the last one, if this one is to be written.
    pub(crate) fn pass(&mut self, caller: IpAddr, port: u16, now: Instant) -> Option<u64> {
        let is_over = |at: Instant| now.saturating_duration_since(at) >= SILENT;
        if let Some((at, left_out)) = self.said.get_mut(&(caller, port)) {
            if !is_over(*at) {
                *left_out += 1;
                return None;
            }
            let count = *left_out;
            (*at, *left_out) = (now, 0);
            return Some(count);
        }
        if self.said.len() >= REMEMBERED {
            self.said.retain(|_, (at, _)| !is_over(*at));
        }
        if self.said.len() >= REMEMBERED {
            return None;
        }
        self.said.insert((caller, port), (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{service, slot};

    #[test]
    fn a_line_for_the_first_and_then_one_each_ten_seconds() {
        let mut gate = LogGate::default();
        let start = Instant::now();
        let ip = |last| IpAddr::from([172, 17, 0, last]);
        assert_eq!(gate.pass(ip(2), 10_000, start), Some(0));
        assert_eq!(gate.pass(ip(2), 10_000, start), None);
        assert_eq!(gate.pass(ip(2), 10_000, start), None);
        assert_eq!(gate.pass(ip(2), 10_001, start), Some(0));
        assert_eq!(gate.pass(ip(3), 10_000, start), Some(0));
        assert_eq!(gate.pass(ip(2), 10_000, start + SILENT), Some(2));
        assert_eq!(gate.pass(ip(2), 10_000, start + SILENT), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut gate = LogGate::default();
        let start = Instant::now();
        for port in 0..2000 {
            gate.pass(IpAddr::from([172, 17, 0, 2]), port, start);
        }
        assert_eq!(gate.said.len(), REMEMBERED);
        let next = gate.pass(IpAddr::from([172, 17, 0, 3]), 1, start + SILENT);
        assert_eq!(next, Some(0));
        assert_eq!(gate.said.len(), 1);
    }

    #[test]
    fn failures_live_as_long_as_their_slot() {
        let failures = Failures::default();
        let (slot, service) = (slot("shop/crawler/0"), service("shop/web"));
        let failure = Failure {
            at: SystemTime::UNIX_EPOCH,
            reason: "refused".to_owned(),
        };
        failures.note(&slot, &service, failure.clone());
        assert_eq!(failures.last(&slot, &service), Some(failure));
        failures.retain(&BTreeSet::from([&slot]));
        assert!(failures.last(&slot, &service).is_some());
        failures.retain(&BTreeSet::new());
        assert_eq!(failures.last(&slot, &service), None);
    }
}
