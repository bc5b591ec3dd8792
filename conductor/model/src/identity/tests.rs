use std::net::IpAddr;

use manifests::ContainerId;
use uuid::Uuid;

use super::*;
use crate::observed::{ContainerState, Ownership, PublishedPorts};

fn container(id: &str, name: &str, created_at: i64) -> ObservedContainer {
    ObservedContainer {
        docker_id: id.to_owned(),
        name: name.to_owned(),
        owner: Ownership {
            before: None,
            cluster: Uuid::from_u128(7),
            slot: "shop/web".parse::<ContainerId>().expect("an id").slot(2),
            instance: one(),
            manifest_hash: "1:aa".to_owned(),
            host_hash: "1:bb".to_owned(),
        },
        state: ContainerState::Removing,
        addr: Some(IpAddr::from([172, 17, 0, 2])),
        ports: PublishedPorts::new(),
        limits: crate::observed::Limits::default(),
        check: None,
        image: String::new(),
        image_id: String::new(),
        driver: String::new(),
        created_at,
    }
}

fn one() -> InstanceId {
    "i-1".parse().expect("an instance")
}

/// Which of them is the instance.
fn own<'a>(notes: &Notes, of: &'a [ObservedContainer]) -> Option<&'a str> {
    notes.own(&one(), of).map(|c| c.docker_id.as_str())
}

fn all() -> Vec<ObservedContainer> {
    vec![
        container("debug", "mydebug", 1),
        container("final", "shop---web---2", 3),
        container("beside", "shop---web---2.i-1", 2),
        container("other", "shop---web---2.i-2", 0),
    ]
}

#[test]
fn the_noted_container_is_the_instance_whatever_it_is_called() {
    let mut notes = Notes::default();
    assert!(notes.made(&one(), "debug", 0));
    assert!(!notes.made(&one(), "debug", 0));
    assert_eq!(own(&notes, &all()), Some("debug"));
    assert_eq!(own(&notes, &all()[1..]), None);
    // A try that was made before does not take its id away.
    notes.intend(&one(), 1);
    assert_eq!(own(&notes, &all()), Some("debug"));
    assert!(!notes.gone(&one(), "final"));
    assert!(notes.gone(&one(), "debug"));
    notes.adopted();
    assert_eq!(own(&notes, &all()), None);
}

#[test]
fn what_is_to_be_made_is_the_oldest_of_the_right_name() {
    let mut notes = Notes::default();
    assert!(notes.adopted() && !notes.adopted());
    assert_eq!(own(&notes, &all()), None, "it is not noted");
    notes.intend(&one(), 0);
    assert_eq!(own(&notes, &all()), Some("beside"));
    assert_eq!(own(&notes, &all()[..2]), Some("final"));
    assert_eq!(own(&notes, &all()[..1]), None);
}

#[test]
fn a_host_without_notes_adopts_by_name_and_once() {
    let mut notes = Notes::default();
    assert_eq!(own(&notes, &all()), Some("beside"));
    assert_eq!(notes.all_own(&all()).len(), 1);
    notes.adopted();
    assert_eq!(own(&notes, &all()), None);
    let json = serde_json::to_string(&notes).expect("written");
    let read: Notes = serde_json::from_str(&json).expect("read");
    assert_eq!(read, notes);
    assert_eq!(own(&read, &all()), None);
}

#[test]
fn what_has_not_been_there_for_long_is_forgotten() {
    let mut notes = Notes::default();
    notes.made(&one(), "made", 0);
    let two: InstanceId = "i-2".parse().expect("an instance");
    notes.intend(&two, 0);
    assert!(!notes.forget(|_| false, MAKING - 1));
    assert!(notes.forget(|_| false, MAKING));
    assert!(!notes.forget(|id| id == "made", KEPT));
    assert_eq!(notes.container(&one()), Some("made"));
    assert!(notes.forget(|_| false, KEPT));
    assert_eq!(notes.container(&one()), None);
}
