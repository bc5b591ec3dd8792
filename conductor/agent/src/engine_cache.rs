//! What is known of the engine, kept from lists, looks at single containers and the results of own steps.
//!
//! These arrive out of order: a list that was begun before a container was made
//! must not make it disappear. So every change of an instance has a number, and
//! what was begun earlier does not overwrite it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::InstanceId;
use model::identity::Notes;
use model::observed::{Copied, EngineState, Listing, Observed, ObservedContainer, Readiness};

/// When something was begun, in the order of the agent's own inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seq(u64);

/// The engine as far as it is known.
#[derive(Debug, Default)]
pub struct EngineCache {
    observed: Arc<Observed>,
    /// All containers with labels of this cluster, ours and copies.
    labelled: BTreeMap<InstanceId, Vec<ObservedContainer>>,
    /// Running containers without.
    unlabelled: u32,
    changed: BTreeMap<String, Seq>,
    now: Seq,
    listed: bool,
    notes: Notes,
    unsaved: bool,
}

impl EngineCache {
    /// Nothing is known but what was noted.
    pub fn new(notes: Notes) -> Self {
        Self {
            notes,
            ..Self::default()
        }
    }

    /// What is known.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// What is known, as it is now.
    pub(crate) fn shared(&self) -> Arc<Observed> {
        self.observed.clone()
    }

    fn observed_mut(&mut self) -> &mut Observed {
        Arc::make_mut(&mut self.observed)
    }

    /// A whole list has been seen: what is absent is really absent.
    pub fn is_complete(&self) -> bool {
        self.listed
    }

    /// The notes as they are to be kept, if they are not kept so.
    pub fn unsaved(&self) -> Option<&Notes> {
        self.unsaved.then_some(&self.notes)
    }

    /// They are kept.
    pub fn saved(&mut self) {
        self.unsaved = false;
    }

    /// The number for something that is begun now.
    pub fn begin(&mut self) -> Seq {
        self.now.0 += 1;
        self.now
    }

    /// Why a list does not say what there is: an engine shows a container of ours as little as it did before. Taken for
    /// absent, it would be made a second time.
    pub fn never_seen(&self, listing: &Listing) -> Option<String> {
        let known = |id: &String| {
            let mut labelled = self.labelled.values().flatten();
            labelled.any(|container| container.docker_id == *id)
        };
        let (id, unseen) = listing.unseen.iter().find(|(id, _)| !known(id))?;
        Some(format!("its container {id}: {}", unseen.why))
    }

    /// A whole list that was begun at `since`; what it does not show is as it was. `wall` is the time in Unix milliseconds.
    pub fn list(&mut self, listing: Listing, since: Seq, wall: i64) {
        let newer = |id: &String| {
            listing.unseen.contains_key(id) || self.changed.get(id).is_some_and(|at| *at > since)
        };
        let mut labelled: BTreeMap<InstanceId, Vec<ObservedContainer>> = BTreeMap::new();
        let kept = std::mem::take(&mut self.labelled).into_values().flatten();
        let kept = kept.filter(|c| newer(&c.docker_id));
        let fresh = listing.labelled.into_iter();
        for container in kept.chain(fresh.filter(|c| !newer(&c.docker_id))) {
            let of = labelled.entry(container.owner.instance.clone());
            of.or_default().push(container);
        }
        self.labelled = labelled;
        self.changed.retain(|_, at| *at > since);
        self.unlabelled = listing.foreign;
        self.observed_mut().copies.clear();
        let there: BTreeSet<InstanceId> = self.labelled.keys().cloned().collect();
        let observed = &self.observed;
        let known = observed
            .containers
            .keys()
            .chain(observed.jobs.keys())
            .cloned();
        for instance in known.chain(there).collect::<BTreeSet<_>>() {
            self.settle(&instance, wall);
        }
        self.unsaved |= self.notes.adopted();
        let all = self.labelled.values().flatten();
        let all: BTreeSet<&str> = all.map(|c| c.docker_id.as_str()).collect();
        self.unsaved |= self.notes.forget(|id| all.contains(id), wall);
        self.observed_mut().engine = EngineState::Up;
        self.listed = true;
        self.count();
    }

    /// One container as it is now, by a look begun at `since`.
    pub fn look(&mut self, container: ObservedContainer, since: Seq, wall: i64) {
        let id = &container.docker_id;
        if self.changed.get(id).is_some_and(|at| *at > since) {
            return;
        }
        self.set(container, wall);
    }

    /// One container as an own step left it.
    pub fn set(&mut self, container: ObservedContainer, wall: i64) {
        let at = self.begin();
        let instance = container.owner.instance.clone();
        self.changed.insert(container.docker_id.clone(), at);
        let of = self.labelled.entry(instance.clone()).or_default();
        of.retain(|before| before.docker_id != container.docker_id);
        of.push(container);
        self.settle(&instance, wall);
        self.count();
    }

    /// An own step has made this container.
    pub fn made(&mut self, container: ObservedContainer, wall: i64) {
        let instance = &container.owner.instance;
        self.unsaved |= self.notes.made(instance, &container.docker_id, wall);
        self.set(container, wall);
    }

    /// An own step is to make this instance: that is to be noted before it does.
    pub fn intend(&mut self, instance: &InstanceId, wall: i64) {
        self.notes.intend(instance, wall);
        self.unsaved = true;
    }

    /// An earlier agent of this host said in etcd that this was the instance's container.
    pub fn was(&mut self, instance: &InstanceId, docker_id: &str, wall: i64) {
        if self.notes.container(instance).is_none() {
            self.unsaved |= self.notes.made(instance, docker_id, wall);
            self.settle(instance, wall);
            self.count();
        }
    }

    /// A container is gone.
    pub fn gone(&mut self, docker_id: &str, wall: i64) {
        let has = |of: &[ObservedContainer]| of.iter().any(|c| c.docker_id == docker_id);
        let found = self.labelled.iter().find(|(_, of)| has(of));
        let Some(instance) = found.map(|(instance, _)| instance.clone()) else {
            return;
        };
        let at = self.begin();
        self.changed.insert(docker_id.to_owned(), at);
        if let Some(of) = self.labelled.get_mut(&instance) {
            of.retain(|container| container.docker_id != docker_id);
        }
        self.observed_mut().copies.remove(docker_id);
        self.unsaved |= self.notes.gone(&instance, docker_id);
        self.settle(&instance, wall);
        self.count();
    }

    /// Tells the instance from its copies.
    fn settle(&mut self, instance: &InstanceId, wall: i64) {
        let of = self.labelled.get(instance).map_or(&[][..], Vec::as_slice);
        let own = self.notes.own(instance, of).cloned();
        let observed = Arc::make_mut(&mut self.observed);
        for container in of {
            let id = &container.docker_id;
            if own.as_ref().is_some_and(|own| own.docker_id == *id) {
                observed.copies.remove(id);
                continue;
            }
            let copied = Copied {
                name: container.name.clone(),
                slot: container.owner.slot.clone(),
                runs: container.running().is_some(),
            };
            observed.copies.insert(id.clone(), copied);
        }
        let Some(own) = own else {
            self.observed_mut().containers.remove(instance);
            self.observed_mut().jobs.remove(instance);
            self.observed_mut().readiness.remove(instance);
            return;
        };
        self.unsaved |= self.notes.made(instance, &own.docker_id, wall);
        if own.owner.before.is_some() {
            self.observed_mut().jobs.insert(instance.clone(), own);
            return;
        }
        let start = |c: &ObservedContainer| Some((c.docker_id.clone(), c.running()?.started_at));
        let before = self.observed.containers.get(instance).and_then(start);
        if before.is_none() || before != start(&own) {
            self.observed_mut().readiness.remove(instance);
        }
        if let Some(why) = own.cut_off() {
            let unready = Readiness::Unready(why.to_owned());
            self.observed_mut()
                .readiness
                .insert(instance.clone(), unready);
        }
        self.observed_mut().containers.insert(instance.clone(), own);
    }

    fn count(&mut self) {
        let copies = self.observed.copies.values().filter(|copy| copy.runs);
        let foreign = self.unlabelled + copies.count() as u32;
        self.observed_mut().foreign = foreign;
    }

    /// What the looks at a running instance say. `started_at` is the start that they are about.
    pub fn ready(&mut self, instance: &InstanceId, started_at: i64, readiness: Readiness) {
        let current = self
            .observed
            .containers
            .get(instance)
            .filter(|c| c.cut_off().is_none())
            .and_then(|c| c.running())
            .map(|r| r.started_at);
        if current == Some(started_at) {
            self.observed_mut()
                .readiness
                .insert(instance.clone(), readiness);
        }
    }

    /// So many connections of an instance that leaves are open; none if that is not known, or of no interest any more.
    pub fn connected(&mut self, instance: &InstanceId, open: Option<u32>) {
        if self.observed.connections.get(instance).copied() == open {
            return;
        }
        let connections = &mut self.observed_mut().connections;
        match open {
            Some(open) => connections.insert(instance.clone(), open),
            None => connections.remove(instance),
        };
    }

    /// The engine does not answer.
    pub fn unresponsive(&mut self, why: String) {
        self.observed_mut().engine = EngineState::Unresponsive(why);
    }
}

#[cfg(test)]
mod tests;
