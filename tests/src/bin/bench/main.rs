//! `make bench`: what dokkaa costs, beside what Docker alone costs in the
//! same run on the same engines.
//!
//! Times are only comparable within one run, so each figure comes with its
//! floor and the ratio to it.

mod idle;
mod many;
mod one;
mod swarm;

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use dokkaa_tests::{Lab, LabOptions};

fn main() -> anyhow::Result<()> {
    say("starting three hosts …")?;
    let lab = Lab::start(&LabOptions::default())?;
    for host in lab.hosts() {
        // The first container of an engine is slower than all others.
        host.docker(&["run", "--rm", "busybox", "true"])?;
    }
    say("one container at a time …")?;
    let one = one::measure(&lab)?;
    say("30 slots …")?;
    let many = many::measure(&lab)?;
    say("idle …")?;
    let idle = idle::measure(&lab)?;
    say("Docker's swarm mode …")?;
    let swarm = swarm::measure(&lab);
    say(&format!("\n{one}\n{many}"))?;
    match swarm {
        Ok(swarm) => say(&format!("{swarm}"))?,
        Err(error) => say(&format!("swarm mode does not run here: {error:#}"))?,
    }
    say(&format!("\n{idle}"))
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
