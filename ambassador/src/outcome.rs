//! Outcomes of connections: counters, and the last failure of each link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{service, slot};

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
