//! The API as the listener serves it, over an agent in memory.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod check;
mod events;
mod hosts;
mod logs;
mod recovery;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use manifests::keys::{Key, V2_META};
use manifests::{ContainerId, HostName, SlotId};
use model::events::{Happened, Kind, Wanted};
use model::logs::OutputStream;
use model::observed::{
    ContainerState, Observed, ObservedContainer, Ownership, PublishedPorts, Running,
};
use model::records::{HostRecord, Phase, Progress};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::kv::{KeyRange, Op, Range, Txn};
use store::memory::MemKv;
use tower::ServiceExt;
use uuid::Uuid;

use super::memory::{MemAgent, instance};
use super::types::{
    CheckPort, CheckedPort, EventLine, HoldReport, HostsCheck, LogEvent, LogOptions, NameReport,
    Reach, Reasons, Tried, Unreadable,
};
use super::{AgentHandle, Api, EventStream, HostError, LogRecord, LogStream, Peers, router};
use crate::ndjson;

const LONG: Duration = Duration::from_secs(20);

/// Agents that answer for each other without a network.
#[derive(Default)]
struct Others {
    agents: BTreeMap<HostName, MemAgent>,
    /// Streams that break off after a line, so many times.
    breaks: AtomicUsize,
}

#[async_trait]
impl Peers for Others {
    async fn reasons(&self, host: &HostName) -> Result<Reasons, String> {
        let agent = self.agents.get(host).ok_or("connection refused")?;
        Ok(agent.reasons())
    }

    async fn hold(&self, host: &HostName) -> Result<HoldReport, String> {
        let agent = self.agents.get(host).ok_or("connection refused")?;
        super::hold::report(agent).await.map_err(|e| e.to_string())
    }

    async fn check_port(&self, host: &HostName) -> Result<Option<CheckPort>, (Reach, String)> {
        let agent = self.agents.get(host);
        let agent = agent.ok_or((Reach::Refused, "connection refused".to_owned()))?;
        Ok(Some(agent.check_port().await))
    }

    async fn check(&self, host: &HostName, hosts: &[HostName]) -> Result<Vec<Tried>, String> {
        let agent = self.agents.get(host).ok_or("connection refused")?;
        let api = Api {
            agent: Arc::new(agent.clone()),
            peers: Some(Arc::new(Self {
                agents: self.agents.clone(),
                ..Self::default()
            })),
        };
        Ok(api.try_hosts(hosts).await)
    }

    async fn volume_names(&self, host: &HostName) -> Result<BTreeSet<String>, HostError> {
        let agent = self
            .agents
            .get(host)
            .ok_or_else(|| HostError::Unreachable("connection refused".to_owned()))?;
        agent.volume_names().await
    }

    async fn remove_volume(
        &self,
        host: &HostName,
        slot: &SlotId,
        volume: &str,
    ) -> Result<(), HostError> {
        let agent = self
            .agents
            .get(host)
            .ok_or_else(|| HostError::Unreachable("connection refused".to_owned()))?;
        super::volumes::remove_here(agent, slot, volume).await
    }

    async fn logs(
        &self,
        host: &HostName,
        slot: &SlotId,
        options: &LogOptions,
    ) -> Result<LogStream, HostError> {
        let agent = self
            .agents
            .get(host)
            .ok_or_else(|| HostError::Unreachable("connection refused".to_owned()))?;
        let lines = agent.local_logs(slot, options).await?;
        let lost = HostError::Unreachable("connection lost".to_owned());
        Ok(self.may_break(lines, lost))
    }

    async fn events(&self, host: &HostName, wanted: &Wanted) -> Result<EventStream, String> {
        let agent = self.agents.get(host).ok_or("connection refused")?;
        Ok(self.may_break(agent.events(wanted.clone()), "connection lost".to_owned()))
    }
}

type Lines<T, E> = std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<T, E>> + Send>>;

impl Others {
    fn may_break<T: Send + 'static, E: Send + 'static>(
        &self,
        lines: Lines<T, E>,
        lost: E,
    ) -> Lines<T, E> {
        use futures_util::StreamExt;
        let broken = self
            .breaks
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok();
        if !broken {
            return lines;
        }
        let end = futures_util::stream::once(std::future::ready(Err(lost)));
        Box::pin(lines.take(1).chain(end))
    }
}

struct TestApi {
    agent: MemAgent,
    router: Router,
}

/// The API of `h1`; of the `others` only those answer that are named.
fn api(others: &[&MemAgent], kv: &MemKv, breaks: usize) -> TestApi {
    let agent = MemAgent::new("h1", kv.clone());
    let peers = Others {
        agents: others
            .iter()
            .map(|agent| (agent.host(), (*agent).clone()))
            .collect(),
        breaks: breaks.into(),
    };
    let router = router(Api {
        agent: Arc::new(agent.clone()),
        peers: Some(Arc::new(peers)),
    });
    TestApi { agent, router }
}

fn alone() -> TestApi {
    api(&[], &MemKv::new(), 0)
}

impl TestApi {
    async fn ask(&self, request: Request<Body>) -> Response<Body> {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        self.send_if(method, path, body, None).await
    }

    async fn send_if(
        &self,
        method: &str,
        path: &str,
        body: &str,
        header: Option<(&str, &str)>,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        let response = self.ask(request).await;
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send("GET", path, "").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    /// The lines and notices of a stream that ends.
    async fn lines(&self, path: &str) -> Vec<String> {
        let mut stream = self.stream(path).await;
        let mut lines = Vec::new();
        while let Some(line) = stream.next().await {
            lines.push(line);
        }
        lines
    }

    async fn stream(&self, path: &str) -> Stream<LogEvent> {
        self.stream_of(path).await
    }

    async fn stream_of<T: DeserializeOwned>(&self, path: &str) -> Stream<T> {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.ask(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        Stream {
            body: response.into_body(),
            reader: ndjson::Reader::default(),
            read: Vec::new().into_iter(),
        }
    }
}

struct Stream<T> {
    body: Body,
    reader: ndjson::Reader<T>,
    read: std::vec::IntoIter<T>,
}

impl Stream<LogEvent> {
    async fn next(&mut self) -> Option<String> {
        self.next_line(|event| match event {
            LogEvent::Line(line) => format!("{}/{} {}", line.host, line.slot, line.line),
            LogEvent::Notice(notice) => format!("({notice})"),
        })
        .await
    }
}

impl<T: DeserializeOwned> Stream<T> {
    async fn next_line(&mut self, text: impl Fn(T) -> String) -> Option<String> {
        tokio::time::timeout(LONG, async {
            loop {
                if let Some(line) = self.read.next() {
                    return Some(text(line));
                }
                let data = self.body.frame().await?.unwrap().into_data().unwrap();
                self.read = self.reader.push(&data).unwrap().into_iter();
            }
        })
        .await
        .expect("a line in time")
    }
}

fn web() -> ContainerId {
    "shop/web".parse().unwrap()
}

fn record(millis: i64, line: &str) -> LogRecord {
    LogRecord {
        time: jiff::Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap(),
        source: OutputStream::Stdout,
        line: line.to_owned(),
    }
}

/// Two slots, 0 on h1 and 1 on h2.
fn two_slots(agent: &MemAgent) -> i64 {
    agent.put_host("h1", None);
    agent.put_host("h2", None);
    let revision = agent.put_manifest(&web(), r#"{"image": "a", "scale": 2}"#);
    agent.claim(&web().slot(0), "h1", revision);
    agent.claim(&web().slot(1), "h2", revision);
    revision
}

fn db() -> ContainerId {
    "shop/db".parse().unwrap()
}

const DB: &str = r#"{"image": "a", "scale": 1, "volumes": ["data:/data"]}"#;

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}
const ID: Uuid = Uuid::from_u128(7);

/// A running container of the instance that `MemAgent::claim` gives the slot on that host.
fn running(slot: &SlotId, on: &str) -> ObservedContainer {
    ObservedContainer {
        docker_id: format!("{slot}-{on}"),
        name: slot.docker_name(),
        owner: Ownership {
            before: None,
            cluster: ID,
            slot: slot.clone(),
            instance: instance(slot, on),
            manifest_hash: String::new(),
            host_hash: String::new(),
        },
        state: ContainerState::Running(Running {
            pid: 1,
            started_at: 0,
            health: None,
        }),
        addr: None,
        ports: PublishedPorts::new(),
        limits: model::observed::Limits::default(),
        check: None,
        image: String::new(),
        image_id: String::new(),
        driver: String::new(),
        created_at: 0,
    }
}
/// The keys of an etcd in memory, and their values.
fn keys(kv: &MemKv) -> BTreeMap<String, String> {
    let range = Range::new(KeyRange::prefix("/"));
    let reply = kv.with(|etcd| etcd.range(&range)).unwrap();
    reply
        .kvs
        .into_iter()
        .map(|kv| (kv.key, String::from_utf8(kv.value).unwrap()))
        .collect()
}

fn change_record(agent: &MemAgent, name: &str, change: impl FnOnce(&mut HostRecord)) {
    let seen = agent.view().unwrap();
    let mut record = seen.snapshot.record(&host(name)).unwrap().value.clone();
    change(&mut record);
    let value = serde_json::to_vec(&record).unwrap();
    agent.put(&Key::HostRecord(host(name)), &value);
}

#[tokio::test]
async fn before_the_first_view_it_says_so() {
    let api = alone();
    api.agent.set_blind(true);
    for path in [
        "/slots",
        "/hosts",
        "/status",
        "/why/shop/web",
        "/dns/shop",
        "/logs/shop/web",
    ] {
        let (status, body) = api.send("GET", path, "").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(
            body["error"].as_str().unwrap().contains("not read etcd"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn slots_join_the_snapshot_and_the_status_keys() {
    let api = alone();
    let revision = two_slots(&api.agent);
    let slot = web().slot(0);
    api.agent
        .put_state(&slot, "h1", Phase::Ready, &[("web", 20_000)]);
    api.agent.put_status(&web().slot(1), "h2", |status| {
        status.progress = Progress::Pulling;
        status.reason = Some("3 of 9 layers".to_owned());
    });
    let body = api.get("/slots?app=shop&container=web").await;
    assert_eq!(body["slots"][0]["status"], "ready");
    assert_eq!(body["slots"][0]["ports"][0]["port"], 20_000);
    assert_eq!(body["slots"][1]["status"], "pulling");
    assert_eq!(body["slots"][1]["reason"], "3 of 9 layers");
    assert_eq!(body["containers"][0]["revision"], revision);
    assert_eq!(api.get("/slots?app=other").await["slots"], json!([]));
    let (status, _) = api.send("GET", "/slots?container=web", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn without_etcd_the_last_view_is_shown_and_said_to_be_old() {
    let api = alone();
    two_slots(&api.agent);
    api.agent.mem_kv().set_unavailable(true);
    let body = api.get("/slots").await;
    assert_eq!(body["slots"].as_array().unwrap().len(), 2);
    assert!(
        body["notices"][0]
            .as_str()
            .unwrap()
            .contains("could not be read")
    );
    api.agent.set_stale(true);
    assert_eq!(api.get("/slots").await["stale"], true);
    let status = api.get("/status").await;
    assert_eq!(status["etcd"], false);
    assert!(
        status["problems"][0]
            .as_str()
            .unwrap()
            .contains("etcd does not answer")
    );
    let (code, body) = api
        .send("PUT", "/manifests/shop/new", r#"{"image": "a"}"#)
        .await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    // Nothing was sent that could have been written.
    let error = body["error"].as_str().unwrap();
    assert!(!error.contains("is not known"), "{error}");
    let (code, body) = api.send("DELETE", "/manifests/shop/web", "").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["error"].as_str().unwrap().contains("is not known"));
}

#[tokio::test]
async fn a_hold_is_not_a_silent_etcd_and_lists_say_how_old_they_are() {
    let api = alone();
    two_slots(&api.agent);
    api.agent.set_stale(true);
    api.agent.set_hold(Some("/dokkaa/cluster is missing"));
    let known_at = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(3);
    api.agent.set_known_at(Some(known_at));
    let status = api.get("/status").await;
    assert_eq!(status["etcd"], true);
    let problems = status["problems"].to_string();
    assert!(problems.contains("is in hold: /dokkaa/cluster is missing"));
    assert!(!problems.contains("does not answer"), "{problems}");
    for list in ["/slots", "/hosts"] {
        let body = api.get(list).await;
        assert_eq!(body["known_at"], known_at.to_string());
        let notice = body["notices"][0].as_str().unwrap();
        assert!(notice.contains("from 3 min ago"), "{notice}");
        assert!(notice.contains("/dokkaa/cluster is missing"), "{notice}");
    }
    api.agent.mem_kv().set_unavailable(true);
    assert_eq!(api.get("/status").await["etcd"], false);
}

#[tokio::test]
async fn what_keeps_the_agent_from_its_work_is_said_everywhere() {
    let api = alone();
    two_slots(&api.agent);
    let trouble = "another machine (10.0.0.1) runs under this host's name";
    api.agent.set_problems(&[trouble]);
    assert_eq!(api.get("/status").await["problems"][0], trouble);
    for list in ["/slots", "/hosts", "/why/shop/web"] {
        assert_eq!(api.get(list).await["notices"][0], trouble, "{list}");
    }
}

#[tokio::test]
async fn more_status_keys_than_one_page_are_read() {
    let api = alone();
    api.agent.put_host("h1", None);
    let revision = api
        .agent
        .put_manifest(&web(), r#"{"image": "a", "scale": 1000}"#);
    let other: ContainerId = "shop/worker".parse().unwrap();
    for number in 0..1000 {
        api.agent.claim(&web().slot(number), "h1", revision);
        api.agent
            .put_status(&web().slot(number), "h1", |s| s.restarts = 7);
    }
    api.agent.put_manifest(&other, r#"{"image": "a"}"#);
    api.agent.claim(&other.slot(0), "h1", revision);
    api.agent
        .put_status(&other.slot(0), "h1", |s| s.restarts = 8);
    let body = api.get("/slots").await;
    let slots = body["slots"].as_array().unwrap();
    assert_eq!(slots.len(), 1001);
    assert!(slots[..1000].iter().all(|row| row["restarts"] == 7));
    assert_eq!(slots[1000]["restarts"], 8);
}

#[tokio::test]
async fn what_is_not_there_is_json_too() {
    let api = alone();
    let (status, body) = api.send("GET", "/nothing", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body["error"].is_string());
    let (status, body) = api.send("POST", "/manifests/shop/web", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body["error"].is_string());
}

#[tokio::test]
async fn why_asks_every_host_and_a_silent_one_is_a_notice() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    two_slots(&api.agent);
    api.agent.put_host("h3", None);
    h2.set_reasons(Reasons {
        waiting: BTreeMap::from([(web().slot(1), "the image is 2 GB".to_owned())]),
        links: Vec::new(),
    });
    let why = api.get("/why/shop/web").await;
    assert_eq!(why["slots"][1]["row"]["reason"], "the image is 2 GB");
    assert_eq!(
        why["notices"],
        json!(["host h3 does not answer: connection refused"])
    );
    let (status, _) = api.send("GET", "/why/shop/none", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_name_in_dns_is_explained() {
    let api = alone();
    api.agent.set_name(NameReport {
        name: "*.shop".to_owned(),
        meaning: "everything of it".to_owned(),
        ..NameReport::default()
    });
    api.agent.set_stale(true);
    let name = api.get("/dns/*.shop").await;
    assert_eq!(name["meaning"], "everything of it");
    assert_eq!(name["stale"], true);
    let (status, body) = api.send("GET", "/dns/no-name", "").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error"], "`no-name` is not a domain name");
}

#[tokio::test]
async fn what_is_no_record_in_dns_is_a_problem_of_the_cluster() {
    let api = alone();
    api.agent.put_host("h1", None);
    assert_eq!(api.get("/dns").await["unreadable"], json!(null));
    let wrong = |n| (format!("/skydns/local/{n:02}"), "it is wrong".to_owned());
    let unreadable = |count| (0..count).map(wrong).collect::<Unreadable>();
    api.agent.set_unreadable(unreadable(3));
    let said = |n| format!("the record at /skydns/local/{n:02} is not in DNS: it is wrong");
    let problems = api.get("/status").await["problems"].clone();
    assert_eq!(problems, json!([said(0), said(1), said(2)]));
    api.agent.set_unreadable(unreadable(30));
    let problems = api.get("/status").await["problems"].clone();
    assert_eq!(problems.as_array().map(Vec::len), Some(4));
    assert_eq!(problems[2], said(2));
    let more =
        "27 more under /skydns can't be read either; `dokkaa dns NAME` shows those of a name";
    assert_eq!(problems[3], more);
    let listed = api.get("/dns").await["unreadable"].clone();
    assert_eq!(listed["count"], 30);
    assert_eq!(listed["first"].as_array().map(Vec::len), Some(20));
    assert_eq!(
        listed["first"][19],
        json!({"key": "/skydns/local/19", "error": "it is wrong"})
    );
}
