//! A cluster in a few maps: etcd with its revisions, engines that obey, a clock that is set.
//!
//! Writes are applied only if their guards hold; a write whose guard does not
//! hold where nothing raced is an error of the plan and ends the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use manifests::keys::{self, Key};
use manifests::{HostName, InstanceId, SlotId};
use uuid::Uuid;

use crate::local::{Local, Outcome};
use crate::observed::{
    ContainerPort, ContainerState, EngineState, Exit, Observed, ObservedContainer, Ownership,
    Readiness, Running, Surroundings,
};
use crate::plan::{Host, Inputs, Plan, Step, Trust, Write, plan};
use crate::records::{HostRecord, HostState, Versions};
use crate::snapshot::{Change, Snapshot};
use crate::time::Millis;

#[derive(Default)]
pub(super) struct World {
    pub(super) keys: BTreeMap<String, (Vec<u8>, i64, i64)>,
    pub(super) revision: i64,
    pub(super) snapshot: Snapshot,
    pub(super) hosts: BTreeMap<String, Agent>,
    pub(super) now: Millis,
    pub(super) minted: u32,
    /// How often an image was pushed anew: its digest is another each time.
    pub(super) pushed: BTreeMap<String, u32>,
    /// Images that can't be had.
    pub(super) missing: BTreeSet<String>,
    /// Images whose process ends at once.
    pub(super) crashing: BTreeSet<String>,
    /// Images that never get ready.
    pub(super) slow: BTreeSet<String>,
    pub(super) images: BTreeMap<String, String>,
    /// Records of hosts that are cut off.
    pub(super) records: BTreeMap<String, Vec<u8>>,
}

pub(super) struct Agent {
    pub(super) host: Host,
    pub(super) observed: Observed,
    pub(super) local: Local,
    pub(super) trust: Trust,
    pub(super) ports: u16,
}

impl World {
    pub(super) fn command(&mut self, line: &str, out: &mut String) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match command {
            "host" => self.add_host(words[0]),
            "put" => {
                let (key, value) = rest.split_once(' ').unwrap();
                self.put(key, value.as_bytes().to_vec());
            }
            "manifest" => {
                let (id, value) = rest.split_once(' ').unwrap();
                self.put(&format!("/apps/{id}/manifest"), value.as_bytes().to_vec());
            }
            "delete" => self.delete(&format!("/apps/{rest}/manifest")),
            "push" => *self.pushed.entry(rest.to_owned()).or_default() += 1,
            "missing" => {
                self.missing.insert(rest.to_owned());
            }
            "there" => {
                self.missing.remove(rest);
            }
            "crashing" => {
                self.crashing.insert(rest.to_owned());
            }
            "slow" => {
                self.slow.insert(rest.to_owned());
            }
            "pass" => self.now = self.now + Duration::from_millis(rest.parse().unwrap()),
            "crash" => self.crash(rest),
            "restart-agent" => self.agent(rest).local = Local::default(),
            "trust" => {
                self.agent(words[0]).trust = match words[1] {
                    "full" => Trust::Full,
                    _ => Trust::RestartsOnly,
                };
            }
            "engine-hangs" => {
                self.agent(rest).observed.engine = EngineState::Unresponsive("hangs".to_owned());
            }
            "docker-loses" => {
                let slot = slot(words[1]);
                self.agent(words[0])
                    .observed
                    .containers
                    .retain(|_, c| c.owner.slot != slot);
            }
            "settle" => self.settle(rest.parse().unwrap_or(60), out),
            "once" => {
                self.round(out, true);
            }
            "ps" => self.ps(out),
            "keys" => self.list_keys(rest, out),
            "waiting" => self.waiting(out),
            other => panic!("no such command: {other}"),
        }
    }

    pub(super) fn agent(&mut self, name: &str) -> &mut Agent {
        self.hosts.get_mut(name).unwrap()
    }

    fn add_host(&mut self, name: &str) {
        let number = self.hosts.len() as u8 + 1;
        let addr = IpAddr::from([10, 0, 0, number]);
        let id = Uuid::from_u128(u128::from(number));
        let record = HostRecord {
            id,
            session: Uuid::nil(),
            epoch: 0,
            state: HostState::Up,
            addr,
            peer: None,
            labels: BTreeMap::new(),
            capacity: crate::records::Capacity::default(),
            versions: Versions {
                agent: String::new(),
                placement: crate::placement::VERSIONS.to_vec(),
            },
            foreign: 0,
            engine: true,
            disk: None,
            hold: None,
            problems: Vec::new(),
        };
        let host: HostName = name.parse().unwrap();
        self.put(
            &Key::HostRecord(host.clone()).to_string(),
            serde_json::to_vec(&record).unwrap(),
        );
        self.hosts.insert(
            name.to_owned(),
            Agent {
                host: Host {
                    name: host,
                    id,
                    surroundings: Surroundings {
                        host_ip: addr,
                        gateway: IpAddr::from([172, 17, 0, 1]),
                        dns: None,
                        domain: "skydns.local".to_owned(),
                        network: "bridge".to_owned(),
                    },
                },
                observed: Observed::default(),
                local: Local::default(),
                trust: Trust::Full,
                ports: 20_000,
            },
        );
    }

    // === etcd ===

    pub(super) fn put(&mut self, key: &str, value: Vec<u8>) {
        self.revision += 1;
        self.put_now(key, value);
    }

    fn put_now(&mut self, key: &str, value: Vec<u8>) {
        let created = self.keys.get(key).map_or(self.revision, |k| k.2);
        self.keys
            .insert(key.to_owned(), (value.clone(), self.revision, created));
        let change = Change::Put {
            key: key.to_owned(),
            value,
            modified: self.revision,
            created,
        };
        self.snapshot.apply([change], self.revision);
    }

    pub(super) fn delete(&mut self, key: &str) {
        self.revision += 1;
        self.delete_now(key);
    }

    fn delete_now(&mut self, key: &str) {
        self.keys.remove(key);
        let change = Change::Delete {
            key: key.to_owned(),
            modified: self.revision,
        };
        self.snapshot.apply([change], self.revision);
    }

    pub(super) fn modified(&self, key: &Key) -> i64 {
        self.keys.get(&key.to_string()).map_or(0, |k| k.1)
    }

    fn json(&mut self, key: &Key, value: &impl serde::Serialize) {
        self.put_now(&key.to_string(), serde_json::to_vec(value).unwrap());
    }

    /// Its guards hold.
    pub(super) fn holds(&self, write: &Write) -> bool {
        match write {
            Write::Claim { slot, manifest, .. } => {
                self.modified(&Key::Claim(slot.clone())) == 0
                    && self.modified(&Key::Manifest(slot.container.clone())) == *manifest
            }
            Write::NewInstance { slot, held, .. }
            | Write::Release { slot, held }
            | Write::Status { slot, held, .. } => self.modified(&Key::Claim(slot.clone())) == *held,
            Write::State {
                slot, held, seen, ..
            } => {
                self.modified(&Key::Claim(slot.clone())) == *held
                    && self.modified(&Key::State(slot.clone())) == *seen
            }
            Write::Version { container, rev, .. } => {
                self.modified(&Key::Manifest(container.clone())) == *rev
                    && self.modified(&Key::Version(container.clone(), *rev)) == 0
            }
            Write::Good {
                container,
                rev,
                seen,
                ..
            } => self.modified(&Key::Version(container.clone(), *rev)) == *seen,
            Write::Rollout {
                container,
                manifest,
                seen,
                ..
            } => {
                self.modified(&Key::Manifest(container.clone())) == *manifest
                    && self.modified(&Key::Rollout(container.clone())) == *seen
            }
            Write::Prune {
                container,
                versions,
            } => versions
                .iter()
                .all(|(rev, seen)| self.modified(&Key::Version(container.clone(), *rev)) == *seen),
            Write::Sweep { container } => {
                self.modified(&Key::Manifest(container.clone())) == 0
                    && !self
                        .keys
                        .keys()
                        .any(|k| k.starts_with(&keys::slots_of(container)))
            }
        }
    }

    /// Carries a write out if its guards hold.
    pub(super) fn write(&mut self, write: &Write) -> bool {
        if !self.holds(write) {
            return false;
        }
        self.revision += 1;
        match write {
            Write::Claim {
                slot, claim, data, ..
            }
            | Write::NewInstance {
                slot, claim, data, ..
            } => {
                self.delete_now(&Key::State(slot.clone()).to_string());
                self.delete_now(&Key::Status(slot.clone()).to_string());
                self.json(&Key::Claim(slot.clone()), claim);
                if let Some((data, _)) = data {
                    self.json(&Key::Data(slot.clone()), data);
                }
            }
            Write::Release { slot, .. } => {
                for key in [
                    Key::Claim(slot.clone()),
                    Key::State(slot.clone()),
                    Key::Status(slot.clone()),
                ] {
                    self.delete_now(&key.to_string());
                }
            }
            Write::State { slot, state, .. } => self.json(&Key::State(slot.clone()), state),
            Write::Status { slot, status, .. } => self.json(&Key::Status(slot.clone()), status),
            Write::Version {
                container,
                rev,
                version,
            }
            | Write::Good {
                container,
                rev,
                version,
                ..
            } => self.json(&Key::Version(container.clone(), *rev), version),
            Write::Rollout {
                container, rollout, ..
            } => self.json(&Key::Rollout(container.clone()), rollout),
            Write::Prune {
                container,
                versions,
            } => {
                for (rev, _) in versions {
                    self.delete_now(&Key::Version(container.clone(), *rev).to_string());
                }
            }
            Write::Sweep { container } => {
                let left: Vec<String> = self
                    .keys
                    .keys()
                    .filter(|k| k.starts_with(&keys::claims_of(container)))
                    .cloned()
                    .collect();
                for key in left {
                    self.delete_now(&key);
                }
            }
        }
        true
    }

    // === engines ===

    pub(super) fn step(&mut self, name: &str, step: Step) -> (Outcome, Option<Write>) {
        let now = self.now;
        let started_at = now.0 as i64 + 1;
        match step {
            Step::Resolve {
                container,
                rev,
                manifest,
                json,
            } => {
                if self.missing.contains(&manifest.image) {
                    let reason = format!("no such image: {}", manifest.image);
                    return (
                        Outcome::NotResolved {
                            container,
                            rev,
                            reason,
                        },
                        None,
                    );
                }
                let pushed = self
                    .pushed
                    .get(&manifest.image)
                    .copied()
                    .unwrap_or_default();
                let image = match pushed {
                    0 => format!("sha256:{}", manifest.image),
                    again => format!("sha256:{}#{again}", manifest.image),
                };
                let write = Write::Version {
                    container: container.clone(),
                    rev,
                    version: crate::records::Version {
                        manifest: json.as_ref().clone(),
                        image: image.clone(),
                        good: false,
                    },
                };
                (
                    Outcome::Resolved {
                        container,
                        rev,
                        image,
                    },
                    Some(write),
                )
            }
            Step::Prepare {
                slot,
                instance,
                rev,
                manifest,
                hash,
                temporary_name,
                ..
            } => {
                let images = &mut self.images;
                images.insert(instance.to_string(), manifest.image.clone());
                let agent = self.hosts.get_mut(name).unwrap();
                let mut ports = crate::observed::PublishedPorts::new();
                for service in manifest.services.values() {
                    let port = ContainerPort {
                        port: service.port,
                        protocol: service.protocol,
                    };
                    let at = service.host_port.unwrap_or(agent.ports);
                    agent.ports += 1;
                    ports.insert(port, SocketAddr::new(agent.host.surroundings.host_ip, at));
                }
                let docker_name = slot.docker_name();
                let container = ObservedContainer {
                    docker_id: format!("d-{instance}"),
                    name: if temporary_name {
                        format!("{docker_name}.{instance}")
                    } else {
                        docker_name
                    },
                    owner: Ownership {
                        cluster: Uuid::nil(),
                        slot: slot.clone(),
                        instance: instance.clone(),
                        manifest_hash: hash,
                        host_hash: agent.host.surroundings.hash(&ports),
                    },
                    state: ContainerState::Created {
                        error: String::new(),
                    },
                    addr: None,
                    ports,
                    check: None,
                    image_id: String::new(),
                    created_at: now.0 as i64,
                };
                agent
                    .observed
                    .containers
                    .insert(instance.clone(), container);
                (
                    Outcome::Prepared {
                        slot,
                        instance,
                        rev,
                    },
                    None,
                )
            }
            Step::Start { slot, instance, .. } => {
                let image = self
                    .images
                    .get(instance.as_str())
                    .cloned()
                    .unwrap_or_default();
                let crashing = self.crashing.contains(&image);
                let slow = self.slow.contains(&image);
                let agent = self.hosts.get_mut(name).unwrap();
                let runs: Vec<_> = agent
                    .observed
                    .of_slot(&slot)
                    .filter(|c| c.running().is_some())
                    .map(|c| c.owner.instance.clone())
                    .collect();
                assert!(runs.is_empty(), "{slot} would run twice: {runs:?}");
                let container = agent.observed.containers.get_mut(&instance).unwrap();
                container.state = if crashing {
                    ContainerState::Exited(Exit {
                        code: 1,
                        at: started_at,
                        ..Exit::default()
                    })
                } else {
                    ContainerState::Running(Running {
                        pid: 1,
                        started_at,
                        health: None,
                    })
                };
                if !crashing && !slow {
                    agent.observed.readiness.insert(instance, Readiness::Ready);
                }
                (Outcome::Done { slot }, None)
            }
            Step::Stop { slot, instance, .. } => {
                let agent = self.hosts.get_mut(name).unwrap();
                agent.observed.readiness.remove(&instance);
                let container = agent.observed.containers.get_mut(&instance).unwrap();
                container.state = ContainerState::Exited(Exit {
                    code: 143,
                    at: started_at,
                    ..Exit::default()
                });
                (Outcome::Done { slot }, None)
            }
            Step::Remove { slot, instance, .. } => {
                let agent = self.hosts.get_mut(name).unwrap();
                agent.observed.containers.remove(&instance);
                (Outcome::Done { slot }, None)
            }
            Step::Rename {
                slot,
                instance,
                name: new,
                ..
            } => {
                let agent = self.hosts.get_mut(name).unwrap();
                let taken = agent.observed.containers.values().any(|c| c.name == new);
                assert!(!taken, "{new} is taken");
                agent.observed.containers.get_mut(&instance).unwrap().name = new;
                (Outcome::Done { slot }, None)
            }
        }
    }

    fn crash(&mut self, text: &str) {
        let slot = slot(text);
        let at = self.now.0 as i64 + 1;
        for agent in self.hosts.values_mut() {
            let mut ended = Vec::new();
            for container in agent.observed.containers.values_mut() {
                if container.owner.slot == slot && container.running().is_some() {
                    container.state = ContainerState::Exited(Exit {
                        code: 1,
                        at,
                        ..Exit::default()
                    });
                    ended.push(container.owner.instance.clone());
                }
            }
            agent
                .observed
                .readiness
                .retain(|instance, _| !ended.contains(instance));
        }
    }

    // === agents ===

    /// Every agent plans once on the same snapshot, then all is carried out. True if anything was.
    fn round(&mut self, out: &mut String, print: bool) -> (bool, Option<Millis>) {
        let mut plans: Vec<(String, Plan)> = Vec::new();
        let (snapshot, now) = (self.snapshot.clone(), self.now);
        let minted = &mut self.minted;
        for (name, agent) in &mut self.hosts {
            agent.local.observe(&agent.observed, now);
            let mut fresh = || -> InstanceId {
                *minted += 1;
                format!("i{minted}").parse().unwrap()
            };
            let planned = plan(
                Inputs {
                    snapshot: &snapshot,
                    observed: &agent.observed,
                    local: &agent.local,
                    host: &agent.host,
                    trust: agent.trust,
                    now,
                },
                &mut fresh,
            );
            agent.local.begin(&planned, now);
            plans.push((name.clone(), planned));
        }
        let mut did = false;
        let mut wake: Option<Millis> = None;
        for (name, planned) in plans {
            if let Some(at) = planned.requeue_at {
                wake = Some(wake.map_or(at, |w| w.min(at)));
            }
            did |= !planned.is_idle();
            for write in planned.writes {
                let held = self.write(&write);
                if print {
                    let lost = if held { "" } else { " (lost)" };
                    let _ = writeln!(out, "{:>6} {name} {}{lost}", self.now.0, describe(&write));
                }
                let revision = self.revision;
                self.agent(&name)
                    .local
                    .wrote(&write, held, revision, snapshot.revision, now);
            }
            for step in planned.steps {
                if print {
                    let _ = writeln!(out, "{:>6} {name} {}", self.now.0, describe_step(&step));
                }
                let (outcome, write) = self.step(&name, step);
                if let Some(write) = write {
                    let held = self.write(&write);
                    let revision = self.revision;
                    self.agent(&name)
                        .local
                        .wrote(&write, held, revision, snapshot.revision, now);
                }
                if let Outcome::NotResolved { reason, .. } = &outcome {
                    let _ = writeln!(out, "{:>6} {name} not resolved: {reason}", self.now.0);
                }
                let now = self.now;
                self.agent(&name).local.record(&outcome, now);
            }
        }
        (did, wake)
    }

    /// Until nothing is left to do within `seconds` of the clock.
    fn settle(&mut self, seconds: u64, out: &mut String) {
        let end = self.now + Duration::from_secs(seconds);
        for _ in 0..10_000 {
            let (did, wake) = self.round(out, true);
            if did {
                continue;
            }
            match wake {
                Some(at) if at <= end => self.now = at.max(Millis(self.now.0 + 1)),
                _ => return,
            }
        }
        panic!("does not settle:\n{out}");
    }

    // === what there is ===

    fn ps(&self, out: &mut String) {
        for (name, agent) in &self.hosts {
            for container in agent.observed.containers.values() {
                let state = match &container.state {
                    ContainerState::Created { .. } => "created",
                    ContainerState::Running(_) | ContainerState::Paused(_) => "running",
                    ContainerState::Exited(_) => "exited",
                    ContainerState::Removing => "removing",
                };
                let image = self
                    .images
                    .get(container.owner.instance.as_str())
                    .map_or("?", String::as_str);
                let _ = writeln!(
                    out,
                    "{name} {} {} {image} {state}",
                    container.name, container.owner.instance
                );
            }
        }
    }

    fn list_keys(&self, prefix: &str, out: &mut String) {
        for (key, (value, modified, _)) in &self.keys {
            if key.starts_with(prefix) {
                let _ = writeln!(out, "{key} @{modified} {}", String::from_utf8_lossy(value));
            }
        }
    }

    fn waiting(&mut self, out: &mut String) {
        let (snapshot, now) = (self.snapshot.clone(), self.now);
        for (name, agent) in &self.hosts {
            let planned = plan(
                Inputs {
                    snapshot: &snapshot,
                    observed: &agent.observed,
                    local: &agent.local,
                    host: &agent.host,
                    trust: agent.trust,
                    now,
                },
                &mut || "unused".parse().unwrap(),
            );
            for (slot, reason) in planned.waiting {
                let _ = writeln!(out, "{name} {slot}: {reason}");
            }
        }
    }
}

fn slot(text: &str) -> SlotId {
    let (container, number) = text.rsplit_once('/').unwrap();
    let container: manifests::ContainerId = container.parse().unwrap();
    container.slot(number.parse().unwrap())
}

fn describe(write: &Write) -> String {
    let kind = write.kind();
    match write {
        Write::Claim { slot, claim, .. } | Write::NewInstance { slot, claim, .. } => {
            format!("{kind} {slot} {} v{}", claim.instance, claim.manifest_rev)
        }
        Write::Release { slot, .. } => format!("{kind} {slot}"),
        Write::State { slot, state, .. } => {
            let ports: Vec<String> = state
                .ports
                .iter()
                .map(|(n, p)| format!(" {n}={p}"))
                .collect();
            format!(
                "{kind} {slot} {} {}{}",
                state.instance,
                format!("{:?}", state.state).to_lowercase(),
                ports.concat()
            )
        }
        Write::Version { container, rev, .. } | Write::Good { container, rev, .. } => {
            format!("{kind} {container} v{rev}")
        }
        Write::Prune {
            container,
            versions,
        } => {
            let revs: Vec<i64> = versions.iter().map(|(rev, _)| *rev).collect();
            format!("{kind} {container} {revs:?}")
        }
        Write::Rollout {
            container, rollout, ..
        } => format!(
            "{kind} {container} v{} failed at slot {}: {}",
            rollout.version, rollout.slot, rollout.reason
        ),
        Write::Sweep { container } => format!("{kind} {container}"),
        Write::Status { slot, status, .. } => {
            let reason = status
                .reason
                .as_ref()
                .map(|r| format!(": {r}"))
                .unwrap_or_default();
            format!("{kind} {slot} {}{reason}", status.progress)
        }
    }
}

fn describe_step(step: &Step) -> String {
    let kind = step.kind();
    match step {
        Step::Resolve {
            container,
            rev,
            manifest,
            ..
        } => format!("{kind} {container} v{rev} {}", manifest.image),
        Step::Prepare {
            slot,
            instance,
            image,
            temporary_name,
            ..
        } => {
            let name = if *temporary_name {
                " under a temporary name"
            } else {
                ""
            };
            format!("{kind} {slot} {instance} {image}{name}")
        }
        Step::Start { slot, instance, .. }
        | Step::Stop { slot, instance, .. }
        | Step::Remove { slot, instance, .. } => format!("{kind} {slot} {instance}"),
        Step::Rename {
            slot,
            instance,
            name,
            ..
        } => format!("{kind} {slot} {instance} to {name}"),
    }
}
