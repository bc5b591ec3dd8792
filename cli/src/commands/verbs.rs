//! `restart`, `stop` and `start`: one field of the manifests of a container, or of an app.

use gateway::v1::types::{ContainerRow, SlotRestart};
use hyper::Method;
use jiff::{Timestamp, Unit};
use manifests::ContainerId;
use serde_json::{Map, Value};

use super::apply::{Words, change_with, wait_for};
use super::client::Client;
use super::error::CommandError;
use super::wait::seen;
use super::{lists, output};
use crate::args::{GlobalArgs, RestartArgs, Selection, VerbArgs};

pub(super) async fn restart(args: &RestartArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let (slot, args) = (args.slot, &args.verb);
    if let Some(slot) = slot {
        return restart_slot(args, slot, global).await;
    }
    let now = Timestamp::now().round(Unit::Millisecond);
    let now = now.map_err(|error| CommandError::Failed(error.to_string()))?;
    let client = Client::new(global)?;
    let is_app = matches!(args.of, Selection::App(_));
    let mut all = Vec::new();
    for row in containers(&client, &args.of).await? {
        match nothing_to_restart(&row) {
            Some(why) if is_app => output::note(&format!("{}: {why}", row.id())),
            Some(why) => return Err(CommandError::Failed(format!("{}: {why}", row.id()))),
            None => all.push(row.id()),
        }
    }
    let edit = |id: &ContainerId, manifest: &mut Map<String, Value>| {
        if manifest.get("stopped") == Some(&Value::Bool(true)) {
            return Err(format!("it is stopped; `dokkaa start {id}` starts it"));
        }
        manifest.insert("restarted_at".to_owned(), now.to_string().into());
        Ok(())
    };
    let words = Words {
        done: "restarts",
        same: "restarts already",
    };
    write(&client, all, args, global, words, edit).await
}

/// Another instance of one slot, of the version that it runs.
async fn restart_slot(args: &VerbArgs, slot: u32, global: &GlobalArgs) -> Result<(), CommandError> {
    let Selection::Container(id) = &args.of else {
        return Err(CommandError::Usage(format!(
            "--slot is of one container; expected app/container, such as `dokkaa restart {}/web --slot {slot}`",
            args.of
        )));
    };
    let client = Client::new(global)?;
    let path = format!("restart/{id}/{slot}");
    let restart: SlotRestart = client.send_json(Method::PUT, &path, &()).await?;
    output::print(&format!("{} on {} restarts\n", restart.slot, restart.host))?;
    if restart.paused {
        output::note(&format!(
            "{id}: its update is paused, the restart waits; `dokkaa rollout resume {id}` goes on"
        ));
    }
    if args.wait {
        seen(&client, &args.of, global, |slots| {
            slots.revision >= restart.revision
        })
        .await?;
    }
    let written = [(id.clone(), restart.manifest)];
    wait_for(args.wait, &client, global, &written).await
}

fn nothing_to_restart(row: &ContainerRow) -> Option<String> {
    if row.stopped {
        return Some(format!(
            "it is stopped; `dokkaa start {}` starts it",
            row.id()
        ));
    }
    let why = if row.global {
        "no host may have it, nothing runs"
    } else {
        "it is scaled to 0, nothing runs"
    };
    (row.scale == Some(0)).then(|| why.to_owned())
}

pub(super) async fn stop(args: &VerbArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let all = ids(&client, &args.of).await?;
    let words = Words {
        done: "stops",
        same: "is stopped already",
    };
    write(&client, all, args, global, words, |_, manifest| {
        manifest.insert("stopped".to_owned(), true.into());
        Ok(())
    })
    .await
}

pub(super) async fn start(args: &VerbArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let all = ids(&client, &args.of).await?;
    let words = Words {
        done: "starts",
        same: "is not stopped",
    };
    write(&client, all, args, global, words, |id, manifest| {
        if manifest.get("stopped") == Some(&Value::Bool(true)) {
            manifest.remove("stopped");
        }
        if manifest.get("scale") == Some(&Value::from(0)) {
            output::note(&format!(
                "{id}: it is scaled to 0; `dokkaa scale {id}=1` runs a slot"
            ));
        }
        Ok(())
    })
    .await
}

async fn write(
    client: &Client,
    all: Vec<ContainerId>,
    args: &VerbArgs,
    global: &GlobalArgs,
    words: Words,
    edit: impl Fn(&ContainerId, &mut Map<String, Value>) -> Result<(), String>,
) -> Result<(), CommandError> {
    let mut written = Vec::new();
    for id in all {
        let revision = change_with(client, &id, words, |text| edited(text, |m| edit(&id, m)));
        let revision = revision.await?;
        written.push((id, revision));
    }
    wait_for(args.wait, client, global, &written).await
}

/// The changed text; none if nothing changed.
fn edited(
    text: &str,
    edit: impl FnOnce(&mut Map<String, Value>) -> Result<(), String>,
) -> Result<Option<String>, String> {
    let before: Value = serde_json::from_str(text)
        .map_err(|error| format!("the manifest can't be read: {error}"))?;
    let mut after = before.clone();
    let manifest = after.as_object_mut();
    edit(manifest.ok_or("the manifest is not a JSON object")?)?;
    Ok((before != after).then(|| format!("{after:#}\n")))
}

/// A container as it was named; of an app, those with a manifest.
async fn ids(client: &Client, of: &Selection) -> Result<Vec<ContainerId>, CommandError> {
    match of {
        // Whether it is there is asked of etcd itself.
        Selection::Container(id) => Ok(vec![id.clone()]),
        Selection::App(_) => {
            let rows = containers(client, of).await?;
            Ok(rows.iter().map(ContainerRow::id).collect())
        }
    }
}

async fn containers(client: &Client, of: &Selection) -> Result<Vec<ContainerRow>, CommandError> {
    let rows = client.slots(Some(of)).await?.containers.into_iter();
    let rows: Vec<ContainerRow> = rows.filter(|row| row.revision.is_some()).collect();
    if rows.is_empty() {
        return Err(lists::none_of(of));
    }
    Ok(rows)
}
