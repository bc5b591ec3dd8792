//! The host's record and its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use conductor_core::records::{Capacity, HostRecord, HostState, Member, Versions};
use conductor_core::snapshot::{Change, Rev, Snapshot};
use conductor_core::{Millis, Rule};
use manifests::keys::{self, Key};
use store::host::{OtherName, Start, decide, decide_other};
use store::kv::{Compare, KeyRange, KvError, Op, OpReply, Relation, Target, Txn};
use uuid::Uuid;

use crate::network::{Answered, Asker, Reply, Request};
use crate::world::{Event, Machine, World};

/// Time to live of a lease.
pub const TTL: Duration = Duration::from_secs(6);
/// How long the record of a stopped agent stays.
pub const GRACE: Duration = Duration::from_secs(30);
/// Pause before another try.
const AGAIN: Duration = Duration::from_millis(500);

/// How the record of one process is.
#[derive(Debug)]
pub struct HostLife {
    /// This process.
    pub session: Uuid,
    /// The lease, if there is one.
    pub lease: Option<i64>,
    /// Revision of the record; 0: not there as far as known.
    pub modified: i64,
    /// Somebody else writes this record.
    pub foreign: bool,
    phase: Phase,
    began: Millis,
    cluster: Vec<u8>,
}

#[derive(Debug)]
enum Phase {
    /// Reads what decides.
    Reading,
    /// Has decided on this, and wants a lease.
    Granting(Box<Snapshot>),
    /// Writes the record.
    Putting,
    /// The record is there.
    Live,
}

impl HostLife {
    /// Of a process that begins now.
    pub fn new(session: Uuid, now: Millis) -> Self {
        Self {
            session,
            lease: None,
            modified: 0,
            foreign: false,
            phase: Phase::Reading,
            began: now,
            cluster: Vec::new(),
        }
    }

    /// The record is in etcd.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }
}

impl World {
    /// Begins to join, or to put a lost record again.
    pub fn join(&mut self, machine: usize) {
        let name = &self.machines[machine].host.name;
        let own = Key::HostRecord(name.clone());
        let read = Txn::new(
            vec![],
            vec![
                Op::Get(KeyRange::key(Key::Cluster.to_string())),
                Op::Get(KeyRange::prefix(keys::MEMBERS)),
                Op::Get(KeyRange::prefix(keys::HOSTS)),
                Op::Get(KeyRange::key(own.to_string())),
            ],
        );
        if let Some(process) = &mut self.machines[machine].process {
            process.host.phase = Phase::Reading;
        }
        self.later(
            machine,
            Duration::ZERO,
            Event::Send(Asker::Host, Request::Txn(read)),
        );
    }

    fn join_again(&mut self, machine: usize) {
        let ms = self.really(machine, AGAIN);
        if let Some(process) = &self.machines[machine].process {
            let id = process.id;
            self.after(
                machine,
                id,
                ms,
                Event::Ordered(crate::faults::Fault::JoinAgain(machine, id)),
            );
        }
    }

    /// The lease or the record is gone.
    pub fn record_lost(&mut self, machine: usize) {
        self.tell(machine, || "its record is gone: puts a new one".to_owned());
        if let Some(process) = &mut self.machines[machine].process {
            process.host.lease = None;
            process.host.phase = Phase::Reading;
        }
        self.join(machine);
    }

    /// An answer for the record.
    pub fn host_answered(&mut self, machine: usize, answer: Answered) {
        let now = self.clock(machine);
        let rules = self.rules;
        let cluster = self.cluster.clone();
        let at = &mut self.machines[machine];
        let Some(process) = &mut at.process else {
            return;
        };
        let life = &mut process.host;
        match (std::mem::replace(&mut life.phase, Phase::Reading), answer) {
            (Phase::Reading, Ok(Reply::Txn(reply))) => {
                let mut seen = Snapshot::default();
                let mut changes = Vec::new();
                for reply in reply.replies {
                    let OpReply::Get(kvs) = reply else { continue };
                    for kv in kvs {
                        if kv.key == Key::Cluster.to_string() {
                            life.cluster.clone_from(&kv.value);
                        }
                        changes.push(Change::Put {
                            key: kv.key,
                            value: kv.value,
                            modified: kv.modified,
                            created: kv.created,
                        });
                    }
                }
                seen.apply(changes, reply.revision);
                let known = at.disk.cluster.as_ref();
                let same = seen.cluster.as_ref().map(|c| &c.value) == known;
                let record = seen.record(&at.host.name);
                let boot = boot_id(at.boot);
                let decided = decide(
                    record.map(|r| &r.value),
                    &at.disk.identity,
                    &boot,
                    now - life.began,
                    TTL + GRACE,
                );
                let ours = record.is_none_or(|r| r.session == life.session);
                let decided = if ours || !rules.has(Rule::OwnRecord) {
                    Start::GoOn
                } else {
                    decided
                };
                let identity = &at.disk.identity;
                let is_clone = seen
                    .live()
                    .filter(|(name, r)| **name != at.host.name && r.id == identity.id)
                    .any(|(_, r)| decide_other(r, identity) == OtherName::Clone);
                if !same || (life.modified == 0 && decided == Start::Wait) {
                    self.join_again(machine);
                } else if is_clone || decided == Start::Exit {
                    self.tell(machine, || {
                        "another machine lives under this name or identity: exits".to_owned()
                    });
                    self.machines[machine].process = None;
                    self.machines[machine].gone = true;
                } else if decided == Start::Wait {
                    life.foreign = true;
                    self.tell(machine, || "somebody else writes its record".to_owned());
                } else {
                    life.phase = Phase::Granting(Box::new(seen));
                    self.send(machine, Asker::Host, Request::Grant(TTL));
                }
            }
            (Phase::Granting(seen), Ok(Reply::Granted(lease, _))) => {
                life.lease = Some(lease);
                life.phase = Phase::Putting;
                let identity = &mut at.disk.identity;
                if identity.session != Some(life.session) {
                    identity.before = identity.session.replace(life.session);
                }
                identity.boot_id = boot_id(at.boot);
                let txn = put_record(at, &seen, lease, cluster.epoch);
                self.send(machine, Asker::Host, Request::Txn(txn));
            }
            (Phase::Putting, Ok(Reply::Txn(reply))) if reply.succeeded => {
                life.phase = Phase::Live;
                life.modified = reply.revision;
                at.disk.identity.before = None;
                let each = TTL / 5;
                self.tell(machine, || format!("is live at {}", reply.revision));
                self.joined(machine, reply.revision);
                self.later(machine, each, Event::KeepAlive);
            }
            _ => self.join_again(machine),
        }
    }

    /// Renews the lease.
    pub fn keep_alive(&mut self, machine: usize) {
        let Some(process) = &self.machines[machine].process else {
            return;
        };
        if let Some(lease) = process.host.lease.filter(|_| process.host.is_live()) {
            self.send(machine, Asker::KeepAlive(lease), Request::KeepAlive(lease));
        }
    }

    /// An answer to a keep-alive.
    pub fn kept(&mut self, machine: usize, lease: i64, answer: Answered) {
        let Some(process) = &self.machines[machine].process else {
            return;
        };
        if process.host.lease != Some(lease) || !process.host.is_live() {
            return;
        }
        match answer {
            Ok(Reply::Kept(revision)) => {
                self.later(machine, TTL / 5, Event::KeepAlive);
                self.seen(machine, revision);
            }
            Err(KvError::LeaseNotFound) => self.record_lost(machine),
            _ => self.later(machine, Duration::from_millis(100), Event::KeepAlive),
        }
    }

    /// A complete view shows this record of the machine's own.
    pub fn observe_record(
        &mut self,
        machine: usize,
        revision: i64,
        record: Option<&Rev<HostRecord>>,
    ) {
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        let life = &mut process.host;
        if !life.is_live() {
            return;
        }
        match record {
            Some(r) if r.session != life.session => life.foreign |= r.modified > life.modified,
            Some(_) => {}
            None if revision > life.modified => self.record_lost(machine),
            None => {}
        }
    }

    /// The agent says good-bye, if etcd hears it; `back` soon, or not.
    pub fn say_goodbye(&mut self, machine: usize, back: bool) {
        let at = &self.machines[machine];
        let heard = at.net.there && !self.away;
        let Some(process) = at.process.as_ref().filter(|p| heard && p.host.is_live()) else {
            return;
        };
        let key = Key::HostRecord(at.host.name.clone());
        let session = process.host.session;
        let own = self
            .truth
            .now
            .record(&at.host.name)
            .filter(|r| r.session == session);
        let Some(own) = own.cloned() else { return };
        let guard = Compare::modified(&key, own.modified);
        let ops = if back {
            let (lease, _) = self.etcd.lease_grant(GRACE);
            let record = HostRecord {
                state: HostState::Restarting,
                ..own.value
            };
            vec![Op::Put {
                key: key.to_string(),
                value: serde_json::to_vec(&record).expect("records always serialize"),
                lease,
            }]
        } else {
            vec![Op::delete(&key)]
        };
        let _ = self.etcd.txn(&Txn::new(vec![guard], ops));
        self.committed(None);
    }
}

/// The name of a boot.
pub fn boot_id(boot: u64) -> String {
    format!("boot-{boot}")
}

fn put_record(at: &Machine, seen: &Snapshot, lease: i64, epoch: u64) -> Txn {
    let name = &at.host.name;
    let host = seen.hosts.get(name);
    let member = host.and_then(|h| h.member.as_ref());
    let id = at.disk.identity.id;
    let record = HostRecord {
        id,
        session: at.process.as_ref().map_or(id, |p| p.host.session),
        epoch,
        state: HostState::Up,
        addr: at.host.surroundings.host_ip,
        peer: None,
        labels: BTreeMap::new(),
        capacity: Capacity::default(),
        versions: Versions {
            agent: String::new(),
            placement: at.placement.clone(),
        },
        foreign: 0,
        engine: true,
        disk: None,
        disk_full: false,
        hold: None,
        problems: Vec::new(),
    };
    let cluster = at
        .process
        .as_ref()
        .map(|p| p.host.cluster.clone())
        .unwrap_or_default();
    let same_cluster = Compare::new(
        KeyRange::key(Key::Cluster.to_string()),
        Relation::Equal,
        Target::Value(cluster),
    );
    let mut txn = Txn::new(
        vec![
            same_cluster,
            Compare::modified(
                Key::HostRecord(name.clone()),
                seen.record(name).map_or(0, |r| r.modified),
            ),
            Compare::modified(Key::Member(name.clone()), member.map_or(0, |m| m.modified)),
        ],
        vec![Op::Put {
            key: Key::HostRecord(name.clone()).to_string(),
            value: serde_json::to_vec(&record).expect("records always serialize"),
            lease,
        }],
    );
    if member.is_none_or(|m| m.id != id) {
        txn.then
            .push(Op::put_json(Key::Member(name.clone()), &Member { id }));
    }
    txn
}
