//! The twin's core: an engine as a value. Synchronous, with the time as an argument, so that a simulation can drive
//! it without a runtime. It behaves as Docker does wherever the agent can tell.

mod containers;
mod images;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::disk::DiskUsage;
use model::observed::{
    Check, ContainerState, Exit, Health, LABEL_CLUSTER, Limits, ObservedContainer, Ownership,
    Unseen,
};
use model::records::ImageStore;
use model::volumes::Labels;
use uuid::Uuid;

use crate::{
    Change, CreateSpec, Credentials, EngineError, EngineEvent, Image, Listing, LogChunk, Operation,
    OutputStream,
};

/// Processors of its machine.
pub(in crate::memory) const CPUS: u32 = 2;

/// How a process behaves.
#[derive(Debug, Clone)]
pub struct Program {
    /// The start fails so.
    pub start: Option<EngineError>,
    /// It ends by itself after so long, with this code.
    pub ends: Option<(Duration, i64)>,
    /// Its ports listen after so long; none: never.
    pub listens: Option<Duration>,
    /// It does not end when it is asked to.
    pub stubborn: bool,
    /// What it writes when it starts.
    pub output: Vec<(OutputStream, String)>,
    /// What a command inside answers: code and output.
    pub exec: (i64, String),
    /// Commands inside do not end in time.
    pub exec_hangs: bool,
}

impl Default for Program {
    /// Runs for ever, listens at once.
    fn default() -> Self {
        Self {
            start: None,
            ends: None,
            listens: Some(Duration::ZERO),
            stubborn: false,
            output: Vec::new(),
            exec: (0, String::new()),
            exec_hangs: false,
        }
    }
}

/// An image in the registry.
#[derive(Debug, Clone, Default)]
pub struct Published {
    /// Its id on a host that pulled it.
    pub id: String,
    /// Its digest, `sha256:…`.
    pub digest: String,
    /// It has a HEALTHCHECK.
    pub healthcheck: bool,
    /// Paths at which it declares volumes.
    pub volumes: Vec<String>,
    /// How long a pull takes.
    pub delay: Duration,
    /// Only with these credentials.
    pub needs: Option<Credentials>,
    /// A pull fails so.
    pub failure: Option<EngineError>,
}

/// A container of the twin.
#[derive(Debug, Clone)]
struct Cell {
    spec: CreateSpec,
    /// Its image's, and over them those that it was made with.
    labels: BTreeMap<String, String>,
    name: String,
    image_id: String,
    driver: String,
    created_at: i64,
    state: ContainerState,
    ip: Option<IpAddr>,
    check: Option<Check>,
    log: Vec<LogChunk>,
    /// Open connections, by port.
    connections: BTreeMap<u16, u32>,
}

/// An engine as a value.
#[derive(Debug)]
pub struct World {
    /// Nothing answers.
    pub hangs: bool,
    /// Containers that it lists and does not show, by Docker's id: as while a mount hangs in their start.
    pub stuck: BTreeSet<String>,
    /// How processes behave, by their whole command; others as `Program::default()`.
    pub programs: BTreeMap<Vec<String>, Program>,
    /// Images on this host, by each name of theirs.
    pub images: BTreeMap<String, Image>,
    /// What labels they have, by the id of the image.
    image_labels: BTreeMap<String, BTreeMap<String, String>>,
    /// Images that can be pulled, by repository and tag.
    pub registry: BTreeMap<String, Published>,
    /// The registry is not reached.
    pub registry_away: bool,
    /// Whoever asks the registry what it has gets no answer.
    pub registry_silent: bool,
    /// Paths of the host that exist.
    pub paths: BTreeSet<String>,
    /// Volumes, with their labels.
    pub volumes: BTreeMap<String, Labels>,
    /// Addresses that a process of the host holds.
    pub taken: BTreeSet<SocketAddr>,
    /// Addresses of this host; empty: any will do.
    pub addresses: BTreeSet<IpAddr>,
    /// What keeps images and containers. In containerd an image's id is its manifest's digest, and each repository that
    /// it has a tag of counts as one that it has a digest in.
    pub store: ImageStore,
    /// How full the disk is; none: it can't be seen.
    pub disk: Option<DiskUsage>,
    /// What each image takes of it.
    pub image_bytes: u64,
    /// Zeros at the end of each archive that is saved here.
    pub archive_padding: u64,
    /// The next of these operations fail so, in this order.
    pub failures: Vec<(Operation, EngineError)>,
    /// Pulls that were begun.
    pub pulls: u32,
    /// Questions to the registry whether it has an image.
    pub questions: u32,
    /// Archives that were loaded.
    pub loads: u32,
    /// Starts that succeeded.
    pub starts: u32,
    containers: BTreeMap<String, Cell>,
    events: Vec<EngineEvent>,
    last: u32,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An engine with nothing on it.
    pub fn new() -> Self {
        Self {
            hangs: false,
            stuck: BTreeSet::new(),
            programs: BTreeMap::new(),
            images: BTreeMap::new(),
            image_labels: BTreeMap::new(),
            registry: BTreeMap::new(),
            registry_away: false,
            registry_silent: false,
            paths: BTreeSet::new(),
            volumes: BTreeMap::new(),
            taken: BTreeSet::new(),
            addresses: BTreeSet::new(),
            store: ImageStore {
                driver: "overlay2".to_owned(),
                containerd: false,
            },
            disk: Some(DiskUsage {
                used: 10 << 30,
                available: 90 << 30,
            }),
            image_bytes: 100 << 20,
            archive_padding: 0,
            failures: Vec::new(),
            pulls: 0,
            questions: 0,
            loads: 0,
            starts: 0,
            containers: BTreeMap::new(),
            events: Vec::new(),
            last: 0,
        }
    }

    /// Whether it answers at all.
    pub fn ping(&self) -> Result<(), EngineError> {
        if self.hangs {
            return Err(EngineError::Unresponsive("it hangs".to_owned()));
        }
        Ok(())
    }

    /// Whether it answers what concerns a container.
    fn shows(&self, docker_id: &str) -> Result<(), EngineError> {
        self.ping()?;
        if self.stuck.contains(docker_id) {
            return Err(EngineError::Unresponsive(format!("{docker_id} hangs")));
        }
        Ok(())
    }

    /// What happened since this was asked last.
    pub fn take_events(&mut self) -> Vec<EngineEvent> {
        std::mem::take(&mut self.events)
    }

    /// When a process will end by itself next, in Unix milliseconds.
    pub fn next_end(&self) -> Option<i64> {
        self.containers
            .values()
            .filter_map(|cell| self.end_of(cell))
            .map(|(at, _)| at)
            .min()
    }

    fn end_of(&self, cell: &Cell) -> Option<(i64, i64)> {
        let ContainerState::Running(running) = &cell.state else {
            return None;
        };
        let (after, code) = self.program(cell).ends?;
        Some((running.started_at + after.as_millis() as i64, code))
    }

    /// Lets the processes end whose time has come.
    pub fn advance(&mut self, now: i64) {
        let ended: Vec<(String, i64, i64)> = self
            .containers
            .iter()
            .filter_map(|(id, cell)| {
                let (at, code) = self.end_of(cell)?;
                (at <= now).then(|| (id.clone(), code, at))
            })
            .collect();
        for (id, code, at) in ended {
            self.end(&id, code, false, at);
        }
    }

    /// A process ends by itself.
    pub fn crash(&mut self, docker_id: &str, code: i64, now: i64) {
        self.end(docker_id, code, false, now);
    }

    /// The kernel kills a process for want of memory.
    pub fn run_out_of_memory(&mut self, docker_id: &str, now: i64) {
        self.tell(docker_id, Change::OutOfMemory);
        self.end(docker_id, 137, true, now);
    }

    /// A healthcheck says something else.
    pub fn set_health(&mut self, docker_id: &str, health: Health) {
        if let Some(Cell {
            state: ContainerState::Running(running),
            ..
        }) = self.containers.get_mut(docker_id)
        {
            running.health = Some(health);
            self.tell(docker_id, Change::Health);
        }
    }

    /// The machine was restarted: nothing runs any more.
    pub fn reboot(&mut self, now: i64) {
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        for id in ids {
            self.end(&id, 137, false, now);
        }
    }

    /// Somebody freezes its process.
    pub fn pause(&mut self, docker_id: &str) {
        if let Some(cell) = self.containers.get_mut(docker_id)
            && let ContainerState::Running(running) = &cell.state
        {
            cell.state = ContainerState::Paused(running.clone());
            self.tell(docker_id, Change::Other);
        }
    }

    /// … and lets it go on.
    pub fn unpause(&mut self, docker_id: &str) {
        if let Some(cell) = self.containers.get_mut(docker_id)
            && let ContainerState::Paused(running) = &cell.state
        {
            cell.state = ContainerState::Running(running.clone());
            self.tell(docker_id, Change::Other);
        }
    }

    /// Somebody disconnects it from its network.
    pub fn disconnect(&mut self, docker_id: &str) {
        if let Some(cell) = self.containers.get_mut(docker_id) {
            cell.ip = None;
            self.events.push(EngineEvent::Container {
                docker_id: docker_id.to_owned(),
                owner: None,
                change: Change::Network,
            });
        }
    }

    /// All containers.
    pub fn list(&self, cluster: Option<Uuid>) -> Result<Listing, EngineError> {
        self.ping()?;
        let mut listing = Listing::default();
        for (id, cell) in &self.containers {
            if let Some(cluster) = cell.labels.get(LABEL_CLUSTER) {
                *listing.clusters.entry(cluster.clone()).or_default() += 1;
            }
            match observed(id, cell) {
                Some(ours) if Some(ours.owner.cluster) == cluster => match self.shows(id) {
                    Ok(()) => listing.labelled.push(ours),
                    Err(error) => {
                        let instance = ours.owner.instance;
                        let why = error.to_string();
                        listing.unseen.insert(id.clone(), Unseen { instance, why });
                    }
                },
                _ => listing.foreign += u32::from(is_running(cell)),
            }
        }
        Ok(listing)
    }

    /// One container, if it is ours.
    pub fn inspect(&self, docker_id: &str) -> Result<Option<ObservedContainer>, EngineError> {
        self.shows(docker_id)?;
        let found = self.containers.get(docker_id);
        Ok(found.and_then(|cell| observed(docker_id, cell)))
    }

    /// What a container was made from.
    pub fn spec(&self, docker_id: &str) -> Option<&CreateSpec> {
        self.containers.get(docker_id).map(|cell| &cell.spec)
    }

    fn end(&mut self, docker_id: &str, code: i64, out_of_memory: bool, now: i64) {
        let Some(cell) = self.containers.get_mut(docker_id) else {
            return;
        };
        if !is_running(cell) {
            return;
        }
        cell.ip = None;
        cell.state = ContainerState::Exited(Exit {
            code,
            out_of_memory,
            error: String::new(),
            at: now,
        });
        self.tell(docker_id, Change::Died(Some(code)));
    }

    fn known(&self, docker_id: &str) -> Result<&Cell, EngineError> {
        self.containers
            .get(docker_id)
            .ok_or_else(|| EngineError::NotFound(format!("No such container: {docker_id}")))
    }

    fn known_mut(&mut self, docker_id: &str) -> Result<&mut Cell, EngineError> {
        self.containers
            .get_mut(docker_id)
            .ok_or_else(|| EngineError::NotFound(format!("No such container: {docker_id}")))
    }

    fn program(&self, cell: &Cell) -> &Program {
        static DEFAULT: std::sync::LazyLock<Program> = std::sync::LazyLock::new(Program::default);
        let entrypoint = cell.spec.entrypoint.iter().flatten();
        let command = cell.spec.command.iter().flatten();
        let whole: Vec<String> = entrypoint.chain(command).cloned().collect();
        self.programs.get(&whole).unwrap_or(&DEFAULT)
    }

    /// The failure that was ordered for this operation, once.
    fn fail(&mut self, operation: Operation) -> Result<(), EngineError> {
        let ordered = self.failures.iter().position(|(of, _)| *of == operation);
        match ordered {
            Some(index) => Err(self.failures.remove(index).1),
            None => Ok(()),
        }
    }

    fn tell(&mut self, docker_id: &str, change: Change) {
        let owner = self.containers.get(docker_id).and_then(|cell| {
            let owner = Ownership::read(&cell.labels)?;
            Some((owner.cluster, owner.instance))
        });
        self.events.push(EngineEvent::Container {
            docker_id: docker_id.to_owned(),
            owner,
            change,
        });
    }
}

fn observed(id: &str, cell: &Cell) -> Option<ObservedContainer> {
    Some(ObservedContainer {
        docker_id: id.to_owned(),
        name: cell.name.clone(),
        owner: Ownership::read(&cell.labels)?,
        state: cell.state.clone(),
        addr: cell.ip,
        ports: cell.spec.ports.clone(),
        limits: Limits {
            cpu_millis: cell.spec.cpu_millis,
            memory: cell.spec.memory,
        },
        check: cell.check.clone(),
        image: cell.spec.image.clone(),
        image_id: cell.image_id.clone(),
        driver: cell.driver.clone(),
        created_at: cell.created_at,
    })
}

fn is_running(cell: &Cell) -> bool {
    matches!(
        cell.state,
        ContainerState::Running(_) | ContainerState::Paused(_)
    )
}
