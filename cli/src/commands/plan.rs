//! `plan` and `diff`: what writing manifests would do, before anything is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use gateway::v1::types::{Plan, PlanAction, PlanContainer, PlanRequest, PlanSlot, PlanSlotAction};
use hyper::Method;
use manifests::changes::text;
use manifests::{ContainerId, HostName};

use super::client::{Client, Refusal};
use super::edit::{self, Change};
use super::error::CommandError;
use super::files::{self, Source};
use super::{lists, output};
use crate::args::{DiffArgs, Format, GlobalArgs, ManifestsOf, PlanArgs};

pub(super) async fn plan(args: &PlanArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let sources = read(&client, &args.of, args.prune).await?;
    let plan = ask(&client, &sources, args.prune).await?;
    if global.output == Format::Json {
        output::json(&plan)?;
    } else {
        lists::note_age(plan.stale, &plan.notices);
        output::print(&said(&plan))?;
    }
    ended(&plan)
}

pub(super) async fn diff(args: &DiffArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let sources = read(&client, &args.of, args.prune).await?;
    let mut plan = ask(&client, &sources, args.prune).await?;
    plan.containers
        .retain(|container| container.action != PlanAction::Unchanged);
    plan.changes = !plan.containers.is_empty();
    if global.output == Format::Json {
        output::json(&plan)?;
    } else {
        lists::note_age(plan.stale, &plan.notices);
        let lines = plan.containers.iter().map(|one| differences(one, &sources));
        output::print(&lines.collect::<String>())?;
    }
    ended(&plan)
}

fn ended(plan: &Plan) -> Result<(), CommandError> {
    if plan.changes {
        Err(CommandError::Changes)
    } else {
        Ok(())
    }
}

/// Manifests by container.
type Sources = BTreeMap<ContainerId, Source>;

/// What these manifests would do.
pub(super) async fn ask(
    client: &Client,
    sources: impl IntoIterator<Item = (&ContainerId, &Source)>,
    prune: bool,
) -> Result<Plan, CommandError> {
    let mut manifests = BTreeMap::new();
    for (id, source) in sources {
        // As text: its warnings have their positions in it.
        let text = str::from_utf8(&source.text);
        let text = text.map_err(|error| CommandError::Failed(format!("{id}: {error}")))?;
        manifests.insert(id.to_string(), text.into());
    }
    let request = PlanRequest { manifests, prune };
    let body =
        serde_json::to_vec(&request).map_err(|error| CommandError::Failed(error.to_string()))?;
    let asked = client.send(Method::POST, "plan", &[], Bytes::from(body));
    asked.await.map_err(|refusal| match refusal {
        Refusal::Invalid(problems) => CommandError::Invalid(problems),
        other => other.into(),
    })
}

/// Reads and checks the manifests.
async fn read(client: &Client, of: &ManifestsOf, prune: bool) -> Result<Sources, CommandError> {
    let is_dir = of.rest.is_empty() && of.target.is_dir();
    if prune && !is_dir {
        return Err(CommandError::Usage(
            "--prune only goes with a directory".to_owned(),
        ));
    }
    let sources = if of.rest.is_empty() {
        of_path(&of.target)?
    } else {
        let id = container(&of.target)?;
        let source = match of.rest.as_slice() {
            [file] if !is_change(file) => files::read(Path::new(file))?,
            changes => changed(client, &id, changes).await?,
        };
        Sources::from([(id, source)])
    };
    files::check_all(sources.values(), |_, _| Ok(()))?;
    Ok(sources)
}

/// `image=nginx`, `env.OLD-`; and no file.
fn is_change(text: &str) -> bool {
    text != "-" && !Path::new(text).is_file() && (text.contains('=') || text.ends_with('-'))
}

/// A directory, or one file in it.
fn of_path(path: &Path) -> Result<Sources, CommandError> {
    if path.is_dir() {
        return directory(path);
    }
    if path.is_file() {
        let id = id_of(path).ok_or_else(|| {
            let path = path.display();
            CommandError::Usage(format!(
                "{path}: which container? Expected <app>/<container>.json, or app/container before it, such as `dokkaa plan shop/web {path}`"
            ))
        })?;
        return Ok(Sources::from([(id, files::read(path)?)]));
    }
    Err(match container(path) {
        Ok(id) => CommandError::Usage(format!(
            "{id}: what of it? Expected a FILE or FIELD=VALUE, such as `dokkaa plan {id} image=nginx:1.27`"
        )),
        Err(_) => CommandError::Usage(format!(
            "{}: there is no such file or directory",
            path.display()
        )),
    })
}

/// Every manifest of a directory.
fn directory(dir: &Path) -> Result<Sources, CommandError> {
    let found = files::directory(dir)?.into_iter();
    found
        .map(|(id, path)| Ok((id, files::read(&path)?)))
        .collect()
}

/// By the names of file and folder.
fn id_of(path: &Path) -> Option<ContainerId> {
    let full = std::fs::canonicalize(path).ok()?;
    let container = full.file_name()?.to_str()?.strip_suffix(".json")?;
    let app = full.parent()?.file_name()?.to_str()?;
    format!("{app}/{container}").parse().ok()
}

fn container(target: &Path) -> Result<ContainerId, CommandError> {
    let text = target.display().to_string();
    text.parse().map_err(|error| {
        CommandError::Usage(format!(
            "`{text}` is not app/container, such as `shop/web`: {error}"
        ))
    })
}

/// The manifest as it is, with changes.
async fn changed(
    client: &Client,
    id: &ContainerId,
    changes: &[String],
) -> Result<Source, CommandError> {
    let changes = changes.iter().map(|text| Change::read(text));
    let changes: Vec<Change> = changes
        .collect::<Result<_, _>>()
        .map_err(CommandError::Usage)?;
    let before = client.manifest(id).await?;
    let after = edit::edit(&before.manifest, &changes)
        .map_err(|what| CommandError::Failed(format!("{id}: {what}")))?;
    Ok(Source {
        name: id.to_string(),
        text: after.unwrap_or(before.manifest).into_bytes(),
    })
}

/// The plan for people.
fn said(plan: &Plan) -> String {
    let mut lines = String::new();
    for container in &plan.containers {
        let before = lines.len();
        add_container(&mut lines, container);
        if lines.len() > before {
            lines.push('\n');
        }
    }
    let _ = writeln!(lines, "{}", summary(plan));
    lines
}

/// `1 container changed, 3 unchanged; slots: 2 replaced, 1 created, 4 kept`.
fn summary(plan: &Plan) -> String {
    let mut containers: BTreeMap<PlanAction, usize> = BTreeMap::new();
    let mut slots: BTreeMap<PlanSlotAction, usize> = BTreeMap::new();
    for container in &plan.containers {
        *containers.entry(container.action).or_default() += 1;
        for slot in &container.slots {
            *slots.entry(slot.action).or_default() += 1;
        }
    }
    let counted = containers.iter().map(|(action, n)| format!("{n} {action}"));
    let containers: Vec<String> = counted.collect();
    let counted = slots.iter().map(|(action, n)| format!("{n} {action}"));
    let slots: Vec<String> = counted.collect();
    let slots = match slots.as_slice() {
        [] => "none".to_owned(),
        slots => slots.join(", "),
    };
    format!("containers: {}; slots: {slots}", containers.join(", "))
}

/// Nothing of one that stays as it is.
fn add_container(lines: &mut String, container: &PlanContainer) {
    let is_news = |slot: &&PlanSlot| slot.action != PlanSlotAction::Kept || slot.reason.is_some();
    let slots: Vec<&PlanSlot> = container.slots.iter().filter(is_news).collect();
    let is_news = container.action != PlanAction::Unchanged
        || !slots.is_empty()
        || !container.warnings.is_empty();
    if !is_news {
        return;
    }
    let _ = writeln!(lines, "{} {}", container.id(), container.action);
    let is_changed = container.action == PlanAction::Changed;
    for change in container.changes.iter().filter(|_| is_changed) {
        let mark = if change.replaces {
            ""
        } else {
            " (replaces nothing)"
        };
        let _ = writeln!(lines, "  {}{mark}", output::one_line(&change.to_string()));
    }
    let fields: Vec<String> = container
        .changes
        .iter()
        .filter(|change| change.replaces)
        .map(ToString::to_string)
        .collect();
    let fields = fields.join("; ");
    for (numbers, slot) in grouped(&slots) {
        // The fields are above.
        let reason = slot.reason.as_ref().filter(|reason| **reason != fields);
        let reason = reason.map_or(String::new(), |reason| {
            format!(": {}", output::one_line(reason))
        });
        let _ = writeln!(lines, "  {numbers}{reason}");
    }
    if !container.before.is_empty() {
        let command = output::one_line(&container.before.join(" "));
        let _ = writeln!(lines, "  first, once: {command} (`before`)");
    }
    if let Some(update) = &container.update {
        let why = update.why.as_ref().map(|why| format!(": {why}"));
        let _ = writeln!(
            lines,
            "  {}, {} at a time{}",
            update.order,
            update.parallelism,
            why.unwrap_or_default()
        );
    }
    for warning in &container.warnings {
        let _ = writeln!(lines, "  warning: {}", output::one_line(warning));
    }
}

/// Slots of which the same is to be said: `slots 0, 1 replaced on h1, h2`.
fn grouped<'a>(slots: &[&'a PlanSlot]) -> Vec<(String, &'a PlanSlot)> {
    let mut groups: Vec<Vec<&PlanSlot>> = Vec::new();
    for slot in slots {
        let like = |group: &&mut Vec<&PlanSlot>| {
            group.first().is_some_and(|first| {
                (first.action, &first.reason, &first.from)
                    == (slot.action, &slot.reason, &slot.from)
            })
        };
        match groups.iter_mut().find(like) {
            Some(group) => group.push(slot),
            None => groups.push(vec![slot]),
        }
    }
    let named = groups.into_iter().filter_map(|group| {
        let first = *group.first()?;
        let numbers: Vec<String> = group.iter().map(|slot| slot.slot.to_string()).collect();
        let plural = if numbers.len() == 1 { "" } else { "s" };
        let text = format!(
            "slot{plural} {} {}{}",
            numbers.join(", "),
            first.action,
            hosts(first, &group)
        );
        Some((text, first))
    });
    named.collect()
}

fn hosts(first: &PlanSlot, group: &[&PlanSlot]) -> String {
    let names: BTreeSet<&HostName> = group.iter().filter_map(|slot| slot.host.as_ref()).collect();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let to = names.join(", ");
    match (first.action, &first.from) {
        (PlanSlotAction::Removed, _) => format!(" from {to}"),
        (_, Some(from)) if to.is_empty() => format!(" from {from}"),
        (_, Some(from)) => format!(" from {from} to {to}"),
        (_, None) if to.is_empty() => String::new(),
        (_, None) => format!(" on {to}"),
    }
}

/// One container, as `diff -u` shows a file.
fn differences(container: &PlanContainer, sources: &Sources) -> String {
    let id = container.id();
    let mut lines = String::new();
    let before = match container.revision {
        Some(revision) => format!("{id} (revision {revision})"),
        None => "/dev/null".to_owned(),
    };
    let source = sources.get(&id).map(|source| source.name.as_str());
    let after = source.unwrap_or("/dev/null");
    let _ = writeln!(lines, "--- {before}\n+++ {after}");
    for change in &container.changes {
        let sides = [('-', &change.from), ('+', &change.to)];
        for (sign, value) in sides {
            if value.is_some() {
                let value = output::one_line(&text(value.as_ref()));
                let _ = writeln!(lines, "{sign}{}: {value}", change.field);
            }
        }
    }
    lines
}
