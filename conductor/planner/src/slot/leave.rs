//! How containers go: announced, then stopped, then removed; and the names of those that stay.
//!
//! Nothing here touches the claimed instance of a wanted slot but to rename it.

use std::time::Duration;

use manifests::{Manifest, SlotId};

use super::ctx::Ctx;
use crate::inputs::Inputs;
use crate::output::Plan;
use model::Action;
use model::observed::{ContainerState, ObservedContainer};
use model::snapshot::ContainerView;

/// How long an instance that was ready is still reached by who has resolved its name before: one DNS TTL.
const LEAVE: Duration = Duration::from_secs(1);

/// SIGKILL follows the signal after this, where no manifest says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The next step towards having nothing of the slot; none while all that is left is leaving.
pub(super) fn retire_all(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    containers: &[&ObservedContainer],
    view: Option<&ContainerView>,
    plan: &mut Plan,
) -> Option<Action> {
    containers
        .iter()
        .find_map(|container| retire(inputs, slot, container, view, plan))
}

/// How long it may take until a container that runs has ended.
pub(super) fn stop_timeout(
    container: &ObservedContainer,
    view: Option<&ContainerView>,
) -> Duration {
    manifest_of(container, view).map_or(STOP_TIMEOUT, |m| m.stop_timeout)
}

/// Leaves, then stops, then removes one container. None while it leaves.
pub(super) fn retire(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    container: &ObservedContainer,
    view: Option<&ContainerView>,
    plan: &mut Plan,
) -> Option<Action> {
    let instance = container.owner.instance.clone();
    let docker_id = container.docker_id.clone();
    if container.is_going() {
        return None;
    }
    if let Some(memory) = inputs.memory.slots.get(slot) {
        let again = memory.trouble.backoff.next_try();
        if again > inputs.now {
            plan.requeue(again);
            return None;
        }
    }
    if container.running().is_none() {
        return Some(Action::Remove {
            slot: slot.clone(),
            instance,
            docker_id,
        });
    }
    if !has_left(inputs, container, plan) {
        return None;
    }
    Some(Action::Stop {
        slot: slot.clone(),
        instance,
        docker_id,
        timeout: stop_timeout(container, view),
    })
}

/// Nobody is sent to it any more. One that offers nothing, or was never ready, has left at once.
pub(super) fn has_left(
    inputs: &Inputs<'_>,
    container: &ObservedContainer,
    plan: &mut Plan,
) -> bool {
    let instance = &container.owner.instance;
    let memory = inputs.memory.instances.get(instance);
    let reached = !container.ports.is_empty() && memory.is_none_or(|m| m.was_ready);
    if !reached {
        return true;
    }
    plan.leaving.push(instance.clone());
    let since = memory.and_then(|m| m.leaving_since).unwrap_or(inputs.now);
    if inputs.now < since + LEAVE {
        plan.requeue(since + LEAVE);
        return false;
    }
    true
}

/// The manifest that a container was made from, by its hash; else the user's.
pub(super) fn manifest_of<'a>(
    container: &ObservedContainer,
    view: Option<&'a ContainerView>,
) -> Option<&'a Manifest> {
    let view = view?;
    let made_from = view
        .version_by_hash(&container.owner.manifest_hash)
        .and_then(|(_, version)| version.manifest.as_deref());
    made_from.or_else(|| {
        view.manifest_of(view.manifest.as_ref()?.modified)
            .map(|m| &**m)
    })
}

/// What is left to do beside a running instance: stop and remove what it replaced (the last one that ended is kept
/// for its log), and give it its final name.
pub(super) fn tidy(
    ctx: &Ctx<'_>,
    current: &ObservedContainer,
    others: &[&ObservedContainer],
    plan: &mut Plan,
) -> Option<Action> {
    if let Some(other) = others.iter().find(|c| c.running().is_some()) {
        return retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), plan);
    }
    let kept = others
        .iter()
        .filter(|c| matches!(c.state, ContainerState::Exited(_)))
        .max_by_key(|c| c.created_at);
    for other in others {
        if kept.is_some_and(|kept| kept.docker_id == other.docker_id) {
            continue;
        }
        let step = retire(&ctx.inputs, ctx.slot, other, Some(ctx.container), plan);
        if step.is_some() {
            return step;
        }
    }
    // A name is free when who has it is gone.
    let is_held = others.iter().any(|c| c.is_going() && c.has_final_name());
    if current.has_final_name() || is_held {
        return None;
    }
    let name = ctx.slot.docker_name();
    let (container, name) = match kept.filter(|kept| kept.has_final_name()) {
        Some(kept) => (*kept, format!("{name}.{}", kept.owner.instance)),
        None => (current, name),
    };
    if let Some(memory) = ctx.memory {
        let again = memory.trouble.backoff.next_try();
        if again > ctx.inputs.now {
            plan.requeue(again);
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
