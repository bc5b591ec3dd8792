//! An agent that has nothing to do: its memory, its time on a processor, and
//! that it writes nothing to etcd.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use dokkaa_tests::{Lab, lab, try_wait_for};
use serde_json::json;

use crate::verdict;

const WATCHED: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(10);
const CAP: Duration = Duration::from_secs(120);
const MAY_HOLD_MB: f64 = 20.0;
const MAY_USE_PERCENT: f64 = 0.1;

/// Of the largest and the busiest of three agents.
pub(crate) struct Idle {
    doing: &'static str,
    /// In megabytes.
    resident: f64,
    /// In percent of a core.
    busy: f64,
    writes: u64,
}

pub(crate) struct Both(Idle, Idle);

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<Both> {
    let nothing = watch(lab, "without slots")?;
    let manifest = json!({
        "image": "busybox",
        "scale": 3,
        "services": {"web": 80},
        "links": ["web"],
        "stop_signal": "SIGKILL",
        "command": ["sh", "-c", "exec httpd -f -p 80"],
    });
    lab.host(1)
        .put("idle", "web", &manifest.to_string())?
        .ok()?;
    try_wait_for("three slots", CAP, || {
        let states = lab
            .etcd()
            .list("/claims/idle/web/slots/")
            .map_err(|error| error.to_string())?;
        let ready = states
            .iter()
            .filter(|(_, value)| value.contains(r#""state":"ready""#))
            .count();
        if ready == 3 {
            Ok(())
        } else {
            Err(format!("{ready} ready"))
        }
    })?;
    let slots = watch(lab, "with a ready slot each")?;
    lab.host(1).delete("idle", "web")?.ok()?;
    Ok(Both(nothing, slots))
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
    let resident = lab::each(lab.hosts(), |host| {
        let agent = host.agent();
        resident_mb(agent.as_ref().context("no agent")?.pid())
    })?
    .into_iter()
    .fold(0.0, f64::max);
    Ok(Idle {
        doing,
        resident,
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
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("VmRSS")?
        .parse()?;
    Ok(kilobytes / 1024.0)
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an idle agent {}, over {} s:\n  \
             resident            {:7.1} MB, at most {MAY_HOLD_MB}: {}\n  \
             of a core           {:7.3} %, at most {MAY_USE_PERCENT}: {}\n  \
             writes to etcd      {:7}, none: {}",
            self.doing,
            WATCHED.as_secs(),
            self.resident,
            verdict(self.resident <= MAY_HOLD_MB),
            self.busy,
            verdict(self.busy <= MAY_USE_PERCENT),
            self.writes,
            verdict(self.writes == 0),
        )
    }
}

impl fmt::Display for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.0, self.1)
    }
}
