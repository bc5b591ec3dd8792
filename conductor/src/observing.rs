//! What is known of the engine, kept from lists, looks at single containers and the results of own steps.
//!
//! These arrive out of order: a list that was begun before a container was made
//! must not make it disappear. So every change of an instance has a number, and
//! what was begun earlier does not overwrite it.

use std::collections::BTreeMap;

use conductor_core::observed::{EngineState, Observed, ObservedContainer, Readiness};
use manifests::InstanceId;

use crate::engine::Listing;

/// When something was begun, in the order of the loop's own events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seq(u64);

/// The engine as far as it is known.
#[derive(Debug, Default)]
pub struct Observing {
    observed: Observed,
    changed: BTreeMap<InstanceId, Seq>,
    now: Seq,
    listed: bool,
}

impl Observing {
    /// What is known.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// A whole list has been seen: what is absent is really absent.
    pub fn is_complete(&self) -> bool {
        self.listed
    }

    /// The number for something that is begun now.
    pub fn begin(&mut self) -> Seq {
        self.now.0 += 1;
        self.now
    }

    /// A whole list that was begun at `since`.
    pub fn list(&mut self, listing: Listing, since: Seq) {
        let newer = |changed: &BTreeMap<InstanceId, Seq>, instance: &InstanceId| {
            changed.get(instance).is_some_and(|at| *at > since)
        };
        let fresh = Observed::new(listing.ours, listing.foreign);
        let mut containers = fresh.containers;
        containers.retain(|instance, _| !newer(&self.changed, instance));
        for (instance, container) in std::mem::take(&mut self.observed.containers) {
            if newer(&self.changed, &instance) {
                containers.insert(instance, container);
            }
        }
        self.observed.containers = containers;
        self.observed.foreign = fresh.foreign;
        self.observed.engine = EngineState::Up;
        self.listed = true;
        self.changed.retain(|_, at| *at > since);
        self.forget_readiness();
    }

    /// One container as it is now, by a look begun at `since`.
    pub fn look(&mut self, container: ObservedContainer, since: Seq) {
        let instance = container.owner.instance.clone();
        if self.changed.get(&instance).is_some_and(|at| *at > since) {
            return;
        }
        self.set(container);
    }

    /// One container as an own step left it.
    pub fn set(&mut self, container: ObservedContainer) {
        let at = self.begin();
        let instance = container.owner.instance.clone();
        let restarted = match self.observed.containers.get(&instance) {
            Some(before) => {
                before.running().map(|r| r.started_at) != container.running().map(|r| r.started_at)
            }
            None => true,
        };
        if restarted {
            self.observed.readiness.remove(&instance);
        }
        self.changed.insert(instance.clone(), at);
        self.observed.containers.insert(instance, container);
    }

    /// A container is gone.
    pub fn gone(&mut self, docker_id: &str) {
        let found = self
            .observed
            .containers
            .iter()
            .find(|(_, c)| c.docker_id == docker_id)
            .map(|(instance, _)| instance.clone());
        if let Some(instance) = found {
            let at = self.begin();
            self.changed.insert(instance.clone(), at);
            self.observed.containers.remove(&instance);
            self.forget_readiness();
        }
    }

    /// What the looks at a running instance say. `started_at` is the start that they are about.
    pub fn ready(&mut self, instance: &InstanceId, started_at: i64, readiness: Readiness) {
        let current = self
            .observed
            .containers
            .get(instance)
            .and_then(|c| c.running())
            .map(|r| r.started_at);
        if current == Some(started_at) {
            self.observed.readiness.insert(instance.clone(), readiness);
        }
    }

    /// The engine does not answer.
    pub fn unresponsive(&mut self, why: String) {
        self.observed.engine = EngineState::Unresponsive(why);
    }

    fn forget_readiness(&mut self) {
        let containers = &self.observed.containers;
        self.observed.readiness.retain(|instance, _| {
            containers
                .get(instance)
                .is_some_and(|c| c.running().is_some())
        });
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "names in tests are legal")]

    use conductor_core::observed::{ContainerState, Ownership, PublishedPorts, Running};
    use manifests::ContainerId;
    use uuid::Uuid;

    use super::*;

    fn container(instance: &str, started_at: Option<i64>) -> ObservedContainer {
        ObservedContainer {
            docker_id: format!("docker-{instance}"),
            name: "shop---web".to_owned(),
            owner: Ownership {
                cluster: Uuid::nil(),
                slot: "shop/web".parse::<ContainerId>().unwrap().slot(0),
                instance: instance.parse().unwrap(),
                manifest_hash: String::new(),
                host_hash: String::new(),
            },
            state: match started_at {
                Some(started_at) => ContainerState::Running(Running {
                    pid: 1,
                    started_at,
                    health: None,
                }),
                None => ContainerState::Created {
                    error: String::new(),
                },
            },
            addr: None,
            ports: PublishedPorts::new(),
            check: None,
            image: String::new(),
            image_id: String::new(),
            created_at: 0,
        }
    }

    fn list(containers: Vec<ObservedContainer>) -> Listing {
        Listing {
            ours: containers,
            ..Listing::default()
        }
    }

    #[test]
    fn a_list_begun_before_a_step_ended_does_not_undo_it() {
        let mut observing = Observing::default();
        let early = observing.begin();
        observing.set(container("made", None));
        observing.list(list(vec![]), early);
        assert_eq!(observing.observed().containers.len(), 1);

        let early = observing.begin();
        observing.gone("docker-made");
        observing.list(list(vec![container("made", None)]), early);
        assert!(observing.observed().containers.is_empty());
    }

    #[test]
    fn a_later_list_says_what_is_there() {
        let mut observing = Observing::default();
        observing.set(container("gone-meanwhile", None));
        let later = observing.begin();
        observing.list(list(vec![container("new", Some(1))]), later);
        let ids: Vec<_> = observing.observed().containers.keys().cloned().collect();
        assert_eq!(ids, ["new".parse().unwrap()]);
    }

    #[test]
    fn readiness_belongs_to_one_start() {
        let mut observing = Observing::default();
        let id: InstanceId = "one".parse().unwrap();
        observing.set(container("one", Some(1)));
        observing.ready(&id, 1, Readiness::Ready);
        assert_eq!(observing.observed().readiness(&id), &Readiness::Ready);
        observing.set(container("one", Some(2)));
        assert_eq!(observing.observed().readiness(&id), &Readiness::Starting);
        observing.ready(&id, 1, Readiness::Ready);
        assert_eq!(observing.observed().readiness(&id), &Readiness::Starting);
    }
}
