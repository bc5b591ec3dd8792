//! The twin's core: an engine as a value. Synchronous, with the time as an argument, so that a simulation can drive
//! it without a runtime. It behaves as Docker does wherever the agent can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use manifests::manifest::HealthcheckChoice;
use model::disk::{DiskUsage, LocalImage};
use model::observed::{
    Check, ContainerPort, ContainerState, Exit, Health, LABEL_CLUSTER, Limits, ObservedContainer,
    Ownership, Running,
};
use model::volumes::Labels;
use uuid::Uuid;

use crate::parse_reference;
use crate::{
    Change, CreateSpec, Credentials, EngineError, EngineEvent, ExecOutput, Holder, HostFault,
    Image, Listening, Listing, LogChunk, LogOptions, MountSource, Named, Operation, OutputStream,
};

/// Processors of its machine.
pub(super) const CPUS: u32 = 2;

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
    created_at: i64,
    state: ContainerState,
    ip: Option<IpAddr>,
    check: Option<Check>,
    log: Vec<LogChunk>,
}

/// An engine as a value.
#[derive(Debug)]
pub struct World {
    /// Nothing answers.
    pub hangs: bool,
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
    /// Paths of the host that exist.
    pub paths: BTreeSet<String>,
    /// Volumes, with their labels.
    pub volumes: BTreeMap<String, Labels>,
    /// Addresses that a process of the host holds.
    pub taken: BTreeSet<SocketAddr>,
    /// Addresses of this host; empty: any will do.
    pub addresses: BTreeSet<IpAddr>,
    /// How full the disk is; none: it can't be seen.
    pub disk: Option<DiskUsage>,
    /// What each image takes of it.
    pub image_bytes: u64,
    /// The next of these operations fail so, in this order.
    pub failures: Vec<(Operation, EngineError)>,
    /// Pulls that were begun.
    pub pulls: u32,
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
            programs: BTreeMap::new(),
            images: BTreeMap::new(),
            image_labels: BTreeMap::new(),
            registry: BTreeMap::new(),
            registry_away: false,
            paths: BTreeSet::new(),
            volumes: BTreeMap::new(),
            taken: BTreeSet::new(),
            addresses: BTreeSet::new(),
            disk: Some(DiskUsage {
                used: 10 << 30,
                available: 90 << 30,
            }),
            image_bytes: 100 << 20,
            failures: Vec::new(),
            pulls: 0,
            starts: 0,
            containers: BTreeMap::new(),
            events: Vec::new(),
            last: 0,
        }
    }

    /// Puts an image on this host that no registry knows.
    pub fn add_local_image(&mut self, name: &str, id: &str) {
        let image = Image {
            id: id.to_owned(),
            ..Image::default()
        };
        self.images.insert(familiar(name), image);
    }

    /// Whether it answers at all.
    pub fn ping(&self) -> Result<(), EngineError> {
        if self.hangs {
            return Err(EngineError::Unresponsive("it hangs".to_owned()));
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

    /// Somebody makes an image of a container; its id. Labels go with it.
    pub fn commit(&mut self, docker_id: &str, name: &str) -> Result<String, EngineError> {
        let labels = self.known(docker_id)?.labels.clone();
        self.last += 1;
        let id = format!("sha256:committed-{}", self.last);
        let image = Image {
            id: id.clone(),
            labels: labels.keys().cloned().collect(),
            ..Image::default()
        };
        self.images.insert(familiar(name), image);
        self.image_labels.insert(id.clone(), labels);
        Ok(id)
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
                Some(ours) if Some(ours.owner.cluster) == cluster => listing.labelled.push(ours),
                _ => listing.foreign += u32::from(is_running(cell)),
            }
        }
        Ok(listing)
    }

    /// One container, if it is ours.
    pub fn inspect(&self, docker_id: &str) -> Result<Option<ObservedContainer>, EngineError> {
        self.ping()?;
        let found = self.containers.get(docker_id);
        Ok(found.and_then(|cell| observed(docker_id, cell)))
    }

    /// What a container was made from.
    pub fn spec(&self, docker_id: &str) -> Option<&CreateSpec> {
        self.containers.get(docker_id).map(|cell| &cell.spec)
    }

    /// An image on this host, by any of its names or its id.
    pub fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        self.ping()?;
        Ok(self.find_image(name).cloned())
    }

    /// All images, in the order of their ids.
    pub fn list_images(&self) -> Result<Vec<LocalImage>, EngineError> {
        self.ping()?;
        let mut all: BTreeMap<&str, LocalImage> = BTreeMap::new();
        for (name, image) in &self.images {
            let shown = all.entry(&image.id).or_insert_with(|| LocalImage {
                id: image.id.clone(),
                names: Vec::new(),
                used: self.is_used(&image.id),
            });
            for name in std::iter::once(name).chain(&image.repo_digests) {
                if !shown.names.contains(name) {
                    shown.names.push(name.clone());
                }
            }
        }
        Ok(all.into_values().collect())
    }

    fn is_used(&self, image_id: &str) -> bool {
        let mut containers = self.containers.values();
        containers.any(|cell| cell.image_id == image_id)
    }

    /// Removes an image; `false` if a container is made from it.
    pub fn remove_image(&mut self, image: &LocalImage) -> Result<bool, EngineError> {
        self.ping()?;
        if self.is_used(&image.id) {
            return Ok(false);
        }
        let before = self.images.len();
        self.images.retain(|_, here| here.id != image.id);
        if let Some(disk) = self.disk.as_mut().filter(|_| self.images.len() < before) {
            let freed = self.image_bytes.min(disk.used);
            disk.used -= freed;
            disk.available += freed;
        }
        Ok(true)
    }

    fn find_image(&self, name: &str) -> Option<&Image> {
        self.images.get(&familiar(name)).or_else(|| {
            self.images
                .values()
                .find(|image| image.id == name || image.repo_digests.iter().any(|d| d == name))
        })
    }

    /// How long a pull of it takes.
    pub fn pull_delay(&self, name: &str) -> Duration {
        self.published(name)
            .map_or(Duration::ZERO, |image| image.delay)
    }

    fn published(&self, name: &str) -> Option<&Published> {
        self.registry.get(&familiar(name)).or_else(|| {
            let (repository, digest) = name.split_once('@')?;
            self.registry.iter().find_map(|(tagged, image)| {
                let same = parse_reference(tagged).ok()?.repository()
                    == parse_reference(repository).ok()?.repository();
                (same && image.digest == digest).then_some(image)
            })
        })
    }

    /// A pull, from its beginning to its end.
    pub fn pull(
        &mut self,
        name: &str,
        credentials: Option<&Credentials>,
    ) -> Result<(), EngineError> {
        self.ping()?;
        let parsed = parse_reference(name)?;
        self.pulls += 1;
        self.fail(Operation::Pull)?;
        if self.registry_away {
            return Err(EngineError::host(
                HostFault::RegistryUnreachable,
                "dial tcp: connection refused",
            ));
        }
        let image = self
            .published(name)
            .ok_or_else(|| EngineError::NotFound(format!("manifest for {name} not found")))?
            .clone();
        if let Some(failure) = image.failure {
            return Err(failure);
        }
        if image.needs.is_some() && image.needs.as_ref() != credentials {
            return Err(EngineError::Auth(format!("pull access denied for {name}")));
        }
        let here = Image {
            id: image.id,
            repo_digests: vec![format!("{}@{}", parsed.familiar_repository(), image.digest)],
            healthcheck: image.healthcheck,
            volumes: image.volumes.clone(),
            ..Image::default()
        };
        // A pull by digest gives the image no tag, as Docker.
        let key = if name.contains('@') {
            format!("{}@{}", parsed.familiar_repository(), image.digest)
        } else {
            familiar(name)
        };
        self.images.insert(key, here);
        Ok(())
    }

    /// Makes a container.
    pub fn create(&mut self, spec: &CreateSpec, now: i64) -> Result<Named<String>, EngineError> {
        self.ping()?;
        self.fail(Operation::Create)?;
        for mount in &spec.mounts {
            self.mount(&mount.source)?;
        }
        if spec.cpu_millis.is_some_and(|millis| millis > CPUS * 1000) {
            return Err(EngineError::host(
                HostFault::Resources,
                format!(
                    "Range of CPUs is from 0.01 to {CPUS}.00, as there are only {CPUS} CPUs available"
                ),
            ));
        }
        let Some(image) = self.find_image(&spec.image).cloned() else {
            return Err(EngineError::Conflict(format!(
                "No such image: {}",
                spec.image
            )));
        };
        if let Some(holder) = self.holder(&spec.name) {
            return Ok(Named::Taken(Some(holder)));
        }
        self.last += 1;
        let id = format!("{:064x}", self.last);
        let timeout = Duration::from_secs(30);
        let check = match &spec.healthcheck {
            HealthcheckChoice::Off => None,
            HealthcheckChoice::Image => image.healthcheck.then(|| Check {
                command: vec!["check".to_owned()],
                timeout,
            }),
            HealthcheckChoice::Own(check) => Some(Check {
                command: check.command.clone(),
                timeout: check.timeout.unwrap_or(timeout),
            }),
        };
        let inherited = self.image_labels.get(&image.id);
        let mut labels = inherited.cloned().unwrap_or_default();
        labels.extend(spec.labels.clone());
        let cell = Cell {
            name: spec.name.clone(),
            labels,
            image_id: image.id,
            created_at: now,
            state: ContainerState::Created {
                error: String::new(),
            },
            ip: None,
            check,
            log: Vec::new(),
            spec: spec.clone(),
        };
        self.containers.insert(id.clone(), cell);
        self.tell(&id, Change::Created);
        Ok(Named::Done(id))
    }

    fn mount(&mut self, source: &MountSource) -> Result<(), EngineError> {
        match source {
            MountSource::Path(path) if !self.paths.contains(path) => Err(EngineError::host(
                HostFault::Mount,
                format!("bind source path does not exist: {path}"),
            )),
            MountSource::External(name) if !self.volumes.contains_key(name) => Err(
                EngineError::host(HostFault::Mount, format!("volume `{name}` does not exist")),
            ),
            MountSource::Volume { name, labels } => {
                self.volumes
                    .entry(name.clone())
                    .or_insert_with(|| labels.clone());
                Ok(())
            }
            MountSource::Path(_) | MountSource::External(_) => Ok(()),
        }
    }

    fn holder(&self, name: &str) -> Option<Holder> {
        let (id, cell) = self.containers.iter().find(|(_, cell)| cell.name == name)?;
        Some(Holder {
            docker_id: id.clone(),
            owner: Ownership::read(&cell.labels),
        })
    }

    /// Starts a process.
    pub fn start(&mut self, docker_id: &str, now: i64) -> Result<(), EngineError> {
        self.ping()?;
        let cell = self.known(docker_id)?;
        if is_running(cell) {
            return Ok(());
        }
        let program = self.program(cell).clone();
        let wanted: Vec<SocketAddr> = cell.spec.ports.values().copied().collect();
        let started = self
            .fail(Operation::Start)
            .and_then(|()| self.bind(docker_id, &wanted))
            .and_then(|()| program.start.clone().map_or(Ok(()), Err));
        self.last += 1;
        let pid = self.last;
        let cell = self.known_mut(docker_id)?;
        if let Err(error) = started {
            // As Docker: a container whose start failed is as before, and says why.
            match &mut cell.state {
                ContainerState::Created { error: text } => *text = error.to_string(),
                ContainerState::Exited(exit) => exit.error = error.to_string(),
                _ => {}
            }
            return Err(error);
        }
        cell.state = ContainerState::Running(Running {
            pid,
            started_at: now,
            health: cell.check.as_ref().map(|_| Health::Starting),
        });
        cell.ip = Some(Ipv4Addr::from(0xac11_0000 + pid).into());
        let lines = program.output.iter();
        cell.log.extend(lines.map(|(stream, line)| LogChunk {
            stream: *stream,
            at: now * 1_000_000,
            bytes: Bytes::from(format!("{line}\n")),
        }));
        self.starts += 1;
        self.tell(docker_id, Change::Started);
        Ok(())
    }

    fn bind(&self, docker_id: &str, wanted: &[SocketAddr]) -> Result<(), EngineError> {
        for at in wanted {
            if !self.addresses.is_empty() && !self.addresses.contains(&at.ip()) {
                return Err(EngineError::host(
                    HostFault::AddressMissing,
                    format!("listen tcp4 {at}: bind: cannot assign requested address"),
                ));
            }
            let others = self.containers.iter().filter(|(id, cell)| {
                *id != docker_id && is_running(cell) && cell.spec.ports.values().any(|p| p == at)
            });
            if self.taken.contains(at) || others.count() > 0 {
                return Err(EngineError::host(
                    HostFault::PortTaken,
                    format!("Bind for {at} failed: port is already allocated"),
                ));
            }
        }
        Ok(())
    }

    /// Whether a stop of it takes the whole time limit.
    pub fn is_stubborn(&self, docker_id: &str) -> bool {
        self.containers
            .get(docker_id)
            .is_some_and(|cell| is_running(cell) && self.program(cell).stubborn)
    }

    /// Stops a process.
    pub fn stop(&mut self, docker_id: &str, now: i64) -> Result<(), EngineError> {
        self.ping()?;
        let code = if self.is_stubborn(docker_id) {
            137
        } else {
            143
        };
        self.end(docker_id, code, false, now);
        Ok(())
    }

    /// Removes a container.
    pub fn remove(&mut self, docker_id: &str, force: bool, now: i64) -> Result<(), EngineError> {
        self.ping()?;
        if self.containers.get(docker_id).is_some_and(is_running) {
            if !force {
                return Err(EngineError::Conflict(format!(
                    "You cannot remove a running container {docker_id}"
                )));
            }
            self.end(docker_id, 137, false, now);
        }
        if self.containers.contains_key(docker_id) {
            self.tell(docker_id, Change::Removed);
            self.containers.remove(docker_id);
        }
        Ok(())
    }

    /// All volumes.
    pub fn volumes(&mut self) -> Result<BTreeMap<String, Labels>, EngineError> {
        self.ping()?;
        Ok(self.volumes.clone())
    }

    /// Removes a volume.
    pub fn remove_volume(&mut self, name: &str) -> Result<(), EngineError> {
        self.ping()?;
        let mounts = |cell: &&Cell| {
            let mut volumes = cell.spec.mounts.iter().map(|mount| &mount.source);
            volumes.any(|source| match source {
                MountSource::Volume { name: has, .. } | MountSource::External(has) => has == name,
                MountSource::Path(_) => false,
            })
        };
        if let Some(cell) = self.containers.values().find(mounts) {
            return Err(EngineError::Conflict(format!(
                "remove {name}: volume is in use - [{}]",
                cell.name
            )));
        }
        self.volumes.remove(name);
        Ok(())
    }

    /// Gives a container another name.
    pub fn rename(&mut self, docker_id: &str, name: &str) -> Result<Named<()>, EngineError> {
        self.ping()?;
        self.known(docker_id)?;
        match self.holder(name) {
            Some(holder) if holder.docker_id == docker_id => Ok(Named::Done(())),
            Some(holder) => Ok(Named::Taken(Some(holder))),
            None => {
                name.clone_into(&mut self.known_mut(docker_id)?.name);
                self.tell(docker_id, Change::Renamed);
                Ok(Named::Done(()))
            }
        }
    }

    /// Runs a command in a container.
    pub fn exec(&self, docker_id: &str) -> Result<ExecOutput, EngineError> {
        self.ping()?;
        let cell = self.known(docker_id)?;
        if !matches!(cell.state, ContainerState::Running(_)) {
            return Err(EngineError::Conflict(format!(
                "Container {docker_id} is not running, or paused"
            )));
        }
        let program = self.program(cell);
        let (code, output) = &program.exec;
        Ok(ExecOutput {
            code: (!program.exec_hangs).then_some(*code),
            output: output.clone().into_bytes(),
        })
    }

    /// Which of these ports listen in the container of a process.
    pub fn listening(
        &self,
        pid: u32,
        wanted: &BTreeSet<ContainerPort>,
        now: i64,
    ) -> Result<Listening, EngineError> {
        self.ping()?;
        let (cell, running) = self
            .containers
            .values()
            .find_map(|cell| match &cell.state {
                ContainerState::Running(running) if running.pid == pid => Some((cell, running)),
                _ => None,
            })
            .ok_or_else(|| EngineError::NotFound(format!("process {pid} is gone")))?;
        let listens = self
            .program(cell)
            .listens
            .is_some_and(|after| running.started_at + after.as_millis() as i64 <= now);
        let ports = cell.spec.ports.keys().copied();
        Ok(Listening {
            ports: ports
                .filter(|port| listens && wanted.contains(port))
                .collect(),
        })
    }

    /// The log from its line `from` on, and whether more may come.
    pub fn log(
        &self,
        docker_id: &str,
        options: &LogOptions,
        from: Option<usize>,
    ) -> Result<(Vec<LogChunk>, usize, bool), EngineError> {
        self.ping()?;
        let cell = self.known(docker_id)?;
        let tail = options.tail.map_or(usize::MAX, |lines| lines as usize);
        let start = from.unwrap_or_else(|| cell.log.len().saturating_sub(tail));
        let since = options.since.unwrap_or_default();
        let lines = cell.log[start.min(cell.log.len())..].iter();
        let chunks = lines.filter(|chunk| chunk.at >= since).cloned().collect();
        Ok((chunks, cell.log.len(), is_running(cell)))
    }

    /// A running process writes a line.
    pub fn write(&mut self, docker_id: &str, stream: OutputStream, line: &str, now: i64) {
        if let Some(cell) = self.containers.get_mut(docker_id) {
            cell.log.push(LogChunk {
                stream,
                at: now * 1_000_000,
                bytes: Bytes::from(format!("{line}\n")),
            });
        }
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
        created_at: cell.created_at,
    })
}

fn is_running(cell: &Cell) -> bool {
    matches!(
        cell.state,
        ContainerState::Running(_) | ContainerState::Paused(_)
    )
}

/// The one spelling under which an image is kept: as Docker shows it, tag included.
fn familiar(name: &str) -> String {
    parse_reference(name).map_or_else(|_| name.to_owned(), |parsed| parsed.familiar())
}
