#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use model::snapshot::Change;
use model::{Directory, Snapshot};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::v1::ClusterView;
use crate::v1::types::{LinkFailure, Reasons, Unreadable};
use crate::v1::{overview, why};

/// A snapshot from keys and values, each at a revision of its own, from 1.
fn snapshot(keys: &[(&str, Value)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let changes = keys
        .iter()
        .zip(1..)
        .map(|((key, value), revision)| Change::Put {
            key: (*key).to_owned(),
            value: match value {
                Value::String(text) => text.clone().into_bytes(),
                value => value.to_string().into_bytes(),
            },
            modified: revision,
            created: revision,
        });
    snapshot.apply(changes, keys.len() as i64);
    snapshot
}

fn record() -> Value {
    json!({
        "id": "00000000-0000-0000-0000-000000000001",
        "session": "00000000-0000-0000-0000-000000000002",
        "epoch": 1, "state": "up", "addr": "10.0.0.1",
        "versions": {"agent": "1.0.0", "placement": [1]},
    })
}

fn version(manifest: &Value) -> Value {
    json!({"manifest": manifest, "image": "sha256:1", "good": true})
}

fn claim(host: &str, rev: i64) -> Value {
    json!({"host": host, "instance": format!("i-{host}"), "version": rev})
}

fn state(host: &str, state: &str) -> Value {
    json!({"instance": format!("i-{host}"), "state": state, "addr": "10.0.0.1", "ports": {"web": 20000}})
}

fn status(host: &str, progress: &str, more: Value) -> Status {
    let mut value = json!({"instance": format!("i-{host}"), "host": host, "progress": progress});
    value
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    serde_json::from_value(value).unwrap()
}

fn slot(number: u32) -> SlotId {
    "shop/web".parse::<ContainerId>().unwrap().slot(number)
}

fn manifest(scale: u32) -> Value {
    json!({"image": "a", "scale": scale, "services": {"web": 80}, "links": ["db"]})
}

/// What `merge` says, in one line a row: `slot host status reason`.
fn lines(
    snapshot: &Snapshot,
    statuses: &[(u32, Status)],
    reasons: &[(&str, u32, &str)],
) -> Vec<String> {
    rows(snapshot, statuses, reasons)
        .into_iter()
        .map(|row| {
            let slot = row.slot.map_or("-".to_owned(), |slot| slot.to_string());
            let host = row.host.map_or("-".to_owned(), |host| host.to_string());
            let reason = row.reason.unwrap_or_default();
            format!("{slot} {host} {} {reason}", row.status)
                .trim()
                .to_owned()
        })
        .collect()
}

fn rows(
    snapshot: &Snapshot,
    statuses: &[(u32, Status)],
    reasons: &[(&str, u32, &str)],
) -> Vec<SlotRow> {
    let statuses = statuses
        .iter()
        .map(|(number, status)| (slot(*number), status.clone()))
        .collect();
    let mut answers: BTreeMap<HostName, Reasons> = BTreeMap::new();
    for (host, number, reason) in reasons {
        let answer = answers.entry(host.parse().unwrap()).or_default();
        answer.waiting.insert(slot(*number), (*reason).to_owned());
    }
    let inputs = RowInputs {
        snapshot,
        directory: &Directory::new(snapshot),
        statuses: &statuses,
        answers: &answers,
        now: 1_000,
    };
    merge(inputs, &Filter::default()).0
}

fn view(snapshot: &Snapshot) -> ClusterView {
    ClusterView {
        snapshot: snapshot.clone(),
        directory: Directory::new(snapshot),
        stale: false,
        hold: None,
        known_at: None,
    }
}

#[test]
fn a_slot_is_what_its_state_and_status_say() {
    let snapshot = snapshot(&[
        ("/apps/shop/web/manifest", manifest(6)),
        ("/claims/shop/web/versions/1", version(&manifest(6))),
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
        ("/claims/shop/web/slots/1", claim("h1", 1)),
        ("/claims/shop/web/slots/1.state", state("h1", "unready")),
        ("/claims/shop/web/slots/2", claim("h1", 1)),
        ("/claims/shop/web/slots/3", claim("h1", 1)),
        ("/claims/shop/web/slots/4", claim("h1", 1)),
        ("/claims/shop/web/slots/4.state", state("h1", "unready")),
        ("/claims/shop/web/slots/5", claim("h1", 1)),
        // Of another instance: it does not count.
        ("/claims/shop/web/slots/5.state", state("h2", "ready")),
    ]);
    let statuses = [
        (
            0,
            status("h1", "running", json!({"started_at": 900, "restarts": 2})),
        ),
        (2, status("h1", "pulling", json!({"reason": "12 of 80 MB"}))),
        (
            3,
            status("h1", "failed", json!({"reason": "no such image"})),
        ),
        (
            4,
            status(
                "h1",
                "waiting",
                json!({"reason": "exit code 1, again in 8 s"}),
            ),
        ),
        (
            5,
            status("h2", "failed", json!({"reason": "of another instance"})),
        ),
    ];
    assert_eq!(
        lines(&snapshot, &statuses, &[]),
        [
            "0 h1 ready",
            "1 h1 unready it runs, but is not ready yet",
            "2 h1 pulling 12 of 80 MB",
            "3 h1 failed no such image",
            "4 h1 waiting exit code 1, again in 8 s",
            "5 h1 starting starting its container",
        ]
    );
    let rows = rows(&snapshot, &statuses, &[]);
    assert_eq!(rows[0].age_seconds, Some(100));
    assert_eq!(rows[0].restarts, 2);
    assert_eq!(rows[0].ports[0].port, 20_000);
    assert!(rows[3].failed && !rows[5].failed);
}

#[test]
fn what_has_just_started_is_ready_and_unproven() {
    let snapshot = snapshot(&[
        ("/apps/shop/web/manifest", manifest(1)),
        ("/claims/shop/web/versions/1", version(&manifest(1))),
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
    ]);
    // The time is 1,000; the host's clock may be another.
    let is_unproven = |started_at: i64| {
        let statuses = [(0, status("h1", "ready", json!({"started_at": started_at})))];
        rows(&snapshot, &statuses, &[])[0].unproven
    };
    assert!(is_unproven(996) && is_unproven(1_000) && is_unproven(1_004));
    assert!(!is_unproven(995) && !is_unproven(1_005));
    assert!(!rows(&snapshot, &[], &[])[0].unproven);
}

#[test]
fn a_service_is_where_it_is_bound() {
    let at = |bind: Option<&str>| {
        let mut service = json!({"port": 80, "host_port": 8080});
        if let Some(bind) = bind {
            service["bind"] = json!(bind);
        }
        let manifest = json!({"image": "a", "services": {"web": service}});
        let snapshot = snapshot(&[
            ("/apps/shop/web/manifest", manifest.clone()),
            ("/hosts/h1/record", record()),
            ("/claims/shop/web/versions/1", version(&manifest)),
            ("/claims/shop/web/slots/0", claim("h1", 1)),
            ("/claims/shop/web/slots/0.state", state("h1", "ready")),
        ]);
        let directory = Directory::new(&snapshot);
        let endpoints: Vec<String> = directory
            .services()
            .flat_map(|(_, of)| of.values().map(|e| e.addr.to_string()).collect::<Vec<_>>())
            .collect();
        let shown = rows(&snapshot, &[], &[])[0].ports[0].addr.to_string();
        (shown, endpoints)
    };
    let both = |addr: &str| (addr.to_owned(), vec![addr.to_owned()]);
    assert_eq!(at(None), both("10.0.0.1"));
    assert_eq!(at(Some("0.0.0.0")), both("10.0.0.1"));
    assert_eq!(at(Some("192.168.1.7")), both("192.168.1.7"));
    // Nobody else gets there.
    assert_eq!(at(Some("127.0.0.1")), ("127.0.0.1".to_owned(), vec![]));
}

#[test]
fn a_slot_that_outlives_a_constraint_says_so() {
    let asks = json!({"image": "a", "placement": {"constraints": ["disk == ssd"]}});
    let mut keys = vec![
        ("/apps/shop/web/manifest", asks.clone()),
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/versions/1", version(&asks)),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
        ("/hosts/h1/labels", json!({"disk": "ssd"})),
    ];
    assert_eq!(lines(&snapshot(&keys), &[], &[]), ["0 h1 ready"]);
    keys.push(("/hosts/h1/labels", json!({"disk": null})));
    assert_eq!(
        lines(&snapshot(&keys), &[], &[]),
        [
            "0 h1 ready runs on h1 though `disk==ssd` does not hold there; it moves when its container is removed"
        ]
    );
}

#[test]
fn what_ran_before_its_manifest_was_written_again_is_outdated_until_it_is_adopted() {
    let mut keys = vec![
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/versions/1", version(&manifest(1))),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
        ("/apps/shop/web/manifest", manifest(1)),
    ];
    let outdated = rows(&snapshot(&keys), &[], &[]).remove(0);
    assert!(outdated.outdated);
    let why = "it ran when its manifest was deleted; its host has not adopted it for the new one";
    assert_eq!(outdated.reason.as_deref(), Some(why));
    keys.push(("/claims/shop/web/versions/5", version(&manifest(1))));
    keys.push(("/claims/shop/web/slots/0", claim("h1", 5)));
    let adopted = rows(&snapshot(&keys), &[], &[]).remove(0);
    assert!(!adopted.outdated, "{adopted:?}");
}

#[test]
fn what_is_said_of_a_ready_slot_is_shown_and_what_was_said_before_is_not() {
    let asks = json!({"image": "a"});
    let snapshot = snapshot(&[
        ("/apps/shop/web/manifest", asks.clone()),
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/versions/1", version(&asks)),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
    ]);
    let told = |progress: &str| {
        let said = json!({"reason": "its memory limit was changed by hand"});
        lines(&snapshot, &[(0, status("h1", progress, said))], &[])
    };
    assert_eq!(
        told("ready"),
        ["0 h1 ready its memory limit was changed by hand"]
    );
    assert_eq!(told("starting"), ["0 h1 ready"]);
}

#[test]
fn who_is_not_ready_for_too_long_is_a_problem_and_who_restarts_is_not() {
    let manifest =
        json!({"image": "a", "scale": 2, "start_timeout": "30s", "services": {"web": 80}});
    let snapshot = snapshot(&[
        ("/apps/shop/web/manifest", manifest.clone()),
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/versions/1", version(&manifest)),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "unready")),
        ("/claims/shop/web/slots/1", claim("h1", 1)),
        ("/claims/shop/web/slots/1.state", state("h1", "unready")),
    ]);
    let stopped = json!({"reason": "exited with code 143; restarting in 1 s"});
    let problems = |started_at: i64| {
        let unready = json!({"reason": "it is paused", "started_at": started_at});
        let statuses = [
            (0, status("h1", "unready", unready)),
            (1, status("h1", "restarting", stopped.clone())),
        ];
        let shown = rows(&snapshot, &statuses, &[]);
        assert_eq!(shown[1].status, SlotStatus::Starting);
        let answering = overview::AnsweringAgent {
            age: Some(66),
            host: "h1".parse().unwrap(),
            etcd: true,
            problems: Vec::new(),
            unreadable: Unreadable::default(),
        };
        overview::status(&view(&snapshot), &shown, &[], answering).problems
    };
    assert_eq!(problems(1_000 - 29), [""; 0]);
    assert_eq!(problems(1_000 - 30), ["shop/web/0: it is paused"]);
}

#[test]
fn a_slot_that_nobody_has_says_why() {
    let keys = [("/apps/shop/web/manifest", manifest(1))];
    assert_eq!(
        lines(&snapshot(&keys), &[], &[]),
        ["0 - waiting no host is live"]
    );

    let mut keys = keys.to_vec();
    keys.push(("/hosts/h1/record", record()));
    let said = [("h1", 0, "four starts are under way")];
    assert_eq!(
        lines(&snapshot(&keys), &[], &[]),
        ["0 - waiting h1 is about to claim it"]
    );
    assert_eq!(
        lines(&snapshot(&keys), &[], &said),
        ["0 - waiting h1: four starts are under way"]
    );

    keys.push(("/hosts/h1/availability", json!("\"pause\"")));
    assert_eq!(
        lines(&snapshot(&keys), &[], &[]),
        ["0 - waiting no host can run it: h1: it is paused"]
    );
}

#[test]
fn a_slot_of_a_missing_host_is_lost_not_ready() {
    let snapshot = snapshot(&[
        ("/apps/shop/web/manifest", manifest(1)),
        ("/claims/shop/web/versions/1", version(&manifest(1))),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
    ]);
    let lines = lines(
        &snapshot,
        &[(0, status("h1", "running", json!({"started_at": 1})))],
        &[],
    );
    assert_eq!(
        lines,
        ["0 h1 lost host h1 is missing; its containers may still run there"]
    );
}

#[test]
fn what_is_no_longer_wanted_says_so() {
    let scaled = snapshot(&[
        ("/apps/shop/web/manifest", manifest(0)),
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/slots/1", claim("h1", 1)),
        ("/claims/shop/web/slots/1.state", state("h1", "leaving")),
    ]);
    assert_eq!(
        lines(&scaled, &[], &[]),
        ["1 h1 leaving stopping (scaled down)"]
    );
    assert!(rows(&scaled, &[], &[])[0].surplus);
    let removed = snapshot(&[
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
    ]);
    assert_eq!(
        lines(&removed, &[], &[]),
        ["0 h1 ready stopping (its manifest was removed)"]
    );
}

#[test]
fn a_global_container_has_a_row_for_each_host_and_says_why_one_leaves() {
    let global = json!({
        "image": "a", "scale": "global", "services": {"web": 80},
        "placement": {"constraints": ["disk==ssd"]},
    });
    let mut keys = vec![
        ("/apps/shop/web/manifest", global.clone()),
        ("/claims/shop/web/versions/1", version(&global)),
    ];
    for (host, key) in [
        ("/hosts/h1/record", "/hosts/h1/labels"),
        ("/hosts/h2/record", "/hosts/h2/labels"),
        ("/hosts/h3/record", "/hosts/h3/labels"),
    ] {
        keys.push((host, record()));
        keys.push((key, json!({"disk": "ssd"})));
    }
    let slots = [
        ("/claims/shop/web/slots/0", "/claims/shop/web/slots/0.state"),
        ("/claims/shop/web/slots/4", "/claims/shop/web/slots/4.state"),
    ];
    for ((slot, of_slot), host) in slots.into_iter().zip(["h1", "h2"]) {
        keys.push((slot, claim(host, 1)));
        keys.push((of_slot, state(host, "ready")));
    }
    assert_eq!(
        lines(&snapshot(&keys), &[], &[]),
        [
            "0 h1 ready",
            "1 - waiting h3 is about to claim it",
            "4 h2 ready"
        ]
    );
    keys.push(("/hosts/h1/availability", json!("\"drain\"")));
    keys.push(("/hosts/h2/labels", json!({"disk": "hdd"})));
    keys.push((
        "/dokkaa/members/h3",
        json!({"id": "00000000-0000-0000-0000-000000000001"}),
    ));
    keys.push(("/claims/shop/web/slots/1", claim("h3", 1)));
    keys.retain(|(key, _)| *key != "/hosts/h3/record");
    assert_eq!(
        lines(&snapshot(&keys), &[], &[]),
        [
            "0 h1 ready stopping (h1 is drained)",
            "1 h3 lost host h3 is missing; its containers may still run there; no other host takes it",
            "4 h2 ready stopping (`disk==ssd` does not hold on h2)",
        ]
    );
    let left = snapshot(&keys);
    let inputs = RowInputs {
        snapshot: &left,
        directory: &Directory::new(&left),
        statuses: &BTreeMap::new(),
        answers: &BTreeMap::new(),
        now: 1_000,
    };
    let (_, containers) = merge(inputs, &Filter::default());
    assert!(containers[0].global);
    assert_eq!(containers[0].scale, Some(1));
    let why = why::why(inputs, &"shop/web".parse().unwrap()).unwrap();
    let without = why.without.iter();
    let without: Vec<String> = without
        .map(|one| format!("{}: {}", one.host, one.reason))
        .collect();
    assert_eq!(
        without,
        [
            "h1: it is drained",
            "h2: disk==ssd is asked for, and disk is hdd"
        ]
    );
    assert_eq!(why.slots[1].hosts.len(), 1);
}

#[test]
fn an_invalid_manifest_is_a_row_and_what_runs_stays() {
    let good = manifest(1);
    let snapshot = snapshot(&[
        (
            "/apps/shop/api/manifest",
            json!("{\"image\": 1, \"scale\": -1}"),
        ),
        ("/apps/shop/web/manifest", json!("garbage")),
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/versions/2", version(&good)),
        ("/claims/shop/web/slots/0", claim("h1", 2)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
    ]);
    let lines = lines(&snapshot, &[], &[]);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[0].starts_with("- - invalid invalid manifest: 1:"),
        "{lines:?}"
    );
    assert!(lines[0].ends_with("(and 1 more)"), "{lines:?}");
    assert!(
        lines[1].starts_with("- - invalid invalid manifest: 1:1"),
        "{lines:?}"
    );
    assert_eq!(lines[2], "0 h1 ready");
}

/// Slots 0 and 1 run version 1, the manifest is at revision 6 with another image.
fn update() -> Vec<(&'static str, Value)> {
    let new = json!({"image": "b", "scale": 2, "services": {"web": 80}});
    vec![
        ("/claims/shop/web/slots/0", claim("h1", 2)),
        ("/hosts/h1/record", record()),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
        ("/claims/shop/web/slots/1", claim("h1", 2)),
        ("/claims/shop/web/slots/1.state", state("h1", "ready")),
        ("/apps/shop/web/manifest", new.clone()),
        ("/claims/shop/web/versions/6", version(&new)),
    ]
}

#[test]
fn an_update_says_who_is_behind_and_why() {
    let waits = "waiting for its turn to update";
    let rows_before = rows(&snapshot(&update()), &[], &[]);
    assert!(rows_before.iter().all(|row| row.outdated && !row.failed));
    assert_eq!(rows_before[1].reason.as_deref(), Some(waits));

    // The new one fails beside the old one, before anything was stopped.
    let failed = status(
        "new",
        "failed",
        json!({"version": 6, "reason": "no such image", "log": ["gone"]}),
    );
    let beside = rows(&snapshot(&update()), &[(0, failed)], &[]);
    assert_eq!(
        beside[0].reason.as_deref(),
        Some("keeps the older version: the new one failed: no such image")
    );
    assert!(beside[0].failed && beside[0].status == SlotStatus::Ready);
    assert_eq!(beside[0].log, ["gone"]);

    // What failed before this manifest says nothing about it.
    let older = status("new", "failed", json!({"version": 4, "reason": "old"}));
    assert!(!rows(&snapshot(&update()), &[(0, older)], &[])[0].failed);

    let mut keys = update();
    let rollout = json!({"version": 6, "failed": true, "slot": 0, "reason": "exit code 1"});
    keys.push(("/claims/shop/web/rollout", rollout));
    let given_up = snapshot(&keys);
    assert_eq!(
        rows(&given_up, &[], &[])[1].reason.as_deref(),
        Some("keeps the older version: the update failed at slot 0: exit code 1")
    );
    let inputs = RowInputs {
        snapshot: &given_up,
        directory: &Directory::new(&given_up),
        statuses: &BTreeMap::new(),
        answers: &BTreeMap::new(),
        now: 0,
    };
    let (_, mut containers) = merge(inputs, &Filter::default());
    let container = containers.pop().unwrap();
    assert_eq!(container.gave_up.unwrap().reason, "exit code 1");
    let update = container.update.unwrap();
    assert!(update.halted && update.back_to.is_none());
}

#[test]
fn an_update_that_goes_back_says_where_to() {
    let old = json!({"image": "a", "scale": 2});
    let new = json!({"image": "b", "scale": 2, "update": {"on_failure": "rollback"}});
    let rollout = json!({"version": 9, "failed": true, "failures": [0], "reason": "exit code 1"});
    let decided = json!({"manifest": new, "image": "sha256:2"});
    let mut keys = snapshot(&[
        ("/apps/shop/web/manifest", old.clone()),
        ("/claims/shop/web/versions/1", version(&old)),
        ("/claims/shop/web/versions/9", decided),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        ("/claims/shop/web/slots/0.state", state("h1", "ready")),
        ("/claims/shop/web/rollout", rollout),
        ("/hosts/h1/record", record()),
    ]);
    let put = Change::Put {
        key: "/apps/shop/web/manifest".to_owned(),
        value: new.to_string().into_bytes(),
        modified: 9,
        created: 1,
    };
    keys.apply([put], 9);
    let inputs = RowInputs {
        snapshot: &keys,
        directory: &Directory::new(&keys),
        statuses: &BTreeMap::new(),
        answers: &BTreeMap::new(),
        now: 0,
    };
    let (slots, containers) = merge(inputs, &Filter::default());
    assert_eq!(containers[0].update.as_ref().unwrap().back_to, Some(1));
    assert_eq!(
        slots[0].reason.as_deref(),
        Some("went back to an older version: the update failed at slot 0: exit code 1")
    );
}

#[test]
fn a_filter_takes_what_it_names() {
    let id: ContainerId = "shop/web".parse().unwrap();
    let of = |id: &str| Filter::only(&id.parse().unwrap());
    let app = |app: &str| Filter {
        app: Some(app.parse().unwrap()),
        container: None,
    };
    assert!(Filter::default().matches(&id) && app("shop").matches(&id));
    assert!(of("shop/web").matches(&id));
    assert!(!app("sho").matches(&id));
    assert!(!of("shop/we").matches(&id));
    assert_eq!(Filter::default().prefix("/status/"), "/status/");
    assert_eq!(app("shop").prefix("/status/"), "/status/shop/");
    assert_eq!(of("shop/web").prefix("/status/"), "/status/shop/web/");
}

#[test]
fn why_tells_of_hosts_and_links() {
    let mut down = record();
    down["engine"] = json!(false);
    let snapshot = snapshot(&[
        ("/apps/shop/web/manifest", manifest(2)),
        ("/hosts/h1/record", record()),
        ("/hosts/h2/record", down),
        (
            "/dokkaa/members/h3",
            json!({"id": "00000000-0000-0000-0000-000000000003"}),
        ),
        ("/claims/shop/web/versions/1", version(&manifest(2))),
        ("/claims/shop/web/slots/0", claim("h1", 1)),
        (
            "/apps/shop/db/manifest",
            json!({"image": "d", "services": {"db": 5432}}),
        ),
        ("/claims/shop/db/slots/0", claim("h1", 7)),
        (
            "/claims/shop/db/slots/0.state",
            json!({"instance": "i-h1", "state": "unready", "addr": "10.0.0.1", "ports": {"db": 20001}}),
        ),
    ]);
    let failure = LinkFailure {
        caller: slot(0),
        service: "shop/db".to_owned(),
        host: "h1".parse().unwrap(),
        at: "2026-01-01T00:00:00Z".to_owned(),
        reason: "no endpoint is ready".to_owned(),
    };
    let answers = BTreeMap::from([(
        "h1".parse().unwrap(),
        Reasons {
            waiting: BTreeMap::from([(slot(1), "four starts are under way".to_owned())]),
            links: vec![failure.clone()],
        },
    )]);
    let inputs = RowInputs {
        snapshot: &snapshot,
        directory: &Directory::new(&snapshot),
        statuses: &BTreeMap::new(),
        answers: &answers,
        now: 0,
    };
    let why = why::why(inputs, &slot(0).container).unwrap();
    let hosts = |at: usize| -> Vec<String> {
        let hosts = &why.slots[at].hosts;
        hosts
            .iter()
            .map(|h| format!("{} {} {}", h.host, h.eligible, h.reason))
            .collect()
    };
    assert_eq!(
        hosts(0),
        [
            "h1 true runs it",
            "h2 false its Docker Engine does not answer",
            "h3 false it is missing"
        ]
    );
    assert_eq!(hosts(1)[0], "h1 true four starts are under way");
    let link = &why.links[0];
    assert_eq!(
        (link.variable.as_str(), link.port),
        ("SERVICE_DB_ADDR", 10_000)
    );
    assert_eq!(link.failures, [failure]);
    assert_eq!(link.endpoints[0].reason.as_deref(), Some("not ready"));
    assert!(!link.endpoints[0].serving);
    assert!(why::why(inputs, &"shop/none".parse().unwrap()).is_none());
}

#[test]
fn hosts_and_status_name_what_needs_attention() {
    let mut bad = record();
    bad["problems"] = json!(["dns: 172.17.0.1:53 is taken by dnsmasq"]);
    bad["state"] = json!("hold");
    let snapshot = snapshot(&[
        ("/apps/shop/web/manifest", manifest(2)),
        ("/hosts/h1/record", record()),
        ("/hosts/h2/record", bad),
        (
            "/hosts/h1/unfit/shop/web",
            json!({"manifest_rev": 1, "reason": "port 80 is taken"}),
        ),
        (
            "/hosts/h2/unfit/shop/web",
            json!({"manifest_rev": 9, "reason": "of another manifest"}),
        ),
        (
            "/dokkaa/members/h3",
            json!({"id": "00000000-0000-0000-0000-000000000003"}),
        ),
        ("/hosts/h4/availability", json!("\"drain\"")),
        ("/claims/shop/web/slots/0", claim("h3", 1)),
        ("/claims/shop/web/slots/0.state", state("h3", "ready")),
    ]);
    let hosts = overview::hosts(&snapshot);
    let states: Vec<String> = hosts
        .iter()
        .map(|row| format!("{} {} {}", row.host, row.state, row.slots))
        .collect();
    assert_eq!(states, ["h1 up 0", "h2 hold 0", "h3 missing 1"]);
    assert_eq!(hosts[0].problems, ["unfit for shop/web: port 80 is taken"]);
    assert_eq!(hosts[1].problems.len(), 2);
    // Of a missing host what its instances said is left.
    assert_eq!(hosts[2].addr, Some([10, 0, 0, 1].into()));

    let (slots, containers) = merge(
        RowInputs {
            snapshot: &snapshot,
            directory: &Directory::new(&snapshot),
            statuses: &BTreeMap::new(),
            answers: &BTreeMap::new(),
            now: 0,
        },
        &Filter::default(),
    );
    let answering = overview::AnsweringAgent {
        age: Some(66),
        host: "h1".parse().unwrap(),
        etcd: true,
        problems: Vec::new(),
        unreadable: Unreadable::default(),
    };
    let cut_off = overview::AnsweringAgent {
        etcd: false,
        ..answering.clone()
    };
    let stale = ClusterView {
        stale: true,
        known_at: Some(jiff::Timestamp::UNIX_EPOCH),
        ..view(&snapshot)
    };
    let status = overview::status(&stale, &slots, &containers, cut_off);
    assert!(status.problems[0].ends_with("this is the last known state, from 66 s ago"));
    assert_eq!(status.known_at.as_deref(), Some("1970-01-01T00:00:00Z"));
    let status = overview::status(&view(&snapshot), &slots, &containers, answering);
    assert_eq!(status.hosts["missing"], 1);
    assert_eq!((status.slots["lost"], status.slots["waiting"]), (1, 1));
    assert_eq!((status.apps, status.containers), (1, 1));
    assert!(
        status
            .problems
            .iter()
            .any(|p| p.starts_with("shop/web/1: no host can run it"))
    );
    assert!(
        status
            .problems
            .iter()
            .any(|p| p.starts_with("shop/web/0: host h3 is missing"))
    );
}

proptest! {
    /// Whatever etcd holds, there is a row for every wanted or claimed slot, once, and none that is not ready without
    /// a reason.
    #[test]
    fn every_slot_has_one_row_and_a_reason(
        scale in 0..4_u32,
        hosts in 0..3_usize,
        slots in proptest::collection::vec((0..5_u32, 0..4_usize, 0..5_usize, 0..5_usize), 0..6),
    ) {
        let phases = ["ready", "unready", "leaving", "stopped"];
        let progress = ["pulling", "waiting", "failed", "running", "else"];
        let names = ["h0", "h1", "h2", "h3"];
        let mut keys = vec![("/apps/shop/web/manifest".to_owned(), manifest(scale))];
        for host in &names[..hosts] {
            keys.push((format!("/hosts/{host}/record"), record()));
        }
        let mut statuses = Vec::new();
        let mut expected: BTreeSet<u32> = (0..scale).collect();
        for (number, host, phase, told) in slots {
            let claim_key = format!("/claims/shop/web/slots/{number}");
            if let Some(phase) = phases.get(phase) {
                keys.push((format!("{claim_key}.state"), state(names[host], phase)));
            }
            keys.push((claim_key, claim(names[host], 1)));
            statuses.push((number, status(names[host], progress[told], json!({}))));
            expected.insert(number);
        }
        let keys: Vec<(&str, Value)> = keys.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        let rows = rows(&snapshot(&keys), &statuses, &[]);
        let numbers: Vec<u32> = rows.iter().filter_map(|row| row.slot).collect();
        prop_assert_eq!(numbers, expected.into_iter().collect::<Vec<_>>());
        for row in rows {
            prop_assert!(row.status == SlotStatus::Ready || row.reason.is_some_and(|r| !r.is_empty()));
        }
    }
}

#[test]
fn a_port_is_shown_where_it_listens() {
    let shown = |service: Value, port: u16| {
        let manifest = json!({"image": "a", "services": {"web": service}});
        let state = json!({"instance": "i-h1", "state": "ready", "addr": "10.0.0.1", "ports": {"web": port}});
        let keys = [
            ("/hosts/h1/record", record()),
            ("/apps/shop/web/manifest", manifest),
            ("/claims/shop/web/slots/0", claim("h1", 2)),
            ("/claims/shop/web/slots/0.state", state),
        ];
        let row = rows(&snapshot(&keys), &[], &[]).remove(0);
        assert_eq!(row.image.as_deref(), Some("a"));
        let port = &row.ports[0];
        (port.bind.unwrap_or(port.addr).to_string(), port.public)
    };
    let at = |addr: &str, public| (addr.to_owned(), public);
    assert_eq!(shown(json!(80), 20_000), at("10.0.0.1", false));
    let fixed = |bind: &str| json!({"port": 80, "host_port": 8080, "bind": bind});
    assert_eq!(
        shown(json!({"port": 80, "host_port": 8080}), 8080),
        at("10.0.0.1", false)
    );
    assert_eq!(shown(fixed("0.0.0.0"), 8080), at("0.0.0.0", true));
    assert_eq!(shown(fixed("::"), 8080), at("::", true));
    assert_eq!(
        shown(fixed("93.184.216.34"), 8080),
        at("93.184.216.34", true)
    );
    assert_eq!(shown(fixed("127.0.0.1"), 8080), at("127.0.0.1", false));
}
