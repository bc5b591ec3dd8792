//! `apply --prune`: what the apps of a directory have besides is removed, once the rest is written.

use bytes::Bytes;
use gateway::v1::types::{PlanAction, PlanSlotAction, Removed};
use hyper::Method;
use hyper::header::IF_MATCH;
use manifests::ContainerId;

use super::client::{Client, Refusal};
use super::error::CommandError;
use super::files::Source;
use super::{ask, output, plan};
use crate::args::ApplyArgs;

/// A container without a file, and the revision of its manifest.
pub(super) type Superfluous = (ContainerId, i64);

/// Fails early where there is no directory, or nobody to ask.
pub(super) fn possible(args: &ApplyArgs) -> Result<(), CommandError> {
    if args.file.is_some() {
        return Err(CommandError::Usage(
            "--prune only goes with a directory".to_owned(),
        ));
    }
    ask::possible(args.yes)
}

/// What would be removed, by the plan of the same manifests; asked for, unless that is settled.
pub(super) async fn superfluous(
    client: &Client,
    manifests: &[(ContainerId, Source)],
    yes: bool,
) -> Result<Vec<Superfluous>, CommandError> {
    let sources = manifests.iter().map(|(id, source)| (id, source));
    let plan = plan::ask(client, sources, true).await?;
    let mut found = Vec::new();
    let mut running = 0;
    for container in &plan.containers {
        if container.action == PlanAction::Removed
            && let Some(revision) = container.revision
        {
            let removed = |action| action == PlanSlotAction::Removed;
            let slots = container.slots.iter();
            running += slots.filter(|slot| removed(slot.action)).count();
            found.push((container.id(), revision));
        }
    }
    if !found.is_empty() {
        let names: Vec<String> = found.iter().map(|(id, _)| id.to_string()).collect();
        let question = format!(
            "remove {} ({running} running; volumes stay)?",
            names.join(", ")
        );
        ask::confirm(yes, &question, "nothing was written or removed")?;
    }
    Ok(found)
}

/// Removes manifests that are still as they were when they were asked for.
pub(super) async fn remove(client: &Client, all: &[Superfluous]) -> Result<(), CommandError> {
    for (id, revision) in all {
        let path = format!("manifests/{id}");
        let as_it_was = [(IF_MATCH, format!("\"{revision}\""))];
        let removed: Result<Removed, Refusal> = client
            .send(Method::DELETE, &path, &as_it_was, Bytes::new())
            .await;
        match removed {
            Ok(_) => output::print(&format!("{id} removed\n"))?,
            Err(Refusal::Conflict) => {
                return Err(CommandError::Failed(format!(
                    "{id} is not removed: it was changed at the same time"
                )));
            }
            // Somebody else has removed it.
            Err(Refusal::NotFound(_)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(())
}
