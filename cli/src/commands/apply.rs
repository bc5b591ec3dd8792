//! `apply`, `get`, `set` and `scale`: manifests in and out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use gateway::v1::types::Written;
use hyper::Method;
use hyper::header::IF_MATCH;
use manifests::{AppName, ContainerId};
use tokio::time::{Instant, sleep};

use super::client::{Client, Refusal};
use super::edit::{self, Change};
use super::error::CommandError;
use super::files::{self, Source};
use super::{output, prune, wait};
use crate::args::{ApplyArgs, GetArgs, GlobalArgs, ScaleArgs, SetArgs};

/// Attempts of a compare-and-swap.
const ATTEMPTS: usize = 10;
/// An agent whose view does not show a write within this time is cut off from etcd.
const SEEN_WITHIN: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn apply(args: &ApplyArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    if args.prune {
        prune::possible(args)?;
    }
    let manifests = read(&args.target, args.file.as_deref())?;
    // All are validated before the first is written.
    files::check_all(manifests.iter().map(|(_, source)| source), |_, _| Ok(()))?;
    let client = Client::new(global)?;
    let superfluous = if args.prune {
        prune::superfluous(&client, &manifests, args.yes).await?
    } else {
        Vec::new()
    };
    let mut written = Vec::new();
    let mut warnings = Vec::new();
    for (id, source) in manifests {
        let put = put(&client, &id, None, source.text).await?;
        report(&put)?;
        written.push((id, put.revision));
        warnings.push(put.warnings);
    }
    prune::remove(&client, &superfluous).await?;
    warn(&client, &written, warnings).await?;
    wait_for(args.wait, &client, global, &written).await
}

fn read(target: &str, file: Option<&Path>) -> Result<Vec<(ContainerId, Source)>, CommandError> {
    let Some(file) = file else {
        let dir = PathBuf::from(target);
        if !dir.is_dir() {
            return Err(CommandError::Usage(format!(
                "`{target}` is not a directory; expected a directory, or app/container and a FILE (- for standard input)"
            )));
        }
        return files::directory(&dir)?
            .into_iter()
            .map(|(id, path)| Ok((id, files::read(&path)?)))
            .collect();
    };
    let id = target.parse().map_err(|error| {
        CommandError::Usage(if target.parse::<AppName>().is_ok() {
            format!(
                "`{target}` names an app; expected app/container, such as `dokkaa apply {target}/web {}`",
                file.display()
            )
        } else {
            format!("`{target}` is not app/container, such as `shop/web`: {error}")
        })
    })?;
    Ok(vec![(id, files::read(file)?)])
}

pub(super) async fn get(args: &GetArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let found = Client::new(global)?.manifest(&args.container).await?;
    for error in &found.errors {
        output::note(&format!("{}: invalid manifest: {error}", args.container));
    }
    let end = if found.manifest.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    output::print(&format!("{}{end}", found.manifest))
}

pub(super) async fn set(args: &SetArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let changes: Vec<Change> = args
        .changes
        .iter()
        .map(|text| Change::read(text).map_err(CommandError::Usage))
        .collect::<Result<_, _>>()?;
    let client = Client::new(global)?;
    let revision = change(&client, &args.container, &changes).await?;
    let written = [(args.container.clone(), revision)];
    wait_for(args.wait, &client, global, &written).await
}

pub(super) async fn scale(args: &ScaleArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let mut written = Vec::new();
    for (id, scale) in &args.scales {
        let to = Change::read(&format!("scale={scale}")).map_err(CommandError::Usage)?;
        written.push((id.clone(), change(&client, id, &[to]).await?));
    }
    wait_for(args.wait, &client, global, &written).await
}

/// What is said of a manifest that was changed, or that was as it should be.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub(super) done: &'static str,
    pub(super) same: &'static str,
}

async fn change(
    client: &Client,
    id: &ContainerId,
    changes: &[Change],
) -> Result<i64, CommandError> {
    let words = Words {
        done: "changed",
        same: "unchanged",
    };
    change_with(client, id, words, |text| edit::edit(text, changes)).await
}

/// Compare-and-swap: read, change, write unless it was changed meanwhile, else again.
pub(super) async fn change_with(
    client: &Client,
    id: &ContainerId,
    words: Words,
    edit: impl Fn(&str) -> Result<Option<String>, String>,
) -> Result<i64, CommandError> {
    for _ in 0..ATTEMPTS {
        let before = client.manifest(id).await?;
        let after =
            edit(&before.manifest).map_err(|what| CommandError::Failed(format!("{id}: {what}")))?;
        let Some(after) = after else {
            output::print(&format!(
                "{id} {} (revision {})\n",
                words.same, before.revision
            ))?;
            return Ok(before.revision);
        };
        files::check(&Source {
            name: id.to_string(),
            text: after.clone().into_bytes(),
        })?;
        match put(client, id, Some(before.revision), after.into_bytes()).await {
            Ok(written) => {
                output::print(&format!(
                    "{id} {} (revision {})\n",
                    words.done, written.revision
                ))?;
                warn_of(id, &written.warnings);
                return Ok(written.revision);
            }
            Err(Refusal::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(Refusal::Conflict.into())
}

pub(super) async fn put(
    client: &Client,
    id: &ContainerId,
    expected: Option<i64>,
    text: Vec<u8>,
) -> Result<Written, Refusal> {
    let precondition: Vec<_> = expected
        .map(|revision| (IF_MATCH, format!("\"{revision}\"")))
        .into_iter()
        .collect();
    let path = format!("manifests/{id}");
    let written = client
        .send(Method::PUT, &path, &precondition, Bytes::from(text))
        .await;
    written.map_err(|refusal| match refusal {
        Refusal::Invalid(problems) => CommandError::invalid(&id.to_string(), problems).into(),
        other => other,
    })
}

pub(super) fn report(written: &Written) -> Result<(), CommandError> {
    let what = match (written.created, written.changed) {
        (true, _) => "created",
        (false, true) => "changed",
        (false, false) => "unchanged",
    };
    output::print(&format!(
        "{}/{} {what} (revision {})\n",
        written.app, written.container, written.revision
    ))
}

/// Prints the warnings once all manifests are written: a link may be to a service of a later one.
async fn warn(
    client: &Client,
    written: &[(ContainerId, i64)],
    warnings: Vec<Vec<String>>,
) -> Result<(), CommandError> {
    let mut warned: BTreeMap<&ContainerId, Vec<String>> = written
        .iter()
        .zip(warnings)
        .filter(|(_, warnings)| !warnings.is_empty())
        .map(|((id, _), warnings)| (id, warnings))
        .collect();
    let last = written.iter().map(|(_, revision)| *revision).max();
    if let (false, true, Some(last)) = (warned.is_empty(), written.len() > 1, last) {
        let end = Instant::now() + SEEN_WITHIN;
        loop {
            let slots = client.slots(None).await?;
            if slots.revision >= last {
                let now = slots.containers.into_iter();
                let now: BTreeMap<_, _> = now.map(|row| (row.id(), row.warnings)).collect();
                for (id, warnings) in &mut warned {
                    *warnings = now.get(*id).cloned().unwrap_or_default();
                }
                break;
            }
            if Instant::now() >= end {
                break;
            }
            sleep(LOOK).await;
        }
    }
    for (id, warnings) in warned {
        warn_of(id, &warnings);
    }
    Ok(())
}

pub(super) fn warn_of(id: &ContainerId, warnings: &[String]) {
    for warning in warnings {
        output::note(&format!("{id}: warning: {}", output::one_line(warning)));
    }
}

pub(super) async fn wait_for(
    wait: bool,
    client: &Client,
    global: &GlobalArgs,
    written: &[(ContainerId, i64)],
) -> Result<(), CommandError> {
    if wait {
        wait::converged(client, written, global).await
    } else {
        Ok(())
    }
}
