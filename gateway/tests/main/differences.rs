//! Where the v2 API differs from etcd's on purpose: the list in docs/api.md.
//! What other tests show is not repeated: paths (`example_keys`), `/apps` and
//! POST (`example_dirs`), TTLs (`example_ttl`), waits (`example_waits`).

use std::time::Duration;

use axum::http::HeaderName;
use serde_json::Value;
use store::kv::{Kv, Op, Txn};

use crate::client::Ask;
use crate::harness::TestServer;

#[tokio::test]
async fn no_answer_lets_a_web_page_in() {
    let (server, _) = TestServer::in_memory().await;
    let path = "/v2/keys/a";
    for ask in [
        Ask::new("PUT", path).form("value=1"),
        Ask::new("GET", path),
        Ask::new("OPTIONS", path),
        Ask::new("GET", "/v2/keys/missing"),
        Ask::new("GET", "/v2/members"),
        Ask::new("GET", path).header("origin", "http://127.0.0.1:1"),
    ] {
        let answer = server.client.send(ask).await;
        let mut names = answer.headers.keys().map(HeaderName::as_str);
        assert!(!names.any(|name| name.starts_with("access-control-")));
    }
    let foreign = Ask::new("GET", path).header("origin", "http://example.org");
    assert_eq!(server.client.send(foreign).await.status, 403);
}

#[tokio::test]
async fn nobody_logs_in() {
    let (server, _) = TestServer::in_memory().await;
    let basic = |ask: Ask| ask.header("authorization", "Basic cm9vdDpzZWNyZXQ=");
    let put = basic(Ask::new("PUT", "/v2/keys/a").form("value=1"));
    assert_eq!(server.client.send(put).await.status, 201);
    let enabled = basic(Ask::new("GET", "/v2/auth/enable"));
    assert_eq!(server.client.send(enabled).await.json()["enabled"], false);
    for path in ["/v2/auth/users", "/v2/auth/roles"] {
        assert_eq!(server.client.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn members_and_counters_are_only_read() {
    let (server, _) = TestServer::in_memory().await;
    for path in ["/v2/members", "/v2/machines", "/v2/stats/store"] {
        for method in ["POST", "PUT", "DELETE"] {
            let answer = server.client.send(Ask::new(method, path)).await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.header("allow"), Some("GET,HEAD"));
        }
        let head = server.client.send(Ask::new("HEAD", path)).await;
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{path}");
    }
}

#[tokio::test]
async fn the_index_counts_what_v3_writes() {
    let (server, kv) = TestServer::in_memory().await;
    let first = server.client.put("/v2/keys/a", "value=1").await.index();
    let put = Txn::new(Vec::new(), vec![Op::put("/claims/x", "1")]);
    kv.txn(put).await.expect("written");
    let second = server.client.put("/v2/keys/a", "value=2").await.index();
    assert_eq!(second, first + 2);
}

#[tokio::test]
async fn a_listing_is_always_sorted() {
    let (server, _) = TestServer::in_memory().await;
    for name in ["c", "a", "d", "b"] {
        let path = format!("/v2/keys/l/{name}");
        server.client.put(&path, "value=1").await;
    }
    let plain = server.client.get("/v2/keys/l").await;
    let sorted = server.client.get("/v2/keys/l?sorted=true").await;
    assert_eq!(plain.body, sorted.body);
    assert_eq!(plain.json()["node"]["nodes"][0]["key"], "/l/a");
}

#[tokio::test]
async fn a_lease_of_v3_is_no_ttl() {
    let (server, kv) = TestServer::in_memory().await;
    let granted = kv.lease_grant(Duration::from_secs(60)).await;
    let put = Op::Put {
        key: "/leased".to_owned(),
        value: b"1".to_vec(),
        lease: granted.expect("a lease").0,
    };
    kv.txn(Txn::new(Vec::new(), vec![put])).await.expect("put");
    let get = server.client.get("/v2/keys/leased").await.json();
    assert_eq!(get["node"]["value"], "1");
    assert_eq!(get["node"]["ttl"], Value::Null);
}
