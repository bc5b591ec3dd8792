//! When a running instance is replaced by another.
//!
//! The new container is made before the old one is asked to leave.

use manifests::InstanceId;
use model::VersionId;

use super::ctx::{Ctx, Decision};
use super::start::{prepare, resolve};
use crate::output::Notes;
use crate::rollout;
use crate::rollout::Target;
use crate::waiting::Waiting;
use model::Write;
use model::observed::ObservedContainer;
use model::records::{Claim, Phase, Progress};
use model::volumes;

/// Replaces a running or ended instance that is outdated or has to be made anew; none if it is neither, or may not be
/// replaced yet.
pub(super) fn replacement(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    target: &Target<'_>,
    replacement: Option<&(InstanceId, VersionId)>,
    outdated: bool,
    notes: &mut Notes,
    fresh: &mut dyn FnMut() -> InstanceId,
) -> Option<Decision> {
    if ctx.is_handed_over() {
        return None;
    }
    if outdated {
        if target.was_given_up(ctx.container) {
            return None;
        }
        let snapshot = ctx.inputs.snapshot;
        if let Err(why) = rollout::turn(snapshot, ctx.container, ctx.slot.slot, target) {
            return Some(Decision::new(Progress::Outdated, Some(why)));
        }
    } else if ctx.must_recreate(current) || ctx.surroundings_changed(current) {
        let ready = ctx
            .view
            .current_state()
            .is_some_and(|s| s.state == Phase::Ready);
        if ready && !ctx.others_ready() {
            return Some(Decision::new(Progress::Outdated, Some(Waiting::OtherSlots)));
        }
    } else {
        return None;
    }
    match (target, replacement) {
        (Target::Undecided { .. }, _) => Some(resolve(ctx, target, notes)),
        (Target::Decided { manifest, .. }, Some((instance, rev)))
            if ctx.inputs.observed.containers.contains_key(instance) =>
        {
            let claim = Claim {
                host: ctx.inputs.host.name.clone(),
                instance: instance.clone(),
                version: *rev,
            };
            let pin = volumes::pin(ctx.inputs.host, Some(ctx.view), manifest);
            let write = Write::new_instance(ctx.slot.clone(), claim, ctx.claim.modified);
            Some(Decision::new(Progress::Replacing, None).write(write.with_data(pin)))
        }
        (Target::Decided { .. }, _) => Some(prepare(ctx, target, &fresh(), true, notes)),
    }
}
