//! When the cluster is calm enough to move slots: the brake on mass loss, the pause after an accepted restore, and the
//! wait while a host is in hold or etcd refuses writes.
//!
//! The memory of one reader: what it has seen since it began to look. Nothing
//! here is written to etcd, so each host judges by what it has seen itself, and
//! one that has just started knows nothing of before: hosts that it finds
//! missing may be about to come back, as it did.

use std::collections::BTreeMap;
use std::time::Duration;

use manifests::HostName;

use model::snapshot::Snapshot;
use model::time::Millis;

/// The live hosts have settled when they have been the same for so long …
const SETTLED: Duration = Duration::from_secs(30);
/// … and nobody waits longer than this.
const LONGEST: Duration = Duration::from_secs(300);
/// A member that has been missing for so long is not waited for any more.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// What a reader has seen of the hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calm {
    /// It has looked before.
    began: bool,
    live: Vec<HostName>,
    /// Since when the live hosts are these.
    since: Millis,
    members: usize,
    /// Members that are not live, and since when that has been seen.
    missing: BTreeMap<HostName, Millis>,
    /// When too many were missing, and another one went; or at the first look, when any was.
    braked: Option<Millis>,
    accepted: Option<Millis>,
    hold: Option<HostName>,
    /// Why etcd refuses writes.
    refused: Option<String>,
    /// When it took them again.
    recovered: Option<Millis>,
}

impl Calm {
    /// Takes a complete snapshot in.
    pub fn observe(&mut self, snapshot: &Snapshot, now: Millis) {
        // What has settled stays so, whatever is seen next.
        self.braked = self.braked.filter(|began| now < self.settled_at(*began));
        self.accepted = self.accepted.filter(|began| now < self.settled_at(*began));
        self.recovered = self.recovered.filter(|began| now < self.settled_at(*began));

        if !snapshot.live().map(|(name, _)| name).eq(&self.live) {
            self.live = snapshot.live().map(|(name, _)| name.clone()).collect();
            self.since = now;
        }
        let known = std::mem::take(&mut self.missing);
        self.members = 0;
        let mut another = false;
        for (name, host) in &snapshot.hosts {
            if host.member.is_none() {
                continue;
            }
            self.members += 1;
            if host.record.is_none() {
                let since = known.get(name).copied();
                another |= since.is_none();
                self.missing.insert(name.clone(), since.unwrap_or(now));
            }
        }
        if self.counted(now).0 == 0 {
            // All are back: who is lost next is lost alone.
            self.braked = None;
        }
        let first = !std::mem::replace(&mut self.began, true);
        if another && (first || self.too_many_missing(now)) {
            self.braked.get_or_insert(now);
        }
        self.hold = snapshot.in_hold().cloned();
    }

    /// A restore was accepted: the hosts come back one after the other.
    pub fn accepted(&mut self, now: Millis) {
        self.accepted = Some(now);
    }

    /// Etcd refuses writes, and why; or it takes them.
    ///
    /// It refuses them unevenly: a claim may pass where a record can't be put. So a host that was restarted meanwhile is
    /// missing, though it lives; it is given time to come back before anybody takes its slots.
    pub fn refuses_writes(&mut self, why: Option<String>, now: Millis) {
        if self.refused.is_some() && why.is_none() {
            self.recovered = Some(now);
        }
        self.refused = why;
    }

    /// A restore was accepted, and the hosts are not back yet.
    pub fn restoring(&self, now: Millis) -> bool {
        self.is_unsettled(self.accepted, now)
    }

    /// Whether a slot of a lost host may be taken over now; why not, for people.
    pub fn taking_over(&self, now: Millis) -> Result<(), String> {
        self.placing(now)?;
        let (missing, members) = self.counted(now);
        if missing == 0 {
            return Ok(());
        }
        // Who comes back one by one is waited for, down to the last.
        if self.is_unsettled(self.braked, now) {
            return Err(format!(
                "{missing} of {members} hosts are missing: nothing is taken over until the others have settled"
            ));
        }
        if self.is_unsettled(self.recovered, now) {
            return Err(format!(
                "etcd refused writes until now, and {missing} of {members} hosts are missing: nothing is taken over until the others have settled"
            ));
        }
        Ok(())
    }

    /// Whether a slot may be given to a host now; why not, for people.
    pub fn placing(&self, now: Millis) -> Result<(), String> {
        if let Some(why) = &self.refused {
            return Err(format!(
                "{why}: nothing is placed or moved before it takes writes again"
            ));
        }
        if let Some(host) = &self.hold {
            return Err(format!(
                "{host} is in hold: it distrusts its etcd, so nothing is moved"
            ));
        }
        if self.restoring(now) {
            return Err(
                "a restore was accepted: nothing is placed until the hosts are back".to_owned(),
            );
        }
        Ok(())
    }

    /// When an answer may change by time alone.
    pub fn next_change(&self, now: Millis) -> Option<Millis> {
        let settled = [self.braked, self.accepted, self.recovered]
            .into_iter()
            .flatten()
            .map(|began| self.settled_at(began));
        let forgotten = self.missing.values().map(|since| *since + FORGOTTEN);
        let forgotten = forgotten.filter(|_| self.is_unsettled(self.braked, now));
        settled.chain(forgotten).filter(|at| *at > now).min()
    }

    /// When that which began then is over, if the live hosts stay as they are.
    fn settled_at(&self, began: Millis) -> Millis {
        (began.max(self.since) + SETTLED).min(began + LONGEST)
    }

    fn is_unsettled(&self, began: Option<Millis>, now: Millis) -> bool {
        began.is_some_and(|began| now < self.settled_at(began))
    }

    /// How many are missing, of how many. Who is forgotten is neither.
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
