//! From a claim to a ready instance, and back to its start when it ended.

use std::time::Duration;

use manifests::InstanceId;

use super::ctx::{Ctx, Out};
use super::leave::retire;
use super::replace::give_up;
use crate::local::Work;
use crate::observed::{ContainerState, Exit, ObservedContainer, Readiness};
use crate::plan::{Plan, Step, Trust};
use crate::records::{Phase, SlotState};
use crate::target::Target;

/// Running this long without being ready is told to others: a second, and the time that a look at it takes.
const UNREADY_AFTER: Duration = Duration::from_millis(1_200);

/// An adopted instance that others know as ready is looked at this long before that is taken back.
const ADOPT: Duration = Duration::from_secs(5);

/// The engine has nothing of the claimed instance.
pub(super) fn absent(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    temporary_name: bool,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Out {
    let minted = ctx.memory.and_then(|m| m.minted.as_ref()) == Some(&ctx.claim.instance);
    if !minted || target.rev() != ctx.claim.manifest_rev {
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
        return Out::default();
    };
    let id = &ctx.slot.container;
    let work = Work::Container(id.clone());
    let local = ctx.inputs.local;
    let trouble = local.images.get(id).filter(|t| t.rev == *rev);
    let reason = trouble.map(|t| t.reason.clone());
    let progress = ctx.memory.and_then(|m| m.progress.clone());
    if let Some(trouble) = trouble {
        let again = trouble.backoff.next_try();
        if again > ctx.inputs.now {
            plan.requeue(again);
            return Out::says("failed", reason).about(*rev);
        }
    }
    let out = Out::says("pulling", reason.or(progress)).about(*rev);
    let under_way = local.busy.contains(&work)
        || local.writing.contains(&work)
        || local.is_ahead_of(&work, ctx.inputs.snapshot.revision, ctx.inputs.now)
        || plan.steps.iter().any(|s| s.work() == work);
    if !under_way {
        plan.steps.push(Step::Resolve {
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
        return Out::default();
    };
    let trouble = ctx.memory.map(|m| &m.trouble).filter(|t| t.rev == *rev);
    if let Some(trouble) = trouble {
        let again = trouble.backoff.next_try();
        if again > ctx.inputs.now {
            plan.requeue(again);
            return Out::says("failed", Some(trouble.reason.clone())).about(*rev);
        }
    }
    let pulls = ctx.memory.and_then(|m| m.progress.clone());
    let progress = if pulls.is_some() {
        "pulling"
    } else {
        "creating"
    };
    let reason = trouble.map(|t| t.reason.clone()).filter(|r| !r.is_empty());
    Out::says(progress, pulls.or(reason))
        .about(*rev)
        .step(Step::Prepare {
            slot: ctx.slot.clone(),
            instance: instance.clone(),
            rev: *rev,
            manifest: (*manifest).clone(),
            image: version.version.image.clone(),
            hash: version.hash.clone().unwrap_or_default(),
            temporary_name,
        })
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
        return Out {
            step,
            ..Out::says("replacing", None)
        };
    }
    let mut out = start_after_backoff(ctx, current, plan);
    if !error.is_empty() {
        let reason = format!("it does not start: {error}");
        if let Some(target) = ctx.target() {
            out.shared = give_up(ctx, current, &target, Some(&reason));
        }
        out.progress = "failed";
        out.reason = Some(reason);
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
        return Out::says("failed", None);
    }
    Out::says("starting", None).step(Step::Start {
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
            out.progress = "failed";
            out.reason = Some(format!(
                "{}; is started again after {} s",
                why_ended(exit),
                memory.backoff.wait().as_secs()
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

pub(super) fn why_ended(exit: &Exit) -> String {
    if exit.out_of_memory {
        "was killed for want of memory".to_owned()
    } else if exit.error.is_empty() {
        format!("ended with exit code {}", exit.code)
    } else {
        format!("does not start: {}", exit.error)
    }
}

pub(super) fn running(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    plan: &mut Plan,
) -> Out {
    let now = ctx.inputs.now;
    let memory = ctx.instance(current);
    let since = memory.and_then(|m| m.running_since).unwrap_or(now);
    let seen = memory.map_or(now, |m| m.seen);
    let known = ctx.view.current_state();
    let readiness = ctx.inputs.observed.readiness(&current.owner.instance);
    let (phase, mut out) = match readiness {
        Readiness::Ready => (Some(Phase::Ready), Out::says("ready", None)),
        Readiness::Unready(why) => (
            Some(Phase::Unready),
            Out::says("unready", Some(why.clone())),
        ),
        Readiness::Starting => {
            let adopted = known.is_some_and(|s| s.state == Phase::Ready);
            let tell_at = if adopted {
                seen + ADOPT
            } else {
                since + UNREADY_AFTER
            };
            if now < tell_at {
                plan.requeue(tell_at);
                let progress = if adopted { "ready" } else { "starting" };
                (None, Out::says(progress, None))
            } else {
                let why = memory
                    .and_then(|m| m.lacks.clone())
                    .unwrap_or_else(|| "is not ready yet".to_owned());
                (Some(Phase::Unready), Out::says("starting", Some(why)))
            }
        }
    };
    if let Some(phase) = phase {
        let state = ctx.state(current, phase);
        if known.is_none_or(|known| known.value != state) {
            out = out.write(ctx.state_write(state));
        }
    }
    if phase == Some(Phase::Ready) {
        out.shared = ctx.good();
    } else if known.is_none_or(|s| s.state != Phase::Ready)
        && let Some(manifest) = ctx.container.manifest_of(ctx.claim.manifest_rev)
    {
        let late = since + manifest.start_timeout;
        if now < late {
            plan.requeue(late);
        } else {
            let reason = format!(
                "not ready within {} s of its start",
                manifest.start_timeout.as_secs()
            );
            out.shared = give_up(ctx, current, target, Some(&reason));
            out.reason = Some(match out.reason {
                Some(why) => format!("{reason}: {why}"),
                None => reason,
            });
        }
    }
    out
}
