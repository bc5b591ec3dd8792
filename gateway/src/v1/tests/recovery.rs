//! Backups, and the end of a hold.

use model::records::{Cluster, HostState};

use super::*;
use crate::v1::hold::hold_report;

#[tokio::test]
async fn what_a_backup_names_oddly_is_not_restored() {
    let api = alone();
    api.agent.put_host("h1", None);
    api.agent.set_cluster(None);
    let backup = json!({
        "dokkaa_backup": 1,
        "manifests": {},
        "cluster": {"id": "00000000-0000-4000-8000-000000000007", "epoch": 1},
        "labels": {"h1": {"a": "\u{1b}[31m"}, "h2": {"a": "b"}},
        "config": {"../members/h9": "{}", "": "x", "a\u{0}b": "x", "a/../b": "x", "\u{1b}[31m": "x", "good/one": "1"},
    });
    let (status, body) = api.send("POST", "/restore", &backup.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let rows = body["keys"].as_array().unwrap();
    let invalid = rows.iter().filter(|row| row["what"] == "invalid").count();
    assert_eq!(invalid, 6, "{body}");
    let written: Vec<String> = keys(api.agent.mem_kv()).into_keys().collect();
    let odd = written
        .iter()
        .filter(|key| key.starts_with("/dokkaa/config/") || key.ends_with("/labels"));
    assert_eq!(
        odd.collect::<Vec<_>>(),
        ["/dokkaa/config/good/one", "/hosts/h2/labels"]
    );
}

/// A cluster with everything that a backup holds.
fn told(agent: &MemAgent) {
    agent.put_host("h1", None);
    put_cluster(agent, ID, 3);
    agent.put_manifest(&web(), "{\n\"image\":\n\"a\"}");
    agent.put_manifest(&db(), DB);
    agent.put(&Key::Manifest("shop/bad".parse().unwrap()), b"garbage");
    agent.put(&Key::Availability(host("h1")), br#""pause""#);
    agent.put(&Key::Labels(host("h1")), br#"{"a":"b","c":null}"#);
    agent.put_data(&db().slot(0), "h2", &["data"]);
    agent.mem_kv().with(|etcd| {
        let put = store::Op::put("/dokkaa/config/x/y", "1");
        etcd.txn(&store::Txn::new(Vec::new(), vec![put])).unwrap();
    });
}

fn put_cluster(agent: &MemAgent, id: Uuid, epoch: u64) -> i64 {
    let value = serde_json::to_vec(&Cluster { id, epoch }).unwrap();
    agent.put(&Key::Cluster, &value)
}

#[tokio::test]
async fn a_backup_is_put_back_into_an_etcd_that_was_emptied() {
    let before = alone();
    told(&before.agent);
    let backup = before.get("/backup").await;
    assert_eq!(backup["dokkaa_backup"], 1);
    assert_eq!(backup["manifests"]["shop/web"], json!({"image": "a"}));
    assert_eq!(backup["manifests"]["shop/bad"], "garbage");
    assert_eq!(backup["config"], json!({"x/y": "1"}));
    let text = backup.to_string();

    let after = alone();
    after.agent.set_cluster(Some(Cluster { id: ID, epoch: 5 }));
    let (status, looked) = after.send("POST", "/restore?dry_run=true", &text).await;
    assert_eq!(status, StatusCode::OK, "{looked}");
    assert!(keys(after.agent.mem_kv()).is_empty(), "only looked at");
    assert_eq!(looked["cluster"], json!({"id": ID, "epoch": 6}));
    // A part writes no cluster key: the agents are not to go on yet.
    let (_, part) = after.send("POST", "/restore?more=true", &text).await;
    assert_eq!(part["cluster"], Value::Null);
    assert!(!keys(after.agent.mem_kv()).contains_key("/dokkaa/cluster"));
    let (status, done) = after.send("POST", "/restore", &text).await;
    assert_eq!(status, StatusCode::OK, "{done}");
    let found = keys(after.agent.mem_kv());
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        [
            "/apps/shop/db/manifest",
            "/apps/shop/web/manifest",
            "/claims/shop/db/data/0",
            "/dokkaa/cluster",
            "/dokkaa/config/x/y",
            "/hosts/h1/availability",
            "/hosts/h1/labels",
        ]
    );
    assert_eq!(found["/hosts/h1/labels"], r#"{"a":"b","c":null}"#);
    let pin = Key::Data(db().slot(0)).to_string();
    assert_eq!(found[&pin], keys(before.agent.mem_kv())[&pin]);
    let (_, again) = after.send("POST", "/restore", &text).await;
    assert_eq!(again["cluster"], Value::Null);
    let what: Vec<&str> = again["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["what"].as_str().unwrap())
        .collect();
    assert_eq!(
        what,
        ["invalid", "same", "same", "same", "same", "same", "same"]
    );
    assert_eq!(keys(after.agent.mem_kv()), found);
}

#[tokio::test]
async fn a_pin_is_restored_only_where_nothing_says_where_the_data_is() {
    let api = alone();
    told(&api.agent);
    api.agent.set_cluster(Some(Cluster { id: ID, epoch: 3 }));
    let backup = api.get("/backup").await;
    let pin = Key::Data(db().slot(0));
    let restore = async |backup: &Value| {
        let path = "/restore?overwrite=true";
        let (status, body) = api.send("POST", path, &backup.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let keys = body["keys"].as_array().unwrap().clone();
        let of_pin = |key: &&Value| key["key"] == pin.to_string();
        let of_pin = keys.iter().find(of_pin).cloned();
        of_pin.map(|key| (key["what"].clone(), key["why"].clone()))
    };
    let kept = |why: &str| Some((json!("kept"), json!(why)));

    // It has moved since.
    api.agent.put_data(&db().slot(0), "h1", &["data"]);
    let now = "its data was noted elsewhere, or otherwise, since";
    assert_eq!(restore(&backup).await, kept(now));
    // It was released since, and runs.
    api.agent.delete(&pin);
    api.agent.claim(&db().slot(0), "h1", 1);
    assert_eq!(restore(&backup).await, kept("h1 owns the slot"));
    assert!(!keys(api.agent.mem_kv()).contains_key(&pin.to_string()));
    api.agent.delete(&Key::Claim(db().slot(0)));
    assert_eq!(restore(&backup).await, Some((json!("added"), Value::Null)));

    // One of an agent that knew no pins, and one of no slot.
    let mut other = backup.clone();
    other.as_object_mut().unwrap().remove("pins");
    assert_eq!(restore(&other).await, None);
    other["pins"] = json!({"shop/db": backup["pins"]["shop/db/0"]});
    let (status, body) = api.send("POST", "/restore", &other.to_string()).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
}

#[tokio::test]
async fn no_backup_is_made_of_an_etcd_that_is_empty_or_distrusted() {
    let api = alone();
    let refused = async |part: &str| {
        let (status, body) = api.send("GET", "/backup", "").await;
        assert_eq!(status, StatusCode::CONFLICT, "{body}");
        let error = body["error"].as_str().unwrap();
        assert!(
            error.contains(part) && error.contains("Keep the last"),
            "{error}"
        );
    };
    refused("no cluster key").await;
    told(&api.agent);
    api.agent.set_hold(Some("etcd went back in time"));
    refused("etcd went back in time").await;
    api.agent.set_hold(None);
    let (status, _) = api.send("GET", "/backup", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn what_says_something_else_is_kept_unless_it_is_to_be_overwritten() {
    let api = alone();
    told(&api.agent);
    api.agent.set_cluster(Some(Cluster { id: ID, epoch: 3 }));
    let backup = api.get("/backup").await.to_string();
    let other = r#"{"image": "b"}"#;
    let revision = api.agent.put_manifest(&web(), other);
    let cluster = keys(api.agent.mem_kv())["/dokkaa/cluster"].clone();
    let restore = async |query: &str| {
        let (_, body) = api.send("POST", &format!("/restore{query}"), &backup).await;
        let keys = body["keys"].as_array().unwrap().clone();
        let of_web = |key: &&Value| key["key"] == "/apps/shop/web/manifest";
        keys.iter().find(of_web).unwrap()["what"].clone()
    };
    assert_eq!(restore("").await, "kept");
    assert_eq!(
        restore(&format!("?overwrite=true&seen={}", revision - 1)).await,
        "kept"
    );
    assert_eq!(keys(api.agent.mem_kv())["/apps/shop/web/manifest"], other);
    assert_eq!(
        restore(&format!("?overwrite=true&seen={revision}")).await,
        "replaced"
    );
    assert_eq!(
        keys(api.agent.mem_kv())["/apps/shop/web/manifest"],
        "{\n  \"image\": \"a\"\n}\n"
    );
    assert_eq!(keys(api.agent.mem_kv())["/dokkaa/cluster"], cluster);
}

#[tokio::test]
async fn a_backup_of_another_cluster_brings_its_manifests_only_and_only_when_asked() {
    let before = alone();
    told(&before.agent);
    let backup = before.get("/backup").await.to_string();
    let api = alone();
    api.agent.set_cluster(Some(Cluster {
        id: Uuid::from_u128(8),
        epoch: 1,
    }));
    // Neither into its etcd nor, where that is empty, into one that its agents wait for.
    for _ in 0..2 {
        let (status, body) = api.send("POST", "/restore", &backup).await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(
            body["error"].as_str().unwrap().contains("--new-cluster"),
            "{body}"
        );
        put_cluster(&api.agent, Uuid::from_u128(8), 1);
    }
    let (status, body) = api.send("POST", "/restore?new_cluster=true", &backup).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(
        keys(api.agent.mem_kv()).keys().collect::<Vec<_>>(),
        [
            "/apps/shop/db/manifest",
            "/apps/shop/web/manifest",
            "/dokkaa/cluster"
        ]
    );
    let newer = backup.replace("\"dokkaa_backup\":1", "\"dokkaa_backup\":2");
    let (status, _) = api.send("POST", "/restore", &newer).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, _) = api.send("POST", "/restore", "{}").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[test]
fn a_host_stops_what_etcd_gives_to_others_and_keeps_what_it_does_not_know() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let agent = MemAgent::new("h1", MemKv::new());
    let revision = agent.put_manifest(&web(), r#"{"image": "a", "scale": 5}"#);
    agent.claim(&web().slot(0), "h1", revision);
    agent.claim(&web().slot(1), "h2", revision);
    let claim = serde_json::json!({"host": "h1", "instance": "newer", "version": revision});
    agent.put(&Key::Claim(web().slot(3)), claim.to_string().as_bytes());
    agent.put(&Key::Manifest("shop/bad".parse().unwrap()), b"garbage");
    let bad: ContainerId = "shop/bad".parse().unwrap();
    let slots = [
        web().slot(0), // claimed by this host
        web().slot(1), // claimed by another
        web().slot(2), // claimed by nobody
        web().slot(3), // claimed for another instance
        web().slot(7), // not below the scale
        db().slot(0),  // without a manifest
        bad.slot(0),   // with one that can't be read
    ];
    let mut ended = running(&db().slot(1), "h1");
    ended.state = ContainerState::Exited(model::observed::Exit::default());
    let containers = slots.iter().map(|slot| running(slot, "h1"));
    let observed = Observed::new(containers.chain([ended]), 0);
    let report = hold_report(&agent.view().unwrap().snapshot, &observed, &host("h1"));
    let stops: Vec<String> = report
        .would_stop
        .iter()
        .map(|stop| format!("{}: {}", stop.slot, stop.why))
        .collect();
    assert_eq!(
        stops,
        [
            "shop/web/1: etcd assigns the slot to h2",
            "shop/web/3: etcd assigns the slot to another instance on this host",
            "shop/web/7: the manifest wants 5 slots only",
        ]
    );
    assert_eq!(report.orphans, [db().slot(0)]);
}

#[tokio::test]
async fn an_acceptance_shows_every_host_and_raises_the_epoch_above_all() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    for name in ["h1", "h2", "h3"] {
        api.agent.put_host(name, None);
    }
    let own = |epoch| Some(Cluster { id: ID, epoch });
    api.agent.set_cluster(own(4));
    h2.set_cluster(own(6));
    let (status, body) = api.send("GET", "/accept", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .contains("nothing to accept")
    );

    h2.set_hold(Some("etcd went back in time"));
    h2.set_observed(Observed::new([running(&db().slot(0), "h2")], 0));
    let looked = api.get("/accept").await;
    assert_eq!(looked["cluster"], json!({"id": ID, "epoch": 7}));
    assert_eq!(looked["revision"], 0);
    assert_eq!(
        looked["hosts"][1]["report"]["held"],
        "etcd went back in time"
    );
    assert_eq!(looked["hosts"][1]["report"]["orphans"][0]["slot"], 0);
    assert_eq!(
        looked["notices"],
        json!(["host h3 does not answer: connection refused"])
    );
    let revision = put_cluster(&api.agent, ID, 2);
    let (status, _) = api.send("POST", "/accept?revision=0", "").await;
    assert_eq!(status, StatusCode::CONFLICT, "it is not what was shown");
    let path = format!("/accept?revision={revision}");
    let (status, body) = api.send("POST", &path, "").await;
    assert_eq!((status, &body["accepted"]), (StatusCode::OK, &json!(true)));
    let cluster: Value = serde_json::from_str(&keys(&kv)["/dokkaa/cluster"]).unwrap();
    assert_eq!(cluster, json!({"id": ID, "epoch": 7}));
    put_cluster(&api.agent, Uuid::from_u128(9), 1);
    let (status, body) = api.send("GET", "/accept", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(body["error"].as_str().unwrap().contains("another cluster"));
}

#[tokio::test]
async fn hosts_say_why_they_are_in_hold() {
    let api = alone();
    api.agent.put_host("h1", None);
    change_record(&api.agent, "h1", |record| {
        record.state = HostState::Hold;
        record.disk = Some(87);
        record.hold = Some(model::records::Hold {
            reason: "the epoch is an older one".to_owned(),
            shared: true,
        });
    });
    let row = &api.get("/hosts").await["hosts"][0];
    assert_eq!((&row["state"], &row["disk"]), (&json!("hold"), &json!(87)));
    assert_eq!(
        row["problems"][0],
        "in hold, it changes nothing: the epoch is an older one"
    );
}
