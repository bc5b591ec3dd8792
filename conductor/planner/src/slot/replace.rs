//! When a running instance is replaced by another, and when an update is given up.
//!
//! The new container is made before the old one is asked to leave.

use manifests::InstanceId;

use super::ctx::{Ctx, Out};
use super::start::{prepare, resolve};
use crate::output::Plan;
use crate::target::Target;
use crate::waiting::{Failure, Waiting};
use model::Write;
use model::observed::ObservedContainer;
use model::records::{Claim, Phase, Progress, Rollout};
use model::volumes;

/// Why and how the running or ended instance is replaced; none if it is not, or not yet.
pub(super) fn replacement(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    prepared: Option<&(InstanceId, i64)>,
    outdated: bool,
    plan: &mut Plan,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Option<Out> {
    if ctx.is_handed_over() {
        return None;
    }
    if outdated {
        if target.was_given_up(ctx.container) {
            return None;
        }
        if let Err(why) = ctx.my_turn(target) {
            return Some(Out::says(Progress::Outdated, Some(why)));
        }
    } else if ctx.must_recreate(current) || ctx.surroundings_changed(current) {
        let ready = ctx
            .view
            .current_state()
            .is_some_and(|s| s.state == Phase::Ready);
        if ready && !ctx.others_ready() {
            return Some(Out::says(Progress::Outdated, Some(Waiting::OtherSlots)));
        }
    } else {
        return None;
    }
    match (target, prepared) {
        (Target::Undecided { .. }, _) => Some(resolve(ctx, target, plan)),
        (Target::Decided { manifest, .. }, Some((instance, rev)))
            if ctx.inputs.observed.containers.contains_key(instance) =>
        {
            Some(
                Out::says(Progress::Replacing, None).write(
                    Write::new_instance(
                        ctx.slot.clone(),
                        Claim {
                            host: ctx.inputs.host.name.clone(),
                            instance: instance.clone(),
                            manifest_rev: *rev,
                        },
                        ctx.claim.modified,
                    )
                    .with_data(volumes::pin(
                        ctx.inputs.host,
                        Some(ctx.view),
                        manifest,
                    )),
                ),
            )
        }
        (Target::Decided { .. }, _) => Some(prepare(ctx, target, &fresh(), true, plan)),
    }
}

/// Gives an update up whose first instance failed; nothing without an older version to stay with. What slots stay
/// with where an update was given up is not given up in its turn.
pub(super) fn give_up(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    failure: Failure,
) -> Option<Write> {
    let memory = ctx.instance(current)?;
    let failed = memory.ends > 0 || memory.running_since.is_some();
    let manifest = ctx.container.manifest.as_ref()?;
    let update = ctx.container.versions.keys().any(|rev| *rev < target.rev());
    if !failed
        || memory.was_ready
        || !update
        || target.outdates(ctx.container, ctx.claim.manifest_rev)
        || Target::of(ctx.container).is_none_or(|wanted| wanted.rev() != target.rev())
        || target.was_given_up(ctx.container)
    {
        return None;
    }
    Some(Write::rollout(
        ctx.slot.container.clone(),
        Rollout {
            version: target.rev(),
            failed: true,
            slot: ctx.slot.slot,
            reason: failure.to_string(),
        },
        manifest.modified,
        ctx.container.rollout.as_ref().map_or(0, |r| r.modified),
    ))
}
