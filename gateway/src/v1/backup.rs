//! `backup` and `restore`: what users and operators put into a cluster, as one JSON document.
//!
//! Keys of agents are left out: they follow from the manifests and from what
//! runs. Not so the pins of data: of a slot that does not run, no host knows that
//! its data is there. A restore is decided by one pure function on a fresh list, and its
//! writes are guarded by that list; repeated, it writes only what is missing.
//! Where etcd has lost its cluster key, that is written last: it ends the hold
//! of the agents, and by then every manifest has to be there.

use model::ModRev;
use model::snapshot::mod_rev;
use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use manifests::keys::{CLAIMS, CONFIG, Key};
use manifests::{ContainerId, placement};
use model::records::{Cluster, Data};
use serde::Deserialize;
use serde_json::Value;
use store::kv::KeyValue;
use store::{Compare, Op};

use super::api::Api;
use super::hold::epochs;
use super::hosts::check_labels;
use super::list::List;
use super::reply::{ApiFailure, ApiResult, JsonBody, QueryParams};
use super::types::{BACKUP_VERSION, Backup, RestoreAction, RestoreReport, RestoredKey};

/// Size of one transaction; etcd takes 128 operations and 1.5 MiB by default.
const WRITES: usize = 100;
const BYTES: usize = 1 << 19;

/// `GET backup`.
pub(super) async fn backup(State(api): State<Api>) -> ApiResult<Backup> {
    // Before the first view it is not known whether etcd is trusted.
    let hold = api.view()?.hold;
    let list = api.list().await?;
    match refusal(&list, hold.as_deref()) {
        Some(why) => Err(ApiFailure::conflict(why)),
        None => Ok(Json(of(&list))),
    }
}

/// Why no backup is made of this list: it would take the place of a good one. Pure.
fn refusal(list: &List, hold: Option<&str>) -> Option<String> {
    let why = match hold {
        Some(hold) => format!("this agent is in hold ({hold})"),
        None if list.snapshot.cluster.is_none() => {
            "etcd has no cluster key: it is empty, or was emptied".to_owned()
        }
        None => return None,
    };
    Some(format!(
        "no backup is made, since etcd may not be the cluster's, or be an older state of it: {why}. Keep the last \
         backup; `dokkaa restore` puts it back, `dokkaa restore --accept` goes on with etcd as it is"
    ))
}

/// Backup of a list. Pure.
pub fn of(list: &List) -> Backup {
    let mut backup = Backup {
        version: BACKUP_VERSION,
        cluster: list.snapshot.cluster.as_ref().map(|c| c.value.clone()),
        manifests: BTreeMap::new(),
        labels: BTreeMap::new(),
        availability: BTreeMap::new(),
        config: BTreeMap::new(),
        pins: BTreeMap::new(),
    };
    for kv in &list.kvs {
        match Key::parse(&kv.key) {
            Some(Key::Manifest(id)) => {
                backup.manifests.insert(id.to_string(), manifest(&kv.value));
            }
            None => {
                if let Some(name) = kv.key.strip_prefix(CONFIG) {
                    let value = String::from_utf8_lossy(&kv.value).into_owned();
                    backup.config.insert(name.to_owned(), value);
                }
            }
            Some(_) => {}
        }
    }
    for (host, view) in &list.snapshot.hosts {
        if let Some(labels) = &view.labels {
            backup.labels.insert(host.clone(), labels.value.clone());
        }
        if let Some(availability) = &view.availability {
            backup.availability.insert(host.clone(), availability.value);
        }
    }
    for (id, container) in &list.snapshot.containers {
        for (number, slot) in &container.slots {
            if let Some(data) = &slot.data {
                let slot = id.slot(*number).to_string();
                backup.pins.insert(slot, data.value.clone());
            }
        }
    }
    backup
}

/// A manifest in a backup: as an object, or as text if it is none.
fn manifest(text: &[u8]) -> Value {
    match serde_json::from_slice(text) {
        Ok(value @ Value::Object(_)) => value,
        _ => Value::String(String::from_utf8_lossy(text).into_owned()),
    }
}

/// Query of `POST restore`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct RestoreQuery {
    /// Only report what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Overwrite keys that differ.
    #[serde(default)]
    pub overwrite: bool,
    /// The backup is of another cluster: restore only its manifests.
    #[serde(default)]
    pub new_cluster: bool,
    /// More parts follow: do not write the cluster key yet.
    #[serde(default)]
    pub more: bool,
    /// Revision at which the differences were shown: keys changed since are kept.
    pub seen: Option<i64>,
}

/// `POST restore`.
pub(super) async fn restore(
    State(api): State<Api>,
    QueryParams(query): QueryParams<RestoreQuery>,
    JsonBody(backup): JsonBody<Backup>,
) -> ApiResult<RestoreReport> {
    let list = api.list().await?;
    let own = api.agent.cluster();
    let plan = plan(&backup, &list, own.as_ref(), query).map_err(ApiFailure::conflict)?;
    if !query.dry_run {
        api.carry_out(&plan, &list).await?;
    }
    Ok(Json(RestoreReport {
        keys: plan.keys,
        cluster: plan.cluster,
        hold: api.agent.view().and_then(|view| view.hold),
        revision: list.snapshot.revision,
        written: !query.dry_run,
    }))
}

/// Plan of a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePlan {
    /// By key.
    pub keys: Vec<RestoredKey>,
    /// Keys to write, with values, and revisions to overwrite; 0 is none.
    pub writes: Vec<(String, Vec<u8>, i64)>,
    /// The cluster key, written last.
    pub cluster: Option<Cluster>,
}

/// Plans to restore `backup` into etcd as it is. `own` is the cluster of this agent. Pure.
pub fn plan(
    backup: &Backup,
    list: &List,
    own: Option<&Cluster>,
    query: RestoreQuery,
) -> Result<RestorePlan, String> {
    if backup.version != BACKUP_VERSION {
        return Err(format!(
            "the backup is of version {}; this agent reads {BACKUP_VERSION}",
            backup.version
        ));
    }
    let mut plan = RestorePlan {
        keys: Vec::new(),
        writes: Vec::new(),
        cluster: cluster(backup, list, own, query)?,
    };
    for (name, value) in &backup.manifests {
        plan.manifest(name, value, list, query)?;
    }
    if query.new_cluster {
        return Ok(plan);
    }
    let labels = backup.labels.iter().map(|(host, labels)| {
        let key = Key::Labels(host.clone()).to_string();
        (key, json(labels), check_labels(labels))
    });
    let availability = backup
        .availability
        .iter()
        .map(|(host, wanted)| (Key::Availability(host.clone()).to_string(), json(wanted)))
        .map(|(key, value)| (key, value, Ok(())));
    let config = backup.config.iter().map(|(name, value)| {
        let key = format!("{CONFIG}{name}");
        (key, value.clone().into_bytes(), check_setting(name))
    });
    for (key, value, checked) in labels.chain(availability).chain(config) {
        if let Err(why) = checked {
            plan.invalid(key, why);
            continue;
        }
        let same = list.get(&key).is_some_and(|now| now.value == value);
        plan.key(list.get(&key), key, value, same, query);
    }
    for (name, data) in &backup.pins {
        plan.pin(name, data, list)?;
    }
    Ok(plan)
}

/// A setting's name is like a label's, and the keys API can spell it.
fn check_setting(name: &str) -> Result<(), String> {
    placement::check_label(name).map_err(|error| format!("the name {error}"))?;
    if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("the name has an empty part, `.` or `..` in it".to_owned());
    }
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("records always serialize")
}

/// The cluster key to write, if etcd has none; or why this backup does not fit this etcd.
fn cluster(
    backup: &Backup,
    list: &List,
    own: Option<&Cluster>,
    query: RestoreQuery,
) -> Result<Option<Cluster>, String> {
    let now = list.snapshot.cluster.as_ref().map(|now| &now.value);
    let Some(then) = &backup.cluster else {
        return match now {
            Some(_) if query.new_cluster => Ok(None),
            _ => {
                Err("the backup names no cluster: --new-cluster restores its manifests".to_owned())
            }
        };
    };
    match (now, own) {
        (Some(_), _) if query.new_cluster => Ok(None),
        (None, _) if query.new_cluster => Err(
            "etcd has no cluster yet, so --new-cluster is not it: start an agent that makes one, or leave the flag out \
             to give etcd the backup's cluster back"
                .to_owned(),
        ),
        (Some(other), _) | (None, Some(other)) if other.id != then.id => Err(format!(
            "the backup is of cluster {}, this is cluster {}: --new-cluster restores its manifests only",
            then.id, other.id
        )),
        (Some(_), _) => Ok(None),
        (None, _) if query.more => Ok(None),
        (None, own) => {
            let known = epochs(&list.snapshot).chain(own.map(|own| own.epoch));
            let epoch = known.fold(then.epoch, u64::max) + 1;
            Ok(Some(Cluster { id: then.id, epoch }))
        }
    }
}

impl RestorePlan {
    fn manifest(
        &mut self,
        name: &str,
        value: &Value,
        list: &List,
        query: RestoreQuery,
    ) -> Result<(), String> {
        let id: ContainerId = name
            .parse()
            .map_err(|error| format!("manifests: `{name}` is no app/container: {error}"))?;
        let key = Key::Manifest(id).to_string();
        let text = match value {
            Value::String(text) => text.clone(),
            value => format!("{value:#}\n"),
        };
        let now = list.get(&key);
        if now.is_some_and(|now| manifest(&now.value) == *value) {
            self.key(now, key, text.into_bytes(), true, query);
        } else if let Err(problems) = manifests::parse::lenient(text.as_bytes()) {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            self.invalid(key, problems.join("; "));
        } else {
            self.key(now, key, text.into_bytes(), false, query);
        }
        Ok(())
    }

    /// A pin is written only where there is none: one that is there is of what has run since, and so is a claim.
    fn pin(&mut self, name: &str, data: &Data, list: &List) -> Result<(), String> {
        let key = name
            .rsplit_once('/')
            .and_then(|(container, slot)| Key::parse(&format!("{CLAIMS}{container}/data/{slot}")));
        let Some(Key::Data(slot)) = key else {
            return Err(format!("pins: `{name}` is no app/container/slot"));
        };
        let key = Key::Data(slot.clone()).to_string();
        let view = list.snapshot.slot(&slot);
        let noted = view.and_then(|view| view.data.as_ref());
        let claim = view.and_then(|view| view.claim.as_ref());
        let (what, why) = match (list.get(&key), claim) {
            (Some(_), _) if noted.is_some_and(|noted| noted.value == *data) => {
                (RestoreAction::Same, None)
            }
            (Some(_), _) => {
                let why = "its data was noted elsewhere, or otherwise, since".to_owned();
                (RestoreAction::Kept, Some(why))
            }
            (None, Some(claim)) => {
                let why = format!("{} owns the slot", claim.host);
                (RestoreAction::Kept, Some(why))
            }
            (None, None) => {
                self.writes.push((key.clone(), json(data), 0));
                (RestoreAction::Added, None)
            }
        };
        self.keys.push(RestoredKey { key, what, why });
        Ok(())
    }

    fn invalid(&mut self, key: String, why: String) {
        self.keys.push(RestoredKey {
            key: key.escape_debug().to_string(),
            what: RestoreAction::Invalid,
            why: Some(why),
        });
    }

    fn key(
        &mut self,
        now: Option<&KeyValue>,
        key: String,
        value: Vec<u8>,
        same: bool,
        query: RestoreQuery,
    ) {
        let (what, why) = match now {
            _ if same => (RestoreAction::Same, None),
            None => (RestoreAction::Added, None),
            Some(now) if query.seen.is_some_and(|seen| now.modified > seen) => (
                RestoreAction::Kept,
                Some("it has changed since it was shown".to_owned()),
            ),
            Some(_) if query.overwrite => (RestoreAction::Replaced, None),
            Some(_) => (
                RestoreAction::Kept,
                Some("it differs; --overwrite takes the backup's".to_owned()),
            ),
        };
        if matches!(what, RestoreAction::Added | RestoreAction::Replaced) {
            let over = now.map_or(0, |now| now.modified);
            self.writes.push((key.clone(), value, over));
        }
        self.keys.push(RestoredKey { key, what, why });
    }
}

impl Api {
    /// Batches, each guarded by what it writes over and by the cluster key as it was listed.
    async fn carry_out(&self, plan: &RestorePlan, list: &List) -> Result<(), ApiFailure> {
        let cluster = mod_rev(list.snapshot.cluster.as_ref());
        let fresh = || {
            (
                vec![Compare::modified(Key::Cluster, cluster)],
                Vec::new(),
                0,
            )
        };
        let (mut guards, mut ops, mut bytes) = fresh();
        for (key, value, over) in &plan.writes {
            // A pin has two guards.
            if guards.len() > WRITES || (bytes > 0 && bytes + value.len() > BYTES) {
                self.write_batch(guards, ops).await?;
                (guards, ops, bytes) = fresh();
            }
            guards.push(Compare::modified(key, ModRev(*over)));
            if let Some(Key::Data(slot)) = Key::parse(key) {
                guards.push(Compare::modified(Key::Claim(slot), ModRev(0)));
            }
            ops.push(Op::put(key, value.clone()));
            bytes += value.len();
        }
        if let Some(cluster) = &plan.cluster {
            ops.push(Op::put_json(Key::Cluster, cluster));
        }
        if ops.is_empty() {
            return Ok(());
        }
        self.write_batch(guards, ops).await
    }

    async fn write_batch(&self, guards: Vec<Compare>, ops: Vec<Op>) -> Result<(), ApiFailure> {
        if self.try_write(guards, ops).await? {
            Ok(())
        } else {
            Err(ApiFailure::conflict(
                "another client wrote at the same time, and the rest was not restored; restore again",
            ))
        }
    }
}
