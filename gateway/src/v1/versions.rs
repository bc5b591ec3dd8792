//! `versions`: what a container ran, and can be given back; `rollout`: the pause of an update; `restart`: of one slot;
//! `image`: the way back to one. All on etcd itself, at one revision.

use axum::Json;
use axum::extract::State;
use manifests::keys::{self, Key};
use manifests::{AppName, ContainerId, ContainerName};
use model::records::{Claim, Rollout};
use model::snapshot::{Change, ContainerView, Desired, Rev, SlotView, mod_rev};
use model::{Snapshot, VersionId};
use planner::image_policy;
use planner::rollout::{self, Target};
use planner::update;
use store::kv::{KeyRange, KeyValue};
use store::{Compare, Op, OpReply, Txn};

use super::api::Api;
use super::containers::{found_row, update_row};
use super::reply::{ApiFailure, ApiResult, JsonBody, PathParams};
use super::types::{
    FoundRow, History, SlotRestart, UpdateRow, VersionRow, WantedImage, WantedRollout,
};

/// Attempts of a compare-and-swap: owners write the same key.
const ATTEMPTS: usize = 10;

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
struct Read {
    snapshot: Snapshot,
    /// The manifest as it was written.
    text: Option<Vec<u8>>,
}

impl Read {
    /// A linearizable read.
    async fn now(api: &Api, id: &ContainerId) -> Result<Self, ApiFailure> {
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
    fn view(&self, id: &ContainerId) -> Option<&ContainerView> {
        self.snapshot.containers.get(id).map(AsRef::as_ref)
    }

    /// The container and its manifest.
    fn wanted(&self, id: &ContainerId) -> Result<(&ContainerView, &Rev<Desired>), ApiFailure> {
        let view = self.view(id);
        let manifest = view.and_then(|view| view.manifest.as_ref());
        view.zip(manifest)
            .ok_or_else(|| ApiFailure::no_container(id))
    }
}

/// `PUT rollout/<app>/<container>`: of the version that is wanted as this is written.
pub(super) async fn pause(
    State(api): State<Api>,
    PathParams((app, container)): PathParams<(AppName, ContainerName)>,
    JsonBody(WantedRollout { paused }): JsonBody<WantedRollout>,
) -> ApiResult<UpdateRow> {
    let id = ContainerId::new(app, container);
    for _ in 0..ATTEMPTS {
        let read = Read::now(&api, &id).await?;
        let (view, manifest) = read.wanted(&id)?;
        let now = update::rollout(view)
            .ok_or_else(|| ApiFailure::conflict(format!("{id} has no version to update to")))?;
        let is_tried_again = !paused && now.before;
        let after = if paused {
            paused_of(&id, view, now)
        } else {
            resumed(&id, now)
        };
        let after = after.map_err(ApiFailure::conflict)?;
        let key = Key::Rollout(id.clone());
        let mut guards = vec![
            Compare::modified(Key::Manifest(id.clone()), manifest.modified),
            Compare::modified(&key, mod_rev(view.rollout.as_ref())),
        ];
        let mut ops = vec![if after.is_over() {
            Op::delete(&key)
        } else {
            Op::put_json(&key, &after)
        }];
        if is_tried_again {
            let key = Key::Before(id.clone());
            guards.push(Compare::modified(&key, mod_rev(view.job.as_ref())));
            ops.push(Op::delete(&key));
        }
        if api.try_write(guards, ops).await? {
            let version = after.version.0;
            let row = update_row(view, after);
            return Ok(Json(row.unwrap_or_else(|| UpdateRow {
                version,
                ..UpdateRow::default()
            })));
        }
    }
    Err(ApiFailure::changed())
}

/// `PUT restart/<app>/<container>/<slot>`: another instance of the version that it runs.
pub(super) async fn restart(
    State(api): State<Api>,
    PathParams((app, container, number)): PathParams<(AppName, ContainerName, u32)>,
) -> ApiResult<SlotRestart> {
    let id = ContainerId::new(app, container);
    let slot = id.slot(number);
    for _ in 0..ATTEMPTS {
        let read = Read::now(&api, &id).await?;
        let (view, manifest) = read.wanted(&id)?;
        let after = update::restart(view, &slot).map_err(ApiFailure::conflict)?;
        let claim = view
            .claim(number)
            .ok_or_else(|| ApiFailure::no_slot(&slot))?;
        let key = Key::Rollout(id.clone());
        let guards = vec![
            Compare::modified(Key::Manifest(id.clone()), manifest.modified),
            Compare::modified(Key::Claim(slot.clone()), claim.modified),
            Compare::modified(&key, mod_rev(view.rollout.as_ref())),
        ];
        let paused = after.paused;
        let txn = Txn::new(guards, vec![Op::put_json(&key, &after)]);
        let reply = api.txn(txn).await?;
        if reply.succeeded {
            return Ok(Json(SlotRestart {
                slot,
                host: claim.host.clone(),
                instance: claim.instance.clone(),
                paused,
                manifest: manifest.modified.0,
                revision: reply.revision,
            }));
        }
    }
    Err(ApiFailure::changed())
}

/// `PUT image/<app>/<container>`: the image of an earlier version of this manifest is run again, and the one that is run
/// now is not, whatever the registry says.
pub(super) async fn image(
    State(api): State<Api>,
    PathParams((app, container)): PathParams<(AppName, ContainerName)>,
    JsonBody(wanted): JsonBody<WantedImage>,
) -> ApiResult<FoundRow> {
    let id = ContainerId::new(app, container);
    for _ in 0..ATTEMPTS {
        let read = Read::now(&api, &id).await?;
        let (view, manifest) = read.wanted(&id)?;
        if manifest.modified.0 != wanted.revision {
            return Err(ApiFailure::changed());
        }
        let to = VersionId(wanted.version);
        let back = image_policy::went_back(view, to).ok_or_else(|| {
            ApiFailure::conflict(format!(
                "{id} has no version {to} of its present manifest whose image is known by its digest"
            ))
        })?;
        let key = Key::FoundImage(id.clone());
        let guards = vec![
            Compare::modified(Key::Manifest(id.clone()), manifest.modified),
            Compare::modified(&key, mod_rev(view.last_found.as_ref())),
        ];
        if api
            .try_write(guards, vec![Op::put_json(&key, &back)])
            .await?
        {
            return Ok(Json(found_row(&back)));
        }
    }
    Err(ApiFailure::changed())
}

fn paused_of(id: &ContainerId, view: &ContainerView, now: Rollout) -> Result<Rollout, String> {
    let version = now.version;
    let target = Target::of(view);
    let is_behind = |(number, slot): (&u32, &SlotView)| {
        let claim = slot.claim.as_ref();
        let outdated = |claim: &Rev<Claim>| {
            let target = target.as_ref();
            target.is_some_and(|target| target.outdates(view, claim.version))
        };
        view.is_wanted(*number) && claim.is_some_and(outdated)
    };
    if !view.slots.iter().any(is_behind) {
        return Err(format!(
            "no slot of {id} is to be updated: there is nothing to pause"
        ));
    }
    if now.paused {
        return Err(format!(
            "the update of {id} to version {version} is paused already"
        ));
    }
    Ok(Rollout {
        paused: true,
        ..now
    })
}

fn resumed(id: &ContainerId, now: Rollout) -> Result<Rollout, String> {
    if !now.paused && !now.failed && now.failures.is_empty() {
        return Err(format!(
            "the update of {id} to version {} is neither paused nor halted",
            now.version
        ));
    }
    Ok(Rollout {
        updating: now.updating,
        restart: now.restart,
        ..Rollout::to(now.version)
    })
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
            image: version
                .version
                .found
                .as_ref()
                .unwrap_or(&manifest.image)
                .clone(),
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
        found,
    }) = &target
    {
        // What means the same container is run on as it is, and nothing is decided.
        let same = target.as_ref().and_then(|target| {
            let mut counting = rollout::counting(view);
            let same = counting.rfind(|(old, ..)| !target.outdates(view, *old));
            same.map(|(_, version, _)| &version.version)
        });
        versions.push(VersionRow {
            version: rev.0,
            image: found.map_or(&manifest.image, |found| &found.image).clone(),
            digest: same.map(|same| same.image.clone()),
            good: same.is_some_and(|same| same.good),
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
        update: update::rollout(view).and_then(|rollout| update_row(view, rollout)),
        manifest: read
            .text
            .as_deref()
            .and_then(|text| serde_json::from_slice(text).ok()),
        versions,
    })
}
