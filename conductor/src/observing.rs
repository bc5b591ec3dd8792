//! What is known of the engine, kept from lists, looks at single containers and the results of own steps.
//!
//! These arrive out of order: a list that was begun before a container was made
//! must not make it disappear. So every change of an instance has a number, and
//! what was begun earlier does not overwrite it.

use std::collections::{BTreeMap, BTreeSet};

use manifests::InstanceId;
use model::identity::Notes;
use model::observed::{Copied, EngineState, Observed, ObservedContainer, Readiness};

use engine::Listing;

/// When something was begun, in the order of the loop's own events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Seq(u64);

/// The engine as far as it is known.
#[derive(Debug, Default)]
pub struct Observing {
    observed: Observed,
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

impl Observing {
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

    /// A whole list that was begun at `since`. `wall` is the time in Unix milliseconds.
    pub fn list(&mut self, listing: Listing, since: Seq, wall: i64) {
        let newer = |id: &String| self.changed.get(id).is_some_and(|at| *at > since);
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
        self.observed.copies.clear();
        let there: BTreeSet<InstanceId> = self.labelled.keys().cloned().collect();
        let known = self.observed.containers.keys().cloned();
        for instance in known.chain(there).collect::<BTreeSet<_>>() {
            self.settle(&instance, wall);
        }
        self.unsaved |= self.notes.adopted();
        let all = self.labelled.values().flatten();
        let all: BTreeSet<&str> = all.map(|c| c.docker_id.as_str()).collect();
        self.unsaved |= self.notes.forget(|id| all.contains(id), wall);
        self.observed.engine = EngineState::Up;
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
        self.observed.copies.remove(docker_id);
        self.unsaved |= self.notes.gone(&instance, docker_id);
        self.settle(&instance, wall);
        self.count();
    }

    /// Tells the instance from its copies.
    fn settle(&mut self, instance: &InstanceId, wall: i64) {
        let of = self.labelled.get(instance).map_or(&[][..], Vec::as_slice);
        let own = self.notes.own(instance, of).cloned();
        for container in of {
            let id = &container.docker_id;
            if own.as_ref().is_some_and(|own| own.docker_id == *id) {
                self.observed.copies.remove(id);
                continue;
            }
            let copied = Copied {
                name: container.name.clone(),
                slot: container.owner.slot.clone(),
                runs: container.running().is_some(),
            };
            self.observed.copies.insert(id.clone(), copied);
        }
        let Some(own) = own else {
            self.observed.containers.remove(instance);
            self.observed.readiness.remove(instance);
            return;
        };
        self.unsaved |= self.notes.made(instance, &own.docker_id, wall);
        let start = |c: &ObservedContainer| Some((c.docker_id.clone(), c.running()?.started_at));
        let before = self.observed.containers.get(instance).and_then(start);
        if before.is_none() || before != start(&own) {
            self.observed.readiness.remove(instance);
        }
        if let Some(why) = own.cut_off() {
            let unready = Readiness::Unready(why.to_owned());
            self.observed.readiness.insert(instance.clone(), unready);
        }
        self.observed.containers.insert(instance.clone(), own);
    }

    fn count(&mut self) {
        let copies = self.observed.copies.values().filter(|copy| copy.runs);
        self.observed.foreign = self.unlabelled + copies.count() as u32;
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
            self.observed.readiness.insert(instance.clone(), readiness);
        }
    }

    /// The engine does not answer.
    pub fn unresponsive(&mut self, why: String) {
        self.observed.engine = EngineState::Unresponsive(why);
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "names in tests are legal")]

    use manifests::ContainerId;
    use model::observed::{ContainerState, Ownership, PublishedPorts, Running};
    use uuid::Uuid;

    use super::*;

    /// A container as its host made it.
    fn container(instance: &str, started_at: Option<i64>) -> ObservedContainer {
        let owner = Ownership {
            cluster: Uuid::nil(),
            slot: "shop/web".parse::<ContainerId>().unwrap().slot(0),
            instance: instance.parse().unwrap(),
            manifest_hash: String::new(),
            host_hash: String::new(),
        };
        ObservedContainer {
            docker_id: format!("docker-{instance}"),
            name: owner.name_beside(),
            owner,
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
            addr: Some([172, 17, 0, 2].into()),
            ports: PublishedPorts::new(),
            limits: model::observed::Limits::default(),
            check: None,
            image: String::new(),
            image_id: String::new(),
            created_at: 1,
        }
    }

    /// An image was made of it, and a container of that.
    fn copy(of: &ObservedContainer) -> ObservedContainer {
        ObservedContainer {
            docker_id: format!("copy-of-{}", of.docker_id),
            name: "debug".to_owned(),
            created_at: of.created_at + 1,
            ..of.clone()
        }
    }

    fn list(containers: Vec<ObservedContainer>) -> Listing {
        Listing {
            labelled: containers,
            ..Listing::default()
        }
    }

    /// What is known: the Docker ids of ours and of copies.
    fn known(observing: &Observing) -> (Vec<&str>, Vec<&str>) {
        let observed = observing.observed();
        let ours = observed.containers.values().map(|c| c.docker_id.as_str());
        let copies = observed.copies.keys().map(String::as_str);
        (ours.collect(), copies.collect())
    }

    /// An agent that has seen its engine, and has made this.
    fn with(made: &ObservedContainer) -> Observing {
        let mut observing = Observing::default();
        let since = observing.begin();
        observing.list(list(vec![]), since, 0);
        observing.intend(&made.owner.instance, 0);
        observing.made(made.clone(), 0);
        observing
    }

    #[test]
    fn a_list_begun_before_a_step_ended_does_not_undo_it() {
        let mut observing = Observing::default();
        let early = observing.begin();
        observing.set(container("made", None), 0);
        observing.list(list(vec![]), early, 0);
        assert_eq!(observing.observed().containers.len(), 1);

        let early = observing.begin();
        observing.gone("docker-made", 0);
        observing.list(list(vec![container("made", None)]), early, 0);
        assert!(observing.observed().containers.is_empty());
    }

    #[test]
    fn a_later_list_says_what_is_there() {
        let mut observing = Observing::default();
        observing.set(container("gone-meanwhile", None), 0);
        let later = observing.begin();
        observing.list(list(vec![container("new", Some(1))]), later, 0);
        let ids: Vec<_> = observing.observed().containers.keys().cloned().collect();
        assert_eq!(ids, ["new".parse().unwrap()]);
    }

    #[test]
    fn readiness_belongs_to_one_start() {
        let mut observing = Observing::default();
        let id: InstanceId = "one".parse().unwrap();
        observing.set(container("one", Some(1)), 0);
        observing.ready(&id, 1, Readiness::Ready);
        assert_eq!(observing.observed().readiness(&id), &Readiness::Ready);
        observing.set(container("one", Some(2)), 0);
        assert_eq!(observing.observed().readiness(&id), &Readiness::Starting);
        observing.ready(&id, 1, Readiness::Ready);
        assert_eq!(observing.observed().readiness(&id), &Readiness::Starting);
    }

    #[test]
    fn what_is_cut_off_is_unready_at_once_and_until_it_was_looked_at_again() {
        let id: InstanceId = "one".parse().unwrap();
        let runs = container("one", Some(1));
        let process = runs.running().unwrap().clone();
        let paused = ObservedContainer {
            state: ContainerState::Paused(process.clone()),
            ..runs.clone()
        };
        let disconnected = ObservedContainer {
            addr: None,
            ..runs.clone()
        };
        let restarted = ObservedContainer {
            state: ContainerState::Running(Running { pid: 0, ..process }),
            ..runs.clone()
        };
        for (word, cut_off) in [
            ("paused", paused),
            ("network", disconnected),
            ("restarts", restarted),
        ] {
            let mut observing = with(&runs);
            observing.ready(&id, 1, Readiness::Ready);
            observing.set(cut_off, 0);
            // A look that was under way: sockets of a frozen process listen on.
            observing.ready(&id, 1, Readiness::Ready);
            let says = |observing: &Observing| match observing.observed().readiness(&id) {
                Readiness::Unready(why) => why.contains(word),
                _ => false,
            };
            assert!(says(&observing), "{word}");
            observing.set(runs.clone(), 0);
            assert!(says(&observing), "{word}");
            observing.ready(&id, 1, Readiness::Ready);
            assert_eq!(observing.observed().readiness(&id), &Readiness::Ready);
        }
    }

    #[test]
    fn a_copy_is_left_alone_in_whatever_order_it_is_seen() {
        let original = container("one", Some(1));
        let copy = copy(&original);
        let both = (vec!["docker-one"], vec!["copy-of-docker-one"]);

        // By its events.
        let mut observing = with(&original);
        observing.set(copy.clone(), 0);
        assert_eq!(known(&observing), both);
        assert_eq!(observing.observed().foreign, 1, "it runs");
        let said = observing.observed().copies.values().next().unwrap();
        assert!(
            said.to_string().starts_with(
                "container debug carries dokkaa labels of shop/web/0 but was not made by dokkaa"
            ),
            "{said}"
        );

        // By a list, older than the original or not.
        for created_at in [0, 5] {
            let copy = ObservedContainer {
                created_at,
                ..copy.clone()
            };
            let since = observing.begin();
            observing.list(list(vec![copy, original.clone()]), since, 0);
            assert_eq!(known(&observing), both);
        }

        // It goes, and nothing of the original goes with it.
        observing.ready(&original.owner.instance, 1, Readiness::Ready);
        observing.gone(&copy.docker_id, 0);
        assert_eq!(known(&observing), (vec!["docker-one"], vec![]));
        assert_eq!(observing.observed().foreign, 0);
        assert_eq!(
            observing.observed().readiness(&original.owner.instance),
            &Readiness::Ready
        );

        // The original goes, and the copy does not take its place, whatever it is called.
        let copy = ObservedContainer {
            name: original.name.clone(),
            ..copy
        };
        observing.set(copy.clone(), 0);
        observing.gone(&original.docker_id, 0);
        assert_eq!(known(&observing), (vec![], vec!["copy-of-docker-one"]));
        let since = observing.begin();
        observing.list(list(vec![copy]), since, 0);
        assert_eq!(known(&observing), (vec![], vec!["copy-of-docker-one"]));
    }

    #[test]
    fn what_was_made_is_known_after_a_restart() {
        let original = container("one", Some(1));
        let older = ObservedContainer {
            created_at: 0,
            name: "shop---web---0".to_owned(),
            ..copy(&original)
        };
        let notes = with(&original).unsaved().unwrap().clone();
        let mut observing = Observing::new(notes);
        let since = observing.begin();
        let there = vec![older.clone(), original.clone()];
        observing.list(list(there), since, 0);
        let ids = (vec!["docker-one"], vec!["copy-of-docker-one"]);
        assert_eq!(known(&observing), ids);

        // It is gone when the agent is back: nothing takes its place.
        let notes = observing.notes.clone();
        let mut observing = Observing::new(notes);
        let since = observing.begin();
        observing.list(list(vec![older]), since, 0);
        assert_eq!(known(&observing), (vec![], vec!["copy-of-docker-one"]));
        // An engine that had lost its disk for a while has it again.
        let since = observing.begin();
        observing.list(list(vec![original]), since, 0);
        assert_eq!(known(&observing), (vec!["docker-one"], vec![]));
    }

    #[test]
    fn what_was_about_to_be_made_when_the_agent_was_killed_is_taken_over() {
        let made = container("one", None);
        let mut killed = Observing::default();
        let since = killed.begin();
        killed.list(list(vec![]), since, 0);
        killed.intend(&made.owner.instance, 0);
        for early_list in [false, true] {
            let mut observing = Observing::new(killed.notes.clone());
            let since = observing.begin();
            let there = if early_list {
                vec![]
            } else {
                vec![made.clone()]
            };
            observing.list(list(there), since, 0);
            // The engine made it after all.
            observing.set(made.clone(), 0);
            observing.set(copy(&made), 0);
            let ids = (vec!["docker-one"], vec!["copy-of-docker-one"]);
            assert_eq!(known(&observing), ids);
        }
    }

    #[test]
    fn without_notes_the_oldest_of_the_right_name_counts() {
        let original = container("one", Some(1));
        let older = ObservedContainer {
            created_at: 0,
            ..copy(&original)
        };
        let mut observing = Observing::default();
        let since = observing.begin();
        let there = vec![older.clone(), original.clone()];
        observing.list(list(there), since, 0);
        let ids = (vec!["docker-one"], vec!["copy-of-docker-one"]);
        assert_eq!(known(&observing), ids);
        // What comes later is noted, or not ours.
        observing.set(container("two", None), 0);
        assert_eq!(known(&observing).0, ["docker-one"]);

        // What an earlier agent said in etcd counts where nothing is noted.
        observing.was(&"two".parse().unwrap(), "docker-two", 0);
        assert_eq!(known(&observing).0, ["docker-one", "docker-two"]);
        observing.was(&original.owner.instance, &older.docker_id, 0);
        assert_eq!(known(&observing).0, ["docker-one", "docker-two"]);
    }
}
