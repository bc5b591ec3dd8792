//! Strangers, and requests that cost too much.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use gateway::listener::ListenerConfig;
use store::memory::MemKv;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Ask, Client};
use crate::harness::TestServer;

#[tokio::test]
async fn a_web_page_cannot_write() {
    let (server, _) = TestServer::in_memory().await;
    let put = || Ask::new("PUT", "/v2/keys/k").form("value=evil");
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let answer = server.client.send(put().header(name, value)).await;
        assert_eq!(answer.status, 403, "{name}: {value}");
    }
    for host in ["evil.example:4001", "evil.example"] {
        let answer = server.client.send(put().header("host", host)).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.body.contains("--allow-host"), "{}", answer.body);
    }
    assert_eq!(server.client.get("/v2/keys/k").await.status, 404);

    let own = format!("http://{}", server.address);
    let answer = server.client.send(put().header("origin", &own)).await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn no_answer_lets_other_pages_read_it() {
    let (server, _) = TestServer::in_memory().await;
    let preflight = Ask::new("OPTIONS", "/v2/keys/k")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "PUT");
    for ask in [
        preflight,
        Ask::new("GET", "/v2/keys/"),
        Ask::new("OPTIONS", "/v2/keys/k"),
    ] {
        let answer = server.client.send(ask).await;
        let cors = answer
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with("access-control"));
        assert_eq!(cors.count(), 0);
    }
}

#[tokio::test]
async fn a_named_host_is_let_in() {
    let config = ListenerConfig {
        allow_hosts: vec!["api.example".to_owned()],
        ..ListenerConfig::default()
    };
    let server = TestServer::with(Arc::new(MemKv::new()), config).await;
    let ask = Ask::new("GET", "/v2/keys/").header("host", "api.example:4001");
    assert_eq!(server.client.send(ask).await.status, 200);
}

#[tokio::test]
async fn a_body_above_one_and_a_half_mebibytes_is_refused() {
    let (server, _) = TestServer::in_memory().await;
    let value = |size: usize| format!("value={}", "x".repeat(size - "value=".len()));
    let put = |size| {
        let (client, value) = (&server.client, value(size));
        async move { client.put("/v2/keys/large", &value).await }
    };
    let largest = 3 << 19;
    assert_eq!(put(largest).await.status, 201);
    assert_eq!(put(largest + 1).await.status, 413);
    // What a form encodes counts as what it stands for.
    let encoded = |octets: usize| format!("value={}", "%7B".repeat(octets - "value=".len()));
    let path = "/v2/keys/encoded";
    assert_eq!(server.client.put(path, &encoded(largest)).await.status, 201);
    assert_eq!(
        server.client.put(path, &encoded(largest + 1)).await.status,
        413
    );

    let before = server.client.get("/v2/keys/large").await.index();
    let answer = put(5_000_000).await;
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains("1.5 MiB"), "{}", answer.body);
    assert_eq!(server.client.get("/v2/keys/large").await.index(), before);
}

#[tokio::test]
async fn a_body_that_does_not_say_how_long_it_is_ends_there_too() {
    let (server, _) = TestServer::in_memory().await;
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .expect("a connection");
    let head = "PUT /v2/keys/large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..80 {
        // The listener may close before it has been sent all.
        if stream.write_all(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn curl_is_told_that_five_megabytes_are_too_much() {
    let (server, _) = TestServer::in_memory().await;
    let url = format!("http://{}/v2/keys/large", server.address);
    for expect in ["Expect: 100-continue", "Expect:"] {
        let mut curl = tokio::process::Command::new("curl")
            .args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-XPUT"])
            .args(["-H", expect, "--data-binary", "@-", &url])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("curl");
        let mut stdin = curl.stdin.take().expect("a pipe");
        stdin.write_all("x".repeat(5_000_000).as_bytes()).await.ok();
        drop(stdin);
        let output = curl.wait_with_output().await.expect("an end");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(String::from_utf8_lossy(&output.stdout), "413", "{error}");
    }
}

#[tokio::test]
async fn headers_have_an_end() {
    let (server, _) = TestServer::in_memory().await;
    let mut stream = tokio::net::TcpStream::connect(server.address)
        .await
        .expect("a connection");
    let head = "GET /v2/keys/ HTTP/1.1\r\nHost: localhost\r\nX-Long: ";
    stream.write_all(head.as_bytes()).await.expect("sent");
    // The listener may close before it has been sent all.
    stream.write_all(&vec![b'x'; 200_000]).await.ok();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn a_listener_that_closes_ends_its_waits_and_is_gone() {
    let (mut server, _) = TestServer::in_memory().await;
    let wait = server
        .client
        .begin(Ask::new("GET", "/v2/keys/k?wait=true"))
        .await;
    server.shutdown.cancel();
    assert_eq!(wait.end().await.body, "");
    tokio::time::timeout(Duration::from_secs(10), &mut server.served)
        .await
        .expect("the listener closes")
        .expect("in order");
    let gone = tokio::net::TcpStream::connect(server.address).await;
    assert!(gone.is_err());
}

/// A connection with a request on it.
async fn asking(server: &TestServer, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address)
        .await
        .expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream
}

fn few(all: usize) -> ListenerConfig {
    ListenerConfig {
        limits: listen::Limits {
            all,
            per_source: all,
        },
        waits: 6,
        ..ListenerConfig::default()
    }
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_out() {
    let server = TestServer::with(Arc::new(MemKv::new()), few(8)).await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(asking(&server, "GET /version HTTP/1.1\r\nHost: loc").await);
    }
    assert_eq!(server.client.get("/version").await.status, 200);
    // The first ones had to go.
    let mut end = Vec::new();
    idle[0].read_to_end(&mut end).await.ok();
    assert_eq!(end, b"");
}

#[tokio::test]
async fn waits_take_no_places_of_other_requests() {
    let server = TestServer::with(Arc::new(MemKv::new()), few(2)).await;
    let wait = || Ask::new("GET", "/v2/keys/k?wait=true");
    let mut waits = Vec::new();
    for _ in 0..6 {
        let wait = server.client.begin(wait()).await;
        assert_eq!(wait.status, 200);
        waits.push(wait);
    }
    let answer = server.client.send(wait()).await;
    assert_eq!(answer.status, 503);
    let error: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(error["errorCode"], 300);
    assert!(answer.body.contains("wait"), "{}", answer.body);
    assert_eq!(server.client.put("/v2/keys/k", "value=1").await.status, 201);
    for wait in waits {
        assert!(wait.end().await.body.contains("\"set\""));
    }
    assert_eq!(server.client.begin(wait()).await.status, 200);
}

#[tokio::test]
async fn answers_that_nobody_reads_have_a_budget() {
    let (server, _) = TestServer::in_memory().await;
    let value = format!("value={}", "x".repeat(1_000_000));
    for key in 0..24 {
        let answer = server
            .client
            .put(&format!("/v2/keys/large/{key}"), &value)
            .await;
        assert_eq!(answer.status, 201);
    }
    let list = "GET /v2/keys/large?recursive=true HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut unread = Vec::new();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let mut stream = asking(&server, list).await;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.expect("an answer");
        statuses.push(String::from_utf8_lossy(&head).into_owned());
        unread.push(stream);
    }
    let (ok, full) = ("HTTP/1.1 200", "HTTP/1.1 503");
    assert_eq!(statuses, [ok, ok, full, full]);
    // Small ones are answered all the same, and large ones when there is room again.
    assert_eq!(server.client.get("/version").await.status, 200);
    drop(unread);
    let answer = server.client.get("/v2/keys/large?recursive=true").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json()["node"]["nodes"].as_array().map(Vec::len),
        Some(24)
    );
}

#[tokio::test]
async fn an_answer_that_is_not_read_ends_its_connection_and_a_wait_does_not() {
    let (server, _) = TestServer::in_memory().await;
    let value = format!("value={}", "x".repeat(1_000_000));
    for key in 0..24 {
        let answer = server
            .client
            .put(&format!("/v2/keys/large/{key}"), &value)
            .await;
        assert_eq!(answer.status, 201);
    }
    let list = "GET /v2/keys/large?recursive=true HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut unread = asking(&server, list).await;
    let mut head = [0; 12];
    unread.read_exact(&mut head).await.expect("an answer");
    let wait = server
        .client
        .begin(Ask::new("GET", "/v2/keys/other?wait=true"))
        .await;
    // The clock jumps from timer to timer as soon as nothing else is to be done.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(45)).await;
    tokio::time::resume();
    let mut rest = Vec::new();
    let error = unread.read_to_end(&mut rest).await.map(|_| rest.len());
    assert!(
        error.as_ref().is_err() || error.as_ref().is_ok_and(|length| *length < 24_000_000),
        "{error:?}"
    );
    assert_eq!(
        server.client.put("/v2/keys/other", "value=1").await.status,
        201
    );
    assert!(wait.end().await.body.contains("\"set\""));
}

#[tokio::test]
async fn what_is_refused_is_said_in_the_shape_of_its_api() {
    let (server, _) = TestServer::in_memory().await;
    let refused = |path: &str| Ask::new("GET", path).header("origin", "https://evil.example");
    let v2 = server.client.send(refused("/v2/keys/k")).await;
    assert_eq!(
        (v2.status, v2.json()["errorCode"].as_i64()),
        (403, Some(110))
    );
    let v1 = server.client.send(refused("/dokkaa/v1/slots")).await;
    assert_eq!(v1.status, 403);
    assert!(
        v1.json()["error"]
            .as_str()
            .is_some_and(|text| text.contains("evil.example"))
    );
    let text = server.client.send(refused("/version")).await;
    assert_eq!(text.headers["content-type"], "text/plain; charset=utf-8");
    let large = format!("value={}", "x".repeat(5_000_000));
    let answer = server.client.put("/v2/keys/k", &large).await;
    assert_eq!(answer.status, 413);
    assert!(
        answer.json()["cause"]
            .as_str()
            .is_some_and(|text| text.contains("1.5 MiB"))
    );
}

#[tokio::test]
async fn two_clients_are_told_apart_from_strangers_only() {
    let (server, _) = TestServer::in_memory().await;
    let other = Client::new(server.address);
    assert_eq!(server.client.put("/v2/keys/a", "value=1").await.status, 201);
    assert_eq!(other.put("/v2/keys/a", "value=2").await.status, 200);
}
