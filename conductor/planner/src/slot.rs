//! The life of a slot on the host that has it, one step at a time.
//!
//! Of each slot at most one step and one write come out. Only the claimed
//! instance may run; what else there is of the slot leaves in order. Nothing
//! that runs is touched before what replaces it has been made.

mod ctx;
mod handover;
mod leave;
mod replace;
mod returned;
mod start;

use std::time::Duration;

use manifests::{InstanceId, SlotId};

use crate::inputs::Inputs;
use crate::output::Plan;
use crate::target::Target;
use crate::waiting::{Stalled, Waiting};
use ctx::{Ctx, Out};
pub(crate) use handover::{Incoming, incoming};
use handover::{stops_first, yields};
use leave::{retire_all, tidy};
use model::Scope;
use model::observed::{ContainerState, ObservedContainer};
use model::records::{Claim, Phase, Progress, SlotState, Status};
use model::snapshot::{ContainerView, Rev, SlotView};
use model::{Action, Trust, Write};
use replace::{give_up, replacement};
pub(crate) use returned::{Rest, not_own};
use start::{absent, first_start, resolve, restart, running, why_ended};

/// A status that people read is written when it has held for this long: how it ended up …
const STATUS_HOLDS: Duration = Duration::from_millis(300);

/// … and what is under way, which most often is over before anybody looks.
const PROGRESS_HOLDS: Duration = Duration::from_secs(1);

/// A slot that this host has, as `plan` gives it.
pub(crate) struct Own<'a> {
    /// Which.
    pub(crate) slot: SlotId,
    /// Its container.
    pub(crate) container: &'a ContainerView,
    /// What etcd says of it.
    pub(crate) view: &'a SlotView,
    /// This host's claim.
    pub(crate) claim: &'a Rev<Claim>,
    /// What the engine has of it.
    pub(crate) containers: &'a [&'a ObservedContainer],
}

/// Plans a slot that this host has.
pub(crate) fn own(
    inputs: &Inputs<'_>,
    own: Own<'_>,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) {
    let ctx = own.ctx(inputs);
    // What Docker removes, or could not remove, has no process and never gets one again: it is gone.
    let current = own
        .containers
        .iter()
        .copied()
        .find(|c| c.owner.instance == own.claim.instance && !c.is_going());
    let out = if inputs.trust == Trust::RestartsOnly {
        restart_only(&ctx, current)
    } else if own.container.manifest.is_none()
        && inputs.memory.orphans.contains_key(&own.claim.instance)
    {
        orphan(&ctx, current, plan)
    } else if !own.container.is_wanted(own.slot.slot) || ctx.is_last_here() {
        unwanted(&ctx, own.containers, plan)
    } else if let Some(out) = yields(&ctx, current, plan) {
        out
    } else {
        let out = wanted(&ctx, current, own.containers, plan, fresh);
        ctx.notes_volumes(current, ctx.drops_void_next(out))
    };
    emit(&ctx, current, out, plan);
}

/// Plans a slot that this host has while its engine does not answer: what never ran here goes to another host in the
/// end.
pub(crate) fn own_without_engine(inputs: &Inputs<'_>, own: &Own<'_>, why: &str, plan: &mut Plan) {
    let ctx = own.ctx(inputs);
    let wanted = inputs.trust == Trust::Full && own.container.is_wanted(own.slot.slot);
    let Some(since) = inputs.memory.engine_down_since.filter(|_| wanted) else {
        return;
    };
    let engine = Stalled::Engine(why.to_owned());
    if let Some(out) = ctx.gives_up_stalled(since, engine, plan) {
        emit(&ctx, None, out, plan);
    }
}

impl<'a> Own<'a> {
    fn ctx<'b>(&'b self, inputs: &Inputs<'b>) -> Ctx<'b>
    where
        'a: 'b,
    {
        Ctx {
            inputs: *inputs,
            slot: &self.slot,
            container: self.container,
            view: self.view,
            claim: self.claim,
            containers: self.containers,
            memory: inputs.memory.slots.get(&self.slot),
        }
    }
}

fn restart_only(ctx: &Ctx<'_>, current: Option<&ObservedContainer>) -> Out {
    let Some(container) = current.filter(|c| matches!(c.state, ContainerState::Exited(_))) else {
        return Out::says(Progress::Unknown, None);
    };
    // What was asked to stop is no crash.
    let asked_to_stop = ctx.instance(container).is_some_and(|m| m.stop_requested)
        || ctx
            .view
            .current_state()
            .is_some_and(|s| matches!(s.state, Phase::Leaving | Phase::Stopped));
    // An earlier process may have stopped it for a handover, and the saved view does not know that.
    let may_be_handed_over =
        !ctx.inputs.memory.has_synced && stops_first(ctx.container, ctx.claim.manifest_rev);
    if asked_to_stop || may_be_handed_over {
        return Out::says(Progress::Unknown, None);
    }
    restart(ctx, container)
}

fn unwanted(ctx: &Ctx<'_>, containers: &[&ObservedContainer], plan: &mut Plan) -> Out {
    let mut out = Out::says(Progress::Leaving, None);
    let runs = containers
        .iter()
        .any(|c| c.owner.instance == ctx.claim.instance && c.running().is_some());
    if let (true, Some(state)) = (runs, ctx.view.current_state())
        && state.state == Phase::Ready
    {
        out = out.write(ctx.state_write(SlotState {
            state: Phase::Leaving,
            ..state.value.clone()
        }));
    }
    out.step = retire_all(&ctx.inputs, ctx.slot, containers, Some(ctx.container), plan);
    if containers.iter().all(|c| c.is_going()) {
        out = out.write(ctx.release());
    }
    out
}

/// Kept without a manifest since a restore was accepted, until somebody removes it by name.
fn orphan(ctx: &Ctx<'_>, current: Option<&ObservedContainer>, plan: &mut Plan) -> Out {
    let orphan = Out::says(Progress::Orphan, Some(Waiting::Orphaned));
    match current {
        Some(container) if matches!(container.state, ContainerState::Exited(_)) => Out {
            progress: orphan.progress,
            reason: orphan.reason,
            ..restart(ctx, container)
        },
        Some(container) if container.running().is_some() => match ctx.phase(container, plan) {
            Some(phase) => ctx.tells(container, phase, orphan),
            None => orphan,
        },
        _ => orphan,
    }
}

fn wanted(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    containers: &[&ObservedContainer],
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Out {
    let Some(target) = ctx.target() else {
        return Out::says(Progress::Waiting, Some(Waiting::InvalidManifest));
    };
    let outdated = target.outdates(ctx.container, ctx.claim.manifest_rev);
    // What was made to replace an instance that needs it no more is one too many.
    let replaced =
        current.is_none_or(|c| outdated || ctx.must_recreate(c) || ctx.surroundings_changed(c));
    let prepared = ctx
        .memory
        .and_then(|m| m.replacement.as_ref())
        .filter(|(_, rev)| replaced && *rev == target.rev());
    let others: Vec<&ObservedContainer> = containers
        .iter()
        .copied()
        .filter(|c| {
            let instance = &c.owner.instance;
            *instance != ctx.claim.instance && prepared.is_none_or(|(p, _)| p != instance)
        })
        .collect();
    let Some(current) = current else {
        return absent(ctx, &target, !others.is_empty(), plan, fresh);
    };
    plan.staying.push(current.owner.instance.clone());
    match &current.state {
        ContainerState::Removing => Out::says(Progress::Waiting, None),
        ContainerState::Created { error } => {
            let work = Scope::Slot(ctx.slot.clone());
            if ctx.inputs.memory.in_flight.is_acting(&work) {
                // It may be running in a moment.
                return Out::says(Progress::Starting, None);
            }
            if let Some(out) = ctx.gives_up_start() {
                return out;
            }
            let doomed = ctx.must_recreate(current);
            if outdated && !doomed && matches!(target, Target::Undecided { .. }) {
                // It may be that nothing can replace it: until that is known it is better than nothing.
                let replace = resolve(ctx, &target, plan);
                return merge(first_start(ctx, current, error, &others, plan), replace);
            }
            if outdated || doomed {
                return ctx.remint(&target, fresh);
            }
            first_start(ctx, current, error, &others, plan)
        }
        ContainerState::Running(_) | ContainerState::Paused(_) => {
            let mut out = running(ctx, current, &target, plan);
            if let Some(replace) =
                replacement(ctx, current, &target, prepared, outdated, plan, fresh)
            {
                out = merge(out, replace);
            }
            if out.step.is_none() {
                out.step = tidy(ctx, current, &others, plan);
            }
            out
        }
        ContainerState::Exited(exit) => {
            let mut replace = replacement(ctx, current, &target, prepared, outdated, plan, fresh);
            let goes_on = |out: &mut Out| out.step.is_some() || out.write.is_some();
            if let Some(replace) = replace.take_if(goes_on) {
                return replace;
            }
            // While what is to replace it has to wait, it is better than nothing.
            let mut out = restart(ctx, current);
            out.shared = give_up(ctx, current, &target, why_ended(ctx, exit));
            if out.step.is_none() {
                out.step = tidy(ctx, current, &others, plan);
            }
            match replace {
                Some(replace) => merge(out, replace),
                None => out,
            }
        }
    }
}

/// What a replacement says comes first; it never overwrites a write of the running instance.
fn merge(running: Out, replace: Out) -> Out {
    Out {
        step: running.step.or(replace.step),
        write: running.write.or(replace.write),
        shared: running.shared.or(replace.shared),
        progress: replace.progress,
        reason: replace.reason.or(running.reason),
        about: replace.about,
    }
}

/// Lets out what may go now, and notes the rest.
fn emit(ctx: &Ctx<'_>, current: Option<&ObservedContainer>, mut out: Out, plan: &mut Plan) {
    let local = ctx.inputs.memory;
    let work = Scope::Slot(ctx.slot.clone());
    let behind = ctx.inputs.is_behind(&work);
    let status = ctx.status(current, &out);
    if let Some(reason) = &out.reason {
        plan.waiting.insert(ctx.slot.clone(), reason.clone());
    }
    let waits_for_backoff = current
        .and_then(|c| ctx.instance(c))
        .map(|m| m.backoff.next_try())
        .filter(|at| *at > ctx.inputs.now);
    if let Some(at) = waits_for_backoff {
        plan.requeue(at);
    }
    if ctx.inputs.trust == Trust::Full {
        if out.write.is_none() {
            out.write = status_write(ctx, &status, plan);
        }
        let shared = Scope::Container(ctx.slot.container.clone());
        if let Some(write) = out.shared.take() {
            let free =
                !ctx.inputs.is_writing(&shared) && !plan.writes.iter().any(|w| w.scope == shared);
            if free {
                plan.writes.push(write);
            }
        }
        if let Some(write) = out.write.take()
            && !behind
            && !local.in_flight.is_writing(&work)
        {
            plan.writes.push(write);
        }
        plan.statuses.insert(ctx.slot.clone(), status);
    }
    // That it is stopped may be on its way to etcd, and another may start on that word.
    let may_be_handed_over = matches!(out.step, Some(Action::Start { .. }))
        && local.in_flight.is_writing(&work)
        && stops_first(ctx.container, ctx.claim.manifest_rev);
    if let Some(step) = out.step
        && !behind
        && !may_be_handed_over
        && !local.in_flight.is_acting(&work)
    {
        plan.steps.push(step);
    }
}

/// A status that has held for a moment and is not written yet.
fn status_write(ctx: &Ctx<'_>, status: &Status, plan: &mut Plan) -> Option<Write> {
    if ctx.memory.and_then(|m| m.written_status.as_ref()) == Some(status) {
        return None;
    }
    let since = ctx
        .memory
        .and_then(|m| m.status.as_ref())
        .filter(|(now, _)| now == status)
        .map_or(ctx.inputs.now, |(_, since)| *since);
    let holds = match status.progress {
        Progress::Ready | Progress::Failed | Progress::Restarting | Progress::Waiting => {
            STATUS_HOLDS
        }
        _ => PROGRESS_HOLDS,
    };
    if ctx.inputs.now < since + holds {
        plan.requeue(since + holds);
        return None;
    }
    Some(Write::status(
        ctx.slot.clone(),
        status.clone(),
        ctx.claim.modified,
    ))
}
