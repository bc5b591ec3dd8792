//! What waits are told, and when.

use std::time::Duration;

use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::kv::{KeyRange, Kv, Op, Txn};
use store::memory::MemKv;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Answer, Ask, Begun};
use crate::harness::TestServer;
use crate::kept;

/// No event takes longer, unless something is wrong.
const CAP: Duration = Duration::from_secs(20);

async fn begin(server: &TestServer, query: &str) -> Begun {
    let begun = server
        .client
        .begin(Ask::new("GET", &format!("/v2/keys{query}")))
        .await;
    assert_eq!(begun.status, 200);
    begun
}

async fn event(begun: Begun) -> Answer {
    tokio::time::timeout(CAP, begun.end())
        .await
        .expect("an event in time")
}

async fn write_with_v3(kv: &MemKv, ops: Vec<Op>) {
    kv.txn(Txn::new(Vec::new(), ops)).await.expect("written");
}

#[tokio::test]
async fn a_wait_is_told_what_the_writer_is_told() {
    let (server, _) = TestServer::in_memory().await;
    for (method, form) in [
        ("PUT", "value=1&prevExist=false"),
        ("PUT", "value=2"),
        ("PUT", "value=3&prevExist=true"),
        ("PUT", "value=4&prevValue=3"),
        ("DELETE", ""),
    ] {
        let wait = begin(&server, "/a/b?wait=true").await;
        let above = begin(&server, "/?wait=true&recursive=true").await;
        let index = wait.headers["x-etcd-index"].clone();
        let ask = Ask::new(method, "/v2/keys/a/b").form(form);
        let written = server.client.send(ask).await;
        assert!(written.status < 300, "{}", written.body);
        let told = event(wait).await;
        assert_eq!(told.body, written.body);
        assert_ne!(told.header("x-etcd-index"), written.header("x-etcd-index"));
        assert_eq!(told.headers["x-etcd-index"], index);
        assert_eq!(event(above).await.body, written.body);
    }
}

#[tokio::test]
async fn a_wait_index_finds_what_has_been() {
    let (server, _) = TestServer::in_memory().await;
    let first = server.client.put("/v2/keys/k", "value=1").await;
    let other = server.client.put("/v2/keys/other", "value=1").await;
    let second = server.client.put("/v2/keys/k", "value=2").await;
    let wait = |index: u64| {
        let query = format!("/k?wait=true&waitIndex={index}");
        let server = &server;
        async move { event(begin(server, &query).await).await.body }
    };
    assert_eq!(wait(first.index()).await, first.body);
    assert_eq!(wait(other.index()).await, second.body);

    let future = second.index() + 2;
    let waiting = begin(&server, &format!("/k?wait=true&waitIndex={future}")).await;
    server.client.put("/v2/keys/k", "value=3").await;
    let third = server.client.put("/v2/keys/k", "value=4").await;
    assert_eq!(event(waiting).await.body, third.body);
}

#[tokio::test]
async fn an_api_that_has_just_started_knows_what_was_before() {
    let (first, kv) = TestServer::in_memory().await;
    let put = first.client.put("/v2/keys/k", "value=1").await;
    let second = TestServer::over(std::sync::Arc::new(kv)).await;
    let wait = begin(&second, &format!("/k?wait=true&waitIndex={}", put.index())).await;
    assert_eq!(event(wait).await.body, put.body);
}

#[tokio::test]
async fn history_ends_after_a_thousand_events() {
    let (server, _) = TestServer::in_memory().await;
    let first = server.client.put("/v2/keys/k", "value=0").await.index();
    // The ring is filled as events come, not from the store's history.
    drop(begin(&server, "/k?wait=true").await);
    for n in 0..1000 {
        server.client.put("/v2/keys/k", &format!("value={n}")).await;
    }
    for path in ["k", "never/touched"] {
        let query = format!("/v2/keys/{path}?wait=true&waitIndex={first}");
        let answer = server.client.get(&query).await;
        let cause = format!(
            "the requested history has been cleared [{}/{first}]",
            first + 1
        );
        assert_eq!(answer.error(), (400, 401, cause));
        assert_eq!(answer.json()["index"], first + 1000);
        assert_eq!(
            answer.header("x-etcd-index"),
            Some((first + 1000).to_string().as_str())
        );
    }
    let oldest = begin(&server, &format!("/k?wait=true&waitIndex={}", first + 1)).await;
    assert_eq!(event(oldest).await.index(), first + 1);
}

#[tokio::test]
async fn compacted_history_is_cleared_too() {
    let (server, kv) = TestServer::in_memory().await;
    let first = server.client.put("/v2/keys/k", "value=1").await.index();
    let last = server.client.put("/v2/keys/k", "value=2").await.index();
    kv.with(|etcd| etcd.compact(last as i64))
        .expect("compacted");
    // The first wait finds out, and its client asks again.
    let wait = server
        .client
        .get(&format!("/v2/keys/k?wait=true&waitIndex={first}"))
        .await;
    let again = server
        .client
        .get(&format!("/v2/keys/k?wait=true&waitIndex={first}"))
        .await;
    assert!(
        wait.body.is_empty() || wait.error().1 == 401,
        "{}",
        wait.body
    );
    assert_eq!(again.error().1, 401, "{}", again.body);
    let waiting = begin(&server, "/k?wait=true").await;
    let put = server.client.put("/v2/keys/k", "value=3").await;
    assert_eq!(event(waiting).await.body, put.body);
}

#[tokio::test]
async fn a_recursive_delete_is_one_event_for_all_below() {
    let (server, _) = TestServer::in_memory().await;
    server.client.put("/v2/keys/d/a", "value=1").await;
    server.client.put("/v2/keys/d/e/b", "value=2").await;
    let mut waits = Vec::new();
    for query in [
        "/d?wait=true",
        "/d/a?wait=true",
        "/d/e/b?wait=true",
        "/d/e?wait=true&recursive=true",
        "/?wait=true&recursive=true",
    ] {
        waits.push(begin(&server, query).await);
    }
    let delete = server.client.delete("/v2/keys/d?recursive=true").await;
    for wait in waits {
        assert_eq!(event(wait).await.body, delete.body);
    }
    let next = server.client.put("/v2/keys/z", "value=1").await;
    let query = format!(
        "/?wait=true&recursive=true&waitIndex={}",
        delete.index() + 1
    );
    assert_eq!(event(begin(&server, &query).await).await.body, next.body);
}

#[tokio::test]
async fn what_v3_writes_is_an_event_too() {
    let (server, kv) = TestServer::in_memory().await;
    let wait = begin(&server, "/x?wait=true&recursive=true").await;
    write_with_v3(&kv, vec![Op::put("/x/y", "1")]).await;
    let told = event(wait).await.json();
    assert_eq!(
        (&told["action"], &told["node"]["value"]),
        (&json!("set"), &json!("1"))
    );

    let (lease, _) = kv
        .lease_grant(Duration::from_secs(5))
        .await
        .expect("a lease");
    let put = Op::Put {
        key: "/x/z".to_owned(),
        value: b"2".to_vec(),
        lease,
    };
    write_with_v3(&kv, vec![put]).await;
    let wait = begin(&server, "/x/z?wait=true").await;
    kv.lease_revoke(lease).await.expect("revoked");
    let told = event(wait).await.json();
    assert_eq!(
        (&told["action"], &told["prevNode"]["value"]),
        (&json!("expire"), &json!("2"))
    );
    assert_eq!(told["node"]["value"], Value::Null);

    let wait = begin(&server, "/x/y?wait=true").await;
    let delete = Op::Delete(KeyRange::prefix("/x/"));
    write_with_v3(&kv, vec![delete]).await;
    assert_eq!(event(wait).await.json()["action"], "delete");
}

#[tokio::test]
async fn a_wait_outlasts_the_history_of_other_keys() {
    let (server, kv) = TestServer::in_memory().await;
    let wait = begin(&server, "/quiet/key?wait=true").await;
    let stream = begin(&server, "/quiet?wait=true&recursive=true&stream=true").await;
    let streamed = tokio::spawn(async move {
        let mut body = stream.body;
        let mut lines = Vec::new();
        while lines.len() < 2 {
            let frame = body.frame().await.expect("a line").expect("a line");
            let line = frame.into_data().expect("data");
            lines.push(String::from_utf8(line.to_vec()).expect("text"));
        }
        lines
    });
    let mut written = Vec::new();
    for value in ["1", "2"] {
        for n in 0..1_200 {
            write_with_v3(&kv, vec![Op::put(format!("/busy/{n}"), "1")]).await;
        }
        let form = format!("value={value}");
        written.push(server.client.put("/v2/keys/quiet/key", &form).await.body);
        // Only the end of a wait shows that the feed is so far.
        let index = kv.with(|etcd| etcd.revision());
        let query = format!("/quiet?wait=true&recursive=true&waitIndex={index}");
        assert_eq!(
            event(begin(&server, &query).await).await.body,
            written[written.len() - 1]
        );
    }
    assert_eq!(event(wait).await.body, written[0]);
    let streamed = tokio::time::timeout(CAP, streamed).await;
    assert_eq!(streamed.expect("in time").expect("lines"), written);
}

#[tokio::test]
async fn hidden_names_do_not_wake_who_waits_above() {
    let (server, _) = TestServer::in_memory().await;
    let above = begin(&server, "/d?wait=true&recursive=true").await;
    let inside = begin(&server, "/d/_h?wait=true&recursive=true").await;
    let hidden = server.client.put("/v2/keys/d/_h/k", "value=1").await;
    assert_eq!(event(inside).await.body, hidden.body);
    let shown = server.client.put("/v2/keys/d/k", "value=2").await;
    assert_eq!(event(above).await.body, shown.body);
}

#[tokio::test]
async fn waits_survive_a_watch_that_breaks() {
    let (server, kv) = TestServer::in_memory().await;
    let wait = begin(&server, "/k?wait=true").await;
    kv.set_unavailable(true);
    kv.set_unavailable(false);
    let put = server.client.put("/v2/keys/k", "value=1").await;
    assert_eq!(event(wait).await.body, put.body);
}

/// The next line of a stream; none at its end.
async fn line(stream: &mut Begun) -> Option<String> {
    let frame = tokio::time::timeout(CAP, stream.body.frame()).await;
    let frame = frame.expect("a line in time")?.expect("a line");
    let data = frame.into_data().expect("data");
    Some(String::from_utf8(data.to_vec()).expect("text"))
}

#[tokio::test]
async fn a_stream_is_told_each_event_on_a_line_and_stays_open() {
    let (server, kv) = TestServer::in_memory().await;
    let first = server.client.put("/v2/keys/a/b", "value=1").await;
    let query = format!(
        "/a?wait=true&stream=true&recursive=true&waitIndex={}",
        first.index()
    );
    let mut stream = begin(&server, &query).await;
    let mut one = begin(&server, "/a/b?wait=true&stream=true").await;
    assert_eq!(line(&mut stream).await, Some(first.body));
    for form in ["value=2", "value=3&prevValue=2", "dir=true"] {
        let written = server.client.put("/v2/keys/a/b", form).await;
        server.client.put("/v2/keys/other", "value=1").await;
        assert_eq!(line(&mut stream).await, Some(written.body.clone()));
        assert_eq!(line(&mut one).await, Some(written.body));
    }
    // Several keys of one v3 transaction have one index.
    let keys = ["/a/x", "/a/y", "/a/z"];
    write_with_v3(&kv, keys.iter().map(|key| Op::put(key, "1")).collect()).await;
    for key in keys {
        let told = line(&mut stream).await.expect("a line");
        assert!(told.contains(&format!("\"key\":\"{key}\"")), "{told}");
    }
    server.shutdown.cancel();
    assert_eq!(line(&mut stream).await, None);
}

#[tokio::test]
async fn waits_begin_anew_where_etcd_was_restored() {
    let (server, memory, kv) = kept::in_memory().await;
    let client = &server.client;
    client.put("/v2/keys/a", "value=1").await;
    let saved = memory.with(|etcd| etcd.clone());
    for n in 2..20 {
        client.put("/v2/keys/a", &format!("value={n}")).await;
    }
    let mut live = begin(&server, "/a?wait=true&stream=true").await;
    client.put("/v2/keys/a", "value=20").await;
    assert!(line(&mut live).await.expect("an event").contains("\"20\""));
    kv.restore(&memory, saved.clone()).await;
    assert_eq!(line(&mut live).await, None);

    let set = client.put("/v2/keys/a", "value=new").await;
    let query = format!("/a?wait=true&waitIndex={}", set.index());
    let told = event(begin(&server, &query).await).await;
    assert_eq!(told.body, set.body);
    let next = begin(&server, "/a?wait=true").await;
    let set = client.put("/v2/keys/a", "value=newer").await;
    assert_eq!(event(next).await.body, set.body);

    // Another time, and nobody waits.
    for n in 2..20 {
        client.put("/v2/keys/a", &format!("value={n}")).await;
    }
    kv.restore(&memory, saved).await;
    let set = client.put("/v2/keys/a", "value=newest").await;
    let query = format!("/a?wait=true&waitIndex={}", set.index());
    let told = event(begin(&server, &query).await).await;
    assert_eq!(told.body, set.body);
}

#[tokio::test]
async fn who_never_reads_a_stream_is_cut_off_and_slows_nobody() {
    const EVENTS: usize = 200;
    let (server, _) = TestServer::in_memory().await;
    let mut lazy = TcpStream::connect(server.address).await.expect("connected");
    let request = "GET /v2/keys/big?wait=true&stream=true HTTP/1.1\r\n\
                   Host: localhost\r\nConnection: close\r\n\r\n";
    lazy.write_all(request.as_bytes()).await.expect("sent");
    let mut eager = begin(&server, "/big?wait=true&stream=true").await;
    let form = format!("value={}", "x".repeat(256 << 10));
    for n in 0..EVENTS {
        let put = server.client.put("/v2/keys/big", &form);
        let put = tokio::time::timeout(CAP, put).await.expect("in time");
        assert!(matches!(put.status, 200 | 201), "{n}");
        let (mut told, whole) = (0, put.body.len());
        while told < whole {
            told += line(&mut eager).await.expect("a piece").len();
        }
    }
    // What was told meanwhile is in the sockets; the rest was not kept.
    let mut text = Vec::new();
    let read = tokio::time::timeout(CAP, lazy.read_to_end(&mut text));
    read.await.expect("an end in time").expect("read");
    let lines = String::from_utf8_lossy(&text).matches("\"action\"").count();
    assert!(lines < EVENTS, "{lines}");
}

#[tokio::test]
async fn a_watcher_of_a_rarely_changed_key_catches_up_as_its_error_says() {
    let (server, _) = TestServer::in_memory().await;
    let rare = server.client.put("/v2/keys/rare", "value=1").await;
    drop(begin(&server, "/rare?wait=true").await);
    for n in 0..1100 {
        let form = format!("value={n}");
        server.client.put("/v2/keys/busy", &form).await;
    }
    let query = format!("/v2/keys/rare?wait=true&waitIndex={}", rare.index() + 1);
    let cleared = server.client.get(&query).await;
    assert_eq!(cleared.error().1, 401);
    let index: u64 = cleared
        .header("x-etcd-index")
        .expect("an index")
        .parse()
        .expect("a number");
    let listed = server.client.get("/v2/keys/rare").await;
    assert_eq!(listed.index(), rare.index());
    let wait = begin(&server, &format!("/rare?wait=true&waitIndex={}", index + 1)).await;
    let next = server.client.put("/v2/keys/rare", "value=2").await;
    assert_eq!(event(wait).await.body, next.body);
}
