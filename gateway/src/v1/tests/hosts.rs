//! What operators do with hosts and volumes.

use model::records::Docker;

use super::*;

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
