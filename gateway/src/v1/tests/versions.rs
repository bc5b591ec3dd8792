//! Manifests and their versions.

use super::*;

#[tokio::test]
async fn a_manifest_that_ends_by_itself_says_when() {
    let api = alone();
    let key = Key::Manifest(web());
    let side = format!("{V2_META}{key}");
    let expires = "2026-01-02T03:04:05Z";
    let ops = vec![
        Op::put(&key, r#"{"image": "a"}"#),
        Op::put_json(&side, &json!({ "expires": expires })),
    ];
    api.agent
        .mem_kv()
        .with(|etcd| etcd.txn(&Txn::new(Vec::new(), ops)))
        .unwrap();
    let slots = async || api.get("/slots?app=shop").await["containers"][0].clone();
    assert_eq!(slots().await["expires"], expires);
    let apps = api.get("/apps").await;
    assert_eq!(apps["apps"][0]["containers"][0]["expires"], expires);
    let why = api.get("/why/shop/web").await;
    assert_eq!(why["container"]["expires"], expires);
    // Written by whoever gives it no TTL, it stays.
    api.agent.put_manifest(&web(), r#"{"image": "b"}"#);
    assert_eq!(slots().await["expires"], Value::Null);
}

#[tokio::test]
async fn versions_are_read_from_etcd_newest_first() {
    let api = alone();
    let first = two_slots(&api.agent);
    // The view of an agent in hold is old; this is not asked of it.
    api.agent.set_blind(true);
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["revision"], first);
    assert_eq!(body["wanted"], first);
    assert_eq!(body["versions"][0]["slots"], json!([0, 1]));
    // A scale makes no version.
    let (_, scaled) = api
        .send(
            "PUT",
            "/manifests/shop/web",
            r#"{"image": "a", "scale": 3}"#,
        )
        .await;
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["revision"], scaled["revision"]);
    assert_eq!(body["wanted"], first);
    assert_eq!(body["manifest"]["scale"], 3);
    assert_eq!(body["versions"].as_array().unwrap().len(), 1);
    // The newest, which nobody has decided the image of yet.
    let (_, put) = api
        .send("PUT", "/manifests/shop/web", r#"{"image": "b"}"#)
        .await;
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["wanted"], put["revision"]);
    assert_eq!(body["versions"][0]["version"], put["revision"]);
    assert_eq!(body["versions"][0]["digest"], Value::Null);
    assert_eq!(body["versions"][1]["slots"], json!([0, 1]));
    // One that means what they run.
    api.agent
        .put_manifest(&web(), r#"{"image": "a", "scale": 2}"#);
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["versions"][0]["slots"], json!([0, 1]));
    assert_eq!(body["versions"][1].get("slots"), None);
    // Another one, and back before any slot ran it: nobody has to decide anything.
    api.agent.put_manifest(&web(), r#"{"image": "b"}"#);
    let back = r#"{"image": "a", "scale": 2}"#;
    let (_, back) = api.send("PUT", "/manifests/shop/web", back).await;
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["versions"][0]["version"], back["revision"]);
    assert_eq!(body["versions"][0]["digest"], "sha256:1");
    assert_eq!(body["versions"][0]["slots"], json!([0, 1]));
    // What can't be read wants nothing.
    api.agent.put(&Key::Manifest(web()), b"{");
    let body = api.get("/versions/shop/web").await;
    assert_eq!(
        (&body["wanted"], &body["manifest"]),
        (&Value::Null, &Value::Null)
    );
    let (status, _) = api.send("GET", "/versions/shop/none", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    api.agent.delete(&Key::Manifest(web()));
    let (status, _) = api.send("GET", "/versions/shop/web", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_update_is_paused_and_resumed_as_it_is_in_etcd() {
    let api = alone();
    two_slots(&api.agent);
    let put = async |body: &str| api.send("PUT", "/rollout/shop/web", body).await;
    let (status, body) = put(r#"{"paused": true}"#).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert!(body["error"].as_str().unwrap().contains("nothing to pause"));
    let newer = br#"{"image": "b", "scale": 2}"#;
    let new = api.agent.put(&Key::Manifest(web()), newer);
    let (status, body) = put(r#"{"paused": true}"#).await;
    assert_eq!(
        (status, body),
        (
            StatusCode::OK,
            json!({"version": new, "halted": false, "paused": true, "slot": 0})
        )
    );
    let row = api.get("/slots?app=shop&container=web").await;
    assert_eq!(row["containers"][0]["update"]["paused"], true);
    assert_eq!(row["containers"][0]["version"], new);
    let reason = row["slots"][0]["reason"].as_str().unwrap();
    assert!(!reason.contains("its turn"), "{reason}");
    // The image is decided; a change of the scale is none of the version.
    let version = json!({"manifest": {"image": "b", "scale": 2}, "image": "sha256:2"});
    let key = Key::Version(web(), new);
    api.agent.put(&key, version.to_string().as_bytes());
    let scaled = br#"{"image": "b", "scale": 1}"#;
    api.agent.put(&Key::Manifest(web()), scaled);
    let (status, _) = put(r#"{"paused": true}"#).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, _) = put(r#"{"paused": false}"#).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = put(r#"{"paused": false}"#).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let key = Key::Rollout(web());
    let left = api.agent.view().unwrap().snapshot;
    assert_eq!(left.containers.get(&web()).unwrap().rollout, None);

    // What failed is forgotten; what is being updated is not, and what nobody wants is not shown.
    let mark = json!({
        "version": new, "failed": true, "failures": [1], "updating": [0, 7], "reason": "exit code 1",
    });
    api.agent.put(&key, mark.to_string().as_bytes());
    let row = api.get("/slots").await;
    assert_eq!(row["containers"][0]["update"]["updating"], json!([0]));
    assert_eq!(row["containers"][0]["update"]["halted"], true);
    let (status, body) = put(r#"{"paused": false}"#).await;
    assert_eq!((status, &body["updating"]), (StatusCode::OK, &json!([0])));
    assert_eq!(
        (&body["halted"], body.get("failures")),
        (&json!(false), None)
    );
    let (status, _) = api
        .send("PUT", "/rollout/shop/none", r#"{"paused": true}"#)
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = put("{}").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn one_slot_is_restarted() {
    let api = alone();
    two_slots(&api.agent);
    let mark = || {
        let view = api.agent.view().unwrap().snapshot;
        let rollout = view.containers.get(&web()).unwrap().rollout.clone();
        rollout.map(|rollout| rollout.value.restart)
    };
    let (status, body) = api.send("PUT", "/restart/shop/web/2", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    let error = body["error"].as_str().unwrap();
    assert_eq!(error, "shop/web has no slot 2; it has 0, 1");
    let (status, _) = api.send("PUT", "/restart/shop/none/0", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(mark(), None);

    let (status, body) = api.send("PUT", "/restart/shop/web/0", "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let goes = body["instance"].as_str().unwrap();
    let restart = mark().unwrap();
    assert_eq!((restart.len(), restart[&0].as_str()), (1, goes));
    let rows = api.get("/slots?app=shop&container=web").await;
    assert_eq!(rows["containers"][0]["update"]["restart"], json!([0]));
    assert_eq!(rows["slots"][0]["outdated"], true);
    assert_ne!(rows["slots"][1]["outdated"], true);

    // What an update replaces needs none.
    api.agent
        .put(&Key::Manifest(web()), br#"{"image": "b", "scale": 2}"#);
    let (status, body) = api.send("PUT", "/restart/shop/web/0", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .contains("replaces shop/web/0")
    );
    api.agent.put(
        &Key::Manifest(web()),
        br#"{"image": "b", "scale": 2, "stopped": true}"#,
    );
    let (status, body) = api.send("PUT", "/restart/shop/web/0", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(body["error"].as_str().unwrap().contains("is stopped"));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_whose_answer_is_lost_is_written_and_deleted_once() {
    let api = alone();
    let kv = api.agent.mem_kv();
    let put = |text: &'static str| api.send("PUT", "/manifests/shop/web", text);
    kv.lose_next_answer();
    let (code, created) = put(r#"{"image": "a"}"#).await;
    assert_eq!(
        (code, &created["created"]),
        (StatusCode::CREATED, &json!(true))
    );
    kv.lose_next_answer();
    let (code, changed) = put(r#"{"image": "b"}"#).await;
    assert_eq!((code, &changed["created"]), (StatusCode::OK, &json!(false)));
    let manifest = api.get("/manifests/shop/web").await;
    assert_eq!(manifest["revision"], changed["revision"]);
    let revision = kv.with(|etcd| etcd.revision());
    assert_eq!(changed["revision"], revision);
    assert_eq!(created["revision"], revision - 1);
    kv.lose_next_answer();
    let (code, removed) = api.send("DELETE", "/manifests/shop/web", "").await;
    assert_eq!(
        (code, &removed["containers"]),
        (
            StatusCode::OK,
            &json!([{"app": "shop", "container": "web"}])
        )
    );
    assert_eq!(kv.with(|etcd| etcd.revision()), revision + 1);
    let (code, _) = api.send("DELETE", "/manifests/shop/web", "").await;
    assert_eq!(code, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_others_have_made_anew_stays_where_an_answer_was_lost() {
    let api = alone();
    let kv = api.agent.mem_kv();
    let put = |text: &'static str| api.send("PUT", "/manifests/shop/web", text);
    let (code, created) = put(r#"{"image": "a"}"#).await;
    assert_eq!(code, StatusCode::CREATED);
    kv.lose_next_answer();
    let others = async {
        // The next try waits a little.
        while kv.with(|etcd| json!(etcd.revision())) == created["revision"] {
            tokio::task::yield_now().await;
        }
        for (method, body) in [("DELETE", ""), ("PUT", r#"{"image": "c"}"#)] {
            let (code, body) = api.send(method, "/manifests/shop/web", body).await;
            assert!(code.is_success(), "{body}");
        }
    };
    let ((code, body), ()) = tokio::join!(put(r#"{"image": "b"}"#), others);
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let manifest = api.get("/manifests/shop/web").await;
    assert_eq!(manifest["manifest"], r#"{"image": "c"}"#);
}

#[tokio::test]
async fn a_manifest_is_written_read_and_removed() {
    let api = alone();
    let path = "/manifests/shop/web";
    let text = "{\"image\": \"a\"}\n";
    let (status, _) = api.send("GET", path, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, first) = api.send("PUT", path, text).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(
        (&first["created"], &first["changed"]),
        (&json!(true), &json!(true))
    );
    let body = api.get(path).await;
    assert_eq!(body["manifest"], text, "as it was written, byte by byte");
    assert_eq!(body["revision"], first["revision"]);
    let (status, again) = api.send("PUT", path, text).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&again["created"], &again["changed"]),
        (&json!(false), &json!(false))
    );
    let (_, spaced) = api.send("PUT", path, "{ \"image\":\"a\" }").await;
    assert_eq!(spaced["changed"], false, "in its meaning");
    let overriding = r#"{"image": "a", "env": {"SERVICE_DB_ADDR": "x"}}"#;
    let (_, odd) = api.send("PUT", path, overriding).await;
    assert_eq!(odd["changed"], true);
    let warning = odd["warnings"][0].as_str().unwrap();
    assert!(warning.contains("env.SERVICE_DB_ADDR"), "{warning}");
    let (status, gone) = api.send("DELETE", path, "").await;
    assert_eq!(
        (status, &gone["containers"][0]["container"]),
        (StatusCode::OK, &json!("web"))
    );
    let (status, _) = api.send("DELETE", path, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_invalid_manifest_is_refused_with_everything_that_is_wrong() {
    let api = alone();
    let (status, body) = api
        .send(
            "PUT",
            "/manifests/shop/web",
            r#"{"imag": "a", "scale": -1}"#,
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["problems"].as_array().unwrap().len() >= 2, "{body}");
    let (status, _) = api.send("GET", "/manifests/shop/web", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "nothing was written");

    let large = format!(
        "{{\"image\": \"{}\"}}",
        "x".repeat(crate::v1::manifest::MAX_BODY)
    );
    let (status, body) = api.send("PUT", "/manifests/shop/web", &large).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(body["error"].as_str().unwrap().contains("larger than"));
    for path in ["/manifests/Shop/web", "/manifests/shop/a---b"] {
        let (status, body) = api.send("PUT", path, r#"{"image": "a"}"#).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(body["error"].is_string(), "{path}");
    }
}

#[tokio::test]
async fn a_precondition_is_compare_and_swap() {
    let api = alone();
    let path = "/manifests/shop/web";
    let put = async |header| {
        api.send_if("PUT", path, r#"{"image": "a"}"#, Some(header))
            .await
    };
    let (status, body) = put(("if-match", "\"5\"")).await;
    assert_eq!(
        (status, &body["revision"]),
        (StatusCode::PRECONDITION_FAILED, &json!(0))
    );
    let (status, first) = put(("if-none-match", "*")).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, body) = put(("if-none-match", "*")).await;
    assert_eq!(
        (status, &body["revision"]),
        (StatusCode::PRECONDITION_FAILED, &first["revision"])
    );
    let revision = first["revision"].to_string();
    let (status, _) = put(("if-match", &revision)).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = put(("if-match", &revision)).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    for wrong in [
        ("if-match", "*"),
        ("if-match", "x"),
        ("if-none-match", "\"1\""),
    ] {
        assert_eq!(put(wrong).await.0, StatusCode::BAD_REQUEST, "{wrong:?}");
    }
    let (status, _) = api
        .send_if("DELETE", path, "", Some(("if-match", "\"1\"")))
        .await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn an_app_goes_with_its_manifests_and_nothing_else() {
    let api = alone();
    for name in ["web", "db"] {
        api.agent.put_manifest(
            &format!("shop/{name}").parse().unwrap(),
            r#"{"image": "a"}"#,
        );
    }
    let near: ContainerId = "shopping/web".parse().unwrap();
    api.agent.put_manifest(&near, r#"{"image": "a"}"#);
    let (status, body) = api.send("DELETE", "/manifests/shop", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["containers"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/manifests/shopping/web").await["container"], "web");
    let (status, _) = api.send("DELETE", "/manifests/shop", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}
