//! A host's engine: the real twin of the Docker Engine, and how a step of the plan is carried out on it, in one go.
//!
//! What takes time in a real engine takes time between the steps here; what
//! another process could see in between is seen.

use model::VersionId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use conductor::images::reference;
use engine::memory::{Program, Published, World as Twin};
use engine::{CreateSpec, EngineError, EngineEvent, Named, SpecInput, spec};
use manifests::{InstanceId, Manifest, SlotId};
use model::identity::oldest_by_name;
use model::observed::{
    ContainerPort, ContainerState, ObservedContainer, PublishedPorts, name_beside,
};
use model::records::FoundImage;
use model::{Action, ActionReport, ActionResult, Host, Prepare};
use uuid::Uuid;

/// What every registry has: image and digest.
pub const IMAGES: [&str; 4] = ["good:1", "good:2", "good:3", "other:1"];

/// The digest of the image of this number.
pub fn digest(number: u64) -> String {
    format!("sha256:{:064x}", number + 101)
}

/// Commands, and what a process that runs them does. All get well when the faults end.
const NEVER_READY: &str = "never";
const ENDS: &str = "ends";
const LATE: &str = "late";
/// What runs before a version.
const MIGRATES: &str = "migrates";
const BREAKS: &str = "breaks";
const HANGS: &str = "hangs";

/// A volume that every host has, as one of a network would be.
pub const SHARED: &str = "shared";

/// The engine of one host.
#[derive(Debug)]
pub struct Engine {
    /// The twin. It hangs only while a step is carried out, so that a simulation can always look.
    pub twin: Twin,
    /// No call is answered.
    pub hangs: bool,
    /// Instances that listen no more though they run.
    pub sick: BTreeSet<InstanceId>,
    /// Digests of images that never get ready.
    pub bad: BTreeSet<String>,
    /// Containers that somebody made of images of ours.
    pub copies: BTreeSet<String>,
    next_port: u16,
}

impl Default for Engine {
    fn default() -> Self {
        let mut twin = Twin::new();
        for (number, name) in IMAGES.iter().enumerate() {
            let image = Published {
                id: format!("sha256:{:064x}", number + 1),
                digest: digest(number as u64),
                ..Published::default()
            };
            twin.registry.insert((*name).to_owned(), image);
        }
        twin.volumes.insert(SHARED.to_owned(), BTreeMap::new());
        let mut engine = Self {
            twin,
            hangs: false,
            sick: BTreeSet::new(),
            bad: BTreeSet::new(),
            copies: BTreeSet::new(),
            next_port: 20_000,
        };
        let of = |listens: Option<u64>, ends: Option<(u64, i64)>| Program {
            listens: listens.map(Duration::from_millis),
            ends: ends.map(|(ms, code)| (Duration::from_millis(ms), code)),
            ..Program::default()
        };
        for (command, program) in [
            (NEVER_READY, of(None, None)),
            (ENDS, of(Some(0), Some((400, 1)))),
            (LATE, of(Some(4_000), None)),
            (MIGRATES, of(None, Some((700, 0)))),
            (BREAKS, of(None, Some((300, 1)))),
            (HANGS, of(None, None)),
        ] {
            engine
                .twin
                .programs
                .insert(vec![command.to_owned()], program);
        }
        engine
    }
}

impl Engine {
    /// Everything works from now on.
    pub fn heal(&mut self) {
        self.hangs = false;
        self.twin.registry_away = false;
        let is_job = |words: &Vec<String>| {
            let jobs = [MIGRATES, BREAKS, HANGS];
            jobs.iter().any(|job| words.iter().any(|word| word == job))
        };
        self.twin.programs.retain(|words, _| is_job(words));
        self.sick.clear();
        self.bad.clear();
    }

    /// All containers of the cluster that run now.
    pub fn running(&self, cluster: Uuid) -> Vec<ObservedContainer> {
        self.containers(cluster)
            .into_iter()
            .filter(|container| container.running().is_some())
            .collect()
    }

    /// All containers of the cluster that are instances of slots, also while the engine hangs.
    pub fn containers(&self, cluster: Uuid) -> Vec<ObservedContainer> {
        let mut all = self.labelled(cluster);
        all.retain(|container| {
            container.owner.before.is_none() && !self.copies.contains(&container.docker_id)
        });
        all
    }

    /// All containers of the cluster that run before a version.
    pub fn jobs(&self, cluster: Uuid) -> Vec<ObservedContainer> {
        let mut all = self.labelled(cluster);
        all.retain(|container| {
            container.owner.before.is_some() && !self.copies.contains(&container.docker_id)
        });
        all
    }

    /// All containers with the cluster's labels, as an agent would have them listed.
    pub fn labelled(&self, cluster: Uuid) -> Vec<ObservedContainer> {
        self.twin
            .list(Some(cluster))
            .map(|listing| listing.labelled)
            .unwrap_or_default()
    }

    /// Somebody makes an image of one of the containers and runs that, to look at it in peace.
    pub fn copy(&mut self, docker_id: &str, name: &str, now: i64) -> Result<(), EngineError> {
        let image = self.twin.commit(docker_id, name)?;
        let spec = CreateSpec {
            name: name.to_owned(),
            image,
            ..CreateSpec::default()
        };
        if let Named::Done(id) = self.twin.create(&spec, now)? {
            self.copies.insert(id.clone());
            self.twin.start(&id, now)?;
        }
        Ok(())
    }

    /// What happened since this was asked last: the containers.
    pub fn take_events(&mut self) -> Vec<String> {
        self.twin
            .take_events()
            .into_iter()
            .filter_map(|event| match event {
                EngineEvent::Container { docker_id, .. } => Some(docker_id),
                EngineEvent::Connected | EngineEvent::Networks | EngineEvent::Lost(_) => None,
            })
            .collect()
    }

    /// Whether a look at a running instance finds it ready.
    pub fn is_ready(&self, container: &ObservedContainer, now: i64) -> bool {
        let Some(running) = container.running() else {
            return false;
        };
        let digest = container.image.split_once('@').map(|(_, digest)| digest);
        if self.sick.contains(&container.owner.instance)
            || digest.is_some_and(|digest| self.bad.contains(digest))
        {
            return false;
        }
        let wanted: BTreeSet<ContainerPort> = container.ports.keys().copied().collect();
        if wanted.is_empty() {
            return now >= running.started_at + 1_000;
        }
        self.twin
            .listening(running.pid, &wanted, now)
            .is_ok_and(|listening| listening.ports == wanted)
    }

    /// Carries a step out.
    pub fn carry_out(
        &mut self,
        step: &Action,
        host: &Host,
        cluster: Uuid,
        now: i64,
    ) -> ActionReport {
        self.twin.hangs = self.hangs;
        let report = self.try_step(step, host, cluster, now);
        self.twin.hangs = false;
        report
    }

    fn try_step(&mut self, step: &Action, host: &Host, cluster: Uuid, now: i64) -> ActionReport {
        match step {
            Action::Resolve {
                container,
                rev,
                manifest,
                found,
                ..
            } => match self.decided(manifest, found.as_ref()) {
                Ok(image) => ActionResult::Resolved {
                    container: container.clone(),
                    rev: *rev,
                    image,
                    content: None,
                    volumes: Vec::new(),
                }
                .into(),
                Err(error) => ActionResult::NotResolved {
                    container: container.clone(),
                    rev: *rev,
                    reason: error.to_string(),
                    fault: error.fault(),
                }
                .into(),
            },
            Action::Prepare(wanted) => match self.prepare(wanted, host, cluster, now) {
                Ok(container) => ActionReport {
                    result: ActionResult::Prepared {
                        slot: wanted.slot.clone(),
                        instance: wanted.instance.clone(),
                        rev: wanted.rev,
                        before: wanted.before,
                    },
                    container: container.map(Box::new),
                    gone: None,
                },
                Err(error) => not_prepared(&wanted.slot, wanted.rev, &error),
            },
            Action::Start {
                slot,
                instance,
                docker_id,
            } => match self.twin.start(docker_id, now) {
                Ok(()) => self.look(slot, docker_id, Ok(())),
                Err(error) => not_started(slot, instance, &error),
            },
            Action::Stop {
                slot, docker_id, ..
            } => {
                let stopped = self.twin.stop(docker_id, now);
                self.look(slot, docker_id, stopped)
            }
            Action::Remove {
                slot, docker_id, ..
            } => match self.twin.remove(docker_id, false, now) {
                Ok(()) => {
                    let done = ActionResult::Done { slot: slot.clone() };
                    ActionReport::with(done, docker_id, None)
                }
                Err(error) => failed(slot, &error),
            },
            Action::Rename {
                slot,
                docker_id,
                name,
                ..
            } => match self.twin.rename(docker_id, name) {
                Ok(Named::Done(())) => self.look(slot, docker_id, Ok(())),
                Ok(Named::Taken(_)) => ActionResult::NotRenamed {
                    slot: slot.clone(),
                    reason: format!("the name {name} is held"),
                }
                .into(),
                Err(error) => ActionResult::NotRenamed {
                    slot: slot.clone(),
                    reason: error.to_string(),
                }
                .into(),
            },
        }
    }

    fn decided(
        &mut self,
        manifest: &Manifest,
        found: Option<&FoundImage>,
    ) -> Result<String, EngineError> {
        match found {
            Some(found) => self.digest(&reference(&found.image, &found.digest)?),
            None => self.digest(&manifest.image),
        }
    }

    fn digest(&mut self, image: &str) -> Result<String, EngineError> {
        if self.twin.image(image)?.is_none() {
            self.twin.pull(image, None)?;
        }
        let found = self.twin.image(image)?;
        let digest = found.and_then(|image| {
            let digest = image.repo_digests.first()?;
            Some(digest.split_once('@')?.1.to_owned())
        });
        digest.ok_or_else(|| EngineError::NotFound(format!("{image} has no digest")))
    }

    fn prepare(
        &mut self,
        wanted: &Prepare,
        host: &Host,
        cluster: Uuid,
        now: i64,
    ) -> Result<Option<ObservedContainer>, EngineError> {
        let image = reference(&wanted.manifest.image, &wanted.image)?;
        if self.twin.image(&image)?.is_none() {
            self.twin.pull(&image, None)?;
        }
        let there = self.twin.list(Some(cluster))?.labelled;
        let made = oldest_by_name(&wanted.instance, &there).cloned();
        if made.is_some() {
            return Ok(made);
        }
        let ports = if wanted.before {
            PublishedPorts::new()
        } else {
            self.ports(&wanted.manifest, host.surroundings.host_ip)
        };
        let mut spec = spec(SpecInput {
            manifest: &wanted.manifest,
            image: &image,
            image_labels: &[],
            cluster,
            slot: &wanted.slot,
            instance: &wanted.instance,
            manifest_hash: &wanted.hash,
            host: &host.name,
            surroundings: &host.surroundings,
            ports,
            beside: wanted.temporary_name,
            before: wanted.before.then_some(wanted.rev),
        });
        let id = match self.twin.create(&spec, now)? {
            Named::Done(id) => id,
            Named::Taken(_) => {
                // One of ours that is on its way out still has the name.
                spec.name = name_beside(&wanted.slot, &wanted.instance);
                match self.twin.create(&spec, now)? {
                    Named::Done(id) => id,
                    Named::Taken(_) => {
                        return Err(EngineError::Conflict(format!("{} is held", spec.name)));
                    }
                }
            }
        };
        self.twin.inspect(&id)
    }

    fn ports(&mut self, manifest: &Manifest, host_ip: IpAddr) -> PublishedPorts {
        manifest
            .services
            .values()
            .map(|service| {
                let inside = ContainerPort {
                    port: service.port,
                    protocol: service.protocol,
                };
                let port = service.host_port.unwrap_or_else(|| {
                    self.next_port += 1;
                    self.next_port
                });
                (
                    inside,
                    SocketAddr::new(service.bind.unwrap_or(host_ip), port),
                )
            })
            .collect()
    }

    /// What the container is now, after a step on it.
    fn look(
        &self,
        slot: &SlotId,
        docker_id: &str,
        result: Result<(), EngineError>,
    ) -> ActionReport {
        match result.and_then(|()| self.twin.inspect(docker_id)) {
            Ok(container) => {
                let done = ActionResult::Done { slot: slot.clone() };
                ActionReport::with(done, docker_id, container)
            }
            Err(error) => failed(slot, &error),
        }
    }
}

fn failed(slot: &SlotId, error: &EngineError) -> ActionReport {
    ActionResult::Failed {
        slot: slot.clone(),
        reason: error.to_string(),
    }
    .into()
}

fn not_prepared(slot: &SlotId, rev: VersionId, error: &EngineError) -> ActionReport {
    ActionResult::NotPrepared {
        slot: slot.clone(),
        rev,
        reason: error.to_string(),
        fault: error.fault(),
    }
    .into()
}

fn not_started(slot: &SlotId, instance: &InstanceId, error: &EngineError) -> ActionReport {
    ActionResult::NotStarted {
        slot: slot.clone(),
        instance: instance.clone(),
        reason: error.to_string(),
        must_recreate: false,
        fault: error.fault(),
    }
    .into()
}

/// One word for a container's state, for a trace.
pub fn state(container: &ObservedContainer) -> &'static str {
    match container.state {
        ContainerState::Created { .. } => "made",
        ContainerState::Running(_) => "runs",
        ContainerState::Paused(_) => "frozen",
        ContainerState::Exited(_) => "ended",
        ContainerState::Removing => "removing",
    }
}
