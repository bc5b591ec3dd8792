//! The host's record and its lease: the real machine, its steps carried out by events.

use std::time::Duration;

use model::records::{Hold, HostRecord};
use store::host::{Facts, HostAnswer, HostMachine, HostOptions, HostStep, Stop};
use store::kv::KvError;
use store::view::{Known, Reason, Trust, ViewUpdate};
use uuid::Uuid;

use crate::host_life::{Belief, HostLife, Inputs};
use crate::network::{Answered, Asker, Reply, Request, unavailable};
use crate::world::{Event, Machine, World};

/// Time to live of a lease.
const TTL: Duration = Duration::from_secs(6);
/// Between two renewals of the lease: more often than a host does, so that more of them meet a fault.
const RENEWAL: Duration = Duration::from_millis(1_200);
/// How long the record of a stopped agent stays.
const GRACE: Duration = Duration::from_secs(30);

impl World {
    /// The record of a process that starts now.
    pub fn host_life(&mut self, machine: usize, session: Uuid) -> HostLife {
        let now = self.clock(machine);
        let rules = self.rules;
        let at = &self.machines[machine];
        let facts = Facts {
            disk: at.disk.identity.clone(),
            cluster: at.disk.cluster.clone(),
            hold: at.disk.hold.clone(),
            boot_id: boot_id(at.boot),
            session,
            new_cluster: Uuid::from_u128(0xc3),
        };
        let options = HostOptions {
            name: at.host.name.clone(),
            ttl: TTL,
            restart_grace: GRACE,
            labelled_containers: !at.engine.containers(self.cluster.id).is_empty(),
            saved: at.disk.view.as_ref().map(|view| Known {
                cluster: view.cluster.clone(),
                revision: view.revision,
            }),
            rules,
        };
        HostLife {
            same_boot: facts.disk.boot_id == facts.boot_id,
            machine: HostMachine::new(options, record(at), facts, now),
            asking: false,
            kept: None,
            wake: None,
            inbox: Inputs::default(),
            fed: Inputs::default(),
        }
    }

    fn life(&mut self, machine: usize) -> Option<&mut HostLife> {
        self.machines[machine].process.as_mut().map(|p| &mut p.host)
    }

    /// Takes from an update of the view what concerns the record.
    pub fn record_follows(&mut self, machine: usize, update: &ViewUpdate) {
        let name = self.machines[machine].host.name.clone();
        let Some(life) = self.life(machine) else {
            return;
        };
        let inbox = &mut life.inbox;
        if let Some(cluster) = &update.accepted {
            inbox.accepted = Some(cluster.clone());
        }
        match &update.trust {
            Trust::Distrust(Reason::Held) => {}
            Trust::Distrust(reason) => {
                inbox.belief = Some(Belief::Distrusted(Hold {
                    reason: reason.to_string(),
                    shared: reason.is_shared(),
                }));
            }
            Trust::Trusted if update.complete => {
                inbox.belief = Some(Belief::Trusted);
                let record = update
                    .snapshot
                    .record(&name)
                    .map(|r| (r.session, r.modified.0));
                inbox.observed = Some((update.snapshot.revision, record));
            }
            Trust::Trusted => {}
        }
        self.drive_host(machine);
    }

    /// What the engine shows goes into the record.
    pub fn record_says(&mut self, machine: usize, engine: bool) {
        let Some(life) = self.life(machine) else {
            return;
        };
        if life.inbox.engine != Some(engine) {
            life.inbox.engine = Some(engine);
            self.drive_host(machine);
        }
    }

    /// The operator wants the host to leave, and it has nothing left.
    pub fn record_leaves(&mut self, machine: usize) {
        if let Some(life) = self.life(machine) {
            life.inbox.leave = true;
            self.drive_host(machine);
        }
    }

    /// Carries out what the machine says, as far as it needs no answer.
    pub fn drive_host(&mut self, machine: usize) {
        let now = self.clock(machine);
        loop {
            let Some(life) = self.life(machine).filter(|life| !life.asking) else {
                return;
            };
            let mut step = life.machine.next(now);
            if matches!(step, HostStep::Wait(_)) {
                let wanted = life.inbox.engine != life.fed.engine;
                let wanted = wanted.then(|| record(&self.machines[machine]));
                let Some(life) = self.life(machine) else {
                    return;
                };
                life.feed(wanted, now);
                step = life.machine.next(now);
            }
            let at = &mut self.machines[machine];
            let Some(life) = at.process.as_mut().map(|process| &mut process.host) else {
                return;
            };
            match step {
                HostStep::Note(note) => {
                    let mut facts = life.machine.facts().clone();
                    facts.note(&note);
                    at.disk.identity = facts.disk;
                    at.disk.cluster = facts.cluster;
                    at.disk.hold = facts.hold;
                    life.machine.answer(HostAnswer::Noted(Ok(())), now);
                }
                HostStep::Ask(txn) => {
                    life.asking = true;
                    self.send(machine, Asker::Host, Request::Txn(txn));
                }
                HostStep::Grant(ttl) => {
                    life.asking = true;
                    self.send(machine, Asker::Host, Request::Grant(ttl));
                }
                HostStep::Wait(until) => {
                    self.publish_host(machine);
                    if let Some(until) = until {
                        self.wake_host(machine, until - now);
                    }
                    return;
                }
            }
            self.publish_host(machine);
        }
    }

    fn wake_host(&mut self, machine: usize, span: Duration) {
        let at = self.now + self.really(machine, span).max(1);
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        let id = process.id;
        if process
            .host
            .wake
            .is_none_or(|wake| at < wake || wake <= self.now)
        {
            process.host.wake = Some(at);
            let wait = at - self.now;
            self.after(machine, id, wait, Event::HostWake);
        }
    }

    /// The time has come that the machine waits for.
    pub fn host_wakes(&mut self, machine: usize) {
        let now = self.now;
        if let Some(life) = self.life(machine)
            && life.wake == Some(now)
        {
            life.wake = None;
            self.drive_host(machine);
        }
    }

    /// Others hear how the record is.
    fn publish_host(&mut self, machine: usize) {
        let Some(life) = self.life(machine) else {
            return;
        };
        let lease = life.lease();
        if lease != life.kept {
            life.kept = lease;
            if let Some(lease) = lease {
                self.later(machine, RENEWAL, Event::KeepAlive(lease));
            }
        }
        let Some(life) = self.life(machine) else {
            return;
        };
        let (floor, status) = (life.floor(), life.status().clone());
        self.host_stands(machine, floor, &status);
    }

    /// An answer for the record.
    pub fn host_answered(&mut self, machine: usize, answer: Answered) {
        let now = self.clock(machine);
        let Some(life) = self.life(machine) else {
            return;
        };
        life.asking = false;
        life.machine.answer(host_answer(answer), now);
        self.drive_host(machine);
    }

    /// Renews the lease.
    pub fn keep_alive(&mut self, machine: usize, lease: i64) {
        if self
            .life(machine)
            .is_some_and(|life| life.kept == Some(lease))
        {
            self.send(machine, Asker::KeepAlive(lease), Request::KeepAlive(lease));
        }
    }

    /// An answer to a keep-alive.
    pub fn kept(&mut self, machine: usize, lease: i64, answer: Answered) {
        let Some(life) = self.life(machine).filter(|life| life.kept == Some(lease)) else {
            return;
        };
        match answer {
            Ok(Reply::Kept(revision)) => {
                self.later(machine, RENEWAL, Event::KeepAlive(lease));
                self.seen(machine, revision);
            }
            Err(KvError::LeaseNotFound) => {
                life.machine.lease_lost(lease);
                self.drive_host(machine);
            }
            _ => self.later(machine, Duration::from_millis(100), Event::KeepAlive(lease)),
        }
    }

    /// The agent says good-bye, within a second whatever etcd does.
    pub fn say_goodbye(&mut self, machine: usize, how: Stop) {
        let now = self.clock(machine);
        let net = self.machines[machine].net;
        let heard = net.there && net.back && !self.away;
        let Some(life) = self.life(machine) else {
            return;
        };
        life.machine.stop(how);
        while let Some(life) = self
            .life(machine)
            .filter(|life| life.machine.stopped().is_none())
        {
            let request = match life.machine.next(now) {
                HostStep::Ask(txn) => Request::Txn(txn),
                HostStep::Grant(ttl) => Request::Grant(ttl),
                HostStep::Note(_) | HostStep::Wait(_) => return,
            };
            let before = self.truth.now.clone();
            let answer = if heard {
                self.ask(&request)
            } else {
                Err(unavailable())
            };
            self.committed(Some((machine, &Asker::Host, before)));
            if let Some(life) = self.life(machine) {
                life.machine.answer(host_answer(answer), now);
            }
        }
    }
}

fn host_answer(answer: Answered) -> HostAnswer {
    match answer {
        Ok(Reply::Granted(lease, ttl)) => HostAnswer::Granted(Ok((lease, ttl))),
        Ok(Reply::Txn(reply)) => HostAnswer::Asked(Ok(reply)),
        Ok(_) => HostAnswer::Asked(Err(unavailable())),
        Err(error) => HostAnswer::Asked(Err(error)),
    }
}

/// The name of a boot.
fn boot_id(boot: u64) -> String {
    format!("boot-{boot}")
}

/// What the record of a machine should say.
fn record(at: &Machine) -> HostRecord {
    let engine = at.process.as_ref().and_then(|p| p.host.inbox.engine);
    serde_json::from_value(serde_json::json!({
        "id": at.disk.identity.id,
        "session": at.disk.identity.id,
        "epoch": 0,
        "state": "up",
        "addr": at.host.surroundings.host_ip,
        "versions": {"agent": "", "placement": at.placement},
        "engine": engine.unwrap_or(true),
    }))
    .expect("a record")
}
