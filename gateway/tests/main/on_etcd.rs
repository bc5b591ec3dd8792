//! What only a real etcd shows: too many operations, too large a request, what it writes to its log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dokkaa_tests::etcd::{Etcd, EtcdOptions};
use dokkaa_tests::http::{Target, request};
use rustix::process::Signal;
use store::etcd::EtcdKv;
use store::kv::Kv;

use crate::client::Ask;
use crate::harness::TestServer;

async fn server() -> (TestServer, Etcd) {
    let etcd = Etcd::start(&EtcdOptions::default()).expect("an etcd");
    (TestServer::over(Arc::new(kv_of(&etcd))).await, etcd)
}

fn kv_of(etcd: &Etcd) -> EtcdKv {
    EtcdKv::new(&store::etcd::EtcdOptions::new([etcd.url()])).expect("its options")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_adds_nothing_to_the_log() {
    let (server, etcd) = server().await;
    let kv = kv_of(&etcd);
    etcd.put("/implied/a", "1").expect("a write");
    server.client.put("/v2/keys/d/a", "value=1").await;
    let length = async || kv.status().await.expect("its status").raft_index;
    let before = length().await;
    for key in [
        "/d/a",
        "/d",
        "/d/none",
        "/implied/a",
        "/implied/none",
        "/none/a",
    ]
    .repeat(5)
    {
        server.client.get(&format!("/v2/keys{key}")).await;
    }
    // etcd itself notes a little after its start.
    let added = length().await - before;
    assert!(added < 10, "{added}");
}

/// Requests of this method that an etcd was sent.
fn requests(etcd: &Etcd, method: &str) -> u64 {
    let metrics = request(
        &Target::Machine(etcd.address()),
        "GET",
        "/metrics",
        &[],
        b"",
    );
    let metrics = metrics.expect("an answer").ok().expect("metrics").body;
    let method = format!("grpc_method=\"{method}\"");
    let counted =
        |line: &str| line.starts_with("grpc_server_started_total") && line.contains(&method);
    let line = metrics.lines().find(|line| counted(line));
    let number = line.and_then(|line| line.split(' ').next_back());
    number.expect("a count").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_etcd_are_few() {
    let (server, etcd) = server().await;
    let client = &server.client;
    assert_eq!(client.put("/v2/keys/d/a", "value=0").await.status, 201);
    let before = requests(&etcd, "Txn");
    for value in ["1", "2", "3", "4"] {
        let put = client.put("/v2/keys/d/a", &format!("value={value}")).await;
        assert_eq!(put.status, 200);
    }
    assert_eq!(client.put("/v2/keys/d/b", "value=0").await.status, 201);
    assert_eq!(requests(&etcd, "Txn") - before, 5, "one for each PUT");

    let before = requests(&etcd, "Txn");
    client.get("/v2/keys/d/a").await;
    assert_eq!(requests(&etcd, "Txn") - before, 1);
    client.get("/v2/keys/").await;
    assert_eq!(requests(&etcd, "Txn") - before, 2);
    let gets = (0..64).map(|_| client.get("/v2/keys/d/a"));
    for get in futures_util::future::join_all(gets).await {
        assert_eq!(get.json()["node"]["value"], "4");
    }
    let shared = requests(&etcd, "Txn") - before - 2;
    assert!(shared < 64, "{shared} for 64 GETs");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deepest_key_and_the_largest_value_fit() {
    let (server, etcd) = server().await;
    let client = &server.client;
    let deep = "/d".repeat(100);
    let path = format!("/v2/keys{deep}");
    let value = "x".repeat((1 << 20) - "value=".len());
    let wait = client
        .begin(Ask::new("GET", &format!("{path}?wait=true")))
        .await;
    let put = client.put(&path, &format!("value={value}")).await;
    assert_eq!(put.status, 201, "{}", &put.body[..200.min(put.body.len())]);
    assert_eq!(wait.end().await.body, put.body);
    assert_eq!(etcd.get(&deep).expect("a read"), Some(value.clone()));

    let update = client.put(&path, "value=1&prevExist=true").await;
    assert_eq!(update.status, 200, "{}", update.body);
    assert_eq!(update.json()["prevNode"]["value"], value.as_str());
    assert_eq!(client.delete(&path).await.status, 200);
    assert_eq!(client.delete("/v2/keys/d?recursive=true").await.status, 200);
    assert_eq!(client.get("/v2/keys/d").await.error().1, 100);
    let left = etcd.list("/").expect("a list");
    let keys: Vec<&str> = left.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["/v2meta//op"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_too_large_for_etcd_fails_no_other() {
    let (server, _etcd) = server().await;
    let client = &server.client;
    assert_eq!(client.put("/v2/keys/d/a", "value=1").await.status, 201);
    let missing = [
        ("a".repeat(600) + "/").repeat(100),
        ("a".repeat(1500) + "/").repeat(40),
    ];
    let goes_on = AtomicBool::new(true);
    let too_large = async {
        for path in missing.iter().cycle().take(20) {
            let get = client.get(&format!("/v2/keys/{path}")).await;
            assert_eq!(get.error().1, 300, "{}", get.body);
        }
        goes_on.store(false, Ordering::Relaxed);
    };
    let good = async {
        while goes_on.load(Ordering::Relaxed) {
            let gets = (0..4).map(|_| client.get("/v2/keys/d/a"));
            for get in futures_util::future::join_all(gets).await {
                assert_eq!(get.status, 200, "{}", get.body);
            }
        }
    };
    tokio::join!(too_large, good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_may_be_as_large_as_etcd_takes() {
    let (server, etcd) = server().await;
    // Keys and guards take the rest of etcd's 1.5 MiB.
    let value = "{".repeat((3 << 19) - (4 << 10));
    let form = format!("value={}", value.replace('{', "%7B"));
    let put = server.client.put("/v2/keys/large", &form).await;
    assert_eq!(put.status, 201, "{}", &put.body[..200.min(put.body.len())]);
    assert_eq!(etcd.get("/large").expect("a read"), Some(value));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_stops_for_a_while_is_waited_for() {
    let (server, etcd) = server().await;
    let etcd = Arc::new(etcd);
    let before = etcd.revision().expect("a revision");
    etcd.signal(Signal::STOP).expect("stopped");
    let path = "/v2/keys/apps/shop/web/manifest";
    let put = server.client.put(path, r#"value={"image":"a"}"#);
    let goes_on = async {
        // Longer than a connection lives that does not answer its pings.
        tokio::time::sleep(Duration::from_secs(3)).await;
        etcd.signal(Signal::CONT).expect("goes on");
    };
    let (put, ()) = tokio::join!(put, goes_on);
    assert_eq!(put.status, 201, "{}", put.body);
    assert_eq!(put.json()["node"]["createdIndex"], before + 1);
    assert_eq!(etcd.revision().expect("a revision"), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_many_manifests_is_deleted_at_once() {
    let (server, etcd) = server().await;
    let client = &server.client;
    for n in 0..150 {
        let path = format!("/v2/keys/apps/many/c{n}/manifest");
        let put = client.put(&path, r#"value={"image":"a"}"#).await;
        assert_eq!(put.status, 201, "{}", put.body);
    }
    etcd.put("/apps/many/c7/note", "stays").expect("a note");
    let delete = client.delete("/v2/keys/apps/many?recursive=true").await;
    assert_eq!(delete.status, 200, "{}", delete.body);
    let left = etcd.list("/apps/").expect("a list");
    assert_eq!(
        left,
        [("/apps/many/c7/note".to_owned(), "stays".to_owned())]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_ends_by_its_lease_where_its_writer_is_gone() {
    let (server, etcd) = server().await;
    let path = "/v2/keys/apps/pr-1/web/manifest";
    let form = r#"ttl=60&value={"image":"a"}"#;
    assert_eq!(server.client.put(path, form).await.status, 201);
    let refreshed = server.client.put(path, "ttl=1&refresh=true").await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.body);
    let TestServer {
        shutdown, served, ..
    } = server;
    shutdown.cancel();
    served.await.expect("ended");

    let kv = EtcdKv::new(&store::etcd::EtcdOptions::new([etcd.url()])).expect("its options");
    let other = TestServer::over(Arc::new(kv)).await;
    let since = refreshed.index() + 1;
    let query = format!("/v2/keys/apps?wait=true&recursive=true&waitIndex={since}");
    let expired = other.client.get(&query).await.json();
    assert_eq!(expired["action"], "expire");
    assert_eq!(expired["node"]["key"], "/apps/pr-1/web/manifest");
    let left = etcd.list("/").expect("a list");
    let keys: Vec<&str> = left.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["/v2meta//op", "/v2meta/apps"]);
}
