//! Manifests: read from etcd itself, written by compare-and-swap, never unless valid.
//!
//! Where a container has no manifest but is claimed all the same (an orphan of
//! an accepted restore), removing it means its claims: who has them then stops
//! what runs, in order.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use manifests::keys::{self, Key};
use manifests::parse::Problem;
use manifests::{AppName, ContainerId, ContainerName, Manifest};
use model::links;
use model::links::LinkWarning;
use store::kv::{KeyRange, KeyValue, Range, RangeReply, Relation, Target};
use store::{Compare, Op, OpReply, Txn, TxnReply};

use super::Api;
use super::reply::{Failure, Named, Reply};
use super::types::{ManifestText, Removed, Written};

/// Largest body, in bytes.
pub(super) const MAX_BODY: usize = 1 << 20;
/// Deletions in one transaction; etcd takes 128 operations by default.
const DELETIONS: usize = 100;

type Name = Named<(AppName, ContainerName)>;

fn id(Named((app, container)): Name) -> ContainerId {
    ContainerId::new(app, container)
}

/// `GET`: as it stands in etcd, by a linearizable read, so that what follows a write shows it.
pub(super) async fn read(State(api): State<Api>, name: Name) -> Reply<ManifestText> {
    let id = id(name);
    let key = Key::Manifest(id.clone()).to_string();
    let reply = api
        .facilities
        .kv()
        .range(Range::new(KeyRange::key(key)))
        .await
        .map_err(|error| Failure::etcd_read(&error))?;
    let kv = reply
        .kvs
        .into_iter()
        .next()
        .ok_or_else(|| Failure::no_container(&id))?;
    let errors = match manifests::parse::lenient(&kv.value) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    };
    Ok(Json(ManifestText {
        app: id.app,
        container: id.container,
        revision: kv.modified,
        manifest: String::from_utf8_lossy(&kv.value).into_owned(),
        errors,
    }))
}

/// `PUT`: with `If-Match: "<revision>"` or `If-None-Match: *` only if that holds.
pub(super) async fn write(
    State(api): State<Api>,
    name: Name,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Written>), Failure> {
    let id = id(name);
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::too_large(MAX_BODY),
        _ => Failure::bad(rejection.body_text()),
    })?;
    let key = Key::Manifest(id.clone()).to_string();
    let guards = precondition(&headers, &key)?;
    let parsed = manifests::parse::strict(&body)
        .map_err(|problems| Failure::invalid(problems.iter().map(ToString::to_string).collect()))?;
    let links = link_warnings(&api, &id, &parsed.manifest);
    let refused = links.iter().filter(|link| link.is_error()).map(|link| {
        let problem = Problem {
            line: 1,
            column: 1,
            field: "links".to_owned(),
            what: link.to_string(),
        };
        problem.to_string()
    });
    let refused: Vec<String> = refused.collect();
    if !refused.is_empty() {
        return Err(Failure::invalid(refused));
    }
    let before = Op::Get(KeyRange::key(key.clone()));
    let reply = api
        .facilities
        .kv()
        .txn(Txn {
            guards,
            then: vec![before.clone(), Op::put(&key, body.to_vec())],
            otherwise: vec![before],
        })
        .await
        .map_err(|error| Failure::etcd_write(&error))?;
    let before = first_read(&reply);
    if !reply.succeeded {
        return Err(Failure::precondition(before.map_or(0, |kv| kv.modified)));
    }
    let warnings = links.iter().map(ToString::to_string).collect();
    let written = Written {
        app: id.app,
        container: id.container,
        revision: reply.revision,
        created: before.is_none(),
        changed: before.is_none_or(|kv| kv.value != body),
        warnings,
    };
    let status = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(written)))
}

/// As far as this agent sees the cluster; none before its first view.
fn link_warnings(api: &Api, id: &ContainerId, manifest: &Manifest) -> Vec<LinkWarning> {
    let Some(seen) = api.facilities.snapshot() else {
        return Vec::new();
    };
    links::warnings(&seen.snapshot, &seen.directory, id, manifest)
}

/// `DELETE` of one container's manifest.
pub(super) async fn delete(
    State(api): State<Api>,
    name: Name,
    headers: HeaderMap,
) -> Reply<Removed> {
    let id = id(name);
    let key = Key::Manifest(id.clone()).to_string();
    let mut guards = precondition(&headers, &key)?;
    guards.push(Compare::new(
        KeyRange::key(key.clone()),
        Relation::Greater,
        Target::Version(0),
    ));
    let reply = api
        .facilities
        .kv()
        .txn(Txn {
            guards,
            then: vec![Op::delete(&key)],
            otherwise: vec![Op::Get(KeyRange::key(key))],
        })
        .await
        .map_err(|error| Failure::etcd_write(&error))?;
    if reply.succeeded {
        return Ok(Json(Removed {
            containers: vec![id],
        }));
    }
    if let Some(kv) = first_read(&reply) {
        return Err(Failure::precondition(kv.modified));
    }
    release_claims(&api, &id).await?;
    Ok(Json(Removed {
        containers: vec![id],
    }))
}

/// Takes the slots of a container without a manifest from whoever has them, as they were seen.
async fn release_claims(api: &Api, id: &ContainerId) -> Result<(), Failure> {
    let slots = KeyRange::prefix(&keys::slots_of(id));
    let reply = api
        .facilities
        .kv()
        .range(Range::new(slots.clone()))
        .await
        .map_err(|error| Failure::etcd_read(&error))?;
    let claimed = |kv: &KeyValue| matches!(Key::parse(&kv.key), Some(Key::Claim(_)));
    if !reply.kvs.iter().any(claimed) {
        return Err(Failure::no_container(id));
    }
    let unchanged = Compare::new(
        slots.clone(),
        Relation::Less,
        Target::Modified(reply.revision + 1),
    );
    let guards = vec![Compare::absent(Key::Manifest(id.clone())), unchanged];
    if api.write(guards, vec![Op::Delete(slots)]).await? {
        Ok(())
    } else {
        Err(Failure::changed())
    }
}

/// `DELETE` of all manifests of an app; other keys below it stay.
pub(super) async fn delete_app(
    State(api): State<Api>,
    Named(app): Named<AppName>,
) -> Reply<Removed> {
    let kv = api.facilities.kv();
    let read = async |prefix: String| {
        kv.range(Range {
            keys_only: true,
            ..Range::new(KeyRange::prefix(&prefix))
        })
        .await
        .map_err(|error| Failure::etcd_read(&error))
    };
    let (manifests, claims) = tokio::try_join!(
        read(keys::app(&app)),
        read(format!("{}{app}/", keys::CLAIMS))
    )?;
    let containers: BTreeSet<ContainerId> = named(&manifests, |key| match key {
        Key::Manifest(id) => Some(id),
        _ => None,
    });
    let claimed = named(&claims, |key| match key {
        Key::Claim(slot) => Some(slot.container),
        _ => None,
    });
    let orphans: Vec<ContainerId> = claimed.difference(&containers).cloned().collect();
    if containers.is_empty() && orphans.is_empty() {
        return Err(Failure::not_found(format!("there is no app {app}")));
    }
    let mut containers: Vec<ContainerId> = containers.into_iter().collect();
    for some in containers.chunks(DELETIONS) {
        let deletions = some
            .iter()
            .map(|id| Op::delete(Key::Manifest(id.clone())))
            .collect();
        kv.txn(Txn::new(Vec::new(), deletions))
            .await
            .map_err(|error| Failure::etcd_write(&error))?;
    }
    for id in &orphans {
        release_claims(&api, id).await?;
    }
    containers.extend(orphans);
    containers.sort();
    Ok(Json(Removed { containers }))
}

fn named(reply: &RangeReply, of: impl Fn(Key) -> Option<ContainerId>) -> BTreeSet<ContainerId> {
    let keys = reply.kvs.iter().filter_map(|kv| Key::parse(&kv.key));
    keys.filter_map(of).collect()
}

fn first_read(reply: &TxnReply) -> Option<&KeyValue> {
    reply.replies.iter().find_map(|reply| match reply {
        OpReply::Get(kvs) => kvs.first(),
        _ => None,
    })
}

fn precondition(headers: &HeaderMap, key: &str) -> Result<Vec<Compare>, Failure> {
    let mut guards = Vec::new();
    if let Some(value) = headers.get(IF_MATCH) {
        let revision = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().trim_matches('"').parse::<i64>().ok())
            .filter(|revision| *revision > 0)
            .ok_or_else(|| Failure::bad("If-Match: expected one revision, such as \"12\""))?;
        guards.push(Compare::modified(key, revision));
    }
    if let Some(value) = headers.get(IF_NONE_MATCH) {
        if value.as_bytes() != b"*" {
            return Err(Failure::bad("If-None-Match: expected *"));
        }
        guards.push(Compare::absent(key));
    }
    Ok(guards)
}
