//! From a claim to a ready instance, and back to its start when it ended.

use manifests::InstanceId;

use super::before::before;
use super::ctx::{Ctx, Decision};
use super::prepare::prepare;
use crate::memory::InstanceMemory;
use crate::output::Notes;
use crate::retire::{retire, stop_timeout};
use crate::rollout;
use crate::rollout::Target;
use crate::update;
use crate::waiting::{Failure, KILLED, Waiting};
use model::observed::{ContainerState, Exit, ObservedContainer, Readiness};
use model::records::{Claim, Phase, Progress, SlotState};
use model::volumes;
use model::{Action, Fault, Scope, Trust, VersionId, Write};

/// Hosts that are waited for to decide an image, at most: a pull may take minutes, and all need it.
const PULL_ALONE: u32 = 3;

/// The engine has no container of the claimed instance.
pub(super) fn absent(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    temporary_name: bool,
    notes: &mut Notes,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Decision {
    if let Some(decision) = ctx
        .release_unfit(target)
        .or_else(|| ctx.release_stuck(target, notes))
    {
        return decision;
    }
    if ctx.inputs.memory.disruption.is_restoring(ctx.inputs.now) || ctx.lost_its_place() {
        // A restored etcd may name this host for what runs elsewhere: the host that runs it can claim it then. And what
        // is begun anew goes where its constraints hold now.
        return Decision::new(Progress::Waiting, None).write(ctx.release());
    }
    if ctx.has_data_elsewhere() {
        return Decision::new(Progress::Waiting, Some(Waiting::DataElsewhere)).write(ctx.release());
    }
    let is_pending =
        ctx.memory.and_then(|m| m.pending_instance.as_ref()) == Some(&ctx.claim.instance);
    // Its volumes are made only where a pin says so.
    let pin = volumes::pin(ctx.inputs.host, Some(ctx.view), target.manifest());
    if !is_pending || pin.is_some() || target.rev() != ctx.claim.version {
        return ctx.new_instance(target, fresh);
    }
    match target {
        Target::Undecided { .. } => resolve(ctx, target, notes),
        Target::Decided { .. } if ctx.gives_away() && !target.is_prepared() => {
            Decision::new(Progress::Waiting, None).write(ctx.release())
        }
        Target::Decided { .. } => before(ctx, target, notes, fresh)
            .unwrap_or_else(|| prepare(ctx, target, &ctx.claim.instance, temporary_name, notes)),
    }
}

/// What runs is what the manifest wants that was written since its own was deleted: the version is that of what runs, and
/// the claim says that it stays.
fn adopt(
    ctx: &Ctx<'_>,
    target: &Target<'_>,
    mut decision: Decision,
    notes: &mut Notes,
) -> Decision {
    let id = &ctx.slot.container;
    if let Some(write) = rollout::decided_as_it_runs(id, ctx.container, target) {
        let scope = Scope::Container(id.clone());
        if ctx.inputs.is_my_turn(notes, &scope, Some(ctx.turn())) {
            decision.shared = Some(write);
        }
        return decision;
    }
    let version = match target {
        Target::Decided { rev, .. } => *rev,
        // An image that was found for the former manifest too.
        Target::Undecided { .. } => ctx.claim.version,
    };
    let Some(manifest) = &ctx.container.manifest else {
        return decision;
    };
    let claim = Claim {
        version,
        ..ctx.claim.value.clone()
    };
    decision.write(Write::adopt(
        ctx.slot.clone(),
        claim,
        ctx.claim.modified,
        manifest.modified,
    ))
}

/// Decides the image of a version, once for all slots of the container.
pub(super) fn resolve(ctx: &Ctx<'_>, target: &Target<'_>, notes: &mut Notes) -> Decision {
    let Target::Undecided {
        rev,
        manifest,
        text,
        found,
    } = target
    else {
        return Decision::new(Progress::Unknown, None);
    };
    let id = &ctx.slot.container;
    let scope = Scope::Container(id.clone());
    if let Some(write) = rollout::decided_again(id, ctx.container, target) {
        let mut decision = Decision::new(Progress::Replacing, None).about(*rev);
        if ctx.inputs.is_my_turn(notes, &scope, Some(ctx.turn())) {
            decision.shared = Some(write);
        }
        return decision;
    }
    let images = &ctx.inputs.memory.images;
    let trouble = images.get(id).filter(|t| t.rev == *rev);
    let reason = trouble.map(|t| Waiting::Attempt(t.reason.clone()));
    let progress = ctx
        .memory
        .and_then(|m| m.pull_progress.clone())
        .map(Waiting::Pulling);
    if let Some(trouble) = trouble {
        let again = trouble.backoff.next_try();
        if again > ctx.inputs.now {
            notes.requeue(again);
            let mut decision = Decision::new(Progress::Failed, reason).about(*rev);
            decision.shared = ctx.not_made(target, trouble, notes);
            return decision;
        }
        let first = update::first_to_try(ctx.inputs.snapshot, ctx.container, id, target);
        if trouble.fault == Fault::Manifest && first != Some(&ctx.inputs.host.name) {
            // It failed here too, so no host is at fault: one alone goes on trying.
            return Decision::new(Progress::Failed, reason).about(*rev);
        }
    }
    let mut decision = Decision::new(Progress::Pulling, reason.or(progress)).about(*rev);
    let turn = ctx.turn().at_most(PULL_ALONE);
    if ctx.inputs.is_my_turn(notes, &scope, Some(turn)) {
        decision.resolve = Some(Action::Resolve {
            container: id.clone(),
            rev: *rev,
            manifest: (*manifest).clone(),
            text: (*text).clone(),
            found: found.cloned(),
        });
    }
    decision
}

/// Starts what was made and never started, after any other container of the slot that runs.
pub(super) fn first_start(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    error: &str,
    others: &[&ObservedContainer],
    notes: &mut Notes,
) -> Decision {
    if let Some(other) = others.iter().find(|c| c.running().is_some()) {
        let action = retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), notes);
        let reason = Waiting::FormerContainer(stop_timeout(other, Some(ctx.container)));
        return Decision {
            action,
            ..Decision::new(Progress::Replacing, Some(reason))
        };
    }
    let mut decision = start(ctx, current);
    if !error.is_empty() {
        let failure = Failure::NotStarted(error.to_owned());
        // After an unclassified error another attempt may do better.
        let may_pass = ctx
            .memory
            .is_some_and(|m| m.trouble.fault == Fault::Unknown && m.trouble.may_pass());
        let rev = ctx.claim.version;
        let target = rollout::of_slot(ctx.container, ctx.slot.slot, rev);
        if let Some(target) = target.filter(|_| !may_pass) {
            decision.shared = ctx.failed(current, rev, &target, failure.clone());
        }
        decision.progress = Progress::Failed;
        decision.reason = Some(Waiting::Failed(failure));
    }
    decision
}

/// Starts it when its back-off has passed.
pub(super) fn start(ctx: &Ctx<'_>, current: &ObservedContainer) -> Decision {
    let again = ctx
        .instance(current)
        .map(|m| m.backoff.next_try())
        .unwrap_or_default();
    if again > ctx.inputs.now {
        return Decision::new(Progress::Failed, None);
    }
    Decision::new(Progress::Starting, None).action(Action::Start {
        slot: ctx.slot.clone(),
        instance: current.owner.instance.clone(),
        docker_id: current.docker_id.clone(),
    })
}

/// Its process ended: it is unready, and started again after the back-off.
pub(super) fn restart(ctx: &Ctx<'_>, current: &ObservedContainer) -> Decision {
    let mut decision = start(ctx, current);
    if let (ContainerState::Exited(exit), Some(memory)) = (&current.state, ctx.instance(current)) {
        // Ends before this process are not counted: the machine or the engine stopped it.
        if memory.ends > 0 {
            // The first time, a `docker stop` is no failure of the container.
            let stopped = exit.was_asked_for() && memory.backoff.failures() <= 1;
            decision.progress = if stopped {
                Progress::Restarting
            } else {
                Progress::Failed
            };
            decision.reason = Some(Waiting::Restarting(
                why_ended(ctx, ctx.claim.version, exit),
                memory.backoff.wait(),
            ));
        }
    }
    if let Some(state) = ctx.view.current_state()
        && state.state != Phase::Unready
        && ctx.inputs.trust == Trust::Full
    {
        decision = decision.write(ctx.state_write(SlotState {
            state: Phase::Unready,
            ..state.value.clone()
        }));
    }
    decision
}

/// End of the process of an instance of the version `rev`, as a failure.
pub(super) fn why_ended(ctx: &Ctx<'_>, rev: VersionId, exit: &Exit) -> Failure {
    let manifest = ctx.container.manifest_of(rev);
    let limit = manifest.and_then(|manifest| manifest.memory);
    if exit.out_of_memory {
        Failure::OutOfMemory(limit)
    } else if let Some(limit) = limit.filter(|_| exit.code == KILLED) {
        Failure::Killed(limit)
    } else if exit.error.is_empty() {
        Failure::Exited(exit.code)
    } else {
        Failure::NotStarted(exit.error.clone())
    }
}

/// Its process runs: whether it is ready, and whether the version is good or given up.
pub(super) fn running(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    notes: &mut Notes,
) -> Decision {
    let now = ctx.inputs.now;
    let since = ctx
        .instance(current)
        .and_then(|m| m.running_since)
        .unwrap_or(now);
    let phase = ctx.phase(current, notes);
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
    let mut decision = Decision::new(says, why.clone().map(Waiting::NotReady));
    if let Some(phase) = phase {
        decision = ctx.with_state(current, phase, decision);
    }
    if phase == Some(Phase::Ready) {
        let outdated = ctx.is_outdated(target);
        // What serves on only until it may go is not kept.
        let is_adopted = !outdated && ctx.was_written_elsewhere().is_none();
        if is_adopted && rollout::precedes(ctx.container, ctx.claim) {
            decision = adopt(ctx, target, decision, notes);
        }
        decision.shared = decision
            .shared
            .or_else(|| ctx.settled(current, outdated, notes));
        let manifest = ctx.container.manifest_of(ctx.claim.version);
        decision.reason = manifest
            .and_then(|m| current.limits.drift(m))
            .map(Waiting::LimitsChanged);
    } else if !was_ready
        && current.cut_off().is_none()
        && let Some(manifest) = ctx.container.manifest_of(ctx.claim.version)
    {
        let late = since + manifest.start_timeout;
        if now < late {
            notes.requeue(late);
        } else {
            notes.late.insert(current.owner.instance.clone());
            let failure = Failure::NotReady(manifest.start_timeout);
            // What was ready once is late for nothing. Of what an earlier process has seen that is not known.
            let is_late = |memory: &InstanceMemory| !(memory.was_ready || memory.adopted);
            if ctx.instance(current).is_some_and(is_late) {
                decision.progress = Progress::Failed;
                decision.reason = Some(match why {
                    Some(why) => Waiting::Late(manifest.start_timeout, why),
                    None => Waiting::Failed(failure.clone()),
                });
            }
            decision.shared = ctx.failed(current, ctx.claim.version, target, failure);
        }
    }
    decision
}
