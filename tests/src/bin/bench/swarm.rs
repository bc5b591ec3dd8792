//! Docker's own swarm mode on the same engines: one service, and thirty
//! replicas.

use std::fmt;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use dokkaa_tests::agent::AgentOptions;
use dokkaa_tests::engine::Event;
use dokkaa_tests::host::Host;
use dokkaa_tests::{Lab, try_wait_for};

use crate::{median, now};

const ROUNDS: usize = 10;
const SLOTS: usize = 30;
const CAP: Duration = Duration::from_secs(120);
const TASKS: &str = "com.docker.swarm.service.name=bench";

pub(crate) struct Swarm {
    one: Vec<f64>,
    many: f64,
}

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<Swarm> {
    join(lab)?;
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
    leave(lab)?;
    Ok(Swarm { one, many })
}

/// Seconds from a host's loss until its tasks run elsewhere, each round.
pub(crate) fn lose(lab: &Lab, replicas: usize, rounds: usize) -> anyhow::Result<Vec<f64>> {
    join(lab)?;
    let (lost, others) = (lab.host(3), &lab.hosts()[..2]);
    let mut took = Vec::new();
    for _ in 0..rounds {
        create(lab, replicas)?;
        try_wait_for("the tasks to run", CAP, || {
            let running = running(lab.hosts())?;
            if running == replicas {
                Ok(())
            } else {
                Err(format!("{running} of {replicas}"))
            }
        })?;
        let begin = now();
        lost.power_off()?;
        try_wait_for("the tasks to run elsewhere", CAP, || {
            let running = running(others)?;
            if running == replicas {
                Ok(())
            } else {
                Err(format!("{running} of {replicas}"))
            }
        })?;
        took.push(now() - begin);
        lost.power_on()?;
        lost.start_agent(&AgentOptions::default())?;
        remove(lab)?;
        try_wait_for("the node to be back", CAP, || {
            let nodes = lab
                .host(1)
                .docker(&["node", "ls", "--format", "{{.Status}}"])
                .map_err(|error| error.to_string())?;
            if nodes.contains("Down") {
                Err(nodes)
            } else {
                Ok(())
            }
        })?;
    }
    leave(lab)?;
    Ok(took)
}

fn running(hosts: &[Host]) -> Result<usize, String> {
    let mut count = 0;
    for host in hosts {
        let all = host.engine().containers(&[TASKS]);
        let all = all.map_err(|error| error.to_string())?;
        count += all.iter().filter(|one| one.runs()).count();
    }
    Ok(count)
}

/// Makes one swarm of all engines.
fn join(lab: &Lab) -> anyhow::Result<()> {
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
    Ok(())
}

fn leave(lab: &Lab) -> anyhow::Result<()> {
    for host in lab.hosts().iter().rev() {
        host.docker(&["swarm", "leave", "--force"])?;
    }
    Ok(())
}

fn create(lab: &Lab, replicas: usize) -> anyhow::Result<()> {
    lab.host(1).docker(&[
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
    Ok(())
}

/// Removes the service, and waits until its tasks are gone.
fn remove(lab: &Lab) -> anyhow::Result<()> {
    lab.host(1).docker(&["service", "rm", "bench"])?;
    try_wait_for("the end of the tasks", CAP, || {
        let mut left = 0;
        for host in lab.hosts() {
            left += host
                .engine()
                .containers(&[TASKS])
                .map_err(|error| error.to_string())?
                .len();
        }
        if left == 0 {
            Ok(())
        } else {
            Err(format!("{left} left"))
        }
    })
}

fn service(lab: &Lab, watches: &[Receiver<Event>], replicas: usize) -> anyhow::Result<f64> {
    for events in watches {
        events.try_iter().for_each(drop);
    }
    let begin = now();
    create(lab, replicas)?;
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
    remove(lab)?;
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
