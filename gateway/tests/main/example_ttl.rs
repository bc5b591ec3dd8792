//! Keys that end by themselves. Time is the test's own; only what is shown as
//! `expiration` and `ttl` comes from the machine's clock.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use gateway::v2::{self, V2};
use http_body_util::BodyExt;
use jiff::{Timestamp, ToSpan};
use serde_json::{Value, json};
use store::kv::{KeyRange, Kv, Op, Range, Txn};
use store::memory::MemKv;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::client::{Answer, Ask, Begun};
use crate::harness::TestServer;

async fn begin(server: &TestServer, query: &str) -> Begun {
    let ask = Ask::new("GET", &format!("/v2/keys{query}"));
    let begun = server.client.begin(ask).await;
    assert_eq!(begun.status, 200);
    begun
}

async fn keys(kv: &MemKv) -> Vec<String> {
    let all = kv.range(Range::new(KeyRange::range("/", "0")));
    let all = all.await.expect("a read").kvs;
    all.into_iter().map(|kv| kv.key).collect()
}

/// The node, without the times that are checked to be so many seconds away.
fn node(answer: &Answer, name: &str, seconds: Option<i64>) -> Value {
    let mut node = answer.json()[name].clone();
    let fields = node.as_object_mut().expect("a node");
    let (expiration, ttl) = (fields.remove("expiration"), fields.remove("ttl"));
    let Some(seconds) = seconds else {
        assert_eq!((expiration, ttl), (None, None), "{}", answer.body);
        return node;
    };
    let text = expiration.expect("an expiration");
    let expiration: Timestamp = text.as_str().expect("text").parse().expect("a time");
    let apart = expiration - (Timestamp::now() + seconds.seconds());
    assert!(apart.total(jiff::Unit::Second).expect("seconds").abs() < 30.0);
    let ttl = ttl.and_then(|ttl| ttl.as_i64()).unwrap_or(0);
    assert!((seconds - ttl).abs() < 30, "{ttl}");
    node
}

#[tokio::test(start_paused = true)]
async fn a_key_with_a_ttl_ends() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    let set = client.put("/v2/keys/k", "value=1&ttl=100").await;
    let index = set.index();
    assert_eq!(
        node(&set, "node", Some(100)),
        json!({"key": "/k", "value": "1", "modifiedIndex": index, "createdIndex": index})
    );
    let get = client.get("/v2/keys/k").await;
    assert_eq!(node(&get, "node", Some(100)), node(&set, "node", Some(100)));
    let listed = client.get("/v2/keys/").await.json();
    assert!(
        listed["node"]["nodes"][0]["ttl"].as_i64() > Some(60),
        "{listed}"
    );

    let expired = begin(&server, "/k?wait=true").await.end().await;
    assert_eq!(expired.json()["action"], "expire");
    assert_eq!(
        node(&expired, "node", None),
        json!({"key": "/k", "modifiedIndex": index + 1, "createdIndex": index})
    );
    assert_eq!(node(&expired, "prevNode", Some(100))["value"], "1");
    assert_eq!(client.get("/v2/keys/k").await.error().1, 100);
    assert_eq!(keys(&kv).await, ["/v2meta//op"]);
    let counted = client.get("/v2/stats/store").await.json();
    assert_eq!(counted["expireCount"], 1);
}

#[tokio::test(start_paused = true)]
async fn each_write_says_anew_whether_a_key_ends() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    let put = |form: &'static str| client.put("/v2/keys/k", form);
    put("value=1&ttl=1000").await;
    let update = put("value=2&prevExist=true&ttl=3000").await;
    node(&update, "node", Some(3000));
    node(&update, "prevNode", Some(1000));
    let swap = put("value=3&prevValue=2&ttl=5000").await;
    node(&swap, "node", Some(5000));
    let stays = put("value=4&prevExist=true&ttl=").await;
    node(&stays, "node", None);
    node(&stays, "prevNode", Some(5000));
    node(&put("value=5&ttl=1000").await, "node", Some(1000));
    node(&put("value=6").await, "node", None);
    let ask = Ask::new("POST", "/v2/keys/q").form("value=1&ttl=1000");
    let posted = client.send(ask).await;
    node(&posted, "node", Some(1000));
    // Whatever was said before is over now, except for the posted key.
    tokio::time::sleep(Duration::from_secs(9000)).await;
    assert_eq!(client.get("/v2/keys/k").await.json()["node"]["value"], "6");
    assert_eq!(
        client.get("/v2/keys/q").await.json()["node"]["nodes"],
        Value::Null
    );
}

#[tokio::test(start_paused = true)]
async fn a_refresh_prolongs_and_wakes_nobody() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    let put = |form: &'static str| client.put("/v2/keys/k", form);
    let missing = put("ttl=50&refresh=true&prevExist=true").await.error();
    assert_eq!(missing, (404, 100, "/k".to_owned()));
    assert_eq!(put("ttl=50&refresh=true").await.error(), missing);
    let set = put("value=kept&ttl=50").await;
    let all = begin(&server, "/k?wait=true&stream=true").await;
    for (form, action) in [
        ("ttl=100&refresh=true", "set"),
        ("ttl=100&refresh=true&prevExist=true", "update"),
        ("ttl=100&refresh=true&prevValue=kept", "compareAndSwap"),
    ] {
        let refreshed = put(form).await;
        assert_eq!(
            (refreshed.status, &refreshed.json()["action"]),
            (200, &json!(action))
        );
        assert_eq!(node(&refreshed, "node", Some(100))["value"], "kept");
    }
    // The first lease has ended without the key.
    tokio::time::sleep(Duration::from_secs(90)).await;
    let get = client.get("/v2/keys/k").await;
    assert_eq!(get.index(), set.index() + 3);
    let wait = format!("/k?wait=true&waitIndex={}", set.index() + 1);
    let expired = begin(&server, &wait).await.end().await;
    assert_eq!(expired.json()["action"], "expire");
    server.shutdown.cancel();
    assert_eq!(all.end().await.body, expired.body);
    assert_eq!(keys(&kv).await, ["/v2meta//op"]);
}

#[tokio::test(start_paused = true)]
async fn a_directory_ends_with_all_that_is_in_it() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    let made = client.put("/v2/keys/d", "dir=true&ttl=1000").await;
    node(&made, "node", Some(1000));
    client.put("/v2/keys/d/a/b", "value=1").await;
    client.put("/v2/keys/d/e", "dir=true&ttl=5000").await;
    let refreshed = client.put("/v2/keys/d", "ttl=100&prevExist=true").await;
    let told = node(&refreshed, "node", Some(100));
    assert_eq!(told["modifiedIndex"], refreshed.index());
    assert_eq!(told["createdIndex"], made.index());
    let get = client.get("/v2/keys/d").await;
    assert_eq!(get.index(), made.index());
    let value = client
        .put("/v2/keys/d", "value=1&ttl=9&prevExist=true")
        .await;
    assert_eq!(value.error(), (403, 102, "/d".to_owned()));

    let below = begin(&server, "/d/a/b?wait=true").await;
    let above = begin(&server, "/?wait=true&recursive=true").await;
    let expired = above.end().await;
    assert_eq!(below.end().await.body, expired.body);
    assert_eq!(expired.json()["action"], "expire");
    assert_eq!(
        node(&expired, "node", None),
        json!({"key": "/d", "dir": true, "modifiedIndex": refreshed.index() + 1,
            "createdIndex": made.index()})
    );
    node(&expired, "prevNode", Some(100));
    assert_eq!(client.get("/v2/keys/d/a").await.error().2, "/d");
    assert_eq!(keys(&kv).await, ["/v2meta//op"]);
}

#[tokio::test(start_paused = true)]
async fn a_ttl_counts_where_etcd_was_restored() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    client.put("/v2/keys/a", "value=1").await;
    let saved = kv.with(|etcd| etcd.clone());
    for n in 2..20 {
        client.put("/v2/keys/a", &format!("value={n}")).await;
    }
    client.put("/v2/keys/d", "dir=true&ttl=50000").await;
    kv.set_unavailable(true);
    kv.with(|etcd| *etcd = saved);
    kv.set_unavailable(false);
    let begun = Instant::now();
    let made = client.put("/v2/keys/d", "dir=true&ttl=10").await;
    assert_eq!(made.status, 201);
    let query = format!("/d?wait=true&waitIndex={}", made.index() + 1);
    let expired = begin(&server, &query).await.end().await;
    assert_eq!(expired.json()["action"], "expire");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_to_stay_stays() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    client.put("/v2/keys/d/a", "value=1").await;
    let with = client.put("/v2/keys/d", "ttl=100&prevExist=true").await;
    node(&with, "node", Some(100));
    let without = client.put("/v2/keys/d", "prevExist=true&ttl=").await;
    node(&without, "prevNode", Some(100));
    node(&without, "node", None);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(client.get("/v2/keys/d/a").await.status, 200);
    assert!(!keys(&kv).await.iter().any(|key| key.contains("//ttl")));
}

#[tokio::test(start_paused = true)]
async fn what_an_api_that_is_gone_has_written_ends_too() {
    let (first, kv) = TestServer::in_memory().await;
    let second = TestServer::over(Arc::new(kv.clone())).await;
    let set = first.client.put("/v2/keys/k", "value=1").await;
    first
        .client
        .put("/v2/keys/k", "value=2&ttl=25&prevExist=true")
        .await;
    first.client.put("/v2/keys/d", "dir=true&ttl=30").await;
    first.client.put("/v2/keys/d/a/b", "value=1").await;
    first.shutdown.cancel();
    let TestServer { served, .. } = first;
    served.await.expect("ended");

    // One that starts now knows of the directory, too.
    let third = TestServer::over(Arc::new(kv.clone())).await;
    drop(second);
    let file = begin(&third, "/k?wait=true").await;
    let dir = begin(&third, "/d?wait=true").await;
    let (file, dir) = (file.end().await, dir.end().await);
    assert_eq!(file.json()["action"], "expire");
    assert_eq!(file.json()["node"]["createdIndex"], set.index());
    assert_eq!(node(&file, "prevNode", Some(25))["value"], "2");
    assert_eq!(dir.json()["action"], "expire");
    assert_eq!(dir.json()["node"]["dir"], true);
    assert_eq!(third.client.get("/v2/keys/d/a/b").await.error().2, "/d");
    assert_eq!(keys(&kv).await, ["/v2meta//op"]);
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_is_away_at_the_time_is_asked_again() {
    let (server, kv) = TestServer::in_memory().await;
    let made = server.client.put("/v2/keys/d", "dir=true&ttl=10").await;
    kv.set_unavailable(true);
    tokio::time::sleep(Duration::from_secs(15)).await;
    kv.set_unavailable(false);
    let query = format!("/v2/keys/d?wait=true&waitIndex={}", made.index() + 1);
    let expired = server.client.get(&query).await;
    assert_eq!(expired.json()["action"], "expire");
}

#[tokio::test(start_paused = true)]
async fn a_ttl_of_none_ends_at_once() {
    let (server, _) = TestServer::in_memory().await;
    let set = server.client.put("/v2/keys/k", "value=1&ttl=0").await;
    assert_eq!(set.status, 201);
    assert_eq!(set.json()["node"]["ttl"], Value::Null);
    assert!(set.json()["node"]["expiration"].is_string());
    let wait = format!("/k?wait=true&waitIndex={}", set.index() + 1);
    let expired = begin(&server, &wait).await.end().await;
    assert_eq!(expired.json()["action"], "expire");
}

#[tokio::test]
async fn a_wrong_ttl_is_an_error_and_writes_nothing() {
    let (server, kv) = TestServer::in_memory().await;
    server.client.put("/v2/keys/k", "value=1").await;
    let before = kv.with(|etcd| etcd.revision());
    for ttl in [
        "-1",
        "abc",
        "1.5",
        "8999999991",
        "99999999999999999999",
        "%20",
    ] {
        let form = format!("value=2&ttl={ttl}");
        let put = server.client.put("/v2/keys/k", &form).await;
        let (status, code, cause) = put.error();
        assert_eq!((status, code), (400, 202), "{ttl}");
        assert!(cause.contains("ttl"), "{cause}");
    }
    // A write that fails leaves no lease behind.
    let failed = server.client.put("/v2/keys/k", "value=2&ttl=9&prevValue=x");
    assert_eq!(failed.await.error().1, 101);
    assert_eq!(kv.with(|etcd| etcd.revision()), before);
    let longest = server
        .client
        .put("/v2/keys/k", "value=2&ttl=8999999990")
        .await;
    assert_eq!(longest.json()["node"]["ttl"], 8_999_999_990_i64);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_of_a_manifest_with_a_ttl() {
    let (server, kv) = TestServer::in_memory().await;
    let path = "/v2/keys/apps/pr-1/web/manifest";
    let put = server
        .client
        .put(path, r#"ttl=60&value={"image":"a"}"#)
        .await;
    assert_eq!(put.status, 201, "{}", put.body);
    let bad = server.client.put(path, "ttl=60&value={").await;
    assert_eq!(bad.error().1, 209);
    for form in ["ttl=90&refresh=true", "ttl=90&refresh=true&prevExist=true"] {
        let refreshed = server.client.put(path, form).await;
        assert_eq!(refreshed.status, 200, "{}", refreshed.body);
        assert_eq!(
            node(&refreshed, "node", Some(90))["value"],
            r#"{"image":"a"}"#
        );
    }
    // What v3 has put below one makes it a directory, which gets no TTL.
    let odd = "/apps/pr-2/web/manifest";
    let put = Txn::new(Vec::new(), vec![Op::put(format!("{odd}/x"), "1")]);
    kv.txn(put).await.expect("put");
    let form = "ttl=9&refresh=true&prevExist=true";
    let refused = server.client.put(&format!("/v2/keys{odd}"), form).await;
    assert_eq!(refused.error(), (403, 102, odd.to_owned()));
    let delete = Txn::new(Vec::new(), vec![Op::delete(format!("{odd}/x"))]);
    kv.txn(delete).await.expect("deleted");

    tokio::time::sleep(Duration::from_secs(80)).await;
    let wait = begin(&server, "/apps?wait=true&recursive=true").await;
    let expired = wait.end().await.json();
    assert_eq!(expired["action"], "expire");
    assert_eq!(expired["node"]["key"], "/apps/pr-1/web/manifest");
    assert_eq!(server.client.get("/v2/keys/apps/pr-1").await.error().1, 100);
    assert_eq!(keys(&kv).await, ["/v2meta//op", "/v2meta/apps"]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_leaves_nothing_behind() {
    let kv = MemKv::new();
    let v2 = V2::new(Arc::new(kv.clone()), "h1", CancellationToken::new());
    let router = v2::router(v2);
    let put = Request::put("/v2/keys/k?value=1&ttl=60").body(Body::empty());
    kv.set_unavailable(true);
    let second = Duration::from_secs(1);
    let answered = tokio::time::timeout(second, router.clone().oneshot(put.expect("a request")));
    assert!(answered.await.is_err(), "etcd does not answer");
    kv.set_unavailable(false);
    let told = async |index: i64| -> Value {
        let query = format!("/v2/keys/k?wait=true&waitIndex={index}");
        let wait = Request::get(query).body(Body::empty()).expect("a request");
        let told = router.clone().oneshot(wait).await.expect("an answer");
        let body = tokio::time::timeout(100 * second, told.into_body().collect());
        let body = body.await.expect("in time").expect("an event");
        serde_json::from_slice(&body.to_bytes()).expect("JSON")
    };
    let set = told(1).await;
    assert_eq!(set["action"], "set");
    let index = set["node"]["modifiedIndex"].as_i64().expect("an index");
    let expired = told(index + 1).await;
    assert_eq!(expired["action"], "expire");
    // On time, and not by the lease: then nobody would have written of it.
    let op = kv.range(Range::key("/v2meta//op")).await.expect("a read");
    assert_eq!(
        Some(op.kvs[0].modified),
        expired["node"]["modifiedIndex"].as_i64()
    );
}
