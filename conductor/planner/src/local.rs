//! What an agent remembers of its own work, and what came of it.
//!
//! Nothing here survives the process, and nothing here gives a right: rights
//! are in etcd and on the engine. It holds what is under way, when to try
//! again, and since when something lasts.

use model::{ActionResult, Fault, Scope};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use manifests::{ContainerId, InstanceId, SlotId};
use serde::{Deserialize, Serialize};

use crate::disruption::DisruptionGuard;
use crate::plan::Plan;
use model::backoff::Backoff;
use model::observed::{ContainerState, EngineState, Observed};
use model::records::{Phase, Status, Version};
use model::rules::{Rule, Rules};
use model::snapshot::Snapshot;
use model::time::Millis;

/// A write whose guards did not hold is planned again from a newer view, or after this.
pub const LOST: Duration = Duration::from_millis(250);

/// A mark stays at least so long.
const MARKED: Duration = Duration::from_secs(10);

/// A host on which a pull or create for a slot has been under way for so long without progress, or whose engine has not
/// answered for so long, gives the slot up.
pub const STALLED: Duration = Duration::from_secs(600);

/// Tries on one host after which an error that is not known is taken for the host's.
pub const UNKNOWN_TRIES: u32 = 3;

/// How often it is looked whether the volumes that a slot waits for are there.
const LOOK_AT_DATA: Duration = Duration::from_secs(5);

/// The memory of one agent process.
#[derive(Debug, Clone, Default)]
pub struct Local {
    /// Steps under way on the engine, and when each was begun, or has told of progress last.
    pub busy: BTreeMap<Scope, Millis>,
    /// Since when the engine does not answer.
    pub hangs_since: Option<Millis>,
    /// Writes under way.
    pub writing: BTreeSet<Scope>,
    /// Slots that this process takes, until the view shows it: their weight is on no host in the view, so nothing else is
    /// taken meanwhile. The revision is not known before the answer.
    pub taking: BTreeMap<SlotId, Option<i64>>,
    /// Revision of the last own write: nothing is planned from a view below it.
    pub written: BTreeMap<Scope, i64>,
    /// The last write whose guards did not hold: the revision of the view that it was planned from, and when.
    pub lost: BTreeMap<Scope, (i64, Millis)>,
    /// Slots of this host.
    pub slots: BTreeMap<SlotId, SlotMemory>,
    /// Instances on this host's engine.
    pub instances: BTreeMap<InstanceId, InstanceMemory>,
    /// Images that could not be decided.
    pub images: BTreeMap<ContainerId, Trouble>,
    /// Since when something has been seen that any host may do, and others come before this one.
    pub pending: BTreeMap<Scope, Millis>,
    /// Containers that this host has said it can't run.
    pub unfit: BTreeMap<ContainerId, Mark>,
    /// This process has seen a trusted, complete snapshot.
    pub has_seen: bool,
    /// When nothing may be placed or taken over.
    pub disruption: DisruptionGuard,
    /// Instances that were kept without a manifest when a restore was accepted.
    pub orphans: BTreeMap<InstanceId, Orphan>,
}

/// A mark that this host can't run a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// How often in a row, and when last.
    pub backoff: Backoff,
    /// For which manifest.
    pub rev: i64,
}

impl Mark {
    /// When the mark is taken away, so that it is tried again.
    pub fn until(&self) -> Millis {
        self.backoff.next_try().max(self.backoff.last() + MARKED)
    }
}

/// An instance that was kept though nobody wants it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Orphan {
    /// Of which slot.
    pub slot: SlotId,
    /// The version that it runs: its key before, negative.
    pub rev: i64,
    /// What that version said, if it was known.
    pub version: Option<Version>,
    /// Its claim was seen: when that goes, somebody has removed it.
    pub claimed: bool,
}

/// Failures, and the last reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trouble {
    /// When to try again.
    pub backoff: Backoff,
    /// Why it failed last, for people; empty if it did not.
    pub reason: String,
    /// Of which version.
    pub rev: i64,
    /// Who has to change something.
    pub fault: Fault,
    /// How often in a row that was not known.
    pub unknown: u32,
}

/// What is remembered of a slot.
#[derive(Debug, Clone, Default)]
pub struct SlotMemory {
    /// The instance that this process claimed the slot for and has not made yet.
    pub minted: Option<InstanceId>,
    /// An instance that was made for a replacement and is not claimed yet, and its version.
    pub prepared: Option<(InstanceId, i64)>,
    /// Failed creates and starts.
    pub trouble: Trouble,
    /// The last status that was written.
    pub status: Option<Status>,
    /// The status as it is now, and since when.
    pub status_now: Option<(Status, Millis)>,
    /// Progress of a pull, for people.
    pub progress: Option<String>,
    /// Restarts that earlier agents counted, and of which instance.
    pub before: Option<(InstanceId, u32)>,
    /// That it is stopped for a handover was sent to etcd and not answered: others may have read it.
    pub may_say_stopped: bool,
}

/// What is remembered of an instance. It has no default: it begins when this process sees the instance.
#[derive(Debug, Clone)]
pub struct InstanceMemory {
    /// This process has seen it since.
    pub seen: Millis,
    /// Its process runs since.
    pub running_since: Option<Millis>,
    /// The start that `running_since` belongs to (Docker's time).
    pub started_at: i64,
    /// It was ready at some time.
    pub was_ready: bool,
    /// It takes no new connections since.
    pub leaving_since: Option<Millis>,
    /// Ends of its process that were seen.
    pub ends: u32,
    /// The end that was counted last (Docker's time).
    pub ended_at: i64,
    /// This process asked it to stop: its end is no failure.
    pub stopping: bool,
    /// It must be made anew: its address or port is not to be had.
    pub doomed: bool,
    /// What it lacks to be ready, as the last look at it said, for people.
    pub lacks: Option<String>,
    /// Last lines of its log when it ended.
    pub log: Vec<String>,
    /// Failed starts and ends.
    pub backoff: Backoff,
}

impl Local {
    /// Takes up what an earlier agent of this host said of a slot, so that it is not said again.
    pub fn resume(&mut self, slot: SlotId, status: Status) {
        let memory = self.slots.entry(slot).or_default();
        memory.before = Some((status.instance.clone(), status.restarts));
        memory.status = Some(status);
    }

    /// Notes what came of a step.
    pub fn record(&mut self, outcome: &ActionResult, now: Millis) {
        match outcome {
            ActionResult::Resolved { container, .. } => {
                self.busy.remove(&Scope::Container(container.clone()));
                self.images.remove(container);
            }
            ActionResult::NotResolved {
                container,
                rev,
                reason,
                fault,
            } => {
                self.busy.remove(&Scope::Container(container.clone()));
                self.images
                    .entry(container.clone())
                    .or_default()
                    .failed(*rev, reason, *fault, now);
            }
            ActionResult::Prepared {
                slot,
                instance,
                rev,
            } => {
                self.busy.remove(&Scope::Slot(slot.clone()));
                let memory = self.slots.entry(slot.clone()).or_default();
                memory.trouble = Trouble::default();
                if memory.minted.as_ref() == Some(instance) {
                    memory.minted = None;
                } else {
                    memory.prepared = Some((instance.clone(), *rev));
                }
            }
            ActionResult::NotPrepared {
                slot,
                rev,
                reason,
                fault,
            } => {
                self.busy.remove(&Scope::Slot(slot.clone()));
                let memory = self.slots.entry(slot.clone()).or_default();
                memory.trouble.failed(*rev, reason, *fault, now);
            }
            ActionResult::NotStarted {
                slot,
                instance,
                reason,
                fault,
                doomed,
            } => {
                self.busy.remove(&Scope::Slot(slot.clone()));
                let memory = self.instance(instance, now);
                memory.doomed |= doomed;
                memory.ends += 1;
                memory.backoff.failed(now);
                let slot = self.slots.entry(slot.clone()).or_default();
                // Another instance gets another port: no other host is needed for that.
                let fault = if *doomed { Fault::Passing } else { *fault };
                slot.trouble.blames(fault, reason);
            }
            ActionResult::Done { slot } => {
                self.busy.remove(&Scope::Slot(slot.clone()));
            }
            ActionResult::Failed { slot, reason } => {
                self.busy.remove(&Scope::Slot(slot.clone()));
                let slot = self.slots.entry(slot.clone()).or_default();
                let rev = slot.trouble.rev;
                slot.trouble.failed(rev, reason, Fault::Passing, now);
            }
        }
    }

    /// Notes how far a pull is, for people; none at its end.
    pub fn progress(&mut self, work: &Scope, text: Option<&String>, now: Millis) {
        let slots: Vec<SlotId> = match work {
            Scope::Slot(slot) => vec![slot.clone()],
            Scope::Container(id) => {
                let all = self.slots.keys();
                all.filter(|slot| slot.container == *id).cloned().collect()
            }
        };
        let mut changed = false;
        for slot in slots {
            let progress = &mut self.slots.entry(slot).or_default().progress;
            changed |= progress.as_ref() != text;
            *progress = text.cloned();
        }
        if let Some(busy) = self.busy.get_mut(work).filter(|_| changed) {
            *busy = now;
        }
    }

    /// A step for this container has been under way for too long.
    pub(crate) fn is_stuck(&self, container: &ContainerId, now: Millis) -> bool {
        self.busy.iter().any(|(work, since)| {
            let of = match work {
                Scope::Slot(slot) => &slot.container,
                Scope::Container(id) => id,
            };
            of == container && now >= *since + STALLED
        })
    }

    fn instance(&mut self, instance: &InstanceId, now: Millis) -> &mut InstanceMemory {
        self.instances
            .entry(instance.clone())
            .or_insert_with(|| InstanceMemory::new(now))
    }

    /// Notes that a restore was accepted: what runs here and has no manifest any more is kept until somebody removes it
    /// by name. `before` is what was known until then, for what the versions said.
    pub fn accept(
        &mut self,
        before: &Snapshot,
        restored: &Snapshot,
        observed: &Observed,
        now: Millis,
    ) {
        self.disruption.restore_accepted(now);
        // Revisions of the former history say nothing about this one.
        self.written.clear();
        self.lost.clear();
        self.taking.retain(|_, own| own.is_none());
        for (instance, container) in &observed.containers {
            let slot = &container.owner.slot;
            let has_manifest = |snapshot: &Snapshot| {
                let view = snapshot.containers.get(&slot.container);
                view.is_some_and(|view| view.manifest.is_some())
            };
            let had_it = before
                .slot(slot)
                .and_then(|view| view.claim.as_ref())
                .is_some_and(|claim| claim.instance == *instance);
            let another_runs = observed
                .of_slot(slot)
                .any(|other| other.owner.instance != *instance && other.running().is_some());
            let counts = container.running().is_some() || (had_it && !another_runs);
            if has_manifest(restored) || !counts {
                continue;
            }
            let made_from = before
                .containers
                .get(&slot.container)
                .and_then(|view| view.version_by_hash(&container.owner.manifest_hash));
            self.orphans.insert(
                instance.clone(),
                Orphan {
                    slot: slot.clone(),
                    // Revisions begin anew in a new etcd: one of the former history must not be taken for one of those.
                    rev: made_from.map_or(0, |(rev, _)| -rev.abs()),
                    version: made_from.map(|(_, version)| version.version.clone()),
                    claimed: false,
                },
            );
        }
    }

    /// Notes what a trusted, complete snapshot shows.
    pub fn see(&mut self, snapshot: &Snapshot, now: Millis) {
        self.has_seen = true;
        self.disruption.observe(snapshot, now);
        self.written.retain(|_, own| *own > snapshot.revision);
        self.taking
            .retain(|_, own| own.is_none_or(|own| own > snapshot.revision));
        self.orphans.retain(|instance, orphan| {
            let container = snapshot.containers.get(&orphan.slot.container);
            let claimed = container
                .and_then(|c| c.slots.get(&orphan.slot.slot)?.claim.as_ref())
                .is_some_and(|claim| claim.instance == *instance);
            orphan.claimed |= claimed;
            // With a manifest it is like any other.
            container.is_none_or(|c| c.manifest.is_none())
        });
    }

    /// Notes what the engine shows: starts, ends and what is gone.
    pub fn observe(&mut self, observed: &Observed, now: Millis) {
        match observed.engine {
            EngineState::Up => self.hangs_since = None,
            EngineState::Unresponsive(_) => {
                self.hangs_since.get_or_insert(now);
            }
        }
        self.instances
            .retain(|instance, _| observed.containers.contains_key(instance));
        self.orphans
            .retain(|instance, _| observed.containers.contains_key(instance));
        for (instance, container) in &observed.containers {
            let memory = self.instances.entry(instance.clone()).or_insert_with(|| {
                // An end from before this process is not counted: the first start after it is at once.
                let ended_at = match &container.state {
                    ContainerState::Exited(exit) => exit.at,
                    _ => 0,
                };
                InstanceMemory {
                    ended_at,
                    ..InstanceMemory::new(now)
                }
            });
            match &container.state {
                ContainerState::Running(running) | ContainerState::Paused(running) => {
                    if memory.running_since.is_none() || memory.started_at != running.started_at {
                        memory.running_since = Some(now);
                        memory.started_at = running.started_at;
                        memory.stopping = false;
                    }
                    if let Some(since) = memory.running_since {
                        memory.backoff.lived(since, now);
                    }
                }
                ContainerState::Exited(exit) => {
                    memory.running_since = None;
                    if memory.ended_at != exit.at {
                        memory.ended_at = exit.at;
                        if !memory.stopping {
                            memory.ends += 1;
                            memory.backoff.failed(now);
                        }
                    }
                }
                ContainerState::Created { .. } | ContainerState::Removing => {
                    memory.running_since = None;
                }
            }
            if observed.readiness(instance) == &model::observed::Readiness::Ready {
                memory.was_ready = true;
            }
        }
        for slot in self.slots.values_mut() {
            if let Some((prepared, _)) = &slot.prepared
                && !observed.containers.contains_key(prepared)
            {
                slot.prepared = None;
            }
        }
    }

    /// Notes what a plan begins, before it is carried out.
    pub fn begin(&mut self, plan: &Plan, now: Millis) {
        for instance in &plan.leaving {
            let memory = self.instance(instance, now);
            memory.leaving_since.get_or_insert(now);
        }
        for instance in &plan.staying {
            if let Some(memory) = self.instances.get_mut(instance) {
                memory.leaving_since = None;
            }
        }
        if !plan.partial {
            self.forget(plan, now);
        }
        for work in &plan.pending {
            self.pending.entry(work.clone()).or_insert(now);
        }
        for (slot, status) in &plan.statuses {
            let memory = self.slots.entry(slot.clone()).or_default();
            if memory.status_now.as_ref().map(|(s, _)| s) != Some(status) {
                memory.status_now = Some((status.clone(), now));
            }
        }
        for step in &plan.steps {
            if let model::Action::Stop { instance, .. } = step {
                self.instance(instance, now).stopping = true;
            }
            self.busy.insert(step.work(), now);
        }
        for write in &plan.writes {
            self.taking
                .extend(taken(write).map(|slot| (slot.clone(), None)));
            self.writing.insert(write.work());
        }
    }

    /// Forgets what a whole plan does not name any more.
    fn forget(&mut self, plan: &Plan, now: Millis) {
        self.pending.retain(|work, _| plan.pending.contains(work));
        self.lost.retain(|_, (_, at)| now < *at + LOST);
        self.slots.retain(|slot, memory| {
            plan.statuses.contains_key(slot)
                || plan.touches(slot)
                || memory.minted.is_some()
                || memory.trouble.backoff.next_try() > now
        });
    }

    /// Notes what came of a write that was planned from a view at `seen`: the store's revision, and whether its guards
    /// held.
    pub fn wrote(
        &mut self,
        write: &model::Write,
        succeeded: bool,
        revision: i64,
        seen: i64,
        now: Millis,
    ) {
        use model::Write;
        let work = write.work();
        self.writing.remove(&work);
        if let Some(slot) = taken(write) {
            self.taking.remove(slot);
            if succeeded {
                self.taking.insert(slot.clone(), Some(revision));
            }
        }
        if !succeeded {
            self.lost.insert(work, (seen, now));
            return;
        }
        // A status is not in the view, so the view is not waited for.
        if !matches!(write, Write::Status { .. }) {
            let own = self.written.entry(work).or_default();
            *own = (*own).max(revision);
        }
        match write {
            Write::Claim { slot, claim, .. }
            | Write::TakeOver { slot, claim, .. }
            | Write::Next {
                slot, next: claim, ..
            } if !self.instances.contains_key(&claim.instance) => {
                let memory = self.slots.entry(slot.clone()).or_default();
                memory.minted = Some(claim.instance.clone());
            }
            Write::Release {
                slot,
                unfit: Some((_, unfit)),
                ..
            }
            | Write::DeleteNext {
                slot,
                unfit: Some((_, unfit)),
                ..
            } => {
                // The next try here begins anew.
                self.slots.remove(slot);
                self.images.remove(&slot.container);
                let mark = self.unfit.entry(slot.container.clone()).or_default();
                if mark.rev != unfit.manifest_rev {
                    *mark = Mark::default();
                }
                mark.rev = unfit.manifest_rev;
                mark.backoff.failed(now);
            }
            Write::NewInstance {
                slot, claim, data, ..
            } => {
                let memory = self.slots.entry(slot.clone()).or_default();
                if data.is_some() {
                    // What it waited for may be otherwise now.
                    memory.trouble = Trouble::default();
                }
                if memory
                    .prepared
                    .take_if(|(prepared, _)| *prepared == claim.instance)
                    .is_none()
                {
                    memory.minted = Some(claim.instance.clone());
                }
            }
            Write::State { slot, .. } | Write::TakeBack { slot, .. } => {
                if let Some(memory) = self.slots.get_mut(slot) {
                    memory.may_say_stopped = false;
                }
            }
            Write::Status { slot, status, .. } => {
                let memory = self.slots.entry(slot.clone()).or_default();
                memory.status = Some(status.clone());
            }
            _ => {}
        }
    }

    /// Notes that a write could not be asked of etcd at all; whether it happened, the view will show.
    pub fn not_written(&mut self, write: &model::Write) {
        if let model::Write::State { slot, state, .. } = write
            && state.state == Phase::Stopped
        {
            self.slots.entry(slot.clone()).or_default().may_say_stopped = true;
        }
        if let Some(slot) = taken(write) {
            self.taking.remove(slot);
        }
        self.writing.remove(&write.work());
    }

    /// The last own write on this is not in a view of that revision yet, or one was lost against something newer.
    pub fn is_ahead_of(&self, work: &Scope, revision: i64, now: Millis, rules: Rules) -> bool {
        let ahead = self.written.get(work).is_some_and(|own| *own > revision);
        (ahead && rules.has(Rule::ReadYourWrites))
            || self
                .lost
                .get(work)
                .is_some_and(|(seen, at)| *seen == revision && now < *at + LOST)
    }
}

/// The slot that a write puts on this host by the order of placement.
fn taken(write: &model::Write) -> Option<&SlotId> {
    use model::Write;
    match write {
        Write::Claim { slot, .. } | Write::TakeOver { slot, .. } | Write::Next { slot, .. } => {
            Some(slot)
        }
        _ => None,
    }
}

impl InstanceMemory {
    /// Seen now for the first time.
    fn new(now: Millis) -> Self {
        Self {
            seen: now,
            running_since: None,
            started_at: 0,
            was_ready: false,
            leaving_since: None,
            ends: 0,
            ended_at: 0,
            stopping: false,
            doomed: false,
            lacks: None,
            log: Vec::new(),
            backoff: Backoff::default(),
        }
    }
}

impl Trouble {
    fn failed(&mut self, rev: i64, reason: &str, fault: Fault, now: Millis) {
        if self.rev != rev {
            *self = Self {
                rev,
                ..Self::default()
            };
        }
        self.backoff.failed(now);
        self.blames(fault, reason);
    }

    fn blames(&mut self, fault: Fault, reason: &str) {
        self.unknown = match fault {
            Fault::Unknown => self.unknown + 1,
            _ => 0,
        };
        self.fault = fault;
        reason.clone_into(&mut self.reason);
    }

    /// It is not known whose fault it is, and it may go by itself.
    pub fn may_pass(&self) -> bool {
        match self.fault {
            Fault::Passing => true,
            Fault::Unknown => self.unknown < UNKNOWN_TRIES,
            Fault::Manifest | Fault::Host | Fault::Data => false,
        }
    }

    /// When to try again. Whether its volumes are there is looked at often: it is cheap, and somebody has just seen to it.
    pub fn next_try(&self) -> Millis {
        let next = self.backoff.next_try();
        match self.fault {
            Fault::Data => next.min(self.backoff.last() + LOOK_AT_DATA),
            _ => next,
        }
    }
}
