//! A cluster in a few maps: etcd with its revisions, engines that obey, a clock that is set.
//!
//! Writes are applied only if their guards hold; a write whose guard does not
//! hold where nothing raced is an error of the plan and ends the test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use manifests::keys::Key;
use manifests::update::Order;
use manifests::{HostName, InstanceId, SlotId};
use uuid::Uuid;

use crate::inputs::Inputs;
use crate::memory::AgentMemory;
use crate::output::Plan;
use crate::plan::plan;
use crate::{image_policy, rollout};
use model::VersionId;
use model::images::{ImageAnswer, ImageQuestion, NoAnswer, RegistryImage};
use model::kv::Op;
use model::observed::{
    ContainerPort, ContainerState, EngineState, Exit, LABEL_CLUSTER, Observed, ObservedContainer,
    Ownership, Readiness, Running, Surroundings, job_name,
};
use model::records::{Hold, HostRecord, HostState, Status, Versions};
use model::rules::Rules;
use model::snapshot::{Change, Desired, Snapshot};
use model::time::Millis;
use model::volumes;
use model::write::{Guard, Keys, Over, WriteOp};
use model::{Action, ActionResult, Extent, Fault, Host, ModRev, Prepare, Trust, Write, WriteKind};

impl Keys for World {
    fn modified(&self, key: &Key) -> ModRev {
        let key = self.keys.get(&key.to_string());
        key.map_or(ModRev::ABSENT, |key| ModRev(key.1))
    }

    fn value(&self, key: &Key) -> Option<&[u8]> {
        self.keys.get(&key.to_string()).map(|k| k.0.as_slice())
    }

    fn any_under(&self, prefix: &str) -> bool {
        self.keys.keys().any(|key| key.starts_with(prefix))
    }
}

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
    /// Images whose pull and create never end.
    pub(super) stuck: BTreeSet<String>,
    /// Images whose process outlives a request to stop until `stopped`.
    pub(super) stubborn: BTreeSet<String>,
    /// Images that never get ready.
    pub(super) slow: BTreeSet<String>,
    /// Open connections of a slot's instances; none if it is not here.
    pub(super) open: BTreeMap<SlotId, u32>,
    pub(super) images: BTreeMap<String, String>,
    /// Images that a host can't run.
    pub(super) faults: BTreeSet<(String, String)>,
    /// Images whose start fails on a host for a reason that nobody knows.
    pub(super) odd: BTreeSet<(String, String)>,
    /// Records of hosts that are cut off.
    pub(super) records: BTreeMap<String, Vec<u8>>,
}

pub(super) struct Agent {
    pub(super) host: Host,
    pub(super) observed: Observed,
    pub(super) memory: AgentMemory,
    pub(super) trust: Trust,
    pub(super) ports: u16,
    pub(super) volumes: BTreeMap<String, volumes::Labels>,
    /// Docker's storage driver.
    pub(super) driver: String,
    /// It sees and does nothing.
    pub(super) cut: bool,
    /// Its clock is so many milliseconds ahead.
    pub(super) clock: i64,
}

impl World {
    pub(super) fn command(&mut self, line: &str, out: &mut String) {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        match command {
            "host" => self.add_host(words[0]),
            "member" => {
                let key = Key::Member(rest.parse().unwrap()).to_string();
                let id = self.agent(rest).host.id;
                self.put(
                    &key,
                    serde_json::to_vec(&model::records::Member { id }).unwrap(),
                );
            }
            "forget" => {
                let key = Key::Member(rest.parse().unwrap());
                self.delete(&key.to_string());
            }
            "put" => {
                let (key, value) = rest.split_once(' ').unwrap();
                self.put(key, value.as_bytes().to_vec());
            }
            "manifest" => {
                let (id, value) = rest.split_once(' ').unwrap();
                self.put(&format!("/apps/{id}/manifest"), value.as_bytes().to_vec());
            }
            "delete" => self.delete(&format!("/apps/{rest}/manifest")),
            "delete-key" => self.delete(rest),
            "push" => *self.pushed.entry(rest.to_owned()).or_default() += 1,
            "image-back" => self.image_back(words[0], words[1].parse().unwrap()),
            "missing" => {
                self.missing.insert(rest.to_owned());
            }
            "there" => {
                self.missing.remove(rest);
            }
            "crashing" => {
                self.crashing.insert(rest.to_owned());
            }
            "stuck" => {
                self.stuck.insert(rest.to_owned());
            }
            "stubborn" => {
                self.stubborn.insert(rest.to_owned());
            }
            "stopped" => self.stopped(words[0], &slot(words[1])),
            "slow" => {
                self.slow.insert(rest.to_owned());
            }
            "connections" => {
                self.open.insert(slot(words[0]), words[1].parse().unwrap());
            }
            "pass" => self.now = self.now + Duration::from_millis(rest.parse().unwrap()),
            "lose" => {
                let key = Key::HostRecord(rest.parse().unwrap()).to_string();
                let record = self.keys[&key].0.clone();
                self.records.insert(rest.to_owned(), record);
                self.delete(&key);
                self.agent(rest).cut = true;
            }
            "power-cut" => {
                self.command(&format!("lose {rest}"), out);
                let now = self.now;
                let agent = self.agent(rest);
                agent.memory = AgentMemory::default();
                agent.observed.readiness.clear();
                for container in agent.observed.containers.values_mut() {
                    if container.running().is_some() {
                        container.state = ContainerState::Exited(Exit {
                            code: 137,
                            at: now.0 as i64 + 1,
                            ..Exit::default()
                        });
                    }
                }
            }
            "back" => {
                let record = self.records.remove(rest).unwrap();
                let key = Key::HostRecord(rest.parse().unwrap()).to_string();
                self.put(&key, record);
                self.agent(rest).cut = false;
            }
            "unready" => {
                let slot = slot(words[1]);
                let observed = &mut self.agent(words[0]).observed;
                let newest = newest_running(&observed.containers, &slot).expect("it runs");
                let says = Readiness::Unready("does not listen any more".to_owned());
                observed.readiness.insert(newest, says);
            }
            "ready" => {
                let slot = slot(words[1]);
                let observed = &mut self.agent(words[0]).observed;
                let newest = newest_running(&observed.containers, &slot).expect("it runs");
                observed.readiness.insert(newest, Readiness::Ready);
            }
            "removing" => {
                let slot = slot(words[1]);
                for container in self.agent(words[0]).observed.containers.values_mut() {
                    if container.owner.slot == slot {
                        container.state = ContainerState::Removing;
                    }
                }
            }
            "docker-stop" => {
                let (slot, at) = (slot(rest), self.now.0 as i64 + 1);
                self.ends(
                    &slot,
                    &Exit {
                        code: 143,
                        at,
                        ..Exit::default()
                    },
                );
            }
            "label" => {
                let key = Key::Labels(words[0].parse().unwrap()).to_string();
                let labels = BTreeMap::from([(words[1], words.get(2))]);
                self.put(&key, serde_json::to_vec(&labels).unwrap());
            }
            "host-fault" => {
                self.faults
                    .insert((words[0].to_owned(), words[1].to_owned()));
            }
            "host-well" => {
                self.faults
                    .remove(&(words[0].to_owned(), words[1].to_owned()));
            }
            "odd-fault" => {
                self.odd.insert((words[0].to_owned(), words[1].to_owned()));
            }
            "resume" => {
                for key in ["before", "rollout"] {
                    self.delete(&format!("/claims/{rest}/{key}"));
                }
            }
            "job-ends" => self.job_ends(words[0], words[1].parse().unwrap()),
            "crash" => self.crash(words[0], words.get(1).copied()),
            "volume" => {
                let cluster = words
                    .get(2)
                    .map(|of| (LABEL_CLUSTER.to_owned(), (*of).to_owned()));
                let labels = cluster.into_iter().collect();
                self.agent(words[0])
                    .volumes
                    .insert(words[1].to_owned(), labels);
            }
            "volume-rm" => {
                self.agent(words[0]).volumes.remove(words[1]);
            }
            "release" => {
                let key = Key::Data(slot(rest)).to_string();
                self.delete(&key);
            }
            "reimage" => self.reimage(rest),
            "clock" => self.agent(words[0]).clock = words[1].parse().unwrap(),
            "restart-agent" => self.restart_agent(rest),
            "hold" => self.hold(words[0], words.get(1) != Some(&"off")),
            "trust" => {
                self.agent(words[0]).trust = match words[1] {
                    "full" => Trust::Full,
                    _ => Trust::RestartsOnly,
                };
            }
            "engine-hangs" => {
                self.agent(rest).observed.engine = EngineState::Unresponsive("hangs".to_owned());
            }
            "engine-back" => self.agent(rest).observed.engine = EngineState::Up,
            "pause" => self.at_docker(rest, |c, process| c.state = ContainerState::Paused(process)),
            "unpause" => {
                self.at_docker(rest, |c, process| {
                    c.state = ContainerState::Running(process);
                });
            }
            "limit-memory" => self.at_docker(words[0], |c, _| {
                c.limits.memory = words[1].parse().ok();
            }),
            "disconnect" => self.at_docker(rest, |c, _| c.addr = None),
            "driver" => {
                let agent = self.agent(words[0]);
                words[1].clone_into(&mut agent.driver);
                agent.observed.containers.clear();
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

    /// Its memory is gone, but for what it wrote of its slots.
    fn restart_agent(&mut self, name: &str) {
        let mut memory = AgentMemory::default();
        for (key, (value, ..)) in &self.keys {
            if let Some(Key::Status(slot)) = Key::parse(key) {
                let status: Status = serde_json::from_slice(value).unwrap();
                if status.host.as_str() == name {
                    memory.resume(slot, status);
                }
            }
        }
        self.agent(name).memory = memory;
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
            api: Vec::new(),
            labels: BTreeMap::new(),
            capacity: model::records::Capacity::default(),
            versions: Versions {
                agent: String::new(),
                placement: crate::placement::VERSIONS.to_vec(),
            },
            foreign: 0,
            engine: true,
            docker: None,
            disk: None,
            disk_full: false,
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
                memory: AgentMemory::default(),
                trust: Trust::Full,
                ports: 20_000,
                volumes: BTreeMap::new(),
                driver: String::new(),
                cut: false,
                clock: 0,
            },
        );
    }

    /// The machine begins anew, under its old name.
    fn reimage(&mut self, name: &str) {
        let id = Uuid::from_u128(100 + u128::from(self.minted));
        let agent = self.agent(name);
        agent.host.id = id;
        agent.observed = Observed::default();
        agent.memory = AgentMemory::default();
        agent.volumes.clear();
        let key = Key::HostRecord(agent.host.name.clone()).to_string();
        let mut record: HostRecord = serde_json::from_slice(&self.keys[&key].0).unwrap();
        record.id = id;
        self.put(&key, serde_json::to_vec(&record).unwrap());
    }

    /// It distrusts its etcd in a way that may concern all, and says so; or does no more.
    fn hold(&mut self, name: &str, holds: bool) {
        let agent = self.agent(name);
        agent.trust = if holds {
            Trust::RestartsOnly
        } else {
            Trust::Full
        };
        let key = Key::HostRecord(agent.host.name.clone()).to_string();
        let mut record: HostRecord = serde_json::from_slice(&self.keys[&key].0).unwrap();
        record.hold = holds.then(|| Hold {
            reason: "it may be an old etcd".to_owned(),
            shared: true,
        });
        self.put(&key, serde_json::to_vec(&record).unwrap());
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

    /// Carries a write out if its guards hold.
    pub(super) fn write(&mut self, write: &Write) -> bool {
        if !write.holds(self) {
            return false;
        }
        self.revision += 1;
        for op in &write.ops {
            match op.op() {
                Op::Put { key, value, .. } => self.put_now(&key, value),
                Op::Delete(range) => {
                    let keys = self.keys.keys().filter(|key| range.contains(key));
                    for key in keys.cloned().collect::<Vec<_>>() {
                        self.delete_now(&key);
                    }
                }
                Op::Get(_) | Op::First(_) | Op::Txn(_) => panic!("no write does that: {op:?}"),
            }
        }
        true
    }

    // === engines ===

    fn is_stuck(&self, step: &Action) -> bool {
        match step {
            Action::Resolve { manifest, .. } | Action::Prepare(Prepare { manifest, .. }) => {
                self.stuck.contains(&manifest.image)
            }
            Action::Stop { instance, .. } => {
                let image = self.images.get(instance.as_str());
                image.is_some_and(|image| self.stubborn.contains(image))
            }
            _ => false,
        }
    }

    /// What was asked to stop has ended at last.
    fn stopped(&mut self, name: &str, slot: &SlotId) {
        let asked = self
            .agent(name)
            .observed
            .of_slot(slot)
            .find(|c| c.running().is_some());
        let asked = asked.expect("it runs").clone();
        let (outcome, _) = self.step(
            name,
            Action::Stop {
                slot: slot.clone(),
                instance: asked.owner.instance,
                docker_id: asked.docker_id,
                timeout: Duration::ZERO,
            },
        );
        let now = self.now;
        self.agent(name).memory.record(&outcome, now);
    }

    /// What a name means in its registry now.
    fn digest(&self, image: &str) -> String {
        match self.pushed.get(image).copied().unwrap_or_default() {
            0 => format!("sha256:{image}"),
            again => format!("sha256:{image}#{again}"),
        }
    }

    /// What the registry says of a newer image.
    fn answer(&self, question: ImageQuestion) -> ImageAnswer {
        let (repository, tag) = question.image.split_once(':').unwrap();
        let tags = self.pushed.keys().filter_map(|image| {
            let (other, tag) = image.split_once(':')?;
            (other == repository).then_some(tag)
        });
        let newest = match &question.tags {
            Some(pattern) => pattern.newest(Some(tag), tags).unwrap(),
            None => tag,
        };
        let image = format!("{repository}:{newest}");
        let said = if self.missing.contains(&image) {
            Err(NoAnswer {
                reason: format!("no such image: {image}"),
                retry_after: None,
            })
        } else {
            Ok(RegistryImage {
                digest: self.digest(&image),
                image,
                at: 0,
            })
        };
        ImageAnswer {
            container: question.container,
            version: question.version,
            said,
        }
    }

    /// Somebody goes back to the image of a version, as `dokkaa rollback` does.
    fn image_back(&mut self, id: &str, version: i64) {
        let id: manifests::ContainerId = id.parse().unwrap();
        let view = &self.snapshot.containers[&id];
        let back = image_policy::went_back(view, VersionId(version)).unwrap();
        let key = Key::FoundImage(id).to_string();
        self.put(&key, serde_json::to_vec(&back).unwrap());
    }

    pub(super) fn step(&mut self, name: &str, step: Action) -> (ActionResult, Option<Write>) {
        let now = self.now;
        let started_at = now.0 as i64 + 1;
        if let Some(outcome) = self.step_of_job(name, &step) {
            return (outcome, None);
        }
        match step {
            Action::Resolve {
                container,
                rev,
                manifest,
                text,
                found,
            } => {
                if self.missing.contains(&manifest.image) {
                    let reason = format!("no such image: {}", manifest.image);
                    return (
                        ActionResult::NotResolved {
                            container,
                            rev,
                            reason,
                            fault: Fault::Manifest,
                        },
                        None,
                    );
                }
                let image = match &found {
                    Some(found) => found.digest.clone(),
                    None => self.digest(&manifest.image),
                };
                let version = model::records::Version {
                    manifest: text.clone(),
                    image: image.clone(),
                    content: None,
                    good: false,
                    prepared: self
                        .snapshot
                        .containers
                        .get(&container)
                        .is_some_and(|view| {
                            crate::rollout::begins_prepared(view, &manifest, &image)
                        }),
                    volumes: Vec::new(),
                    found: None,
                };
                let view = &self.snapshot.containers[&container];
                let write =
                    rollout::decided_write(&container, view, (rev, version), found.as_ref());
                (
                    ActionResult::Resolved {
                        container,
                        rev,
                        image,
                        content: None,
                        volumes: Vec::new(),
                    },
                    Some(write),
                )
            }
            Action::Prepare(Prepare {
                slot,
                instance,
                rev,
                manifest,
                image,
                hash,
                temporary_name,
                existing,
                driver,
                before,
                ..
            }) => {
                let agent = self.hosts.get_mut(name).unwrap();
                let hidden = volumes::hidden(&slot, driver.as_deref(), &agent.driver);
                let here = &mut agent.volumes;
                let local = volumes::local(&manifest);
                for volume in local.into_iter().filter(|_| !before) {
                    let docker = slot.volume_name(&volume);
                    let must = existing.contains(&volume);
                    let found = here.get(&docker);
                    let refusal = volumes::refusal(&slot, &volume, must, found, Uuid::nil());
                    if let Some(reason) = refusal.or(hidden.clone()) {
                        let outcome = ActionResult::NotPrepared {
                            slot,
                            rev,
                            reason,
                            fault: Fault::Data,
                        };
                        return (outcome, None);
                    }
                    let labels = [(LABEL_CLUSTER.to_owned(), Uuid::nil().to_string())];
                    here.entry(docker).or_insert_with(|| labels.into());
                }
                if self
                    .faults
                    .contains(&(name.to_owned(), manifest.image.clone()))
                {
                    let reason = format!("{name} can't run {}", manifest.image);
                    let fault = Fault::Host;
                    let outcome = ActionResult::NotPrepared {
                        slot,
                        rev,
                        reason,
                        fault,
                    };
                    return (outcome, None);
                }
                let images = &mut self.images;
                // The first push of a name is called like the name.
                let pushed = image.strip_prefix("sha256:").unwrap_or(&manifest.image);
                images.insert(instance.to_string(), pushed.to_owned());
                let agent = self.hosts.get_mut(name).unwrap();
                let mut ports = model::observed::PublishedPorts::new();
                let services = manifest.services.values();
                for service in services.filter(|_| !before) {
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
                    name: if before {
                        job_name(&slot, &instance)
                    } else if temporary_name {
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
                        before: before.then_some(rev),
                    },
                    state: ContainerState::Created {
                        error: String::new(),
                    },
                    addr: None,
                    ports,
                    limits: model::observed::Limits {
                        cpu_millis: manifest.cpu_millis,
                        memory: manifest.memory,
                    },
                    check: None,
                    image: String::new(),
                    image_id: String::new(),
                    driver: agent.driver.clone(),
                    created_at: now.0 as i64 + agent.clock,
                };
                let observed = &mut agent.observed;
                let all = if before {
                    &mut observed.jobs
                } else {
                    &mut observed.containers
                };
                all.insert(instance.clone(), container);
                (
                    ActionResult::Prepared {
                        slot,
                        instance,
                        rev,
                        before,
                    },
                    None,
                )
            }
            Action::Start { slot, instance, .. } => {
                let image = self
                    .images
                    .get(instance.as_str())
                    .cloned()
                    .unwrap_or_default();
                if self.odd.contains(&(name.to_owned(), image.clone())) {
                    let reason = format!("{name} fails oddly");
                    let agent = self.hosts.get_mut(name).unwrap();
                    agent.observed.containers.get_mut(&instance).unwrap().state =
                        ContainerState::Created {
                            error: reason.clone(),
                        };
                    let outcome = ActionResult::NotStarted {
                        slot,
                        instance,
                        reason,
                        fault: Fault::Unknown,
                        must_recreate: false,
                    };
                    return (outcome, None);
                }
                let crashing = self.crashing.contains(&image);
                let slow = self.slow.contains(&image);
                let agent = self.hosts.get_mut(name).unwrap();
                let desired = self.snapshot.containers.get(&slot.container);
                let stops_first = desired.is_none_or(|view| {
                    let newest = view.manifest.as_ref().map(|manifest| &manifest.value);
                    !matches!(newest, Some(Desired::Valid { manifest, .. })
                        if manifest.order() == Order::StartFirst)
                });
                let is_leaving = |instance: &InstanceId| {
                    let memory = agent.memory.instances.get(instance);
                    memory.is_some_and(|memory| memory.leaving_since.is_some())
                };
                let runs: Vec<_> = agent
                    .observed
                    .of_slot(&slot)
                    .filter(|c| c.running().is_some())
                    .map(|c| c.owner.instance.clone())
                    .filter(|instance| stops_first || !is_leaving(instance))
                    .collect();
                assert!(
                    runs.is_empty() || (runs.len() == 1 && !stops_first),
                    "{slot} would run twice: {runs:?}"
                );
                let container = agent.observed.containers.get_mut(&instance).unwrap();
                container.state = if crashing {
                    ContainerState::Exited(Exit {
                        code: 1,
                        at: started_at,
                        ..Exit::default()
                    })
                } else {
                    container.addr = Some(IpAddr::from([172, 17, 0, 2]));
                    ContainerState::Running(Running {
                        pid: 1,
                        started_at,
                        health: None,
                    })
                };
                if !crashing && !slow {
                    agent.observed.readiness.insert(instance, Readiness::Ready);
                }
                (ActionResult::Done { slot }, None)
            }
            Action::Stop { slot, instance, .. } => {
                let agent = self.hosts.get_mut(name).unwrap();
                agent.observed.readiness.remove(&instance);
                let container = agent.observed.containers.get_mut(&instance).unwrap();
                container.state = ContainerState::Exited(Exit {
                    code: 143,
                    at: started_at,
                    ..Exit::default()
                });
                (ActionResult::Done { slot }, None)
            }
            Action::Remove { slot, instance, .. } => {
                let agent = self.hosts.get_mut(name).unwrap();
                agent.observed.containers.remove(&instance);
                (ActionResult::Done { slot }, None)
            }
            Action::Rename {
                slot,
                instance,
                name: new,
                ..
            } => {
                let agent = self.hosts.get_mut(name).unwrap();
                let taken = agent.observed.containers.values().any(|c| c.name == new);
                assert!(!taken, "{new} is taken");
                agent.observed.containers.get_mut(&instance).unwrap().name = new;
                (ActionResult::Done { slot }, None)
            }
        }
    }

    /// A step on what runs before a version: it runs until `job-ends`.
    fn step_of_job(&mut self, name: &str, step: &Action) -> Option<ActionResult> {
        let at = self.now.0 as i64 + 1;
        let jobs = &mut self.hosts.get_mut(name).unwrap().observed.jobs;
        let (slot, state) = match step {
            Action::Start { slot, instance, .. } => (slot, &mut jobs.get_mut(instance)?.state),
            Action::Stop { slot, instance, .. } => {
                jobs.get_mut(instance)?.state = ContainerState::Exited(Exit {
                    code: 143,
                    at,
                    ..Exit::default()
                });
                return Some(ActionResult::Done { slot: slot.clone() });
            }
            Action::Remove { slot, instance, .. } => {
                jobs.remove(instance)?;
                return Some(ActionResult::Done { slot: slot.clone() });
            }
            _ => return None,
        };
        assert!(matches!(state, ContainerState::Created { .. }), "{step:?}");
        *state = ContainerState::Running(Running {
            pid: 1,
            started_at: at,
            health: None,
        });
        Some(ActionResult::Done { slot: slot.clone() })
    }

    /// What runs before a version exits with a code.
    fn job_ends(&mut self, container: &str, code: i64) {
        let at = self.now.0 as i64 + 1;
        let jobs = self
            .hosts
            .values_mut()
            .flat_map(|agent| agent.observed.jobs.values_mut());
        for job in jobs.filter(|job| job.owner.slot.container.to_string() == container) {
            if job.running().is_some() {
                job.state = ContainerState::Exited(Exit {
                    code,
                    at,
                    ..Exit::default()
                });
            }
        }
    }

    /// Its process exits with a code, or the kernel kills it: `oom`.
    fn crash(&mut self, text: &str, how: Option<&str>) {
        let out_of_memory = how == Some("oom");
        let code = match how {
            Some("oom") => 137,
            Some(code) => code.parse().unwrap(),
            None => 1,
        };
        let exit = Exit {
            code,
            out_of_memory,
            at: self.now.0 as i64 + 1,
            ..Exit::default()
        };
        self.ends(&slot(text), &exit);
    }

    /// What was made last of the slot ends.
    fn ends(&mut self, slot: &SlotId, exit: &Exit) {
        for Agent { observed, .. } in self.hosts.values_mut() {
            let Some(newest) = newest_running(&observed.containers, slot) else {
                continue;
            };
            observed.readiness.remove(&newest);
            let ended = observed.containers.get_mut(&newest);
            ended.expect("it is there").state = ContainerState::Exited(exit.clone());
        }
    }

    /// Somebody does something to what runs of a slot. It is ready where nothing is in the way.
    fn at_docker(&mut self, text: &str, does: impl Fn(&mut ObservedContainer, Running)) {
        let slot = slot(text);
        for agent in self.hosts.values_mut() {
            let containers = agent.observed.containers.iter_mut();
            for (instance, container) in containers.filter(|(_, c)| c.owner.slot == slot) {
                let Some(process) = container.running().cloned() else {
                    continue;
                };
                does(container, process);
                let readiness = match container.cut_off() {
                    Some(why) => Readiness::Unready(why.to_owned()),
                    None => Readiness::Ready,
                };
                agent.observed.readiness.insert(instance.clone(), readiness);
            }
        }
    }

    // === agents ===

    /// Every agent plans once on the same snapshot, then all is carried out. True if anything was.
    fn round(&mut self, out: &mut String, print: bool) -> (bool, Option<Millis>) {
        let mut plans: Vec<(String, Plan)> = Vec::new();
        let (snapshot, now) = (self.snapshot.clone(), self.now);
        let minted = &mut self.minted;
        for (name, agent) in self.hosts.iter_mut().filter(|(_, agent)| !agent.cut) {
            agent.memory.observe(&agent.observed, now);
            if agent.trust == Trust::Full {
                agent.memory.see(&snapshot, false, now);
            }
            let mut fresh = || -> InstanceId {
                *minted += 1;
                format!("i{minted}").parse().unwrap()
            };
            let planned = plan(
                Inputs {
                    snapshot: &snapshot,
                    observed: &agent.observed,
                    memory: &agent.memory,
                    host: &agent.host,
                    trust: agent.trust,
                    rules: Rules::default(),
                    extent: Extent::Whole,
                    now,
                },
                &mut fresh,
            );
            agent.memory.begin(&planned, now);
            plans.push((name.clone(), planned));
        }
        let mut did = false;
        let mut wake: Option<Millis> = None;
        for (name, planned) in plans {
            for at in planned
                .requeue_at
                .into_iter()
                .chain(planned.requeue_whole_at)
            {
                wake = Some(wake.map_or(at, |w| w.min(at)));
            }
            did |= !planned.is_idle();
            did |= self.count_connections(&name, &planned);
            for write in planned.writes {
                let held = self.write(&write);
                if print {
                    let lost = if held { "" } else { " (lost)" };
                    let _ = writeln!(out, "{:>6} {name} {}{lost}", self.now.0, describe(&write));
                }
                let revision = self.revision;
                self.agent(&name)
                    .memory
                    .wrote(&write, held, revision, snapshot.revision, now);
            }
            did |= !planned.asks.is_empty();
            for question in planned.asks {
                let answer = self.answer(question);
                if print {
                    let said = match &answer.said {
                        Ok(image) => format!("{} is {}", image.image, image.digest),
                        Err(no) => no.reason.clone(),
                    };
                    let about = (&answer.container, answer.version);
                    let _ = writeln!(
                        out,
                        "{:>6} {name} asks for {} v{}: {said}",
                        self.now.0, about.0, about.1
                    );
                }
                self.agent(&name).memory.answered(&answer, now);
            }
            for step in planned.actions {
                if print {
                    let _ = writeln!(out, "{:>6} {name} {}", self.now.0, describe_step(&step));
                }
                if self.is_stuck(&step) {
                    continue;
                }
                let (outcome, write) = self.step(&name, step);
                if let Some(write) = write {
                    let held = self.write(&write);
                    let revision = self.revision;
                    self.agent(&name)
                        .memory
                        .wrote(&write, held, revision, snapshot.revision, now);
                }
                if let ActionResult::NotResolved { reason, .. } = &outcome {
                    let _ = writeln!(out, "{:>6} {name} not resolved: {reason}", self.now.0);
                }
                let now = self.now;
                self.agent(&name).memory.record(&outcome, now);
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

    /// Counts the connections of what leaves; whether they are others than before.
    fn count_connections(&mut self, name: &str, planned: &Plan) -> bool {
        let agent = self.hosts.get_mut(name).unwrap();
        let counted = planned.draining.iter().map(|instance| {
            let container = &agent.observed.containers[instance];
            let open = self.open.get(&container.owner.slot);
            (instance.clone(), open.copied().unwrap_or_default())
        });
        let counted = counted.collect();
        let before = std::mem::replace(&mut agent.observed.connections, counted);
        before != agent.observed.connections
    }

    // === what there is ===

    fn ps(&self, out: &mut String) {
        for (name, agent) in &self.hosts {
            for container in agent.observed.containers.values() {
                let state = match &container.state {
                    ContainerState::Created { .. } => "created",
                    ContainerState::Running(_) => "running",
                    ContainerState::Paused(_) => "paused",
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
                    memory: &agent.memory,
                    host: &agent.host,
                    trust: agent.trust,
                    rules: Rules::default(),
                    extent: Extent::Whole,
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

/// What was made last of the slot, of what runs.
fn newest_running(
    containers: &BTreeMap<InstanceId, ObservedContainer>,
    slot: &SlotId,
) -> Option<InstanceId> {
    let runs = |c: &&ObservedContainer| c.owner.slot == *slot && c.running().is_some();
    let newest = containers.values().filter(runs);
    let newest = newest.max_by_key(|c| c.created_at)?;
    Some(newest.owner.instance.clone())
}

fn slot(text: &str) -> SlotId {
    let (container, number) = text.rsplit_once('/').unwrap();
    let container: manifests::ContainerId = container.parse().unwrap();
    container.slot(number.parse().unwrap())
}

fn describe(write: &Write) -> String {
    let (kind, scope) = (write.kind, &write.scope);
    let instance = || write.instance().expect("an instance");
    let more = match kind {
        WriteKind::Claim
        | WriteKind::Keep
        | WriteKind::TakeOver
        | WriteKind::Retake
        | WriteKind::Next
        | WriteKind::NewInstance
        | WriteKind::Replace
        | WriteKind::Adopt => {
            let is_rollout = |guard: &Guard| matches!(guard, Guard::Seen(Key::Rollout(_), _));
            let in_turn = write.guards.iter().any(is_rollout);
            let turn = if in_turn { " in turn" } else { "" };
            let version = write.claimed().unwrap().version;
            format!(" {} v{version}{turn}", instance())
        }
        WriteKind::Promote => {
            let over = match write.over {
                Over::Ready(_) => "is ready",
                Over::Nobody => "nobody has it",
                Over::Lost(_) => "its owner is lost",
                Over::Stopped(..) => "its owner has stopped",
            };
            format!(" {}: {over}", instance())
        }
        WriteKind::ReleaseUnfit | WriteKind::DeleteNext => {
            let unfit = write.unfit().map(|unfit| format!(": {}", unfit.reason));
            unfit.unwrap_or_default()
        }
        WriteKind::Data => format!(" {}", write.pin().unwrap().existing.join(", ")),
        WriteKind::State | WriteKind::TakeBack => {
            let state = write.says().unwrap();
            let phase = format!("{:?}", state.state).to_lowercase();
            let ports = state.ports.iter().map(|(n, p)| format!(" {n}={p}"));
            format!(" {} {phase}{}", instance(), ports.collect::<String>())
        }
        WriteKind::Version | WriteKind::Good => format!(" v{}", write.version_of().unwrap().0),
        WriteKind::Prune => {
            let pruned = write.ops.iter().map(|op| match op {
                WriteOp::Delete(Key::Version(_, id)) => *id,
                _ => panic!("prunes {op:?}"),
            });
            format!(" {:?}", pruned.collect::<Vec<_>>())
        }
        WriteKind::Rollout => {
            let (_, rollout) = write.rollout_of().unwrap();
            let halted = if rollout.failed { ", halted" } else { "" };
            format!(
                " v{} failed at slot {}{halted}: {}",
                rollout.version, rollout.slot, rollout.reason
            )
        }
        WriteKind::Permit => match write.rollout_of() {
            Some((_, rollout)) => {
                let halted = if rollout.failed { ", halted" } else { "" };
                format!(" v{} {:?}{halted}", rollout.version, rollout.updating)
            }
            None => " none".to_owned(),
        },
        WriteKind::Found | WriteKind::WentBack => {
            let (_, found) = write.found_image().unwrap();
            let skipped = found.skipped.iter().map(|one| one.digest.as_str());
            let skipped: Vec<&str> = skipped.collect();
            format!(" {} {}, skips {skipped:?}", found.image, found.digest)
        }
        WriteKind::Status => {
            let status = write.status_of().unwrap();
            let reason = status.reason.as_ref().map(|r| format!(": {r}"));
            format!(" {}{}", status.progress, reason.unwrap_or_default())
        }
        WriteKind::JobStart | WriteKind::JobEnd => {
            let (_, job) = write.job().unwrap();
            let halted = write.rollout_of().map_or("", |_| ", halted");
            let why = if job.reason.is_empty() {
                String::new()
            } else {
                format!(": {}", job.reason)
            };
            format!(
                " v{} {} {}{halted}{why}",
                job.version, job.instance, job.state
            )
        }
        WriteKind::Release
        | WriteKind::DeleteUnwanted
        | WriteKind::Sweep
        | WriteKind::Fit
        | WriteKind::Returned => String::new(),
    };
    format!("{kind} {scope}{more}")
}

fn describe_step(step: &Action) -> String {
    let kind = step.kind();
    match step {
        Action::Resolve {
            container,
            rev,
            manifest,
            found,
            ..
        } => {
            let image = found.as_ref().map_or(&manifest.image, |found| &found.image);
            format!("{kind} {container} v{rev} {image}")
        }
        Action::Prepare(Prepare {
            slot,
            instance,
            image,
            temporary_name,
            before,
            ..
        }) => {
            let name = if *before {
                " to run before it"
            } else if *temporary_name {
                " under a temporary name"
            } else {
                ""
            };
            format!("{kind} {slot} {instance} {image}{name}")
        }
        Action::Stop {
            slot,
            instance,
            timeout,
            ..
        } if timeout.as_secs() != 10 => {
            format!("{kind} {slot} {instance} within {} s", timeout.as_secs())
        }
        Action::Start { slot, instance, .. }
        | Action::Stop { slot, instance, .. }
        | Action::Remove { slot, instance, .. } => format!("{kind} {slot} {instance}"),
        Action::Rename {
            slot,
            instance,
            name,
            ..
        } => format!("{kind} {slot} {instance} to {name}"),
    }
}
