//! From a claim to a ready instance, and back to its start when it ended.

use manifests::InstanceId;

use super::ctx::{Ctx, Out};
use super::leave::{retire, stop_timeout};
use super::replace::give_up;
use crate::output::Plan;
use crate::target::Target;
use crate::waiting::{Failure, Waiting};
use model::observed::{ContainerState, Exit, ObservedContainer, Readiness};
use model::records::{Phase, Progress, SlotState};
use model::volumes;
use model::{Action, Fault, Prepare, Scope, Trust};

/// Number of hosts that are waited for to decide an image: a pull may take minutes, and all need it.
const PULL_ALONE: u32 = 3;

/// The engine has nothing of the claimed instance.
pub(super) fn absent(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    temporary_name: bool,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Out {
    if let Some(out) = ctx
        .gives_up_unfit(target)
        .or_else(|| ctx.gives_up_stuck(target, plan))
    {
        return out;
    }
    if ctx.inputs.memory.disruption.is_restoring(ctx.inputs.now) || ctx.lost_its_place(target) {
        // An older etcd may name this host for what runs elsewhere: who runs it has it. And what is begun anew goes
        // where it may be now.
        return Out::says(Progress::Waiting, None).write(ctx.release());
    }
    if ctx.has_data_elsewhere() {
        return Out::says(Progress::Waiting, Some(Waiting::DataElsewhere)).write(ctx.release());
    }
    let minted = ctx.memory.and_then(|m| m.pending_instance.as_ref()) == Some(&ctx.claim.instance);
    // Without its pin it might be anywhere.
    let pin = volumes::pin(ctx.inputs.host, Some(ctx.view), target.manifest());
    if !minted || pin.is_some() || target.rev() != ctx.claim.manifest_rev {
        return ctx.remint(target, fresh);
    }
    match target {
        Target::Undecided { .. } => resolve(ctx, target, plan),
        Target::Decided { .. } => prepare(ctx, target, &ctx.claim.instance, temporary_name, plan),
    }
}

pub(super) fn resolve(ctx: &Ctx<'_>, target: &Target<'_>, plan: &mut Plan) -> Out {
    let Target::Undecided {
        rev,
        manifest,
        json,
    } = target
    else {
        return Out::says(Progress::Unknown, None);
    };
    let id = &ctx.slot.container;
    let work = Scope::Container(id.clone());
    let local = ctx.inputs.memory;
    let trouble = local.images.get(id).filter(|t| t.rev == *rev);
    let reason = trouble.map(|t| Waiting::Attempt(t.reason.clone()));
    let progress = ctx
        .memory
        .and_then(|m| m.pull_progress.clone())
        .map(Waiting::Pulling);
    if let Some(trouble) = trouble {
        let again = trouble.backoff.next_try();
        if again > ctx.inputs.now {
            plan.requeue(again);
            return Out::says(Progress::Failed, reason).about(*rev);
        }
        if trouble.fault == Fault::Manifest && !ctx.turn().is_first() {
            // It failed here too, so it is not this or that host: one goes on trying.
            return Out::says(Progress::Failed, reason).about(*rev);
        }
    }
    let out = Out::says(Progress::Pulling, reason.or(progress)).about(*rev);
    let under_way = local.in_flight.is_acting(&work)
        || ctx.inputs.is_writing(&work)
        || plan.steps.iter().any(|s| s.work() == work);
    let turn = ctx.turn().at_most(PULL_ALONE);
    if !under_way && ctx.inputs.is_my_turn(plan, &work, Some(turn)) {
        plan.steps.push(Action::Resolve {
            container: id.clone(),
            rev: *rev,
            manifest: (*manifest).clone(),
            json: (*json).clone(),
        });
    }
    out
}

pub(super) fn prepare(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    instance: &InstanceId,
    temporary_name: bool,
    plan: &mut Plan,
) -> Out {
    let Target::Decided {
        rev,
        version,
        manifest,
    } = target
    else {
        return Out::says(Progress::Unknown, None);
    };
    let trouble = ctx.memory.map(|m| &m.trouble).filter(|t| t.rev == *rev);
    let waits = trouble.is_some_and(|t| t.fault == Fault::Data);
    if let Some(trouble) = trouble {
        let again = trouble.next_try();
        if again > ctx.inputs.now {
            plan.requeue(again);
            let progress = if waits {
                Progress::Waiting
            } else {
                Progress::Failed
            };
            return Out::says(progress, Some(Waiting::Attempt(trouble.reason.clone()))).about(*rev);
        }
    }
    let pulls = ctx
        .memory
        .and_then(|m| m.pull_progress.clone())
        .map(Waiting::Pulling);
    let progress = match pulls {
        Some(_) => Progress::Pulling,
        None if waits => Progress::Waiting,
        None => Progress::Creating,
    };
    let reason = trouble
        .map(|t| t.reason.clone())
        .filter(|reason| !reason.is_empty())
        .map(Waiting::Attempt);
    Out::says(progress, pulls.or(reason))
        .about(*rev)
        .step(Action::Prepare(Prepare {
            slot: ctx.slot.clone(),
            instance: instance.clone(),
            rev: *rev,
            manifest: (*manifest).clone(),
            image: version.version.image.clone(),
            hash: version.hash.clone().unwrap_or_default(),
            temporary_name,
            existing: volumes::existing(ctx.inputs.host, Some(ctx.view)).to_vec(),
        }))
}

/// Made and never started: what else runs of the slot goes first.
pub(super) fn first_start(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    error: &str,
    others: &[&ObservedContainer],
    plan: &mut Plan,
) -> Out {
    if let Some(other) = others.iter().find(|c| c.running().is_some()) {
        let step = retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), plan);
        let reason = Waiting::FormerContainer(stop_timeout(other, Some(ctx.container)));
        return Out {
            step,
            ..Out::says(Progress::Replacing, Some(reason))
        };
    }
    let mut out = start_after_backoff(ctx, current, plan);
    if !error.is_empty() {
        let failure = Failure::NotStarted(error.to_owned());
        // Of what is not known another try may do better.
        let may_pass = ctx
            .memory
            .is_some_and(|m| m.trouble.fault == Fault::Unknown && m.trouble.may_pass());
        if let Some(target) = ctx.target().filter(|_| !may_pass) {
            out.shared = give_up(ctx, current, &target, failure.clone());
        }
        out.progress = Progress::Failed;
        out.reason = Some(Waiting::Failed(failure));
    }
    out
}

pub(super) fn start_after_backoff(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    plan: &mut Plan,
) -> Out {
    let again = ctx
        .instance(current)
        .map(|m| m.backoff.next_try())
        .unwrap_or_default();
    if again > ctx.inputs.now {
        plan.requeue(again);
        return Out::says(Progress::Failed, None);
    }
    Out::says(Progress::Starting, None).step(Action::Start {
        slot: ctx.slot.clone(),
        instance: current.owner.instance.clone(),
        docker_id: current.docker_id.clone(),
    })
}

/// Its process ended: tell others, and start it again after the back-off.
pub(super) fn restart(ctx: &Ctx<'_>, current: &ObservedContainer) -> Out {
    let mut out = start_after_backoff(ctx, current, &mut Plan::default());
    if let (ContainerState::Exited(exit), Some(memory)) = (&current.state, ctx.instance(current)) {
        // Before this process nothing was counted: it is the machine or the engine that stopped it.
        if memory.ends > 0 {
            // Somebody's `docker stop` is no failure of the container, the first time.
            let stopped = exit.was_asked_for() && memory.backoff.failures() <= 1;
            out.progress = if stopped {
                Progress::Restarting
            } else {
                Progress::Failed
            };
            out.reason = Some(Waiting::Restarting(
                why_ended(ctx, exit),
                memory.backoff.wait(),
            ));
        }
    }
    if let Some(state) = ctx.view.current_state()
        && state.state != Phase::Unready
        && ctx.inputs.trust == Trust::Full
    {
        out = out.write(ctx.state_write(SlotState {
            state: Phase::Unready,
            ..state.value.clone()
        }));
    }
    out
}

pub(super) fn why_ended(ctx: &Ctx<'_>, exit: &Exit) -> Failure {
    if exit.out_of_memory {
        let manifest = ctx.container.manifest_of(ctx.claim.manifest_rev);
        Failure::OutOfMemory(manifest.and_then(|m| m.memory))
    } else if exit.error.is_empty() {
        Failure::Exited(exit.code)
    } else {
        Failure::NotStarted(exit.error.clone())
    }
}

pub(super) fn running(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    plan: &mut Plan,
) -> Out {
    let now = ctx.inputs.now;
    let since = ctx
        .instance(current)
        .and_then(|m| m.running_since)
        .unwrap_or(now);
    let phase = ctx.phase(current, plan);
    let why = match ctx.inputs.observed.readiness(&current.owner.instance) {
        Readiness::Unready(why) => Some(why.clone()),
        _ if phase == Some(Phase::Unready) => Some(
            ctx.instance(current)
                .and_then(|m| m.unready_reason.clone())
                .unwrap_or_else(|| "is not ready yet".to_owned()),
        ),
        _ => None,
    };
    let known = ctx.view.current_state();
    let was_ready = known.is_some_and(|s| s.state == Phase::Ready);
    let says = match phase {
        Some(Phase::Ready) => Progress::Ready,
        None if was_ready => Progress::Ready,
        Some(_)
            if ctx.inputs.observed.readiness(&current.owner.instance) != &Readiness::Starting =>
        {
            Progress::Unready
        }
        Some(_) | None => Progress::Starting,
    };
    let mut out = Out::says(says, why.clone().map(Waiting::NotReady));
    if let Some(phase) = phase {
        out = ctx.tells(current, phase, out);
    }
    if phase == Some(Phase::Ready) {
        out.shared = ctx.good(plan);
        let manifest = ctx.container.manifest_of(ctx.claim.manifest_rev);
        out.reason = manifest
            .and_then(|m| current.limits.drift(m))
            .map(Waiting::LimitsChanged);
    } else if !was_ready
        && current.cut_off().is_none()
        && let Some(manifest) = ctx.container.manifest_of(ctx.claim.manifest_rev)
    {
        let late = since + manifest.start_timeout;
        if now < late {
            plan.requeue(late);
        } else {
            let failure = Failure::NotReady(manifest.start_timeout);
            out.reason = Some(match why {
                Some(why) => Waiting::Late(manifest.start_timeout, why),
                None => Waiting::Failed(failure.clone()),
            });
            out.shared = give_up(ctx, current, target, failure);
        }
    }
    out
}
