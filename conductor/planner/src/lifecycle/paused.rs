//! A slot that is to leave this host for its new manifest, while nothing is placed: nobody could take it.

use model::observed::{ContainerState, ObservedContainer};
use model::records::Progress;

use super::ctx::{Ctx, Decision};
use super::ending;
use super::start::{restart, running};
use crate::disruption::Pause;
use crate::output::Notes;
use crate::rollout;
use crate::waiting::Waiting;

/// What runs serves on, and is started again when it ends; nothing is replaced, and nothing is made here any more.
pub(super) fn serves_on(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    pause: Pause,
    notes: &mut Notes,
) -> Decision {
    let change = ctx.inputs.memory.disruption.next_change(ctx.inputs.now);
    change.inspect(|at| notes.requeue(*at));
    let reason = Waiting::Paused(pause);
    let target = rollout::of_slot(ctx.container, ctx.slot.slot, ctx.claim.version);
    let Some((current, target)) = current.zip(target) else {
        return Decision::new(Progress::Waiting, Some(reason));
    };
    if ctx.is_ending(current) {
        return ending(ctx, current, notes);
    }
    notes.staying.push(current.owner.instance.clone());
    let mut decision = match current.state {
        ContainerState::Exited(_) => restart(ctx, current),
        ContainerState::Running(_) | ContainerState::Paused(_) => {
            running(ctx, current, &target, notes)
        }
        ContainerState::Created { .. } | ContainerState::Removing => {
            Decision::new(Progress::Waiting, None)
        }
    };
    decision.reason = decision.reason.or(Some(reason));
    decision
}
