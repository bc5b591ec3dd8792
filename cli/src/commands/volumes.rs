//! `volumes`: local volumes, and the slots they pin to hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gateway::v1::types::{PinReleased, Presence, VolumeRow, Volumes, VolumesAdopted};
use hyper::Method;
use hyper::body::Bytes;
use manifests::{ContainerId, SlotId};
use tokio::time::{Instant, sleep};

use super::client::{Client, LOOK};
use super::error::CommandError;
use super::table::{Column, Shown, table};
use super::{ask, lists, output};
use crate::args::{AdoptArgs, Format, GlobalArgs, PinArgs, Selection, VolumesAction, VolumesArgs};

const COLUMNS: &[Column] = &[
    Column("APP", Shown::Always),
    Column("CONTAINER", Shown::Always),
    Column("SLOT", Shown::Always),
    Column("VOLUME", Shown::Always),
    Column("HOST", Shown::Always),
    Column("HOST IS", Shown::IfFits(2)),
    Column("VOLUME IS", Shown::IfFits(4)),
    Column("SLOT IS", Shown::IfFits(3)),
    Column("DOCKER", Shown::IfFits(1)),
];

pub(super) async fn run(args: &VolumesArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    if let (Some(_), Some(of)) = (&args.action, &args.of) {
        return Err(CommandError::Usage(format!(
            "`{of}` selects what is listed; name it behind the command"
        )));
    }
    match &args.action {
        Some(VolumesAction::Adopt(args)) => adopt(args, global).await,
        Some(VolumesAction::Release(pin)) => release(pin, global).await,
        Some(VolumesAction::Rm(pin)) => remove(pin, global).await,
        None => list(args, global).await,
    }
}

async fn list(args: &VolumesArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let volumes = of(&Client::new(global)?, args.of.as_ref()).await?;
    if global.output == Format::Json {
        return output::json(&volumes);
    }
    lists::note_age(volumes.stale, &volumes.notices);
    let rows = volumes.volumes.iter().map(cells);
    output::print(&table(COLUMNS, global.output, rows))
}

async fn of(client: &Client, of: Option<&Selection>) -> Result<Volumes, CommandError> {
    client.get(&super::client::selected("volumes", of)).await
}

fn cells(row: &VolumeRow) -> Vec<String> {
    let slot = match (&row.claimed_by, row.wanted) {
        (Some(host), true) => format!("on {host}"),
        (Some(host), false) => format!("on {host}, not wanted"),
        (None, true) => "waiting".to_owned(),
        (None, false) => "not wanted".to_owned(),
    };
    vec![
        row.app.to_string(),
        row.container.to_string(),
        row.slot.to_string(),
        row.volume.clone(),
        row.host.to_string(),
        row.presence.to_string(),
        row.state.to_string(),
        slot,
        row.docker.clone(),
    ]
}

async fn adopt(args: &AdoptArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let slot = &args.pin.slot;
    ask::confirm(
        args.pin.yes,
        &format!("let {slot} use the existing volumes of its name on its host?"),
        "nothing was adopted",
    )?;
    let query = args.host.as_ref().map(|host| format!("?host={host}"));
    let path = format!("pins/{slot}{}", query.unwrap_or_default());
    let adopted: VolumesAdopted = client.send(Method::PUT, &path, &[], Bytes::new()).await?;
    output::print(&format!(
        "{slot} has its {} on {}\n",
        adopted.volumes.join(", "),
        adopted.host
    ))
}

async fn release(args: &PinArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let slot = &args.slot;
    for row in rows_of(&client, slot).await? {
        output::note(&format!(
            "stays behind on {} ({}): {}",
            row.host, row.presence, row.docker
        ));
    }
    ask::confirm(
        args.yes,
        &format!("let {slot} run without this data?"),
        "nothing was released",
    )?;
    let released: PinReleased = client.delete(&format!("pins/{slot}")).await?;
    output::print(&format!("{slot} is no longer kept on {}\n", released.host))
}

async fn remove(args: &PinArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let slot = &args.slot;
    let rows = rows_of(&client, slot).await?;
    if let Some(host) = rows.iter().find_map(|row| row.claimed_by.as_ref()) {
        let id = &slot.container;
        let all = client
            .slots(Some(&Selection::Container(id.clone())))
            .await?;
        let is_global = all.containers.iter().any(|row| row.global);
        let first = if is_global {
            format!("drain the host (`dokkaa drain {host}`)")
        } else {
            format!("scale it down (`dokkaa scale {id}={}`)", slot.slot)
        };
        return Err(CommandError::Failed(format!(
            "{slot} runs on {host} with this data; {first} or remove it (`dokkaa rm {id}`) first"
        )));
    }
    for row in rows {
        output::note(&format!("to be deleted on {}: {}", row.host, row.docker));
    }
    ask::confirm(
        args.yes,
        &format!("delete the data of {slot} for good?"),
        "nothing was deleted",
    )?;
    let removed: PinReleased = client.delete(&format!("volumes/{slot}")).await?;
    output::print(&deleted(&removed))
}

fn deleted(removed: &PinReleased) -> String {
    format!(
        "{}: {} deleted on {}\n",
        removed.slot,
        removed.volumes.join(", "),
        removed.host
    )
}

async fn rows_of(client: &Client, slot: &SlotId) -> Result<Vec<VolumeRow>, CommandError> {
    let selection = Selection::Container(slot.container.clone());
    let mut rows = of(client, Some(&selection)).await?.volumes;
    rows.retain(|row| row.slot == slot.slot);
    if rows.is_empty() {
        return Err(CommandError::Failed(format!(
            "{slot} has no local volume anywhere"
        )));
    }
    Ok(rows)
}

/// The volumes of a selection, by slot.
pub(super) async fn by_slot(
    client: &Client,
    selection: &Selection,
) -> Result<BTreeMap<SlotId, Vec<VolumeRow>>, CommandError> {
    let mut slots: BTreeMap<SlotId, Vec<VolumeRow>> = BTreeMap::new();
    for row in of(client, Some(selection)).await?.volumes {
        let id = ContainerId::new(row.app.clone(), row.container.clone());
        slots.entry(id.slot(row.slot)).or_default().push(row);
    }
    Ok(slots)
}

/// Deletes the data of a selection, of each slot as soon as its containers are removed.
pub(super) async fn remove_all(
    client: &Client,
    selection: &Selection,
    within: Duration,
) -> Result<(), CommandError> {
    let end = Instant::now() + within;
    let mut away = BTreeSet::new();
    loop {
        let mut why = None;
        for (slot, rows) in by_slot(client, selection).await? {
            let Some(row) = rows.first() else { continue };
            if row.presence != Presence::Live {
                away.insert(format!(
                    "the data of {slot} is on {}, which is {}: `dokkaa volumes release {slot}` gives it up",
                    row.host, row.presence
                ));
                continue;
            }
            if let Some(host) = &row.claimed_by {
                why = Some(format!("{host} still has {slot}"));
                continue;
            }
            match client
                .delete::<PinReleased>(&format!("volumes/{slot}"))
                .await
            {
                Ok(removed) => output::print(&deleted(&removed))?,
                Err(error @ CommandError::Failed(_)) => why = Some(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        let Some(why) = why else { break };
        if Instant::now() >= end {
            return Err(CommandError::TimedOut(why));
        }
        sleep(LOOK).await;
    }
    if away.is_empty() {
        return Ok(());
    }
    Err(CommandError::Failed(
        away.into_iter().collect::<Vec<_>>().join("\n"),
    ))
}
