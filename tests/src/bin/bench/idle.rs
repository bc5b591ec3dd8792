//! An agent that has nothing to do: its memory, its time on a processor, and
//! that it writes nothing to etcd.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::{Lab, lab, try_wait_for};
use manifests::ContainerId;
use manifests::keys::Key;
use model::VersionId;
use model::records::{Claim, Member, Phase};
use serde_json::json;
use uuid::Uuid;

use crate::agents::{IMAGE, host_name, record};
use crate::size::{address, instance, state, version};
use crate::verdict;

const WATCHED: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(10);
const CAP: Duration = Duration::from_secs(120);
const MAY_HOLD_MB: f64 = 12.0;
const MAY_USE_PERCENT: f64 = 0.06;
/// Containers on each host of the lab.
const CONTAINERS: usize = 20;
/// Hosts that are only known, and services on them.
const KNOWN_HOSTS: u16 = 197;
const KNOWN_SERVICES: usize = 940;

/// Of the largest and the busiest of three agents.
pub(crate) struct Idle {
    doing: &'static str,
    /// In megabytes.
    resident: f64,
    /// The part that is not the program's file.
    own: f64,
    /// In percent of a core.
    busy: f64,
    writes: u64,
}

pub(crate) struct All([Idle; 3]);

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<All> {
    let nothing = watch(lab, "without slots")?;
    run(lab, 1)?;
    let slots = watch(lab, "with a ready slot each")?;
    run(lab, CONTAINERS)?;
    know(lab)?;
    let large = watch(
        lab,
        "with 20 slots each, 200 hosts and 1,000 services known",
    );
    lab.host(1).delete("idle", "web")?.ok()?;
    forget(lab)?;
    Ok(All([nothing, slots, large?]))
}

/// So many ready slots on each host.
fn run(lab: &Lab, on_each: usize) -> anyhow::Result<()> {
    let wanted = on_each * lab.hosts().len();
    let manifest = json!({
        "image": "busybox",
        "scale": wanted,
        "services": {"web": 80},
        "links": ["web"],
        "placement": {"max_per_host": on_each},
        "stop_signal": "SIGKILL",
        "command": ["sh", "-c", "exec httpd -f -p 80"],
    });
    lab.host(1)
        .put("idle", "web", &manifest.to_string())?
        .ok()?;
    try_wait_for("ready slots", CAP, || {
        let states = lab
            .etcd()
            .list("/claims/idle/web/slots/")
            .map_err(|error| error.to_string())?;
        let ready = states
            .iter()
            .filter(|(_, value)| value.contains(r#""state":"ready""#))
            .count();
        if ready == wanted {
            Ok(())
        } else {
            Err(format!("{ready} of {wanted} ready"))
        }
    })
}

/// Hosts and services that the agents find when they start.
fn know(lab: &Lab) -> anyhow::Result<()> {
    for host in lab.hosts() {
        host.stop_agent()?;
    }
    let etcd = lab.etcd();
    let put = |key: Key, value: serde_json::Value| etcd.put(&key.to_string(), &value.to_string());
    for number in 1..=KNOWN_HOSTS {
        let (name, id) = (host_name(number)?, Uuid::new_v4());
        put(
            Key::Member(name.clone()),
            serde_json::to_value(Member { id })?,
        )?;
        let record = record(id, address(number));
        put(Key::HostRecord(name), serde_json::to_value(record)?)?;
    }
    for number in 0..KNOWN_SERVICES {
        let id: ContainerId = format!("known/c{number}").parse()?;
        let slot = id.slot(0);
        let host = (number % usize::from(KNOWN_HOSTS)) as u16 + 1;
        let manifest = json!({"image": IMAGE, "services": {"web": 80}});
        put(Key::Manifest(id.clone()), manifest.clone())?;
        let revision = etcd.revision()? as i64;
        put(
            Key::Version(id, revision),
            serde_json::to_value(version(manifest))?,
        )?;
        let claim = Claim {
            host: host_name(host)?,
            instance: instance(&slot)?,
            version: VersionId(revision),
        };
        put(Key::Claim(slot.clone()), serde_json::to_value(claim)?)?;
        let ready = state(&slot, address(host), Phase::Ready)?;
        put(Key::State(slot), serde_json::to_value(ready)?)?;
    }
    start_agents(lab)
}

fn forget(lab: &Lab) -> anyhow::Result<()> {
    for host in lab.hosts() {
        host.stop_agent()?;
    }
    let etcd = lab.etcd();
    let listed = etcd.list("/")?;
    let known = |key: &str| {
        let hosts = (1..=KNOWN_HOSTS).filter_map(|number| host_name(number).ok());
        key.contains("/known/")
            || hosts
                .into_iter()
                .any(|host| key.ends_with(&format!("/{host}")))
    };
    for (key, _) in listed.iter().filter(|(key, _)| known(key)) {
        etcd.delete(key)?;
    }
    start_agents(lab)
}

fn start_agents(lab: &Lab) -> anyhow::Result<()> {
    for host in lab.hosts() {
        host.launch_agent(&AgentOptions::default())?;
    }
    lab.hosts()
        .iter()
        .try_for_each(dokkaa_tests::host::Host::wait_agent)
}

fn watch(lab: &Lab, doing: &'static str) -> anyhow::Result<Idle> {
    // What a start leaves to be done is done when nothing was written for a
    // while.
    let mut last = (lab.etcd().revision()?, Instant::now());
    try_wait_for("quiet", CAP, || {
        let revision = lab.etcd().revision().map_err(|error| error.to_string())?;
        if revision != last.0 {
            last = (revision, Instant::now());
        }
        if last.1.elapsed() >= QUIET {
            Ok(())
        } else {
            Err(format!("revision {revision}"))
        }
    })?;
    let revision = lab.etcd().revision()?;
    let begin = Instant::now();
    let before = spent(lab)?;
    try_wait_for("the time to pass", WATCHED * 2, || {
        if begin.elapsed() >= WATCHED {
            Ok(())
        } else {
            Err("not yet")
        }
    })?;
    let after = spent(lab)?;
    let passed = begin.elapsed().as_secs_f64();
    let writes = lab.etcd().revision()? - revision;
    let busy = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after - before) / passed * 100.0)
        .fold(0.0, f64::max);
    let most = |read: fn(u32) -> anyhow::Result<f64>| {
        let each = lab::each(lab.hosts(), |host| {
            let agent = host.agent();
            read(agent.as_ref().context("no agent")?.pid())
        })?;
        anyhow::Ok(each.into_iter().fold(0.0, f64::max))
    };
    let (resident, own) = (most(resident_mb)?, most(own_mb)?);
    Ok(Idle {
        doing,
        resident,
        own,
        busy,
        writes,
    })
}

/// Seconds on a processor of each agent.
fn spent(lab: &Lab) -> anyhow::Result<Vec<f64>> {
    lab::each(lab.hosts(), |host| {
        let agent = host.agent();
        let pid = agent.as_ref().context("no agent")?.pid();
        let mut nanoseconds = 0.0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().context("schedstat")?;
            nanoseconds += first.parse::<f64>()?;
        }
        Ok(nanoseconds / 1e9)
    })
}

pub(crate) fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    memory_mb(pid, "VmRSS:")
}

fn own_mb(pid: u32) -> anyhow::Result<f64> {
    memory_mb(pid, "RssAnon:")
}

fn memory_mb(pid: u32, name: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .context("proc(5), status")?
        .parse()?;
    Ok(kilobytes / 1024.0)
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an idle agent {}, over {} s:\n  \
             resident            {:7.1} MB, at most {MAY_HOLD_MB}: {}\n  \
             without its program {:7.1} MB\n  \
             of a core           {:7.3} %, at most {MAY_USE_PERCENT}: {}\n  \
             writes to etcd      {:7}, none: {}",
            self.doing,
            WATCHED.as_secs(),
            self.resident,
            verdict(self.resident <= MAY_HOLD_MB),
            self.own,
            self.busy,
            verdict(self.busy <= MAY_USE_PERCENT),
            self.writes,
            verdict(self.writes == 0),
        )
    }
}

impl fmt::Display for All {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [nothing, slots, large] = &self.0;
        write!(f, "{nothing}\n{slots}\n{large}")
    }
}
