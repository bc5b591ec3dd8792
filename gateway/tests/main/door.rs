//! Strangers, and requests that cost too much.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use gateway::door::DoorConfig;
use store::memory::MemKv;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::client::{Ask, Client};
use crate::house::House;

#[tokio::test]
async fn a_web_page_cannot_write() {
    let (house, _) = House::in_memory().await;
    let put = || Ask::new("PUT", "/v2/keys/k").form("value=evil");
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let answer = house.client.send(put().header(name, value)).await;
        assert_eq!(answer.status, 403, "{name}: {value}");
    }
    for host in ["evil.example:4001", "evil.example"] {
        let answer = house.client.send(put().header("host", host)).await;
        assert_eq!(answer.status, 421, "{host}");
        assert!(answer.body.contains("--allow-host"), "{}", answer.body);
    }
    assert_eq!(house.client.get("/v2/keys/k").await.status, 404);

    let own = format!("http://{}", house.address);
    let answer = house.client.send(put().header("origin", &own)).await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn no_answer_lets_other_pages_read_it() {
    let (house, _) = House::in_memory().await;
    let preflight = Ask::new("OPTIONS", "/v2/keys/k")
        .header("origin", "https://evil.example")
        .header("access-control-request-method", "PUT");
    for ask in [
        preflight,
        Ask::new("GET", "/v2/keys/"),
        Ask::new("OPTIONS", "/v2/keys/k"),
    ] {
        let answer = house.client.send(ask).await;
        let cors = answer
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with("access-control"));
        assert_eq!(cors.count(), 0);
    }
}

#[tokio::test]
async fn a_named_host_is_let_in() {
    let config = DoorConfig {
        allow_hosts: vec!["door.example".to_owned()],
    };
    let house = House::with(Arc::new(MemKv::new()), config).await;
    let ask = Ask::new("GET", "/v2/keys/").header("host", "door.example:4001");
    assert_eq!(house.client.send(ask).await.status, 200);
}

#[tokio::test]
async fn a_body_above_one_mebibyte_is_refused() {
    let (house, _) = House::in_memory().await;
    let value = |size: usize| format!("value={}", "x".repeat(size - "value=".len()));
    let put = |size| {
        let (client, value) = (&house.client, value(size));
        async move { client.put("/v2/keys/large", &value).await }
    };
    assert_eq!(put(1 << 20).await.status, 201);
    assert_eq!(put((1 << 20) + 1).await.status, 413);

    let before = house.client.get("/v2/keys/large").await.index();
    let answer = put(5_000_000).await;
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains("1 MiB"), "{}", answer.body);
    assert_eq!(house.client.get("/v2/keys/large").await.index(), before);
}

#[tokio::test]
async fn a_body_that_does_not_say_how_long_it_is_ends_there_too() {
    let (house, _) = House::in_memory().await;
    let mut stream = tokio::net::TcpStream::connect(house.address)
        .await
        .expect("a connection");
    let head = "PUT /v2/keys/large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..80 {
        // The door may close before it has been sent all.
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
    let (house, _) = House::in_memory().await;
    let url = format!("http://{}/v2/keys/large", house.address);
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
    let (house, _) = House::in_memory().await;
    let mut stream = tokio::net::TcpStream::connect(house.address)
        .await
        .expect("a connection");
    let head = "GET /v2/keys/ HTTP/1.1\r\nHost: localhost\r\nX-Long: ";
    stream.write_all(head.as_bytes()).await.expect("sent");
    // The door may close before it has been sent all.
    stream.write_all(&vec![b'x'; 200_000]).await.ok();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 431");
}

#[tokio::test]
async fn a_door_that_closes_ends_its_waits_and_is_gone() {
    let (mut house, _) = House::in_memory().await;
    let wait = house
        .client
        .begin(Ask::new("GET", "/v2/keys/k?wait=true"))
        .await;
    house.shutdown.cancel();
    assert_eq!(wait.end().await.body, "");
    tokio::time::timeout(Duration::from_secs(10), &mut house.served)
        .await
        .expect("the door closes")
        .expect("in order");
    let gone = tokio::net::TcpStream::connect(house.address).await;
    assert!(gone.is_err());
}

#[tokio::test]
async fn two_clients_are_told_apart_from_strangers_only() {
    let (house, _) = House::in_memory().await;
    let other = Client::new(house.address);
    assert_eq!(house.client.put("/v2/keys/a", "value=1").await.status, 201);
    assert_eq!(other.put("/v2/keys/a", "value=2").await.status, 200);
}
