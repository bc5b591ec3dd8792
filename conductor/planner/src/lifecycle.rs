//! The life cycle of a slot on the host that has it, one action at a time.
//!
//! Only the claimed instance may run; other containers of the slot leave in
//! order. Nothing that runs is stopped before what replaces it has been made.

mod before;
mod ctx;
mod paused;
mod prepare;
mod replace;
mod reserve;
mod start;
mod tidy;
mod unfit;
mod yielding;

use std::time::Duration;

use manifests::{InstanceId, SlotId};
use model::backoff::Backoff;
use model::observed::{ContainerState, EngineState, ObservedContainer, Readiness};
use model::records::{Phase, Progress, SlotState, Status};
use model::snapshot::{Owner, Rev};
use model::{Action, Scope, Write};

use crate::handover::stops_first;
use crate::inputs::Inputs;
use crate::output::{Notes, Report};
use crate::retire::{draining, retire, retire_all, stop_timeout};
use crate::rollout;
use crate::rollout::Target;
use crate::slots::OwnSlot;
use crate::waiting::{Stalled, Waiting};
use before::before;
use ctx::{Ctx, Decision};
use paused::serves_on;
use replace::{made, replacement};
use reserve::{reserve, take_back};
use start::{absent, first_start, resolve, restart, running, why_ended};
use tidy::tidy;
use yielding::yields;

/// A status is written when it has lasted for this long: one that stays …
const STATUS_LASTS: Duration = Duration::from_millis(300);

/// … and one of something under way, which is over before most people look.
const PROGRESS_LASTS: Duration = Duration::from_secs(1);

/// The life cycle of the slots that this host has.
pub(crate) fn own_slots(
    inputs: &Inputs<'_>,
    slots: &[OwnSlot<'_>],
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Report {
    let mut report = Report::default();
    for own in slots {
        let ctx = Ctx {
            inputs: *inputs,
            slot: &own.slot,
            container: own.container,
            view: own.view,
            claim: own.claim,
            containers: &own.containers,
            memory: inputs.memory.slots.get(&own.slot),
        };
        // What Docker removes, or could not remove, has no process and never gets one again: it is gone.
        let current = own
            .containers
            .iter()
            .copied()
            .find(|c| c.owner.instance == own.claim.instance && !c.is_going());
        let decision = match &inputs.observed.engine {
            EngineState::Up => Some(next(&ctx, current, &mut report.notes, fresh)),
            EngineState::Unresponsive(why) => without_engine(&ctx, current, why, &mut report.notes),
        };
        if let Some(decision) = decision {
            let current = current.filter(|_| inputs.has_engine());
            note(&ctx, current, decision, &mut report);
        }
    }
    report
}

/// Decides what comes next for a slot. The first that fits counts.
fn next(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    notes: &mut Notes,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Decision {
    let orphans = &ctx.inputs.memory.orphans;
    let elsewhere = ctx.was_written_elsewhere();
    let elsewhere = elsewhere.map(|constraint| (constraint, ctx.inputs.may_place(Owner::Nobody)));
    if !ctx.inputs.is_trusted() {
        restart_only(ctx, current)
    } else if ctx.container.manifest.is_none() && orphans.contains_key(&ctx.claim.instance) {
        orphan(ctx, current, notes)
    } else if !ctx.container.is_wanted(ctx.slot.slot) || ctx.is_last_here() {
        unwanted(ctx, notes)
    } else if let Some((constraint, Ok(()))) = &elsewhere {
        Decision {
            reason: Some(Waiting::NotHere(constraint.clone())),
            ..unwanted(ctx, notes)
        }
    } else if let Some(decision) = yields(ctx, current, notes) {
        decision
    } else if let Some((_, Err(pause))) = elsewhere {
        ctx.without_void_next(serves_on(ctx, current, pause, notes))
    } else {
        let decision = wanted(ctx, current, notes, fresh);
        ctx.with_volumes(current, ctx.without_void_next(decision))
    }
}

/// While the engine does not answer, what is seen to take no traffic gets none, and what never ran here goes to another
/// host in the end.
fn without_engine(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    why: &str,
    notes: &mut Notes,
) -> Option<Decision> {
    let wanted = ctx.inputs.is_trusted() && ctx.container.is_wanted(ctx.slot.slot);
    let since = ctx.inputs.memory.engine_down_since.filter(|_| wanted)?;
    let readiness = current.map(|c| (c, ctx.inputs.observed.readiness(&c.owner.instance)));
    // What is leaving stays so.
    let stays = |state: &Rev<SlotState>| matches!(state.state, Phase::Ready | Phase::Unready);
    if let Some((container, Readiness::Unready(why))) = readiness
        && ctx.view.current_state().is_some_and(stays)
    {
        let reason = Waiting::NotReady(why.clone());
        let decision = Decision::new(Progress::Unready, Some(reason));
        return Some(ctx.with_state(container, Phase::Unready, decision));
    }
    ctx.release_stalled(since, Stalled::Engine(why.to_owned()), notes)
}

fn restart_only(ctx: &Ctx<'_>, current: Option<&ObservedContainer>) -> Decision {
    let Some(container) = current.filter(|c| matches!(c.state, ContainerState::Exited(_))) else {
        return Decision::new(Progress::Unknown, None);
    };
    // What was asked to stop is no crash.
    let asked_to_stop = ctx.instance(container).is_some_and(|m| m.stop_requested)
        || ctx
            .view
            .current_state()
            .is_some_and(|s| matches!(s.state, Phase::Leaving | Phase::Stopped));
    // An earlier process may have stopped it for a handover, and the saved view does not know that.
    let may_be_handed_over =
        !ctx.inputs.memory.has_synced && stops_first(ctx.container, ctx.claim.version);
    if asked_to_stop || may_be_handed_over {
        return Decision::new(Progress::Unknown, None);
    }
    restart(ctx, container)
}

fn unwanted(ctx: &Ctx<'_>, notes: &mut Notes) -> Decision {
    let containers = ctx.containers;
    let runs = containers
        .iter()
        .any(|c| c.owner.instance == ctx.claim.instance && c.running().is_some());
    let mut decision = leaving(ctx, runs);
    decision.action = retire_all(
        &ctx.inputs,
        ctx.slot,
        containers,
        Some(ctx.container),
        notes,
    );
    if containers.iter().all(|c| c.is_going()) {
        decision = decision.write(ctx.release());
    }
    decision
}

/// What runs takes no new connections any more.
fn leaving(ctx: &Ctx<'_>, runs: bool) -> Decision {
    let decision = Decision::new(Progress::Leaving, None);
    match ctx.view.current_state() {
        Some(state) if runs && state.state == Phase::Ready => {
            decision.write(ctx.state_write(SlotState {
                state: Phase::Leaving,
                ..state.value.clone()
            }))
        }
        _ => decision,
    }
}

/// It was asked to stop before it was wanted again, and a process that was asked to stop can't be asked to stay: whatever
/// a probe says of it, it serves no more, and is started again when it has ended.
fn ending(ctx: &Ctx<'_>, current: &ObservedContainer, notes: &mut Notes) -> Decision {
    let mut decision = leaving(ctx, true);
    let timeout = stop_timeout(current, Some(ctx.container));
    decision.reason = Some(Waiting::Ending(timeout));
    decision.action = retire(&ctx.inputs, ctx.slot, current, Some(ctx.container), notes);
    decision
}

/// Kept without a manifest since a restore was accepted, until somebody removes it by name.
fn orphan(ctx: &Ctx<'_>, current: Option<&ObservedContainer>, notes: &mut Notes) -> Decision {
    let orphan = Decision::new(Progress::Orphan, Some(Waiting::Orphaned));
    match current {
        Some(container) if matches!(container.state, ContainerState::Exited(_)) => Decision {
            progress: orphan.progress,
            reason: orphan.reason,
            ..restart(ctx, container)
        },
        Some(container) if container.running().is_some() => match ctx.phase(container, notes) {
            Some(phase) => ctx.with_state(container, phase, orphan),
            None => orphan,
        },
        _ => orphan,
    }
}

fn wanted(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    notes: &mut Notes,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Decision {
    let Some(mut target) = rollout::of_slot(ctx.container, ctx.slot.slot, ctx.claim.version) else {
        return Decision::new(Progress::Waiting, Some(Waiting::InvalidManifest));
    };
    if current.is_none() {
        let trouble = ctx.inputs.memory.images.get(&ctx.slot.container);
        let cannot_be_had = trouble.is_some_and(|trouble| trouble.rev == target.rev());
        target = rollout::made_anew(ctx.container, ctx.claim.version, target, cannot_be_had);
    }
    let outdated = ctx.is_outdated(&target);
    // A replacement for an instance that needs none any more is one too many.
    let is_replaced =
        current.is_none_or(|c| outdated || ctx.must_recreate(c) || ctx.surroundings_changed(c));
    let made = made(ctx, &target).filter(|_| is_replaced);
    let newest = current.filter(|_| !outdated);
    let reserve = newest.and_then(|current| reserve(ctx, current, notes));
    let stays = |other: &ObservedContainer| {
        let kept = [made, reserve].into_iter().flatten();
        let mut kept = kept.map(|container| &container.owner.instance);
        other.owner.instance == ctx.claim.instance || kept.any(|i| *i == other.owner.instance)
    };
    let others = ctx.containers.iter().copied();
    let others: Vec<&ObservedContainer> = others.filter(|other| !stays(other)).collect();
    let Some(current) = current else {
        return absent(ctx, &target, !others.is_empty(), notes, fresh);
    };
    let is_ending = ctx.is_ending(current);
    if !is_ending {
        notes.staying.push(current.owner.instance.clone());
    }
    if let Some(reserve) = reserve
        && let Some(decision) = take_back(ctx, current, reserve, &target)
    {
        return decision;
    }
    match &current.state {
        ContainerState::Removing => Decision::new(Progress::Waiting, None),
        ContainerState::Created { error } => {
            let scope = Scope::Slot(ctx.slot.clone());
            if ctx.inputs.memory.in_flight.is_acting(&scope) {
                // It may be running in a moment.
                return Decision::new(Progress::Starting, None);
            }
            if let Some(decision) = ctx.release_unstartable() {
                return decision;
            }
            let must_recreate = ctx.must_recreate(current);
            if outdated && !must_recreate && !target.is_prepared() {
                // Perhaps nothing can replace it; until that is known it is better than nothing.
                let replace = match &target {
                    Target::Undecided { .. } => Some(resolve(ctx, &target, notes)),
                    Target::Decided { .. } => before(ctx, &target, notes, fresh),
                };
                let is_runnable = rollout::is_runnable(ctx.container, ctx.claim.version);
                let start = is_runnable.then(|| first_start(ctx, current, error, &others, notes));
                let waits = Decision::new(Progress::Waiting, None);
                return match (start, replace) {
                    (Some(start), Some(replace)) => merge(start, replace),
                    (one, other) => one.or(other).unwrap_or(waits),
                };
            }
            if outdated || must_recreate {
                return ctx.new_instance(&target, fresh);
            }
            if let Some(waits) = before(ctx, &target, notes, fresh) {
                return waits;
            }
            first_start(ctx, current, error, &others, notes)
        }
        ContainerState::Running(_) | ContainerState::Paused(_) => {
            let mut decision = if is_ending {
                ending(ctx, current, notes)
            } else {
                running(ctx, current, &target, notes)
            };
            if let Some(replace) = replacement(ctx, current, &target, made, outdated, notes, fresh)
            {
                decision = merge(decision, replace);
            }
            // What leaves leaves meanwhile.
            let tidied = tidy(ctx, current, &others, notes);
            decision.action = decision.action.or(tidied);
            decision
        }
        ContainerState::Exited(exit) => {
            let mut replace = replacement(ctx, current, &target, made, outdated, notes, fresh);
            let goes_on =
                |decision: &mut Decision| decision.action.is_some() || decision.write.is_some();
            if let Some(replace) = replace.take_if(goes_on) {
                return replace;
            }
            // While its replacement has to wait, it is better than nothing.
            let mut decision = restart(ctx, current);
            let rev = ctx.claim.version;
            decision.shared = ctx.failed(current, rev, &target, why_ended(ctx, rev, exit));
            // What leaves leaves meanwhile.
            let tidied = tidy(ctx, current, &others, notes);
            decision.action = decision.action.or(tidied);
            match replace {
                Some(replace) => merge(decision, replace),
                None => decision,
            }
        }
    }
}

/// The progress of a replacement is shown first; its write never takes the place of one of the running instance.
fn merge(running: Decision, replace: Decision) -> Decision {
    Decision {
        action: running.action.or(replace.action),
        write: running.write.or(replace.write),
        shared: running.shared.or(replace.shared),
        resolve: running.resolve.or(replace.resolve),
        progress: replace.progress,
        reason: replace.reason.or(running.reason),
        about: replace.about,
        instance: replace.instance,
    }
}

/// Adds the decision on one slot to the report.
fn note(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    mut decision: Decision,
    report: &mut Report,
) {
    if let None
    | Some(
        Waiting::FormerContainer(_)
        | Waiting::Ending(_)
        | Waiting::NotHere(_)
        | Waiting::HandedOver,
    ) = decision.reason
        && let Some(waits) = draining(&ctx.inputs, ctx.containers, &report.notes)
    {
        decision.reason = Some(waits);
    }
    let status = ctx.status(current, &decision);
    let is_draining = matches!(decision.reason, Some(Waiting::Draining(_)));
    if let Some(reason) = decision.reason {
        report.waiting.insert(ctx.slot.clone(), reason);
    }
    let backoff = current.and_then(|c| ctx.instance(c)).map(|m| &m.backoff);
    if let Some(at) = backoff
        .map(Backoff::next_try)
        .filter(|at| *at > ctx.inputs.now)
    {
        report.notes.requeue(at);
    }
    if ctx.inputs.is_trusted() {
        let write = decision
            .write
            .or_else(|| status_write(ctx, &status, is_draining, &mut report.notes));
        report.writes.extend(decision.shared);
        report.writes.extend(write);
        report.statuses.insert(ctx.slot.clone(), status);
    }
    // `stopped` may be on its way to etcd, and another host starts once it is there.
    let is_writing = |slot: &SlotId| {
        let scope = Scope::Slot(slot.clone());
        ctx.inputs.memory.in_flight.is_writing(&scope)
    };
    let may_be_handed_over = matches!(decision.action, Some(Action::Start { .. }))
        && stops_first(ctx.container, ctx.claim.version)
        && is_writing(ctx.slot);
    report.actions.extend(decision.resolve);
    report
        .actions
        .extend(decision.action.filter(|_| !may_be_handed_over));
}

/// Writes a status that has lasted for a moment and is not written yet.
fn status_write(
    ctx: &Ctx<'_>,
    status: &Status,
    is_draining: bool,
    notes: &mut Notes,
) -> Option<Write> {
    if ctx.memory.and_then(|m| m.written_status.as_ref()) == Some(status) {
        return None;
    }
    let since = ctx
        .memory
        .and_then(|m| m.status.as_ref())
        .filter(|(now, _)| now == status)
        .map_or(ctx.inputs.now, |(_, since)| *since);
    let lasts = match status.progress {
        // Connections come and go.
        _ if is_draining => PROGRESS_LASTS,
        Progress::Ready | Progress::Failed | Progress::Restarting | Progress::Waiting => {
            STATUS_LASTS
        }
        _ => PROGRESS_LASTS,
    };
    if ctx.inputs.now < since + lasts {
        notes.requeue(since + lasts);
        return None;
    }
    Some(Write::status(
        ctx.slot.clone(),
        status.clone(),
        ctx.claim.modified,
    ))
}
