//! Docker's own swarm mode on the same engines: one service, and thirty
//! replicas.

use std::fmt;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use dokkaa_tests::engine::Event;
use dokkaa_tests::{Lab, try_wait_for};

use crate::{median, now};

const ROUNDS: usize = 10;
const SLOTS: usize = 30;
const CAP: Duration = Duration::from_secs(120);

pub(crate) struct Swarm {
    one: Vec<f64>,
    many: f64,
}

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<Swarm> {
    let manager = lab.host(1);
    let address = manager.address().to_string();
    manager.docker(&["swarm", "init", "--advertise-addr", &address])?;
    let token = manager.docker(&["swarm", "join-token", "--quiet", "worker"])?;
    for host in &lab.hosts()[1..] {
        let own = host.address().to_string();
        host.docker(&[
            "swarm",
            "join",
            "--advertise-addr",
            &own,
            "--token",
            token.trim(),
            &format!("{address}:2377"),
        ])?;
    }
    let watches = lab
        .hosts()
        .iter()
        .map(|host| host.engine().watch())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut one = Vec::new();
    for round in 0..=ROUNDS {
        let took = service(lab, &watches, 1)?;
        if round > 0 {
            one.push(took);
        }
    }
    let many = service(lab, &watches, SLOTS)?;
    for host in lab.hosts().iter().rev() {
        host.docker(&["swarm", "leave", "--force"])?;
    }
    Ok(Swarm { one, many })
}

fn service(lab: &Lab, watches: &[Receiver<Event>], replicas: usize) -> anyhow::Result<f64> {
    let manager = lab.host(1);
    for events in watches {
        events.try_iter().for_each(drop);
    }
    let begin = now();
    manager.docker(&[
        "service",
        "create",
        "--detach",
        "--quiet",
        "--no-resolve-image",
        "--name",
        "bench",
        "--replicas",
        &replicas.to_string(),
        "busybox",
        "sleep",
        "1000",
    ])?;
    let mut starts = Vec::new();
    try_wait_for("the tasks to run", CAP, || {
        for events in watches {
            starts.extend(
                events
                    .try_iter()
                    .filter(|event| event.action == "start")
                    .map(|event| event.time),
            );
        }
        if starts.len() >= replicas {
            Ok(())
        } else {
            Err(format!("{} of {replicas}", starts.len()))
        }
    })?;
    let end = starts.iter().copied().fold(begin, f64::max);
    manager.docker(&["service", "rm", "bench"])?;
    try_wait_for("the end of the tasks", CAP, || {
        let mut left = 0;
        for host in lab.hosts() {
            left += host
                .engine()
                .containers(&["com.docker.swarm.service.name=bench"])
                .map_err(|error| error.to_string())?
                .len();
        }
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} left"))
        }
    })?;
    Ok(end - begin)
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Docker's swarm mode on the same engines:\n  \
             service create      {:7.1} ms until it runs, median of {}\n  \
             {SLOTS} replicas         {:7.2} s until all run",
            median(&self.one) * 1e3,
            self.one.len(),
            self.many,
        )
    }
}
