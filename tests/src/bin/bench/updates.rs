//! Ten slots over three hosts are updated two at a time, and drained from one host; and what `plan` says of a thousand
//! containers.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use dokkaa_tests::{Lab, try_wait_for};
use serde_json::{Value, json};

use crate::{median, verdict};

const ROUNDS: usize = 5;
const SLOTS: usize = 10;
const PARALLELISM: usize = 2;
const MONITOR: f64 = 2.0;
const CAP: Duration = Duration::from_secs(180);
/// How often the time of its steps an update may take.
const UPDATE: f64 = 1.2;
/// How often the time of a start of all slots a drain may take.
const DRAIN: f64 = 2.0;
const PLANNED: usize = 1_000;
const APPS: usize = 20;
/// Seconds.
const PLAN: f64 = 1.0;
const CLAIMS: &str = "/claims/bench/updates/";

pub(crate) struct Updates {
    one: Vec<f64>,
    update: f64,
    start: f64,
    drain: f64,
    plan: Vec<f64>,
}

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<Updates> {
    let mut one = Vec::new();
    for round in 0..=ROUNDS {
        let took = start(lab, 1)?;
        stop(lab)?;
        // The first round warms up.
        if round > 0 {
            one.push(took);
        }
    }
    start(lab, SLOTS)?;
    let begin = Instant::now();
    let version = put(lab, &manifest(SLOTS, "2"))?;
    wait("the update", || {
        let all = of_slots(lab)?;
        let is_new = |claim: &Value| claim["version"] == version;
        let is_over = all.claims.iter().all(is_new) && !all.is_updating;
        (all.ready == SLOTS && is_over).then_some(()).ok_or(all)
    })?;
    let update = begin.elapsed().as_secs_f64();
    stop(lab)?;

    let (drained, others) = (lab.host(3).name(), &lab.hosts()[..2]);
    for host in others {
        set(lab, host.name(), "pause")?;
    }
    let start = start(lab, SLOTS)?;
    for host in others {
        set(lab, host.name(), "active")?;
    }
    let begin = Instant::now();
    set(lab, drained, "drain")?;
    wait("the drain", || {
        let all = of_slots(lab)?;
        let is_there = |claim: &Value| claim["host"] == drained;
        let is_over = !all.claims.iter().any(is_there);
        (all.ready == SLOTS && is_over).then_some(()).ok_or(all)
    })?;
    let drain = begin.elapsed().as_secs_f64();
    set(lab, drained, "active")?;
    stop(lab)?;
    Ok(Updates {
        one,
        update,
        start,
        drain,
        plan: plan(lab)?,
    })
}

fn manifest(slots: usize, version: &str) -> Value {
    json!({
        "image": "busybox",
        "scale": slots,
        "services": {"web": 80},
        "stop_signal": "SIGKILL",
        "command": ["sh", "-c", "exec httpd -f -p 80"],
        "env": {"VERSION": version},
        "update": {"parallelism": PARALLELISM.min(slots), "monitor": format!("{MONITOR}s")},
        "rebalance": "off",
    })
}

/// PUTs a manifest; its revision.
fn put(lab: &Lab, manifest: &Value) -> anyhow::Result<u64> {
    let answer = lab
        .host(1)
        .put("bench", "updates", &manifest.to_string())?
        .ok()?;
    let answer = answer.json()?;
    answer["revision"]
        .as_u64()
        .or_else(|| answer["node"]["modifiedIndex"].as_u64())
        .context("a revision")
}

/// Seconds from the PUT until all slots are ready.
fn start(lab: &Lab, slots: usize) -> anyhow::Result<f64> {
    let begin = Instant::now();
    put(lab, &manifest(slots, "1"))?;
    wait("ready slots", || {
        let all = of_slots(lab)?;
        (all.ready == slots).then_some(()).ok_or(all)
    })?;
    Ok(begin.elapsed().as_secs_f64())
}

fn stop(lab: &Lab) -> anyhow::Result<()> {
    lab.host(1).delete("bench", "updates")?.ok()?;
    wait("their end", || {
        let all = of_slots(lab)?;
        let running = lab.containers("bench").map_err(|_| Slots::default())?;
        let is_gone = all.claims.is_empty() && !running.iter().any(|(_, one)| one.runs());
        is_gone.then_some(()).ok_or(all)
    })
}

fn set(lab: &Lab, host: &str, availability: &str) -> anyhow::Result<()> {
    let path = format!("/dokkaa/v1/hosts/{host}/availability");
    let body = json!({"availability": availability}).to_string();
    lab.host(1).api("PUT", &path, &[], &body)?.ok()?;
    Ok(())
}

/// What etcd has of the slots.
#[derive(Default)]
struct Slots {
    claims: Vec<Value>,
    ready: usize,
    is_updating: bool,
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} claimed, {} ready", self.claims.len(), self.ready)
    }
}

fn of_slots(lab: &Lab) -> Result<Slots, Slots> {
    let keys = lab.etcd().list(CLAIMS).map_err(|_| Slots::default())?;
    let mut slots = Slots::default();
    for (key, value) in keys {
        let place = key.strip_prefix(CLAIMS).unwrap_or_default();
        let Some(slot) = place.strip_prefix("slots/") else {
            slots.is_updating |= place == "rollout";
            continue;
        };
        match slot.split_once('.') {
            Some((_, "state")) => {
                slots.ready += usize::from(value.contains(r#""state":"ready""#));
            }
            Some(_) => {}
            None => {
                let claim = serde_json::from_str(&value);
                slots.claims.push(claim.map_err(|_| Slots::default())?);
            }
        }
    }
    Ok(slots)
}

fn wait(what: &str, look: impl FnMut() -> Result<(), Slots>) -> anyhow::Result<()> {
    try_wait_for(what, CAP, look).context("updates")
}

/// Seconds that `dokkaa plan` takes for a folder of manifests.
fn plan(lab: &Lab) -> anyhow::Result<Vec<f64>> {
    let folder = lab.folder().join("planned");
    for number in 0..PLANNED {
        let app = folder.join(format!("a{}", number % APPS));
        std::fs::create_dir_all(&app)?;
        let manifest = json!({
            "image": "busybox",
            "scale": 2,
            "command": ["sleep", "1000"],
            "services": {"web": 80},
        });
        let file = app.join(format!("c{number}.json"));
        std::fs::write(file, manifest.to_string())?;
    }
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let ran = lab
            .host(1)
            .dokkaa(&["plan", &folder.display().to_string()])?;
        took.push(begin.elapsed().as_secs_f64());
        ensure!(ran.status.code() == Some(10), "{}", ran.stderr);
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(took)
}

impl fmt::Display for Updates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = median(&self.one);
        let steps = SLOTS.div_ceil(PARALLELISM) as f64 * (one + MONITOR);
        let (update, drain) = (self.update / steps, self.drain / self.start);
        let plan = median(&self.plan);
        write!(
            f,
            "{SLOTS} slots over three hosts:\n  \
             PUT to ready, one   {one:7.2} s, median of {}\n  \
             update, {PARALLELISM} at a time  {:7.2} s\n  \
             its steps           {steps:7.2} s, each a start and `monitor` ({MONITOR} s)\n  \
             ratio               {update:7.2}, at most {UPDATE}: {}\n  \
             all from one host   {:7.2} s, until the last replacement is ready\n  \
             all on one host     {:7.2} s, from the PUT until all are ready\n  \
             ratio               {drain:7.2}, at most {DRAIN}: {}\n  \
             plan of {PLANNED:5}       {plan:7.2} s, at most {PLAN}: {}",
            self.one.len(),
            self.update,
            verdict(update <= UPDATE),
            self.drain,
            self.start,
            verdict(drain <= DRAIN),
            verdict(plan <= PLAN),
        )
    }
}
