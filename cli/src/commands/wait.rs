//! `--wait`: polls the slots of the written manifests until the rollout is complete, fails or times out.
//!
//! `verdict` is pure; the loop around it polls the API.

use std::collections::BTreeMap;
use std::time::Duration;

use gateway::v1::types::{ContainerRow, SlotRow, SlotStatus, Slots};
use manifests::ContainerId;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::error::CommandError;
use super::progress::Progress;
use super::stage::{Failed, failed, headline, stage};
use super::{lists, output};
use crate::args::{GlobalArgs, Selection};

const LOOK: Duration = Duration::from_millis(250);
/// The last lines of the log are written shortly after the rollout failed.
const LINES_LATE: Duration = Duration::from_secs(2);
/// Wait for a slot that no host may take, without --timeout: a host may be about to come back. Attempts of hosts that give
/// up do not count, and begin nothing anew.
const UNPLACEABLE: Duration = Duration::from_secs(10);

/// The longest time that a look says something of.
const SAID_OF: Duration = Duration::from_secs(1);

/// State of a container's rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// Every slot is ready on this manifest.
    Converged(String),
    /// In progress; how far.
    Pending(String),
    /// No host may take the slots that are missing.
    Stuck {
        /// How far.
        how: String,
        /// Why.
        why: String,
        /// Slots that are ready.
        ready: usize,
    },
    /// Failed; why, and the last lines of the log.
    Failed(String),
}

/// For how long in all no host might take a slot, since so many were ready.
#[derive(Debug, Default)]
struct StuckFor {
    ready: usize,
    time: Duration,
}

impl StuckFor {
    /// At a look, this long after the one before.
    fn stuck(&mut self, ready: usize, since_last: Duration) -> Duration {
        if ready > self.ready {
            *self = Self {
                ready,
                ..Self::default()
            };
        }
        // An agent that was silent meanwhile has said nothing of that time.
        self.time += since_last.min(SAID_OF);
        self.time
    }
}

/// Waits for all of them.
pub(super) async fn converged(
    client: &Client,
    written: &[(ContainerId, i64)],
    global: &GlobalArgs,
) -> Result<(), CommandError> {
    let within = global.converged_within();
    let start = Instant::now();
    let end = start + within;
    let mut stuck: BTreeMap<&ContainerId, StuckFor> = BTreeMap::new();
    let mut last_look = start;
    let mut is_noted = false;
    let mut waiting: Vec<(&ContainerId, i64, String)> = written
        .iter()
        .map(|(id, revision)| (id, *revision, String::new()))
        .collect();
    let mut failed = Vec::new();
    let mut silent = false;
    let mut given_up: Option<Instant> = None;
    let mut progress = Progress::new();
    loop {
        let mut pending = Vec::new();
        let mut shown = Vec::new();
        let since_last = last_look.elapsed();
        last_look = Instant::now();
        for (id, revision, before) in waiting {
            let selection = Selection::Container(id.clone());
            let mut row = None;
            let verdict = match client.slots(Some(&selection)).await {
                Ok(slots) => {
                    silent = false;
                    row = slots.containers.iter().find(|row| row.id() == *id).cloned();
                    if let (true, Some(row)) = (progress.is_on(), &row) {
                        shown.push((id, slot_lines(row, &slots)));
                    }
                    match verdict(&slots, id, revision) {
                        Verdict::Failed(_)
                            if lacks_lines(&slots, id)
                                && given_up.get_or_insert_with(Instant::now).elapsed()
                                    < LINES_LATE =>
                        {
                            Verdict::Pending(before.clone())
                        }
                        verdict => verdict,
                    }
                }
                // It may be restarting.
                Err(error @ CommandError::Unreached { .. }) => {
                    if !silent {
                        progress.clear();
                        output::note(&error.to_string());
                        silent = true;
                    }
                    Verdict::Pending(before.clone())
                }
                Err(error) => return Err(error),
            };
            let verdict = match verdict {
                Verdict::Stuck { how, why, ready } => {
                    let time = stuck.entry(id).or_default().stuck(ready, since_last);
                    if global.timeout.is_none() && time >= UNPLACEABLE {
                        Verdict::Failed(why)
                    } else {
                        Verdict::Pending(how)
                    }
                }
                other => other,
            };
            if !is_noted && matches!(verdict, Verdict::Pending(_)) {
                is_noted = true;
                progress.clear();
                output::note(&format!(
                    "waiting for up to {within:?}; Ctrl-C ends the wait only, the hosts go on"
                ));
            }
            match verdict {
                Verdict::Converged(how) => {
                    progress.clear();
                    output::print(&format!("{id} converged: {how}\n"))?;
                    if let Some(warning) = row.as_ref().and_then(lists::unnamed_volumes) {
                        output::note(&format!("{id}: warning: {warning}"));
                    }
                }
                Verdict::Failed(why) => failed.push(format!("{id} failed: {why}")),
                Verdict::Pending(how) | Verdict::Stuck { how, .. } => {
                    if how != before && !progress.is_on() {
                        output::note(&format!("{id}: {how}"));
                    }
                    pending.push((id, revision, how));
                }
            }
        }
        shown.retain(|(id, _)| pending.iter().any(|(pending, ..)| pending == id));
        let lines: Vec<String> = shown.into_iter().flat_map(|(_, lines)| lines).collect();
        if !lines.is_empty() || pending.is_empty() {
            progress.show(&lines);
        }
        waiting = pending;
        if waiting.is_empty() {
            break;
        }
        if Instant::now() >= end {
            let late: Vec<String> = waiting
                .iter()
                .map(|(id, _, how)| format!("{id} timed out after {within:?}: {how}"))
                .chain(failed.iter().cloned())
                .collect();
            let late = late.join("\n");
            return Err(if failed.is_empty() {
                CommandError::TimedOut(late)
            } else {
                CommandError::NotConverged(late)
            });
        }
        sleep(LOOK).await;
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(CommandError::NotConverged(failed.join("\n")))
    }
}

fn verdict(slots: &Slots, id: &ContainerId, revision: i64) -> Verdict {
    if slots.stale {
        return Verdict::Pending("etcd does not answer the agent".to_owned());
    }
    if slots.revision < revision {
        return Verdict::Pending("not yet seen by the agent".to_owned());
    }
    let container = slots.containers.iter().find(|row| row.id() == *id);
    let Some((container, now)) = container.and_then(|row| Some((row, row.revision?))) else {
        return Verdict::Failed("it was removed meanwhile".to_owned());
    };
    if now != revision {
        return Verdict::Failed(format!("it was changed meanwhile (revision {now})"));
    }
    if let Some(error) = container.errors.first() {
        return Verdict::Failed(format!("invalid manifest: {error}"));
    }
    let rows: Vec<&SlotRow> = slots.slots.iter().filter(|row| row.id() == *id).collect();
    let update = container.update.as_ref();
    if let Some(failed) = failed(container, &rows) {
        let back = update.and_then(|update| update.back_to);
        return failure(&failed, back.filter(|_| container.gave_up.is_some()));
    }
    // What a missing host has of a global container waits for that host, and nobody waits for it here.
    let is_away =
        |row: &&SlotRow| container.global && row.status == SlotStatus::Lost && !row.surplus;
    let away = rows.iter().copied().filter(is_away).count();
    let wanted = container.scale.unwrap_or_default() - away as u32;
    let is_there = |row: &SlotRow| row.status == SlotStatus::Ready && !row.outdated && !row.surplus;
    let there = rows.iter().filter(|row| is_there(row)).count();
    let ready = if rows.iter().any(|row| row.outdated) {
        "updated and ready"
    } else {
        "ready"
    };
    let how = match away {
        0 if container.global && wanted == 0 && !container.stopped => {
            format!("no host may have it: `dokkaa why {id}`")
        }
        0 => format!("{there} of {wanted} slots {ready}"),
        away => format!("{there} of {wanted} slots {ready}, {away} on missing hosts"),
    };
    let missing = || {
        rows.iter()
            .copied()
            .filter(|row| !is_there(row) && !is_away(row))
    };
    let stuck = missing().all(|row| row.unplaceable);
    let is_unproven = |row: &&&SlotRow| is_there(row) && row.unproven;
    let unproven = update
        .and_then(|update| update.updating.first().copied())
        .or_else(|| rows.iter().find(is_unproven)?.slot);
    let first = missing().next();
    // Which slot is behind may change at each look; that it is paused does not.
    if let (Some(_), Some(true)) = (first, update.map(|update| update.paused)) {
        return Verdict::Pending(format!(
            "{how}; the update is paused: `dokkaa rollout resume {id}` goes on"
        ));
    }
    match first {
        None if there == wanted as usize => match unproven {
            None => Verdict::Converged(how),
            Some(slot) => Verdict::Pending(format!(
                "{how}; slot {slot} has to stay ready for `update.monitor`"
            )),
        },
        None => Verdict::Pending(how),
        Some(row) => {
            let reason = row.reason.as_deref().unwrap_or_default();
            let slot = row.slot.unwrap_or_default();
            let how = format!("{how}; slot {slot} {}: {reason}", row.status);
            if stuck {
                Verdict::Stuck {
                    how,
                    why: format!("slot {slot}: {reason}"),
                    ready: there,
                }
            } else {
                Verdict::Pending(how)
            }
        }
    }
}

/// A line for the container and one for each slot, for a terminal.
fn slot_lines(container: &ContainerRow, slots: &Slots) -> Vec<String> {
    let id = container.id();
    let own = |row: &&SlotRow| row.id() == id && row.slot.is_some();
    let rows: Vec<&SlotRow> = slots.slots.iter().filter(own).collect();
    let mut lines = vec![headline(container, &rows)];
    let name = |row: &SlotRow| id.slot(row.slot.unwrap_or_default()).to_string();
    let host = |row: &SlotRow| {
        row.host
            .as_ref()
            .map_or("-".to_owned(), ToString::to_string)
    };
    let widest = |of: &dyn Fn(&SlotRow) -> String| rows.iter().map(|row| of(row).len()).max();
    let (names, hosts) = (
        widest(&name).unwrap_or_default(),
        widest(&host).unwrap_or_default(),
    );
    lines.extend(rows.iter().map(|row| {
        format!(
            "{:names$}  {:hosts$}  {:9}  {}",
            name(row),
            host(row),
            stage(container, row),
            row.reason.as_deref().unwrap_or_default()
        )
    }));
    lines
}

/// Waits until the agent knows of a write that changed no manifest: before, its view says that nothing is under way.
pub(super) async fn seen(
    client: &Client,
    of: &Selection,
    global: &GlobalArgs,
    is_known: impl Fn(&Slots) -> bool,
) -> Result<(), CommandError> {
    let within = global.converged_within();
    let end = Instant::now() + within;
    while !is_known(&client.slots(Some(of)).await?) {
        if Instant::now() >= end {
            return Err(CommandError::TimedOut(format!(
                "the agent has not seen it after {within:?}; `dokkaa status` says why"
            )));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

/// The rollout failed, and the last lines of the slot's log are not there yet.
fn lacks_lines(slots: &Slots, id: &ContainerId) -> bool {
    let container = slots.containers.iter().find(|row| row.id() == *id);
    let gave_up = container.and_then(|row| row.gave_up.as_ref());
    let Some(slot) = gave_up.and_then(|gave_up| gave_up.slot) else {
        return false;
    };
    !slots
        .slots
        .iter()
        .any(|row| row.id() == *id && row.slot == Some(slot) && !row.log.is_empty())
}

fn failure(failed: &Failed<'_>, back_to: Option<i64>) -> Verdict {
    let mut text = failed.to_string();
    if let Some(version) = back_to {
        text = format!("{text}; all slots go back to version {version}");
    }
    for line in failed.row.map(|row| row.log.as_slice()).unwrap_or_default() {
        text.push_str("\n  | ");
        text.push_str(&output::one_line(line));
    }
    Verdict::Failed(text)
}

#[cfg(test)]
mod tests;
