//! The host's life in etcd as a pure state machine: it says what to do next, and is fed the answers and the time.
//!
//! It does no IO and reads no clock. Whatever is not certain (the start, a lost
//! lease, a lost answer, a guard that failed, a hold that begins or ends) goes
//! one way: everything that decides is read at one revision and judged, and the
//! record is put guarded by just that. What protects a write is noted on disk in
//! a step of its own before it, so a crash between any two steps is harmless.

use std::time::Duration;

use manifests::keys::Key;
use model::error::chain;
use model::records::{Cluster, Hold, HostRecord, HostState};
use model::{Millis, Rule};
use uuid::Uuid;

use super::record::RecordKeeper;
use super::start::{ClusterFacts, ClusterStart, Start, decide, decide_cluster, decide_other};
use super::txn::{self, Blocked, Entry, Seen};
use super::{
    Facts, HostOptions, HostStatus, JoinError, Lease, Note, Stop, Stopped, Waiting, longest_wait,
};
use crate::view::Reason;
use model::kv::{KvError, Op, OpReply, Txn, TxnReply};

/// Pause after the first attempt that failed; it doubles up to the longest.
const RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// How often a record that has to end is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// How often etcd is looked at that this machine distrusts and its view trusts.
const DOUBT: Duration = Duration::from_secs(5);

/// What the driver does next, and answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostStep {
    /// Carry out a transaction.
    Ask(Txn),
    /// Get a lease with this time to live.
    Grant(Duration),
    /// Note this on disk.
    Note(Note),
    /// Nothing before this time, or for ever, unless something is fed. It has no answer.
    Wait(Option<Millis>),
}

/// What came of a step.
#[derive(Debug, Clone)]
pub enum HostAnswer {
    /// Of `HostStep::Ask`.
    Asked(Result<TxnReply, KvError>),
    /// Of `HostStep::Grant`: the lease, and the time to live that was granted.
    Granted(Result<(i64, Duration), KvError>),
    /// Of `HostStep::Note`; why it failed.
    Noted(Result<(), String>),
}

/// The step that was asked for last.
#[derive(Debug)]
enum Asked {
    Read,
    Create,
    Grant,
    Note(Note),
    Put {
        record: HostRecord,
        lease: i64,
        cluster: Option<Vec<u8>>,
    },
    Change(HostRecord),
    Leave,
    Grace,
    Goodbye,
}

/// What a read showed that there is to do.
#[derive(Debug)]
enum Judged {
    Create,
    Put(Entry),
    Leave(Txn),
}

/// The view's last word on etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has not said anything yet.
    Nothing,
    /// It has seen all of it, and trusts it.
    Trusts,
    /// It distrusts it.
    Distrusts(Hold),
}

impl From<Option<Hold>> for Verdict {
    fn from(hold: Option<Hold>) -> Self {
        hold.map_or(Self::Trusts, Self::Distrusts)
    }
}

/// The record in etcd as this process wrote it.
#[derive(Debug)]
struct Placed {
    modified: i64,
    lease: i64,
    /// The cluster's key then; none if it was absent.
    cluster: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Stopping {
    how: Stop,
    grace: Option<i64>,
    outcome: Option<Stopped>,
}

/// The machine.
#[derive(Debug)]
pub struct HostMachine {
    options: HostOptions,
    facts: Facts,
    /// The highest revision that was met while etcd was trusted, in this epoch.
    met: i64,
    keeper: RecordKeeper,
    status: HostStatus,
    floor: i64,
    lease: Option<Lease>,
    placed: Option<Placed>,
    /// All is to be read and judged before anything else is written.
    anew: bool,
    judged: Option<Judged>,
    /// The epoch in which this process put its record last, not in hold.
    joined: Option<u64>,
    told: Verdict,
    /// Why the own reads say that etcd is distrusted.
    found: Option<Hold>,
    /// When to look again at what is found and the view does not find.
    look_again: Option<Millis>,
    /// To be noted as the cluster that this host belongs to.
    learnt: Option<Cluster>,
    leaving: bool,
    stopping: Option<Stopping>,
    asked: Option<Asked>,
    /// A record that is not ours is seen since then.
    foreign_since: Option<Millis>,
    /// Since when a record under another name may be of this machine's copy.
    other_since: Option<Millis>,
    not_before: Millis,
    failures: u32,
}

impl HostMachine {
    /// A start. `record` says what is to stand in the record; identity, session, epoch and state are set here.
    pub fn new(options: HostOptions, record: HostRecord, facts: Facts, now: Millis) -> Self {
        let mut machine = Self {
            options,
            met: 0,
            keeper: RecordKeeper::new(record, now),
            status: HostStatus::Joining(Waiting::Begun),
            floor: 0,
            lease: None,
            placed: None,
            anew: true,
            judged: None,
            joined: None,
            told: facts
                .hold
                .clone()
                .map_or(Verdict::Nothing, Verdict::Distrusts),
            found: None,
            look_again: None,
            learnt: None,
            leaving: false,
            stopping: None,
            asked: None,
            foreign_since: None,
            other_since: None,
            not_before: now,
            failures: 0,
            facts,
        };
        machine.refresh(now);
        machine
    }

    // === outputs ===

    /// How the host stands.
    pub fn status(&self) -> &HostStatus {
        &self.status
    }

    /// The lease that is to be kept alive.
    pub fn lease(&self) -> Option<Lease> {
        self.lease.filter(|_| !self.is_over())
    }

    /// Revision at which the record was put anew last: a view below it is not complete. 0 is none yet.
    pub fn floor(&self) -> i64 {
        self.floor
    }

    /// The cluster that the host belongs to, as noted.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.facts.cluster.as_ref()
    }

    /// What the disk holds, as far as answered.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What came of `stop`; none before it is done.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopping.as_ref()?.outcome
    }

    // === inputs ===

    /// The record should say this. Identity, session, epoch, state and hold stay the machine's own.
    pub fn want(&mut self, record: HostRecord, now: Millis) {
        let record = self.own(record);
        self.keeper.want(record, now);
    }

    /// A trusted, complete view at `revision` shows the own record with this session and revision, or none: heals a
    /// lost one, finds a second process.
    pub fn observed(&mut self, revision: i64, record: Option<(Uuid, i64)>) {
        self.met = self.met.max(revision);
        let Some(placed) = &self.placed else { return };
        match record {
            Some((session, modified))
                if session != self.facts.session && modified > placed.modified =>
            {
                self.reconsider();
            }
            None if revision > placed.modified => self.lost(),
            _ => {}
        }
    }

    /// The lease has ended.
    pub fn lease_lost(&mut self, lease: i64) {
        if self.lease.is_some_and(|l| l.id == lease) {
            self.lease = None;
            self.lost();
        }
    }

    /// The view distrusts etcd, and why; or it trusts it, having seen all of it.
    pub fn hold(&mut self, hold: Option<Hold>, now: Millis) {
        let told = Verdict::from(hold);
        if self.told == told {
            return;
        }
        let before = self.held().cloned();
        self.told = told;
        if self.held() != before.as_ref() || self.found.is_some() {
            self.reconsider();
            self.refresh(now);
        }
    }

    /// The view has met the known cluster with a higher epoch: an accepted restore.
    pub fn accept(&mut self, cluster: Cluster) {
        let known = self.facts.cluster.as_ref();
        if known.is_some_and(|known| known.id == cluster.id && known.epoch < cluster.epoch) {
            self.learnt = Some(cluster);
        }
    }

    /// The operator wants this host to leave, and it has nothing left.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.reconsider();
    }

    /// Says good-bye. An answer that is still awaited does not count any more.
    pub fn stop(&mut self, how: Stop) {
        self.asked = None;
        self.stopping = Some(Stopping {
            how,
            grace: None,
            outcome: (self.is_over() || self.placed.is_none()).then_some(Stopped::NotNoted),
        });
    }

    // === what to do ===

    /// What to do next. Asked again before it is answered, the earlier step's answer must not be given any more.
    pub fn next(&mut self, now: Millis) -> HostStep {
        match self.work(now) {
            Some((asked, step)) => {
                self.asked = Some(asked);
                step
            }
            None => HostStep::Wait(self.wake()),
        }
    }

    fn work(&self, now: Millis) -> Option<(Asked, HostStep)> {
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

    fn join(&self) -> (Asked, HostStep) {
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

    fn goodbye(&self, stopping: &Stopping) -> Option<(Asked, HostStep)> {
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

    fn guarded(&self, placed: &Placed, op: Op) -> Txn {
        txn::guarded(
            &self.options.name,
            placed.modified,
            placed.cluster.as_deref(),
            op,
        )
    }

    /// When there is something to do; none: only an input brings something.
    fn wake(&self) -> Option<Millis> {
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

    // === answers ===

    /// Takes the answer to the last step.
    pub fn answer(&mut self, answer: HostAnswer, now: Millis) {
        let Some(asked) = self.asked.take() else {
            return;
        };
        if self.stopping.is_some() {
            self.said_goodbye(&asked, answer);
            return;
        }
        match (asked, answer) {
            (asked, HostAnswer::Asked(Ok(reply))) => self.replied(asked, reply, now),
            (_, HostAnswer::Granted(Ok((id, ttl)))) => self.lease = Some(Lease { id, ttl }),
            (Asked::Note(note), HostAnswer::Noted(Ok(()))) => self.noted(&note, now),
            (_, HostAnswer::Noted(Ok(()))) => {}
            (_, HostAnswer::Noted(Err(why))) => self.failed(Waiting::Disk(why), now),
            (Asked::Put { lease, .. }, HostAnswer::Asked(Err(KvError::LeaseNotFound))) => {
                self.lease_lost(lease);
            }
            (Asked::Change(_), HostAnswer::Asked(Err(KvError::LeaseNotFound))) => {
                self.lease = None;
                self.lost();
            }
            (_, HostAnswer::Asked(Err(error)) | HostAnswer::Granted(Err(error))) => {
                // What was asked may have been done.
                self.reconsider();
                self.failed(Waiting::Etcd(chain(&error)), now);
            }
        }
    }

    fn replied(&mut self, asked: Asked, reply: TxnReply, now: Millis) {
        match asked {
            Asked::Read => {
                self.reconsider();
                self.judge(&Seen::of(reply), now);
            }
            Asked::Create => {
                self.judged = None;
                let is_there =
                    matches!(reply.replies.first(), Some(OpReply::Get(kvs)) if !kvs.is_empty());
                if !reply.succeeded && !is_there {
                    let why = "there are claims or members of a cluster in it";
                    self.failed(Waiting::NoCluster(why.to_owned()), now);
                }
            }
            Asked::Put { .. } | Asked::Change(_) | Asked::Leave if !reply.succeeded => {
                self.reconsider();
                if self.failures > 0 {
                    self.pause(now);
                }
                self.failures += 1;
            }
            Asked::Put {
                record,
                lease,
                cluster,
            } => {
                // What was fed meanwhile may have made the judgement void.
                self.anew = self.judged.take().is_none();
                // One that was put in hold may have been put in another etcd, where the cluster's key was gone.
                if record.state != HostState::Hold {
                    self.joined = Some(record.epoch);
                }
                self.floor = reply.revision;
                self.keeper.written(record);
                self.placed = Some(Placed {
                    modified: reply.revision,
                    lease,
                    cluster,
                });
                if self.lease.is_none_or(|l| l.id != lease) {
                    self.lost();
                    return;
                }
                self.stands(now);
            }
            Asked::Change(record) => {
                self.keeper.written(record);
                if let Some(placed) = &mut self.placed {
                    placed.modified = reply.revision;
                    self.stands(now);
                }
            }
            Asked::Leave => {
                self.placed = None;
                self.set(HostStatus::Left);
            }
            Asked::Grant | Asked::Note(_) | Asked::Grace | Asked::Goodbye => {}
        }
    }

    fn said_goodbye(&mut self, asked: &Asked, answer: HostAnswer) {
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        match (asked, answer) {
            (Asked::Grace, HostAnswer::Granted(Ok((lease, _)))) => stopping.grace = Some(lease),
            (Asked::Goodbye, HostAnswer::Asked(Ok(reply))) if reply.succeeded => {
                stopping.outcome = Some(Stopped::Noted);
            }
            _ => stopping.outcome = Some(Stopped::NotNoted),
        }
    }

    fn noted(&mut self, note: &Note, now: Millis) {
        if let (Note::Cluster(cluster), Some(known)) = (note, &self.facts.cluster)
            && known.epoch < cluster.epoch
        {
            // Another history, and the operator has said that it counts.
            self.met = 0;
            self.told = Verdict::Trusts;
            self.found = None;
        }
        self.facts.note(note);
        if self.learnt == self.facts.cluster {
            self.learnt = None;
        }
        if let Note::Cluster(_) = note {
            self.reconsider();
            self.refresh(now);
        }
    }

    // === judgement ===

    /// Judges the cluster's key.
    fn judge(&mut self, seen: &Seen, now: Millis) {
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
    fn judge_name(&mut self, seen: &Seen, now: Millis) {
        let own = seen.snapshot.record(&self.options.name);
        if let Some(record) = own.filter(|record| record.session != self.facts.session) {
            let epoch = self.facts.cluster.as_ref().map(|c| c.epoch);
            // After a restore it may be an old record of our own, come back from the backup.
            if self.joined.is_some() && self.joined == epoch && self.held().is_none() {
                if record.modified >= self.floor {
                    self.set(HostStatus::Foreign(record.session));
                    return;
                }
                // It is older than what this process wrote: not a second process, but a history that went back.
                let reason = Reason::Rewound {
                    known: self.floor,
                    found: record.modified,
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
    fn judge_entry(&mut self, seen: &Seen, now: Millis) {
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

    // === what follows ===

    /// The lowest revision that etcd can be at. Of an earlier epoch nothing counts.
    fn known_revision(&self) -> i64 {
        let cluster = self.facts.cluster.as_ref();
        let saved = self.options.saved.as_ref();
        let saved = saved.filter(|saved| Some(&saved.cluster) == cluster);
        saved.map_or(0, |saved| saved.revision).max(self.met)
    }

    /// Why the host is in hold.
    fn held(&self) -> Option<&Hold> {
        match &self.told {
            Verdict::Distrusts(hold) => Some(hold),
            Verdict::Trusts | Verdict::Nothing => self.found.as_ref(),
        }
    }

    fn is_over(&self) -> bool {
        matches!(
            self.status,
            HostStatus::Foreign(_) | HostStatus::Failed(_) | HostStatus::Left
        )
    }

    /// With what the machine alone says.
    fn own(&self, record: HostRecord) -> HostRecord {
        let hold = self.held().cloned();
        HostRecord {
            id: self.facts.disk.id,
            session: self.facts.session,
            epoch: self.facts.cluster.as_ref().map_or(0, |c| c.epoch),
            state: match hold {
                Some(_) => HostState::Hold,
                None => HostState::Up,
            },
            hold,
            ..record
        }
    }

    /// Epoch or hold may be another now.
    fn refresh(&mut self, now: Millis) {
        let record = self.own(self.keeper.wanted().clone());
        self.keeper.want(record, now);
        if let Some(hold) = self.held() {
            self.set(HostStatus::Held(hold.reason.clone()));
        }
    }

    /// The record is as it should be.
    fn stands(&mut self, now: Millis) {
        self.failures = 0;
        let doubt = self.found.is_some() && self.told == Verdict::Trusts;
        self.look_again = doubt.then(|| now + DOUBT);
        match (self.held(), &self.placed) {
            (None, Some(placed)) => {
                self.met = self.met.max(placed.modified);
                self.set(HostStatus::Live(placed.modified));
            }
            (Some(hold), _) => self.set(HostStatus::Held(hold.reason.clone())),
            (None, None) => {}
        }
    }

    /// Nothing is certain any more.
    fn reconsider(&mut self) {
        self.anew = true;
        self.judged = None;
    }

    /// The record is not there any more.
    fn lost(&mut self) {
        self.placed = None;
        self.keeper.lost();
        self.reconsider();
        if self.joined.is_some() && self.held().is_none() {
            self.set(HostStatus::Lost);
        }
    }

    fn distrusted(&mut self, now: Millis) {
        self.set(HostStatus::Distrusted);
        self.pause(now);
        self.failures += 1;
    }

    fn failed(&mut self, why: Waiting, now: Millis) {
        // While nothing is seen, nobody can be waited for.
        self.other_since = None;
        self.foreign_since = None;
        self.waits(why);
        self.pause(now);
        self.failures += 1;
    }

    fn waits(&mut self, why: Waiting) {
        if let HostStatus::Joining(_) = self.status {
            self.set(HostStatus::Joining(why));
        }
    }

    fn pause(&mut self, now: Millis) {
        let pause = RETRY.saturating_mul(1 << self.failures.min(8));
        self.not_before = now + pause.min(LONGEST_RETRY);
    }

    fn set(&mut self, status: HostStatus) {
        if !self.is_over() {
            self.status = status;
        }
    }
}

fn note(note: Note) -> (Asked, HostStep) {
    (Asked::Note(note.clone()), HostStep::Note(note))
}

#[cfg(test)]
mod tests;
