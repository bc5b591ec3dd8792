//! How containers go: announced, then drained of their connections, then stopped, then removed.

use std::time::Duration;

use manifests::{Manifest, SlotId};

use crate::inputs::Inputs;
use crate::output::Notes;
use crate::waiting::Waiting;
use model::Action;
use model::observed::ObservedContainer;
use model::snapshot::ContainerView;

/// Time for which clients that have resolved its name before still reach an instance: one DNS TTL.
const LEAVE: Duration = Duration::from_secs(1);

/// Longest time for which open connections are waited for, if no manifest says otherwise.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Time from the signal to SIGKILL, if no manifest says otherwise.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// The next action until nothing of the slot is left; none while all that is left is leaving.
pub(crate) fn retire_all(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    containers: &[&ObservedContainer],
    view: Option<&ContainerView>,
    notes: &mut Notes,
) -> Option<Action> {
    containers
        .iter()
        .find_map(|container| retire(inputs, slot, container, view, notes))
}

/// Time that a container may take to end.
pub(crate) fn stop_timeout(
    container: &ObservedContainer,
    view: Option<&ContainerView>,
) -> Duration {
    manifest_of(container, view).map_or(STOP_TIMEOUT, |m| m.stop_timeout)
}

/// Leaves, then stops, then removes one container. None while it leaves.
pub(crate) fn retire(
    inputs: &Inputs<'_>,
    slot: &SlotId,
    container: &ObservedContainer,
    view: Option<&ContainerView>,
    notes: &mut Notes,
) -> Option<Action> {
    let instance = container.owner.instance.clone();
    let docker_id = container.docker_id.clone();
    if container.is_going() {
        return None;
    }
    if let Some(memory) = inputs.memory.slots.get(slot) {
        let again = memory.retiring.next_try();
        if again > inputs.now {
            notes.requeue(again);
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
    if !has_left(inputs, container, view, notes) {
        return None;
    }
    Some(Action::Stop {
        slot: slot.clone(),
        instance,
        docker_id,
        timeout: stop_timeout(container, view),
    })
}

/// No client is sent to it any more, and none has a connection left or they have been waited for long enough. One that
/// has no ports, or was never ready, has left at once.
pub(crate) fn has_left(
    inputs: &Inputs<'_>,
    container: &ObservedContainer,
    view: Option<&ContainerView>,
    notes: &mut Notes,
) -> bool {
    let instance = &container.owner.instance;
    let memory = inputs.memory.instances.get(instance);
    let reached = !container.ports.is_empty() && memory.is_none_or(|m| m.was_ready || m.adopted);
    if !reached {
        return true;
    }
    notes.leaving.push(instance.clone());
    let since = memory.and_then(|m| m.leaving_since).unwrap_or(inputs.now);
    if inputs.now < since + LEAVE {
        notes.requeue(since + LEAVE);
        return false;
    }
    let drain_timeout = manifest_of(container, view).map_or(DRAIN_TIMEOUT, |m| m.drain_timeout);
    let until = since + drain_timeout;
    let is_asked = memory.is_some_and(|m| m.stop_requested);
    if is_asked || inputs.now >= until || container.tcp_ports().next().is_none() {
        return true;
    }
    // Counted from now on: what is open after the TTL is all that there is.
    notes.draining.insert(instance.clone());
    if inputs.observed.connections.get(instance) == Some(&0) {
        return true;
    }
    notes.requeue(until);
    false
}

/// Connections that the leaving ones of these containers still have; none if they have none, or are not counted yet.
pub(crate) fn draining(
    inputs: &Inputs<'_>,
    containers: &[&ObservedContainer],
    notes: &Notes,
) -> Option<Waiting> {
    let instances = containers.iter().map(|c| &c.owner.instance);
    let open: u32 = instances
        .filter(|instance| notes.draining.contains(*instance))
        .filter_map(|instance| inputs.observed.connections.get(instance))
        .sum();
    (open > 0).then_some(Waiting::Draining(open))
}

/// Manifest that a container was made from, by its hash; else the newest.
pub(crate) fn manifest_of<'a>(
    container: &ObservedContainer,
    view: Option<&'a ContainerView>,
) -> Option<&'a Manifest> {
    let view = view?;
    let made_from = view
        .version_by_hash(&container.owner.manifest_hash)
        .and_then(|(_, version)| version.manifest.as_deref());
    made_from.or_else(|| {
        view.manifest_of(view.manifest.as_ref()?.modified.version())
            .map(|m| &**m)
    })
}
