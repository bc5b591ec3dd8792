//! What is told of changes.

use model::{ModRev, VersionId};
use std::net::IpAddr;

use manifests::keys::Key;
use manifests::{ContainerId, InstanceId, SlotId};
use uuid::Uuid;

use super::*;
use model::observed::{Ownership, PublishedPorts};
use model::records::{Claim, SlotState, Unfit};
use model::snapshot::Change;
use planner::Plan;

fn slot() -> SlotId {
    "shop/web".parse::<ContainerId>().expect("an id").slot(2)
}

fn instance(name: &str) -> InstanceId {
    name.parse().expect("an instance")
}

fn running(started_at: i64) -> ContainerState {
    ContainerState::Running(Running {
        pid: 1,
        started_at,
        health: None,
    })
}

fn exited(code: i64, at: i64) -> ContainerState {
    ContainerState::Exited(Exit {
        code,
        at,
        ..Exit::default()
    })
}

fn shows(state: ContainerState) -> Observed {
    let container = ObservedContainer {
        docker_id: "d".to_owned(),
        name: "n".to_owned(),
        owner: Ownership {
            before: None,
            cluster: Uuid::from_u128(7),
            slot: slot(),
            instance: instance("i-1"),
            manifest_hash: "1:aa".to_owned(),
            host_hash: "1:bb".to_owned(),
        },
        state,
        addr: None,
        ports: PublishedPorts::new(),
        limits: model::observed::Limits::default(),
        check: None,
        image: String::new(),
        image_id: "sha256:1".to_owned(),
        driver: String::new(),
        created_at: 1,
    };
    Observed::new([container], 0)
}

fn with(mut observed: Observed, readiness: Readiness) -> Observed {
    observed.readiness.insert(instance("i-1"), readiness);
    observed
}

/// Kinds and messages.
fn told(before: &Observed, after: &Observed, memory: &AgentMemory) -> Vec<String> {
    of_observed(before, after, memory, 100)
        .iter()
        .map(|one| format!("{} {} {}", one.subject(), one.kind, one.message))
        .map(|text| text.trim().to_owned())
        .collect()
}

#[test]
fn starts_ends_and_readiness_are_told_once() {
    let none = Observed::default();
    let made = shows(ContainerState::Created {
        error: String::new(),
    });
    let up = shows(running(200));
    let ready = with(up.clone(), Readiness::Ready);
    let unready = with(up.clone(), Readiness::Unready("port 80".to_owned()));
    let down = shows(exited(1, 300));
    let memory = AgentMemory::default();
    let of = |before: &Observed, after: &Observed| told(before, after, &memory);
    assert_eq!(of(&none, &made), [""; 0]);
    assert_eq!(of(&made, &up), ["shop/web/2 started"]);
    assert_eq!(of(&up, &up), [""; 0]);
    assert_eq!(of(&up, &ready), ["shop/web/2 ready"]);
    assert_eq!(of(&ready, &unready), ["shop/web/2 unready port 80"]);
    assert_eq!(of(&unready, &ready), ["shop/web/2 ready again"]);
    assert_eq!(of(&up, &down), ["shop/web/2 exited exit code 1"]);
    assert_eq!(of(&down, &down), [""; 0]);
    assert_eq!(of(&down, &none), ["shop/web/2 removed"]);
    assert_eq!(of(&up, &none), ["shop/web/2 removed while it ran"]);
    let again = shows(running(400));
    assert_eq!(of(&down, &again), ["shop/web/2 started"]);
    assert_eq!(
        of(&up, &again),
        ["shop/web/2 exited", "shop/web/2 started"],
        "an end that was not seen has been all the same"
    );
}

#[test]
fn an_end_that_was_asked_for_is_a_stop() {
    let mut memory = AgentMemory::default();
    let leaves = Plan {
        leaving: vec![instance("i-1")],
        ..Plan::default()
    };
    memory.begin(&leaves, model::Millis(1));
    let told = told(&shows(running(200)), &shows(exited(143, 300)), &memory);
    assert_eq!(told, ["shop/web/2 stopped exit code 143"]);
}

#[test]
fn a_pause_by_hand_is_told_and_so_is_its_end() {
    let memory = AgentMemory::default();
    let paused = ContainerState::Paused(Running {
        pid: 1,
        started_at: 200,
        health: None,
    });
    let running = with(shows(running(200)), Readiness::Ready);
    let why = Readiness::Unready("it is paused".to_owned());
    let paused = with(shows(paused), why.clone());
    assert_eq!(
        told(&running, &paused, &memory),
        ["shop/web/2 paused", "shop/web/2 unready it is paused"]
    );
    let goes_on = with(running.clone(), why);
    assert_eq!(told(&paused, &goes_on, &memory), ["shop/web/2 unpaused"]);
    assert_eq!(
        told(&goes_on, &running, &memory),
        ["shop/web/2 ready again"]
    );
}

#[test]
fn what_an_agent_finds_at_its_start_is_not_new() {
    let memory = AgentMemory::default();
    let found = with(shows(running(50)), Readiness::Ready);
    assert_eq!(told(&Observed::default(), &found, &memory), [""; 0]);
    let dead = shows(exited(1, 60));
    assert_eq!(told(&Observed::default(), &dead, &memory), [""; 0]);
}

#[test]
fn an_engine_and_a_hold_have_a_begin_and_an_end() {
    let up = Observed::default();
    let silent = Observed {
        engine: EngineState::Unresponsive("no answer".to_owned()),
        ..Observed::default()
    };
    let memory = AgentMemory::default();
    assert_eq!(
        told(&up, &silent, &memory),
        ["engine-unresponsive no answer"]
    );
    assert_eq!(told(&silent, &silent, &memory), [""; 0]);
    assert_eq!(told(&silent, &up, &memory), ["engine-back"]);
    let kind = |before, now| of_hold(before, now).map(|one| one.kind);
    assert_eq!(kind(None, None), None);
    assert_eq!(kind(None, Some("rewound")), Some(Kind::Hold));
    assert_eq!(kind(Some("rewound"), Some("rewound")), None);
    assert_eq!(kind(Some("rewound"), None), Some(Kind::HoldEnded));
    assert_eq!(of_epoch(2, 2), None);
    assert_eq!(of_epoch(2, 3).map(|one| one.kind), Some(Kind::Restored));
}

#[test]
fn the_first_live_host_tells_that_another_is_missing_and_that_it_is_back() {
    let host = |name: &str| -> HostName { name.parse().expect("a host") };
    // Which of the hosts is a member, and which has a record.
    let cluster = |hosts: &[(&str, bool, bool)]| {
        let mut snapshot = Snapshot::default();
        let id = Uuid::from_u128(1);
        let record = format!(
            r#"{{"id":"{id}","session":"{id}","epoch":0,"state":"up","addr":"10.0.0.1","versions":{{"agent":"","placement":[]}}}}"#
        );
        let put = |key: Key, value: String| Change::Put {
            key: key.to_string(),
            value: value.into_bytes(),
            modified: 1,
            created: 1,
        };
        for (name, is_member, is_live) in hosts {
            let member = format!(r#"{{"id":"{id}"}}"#);
            let member = is_member.then(|| put(Key::Member(host(name)), member));
            let record = is_live.then(|| put(Key::HostRecord(host(name)), record.clone()));
            snapshot.apply(member.into_iter().chain(record), 1);
        }
        snapshot
    };
    let told = |before: &Snapshot, now: &Snapshot, me: &str| -> Vec<String> {
        let touched = ["h1", "h2", "h3"].map(host).into();
        let told = of_hosts(before, now, &touched, &host(me));
        let told = told.iter();
        told.map(|one| format!("{} {}", one.kind, one.subject()))
            .collect()
    };
    let all = cluster(&[("h1", true, true), ("h2", true, true), ("h3", true, true)]);
    let without_h1 = cluster(&[("h1", true, false), ("h2", true, true), ("h3", true, true)]);
    assert_eq!(told(&all, &without_h1, "h2"), ["host-missing h1"]);
    assert_eq!(told(&all, &without_h1, "h3"), [""; 0]);
    assert_eq!(told(&without_h1, &all, "h1"), [""; 0], "it tells it itself");
    let without_h3 = cluster(&[("h1", true, true), ("h2", true, true), ("h3", true, false)]);
    assert_eq!(told(&all, &without_h3, "h1"), ["host-missing h3"]);
    assert_eq!(told(&without_h3, &all, "h1"), ["host-back h3"]);
    let h3_left = cluster(&[("h1", true, true), ("h2", true, true), ("h3", false, false)]);
    assert_eq!(told(&all, &h3_left, "h1"), [""; 0]);
    assert_eq!(told(&h3_left, &all, "h1"), [""; 0], "it joins");
}

#[test]
fn one_host_tells_what_was_asked_for() {
    let host = |name: &str| name.parse::<HostName>().expect("a host");
    let id: ContainerId = "shop/web".parse().expect("a container");
    let put = |key: Key, value: &str, revision| Change::Put {
        key: key.to_string(),
        value: value.as_bytes().to_vec(),
        modified: revision,
        created: 1,
    };
    let record = r#"{"id":"00000000-0000-0000-0000-000000000001",
        "session":"00000000-0000-0000-0000-000000000002","epoch":1,"state":"up",
        "addr":"10.0.0.1","versions":{"agent":"1.0.0","placement":[1]}}"#;
    let member = r#"{"id":"00000000-0000-0000-0000-000000000001"}"#;
    let mut snapshot = Snapshot::default();
    let both = ["h1", "h2"].into_iter().flat_map(|name| {
        [
            put(Key::Member(host(name)), member, 1),
            put(Key::HostRecord(host(name)), record, 1),
        ]
    });
    snapshot.apply(both, 1);
    let mut told_of = |change: Change, revision: i64| {
        let before = snapshot.clone();
        let touched = snapshot.apply([change], revision);
        let silent = of_wishes(&before, &snapshot, &touched, &host("h2"));
        assert_eq!(silent, [], "the first of the live hosts tells it");
        let told = of_wishes(&before, &snapshot, &touched, &host("h1"));
        let told = told.iter();
        told.map(|one| format!("{} {} {}", one.subject(), one.kind, one.message))
            .collect::<Vec<_>>()
            .join("; ")
    };
    let manifest = || Key::Manifest(id.clone());
    for (revision, text, said) in [
        (2, r#"{"image":"a"}"#, "created, revision 2"),
        (3, r#"{ "image": "a" }"#, "revision 3, as it was"),
        (
            4,
            r#"{"image":"b","scale":2}"#,
            "revision 4 changes image, scale",
        ),
        (6, r#"{"image":"b"}"#, "revision 6 changes scale"),
    ] {
        let told = told_of(put(manifest(), text, revision), revision);
        assert_eq!(told, format!("shop/web manifest {said}"));
    }
    let wrong = told_of(put(manifest(), "{}", 7), 7);
    assert!(wrong.starts_with("shop/web manifest revision 7 is not valid: "));
    assert_eq!(
        told_of(put(manifest(), r#"{"image":"b"}"#, 8), 8),
        "shop/web manifest revision 8 is valid again"
    );
    let gone = Change::Delete {
        key: manifest().to_string(),
        modified: 9,
    };
    assert_eq!(
        told_of(gone, 9),
        "shop/web manifest removed, or its TTL is over"
    );
    let availability = Key::Availability(host("h2"));
    assert_eq!(
        told_of(put(availability, r#""drain""#, 10), 10),
        "h2 availability drain, it was active"
    );
}

#[test]
fn writes_and_steps_say_what_the_engine_does_not_show() {
    let claim = Claim {
        host: "h1".parse().expect("a host"),
        instance: instance("i-1"),
        version: VersionId(7),
    };
    let write = Write::new_instance(slot(), claim, ModRev(3));
    let one = of_write(&write, None).expect("an event");
    assert_eq!(
        (one.kind, one.message.as_str()),
        (Kind::Replacing, "to run revision 7")
    );
    assert_eq!(one.instance, Some(instance("i-1")));
    let state = |state| {
        let state = SlotState {
            instance: instance("i-1"),
            state,
            addr: IpAddr::from([10, 0, 0, 1]),
            ports: std::collections::BTreeMap::new(),
        };
        Write::state(slot(), state, ModRev(3), ModRev(4))
    };
    assert_eq!(
        of_write(&state(Phase::Leaving), None).map(|one| one.kind),
        Some(Kind::Leaving)
    );
    let claim = Claim {
        host: "h1".parse().expect("a host"),
        instance: instance("i-2"),
        version: VersionId(7),
    };
    let lost = "h3".parse().expect("a host");
    let taken = Write::take_over(slot(), claim, (ModRev(3), lost), ModRev(7), None);
    let one = of_write(&taken, None).expect("an event");
    assert_eq!(one.kind, Kind::TakenOver);
    assert_eq!(one.message, "h3 is missing; to run revision 7");
    assert_eq!(one.from_host, Some("h3".parse().expect("a host")));
    let unfit = Unfit {
        manifest_rev: ModRev(7),
        reason: "port 80 is taken".to_owned(),
    };
    let unfit = Write::release_unfit(slot(), ModRev(3), "h1".parse().expect("a host"), unfit);
    let one = of_write(&unfit, None).expect("an event");
    assert_eq!(one.kind, Kind::Unfit);
    assert!(one.message.ends_with("port 80 is taken"), "{one:?}");
    // A watch does not tell whether by its TTL.
    let gone = ContainerView::default();
    let of_gone = |write: &Write| of_write(write, Some(&gone)).expect("an event").message;
    assert_eq!(
        of_gone(&state(Phase::Leaving)),
        "its manifest is gone: takes no new connections"
    );
    let release = Write::release(slot(), ModRev(3));
    assert_eq!(of_gone(&release), "its manifest is gone");
    let one = of_write(&release, None).expect("an event");
    assert_eq!((one.kind, one.message.as_str()), (Kind::Released, ""));
    // That it is ready, the engine shows.
    assert_eq!(of_write(&state(Phase::Ready), None), None);
    let failed = ActionResult::Failed {
        slot: slot(),
        reason: "x".repeat(5_000),
    };
    let one = of_outcome(&failed).expect("an event");
    assert_eq!(one.kind, Kind::Failed);
    assert!(one.message.len() < 1_010, "a message has an end");
}

#[test]
fn a_newer_image_is_told_with_its_digest_and_the_way_back_with_its_reason() {
    let id = slot().container;
    let found = |value: serde_json::Value| serde_json::from_value(value).expect("an image");
    let image = serde_json::json!({"of": "1:a", "image": "web:2", "digest": "sha256:b"});
    let write = Write::found(id.clone(), found(image), ModRev(3), ModRev::ABSENT);
    let told = of_write(&write, None).expect("an event");
    assert_eq!(told.kind, Kind::ImageFound);
    assert_eq!(told.message, "the registry has web:2 (sha256:b)");
    let back = serde_json::json!({
        "of": "1:a", "image": "web:1", "digest": "sha256:a", "back_from": "sha256:b",
        "skipped": [{"image": "web:2", "digest": "sha256:b", "why": "slot 0: exited with code 7"}],
    });
    let write = Write::went_back(id, found(back), ModRev(3), ModRev(5));
    let told = of_write(&write, None).expect("an event");
    assert_eq!(told.kind, Kind::ImageBack);
    assert_eq!(
        told.message,
        "to web:1 (sha256:a), since the update to web:2 (sha256:b) failed, which is not tried again: slot 0: exited with code 7"
    );
}
