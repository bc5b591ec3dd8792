//! When a running instance is replaced by another, and in which order.
//!
//! The new container is made before the old one is asked to leave. Where both may run at once the new one is started
//! beside it, and gets the claim when it is ready; else it gets the claim first, and starts when the old one has ended.

use std::time::Duration;

use manifests::InstanceId;
use manifests::update::Order;

use super::before::before;
use super::ctx::{Ctx, Decision};
use super::prepare::prepare;
use super::start::{resolve, start, why_ended};
use crate::output::Notes;
use crate::retire::stop_timeout;
use crate::rollout::Target;
use crate::update;
use crate::update::Turn;
use crate::waiting::{Failure, Waiting};
use model::Write;
use model::backoff::Backoff;
use model::observed::{ContainerState, ObservedContainer, Readiness};
use model::records::{Claim, Phase, Progress};
use model::rules::Rule;
use model::snapshot::mod_rev;
use model::volumes;

/// Time for which a new instance must stay ready before it takes the place of one that serves, if `monitor` is not shorter.
/// One that was ready and then was not must stay so for `monitor`.
const SETTLES: Duration = Duration::from_secs(1);

/// The container that was made to replace the claimed one by this version. One that an earlier process has made, or that
/// has not been asked to stop yet, will do.
pub(super) fn made<'a>(ctx: &Ctx<'a>, target: &Target<'_>) -> Option<&'a ObservedContainer> {
    let Target::Decided { rev, version, .. } = target else {
        return None;
    };
    let noted = ctx.memory.and_then(|m| m.replacement.as_ref());
    let noted = noted.filter(|(_, noted)| noted == rev);
    let is_noted =
        |c: &ObservedContainer| noted.is_some_and(|(instance, _)| c.owner.instance == *instance);
    let made_at = ctx.made_at();
    let will_do = |c: &ObservedContainer| {
        let runs = match &c.state {
            ContainerState::Created { error } => error.is_empty(),
            // It has failed beside the claimed one, and is tried on.
            ContainerState::Exited(_) => made_at.is_some_and(|at| c.created_at > at),
            state => matches!(state, ContainerState::Running(_)),
        };
        runs && version.hash.as_deref() == Some(c.owner.manifest_hash.as_str())
            && !ctx.surroundings_changed(c)
            && !ctx.instance(c).is_some_and(|m| m.stop_requested)
    };
    // What a restart has replaced before is no other instance to restart with. A clock may have been set back meanwhile,
    // so what is noted does not depend on when it was made.
    let is_former = |c: &ObservedContainer| ctx.is_restarting() && ctx.is_former(c);
    let mut others = ctx
        .containers
        .iter()
        .copied()
        .filter(|c| c.owner.instance != ctx.claim.instance && !ctx.must_recreate(c));
    others
        .clone()
        .find(|c| is_noted(c))
        .or_else(|| others.find(|c| !is_former(c) && will_do(c)))
}

/// Replaces a running or ended instance that is outdated or has to be made anew; none if it is neither, or may not be
/// replaced yet.
pub(super) fn replacement(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    made: Option<&ObservedContainer>,
    outdated: bool,
    notes: &mut Notes,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Option<Decision> {
    if ctx.is_handed_over() {
        return None;
    }
    let serves = ctx
        .view
        .current_state()
        .is_some_and(|s| s.state == Phase::Ready);
    let is_made = |c: &ObservedContainer| made.is_some_and(|made| made.docker_id == c.docker_id);
    let mut formers = ctx.containers.iter();
    if ctx.is_restarting()
        && let Some(former) =
            formers.find(|c| ctx.is_former(c) && !is_made(c) && c.running().is_some())
    {
        let waits = Waiting::FormerContainer(stop_timeout(former, Some(ctx.container)));
        return Some(Decision::new(Progress::Outdated, Some(waits)));
    }
    if outdated && let Some(decision) = before(ctx, target, notes, fresh) {
        let progress = Progress::Outdated;
        return Some(Decision {
            progress,
            ..decision
        });
    }
    if outdated {
        match update::turn(ctx.inputs.snapshot, ctx.container, ctx.slot, target) {
            Turn::Now => {}
            Turn::Noted(write) => {
                let mut decision = Decision::new(Progress::Outdated, None);
                decision.shared = Some(*write);
                return Some(decision);
            }
            Turn::Waits(_) if !ctx.inputs.rules.has(Rule::UpdateTurn) => {}
            Turn::Waits(why) => return Some(Decision::new(Progress::Outdated, Some(why))),
        }
    } else if ctx.must_recreate(current) || ctx.surroundings_changed(current) {
        if serves && !ctx.others_ready() {
            return Some(Decision::new(Progress::Outdated, Some(Waiting::OtherSlots)));
        }
    } else {
        return None;
    }
    let (rev, manifest) = match target {
        Target::Undecided { .. } => return Some(resolve(ctx, target, notes)),
        Target::Decided { rev, manifest, .. } => (*rev, manifest),
    };
    let Some(made) = made else {
        return Some(prepare(ctx, target, &fresh(), true, notes));
    };
    notes.staying.push(made.owner.instance.clone());
    let is_ready = made.running().is_some()
        && ctx.inputs.observed.readiness(&made.owner.instance) == &Readiness::Ready;
    if serves && manifest.order() == Order::StartFirst {
        let monitor = manifest.update.monitor;
        let memory = ctx.instance(made);
        let settles = match memory {
            Some(memory) if memory.lost_readiness => monitor,
            _ => SETTLES.min(monitor),
        };
        let ready_since = memory.and_then(|m| m.ready_since);
        let at = ready_since
            .filter(|_| is_ready)
            .map(|since| since + settles);
        if at.is_none_or(|at| ctx.inputs.now < at) {
            if let Some(at) = at {
                notes.requeue(at);
            }
            return Some(beside(ctx, made, target, notes));
        }
    }
    let claim = Claim {
        host: ctx.inputs.host.name.clone(),
        instance: made.owner.instance.clone(),
        version: rev,
    };
    let slot = ctx.slot.clone();
    let write = if is_ready {
        let state = ctx.state_of(rev, made, Phase::Ready);
        Write::replace(slot, claim, ctx.claim.modified, state)
    } else if serves && outdated {
        // Of a host that was missing meanwhile another slot may have taken the place in the mark.
        let mark = mod_rev(ctx.container.rollout.as_ref());
        Write::new_instance_in_turn(slot, claim, ctx.claim.modified, mark)
    } else {
        Write::new_instance(slot, claim, ctx.claim.modified)
    };
    let pin = volumes::pin(ctx.inputs.host, Some(ctx.view), manifest);
    Some(Decision::new(Progress::Replacing, None).write(write.with_data(pin)))
}

/// Starts the new instance beside the one that serves, until it is ready.
fn beside(
    ctx: &Ctx<'_>,
    made: &ObservedContainer,
    target: &Target<'_>,
    notes: &mut Notes,
) -> Decision {
    let (now, rev) = (ctx.inputs.now, target.rev());
    let failed = |failure: Failure| ctx.failed(made, rev, target, failure);
    let memory = ctx.instance(made);
    let tried_again = |failure: Failure, notes: &mut Notes| {
        let mut decision = start(ctx, made);
        let backoff = memory.map(|m| &m.backoff);
        if let Some(again) = backoff.map(Backoff::next_try).filter(|again| *again > now) {
            notes.requeue(again);
        }
        let wait = backoff.map(Backoff::wait).unwrap_or_default();
        decision.progress = Progress::Failed;
        decision.shared = failed(failure.clone());
        decision.reason = Some(Waiting::Restarting(failure, wait));
        decision
    };
    let mut decision = match &made.state {
        ContainerState::Created { error } if error.is_empty() => start(ctx, made),
        ContainerState::Created { error } => tried_again(Failure::NotStarted(error.clone()), notes),
        ContainerState::Exited(exit) => tried_again(why_ended(ctx, rev, exit), notes),
        ContainerState::Running(_) | ContainerState::Paused(_) => {
            let manifest = target.manifest();
            let is_ready = ctx.inputs.observed.readiness(&made.owner.instance) == &Readiness::Ready;
            let since = memory.and_then(|m| m.running_since).unwrap_or(now);
            let late = since + manifest.start_timeout;
            if is_ready || now < late {
                if !is_ready {
                    notes.requeue(late);
                }
                Decision::new(Progress::Replacing, None)
            } else {
                notes.late.insert(made.owner.instance.clone());
                let failure = Failure::NotReady(manifest.start_timeout);
                let mut decision = Decision::new(
                    Progress::Failed,
                    Some(match memory.and_then(|m| m.unready_reason.clone()) {
                        Some(why) => Waiting::Late(manifest.start_timeout, why),
                        None => Waiting::Failed(failure.clone()),
                    }),
                );
                decision.shared = failed(failure);
                decision
            }
        }
        ContainerState::Removing => Decision::new(Progress::Replacing, None),
    };
    decision.instance = Some(made.owner.instance.clone());
    decision.about(rev)
}
