//! Events of several hosts.

use super::*;

fn ready(slot: u32) -> Happened {
    Happened::of_slot(&web().slot(slot), Kind::Ready, "")
}

impl TestApi {
    async fn events(&self, path: &str) -> Vec<String> {
        let mut events = self.follow_events(path).await;
        let mut lines = Vec::new();
        while let Some(line) = events.next_line(event_text).await {
            lines.push(line);
        }
        lines
    }

    async fn follow_events(&self, path: &str) -> Stream<EventLine> {
        self.stream_of(&format!("/events?{path}")).await
    }
}

fn event_text(line: EventLine) -> String {
    match line {
        EventLine::Event(event) => {
            format!(
                "{} {} {}",
                event.host,
                event.what.subject(),
                event.what.kind
            )
        }
        EventLine::Notice(notice) => format!("({notice})"),
    }
}

#[tokio::test]
async fn events_of_all_hosts_come_in_order_of_time() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    two_slots(&api.agent);
    for at in 0..50 {
        api.agent.happens(2 * at + 1, ready(0));
        h2.happens(2 * at + 2, ready(1));
    }
    h2.happens(200, Happened::here(Kind::EngineBack, ""));
    let lines = api.events("app=shop").await;
    let expected: Vec<&str> = ["h1 shop/web/0 ready", "h2 shop/web/1 ready"].repeat(50);
    assert_eq!(lines, expected);
    let since = jiff::Timestamp::from_millisecond(99).unwrap();
    let lines = api.events(&format!("since={since}")).await;
    let last = [
        "h1 shop/web/0 ready",
        "h2 shop/web/1 ready",
        "h2  engine-back",
    ];
    assert_eq!(lines, last, "the time itself included");
    assert_eq!(api.events("local=true").await.len(), 50);
    assert!(api.events("app=shop&container=db").await.is_empty());
    let (status, body) = api.send("GET", "/events?since=yesterday", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
    let (status, body) = api.send("GET", "/events?container=web", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
}

#[tokio::test]
async fn a_host_that_tells_no_events_is_a_line_and_not_an_error() {
    let api = alone();
    two_slots(&api.agent);
    let member = json!({"id": "00000000-0000-0000-0000-000000000003"});
    let h3 = Key::Member("h3".parse().unwrap());
    api.agent.put(&h3, member.to_string().as_bytes());
    api.agent.happens(1, ready(0));
    let mut lines = api.events("").await;
    lines.sort();
    let expected = [
        "(host h2 unreachable: connection refused)",
        "(host h3 unreachable: it is missing)",
        "h1 shop/web/0 ready",
    ];
    assert_eq!(lines, expected);
    // Before the first view its own are known all the same.
    api.agent.set_blind(true);
    assert_eq!(api.events("").await, ["h1 shop/web/0 ready"]);
}

#[tokio::test]
async fn followed_events_go_on_after_a_lost_connection_without_one_twice() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 2);
    two_slots(&api.agent);
    for at in 1..=4 {
        h2.happens(at, ready(at as u32));
    }
    let mut events = api.follow_events("follow=true").await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let line = events.next_line(event_text).await.unwrap();
        if !line.starts_with('(') {
            seen.push(line);
        }
    }
    let expected: Vec<_> = (1..=4).map(|n| format!("h2 shop/web/{n} ready")).collect();
    assert_eq!(seen, expected);
    h2.happens(9, ready(9));
    let next = events.next_line(event_text).await;
    assert_eq!(next.as_deref(), Some("h2 shop/web/9 ready"));
}
