//! What an instance has replaced in an update stays until the new one has been ready for `monitor`, and takes the slot
//! back if that one fails meanwhile.

use manifests::update::Order;

use super::ctx::{Ctx, Decision};
use super::start::why_ended;
use crate::output::Notes;
use crate::rollout::{self, Target};
use crate::update;
use crate::waiting::Waiting;
use model::Write;
use model::observed::{ContainerState, ObservedContainer, Readiness};
use model::records::{Claim, Phase, Progress};

/// The container that the claimed one has replaced in an update, while the new one is watched. The newest, if there are
/// several.
pub(super) fn reserve<'a>(
    ctx: &Ctx<'a>,
    current: &ObservedContainer,
    notes: &mut Notes,
) -> Option<&'a ObservedContainer> {
    let manifest = ctx.container.manifest_of(ctx.claim.version)?;
    let stops_first = manifest.order() == Order::StopFirst
        || matches!(current.state, ContainerState::Created { .. });
    if stops_first || !update::is_watched(ctx.container, ctx.slot.slot) {
        return None;
    }
    let monitor = rollout::policy(ctx.container).monitor;
    if let Some(since) = ctx.instance(current).and_then(|m| m.ready_since) {
        let proven = since + monitor;
        if ctx.inputs.now >= proven {
            return None;
        }
        notes.requeue(proven);
    }
    let is_former = |c: &&ObservedContainer| {
        ctx.is_former(c)
            && c.running().is_some()
            && !ctx.must_recreate(c)
            && !ctx.surroundings_changed(c)
            && !ctx.instance(c).is_some_and(|m| m.stop_requested)
    };
    let formers = ctx.containers.iter().copied().filter(is_former);
    let former = formers.max_by_key(|c| c.created_at)?;
    notes.staying.push(former.owner.instance.clone());
    Some(former)
}

/// The claimed instance has ended, or is not ready any more, and what it has replaced is ready: that one has the slot
/// again.
pub(super) fn take_back(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    reserve: &ObservedContainer,
    target: &Target<'_>,
) -> Option<Decision> {
    let readiness = |c: &ObservedContainer| ctx.inputs.observed.readiness(&c.owner.instance);
    if readiness(reserve) != &Readiness::Ready || ctx.is_handed_over() {
        return None;
    }
    let rev = ctx.claim.version;
    let failure = match (&current.state, readiness(current)) {
        (ContainerState::Exited(exit), _) => Some(why_ended(ctx, rev, exit)),
        (_, Readiness::Unready(_)) => None,
        _ => return None,
    };
    let hash = &reserve.owner.manifest_hash;
    let (version, _) = ctx.container.version_by_hash(hash)?;
    let claim = Claim {
        host: ctx.inputs.host.name.clone(),
        instance: reserve.owner.instance.clone(),
        version,
    };
    let state = ctx.state_of(version, reserve, Phase::Ready);
    let write = Write::replace(ctx.slot.clone(), claim, ctx.claim.modified, state);
    let mut decision = match failure {
        Some(failure) => Decision {
            shared: ctx.failed(current, rev, target, failure.clone()),
            ..Decision::new(Progress::Failed, Some(Waiting::Failed(failure)))
        },
        None => Decision::new(Progress::Replacing, None),
    };
    decision.instance = Some(current.owner.instance.clone());
    Some(decision.write(write))
}
