//! The real binary against the API of an agent in memory: exit codes, output, pipes.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod operator;
mod plan;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use gateway::v1::memory::MemAgent;
use gateway::v1::types::{LeftOut, NameReport};
use gateway::v1::{AgentHandle, Api, LogRecord};
use manifests::ContainerId;
use model::events::{Happened, Kind};
use model::logs::OutputStream;
use model::records::{Phase, Progress};
use serde_json::Value;
use store::memory::MemKv;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const LONG: Duration = Duration::from_secs(30);

/// The API of an agent in memory, on port 0 until dropped.
struct TestApi {
    agent: MemAgent,
    addr: SocketAddr,
    dir: TempDir,
    _runtime: Runtime,
}

impl TestApi {
    fn open() -> Self {
        let runtime = Runtime::new().unwrap();
        let (agent, listener) = runtime.block_on(async {
            let agent = MemAgent::new("h1", MemKv::new());
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            (agent, listener)
        });
        let addr = listener.local_addr().unwrap();
        let api = Api {
            agent: Arc::new(agent.clone()),
            peers: None,
        };
        let router = Router::new().nest("/dokkaa/v1", gateway::v1::router(api));
        runtime.spawn(async move { axum::serve(listener, router).await });
        agent.put_host("h1", None);
        Self {
            agent,
            addr,
            dir: tempfile::tempdir().unwrap(),
            _runtime: runtime,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = dokkaa(args);
        command
            .env("DOKKAA_ADDR", format!("http://{}", self.addr))
            .current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// What a conductor would do: the slot runs, and is ready.
    fn make_ready(&self, id: &ContainerId, slot: u32, revision: i64) {
        let slot = id.slot(slot);
        self.agent.claim(&slot, "h1", revision);
        self.agent
            .put_state(&slot, "h1", Phase::Ready, &[("web", 20_000)]);
    }

    fn revision(&self, id: &ContainerId) -> Option<i64> {
        let seen = self.agent.view().unwrap();
        Some(
            seen.snapshot
                .containers
                .get(id)?
                .manifest
                .as_ref()?
                .modified
                .0,
        )
    }
}

/// Nothing of the environment of who runs the tests.
fn dokkaa(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dokkaa"));
    command
        .args(args)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

struct Ended {
    code: i32,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("an exit code, not a signal"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

/// A command under way; ended when dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn end(mut self) -> Ended {
        let end = Instant::now() + LONG;
        while self.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut output = Output {
            status: self.0.wait().unwrap(),
            stdout: Vec::new(),
            stderr: Vec::new(),
        };
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_end(&mut output.stdout)
            .unwrap();
        self.0
            .stderr
            .take()
            .unwrap()
            .read_to_end(&mut output.stderr)
            .unwrap();
        Ended::of(output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn web() -> ContainerId {
    "shop/web".parse().unwrap()
}

const WEB: &str = "{\"image\": \"a\", \"scale\": 2, \"services\": {\"web\": 80}}\n";

#[test]
fn validate_needs_no_agent_and_names_every_mistake() {
    let api = TestApi::open();
    api.file("good.json", WEB);
    api.file("bad.json", "{\n \"imag\": \"a\",\n \"scale\": -1\n}");
    let ended = api.run(&["validate", "good.json"]).with(0);
    assert_eq!(
        (ended.out.as_str(), ended.err.as_str()),
        ("good.json: valid\n", "")
    );
    let odd = r#"{"scale": 1, "image": "a", "env": {"SERVICE_DB_ADDR": "x"}}"#;
    api.file("odd.json", odd);
    let ended = api.run(&["validate", "odd.json"]).with(0);
    assert_eq!(ended.out, "odd.json: valid\n");
    let warning = "1:36 env.SERVICE_DB_ADDR";
    assert!(ended.err.contains(warning), "{}", ended.err);
    let planned = api.run(&["plan", "shop/web", "odd.json"]).with(10);
    assert!(planned.out.contains(warning), "{}", planned.out);
    // Once it is written, nobody need have that text.
    api.run(&["apply", "shop/web", "odd.json"]).with(0);
    let ps = api.run(&["ps", "shop/web"]).with(0).out;
    assert!(ps.contains("env.SERVICE_DB_ADDR: "), "{ps}");
    assert!(!ps.contains(warning), "{ps}");
    let ended = api.run(&["validate", "bad.json", "good.json"]).with(3);
    let quiet = api
        .run(&["validate", "-q", "bad.json", "good.json"])
        .with(3);
    assert_eq!(quiet.err, ended.err, "errors are no notices");
    assert!(ended.err.lines().count() >= 2, "{}", ended.err);
    assert!(ended.err.lines().all(|line| line.starts_with("bad.json:")));
    assert!(ended.err.contains("did you mean"), "{}", ended.err);
    api.run(&["validate", "missing.json"]).with(2);
    let mut command = api.command(&["validate", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"{").unwrap();
    Ended::of(child.wait_with_output().unwrap()).with(3);
}

#[test]
fn manifests_go_in_and_come_out_as_they_were_written() {
    let api = TestApi::open();
    api.file("web.json", WEB);
    let ended = api.run(&["apply", "shop/web", "web.json"]).with(0);
    assert!(
        ended.out.starts_with("shop/web created (revision "),
        "{}",
        ended.out
    );
    let ended = api.run(&["apply", "shop/web", "web.json"]).with(0);
    assert!(ended.out.contains("unchanged"), "{}", ended.out);
    assert_eq!(api.run(&["get", "shop/web"]).with(0).out, WEB);
    let ended = api.run(&["get", "shop/none"]).with(1);
    assert_eq!(ended.err, "there is no container shop/none\n");
    api.run(&["get", "shop"]).with(2);
    api.run(&["rm", "shop/web", "--yes"]).with(0);
    assert_eq!(api.revision(&web()), None);
    api.run(&["rm", "shop/web", "--yes"]).with(1);
}

#[test]
fn a_directory_is_checked_whole_before_the_first_is_written() {
    let api = TestApi::open();
    api.file("all/shop/web.json", WEB);
    api.file("all/shop/db.json", "{\"scale\": 1}");
    api.file("all/README.md", "not a manifest");
    let ended = api.run(&["apply", "all"]).with(3);
    assert!(ended.err.contains("db.json:1:1"), "{}", ended.err);
    assert_eq!(api.revision(&web()), None, "nothing was written");
    api.file("all/shop/db.json", WEB);
    let ended = api.run(&["apply", "all"]).with(0);
    assert_eq!(ended.out.lines().count(), 2);
    let ended = api.run(&["rm", "shop", "--yes"]).with(0);
    assert_eq!(ended.out, "shop/db removed\nshop/web removed\n");
    api.file("all/web.json", WEB);
    api.run(&["apply", "all"]).with(2);
    api.run(&["apply", "nowhere"]).with(2);
    api.run(&["apply", "nowhere", "all/web.json"]).with(2);
}

#[test]
fn rm_asks_on_a_terminal_only() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    let ended = api.run(&["rm", "shop/web"]).with(2);
    assert!(ended.err.contains("--yes"), "{}", ended.err);
    assert!(api.revision(&web()).is_some());
}

#[test]
fn changes_at_the_same_time_do_not_lose_each_other() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    let running: Vec<Running> = (0..8)
        .map(|n| {
            let change = format!("env.K{n}={n}");
            Running::start(api.command(&["set", "shop/web", &change]))
        })
        .collect();
    for running in running {
        running.end().with(0);
    }
    let manifest = api.run(&["get", "shop/web"]).with(0).json();
    assert_eq!(manifest["env"].as_object().unwrap().len(), 8, "{manifest}");
    assert_eq!(manifest["services"]["web"], 80);

    let ended = api.run(&["set", "shop/web", "env.K1-", "image=b"]).with(0);
    assert!(ended.out.contains("changed"), "{}", ended.out);
    let ended = api.run(&["set", "shop/web", "image=b"]).with(0);
    assert!(ended.out.contains("unchanged"), "{}", ended.out);
    api.run(&["scale", "shop/web=3"]).with(0);
    assert_eq!(api.run(&["get", "shop/web"]).json()["scale"], 3);
    api.run(&["scale", "shop/web=1001"]).with(3);
    api.run(&["set", "shop/web", "links=7"]).with(3);
    api.run(&["set", "shop/web", "nothing"]).with(2);
    api.run(&["set", "shop/none", "image=b"]).with(1);
}

/// The next version of a container, as agents write it.
fn put_version(api: &TestApi, id: &ContainerId, manifest: &str, digest: &str, good: bool) -> i64 {
    let revision = api.agent.put_manifest(id, manifest);
    let manifest: Value = serde_json::from_str(manifest).unwrap();
    let version = serde_json::json!({"manifest": manifest, "image": digest, "good": good});
    let key = manifests::keys::Key::Version(id.clone(), revision);
    api.agent.put(&key, version.to_string().as_bytes());
    revision
}

#[test]
fn history_lists_versions_and_what_differs() {
    let api = TestApi::open();
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let first = put_version(
        &api,
        &web(),
        r#"{"image": "a", "scale": 2}"#,
        &digest("1"),
        true,
    );
    let second = put_version(
        &api,
        &web(),
        r#"{"image": "b", "scale": 2, "env": {"LEVEL": "debug"}}"#,
        &digest("2"),
        false,
    );
    api.make_ready(&web(), 0, first);
    api.make_ready(&web(), 1, second);
    let ended = api.run(&["history", "shop/web"]).with(0);
    let lines: Vec<Vec<&str>> = ended
        .out
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let (one, two) = (first.to_string(), second.to_string());
    assert_eq!(
        lines,
        [
            &["VERSION", "IMAGE", "DIGEST", "GOOD", "SLOTS", "CHANGED"][..],
            &[
                "*",
                &two,
                "b",
                "sha256:222222222222",
                "-",
                "1",
                "env,",
                "image"
            ],
            &[&one, "a", "sha256:111111111111", "yes", "0"],
        ]
    );
    let json = api
        .run(&["history", "shop/web", "-o", "json"])
        .with(0)
        .json();
    assert_eq!(json["wanted"], second);
    assert_eq!(json["versions"][1]["manifest"]["image"], "a");
    let diff = |args: &[&str]| api.run(&[&["history", "shop/web", "--diff"], args].concat());
    assert_eq!(
        diff(&[&one, &two]).with(0).out,
        "env.LEVEL: none -> \"debug\"\nimage: \"a\" -> \"b\"\n"
    );
    assert_eq!(diff(&[&one]).with(0).out.lines().count(), 2);
    let none = diff(&["7"]).with(1).err;
    assert!(
        none.contains("shop/web has no version 7; there are"),
        "{none}"
    );
    let table = on_terminal(&api, 80, "history shop/web");
    assert!(table.lines().all(|l| l.chars().count() <= 80), "{table}");

    // One that nobody has decided the image of is listed, too.
    api.run(&["set", "shop/web", "image=c"]).with(0);
    let ended = api.run(&["history", "shop/web"]).with(0);
    assert!(ended.out.contains("not decided yet"), "{}", ended.out);
    api.run(&["history", "shop/none"]).with(1);
    api.run(&["history", "shop"]).with(2);
}

#[test]
fn rollback_writes_the_earlier_manifest_and_says_what_changes() {
    let api = TestApi::open();
    let first = put_version(
        &api,
        &web(),
        r#"{"image": "a", "scale": 2}"#,
        "sha256:1",
        true,
    );
    let ended = api.run(&["rollback", "shop/web"]).with(1);
    assert_eq!(
        ended.err,
        format!(
            "shop/web has no earlier version of another manifest; there is only {first} (wanted)\n"
        )
    );
    assert_eq!(api.revision(&web()), Some(first), "nothing was written");
    let second = put_version(
        &api,
        &web(),
        r#"{"image": "b", "scale": 4}"#,
        "sha256:2",
        false,
    );
    for (to, says) in [
        (first + 1000, "has no version"),
        (second, "is to run already"),
    ] {
        let ended = api
            .run(&["rollback", "shop/web", "--to", &to.to_string()])
            .with(1);
        assert!(ended.err.contains(says), "{}", ended.err);
    }
    let there = format!("there are {second} (wanted), {first} (good)\n");
    let ended = api.run(&["rollback", "shop/web", "--to", "1"]).with(1);
    assert!(ended.err.ends_with(&there), "{}", ended.err);
    assert_ne!(api.revision(&web()), None);

    let ended = api.run(&["rollback", "shop/web"]).with(0);
    let now = api.revision(&web()).unwrap();
    assert_eq!(
        ended.out,
        format!(
            "shop/web goes back to version {first} (revision {now})\n  image: \"b\" -> \"a\"\n"
        )
    );
    assert_eq!(ended.err, "");
    let manifest = api.run(&["get", "shop/web"]).with(0).json();
    assert_eq!(
        manifest,
        serde_json::json!({"image": "a", "scale": 4}),
        "as many as there are now"
    );

    // By name, also to one that never was good; and waited for.
    let args = [
        "rollback",
        "shop/web",
        "--to",
        &second.to_string(),
        "--wait",
    ];
    let running = Running::start(api.command(&args));
    wait_for("the manifest", || {
        api.revision(&web()).filter(|at| *at > now)
    });
    for slot in 0..4 {
        api.make_ready(&web(), slot, second);
    }
    let ended = running.end().with(0);
    assert!(
        ended.err.contains("has never stayed ready"),
        "{}",
        ended.err
    );
    api.run(&["rollback", "shop/none"]).with(1);
    api.run(&["rollback", "shop"]).with(2);
}

/// Three slots that run a version, and a newer manifest.
fn update_under_way(api: &TestApi) -> (i64, i64) {
    let manifest = r#"{"image": "a", "scale": 3}"#;
    let old = put_version(api, &web(), manifest, "sha256:1", true);
    for slot in 0..3 {
        api.make_ready(&web(), slot, old);
    }
    let manifest = r#"{"image": "b", "scale": 3}"#;
    let new = put_version(api, &web(), manifest, "sha256:2", false);
    api.make_ready(&web(), 0, new);
    (old, new)
}

fn put_rollout(api: &TestApi, version: i64, more: Value) {
    let mut rollout = serde_json::json!({"version": version});
    let more = more.as_object().unwrap().clone();
    rollout.as_object_mut().unwrap().extend(more);
    let key = manifests::keys::Key::Rollout(web());
    api.agent.put(&key, rollout.to_string().as_bytes());
}

fn rollout_of(api: &TestApi) -> Option<model::records::Rollout> {
    let seen = api.agent.view().unwrap();
    let rollout = seen.snapshot.containers.get(&web())?.rollout.clone()?;
    Some(rollout.value)
}

#[test]
fn an_update_is_shown_paused_and_resumed() {
    let api = TestApi::open();
    let (old, new) = update_under_way(&api);
    put_rollout(&api, new, serde_json::json!({"updating": [0]}));
    let ended = api.run(&["rollout", "status", "shop/web"]).with(0);
    assert_eq!(
        ended.out,
        format!(
            "shop/web: version {new} (b), 0 of 3 slots: under way\n\
             SLOT  HOST  VERSION  UPDATE   REASON\n\
             0     h1    {new:<7}  watched\n\
             1     h1    {old:<7}  waiting  waiting for its turn to update\n\
             2     h1    {old:<7}  waiting  waiting for its turn to update\n"
        )
    );
    let ended = api.run(&["rollout", "pause", "shop/web"]).with(0);
    let says = "is paused; slots that are under way end it: 0\n";
    assert!(ended.out.ends_with(says), "{}", ended.out);
    let rollout = rollout_of(&api).unwrap();
    assert!(rollout.paused && rollout.version.0 == new);
    assert_eq!(rollout.updating, [0].into());
    let ended = api.run(&["rollout", "status", "shop/web"]).with(0).out;
    let says = "0 of 3 slots: paused; `dokkaa rollout resume shop/web` goes on\n";
    assert!(
        ended.lines().next().unwrap().contains(says.trim()),
        "{ended}"
    );
    assert_eq!(
        ended.matches("  paused   the update is paused").count(),
        2,
        "{ended}"
    );
    let ended = api.run(&["rollout", "pause", "shop/web"]).with(1);
    assert!(ended.err.contains("is paused already"), "{}", ended.err);
    // Who waits is told why.
    let args = ["rollout", "watch", "shop/web", "--timeout", "300ms"];
    let ended = api.run(&args).with(5);
    assert!(
        ended.err.contains("rollout resume shop/web"),
        "{}",
        ended.err
    );

    api.run(&["rollout", "resume", "shop/web"]).with(0);
    let rollout = rollout_of(&api).unwrap();
    assert!(!rollout.paused && rollout.updating == [0].into());
    let ended = api.run(&["rollout", "resume", "shop/web"]).with(1);
    assert!(
        ended.err.contains("neither paused nor halted"),
        "{}",
        ended.err
    );

    // Halted, and why; its failures are forgotten.
    let halted = serde_json::json!({"failed": true, "failures": [0], "reason": "exit code 7"});
    put_rollout(&api, new, halted);
    let ended = api.run(&["rollout", "status", "shop/web"]).with(4).out;
    let says = "halted, slot 0 failed: exit code 7\n";
    assert!(ended.contains(says), "{ended}");
    assert_eq!(ended.matches("  kept ").count(), 2, "{ended}");
    let ended = api.run(&["rollout", "watch", "shop/web"]).with(4);
    assert!(
        ended.err.ends_with("slot 0: exit code 7\n"),
        "{}",
        ended.err
    );
    api.run(&["rollout", "resume", "shop/web"]).with(0);
    assert_eq!(rollout_of(&api), None);

    // It ends.
    for slot in 1..3 {
        api.make_ready(&web(), slot, new);
    }
    let ended = api.run(&["rollout", "status", "shop/web"]).with(0).out;
    assert!(ended.contains("3 of 3 slots: done\n"), "{ended}");
    let ended = api.run(&["rollout", "watch", "shop/web"]).with(0);
    assert_eq!(ended.out, "shop/web converged: 3 of 3 slots ready\n");
    let ended = api.run(&["rollout", "pause", "shop/web"]).with(1);
    assert!(ended.err.contains("nothing to pause"), "{}", ended.err);
    let json = api.run(&["rollout", "status", "shop/web", "-o", "json"]);
    assert_eq!(json.with(0).json()["containers"][0]["version"], new);
    for verb in ["status", "pause", "resume", "watch"] {
        api.run(&["rollout", verb, "shop/none"]).with(1);
        api.run(&["rollout", verb, "shop"]).with(2);
    }
    api.run(&["rollout"]).with(2);
}

#[test]
fn wait_ends_when_the_last_slot_has_proven_itself() {
    let api = TestApi::open();
    let (_, new) = update_under_way(&api);
    for slot in 1..3 {
        api.make_ready(&web(), slot, new);
    }
    put_rollout(&api, new, serde_json::json!({"updating": [2]}));
    let mut running = Running::start(api.command(&["rollout", "watch", "shop/web"]));
    let mut notes = BufReader::new(running.0.stderr.take().unwrap()).lines();
    assert!(notes.next().unwrap().unwrap().contains("Ctrl-C"));
    assert_eq!(
        notes.next().unwrap().unwrap(),
        "shop/web: 3 of 3 slots ready; slot 2 has to stay ready for `update.monitor`"
    );
    api.agent.delete(&manifests::keys::Key::Rollout(web()));
    assert!(wait_for("its end", || running.0.try_wait().unwrap()).success());
}

#[test]
fn on_a_terminal_each_slot_has_a_line() {
    let api = TestApi::open();
    let (_, new) = update_under_way(&api);
    put_rollout(&api, new, serde_json::json!({"updating": [0]}));
    let line = format!(
        "stty cols 80 rows 24; {} rollout watch shop/web --timeout 1s; exit 0",
        env!("CARGO_BIN_EXE_dokkaa")
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("DOKKAA_ADDR", format!("http://{}", api.addr))
        .env("TERM", "xterm")
        .stdin(Stdio::null());
    let shown = Ended::of(script.output().expect("script, of util-linux")).with(0);
    let shown = shown.out.replace('\r', "");
    let block = format!(
        "shop/web: version {new} (b), 0 of 3 slots: under way\n\
         shop/web/0  h1  watched\n\
         shop/web/1  h1  waiting    waiting for its turn to update\n\
         shop/web/2  h1  waiting    waiting for its turn to update\n\u{1b}[4A"
    );
    assert!(shown.contains(&block), "{shown:?}");
    // What moves the cursor has no width.
    let mut lines = shown
        .lines()
        .map(|line| line.replace("\u{1b}[4A\u{1b}[J", ""));
    assert!(lines.all(|line| line.chars().count() <= 80), "{shown}");
}

#[test]
fn containers_are_restarted_stopped_and_started() {
    let api = TestApi::open();
    let job: ContainerId = "shop/job".parse().unwrap();
    for id in [&web(), &job] {
        let revision = api.agent.put_manifest(id, r#"{"image": "a", "scale": 2}"#);
        for slot in 0..2 {
            api.make_ready(id, slot, revision);
        }
    }
    let manifest = |id: &str| api.run(&["get", id]).with(0).json();
    let ended = api.run(&["restart", "shop/web"]).with(0);
    assert!(ended.out.starts_with("shop/web restarts (revision "));
    let at = manifest("shop/web")["restarted_at"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(at.parse::<jiff::Timestamp>().is_ok(), "{at}");
    assert_eq!(manifest("shop/job").get("restarted_at"), None);
    api.run(&["restart", "shop/web"]).with(0);
    assert_ne!(manifest("shop/web")["restarted_at"], at);

    let ended = api.run(&["restart", "shop/job", "--slot", "1"]).with(0);
    assert!(ended.out.starts_with("shop/job/1 on "), "{}", ended.out);
    assert_eq!(manifest("shop/job").get("restarted_at"), None);
    let ended = api.run(&["restart", "shop/job", "--slot", "2"]).with(1);
    let says = "shop/job has no slot 2; it has 0, 1";
    assert!(ended.err.contains(says), "{}", ended.err);
    let ended = api.run(&["restart", "shop", "--slot", "1"]).with(2);
    let says = "such as `dokkaa restart shop/web --slot 1`";
    assert!(ended.err.contains(says), "{}", ended.err);

    let ended = api.run(&["stop", "shop"]).with(0);
    assert!(ended.out.starts_with("shop/job stops (revision "));
    assert_eq!(ended.out.lines().count(), 2);
    assert_eq!(
        manifest("shop/job"),
        serde_json::json!({"image": "a", "scale": 2, "stopped": true})
    );
    let ps = api.run(&["ps", "shop/job"]).with(0).out;
    assert_eq!(
        ps.matches("stopping (the container is stopped)").count(),
        2,
        "{ps}"
    );
    let ended = api.run(&["stop", "shop/web"]).with(0);
    assert!(
        ended
            .out
            .starts_with("shop/web is stopped already (revision ")
    );
    let ended = api.run(&["restart", "shop/web"]).with(1);
    assert_eq!(
        ended.err,
        "shop/web: it is stopped; `dokkaa start shop/web` starts it\n"
    );
    let ended = api.run(&["restart", "shop"]).with(0);
    assert_eq!((ended.out.as_str(), ended.err.lines().count()), ("", 2));

    // Waited for until nothing of it is left.
    let running = Running::start(api.command(&["stop", "shop/job", "--wait"]));
    for slot in 0..2 {
        api.agent
            .delete(&manifests::keys::Key::Claim(job.slot(slot)));
    }
    let ended = running.end().with(0);
    assert!(
        ended
            .out
            .ends_with("shop/job converged: 0 of 0 slots ready\n")
    );
    let row = |list: &str| -> Vec<String> {
        let out = api.run(&[list, "shop/job"]).with(0).out;
        let row = out.lines().nth(1).unwrap().split_whitespace();
        row.map(str::to_owned).collect()
    };
    assert_eq!(row("ps")[4], "stopped");
    assert_eq!(row("apps")[2], "stopped");
    let why = api.run(&["why", "shop/job"]).with(0).out;
    assert!(
        why.contains(", stopped; `dokkaa start shop/job` starts it\n"),
        "{why}"
    );
    let ended = api.run(&["rollout", "status", "shop/job"]).with(0);
    assert!(
        ended.out.contains("stopped; `dokkaa start"),
        "{}",
        ended.out
    );

    let ended = api.run(&["start", "shop/job"]).with(0);
    assert!(ended.out.starts_with("shop/job starts (revision "));
    assert_eq!(
        manifest("shop/job"),
        serde_json::json!({"image": "a", "scale": 2})
    );
    let ended = api.run(&["start", "shop/job"]).with(0);
    assert!(ended.out.starts_with("shop/job is not stopped (revision "));
    api.run(&["scale", "shop/job=0"]).with(0);
    let ended = api.run(&["start", "shop/job"]).with(0);
    assert!(
        ended.err.contains("dokkaa scale shop/job=1"),
        "{}",
        ended.err
    );
    for verb in ["restart", "stop", "start"] {
        let ended = api.run(&[verb, "shop/none"]).with(1);
        assert_eq!(ended.err, "there is no container shop/none\n");
        let ended = api.run(&[verb, "none"]).with(1);
        assert_eq!(ended.err, "there is no app none\n");
        api.run(&[verb]).with(2);
    }
}

#[test]
fn ps_shows_every_slot_and_its_reason_in_one_line_each() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    api.agent
        .put_status(&web().slot(0), "h1", |status| status.restarts = 1);
    api.agent.claim(&web().slot(1), "h1", revision);
    api.agent.put_status(&web().slot(1), "h1", |status| {
        status.progress = Progress::Waiting;
        status.reason = Some("exit code 1:\nsegfault\u{1b}[31m".to_owned());
    });
    let key = manifests::keys::Key::Manifest("shop/bad".parse().unwrap());
    api.agent.put(&key, b"garbage");
    let ended = api.run(&["ps"]).with(0);
    let lines: Vec<&str> = ended.out.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ended.out);
    assert!(
        !ended.out.contains('\u{1b}'),
        "no colour, whatever a reason says"
    );
    let columns: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!(
        columns,
        [
            "APP",
            "CONTAINER",
            "SLOT",
            "HOST",
            "STATUS",
            "AGE",
            "PORTS",
            "REASON"
        ]
    );
    assert!(lines[1].contains("invalid manifest: 1:1"), "{}", lines[1]);
    assert!(lines[2].contains("web=10.0.0.1:20000") && lines[2].contains("restarted once"));
    assert!(lines[3].contains("exit code 1: segfault"), "{}", lines[3]);

    let json = api.run(&["ps", "shop/web", "-o", "json"]).with(0).json();
    assert_eq!(json["slots"].as_array().unwrap().len(), 2);
    assert_eq!(json["slots"][1]["status"], "waiting");
    api.run(&["ps", "other"]).with(1);
}

#[test]
fn a_link_to_a_service_that_nobody_offers_is_a_warning_everywhere() {
    let api = TestApi::open();
    let warning = "link `cahce`: no container offers this service; did you mean `cache`?";
    api.file(
        "all/shop/app.json",
        r#"{"image": "a", "links": ["cahce", "db"]}"#,
    );
    api.file(
        "all/shop/redis.json",
        r#"{"image": "a", "services": {"cache": 1, "db": 2}}"#,
    );
    // `db` is there once all are written.
    let ended = api.run(&["apply", "all"]).with(0);
    assert_eq!(ended.err, format!("shop/app: warning: {warning}\n"));
    let ended = api.run(&["apply", "shop/app", "all/shop/app.json"]).with(0);
    assert_eq!(ended.err, format!("shop/app: warning: {warning}\n"));
    let ended = api.run(&["scale", "shop/app=2"]).with(0);
    assert_eq!(ended.err, format!("shop/app: warning: {warning}\n"));

    let ps = api.run(&["ps", "shop/app"]).with(0).out;
    assert_eq!(ps.matches(warning).count(), 1, "{ps}");
    let json = api.run(&["ps", "-o", "json"]).with(0).json();
    assert_eq!(json["containers"][0]["warnings"][0], warning);
    let why = api.run(&["why", "shop/app"]).with(0).out;
    assert!(why.contains(&format!("warning: {warning}\n")), "{why}");
    let status = api.run(&["status"]).with(0).out;
    assert!(
        status.contains(&format!("  shop/app: {warning}\n")),
        "{status}"
    );

    let ended = api
        .run(&["set", "shop/app", "links=[\"cache\",\"db\"]"])
        .with(0);
    assert_eq!(ended.err, "");
    let status = api.run(&["status"]).with(0).out;
    assert!(!status.contains("link"), "{status}");
}

#[test]
fn a_link_to_a_udp_service_is_refused() {
    let api = TestApi::open();
    api.file(
        "dns.json",
        r#"{"image": "a", "services": {"dns": {"port": 53, "protocol": "udp"}}}"#,
    );
    api.file("app.json", r#"{"image": "a", "links": ["dns"]}"#);
    api.run(&["apply", "shop/dns", "dns.json"]).with(0);
    let ended = api.run(&["apply", "shop/app", "app.json"]).with(3);
    let says = "shop/app:1:1 links: link `dns`: the service is UDP, and links carry TCP only";
    assert!(ended.err.starts_with(says), "{}", ended.err);
    api.run(&["get", "shop/app"]).with(1);
}

#[test]
fn ps_watch_tells_each_change() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    let mut running = Running::start(api.command(&["ps", "--watch", "-o", "json"]));
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["slots"][0]["status"], "waiting");
    api.make_ready(&web(), 0, revision);
    let end = Instant::now() + LONG;
    while next()["slots"][0]["status"] != "ready" {
        assert!(Instant::now() < end);
    }
}

#[test]
fn hosts_status_and_why_are_for_people_and_programs() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(
        &web(),
        "{\"image\": \"a\", \"scale\": 2, \"links\": [\"db\"]}",
    );
    api.make_ready(&web(), 0, revision);
    api.agent.put_host("h2", None);
    let hosts = api.run(&["hosts"]).with(0).out;
    assert_eq!(hosts.lines().count(), 3);
    let json = api.run(&["hosts", "-o", "json"]).with(0).json();
    assert_eq!(json["hosts"][0]["slots"], 1);
    let status = api.run(&["status"]).with(0).out;
    assert!(status.contains("hosts    2 up"), "{status}");
    assert!(status.contains("slots    1 ready, 1 waiting"), "{status}");
    assert_eq!(api.run(&["status", "-o", "json"]).with(0).json()["apps"], 1);
    let ended = api.run(&["why", "shop/web"]).with(0);
    for line in [
        "slot 0 on h1 ready",
        "slot 1 waiting: h2 is about to claim it",
        "  h2: is to take it",
        "link shop/db by SERVICE_DB_ADDR, port 10000",
        "  no endpoint: no running container offers this service",
    ] {
        assert!(
            ended.out.lines().any(|l| l == line),
            "{line} is not in\n{}",
            ended.out
        );
    }
    let json = api.run(&["why", "shop/web", "-o", "json"]).with(0).json();
    assert_eq!(json["slots"][1]["hosts"][0]["host"], "h2");
    api.run(&["why", "shop/none"]).with(1);
}

#[test]
fn dns_install_prints_what_it_would_do() {
    let api = TestApi::open();
    let printed = api.run(&["dns", "install", "--print"]).with(0).out;
    assert!(printed.starts_with("# "), "{printed}");
    assert!(printed.contains("172.17.0.1"), "{printed}");
    api.run(&["dns"]).with(2);
}

#[test]
fn dns_explains_a_name() {
    let api = TestApi::open();
    api.agent.set_name(NameReport {
        name: "web.shop".to_owned(),
        meaning: "the ready instances of service web of app shop".to_owned(),
        records: vec!["web.shop.skydns.local. 1 IN A 10.0.0.1".to_owned()],
        left_out: vec![LeftOut {
            slot: web().slot(1),
            host: "h2".parse().unwrap(),
            reason: "it is not ready".to_owned(),
        }],
        hidden: 2,
        ..NameReport::default()
    });
    let ended = api.run(&["dns", "web.shop"]).with(0);
    assert_eq!(
        ended.out,
        "web.shop: the ready instances of service web of app shop\n  \
         web.shop.skydns.local. 1 IN A 10.0.0.1\n\n\
         not in the answers\n  shop/web/1 on h2: it is not ready\n\n\
         not answered either: 2 keys under /skydns, since the cluster has this name\n"
    );
    let json = api.run(&["dns", "web.shop", "-o", "json"]).with(0).json();
    assert_eq!(json["left_out"][0]["reason"], "it is not ready");
    let wrong = ["db", "db/1"].map(|name| {
        let key = format!("/skydns/local/skydns/{name}");
        (key, "it is not a JSON object".to_owned())
    });
    api.agent.set_name(NameReport {
        name: "db".to_owned(),
        meaning: "no such name".to_owned(),
        unreadable: wrong.into_iter().collect(),
        ..NameReport::default()
    });
    let ended = api.run(&["dns", "db"]).with(0);
    assert_eq!(
        ended.out,
        "db: no such name\n\n\
         the record at /skydns/local/skydns/db is not in DNS: it is not a JSON object\n\
         the record at /skydns/local/skydns/db/1 is not in DNS: it is not a JSON object\n"
    );
    api.run(&["dns", "no-name"]).with(1);
    api.run(&["dns", "a/b"]).with(2);
}

#[test]
fn what_is_old_is_said_to_be() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    api.agent.set_stale(true);
    let ended = api.run(&["ps"]).with(0);
    assert!(ended.err.contains("last known state"), "{}", ended.err);
    assert_eq!(ended.out.lines().count(), 3);
    let ended = api.run(&["hosts"]).with(0);
    assert!(ended.err.contains("last known state"), "{}", ended.err);
    let status = |api: &TestApi| api.run(&["status"]).with(0).out;
    assert!(status(&api).contains("etcd     answers"));
    api.agent.set_hold(Some("/dokkaa/cluster is missing"));
    let held = status(&api);
    assert!(held.contains("etcd     answers, but is not trusted (in hold)"));
    assert!(held.contains("is in hold: /dokkaa/cluster is missing"));
    api.agent.mem_kv().set_unavailable(true);
    assert!(status(&api).contains("etcd     does not answer"));
}

#[test]
fn wait_ends_converged() {
    let api = TestApi::open();
    api.file("web.json", WEB);
    let args = [
        "apply",
        "shop/web",
        "web.json",
        "--wait",
        "--timeout",
        "30s",
    ];
    let running = Running::start(api.command(&args));
    let revision = wait_for("the manifest", || api.revision(&web()));
    for slot in 0..2 {
        api.make_ready(&web(), slot, revision);
    }
    let version = format!("{{\"manifest\": {WEB}, \"image\": \"sha256:1\"}}");
    let key = manifests::keys::Key::Version(web(), revision);
    api.agent.put(&key, version.as_bytes());
    let ended = running.end().with(0);
    assert!(
        ended
            .out
            .ends_with("shop/web converged: 2 of 2 slots ready\n"),
        "{}",
        ended.out
    );
}

#[test]
fn wait_ends_failed_with_the_slot_and_its_last_lines() {
    let api = TestApi::open();
    api.file("web.json", WEB);
    let args = ["apply", "shop/web", "web.json", "--wait"];
    let running = Running::start(api.command(&args));
    let revision = wait_for("the manifest", || api.revision(&web()));
    api.agent.claim(&web().slot(1), "h1", revision);
    api.agent.put_status(&web().slot(1), "h1", |status| {
        status.progress = Progress::Failed;
        status.version = model::VersionId(revision);
        status.reason = Some("no such image".to_owned());
        status.log = vec!["last words".to_owned()];
    });
    let ended = running.end().with(4);
    let expected = "shop/web failed: slot 1: no such image\n  | last words\n";
    assert!(ended.err.ends_with(expected), "{}", ended.err);
}

#[test]
fn wait_ends_timed_out_with_what_it_waits_for() {
    let api = TestApi::open();
    api.file("web.json", WEB);
    let args = [
        "apply",
        "shop/web",
        "web.json",
        "--wait",
        "--timeout",
        "500ms",
    ];
    let ended = api.run(&args).with(5);
    assert!(
        ended
            .err
            .contains("timed out after 500ms: 0 of 2 slots ready"),
        "{}",
        ended.err
    );
    // Scale 0 is there at once.
    let version = api.revision(&web()).unwrap();
    assert!(version > 0);
    api.run(&["scale", "shop/web=0", "--wait"]).with(0);
}

#[test]
fn wait_gives_up_soon_on_what_no_host_may_take() {
    let api = TestApi::open();
    let manifest = r#"{"image": "a", "placement": {"constraints": ["disk==ssd"]}}"#;
    api.file("web.json", manifest);
    let start = Instant::now();
    let ended = api
        .run(&["apply", "shop/web", "web.json", "--wait"])
        .with(4);
    assert!(start.elapsed() >= Duration::from_secs(10));
    let reason = "no host can run it: h1: disk==ssd is asked for, and disk is not set";
    let told: Vec<&str> = ended.err.lines().collect();
    assert!(
        told[0].contains("Ctrl-C ends the wait only"),
        "{}",
        ended.err
    );
    assert_eq!(
        told[1..],
        [
            format!("shop/web: 0 of 1 slots ready; slot 0 waiting: {reason}"),
            format!("shop/web failed: slot 0: {reason}"),
        ]
    );
    let args = ["scale", "shop/web=2", "--wait", "--timeout", "300ms"];
    api.run(&args).with(5);
}

#[test]
fn what_is_scaled_to_0_is_listed_and_apps_are_too() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    let job = "shop/job".parse().unwrap();
    api.agent
        .put_manifest(&job, r#"{"image": "b", "scale": 0}"#);
    let ps = api.run(&["ps", "shop/job"]).with(0).out;
    let row: Vec<&str> = ps.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[..7], ["shop", "job", "-", "-", "scaled", "to", "0"]);
    let apps = api.run(&["apps"]).with(0).out;
    let rows: Vec<Vec<&str>> = apps
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["APP", "CONTAINER", "READY", "IMAGE", "NOTES"]);
    assert_eq!(rows[1], ["shop", "job", "0/0", "b"]);
    assert_eq!(rows[2][..4], ["shop", "web", "1/2", "a"]);
    let json = api.run(&["apps", "shop", "-o", "json"]).with(0).json();
    assert_eq!(json["apps"][0]["containers"][1]["ready"], 1);
    api.run(&["apps", "none"]).with(1);
    let wide = api.run(&["ps", "-o", "wide", "shop/web"]).with(0).out;
    assert!(wide.lines().next().unwrap().contains("IMAGE"), "{wide}");
    let row: Vec<&str> = wide.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[7..9], ["a", &revision.to_string()]);
}

#[test]
fn logs_of_an_app_are_merged_and_say_whose_they_are() {
    let api = TestApi::open();
    let job: ContainerId = "shop/job".parse().unwrap();
    for id in [web(), job.clone()] {
        let revision = api.agent.put_manifest(&id, r#"{"image": "a"}"#);
        api.make_ready(&id, 0, revision);
    }
    api.agent
        .log(&web().slot(0), [record(0, "one"), record(20, "three")]);
    api.agent.log(&job.slot(0), [record(10, "two\u{1b}[2J")]);
    let ended = api.run(&["logs", "shop"]).with(0);
    assert_eq!(
        ended.out, "web/0 | one\njob/0 | two\u{1b}[2J\nweb/0 | three\n",
        "in a pipe as they were written"
    );
    let json = api.run(&["logs", "shop", "-o", "json"]).with(0).out;
    assert!(
        json.lines()
            .nth(1)
            .unwrap()
            .contains(r#""container":"job""#),
        "{json}"
    );
    let ended = api.run(&["logs", "none"]).with(1);
    assert_eq!(ended.err, "there is no app none\n");
}

/// The command on a terminal of so many columns.
fn on_terminal(api: &TestApi, columns: u16, command: &str) -> String {
    let line = format!(
        "stty cols {columns} rows 24; {} {command}",
        env!("CARGO_BIN_EXE_dokkaa")
    );
    let mut script = Command::new("script");
    script
        .args(["-qec", &line, "/dev/null"])
        .env("DOKKAA_ADDR", format!("http://{}", api.addr))
        .stdin(Stdio::null());
    let ended = Ended::of(script.output().expect("script, of util-linux")).with(0);
    ended.out.replace('\r', "")
}

#[test]
fn a_terminal_gets_what_fits_and_nothing_that_it_would_obey() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    api.agent.log(
        &web().slot(0),
        [record(0, "a\u{1b}]0;title\u{7}\u{1b}[2Jb")],
    );
    let logs = on_terminal(&api, 80, "logs shop/web/0");
    assert_eq!(logs, "ab\n");
    let raw = on_terminal(&api, 80, "logs --raw shop/web/0");
    assert!(raw.contains("\u{1b}[2J"), "{raw:?}");

    api.agent.claim(&web().slot(1), "h1", revision);
    let reason = "a long reason ".repeat(12);
    api.agent.put_status(&web().slot(1), "h1", |status| {
        status.progress = Progress::Waiting;
        status.reason = Some(reason.clone());
    });
    let ps = on_terminal(&api, 80, "ps");
    assert!(ps.lines().all(|line| line.chars().count() <= 80), "{ps}");
    assert!(ps.contains("\n    a long reason a long"), "{ps}");
    assert!(ps.lines().next().unwrap().contains("STATUS"), "{ps}");
    assert_eq!(on_terminal(&api, 0, "ps"), ps, "80 where it is not known");
}

#[test]
fn every_table_fits_80_columns_and_breaks_no_word() {
    let api = TestApi::open();
    let id: ContainerId = "online-shop/web-frontend".parse().unwrap();
    let host = "ip-10-20-30-40";
    let revision = api.agent.put_manifest(&id, WEB);
    api.agent.put_host(host, None);
    api.agent.claim(&id.slot(0), host, revision);
    let ports = [("web", 20_000), ("admin", 20_001), ("metrics", 20_002)];
    api.agent.put_state(&id.slot(0), host, Phase::Ready, &ports);
    let image = format!("registry.example.com/team/web@sha256:{}", "0".repeat(64));
    let now = jiff::Timestamp::now().as_millisecond();
    let pulled = Happened::of_slot(&id.slot(0), Kind::Exited, format!("{image} was pulled"));
    api.agent.happens(now, pulled);
    for list in ["ps", "apps", "hosts", "volumes", "events"] {
        for columns in [80, 0] {
            let text = on_terminal(&api, columns, list);
            assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        }
    }
    let ps = on_terminal(&api, 80, "ps");
    assert!(ps.ends_with("\n(-o wide shows AGE, too)\n"), "{ps}");
    for (service, port) in ports {
        let address = format!("{service}=10.0.0.1:{port}");
        assert!(ps.contains(&address), "{ps}");
    }
    let wide = on_terminal(&api, 80, "ps -o wide");
    assert!(wide.lines().any(|line| line.contains("CONTAINER ID")));
    let help = on_terminal(&api, 0, "ps -h");
    assert!(help.contains("Only this app or container"));
}

#[test]
fn who_comes_from_other_tools_is_told_what_there_is() {
    let api = TestApi::open();
    for (command, hint) in [
        ("run", "dokkaa apply"),
        ("kill", "dokkaa stop"),
        ("deployments", "dokkaa rollout"),
        ("resume", "dokkaa rollout resume"),
        ("exec", "docker exec"),
        ("describe", "dokkaa why"),
        ("delete", "dokkaa rm"),
        ("cordon", "dokkaa drain"),
        ("job", "dokkaa apply"),
        ("node", "dokkaa hosts"),
        ("alloc", "dokkaa ps"),
        ("compose", "dokkaa apply"),
        ("service", "dokkaa apps"),
        ("stack", "dokkaa apps"),
        ("env", "etcd-env"),
        ("hosts delete", "dokkaa hosts rm"),
    ] {
        let words: Vec<&str> = command.split(' ').chain(["shop/web"]).collect();
        let ended = api.run(&words).with(2);
        assert!(ended.err.contains(hint), "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
    // dokkaa has these, of an app and a container.
    for args in [
        &["get", "pods"][..],
        &["get", "nodes"],
        &["scale", "web", "3"],
        &["scale", "web=3"],
        &["rm"],
    ] {
        let ended = api.run(args).with(2);
        assert!(ended.err.to_lowercase().contains("app"), "{}", ended.err);
    }
    // Nothing like it: the parser's own words.
    api.run(&["frobnicate"]).with(2);
    let addr = format!("http://{}", api.addr);
    let ended = Ended::of(
        dokkaa(&["--addr", &addr, "-o", "json", "ps"])
            .output()
            .unwrap(),
    );
    assert_eq!(ended.with(0).json()["slots"], serde_json::json!([]));

    api.file("shop/web.json", WEB);
    let ended = api.run(&["apply", "shop", "shop/web.json"]).with(2);
    assert!(ended.err.contains("names an app"), "{}", ended.err);
    let ended = api.run(&["apply", "shop"]).with(2);
    assert!(ended.err.contains("dokkaa apply ."), "{}", ended.err);
    for args in [&["events", "nope"][..], &["events", "-f", "nope"]] {
        let ended = api.run(args).with(1);
        assert_eq!(ended.err, "there is no app nope\n");
    }
    let ended = api.run(&["events"]).with(0);
    assert_eq!(
        (ended.out.as_str(), ended.err.as_str()),
        ("", "no events (--since 1h)\n")
    );
    let quiet = api.run(&["-q", "events"]).with(0);
    assert_eq!((quiet.out.as_str(), quiet.err.as_str()), ("", ""));
}

fn record(millis: i64, line: &str) -> LogRecord {
    LogRecord {
        time: jiff::Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap(),
        source: OutputStream::Stdout,
        line: line.to_owned(),
    }
}

#[test]
fn logs_are_plain_for_one_slot_and_named_for_several() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    for slot in 0..2 {
        api.make_ready(&web(), slot, revision);
    }
    api.agent
        .log(&web().slot(0), [record(0, "zero"), record(20, "again")]);
    api.agent.log(&web().slot(1), [record(10, "one")]);
    let ended = api.run(&["logs", "shop/web"]).with(0);
    assert_eq!(ended.out, "h1/0 | zero\nh1/1 | one\nh1/0 | again\n");
    let ended = api
        .run(&["logs", "-t", "--tail", "1", "shop/web/0"])
        .with(0);
    assert_eq!(ended.out, "2023-11-14T22:13:20.02Z again\n");
    let ended = api.run(&["logs", "-o", "json", "shop/web/1"]).with(0);
    assert_eq!(ended.json()["line"], "one");
    let ended = api.run(&["logs", "--previous", "shop/web/0"]).with(0);
    assert_eq!((ended.out.as_str(), ended.err.lines().count()), ("", 1));
    // A host that is not reached is a line, not an error.
    api.agent.claim(&web().slot(1), "h2", revision);
    let ended = api.run(&["logs", "shop/web"]).with(0);
    assert!(
        ended.err.starts_with("(host h2 unreachable"),
        "{}",
        ended.err
    );
    assert_eq!(ended.out.lines().count(), 2);
    api.run(&["logs", "shop/none"]).with(1);
    api.run(&["logs", "shop/web", "--since", "yesterday"])
        .with(2);
}

#[test]
fn followed_logs_go_on_as_lines_come() {
    let api = TestApi::open();
    let revision = api.agent.put_manifest(&web(), WEB);
    api.make_ready(&web(), 0, revision);
    api.agent.log(&web().slot(0), [record(0, "first")]);
    let mut running = Running::start(api.command(&["logs", "-f", "shop/web/0"]));
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "first");
    api.agent.log(&web().slot(0), [record(1, "second")]);
    assert_eq!(lines.next().unwrap().unwrap(), "second");
}

#[test]
fn events_are_a_line_each_and_json_for_programs() {
    let api = TestApi::open();
    let now = jiff::Timestamp::now().as_millisecond();
    let exited = Happened::of_slot(&web().slot(0), Kind::Exited, "exit code 1");
    api.agent.happens(now - 7_200_000, exited.clone());
    api.agent.happens(now - 2_000, exited);
    api.agent
        .happens(now - 1_000, Happened::here(Kind::EngineBack, ""));
    let ended = api.run(&["events"]).with(0);
    let lines: Vec<&str> = ended.out.lines().collect();
    let [first, last] = lines.as_slice() else {
        panic!("those of the last hour: {lines:?}");
    };
    assert!(
        first.ends_with("  h1        shop/web/0        exited      exit code 1"),
        "{first}"
    );
    assert!(
        last.ends_with("  h1        -                 engine-back"),
        "{last}"
    );
    let ended = api
        .run(&["events", "shop/web", "--since", "1d", "-o", "json"])
        .with(0);
    let events: Vec<Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 2, "{}", ended.err);
    assert_eq!(events[0]["kind"], "exited");
    assert_eq!(events[0]["container"], "web");
    let ended = api.run(&["events", "--since", "yesterday"]).with(2);
    assert!(ended.err.contains("10m"), "{}", ended.err);
}

#[test]
fn a_reader_that_goes_away_is_a_clean_end() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    api.file("web.json", WEB);
    for args in [
        &["ps"][..],
        &["ps", "-o", "json"],
        &["ps", "--watch"],
        &["get", "shop/web"],
        &["validate", "web.json"],
        &["completion", "bash"],
        &["version"],
        &["--help"],
        &["cloud-config", "--format", "unit"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = api.command(args);
        command.stdout(writer);
        let ended = Ended::of(command.output().unwrap());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{args:?}");
    }
}

#[test]
fn no_agent_is_exit_code_6_with_what_to_do() {
    // A port that nobody listens on: bound and left.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let addr = format!("http://127.0.0.1:{port}");
    for args in [
        &["ps"][..],
        &["hosts"],
        &["status"],
        &["get", "shop/web"],
        &["why", "shop/web"],
        &["dns", "web.shop"],
        &["logs", "shop/web"],
        &["rm", "shop/web", "--yes"],
        &["scale", "shop/web=1"],
    ] {
        let mut command = dokkaa(args);
        let ended = Ended::of(command.args(["--addr", &addr]).output().unwrap()).with(6);
        assert!(ended.err.contains("dokkaa up") && ended.err.contains("DOKKAA_ADDR"));
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
}

#[test]
fn a_silent_agent_is_given_up_after_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let ended = Ended::of(
        dokkaa(&["ps", "--addr", &addr, "--timeout", "300ms"])
            .output()
            .unwrap(),
    )
    .with(6);
    assert!(
        ended.err.contains("no answer within 300ms"),
        "{}",
        ended.err
    );
}

#[test]
fn who_waits_for_long_is_told_for_what() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let mut waiting = dokkaa(&["status", "--addr", &addr]).spawn().unwrap();
    let mut line = String::new();
    let mut stderr = BufReader::new(waiting.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert_eq!(
        line,
        format!("waiting for http://{addr} to answer, for 30s at most; --timeout sets that\n")
    );
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

#[test]
fn what_is_no_agent_is_said_to_be_none() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    runtime.spawn(async move { axum::serve(listener, Router::new()).await });
    let ended = Ended::of(dokkaa(&["ps", "--addr", &addr]).output().unwrap()).with(1);
    assert!(ended.err.contains("is not a dokkaa agent"), "{}", ended.err);
}

#[test]
fn wrong_usage_and_wrong_configuration_are_exit_code_2() {
    let api = TestApi::open();
    for args in [
        &["nothing"][..],
        &["ps", "--nothing"],
        &["ps", "Shop"],
        &["ps", "--addr", "https://h"],
        &["scale", "shop/web=many"],
        &["logs", "shop/web/x"],
        &["agent", "--host-ip", "x"],
        &["agent", "--docker", "tcp://10.0.0.1:2375"],
        &["agent", "--keys-listen", "0.0.0.0:0"],
        &["up", "--etcd", "127.0.0.1:1"],
    ] {
        let ended = api.run(args).with(2);
        assert_eq!(ended.out, "", "{args:?}");
        assert!(!ended.err.is_empty(), "{args:?}");
    }
    let ended = api.run(&["agent", "--lease-ttl", "1s"]).with(2);
    assert_eq!(ended.err, "--lease-ttl: `1s` is too short; at least 5s\n");
}

/// What an agent says that is to start with these variables and flags.
fn refusal(command: &str, variables: &[(&str, &str)], flags: &[&str]) -> String {
    let mut command = dokkaa(&[command]);
    command.args(flags).envs(variables.iter().copied());
    Ended::of(command.output().unwrap()).with(2).err
}

#[test]
fn a_wrong_variable_is_named_and_a_flag_wins_over_it() {
    for (variable, flag, wrong, right, says) in [
        (
            "ETCD_ADDR",
            "--etcd",
            "ftp://x",
            "x:1",
            "is not an endpoint",
        ),
        (
            "DOKKAA_ETCD_USER",
            "--etcd-user",
            "x",
            "x:y",
            "expected name:password",
        ),
        (
            "DOKKAA_LEASE_TTL",
            "--lease-ttl",
            "1s",
            "1m30s",
            "at least 5s",
        ),
        (
            "DOKKAA_RESTART_GRACE",
            "--restart-grace",
            "1w",
            "2d",
            "expected a duration",
        ),
        (
            "DOCKER_HOST",
            "--docker",
            "tcp://h:1",
            "/d.sock",
            "not an engine on this machine",
        ),
        (
            "DOKKAA_PORT_RANGE",
            "--port-range",
            "x",
            "1-2",
            "20000-29999",
        ),
        (
            "DOKKAA_INSTANCE_PORTS",
            "--instance-ports",
            "x",
            "open",
            "peers nor open",
        ),
        ("DOKKAA_DISK_LIMITS", "--disk-limits", "9", "8,9", "85,95"),
        (
            "HOST_IP",
            "--host-ip",
            "x",
            "10.0.0.1",
            "is not an IP address",
        ),
        ("DOKKAA_NAME", "--name", "A_b", "a", "`A_b`"),
        (
            "DOKKAA_LABELS",
            "--label",
            "a=1,b",
            "a=1,b=2",
            "expected key=value",
        ),
        (
            "DOKKAA_KEYS_LISTEN",
            "--keys-listen",
            "x",
            "0.0.0.0:0",
            "127.0.0.1:4001",
        ),
        (
            "DOKKAA_DNS_LISTEN",
            "--dns-listen",
            "x",
            "off",
            "127.0.0.1:53",
        ),
        (
            "DOKKAA_PEER_LISTEN",
            "--peer-listen",
            "x",
            "off",
            "127.0.0.1:4003",
        ),
        (
            "DOKKAA_METRICS_LISTEN",
            "--metrics-listen",
            "x",
            "off",
            "127.0.0.1:4002",
        ),
        ("DOKKAA_DOMAIN", "--domain", "a..b", "a.b", "`a..b`"),
        (
            "DOKKAA_DNS_UPSTREAM",
            "--dns-upstream",
            "x",
            "10.0.0.2,[::1]:5353",
            "`x` is not a resolver",
        ),
        (
            "DOKKAA_DNS_STUB",
            "--dns-stub",
            "10.0.0.2",
            "a.b=10.0.0.2",
            "expected zone=ip",
        ),
        (
            "DOKKAA_DNS_ALLOW",
            "--dns-allow",
            "10.1.0.0/8",
            "10.0.0.0/8",
            "expected `10.0.0.0/8`",
        ),
        (
            "DOKKAA_LOG_FORMAT",
            "--log-format",
            "xml",
            "json",
            "not one of text, json",
        ),
    ] {
        // Refused for its API, once all else is read.
        let open = ["--host-ip=10.0.0.1", "--name=a", "--keys-listen=0.0.0.0:0"];
        let others: Vec<&str> = open
            .into_iter()
            .filter(|one| !one.starts_with(flag))
            .collect();
        let said = refusal("agent", &[(variable, wrong)], &others);
        assert!(said.starts_with(&format!("{variable}: ")), "{said}");
        assert!(said.contains(says), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let given = [&others[..], &[flag, right]].concat();
        let said = refusal("agent", &[(variable, wrong)], &given);
        assert!(said.starts_with("--keys-listen: whoever reaches"), "{said}");
        let said = refusal("agent", &[(variable, "")], &[&open[..], &[]].concat());
        assert!(
            said.starts_with("--keys-listen: whoever reaches"),
            "{variable}: {said}"
        );
    }
    let insecure = refusal("agent", &[("DOKKAA_INSECURE", "maybe")], &[]);
    assert_eq!(
        insecure,
        "DOKKAA_INSECURE: `maybe` is neither true nor false\n"
    );
    let cert = refusal("agent", &[("DOKKAA_ETCD_CERT", "x")], &[]);
    assert!(cert.contains("--etcd-key"), "{cert}");
    // The etcd of others is none of its business.
    let others = [("ETCD_ADDR", "ftp://x"), ("DOKKAA_ETCD_CERT", "x")];
    let said = refusal("up", &others, &["--keys-listen=0.0.0.0:0"]);
    assert!(said.starts_with("--keys-listen: whoever reaches"), "{said}");
}

/// What bash offers for the last word.
fn completed(mut command: Command, words: &[&str]) -> Vec<String> {
    command
        .env("DOKKAA_COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .args(["--", "dokkaa"])
        .args(words);
    let ended = Ended::of(command.output().unwrap()).with(0);
    assert_eq!(ended.err, "");
    ended.out.lines().map(str::to_owned).collect()
}

#[test]
fn completion_knows_apps_containers_slots_and_hosts() {
    let api = TestApi::open();
    for id in ["shop/web", "shop/db", "blog/site"] {
        let id: ContainerId = id.parse().unwrap();
        let revision = api.agent.put_manifest(&id, WEB);
        api.make_ready(&id, 0, revision);
    }
    api.file("shop-manifests/shop/web.json", WEB);
    let offered = |words: &[&str]| completed(api.command(&[]), words);
    assert_eq!(offered(&["get", "sh"]), ["shop/db", "shop/web"]);
    assert_eq!(offered(&["ps", "s"]), ["shop", "shop/db", "shop/web"]);
    assert_eq!(offered(&["scale", "shop/w"]), ["shop/web="]);
    assert_eq!(
        offered(&["volumes", "rm", "blog"]),
        ["blog/site/0", "blog/site/1"]
    );
    assert_eq!(
        offered(&["logs", "-f", "shop/web/"]),
        ["shop/web/0", "shop/web/1"]
    );
    assert_eq!(
        offered(&["apply", "shop"]),
        ["shop/db", "shop/web", "shop-manifests/"]
    );
    assert_eq!(
        offered(&["plan", "shop"]),
        ["shop/db", "shop/web", "shop-manifests/"]
    );
    for command in [&["pause", ""][..], &["hosts", "rm", "h"], &["label", "h"]] {
        assert!(offered(command).contains(&"h1".to_owned()), "{command:?}");
    }
    // Without an agent there are no names, and no words about it.
    let away = |words: &[&str]| {
        let mut command = dokkaa(&[]);
        command.env("DOKKAA_ADDR", "http://127.0.0.1:1");
        completed(command, words)
    };
    assert_eq!(away(&["get", "sh"]), Vec::<String>::new());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut silent = dokkaa(&[]);
    silent.env("DOKKAA_ADDR", listener.local_addr().unwrap().to_string());
    assert_eq!(completed(silent, &["pause", "h"]), Vec::<String>::new());
}

#[test]
fn bash_completes_with_the_script() {
    let api = TestApi::open();
    api.agent.put_manifest(&web(), WEB);
    let program = PathBuf::from(env!("CARGO_BIN_EXE_dokkaa"));
    let mut bash = Command::new("bash");
    bash.args([
        "-c",
        "source <(dokkaa completion bash); COMP_WORDS=(dokkaa get sh); COMP_CWORD=2; COMP_TYPE=9
         _clap_complete_dokkaa dokkaa sh get 2>&1; printf '%s\\n' \"${COMPREPLY[@]}\"",
    ])
    .env(
        "PATH",
        format!("{}:/usr/bin:/bin", program.parent().unwrap().display()),
    )
    .env("DOKKAA_ADDR", format!("http://{}", api.addr));
    let ended = Ended::of(bash.output().expect("bash")).with(0);
    assert_eq!(ended.out, "shop/web\n");
}

#[test]
fn the_example_s_missing_etcd_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state").display().to_string();
    let mut command = dokkaa(&["up", "--example", "--state-dir", &state]);
    command.args(["--etcd-program", "no-such-etcd"]);
    let said = Ended::of(command.output().unwrap()).with(1).err;
    assert!(said.contains("apt-get install etcd-server"), "{said}");
    assert!(!folder.path().join("state").exists());
}

#[test]
fn a_machine_gets_an_identity_of_its_own_where_it_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let reset = |code| {
        let output = dokkaa(&["reset-id", "--state-dir", state]).output();
        Ended::of(output.unwrap()).with(code)
    };
    let file = folder.path().join("host.json");
    let said = reset(1).err;
    assert!(said.contains("host.json"), "{said}");
    assert_eq!(std::fs::read_dir(state).unwrap().count(), 0);
    std::fs::write(&file, "{").unwrap();
    let id = reset(0).out;
    let id = id.split(' ').nth(6).unwrap();
    assert!(std::fs::read_to_string(&file).unwrap().contains(id), "{id}");
}

#[test]
fn help_teaches_by_example_and_completion_knows_the_commands() {
    let commands = [
        "validate",
        "plan",
        "diff",
        "apply",
        "get",
        "set",
        "scale",
        "history",
        "rollback",
        "rollout",
        "restart",
        "stop",
        "start",
        "ps",
        "hosts",
        "status",
        "logs",
        "rm",
        "why",
        "dns",
        "completion",
        "up",
        "down",
        "etcd-env",
        "agent",
        "reset-id",
        "cloud-config",
    ];
    let offered = completed(dokkaa(&[]), &[""]);
    for command in commands {
        let help = Ended::of(dokkaa(&[command, "--help"]).output().unwrap()).with(0);
        assert!(help.out.contains("Examples:"), "{command}");
        assert!(offered.iter().any(|name| name == command), "{command}");
    }
    let version = Ended::of(dokkaa(&["version"]).output().unwrap()).with(0);
    assert_eq!(
        version.out,
        format!("dokkaa {}\n", env!("CARGO_PKG_VERSION"))
    );
    let metrics: BTreeMap<&str, &str> =
        [("--metrics-listen", "4002"), ("--keys-listen", "4001")].into();
    let agent = Ended::of(dokkaa(&["agent", "--help"]).output().unwrap()).with(0);
    for (flag, default) in metrics {
        assert!(agent.out.contains(flag) && agent.out.contains(default));
    }
}
