//! What is remembered of a machine, to judge it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use manifests::keys::Key;
use manifests::{ContainerId, HostName, InstanceId, SlotId};
use model::Millis;
use model::records::Phase;
use model::snapshot::Snapshot;
use store::kv::Event;
use uuid::Uuid;

/// While many hosts are missing nothing is taken over before the live ones have been the same for so long …
const SETTLED: Duration = Duration::from_secs(30);
/// … or they have been missing for so long.
const LONGEST: Duration = Duration::from_secs(300);

/// A lost event is found after this: by the next comparison, and when the stream has shown itself alive after it.
const FOUND: Duration = Duration::from_secs(75);

/// What is remembered of a machine, to judge it.
#[derive(Debug, Default)]
pub struct Witness {
    /// Sessions of its own processes.
    pub sessions: BTreeSet<Uuid>,
    /// Its disk is a copy of another's.
    pub copied: bool,
    /// Running containers that are nobody's as its agent sees, and since when.
    pub(crate) illegitimate: BTreeMap<InstanceId, Millis>,
    /// What its agent had leave to stop, and has asked to: that can't be taken back, and may be asked once more. What was
    /// leaving when the agent began may have been asked to by the one before.
    pub(crate) ending: BTreeSet<InstanceId>,
    /// Of which containers its agent's stream has lost events, and when.
    lost: BTreeMap<ContainerId, Millis>,
    live: Vec<HostName>,
    live_since: Millis,
    missing: BTreeSet<HostName>,
    has_looked: bool,
    missing_since: Option<Millis>,
}

impl Witness {
    /// Its agent remembers nothing.
    pub fn restarted(&mut self) {
        self.illegitimate.clear();
        self.ending.clear();
        self.lost.clear();
        self.live.clear();
        self.missing.clear();
        self.has_looked = false;
        self.missing_since = None;
    }

    /// Its agent's stream has lost these.
    pub(crate) fn loses(&mut self, events: &[Event], now: Millis) {
        for event in events {
            if let Some(
                Key::Manifest(id)
                | Key::Claim(SlotId { container: id, .. })
                | Key::Next(SlotId { container: id, .. }),
            ) = Key::parse(event.key())
            {
                self.lost.insert(id, now);
            }
        }
    }

    /// Its agent can't know yet that it lacks an event of this container.
    pub(crate) fn lacks(&self, container: &ContainerId, now: Millis) -> bool {
        self.lost.get(container).is_some_and(|at| now < *at + FOUND)
    }

    /// Its agent sees this, and may act on it.
    pub fn sees(&mut self, snapshot: &Snapshot, now: Millis) {
        if self.missing_since.is_some() && !self.is_paused(now) {
            self.missing_since = None;
        }
        let live: Vec<HostName> = snapshot.live().map(|(name, _)| name.clone()).collect();
        if live != self.live {
            self.live = live;
            self.live_since = now;
        }
        let members = || snapshot.hosts.iter().filter(|(_, h)| h.member.is_some());
        let missing: BTreeSet<HostName> = members()
            .filter(|(_, h)| h.record.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        // Whoever has just begun to look does not know how many went at once.
        let first = !std::mem::replace(&mut self.has_looked, true);
        if first {
            let slots = snapshot.containers.values().flat_map(|c| c.slots.values());
            let states = slots.filter_map(|slot| slot.state.as_ref());
            let leaving = states.filter(|state| state.state == Phase::Leaving);
            self.ending
                .extend(leaving.map(|state| state.instance.clone()));
        }
        let too_many = missing.len() > (members().count() / 4).max(1);
        if missing.is_empty() {
            self.missing_since = None;
        } else if !missing.is_subset(&self.missing) && (first || too_many) {
            self.missing_since.get_or_insert(now);
        }
        self.missing = missing;
    }

    /// Nothing is taken over: many hosts have gone at once.
    pub(crate) fn is_paused(&self, now: Millis) -> bool {
        self.missing_since.is_some_and(|since| {
            now < self.live_since.max(since) + SETTLED && now < since + LONGEST
        })
    }
}
