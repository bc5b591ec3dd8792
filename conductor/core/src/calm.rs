//! When the cluster is calm enough to move slots: the brake on mass loss, the pause after an accepted restore, and the
//! wait while a host is in hold.
//!
//! The memory of one reader: what it has seen since it began to look. Nothing
//! here is written to etcd, so that each host judges by what it has seen itself.

use std::collections::BTreeMap;
use std::time::Duration;

use manifests::HostName;

use crate::snapshot::Snapshot;
use crate::time::Millis;

/// The live hosts have settled when nothing has changed for so long …
const SETTLED: Duration = Duration::from_secs(30);
/// … and nobody waits longer than this.
const LONGEST: Duration = Duration::from_secs(300);
/// A member that has been missing for so long is not waited for any more.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// What a reader has seen of the hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calm {
    live: Vec<HostName>,
    /// Since when the live hosts are these.
    since: Millis,
    missing: BTreeMap<HostName, Millis>,
    members: usize,
    /// Too many are missing, since then.
    braked: Option<Millis>,
    accepted: Option<Millis>,
    hold: Option<HostName>,
}

impl Calm {
    /// Takes a complete snapshot in.
    pub fn observe(&mut self, snapshot: &Snapshot, now: Millis) {
        let live: Vec<HostName> = snapshot.live().map(|(name, _)| name.clone()).collect();
        if live != self.live {
            self.live = live;
            self.since = now;
        }
        self.missing.retain(|name, _| {
            let member = snapshot.hosts.get(name).is_some_and(|h| h.member.is_some());
            member && !snapshot.is_live(name)
        });
        self.members = 0;
        for (name, host) in &snapshot.hosts {
            if host.member.is_none() {
                continue;
            }
            self.members += 1;
            if host.record.is_none() {
                self.missing.entry(name.clone()).or_insert(now);
            }
        }
        self.hold = snapshot.in_hold().cloned();
        self.judge(now);
    }

    /// A restore was accepted: the hosts come back one after the other.
    pub fn accepted(&mut self, now: Millis) {
        self.accepted = Some(now);
        self.since = now;
    }

    /// A restore was accepted, and the hosts are not back yet.
    pub fn restoring(&self, now: Millis) -> bool {
        self.accepted.is_some_and(|since| !self.settled(since, now))
    }

    /// Whether a slot of a lost host may be taken over now; why not, for people.
    pub fn taking_over(&self, now: Millis) -> Result<(), String> {
        self.placing(now)?;
        match self.braked {
            Some(since) if !self.settled(since, now) => {
                let missing = self.counted_missing(now);
                Err(format!(
                    "{missing} of {} hosts are missing at once: nothing is taken over until the others have settled",
                    self.members
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether a slot may be given to a host now; why not, for people.
    pub fn placing(&self, now: Millis) -> Result<(), String> {
        if let Some(host) = &self.hold {
            return Err(format!(
                "{host} is in hold: it distrusts its etcd, so nothing is moved"
            ));
        }
        match self.accepted {
            Some(since) if !self.settled(since, now) => {
                Err("a restore was accepted: nothing is placed until the hosts are back".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// When an answer may change by time alone.
    pub fn next_change(&self, now: Millis) -> Option<Millis> {
        [self.braked, self.accepted]
            .into_iter()
            .flatten()
            .map(|since| (self.since + SETTLED).min(since + LONGEST))
            .filter(|at| *at > now)
            .min()
    }

    fn settled(&self, since: Millis, now: Millis) -> bool {
        now >= self.since + SETTLED || now >= since + LONGEST
    }

    fn counted_missing(&self, now: Millis) -> usize {
        let counts = |since: &&Millis| now < **since + FORGOTTEN;
        self.missing.values().filter(counts).count()
    }

    fn judge(&mut self, now: Millis) {
        let missing = self.counted_missing(now);
        if missing > (self.members / 4).max(1) {
            self.braked.get_or_insert(now);
        } else {
            self.braked = None;
        }
    }
}
