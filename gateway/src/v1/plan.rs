//! `plan`: what writing manifests would do. Pure; nothing is written.
//!
//! The manifests are put into a clone of the snapshot, and the planner's own functions say what becomes of each slot.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use manifests::changes::{FieldChange, changes, written};
use manifests::keys::Key;
use manifests::manifest::Pull;
use manifests::{AppName, ContainerId, Manifest, parse};
use model::links;
use model::snapshot::{Change, ContainerView, Desired, Snapshot};
use planner::preview::{Fate, Preview, preview};
use serde_json::Value;

use super::agent::ClusterView;
use super::api::Api;
use super::reply::{ApiFailure, ApiResult, JsonBody};
use super::types::{
    Plan, PlanAction, PlanContainer, PlanRequest, PlanSlot, PlanSlotAction, PlanUpdate,
};

/// `POST plan`.
pub(super) async fn post(
    State(api): State<Api>,
    JsonBody(request): JsonBody<PlanRequest>,
) -> ApiResult<Plan> {
    let view = api.view()?;
    let notices = api.notices(&view);
    // Of thousands of containers it takes as long as many plans of a host.
    let planned = tokio::task::spawn_blocking(move || plan(&view, &request)).await;
    let planned = planned.map_err(|error| ApiFailure::gateway(error.to_string()))?;
    let plan = planned.map_err(ApiFailure::invalid)?;
    Ok(Json(Plan { notices, ..plan }))
}

/// What writing these manifests would do; or every error in them, each `app/container:line:column field: what`.
pub fn plan(view: &ClusterView, request: &PlanRequest) -> Result<Plan, Vec<String>> {
    let before = &view.snapshot;
    let manifests = read(request)?;
    let removed = if request.prune {
        pruned(before, &manifests)
    } else {
        BTreeSet::new()
    };
    let after = applied(before, &manifests, &removed);
    let mut warnings = BTreeMap::new();
    let mut refused = Vec::new();
    for (id, (manifest, ..)) in &manifests {
        let of_links = links::warnings(&after, &view.directory, id, manifest);
        let errors = of_links.iter().filter(|link| link.is_error());
        refused.extend(errors.map(|link| format!("{id}:1:1 links: {link}")));
        let of_manifest = after.containers.get(id).and_then(|c| c.manifest.as_ref());
        let of_manifest = match of_manifest.map(|manifest| &manifest.value) {
            Some(Desired::Valid { warnings, .. }) => {
                warnings.iter().map(ToString::to_string).collect()
            }
            _ => Vec::new(),
        };
        let of_links = of_links.iter().map(ToString::to_string);
        let texts: Vec<String> = of_manifest.into_iter().chain(of_links).collect();
        warnings.insert(id, texts);
    }
    if !refused.is_empty() {
        return Err(refused);
    }
    let ids: BTreeSet<ContainerId> = manifests.keys().chain(&removed).cloned().collect();
    let mut previews = preview(before, &after, &ids);
    let containers: Vec<PlanContainer> = ids
        .iter()
        .map(|id| {
            let preview = previews.remove(id).unwrap_or_default();
            let new = manifests.get(id).map(|(manifest, _)| manifest);
            let warnings = warnings.remove(id).unwrap_or_default();
            PlanContainer {
                warnings,
                ..container(
                    id,
                    before.containers.get(id).map(AsRef::as_ref),
                    new,
                    preview,
                )
            }
        })
        .collect();
    let is_change = |slot: &PlanSlot| slot.action != PlanSlotAction::Kept;
    Ok(Plan {
        changes: containers.iter().any(|container| {
            container.action != PlanAction::Unchanged || container.slots.iter().any(is_change)
        }),
        containers,
        revision: before.revision,
        stale: view.stale,
        notices: Vec::new(),
    })
}

type Written = BTreeMap<ContainerId, (Manifest, Vec<u8>)>;

fn read(request: &PlanRequest) -> Result<Written, Vec<String>> {
    let mut manifests = Written::new();
    let mut problems = Vec::new();
    for (name, value) in &request.manifests {
        let id: ContainerId = match name.parse() {
            Ok(id) => id,
            Err(error) => {
                problems.push(format!("`{name}` is no app/container: {error}"));
                continue;
            }
        };
        let text = match value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        match parse::strict(text.as_bytes()) {
            Ok(parsed) => {
                manifests.insert(id, (parsed.manifest, text.into_bytes()));
            }
            Err(found) => problems.extend(found.iter().map(|problem| format!("{id}:{problem}"))),
        }
    }
    if problems.is_empty() {
        Ok(manifests)
    } else {
        Err(problems)
    }
}

/// Manifests of the named apps that are not among these.
fn pruned(before: &Snapshot, kept: &Written) -> BTreeSet<ContainerId> {
    let apps: BTreeSet<&AppName> = kept.keys().map(|id| &id.app).collect();
    let all = before.containers.iter();
    all.filter(|(id, view)| {
        view.manifest.is_some() && apps.contains(&id.app) && !kept.contains_key(id)
    })
    .map(|(id, _)| id.clone())
    .collect()
}

/// The snapshot after these writes.
fn applied(before: &Snapshot, manifests: &Written, removed: &BTreeSet<ContainerId>) -> Snapshot {
    let mut after = before.clone();
    let revision = before.revision + 1;
    let puts = manifests.iter().map(|(id, (_, text))| {
        let known = before.containers.get(id);
        let known = known.and_then(|view| view.manifest.as_ref());
        Change::Put {
            key: Key::Manifest(id.clone()).to_string(),
            value: text.clone(),
            modified: revision,
            created: known.map_or(revision, |known| known.created.0),
        }
    });
    let deletes = removed.iter().map(|id| Change::Delete {
        key: Key::Manifest(id.clone()).to_string(),
        modified: revision,
    });
    after.apply(puts.chain(deletes), revision);
    after
}

fn container(
    id: &ContainerId,
    before: Option<&ContainerView>,
    new: Option<&Manifest>,
    preview: Preview,
) -> PlanContainer {
    let known = before.and_then(|view| view.manifest.as_ref());
    let old = known.and_then(|known| match &known.value {
        Desired::Valid { manifest, .. } => Some(manifest.as_ref()),
        Desired::Invalid(_) => None,
    });
    let differs = match (old, new) {
        (Some(old), Some(new)) => changes(old, new),
        (None, Some(new)) => written(new),
        (Some(old), None) => written(old)
            .into_iter()
            .map(FieldChange::reversed)
            .collect(),
        (None, None) => Vec::new(),
    };
    let action = match (known, new) {
        (_, None) => PlanAction::Removed,
        (None, Some(_)) => PlanAction::Created,
        (Some(_), Some(_)) if old.is_some() && differs.is_empty() => PlanAction::Unchanged,
        (Some(_), Some(_)) => PlanAction::Changed,
    };
    let update = preview.update.map(|update| PlanUpdate {
        order: update.order.to_string(),
        why: update.why,
        parallelism: update.parallelism,
        slots: update.slots,
    });
    let slots = preview.slots.into_iter();
    PlanContainer {
        app: id.app.clone(),
        container: id.container.clone(),
        action,
        revision: known.map(|known| known.modified.0),
        changes: differs,
        before: preview
            .before
            .map_or_else(Vec::new, |before| before.command),
        update,
        slots: slots
            .map(|(number, fate)| slot(number, fate, new))
            .collect(),
        warnings: Vec::new(),
    }
}

fn slot(number: u32, fate: Fate, new: Option<&Manifest>) -> PlanSlot {
    let (action, host, from, reason) = match fate {
        Fate::Created { host, first } => {
            let first = first.map(|why| format!("once what is removed is gone; until then {why}"));
            (PlanSlotAction::Created, Some(host), None, first)
        }
        Fate::Replaced { host, runs } => (
            PlanSlotAction::Replaced,
            Some(host),
            None,
            Some(why_replaced(runs.as_deref(), new)),
        ),
        Fate::Moved { from, to, why } => {
            (PlanSlotAction::Moved, to, Some(from), Some(why.to_string()))
        }
        Fate::Removed { host } => (PlanSlotAction::Removed, Some(host), None, None),
        Fate::Waiting { host, why } => (PlanSlotAction::Waiting, host, None, Some(why.to_string())),
        Fate::Kept { host, why } => (
            PlanSlotAction::Kept,
            Some(host),
            None,
            why.map(|why| why.to_string()),
        ),
    };
    PlanSlot {
        slot: number,
        action,
        host,
        from,
        reason,
    }
}

/// The fields in which the slot's manifest differs from what it runs.
fn why_replaced(runs: Option<&Manifest>, new: Option<&Manifest>) -> String {
    let (Some(runs), Some(new)) = (runs, new) else {
        return "what it runs is not known".to_owned();
    };
    let found = changes(runs, new);
    let found = found.iter().filter(|change| change.replaces);
    let found: Vec<String> = found.map(FieldChange::to_string).collect();
    if !found.is_empty() {
        return found.join("; ");
    }
    if new.pull == Pull::Always {
        return "the registry is asked for its image again; the same image replaces nothing"
            .to_owned();
    }
    "its image has another content".to_owned()
}

#[cfg(test)]
mod tests;
