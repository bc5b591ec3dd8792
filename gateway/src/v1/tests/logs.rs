//! Logs of several hosts.

use super::*;

#[tokio::test]
async fn logs_of_several_hosts_come_in_order_of_time() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    two_slots(&api.agent);
    api.agent.log(
        &web().slot(0),
        (0..200).map(|n| record(n * 10, &n.to_string())),
    );
    h2.log(
        &web().slot(1),
        (0..200).map(|n| record(n * 10 + 5, &n.to_string())),
    );
    let lines = api.lines("/logs/shop/web").await;
    let expected: Vec<String> = (0..200)
        .flat_map(|n| [format!("h1/0 {n}"), format!("h2/1 {n}")])
        .collect();
    assert_eq!(lines, expected);
    assert_eq!(api.lines("/logs/shop/web/1?tail=1").await, ["h2/1 199"]);
    let since = record(1980, "").time;
    let lines = api.lines(&format!("/logs/shop/web?since={since}")).await;
    assert_eq!(
        lines,
        ["h2/1 198", "h1/0 199", "h2/1 199"],
        "the time itself is excluded"
    );
}

#[tokio::test]
async fn a_host_that_is_not_reached_is_a_line_and_not_an_error() {
    let api = alone();
    let revision = two_slots(&api.agent);
    api.agent
        .put_manifest(&web(), r#"{"image": "a", "scale": 5}"#);
    // h2 has two slots and does not answer; h3 is not live; nobody has slot 4.
    api.agent.claim(&web().slot(2), "h2", revision);
    api.agent.claim(&web().slot(3), "h3", revision);
    api.agent.log(&web().slot(0), [record(0, "here")]);
    let mut lines = api.lines("/logs/shop/web").await;
    lines.sort();
    assert_eq!(
        lines,
        [
            "(host h2 unreachable: connection refused)",
            "(host h3 unreachable: it is missing)",
            "(shop/web/4: no host has claimed it yet)",
            "h1/0 here",
        ]
    );
    let (status, _) = api.send("GET", "/logs/shop/web/9", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, body) = api.send("GET", "/logs/shop/web?since=yesterday", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["error"].as_str().unwrap().contains("10m"));
}

#[tokio::test]
async fn followed_lines_go_on_after_a_lost_connection_without_one_twice() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 2);
    two_slots(&api.agent);
    h2.log(&web().slot(1), (0..4).map(|n| record(n, &n.to_string())));
    let mut stream = api.stream("/logs/shop/web/1?follow=true").await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let line = stream.next().await.unwrap();
        if !line.starts_with('(') {
            seen.push(line);
        }
    }
    assert_eq!(seen, ["h2/1 0", "h2/1 1", "h2/1 2", "h2/1 3"]);
    h2.log(&web().slot(1), [record(9, "new")]);
    assert_eq!(stream.next().await.unwrap(), "h2/1 new");
}

#[tokio::test]
async fn following_goes_with_a_slot_to_its_next_host_and_ends_with_it() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    let revision = two_slots(&api.agent);
    let slot = web().slot(0);
    api.agent.log(&slot, [record(50, "on h1")]);
    let mut stream = api.stream("/logs/shop/web/0?follow=true").await;
    assert_eq!(stream.next().await.unwrap(), "h1/0 on h1");
    // Its new host's clock is behind: all that the new instance wrote is new.
    h2.log(&slot, [record(10, "on h2")]);
    api.agent.claim(&slot, "h2", revision);
    api.agent.end_log(&slot);
    assert_eq!(stream.next().await.unwrap(), "h2/0 on h2");
    api.agent.delete(&Key::Manifest(web()));
    api.agent.delete(&Key::Claim(slot.clone()));
    h2.end_log(&slot);
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn the_previous_instance_is_found_on_whichever_host_keeps_it() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    two_slots(&api.agent);
    let slot = web().slot(0);
    h2.log(&slot, [record(0, "last words")]);
    h2.end_log(&slot);
    assert_eq!(
        api.lines("/logs/shop/web/0?previous=true").await,
        ["h2/0 last words"]
    );
    assert_eq!(
        api.lines("/logs/shop/web/1?previous=true").await,
        ["(shop/web/1: no ended instance is kept)"]
    );
}

#[tokio::test]
async fn it_is_said_that_an_older_version_is_read() {
    let api = alone();
    let slot = web().slot(0);
    two_slots(&api.agent);
    api.agent.log(&slot, [record(0, "serving")]);
    let new = api
        .agent
        .put_manifest(&web(), r#"{"image": "a", "command": ["b"], "scale": 2}"#);
    assert_eq!(api.lines("/logs/shop/web/0").await, ["h1/0 serving"]);
    let failed =
        json!({"version": new, "failures": [0], "slot": 0, "reason": "exited with code 3"});
    api.agent
        .put(&Key::Rollout(web()), failed.to_string().as_bytes());
    let lines = api.lines("/logs/shop/web/0").await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    let says = format!("version {new} failed (exited with code 3): --previous shows");
    assert!(lines.iter().any(|line| line.contains(&says)), "{lines:?}");
    let lines = api.lines("/logs/shop/web/0?previous=true").await;
    assert!(
        !lines.iter().any(|line| line.contains("--previous")),
        "{lines:?}"
    );
}

#[tokio::test]
async fn raw_lines_are_for_people() {
    let api = alone();
    two_slots(&api.agent);
    api.agent.log(&web().slot(0), [record(0, "hello")]);
    let request = Request::get("/logs/shop/web/0?format=raw&timestamps=true")
        .body(Body::empty())
        .unwrap();
    let body = api.ask(request).await.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "2023-11-14T22:13:20Z h1/0 | hello\n");
}
