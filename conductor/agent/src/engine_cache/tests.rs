#![expect(clippy::unwrap_used, reason = "names in tests are legal")]

use manifests::ContainerId;
use model::observed::{ContainerState, Ownership, PublishedPorts, Running, Unseen};
use uuid::Uuid;

use super::*;

/// A container as its host made it.
fn container(instance: &str, started_at: Option<i64>) -> ObservedContainer {
    let owner = Ownership {
        before: None,
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
        driver: String::new(),
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
fn known(cache: &EngineCache) -> (Vec<&str>, Vec<&str>) {
    let observed = cache.observed();
    let ours = observed.containers.values().map(|c| c.docker_id.as_str());
    let copies = observed.copies.keys().map(String::as_str);
    (ours.collect(), copies.collect())
}

/// An agent that has seen its engine, and has made this.
fn with(made: &ObservedContainer) -> EngineCache {
    let mut cache = EngineCache::default();
    let since = cache.begin();
    cache.list(list(vec![]), since, 0);
    cache.intend(&made.owner.instance, 0);
    cache.made(made.clone(), 0);
    cache
}

#[test]
fn a_list_begun_before_a_step_ended_does_not_undo_it() {
    let mut cache = EngineCache::default();
    let early = cache.begin();
    cache.set(container("made", None), 0);
    cache.list(list(vec![]), early, 0);
    assert_eq!(cache.observed().containers.len(), 1);

    let early = cache.begin();
    cache.gone("docker-made", 0);
    cache.list(list(vec![container("made", None)]), early, 0);
    assert!(cache.observed().containers.is_empty());
}

#[test]
fn a_later_list_says_what_is_there() {
    let mut cache = EngineCache::default();
    cache.set(container("gone-meanwhile", None), 0);
    let later = cache.begin();
    cache.list(list(vec![container("new", Some(1))]), later, 0);
    let ids: Vec<_> = cache.observed().containers.keys().cloned().collect();
    assert_eq!(ids, ["new".parse().unwrap()]);
}

#[test]
fn readiness_belongs_to_one_start() {
    let mut cache = EngineCache::default();
    let id: InstanceId = "one".parse().unwrap();
    cache.set(container("one", Some(1)), 0);
    cache.ready(&id, 1, Readiness::Ready);
    assert_eq!(cache.observed().readiness(&id), &Readiness::Ready);
    cache.set(container("one", Some(2)), 0);
    assert_eq!(cache.observed().readiness(&id), &Readiness::Starting);
    cache.ready(&id, 1, Readiness::Ready);
    assert_eq!(cache.observed().readiness(&id), &Readiness::Starting);
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
        let mut cache = with(&runs);
        cache.ready(&id, 1, Readiness::Ready);
        cache.set(cut_off, 0);
        // A look that was under way: sockets of a frozen process listen on.
        cache.ready(&id, 1, Readiness::Ready);
        let says = |cache: &EngineCache| match cache.observed().readiness(&id) {
            Readiness::Unready(why) => why.contains(word),
            _ => false,
        };
        assert!(says(&cache), "{word}");
        cache.set(runs.clone(), 0);
        assert!(says(&cache), "{word}");
        cache.ready(&id, 1, Readiness::Ready);
        assert_eq!(cache.observed().readiness(&id), &Readiness::Ready);
    }
}

#[test]
fn a_copy_is_left_alone_in_whatever_order_it_is_seen() {
    let original = container("one", Some(1));
    let copy = copy(&original);
    let both = (vec!["docker-one"], vec!["copy-of-docker-one"]);

    // By its events.
    let mut cache = with(&original);
    cache.set(copy.clone(), 0);
    assert_eq!(known(&cache), both);
    assert_eq!(cache.observed().foreign, 1, "it runs");
    let said = cache.observed().copies.values().next().unwrap();
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
        let since = cache.begin();
        cache.list(list(vec![copy, original.clone()]), since, 0);
        assert_eq!(known(&cache), both);
    }

    // It goes, and nothing of the original goes with it.
    cache.ready(&original.owner.instance, 1, Readiness::Ready);
    cache.gone(&copy.docker_id, 0);
    assert_eq!(known(&cache), (vec!["docker-one"], vec![]));
    assert_eq!(cache.observed().foreign, 0);
    assert_eq!(
        cache.observed().readiness(&original.owner.instance),
        &Readiness::Ready
    );

    // The original goes, and the copy does not take its place, whatever it is called.
    let copy = ObservedContainer {
        name: original.name.clone(),
        ..copy
    };
    cache.set(copy.clone(), 0);
    cache.gone(&original.docker_id, 0);
    assert_eq!(known(&cache), (vec![], vec!["copy-of-docker-one"]));
    let since = cache.begin();
    cache.list(list(vec![copy]), since, 0);
    assert_eq!(known(&cache), (vec![], vec!["copy-of-docker-one"]));
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
    let mut cache = EngineCache::new(notes);
    let since = cache.begin();
    let there = vec![older.clone(), original.clone()];
    cache.list(list(there), since, 0);
    let ids = (vec!["docker-one"], vec!["copy-of-docker-one"]);
    assert_eq!(known(&cache), ids);

    // It is gone when the agent is back: nothing takes its place.
    let notes = cache.notes.clone();
    let mut cache = EngineCache::new(notes);
    let since = cache.begin();
    cache.list(list(vec![older]), since, 0);
    assert_eq!(known(&cache), (vec![], vec!["copy-of-docker-one"]));
    // An engine that had lost its disk for a while has it again.
    let since = cache.begin();
    cache.list(list(vec![original]), since, 0);
    assert_eq!(known(&cache), (vec!["docker-one"], vec![]));
}

#[test]
fn what_was_about_to_be_made_when_the_agent_was_killed_is_taken_over() {
    let made = container("one", None);
    let mut killed = EngineCache::default();
    let since = killed.begin();
    killed.list(list(vec![]), since, 0);
    killed.intend(&made.owner.instance, 0);
    for early_list in [false, true] {
        let mut cache = EngineCache::new(killed.notes.clone());
        let since = cache.begin();
        let there = if early_list {
            vec![]
        } else {
            vec![made.clone()]
        };
        cache.list(list(there), since, 0);
        // The engine made it after all.
        cache.set(made.clone(), 0);
        cache.set(copy(&made), 0);
        let ids = (vec!["docker-one"], vec!["copy-of-docker-one"]);
        assert_eq!(known(&cache), ids);
    }
}

#[test]
fn without_notes_the_oldest_of_the_right_name_counts() {
    let original = container("one", Some(1));
    let older = ObservedContainer {
        created_at: 0,
        ..copy(&original)
    };
    let mut cache = EngineCache::default();
    let since = cache.begin();
    let there = vec![older.clone(), original.clone()];
    cache.list(list(there), since, 0);
    let ids = (vec!["docker-one"], vec!["copy-of-docker-one"]);
    assert_eq!(known(&cache), ids);
    // What comes later is noted, or not ours.
    cache.set(container("two", None), 0);
    assert_eq!(known(&cache).0, ["docker-one"]);

    // What an earlier agent said in etcd counts where nothing is noted.
    cache.was(&"two".parse().unwrap(), "docker-two", 0);
    assert_eq!(known(&cache).0, ["docker-one", "docker-two"]);
    cache.was(&original.owner.instance, &older.docker_id, 0);
    assert_eq!(known(&cache).0, ["docker-one", "docker-two"]);
}

#[test]
fn what_a_list_does_not_show_is_as_it_was_and_what_never_was_shown_is_not_absent() {
    let unseen = |instance: &str| {
        let unseen = Unseen {
            instance: instance.parse().unwrap(),
            why: "no answer".to_owned(),
        };
        Listing {
            unseen: [(format!("docker-{instance}"), unseen)].into(),
            ..Listing::default()
        }
    };
    let mut cache = with(&container("stuck", Some(1)));
    assert_eq!(cache.never_seen(&unseen("stuck")), None);
    let since = cache.begin();
    cache.list(unseen("stuck"), since, 0);
    assert_eq!(known(&cache).0, ["docker-stuck"]);

    let why = cache.never_seen(&unseen("other"));
    assert_eq!(
        why.as_deref(),
        Some("its container docker-other: no answer")
    );
}
