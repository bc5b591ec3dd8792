//! The disruption guard: when slots may be placed and taken over, and when too much is amiss for that.
//!
//! It pauses takeovers after a mass failure, and for a moment of any host that
//! goes missing; placement after an accepted restore; and both while a host is in
//! hold or etcd refuses writes. It is the memory of one process and never written
//! to etcd, so each host judges by what it has seen itself. One that has just started knows nothing of before:
//! hosts that it finds missing may be about to come back, as it did.

use std::collections::BTreeMap;
use std::time::Duration;

use manifests::HostName;

use model::snapshot::Snapshot;
use model::time::Millis;

/// The live hosts have settled when they have been the same for so long …
const SETTLED: Duration = Duration::from_secs(30);
/// Time without a handover before a slot moves to a host that has fewer.
const BETWEEN_MOVES: Duration = Duration::from_secs(10);
/// … and no pause is longer than this.
const LONGEST: Duration = Duration::from_secs(300);
/// A member that went missing has so long to put its record again: an etcd member that thought too long that it leads
/// ends the leases of hosts that live (etcd#15247), and each of those is back within some round trips.
const BRIEFLY: Duration = Duration::from_millis(500);
/// A member that has been missing for so long is not waited for any more.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// Reason for which no slot is placed or taken over for now.
#[derive(Debug, Clone, PartialEq, Eq, strum::Display)]
pub enum Pause {
    /// This host went missing only just now.
    #[strum(to_string = "{0} is missing, and may be back at once")]
    JustMissing(HostName),
    /// Many hosts are missing at once.
    #[strum(
        to_string = "{missing} of {members} hosts are missing: nothing is taken over until the others have settled"
    )]
    HostsMissing {
        /// Missing members.
        missing: usize,
        /// All members.
        members: usize,
    },
    /// Hosts are missing that may not have been able to write their record.
    #[strum(
        to_string = "etcd refused writes until now, and {missing} of {members} hosts are missing: nothing is taken over until the others have settled"
    )]
    WritesRefused {
        /// Missing members.
        missing: usize,
        /// All members.
        members: usize,
    },
    /// etcd refuses writes, for this reason.
    #[strum(to_string = "{0}: nothing is placed or moved before it takes writes again")]
    RefusingWrites(String),
    /// This host is in hold.
    #[strum(to_string = "{0} is in hold: it distrusts its etcd, so nothing is moved")]
    Hold(HostName),
    /// A restore was accepted.
    #[strum(to_string = "a restore was accepted: nothing is placed until the hosts are back")]
    Restored,
}

/// What one agent has seen of the hosts, and of etcd's readiness to write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DisruptionGuard {
    /// A snapshot was seen before.
    began: bool,
    live: Vec<HostName>,
    /// Start of the time for which the live hosts have been these.
    since: Millis,
    members: usize,
    /// Members that are not live, and when each was first seen so.
    missing: BTreeMap<HostName, Millis>,
    /// When one more went missing while too many were; or the first snapshot, if any was missing in it.
    mass_failure: Option<Millis>,
    restored: Option<Millis>,
    hold: Option<HostName>,
    /// A handover was under way then.
    moved: Millis,
    /// Reason for which etcd refuses writes.
    refusing: Option<String>,
    /// When it took them again.
    recovered: Option<Millis>,
}

impl DisruptionGuard {
    /// Takes a complete snapshot in.
    pub fn observe(&mut self, snapshot: &Snapshot, now: Millis) {
        self.observe_slots(snapshot, now);
        self.observe_hosts(snapshot, now);
    }

    /// Takes a complete snapshot in whose hosts are those of the one before.
    pub fn observe_slots(&mut self, snapshot: &Snapshot, now: Millis) {
        // A pause that is over stays so, whatever is seen next.
        self.mass_failure = self
            .mass_failure
            .filter(|began| now < self.settled_at(*began));
        self.restored = self.restored.filter(|began| now < self.settled_at(*began));
        self.recovered = self.recovered.filter(|began| now < self.settled_at(*began));
        if snapshot.is_handing_over() {
            self.moved = now;
        }
    }

    fn observe_hosts(&mut self, snapshot: &Snapshot, now: Millis) {
        if !snapshot.live().map(|(name, _)| name).eq(&self.live) {
            self.live = snapshot.live().map(|(name, _)| name.clone()).collect();
            self.since = now;
        }
        let earlier = std::mem::take(&mut self.missing);
        self.members = 0;
        let mut another = false;
        for (name, host) in &snapshot.hosts {
            if host.member.is_none() {
                continue;
            }
            self.members += 1;
            if host.record.is_none() {
                let since = earlier.get(name).copied();
                another |= since.is_none();
                self.missing.insert(name.clone(), since.unwrap_or(now));
            }
        }
        if self.counted(now).0 == 0 {
            // All are back: who is lost next is lost alone.
            self.mass_failure = None;
        }
        let first = !std::mem::replace(&mut self.began, true);
        if another && (first || self.too_many_missing(now)) {
            self.mass_failure.get_or_insert(now);
        }
        self.hold = snapshot.in_hold().cloned();
    }

    /// From when on a slot may move for the sake of balance: the live hosts have settled, and the last handover is over
    /// for a while.
    pub fn may_rebalance_at(&self) -> Millis {
        (self.since + SETTLED).max(self.moved + BETWEEN_MOVES)
    }

    /// A restore was accepted: the hosts come back one after the other.
    pub fn restore_accepted(&mut self, now: Millis) {
        self.restored = Some(now);
    }

    /// etcd refuses writes, and why; or it takes them.
    ///
    /// It refuses them unevenly: a claim may pass where a record can't be put. So a host that was restarted meanwhile is
    /// missing, though it lives; it is given time to come back before anybody takes its slots.
    pub fn refuses_writes(&mut self, why: Option<String>, now: Millis) {
        if self.refusing.is_some() && why.is_none() {
            self.recovered = Some(now);
        }
        self.refusing = why;
    }

    /// A restore was accepted, and the hosts are not back yet.
    pub fn is_restoring(&self, now: Millis) -> bool {
        self.is_unsettled(self.restored, now)
    }

    /// A slot of this lost host may be taken over now, or the reason why not.
    pub fn may_take_over(&self, lost: &HostName, now: Millis) -> Result<(), Pause> {
        self.may_place(now)?;
        let (missing, members) = self.counted(now);
        if missing == 0 {
            return Ok(());
        }
        // After a power cut the hosts come back one by one, and all are waited for, down to the last.
        if self.is_unsettled(self.mass_failure, now) {
            return Err(Pause::HostsMissing { missing, members });
        }
        if self.is_unsettled(self.recovered, now) {
            return Err(Pause::WritesRefused { missing, members });
        }
        if self
            .missing
            .get(lost)
            .is_some_and(|since| now < *since + BRIEFLY)
        {
            return Err(Pause::JustMissing(lost.clone()));
        }
        Ok(())
    }

    /// A slot may be given to a host now, or the reason why not.
    pub fn may_place(&self, now: Millis) -> Result<(), Pause> {
        if let Some(why) = &self.refusing {
            return Err(Pause::RefusingWrites(why.clone()));
        }
        if let Some(host) = &self.hold {
            return Err(Pause::Hold(host.clone()));
        }
        if self.is_restoring(now) {
            return Err(Pause::Restored);
        }
        Ok(())
    }

    /// When an answer may change by time alone.
    pub fn next_change(&self, now: Millis) -> Option<Millis> {
        let settled = [self.mass_failure, self.restored, self.recovered]
            .into_iter()
            .flatten()
            .map(|began| self.settled_at(began));
        let forgotten = self.missing.values().map(|since| *since + FORGOTTEN);
        let forgotten = forgotten.filter(|_| self.is_unsettled(self.mass_failure, now));
        let briefly = self.missing.values().map(|since| *since + BRIEFLY);
        let next = settled.chain(forgotten).filter(|at| *at > now).min();
        // In a longer pause nobody asks who has just gone missing.
        next.or_else(|| briefly.filter(|at| *at > now).min())
    }

    /// End of a pause that began then, if the live hosts stay the same.
    fn settled_at(&self, began: Millis) -> Millis {
        (began.max(self.since) + SETTLED).min(began + LONGEST)
    }

    fn is_unsettled(&self, began: Option<Millis>, now: Millis) -> bool {
        began.is_some_and(|began| now < self.settled_at(began))
    }

    /// Missing members and all members; forgotten ones are in neither.
    fn counted(&self, now: Millis) -> (usize, usize) {
        let forgotten = |since: &&Millis| now >= **since + FORGOTTEN;
        let forgotten = self.missing.values().filter(forgotten).count();
        (self.missing.len() - forgotten, self.members - forgotten)
    }

    /// More than one, and more than a quarter.
    fn too_many_missing(&self, now: Millis) -> bool {
        let (missing, members) = self.counted(now);
        missing > (members / 4).max(1)
    }
}

#[cfg(test)]
mod tests;
