//! `backup` and `restore`: manifests and settings of the cluster as a file.

use std::collections::BTreeMap;
use std::path::Path;

use gateway::v1::types::{Acceptance, Backup, HoldReport, RestoreAction, RestoreReport};
use hyper::Method;
use store::state_file;

use super::client::Client;
use super::error::CommandError;
use super::{ask, files, lists, output};
use crate::args::{BackupArgs, GlobalArgs, RestoreArgs};

/// Size of one request; the API takes bodies of up to 1 MiB.
const PART: usize = 1 << 19;

pub(super) async fn backup(args: &BackupArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let backup: Backup = Client::new(global)?.get("backup").await?;
    let Some(path) = args.file.as_ref().filter(|path| path.as_os_str() != "-") else {
        return output::json(&backup);
    };
    let text = serde_json::to_string_pretty(&backup)
        .map_err(|error| CommandError::Failed(error.to_string()))?;
    state_file::replace(path, (text + "\n").as_bytes())
        .map_err(|error| CommandError::Failed(format!("{}: {error}", path.display())))?;
    output::print(&format!(
        "{}: {} manifests\n",
        path.display(),
        backup.manifests.len()
    ))
}

pub(super) async fn restore(args: &RestoreArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    match &args.file {
        Some(file) => from_file(args, global, file).await,
        None => accept(args, global).await,
    }
}

async fn from_file(
    args: &RestoreArgs,
    global: &GlobalArgs,
    file: &Path,
) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let source = files::read(file)?;
    let backup: Backup = serde_json::from_slice(&source.text)
        .map_err(|error| CommandError::Usage(format!("{}: not a backup: {error}", source.name)))?;
    let parts = parts(backup);
    let looked = send(&client, args, &parts, "&dry_run=true").await?;
    show(&looked);
    if !looked.changes() {
        output::print("there is nothing to restore\n")?;
    } else if args.dry_run {
        output::note("nothing was written");
    } else {
        ask::confirm(args.yes, "restore this?", "nothing was restored")?;
        let seen = format!("&seen={}", looked.revision);
        let done = send(&client, args, &parts, &seen).await?;
        output::print(&format!("restored: {}\n", done.counts()))?;
        if let Some(cluster) = &done.cluster {
            output::print(&format!(
                "cluster key restored: {}, epoch {}\n",
                cluster.id, cluster.epoch
            ))?;
        }
    }
    if let (Some(why), None) = (&looked.hold, &looked.cluster) {
        output::note(&format!(
            "this agent is in hold ({why}): when everything is restored, `dokkaa restore --accept` ends the hold"
        ));
    }
    let invalid: Vec<String> = looked
        .keys(RestoreAction::Invalid)
        .map(|(key, why)| format!(" {key}: {why}"))
        .collect();
    if invalid.is_empty() {
        return Ok(());
    }
    Err(CommandError::invalid(&source.name, invalid))
}

/// The reports of several requests.
#[derive(Debug, Default)]
struct Reports {
    keys: Vec<gateway::v1::types::RestoredKey>,
    cluster: Option<model::records::Cluster>,
    hold: Option<String>,
    revision: i64,
}

impl Reports {
    fn add(&mut self, report: RestoreReport) {
        self.keys.extend(report.keys);
        self.cluster = report.cluster.or(self.cluster.take());
        self.hold = report.hold.or(self.hold.take());
        if self.revision == 0 {
            self.revision = report.revision;
        }
    }

    fn changes(&self) -> bool {
        let written = |what| matches!(what, RestoreAction::Added | RestoreAction::Replaced);
        self.cluster.is_some() || self.keys.iter().any(|key| written(key.what))
    }

    fn keys(&self, what: RestoreAction) -> impl Iterator<Item = (&str, &str)> {
        let keys = self.keys.iter().filter(move |key| key.what == what);
        keys.map(|key| (key.key.as_str(), key.why.as_deref().unwrap_or_default()))
    }

    fn counts(&self) -> String {
        let mut counts: BTreeMap<RestoreAction, usize> = BTreeMap::new();
        for key in &self.keys {
            *counts.entry(key.what).or_default() += 1;
        }
        let parts: Vec<String> = counts
            .iter()
            .map(|(what, n)| format!("{n} {what}"))
            .collect();
        parts.join(", ")
    }
}

async fn send(
    client: &Client,
    args: &RestoreArgs,
    parts: &[Backup],
    more: &str,
) -> Result<Reports, CommandError> {
    let mut reports = Reports::default();
    for (at, part) in parts.iter().enumerate() {
        let path = format!(
            "restore?overwrite={}&new_cluster={}&more={}{more}",
            args.overwrite,
            args.new_cluster,
            at + 1 < parts.len()
        );
        reports.add(client.send_json(Method::POST, &path, part).await?);
    }
    Ok(reports)
}

/// Splits a backup into requests. The settings are in the last, with which the cluster key is written.
fn parts(backup: Backup) -> Vec<Backup> {
    let empty = Backup {
        manifests: BTreeMap::new(),
        labels: BTreeMap::new(),
        availability: BTreeMap::new(),
        config: BTreeMap::new(),
        pins: BTreeMap::new(),
        ..backup.clone()
    };
    let pins = in_parts(backup.pins, |pin| {
        serde_json::to_vec(pin).map_or(0, |text| text.len())
    });
    let mut parts: Vec<Backup> = in_parts(backup.manifests, |manifest| manifest.to_string().len())
        .into_iter()
        .map(|manifests| Backup {
            manifests,
            ..empty.clone()
        })
        .collect();
    parts.extend(pins.into_iter().map(|pins| Backup {
        pins,
        ..empty.clone()
    }));
    parts.push(Backup {
        labels: backup.labels,
        availability: backup.availability,
        config: backup.config,
        ..empty
    });
    parts
}

/// Splits by the size of names and values.
fn in_parts<T>(all: BTreeMap<String, T>, length: impl Fn(&T) -> usize) -> Vec<BTreeMap<String, T>> {
    let mut parts = Vec::new();
    let mut part = BTreeMap::new();
    let mut size = 0;
    for (name, value) in all {
        let more = name.len() + length(&value);
        if size > 0 && size + more > PART {
            parts.push(std::mem::take(&mut part));
            size = 0;
        }
        size += more;
        part.insert(name, value);
    }
    parts.push(part);
    parts
}

fn show(reports: &Reports) {
    for key in reports
        .keys
        .iter()
        .filter(|key| key.what != RestoreAction::Same)
    {
        let why = key
            .why
            .as_ref()
            .map_or(String::new(), |why| format!(": {why}"));
        output::note(&format!(
            "{:8} {}{}",
            key.what,
            key.key,
            output::one_line(&why)
        ));
    }
    output::note(&reports.counts());
    if let Some(cluster) = &reports.cluster {
        output::note(&format!(
            "etcd has lost its cluster key: last of all it is restored as {}, epoch {}, which ends the hold",
            cluster.id, cluster.epoch
        ));
    }
}

async fn accept(args: &RestoreArgs, global: &GlobalArgs) -> Result<(), CommandError> {
    let client = Client::new(global)?;
    let looked: Acceptance = client.get("accept").await?;
    lists::note_age(false, &looked.notices);
    for host in &looked.hosts {
        output::note(&verdict(host.host.as_str(), &host.report));
        for stop in &host.report.would_stop {
            output::note(&format!("  {} stops: {}", stop.slot, stop.why));
        }
        for orphan in &host.report.orphans {
            output::note(&format!(
                "  {orphan} has no manifest: kept until `dokkaa rm {}`",
                orphan.container
            ));
        }
    }
    ask::confirm(
        args.yes,
        &format!(
            "go on with etcd as it is, as epoch {}?",
            looked.cluster.epoch
        ),
        "nothing was accepted",
    )?;
    let path = format!("accept?revision={}", looked.revision);
    let accepted: Acceptance = client.send_json(Method::POST, &path, &()).await?;
    output::print(&format!("accepted: epoch {}\n", accepted.cluster.epoch))
}

fn verdict(host: &str, report: &HoldReport) -> String {
    let held = match &report.held {
        Some(why) => format!("in hold: {}", output::one_line(why)),
        None => "not in hold".to_owned(),
    };
    let does = match (report.would_stop.len(), report.orphans.len()) {
        (0, 0) => "nothing stops".to_owned(),
        (stops, 0) => format!("{stops} stop"),
        (0, orphans) => format!("nothing stops, {orphans} have no manifest"),
        (stops, orphans) => format!("{stops} stop, {orphans} have no manifest"),
    };
    format!("{host} ({held}): {does}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::records::Data;
    use serde_json::json;
    use uuid::Uuid;

    #[test]
    fn a_large_backup_is_split_into_requests() {
        let pin = Data {
            host: "h1".parse().expect("a host's name"),
            host_id: Uuid::from_u128(1),
            volumes: vec!["x".repeat(300)],
            existing: Vec::new(),
            driver: None,
        };
        let manifests = (0..40)
            .map(|n| (format!("shop/c{n}"), json!({"image": "x".repeat(100_000)})))
            .collect();
        let backup = Backup {
            version: 1,
            cluster: None,
            manifests,
            labels: BTreeMap::new(),
            availability: BTreeMap::new(),
            config: [("x".to_owned(), "1".to_owned())].into(),
            pins: (0..3000)
                .map(|n| (format!("shop/db/{n}"), pin.clone()))
                .collect(),
        };
        let whole = backup.clone();
        let parts = parts(backup);
        assert!(parts.len() >= 5, "{}", parts.len());
        let mut together = BTreeMap::new();
        let mut pins = BTreeMap::new();
        for part in &parts {
            assert!(serde_json::to_vec(part).is_ok_and(|body| body.len() < 1 << 20));
            together.extend(part.manifests.clone());
            pins.extend(part.pins.clone());
        }
        assert_eq!(together, whole.manifests);
        assert_eq!(pins, whole.pins);
        let config = |part: &Backup| part.config.clone();
        assert_eq!(parts.last().map(config), Some(whole.config));
    }
}
