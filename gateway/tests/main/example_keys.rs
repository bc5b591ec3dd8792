//! What clients of the v2 keys API rely on, fact by fact.

use std::process::Output;
use std::sync::Arc;

use serde_json::json;
use store::kv::{Kv, Op, Range, Txn};
use store::memory::MemKv;

use crate::client::{Answer, Ask};
use crate::harness::TestServer;

async fn write_with_v3(kv: &MemKv, ops: Vec<Op>) {
    kv.txn(Txn::new(Vec::new(), ops)).await.expect("written");
}

#[tokio::test]
async fn a_key_is_set_read_and_deleted() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    let set = client.put("/v2/keys/foo", "value=bar").await;
    assert_eq!(set.status, 201);
    let first = set.index();
    assert_eq!(
        set.body,
        format!(
            "{{\"action\":\"set\",\"node\":{{\"key\":\"/foo\",\"value\":\"bar\",\
             \"modifiedIndex\":{first},\"createdIndex\":{first}}}}}\n"
        )
    );
    assert_eq!(set.header("content-type"), Some("application/json"));
    assert_eq!(set.header("x-etcd-index"), Some(first.to_string().as_str()));
    for header in ["x-etcd-cluster-id", "x-raft-index", "x-raft-term"] {
        assert!(set.header(header).is_some(), "{header}");
    }

    let again = client.put("/v2/keys/foo", "value=baz").await;
    assert_eq!(again.status, 200);
    assert_eq!(
        again.json()["prevNode"],
        json!({"key": "/foo", "value": "bar", "modifiedIndex": first, "createdIndex": first})
    );
    assert_eq!(again.json()["node"]["createdIndex"], first + 1);

    let get = client.get("/v2/keys/foo/?quorum=true").await;
    assert_eq!(
        (get.status, get.json()["action"].clone()),
        (200, json!("get"))
    );
    assert_eq!(get.json()["node"]["value"], "baz");

    let delete = client.delete("/v2/keys/foo").await;
    assert_eq!(
        delete.json()["node"],
        json!({"key": "/foo", "modifiedIndex": first + 2, "createdIndex": first + 1})
    );
    assert_eq!(delete.json()["prevNode"]["value"], "baz");

    let missing = client.get("/v2/keys/foo").await;
    assert_eq!(missing.error(), (404, 100, "/foo".to_owned()));
    assert_eq!(missing.json()["index"], first + 2);
    assert!(missing.header("x-raft-index").is_none());
    assert!(missing.header("x-etcd-cluster-id").is_some());
}

#[tokio::test]
async fn conditions_decide_what_a_put_is() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    let put = |form: &'static str| client.put("/v2/keys/k", form);
    assert_eq!(put("value=1&prevExist=true").await.error().1, 100);
    let create = put("value=1&prevExist=false").await;
    assert_eq!(
        (create.status, create.json()["action"].clone()),
        (201, json!("create"))
    );
    let created = create.index();
    assert_eq!(
        put("value=1&prevExist=false&prevValue=1").await.error(),
        (412, 105, "/k".to_owned())
    );
    assert_eq!(
        put("value=2&prevValue=2&prevIndex=1").await.error(),
        (412, 101, format!("[2 != 1] [1 != {created}]"))
    );
    let swap = put("value=2&prevValue=1").await;
    assert_eq!(swap.json()["action"], "compareAndSwap");
    assert_eq!(swap.json()["node"]["createdIndex"], created);
    let update = put("prevExist=true&ttl=").await;
    assert_eq!(update.json()["action"], "update");
    assert_eq!(update.json()["node"]["value"], "");
    assert_eq!(update.json()["node"]["createdIndex"], created);
    let get = client.get("/v2/keys/k").await;
    assert_eq!(get.json()["node"], update.json()["node"]);
    let set = put("value=3&noValueOnSuccess=true").await;
    assert_eq!(
        (set.status, set.body.as_str()),
        (200, "{\"action\":\"set\"}\n")
    );
    let get = client.get("/v2/keys/k?noValueOnSuccess=true").await;
    assert_ne!(get.json()["node"]["createdIndex"], created);

    let delete = |query: &str| {
        let path = format!("/v2/keys/k?{query}");
        async move { client.delete(&path).await }
    };
    assert_eq!(
        delete("prevValue=x").await.error(),
        (412, 101, "[x != 3]".to_owned())
    );
    let delete = delete("prevValue=3&prevExist=false").await;
    assert_eq!(delete.json()["action"], "compareAndDelete");
}

#[tokio::test]
async fn directories_come_with_keys_and_stay_when_they_are_empty() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    let made = client.put("/v2/keys/d/e/f", "value=1").await.index();
    client.put("/v2/keys/d/b", "value=2").await;
    client.put("/v2/keys/d/_hidden", "value=3").await;

    let list = client.get("/v2/keys/d").await.json();
    let e = json!({"key": "/d/e", "dir": true, "modifiedIndex": made, "createdIndex": made});
    assert_eq!(list["node"]["nodes"][1], e);
    assert_eq!(list["node"]["nodes"][0]["key"], "/d/b");
    assert_eq!(list["node"]["nodes"].as_array().map(Vec::len), Some(2));
    let all = client.get("/v2/keys/?recursive=true&sorted=true").await;
    assert!(all.body.starts_with(r#"{"action":"get","node":{"dir":true,"nodes":[{"key":"/d","dir":true,"nodes":[{"key":"/d/b","value":"2""#), "{}", all.body);
    assert_eq!(client.get("/v2/keys/d/_hidden").await.status, 200);

    assert_eq!(
        client.put("/v2/keys/d", "value=1").await.error(),
        (403, 102, "/d".to_owned())
    );
    assert_eq!(
        client.put("/v2/keys/d/b/x", "value=1").await.error(),
        (400, 104, "/d/b".to_owned())
    );
    assert_eq!(
        client.delete("/v2/keys/d").await.error(),
        (403, 102, "/d".to_owned())
    );
    assert_eq!(
        client.delete("/v2/keys/d?dir=true").await.error(),
        (403, 108, "/d".to_owned())
    );
    assert_eq!(
        client.get("/v2/keys/d/x/y").await.error(),
        (404, 100, "/d/x".to_owned())
    );

    client.delete("/v2/keys/d/e/f").await;
    let empty = client.get("/v2/keys/d/e").await;
    assert_eq!(empty.json()["node"], e);
    assert_eq!(client.delete("/v2/keys/d/e?dir=true").await.status, 200);
    let delete = client.delete("/v2/keys/d?recursive=true").await.json();
    assert_eq!(delete["node"]["dir"], true);
    assert_eq!(
        delete["prevNode"],
        json!({"key": "/d", "dir": true, "modifiedIndex": made, "createdIndex": made})
    );
    assert_eq!(
        client.get("/v2/keys/d/b").await.error(),
        (404, 100, "/d".to_owned())
    );
    for (method, form) in [("PUT", "value=x"), ("DELETE", "")] {
        let root = client
            .send(Ask::new(method, "/v2/keys/?recursive=true").form(form))
            .await;
        assert_eq!(root.error(), (400, 107, "/".to_owned()));
    }
}

#[tokio::test]
async fn paths_are_cleaned_where_they_are() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    for path in [
        "/v2/keys//a///b",
        "//v2//keys/a/b/",
        "/v2/keys/x/../a/./b",
        "/v2/keys/a%2Fb",
    ] {
        let put = client.put(path, "value=kept").await;
        assert!(matches!(put.status, 200 | 201), "{path}: {}", put.status);
        assert_eq!(put.json()["node"]["key"], "/a/b");
        assert_eq!(
            client.get("/v2/keys/a/b").await.json()["node"]["value"],
            "kept"
        );
    }
    let put = client.put("/v2/keys/%C3%A9%20+", "value=%3Ca%3E%26").await;
    assert_eq!(put.json()["node"]["key"], "/\u{e9} +");
    assert!(
        put.body.contains(r#""value":"\u003ca\u003e\u0026""#),
        "{}",
        put.body
    );
    assert_eq!(client.get("/v2/keys/%ff").await.status, 400);
    let deep = "/a".repeat(101);
    assert_eq!(
        client
            .put(&format!("/v2/keys{deep}"), "value=1")
            .await
            .error()
            .1,
        209
    );
    let deep = "/a".repeat(100);
    assert_eq!(
        client
            .put(&format!("/v2/keys/deep{}", &deep[2..]), "value=1")
            .await
            .status,
        201
    );
}

#[tokio::test]
async fn other_methods_are_not_allowed() {
    let (server, _) = TestServer::in_memory().await;
    let patch = server.client.send(Ask::new("PATCH", "/v2/keys/a")).await;
    assert_eq!(patch.status, 405);
    assert_eq!(patch.header("allow"), Some("HEAD,GET,PUT,POST,DELETE"));
    assert_eq!(patch.body, "Method Not Allowed\n");
    let options = server.client.send(Ask::new("OPTIONS", "/v2/keys/a")).await;
    assert_eq!((options.status, options.body.as_str()), (200, ""));
    server.client.put("/v2/keys/a", "value=1").await;
    let head = server.client.send(Ask::new("HEAD", "/v2/keys/a")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.header("x-etcd-index").is_some());
}

#[tokio::test]
async fn a_key_that_v3_wrote_is_the_same_key() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    write_with_v3(&kv, vec![Op::put("/x/y", "1"), Op::put("/x/z", "2")]).await;
    let get = client.get("/v2/keys/x?recursive=true").await.json();
    assert_eq!(get["node"]["dir"], true);
    assert_eq!(get["node"]["nodes"][1]["value"], "2");
    let index = client.get("/v2/keys/x/y").await.index();
    let swap = client
        .put("/v2/keys/x/y", &format!("value=3&prevIndex={index}"))
        .await;
    assert_eq!(
        (swap.status, swap.json()["node"]["createdIndex"].clone()),
        (200, json!(index))
    );

    // A plain put makes the created index the modified one again.
    write_with_v3(&kv, vec![Op::put("/x/y", "4")]).await;
    let get = client.get("/v2/keys/x/y").await.json();
    assert_eq!(get["node"]["createdIndex"], get["node"]["modifiedIndex"]);

    // Only v3 can give a key that has keys below it a value.
    write_with_v3(&kv, vec![Op::put("/x", "file?")]).await;
    assert_eq!(client.get("/v2/keys/x").await.json()["node"]["dir"], true);
    assert_eq!(client.put("/v2/keys/x", "value=1").await.error().1, 102);
    assert_eq!(client.delete("/v2/keys/x?recursive=true").await.status, 200);
    assert_eq!(client.get("/v2/keys/x").await.error().1, 100);
    // What v2 cannot name is not shown.
    write_with_v3(&kv, vec![Op::put("/n//m", "1"), Op::put("other", "1")]).await;
    let all = client.get("/v2/keys/?recursive=true").await.body;
    assert!(!all.contains("other") && !all.contains("/m"), "{all}");
}

#[tokio::test]
async fn internal_keys_are_never_shown() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    client.put("/v2/keys/a/b", "value=1").await;
    client.put("/v2/keys/a/b", "value=2&prevExist=true").await;
    client.put("/v2/keys/v2meta-mine", "value=3").await;
    let all = client.get("/v2/keys/?recursive=true").await.json();
    let keys: Vec<&str> = all["node"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|node| node["key"].as_str())
        .collect();
    assert_eq!(keys, ["/a", "/v2meta-mine"]);
    for path in [
        "/v2/keys/v2meta",
        "/v2/keys/v2meta/a/b",
        "/v2/keys/v2meta/a/b?wait=true",
    ] {
        assert_eq!(client.get(path).await.error().1, 100, "{path}");
    }
    let before = kv.with(|etcd| etcd.revision());
    assert_eq!(
        client.put("/v2/keys/v2meta/a", "value=x").await.error().0,
        403
    );
    assert_eq!(
        client
            .delete("/v2/keys/v2meta?recursive=true")
            .await
            .error()
            .0,
        403
    );
    assert_eq!(kv.with(|etcd| etcd.revision()), before);
}

#[tokio::test]
async fn agents_keys_are_read_and_not_written() {
    let (server, kv) = TestServer::in_memory().await;
    for tree in ["claims", "hosts", "dokkaa", "status"] {
        let key = format!("/{tree}/a");
        write_with_v3(&kv, vec![Op::put(&key, "1")]).await;
        let path = format!("/v2/keys{key}");
        assert_eq!(server.client.get(&path).await.status, 200);
        for ask in [
            Ask::new("PUT", &path).form("value=2"),
            Ask::new("PUT", &path).form("value=2&prevExist=true"),
            Ask::new("PUT", &format!("/v2/keys/{tree}")).form("value=2"),
            Ask::new("DELETE", &path),
            Ask::new("DELETE", &format!("{path}?prevValue=1")),
            Ask::new("DELETE", &format!("/v2/keys/{tree}?recursive=true")),
        ] {
            let (status, code, cause) = server.client.send(ask).await.error();
            assert_eq!((status, code), (403, 110), "{cause}");
        }
        assert_eq!(server.client.get(&path).await.json()["node"]["value"], "1");
    }
}

#[tokio::test]
async fn under_apps_only_valid_manifests_are_written() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    let before = kv.with(|etcd| etcd.revision());
    let good = r#"value={"image":"a"}"#;
    for (path, why) in [
        ("/apps/dummy", "is not a manifest"),
        ("/apps/dummy/nginx", "is not a manifest"),
        ("/apps/dummy/nginx/other", "is not a manifest"),
        (
            "/apps/Dummy/nginx/manifest",
            "the app `Dummy` is not a DNS label",
        ),
        (
            "/apps/dummy/a---b/manifest",
            "the container `a---b` contains `---`",
        ),
    ] {
        let (status, code, cause) = client.put(&format!("/v2/keys{path}"), good).await.error();
        assert_eq!((status, code), (403, 110), "{path}");
        assert!(cause.contains(why), "{cause}");
    }
    let path = "/v2/keys/apps/dummy/nginx/manifest";
    for form in [
        "",
        "value=",
        "value={",
        r#"value={"image":"a","scale":-1}"#,
        r#"value={"image":"a","link":["b"]}"#,
        r#"value={"image":"a"}{}"#,
        r#"prevExist=true&value={"scale":1}"#,
    ] {
        let (status, code, cause) = client.put(path, form).await.error();
        assert_eq!((status, code), (400, 209), "{form}");
        assert!(!cause.is_empty(), "{form}");
    }
    assert_eq!(kv.with(|etcd| etcd.revision()), before);

    // Stored as it was given.
    let put = client
        .put(path, "value=%7B%20%22image%22%3A%20%22a%22%20%7D%0A")
        .await;
    assert_eq!(put.status, 201, "{}", put.body);
    let stored = kv.range(store::kv::Range::new(store::kv::KeyRange::key(
        "/apps/dummy/nginx/manifest",
    )));
    let stored = stored.await.expect("a read");
    assert_eq!(stored.kvs[0].value, b"{ \"image\": \"a\" }\n");
    assert_eq!(stored.kvs[0].modified.unsigned_abs(), put.index());
}

#[tokio::test]
async fn a_manifest_cut_short_by_its_form_gets_the_hint() {
    let (server, _) = TestServer::in_memory().await;
    let path = "/v2/keys/apps/dummy/crawler/manifest";
    for body in [
        r#"value={"image":"a","command":["sh","-c","true && false"]}"#,
        r#"value={"image":"a","command":["sh","-c","while true; do sleep 2; done"]}"#,
        r#"value={"image":"a","command":["date","%Y"]}"#,
    ] {
        let (status, _, cause) = server.client.put(path, body).await.error();
        assert_eq!(status, 400);
        assert!(cause.contains("--data-urlencode"), "{cause}");
    }
    let (_, _, cause) = server.client.put(path, "value=%7B").await.error();
    assert!(!cause.contains("--data-urlencode"), "{cause}");
}

#[tokio::test]
async fn a_recursive_delete_of_an_app_deletes_its_manifests() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    let good = r#"value={"image":"a"}"#;
    for container in ["a1", "a2"] {
        let path = format!("/v2/keys/apps/x1/{container}/manifest");
        assert_eq!(client.put(&path, good).await.status, 201);
    }
    client.put("/v2/keys/apps/x2/b1/manifest", good).await;
    assert_eq!(
        client
            .delete("/v2/keys/apps?recursive=true")
            .await
            .error()
            .1,
        110
    );
    assert_eq!(client.delete("/v2/keys/apps/x1").await.error().1, 102);
    assert_eq!(
        client
            .delete("/v2/keys/apps/x1/a1?recursive=true")
            .await
            .status,
        200
    );
    assert_eq!(client.get("/v2/keys/apps/x1/a1").await.error().1, 100);

    write_with_v3(&kv, vec![Op::put("/apps/x1/note", "stays")]).await;
    assert_eq!(client.delete("/v2/keys/apps/x1/note").await.error().1, 110);
    assert_eq!(
        client
            .delete("/v2/keys/apps/x1?recursive=true")
            .await
            .status,
        200
    );
    assert_eq!(
        client.get("/v2/keys/apps/x1/a2/manifest").await.error().1,
        100
    );
    assert_eq!(client.get("/v2/keys/apps/x1/note").await.status, 200);
    assert_eq!(client.get("/v2/keys/apps/x2/b1/manifest").await.status, 200);
    assert_eq!(
        client.delete("/v2/keys/apps/x2/b1/manifest").await.status,
        200
    );
}

#[tokio::test]
async fn writers_of_one_key_all_get_through() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    client.put("/v2/keys/n", "value=0").await;
    let adders = (0..8).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let value = client.get("/v2/keys/n").await.json()["node"]["value"].clone();
                    let old: u32 = value.as_str().expect("text").parse().expect("a number");
                    let form = format!("value={}&prevValue={old}", old + 1);
                    if client.put("/v2/keys/n", &form).await.status == 200 {
                        break;
                    }
                }
                assert_eq!(
                    client.put("/v2/keys/shared", "value=x").await.json()["action"],
                    "set"
                );
            }
        })
    });
    for adder in adders.collect::<Vec<_>>() {
        adder.await.expect("an adder");
    }
    assert_eq!(client.get("/v2/keys/n").await.json()["node"]["value"], "80");
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_carried_out_once() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    let revision = || kv.with(|etcd| etcd.revision());
    for (form, status) in [
        ("value=1&prevExist=false", 201),
        ("value=2&prevValue=1", 200),
        ("value=3", 200),
        ("value=4&prevExist=true", 200),
        ("value=5", 200),
        ("value=6", 200),
    ] {
        let before = revision();
        kv.lose_next_answer();
        let put = client.put("/v2/keys/d/a", form).await;
        assert_eq!(
            (put.status, revision()),
            (status, before + 1),
            "{}",
            put.body
        );
        assert_eq!(put.json()["node"]["modifiedIndex"], before + 1);
        let get = client.get("/v2/keys/d/a").await.json();
        assert_eq!(get["node"], put.json()["node"]);
    }
    for path in ["/v2/keys/d/a", "/v2/keys/d?recursive=true"] {
        let before = revision();
        kv.lose_next_answer();
        let delete = client.delete(path).await;
        assert_eq!(
            (delete.status, revision()),
            (200, before + 1),
            "{}",
            delete.body
        );
        assert_eq!(delete.json()["node"]["modifiedIndex"], before + 1);
    }
}

/// A PUT of 3 whose answer is lost, and what others do between its being carried out and its being sent again.
async fn put_and_lose<T>(
    (server, kv): &(TestServer, MemKv),
    (key, form): (&str, &str),
    others: impl Future<Output = T>,
) -> (Answer, T) {
    let written = || {
        let range = kv.with(|etcd| etcd.range(&Range::key(key)).expect("a read"));
        range.kvs.first().is_some_and(|kv| kv.value == b"3")
    };
    kv.lose_next_answer();
    let others = async {
        // The next try waits a little.
        while !written() {
            tokio::task::yield_now().await;
        }
        others.await
    };
    let path = format!("/v2/keys{key}");
    tokio::join!(server.client.put(&path, form), others)
}

fn assert_unknown(put: &Answer) {
    let (status, code, cause) = put.error();
    assert_eq!((status, code), (500, 300), "{cause}");
    assert!(cause.contains("look before you send it again"), "{cause}");
}

#[tokio::test]
async fn a_lost_answer_is_not_made_up_once_others_have_written() {
    let both = TestServer::in_memory().await;
    let (server, kv) = &both;
    server.client.put("/v2/keys/a", "value=1").await;
    server.client.put("/v2/keys/a", "value=2").await;
    let other = write_with_v3(kv, vec![Op::put("/a", "other")]);
    let (put, ()) = put_and_lose(&both, ("/a", "value=3"), other).await;
    assert_unknown(&put);
    let get = server.client.get("/v2/keys/a").await;
    assert_eq!(get.json()["node"]["value"], "other");
}

#[tokio::test]
async fn what_others_have_deleted_does_not_come_back_where_an_answer_was_lost() {
    let both = TestServer::in_memory().await;
    let (server, kv) = &both;
    server.client.put("/v2/keys/a", "value=1").await;
    let other = write_with_v3(kv, vec![Op::delete("/a")]);
    let (put, ()) = put_and_lose(&both, ("/a", "value=3"), other).await;
    assert_unknown(&put);
    assert_eq!(server.client.get("/v2/keys/a").await.status, 404);
}

#[tokio::test]
async fn what_others_have_made_anew_stays_where_an_answer_was_lost() {
    let both = TestServer::in_memory().await;
    let (server, kv) = &both;
    server.client.put("/v2/keys/a", "value=1").await;
    let others = async {
        write_with_v3(kv, vec![Op::delete("/a")]).await;
        write_with_v3(kv, vec![Op::put("/a", "9")]).await;
    };
    let (put, ()) = put_and_lose(&both, ("/a", "value=3"), others).await;
    assert_unknown(&put);
    let get = server.client.get("/v2/keys/a").await;
    assert_eq!(get.json()["node"]["value"], "9");
}

#[tokio::test]
async fn a_new_key_that_was_taken_at_once_does_not_come_back_where_an_answer_was_lost() {
    let both = TestServer::in_memory().await;
    let (server, _) = &both;
    server.client.put("/v2/keys/q/first", "value=1").await;
    for (key, form) in [("/q/a", "value=3"), ("/q/b", "value=3&prevExist=false")] {
        let path = format!("/v2/keys{key}");
        let taken = async {
            let delete = server.client.delete(&path).await;
            assert_eq!(delete.status, 200, "{}", delete.body);
        };
        let (put, ()) = put_and_lose(&both, (key, form), taken).await;
        assert!([201, 500].contains(&put.status), "{}", put.body);
        assert_eq!(server.client.get(&path).await.status, 404, "{form}");
    }
}

#[tokio::test]
async fn an_unanswered_put_that_was_not_carried_out_is_carried_out_in_the_end() {
    let (server, kv) = TestServer::in_memory().await;
    server.client.put("/v2/keys/d/a", "value=1").await;
    // The host knows of none of these.
    write_with_v3(&kv, vec![Op::put("/d/b", "1")]).await;
    write_with_v3(&kv, vec![Op::put("/d/b", "2")]).await;
    for (key, status) in [("/d/b", 200), ("/d/c", 201), ("/e/f/g", 201)] {
        kv.lose_next_answer();
        let put = server
            .client
            .put(&format!("/v2/keys{key}"), "value=3")
            .await;
        assert_eq!(put.status, status, "{key}: {}", put.body);
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_carried_out_once_after_a_restore() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    client.put("/v2/keys/d/a", "value=1").await;
    let saved = kv.with(|etcd| etcd.clone());
    for _ in 0..4 {
        client.put("/v2/keys/d/a", "value=2").await;
    }
    kv.with(|etcd| *etcd = saved);
    assert_eq!(
        client.get("/v2/keys/d/a").await.json()["node"]["value"],
        "1"
    );
    let before = kv.with(|etcd| etcd.revision());
    kv.lose_next_answer();
    let put = client.put("/v2/keys/d/a", "value=3").await;
    assert_eq!(put.status, 200, "{}", put.body);
    assert_eq!(put.json()["node"]["modifiedIndex"], before + 1);
    assert_eq!(kv.with(|etcd| etcd.revision()), before + 1);
}

#[tokio::test]
async fn of_many_that_create_the_same_and_lose_answers_one_succeeds() {
    let (server, kv) = TestServer::in_memory().await;
    for round in 0..20 {
        let path = format!("/v2/keys/lock{round}");
        let creators = (0..8).map(|_| {
            kv.lose_next_answer();
            server.client.put(&path, "value=mine&prevExist=false")
        });
        let answers = futures_util::future::join_all(creators).await;
        let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 412, 412, 412, 412, 412, 412, 412]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_is_away_is_an_error_of_etcds_kind() {
    let (server, kv) = TestServer::in_memory().await;
    server.client.put("/v2/keys/a", "value=1").await;
    kv.set_unavailable(true);
    for ask in [
        Ask::new("GET", "/v2/keys/a"),
        Ask::new("GET", "/v2/keys/a?wait=true"),
        Ask::new("PUT", "/v2/keys/a").form("value=2"),
    ] {
        let (status, code, cause) = server.client.send(ask).await.error();
        assert_eq!((status, code), (500, 300), "{cause}");
    }
    let health = server.client.get("/health").await;
    assert_eq!(
        (health.status, health.json()),
        (503, json!({"health": "false"}))
    );
    kv.set_unavailable(false);
    assert_eq!(
        server.client.get("/v2/keys/a").await.json()["node"]["value"],
        "1"
    );
}

#[tokio::test]
async fn clients_find_the_api_where_they_found_it() {
    let (server, _) = TestServer::in_memory().await;
    let own = format!("http://{}", server.address);
    let machines = server.client.get("/v2/machines").await;
    assert_eq!((machines.status, &machines.body), (200, &own));
    let members = server.client.get("/v2/members").await.json();
    assert_eq!(members["members"][0]["name"], "h1");
    assert_eq!(members["members"][0]["clientURLs"], json!([own]));
    let leader = server.client.get("/v2/members/leader").await.json();
    assert_eq!(leader, members["members"][0]);
    let stats = server.client.get("/v2/stats/self").await.json();
    assert_eq!(stats["leaderInfo"]["leader"], leader["id"]);
    let version = server.client.get("/version").await.json();
    assert_eq!(
        version,
        json!({"etcdserver": "3.4.23", "etcdcluster": "3.4.0"})
    );
    assert_eq!(
        server.client.get("/health").await.json(),
        json!({"health": "true"})
    );
    let auth = server.client.get("/v2/auth/enable").await.json();
    assert_eq!(auth, json!({"enabled": false}));
    for path in ["/", "/v2", "/v2/keysx", "/v1/keys", "/v2/keys/../x"] {
        let answer = server.client.get(path).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (404, "404 page not found\n")
        );
    }
}

async fn curl(arguments: Vec<String>) -> Output {
    tokio::process::Command::new("curl")
        .args(["-sS", "-L"])
        .args(arguments)
        .output()
        .await
        .expect("curl")
}

#[tokio::test]
async fn the_tutorials_commands_work_word_for_word() {
    let server = TestServer::over(Arc::new(MemKv::new())).await;
    let manifests = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../manifests/examples/tutorial/dummy");
    for (file, flag, container) in [
        ("nginx.json", "-d", "nginx"),
        ("crawler.json", "--data-urlencode", "crawler"),
    ] {
        let text = std::fs::read_to_string(manifests.join(file)).expect("an example");
        let text = text.trim_end();
        let url = format!(
            "http://{}/v2/keys/apps/dummy/{container}/manifest",
            server.address
        );
        let words = ["-XPUT", flag, &format!("value={text}"), &url];
        let output = curl(words.map(str::to_owned).to_vec()).await;
        let answer: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("an answer in JSON");
        assert_eq!(answer["action"], "set", "{answer}");
        assert_eq!(answer["node"]["value"], text);
    }
    // A double slash costs curl its body where a server answers with a redirect.
    let url = format!("http://{}/v2/keys//own//key", server.address);
    let words = ["-XPUT", "-d", "value=kept", &url];
    let output = curl(words.map(str::to_owned).to_vec()).await;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(answer["node"]["value"], "kept");
}
