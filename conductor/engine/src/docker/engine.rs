//! The calls of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bollard::{models, query_parameters as query};
use futures_util::{StreamExt, stream};
use model::disk::{DiskUsage, LocalImage};
use model::observed::{ContainerPort, LABEL_CLUSTER, ObservedContainer, Ownership, Unseen};
use model::volumes::Labels;
use rustix::process;
use rustix::thread::{self, CapabilitySet};
use tokio::sync::mpsc;
use tokio::time::timeout;
use uuid::Uuid;

use super::client::{DockerEngine, WRITE, absent, failure, late};
use super::{archive, disk, events, exec, log, network, processes, pull, translate};
use crate::{
    Archive, Bridge, CreateSpec, Credentials, Engine, EngineError, EngineEvent, EngineInfo,
    ExecOutput, Holder, HostFault, Image, Listening, Listing, LogOptions, LogStream, MountSource,
    Named, OnProgress, Operation, parse_reference,
};

/// Deadline of a ping.
const PING: Duration = Duration::from_secs(5);
/// Inspections of one list at a time: dockerd answers them one core each.
const INSPECTIONS: usize = 4;

impl DockerEngine {
    async fn show(
        &self,
        id: &str,
    ) -> Result<Option<models::ContainerInspectResponse>, EngineError> {
        let docker = self.docker().await?;
        let show = docker.inspect_container(id, None::<query::InspectContainerOptions>);
        absent(self.read(show).await)
    }

    /// An image as the engine lists it, which is less than what it shows of one alone.
    async fn listed(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let docker = self.docker().await?;
        let list = docker.list_images(None::<query::ListImagesOptions>);
        let listed = self.call(Operation::Other, WRITE, list).await?;
        let same = |tag: &String| match (parse_reference(tag), parse_reference(name)) {
            (Ok(tag), Ok(name)) => {
                (tag.repository(), tag.version()) == (name.repository(), name.version())
            }
            _ => false,
        };
        let is_it = |image: &models::ImageSummary| {
            image.id == name
                || image.repo_digests.iter().any(|digest| digest == name)
                || image.repo_tags.iter().any(same)
        };
        let found = listed.into_iter().find(is_it);
        Ok(found.map(translate::listed_image))
    }

    async fn all(&self) -> Result<Vec<models::ContainerSummary>, EngineError> {
        let docker = self.docker().await?;
        let options = query::ListContainersOptions {
            all: true,
            ..query::ListContainersOptions::default()
        };
        self.read(docker.list_containers(Some(options))).await
    }

    /// A process that runs in a container.
    async fn any_process(&self) -> Result<Option<u32>, EngineError> {
        for container in self.all().await? {
            let runs = container.state == Some(models::ContainerSummaryStateEnum::RUNNING);
            let Some(id) = container.id.filter(|_| runs) else {
                continue;
            };
            let state = self.show(&id).await?.and_then(|shown| shown.state);
            let pid = state.and_then(|state| u32::try_from(state.pid?).ok());
            if let Some(pid) = pid.filter(|pid| *pid > 0) {
                return Ok(Some(pid));
            }
        }
        Ok(None)
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
        let docker = self.docker().await?;
        match source {
            // The engine itself refuses a path that does not exist.
            MountSource::Path(_) => Ok(()),
            MountSource::Volume { name, labels } => {
                let create = docker.create_volume(models::VolumeCreateRequest {
                    name: Some(name.clone()),
                    labels: Some(translate::to_hash(labels)),
                    ..models::VolumeCreateRequest::default()
                });
                let made = self.call(Operation::Create, WRITE, create).await;
                made.map(drop)
            }
            MountSource::External(name) => {
                let found = absent(self.read(docker.inspect_volume(name)).await)?;
                found.map(drop).ok_or_else(|| {
                    EngineError::host(HostFault::Mount, format!("volume `{name}` does not exist"))
                })
            }
        }
    }
}

/// Registries that it asks without HTTPS where they have none.
fn insecure(config: models::RegistryServiceConfig) -> Vec<String> {
    let named = config.index_configs.unwrap_or_default().into_iter();
    let named = named.filter(|(_, index)| index.secure == Some(false));
    let networks = config.insecure_registry_cidrs.unwrap_or_default();
    let mut all: Vec<String> = named.map(|(name, _)| name).chain(networks).collect();
    all.sort_unstable();
    all
}

#[async_trait]
impl Engine for DockerEngine {
    async fn ping(&self) -> Result<(), EngineError> {
        // With the agreement on a version, which others may be waiting for.
        let ping = async {
            let docker = self.docker().await?;
            let ping = self.call(Operation::Other, PING, docker.ping()).await;
            ping.map(drop)
        };
        timeout(PING, ping)
            .await
            .unwrap_or_else(|_| Err(late(PING)))
    }

    async fn info(&self) -> Result<EngineInfo, EngineError> {
        let client = self.client().await?;
        let info = self.read(client.docker.info()).await?;
        let docker = translate::docker(&info, client.version);
        let security = info.security_options.unwrap_or_default();
        let cpus = info.ncpu.and_then(|n| u32::try_from(n).ok());
        let memory = info.mem_total.and_then(|n| u64::try_from(n).ok());
        Ok(EngineInfo {
            docker,
            id: info.id.unwrap_or_default(),
            cpus: cpus.unwrap_or_default(),
            memory: memory.unwrap_or_default(),
            data_root: info.docker_root_dir.unwrap_or_default(),
            rootless: security.iter().any(|option| option == "name=rootless"),
            operating_system: info.operating_system.unwrap_or_default(),
            insecure_registries: insecure(info.registry_config.unwrap_or_default()),
        })
    }

    async fn bridge(&self, network: &str) -> Result<Bridge, EngineError> {
        let docker = self.docker().await?;
        let show = docker.inspect_network(network, None::<query::InspectNetworkOptions>);
        let Some(shown) = absent(self.read(show).await)? else {
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

    async fn subnets(&self) -> Result<BTreeSet<String>, EngineError> {
        let docker = self.docker().await?;
        let list = docker.list_networks(None::<query::ListNetworksOptions>);
        let networks = self.read(list).await?;
        let networks = networks.iter().filter(|shown| network::is_own(shown));
        Ok(networks.flat_map(network::subnets).collect())
    }

    async fn list(&self, cluster: Option<Uuid>) -> Result<Listing, EngineError> {
        let mut listing = Listing::default();
        let mut ours = Vec::new();
        for summary in self.all().await? {
            let labels: BTreeMap<String, String> =
                summary.labels.unwrap_or_default().into_iter().collect();
            if let Some(cluster) = labels.get(LABEL_CLUSTER) {
                *listing.clusters.entry(cluster.clone()).or_default() += 1;
            }
            let owner = Ownership::read(&labels);
            match (summary.id, owner) {
                (Some(id), Some(owner)) if Some(owner.cluster) == cluster => {
                    ours.push((id, owner.instance));
                }
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
            .map(|(id, instance)| async move { (self.inspect(&id).await, id, instance) })
            .buffered(INSPECTIONS);
        while let Some((container, id, instance)) = shown.next().await {
            match container {
                Ok(container) => listing.labelled.extend(container),
                Err(error) => {
                    let why = model::error::chain(&error);
                    listing.unseen.insert(id, Unseen { instance, why });
                }
            }
        }
        drop(shown);
        if !listing.unseen.is_empty() {
            // Is it these containers, or the engine?
            self.ping().await?;
        }
        let pids: BTreeSet<u32> = listing
            .labelled
            .iter()
            .filter_map(|container| Some(container.running()?.pid))
            .collect();
        self.namespaces().retain(|pid| pids.contains(&pid));
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
    ) -> Result<Option<String>, EngineError> {
        pull::pull(&self.docker().await?, image, credentials, progress).await
    }

    async fn is_in_registry(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<bool, EngineError> {
        let docker = self.docker().await?;
        let credentials = credentials.map(pull::header);
        let ask = docker.inspect_registry_image(reference, credentials);
        // Its failures are the registry's, and say nothing about the engine.
        match ask.await.map_err(|error| failure(Operation::Pull, &error)) {
            Ok(_) => Ok(true),
            Err(EngineError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn save(&self, image_id: &str) -> Result<Archive, EngineError> {
        Ok(archive::save(self.docker().await?, image_id))
    }

    async fn load(&self, archive: Archive) -> Result<String, EngineError> {
        archive::load(&self.docker().await?, archive).await
    }

    async fn tag(&self, image_id: &str, name: &str) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let name = parse_reference(name)?;
        let options = query::TagImageOptions {
            repo: Some(name.repository()),
            tag: Some(name.version().to_owned()),
        };
        let tag = docker.tag_image(image_id, Some(options));
        self.call(Operation::Other, WRITE, tag).await
    }

    async fn image(&self, name: &str) -> Result<Option<Image>, EngineError> {
        let docker = self.docker().await?;
        let shown = async {
            match docker.inspect_image(name).await {
                Ok(shown) => Ok(Some(shown)),
                // Docker 28 runs an image whose layers containerd has unpacked from another one already, and shows
                // `"RootFS": {}` and nothing else of it.
                Err(bollard::errors::Error::JsonDataError { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match absent(self.read(shown).await)? {
            Some(Some(shown)) => Ok(Some(translate::image(shown))),
            Some(None) => self.listed(name).await,
            None => Ok(None),
        }
    }

    async fn images(&self) -> Result<Vec<LocalImage>, EngineError> {
        let docker = self.docker().await?;
        let list = docker.list_images(None::<query::ListImagesOptions>);
        let images = self.call(Operation::Other, WRITE, list).await?.into_iter();
        let containers = self.all().await?.into_iter();
        let used: BTreeSet<String> = containers.filter_map(|c| c.image_id).collect();
        Ok(images
            .map(|image| translate::local_image(image, &used))
            .collect())
    }

    async fn remove_image(&self, image: &LocalImage) -> Result<bool, EngineError> {
        let docker = self.docker().await?;
        let names = match image.names.as_slice() {
            [] => std::slice::from_ref(&image.id),
            names => names,
        };
        for name in names {
            let remove = docker.remove_image(name, None::<query::RemoveImageOptions>, None);
            match absent(self.call(Operation::Other, WRITE, remove).await) {
                Err(EngineError::Conflict(_)) => return Ok(false),
                other => other.map(drop)?,
            }
        }
        Ok(true)
    }

    async fn disk_usage(&self) -> Result<Option<DiskUsage>, EngineError> {
        let client = self.client().await?;
        if let Some(folders) = client.folders.get() {
            return disk::usage(folders.clone()).await;
        }
        let info = self.info().await?;
        let mut folders = vec![PathBuf::from(&info.data_root)];
        let mut is_seen = true;
        if info.docker.store.containerd {
            let process = self.any_process().await?;
            let seen = process.and_then(disk::image_store);
            is_seen = seen.is_some();
            folders.push(seen.unwrap_or_else(|| disk::image_store_unseen(&info.data_root)));
        }
        if is_seen {
            let _ = client.folders.set(folders.clone());
        }
        disk::usage(folders).await
    }

    async fn create(&self, spec: &CreateSpec) -> Result<Named<String>, EngineError> {
        for mount in &spec.mounts {
            self.prepare(&mount.source).await?;
        }
        let docker = self.docker().await?;
        let options = query::CreateContainerOptions {
            name: Some(spec.name.clone()),
            ..query::CreateContainerOptions::default()
        };
        let body = translate::create_body(spec, most_open_files());
        let create = docker.create_container(Some(options), body);
        match self.call(Operation::Create, WRITE, create).await {
            Ok(made) => Ok(Named::Done(made.id)),
            Err(error) if name_taken(&error) => Ok(Named::Taken(self.holder(&spec.name).await?)),
            Err(error) => Err(error),
        }
    }

    async fn start(&self, docker_id: &str) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let start = docker.start_container(docker_id, None::<query::StartContainerOptions>);
        self.call(Operation::Start, WRITE, start).await
    }

    async fn stop(&self, docker_id: &str, timeout: Duration) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let options = query::StopContainerOptions {
            t: Some(timeout.as_secs_f64().ceil() as i32),
            ..query::StopContainerOptions::default()
        };
        let stop = docker.stop_container(docker_id, Some(options));
        let stopped = self.call(Operation::Other, timeout + WRITE, stop).await;
        absent(stopped).map(drop)
    }

    async fn remove(&self, docker_id: &str, force: bool) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let options = query::RemoveContainerOptions {
            force,
            v: true,
            ..query::RemoveContainerOptions::default()
        };
        let remove = docker.remove_container(docker_id, Some(options));
        match absent(self.call(Operation::Other, WRITE, remove).await) {
            Err(EngineError::Conflict(text)) if text.contains("already in progress") => Ok(()),
            other => other.map(drop),
        }
    }

    async fn volumes(&self) -> Result<BTreeMap<String, Labels>, EngineError> {
        let docker = self.docker().await?;
        let list = docker.list_volumes(None::<query::ListVolumesOptions>);
        let volumes = self.read(list).await?.volumes.unwrap_or_default();
        Ok(volumes
            .into_iter()
            .map(|volume| (volume.name, volume.labels.into_iter().collect()))
            .collect())
    }

    async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
        let docker = self.docker().await?;
        let remove = docker.remove_volume(name, None::<query::RemoveVolumeOptions>);
        absent(self.call(Operation::Other, WRITE, remove).await).map(drop)
    }

    async fn rename(&self, docker_id: &str, name: &str) -> Result<Named<()>, EngineError> {
        let docker = self.docker().await?;
        let options = query::RenameContainerOptions {
            name: name.to_owned(),
        };
        match self.read(docker.rename_container(docker_id, options)).await {
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
        exec::run(self, docker_id, command, limit).await
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
        let ports = self.namespaces().listening(pid, wanted).await?;
        Ok(Listening { ports })
    }

    async fn connections(&self, pid: u32, ports: &BTreeSet<u16>) -> Result<u32, EngineError> {
        self.namespaces().connections(pid, ports).await
    }

    async fn process_ended(&self, pid: u32) -> Result<(), EngineError> {
        let ended = processes::ended(pid).await;
        ended.map_err(|error| {
            EngineError::Engine(format!("the end of process {pid} can't be seen: {error}"))
        })
    }
}

/// The highest limit of open files that a process of this machine can have; engine and agent may do the same.
fn most_open_files() -> i64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let of_kernel = read("/proc/sys/fs/nr_open").trim().parse();
    let of_kernel = of_kernel.unwrap_or(i64::MAX);
    // Root of another user namespace has no say in this, whatever its capabilities.
    let is_first = read("/proc/self/uid_map").trim().ends_with("4294967295");
    let may_raise = thread::capabilities(None)
        .is_ok_and(|has| has.effective.contains(CapabilitySet::SYS_RESOURCE));
    let own = process::getrlimit(process::Resource::Nofile).maximum;
    match own.and_then(|limit| i64::try_from(limit).ok()) {
        Some(own) if !(is_first && may_raise) => own.min(of_kernel),
        _ => of_kernel,
    }
}

fn name_taken(error: &EngineError) -> bool {
    matches!(error, EngineError::Conflict(text) if text.contains("already in use"))
}
