//! Directories of one's own, and keys that are named by their order.

use serde_json::json;
use store::kv::{Kv, Op, Txn};

use crate::client::{Answer, Ask};
use crate::harness::TestServer;

fn names(listing: &Answer) -> Vec<String> {
    let nodes = listing.json()["node"]["nodes"].clone();
    let nodes = nodes.as_array().cloned().unwrap_or_default();
    let key = |node: &serde_json::Value| node["key"].as_str().expect("a key").to_owned();
    nodes.iter().map(key).collect()
}

#[tokio::test]
async fn a_directory_is_made_once_and_stays() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    let made = client.put("/v2/keys/d/e", "dir=true&value=dropped").await;
    let index = made.json()["node"]["modifiedIndex"].clone();
    assert_eq!(made.status, 201);
    assert_eq!(
        made.body,
        format!(
            "{{\"action\":\"set\",\"node\":{{\"key\":\"/d/e\",\"dir\":true,\
             \"modifiedIndex\":{index},\"createdIndex\":{index}}}}}\n"
        )
    );
    let get = client.get("/v2/keys/d/e").await;
    assert_eq!(get.json()["node"], made.json()["node"]);
    assert_eq!(names(&client.get("/v2/keys/d").await), ["/d/e"]);
    for form in ["dir=true", "value=1"] {
        let again = client.put("/v2/keys/d/e", form).await.error();
        assert_eq!(again, (403, 102, "/d/e".to_owned()));
    }
    let create = client.put("/v2/keys/d/e", "dir=true&prevExist=false").await;
    assert_eq!(create.error(), (412, 105, "/d/e".to_owned()));

    client.put("/v2/keys/d/e/f", "value=1").await;
    client.delete("/v2/keys/d/e/f").await;
    assert_eq!(client.get("/v2/keys/d/e").await.json(), get.json());
    let plain = client.delete("/v2/keys/d/e").await.error();
    assert_eq!(plain, (403, 102, "/d/e".to_owned()));
    let delete = client.delete("/v2/keys/d/e?dir=true").await.json();
    assert_eq!(delete["node"]["createdIndex"], index);
    assert_eq!(delete["prevNode"], made.json()["node"]);
    assert_eq!(client.get("/v2/keys/d/e").await.error().1, 100);
}

#[tokio::test]
async fn a_file_becomes_a_directory_and_not_the_other_way() {
    let (server, _) = TestServer::in_memory().await;
    let client = &server.client;
    let file = client.put("/v2/keys/a", "value=1").await;
    client.put("/v2/keys/a", "value=2&prevExist=true").await;
    let dir = client.put("/v2/keys/a", "dir=true").await;
    let index = file.index() + 2;
    assert_eq!(
        (dir.status, dir.json()),
        (
            200,
            json!({
                "action": "set",
                "node": {"key": "/a", "dir": true, "modifiedIndex": index, "createdIndex": index},
                "prevNode": {"key": "/a", "value": "2", "modifiedIndex": index - 1,
                    "createdIndex": file.index()},
            })
        )
    );
    let query = format!("/v2/keys/a?wait=true&waitIndex={index}");
    assert_eq!(client.get(&query).await.body, dir.body);
    assert_eq!(client.put("/v2/keys/a/b", "value=1").await.status, 201);
    assert_eq!(client.put("/v2/keys/a", "value=1").await.error().1, 102);
}

#[tokio::test]
async fn a_post_names_keys_by_their_index() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    let post = |path: &str, form: &str| {
        let ask = Ask::new("POST", &format!("/v2/keys{path}")).form(form);
        client.send(ask)
    };
    let mut made = Vec::new();
    for form in ["value=1", "dir=true", "value=2&prevExist=true&prevIndex=9"] {
        let posted = post("/queue", form).await;
        assert_eq!(
            (posted.status, &posted.json()["action"]),
            (201, &json!("create"))
        );
        let key = format!("/queue/{:020}", posted.index());
        assert_eq!(posted.json()["node"]["key"], key.as_str());
        assert_eq!(posted.json()["node"]["createdIndex"], posted.index());
        made.push(key);
        // Another write in between changes nothing but the number.
        client.put("/v2/keys/other", "value=1").await;
    }
    let listed = client.get("/v2/keys/queue?sorted=true").await;
    assert_eq!(names(&listed), made);
    let root = post("/", "value=3").await;
    assert_eq!(
        root.json()["node"]["key"],
        format!("/{:020}", root.index()).as_str()
    );
    assert_eq!(
        post("/other", "value=1").await.error(),
        (400, 104, "/other".to_owned())
    );
    assert_eq!(post(&"/d".repeat(100), "value=1").await.error().1, 209);
    let before = kv.with(|etcd| etcd.revision());
    for path in ["/apps", "/apps/a1", "/claims", "/v2meta", "/hosts/h1"] {
        let (status, code, cause) = post(path, "value=1").await.error();
        assert_eq!((status, code), (403, 110), "{path}: {cause}");
    }
    assert_eq!(kv.with(|etcd| etcd.revision()), before);
}

#[tokio::test]
async fn under_apps_there_are_no_directories_of_ones_own() {
    let (server, kv) = TestServer::in_memory().await;
    let client = &server.client;
    let before = kv.with(|etcd| etcd.revision());
    for path in [
        "/apps",
        "/apps/a1",
        "/apps/a1/c1",
        "/apps/a1/c1/manifest",
        "/claims/x",
    ] {
        for form in ["dir=true", "dir=true&prevExist=false", "dir=true&ttl=5"] {
            let put = client.put(&format!("/v2/keys{path}"), form).await;
            let (status, code, cause) = put.error();
            assert_eq!((status, code), (403, 110), "{path}: {cause}");
        }
    }
    assert_eq!(kv.with(|etcd| etcd.revision()), before);
    // Nothing is left of an app.
    let path = "/v2/keys/apps/a1/c1/manifest";
    assert_eq!(client.put(path, r#"value={"image":"a"}"#).await.status, 201);
    assert_eq!(
        client.get("/v2/keys/apps/a1/c1").await.json()["node"]["dir"],
        true
    );
    assert_eq!(client.delete(path).await.status, 200);
    assert_eq!(client.get("/v2/keys/apps/a1").await.error().1, 100);
    assert_eq!(
        client.get("/v2/keys/apps").await.json()["node"]["dir"],
        true
    );
}

#[tokio::test]
async fn a_directory_may_have_thousands_of_keys() {
    let (server, kv) = TestServer::in_memory().await;
    for n in 0..5_000 {
        let put = Op::put(format!("/many/{n:04}"), "x");
        kv.txn(Txn::new(Vec::new(), vec![put])).await.expect("put");
    }
    let listed = server.client.get("/v2/keys/many").await;
    let names = names(&listed);
    assert_eq!((names.len(), names[4_999].as_str()), (5_000, "/many/4999"));
    let ask = Ask::new("POST", "/v2/keys/many").form("value=1");
    assert_eq!(server.client.send(ask).await.status, 201);
    let delete = server.client.delete("/v2/keys/many?recursive=true").await;
    assert_eq!(delete.status, 200);
    assert_eq!(server.client.get("/v2/keys/many").await.error().1, 100);
}

#[tokio::test]
async fn a_name_may_have_any_byte_of_text() {
    let (server, _) = TestServer::in_memory().await;
    let mut expected = Vec::new();
    for code in (0_u32..256).chain([0x2028, 0x1_f600]) {
        let name = char::from_u32(code).expect("a character");
        if matches!(name, '/' | '.') {
            continue;
        }
        let path = format!(
            "/v2/keys/b/x{}",
            dokkaa_tests::http::escape(&name.to_string())
        );
        let put = server.client.put(&path, "value=1").await;
        let key = format!("/b/x{name}");
        assert_eq!(put.json()["node"]["key"], key.as_str());
        assert_eq!(server.client.get(&path).await.json()["node"]["value"], "1");
        expected.push(key);
    }
    expected.sort();
    let listed = server.client.get("/v2/keys/b?sorted=true").await;
    assert_eq!(names(&listed), expected);
}
