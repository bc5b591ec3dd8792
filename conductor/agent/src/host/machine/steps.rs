//! What the host does next.

use manifests::keys::Key;
use model::Millis;
use model::kv::{Op, Txn};
use model::records::{Cluster, HostRecord, HostState};

use super::{Asked, HostMachine, HostStep, Judged, Placed, Stopping};
use crate::host::{Note, Stop, txn};

impl HostMachine {
    pub(super) fn work(&self, now: Millis) -> Option<(Asked, HostStep)> {
        if let Some(stopping) = &self.stopping {
            return self.goodbye(stopping);
        }
        if self.wake()? > now {
            return None;
        }
        if let Some(cluster) = &self.learnt {
            return Some(note(Note::Cluster(cluster.clone())));
        }
        if self.held() != self.facts.hold.as_ref() {
            return Some(note(Note::Hold(self.held().cloned())));
        }
        let Some(placed) = self.placed.as_ref().filter(|_| !self.anew) else {
            return Some(self.join());
        };
        if self.facts.disk.before.is_some() {
            return Some(note(Note::SessionWritten));
        }
        if self.look_again.is_some_and(|at| at <= now) {
            return Some((Asked::Read, HostStep::Ask(txn::read())));
        }
        let record = self.keeper.wanted().clone();
        let put = txn::put_on_lease(&self.options.name, &record, placed.lease);
        Some((
            Asked::Change(record),
            HostStep::Ask(self.guarded(placed, put)),
        ))
    }

    pub(super) fn join(&self) -> (Asked, HostStep) {
        let entry = match &self.judged {
            None => return (Asked::Read, HostStep::Ask(txn::read())),
            Some(Judged::Create) => {
                let cluster = Cluster {
                    id: self.facts.new_cluster,
                    epoch: 1,
                };
                return (Asked::Create, HostStep::Ask(txn::create(&cluster)));
            }
            Some(Judged::Leave(leave)) => return (Asked::Leave, HostStep::Ask(leave.clone())),
            Some(Judged::Put(entry)) => entry,
        };
        let Some(lease) = self.lease else {
            return (Asked::Grant, HostStep::Grant(self.options.ttl));
        };
        let disk = &self.facts.disk;
        if disk.session != Some(self.facts.session) || disk.boot_id != self.facts.boot_id {
            return note(Note::Session);
        }
        let record = self.keeper.wanted().clone();
        let put = entry.put(&self.options.name, &record, lease.id);
        let asked = Asked::Put {
            record,
            lease: lease.id,
            cluster: entry.cluster.clone(),
        };
        (asked, HostStep::Ask(put))
    }

    pub(super) fn goodbye(&self, stopping: &Stopping) -> Option<(Asked, HostStep)> {
        let placed = match stopping.outcome {
            Some(_) => return None,
            None => self.placed.as_ref()?,
        };
        let name = &self.options.name;
        let op = match (stopping.how, stopping.grace) {
            (Stop::Shutdown, _) => Op::delete(Key::HostRecord(name.clone())),
            (Stop::Restart, None) => {
                return Some((Asked::Grace, HostStep::Grant(self.options.restart_grace)));
            }
            (Stop::Restart, Some(lease)) => {
                // Why it is in hold goes on being said.
                let record = HostRecord {
                    state: HostState::Restarting,
                    ..self.keeper.wanted().clone()
                };
                txn::put_on_lease(name, &record, lease)
            }
        };
        Some((Asked::Goodbye, HostStep::Ask(self.guarded(placed, op))))
    }

    pub(super) fn guarded(&self, placed: &Placed, op: Op) -> Txn {
        txn::guarded(
            &self.options.name,
            placed.modified,
            placed.cluster.as_deref(),
            op,
        )
    }

    /// When there is something to do; none: only an input brings something.
    pub(super) fn wake(&self) -> Option<Millis> {
        if self.is_over() || self.stopping.is_some() {
            return None;
        }
        let pressing = self.placed.is_none()
            || self.anew
            || self.learnt.is_some()
            || self.held() != self.facts.hold.as_ref()
            || self.facts.disk.before.is_some();
        let due = if pressing {
            Some(Millis(0))
        } else {
            [self.keeper.due(), self.look_again]
                .into_iter()
                .flatten()
                .min()
        };
        Some(due?.max(self.not_before))
    }
}

fn note(note: Note) -> (Asked, HostStep) {
    (Asked::Note(note.clone()), HostStep::Note(note))
}
