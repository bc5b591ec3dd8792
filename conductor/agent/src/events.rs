//! What is told of changes: events from writes, action results and observations.

use std::collections::BTreeSet;

use manifests::{HostName, InstanceId, SlotId};
use model::events::{Happened, Kind};
use model::observed::{
    ContainerState, EngineState, Exit, Observed, ObservedContainer, Readiness, Running,
};
use model::records::{Claim, Phase};
use model::write::Over;
use model::{ActionResult, Write};
use planner::AgentMemory;

/// What a write means, once its guards held; none where nothing happens by it that people would look for.
pub fn of_write(write: &Write) -> Option<Happened> {
    let claimed = |slot: &SlotId, kind: Kind, claim: &Claim, why: &str| {
        let message = format!("{why}to run revision {}", claim.manifest_rev);
        Happened::of_slot(slot, kind, message).instance(&claim.instance)
    };
    let missing = |host: &HostName| format!("{host} is missing; ");
    Some(match write {
        Write::Claim { slot, claim, .. } => claimed(slot, Kind::Claimed, claim, ""),
        Write::Keep { slot, claim, .. } => {
            claimed(slot, Kind::Claimed, claim, "kept without a manifest, ")
        }
        Write::TakeOver {
            slot, claim, lost, ..
        } => claimed(slot, Kind::TakenOver, claim, &missing(lost)).from(lost),
        Write::Retake { slot, claim, .. } => {
            Happened::of_slot(slot, Kind::Retaken, "it is ready here").instance(&claim.instance)
        }
        Write::Next { slot, next, .. } => claimed(slot, Kind::Handover, next, "to this host, "),
        Write::Promote {
            slot, claim, over, ..
        } => {
            let done = |why: &str| claimed(slot, Kind::HandedOver, claim, why);
            match over {
                Over::Ready => done("it is ready here; "),
                Over::Nobody => done("nobody had it; "),
                Over::Lost(host) => done(&missing(host)).from(host),
                Over::Stopped(_, host) => done(&format!("{host} has stopped it; ")).from(host),
            }
        }
        Write::DeleteNext {
            slot, void, unfit, ..
        } => {
            let why = match (void, unfit) {
                (Some(host), _) => format!("{host}, which was to have it, is missing"),
                (None, Some((_, unfit))) => format!("this host can't run it: {}", unfit.reason),
                (None, None) => "given up".to_owned(),
            };
            Happened::of_slot(slot, Kind::HandoverEnded, why)
        }
        Write::TakeBack { slot, state, .. } => {
            Happened::of_slot(slot, Kind::HandoverEnded, "it goes on here")
                .instance(&state.instance)
        }
        Write::NewInstance { slot, claim, .. } => claimed(slot, Kind::Replacing, claim, ""),
        Write::Release {
            slot,
            unfit: Some((_, unfit)),
            ..
        } => {
            let why = format!("given up, since this host can't run it: {}", unfit.reason);
            Happened::of_slot(slot, Kind::Unfit, why)
        }
        Write::Release {
            slot, unfit: None, ..
        } => Happened::of_slot(slot, Kind::Released, ""),
        Write::DeleteUnwanted { slot, lost, .. } => {
            let why = format!("not wanted any more, and {lost}, which had it, is missing");
            Happened::of_slot(slot, Kind::Released, why).from(lost)
        }
        Write::Fit { container, .. } => {
            Happened::of(container, Kind::Fit, "it is tried on this host again")
        }
        Write::State { slot, state, .. } if state.state == Phase::Leaving => {
            Happened::of_slot(slot, Kind::Leaving, "takes no new connections")
                .instance(&state.instance)
        }
        Write::Version {
            container,
            rev,
            version,
            ..
        } => {
            let what = format!("revision {rev} runs {}", version.image);
            Happened::of(container, Kind::Image, what)
        }
        Write::Rollout {
            container, rollout, ..
        } => {
            let why = format!("revision {}: {}", rollout.version, rollout.reason);
            Happened::of_slot(&container.slot(rollout.slot), Kind::UpdateFailed, why)
        }
        // That it is ready or stopped, the engine shows.
        Write::State { .. }
        | Write::Data { .. }
        | Write::Good { .. }
        | Write::Prune { .. }
        | Write::Sweep { .. }
        | Write::Status { .. } => return None,
    })
}

/// What came of a step, where the engine itself does not show it.
pub fn of_outcome(outcome: &ActionResult) -> Option<Happened> {
    Some(match outcome {
        ActionResult::NotResolved {
            container, reason, ..
        } => Happened::of(container, Kind::Failed, reason),
        ActionResult::Prepared {
            slot,
            instance,
            rev,
            ..
        } => Happened::of_slot(slot, Kind::Created, format!("from revision {rev}"))
            .instance(instance),
        ActionResult::NotPrepared { slot, reason, .. }
        | ActionResult::Failed { slot, reason, .. } => {
            Happened::of_slot(slot, Kind::Failed, reason)
        }
        ActionResult::NotStarted {
            slot,
            instance,
            reason,
            ..
        } => Happened::of_slot(slot, Kind::Failed, reason).instance(instance),
        ActionResult::Resolved { .. } | ActionResult::Done { .. } => return None,
    })
}

/// What the engine shows of this host's containers that it did not show before. What began or ended before `since` (Unix
/// milliseconds, by this host's clock) is not new: this agent found it so.
pub fn of_observed(
    before: &Observed,
    after: &Observed,
    memory: &AgentMemory,
    since: i64,
) -> Vec<Happened> {
    let mut happened = Vec::new();
    match (&before.engine, &after.engine) {
        (EngineState::Up, EngineState::Unresponsive(why)) => {
            happened.push(Happened::here(Kind::EngineUnresponsive, why));
        }
        (EngineState::Unresponsive(_), EngineState::Up) => {
            happened.push(Happened::here(Kind::EngineBack, ""));
        }
        _ => {}
    }
    let instances: BTreeSet<&InstanceId> = before
        .containers
        .keys()
        .chain(after.containers.keys())
        .collect();
    for instance in instances {
        let was = before.containers.get(instance);
        let Some(is) = after.containers.get(instance) else {
            if let Some(was) = was {
                let message = was.running().map_or("", |_| "while it ran");
                happened.push(about(was, Kind::Removed, message));
            }
            continue;
        };
        let asked = memory
            .instances
            .get(instance)
            .is_some_and(|memory| memory.stop_requested || memory.leaving_since.is_some());
        let ended = if asked { Kind::Stopped } else { Kind::Exited };
        let ran = was.and_then(ObservedContainer::running);
        let started = |running: &&Running| {
            running.started_at >= since
                && ran.is_none_or(|ran| ran.started_at != running.started_at)
        };
        if let Some(running) = is.running().filter(started) {
            if ran.is_some_and(|ran| ran.started_at < running.started_at) {
                // It ended in between, and how was not seen.
                happened.push(about(is, ended, ""));
            }
            happened.push(about(is, Kind::Started, ""));
        } else if let ContainerState::Exited(exit) = &is.state
            && exit.at >= since
            && was.is_none_or(|was| was.state != is.state)
        {
            happened.push(about(is, ended, exit_text(exit)));
        }
        match (was.map(|was| &was.state), &is.state) {
            (Some(ContainerState::Running(_)), ContainerState::Paused(_)) => {
                happened.push(about(is, Kind::Paused, ""));
            }
            (Some(ContainerState::Paused(_)), ContainerState::Running(_)) => {
                happened.push(about(is, Kind::Unpaused, ""));
            }
            _ => {}
        }
        let is_new = is.running().is_some_and(|r| r.started_at >= since);
        match (before.readiness(instance), after.readiness(instance)) {
            (Readiness::Starting, Readiness::Ready) if is_new => {
                happened.push(about(is, Kind::Ready, ""));
            }
            (Readiness::Unready(_), Readiness::Ready) => {
                happened.push(about(is, Kind::Ready, "again"));
            }
            (Readiness::Ready, Readiness::Unready(why)) => {
                happened.push(about(is, Kind::Unready, why));
            }
            _ => {}
        }
    }
    happened
}

fn about(container: &ObservedContainer, kind: Kind, message: impl Into<String>) -> Happened {
    Happened::of_slot(&container.owner.slot, kind, message).instance(&container.owner.instance)
}

fn exit_text(exit: &Exit) -> String {
    let mut text = format!("exit code {}", exit.code);
    if exit.out_of_memory {
        text.push_str(", out of memory");
    }
    if !exit.error.is_empty() {
        text.push_str(": ");
        text.push_str(&exit.error);
    }
    text
}

/// Whether etcd is believed: before and now the reason for which it is not.
pub fn of_hold(before: Option<&str>, now: Option<&str>) -> Option<Happened> {
    match (before, now) {
        (before, Some(reason)) if before != now => Some(Happened::here(Kind::Hold, reason)),
        (Some(_), None) => Some(Happened::here(Kind::HoldEnded, "")),
        _ => None,
    }
}

/// Somebody has accepted a restore: the cluster's epoch has risen.
pub fn of_epoch(before: u64, now: u64) -> Option<Happened> {
    (now > before).then(|| {
        Happened::here(
            Kind::Restored,
            format!("a restore was accepted: epoch {now}"),
        )
    })
}

#[cfg(test)]
mod tests;
