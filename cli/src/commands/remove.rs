//! `rm`: removes manifests, whose containers the hosts then stop; with `--volumes` their data, too.

use gateway::v1::types::Removed;

use super::client::{Client, Refusal};
use super::error::CommandError;
use super::{ask, output, volumes};
use crate::args::{GlobalArgs, RmArgs, Selection};

pub(super) async fn run(args: &RmArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let data = if args.volumes {
        volumes::by_slot(&client, &args.of).await?.len()
    } else {
        0
    };
    if !args.yes {
        confirm(&client, &args.of, args.volumes, data).await?;
    }
    match client.try_delete(&format!("manifests/{}", args.of)).await {
        Ok(removed) => {
            let removed: Removed = removed;
            for id in &removed.containers {
                output::print(&format!("{id} removed\n"))?;
            }
        }
        // The manifest was removed before; only data is left.
        Err(Refusal::NotFound(_)) if data > 0 => {}
        Err(refusal) => return Err(refusal.into()),
    }
    if args.volumes {
        return volumes::remove_all(&client, &args.of, global.converged_within()).await;
    }
    Ok(())
}

async fn confirm(
    client: &Client,
    of: &Selection,
    volumes: bool,
    data: usize,
) -> Result<(), CommandError> {
    let found = client.slots(Some(of)).await?;
    let running = found.slots.iter().filter(|row| row.host.is_some());
    let names: Vec<String> = found
        .containers
        .iter()
        .filter(|row| {
            let claimed = running.clone().any(|slot| slot.id() == row.id());
            row.revision.is_some() || claimed
        })
        .map(|row| row.id().to_string())
        .collect();
    if names.is_empty() && data == 0 {
        return Err(CommandError::Failed(format!("there is no {of}")));
    }
    let kept = if volumes {
        format!("the data of {} is deleted", output::count(data, "slot"))
    } else {
        "volumes stay".to_owned()
    };
    let what = if names.is_empty() {
        of.to_string()
    } else {
        names.join(", ")
    };
    ask::confirm(
        false,
        &format!("remove {what} ({} running; {kept})?", running.count()),
        "nothing was removed",
    )
}
