//! Containers, their volumes and their output.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use manifests::manifest::HealthcheckChoice;
use model::observed::{Check, ContainerPort, ContainerState, Health, Ownership, Running};
use model::volumes::Labels;

use super::{CPUS, Cell, World, is_running};
use crate::{
    Change, CreateSpec, EngineError, ExecOutput, Holder, HostFault, Listening, LogChunk,
    LogOptions, MountSource, Named, Operation, OutputStream,
};

impl World {
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
            driver: self.store.driver.clone(),
            created_at: now,
            state: ContainerState::Created {
                error: String::new(),
            },
            ip: None,
            check,
            log: Vec::new(),
            connections: BTreeMap::new(),
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
        self.shows(docker_id)?;
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
        self.shows(docker_id)?;
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
        self.shows(docker_id)?;
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
        self.shows(docker_id)?;
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
        let (cell, running) = self.of_process(pid)?;
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

    /// How many connections these ports have in the container of a process.
    pub fn connections(&self, pid: u32, ports: &BTreeSet<u16>) -> Result<u32, EngineError> {
        self.ping()?;
        let (cell, _) = self.of_process(pid)?;
        let open = cell.connections.iter();
        Ok(open
            .filter(|(port, _)| ports.contains(port))
            .map(|(_, open)| open)
            .sum())
    }

    /// Clients open or close connections to a port of a container: so many are open now.
    pub fn set_connections(&mut self, docker_id: &str, port: u16, open: u32) {
        if let Some(cell) = self.containers.get_mut(docker_id) {
            cell.connections.insert(port, open);
        }
    }

    /// A process of a container that has not ended.
    pub fn is_alive(&self, pid: u32) -> bool {
        let mut states = self.containers.values().map(|cell| &cell.state);
        states.any(|state| match state {
            ContainerState::Running(running) | ContainerState::Paused(running) => {
                running.pid == pid
            }
            _ => false,
        })
    }

    fn of_process(&self, pid: u32) -> Result<(&Cell, &Running), EngineError> {
        let mut cells = self.containers.values();
        let found = cells.find_map(|cell| match &cell.state {
            ContainerState::Running(running) if running.pid == pid => Some((cell, running)),
            _ => None,
        });
        found.ok_or_else(|| EngineError::NotFound(format!("process {pid} is gone")))
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
}
