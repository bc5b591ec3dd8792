//! `rollout`: how far an update is, and who may go on with it.

use gateway::v1::types::{ContainerRow, SlotRow, Slots, UpdateRow, WantedRollout};
use hyper::Method;
use manifests::ContainerId;

use super::client::Client;
use super::error::CommandError;
use super::stage::{failed, found_lines, headline, stage};
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
    let rows: Vec<&SlotRow> = slots
        .slots
        .iter()
        .filter(|row| row.slot.is_some())
        .collect();
    let ended = match failed(container, &rows) {
        Some(_) => Err(CommandError::RolloutFailed),
        None => Ok(()),
    };
    if global.output == Format::Json {
        output::json(&slots)?;
        return ended;
    }
    lists::note_age(slots.stale, &slots.notices);
    output::print(&format!("{}\n", headline(container, &rows)))?;
    for line in found_lines(container) {
        output::print(&format!("  {line}\n"))?;
    }
    if rows.is_empty() {
        return ended;
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
    output::print(&table(SLOTS, global.output, cells))?;
    ended
}

async fn watch(client: &Client, id: &ContainerId, global: &GlobalArgs) -> Result<(), CommandError> {
    let revision = client.manifest(id).await?.revision;
    wait::converged(client, &[(id.clone(), revision)], global).await
}

fn find<'a>(slots: &'a Slots, id: &ContainerId) -> Result<&'a ContainerRow, CommandError> {
    let row = slots.containers.iter().find(|row| row.id() == *id);
    row.ok_or_else(|| lists::none_of(&Selection::Container(id.clone())))
}

fn numbers(slots: &[u32]) -> String {
    let slots: Vec<String> = slots.iter().map(ToString::to_string).collect();
    slots.join(", ")
}
