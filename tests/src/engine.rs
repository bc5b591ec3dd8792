//! A Docker Engine of its own inside a node, and questions to its API.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::http::{self, Answer, Target};
use crate::node::Node;
use crate::process::Process;
use crate::release::EngineRelease;

const START_CAP: Duration = Duration::from_secs(60);

/// A dockerd.
#[derive(Debug)]
pub struct Engine {
    process: Mutex<Process>,
    node: Arc<Node>,
    release: EngineRelease,
    arguments: Vec<String>,
    min_api: Option<String>,
    socket: PathBuf,
}

/// How to run it.
#[derive(Debug, Clone)]
pub struct EngineOptions<'a> {
    /// Which one: its programs are those of the node.
    pub release: EngineRelease,
    /// What its control groups are below.
    pub cgroup: &'a str,
    /// The network whose registries need no TLS.
    pub insecure_registry: &'a str,
    /// The oldest API version that it speaks, if not its own choice.
    pub min_api: Option<String>,
}

/// A container as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name, without the slash.
    pub name: String,
    /// `created`, `running`, `exited` …
    pub state: String,
    /// The image it was made from.
    pub image: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// `create`, `start`, `die`, `destroy` …
    pub action: String,
    /// The container's id.
    pub id: String,
    /// The container's labels and, as `name`, its name.
    pub attributes: BTreeMap<String, String>,
    /// When, in seconds since 1970.
    pub time: f64,
}

impl Event {
    fn read(value: Value) -> Option<Self> {
        Some(Self {
            action: value["Action"].as_str()?.to_owned(),
            id: value["Actor"]["ID"].as_str()?.to_owned(),
            attributes: value["Actor"]["Attributes"]
                .as_object()?
                .iter()
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            time: value["timeNano"].as_f64()? / 1e9,
        })
    }
}

impl Container {
    /// One of our labels, without `dokkaa.`.
    pub fn label(&self, name: &str) -> &str {
        self.labels
            .get(&format!("dokkaa.{name}"))
            .map_or("", String::as_str)
    }

    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.state == "running"
    }
}

impl Engine {
    /// Starts dockerd in a node.
    pub fn start(node: &Arc<Node>, options: EngineOptions<'_>) -> anyhow::Result<Self> {
        if let Some(settings) = options.release.settings() {
            node.sh(&format!("echo '{settings}' >/etc/docker/daemon.json"))?;
        }
        let socket = node.folder().join("docker.sock");
        let unix = format!("unix://{}", socket.display());
        let arguments = [
            ["--data-root", "/var/lib/docker"],
            ["--exec-root", "/run/docker"],
            ["--pidfile", "/run/docker.pid"],
            // Where programs of the node look for it, and where we do.
            ["--host", "unix:///run/docker.sock"],
            ["--host", &unix],
            ["--exec-opt", "native.cgroupdriver=cgroupfs"],
            ["--cgroup-parent", options.cgroup],
            ["--insecure-registry", options.insecure_registry],
        ];
        let arguments: Vec<String> = arguments.concat().into_iter().map(str::to_owned).collect();
        let process = launch(node, &arguments, options.min_api.as_deref(), &[])?;
        Ok(Self {
            process: Mutex::new(process),
            node: Arc::clone(node),
            release: options.release,
            arguments,
            min_api: options.min_api,
            socket,
        })
    }

    /// Starts dockerd again after its end, with more arguments, and waits
    /// until it answers.
    pub fn start_again(&self, more: &[&str]) -> anyhow::Result<()> {
        // What another process has under the old one's number is not dockerd.
        self.node.sh("rm -f /run/docker.pid")?;
        *self.process() = launch(&self.node, &self.arguments, self.min_api.as_deref(), more)?;
        self.wait_ready()
    }

    /// Which one it is.
    pub fn release(&self) -> EngineRelease {
        self.release
    }

    /// Waits until it answers.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        let target = Target::Unix(self.socket.clone());
        self.process()
            .wait_while_running("its first answer", START_CAP, || {
                http::request(&target, "GET", "/_ping", &[], b"")
                    .and_then(Answer::ok)
                    .map_err(|error| format!("{error:#}"))
            })?;
        Ok(())
    }

    /// Sends dockerd a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process().signal(signal)
    }

    /// Kills dockerd; its containers run on.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.process().kill()
    }

    /// Whether dockerd runs, frozen or not.
    pub fn runs(&self) -> bool {
        self.process().poll_exit().is_none()
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its socket, as seen on the machine.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.process().log()
    }

    /// One request to its API.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let body = body.map(Value::to_string).unwrap_or_default();
        http::request(
            &Target::Unix(self.socket.clone()),
            method,
            path,
            &[("Content-Type", "application/json")],
            body.as_bytes(),
        )?
        .ok()
    }

    /// A GET that answers JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.call("GET", path, None)?.json()
    }

    /// Loads an archive of images.
    pub fn load(&self, archive: &Path) -> anyhow::Result<()> {
        let bytes = std::fs::read(archive)?;
        let answer = http::request(
            &Target::Unix(self.socket.clone()),
            "POST",
            "/images/load?quiet=1",
            &[("Content-Type", "application/x-tar")],
            &bytes,
        )?
        .ok()?;
        if answer.body.contains("errorDetail") {
            anyhow::bail!("docker load: {}", answer.body);
        }
        Ok(())
    }

    /// All containers that carry every one of these labels (`key=value`),
    /// running or not.
    pub fn containers(&self, labels: &[&str]) -> anyhow::Result<Vec<Container>> {
        let filters = json!({ "label": labels }).to_string();
        let list = self.get(&format!(
            "/containers/json?all=1&filters={}",
            http::escape(&filters)
        ))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut found: Vec<Container> = list
            .as_array()
            .context("a list of containers")?
            .iter()
            .map(|one| Container {
                id: text(&one["Id"]),
                name: text(&one["Names"][0]).trim_start_matches('/').to_owned(),
                state: text(&one["State"]),
                image: text(&one["Image"]),
                labels: one["Labels"]
                    .as_object()
                    .map(|labels| {
                        labels
                            .iter()
                            .map(|(key, value)| (key.clone(), text(value)))
                            .collect()
                    })
                    .unwrap_or_default(),
            })
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Everything the engine knows of one container.
    pub fn inspect(&self, id: &str) -> anyhow::Result<Value> {
        self.get(&format!("/containers/{id}/json"))
    }

    /// Whether a container of that id or name exists.
    pub fn has(&self, id: &str) -> bool {
        self.inspect(id).is_ok()
    }

    /// Events of containers between two moments (seconds since 1970).
    pub fn events(&self, since: f64, until: f64) -> anyhow::Result<Vec<Event>> {
        let filters = json!({ "type": ["container"] }).to_string();
        let answer = self.call(
            "GET",
            &format!(
                "/events?since={since:.6}&until={until:.6}&filters={}",
                http::escape(&filters)
            ),
            None,
        )?;
        Ok(answer
            .body
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter_map(Event::read)
            .collect())
    }

    /// Events of containers from now on, as they happen. The stream ends with
    /// the engine.
    pub fn watch(&self) -> anyhow::Result<Receiver<Event>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        let filters = json!({ "type": ["container"] }).to_string();
        write!(
            stream,
            "GET /events?filters={} HTTP/1.0\r\nHost: docker\r\n\r\n",
            http::escape(&filters)
        )?;
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        lines.read_line(&mut line)?;
        ensure!(line.contains(" 200 "), "events: {line}");
        let (send, receive) = channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).ok().and_then(Event::read);
                if let Some(event) = event
                    && send.send(event).is_err()
                {
                    return;
                }
            }
        });
        Ok(receive)
    }

    /// Removes a container, running or not.
    pub fn remove(&self, id: &str) -> anyhow::Result<()> {
        self.call("DELETE", &format!("/containers/{id}?force=1"), None)?;
        Ok(())
    }
}

fn launch(
    node: &Node,
    arguments: &[String],
    min_api: Option<&str>,
    more: &[&str],
) -> anyhow::Result<Process> {
    let mut command = node.command("dockerd");
    command.args(arguments).args(more);
    if let Some(oldest) = min_api {
        command.env("DOCKER_MIN_API_VERSION", oldest);
    }
    node.start("dockerd", command)
}
