//! Outcomes of connections: counters, and the last failure of each link.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use manifests::SlotId;
use model::directory::ServiceId;

/// Counts of link connections since the start, by result.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connected to an endpoint.
    pub ok: AtomicU64,
    /// Refused: unknown caller, no such link, or no endpoint.
    pub refused: AtomicU64,
    /// Failed to connect to any endpoint.
    pub failed: AtomicU64,
    /// Open at the moment.
    pub open: AtomicU64,
}

/// A refused or failed connection of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its time.
    pub at: SystemTime,
    /// The reason, as text.
    pub reason: String,
}

/// The last failure of each link of each caller.
#[derive(Debug, Default)]
pub struct Failures {
    last: Mutex<BTreeMap<SlotId, BTreeMap<ServiceId, Failure>>>,
}

impl Failures {
    /// The last failure of a slot's link to a service, also if connections succeeded since.
    pub fn last(&self, slot: &SlotId, service: &ServiceId) -> Option<Failure> {
        self.lock().get(slot)?.get(service).cloned()
    }

    pub(crate) fn note(&self, slot: &SlotId, service: &ServiceId, failure: Failure) {
        self.lock()
            .entry(slot.clone())
            .or_default()
            .insert(service.clone(), failure);
    }

    /// Forgets slots that are gone.
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
