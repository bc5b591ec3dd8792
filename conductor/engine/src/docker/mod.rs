//! The Docker Engine behind a unix socket of this machine.
//!
//! Agrees on an API version before the first call and again after each loss
//! of the connection; connects anew by itself. Holds no state of containers.

mod address;
mod disk;
mod events;
mod log;
mod network;
mod pull;
mod sockets;
mod translate;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters as query;
use bollard::{Docker, models};
use futures_util::{StreamExt, stream};
use model::disk::{DiskUsage, LocalImage};
use model::error::chain;
use model::observed::{ContainerPort, LABEL_CLUSTER, ObservedContainer, Ownership};
use model::volumes::Labels;
use tokio::sync::{Mutex, OnceCell, mpsc};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Bridge, CreateSpec, Credentials, Engine, EngineError, EngineEvent, EngineInfo, ExecOutput,
    Holder, HostFault, Image, Listening, Listing, LogOptions, LogStream, MountSource, Named,
    OnProgress, Operation,
};

pub use address::{DEFAULT_SOCKET, NotHere, check, socket};
pub use version::{ApiVersion, NEWEST, OLDEST, VersionError, choose};

/// Deadline of what only reads.
const READ: Duration = Duration::from_secs(20);
/// Deadline of a ping.
const PING: Duration = Duration::from_secs(5);
/// Deadline of what changes something: a loaded disk makes a create or remove slow.
const WRITE: Duration = Duration::from_secs(60);
/// How long a pull may say nothing.
const PULL_IDLE: Duration = Duration::from_secs(180);
/// The client library's own deadline, for headers only; ours are shorter.
const LIBRARY: u64 = 3600;
/// Inspections of one list at a time: dockerd answers them one core each.
const INSPECTIONS: usize = 4;
/// What is kept of a command's output.
const EXEC_OUTPUT: usize = 16 * 1024;

/// A Docker Engine behind a unix socket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DockerEngine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    pinned: Option<ApiVersion>,
    /// None until a version was agreed on, and after the connection was lost.
    client: Mutex<Option<Client>>,
}

/// A connection with an agreed version.
#[derive(Debug, Clone)]
struct Client {
    docker: Docker,
    version: ApiVersion,
    /// Where it keeps images and containers, once it was asked.
    folders: Arc<OnceCell<Vec<PathBuf>>>,
}

impl DockerEngine {
    /// The engine behind `socket`. Nothing is asked of it yet.
    pub fn new(socket: &Path) -> Self {
        Self::with(socket, None)
    }

    /// The same, but always spoken to in `version`.
    pub fn pinned(socket: &Path, version: ApiVersion) -> Self {
        Self::with(socket, Some(version))
    }

    fn with(socket: &Path, pinned: Option<ApiVersion>) -> Self {
        Self {
            shared: Arc::new(Shared {
                socket: socket.to_owned(),
                pinned,
                client: Mutex::new(None),
            }),
        }
    }

    async fn client(&self) -> Result<Client, EngineError> {
        let mut known = self.shared.client.lock().await;
        if let Some(client) = known.as_ref() {
            return Ok(client.clone());
        }
        let client = self.negotiate().await?;
        tracing::debug!(api = %client.version, "agreed with the Docker Engine");
        *known = Some(client.clone());
        Ok(client)
    }

    async fn negotiate(&self) -> Result<Client, EngineError> {
        let path = self.shared.socket.to_string_lossy();
        let plain = Docker::connect_with_unix(&path, LIBRARY, bollard::API_DEFAULT_VERSION)
            .map_err(|error| failure(Operation::Other, &error))?;
        let version = if let Some(version) = self.shared.pinned {
            version
        } else {
            let shown = within(READ, plain.version()).await?;
            agree(&shown).map_err(|error| EngineError::Engine(error.to_string()))?
        };
        let docker = plain.with_request_modifier(move |mut request| {
            *request.uri_mut() = version::in_version(request.uri(), version);
            request
        });
        Ok(Client {
            docker,
            version,
            folders: Arc::default(),
        })
    }

    /// The next call agrees on a version again.
    async fn forget(&self) {
        *self.shared.client.lock().await = None;
    }

    /// One call, with a deadline, its failure classed.
    async fn call<T, F>(
        &self,
        operation: Operation,
        deadline: Duration,
        call: impl FnOnce(Docker) -> F,
    ) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let client = self.client().await?;
        let result = match timeout(deadline, call(client.docker)).await {
            Ok(result) => result.map_err(|error| failure(operation, &error)),
            Err(_) => Err(late(deadline)),
        };
        if let Err(EngineError::Unresponsive(_) | EngineError::Engine(_)) = &result {
            self.forget().await;
        }
        result
    }

    async fn show(
        &self,
        id: &str,
    ) -> Result<Option<models::ContainerInspectResponse>, EngineError> {
        absent(
            self.call(Operation::Other, READ, |docker| async move {
                docker
                    .inspect_container(id, None::<query::InspectContainerOptions>)
                    .await
            })
            .await,
        )
    }

    async fn holder(&self, name: &str) -> Result<Option<Holder>, EngineError> {
        Ok(self.show(name).await?.and_then(|shown| {
            let labels = shown.config.and_then(|config| config.labels);
            let labels: BTreeMap<String, String> = labels.unwrap_or_default().into_iter().collect();
            Some(Holder {
                docker_id: shown.id?,
                owner: Ownership::read(&labels),
            })
        }))
    }

    async fn prepare(&self, source: &MountSource) -> Result<(), EngineError> {
        match source {
            // The engine itself refuses a path that does not exist.
            MountSource::Path(_) => Ok(()),
            MountSource::Volume { name, labels } => {
                let request = models::VolumeCreateRequest {
                    name: Some(name.clone()),
                    labels: Some(translate::to_hash(labels)),
                    ..models::VolumeCreateRequest::default()
                };
                self.call(Operation::Create, WRITE, |docker| async move {
                    docker.create_volume(request).await
                })
                .await
                .map(drop)
            }
            MountSource::External(name) => {
                let found = self
                    .call(Operation::Other, READ, |docker| async move {
                        docker.inspect_volume(name).await
                    })
                    .await;
                match absent(found)? {
                    Some(_) => Ok(()),
                    None => Err(EngineError::host(
                        HostFault::Mount,
                        format!("volume `{name}` does not exist"),
                    )),
                }
            }
        }
    }

    /// Only what the command takes counts against the limit: an engine that does not answer says nothing about it.
    async fn run(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, EngineError> {
        let exec = self
            .call(Operation::Other, READ, |docker| async move {
                let options = CreateExecOptions::<String> {
                    attach_stdout: Some(true),
                    attach_stderr: Some(true),
                    cmd: Some(command.to_vec()),
                    ..CreateExecOptions::default()
                };
                docker.create_exec(id, options).await
            })
            .await?
            .id;
        let started = self
            .call(Operation::Start, WRITE, |docker| {
                let exec = exec.clone();
                async move { docker.start_exec(&exec, None::<StartExecOptions>).await }
            })
            .await?;
        let mut output = Vec::new();
        if let StartExecResults::Attached {
            output: mut stream, ..
        } = started
        {
            // What is beyond the limit is read too: the command would wait for its reader otherwise.
            let reading = async {
                while let Some(chunk) = stream.next().await {
                    let chunk = chunk.map_err(|error| failure(Operation::Other, &error))?;
                    let room = EXEC_OUTPUT - output.len();
                    let bytes = chunk.as_ref();
                    output.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Ok::<_, EngineError>(())
            };
            match timeout(limit, reading).await {
                Ok(read) => read?,
                Err(_) => return Ok(ExecOutput { code: None, output }),
            }
        }
        let ended = self
            .call(Operation::Other, READ, |docker| async move {
                docker.inspect_exec(&exec).await
            })
            .await?;
        Ok(ExecOutput {
            code: ended.exit_code,
            output,
        })
    }
}

#[async_trait]
impl Engine for DockerEngine {
    async fn ping(&self) -> Result<(), EngineError> {
        self.call(Operation::Other, PING, |docker| async move {
            docker.ping().await
        })
        .await
        .map(drop)
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        let version = self.client().await?.version;
        let info = self
            .call(Operation::Other, READ, |docker| async move {
                docker.info().await
            })
            .await?;
        let security = info.security_options.unwrap_or_default();
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            api_version: version.to_string(),
            id: info.id.unwrap_or_default(),
            cpus: info
                .ncpu
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or_default(),
            memory: info
                .mem_total
                .and_then(|n| u64::try_from(n).ok())
                .unwrap_or_default(),
            data_root: info.docker_root_dir.unwrap_or_default(),
            rootless: security.iter().any(|option| option == "name=rootless"),
            operating_system: info.operating_system.unwrap_or_default(),
        })
    }

    async fn bridge(&self, network: &str) -> Result<Bridge, EngineError> {
        let shown = self
            .call(Operation::Other, READ, |docker| async move {
                docker
                    .inspect_network(network, None::<query::InspectNetworkOptions>)
                    .await
            })
            .await;
        let Some(shown) = absent(shown)? else {
            return Err(EngineError::host(
                HostFault::Network,
                format!(
                    "the Docker Engine has no network `{network}`: make it (docker network create {network}) or name \
                     another one with --bridge; `bridge` is missing where its daemon.json says \"bridge\": \"none\""
                ),
            ));
        };
        network::bridge(network, &shown)
    }

    async fn list(&self, cluster: Option<Uuid>) -> Result<Listing, EngineError> {
        let all = self
            .call(Operation::Other, READ, |docker| async move {
                let options = query::ListContainersOptions {
                    all: true,
                    ..query::ListContainersOptions::default()
                };
                docker.list_containers(Some(options)).await
            })
            .await?;
        let mut listing = Listing::default();
        let mut ours = Vec::new();
        for summary in all {
            let labels: BTreeMap<String, String> =
                summary.labels.unwrap_or_default().into_iter().collect();
            if let Some(cluster) = labels.get(LABEL_CLUSTER) {
                *listing.clusters.entry(cluster.clone()).or_default() += 1;
            }
            let owner = Ownership::read(&labels);
            match (summary.id, owner) {
                (Some(id), Some(owner)) if Some(owner.cluster) == cluster => ours.push(id),
                _ => {
                    use models::ContainerSummaryStateEnum as State;
                    let runs = matches!(
                        summary.state,
                        Some(State::RUNNING | State::PAUSED | State::RESTARTING)
                    );
                    listing.foreign += u32::from(runs);
                }
            }
        }
        let mut shown = stream::iter(ours)
            .map(|id| async move { self.inspect(&id).await })
            .buffered(INSPECTIONS);
        while let Some(container) = shown.next().await {
            listing.labelled.extend(container?);
        }
        Ok(listing)
    }

    async fn inspect(&self, docker_id: &str) -> Result<Option<ObservedContainer>, EngineError> {
        Ok(self.show(docker_id).await?.and_then(translate::observed))
    }

    fn events(&self) -> mpsc::Receiver<EngineEvent> {
        events::follow(self.clone())
    }

    async fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        progress: OnProgress<'_>,
    ) -> Result<(), EngineError> {
        let client = self.client().await?;
        pull::pull(&client.docker, image, credentials, progress).await
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let shown = self
            .call(Operation::Other, READ, |docker| async move {
                docker.inspect_image(name).await
            })
            .await;
        Ok(absent(shown)?.map(translate::image))
    }

    async fn images(&self) -> Result<Vec<LocalImage>, EngineError> {
        let images = self
            .call(Operation::Other, WRITE, |docker| async move {
                docker.list_images(None::<query::ListImagesOptions>).await
            })
            .await?;
        let containers = self
            .call(Operation::Other, READ, |docker| async move {
                let options = query::ListContainersOptions {
                    all: true,
                    ..query::ListContainersOptions::default()
                };
                docker.list_containers(Some(options)).await
            })
            .await?;
        let used: BTreeSet<String> = containers.into_iter().filter_map(|c| c.image_id).collect();
        let images = images.into_iter();
        Ok(images
            .map(|image| translate::local_image(image, &used))
            .collect())
    }

    async fn remove_image(&self, image: &LocalImage) -> Result<bool, EngineError> {
        let names = match image.names.as_slice() {
            [] => std::slice::from_ref(&image.id),
            names => names,
        };
        for name in names {
            let removed = self
                .call(Operation::Other, WRITE, |docker| async move {
                    let options = None::<query::RemoveImageOptions>;
                    docker.remove_image(name, options, None).await
                })
                .await;
            match absent(removed) {
                Err(EngineError::Conflict(_)) => return Ok(false),
                other => other.map(drop)?,
            }
        }
        Ok(true)
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, EngineError> {
        let known = self.client().await?.folders;
        let folders = known
            .get_or_try_init(|| async {
                let info = self
                    .call(Operation::Other, READ, |docker| async move {
                        docker.info().await
                    })
                    .await?;
                Ok::<_, EngineError>(disk::folders(&info))
            })
            .await?;
        disk::usage(folders.clone()).await
    }

    async fn create(&self, spec: &CreateSpec) -> Result<Named<String>, EngineError> {
        for mount in &spec.mounts {
            self.prepare(&mount.source).await?;
        }
        let made = self
            .call(Operation::Create, WRITE, |docker| async move {
                let options = query::CreateContainerOptions {
                    name: Some(spec.name.clone()),
                    ..query::CreateContainerOptions::default()
                };
                docker
                    .create_container(Some(options), translate::create_body(spec))
                    .await
            })
            .await;
        match made {
            Ok(made) => Ok(Named::Done(made.id)),
            Err(error) if name_taken(&error) => Ok(Named::Taken(self.holder(&spec.name).await?)),
            Err(error) => Err(error),
        }
    }

    async fn start(&self, docker_id: &str) -> Result<(), EngineError> {
        self.call(Operation::Start, WRITE, |docker| async move {
            docker
                .start_container(docker_id, None::<query::StartContainerOptions>)
                .await
        })
        .await
    }

    async fn stop(&self, docker_id: &str, timeout: Duration) -> Result<(), EngineError> {
        let seconds = timeout.as_secs_f64().ceil() as i32;
        let stopped = self
            .call(Operation::Other, timeout + WRITE, |docker| async move {
                let options = query::StopContainerOptions {
                    t: Some(seconds),
                    ..query::StopContainerOptions::default()
                };
                docker.stop_container(docker_id, Some(options)).await
            })
            .await;
        absent(stopped).map(drop)
    }

    async fn remove(&self, docker_id: &str, force: bool) -> Result<(), EngineError> {
        let removed = self
            .call(Operation::Other, WRITE, |docker| async move {
                let options = query::RemoveContainerOptions {
                    force,
                    v: true,
                    ..query::RemoveContainerOptions::default()
                };
                docker.remove_container(docker_id, Some(options)).await
            })
            .await;
        match absent(removed) {
            Err(EngineError::Conflict(text)) if text.contains("already in progress") => Ok(()),
            other => other.map(drop),
        }
    }

    async fn volumes(&self) -> Result<BTreeMap<String, Labels>, EngineError> {
        let listed = self
            .call(Operation::Other, READ, |docker| async move {
                docker.list_volumes(None::<query::ListVolumesOptions>).await
            })
            .await?;
        let volumes = listed.volumes.unwrap_or_default().into_iter();
        Ok(volumes
            .map(|volume| (volume.name, volume.labels.into_iter().collect()))
            .collect())
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let removed = self
            .call(Operation::Other, WRITE, |docker| async move {
                docker
                    .remove_volume(name, None::<query::RemoveVolumeOptions>)
                    .await
            })
            .await;
        absent(removed).map(drop)
    }

    async fn rename(&self, docker_id: &str, name: &str) -> Result<Named<()>, EngineError> {
        let renamed = self
            .call(Operation::Other, READ, |docker| async move {
                let options = query::RenameContainerOptions {
                    name: name.to_owned(),
                };
                docker.rename_container(docker_id, options).await
            })
            .await;
        match renamed {
            Ok(()) => Ok(Named::Done(())),
            // Docker says the same when the container has that name already.
            Err(error) if name_taken(&error) => match self.holder(name).await? {
                Some(holder) if holder.docker_id == docker_id => Ok(Named::Done(())),
                holder => Ok(Named::Taken(holder)),
            },
            Err(EngineError::BadRequest(text)) if text.contains("same") => Ok(Named::Done(())),
            Err(error) => Err(error),
        }
    }

    async fn exec(
        &self,
        docker_id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<ExecOutput, EngineError> {
        self.run(docker_id, command, limit).await
    }

    async fn logs(&self, docker_id: &str, options: LogOptions) -> Result<LogStream, EngineError> {
        // A stream says only with its first bytes that there is no such container.
        if self.show(docker_id).await?.is_none() {
            return Err(EngineError::NotFound(format!(
                "no such container: {docker_id}"
            )));
        }
        log::open(self, docker_id, &options).await
    }

    async fn listening(
        &self,
        pid: u32,
        wanted: &BTreeSet<ContainerPort>,
    ) -> Result<Listening, EngineError> {
        let ports = sockets::listening(pid, wanted).await?;
        Ok(Listening { ports })
    }
}

/// The version for the engine that shows this.
fn agree(shown: &models::SystemVersion) -> Result<ApiVersion, VersionError> {
    let newest = shown.api_version.as_deref().unwrap_or_default().parse()?;
    let oldest = shown
        .min_api_version
        .as_deref()
        .map(str::parse)
        .transpose()?;
    choose(newest, oldest)
}

fn name_taken(error: &EngineError) -> bool {
    matches!(error, EngineError::Conflict(text) if text.contains("already in use"))
}

/// "No such …" as an answer.
fn absent<T>(result: Result<T, EngineError>) -> Result<Option<T>, EngineError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(EngineError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, EngineError> {
    match timeout(deadline, call).await {
        Ok(result) => result.map_err(|error| failure(Operation::Other, &error)),
        Err(_) => Err(late(deadline)),
    }
}

fn late(deadline: Duration) -> EngineError {
    EngineError::Unresponsive(format!("no answer in {} s", deadline.as_secs()))
}

/// The class of a failed call.
fn failure(operation: Operation, error: &Error) -> EngineError {
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => EngineError::from_answer(operation, *status_code, message),
        Error::DockerStreamError { error } => EngineError::from_answer(operation, 0, error),
        Error::RequestTimeoutError
        | Error::IOError { .. }
        | Error::HyperResponseError { .. }
        | Error::HyperLegacyError { .. }
        | Error::SocketNotFoundError(_) => EngineError::Unresponsive(chain(error)),
        _ => EngineError::Engine(chain(error)),
    }
}
