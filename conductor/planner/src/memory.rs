//! Memory of an agent's own work and its results.
//!
//! Nothing here survives the process, and nothing here gives a right: rights
//! are in etcd and on the engine.

mod checks;
mod in_flight;
mod instances;
mod orphans;
mod own_writes;
mod slots;
mod trouble;

use std::collections::{BTreeMap, BTreeSet};

use manifests::{ContainerId, InstanceId, SlotId};
use model::backoff::Backoff;
use model::images::ImageAnswer;
use model::observed::{EngineState, Observed};
use model::records::{Phase, Status};
use model::snapshot::{SlotView, Snapshot, mod_rev};
use model::time::Millis;
use model::write::WriteOp;
use model::{Action, ActionResult, Fault, Scope, Write, WriteKind};

use crate::disruption::DisruptionGuard;
use crate::output::Plan;

pub use checks::Check;
pub use in_flight::{InFlight, STALLED};
pub use instances::InstanceMemory;
pub use orphans::{Orphan, Orphans};
pub use own_writes::{OwnWrites, RETRY_REJECTED};
pub use slots::SlotMemory;
pub use trouble::{Trouble, UnfitMark};

/// The memory of one agent process.
#[derive(Debug, Clone, Default)]
pub struct AgentMemory {
    /// Actions and writes under way.
    pub in_flight: InFlight,
    /// Answers to own writes that the view does not show yet.
    pub own_writes: OwnWrites,
    /// Slots of this host.
    pub slots: BTreeMap<SlotId, SlotMemory>,
    /// Instances on this host's engine.
    pub instances: BTreeMap<InstanceId, InstanceMemory>,
    /// Containers for whose newer images this host asks, and what is known of them.
    pub checks: BTreeMap<ContainerId, Check>,
    /// Images that could not be decided.
    pub images: BTreeMap<ContainerId, Trouble>,
    /// Scopes in which any of several hosts may act, and since when none has: turns are counted from then.
    pub turns: BTreeMap<Scope, Millis>,
    /// Containers that this host has marked itself unfit for.
    pub unfit: BTreeMap<ContainerId, UnfitMark>,
    /// Time since which the engine does not answer.
    pub engine_down_since: Option<Millis>,
    /// This process has seen a trusted, complete snapshot.
    pub has_synced: bool,
    /// Instances that were leaving when this process saw its first such snapshot: an earlier one may have asked them to
    /// stop.
    pub left_before: BTreeSet<InstanceId>,
    /// When slots may be placed and taken over.
    pub disruption: DisruptionGuard,
    /// Instances that were kept without a manifest when a restore was accepted.
    pub orphans: Orphans,
    /// Runs before a version that this process has noted in etcd, and may start once.
    pub jobs: BTreeMap<ContainerId, OwnJob>,
}

/// A run before a version that this process has noted in etcd.
#[derive(Debug, Clone)]
pub struct OwnJob {
    /// Its container.
    pub instance: InstanceId,
    /// Its start was asked for: it may run, or have run.
    pub start_asked: bool,
}

impl AgentMemory {
    /// Takes up the status that an earlier agent of this host wrote of a slot, so that it is not written again.
    pub fn resume(&mut self, slot: SlotId, status: Status) {
        let memory = self.slots.entry(slot).or_default();
        memory.earlier_restarts = Some((status.instance.clone(), status.restarts));
        memory.written_status = Some(status);
    }

    /// Notes the result of an action.
    pub fn record(&mut self, result: &ActionResult, now: Millis) {
        match result {
            ActionResult::Resolved { container, .. } => {
                self.in_flight
                    .end_action(&Scope::Container(container.clone()));
                self.images.remove(container);
            }
            ActionResult::NotResolved {
                container,
                rev,
                reason,
                fault,
            } => {
                self.in_flight
                    .end_action(&Scope::Container(container.clone()));
                self.images
                    .entry(container.clone())
                    .or_default()
                    .failed(*rev, reason, *fault, now);
            }
            ActionResult::Prepared {
                slot,
                instance,
                rev,
                before,
            } => {
                self.in_flight.end_action(&Scope::Slot(slot.clone()));
                let memory = self.slots.entry(slot.clone()).or_default();
                memory.trouble = Trouble::default();
                if *before {
                    return;
                }
                if memory.pending_instance.as_ref() == Some(instance) {
                    memory.pending_instance = None;
                } else {
                    memory.replacement = Some((instance.clone(), *rev));
                }
            }
            ActionResult::NotPrepared {
                slot,
                rev,
                reason,
                fault,
            } => {
                self.in_flight.end_action(&Scope::Slot(slot.clone()));
                let memory = self.slots.entry(slot.clone()).or_default();
                memory.trouble.failed(*rev, reason, *fault, now);
            }
            ActionResult::NotStarted {
                slot,
                instance,
                reason,
                fault,
                must_recreate,
            } => {
                self.in_flight.end_action(&Scope::Slot(slot.clone()));
                self.instance(instance, now)
                    .start_failed(*must_recreate, now);
                let slot = self.slots.entry(slot.clone()).or_default();
                // Another instance gets another port: no other host is needed for that.
                let fault = if *must_recreate {
                    Fault::Passing
                } else {
                    *fault
                };
                slot.trouble.blames(fault, reason);
            }
            ActionResult::Done { slot } => {
                self.in_flight.end_action(&Scope::Slot(slot.clone()));
                if let Some(slot) = self.slots.get_mut(slot) {
                    slot.retiring = Backoff::default();
                    slot.renaming = Backoff::default();
                }
            }
            ActionResult::Failed { slot, .. } => {
                self.in_flight.end_action(&Scope::Slot(slot.clone()));
                let slot = self.slots.entry(slot.clone()).or_default();
                slot.retiring.failed(now);
            }
            ActionResult::NotRenamed { slot, .. } => {
                self.in_flight.end_action(&Scope::Slot(slot.clone()));
                let slot = self.slots.entry(slot.clone()).or_default();
                slot.renaming.failed(now);
            }
        }
    }

    /// Notes what a registry said.
    pub fn answered(&mut self, answer: &ImageAnswer, now: Millis) {
        if let Some(check) = self.checks.get_mut(&answer.container) {
            check.answered(answer, now);
        }
    }

    /// Notes the progress of a pull, for people; none at its end.
    pub fn progress(&mut self, scope: &Scope, text: Option<&String>, now: Millis) {
        let slots: Vec<SlotId> = match scope {
            Scope::Slot(slot) => vec![slot.clone()],
            Scope::Container(id) => {
                let all = self.slots.keys();
                all.filter(|slot| slot.container == *id).cloned().collect()
            }
        };
        let mut changed = false;
        for slot in slots {
            let progress = &mut self.slots.entry(slot).or_default().pull_progress;
            changed |= progress.as_ref() != text;
            *progress = text.cloned();
        }
        if changed {
            self.in_flight.progressed(scope, now);
        }
    }

    fn instance(&mut self, instance: &InstanceId, now: Millis) -> &mut InstanceMemory {
        self.instances
            .entry(instance.clone())
            .or_insert_with(|| InstanceMemory::new(now))
    }

    /// Notes that a restore was accepted: what runs here and has no manifest any more is kept until somebody removes it
    /// by name. `before` is the snapshot before it, for the versions.
    pub fn accept(
        &mut self,
        before: &Snapshot,
        restored: &Snapshot,
        observed: &Observed,
        now: Millis,
    ) {
        self.disruption.restore_accepted(now);
        self.own_writes.forget_revisions();
        self.in_flight.forget_revisions();
        orphans::keep(&mut self.orphans, before, restored, observed);
    }

    /// Takes a trusted, complete snapshot in; `same_hosts`: as in the one that was taken in before.
    pub fn see(&mut self, snapshot: &Snapshot, same_hosts: bool, now: Millis) {
        if !std::mem::replace(&mut self.has_synced, true) {
            self.left_before = leaving(snapshot);
        }
        if same_hosts {
            self.disruption.observe_slots(snapshot, now);
        } else {
            self.disruption.observe(snapshot, now);
        }
        self.own_writes.viewed(snapshot);
        self.in_flight.viewed(snapshot.revision);
        orphans::see(&mut self.orphans, snapshot);
        for (slot, memory) in &mut self.slots {
            let claim = snapshot.slot(slot).and_then(|view| view.claim.as_ref());
            memory.see_claim(mod_rev(claim));
        }
    }

    /// Takes in what the engine shows: starts, ends and what is gone.
    pub fn observe(&mut self, observed: &Observed, now: Millis) {
        match observed.engine {
            EngineState::Up => self.engine_down_since = None,
            EngineState::Unresponsive(_) => {
                self.engine_down_since.get_or_insert(now);
            }
        }
        let is_there = |instance: &InstanceId| observed.containers.contains_key(instance);
        let is_job = |instance: &InstanceId| observed.jobs.contains_key(instance);
        self.instances
            .retain(|instance, _| is_there(instance) || is_job(instance));
        self.orphans.retain(|instance, _| is_there(instance));
        for (instance, container) in observed.containers.iter().chain(&observed.jobs) {
            self.instances
                .entry(instance.clone())
                .or_insert_with(|| InstanceMemory::found(container, now))
                .observe(container, observed.readiness(instance), now);
        }
        for slot in self.slots.values_mut() {
            slot.replacement
                .take_if(|(instance, _)| !is_there(instance));
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
        if plan.partial {
            for scope in &plan.turns {
                self.turns.entry(scope.clone()).or_insert(now);
            }
        } else {
            // Both are in order.
            let mut known = std::mem::take(&mut self.turns).into_iter().peekable();
            let turn = |scope: &Scope| {
                while known.next_if(|(one, _)| one < scope).is_some() {}
                known
                    .next_if(|(one, _)| one == scope)
                    .unwrap_or_else(|| (scope.clone(), now))
            };
            self.turns = plan.turns.iter().map(turn).collect();
        }
        for id in &plan.followed {
            let new = || Check::new(now);
            self.checks.entry(id.clone()).or_insert_with(new);
        }
        for question in &plan.asks {
            if let Some(check) = self.checks.get_mut(&question.container) {
                check.asks();
            }
        }
        for (slot, status) in &plan.statuses {
            self.slots
                .entry(slot.clone())
                .or_default()
                .note_status(status, now);
        }
        for action in &plan.actions {
            match action {
                Action::Stop { instance, .. } => {
                    self.instance(instance, now).stop_requested = true;
                }
                Action::Start { slot, instance, .. } => {
                    let job = self.jobs.get_mut(&slot.container);
                    if let Some(job) = job.filter(|job| job.instance == *instance) {
                        job.start_asked = true;
                    }
                }
                _ => {}
            }
            self.in_flight.begin_action(action.scope(), now);
        }
        for write in &plan.writes {
            self.begin_write(write);
        }
    }

    /// Notes that a write is sent to etcd.
    pub fn begin_write(&mut self, write: &Write) {
        if let Some(slot) = write.takes() {
            self.in_flight.begin_placement(slot);
        }
        match (write.kind, write.job()) {
            (WriteKind::JobStart, Some((id, job))) => {
                let own = OwnJob {
                    instance: job.instance.clone(),
                    start_asked: false,
                };
                self.jobs.insert(id.clone(), own);
            }
            (WriteKind::JobEnd, Some((id, _))) => {
                self.jobs.remove(id);
            }
            _ => {}
        }
        self.in_flight.begin_write(write.scope.clone());
    }

    /// Forgets what a whole plan does not name any more.
    fn forget(&mut self, plan: &Plan, now: Millis) {
        self.own_writes.forget_rejected(now);
        self.checks.retain(|id, _| plan.followed.contains(id));
        self.slots.retain(|slot, memory| {
            plan.statuses.contains_key(slot)
                || plan.touches(slot)
                || memory.pending_instance.is_some()
                || memory.next_try() > now
        });
    }

    /// Notes the answer to a write that was planned from a view at the revision `seen`: whether its guards held, and the
    /// revision of etcd.
    pub fn wrote(&mut self, write: &Write, succeeded: bool, revision: i64, seen: i64, now: Millis) {
        self.in_flight.end_write(&write.scope);
        if let Some(slot) = write.takes() {
            self.in_flight
                .end_placement(slot, succeeded.then_some(revision));
        }
        if !succeeded {
            self.own_writes.rejected(write.scope.clone(), seen, now);
            return;
        }
        // A status is not in the view, so the view is not waited for.
        if write.kind != WriteKind::Status {
            self.own_writes.succeeded(write.scope.clone(), revision);
        }
        for op in &write.ops {
            if let WriteOp::Claim(slot, _) = op {
                self.own_writes.claimed(slot.clone(), revision);
            }
        }
        let Some(slot) = write.slot() else { return };
        match write.kind {
            WriteKind::Claim | WriteKind::TakeOver | WriteKind::Next => {
                if let Some(instance) = write.instance()
                    && !self.instances.contains_key(instance)
                {
                    let memory = self.slots.entry(slot.clone()).or_default();
                    memory.pending_instance = Some(instance.clone());
                }
            }
            WriteKind::ReleaseUnfit | WriteKind::DeleteNext => {
                if let Some(unfit) = write.unfit() {
                    // The next try here begins anew.
                    self.slots.remove(slot);
                    self.images.remove(&slot.container);
                    let mark = self.unfit.entry(slot.container.clone()).or_default();
                    mark.marked(unfit.manifest_rev, now);
                }
            }
            WriteKind::NewInstance | WriteKind::Replace => {
                let is_there = |instance: &InstanceId| self.instances.contains_key(instance);
                let made = write.instance().is_some_and(is_there);
                let memory = self.slots.entry(slot.clone()).or_default();
                if write.pin().is_some() {
                    // The pin may have changed what it waited for.
                    memory.trouble = Trouble::default();
                }
                memory
                    .replacement
                    .take_if(|(instance, _)| Some(&*instance) == write.instance());
                if !made {
                    memory.pending_instance = write.instance().cloned();
                }
            }
            WriteKind::State | WriteKind::TakeBack => {
                if let Some(memory) = self.slots.get_mut(slot) {
                    memory.unconfirmed_stop = false;
                }
            }
            WriteKind::Status => {
                let memory = self.slots.entry(slot.clone()).or_default();
                memory.written_status = write.status_of().cloned();
            }
            _ => {}
        }
    }

    /// Notes that etcd did not answer a write; the view will show whether it happened.
    pub fn not_written(&mut self, write: &Write) {
        let stopped = write.says().is_some_and(|s| s.state == Phase::Stopped);
        if let Some(slot) = write.slot().filter(|_| stopped) {
            self.slots.entry(slot.clone()).or_default().unconfirmed_stop = true;
        }
        if let Some(slot) = write.takes() {
            self.in_flight.end_placement(slot, None);
        }
        self.in_flight.end_write(&write.scope);
    }
}

/// Instances that take no new connections, as their hosts have written.
fn leaving(snapshot: &Snapshot) -> BTreeSet<InstanceId> {
    let slots = snapshot.containers.values().flat_map(|c| c.slots.values());
    let states = slots.filter_map(SlotView::current_state);
    states
        .filter(|state| state.state == Phase::Leaving)
        .map(|state| state.instance.clone())
        .collect()
}
