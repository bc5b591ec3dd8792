//! A host is lost: how long until its slots run elsewhere, and how long until
//! what was started twice is gone when it is back. Beside it Docker's swarm mode.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::host::Host;
use dokkaa_tests::{Lab, try_wait_for};
use serde_json::json;

use crate::{median, swarm, verdict};

const ROUNDS: usize = 3;
const SLOTS: usize = 6;
const CAP: Duration = Duration::from_secs(90);
/// Of the default settings.
const TTL: f64 = 6.0;
const MAY_ADD: f64 = 2.0;
const MAY_STAY: f64 = 2.0;
/// Real containers on the host whose agent is started again.
const RESTARTED: usize = 30;

pub(crate) struct Failover {
    power: Vec<f64>,
    swarm: anyhow::Result<Vec<f64>>,
    /// From the cable's return: the record is there, and nothing of the host's is double.
    back: Vec<f64>,
    alone: Vec<f64>,
    restart: Restart,
}

struct Restart {
    containers: usize,
    writes: u64,
    /// Keys that differ afterwards, but for the host's own record.
    changed: Vec<String>,
    moved: usize,
}

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<Failover> {
    let restart = restart(lab)?;
    let (mut power, mut back, mut alone) = (Vec::new(), Vec::new(), Vec::new());
    start(lab, SLOTS)?;
    let lost = lab.host(3);
    for _ in 0..ROUNDS {
        balanced(lab, lost)?;
        power.push(lose(lab, lost, Host::power_off)?);
        lost.power_on()?;
        lost.start_agent(&AgentOptions::default())?;
    }
    for _ in 0..ROUNDS {
        balanced(lab, lost)?;
        lose(lab, lost, Host::unplug)?;
        let begin = Instant::now();
        lost.plug()?;
        wait("its record", || has_record(lab, lost))?;
        let live = Instant::now();
        wait("the end of what is double", || only_claimed(lab, lost))?;
        back.push((live - begin).as_secs_f64());
        alone.push(live.elapsed().as_secs_f64());
    }
    stop(lab)?;
    let swarm = swarm::lose(lab, SLOTS, ROUNDS - 1);
    Ok(Failover {
        power,
        swarm,
        back,
        alone,
        restart,
    })
}

fn start(lab: &Lab, slots: usize) -> anyhow::Result<()> {
    let manifest = json!({
        "image": "busybox",
        "scale": slots,
        "stop_signal": "SIGKILL",
        "command": ["sleep", "100000"],
    });
    lab.host(1)
        .put("failover", "web", &manifest.to_string())?
        .ok()?;
    wait("ready slots", || ready(lab, slots))
}

fn stop(lab: &Lab) -> anyhow::Result<()> {
    lab.host(1).delete("failover", "web")?.ok()?;
    wait("their end", || {
        let left = running(lab)?.len();
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} run"))
        }
    })
}

/// So many slots are ready.
fn ready(lab: &Lab, slots: usize) -> Result<(), String> {
    let states = lab
        .etcd()
        .list("/claims/failover/web/slots/")
        .map_err(|error| format!("{error:#}"))?;
    let ready = states
        .iter()
        .filter(|(_, value)| value.contains(r#""state":"ready""#))
        .count();
    if ready == slots {
        Ok(())
    } else {
        Err(format!("{ready} ready"))
    }
}

/// Every host has its share: else what was taken over is given anew.
fn balanced(lab: &Lab, lost: &Host) -> anyhow::Result<()> {
    if claimed(lab, lost).map_err(anyhow::Error::msg)?.is_empty() {
        stop(lab)?;
        start(lab, SLOTS)?;
    }
    wait("the status of all slots", || ready(lab, SLOTS))
}

/// The instances that claims give to a host.
fn claimed(lab: &Lab, host: &Host) -> Result<BTreeSet<String>, String> {
    let claims = lab
        .etcd()
        .list("/claims/failover/web/slots/")
        .map_err(|error| format!("{error:#}"))?;
    let mut instances = BTreeSet::new();
    for (key, value) in claims {
        let value: serde_json::Value =
            serde_json::from_str(&value).map_err(|error| error.to_string())?;
        if !key.contains('.') && value["host"] == host.name() {
            instances.insert(value["instance"].as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(instances)
}

fn running(lab: &Lab) -> Result<Vec<String>, String> {
    let all = lab
        .containers("failover")
        .map_err(|error| format!("{error:#}"))?;
    let running = all.iter().filter(|(_, one)| one.runs());
    Ok(running
        .map(|(_, one)| one.label("instance").to_owned())
        .collect())
}

/// Takes a host away; seconds until others have started as many containers as it had slots.
fn lose(
    lab: &Lab,
    lost: &Host,
    take: impl FnOnce(&Host) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let slots = claimed(lab, lost).map_err(anyhow::Error::msg)?.len();
    let others = lab.hosts().iter().filter(|host| host.name() != lost.name());
    let watches = others
        .map(|host| host.engine().watch())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let begin = crate::now();
    take(lost)?;
    let mut starts: Vec<f64> = Vec::new();
    wait("its slots to run elsewhere", || {
        for events in &watches {
            let events = events.try_iter().filter(|event| event.action == "start");
            starts.extend(events.map(|event| event.time));
        }
        let started = starts.len();
        if started >= slots {
            Ok(())
        } else {
            Err(format!("{started} of {slots}"))
        }
    })?;
    wait("ready slots", || ready(lab, SLOTS))?;
    Ok(starts.iter().copied().fold(begin, f64::max) - begin)
}

fn has_record(lab: &Lab, host: &Host) -> Result<(), String> {
    let key = format!("/hosts/{}/record", host.name());
    let found = lab.etcd().get(&key).map_err(|error| format!("{error:#}"))?;
    found.map(drop).ok_or_else(|| "none".to_owned())
}

/// Nothing runs on the host that the claims do not give to it.
fn only_claimed(lab: &Lab, host: &Host) -> Result<(), String> {
    let claimed = claimed(lab, host)?;
    let there = host
        .containers("failover")
        .map_err(|error| format!("{error:#}"))?;
    let double = there
        .iter()
        .filter(|one| one.runs() && !claimed.contains(one.label("instance")))
        .count();
    if double == 0 {
        Ok(())
    } else {
        Err(format!("{double} still run"))
    }
}

/// An agent that is stopped and started while its containers run.
fn restart(lab: &Lab) -> anyhow::Result<Restart> {
    let slots = RESTARTED * lab.hosts().len();
    start(lab, slots)?;
    let host = lab.host(2);
    quiet(lab)?;
    let (revision, before) = (lab.etcd().revision()?, host.containers("failover")?);
    let keys = lab.etcd().list("/")?;
    host.stop_agent()?;
    host.start_agent(&AgentOptions::default())?;
    quiet(lab)?;
    let after = host.containers("failover")?;
    let own = format!("/hosts/{}/record", host.name());
    let changed = lab.etcd().list("/")?.into_iter();
    let changed = changed.filter(|pair| pair.0 != own && !keys.contains(pair));
    let restart = Restart {
        containers: before.len(),
        writes: lab.etcd().revision()? - revision,
        changed: changed.map(|(key, _)| key).collect(),
        moved: before.iter().filter(|one| !after.contains(one)).count(),
    };
    stop(lab)?;
    Ok(restart)
}

/// Waits until nothing has been written for a while.
fn quiet(lab: &Lab) -> anyhow::Result<()> {
    let mut last = (lab.etcd().revision()?, Instant::now());
    wait("quiet", || {
        let revision = lab
            .etcd()
            .revision()
            .map_err(|error| format!("{error:#}"))?;
        if revision != last.0 {
            last = (revision, Instant::now());
        }
        if last.1.elapsed() > Duration::from_secs(6) {
            Ok(())
        } else {
            Err(format!("{revision}"))
        }
    })
}

fn wait(what: &str, look: impl FnMut() -> Result<(), String>) -> anyhow::Result<()> {
    try_wait_for(what, CAP, look).context("failover")
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (power, may) = (median(&self.power), TTL + MAY_ADD);
        let alone = median(&self.alone);
        write!(
            f,
            "a host of three without power, median of {}:\n  \
             its slots elsewhere {power:7.2} s, at most {may} (lease and {MAY_ADD}): {}\n  ",
            self.power.len(),
            verdict(power <= may),
        )?;
        match &self.swarm {
            Ok(swarm) => write!(f, "swarm mode          {:7.2} s", median(swarm))?,
            Err(error) => write!(f, "swarm mode does not run here: {error:#}")?,
        }
        write!(
            f,
            "\na host that was cut off, median of {}:\n  \
             back with its record{:7.2} s after its cable\n  \
             nothing double      {alone:7.2} s later, at most {MAY_STAY}: {}\n\
             an agent that restarts with {} containers:\n  \
             writes to etcd      {:7}, at most 2: {} {}\n  \
             containers touched  {:7}, none: {}",
            self.back.len(),
            median(&self.back),
            verdict(alone <= MAY_STAY),
            self.restart.containers,
            self.restart.writes,
            verdict(self.restart.writes <= 2),
            self.restart.changed.join(" "),
            self.restart.moved,
            verdict(self.restart.moved == 0),
        )
    }
}
