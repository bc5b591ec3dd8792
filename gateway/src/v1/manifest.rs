//! Manifests: read from etcd itself, validated, written by compare-and-swap.
//!
//! An orphan (claimed, but without a manifest after an accepted restore) is
//! removed by its claims: their owners then stop the containers.

use model::ModRev;
use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use manifests::keys::{self, Key};
use manifests::{AppName, ContainerId, ContainerName, Manifest};
use model::links;
use model::links::LinkWarning;
use store::kv::{KeyRange, KeyValue, Range, RangeReply, Relation, Target};
use store::settle::{self, Deletions, Mark, Tried};
use store::{Compare, Op, OpReply, Txn, TxnReply};
use tokio::time::Instant;

use super::api::Api;
use super::reply::{ApiFailure, ApiResult, PathParams};
use super::types::{ManifestText, Removed, Written};

/// Largest body, in bytes.
pub(super) const MAX_BODY: usize = 1 << 20;
/// Deletions in one transaction; etcd takes 128 operations by default.
const DELETIONS: usize = 100;
/// No try of a write begins later, while others write the same manifest or etcd does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

type Name = PathParams<(AppName, ContainerName)>;

fn id(PathParams((app, container)): Name) -> ContainerId {
    ContainerId::new(app, container)
}

/// `GET`: by a linearizable read, so that it shows a write before it.
pub(super) async fn read(State(api): State<Api>, name: Name) -> ApiResult<ManifestText> {
    let id = id(name);
    let key = Key::Manifest(id.clone()).to_string();
    let reply = api.range(Range::new(KeyRange::key(key))).await?;
    let kv = reply
        .kvs
        .into_iter()
        .next()
        .ok_or_else(|| ApiFailure::no_container(&id))?;
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
) -> Result<(StatusCode, Json<Written>), ApiFailure> {
    let id = id(name);
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiFailure::too_large(MAX_BODY),
        _ => ApiFailure::bad(rejection.body_text()),
    })?;
    let key = Key::Manifest(id.clone()).to_string();
    let required = precondition(&headers)?;
    let parsed = manifests::parse::strict(&body).map_err(|problems| {
        ApiFailure::invalid(problems.iter().map(ToString::to_string).collect())
    })?;
    let links = link_warnings(&api, &id, &parsed.manifest);
    let refused = links.iter().filter(|link| link.is_error());
    let refused: Vec<String> = refused.map(|link| format!("1:1 links: {link}")).collect();
    if !refused.is_empty() {
        return Err(ApiFailure::invalid(refused));
    }
    let (before, revision) = put(&api, &key, &body, &required).await?;
    let own = parsed.warnings.iter().map(ToString::to_string);
    let warnings = own.chain(links.iter().map(ToString::to_string)).collect();
    // Spaces and the order of fields change nothing.
    let is_same = |kv: &KeyValue| {
        let value = serde_json::from_slice::<serde_json::Value>(&kv.value);
        value.is_ok_and(|value| value == parsed.json)
    };
    let written = Written {
        app: id.app,
        container: id.container,
        revision,
        created: before.is_none(),
        changed: before.is_none_or(|kv| !is_same(&kv)),
        warnings,
    };
    let status = if written.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, Json(written)))
}

/// Puts a manifest over what is there now; what that was, and the revision.
///
/// The same manifest, put by another client just then, is as good as one's own.
async fn put(
    api: &Api,
    key: &str,
    body: &Bytes,
    required: &[ModRev],
) -> Result<(Option<KeyValue>, i64), ApiFailure> {
    let kv = api.agent.kv();
    let until = Instant::now() + PATIENCE;
    let read = vec![Op::Get(KeyRange::key(key))];
    let look = Txn::new(Vec::new(), read.clone());
    let looked = settle::try_until(kv.as_ref(), &look, until).await;
    let mut seen = looked.map_err(|error| ApiFailure::etcd_read(&error))?.reply;
    loop {
        let before = first_read(&seen).cloned();
        let modified = before.as_ref().map_or(0, |kv| kv.modified);
        if required.iter().any(|required| required.0 != modified) {
            return Err(ApiFailure::precondition(modified));
        }
        let txn = Txn {
            guards: vec![Compare::modified(key, ModRev(modified))],
            then: vec![Op::put(key, body.to_vec())],
            otherwise: read.clone(),
        };
        let mark = Mark {
            key,
            value: body,
            after: seen.revision,
            deletions: Deletions::Untold,
        };
        let reply = settle::settle(kv.as_ref(), &txn, mark, until).await;
        let reply = reply.map_err(|error| ApiFailure::etcd_write(&error))?;
        if reply.succeeded {
            return Ok((before, reply.revision));
        }
        if Instant::now() > until {
            return Err(ApiFailure::changed());
        }
        seen = reply;
    }
}

/// Warnings about links, by this agent's view; none before the first.
fn link_warnings(api: &Api, id: &ContainerId, manifest: &Manifest) -> Vec<LinkWarning> {
    let Some(view) = api.agent.view() else {
        return Vec::new();
    };
    links::warnings(&view.snapshot, &view.directory, id, manifest)
}

/// `DELETE` of one container's manifest.
pub(super) async fn delete(
    State(api): State<Api>,
    name: Name,
    headers: HeaderMap,
) -> ApiResult<Removed> {
    let id = id(name);
    let key = Key::Manifest(id.clone()).to_string();
    let required = precondition(&headers)?.into_iter();
    let mut guards: Vec<Compare> = required.map(|at| Compare::modified(&key, at)).collect();
    guards.push(Compare::new(
        KeyRange::key(key.clone()),
        Relation::Greater,
        Target::Version(0),
    ));
    let txn = Txn {
        guards,
        then: vec![Op::delete(&key)],
        otherwise: vec![Op::Get(KeyRange::key(key))],
    };
    let kv = api.agent.kv();
    let tried = settle::try_until(kv.as_ref(), &txn, Instant::now() + PATIENCE).await;
    let Tried { reply, unsure } = tried.map_err(|error| ApiFailure::etcd_write(&error))?;
    if reply.succeeded || unsure && first_read(&reply).is_none() {
        return Ok(Json(Removed {
            containers: vec![id],
        }));
    }
    if let Some(kv) = first_read(&reply) {
        return Err(ApiFailure::precondition(kv.modified));
    }
    release_claims(&api, &id).await?;
    Ok(Json(Removed {
        containers: vec![id],
    }))
}

/// Deletes the claims of a container without a manifest, unless they change meanwhile.
async fn release_claims(api: &Api, id: &ContainerId) -> Result<(), ApiFailure> {
    let slots = KeyRange::prefix(&keys::slots_of(id));
    let reply = api.range(Range::new(slots.clone())).await?;
    let claimed = |kv: &KeyValue| matches!(Key::parse(&kv.key), Some(Key::Claim(_)));
    if !reply.kvs.iter().any(claimed) {
        return Err(ApiFailure::no_container(id));
    }
    let unchanged = Compare::new(
        slots.clone(),
        Relation::Less,
        Target::Modified(reply.revision + 1),
    );
    let guards = vec![Compare::absent(Key::Manifest(id.clone())), unchanged];
    api.write(guards, vec![Op::Delete(slots)]).await
}

/// `DELETE` of all manifests of an app; other keys below it stay.
pub(super) async fn delete_app(
    State(api): State<Api>,
    PathParams(app): PathParams<AppName>,
) -> ApiResult<Removed> {
    let read = async |prefix: String| {
        let keys = Range::new(KeyRange::prefix(&prefix));
        let keys_only = true;
        api.range(Range { keys_only, ..keys }).await
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
        return Err(ApiFailure::not_found(format!("there is no app {app}")));
    }
    let mut containers: Vec<ContainerId> = containers.into_iter().collect();
    for some in containers.chunks(DELETIONS) {
        let deletions = some
            .iter()
            .map(|id| Op::delete(Key::Manifest(id.clone())))
            .collect();
        api.txn(Txn::new(Vec::new(), deletions)).await?;
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

/// The revisions that the manifest has to be at; 0 is none.
fn precondition(headers: &HeaderMap) -> Result<Vec<ModRev>, ApiFailure> {
    let mut required = Vec::new();
    if let Some(value) = headers.get(IF_MATCH) {
        let revision = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().trim_matches('"').parse::<i64>().ok())
            .filter(|revision| *revision > 0)
            .ok_or_else(|| ApiFailure::bad("If-Match: expected one revision, such as \"12\""))?;
        required.push(ModRev(revision));
    }
    if let Some(value) = headers.get(IF_NONE_MATCH) {
        if value.as_bytes() != b"*" {
            return Err(ApiFailure::bad("If-None-Match: expected *"));
        }
        required.push(ModRev(0));
    }
    Ok(required)
}
