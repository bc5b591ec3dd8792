//! What is left to do beside a running instance.

use model::Action;
use model::observed::{ContainerState, ObservedContainer};

use super::ctx::Ctx;
use crate::output::Notes;
use crate::retire::retire;

/// Stops and removes what it replaced (the last one that ended is kept for its log, and what may take the slot back runs
/// on), and gives the running one its final name.
pub(super) fn tidy(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    others: &[&ObservedContainer],
    notes: &mut Notes,
) -> Option<Action> {
    if let Some(other) = others.iter().find(|c| c.running().is_some()) {
        return retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), notes);
    }
    let kept = others
        .iter()
        .filter(|c| matches!(c.state, ContainerState::Exited(_)))
        .max_by_key(|c| c.created_at);
    for other in others {
        if kept.is_some_and(|kept| kept.docker_id == other.docker_id) {
            continue;
        }
        let action = retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), notes);
        if action.is_some() {
            return action;
        }
    }
    // A name is free when who has it is gone.
    let is_held = ctx.containers.iter().any(|c| {
        c.has_final_name() && kept.is_none_or(|kept| kept.owner.instance != c.owner.instance)
    });
    if current.has_final_name() || is_held {
        return None;
    }
    let name = ctx.slot.docker_name();
    let (container, name) = match kept.filter(|kept| kept.has_final_name()) {
        Some(kept) => (*kept, format!("{name}.{}", kept.owner.instance)),
        None => (current, name),
    };
    if let Some(memory) = ctx.memory {
        let again = memory.renaming.next_try();
        if again > ctx.inputs.now {
            notes.requeue(again);
            return None;
        }
    }
    Some(Action::Rename {
        slot: ctx.slot.clone(),
        instance: container.owner.instance.clone(),
        docker_id: container.docker_id.clone(),
        name,
    })
}
