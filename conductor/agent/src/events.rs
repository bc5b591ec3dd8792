//! What is told of changes: events from writes, action results and observations.

use std::collections::BTreeSet;

use manifests::{ContainerId, HostName, InstanceId, changes};
use model::events::{Happened, Kind};
use model::images::ImageAnswer;
use model::observed::{
    ContainerState, EngineState, Exit, Observed, ObservedContainer, Readiness, Running,
};
use model::records::{JobState, Phase};
use model::snapshot::{ContainerView, Desired, Rev, SlotView, Snapshot, Touched};
use model::write::Over;
use model::{ActionResult, Scope, Write, WriteKind};
use planner::AgentMemory;
use planner::rollout::Target;

/// Deleted, or its TTL is over: a watch does not tell which.
const GONE: &str = "its manifest is gone";

/// What a write means, once its guards held; none where nothing happens by it that people would look for. `container` is
/// what it is about, as far as that is known: why something ends here.
pub fn of_write(write: &Write, container: Option<&ContainerView>) -> Option<Happened> {
    let is_gone = container.is_some_and(|container| container.manifest.is_none());
    let about = |kind: Kind, message: String| match &write.scope {
        Scope::Slot(slot) => Happened::of_slot(slot, kind, message),
        Scope::Container(container) => Happened::of(container, kind, message),
    };
    let claimed = |kind: Kind, why: &str| {
        let claim = write.claimed()?;
        let message = format!("{why}to run revision {}", claim.version);
        let happened = about(kind, message).instance(&claim.instance);
        Some(match &write.over {
            Over::Lost(host) | Over::Stopped(_, host) => happened.from(host),
            Over::Nobody | Over::Ready(_) => happened,
        })
    };
    let over = match &write.over {
        Over::Ready(_) => "it is ready here; ".to_owned(),
        Over::Nobody => "nobody had it; ".to_owned(),
        Over::Lost(host) => format!("{host} is missing; "),
        Over::Stopped(_, host) => format!("{host} has stopped it; "),
    };
    match write.kind {
        WriteKind::Claim => claimed(Kind::Claimed, ""),
        WriteKind::Keep => claimed(Kind::Claimed, "kept without a manifest, "),
        WriteKind::TakeOver => claimed(Kind::TakenOver, &over),
        WriteKind::Next => claimed(Kind::Handover, "to this host, "),
        WriteKind::Promote => claimed(Kind::HandedOver, &over),
        WriteKind::NewInstance | WriteKind::Replace => claimed(Kind::Replacing, ""),
        WriteKind::Retake => {
            Some(about(Kind::Retaken, "it is ready here".to_owned()).instance(write.instance()?))
        }
        WriteKind::DeleteNext => {
            let why = match (&write.over, write.unfit()) {
                (Over::Lost(host), _) => format!("{host}, which was to have it, is missing"),
                (_, Some(unfit)) => format!("this host can't run it: {}", unfit.reason),
                (_, None) => "given up".to_owned(),
            };
            Some(about(Kind::HandoverEnded, why))
        }
        WriteKind::TakeBack => {
            let what = "it goes on here".to_owned();
            Some(about(Kind::HandoverEnded, what).instance(write.instance()?))
        }
        WriteKind::ReleaseUnfit => {
            let reason = &write.unfit()?.reason;
            let why = format!("given up, since this host can't run it: {reason}");
            Some(about(Kind::Unfit, why))
        }
        WriteKind::Release => {
            let why = if is_gone { GONE } else { "" };
            Some(about(Kind::Released, why.to_owned()))
        }
        WriteKind::DeleteUnwanted => match &write.over {
            Over::Lost(host) => {
                let why = format!("not wanted any more, and {host}, which had it, is missing");
                Some(about(Kind::Released, why).from(host))
            }
            _ => None,
        },
        WriteKind::Fit => Some(about(
            Kind::Fit,
            "it is tried on this host again".to_owned(),
        )),
        WriteKind::State => {
            let leaves = write.says().filter(|state| state.state == Phase::Leaving)?;
            let mut what = "takes no new connections".to_owned();
            if is_gone {
                what = format!("{GONE}: {what}");
            }
            Some(about(Kind::Leaving, what).instance(&leaves.instance))
        }
        WriteKind::Version => {
            let (id, version) = write.version_of()?;
            let what = format!("revision {id} runs {}", version.image);
            Some(about(Kind::Image, what))
        }
        WriteKind::Rollout => {
            let (container, rollout) = write.rollout_of()?;
            let slot = container.slot(rollout.slot);
            let why = format!("revision {}: {}", rollout.version, rollout.reason);
            Some(Happened::of_slot(&slot, Kind::UpdateFailed, why))
        }
        WriteKind::Found => {
            let (_, found) = write.found_image()?;
            let what = format!("the registry has {} ({})", found.image, found.digest);
            Some(about(Kind::ImageFound, what))
        }
        WriteKind::WentBack => {
            let (_, back) = write.found_image()?;
            let failed = back.skipped.last()?;
            let what = format!(
                "to {} ({}), since the update to {} ({}) failed, which is not tried again: {}",
                back.image, back.digest, failed.image, failed.digest, failed.why
            );
            Some(about(Kind::ImageBack, what))
        }
        WriteKind::JobStart | WriteKind::JobEnd => {
            let (_, job) = write.job()?;
            let (kind, how) = match job.state {
                JobState::Running => (Kind::Before, "`before` starts".to_owned()),
                JobState::Done => (Kind::Before, "`before` is done".to_owned()),
                JobState::Failed => {
                    let why = format!("`before` failed: {}", job.reason);
                    (Kind::UpdateFailed, why)
                }
            };
            let what = format!("revision {}: {how}", job.version);
            Some(about(kind, what).instance(&job.instance))
        }
        // That it is ready or stopped, the engine shows.
        WriteKind::Adopt
        | WriteKind::Data
        | WriteKind::Good
        | WriteKind::Permit
        | WriteKind::Prune
        | WriteKind::Returned
        | WriteKind::Sweep
        | WriteKind::Status => None,
    }
}

/// All slots run an image that was found, and the last of them has proven itself by this write.
pub fn of_rolled(write: &Write, id: &ContainerId, container: &ContainerView) -> Option<Happened> {
    let found = container
        .found()
        .filter(|found| found.back_from.is_none())?;
    let target = Target::of(container)?;
    let runs = |(number, slot): (&u32, &SlotView)| {
        let claim = slot.claim.as_ref();
        !container.is_wanted(*number)
            || claim.is_some_and(|claim| !target.outdates(container, claim.version))
    };
    let is_over = write.kind == WriteKind::Permit && write.rollout_of().is_none();
    (is_over && container.slots.iter().all(runs)).then(|| {
        let what = format!("all slots run {} ({})", found.image, found.digest);
        Happened::of(id, Kind::ImageRolled, what)
    })
}

/// What a registry said; none where it said what it has: that is told when it is written.
pub fn of_answer(answer: &ImageAnswer) -> Option<Happened> {
    let why = &answer.said.as_ref().err()?.reason;
    Some(Happened::of(&answer.container, Kind::ImageUnknown, why))
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
        | ActionResult::Failed { slot, reason }
        | ActionResult::NotRenamed { slot, reason } => {
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
            // An end is told as such.
            (Readiness::Ready, Readiness::Unready(why)) if is.running().is_some() && !asked => {
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

/// Of what no host does, the first of those that are live tells.
fn tells_for_all(now: &Snapshot, me: &HostName) -> bool {
    now.live().next().is_some_and(|(first, _)| first == me)
}

/// What somebody has asked for: manifests that were written or removed, hosts that are to be drained. One host tells it
/// for all.
pub fn of_wishes(
    before: &Snapshot,
    now: &Snapshot,
    touched: &Touched,
    me: &HostName,
) -> Vec<Happened> {
    if !tells_for_all(now, me) {
        return Vec::new();
    }
    let of_host = |host: &HostName| {
        let (was, is) = (before.availability(host), now.availability(host));
        let is_known = now
            .hosts
            .get(host)
            .is_some_and(|host| host.member.is_some());
        (was != is && is_known).then(|| {
            let what = format!("{is}, it was {was}");
            Happened::of_host(host, Kind::Availability, what)
        })
    };
    let of_manifest = |id: &ContainerId| {
        let manifest = |snapshot: &Snapshot| snapshot.containers.get(id)?.manifest.clone();
        let what = of_manifest(manifest(before), manifest(now))?;
        Some(Happened::of(id, Kind::Manifest, what))
    };
    let manifests = touched.manifests.iter().filter_map(of_manifest);
    let hosts = touched.hosts.iter().filter_map(of_host);
    manifests.chain(hosts).collect()
}

/// What has become of a manifest; none if nothing has.
fn of_manifest(before: Option<Rev<Desired>>, now: Option<Rev<Desired>>) -> Option<String> {
    let Some(now) = now else {
        return before.map(|_| "removed, or its TTL is over".to_owned());
    };
    let revision = now.modified;
    if before
        .as_ref()
        .is_some_and(|before| before.modified == revision)
    {
        return None;
    }
    Some(match (before.map(|before| before.value), now.value) {
        (_, Desired::Invalid(errors)) => {
            let error = errors.first().map_or("", String::as_str);
            format!("revision {revision} is not valid: {error}")
        }
        (None, Desired::Valid { .. }) => format!("created, revision {revision}"),
        (Some(Desired::Invalid(_)), Desired::Valid { .. }) => {
            format!("revision {revision} is valid again")
        }
        (Some(Desired::Valid { manifest: was, .. }), Desired::Valid { manifest, .. }) => {
            let fields = changes::changes(&was, &manifest).into_iter();
            let fields: Vec<String> = fields.map(|change| change.field).collect();
            if fields.is_empty() {
                format!("revision {revision}, as it was")
            } else {
                format!("revision {revision} changes {}", fields.join(", "))
            }
        }
    })
}

/// Which other hosts of the cluster have become missing, and which are back. One host tells it for all: the first of
/// those that are live. A host that has left is not missed.
pub fn of_hosts(
    before: &Snapshot,
    now: &Snapshot,
    touched: &BTreeSet<HostName>,
    me: &HostName,
) -> Vec<Happened> {
    if !tells_for_all(now, me) {
        return Vec::new();
    }
    let is_member = |snapshot: &Snapshot, host: &HostName| {
        let view = snapshot.hosts.get(host);
        view.is_some_and(|view| view.member.is_some())
    };
    let of_host = |host: &HostName| {
        if host == me || !(is_member(before, host) && is_member(now, host)) {
            return None;
        }
        match (before.is_live(host), now.is_live(host)) {
            (true, false) => Some(Happened::of_host(
                host,
                Kind::HostMissing,
                "its record has ended: it is down, or cut off from etcd",
            )),
            (false, true) => Some(Happened::of_host(
                host,
                Kind::HostBack,
                "its record is in etcd again",
            )),
            _ => None,
        }
    };
    touched.iter().filter_map(of_host).collect()
}

#[cfg(test)]
mod tests;
