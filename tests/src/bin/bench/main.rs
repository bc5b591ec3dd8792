//! `make bench`: what dokkaa costs, beside what Docker alone costs in the
//! same run on the same engines.
//!
//! Times are only comparable within one run, so each figure comes with its
//! floor and the ratio to it. Without arguments all parts run, else those named.

mod idle;
mod many;
mod one;
mod swarm;

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use dokkaa_tests::{Lab, LabOptions};

const PARTS: [&str; 4] = ["one", "many", "idle", "swarm"];

fn main() -> anyhow::Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|part| !PARTS.contains(&part.as_str())) {
        bail!("no part {unknown}; there are: {}", PARTS.join(", "));
    }
    let wanted = |part: &str| asked.is_empty() || asked.iter().any(|asked| asked == part);
    say("starting three hosts …")?;
    let lab = Lab::start(&LabOptions::default())?;
    for host in lab.hosts() {
        // The first container of an engine is slower than all others.
        host.docker(&["run", "--rm", "busybox", "true"])?;
    }
    if wanted("one") {
        say(&format!("\n{}", one::measure(&lab)?))?;
    }
    if wanted("many") {
        say(&format!("\n{}", many::measure(&lab)?))?;
    }
    if wanted("idle") {
        say(&format!("\n{}", idle::measure(&lab)?))?;
    }
    if wanted("swarm") {
        match swarm::measure(&lab) {
            Ok(swarm) => say(&format!("\n{swarm}"))?,
            Err(error) => say(&format!("\nswarm mode does not run here: {error:#}"))?,
        }
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
