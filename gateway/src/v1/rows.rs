//! Rows of slots and containers, from etcd, the status keys and the hosts' answers.
//!
//! Pure. Every row that is not ready has a reason. Whatever follows from the
//! snapshot is computed by the planner's functions, never stored.

use model::VersionId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use manifests::manifest::Service;
use manifests::{ContainerId, HostName, ServiceName, SlotId};
use model::address::is_global;
use model::directory::reached_at;
use model::records::Rollout;
use model::records::{Availability, Claim, HostState, Phase, Progress, Status};
use model::snapshot::{ContainerView, Desired, SlotView};
use planner::placement;
use planner::placement::Candidates;
use planner::rollout::{self, Target};
use planner::update;

use super::containers::container_row;
use super::inputs::{Filter, RowInputs};
use super::types::{ContainerRow, PublishedPort, SlotRow, SlotStatus};

/// Rows of slots and containers, each in order of app, container and number.
pub fn merge(inputs: RowInputs<'_>, filter: &Filter) -> (Vec<SlotRow>, Vec<ContainerRow>) {
    // Over the whole snapshot: placements depend on each other.
    let placed: BTreeMap<SlotId, Candidates> = placement::unclaimed(inputs.snapshot)
        .into_iter()
        .map(|unclaimed| (unclaimed.slot.clone(), unclaimed))
        .collect();
    let mut slots = Vec::new();
    let mut containers = Vec::new();
    for (id, view) in &inputs.snapshot.containers {
        if !filter.matches(id) {
            continue;
        }
        let container = container_row(inputs, id, view);
        if !container.errors.is_empty() {
            slots.push(invalid_row(&container));
        }
        for number in slot_numbers(view) {
            if let Some(row) = slot_row(inputs, id, view, number, &placed) {
                slots.push(row);
            }
        }
        containers.push(container);
    }
    (slots, containers)
}

fn invalid_row(container: &ContainerRow) -> SlotRow {
    let more = match container.errors.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let first = container.errors.first().map_or("", String::as_str);
    SlotRow {
        reason: Some(format!("invalid manifest: {first}{more}")),
        ..empty_row(&container.id(), None, SlotStatus::Invalid)
    }
}

fn empty_row(id: &ContainerId, slot: Option<u32>, status: SlotStatus) -> SlotRow {
    SlotRow {
        app: id.app.clone(),
        container: id.container.clone(),
        slot,
        host: None,
        status,
        age_seconds: None,
        ports: Vec::new(),
        reason: None,
        instance: None,
        version: None,
        image: None,
        outdated: false,
        surplus: false,
        failed: false,
        unplaceable: false,
        unproven: false,
        restarts: 0,
        container_id: None,
        log: Vec::new(),
    }
}

/// Slots that are wanted or claimed.
pub(super) fn slot_numbers(view: &ContainerView) -> BTreeSet<u32> {
    let claimed = view.slots.iter().filter(|(_, slot)| slot.claim.is_some());
    let mut numbers = view.numbers();
    numbers.extend(claimed.map(|(number, _)| *number));
    numbers
}

fn slot_row(
    inputs: RowInputs<'_>,
    id: &ContainerId,
    view: &ContainerView,
    number: u32,
    placed: &BTreeMap<SlotId, Candidates>,
) -> Option<SlotRow> {
    let slot = id.slot(number);
    let status = inputs.statuses.get(&slot);
    let Some(claimed) = view.slots.get(&number).filter(|s| s.claim.is_some()) else {
        let mut row = empty_row(id, Some(number), SlotStatus::Waiting);
        let placed = placed.get(&slot);
        row.unplaceable = placed.is_some_and(|p| p.order.is_empty() && !p.refused.is_empty());
        row.reason = Some(waiting_reason(inputs, &slot, placed));
        note_failure(&mut row, view, status);
        return Some(row);
    };
    let mut row = claimed_row(inputs, id, view, number, claimed)?;
    note_failure(&mut row, view, status);
    if row.reason.is_none() && row.status != SlotStatus::Ready {
        row.reason = Some(default_reason(&row).to_owned());
    }
    Some(row)
}

/// Why an unclaimed slot waits.
fn waiting_reason(inputs: RowInputs<'_>, slot: &SlotId, placed: Option<&Candidates>) -> String {
    if let Some(why) = placed.and_then(Candidates::why_waiting) {
        return why.to_string();
    }
    match (
        waiting_host(inputs, slot),
        placed.and_then(|p| p.order.first()),
    ) {
        (Some((host, why)), _) => format!("{host}: {why}"),
        (None, Some(host)) => format!("{host} is about to claim it"),
        (None, None) => "about to be claimed".to_owned(),
    }
}

/// The first host that waits with this slot, and why.
fn waiting_host<'a>(inputs: RowInputs<'a>, slot: &SlotId) -> Option<(&'a HostName, &'a String)> {
    let mut answers = inputs.answers.iter();
    answers.find_map(|(host, reasons)| Some((host, reasons.waiting.get(slot)?)))
}

fn claimed_row(
    inputs: RowInputs<'_>,
    id: &ContainerId,
    view: &ContainerView,
    number: u32,
    slot: &SlotView,
) -> Option<SlotRow> {
    let claim = slot.claim.as_ref()?;
    let slot_id = id.slot(number);
    let mut row = empty_row(id, Some(number), SlotStatus::Starting);
    row.host = Some(claim.host.clone());
    row.instance = Some(claim.instance.clone());
    row.version = Some(claim.version.0);
    let manifest = view.manifest_of(claim.version);
    row.image = manifest.map(|manifest| manifest.image.clone());
    row.surplus = !view.is_wanted(number);
    let is_updated = Target::of(view).is_some_and(|target| {
        target.outdates(view, claim.version) || rollout::precedes(view, claim)
    });
    row.outdated = !row.surplus && (is_updated || update::is_restarting(view, number));

    let state = slot.current_state();
    if let Some(state) = state {
        let service = |name| manifest.and_then(|m| m.services.get(name));
        row.ports = state
            .ports
            .iter()
            .map(|(name, port)| published(state.addr, service(name), name, *port))
            .collect();
    }
    let status = inputs.statuses.get(&slot_id);
    let own = status.filter(|s| s.instance == claim.instance);
    if let Some(own) = own {
        row.restarts = own.restarts;
        row.container_id.clone_from(&own.container_id);
        row.log.clone_from(&own.log);
        row.age_seconds = own
            .started_at
            .map(|started| inputs.now.saturating_sub(started).max(0) as u64);
    }

    let record = inputs.snapshot.record(&claim.host);
    if record.is_none() {
        row.status = SlotStatus::Lost;
        row.age_seconds = None;
        let mut reason = format!(
            "host {} is missing; its containers may still run there",
            claim.host
        );
        if view.is_global() {
            reason = format!("{reason}; no other host takes it");
        } else if let Some((_, why)) = waiting_host(inputs, &slot_id) {
            reason = format!("{reason}; {why}");
        }
        row.reason = Some(reason);
        return Some(row);
    }
    let reported = inputs
        .answers
        .get(&claim.host)
        .and_then(|reasons| reasons.waiting.get(&slot_id));
    let progress = own.map(|s| progress_status(s.progress));
    row.status = match (state.map(|s| s.state), progress) {
        (Some(Phase::Ready), _) => SlotStatus::Ready,
        (Some(Phase::Leaving), _) => SlotStatus::Leaving,
        (Some(Phase::Stopped), _) => SlotStatus::Stopped,
        (_, Some(status @ (SlotStatus::Failed | SlotStatus::Waiting))) | (None, Some(status)) => {
            status
        }
        (_, Some(status)) if own.is_some_and(|s| s.progress == Progress::Restarting) => status,
        (Some(Phase::Unready), _) => SlotStatus::Unready,
        (None, None) => SlotStatus::Starting,
    };
    if view.manifest.is_none() && progress == Some(SlotStatus::Orphan) {
        row.status = SlotStatus::Orphan;
        row.reason = Some(format!(
            "it has no manifest: `dokkaa rm {id}` stops it, a new manifest takes it up"
        ));
        return Some(row);
    }
    let started = own.and_then(|own| own.started_at);
    row.unproven = row.status == SlotStatus::Ready
        && manifest.zip(started).is_some_and(|(manifest, started)| {
            // By the clocks of two hosts: what starts far in the future says nothing.
            inputs.now.abs_diff(started) < manifest.update.monitor.as_secs()
        });
    row.reason = match row.status {
        SlotStatus::Ready => ready_reason(view, &row)
            // A reason from before it was ready is outdated.
            .or_else(|| {
                own.filter(|s| s.progress == Progress::Ready)?
                    .reason
                    .clone()
            })
            .or_else(|| outlived(inputs, view, claim)),
        _ => own
            .and_then(|s| s.reason.clone())
            .or_else(|| reported.cloned()),
    };
    if row.surplus {
        let why = match view.manifest.as_ref().map(|m| &m.value) {
            Some(Desired::Valid { manifest, .. }) if manifest.stopped => {
                "the container is stopped".to_owned()
            }
            Some(_) if view.is_global() => why_global_leaves(inputs, view, claim),
            Some(_) => "scaled down".to_owned(),
            None => "its manifest was removed".to_owned(),
        };
        // What is not started again has no trouble with its restart.
        let more = row.reason.filter(|_| progress != Some(SlotStatus::Failed));
        row.reason = Some(match more {
            Some(more) => format!("{why}: {more}"),
            None => format!("stopping ({why})"),
        });
    }
    if row.reason.is_none()
        && row.status != SlotStatus::Ready
        && record.is_some_and(|r| r.state == HostState::Hold)
    {
        row.reason = Some(format!("host {} is in hold", claim.host));
    }
    Some(row)
}

/// Why a host loses its slot of a global container.
fn why_global_leaves(inputs: RowInputs<'_>, view: &ContainerView, claim: &Claim) -> String {
    let host = &claim.host;
    let constraint = placement::outlived(inputs.snapshot, view, host);
    match (inputs.snapshot.availability(host), constraint) {
        (Availability::Drain | Availability::DrainVolumes, _) => format!("{host} is drained"),
        (Availability::Leave, _) => format!("{host} leaves the cluster"),
        (_, Some(constraint)) => format!("`{constraint}` does not hold on {host}"),
        (_, None) => format!("{host} has another one"),
    }
}

/// Reason of a slot on a host that no longer fits its constraints. One of a global container leaves.
fn outlived(inputs: RowInputs<'_>, view: &ContainerView, claim: &Claim) -> Option<String> {
    if view.is_global() {
        return None;
    }
    let constraint = placement::outlived(inputs.snapshot, view, &claim.host)?;
    Some(format!(
        "runs on {} though `{constraint}` does not hold there; it moves when its container is removed",
        claim.host
    ))
}

/// Address of a service, and its listening address.
fn published(
    addr: IpAddr,
    wanted: Option<&Service>,
    service: &ServiceName,
    port: u16,
) -> PublishedPort {
    let fixed = wanted.filter(|wanted| wanted.host_port == Some(port));
    let bind = fixed.and_then(|fixed| fixed.bind);
    let addr = reached_at(wanted, addr);
    let listens = bind.unwrap_or(addr);
    PublishedPort {
        service: service.clone(),
        addr,
        port,
        bind,
        public: fixed.is_some() && (listens.is_unspecified() || is_global(listens)),
    }
}

/// Reason of an outdated slot that is ready.
fn ready_reason(view: &ContainerView, row: &SlotRow) -> Option<String> {
    if !row.outdated {
        return None;
    }
    let target = Target::of(view)?;
    if !target.outdates(view, VersionId(row.version?)) && !update::is_restarting(view, row.slot?) {
        return Some(
            "it ran when its manifest was deleted; its host has not adopted it for the new one"
                .to_owned(),
        );
    }
    let rollout = update::rollout(view);
    let is_begun = |rollout: &Rollout| {
        row.slot
            .is_some_and(|slot| rollout.updating.contains(&slot))
    };
    if update::is_restarting(view, row.slot?) {
        return Some(match rollout {
            Some(rollout) if is_begun(&rollout) => "being restarted".to_owned(),
            Some(rollout) if rollout.paused => format!(
                "its restart waits, since the update is paused: `dokkaa rollout resume {}/{}` goes on",
                row.app, row.container
            ),
            _ => "waiting for its turn to restart".to_owned(),
        });
    }
    Some(match rollout {
        Some(rollout) if target.was_given_up(view) => {
            let back = rollout::back_to(view).map(|version| version.0);
            let how = match back {
                Some(version) if row.version == Some(version) => "went back to an older version",
                Some(_) => "goes back to an older version",
                None => "keeps the older version",
            };
            let at = rollout.failed_at();
            format!("{how}: the update failed at {at}: {}", rollout.reason)
        }
        Some(rollout) if is_begun(&rollout) => "being updated".to_owned(),
        Some(rollout) if rollout.paused => format!(
            "the update is paused: `dokkaa rollout resume {}/{}` goes on",
            row.app, row.container
        ),
        _ => "waiting for its turn to update".to_owned(),
    })
}

/// Crashes of a new instance that are not counted as failure.
const FORGIVEN: std::ops::Range<u32> = 1..3;

/// Adds a failed attempt at the present manifest, also one beside a running older version.
fn note_failure(row: &mut SlotRow, view: &ContainerView, status: Option<&Status>) {
    let Some(status) = status.filter(|s| s.progress == Progress::Failed) else {
        return;
    };
    let own = row.instance.as_ref() == Some(&status.instance);
    let current = match status.version {
        VersionId(0) => own && !row.outdated,
        id => {
            view.manifest
                .as_ref()
                .is_some_and(|m| m.modified.version() == id)
                || Target::of(view).is_some_and(|target| target.rev() == id)
        }
    };
    if row.surplus || !current {
        return;
    }
    // One or two crashes may only be a wait for a linked service; the first crash of an update fails it.
    row.failed = !FORGIVEN.contains(&status.restarts);
    row.log.clone_from(&status.log);
    let Some(reason) = &status.reason else { return };
    match row.status {
        SlotStatus::Ready if !own || row.outdated => {
            row.reason = Some(format!(
                "keeps the older version: the new one failed: {reason}"
            ));
        }
        SlotStatus::Ready | SlotStatus::Lost => {}
        _ => {
            row.status = SlotStatus::Failed;
            row.reason = Some(reason.clone());
        }
    }
}

fn progress_status(progress: Progress) -> SlotStatus {
    match progress {
        Progress::Pulling => SlotStatus::Pulling,
        Progress::Waiting => SlotStatus::Waiting,
        Progress::Failed => SlotStatus::Failed,
        Progress::Orphan => SlotStatus::Orphan,
        Progress::Creating
        | Progress::Starting
        | Progress::Ready
        | Progress::Unready
        | Progress::Restarting
        | Progress::Replacing
        | Progress::Outdated
        | Progress::Leaving
        | Progress::Unknown => SlotStatus::Starting,
    }
}

fn default_reason(row: &SlotRow) -> &'static str {
    match row.status {
        SlotStatus::Pulling => "pulling its image",
        SlotStatus::Starting => "starting its container",
        SlotStatus::Leaving => "it is about to be stopped",
        SlotStatus::Stopped => "it is being handed over",
        SlotStatus::Unready => "it runs, but is not ready yet",
        SlotStatus::Waiting => "its host has not reported what it waits for",
        SlotStatus::Failed => "its host has not reported why",
        SlotStatus::Lost => "its host is missing",
        SlotStatus::Orphan => "it has no manifest",
        SlotStatus::Invalid => "its manifest is invalid",
        SlotStatus::Ready => "",
    }
}

#[cfg(test)]
mod tests;
