//! The host's life in etcd as a pure state machine: it says what to do next, and is fed the answers and the time.
//!
//! It does no IO and reads no clock. Whatever is not certain (the start, a lost
//! lease, a lost answer, a guard that failed, a hold that begins or ends) goes
//! one way: everything that decides is read at one revision and judged, and the
//! record is put guarded by just that. What protects a write is noted on disk in
//! a step of its own before it, so a crash between any two steps is harmless.

mod judgement;
mod steps;

use model::ModRev;
use std::time::Duration;

use model::Millis;
use model::backoff::Exponential;
use model::error::chain;
use model::records::{Cluster, Hold, HostRecord, HostState};
use uuid::Uuid;

use super::record::RecordKeeper;
use super::txn::{Entry, Seen};
use super::{Facts, HostOptions, HostStatus, Lease, Note, Stop, Stopped, Waiting};
use model::kv::{KvError, OpReply, Txn, TxnReply};

/// Between two attempts.
const RETRY: Exponential = Exponential::new(Duration::from_millis(250), Duration::from_secs(2));
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
    modified: ModRev,
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
    retry: Exponential,
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
            retry: RETRY,
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
                if session != self.facts.session && ModRev(modified) > placed.modified =>
            {
                self.reconsider();
            }
            None if ModRev(revision) > placed.modified => self.lost(),
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
                // The first one is tried again at once.
                match self.retry.failures() {
                    0 => self.retry.failed(),
                    _ => self.not_before = now + self.retry.next_wait(),
                }
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
                    modified: ModRev(reply.revision),
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
                    placed.modified = ModRev(reply.revision);
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

    // === what follows ===

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
        self.retry.reset();
        let doubt = self.found.is_some() && self.told == Verdict::Trusts;
        self.look_again = doubt.then(|| now + DOUBT);
        match (self.held(), &self.placed) {
            (None, Some(placed)) => {
                self.met = self.met.max(placed.modified.0);
                self.set(HostStatus::Live(placed.modified.0));
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

    fn failed(&mut self, why: Waiting, now: Millis) {
        // While nothing is seen, nobody can be waited for.
        self.other_since = None;
        self.foreign_since = None;
        self.waits(why);
        self.not_before = now + self.retry.next_wait();
    }

    fn set(&mut self, status: HostStatus) {
        if !self.is_over() {
            self.status = status;
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any id will do in a test")]
mod tests;
