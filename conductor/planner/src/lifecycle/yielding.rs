//! A handover to another live host where two instances may not run side by side: this host stops its own first.

use model::Action;
use model::Scope;
use model::Write;
use model::observed::ObservedContainer;
use model::records::{Phase, Progress, SlotState};
use model::rules::Rule;

use super::ctx::{Ctx, Decision};
use crate::handover::holder_stops_first;
use crate::output::Notes;
use crate::retire::{has_left, stop_timeout};
use crate::waiting::Waiting;

/// The owner's instance leaves, stops, and `stopped` is written; it starts again only after that has been taken back.
/// None if the slot is not handed over so.
pub(super) fn yields(
    ctx: &Ctx<'_>,
    current: Option<&ObservedContainer>,
    notes: &mut Notes,
) -> Option<Decision> {
    let state = ctx.view.current_state()?;
    let next = ctx.view.next.as_ref().filter(|_| ctx.is_handed_over());
    let handed_over =
        next.is_some_and(|next| holder_stops_first(ctx.container, ctx.claim.version, next.version));
    if !handed_over {
        let may_be_written =
            state.state == Phase::Stopped || ctx.memory.is_some_and(|m| m.unconfirmed_stop);
        let back = may_be_written && ctx.inputs.rules.has(Rule::TakeBackStopped);
        return back.then(|| {
            Decision::new(Progress::Starting, None).write(Write::take_back(
                ctx.slot.clone(),
                SlotState {
                    state: Phase::Unready,
                    ..state.value.clone()
                },
                ctx.claim.modified,
                state.modified,
                ctx.inputs.snapshot.successor(ctx.view).void(),
            ))
        });
    }
    let state_write = |phase: Phase| {
        ctx.state_write(SlotState {
            state: phase,
            ..state.value.clone()
        })
    };
    let decision = Decision::new(Progress::Leaving, Some(Waiting::HandedOver));
    let Some(running) = current.filter(|c| c.running().is_some()) else {
        // A start that is under way may have it running in a moment.
        let starting = ctx
            .inputs
            .memory
            .in_flight
            .is_acting(&Scope::Slot(ctx.slot.clone()));
        return Some(if starting || state.state == Phase::Stopped {
            decision
        } else {
            decision.write(state_write(Phase::Stopped))
        });
    };
    if state.state == Phase::Ready {
        return Some(decision.write(state_write(Phase::Leaving)));
    }
    if !has_left(&ctx.inputs, running, Some(ctx.container), notes) {
        return Some(decision);
    }
    Some(decision.action(Action::Stop {
        slot: ctx.slot.clone(),
        instance: running.owner.instance.clone(),
        docker_id: running.docker_id.clone(),
        timeout: stop_timeout(running, Some(ctx.container)),
    }))
}
