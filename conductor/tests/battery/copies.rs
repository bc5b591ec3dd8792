//! Containers that carry the labels of one of ours: what a `docker commit` and a `docker run` leave.

use agent::EngineCache;
use engine::{EngineEvent, SpecInput, spec};
use manifests::Manifest;
use model::observed::{
    LABEL_CLUSTER, LABEL_SLOT, ObservedContainer, Ownership, PublishedPorts, Surroundings,
};
use tokio::sync::mpsc;

use crate::harness::{Does, Lab, everywhere, next};

everywhere!(
    a_copy_of_a_container_changes_nothing_for_the_original,
    labels_copied_by_hand_make_no_instance,
    an_images_labels_of_ours_are_overridden,
);

/// What an agent does with an event, until one of this container has come.
async fn follow(
    lab: &Lab,
    cache: &mut EngineCache,
    events: &mut mpsc::Receiver<EngineEvent>,
    until: &str,
) {
    loop {
        let EngineEvent::Container { docker_id, .. } = next(events).await else {
            continue;
        };
        let since = cache.begin();
        match lab.engine.inspect(&docker_id).await.expect("an answer") {
            Some(seen) if seen.owner.cluster == lab.cluster => cache.look(seen, since, 0),
            _ => cache.gone(&docker_id, 0),
        }
        if docker_id == until {
            return;
        }
    }
}

async fn list(lab: &Lab, cache: &mut EngineCache) {
    let since = cache.begin();
    let listing = lab.engine.list(Some(lab.cluster)).await.expect("a list");
    cache.list(listing, since, 0);
}

/// An agent that has made a container.
async fn made(lab: &Lab, name: &str) -> (EngineCache, ObservedContainer) {
    let mut cache = EngineCache::default();
    list(lab, &mut cache).await;
    let spec = lab.spec(name, Does::Runs);
    let owner = Ownership::read(&spec.labels).expect("ours");
    cache.intend(&owner.instance, 0);
    let id = lab.run(&spec).await;
    let original = lab.look(&id).await;
    cache.made(original.clone(), 0);
    (cache, original)
}

fn is_only(cache: &EngineCache, original: &ObservedContainer, copies: &[&str]) {
    let observed = cache.observed();
    let ours: Vec<_> = observed.containers.values().collect();
    assert_eq!(ours, [original]);
    let found: Vec<&str> = observed.copies.keys().map(String::as_str).collect();
    assert_eq!(found, copies);
}

async fn a_copy_of_a_container_changes_nothing_for_the_original(lab: Lab) {
    let (mut cache, original) = made(&lab, "web").await;
    let mut events = lab.events().await;
    let name = format!("{}-debug", original.name);
    let copy = lab.copy(&original.docker_id, &name).await;
    follow(&lab, &mut cache, &mut events, &copy).await;
    is_only(&cache, &original, &[&copy]);
    list(&lab, &mut cache).await;
    is_only(&cache, &original, &[&copy]);
    let said = cache.observed().copies[&copy].to_string();
    assert!(said.starts_with(&format!("container {name} ")), "{said}");

    // An agent that is started now knows the same, and one whose disk is lost too.
    let notes = cache.unsaved().expect("something was noted").clone();
    for mut again in [EngineCache::new(notes), EngineCache::default()] {
        list(&lab, &mut again).await;
        is_only(&again, &original, &[&copy]);
    }

    lab.engine.remove(&copy, true).await.expect("removed");
    while cache.observed().copies.contains_key(&copy) {
        follow(&lab, &mut cache, &mut events, &copy).await;
    }
    is_only(&cache, &original, &[]);
    list(&lab, &mut cache).await;
    is_only(&cache, &original, &[]);
}

async fn labels_copied_by_hand_make_no_instance(lab: Lab) {
    let (mut cache, original) = made(&lab, "web").await;
    let mut events = lab.events().await;
    // Of this instance, and of another of the same slot.
    let mut same = lab.spec("web", Does::Runs);
    same.name = format!("{}-same", original.name);
    same.labels = original.owner.labels();
    let mut another = lab.spec("web", Does::Runs);
    another.name = format!("{}-another", original.name);
    let mut copies = [lab.run(&same).await, lab.run(&another).await];
    follow(&lab, &mut cache, &mut events, &copies[1]).await;
    list(&lab, &mut cache).await;
    copies.sort();
    let copies: Vec<&str> = copies.iter().map(String::as_str).collect();
    is_only(&cache, &original, &copies);
    assert!(cache.observed().foreign >= 2, "both run");

    // The original goes: no copy takes its place, and none has its name.
    lab.engine
        .remove(&original.docker_id, true)
        .await
        .expect("removed");
    list(&lab, &mut cache).await;
    for copy in copies {
        let renamed = lab.engine.rename(copy, &original.name).await;
        assert!(renamed.is_ok());
        list(&lab, &mut cache).await;
        assert!(cache.observed().containers.is_empty());
        lab.engine.remove(copy, true).await.expect("removed");
    }
}

async fn an_images_labels_of_ours_are_overridden(lab: Lab) {
    let first = lab.spec("first", Does::Runs);
    let id = lab.run(&first).await;
    let copy = lab.copy(&id, &format!("{}-debug", first.name)).await;
    let image = lab.look(&copy).await.image;
    let here = lab.engine.image(&image).await.expect("an answer");
    let image_labels = here.expect("it is here").labels;
    assert!(image_labels.iter().any(|name| name == LABEL_SLOT));

    let owner = lab.owner("second");
    let gateway = lab.engine.bridge("bridge").await.expect("a bridge").gateway;
    let mut made = spec(SpecInput {
        before: None,
        manifest: &Manifest::of_image(&image),
        image: &image,
        image_labels: &image_labels,
        cluster: lab.cluster,
        slot: &owner.slot,
        instance: &owner.instance,
        manifest_hash: &owner.manifest_hash,
        host: &"h1".parse().expect("a host"),
        surroundings: &Surroundings {
            host_ip: lab.address(),
            gateway,
            dns: None,
            domain: "skydns.local".to_owned(),
            network: "bridge".to_owned(),
        },
        ports: PublishedPorts::new(),
        beside: false,
    });
    let second = lab.create(&made).await;
    let seen = lab.look(&second).await.owner;
    assert_eq!((&seen.slot, &seen.instance), (&owner.slot, &owner.instance));
    // A container of such an image that somebody else makes is of nobody, if he says so.
    made.labels = [(LABEL_CLUSTER.to_owned(), String::new())].into();
    made.name = format!("{}-mine", made.name);
    let mine = lab.create(&made).await;
    assert_eq!(lab.engine.inspect(&mine).await, Ok(None));
    lab.engine.remove(&mine, true).await.expect("removed");
}
