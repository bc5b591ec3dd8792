//! What operators do: hosts, volumes, backups, the end of a hold.

use model::observed::{
    ContainerState, Observed, ObservedContainer, Ownership, PublishedPorts, Running,
};
use model::records::{Cluster, Docker, HostRecord, HostState, Progress};
use store::kv::{KeyRange, Range};
use uuid::Uuid;

use super::*;
use crate::v1::hold::hold_report;
use crate::v1::memory::instance;

fn db() -> ContainerId {
    "shop/db".parse().unwrap()
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

const DB: &str = r#"{"image": "a", "scale": 1, "volumes": ["data:/data"]}"#;
const ID: Uuid = Uuid::from_u128(7);

/// The keys of an etcd in memory, and their values.
fn keys(kv: &MemKv) -> BTreeMap<String, String> {
    let range = Range::new(KeyRange::prefix("/"));
    let reply = kv.with(|etcd| etcd.range(&range)).unwrap();
    reply
        .kvs
        .into_iter()
        .map(|kv| (kv.key, String::from_utf8(kv.value).unwrap()))
        .collect()
}

fn change_record(agent: &MemAgent, name: &str, change: impl FnOnce(&mut HostRecord)) {
    let seen = agent.view().unwrap();
    let mut record = seen.snapshot.record(&host(name)).unwrap().value.clone();
    change(&mut record);
    let value = serde_json::to_vec(&record).unwrap();
    agent.put(&Key::HostRecord(host(name)), &value);
}

/// A running container of the instance that `MemAgent::claim` gives the slot on that host.
fn running(slot: &SlotId, on: &str) -> ObservedContainer {
    ObservedContainer {
        docker_id: format!("{slot}-{on}"),
        name: slot.docker_name(),
        owner: Ownership {
            before: None,
            cluster: ID,
            slot: slot.clone(),
            instance: instance(slot, on),
            manifest_hash: String::new(),
            host_hash: String::new(),
        },
        state: ContainerState::Running(Running {
            pid: 1,
            started_at: 0,
            health: None,
        }),
        addr: None,
        ports: PublishedPorts::new(),
        limits: model::observed::Limits::default(),
        check: None,
        image: String::new(),
        image_id: String::new(),
        driver: String::new(),
        created_at: 0,
    }
}

#[tokio::test]
async fn a_host_is_paused_and_activated() {
    let api = alone();
    api.agent.put_host("h1", None);
    api.agent.put_member("h1");
    api.agent.put_member("h2");
    let path = "/hosts/h1/availability";
    let (status, body) = api.send("PUT", path, r#"{"availability":"pause"}"#).await;
    assert_eq!((status, &body["changed"]), (StatusCode::OK, &json!(true)));
    assert_eq!(api.get("/hosts").await["hosts"][0]["availability"], "pause");
    let (status, body) = api.send("PUT", path, r#"{"availability":"pause"}"#).await;
    assert_eq!((status, &body["changed"]), (StatusCode::OK, &json!(false)));
    api.send("PUT", path, r#"{"availability":"active"}"#).await;
    assert!(!keys(api.agent.mem_kv()).contains_key("/hosts/h1/availability"));

    let (status, body) = api
        .send(
            "PUT",
            "/hosts/h9/availability",
            r#"{"availability":"pause"}"#,
        )
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(body["error"], "there is no host h9; there is h1, h2");
    let (status, _) = api.send("PUT", path, r#"{"availability":"away"}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn the_operators_labels_win_over_those_an_agent_was_started_with() {
    let api = alone();
    api.agent.put_host("h1", None);
    change_record(&api.agent, "h1", |record| {
        record.labels = [("zone", "a"), ("disk", "hdd")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    });
    let label = async |body: &str| api.send("PATCH", "/hosts/h1/labels", body).await.1;
    let body = label(r#"{"disk": "ssd", "gpu": "yes", "zone": null}"#).await;
    assert_eq!(body["labels"], json!({"disk": "ssd", "gpu": "yes"}));
    assert_eq!(
        api.get("/hosts").await["hosts"][0]["labels"],
        body["labels"]
    );
    assert_eq!(
        keys(api.agent.mem_kv())["/hosts/h1/labels"],
        r#"{"disk":"ssd","gpu":"yes","zone":null}"#
    );
    assert_eq!(label(r#"{"gpu": "yes"}"#).await["changed"], false);
    label(r#"{"gpu": null}"#).await;
    assert_eq!(
        keys(api.agent.mem_kv())["/hosts/h1/labels"],
        r#"{"disk":"ssd","zone":null}"#,
        "what nobody else says need not be hidden"
    );
    let (status, _) = api
        .send("PATCH", "/hosts/h1/labels", r#"{"a b": "c"}"#)
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn labels_are_few_short_and_such_as_constraints_can_name() {
    let api = alone();
    api.agent.put_host("h1", None);
    let label = async |body: Value| {
        let (status, body) = api
            .send("PATCH", "/hosts/h1/labels", &body.to_string())
            .await;
        (
            status,
            body["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    for (body, says) in [
        (json!({"../x": "y"}), "is not a valid label name"),
        (json!({"a": "\u{1b}[31m"}), "control characters"),
        (json!({"a": "x".repeat(257)}), "at most 256"),
        (json!({"x".repeat(129): "y"}), "at most 128"),
    ] {
        let (status, error) = label(body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(error.contains(says), "{error}");
    }
    let some = |numbers: std::ops::Range<u32>| {
        let labels = numbers.map(|n| (format!("l{n}"), json!("x")));
        Value::Object(labels.collect())
    };
    assert_eq!(label(some(0..40)).await.0, StatusCode::OK);
    assert!(label(some(40..65)).await.1.contains("at most 64"));
    assert!(label(some(100..1_000)).await.1.contains("at most 64"));
    assert_eq!(label(some(40..64)).await.0, StatusCode::OK);
    // One that an earlier version took can be taken away.
    api.agent.put(&Key::Labels(host("h1")), br#"{"_odd":"x"}"#);
    assert_eq!(label(json!({"_odd": null})).await.0, StatusCode::OK);
}

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

#[tokio::test]
async fn a_label_that_is_taken_away_leaves_no_key_behind() {
    let api = alone();
    api.agent.put_host("h1", None);
    for body in [r#"{"gpu": "yes"}"#, r#"{"gpu": null}"#] {
        let (status, _) = api.send("PATCH", "/hosts/h1/labels", body).await;
        assert_eq!(status, StatusCode::OK);
    }
    assert!(!keys(api.agent.mem_kv()).contains_key("/hosts/h1/labels"));
}

#[tokio::test]
async fn a_host_that_is_gone_is_forgotten_with_its_data_and_nothing_else() {
    let api = alone();
    api.agent.put_host("h1", None);
    let revision = api.agent.put_manifest(&db(), DB);
    let member = api.agent.put_member("h2");
    api.agent.claim(&db().slot(0), "h2", revision);
    for number in 0..250 {
        api.agent.put_data(&db().slot(number), "h2", &["data"]);
    }
    api.agent.put_data(&web().slot(0), "h1", &["data"]);
    api.agent.put(&Key::Availability(host("h2")), br#""pause""#);
    api.agent.put(&Key::Labels(host("h2")), br#"{"a":"b"}"#);
    api.agent.put(
        &Key::Unfit(host("h2"), db()),
        br#"{"manifest_rev":1,"reason":"x"}"#,
    );

    let (status, body) = api.send("DELETE", "/hosts/h1", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(body["error"].as_str().unwrap().contains("dokkaa leave h1"));

    let detail = api.get("/hosts/h2").await;
    assert_eq!(
        (&detail["live"], &detail["member"]),
        (&json!(false), &json!(member))
    );
    assert_eq!(detail["data"].as_array().unwrap().len(), 250);
    let (status, _) = api.send("DELETE", "/hosts/h2?member=1", "").await;
    assert_eq!(status, StatusCode::CONFLICT, "another membership was shown");
    assert!(keys(api.agent.mem_kv()).contains_key("/dokkaa/members/h2"));

    let (status, body) = api
        .send("DELETE", &format!("/hosts/h2?member={member}"), "")
        .await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["data"].as_array().unwrap().len(), 250);
    let left = keys(api.agent.mem_kv());
    assert!(left.keys().all(|key| !key.contains("h2")), "{left:?}");
    assert!(left.contains_key("/claims/shop/web/data/0"));
    assert!(
        left.contains_key("/claims/shop/db/slots/0"),
        "others take it over"
    );
    let (status, _) = api.send("DELETE", "/hosts/h2", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_host_shows_what_can_go_elsewhere_and_what_can_not() {
    let api = alone();
    let revision = two_slots(&api.agent);
    api.agent.put_manifest(&db(), DB);
    api.agent.claim(&db().slot(0), "h1", revision);
    api.agent.put_data(&db().slot(0), "h1", &["data"]);
    let detail = api.get("/hosts/h1").await;
    assert_eq!(detail["slots"][0]["slot"]["container"]["container"], "db");
    assert_eq!(detail["slots"][0]["stuck"], "its data is on h1 (data)");
    assert_eq!(detail["slots"][1]["stuck"], Value::Null);
    api.agent.put(&Key::Availability(host("h2")), br#""pause""#);
    let detail = api.get("/hosts/h1").await;
    assert_eq!(
        detail["slots"][1]["stuck"],
        "no other host can run it: h2: it is paused"
    );
}

#[tokio::test]
async fn a_drain_notes_what_the_host_had_and_it_comes_back_only_if_asked_for() {
    let api = alone();
    let revision = two_slots(&api.agent);
    api.agent.claim(&web().slot(1), "h1", revision);
    let moved = |api: &TestApi| {
        let all = keys(api.agent.mem_kv()).into_keys();
        let moved = all.filter_map(|key| Some(key.strip_prefix("/hosts/h1/moved/")?.to_owned()));
        moved.collect::<Vec<String>>()
    };
    let put = |body: &'static str| api.send("PUT", "/hosts/h1/availability", body);

    put(r#"{"availability":"drain"}"#).await;
    assert_eq!(moved(&api), ["shop/web/0", "shop/web/1"]);
    let (_, body) = put(r#"{"availability":"active"}"#).await;
    assert_eq!(body["returns"], Value::Null);
    assert!(moved(&api).is_empty());

    put(r#"{"availability":"drain"}"#).await;
    api.agent.claim(&web().slot(0), "h2", revision);
    // Asked for again, it is still known what has gone.
    put(r#"{"availability":"drain"}"#).await;
    let (status, body) = put(r#"{"availability":"active","return":true}"#).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(body["returns"].as_array().map(Vec::len), Some(1));
    assert_eq!(body["changed"], true);
    assert_eq!(moved(&api), ["shop/web/0"]);
    assert_eq!(api.get("/hosts/h1").await["moved"], body["returns"]);

    let (status, body) = put(r#"{"availability":"drain","return":true}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error"], "\"return\" goes with \"active\" only");
}

#[tokio::test]
async fn volumes_are_listed_with_where_they_are_and_whether_that_is_there() {
    let api = alone();
    api.agent.put_host("h1", None);
    api.agent.put_member("h2");
    let revision = api.agent.put_manifest(&db(), DB);
    api.agent.claim(&db().slot(0), "h1", revision);
    api.agent.put_data(&db().slot(0), "h1", &["log", "data"]);
    api.agent.put_data(&db().slot(1), "h2", &["data"]);
    api.agent.put_data(&web().slot(0), "h3", &["data"]);
    let all = api.get("/volumes").await;
    let row = |at: usize| {
        let row = &all["volumes"][at];
        let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
        [
            text("docker"),
            text("host"),
            text("presence"),
            row["wanted"].to_string(),
        ]
        .join(" ")
    };
    assert_eq!(row(0), "shop---db---0---data h1 live true");
    assert_eq!(row(1), "shop---db---0---log h1 live true");
    assert_eq!(row(2), "shop---db---1---data h2 missing false");
    assert_eq!(row(3), "shop---web---0---data h3 gone false");
    assert_eq!(all["volumes"][0]["claimed_by"], "h1");
    let some = api.get("/volumes?app=shop&container=web").await;
    assert_eq!(some["volumes"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_pin_is_released_only_where_it_would_not_come_back() {
    let api = alone();
    api.agent.put_host("h1", None);
    let revision = api.agent.put_manifest(&db(), DB);
    let slot = db().slot(0);
    api.agent.claim(&slot, "h1", revision);
    api.agent.put_data(&slot, "h1", &["data"]);
    api.agent.add_volume(&slot.volume_name("data"));
    let (status, body) = api.send("DELETE", "/pins/shop/db/0", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(body["error"].as_str().unwrap().contains("dokkaa leave h1"));
    api.agent.put(&Key::Availability(host("h1")), br#""leave""#);
    let (status, body) = api.send("DELETE", "/pins/shop/db/0", "").await;
    assert_eq!((status, &body["removed"]), (StatusCode::OK, &json!(false)));
    let (status, _) = api.send("DELETE", "/pins/shop/db/0", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // Of a machine that nobody remembers, too.
    api.agent.put_data(&slot, "h3", &["data"]);
    let (status, _) = api.send("DELETE", "/pins/shop/db/0", "").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_volume_that_its_host_lacks_is_lost_and_its_slot_may_be_released() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    api.agent.put_host("h1", None);
    api.agent.put_host("h2", None);
    api.agent.put_host("h3", None);
    let revision = api.agent.put_manifest(&db(), DB);
    let slot = db().slot(0);
    api.agent.claim(&slot, "h2", revision);
    api.agent.put_data(&slot, "h2", &["data"]);
    let state = async || {
        let list = api.get("/volumes").await;
        (list["volumes"][0]["state"].clone(), list["notices"].clone())
    };
    assert_eq!(state().await, (json!("lost"), Value::Null));
    h2.add_volume(&slot.volume_name("data"));
    assert_eq!(state().await, (json!("present"), Value::Null));
    let (status, _) = api.send("DELETE", "/pins/shop/db/0", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    h2.remove_volume(&slot.volume_name("data")).await.unwrap();
    let (status, _) = api.send("DELETE", "/pins/shop/db/0", "").await;
    assert_eq!(status, StatusCode::OK);
    // One that was never made is not lost, and a host that can't be asked has not lost it either.
    api.agent.put_data(&slot, "h1", &["data"]);
    let mut pin: Value = serde_json::from_str(&keys(&kv)["/claims/shop/db/data/0"]).unwrap();
    pin.as_object_mut().unwrap().remove("existing");
    api.agent
        .put(&Key::Data(slot.clone()), pin.to_string().as_bytes());
    assert_eq!(state().await.0, json!("not-created"));
    api.agent.put_data(&slot, "h3", &["data"]);
    api.agent.claim(&slot, "h3", revision);
    let (unknown, notices) = state().await;
    assert_eq!(unknown, json!("unknown"));
    assert!(notices[0].as_str().unwrap().contains("h3"), "{notices}");
    let (status, _) = api.send("DELETE", "/pins/shop/db/0", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
}

#[tokio::test]
async fn volumes_are_adopted_where_they_are() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    api.agent.put_host("h1", None);
    api.agent.put_host("h2", None);
    let slot = db().slot(0);
    let data = || {
        let seen = api.agent.view().unwrap().snapshot;
        let data = seen.slot(&slot).unwrap().data.as_ref().unwrap();
        (
            data.host.to_string(),
            data.volumes.clone(),
            data.existing.clone(),
        )
    };
    let named = |names: &[&str]| {
        names
            .iter()
            .map(|n| (*n).to_owned())
            .collect::<Vec<String>>()
    };
    // Nobody has said where they are, and then they are not there.
    let (status, body) = api.send("PUT", "/pins/shop/db/0", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let (status, body) = api.send("PUT", "/pins/shop/db/0?host=h2", "").await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    for name in [
        "shop---db---0---data",
        "shop---db---1---data",
        "shop---db---0---log",
    ] {
        h2.add_volume(name);
    }
    let (status, body) = api.send("PUT", "/pins/shop/db/0?host=h2", "").await;
    assert_eq!(
        (status, &body["volumes"]),
        (StatusCode::OK, &json!(["data", "log"]))
    );
    let both = named(&["data", "log"]);
    assert_eq!(data(), ("h2".to_owned(), both.clone(), both));
    // What waits for it on a host has what is there of what it wants; who has the slot elsewhere keeps it.
    let revision = api.agent.put_manifest(&db(), DB);
    api.agent.claim(&slot, "h2", revision);
    let (status, body) = api.send("PUT", "/pins/shop/db/0?host=h1", "").await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    let mut pin: Value = serde_json::from_str(&keys(&kv)["/claims/shop/db/data/0"]).unwrap();
    pin["volumes"] = json!(["log", "data", "new"]);
    pin["existing"] = json!([]);
    api.agent
        .put(&Key::Data(slot.clone()), pin.to_string().as_bytes());
    let (status, body) = api.send("PUT", "/pins/shop/db/0", "").await;
    assert_eq!((status, &body["host"]), (StatusCode::OK, &json!("h2")));
    assert_eq!(
        data(),
        (
            "h2".to_owned(),
            named(&["log", "data", "new"]),
            named(&["log", "data"])
        )
    );
}

#[tokio::test]
async fn a_host_says_which_slots_another_storage_driver_keeps_waiting() {
    let kv = MemKv::new();
    let api = api(&[], &kv, 0);
    api.agent.put_host("h1", None);
    let uses = |driver: &str| {
        change_record(&api.agent, "h1", |record| {
            let mut docker = Docker::default();
            driver.clone_into(&mut docker.store.driver);
            record.docker = Some(docker);
        });
    };
    let slot = db().slot(0);
    let revision = api.agent.put_manifest(&db(), DB);
    api.agent.claim(&slot, "h1", revision);
    api.agent.put_data(&slot, "h1", &["data"]);
    let mut pin: Value = serde_json::from_str(&keys(&kv)["/claims/shop/db/data/0"]).unwrap();
    pin["driver"] = json!("overlay2");
    api.agent
        .put(&Key::Data(slot.clone()), pin.to_string().as_bytes());
    let problems = async || api.get("/hosts").await["hosts"][0]["problems"].clone();
    uses("overlay2");
    assert_eq!(problems().await, Value::Null);
    uses("overlayfs");
    let said = problems().await[0].to_string();
    assert!(
        said.contains("from overlay2 to overlayfs") && said.contains("shop/db/0"),
        "{said}"
    );
    api.agent.add_volume(&slot.volume_name("data"));
    let (status, body) = api.send("PUT", "/pins/shop/db/0", "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(problems().await, Value::Null);
}

#[tokio::test]
async fn data_goes_where_no_container_has_it_any_more() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    for name in ["h1", "h2"] {
        api.agent.put_host(name, None);
    }
    let revision = api.agent.put_manifest(&db(), DB);
    for (number, agent) in [(0, &api.agent), (1, &h2)] {
        let slot = db().slot(number);
        let name = agent.host();
        let volume = slot.volume_name("data");
        let path = format!("/volumes/{slot}");
        agent.add_volume(&volume);
        api.agent.put_data(&slot, name.as_str(), &["data"]);
        api.agent.claim(&slot, name.as_str(), revision);
        let (status, body) = api.send("DELETE", &path, "").await;
        assert_eq!(status, StatusCode::CONFLICT, "{body}");
        api.agent.delete(&Key::Claim(slot.clone()));
        agent.set_observed(Observed::new([running(&slot, name.as_str())], 0));
        let (status, body) = api.send("DELETE", &path, "").await;
        assert_eq!(status, StatusCode::CONFLICT);
        assert!(
            body["error"].as_str().unwrap().contains("still exists"),
            "{body}"
        );
        assert_eq!(agent.volumes(), [volume]);
        agent.set_observed(Observed::default());
        let (status, body) = api.send("DELETE", &path, "").await;
        assert_eq!((status, &body["removed"]), (StatusCode::OK, &json!(true)));
        assert!(agent.volumes().is_empty());
        assert!(!keys(&kv).contains_key(&Key::Data(slot).to_string()));
    }
    api.agent.put_member("h3");
    api.agent.put_data(&db().slot(0), "h3", &["data"]);
    let (status, body) = api.send("DELETE", "/volumes/shop/db/0", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .contains("on h3, which is missing")
    );
    assert!(keys(&kv).contains_key("/claims/shop/db/data/0"));
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

#[tokio::test]
async fn an_orphan_is_shown_as_one_and_removed_by_its_name() {
    let api = alone();
    two_slots(&api.agent);
    api.agent.claim(&db().slot(2), "h1", 1);
    api.agent.put_state(&db().slot(2), "h1", Phase::Ready, &[]);
    api.agent.put_status(&db().slot(2), "h1", |status| {
        status.progress = Progress::Orphan;
    });
    let row = &api.get("/slots?app=shop&container=db").await["slots"][0];
    assert_eq!(
        (&row["slot"], &row["status"]),
        (&json!(2), &json!("orphan"))
    );
    assert!(
        row["reason"]
            .as_str()
            .unwrap()
            .contains("dokkaa rm shop/db")
    );
    let (status, body) = api.send("DELETE", "/manifests/shop/db", "").await;
    assert_eq!(
        (status, &body["containers"][0]["container"]),
        (StatusCode::OK, &json!("db"))
    );
    let left = keys(api.agent.mem_kv());
    let claims = |key: &&String| key.starts_with("/claims/shop/db/");
    assert_eq!(left.keys().find(claims), None);
    assert!(left.contains_key("/claims/shop/web/slots/0"));
    let (status, _) = api.send("DELETE", "/manifests/shop/db", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    // With the whole app, too.
    api.agent.claim(&db().slot(0), "h1", 1);
    let (status, body) = api.send("DELETE", "/manifests/shop", "").await;
    assert_eq!(
        (status, body["containers"].as_array().unwrap().len()),
        (StatusCode::OK, 2)
    );
    assert!(!keys(api.agent.mem_kv()).contains_key("/claims/shop/db/slots/0"));
}

#[tokio::test]
async fn why_tells_of_a_lost_slot_who_is_to_take_it_and_what_holds_that_up() {
    let api = alone();
    let revision = two_slots(&api.agent);
    api.agent.claim(&web().slot(1), "h3", revision);
    let reasons = async || {
        let why = api.get("/why/shop/web?slot=1").await;
        let hosts = why["slots"][0]["hosts"].as_array().unwrap().clone();
        let text = |host: &Value| host["reason"].as_str().unwrap().to_owned();
        hosts.iter().map(text).collect::<Vec<String>>()
    };
    let told = reasons().await;
    assert_eq!(told[0], "has it, but is missing");
    assert_eq!(told[1], "is to take it");
    api.agent.set_reasons(Reasons {
        waiting: BTreeMap::from([(web().slot(1), "3 of 5 hosts are missing".to_owned())]),
        links: Vec::new(),
    });
    assert!(
        reasons()
            .await
            .contains(&"3 of 5 hosts are missing".to_owned())
    );
}

#[tokio::test]
async fn why_may_be_asked_of_one_slot() {
    let api = alone();
    two_slots(&api.agent);
    api.agent.put_data(&web().slot(1), "h2", &["data"]);
    let why = api.get("/why/shop/web?slot=1").await;
    assert_eq!(why["slots"].as_array().unwrap().len(), 1);
    let hosts = why["slots"][0]["hosts"].as_array().unwrap();
    assert_eq!(
        hosts[0]["reason"],
        "runs it; its volumes (data) pin it here"
    );
    assert_eq!(hosts[1]["reason"], "the slot's data is on h2");
    let (status, _) = api.send("GET", "/why/shop/web?slot=9", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
