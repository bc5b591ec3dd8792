//! What comes from etcd: the view, how the host stands in it, answers to writes, and what an earlier agent said.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifests::keys::{self, Key};
use manifests::{ContainerId, SlotId};
use model::events::Happened;
use model::kv::{KeyRange, Range, RangeReply};
use model::records::Status;
use model::snapshot::{ContainerView, Desired};
use model::{Directory, Extent, ModRev, Scope, Snapshot, Trust, Write};
use planner::memory::RETRY_REJECTED;

use super::{Agent, UNFOLLOWED};
use crate::effect::{AgentLog, Effect, Saving, Seen, Table};
use crate::events;
use crate::host::HostStatus;
use crate::input::{Now, WriteAnswers};
use crate::view::{self, ViewUpdate};

/// etcd as this agent sees it.
#[derive(Debug)]
pub(super) struct Etcd {
    pub(super) snapshot: Snapshot,
    /// How far the view itself may be trusted.
    pub(super) trust: Trust,
    /// Why etcd is not believed.
    pub(super) distrust: Option<String>,
    /// A view was seen.
    pub(super) known: bool,
    /// It has changed since what follows from it was said.
    pub(super) changed: bool,
    /// Its hosts are as they were when it was last taken in.
    same_hosts: bool,
    /// The log says how it is followed.
    logged: bool,
    directory: Directory,
    /// This host has joined, and nobody else writes in its name.
    is_member: bool,
    /// The revision at which its record was put last.
    floor: i64,
    pub(super) resume: Resume,
    /// Revisions of manifests that the log has said something about.
    told: BTreeMap<ContainerId, ModRev>,
}

/// Whether what an earlier agent of this host said of its slots is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    Unknown,
    Asked,
    Known,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            snapshot: Snapshot::default(),
            trust: Trust::RestartsOnly,
            distrust: None,
            known: false,
            changed: false,
            same_hosts: false,
            logged: false,
            directory: Directory::default(),
            is_member: false,
            floor: 0,
            resume: Resume::Unknown,
            told: BTreeMap::new(),
        }
    }
}

impl Etcd {
    fn host(&mut self, status: &HostStatus, floor: i64) {
        self.is_member = matches!(status, HostStatus::Live(_) | HostStatus::Lost);
        self.floor = floor;
    }

    /// The view may be trusted, and this host's record is in it.
    fn is_joined(&self) -> bool {
        self.trust == Trust::Full && self.is_member && self.snapshot.revision >= self.floor
    }

    pub(super) fn allows(&self) -> Trust {
        if self.is_joined() && self.resume == Resume::Known {
            Trust::Full
        } else {
            Trust::RestartsOnly
        }
    }
}

impl Agent {
    pub(super) fn host(&mut self, status: &HostStatus, floor: i64) {
        let before = self.trust();
        self.etcd.host(status, floor);
        if self.trust() != before {
            self.schedule.press(Extent::Whole);
        }
        self.ask_for_statuses();
    }

    pub(super) fn view(&mut self, mut update: ViewUpdate, now: Now) {
        let touched = std::mem::take(&mut update.touched);
        let trust = update.allows(self.rules);
        let distrust = match &update.trust {
            view::Trust::Trusted => None,
            view::Trust::Distrust(reason) => Some(reason.to_string()),
        };
        self.log_trust(&update, trust, distrust.as_ref(), now);
        let etcd = &mut self.etcd;
        let is_news = trust != etcd.trust || !etcd.known || update.resync;
        etcd.trust = trust;
        let was_known = std::mem::replace(&mut etcd.known, true);
        etcd.changed = true;
        etcd.same_hosts &= !update.resync && touched.hosts.is_empty();
        let before = std::mem::replace(&mut etcd.snapshot, update.snapshot.clone());
        if is_news || update.accepted.is_some() {
            self.schedule.press(Extent::Whole);
        } else if touched.is_empty() {
            // A write of its own may have waited for this revision.
            self.schedule.press(Extent::Here);
        } else {
            self.schedule.gather(now.mono);
            let extent = touched.concerns(&self.host.name, &before, &update.snapshot);
            extent.inspect(|extent| self.schedule.press(*extent));
        }
        let told = if was_known && trust == Trust::Full {
            let (now, me) = (&update.snapshot, &self.host.name);
            let mut told = events::of_wishes(&before, now, &touched, me);
            told.extend(events::of_hosts(&before, now, &touched.hosts, me));
            told
        } else {
            Vec::new()
        };
        let epoch = |snapshot: &Snapshot| snapshot.cluster.as_ref().map(|c| c.value.epoch);
        let epochs = epoch(&before).zip(epoch(&update.snapshot));
        if let Some(cluster) = &update.accepted {
            self.log(AgentLog::Restored(cluster.epoch));
            let note = self.restore.accepted(before);
            self.effect(Effect::Save(Saving::Orphans(note)));
        }
        self.effect(Effect::Follow(Box::new(update.clone())));
        if trust == Trust::Full {
            let was_placing = self.memory.in_flight.is_placing();
            let same_hosts = std::mem::replace(&mut self.etcd.same_hosts, true);
            self.memory.see(&update.snapshot, same_hosts, now.mono);
            self.placed(was_placing);
        }
        for id in &touched.manifests {
            self.log_manifest(id);
        }
        let etcd = &mut self.etcd;
        if update.resync {
            etcd.directory = Directory::new(&update.snapshot);
        } else {
            etcd.directory.update(&update.snapshot, &touched);
        }
        let directory = etcd.directory.clone();
        let distrusted = std::mem::replace(&mut etcd.distrust, distrust.clone());
        self.effect(Effect::Publish(Table::Directory(directory)));
        self.record(told);
        self.record(events::of_hold(distrusted.as_deref(), distrust.as_deref()));
        if was_known {
            self.record(epochs.and_then(|(before, now)| events::of_epoch(before, now)));
        }
        self.effect(Effect::Publish(Table::Seen(Box::new(Seen {
            snapshot: update.snapshot,
            stale: trust != Trust::Full,
            distrust,
        }))));
        self.ask_for_statuses();
    }

    /// What this host takes is in the view, or is not taken: it may take what comes next.
    fn placed(&mut self, was_placing: bool) {
        if was_placing && !self.memory.in_flight.is_placing() {
            self.schedule.press(Extent::Whole);
        }
    }

    pub(super) fn ask_for_statuses(&mut self) {
        if self.etcd.resume == Resume::Unknown && self.etcd.is_joined() {
            self.etcd.resume = Resume::Asked;
            let statuses = Range::new(KeyRange::prefix(keys::STATUS));
            self.effect(Effect::ReadStatuses(statuses));
        }
    }

    /// Says when etcd is followed and when not; a view that only begins to follow it is not worth a line.
    fn log_trust(
        &mut self,
        update: &ViewUpdate,
        trust: Trust,
        distrust: Option<&String>,
        now: Now,
    ) {
        // A host that joins puts its record, and its view is incomplete until that is seen.
        let joins = now.mono - self.began.mono < UNFOLLOWED;
        let etcd = &mut self.etcd;
        let was_followed = etcd.known && etcd.trust == Trust::Full;
        let line = match distrust {
            _ if trust == Trust::Full && was_followed => return,
            _ if trust == Trust::Full => AgentLog::Followed(update.snapshot.revision),
            Some(reason) if etcd.distrust.as_ref() == Some(reason) => return,
            Some(reason) => AgentLog::Distrusted(reason.clone()),
            None if !was_followed && etcd.distrust.is_none() => return,
            None if joins => {
                etcd.logged = false;
                return;
            }
            None => AgentLog::NotFollowed,
        };
        etcd.logged = true;
        self.log(line);
    }

    /// Says that etcd has not been followed since the start.
    pub(super) fn warn_unfollowed(&mut self) {
        if self.etcd.trust != Trust::Full && !std::mem::replace(&mut self.etcd.logged, true) {
            self.log(AgentLog::NotFollowed);
        }
    }

    /// Says what is wrong or odd with a manifest that was written past the API, once for each revision of it.
    fn log_manifest(&mut self, id: &ContainerId) {
        let etcd = &mut self.etcd;
        let container = etcd.snapshot.containers.get(id);
        let Some(manifest) = container.and_then(|c| c.manifest.as_ref()) else {
            etcd.told.remove(id);
            return;
        };
        let rev = manifest.modified;
        let line = match &manifest.value {
            Desired::Valid { warnings, .. } if warnings.is_empty() => return,
            _ if etcd.told.insert(id.clone(), rev) == Some(rev) => return,
            Desired::Valid { warnings, .. } => {
                let warnings = warnings.iter().map(ToString::to_string).collect();
                AgentLog::ManifestWarnings(id.clone(), rev, warnings)
            }
            Desired::Invalid(errors) => AgentLog::ManifestInvalid(id.clone(), rev, errors.clone()),
        };
        self.log(line);
    }

    /// Takes up what an earlier agent of this host said of its slots, before anything is said of them. Without an answer
    /// it is said again, and nothing else is lost.
    pub(super) fn resume(&mut self, reply: Option<RangeReply>, now: Now) {
        if std::mem::replace(&mut self.etcd.resume, Resume::Known) == Resume::Known {
            return;
        }
        for kv in reply.into_iter().flat_map(|reply| reply.kvs) {
            let Some(Key::Status(slot)) = Key::parse(&kv.key) else {
                continue;
            };
            let Ok(status) = serde_json::from_slice::<Status>(&kv.value) else {
                continue;
            };
            if status.host != self.host.name {
                continue;
            }
            if let Some(container) = &status.container_id {
                self.cache.was(&status.instance, container, now.wall);
            }
            self.memory.resume(slot, status);
        }
        self.schedule.press(Extent::Whole);
    }

    /// What a write is about, as it is seen now.
    fn container_of(&self, write: &Write) -> Option<&ContainerView> {
        let (Scope::Slot(SlotId { container: id, .. }) | Scope::Container(id)) = &write.scope;
        self.etcd.snapshot.containers.get(id).map(Arc::as_ref)
    }

    /// The last slot of an update to a newer image has proven itself by this write.
    fn rolled(&self, write: &Write) -> Option<Happened> {
        let Scope::Container(id) = &write.scope else {
            return None;
        };
        let container = self.etcd.snapshot.containers.get(id)?;
        events::of_rolled(write, id, container)
    }

    pub(super) fn wrote(&mut self, answers: WriteAnswers, now: Now) {
        let WriteAnswers {
            writes,
            revision,
            seen,
        } = answers;
        let was_placing = self.memory.in_flight.is_placing();
        for (write, held) in writes {
            let Some(held) = held else {
                self.memory.not_written(&write);
                self.schedule.not_written(now.mono);
                continue;
            };
            self.memory.wrote(&write, held, revision, seen, now.mono);
            if held {
                self.record(events::of_write(&write, self.container_of(&write)));
                self.record(self.rolled(&write));
            } else {
                self.counts.writes_lost += 1;
                self.log(AgentLog::GuardFailed(write.kind, write.scope.clone()));
                self.schedule.replan(now.mono + RETRY_REJECTED);
            }
        }
        self.schedule.press(Extent::Here);
        self.placed(was_placing);
    }
}
