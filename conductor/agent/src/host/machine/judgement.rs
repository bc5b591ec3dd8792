//! Judgement of what was read at one revision: the cluster, who lives under this name, what there is to write.

use manifests::keys::Key;
use model::records::{Hold, HostRecord};
use model::{Millis, Rule};

use super::{HostMachine, Judged, LOOK, Verdict};
use crate::host::start::{ClusterFacts, ClusterStart, Start, decide, decide_cluster, decide_other};
use crate::host::txn::{self, Blocked, Entry, Seen};
use crate::host::{HostStatus, JoinError, Waiting, longest_wait};
use crate::view::Reason;

impl HostMachine {
    /// Judges the cluster's key.
    pub(super) fn judge(&mut self, seen: &Seen, now: Millis) {
        let known = self.facts.cluster.clone();
        let found = seen.snapshot.cluster.as_ref();
        if seen.cluster.is_some() && found.is_none() {
            // It is there, and nobody knows whose it is.
            match known {
                Some(_) => self.distrusted(now),
                None => self.failed(Waiting::UnreadableCluster, now),
            }
            return;
        }
        let facts = ClusterFacts {
            known: known.as_ref(),
            saved_revision: self.known_revision(),
            labelled_containers: self.options.labelled_containers,
            live_records: seen.snapshot.live().next().is_some(),
        };
        match decide_cluster(facts, found, seen.snapshot.revision) {
            ClusterStart::Use(cluster) if known.as_ref() == Some(&cluster) => {
                self.met = self.met.max(seen.snapshot.revision);
                if self.told == Verdict::Trusts {
                    self.found = None;
                }
            }
            ClusterStart::Use(cluster) | ClusterStart::Accept(cluster) => {
                self.learnt = Some(cluster);
                return;
            }
            ClusterStart::Create => {
                self.judged = Some(Judged::Create);
                return;
            }
            ClusterStart::Missing(why) => {
                self.failed(Waiting::NoCluster(why.to_owned()), now);
                return;
            }
            ClusterStart::Distrust(Reason::OtherCluster { .. }) => {
                self.distrusted(now);
                return;
            }
            ClusterStart::Distrust(reason) => {
                self.found = Some(Hold {
                    reason: reason.to_string(),
                    shared: reason.is_shared(),
                });
            }
        }
        self.refresh(now);
        self.judge_name(seen, now);
    }

    /// Judges who lives under this machine's name.
    pub(super) fn judge_name(&mut self, seen: &Seen, now: Millis) {
        let own = seen.snapshot.record(&self.options.name);
        if let Some(record) = own.filter(|record| record.session != self.facts.session) {
            let epoch = self.facts.cluster.as_ref().map(|c| c.epoch);
            // After a restore it may be an old record of our own, come back from the backup.
            if self.joined.is_some() && self.joined == epoch && self.held().is_none() {
                if record.modified.0 >= self.floor {
                    self.set(HostStatus::Foreign(record.session));
                    return;
                }
                // It is older than what this process wrote: not a second process, but a history that went back.
                let reason = Reason::Rewound {
                    known: self.floor,
                    found: record.modified.0,
                };
                self.found = Some(Hold {
                    reason: reason.to_string(),
                    shared: reason.is_shared(),
                });
                self.refresh(now);
            }
            if self.options.rules.has(Rule::OwnRecord) {
                let since = *self.foreign_since.get_or_insert(now);
                match decide(
                    Some(&record.value),
                    &self.facts.disk,
                    &self.facts.boot_id,
                    now - since,
                    longest_wait(&self.options),
                ) {
                    Start::GoOn => {}
                    Start::Wait => {
                        let ours = record.id == self.facts.disk.id
                            && record.addr == self.keeper.wanted().addr;
                        self.waits(if ours {
                            Waiting::Record(record.addr)
                        } else {
                            Waiting::NameTaken(record.addr)
                        });
                        self.not_before = now + LOOK;
                        return;
                    }
                    Start::Exit => {
                        self.set(HostStatus::Failed(JoinError::NameTaken {
                            name: self.options.name.clone(),
                            addr: record.addr,
                        }));
                        return;
                    }
                }
            }
        }
        self.foreign_since = None;
        self.judge_entry(seen, now);
    }

    /// Judges what there is to write.
    pub(super) fn judge_entry(&mut self, seen: &Seen, now: Millis) {
        let name = &self.options.name;
        let entry = if self.held().is_some() {
            Entry::record_alone(seen, name)
        } else {
            if self.leaving {
                let leave = txn::leave(seen, name, &self.facts.disk);
                // The operator has changed their mind.
                self.leaving = leave.is_some();
                if let Some(leave) = leave {
                    self.judged = Some(Judged::Leave(leave));
                    return;
                }
            }
            let since = *self.other_since.get_or_insert(now);
            let judge = |record: &HostRecord| {
                let facts = &self.facts;
                let limit = longest_wait(&self.options);
                decide_other(record, &facts.disk, &facts.boot_id, now - since, limit)
            };
            match Entry::full(seen, name, &self.facts.disk, judge) {
                Ok(entry) => entry,
                Err(Blocked::Waits(addr)) => {
                    self.waits(Waiting::Record(addr));
                    self.not_before = now + LOOK;
                    return;
                }
                Err(Blocked::Clone(other)) => {
                    self.set(HostStatus::Failed(JoinError::Clone { other }));
                    return;
                }
            }
        };
        self.other_since = None;
        let name = &self.options.name;
        let own = seen.modified(&Key::HostRecord(name.clone()));
        let is_placed = self.placed.as_ref().is_some_and(|placed| {
            placed.modified == own
                && placed.cluster == entry.cluster
                && self.lease.is_some_and(|lease| lease.id == placed.lease)
        });
        if is_placed && entry.is_record_alone() && self.keeper.says_what_counts() {
            self.anew = false;
            self.stands(now);
        } else {
            self.judged = Some(Judged::Put(entry));
        }
    }

    /// The lowest revision that etcd can be at. Of an earlier epoch nothing counts.
    pub(super) fn known_revision(&self) -> i64 {
        let cluster = self.facts.cluster.as_ref();
        let saved = self.options.saved.as_ref();
        let saved = saved.filter(|saved| Some(&saved.cluster) == cluster);
        saved.map_or(0, |saved| saved.revision).max(self.met)
    }

    pub(super) fn distrusted(&mut self, now: Millis) {
        self.set(HostStatus::Distrusted);
        self.not_before = now + self.retry.next_wait();
    }

    pub(super) fn waits(&mut self, why: Waiting) {
        if let HostStatus::Joining(_) = self.status {
            self.set(HostStatus::Joining(why));
        }
    }
}
