//! dokkaa on three hosts with real engines and a real etcd.
//!
//! Each test has a lab to itself and an app of its own there; the next test
//! gets the lab as the one before left it, with nothing running.

mod api_access;
mod bad_input;
mod before;
mod check;
mod cli;
mod containers;
mod events;
mod example;
mod failed_updates;
mod failover;
mod faults;
mod firewall;
mod full_disk;
mod global;
mod hands;
mod image_policy;
mod images;
mod links;
mod metrics;
mod names;
mod network;
mod operator;
mod preview;
mod registry;
mod restart;
mod scale;
mod short_names;
mod three_hosts;
mod troubles;
mod tutorial;
mod under_load;
mod update;
mod volumes;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::engine::Container;
use dokkaa_tests::host::Host;
use dokkaa_tests::http::Answer;
use dokkaa_tests::process::tail;
use dokkaa_tests::{Lab, LabOptions, lab, wait_for};
use serde_json::{Value, json};

/// Long enough for anything on a busy machine.
const CAP: Duration = Duration::from_secs(90);

/// More labs at once than this would wait for the machine and not for each other.
const MOST_LABS: usize = 4;

/// The labs: those that no test has, and how many there are.
static LABS: Mutex<(Vec<&'static Lab>, usize)> = Mutex::new((Vec::new(), 0));
static LAB_IS_FREE: Condvar = Condvar::new();

/// A lab that a test has to itself.
struct Cluster {
    lab: &'static Lab,
}

impl Cluster {
    /// One that is free, or a new one.
    fn take() -> Self {
        let most = thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST_LABS));
        let labs = LABS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut labs = LAB_IS_FREE
            .wait_while(labs, |(free, all)| free.is_empty() && *all >= most)
            .unwrap_or_else(PoisonError::into_inner);
        let lab = if let Some(lab) = labs.0.pop() {
            lab
        } else {
            let lab = Lab::start(&LabOptions::default()).expect("a lab");
            labs.1 += 1;
            // Not dropped at the end of the process, but it ends with it all the same.
            Box::leak(Box::new(lab))
        };
        Self { lab }
    }

    fn app(&self, name: &str) -> App {
        App {
            name: name.to_owned(),
            lab: self.lab,
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut labs = LABS.lock().unwrap_or_else(PoisonError::into_inner);
        labs.0.push(self.lab);
        LAB_IS_FREE.notify_one();
    }
}

/// An app, whose manifests go with it.
struct App {
    name: String,
    lab: &'static Lab,
}

/// One line of `dokkaa ps`.
#[derive(Debug, Clone)]
struct Row {
    slot: Option<u64>,
    host: String,
    status: String,
    reason: String,
    outdated: bool,
    ports: Vec<(String, u16)>,
}

impl App {
    /// PUTs a manifest that is to be accepted.
    #[track_caller]
    fn put(&self, container: &str, manifest: &Value) {
        // Where a slot is placed is what tests look at: nothing else is to move it.
        let mut manifest = manifest.clone();
        if manifest.get("rebalance").is_none() {
            manifest["rebalance"] = json!("off");
        }
        let answer = self.try_put(container, &manifest.to_string());
        assert!(matches!(answer.status, 200 | 201), "{answer:?}");
        // What is asked next is asked of a view that knows of it, or says that it is not up to date.
        let written = answer.json().expect("JSON")["node"]["modifiedIndex"].as_i64();
        wait_for("the PUT in the agent's view", CAP, || {
            let slots = self.slots()?;
            let is_stale = slots["stale"].as_bool().unwrap_or_default();
            if is_stale || slots["revision"].as_i64() >= written {
                Ok(())
            } else {
                Err(format!("it is at {}", slots["revision"]))
            }
        });
    }

    /// PUTs any text over the API.
    fn try_put(&self, container: &str, manifest: &str) -> Answer {
        self.lab
            .host(1)
            .put(&self.name, container, manifest)
            .expect("an answer")
    }

    /// Writes any text straight into etcd.
    fn smuggle(&self, container: &str, manifest: &str) {
        self.lab
            .etcd()
            .put(&self.key(container), manifest)
            .expect("etcd");
    }

    fn key(&self, container: &str) -> String {
        format!("/apps/{}/{container}/manifest", self.name)
    }

    #[track_caller]
    fn delete(&self, container: &str) {
        let answer = self
            .lab
            .host(1)
            .delete(&self.name, container)
            .expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// All slots as an agent sees them.
    fn slots(&self) -> Result<Value, String> {
        let answer = self.lab.host(1).api("GET", "/dokkaa/v1/slots", &[], "");
        answer
            .and_then(Answer::ok)
            .and_then(|answer| answer.json())
            .map_err(|error| format!("{error:#}"))
    }

    /// The slots of a container as an agent sees them.
    fn rows(&self, container: &str) -> Result<Vec<Row>, String> {
        let answer = self.slots()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(answer["slots"]
            .as_array()
            .ok_or_else(|| format!("no slots in {answer}"))?
            .iter()
            .filter(|row| row["app"] == self.name.as_str() && row["container"] == container)
            .map(|row| Row {
                slot: row["slot"].as_u64(),
                host: text(&row["host"]),
                status: text(&row["status"]),
                reason: text(&row["reason"]),
                outdated: row["outdated"].as_bool().unwrap_or_default(),
                ports: row["ports"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|port| {
                        let number = port["port"].as_u64().unwrap_or_default();
                        (text(&port["addr"]), number as u16)
                    })
                    .collect(),
            })
            .collect())
    }

    /// The running containers of one of its containers, by slot.
    fn running(&self, container: &str) -> Vec<(&'static Host, Container)> {
        let mut all: Vec<_> = self
            .lab
            .containers(&self.name)
            .expect("containers")
            .into_iter()
            .filter(|(_, one)| one.runs() && one.label("container") == container)
            .filter(|(_, one)| !one.labels.contains_key("dokkaa.before"))
            .collect();
        all.sort_by_key(|(_, one)| one.label("slot").parse::<u32>().ok());
        all
    }

    /// The ids of what runs, by slot.
    fn ids(&self, container: &str) -> Vec<String> {
        self.running(container)
            .into_iter()
            .map(|(_, one)| one.id)
            .collect()
    }

    /// Waits until exactly `scale` slots run and are ready on the manifest as
    /// it is now; what runs then, by slot.
    #[track_caller]
    fn ready(&self, container: &str, scale: usize) -> Vec<(&'static Host, Container)> {
        let what = format!("{scale} ready slots of {}/{container}", self.name);
        wait_for(&what, CAP, || {
            let rows = self.rows(container)?;
            let good = rows
                .iter()
                .filter(|row| row.status == "ready" && !row.outdated)
                .count();
            let running = self.running(container);
            let slots: Vec<&str> = running.iter().map(|(_, one)| one.label("slot")).collect();
            let wanted: Vec<String> = (0..scale).map(|slot| slot.to_string()).collect();
            if rows.len() == scale && good == scale && slots == wanted {
                Ok(running)
            } else {
                Err(format!("running: {slots:?}; rows: {rows:#?}"))
            }
        })
    }

    /// Waits until a row of the container is as wanted.
    #[track_caller]
    fn row(&self, container: &str, what: &str, wanted: impl Fn(&Row) -> bool) -> Row {
        let what = format!("a slot of {}/{container} that is {what}", self.name);
        wait_for(&what, CAP, || {
            let rows = self.rows(container)?;
            rows.iter()
                .find(|row| wanted(row))
                .cloned()
                .ok_or_else(|| format!("{rows:#?}"))
        })
    }

    /// The claims of a container by slot, as they stand in etcd.
    #[track_caller]
    fn claims(&self, container: &str) -> BTreeMap<u32, Value> {
        self.lab
            .etcd()
            .list(&format!("/claims/{}/{container}/slots/", self.name))
            .expect("etcd")
            .into_iter()
            .filter_map(|(key, value)| {
                let slot = key.rsplit('/').next()?.parse().ok()?;
                Some((slot, serde_json::from_str(&value).expect("a claim")))
            })
            .collect()
    }

    /// A client of it fetches so many pages one after the other.
    fn fetches(&self, client: &str, slot: usize, variable: &str, times: u32) -> Result<(), String> {
        let fetch = format!(
            "timeout 2 wget -q -O - http://$SERVICE_{variable}_ADDR:$SERVICE_{variable}_PORT/"
        );
        let script = format!("for i in $(seq {times}); do {fetch} || exit 1; done");
        self.exec(client, slot, &["sh", "-c", &script]).map(drop)
    }

    /// Waits until nothing of a container runs.
    #[track_caller]
    fn gone(&self, container: &str) {
        wait_for("the end of its containers", CAP, || {
            let left = self.running(container);
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{} run", left.len()))
            }
        });
    }

    /// Waits until the output of a slot's container has a text.
    #[track_caller]
    fn prints(&self, container: &str, slot: usize, text: &str) {
        let what = format!("{text:?} from {}/{container}/{slot}", self.name);
        wait_for(&what, CAP, || {
            let running = self.running(container);
            let (host, one) = running.get(slot).ok_or("it does not run")?;
            let log = output(host, &one.id);
            if log.contains(text) {
                Ok(())
            } else {
                Err(tail(&log, 5))
            }
        });
    }

    /// The name of a service in DNS.
    fn domain(&self, service: &str) -> String {
        format!("{service}.{}.skydns.local", self.name)
    }

    /// Runs a command in a running container.
    fn exec(&self, container: &str, slot: usize, words: &[&str]) -> Result<String, String> {
        let running = self.running(container);
        let (host, one) = running.get(slot).ok_or("it does not run")?;
        host.docker(&[&["exec", &one.id], words].concat())
            .map_err(|error| format!("{error:#}"))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        if std::thread::panicking() {
            report(&self.diagnosis());
            if let Err(error) = self.lab.heal(&AgentOptions::default()) {
                report(&format!("the lab can't be healed: {error:#}"));
            }
            // The next test is to have all hosts.
            for host in self.lab.hosts() {
                let _ = self.lab.host(1).dokkaa(&["activate", host.name()]);
            }
        }
        let path = format!("/v2/keys/apps/{}?recursive=true", self.name);
        let answer = self.lab.host(1).api("DELETE", &path, &[], "");
        let left = dokkaa_tests::try_wait_for("the end of the app", CAP, || {
            let all = self
                .lab
                .containers(&self.name)
                .map_err(|error| format!("{error:#}"))?;
            let running = all.iter().filter(|(_, one)| one.runs()).count();
            // What is still claimed counts as load where the next test's slots are placed.
            let keys = self.lab.etcd().list(&format!("/claims/{}/", self.name));
            let keys = keys.map_err(|error| format!("{error:#}"))?;
            let claims = keys
                .iter()
                .filter(|(key, _)| key.contains("/slots/"))
                .count();
            if running == 0 && claims == 0 {
                Ok(())
            } else {
                Err(format!(
                    "{running} containers run, {claims} claims; DELETE: {answer:?}"
                ))
            }
        });
        if let Err(error) = left {
            if std::thread::panicking() {
                report(&error.to_string());
            } else {
                panic!("{}: {error}", self.name);
            }
        }
    }
}

impl App {
    /// What may tell why a test failed.
    fn diagnosis(&self) -> String {
        let mut text = format!("=== {} ===\n", self.name);
        match self.lab.host(1).dokkaa(&["ps", &self.name]) {
            Ok(ran) => writeln!(text, "{ran}").ok(),
            Err(error) => writeln!(text, "{error:#}").ok(),
        };
        for host in self.lab.hosts() {
            let log = host.agent_log();
            let of_app: Vec<&str> = log
                .lines()
                .filter(|line| line.contains(&self.name) || line.contains(" ERROR "))
                .collect();
            writeln!(text, "--- {} ---", host.name()).ok();
            writeln!(text, "{}", tail(&of_app.join("\n"), 40)).ok();
        }
        text
    }
}

/// What a container has printed.
fn output(host: &Host, id: &str) -> String {
    host.run(&["docker", "logs", id])
        .map(|ran| ran.stdout + &ran.stderr)
        .unwrap_or_default()
}

/// A web server of one page, with a service `web`.
fn web(page: &str) -> Value {
    json!({
        "image": "busybox",
        "services": {"web": 80},
        "stop_signal": "SIGKILL",
        "command": ["sh", "-c", serve(page)],
    })
}

/// A shell command that serves a page on port 80.
fn serve(page: &str) -> String {
    format!("mkdir -p /w && echo '{page}' >/w/index.html && exec httpd -f -p 80 -h /w")
}

/// A client that fetches from a link again and again and prints what it gets.
fn client(link: &str, variable: &str) -> Value {
    let fetch =
        format!("timeout 2 wget -q -O - http://$SERVICE_{variable}_ADDR:$SERVICE_{variable}_PORT/");
    json!({
        "image": "busybox",
        "links": [link],
        "stop_signal": "SIGKILL",
        "command": ["sh", "-c", format!("while true; do {fetch} 2>&1 || echo failed; sleep 0.2; done")],
    })
}

/// A manifest with a field changed.
fn with(mut manifest: Value, field: &str, value: Value) -> Value {
    manifest[field] = value;
    manifest
}

/// What DNS on every host's gateway says, once all say the same.
#[track_caller]
fn resolved(lab: &Lab, name: &str, kind: &str, wanted: &[String]) {
    let mut wanted = wanted.to_vec();
    wanted.sort();
    wait_for(&format!("{kind} of {name} to be {wanted:?}"), CAP, || {
        let answers = lab::each(lab.hosts(), |host| {
            let at = format!("@{}", host.gateway()?);
            host.dig(&[&at, name, kind])
        })
        .map_err(|error| format!("{error:#}"))?;
        if answers.iter().all(|answer| *answer == wanted) {
            Ok(())
        } else {
            Err(format!("{answers:?}"))
        }
    });
}

/// Seconds since 1970, as engines tell time.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn report(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}
