//! `make bench`: what dokkaa costs, beside what Docker alone costs in the
//! same run on the same engines.
//!
//! Times are only comparable within one run, so each figure comes with its
//! floor and the ratio to it. Without arguments all parts run, else those named.

mod agents;
mod copies;
mod failover;
mod idle;
mod keys;
mod many;
mod names;
mod one;
mod restart;
mod scale;
mod size;
mod swarm;
mod updates;

use std::fmt::Display;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use dokkaa_tests::etcd::{Etcd, EtcdOptions};
use dokkaa_tests::{Lab, LabOptions};

/// Those that need no engine.
const WITHOUT_HOSTS: [&str; 7] = [
    "scale", "growth", "size", "restart", "keys", "copies", "names",
];
/// Those that run in a lab of three hosts.
const ON_HOSTS: [&str; 6] = ["one", "many", "updates", "idle", "failover", "swarm"];

fn main() -> anyhow::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    // What is measured in a process of its own.
    match asked
        .split_first()
        .map(|(part, words)| (part.as_str(), words))
    {
        Some(("agent", words)) => return size::agent(words),
        Some(("v2", words)) => return keys::serve(words),
        Some((names::DOKKAA, words)) => return names::serve(words),
        Some((names::ECHO, words)) => return names::echo(words),
        _ => {}
    }
    let parts = [&WITHOUT_HOSTS[..], &ON_HOSTS].concat();
    if let Some(unknown) = asked.iter().find(|part| !parts.contains(&part.as_str())) {
        bail!("no part {unknown}; there are: {}", parts.join(", "));
    }
    let wanted = |part: &&str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    if WITHOUT_HOSTS.iter().any(wanted) {
        let version = Etcd::start(&EtcdOptions::default())?.version()?;
        say(&format!("etcd {version}"))?;
    }
    for part in WITHOUT_HOSTS.iter().filter(|part| wanted(part)) {
        let figures: Box<dyn Display> = match *part {
            "scale" => Box::new(scale::measure()?),
            "growth" => Box::new(scale::measure_growth()?),
            "size" => Box::new(size::measure()?),
            "restart" => Box::new(restart::measure()?),
            "keys" => Box::new(keys::measure()?),
            "copies" => Box::new(copies::measure()?),
            "names" => Box::new(names::measure()?),
            other => bail!("{other} is not measured"),
        };
        say(&format!("\n{figures}"))?;
    }
    if !ON_HOSTS.iter().any(wanted) {
        return Ok(());
    }
    say("starting three hosts …")?;
    let lab = Lab::start(&LabOptions::default())?;
    for host in lab.hosts() {
        let version = host.engine().get("/version")?;
        let version = version["Version"].as_str().context("a version")?;
        let release = host.engine().release();
        say(&format!("{}: Docker {version} ({release})", host.name()))?;
        // The first container of an engine is slower than all others.
        host.docker(&["run", "--rm", "busybox", "true"])?;
    }
    say(&format!("etcd {}", lab.etcd().version()?))?;
    for part in ON_HOSTS.iter().filter(|part| wanted(part)) {
        let figures: Box<dyn Display> = match *part {
            "one" => Box::new(one::measure(&lab)?),
            "many" => Box::new(many::measure(&lab)?),
            "updates" => Box::new(updates::measure(&lab)?),
            "idle" => Box::new(idle::measure(&lab)?),
            "failover" => Box::new(failover::measure(&lab)?),
            "swarm" => match swarm::measure(&lab) {
                Ok(swarm) => Box::new(swarm),
                Err(error) => Box::new(format!("swarm mode does not run here: {error:#}")),
            },
            other => bail!("{other} is not measured"),
        };
        say(&format!("\n{figures}"))?;
    }
    Ok(())
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Seconds since 1970, as engines tell time.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.is_empty() {
        f64::NAN
    } else if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        f64::midpoint(sorted[middle - 1], sorted[middle])
    }
}

fn verdict(good: bool) -> &'static str {
    if good { "met" } else { "MISSED" }
}
