//! The watched range of etcd as typed values, at exactly one revision.
//!
//! Built by applying changes in order. Cloning is cheap (persistent maps), so
//! a reader keeps the snapshot it started with. A value that cannot be read is
//! kept as absent: bad data never stops what other keys say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::keys::Key;
use manifests::manifest::Scale;
use manifests::parse::Problem;
use manifests::{ContainerId, HostName, SlotId};
use rpds::RedBlackTreeMapSync;
use serde::de::DeserializeOwned;

use crate::manifest_text::ManifestText;
use crate::records::{
    Availability, Claim, Cluster, Data, FoundImage, HostRecord, Job, Labels, Member, Moved, Next,
    Rollout, SlotState, Unfit, Version,
};
use crate::revision::{ModRev, VersionId};
use crate::scope::Extent;

mod index;
mod places;
#[cfg(test)]
mod tests;

use index::{Index, Named};
use places::Places;
pub use places::unmet;

/// A value with the revisions that guards compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rev<T> {
    /// The value.
    pub value: T,
    /// Revision of its last change.
    pub modified: ModRev,
    /// Revision of its creation.
    pub created: ModRev,
}

impl<T> std::ops::Deref for Rev<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Revision of a key that may not be there.
pub fn mod_rev<T>(key: Option<&Rev<T>>) -> ModRev {
    key.map_or(ModRev::ABSENT, |key| key.modified)
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value now.
    Put {
        /// The key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// Revision of this change.
        modified: i64,
        /// Revision of its creation.
        created: i64,
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: String,
        /// Revision of this change.
        modified: i64,
    },
}

/// A key of ours with its value now; none if it is gone.
pub type KeyChange<V> = (Key, Option<Rev<V>>);

impl Change {
    /// With its key read; none if that is not one of ours.
    fn read(self) -> Option<KeyChange<Vec<u8>>> {
        match self {
            Self::Put {
                key,
                value,
                modified,
                created,
            } => {
                let put = Rev {
                    value,
                    modified: ModRev(modified),
                    created: ModRev(created),
                };
                Some((Key::parse(&key)?, Some(put)))
            }
            Self::Delete { key, .. } => Some((Key::parse(&key)?, None)),
        }
    }
}

/// Keys that changes have touched, by subject: the tables made from a snapshot follow only those.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Containers (manifest, claims, states, versions …).
    pub containers: BTreeSet<ContainerId>,
    /// Of these, those of which the manifest was.
    pub manifests: BTreeSet<ContainerId>,
    /// Of these, the slots (claim, state …).
    pub slots: BTreeSet<SlotId>,
    /// Of these, those of which a version was.
    pub versions: BTreeSet<ContainerId>,
    /// Hosts (record, availability, membership).
    pub hosts: BTreeSet<HostName>,
    /// The cluster key.
    pub cluster: bool,
}

impl Touched {
    /// Adds what `other` touched.
    pub fn extend(&mut self, other: Self) {
        self.containers.extend(other.containers);
        self.manifests.extend(other.manifests);
        self.slots.extend(other.slots);
        self.versions.extend(other.versions);
        self.hosts.extend(other.hosts);
        self.cluster |= other.cluster;
    }

    /// How much of it a plan of this host has to look at to do at once what follows; none if that has time: slots that
    /// other live hosts have, or have claimed.
    pub fn concerns(&self, host: &HostName, before: &Snapshot, after: &Snapshot) -> Option<Extent> {
        let shared = |snapshot: &Snapshot, id: &ContainerId| {
            let container = snapshot.containers.get(id)?;
            let manifest = container.manifest.as_ref().map(|rev| rev.modified);
            let halted = container.rollout.as_ref().filter(|rollout| rollout.failed);
            let found = mod_rev(container.last_found.as_ref());
            Some((manifest, found, halted.map(|rollout| rollout.version)))
        };
        let mut containers = self.containers.iter();
        if self.cluster
            || !self.hosts.is_empty()
            || containers.any(|id| shared(before, id) != shared(after, id))
        {
            return Some(Extent::Whole);
        }
        let slots = self.slots.iter();
        let of_slots = slots
            .filter_map(|slot| slot_concerns(slot, host, before, after))
            .max();
        let is_here = || {
            let of_versions = |id| after.has_some_of(host, id);
            // While an update goes from slot to slot, each waits for those below it.
            let of_update = |id| after.runs_an_older(host, id);
            let of_job = |id| {
                let job = after.containers.get(id).and_then(|c| c.job.as_ref());
                job.is_some_and(|job| job.host == *host)
            };
            self.versions.iter().any(of_versions)
                || self.containers.iter().any(|id| of_update(id) || of_job(id))
        };
        of_slots.or_else(|| is_here().then_some(Extent::Here))
    }

    /// Nothing was touched.
    pub fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.hosts.is_empty() && !self.cluster
    }
}

/// As `Touched::concerns`, of the keys of one slot.
fn slot_concerns(
    slot: &SlotId,
    host: &HostName,
    before: &Snapshot,
    after: &Snapshot,
) -> Option<Extent> {
    let (had, has) = (Named::by(before.slot(slot)), Named::by(after.slot(slot)));
    let is_anybodys = after.is_unclaimed(after.slot(slot)) || had.is_handed() || has.is_handed();
    if had != has && is_anybodys {
        Some(Extent::Whole)
    } else {
        (had.names(host) || has.names(host)).then_some(Extent::Here)
    }
}

/// A manifest as it stands in etcd.
#[derive(Debug, Clone, PartialEq)]
pub enum Desired {
    /// It can be run.
    Valid {
        /// As a value.
        manifest: Arc<manifests::Manifest>,
        /// As it was written.
        text: ManifestText,
        /// Warnings (unknown fields), with their places in the text.
        warnings: Vec<Problem>,
    },
    /// It can't; all errors, for people.
    Invalid(Vec<String>),
}

/// Keys of one slot.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SlotView {
    /// Its owner.
    pub claim: Option<Rev<Claim>>,
    /// State of its instance.
    pub state: Option<Rev<SlotState>>,
    /// Its successor, while a handover is under way.
    pub next: Option<Rev<Next>>,
    /// Pin of its local volumes.
    pub data: Option<Rev<Data>>,
}

impl SlotView {
    /// The state, if it is the claimed instance's.
    pub fn current_state(&self) -> Option<&Rev<SlotState>> {
        let claim = self.claim.as_ref()?;
        self.state.as_ref().filter(|s| s.instance == claim.instance)
    }

    fn is_empty(&self) -> bool {
        self.claim.is_none() && self.state.is_none() && self.next.is_none() && self.data.is_none()
    }
}

/// Owner of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// It has no claim.
    Nobody,
    /// A host that is live.
    Live(&'a Rev<Claim>),
    /// A host that is not live: others may take it over.
    Lost(&'a Rev<Claim>),
}

/// Successor to a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Successor<'a> {
    /// No handover is under way.
    Nobody,
    /// A host that is live.
    Live(&'a Rev<Next>),
    /// A host that is not live: the handover is void.
    Void(&'a Rev<Next>),
}

/// A `.next` whose host is not live, as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoidNext {
    /// MOD(`.next`).
    pub rev: ModRev,
    /// Its host.
    pub host: HostName,
}

impl Rev<Next> {
    /// Its host is not live.
    pub fn void(&self) -> VoidNext {
        VoidNext {
            rev: self.modified,
            host: self.host.clone(),
        }
    }
}

impl Successor<'_> {
    /// The void `.next`, for a guard.
    pub fn void(self) -> Option<VoidNext> {
        match self {
            Self::Void(next) => Some(next.void()),
            Self::Nobody | Self::Live(_) => None,
        }
    }
}

/// Keys of one container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerView {
    /// Its manifest; none if only remains are left.
    pub manifest: Option<Rev<Desired>>,
    /// Its slots, by number.
    pub slots: RedBlackTreeMapSync<u32, SlotView>,
    /// Its versions, by key, each with its manifest parsed (none if this agent can't read it).
    pub versions: RedBlackTreeMapSync<VersionId, Rev<ParsedVersion>>,
    /// The update that is under way, or has failed.
    pub rollout: Option<Rev<Rollout>>,
    /// The last image that was run in place of the manifest's own.
    pub last_found: Option<Rev<FoundImage>>,
    /// It was found for a manifest that means the same container as the present one.
    is_found_for_it: bool,
    /// The last run of what a manifest wants to run before a version.
    pub job: Option<Rev<Job>>,
    /// Its slots, if it is global.
    places: Option<Arc<Places>>,
}

/// A version with its manifest read once.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedVersion {
    /// As stored.
    pub version: Version,
    /// The manifest that counts for what runs of it: the newest where that means the same container, else its own. None
    /// if this agent does not understand its own.
    pub manifest: Option<Arc<manifests::Manifest>>,
    /// The manifest that it was made from.
    pub own: Option<Arc<manifests::Manifest>>,
    /// Hash of the part that affects the container, with the decided image; none without a manifest.
    pub hash: Option<String>,
}

impl ContainerView {
    /// Number of wanted slots; none without a manifest. While the manifest can't be read, what is claimed stays.
    pub fn scale(&self) -> Option<u32> {
        let desired = &self.manifest.as_ref()?.value;
        if let Some(places) = &self.places {
            return Some(places.count());
        }
        match desired {
            Desired::Valid { manifest, .. } => Some(match manifest.runs() {
                Scale::Count(count) => count,
                Scale::Global => 0,
            }),
            Desired::Invalid(_) => Some(
                self.slots
                    .iter()
                    .filter(|(_, slot)| slot.claim.is_some())
                    .map(|(number, _)| number + 1)
                    .max()
                    .unwrap_or_default(),
            ),
        }
    }

    /// The manifest as the user wants it; none if it can't be read.
    pub fn wanted(&self) -> Option<&manifests::Manifest> {
        match &self.manifest.as_ref()?.value {
            Desired::Valid { manifest, .. } => Some(manifest),
            Desired::Invalid(_) => None,
        }
    }

    /// The user wants this slot.
    pub fn is_wanted(&self, slot: u32) -> bool {
        match &self.places {
            Some(places) => places.has(slot),
            None => self.scale().is_some_and(|scale| slot < scale),
        }
    }

    /// The numbers of the slots that the user wants.
    pub fn numbers(&self) -> BTreeSet<u32> {
        match &self.places {
            Some(places) => places.numbers(),
            None => (0..self.scale().unwrap_or_default()).collect(),
        }
    }

    /// Who has a slot.
    pub fn claim(&self, number: u32) -> Option<&Rev<Claim>> {
        self.slots.get(&number)?.claim.as_ref()
    }

    /// The image that was found for a manifest that means the same container as the present one.
    pub fn found(&self) -> Option<&Rev<FoundImage>> {
        self.last_found.as_ref().filter(|_| self.is_found_for_it)
    }

    fn look_at_found(&mut self) {
        self.is_found_for_it = match (&self.last_found, &self.manifest) {
            (Some(found), Some(manifest)) => {
                found.modified > manifest.created
                    && self
                        .wanted()
                        .is_some_and(|manifest| found.of == FoundImage::hash_of(manifest))
            }
            _ => false,
        };
    }

    /// The manifest of a version, decided or still the user's newest.
    pub fn manifest_of(&self, id: VersionId) -> Option<&Arc<manifests::Manifest>> {
        if let Some(version) = self.versions.get(&id) {
            return version.manifest.as_ref();
        }
        let is_found = self
            .found()
            .is_some_and(|found| found.modified.version() == id);
        match self.manifest.as_ref() {
            Some(Rev {
                value: Desired::Valid { manifest, .. },
                modified,
                ..
            }) if modified.version() == id || is_found => Some(manifest),
            _ => None,
        }
    }

    /// The version that a container with this hash was made from; of several, the newest.
    pub fn version_by_hash(&self, hash: &str) -> Option<(VersionId, &Rev<ParsedVersion>)> {
        self.versions
            .iter()
            .rfind(|(_, version)| version.hash.as_deref() == Some(hash))
            .map(|(id, version)| (*id, version))
    }

    /// Its manifest is this now, which may count for its versions too.
    fn set_manifest(&mut self, desired: Option<Rev<Desired>>) {
        self.manifest = desired;
        self.look_at_found();
        let desired = self.manifest.as_ref().map(|manifest| &manifest.value);
        let is_counted = match desired {
            Some(Desired::Valid { manifest, .. }) => manifest.runs() != Scale::Global,
            Some(Desired::Invalid(_)) => false,
            None => true,
        };
        if is_counted {
            self.places = None;
        }
        let changed: Vec<(VersionId, Option<Arc<manifests::Manifest>>)> = self
            .versions
            .iter()
            .map(|(id, version)| (*id, version, that_counts(version.own.as_ref(), desired)))
            .filter(|(_, version, counts)| version.manifest != *counts)
            .map(|(id, _, counts)| (id, counts))
            .collect();
        for (id, manifest) in changed {
            if let Some(version) = self.versions.get_mut(&id) {
                version.value.manifest = manifest;
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.manifest.is_none()
            && self.slots.is_empty()
            && self.versions.is_empty()
            && self.rollout.is_none()
            && self.last_found.is_none()
            && self.job.is_none()
    }
}

/// Keys of one host.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostView {
    /// Its record: it is live.
    pub record: Option<Rev<HostRecord>>,
    /// It is a member.
    pub member: Option<Rev<Member>>,
    /// Its availability, set by the operator.
    pub availability: Option<Rev<Availability>>,
    /// Its labels, set by the operator.
    pub labels: Option<Rev<Labels>>,
    /// Containers it can't run.
    pub unfit: BTreeMap<ContainerId, Rev<Unfit>>,
    /// Slots that it had when it was drained.
    pub moved: BTreeMap<SlotId, Rev<Moved>>,
}

impl HostView {
    /// Its availability, set by the operator.
    pub fn availability(&self) -> Availability {
        self.availability
            .as_ref()
            .map_or_else(Availability::default, |a| a.value)
    }

    /// Its labels: those that its agent was started with, and over them the operator's.
    pub fn labels(&self) -> BTreeMap<&str, &str> {
        let mut labels: BTreeMap<&str, &str> = self
            .record
            .iter()
            .flat_map(|r| &r.labels)
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        for (name, value) in self.labels.iter().flat_map(|l| &l.value) {
            match value {
                Some(value) => labels.insert(name, value),
                None => labels.remove(name.as_str()),
            };
        }
        labels
    }

    fn is_empty(&self) -> bool {
        self.record.is_none()
            && self.member.is_none()
            && self.availability.is_none()
            && self.labels.is_none()
            && self.unfit.is_empty()
            && self.moved.is_empty()
    }
}

/// The watched range at one revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Revision of etcd.
    pub revision: i64,
    /// The cluster key.
    pub cluster: Option<Rev<Cluster>>,
    /// All containers that have a manifest or remains of one.
    pub containers: RedBlackTreeMapSync<ContainerId, Arc<ContainerView>>,
    /// All hosts that have a record, a membership or a setting.
    pub hosts: RedBlackTreeMapSync<HostName, Arc<HostView>>,
    index: Index,
}

impl Snapshot {
    /// The host's record exists: it is live.
    pub fn is_live(&self, host: &HostName) -> bool {
        self.record(host).is_some()
    }

    /// The host's record.
    pub fn record(&self, host: &HostName) -> Option<&Rev<HostRecord>> {
        self.hosts.get(host)?.record.as_ref()
    }

    /// Live hosts and their records, by name.
    pub fn live(&self) -> impl Iterator<Item = (&HostName, &Rev<HostRecord>)> {
        self.hosts
            .iter()
            .filter_map(|(name, host)| Some((name, host.record.as_ref()?)))
    }

    /// Owner of this slot.
    pub fn owner<'a>(&self, slot: &'a SlotView) -> Owner<'a> {
        match &slot.claim {
            None => Owner::Nobody,
            Some(claim) if self.is_live(&claim.host) => Owner::Live(claim),
            Some(claim) => Owner::Lost(claim),
        }
    }

    /// Successor to this slot.
    pub fn successor<'a>(&self, slot: &'a SlotView) -> Successor<'a> {
        match &slot.next {
            None => Successor::Nobody,
            Some(next) if self.is_live(&next.host) => Successor::Live(next),
            Some(next) => Successor::Void(next),
        }
    }

    /// Nobody who is live has this slot, and nobody who is live is to have it.
    pub fn is_unclaimed(&self, slot: Option<&SlotView>) -> bool {
        slot.is_none_or(|slot| {
            !matches!(self.owner(slot), Owner::Live(_))
                && !matches!(self.successor(slot), Successor::Live(_))
        })
    }

    /// Availability of a host.
    pub fn availability(&self, host: &HostName) -> Availability {
        self.hosts
            .get(host)
            .map_or_else(Availability::default, |h| h.availability())
    }

    /// A live host that distrusts its etcd in a way that may concern all.
    pub fn in_hold(&self) -> Option<&HostName> {
        self.live()
            .find(|(_, record)| record.hold.as_ref().is_some_and(|hold| hold.shared))
            .map(|(name, _)| name)
    }

    /// Keys of a slot.
    pub fn slot(&self, slot: &manifests::SlotId) -> Option<&SlotView> {
        self.containers.get(&slot.container)?.slots.get(&slot.slot)
    }

    /// Applies changes of one or more revisions in order; `revision` is where the snapshot stands afterwards.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>, revision: i64) -> Touched {
        let ours = changes.into_iter().filter_map(Change::read);
        self.apply_read(ours, revision)
    }

    /// As `apply`, of keys that are read already.
    pub fn apply_read<V: AsRef<[u8]>>(
        &mut self,
        changes: impl IntoIterator<Item = KeyChange<V>>,
        revision: i64,
    ) -> Touched {
        let mut touched = Touched::default();
        for (key, put) in changes {
            self.apply_one(key, put, &mut touched);
        }
        for id in &touched.containers {
            self.place(id);
        }
        if !touched.hosts.is_empty() {
            for id in self.global() {
                self.place(&id);
            }
        }
        self.revision = revision;
        touched
    }

    fn apply_one<V: AsRef<[u8]>>(&mut self, key: Key, put: Option<Rev<V>>, touched: &mut Touched) {
        match key {
            Key::Manifest(id) => {
                touched.manifests.insert(id.clone());
                self.container(id.clone(), touched, |c| c.set_manifest(put.map(desired)));
                self.index_container(&id);
            }
            Key::Claim(slot) => self.slot_of(slot, touched, |s| s.claim = put.and_then(json)),
            Key::State(slot) => self.slot_of(slot, touched, |s| s.state = put.and_then(json)),
            Key::Next(slot) => self.slot_of(slot, touched, |s| s.next = put.and_then(json)),
            Key::Data(slot) => self.slot_of(slot, touched, |s| s.data = put.and_then(json)),
            Key::Version(id, rev) => {
                let version_id = VersionId(rev);
                touched.versions.insert(id.clone());
                self.container(id, touched, |c| {
                    let desired = c.manifest.as_ref().map(|manifest| &manifest.value);
                    let version: Option<Rev<Version>> = put.and_then(json);
                    match version.map(|version| parse_version(version, desired)) {
                        Some(version) => c.versions.insert_mut(version_id, version),
                        None => {
                            c.versions.remove_mut(&version_id);
                        }
                    }
                });
            }
            Key::Rollout(id) => {
                self.container(id, touched, |c| c.rollout = put.and_then(json));
            }
            Key::FoundImage(id) => {
                self.container(id, touched, |c| {
                    c.last_found = put.and_then(json);
                    c.look_at_found();
                });
            }
            Key::Before(id) => {
                self.container(id.clone(), touched, |c| c.job = put.and_then(json));
                self.index_job(&id);
            }
            Key::Status(_) => {}
            Key::Cluster => {
                self.cluster = put.and_then(json);
                touched.cluster = true;
            }
            Key::Member(host) => self.host(host, touched, |h| h.member = put.and_then(json)),
            Key::HostRecord(host) => self.host(host, touched, |h| h.record = put.and_then(json)),
            Key::Availability(host) => {
                self.host(host, touched, |h| h.availability = put.and_then(json));
            }
            Key::Labels(host) => self.host(host, touched, |h| h.labels = put.and_then(json)),
            Key::Unfit(host, id) => {
                touched.containers.insert(id.clone());
                self.host(host, touched, |h| {
                    match put.and_then(json) {
                        Some(unfit) => h.unfit.insert(id, unfit),
                        None => h.unfit.remove(&id),
                    };
                });
            }
            Key::Moved(host, slot) => {
                self.host(host, touched, |h| {
                    match put.and_then(json) {
                        Some(moved) => h.moved.insert(slot, moved),
                        None => h.moved.remove(&slot),
                    };
                });
            }
        }
    }

    fn container(
        &mut self,
        id: ContainerId,
        touched: &mut Touched,
        change: impl FnOnce(&mut ContainerView),
    ) {
        let comes = !self.containers.contains_key(&id);
        if comes {
            self.containers.insert_mut(id.clone(), Arc::default());
        }
        let mut goes = false;
        if let Some(view) = self.containers.get_mut(&id) {
            let view = Arc::make_mut(view);
            change(view);
            goes = view.is_empty();
        }
        if goes {
            self.containers.remove_mut(&id);
        }
        if comes != goes {
            self.index_container(&id);
        }
        touched.containers.insert(id);
    }

    fn slot_of(&mut self, slot: SlotId, touched: &mut Touched, change: impl FnOnce(&mut SlotView)) {
        let before = Named::by(self.slot(&slot));
        self.container(slot.container.clone(), touched, |container| {
            if !container.slots.contains_key(&slot.slot) {
                container.slots.insert_mut(slot.slot, SlotView::default());
            }
            let Some(view) = container.slots.get_mut(&slot.slot) else {
                return;
            };
            change(view);
            if view.is_empty() {
                container.slots.remove_mut(&slot.slot);
            }
        });
        self.index_slot(&slot, &before);
        touched.slots.insert(slot);
    }

    fn host(&mut self, name: HostName, touched: &mut Touched, change: impl FnOnce(&mut HostView)) {
        let known = self.hosts.get(&name);
        let mut view = known.map(|h| h.as_ref().clone()).unwrap_or_default();
        change(&mut view);
        if view.is_empty() {
            self.hosts.remove_mut(&name);
        } else {
            self.hosts.insert_mut(name.clone(), Arc::new(view));
        }
        self.index_host(&name);
        touched.hosts.insert(name);
    }
}

/// A record that this agent can't read counts as absent.
fn json<T: DeserializeOwned, V: AsRef<[u8]>>(put: Rev<V>) -> Option<Rev<T>> {
    Some(Rev {
        value: serde_json::from_slice(put.value.as_ref()).ok()?,
        modified: put.modified,
        created: put.created,
    })
}

fn desired<V: AsRef<[u8]>>(put: Rev<V>) -> Rev<Desired> {
    let value = match manifests::parse::lenient(put.value.as_ref()) {
        Ok(parsed) => Desired::Valid {
            manifest: Arc::new(parsed.manifest),
            text: parsed.json.into(),
            warnings: parsed.warnings,
        },
        Err(errors) => Desired::Invalid(errors.iter().map(ToString::to_string).collect()),
    };
    Rev {
        value,
        modified: put.modified,
        created: put.created,
    }
}

/// Mostly the newest version has the desired manifest: both share one in memory.
fn parse_version(mut put: Rev<Version>, desired: Option<&Desired>) -> Rev<ParsedVersion> {
    let own = match desired {
        Some(Desired::Valid { manifest, text, .. }) if *text == put.value.manifest => {
            put.value.manifest = text.clone();
            Some(manifest.clone())
        }
        _ => manifests::parse::from_json(&put.value.manifest.value())
            .ok()
            .map(|parsed| Arc::new(parsed.manifest)),
    };
    let hash = own
        .as_ref()
        .map(|m| manifests::canonical::hash(m, &put.value.image));
    Rev {
        value: ParsedVersion {
            version: put.value,
            manifest: that_counts(own.as_ref(), desired),
            own,
            hash,
        },
        modified: put.modified,
        created: put.created,
    }
}

/// The manifest that counts for a version: what affects no container (`stop_timeout`) is as the newest says it.
fn that_counts(
    own: Option<&Arc<manifests::Manifest>>,
    desired: Option<&Desired>,
) -> Option<Arc<manifests::Manifest>> {
    let own = own?;
    let counts = match desired {
        Some(Desired::Valid { manifest, .. })
            if manifest.image == own.image
                && (Arc::ptr_eq(manifest, own)
                    || manifests::canonical::same_container(manifest, own)) =>
        {
            manifest
        }
        _ => own,
    };
    Some(counts.clone())
}
