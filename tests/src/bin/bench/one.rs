//! One container: from the PUT to an API until it runs, and the same
//! container created and started on the same engine by hand, in turns.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context, ensure};
use dokkaa_tests::engine::Event;
use dokkaa_tests::host::Host;
use dokkaa_tests::{Lab, try_wait_for};
use serde_json::{Value, json};

use crate::{median, now, verdict};

const ROUNDS: usize = 20;
const CAP: Duration = Duration::from_secs(60);
/// What dokkaa may add at the median, in seconds.
const MAY_ADD: f64 = 0.005;

pub(crate) struct One {
    dokkaa: Vec<f64>,
    docker: Vec<f64>,
    service: &'static str,
}

pub(crate) struct Both(One, One);

pub(crate) fn measure(lab: &Lab) -> anyhow::Result<Both> {
    Ok(Both(
        rounds(lab, "without a service", &json!({}))?,
        rounds(lab, "with a published service", &json!({"web": 80}))?,
    ))
}

fn rounds(lab: &Lab, service: &'static str, services: &Value) -> anyhow::Result<One> {
    let watches: BTreeMap<&str, Receiver<Event>> = lab
        .hosts()
        .iter()
        .map(|host| Ok((host.name(), host.engine().watch()?)))
        .collect::<anyhow::Result<_>>()?;
    let mut result = One {
        dokkaa: Vec::new(),
        docker: Vec::new(),
        service,
    };
    for round in 0..=ROUNDS {
        let name = format!("c{round}");
        let manifest = json!({
            "image": "busybox",
            "services": services,
            "stop_signal": "SIGKILL",
            "command": ["sh", "-c", "exec httpd -f -p 80"],
        });
        let begin = now();
        lab.host(1)
            .put("bench", &name, &manifest.to_string())?
            .ok()?;
        let (host, event) = try_wait_for("the container to start", CAP, || {
            lab.hosts()
                .iter()
                .find_map(|host| {
                    let event = watches[host.name()]
                        .try_iter()
                        .find(|event| event.action == "start")?;
                    Some((host, event))
                })
                .ok_or("not started")
        })?;
        let by_dokkaa = event.time - begin;
        wait_ready(lab, &name)?;
        let by_docker = by_hand(host, &event.id, &watches[host.name()])?;
        lab.host(1).delete("bench", &name)?.ok()?;
        try_wait_for("its end", CAP, || {
            // Nor is anything of it left to remove while the next one starts.
            let left = lab.containers("bench").map_err(|error| error.to_string())?;
            if left.is_empty() {
                Ok(())
            } else {
                Err("still there".to_owned())
            }
        })?;
        for events in watches.values() {
            events.try_iter().for_each(drop);
        }
        // The first round warms up.
        if round > 0 {
            result.dokkaa.push(by_dokkaa);
            result.docker.push(by_docker);
        }
    }
    Ok(result)
}

/// Nothing of dokkaa's own work is left when Docker's turn comes.
fn wait_ready(lab: &Lab, name: &str) -> anyhow::Result<()> {
    let key = format!("/claims/bench/{name}/slots/0.state");
    try_wait_for("the slot to be ready", CAP, || {
        let state = lab.etcd().get(&key).map_err(|error| error.to_string())?;
        state
            .filter(|state| state.contains(r#""ready""#))
            .ok_or_else(|| "not ready".to_owned())
    })?;
    Ok(())
}

/// Creates and starts a container like another on an engine.
fn by_hand(host: &Host, like: &str, events: &Receiver<Event>) -> anyhow::Result<f64> {
    let engine = host.engine();
    let model = engine.inspect(like)?;
    let mut body = model["Config"].clone();
    body["HostConfig"] = model["HostConfig"].clone();
    body["Hostname"] = Value::Null;
    if let Some(labels) = body["Labels"].as_object_mut() {
        labels.retain(|label, _| !label.starts_with("dokkaa."));
    }
    // Another port of the same address.
    for bindings in body["HostConfig"]["PortBindings"]
        .as_object_mut()
        .into_iter()
        .flat_map(|ports| ports.values_mut())
    {
        bindings[0]["HostPort"] = json!("9999");
    }
    events.try_iter().for_each(drop);
    let begin = now();
    let created = engine.call("POST", "/containers/create?name=by-hand", Some(&body))?;
    let id = created.json()?["Id"].as_str().context("an id")?.to_owned();
    engine.call("POST", &format!("/containers/{id}/start"), None)?;
    let event = try_wait_for("its start", CAP, || {
        events
            .try_iter()
            .find(|event| event.action == "start" && event.id == id)
            .ok_or("no event")
    })?;
    engine.remove(&id)?;
    ensure!(event.time > begin, "clocks");
    Ok(event.time - begin)
}

impl fmt::Display for One {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (dokkaa, docker) = (median(&self.dokkaa), median(&self.docker));
        let added: Vec<f64> = self
            .dokkaa
            .iter()
            .zip(&self.docker)
            .map(|(dokkaa, docker)| dokkaa - docker)
            .collect();
        write!(
            f,
            "one container {}, median of {}:\n  \
             PUT to running      {:7.1} ms\n  \
             create and start    {:7.1} ms (Docker alone)\n  \
             added               {:7.1} ms, at most {:.0}: {}\n  \
             ratio               {:7.2}",
            self.service,
            self.dokkaa.len(),
            dokkaa * 1e3,
            docker * 1e3,
            median(&added) * 1e3,
            MAY_ADD * 1e3,
            verdict(median(&added) <= MAY_ADD),
            dokkaa / docker,
        )
    }
}

impl fmt::Display for Both {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.0, self.1)
    }
}
