//! Etcd in this world: calls on their way to it, what it says, and who hears of it.

use std::time::Duration;

use manifests::SlotId;
use manifests::keys::Key;
use model::records::Phase;
use model::snapshot::Snapshot;
use store::kv::{Event as Told, Op, Txn};
use store::memory::MemEtcd;

use crate::invariants;
use crate::kinds::Fault;
use crate::members::{Life, MEMBERS};
use crate::network::{Answered, Asker, Reply, Request, unavailable};
use crate::scenario::Scenario;
use crate::world::{Event, Truth, World, watched};

/// A call without an answer is given up after this.
const DEADLINE: u64 = 5_000;
/// A keep-alive after this.
const SHORT_DEADLINE: u64 = 1_200;

impl World {
    // === the network ===

    /// How long something takes one way.
    fn hop(&mut self, machine: usize) -> u64 {
        let lag = if self.stormy {
            self.machines[machine].lag
        } else {
            0
        };
        1 + self.dice.below(self.latency) + self.dice.below(lag)
    }

    /// A call sets out, unless the network swallows it.
    pub fn send(&mut self, machine: usize, asker: Asker, request: Request) {
        let Some(process) = self.process(machine) else {
            return;
        };
        let wait = self.hop(machine);
        let sent = self.now;
        self.after(machine, process, wait, Event::Arrive(asker, request, sent));
    }

    /// A call reaches etcd.
    pub(crate) fn arrive(
        &mut self,
        machine: usize,
        process: u64,
        asker: Asker,
        request: Request,
        sent: u64,
    ) {
        let net = self.machines[machine].net;
        if !self.machines[machine].powered || !net.there || self.away {
            self.unanswered(machine, process, asker, sent);
            return;
        }
        let member = asker.asks_a_member().then(|| self.machines[machine].member);
        if member.is_some_and(|member| self.members[member].stalled) {
            self.unanswered(machine, process, asker, sent);
            return;
        }
        let before = self.truth.now.clone();
        let mut answer = self.ask_by(&request, member);
        self.committed(Some((machine, &asker, before)));
        let mut catches_up = 0;
        if let Some(member) = member.map(|member| &mut self.members[member]) {
            match &mut answer {
                Ok(Reply::Kept(revision)) => *revision = member.applied(self.now),
                Ok(Reply::Range(_)) => catches_up = member.behind(self.now),
                _ => {}
            }
        }
        let lost = self.stormy && self.scenario.loses_answers() && self.dice.one_in(60);
        if !net.back || lost {
            self.unanswered(machine, process, asker, sent);
            return;
        }
        let wait = self.hop(machine) + catches_up;
        self.after(machine, process, wait, Event::Answer(asker, answer));
    }

    fn unanswered(&mut self, machine: usize, process: u64, asker: Asker, sent: u64) {
        let patience = match asker {
            Asker::KeepAlive(_) => SHORT_DEADLINE,
            Asker::View | Asker::Writes { .. } | Asker::Statuses | Asker::Host => DEADLINE,
        };
        let wait = (sent + patience).saturating_sub(self.now);
        if asker.asks_a_member() {
            self.after(machine, process, wait, Event::GiveUpMember);
        }
        let none = Event::Answer(asker, Err(unavailable()));
        self.after(machine, process, wait, none);
    }

    /// Etcd carries a request out.
    pub fn ask(&mut self, request: &Request) -> Answered {
        self.ask_by(request, None)
    }

    fn ask_by(&mut self, request: &Request, member: Option<usize>) -> Answered {
        let etcd = &mut self.etcd;
        Ok(match request {
            Request::Txn(txn) => Reply::Txn(etcd.txn(txn)?),
            Request::Range(range) => Reply::Range(etcd.range(range)?),
            Request::Watch(from) => {
                let member = member.unwrap_or_default();
                let watch = etcd.watch(watched(), *from, false);
                if self.members[member].says_old_events {
                    etcd.repeat(watch, from - 10);
                }
                Reply::Watch(watch, self.members[member].life(member))
            }
            Request::Grant(ttl) => {
                let (id, ttl) = etcd.lease_grant(*ttl);
                self.leases = self.leases.max(id);
                Reply::Granted(id, ttl)
            }
            Request::KeepAlive(id) => Reply::Kept(etcd.lease_keep_alive(*id)?.1),
            Request::Revoke(id) => {
                etcd.lease_revoke(*id)?;
                Reply::Done
            }
        })
    }

    // === etcd ===

    /// Somebody outside writes.
    pub fn write(&mut self, ops: Vec<Op>) {
        // The user's writes are few and small: etcd takes them.
        let _ = self.etcd.txn(&Txn::new(vec![], ops));
        self.committed(None);
    }

    /// Follows what has changed in etcd; `by` a machine, and what was true before.
    pub fn committed(&mut self, by: Option<(usize, &Asker, Snapshot)>) {
        let revision = self.etcd.revision();
        for member in &mut self.members {
            member.hears(revision, self.now);
        }
        let mut told = Vec::new();
        while let Some(reply) = self.etcd.poll(self.truth.watch) {
            if let store::kv::WatchReply::Events(events, _) = reply {
                told.extend(events);
            }
        }
        if told.is_empty() {
            return;
        }
        self.changed_at = self.now;
        if by.is_none() {
            self.tell_events(&told);
        }
        self.truth.follow(&told);
        if let Some((machine, asker, before)) = by {
            self.tell_events(&told);
            let harm = invariants::written(self, machine, asker, &before, &told);
            if let Some(harm) = harm {
                self.forbid(harm);
            }
        }
        self.tempt_by(&told);
        for machine in 0..self.machines.len() {
            self.stream_soon(machine);
        }
    }

    /// A handover that begins, a holder that has stopped, a slot that has another owner.
    fn tempt_by(&mut self, told: &[Told]) {
        for event in told {
            let Told::Put { now, .. } = event else {
                continue;
            };
            match Key::parse(&now.key) {
                Some(Key::Next(slot)) => self.tempt(slot),
                Some(Key::Claim(slot)) if now.created != now.modified => self.tempt(slot),
                Some(Key::State(slot)) if self.has_stopped(&slot) => self.tempt(slot),
                _ => {}
            }
        }
    }

    fn has_stopped(&self, slot: &SlotId) -> bool {
        let state = self.truth.now.slot(slot).and_then(|s| s.state.as_ref());
        state.is_some_and(|state| state.state == Phase::Stopped)
    }

    fn tell_events(&mut self, told: &[Told]) {
        for event in told {
            self.trace.say(self.now, "etcd", || match event {
                Told::Put { now, .. } => format!(
                    "{} {} = {}",
                    now.modified,
                    now.key,
                    String::from_utf8_lossy(&now.value)
                ),
                Told::Delete { key, modified, .. } => format!("{modified} {key} gone"),
            });
        }
    }

    /// The stream of a machine will bring what waits for it.
    pub fn stream_soon(&mut self, machine: usize) {
        let hop = self.hop(machine);
        let at = &mut self.machines[machine];
        let flows = at.net.streams && !at.silent && !self.away;
        let Some(process) = &mut at.process else {
            return;
        };
        let Some((_, of)) = process.watch() else {
            return;
        };
        let member = &mut self.members[of.member];
        let ended = !member.lives(of);
        let wait = hop + if ended { 0 } else { member.behind(self.now) };
        let flows = flows && (ended || !member.stalled);
        if flows && process.stream_waits() {
            let id = process.id;
            self.after(machine, id, wait, Event::Stream);
        }
    }

    /// All streams break.
    pub fn break_streams(&mut self, why: &str) {
        self.etcd.close_watches(why);
        for member in &mut self.members {
            member.restarts();
        }
        self.truth.watch = self.etcd.watch(watched(), 0, false);
        for machine in 0..self.machines.len() {
            if let Some(process) = &mut self.machines[machine].process {
                process.stream_broke();
            }
            self.stream_soon(machine);
        }
    }

    /// Another etcd stands where this one was.
    pub fn replace_etcd(&mut self, etcd: MemEtcd) {
        self.etcd = etcd;
        for member in &mut self.members {
            member.is_at(self.etcd.revision());
        }
        // Leases are numbered anew by nobody: a real etcd draws their ids.
        while self.leases > 0 {
            let (id, _) = self.etcd.lease_grant(Duration::from_secs(2));
            let _ = self.etcd.lease_revoke(id);
            if id > self.leases {
                break;
            }
        }
        let former = std::mem::take(&mut self.truth.history);
        let mut former_all = std::mem::take(&mut self.truth.former);
        self.etcd.close_watches("another etcd");
        self.truth = Truth::of(&mut self.etcd);
        for (revision, snapshot) in &former {
            if *revision < self.truth.now.revision {
                self.truth.history.insert(*revision, snapshot.clone());
            }
        }
        former_all.push(former);
        self.truth.former = former_all;
        self.break_streams("another etcd");
        self.changed_at = self.now;
    }

    /// A slot is changing hands: a good moment for something to happen.
    pub fn tempt(&mut self, slot: SlotId) {
        let tempting = self.stormy && self.faults_left > 0 && self.scenario != Scenario::Calm;
        if tempting && self.dice.one_in(2) {
            let most = *self.dice.of(&[10, 60, 400, 2_000]).unwrap_or(&60);
            let wait = self.dice.below(most);
            self.after(0, 0, wait, Event::Ordered(Fault::Amid(slot)));
        }
    }

    // === members ===

    /// The member has not been restarted since.
    pub fn lives(&self, life: Life) -> bool {
        self.members[life.member].lives(life)
    }

    /// A host turns to another member.
    pub fn next_member(&mut self, machine: usize) {
        let at = &mut self.machines[machine];
        at.member = (at.member + 1) % MEMBERS;
    }

    /// Something happens at a member: its streams are looked at again.
    pub fn streams_soon(&mut self) {
        for machine in 0..self.machines.len() {
            self.stream_soon(machine);
        }
    }
}
