//! `versions`: what a container ran, and can be given back. Read from etcd itself, at one revision.

use axum::Json;
use axum::extract::State;
use manifests::keys::{self, Key};
use manifests::{AppName, ContainerId, ContainerName};
use model::Snapshot;
use model::snapshot::{Change, ContainerView, Desired};
use planner::rollout::{self, Target};
use store::kv::{KeyRange, KeyValue};
use store::{Op, OpReply, Txn};

use super::api::Api;
use super::reply::{ApiFailure, ApiResult, PathParams};
use super::types::{History, VersionRow};

/// `GET versions/<app>/<container>`.
pub(super) async fn history(
    State(api): State<Api>,
    PathParams((app, container)): PathParams<(AppName, ContainerName)>,
) -> ApiResult<History> {
    let id = ContainerId::new(app, container);
    let read = Read::now(&api, &id).await?;
    let history = of(&id, &read);
    history
        .map(Json)
        .ok_or_else(|| ApiFailure::no_container(&id))
}

/// The keys of a container at one revision.
pub(super) struct Read {
    snapshot: Snapshot,
    /// The manifest as it was written.
    text: Option<Vec<u8>>,
}

impl Read {
    /// A linearizable read.
    pub(super) async fn now(api: &Api, id: &ContainerId) -> Result<Self, ApiFailure> {
        let manifest = Key::Manifest(id.clone()).to_string();
        let read = vec![
            Op::Get(KeyRange::key(manifest.clone())),
            Op::Get(KeyRange::prefix(&keys::claims_of(id))),
        ];
        let reply = api.txn(Txn::new(Vec::new(), read)).await?;
        let kvs = reply.replies.into_iter().flat_map(|reply| match reply {
            OpReply::Get(kvs) => kvs,
            _ => Vec::new(),
        });
        let kvs: Vec<KeyValue> = kvs.collect();
        let text = kvs.iter().find(|kv| kv.key == manifest);
        let text = text.map(|kv| kv.value.clone());
        let mut snapshot = Snapshot::default();
        let changes = kvs.into_iter().map(|kv| Change::Put {
            key: kv.key,
            value: kv.value,
            modified: kv.modified,
            created: kv.created,
        });
        snapshot.apply(changes, reply.revision);
        Ok(Self { snapshot, text })
    }

    /// The container; none without any key.
    pub(super) fn view(&self, id: &ContainerId) -> Option<&ContainerView> {
        self.snapshot.containers.get(id).map(AsRef::as_ref)
    }
}

/// None without a manifest.
fn of(id: &ContainerId, read: &Read) -> Option<History> {
    let view = read.view(id)?;
    let desired = view.manifest.as_ref()?;
    let target = Target::of(view);
    let runs = |version| {
        let claims = view.slots.iter();
        let claims = claims.filter_map(|(slot, keys)| Some((*slot, keys.claim.as_ref()?.version)));
        claims
            .filter(|(_, rev)| match &target {
                Some(target) if !target.outdates(view, *rev) => target.rev() == version,
                _ => *rev == version,
            })
            .map(|(slot, _)| slot)
            .collect()
    };
    let mut versions: Vec<VersionRow> = rollout::counting(view)
        .map(|(rev, version, manifest)| VersionRow {
            version: rev.0,
            image: manifest.image.clone(),
            digest: Some(version.version.image.clone()),
            good: version.version.good,
            slots: runs(rev),
            manifest: version.version.manifest.value(),
        })
        .collect();
    if let Some(Target::Undecided {
        rev,
        manifest,
        text,
    }) = &target
    {
        versions.push(VersionRow {
            version: rev.0,
            image: manifest.image.clone(),
            digest: None,
            good: false,
            slots: runs(*rev),
            manifest: text.value(),
        });
    }
    versions.reverse();
    let is_valid = matches!(desired.value, Desired::Valid { .. });
    Some(History {
        app: id.app.clone(),
        container: id.container.clone(),
        revision: desired.modified.0,
        wanted: target.filter(|_| is_valid).map(|target| target.rev().0),
        manifest: read
            .text
            .as_deref()
            .and_then(|text| serde_json::from_slice(text).ok()),
        versions,
    })
}
