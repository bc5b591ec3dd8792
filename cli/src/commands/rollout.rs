//! `rollout`: how far an update is, and who may go on with it.

use gateway::v1::types::{ContainerRow, SlotRow, SlotStatus, Slots, UpdateRow, WantedRollout};
use hyper::Method;
use manifests::ContainerId;

use super::client::Client;
use super::error::CommandError;
use super::table::{Column, Shown, table};
use super::{lists, output, wait};
use crate::args::{Format, GlobalArgs, RolloutAction, RolloutArgs, RolloutOf, Selection};

const SLOTS: &[Column] = &[
    Column("SLOT", Shown::Always),
    Column("HOST", Shown::IfFits(2)),
    Column("VERSION", Shown::IfFits(1)),
    Column("UPDATE", Shown::Always),
    Column("REASON", Shown::Text),
];

pub(super) async fn run(args: &RolloutArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    match &args.action {
        RolloutAction::Status(RolloutOf { container }) => status(&client, container, global).await,
        RolloutAction::Watch(RolloutOf { container }) => watch(&client, container, global).await,
        RolloutAction::Pause(RolloutOf { container }) => {
            let update = pause(&client, container, true).await?;
            let under_way = match update.updating.as_slice() {
                [] => String::new(),
                slots => format!("; slots that are under way end it: {}", numbers(slots)),
            };
            output::print(&format!(
                "{container}: the update to version {} is paused{under_way}\n",
                update.version
            ))
        }
        RolloutAction::Resume(RolloutOf { container }) => {
            let update = pause(&client, container, false).await?;
            output::print(&format!(
                "{container}: the update to version {} goes on\n",
                update.version
            ))
        }
    }
}

async fn pause(client: &Client, id: &ContainerId, paused: bool) -> Result<UpdateRow, CommandError> {
    let wanted = WantedRollout { paused };
    let path = format!("rollout/{id}");
    client.send_json(Method::PUT, &path, &wanted).await
}

async fn status(
    client: &Client,
    id: &ContainerId,
    global: &GlobalArgs,
) -> Result<(), CommandError> {
    let of = Selection::Container(id.clone());
    let slots = client.slots(Some(&of)).await?;
    let container = find(&slots, id)?;
    if global.output == Format::Json {
        return output::json(&slots);
    }
    lists::note_age(slots.stale, &slots.notices);
    let rows: Vec<&SlotRow> = slots
        .slots
        .iter()
        .filter(|row| row.slot.is_some())
        .collect();
    output::print(&format!("{}\n", headline(container, &rows)))?;
    if rows.is_empty() {
        return Ok(());
    }
    let cells = rows.iter().map(|row| {
        vec![
            row.slot.unwrap_or_default().to_string(),
            row.host
                .as_ref()
                .map_or("-".to_owned(), ToString::to_string),
            row.version.map_or("-".to_owned(), |v| v.to_string()),
            stage(container, row),
            row.reason.clone().unwrap_or_default(),
        ]
    });
    output::print(&table(SLOTS, global.output, cells))
}

async fn watch(client: &Client, id: &ContainerId, global: &GlobalArgs) -> Result<(), CommandError> {
    let revision = client.manifest(id).await?.revision;
    wait::converged(client, &[(id.clone(), revision)], global).await
}

fn find<'a>(slots: &'a Slots, id: &ContainerId) -> Result<&'a ContainerRow, CommandError> {
    let row = slots.containers.iter().find(|row| row.id() == *id);
    row.ok_or_else(|| lists::none_of(&Selection::Container(id.clone())))
}

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
    let version = container.version.unwrap_or_default();
    let image = container.image.as_deref().unwrap_or_default();
    let update = container.update.as_ref();
    let how = match update {
        _ if container.stopped => format!("stopped; `dokkaa start {id}` starts it"),
        _ if done == rows.len() && done == scale as usize => "done".to_owned(),
        Some(update) if update.paused => {
            format!("paused; `dokkaa rollout resume {id}` goes on")
        }
        Some(update) if update.halted => {
            let back = update.back_to.map_or_else(String::new, |version| {
                format!("; all slots go back to version {version}")
            });
            format!(
                "halted, slot {} failed: {}{back}",
                update.slot, update.reason
            )
        }
        _ => "under way".to_owned(),
    };
    format!("{id}: version {version} ({image}), {done} of {scale} slots: {how}")
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

fn numbers(slots: &[u32]) -> String {
    let slots: Vec<String> = slots.iter().map(ToString::to_string).collect();
    slots.join(", ")
}
