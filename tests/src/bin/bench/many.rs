//! Thirty slots over three hosts, and thirty `docker run`s, four at a time
//! per engine, in turns.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dokkaa_tests::host::Host;
use dokkaa_tests::{Lab, lab, try_wait_for};
use serde_json::json;

use crate::{median, now, verdict};

const SLOTS: usize = 30;
const AT_A_TIME: usize = 4;
const ROUNDS: usize = 3;
const CAP: Duration = Duration::from_secs(120);
/// How often Docker's own time it may take.
const MAY_TAKE: f64 = 1.1;

pub(crate) struct Many {
    dokkaa: Vec<f64>,
    docker: Vec<f64>,
}

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<Many> {
    let mut result = Many {
        dokkaa: Vec::new(),
        docker: Vec::new(),
    };
    for _ in 0..ROUNDS {
        result.docker.push(by_docker(lab)?);
        result.dokkaa.push(by_dokkaa(lab)?);
    }
    Ok(result)
}

fn by_docker(lab: &Lab) -> anyhow::Result<f64> {
    let begin = Instant::now();
    lab::each(lab.hosts(), |host| {
        let left = AtomicUsize::new(SLOTS / lab.hosts().len());
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_A_TIME)
                .map(|_| scope.spawn(|| run_until_none(host, &left)))
                .collect();
            threads.into_iter().try_for_each(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    })?;
    let took = begin.elapsed().as_secs_f64();
    lab::each(lab.hosts(), |host| {
        host.sh("docker rm --force $(docker ps --quiet --filter label=bench) >/dev/null")
    })?;
    Ok(took)
}

fn run_until_none(host: &Host, left: &AtomicUsize) -> anyhow::Result<()> {
    let take = |left: usize| left.checked_sub(1);
    while left
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .is_ok()
    {
        host.docker(&[
            "run", "--detach", "--label", "bench", "busybox", "sleep", "1000",
        ])?;
    }
    Ok(())
}

fn by_dokkaa(lab: &Lab) -> anyhow::Result<f64> {
    let watches = lab
        .hosts()
        .iter()
        .map(|host| host.engine().watch())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let manifest = json!({
        "image": "busybox",
        "scale": SLOTS,
        "stop_signal": "SIGKILL",
        "command": ["sleep", "1000"],
    });
    let begin = now();
    lab.host(1)
        .put("bench", "many", &manifest.to_string())?
        .ok()?;
    let mut starts = Vec::new();
    try_wait_for("all slots to run", CAP, || {
        for events in &watches {
            starts.extend(
                events
                    .try_iter()
                    .filter(|event| event.action == "start")
                    .map(|event| event.time),
            );
        }
        if starts.len() == SLOTS {
            Ok(())
        } else {
            Err(format!("{} of {SLOTS}", starts.len()))
        }
    })?;
    let end = starts.iter().copied().fold(begin, f64::max);
    lab.host(1).delete("bench", "many")?.ok()?;
    try_wait_for("their end", CAP, || {
        let left = lab.containers("bench").map_err(|error| error.to_string())?;
        let running = left.iter().filter(|(_, one)| one.runs()).count();
        if running == 0 {
            Ok(())
        } else {
            Err(format!("{running} run"))
        }
    })?;
    Ok(end - begin)
}

impl fmt::Display for Many {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratio = median(&self.dokkaa) / median(&self.docker);
        write!(
            f,
            "{SLOTS} containers on three hosts, median of {}:\n  \
             one PUT             {:7.2} s until all run\n  \
             docker run          {:7.2} s, {AT_A_TIME} at a time per engine\n  \
             ratio               {ratio:7.2}, at most {MAY_TAKE}: {}",
            self.dokkaa.len(),
            median(&self.dokkaa),
            median(&self.docker),
            verdict(ratio <= MAY_TAKE),
        )
    }
}
