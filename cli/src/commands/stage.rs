//! How far an update is, in words: of a container, and of each of its slots.

use std::fmt;

use gateway::v1::types::{ContainerRow, SlotRow, SlotStatus, UpdateRow};

use super::output::{one_line, short_digests};

/// The update in one line.
pub(super) fn headline(container: &ContainerRow, rows: &[&SlotRow]) -> String {
    let id = container.id();
    if let Some(error) = container.errors.first() {
        return format!("{id}: nothing is updated, the manifest is invalid: {error}");
    }
    let (Some(_), Some(scale)) = (container.revision, container.scale) else {
        return format!("{id}: the manifest is removed");
    };
    let done = rows.iter().filter(|row| is_done(container, row)).count();
    // Slots of missing hosts that no other host takes.
    let away = |row: &&&SlotRow| container.global && row.status == SlotStatus::Lost && !row.surplus;
    let away = rows.iter().filter(away).count();
    let version = container.version.unwrap_or_default();
    let found = container.found.as_ref().map(|found| found.image.as_str());
    let image = found.or(container.image.as_deref()).unwrap_or_default();
    let update = container.update.as_ref();
    let how = match update {
        _ if container.stopped => format!("stopped; `dokkaa start {id}` starts it"),
        _ if done + away == rows.len() && done + away == scale as usize => match away {
            0 => "done".to_owned(),
            away => format!("done, but for {away} on missing hosts"),
        },
        Some(update) if update.halted => halted(update),
        _ => match (failed(container, rows), update) {
            (Some(failed), _) => format!("failed, {failed}; it is tried on"),
            (None, Some(update)) if update.paused => {
                format!("paused; `dokkaa rollout resume {id}` goes on")
            }
            (None, _) => "under way".to_owned(),
        },
    };
    format!("{id}: version {version} ({image}), {done} of {scale} slots: {how}")
}

/// A rollout that has failed: at a slot, or where there is none by its `before`.
pub(super) struct Failed<'a> {
    slot: Option<u32>,
    reason: &'a str,
    /// The row of that slot, with the last lines of its log.
    pub(super) row: Option<&'a SlotRow>,
}

impl fmt::Display for Failed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            Some(slot) => write!(f, "slot {slot}: {}", self.reason),
            None => write!(f, "`before` failed: {}", self.reason),
        }
    }
}

/// Whether the rollout has failed, for `--wait` and `rollout status` alike. While an older version serves, an attempt at
/// the newer one is no failure of the update before its owner says so: another may do better.
pub(super) fn failed<'a>(container: &'a ContainerRow, rows: &[&'a SlotRow]) -> Option<Failed<'a>> {
    let mut rows = rows.iter().copied();
    if let Some(gave_up) = &container.gave_up {
        return Some(Failed {
            slot: gave_up.slot,
            reason: &gave_up.reason,
            row: rows.find(|row| row.slot.is_some() && row.slot == gave_up.slot),
        });
    }
    let is_noted = |row: &SlotRow| {
        let update = container.update.as_ref();
        // The failure of a restart is noted by its row alone.
        let is_in = |update: &UpdateRow, slot| {
            update.failures.contains(&slot) || update.restart.contains(&slot)
        };
        update.is_some_and(|update| row.slot.is_some_and(|slot| is_in(update, slot)))
    };
    let is_tried =
        |row: &SlotRow| row.status == SlotStatus::Ready && row.outdated && !is_noted(row);
    let is_failed = |row: &&SlotRow| row.failed && row.status != SlotStatus::Lost && !is_tried(row);
    let row = rows.find(is_failed)?;
    Some(Failed {
        slot: row.slot,
        reason: row.reason.as_deref().unwrap_or_default(),
        row: Some(row),
    })
}

/// Why an update was halted, and what follows.
pub(super) fn halted(update: &UpdateRow) -> String {
    let back = update.back_to.map_or_else(String::new, |version| {
        format!("; all slots go back to version {version}")
    });
    let what = if update.before {
        "`before`".to_owned()
    } else {
        format!("slot {}", update.slot)
    };
    format!("halted, {what} failed: {}{back}", update.reason)
}

/// The image that is run in place of the manifest's, and those that are not run, a line each.
pub(super) fn found_lines(container: &ContainerRow) -> Vec<String> {
    let Some(found) = &container.found else {
        return Vec::new();
    };
    let how = match &found.back_from {
        Some(from) => format!("rolled back from {}", short_digests(from)),
        None => "found in its registry".to_owned(),
    };
    let digest = short_digests(&found.digest);
    let mut lines = vec![format!("image {} ({digest}): {how}", found.image)];
    lines.extend(found.skipped.iter().map(|one| {
        let digest = short_digests(&one.digest);
        format!("not run: {} ({digest}): {}", one.image, one_line(&one.why))
    }));
    lines
}

/// It runs what it should, and has proven itself.
fn is_done(container: &ContainerRow, row: &SlotRow) -> bool {
    stage(container, row) == "done"
}

/// How far the update of a slot is, in a word.
pub(super) fn stage(container: &ContainerRow, row: &SlotRow) -> String {
    let is_in = |of: fn(&UpdateRow) -> &Vec<u32>| {
        let update = container.update.as_ref();
        update.is_some_and(|update| row.slot.is_some_and(|slot| of(update).contains(&slot)))
    };
    let update = container.update.as_ref();
    let went_back = update
        .and_then(|update| update.back_to)
        .is_some_and(|version| row.version == Some(version));
    let word = match row.status {
        _ if row.surplus => "stopping",
        _ if row.failed || is_in(|update| &update.failures) && !went_back => "failed",
        SlotStatus::Ready if went_back => "went back",
        SlotStatus::Ready if row.outdated && is_in(|update| &update.updating) => "updating",
        SlotStatus::Ready if row.outdated => match update {
            Some(update) if update.paused => "paused",
            Some(update) if update.halted => "kept",
            _ => "waiting",
        },
        SlotStatus::Ready if is_in(|update| &update.updating) => "watched",
        SlotStatus::Ready => "done",
        other => return other.to_string(),
    };
    word.to_owned()
}
