//! The API as the listener serves it, over an agent in memory.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod operator;

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
use model::records::{Phase, Progress};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::kv::{Op, Txn};
use store::memory::MemKv;
use tower::ServiceExt;

use super::memory::MemAgent;
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

#[tokio::test]
async fn a_manifest_that_ends_by_itself_says_when() {
    let api = alone();
    let key = Key::Manifest(web());
    let side = format!("{V2_META}{key}");
    let expires = "2026-01-02T03:04:05Z";
    let ops = vec![
        Op::put(&key, r#"{"image": "a"}"#),
        Op::put_json(&side, &json!({ "expires": expires })),
    ];
    api.agent
        .mem_kv()
        .with(|etcd| etcd.txn(&Txn::new(Vec::new(), ops)))
        .unwrap();
    let slots = async || api.get("/slots?app=shop").await["containers"][0].clone();
    assert_eq!(slots().await["expires"], expires);
    let apps = api.get("/apps").await;
    assert_eq!(apps["apps"][0]["containers"][0]["expires"], expires);
    let why = api.get("/why/shop/web").await;
    assert_eq!(why["container"]["expires"], expires);
    // Written by whoever gives it no TTL, it stays.
    api.agent.put_manifest(&web(), r#"{"image": "b"}"#);
    assert_eq!(slots().await["expires"], Value::Null);
}

#[tokio::test]
async fn versions_are_read_from_etcd_newest_first() {
    let api = alone();
    let first = two_slots(&api.agent);
    // The view of an agent in hold is old; this is not asked of it.
    api.agent.set_blind(true);
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["revision"], first);
    assert_eq!(body["wanted"], first);
    assert_eq!(body["versions"][0]["slots"], json!([0, 1]));
    // A scale makes no version.
    let (_, scaled) = api
        .send(
            "PUT",
            "/manifests/shop/web",
            r#"{"image": "a", "scale": 3}"#,
        )
        .await;
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["revision"], scaled["revision"]);
    assert_eq!(body["wanted"], first);
    assert_eq!(body["manifest"]["scale"], 3);
    assert_eq!(body["versions"].as_array().unwrap().len(), 1);
    // The newest, which nobody has decided the image of yet.
    let (_, put) = api
        .send("PUT", "/manifests/shop/web", r#"{"image": "b"}"#)
        .await;
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["wanted"], put["revision"]);
    assert_eq!(body["versions"][0]["version"], put["revision"]);
    assert_eq!(body["versions"][0]["digest"], Value::Null);
    assert_eq!(body["versions"][1]["slots"], json!([0, 1]));
    // One that means what they run.
    api.agent
        .put_manifest(&web(), r#"{"image": "a", "scale": 2}"#);
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["versions"][0]["slots"], json!([0, 1]));
    assert_eq!(body["versions"][1].get("slots"), None);
    // Another one, and back before any slot ran it: nobody has to decide anything.
    api.agent.put_manifest(&web(), r#"{"image": "b"}"#);
    let back = r#"{"image": "a", "scale": 2}"#;
    let (_, back) = api.send("PUT", "/manifests/shop/web", back).await;
    let body = api.get("/versions/shop/web").await;
    assert_eq!(body["versions"][0]["version"], back["revision"]);
    assert_eq!(body["versions"][0]["digest"], "sha256:1");
    assert_eq!(body["versions"][0]["slots"], json!([0, 1]));
    // What can't be read wants nothing.
    api.agent.put(&Key::Manifest(web()), b"{");
    let body = api.get("/versions/shop/web").await;
    assert_eq!(
        (&body["wanted"], &body["manifest"]),
        (&Value::Null, &Value::Null)
    );
    let (status, _) = api.send("GET", "/versions/shop/none", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    api.agent.delete(&Key::Manifest(web()));
    let (status, _) = api.send("GET", "/versions/shop/web", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_update_is_paused_and_resumed_as_it_is_in_etcd() {
    let api = alone();
    two_slots(&api.agent);
    let put = async |body: &str| api.send("PUT", "/rollout/shop/web", body).await;
    let (status, body) = put(r#"{"paused": true}"#).await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    assert!(body["error"].as_str().unwrap().contains("nothing to pause"));
    let newer = br#"{"image": "b", "scale": 2}"#;
    let new = api.agent.put(&Key::Manifest(web()), newer);
    let (status, body) = put(r#"{"paused": true}"#).await;
    assert_eq!(
        (status, body),
        (
            StatusCode::OK,
            json!({"version": new, "halted": false, "paused": true, "slot": 0})
        )
    );
    let row = api.get("/slots?app=shop&container=web").await;
    assert_eq!(row["containers"][0]["update"]["paused"], true);
    assert_eq!(row["containers"][0]["version"], new);
    let reason = row["slots"][0]["reason"].as_str().unwrap();
    assert!(!reason.contains("its turn"), "{reason}");
    // The image is decided; a change of the scale is none of the version.
    let version = json!({"manifest": {"image": "b", "scale": 2}, "image": "sha256:2"});
    let key = Key::Version(web(), new);
    api.agent.put(&key, version.to_string().as_bytes());
    let scaled = br#"{"image": "b", "scale": 1}"#;
    api.agent.put(&Key::Manifest(web()), scaled);
    let (status, _) = put(r#"{"paused": true}"#).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, _) = put(r#"{"paused": false}"#).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = put(r#"{"paused": false}"#).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let key = Key::Rollout(web());
    let left = api.agent.view().unwrap().snapshot;
    assert_eq!(left.containers.get(&web()).unwrap().rollout, None);

    // What failed is forgotten; what is being updated is not, and what nobody wants is not shown.
    let mark = json!({
        "version": new, "failed": true, "failures": [1], "updating": [0, 7], "reason": "exit code 1",
    });
    api.agent.put(&key, mark.to_string().as_bytes());
    let row = api.get("/slots").await;
    assert_eq!(row["containers"][0]["update"]["updating"], json!([0]));
    assert_eq!(row["containers"][0]["update"]["halted"], true);
    let (status, body) = put(r#"{"paused": false}"#).await;
    assert_eq!((status, &body["updating"]), (StatusCode::OK, &json!([0])));
    assert_eq!(
        (&body["halted"], body.get("failures")),
        (&json!(false), None)
    );
    let (status, _) = api
        .send("PUT", "/rollout/shop/none", r#"{"paused": true}"#)
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, _) = put("{}").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn one_slot_is_restarted() {
    let api = alone();
    two_slots(&api.agent);
    let mark = || {
        let view = api.agent.view().unwrap().snapshot;
        let rollout = view.containers.get(&web()).unwrap().rollout.clone();
        rollout.map(|rollout| rollout.value.restart)
    };
    let (status, body) = api.send("PUT", "/restart/shop/web/2", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    let error = body["error"].as_str().unwrap();
    assert_eq!(error, "shop/web has no slot 2; it has 0, 1");
    let (status, _) = api.send("PUT", "/restart/shop/none/0", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(mark(), None);

    let (status, body) = api.send("PUT", "/restart/shop/web/0", "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let goes = body["instance"].as_str().unwrap();
    let restart = mark().unwrap();
    assert_eq!((restart.len(), restart[&0].as_str()), (1, goes));
    let rows = api.get("/slots?app=shop&container=web").await;
    assert_eq!(rows["containers"][0]["update"]["restart"], json!([0]));
    assert_eq!(rows["slots"][0]["outdated"], true);
    assert_ne!(rows["slots"][1]["outdated"], true);

    // What an update replaces needs none.
    api.agent
        .put(&Key::Manifest(web()), br#"{"image": "b", "scale": 2}"#);
    let (status, body) = api.send("PUT", "/restart/shop/web/0", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .contains("replaces shop/web/0")
    );
    api.agent.put(
        &Key::Manifest(web()),
        br#"{"image": "b", "scale": 2, "stopped": true}"#,
    );
    let (status, body) = api.send("PUT", "/restart/shop/web/0", "").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(body["error"].as_str().unwrap().contains("is stopped"));
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

#[tokio::test(start_paused = true)]
async fn a_manifest_whose_answer_is_lost_is_written_and_deleted_once() {
    let api = alone();
    let kv = api.agent.mem_kv();
    let put = |text: &'static str| api.send("PUT", "/manifests/shop/web", text);
    kv.lose_next_answer();
    let (code, created) = put(r#"{"image": "a"}"#).await;
    assert_eq!(
        (code, &created["created"]),
        (StatusCode::CREATED, &json!(true))
    );
    kv.lose_next_answer();
    let (code, changed) = put(r#"{"image": "b"}"#).await;
    assert_eq!((code, &changed["created"]), (StatusCode::OK, &json!(false)));
    let manifest = api.get("/manifests/shop/web").await;
    assert_eq!(manifest["revision"], changed["revision"]);
    let revision = kv.with(|etcd| etcd.revision());
    assert_eq!(changed["revision"], revision);
    assert_eq!(created["revision"], revision - 1);
    kv.lose_next_answer();
    let (code, removed) = api.send("DELETE", "/manifests/shop/web", "").await;
    assert_eq!(
        (code, &removed["containers"]),
        (
            StatusCode::OK,
            &json!([{"app": "shop", "container": "web"}])
        )
    );
    assert_eq!(kv.with(|etcd| etcd.revision()), revision + 1);
    let (code, _) = api.send("DELETE", "/manifests/shop/web", "").await;
    assert_eq!(code, StatusCode::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_others_have_made_anew_stays_where_an_answer_was_lost() {
    let api = alone();
    let kv = api.agent.mem_kv();
    let put = |text: &'static str| api.send("PUT", "/manifests/shop/web", text);
    let (code, created) = put(r#"{"image": "a"}"#).await;
    assert_eq!(code, StatusCode::CREATED);
    kv.lose_next_answer();
    let others = async {
        // The next try waits a little.
        while kv.with(|etcd| json!(etcd.revision())) == created["revision"] {
            tokio::task::yield_now().await;
        }
        for (method, body) in [("DELETE", ""), ("PUT", r#"{"image": "c"}"#)] {
            let (code, body) = api.send(method, "/manifests/shop/web", body).await;
            assert!(code.is_success(), "{body}");
        }
    };
    let ((code, body), ()) = tokio::join!(put(r#"{"image": "b"}"#), others);
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let manifest = api.get("/manifests/shop/web").await;
    assert_eq!(manifest["manifest"], r#"{"image": "c"}"#);
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
async fn a_manifest_is_written_read_and_removed() {
    let api = alone();
    let path = "/manifests/shop/web";
    let text = "{\"image\": \"a\"}\n";
    let (status, _) = api.send("GET", path, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, first) = api.send("PUT", path, text).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(
        (&first["created"], &first["changed"]),
        (&json!(true), &json!(true))
    );
    let body = api.get(path).await;
    assert_eq!(body["manifest"], text, "as it was written, byte by byte");
    assert_eq!(body["revision"], first["revision"]);
    let (status, again) = api.send("PUT", path, text).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&again["created"], &again["changed"]),
        (&json!(false), &json!(false))
    );
    let (_, spaced) = api.send("PUT", path, "{ \"image\":\"a\" }").await;
    assert_eq!(spaced["changed"], false, "in its meaning");
    let overriding = r#"{"image": "a", "env": {"SERVICE_DB_ADDR": "x"}}"#;
    let (_, odd) = api.send("PUT", path, overriding).await;
    assert_eq!(odd["changed"], true);
    let warning = odd["warnings"][0].as_str().unwrap();
    assert!(warning.contains("env.SERVICE_DB_ADDR"), "{warning}");
    let (status, gone) = api.send("DELETE", path, "").await;
    assert_eq!(
        (status, &gone["containers"][0]["container"]),
        (StatusCode::OK, &json!("web"))
    );
    let (status, _) = api.send("DELETE", path, "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_invalid_manifest_is_refused_with_everything_that_is_wrong() {
    let api = alone();
    let (status, body) = api
        .send(
            "PUT",
            "/manifests/shop/web",
            r#"{"imag": "a", "scale": -1}"#,
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body["problems"].as_array().unwrap().len() >= 2, "{body}");
    let (status, _) = api.send("GET", "/manifests/shop/web", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "nothing was written");

    let large = format!(
        "{{\"image\": \"{}\"}}",
        "x".repeat(super::manifest::MAX_BODY)
    );
    let (status, body) = api.send("PUT", "/manifests/shop/web", &large).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(body["error"].as_str().unwrap().contains("larger than"));
    for path in ["/manifests/Shop/web", "/manifests/shop/a---b"] {
        let (status, body) = api.send("PUT", path, r#"{"image": "a"}"#).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(body["error"].is_string(), "{path}");
    }
}

#[tokio::test]
async fn a_precondition_is_compare_and_swap() {
    let api = alone();
    let path = "/manifests/shop/web";
    let put = async |header| {
        api.send_if("PUT", path, r#"{"image": "a"}"#, Some(header))
            .await
    };
    let (status, body) = put(("if-match", "\"5\"")).await;
    assert_eq!(
        (status, &body["revision"]),
        (StatusCode::PRECONDITION_FAILED, &json!(0))
    );
    let (status, first) = put(("if-none-match", "*")).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, body) = put(("if-none-match", "*")).await;
    assert_eq!(
        (status, &body["revision"]),
        (StatusCode::PRECONDITION_FAILED, &first["revision"])
    );
    let revision = first["revision"].to_string();
    let (status, _) = put(("if-match", &revision)).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = put(("if-match", &revision)).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    for wrong in [
        ("if-match", "*"),
        ("if-match", "x"),
        ("if-none-match", "\"1\""),
    ] {
        assert_eq!(put(wrong).await.0, StatusCode::BAD_REQUEST, "{wrong:?}");
    }
    let (status, _) = api
        .send_if("DELETE", path, "", Some(("if-match", "\"1\"")))
        .await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
}

#[tokio::test]
async fn an_app_goes_with_its_manifests_and_nothing_else() {
    let api = alone();
    for name in ["web", "db"] {
        api.agent.put_manifest(
            &format!("shop/{name}").parse().unwrap(),
            r#"{"image": "a"}"#,
        );
    }
    let near: ContainerId = "shopping/web".parse().unwrap();
    api.agent.put_manifest(&near, r#"{"image": "a"}"#);
    let (status, body) = api.send("DELETE", "/manifests/shop", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(body["containers"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/manifests/shopping/web").await["container"], "web");
    let (status, _) = api.send("DELETE", "/manifests/shop", "").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
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

/// A port that says its token on loopback, for as long as the test runs.
async fn check_port(token: &str) -> (CheckPort, tokio::task::JoinHandle<()>) {
    use tokio::io::AsyncWriteExt;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = CheckPort {
        at: Some(listener.local_addr().unwrap()),
        token: token.to_owned(),
        range: "20000-20009".to_owned(),
        firewall: "ufw".to_owned(),
    };
    let says = token.to_owned();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(says.as_bytes()).await.unwrap();
        }
    });
    (port, task)
}

#[tokio::test]
async fn each_host_is_tried_from_each_and_what_is_wrong_comes_with_a_command() {
    let kv = MemKv::new();
    let [h2, h4] = ["h2", "h4"].map(|host| MemAgent::new(host, kv.clone()));
    let api = api(&[&h2, &h4], &kv, 0);
    for host in ["h1", "h2", "h3", "h4"] {
        api.agent.put_member(host);
        if host != "h3" {
            api.agent.put_host(host, None);
        }
    }
    // It answers, but nothing says the token of h4's agent.
    let (port, _first) = check_port("one").await;
    api.agent.set_check_port(port.clone());
    h2.set_check_port(port);
    let (port, task) = check_port("other").await;
    h4.set_check_port(CheckPort {
        token: "else!".to_owned(),
        ..port.clone()
    });
    let (status, body) = api.send("POST", "/check", "").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let check: HostsCheck = serde_json::from_value(body).unwrap();
    let tries: Vec<String> = check
        .tries
        .iter()
        .map(|one| format!("{}>{} {:?} {}", one.from, one.to, one.port, one.result))
        .collect();
    // Those are asked whom the other hosts know: h1 is not among them.
    for expected in [
        "h1>h2 Peer open",
        "h1>h2 Instance open",
        "h1>h4 Peer open",
        "h1>h4 Instance wrong",
        "h2>h1 Peer refused",
        "h2>h1 Instance unknown",
        "h4>h2 Instance open",
    ] {
        assert!(
            tries.contains(&expected.to_owned()),
            "{expected}: {tries:#?}"
        );
    }
    assert_eq!(tries.len(), 12);
    let wrong: Vec<String> = check
        .problems
        .iter()
        .map(|problem| {
            let from: Vec<&str> = problem.from.iter().map(HostName::as_str).collect();
            format!("{} > {}", from.join("+"), problem.to)
        })
        .collect();
    assert_eq!(wrong, ["h2+h4 > h1", "h1+h2 > h4", " > h3"]);

    // A port that nobody listens on any more.
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let (_, body) = api.send("POST", "/check", "").await;
    let check: HostsCheck = serde_json::from_value(body).unwrap();
    let refused = check
        .problems
        .iter()
        .find(|problem| problem.to.as_str() == "h4");
    let refused = refused.expect("a problem");
    assert!(refused.problem.contains("is refused"), "{refused:?}");
    assert_eq!(
        refused.help.as_deref(),
        Some(
            "on h4: ufw allow proto tcp from 10.0.0.1 to any port 20000:20009 && \
             ufw allow proto tcp from 10.0.0.1 to any port 20000:20009"
        )
    );
}

#[tokio::test]
async fn a_ready_instance_is_tried_where_there_is_one() {
    let kv = MemKv::new();
    let h2 = MemAgent::new("h2", kv.clone());
    let api = api(&[&h2], &kv, 0);
    api.agent.put_host("h1", None);
    api.agent.put_host("h2", None);
    let manifest = r#"{"image": "a", "services": {"web": 80}}"#;
    let revision = api.agent.put_manifest(&web(), manifest);
    let slot = web().slot(0);
    api.agent.claim(&slot, "h2", revision);
    let port = [("web", 20_001)];
    api.agent.put_state(&slot, "h2", Phase::Ready, &port);
    let (_, body) = api.send("POST", "/check", "").await;
    let check: HostsCheck = serde_json::from_value(body).unwrap();
    let of_slot = |one: &&Tried| one.slot.as_ref() == Some(&slot);
    let tried = check
        .tries
        .iter()
        .find(of_slot)
        .expect("the instance's port");
    assert_eq!(tried.at, Some("10.0.0.1:20001".parse().unwrap()));
    assert_eq!(
        (tried.from.as_str(), tried.port),
        ("h1", CheckedPort::Instance)
    );
}
