//! The index after any history is what follows from the snapshot.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::snapshot::Change;

const RECORD: &str = r#"{"id":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000001",
    "epoch":0,"state":"up","addr":"10.0.0.1","versions":{"agent":"","placement":[1]}}"#;

fn host() -> impl Strategy<Value = String> {
    (1..4_u32).prop_map(|number| format!("h{number}"))
}

fn container() -> impl Strategy<Value = String> {
    (0..2_u32).prop_map(|number| format!("shop/c{number}"))
}

/// A key, and what may be put there; none deletes it.
fn step() -> impl Strategy<Value = (String, Option<String>)> {
    let manifest = prop_oneof![
        6 => (0..5_u32).prop_map(|scale| format!(r#"{{"image":"web","scale":{scale}}}"#)),
        3 => Just(r#"{"image":"web","scale":"global"}"#.to_owned()),
        1 => Just(r#"{"image":"web","scale":"global","placement":{"constraints":["disk==ssd"]}}"#.to_owned()),
        1 => Just("{".to_owned()),
    ];
    let manifest = (container(), manifest)
        .prop_map(|(id, manifest)| (format!("/apps/{id}/manifest"), manifest));
    let record = host().prop_map(|host| (format!("/hosts/{host}/record"), RECORD.to_owned()));
    let claim =
        host().prop_map(|host| format!(r#"{{"host":"{host}","instance":"i1","version":2}}"#));
    let named = prop_oneof![9 => claim, 1 => Just("{".to_owned())];
    let slot = (
        container(),
        0..5_u32,
        prop_oneof![3 => Just(""), 1 => Just(".next")],
        named,
    )
        .prop_map(|(id, slot, what, named)| (format!("/claims/{id}/slots/{slot}{what}"), named));
    let data = (container(), 0..5_u32)
        .prop_map(|(id, slot)| (format!("/claims/{id}/data/{slot}"), DATA.to_owned()));
    let availability = prop_oneof![Just(r#""drain""#), Just(r#""pause""#)];
    let availability = (host(), availability)
        .prop_map(|(host, value)| (format!("/hosts/{host}/availability"), value.to_owned()));
    let member = host().prop_map(|host| (format!("/dokkaa/members/{host}"), MEMBER.to_owned()));
    let labels = host().prop_map(|host| (format!("/hosts/{host}/labels"), LABELS.to_owned()));
    let version = (container(), 1..60_i64)
        .prop_map(|(id, at)| (format!("/claims/{id}/versions/{at}"), VERSION.to_owned()));
    let key = prop_oneof![
        2 => manifest, 2 => record, 8 => slot, 1 => data, 1 => availability, 1 => member, 1 => labels, 1 => version
    ];
    (key, prop::bool::weighted(0.7)).prop_map(|((key, value), put)| (key, put.then_some(value)))
}

const MEMBER: &str = r#"{"id":"00000000-0000-0000-0000-000000000001"}"#;
const LABELS: &str = r#"{"disk":"ssd"}"#;
const VERSION: &str = r#"{"manifest":{"image":"web","scale":"global"},"image":"sha256:a"}"#;
const DATA: &str =
    r#"{"host":"h1","host_id":"00000000-0000-0000-0000-000000000001","volumes":["v"]}"#;

fn index_of(snapshot: &Snapshot) -> Index {
    let mut index = Index::default();
    for (id, container) in &snapshot.containers {
        for (number, view) in &container.slots {
            let (slot, named) = (id.slot(*number), Named::by(Some(view)));
            moved(&mut index.claimed, &slot, None, named.claim.as_ref());
            moved(&mut index.coming, &slot, None, named.next.as_ref());
            for host in [named.claim, named.next].into_iter().flatten() {
                if !snapshot.is_live(&host) {
                    index.lost.insert_mut(host);
                }
            }
        }
        let wanted = container.numbers().into_iter();
        let claimed = |number: &u32| {
            let slot = container.slots.get(number);
            slot.is_some_and(|slot| slot.claim.is_some())
        };
        index.is_vacant(id, wanted.filter(|number| !claimed(number)).count() as u32);
        if container.manifest.is_none() {
            index.bare.insert_mut(id.clone());
        }
        if container.is_global() {
            index.global.insert_mut(id.clone());
        }
    }
    for (host, _) in snapshot.live() {
        if snapshot.availability(host).gives_away() {
            index.giving.insert_mut(host.clone());
        }
    }
    index
}

proptest! {
    #[test]
    fn after_any_history_it_follows_from_the_snapshot(steps in vec(step(), 1..60)) {
        let mut snapshot = Snapshot::default();
        for (number, (key, value)) in steps.into_iter().enumerate() {
            let modified = number as i64 + 1;
            let change = match value {
                Some(value) => Change::Put { key, value: value.into_bytes(), modified, created: modified },
                None => Change::Delete { key, modified },
            };
            snapshot.apply([change], modified);
            prop_assert_eq!(&snapshot.index, &index_of(&snapshot));
            for container in snapshot.containers.values() {
                let places = snapshot.places(container);
                prop_assert_eq!(container.places.as_deref(), places.as_ref());
            }
        }
    }

    #[test]
    fn changes_that_come_at_once_lead_where_each_by_itself_does(steps in vec(step(), 1..60)) {
        let changes: Vec<Change> = steps.into_iter().zip(1..).map(|((key, value), modified)| match value {
            Some(value) => Change::Put { key, value: value.into_bytes(), modified, created: modified },
            None => Change::Delete { key, modified },
        }).collect();
        let mut one_by_one = Snapshot::default();
        for (change, revision) in changes.iter().cloned().zip(1..) {
            one_by_one.apply([change], revision);
        }
        let mut at_once = Snapshot::default();
        let revision = changes.len() as i64;
        at_once.apply(changes, revision);
        prop_assert_eq!(one_by_one, at_once);
    }
}
