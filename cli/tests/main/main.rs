//! The real binary against the API of an agent in memory: exit codes, output, pipes.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod apply;
mod completion;
mod dns;
mod lists;
mod logs;
mod no_agent;
mod operator;
mod plan;
mod usage;
mod versions;
mod wait;

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

/// The next version of a container, as agents write it.
fn put_version(api: &TestApi, id: &ContainerId, manifest: &str, digest: &str, good: bool) -> i64 {
    let revision = api.agent.put_manifest(id, manifest);
    let manifest: Value = serde_json::from_str(manifest).unwrap();
    let version = serde_json::json!({"manifest": manifest, "image": digest, "good": good});
    let key = manifests::keys::Key::Version(id.clone(), revision);
    api.agent.put(&key, version.to_string().as_bytes());
    revision
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

fn record(millis: i64, line: &str) -> LogRecord {
    LogRecord {
        time: jiff::Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap(),
        source: OutputStream::Stdout,
        line: line.to_owned(),
    }
}
