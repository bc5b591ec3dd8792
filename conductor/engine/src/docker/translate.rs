//! Between our values and the client library's models. Pure.
//!
//! Tolerant of what an engine leaves out or adds: what can't be read counts as absent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bollard::models;
use manifests::manifest::{HealthcheckChoice, Log, Protocol, Ulimit, UlimitName};
use model::disk::LocalImage;
use model::observed::{
    Check, ContainerPort, ContainerState, Exit, Health, Limits, ObservedContainer, Ownership,
    PublishedPorts, Running,
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use model::observed::{LABEL_CLUSTER, LABEL_INSTANCE};
use model::records::{Docker, ImageStore};

use super::ApiVersion;
use crate::{Change, CreateSpec, EngineEvent, Image, Mount, MountSource};

/// Docker's own time limit of a healthcheck that names none.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(30);

/// `most_files` is the highest limit of open files that this machine can give.
pub(super) fn create_body(spec: &CreateSpec, most_files: i64) -> models::ContainerCreateBody {
    models::ContainerCreateBody {
        image: Some(spec.image.clone()),
        entrypoint: spec.entrypoint.clone(),
        cmd: spec.command.clone(),
        env: Some(
            spec.env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
        ),
        labels: Some(to_hash(&spec.labels)),
        user: spec.user.clone(),
        working_dir: spec.workdir.clone(),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: Some(spec.stop_timeout.as_secs_f64().ceil() as i64),
        healthcheck: health_config(&spec.healthcheck),
        exposed_ports: Some(spec.ports.keys().map(ToString::to_string).collect()),
        host_config: Some(host_config(spec, most_files)),
        ..models::ContainerCreateBody::default()
    }
}

fn host_config(spec: &CreateSpec, most_files: i64) -> models::HostConfig {
    let bindings = spec.ports.iter().map(|(port, at)| {
        let binding = models::PortBinding {
            host_ip: Some(at.ip().to_string()),
            host_port: Some(at.port().to_string()),
        };
        (port.to_string(), Some(vec![binding]))
    });
    models::HostConfig {
        network_mode: Some(spec.network.clone()),
        port_bindings: Some(bindings.collect()),
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        extra_hosts: Some(
            spec.hosts
                .iter()
                .map(|(name, ip)| format!("{name}:{ip}"))
                .collect(),
        ),
        dns: spec.dns.map(|ip| vec![ip.to_string()]),
        dns_search: spec.dns_search.clone().map(|domain| vec![domain]),
        dns_options: (!spec.dns_options.is_empty()).then(|| spec.dns_options.clone()),
        log_config: Some(models::HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(log_options(&spec.log)),
        }),
        restart_policy: Some(models::RestartPolicy {
            name: Some(models::RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        nano_cpus: spec.cpu_millis.map(|millis| i64::from(millis) * 1_000_000),
        memory: spec.memory.map(|bytes| bytes as i64),
        // Otherwise Docker lets it have as much swap again.
        memory_swap: spec.memory.map(|bytes| bytes as i64),
        ulimits: Some(ulimits(&spec.ulimits, most_files)),
        ..models::HostConfig::default()
    }
}

/// Only our own default gives way to what the machine can give: another limit is somebody's wish.
fn ulimits(
    limits: &BTreeMap<UlimitName, Ulimit>,
    most_files: i64,
) -> Vec<models::ResourcesUlimits> {
    let limits = limits.iter().map(|(name, limit)| {
        let is_default = *name == UlimitName::Nofile && *limit == Ulimit::NOFILE;
        let most = if is_default { most_files } else { i64::MAX };
        models::ResourcesUlimits {
            name: Some(name.to_string()),
            soft: Some(limit.soft.min(most)),
            hard: Some(limit.hard.min(most)),
        }
    });
    limits.collect()
}

/// What is not said here, Docker takes from its daemon.json, and not each of its options goes with each of ours.
fn log_options(log: &Log) -> HashMap<String, String> {
    let mut options = HashMap::from([
        ("max-size".to_owned(), log.max_size.to_string()),
        ("max-file".to_owned(), log.max_file.to_string()),
    ]);
    if log.max_file < 2 {
        options.insert("compress".to_owned(), "false".to_owned());
    }
    options
}

fn mount(mount: &Mount) -> models::Mount {
    let (typ, source) = match &mount.source {
        MountSource::Path(path) => (models::MountType::BIND, path),
        MountSource::Volume { name, .. } | MountSource::External(name) => {
            (models::MountType::VOLUME, name)
        }
    };
    models::Mount {
        target: Some(mount.target.clone()),
        source: Some(source.clone()),
        typ: Some(typ),
        read_only: Some(mount.read_only),
        ..models::Mount::default()
    }
}

fn health_config(health: &HealthcheckChoice) -> Option<models::HealthConfig> {
    let check = match health {
        HealthcheckChoice::Image => return None,
        HealthcheckChoice::Off => {
            return Some(models::HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..models::HealthConfig::default()
            });
        }
        HealthcheckChoice::Own(check) => check,
    };
    let nanos = |duration: Option<Duration>| duration.map(|d| d.as_nanos() as i64);
    let mut test = vec!["CMD".to_owned()];
    test.extend(check.command.iter().cloned());
    Some(models::HealthConfig {
        test: Some(test),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        retries: check.retries.map(i64::from),
        start_period: nanos(check.start_period),
        start_interval: None,
    })
}

/// What an engine says of itself, for people.
pub(super) fn docker(info: &models::SystemInfo, api: ApiVersion) -> Docker {
    let pairs = |pairs: &Option<Vec<Vec<String>>>, name: &str| {
        let mut pairs = pairs.iter().flatten();
        pairs.find_map(|pair| match pair.as_slice() {
            [label, value] if label == name => Some(value.clone()),
            _ => None,
        })
    };
    let firewall = info.firewall_backend.clone().unwrap_or_default();
    let kind = pairs(&info.driver_status, "driver-type");
    Docker {
        version: info.server_version.clone().unwrap_or_default(),
        api: api.to_string(),
        store: ImageStore {
            driver: info.driver.clone().unwrap_or_default(),
            containerd: kind.is_some_and(|kind| kind.starts_with("io.containerd.snapshotter")),
        },
        userland_proxy: pairs(&firewall.info, "EnableUserlandProxy")
            .and_then(|value| value.parse().ok()),
        // The only one there was before engines named it.
        firewall: firewall.driver.unwrap_or_else(|| "iptables".to_owned()),
        cgroup: match info.cgroup_version {
            Some(models::SystemInfoCgroupVersionEnum::_1) => 1,
            Some(models::SystemInfoCgroupVersionEnum::_2) => 2,
            _ => 0,
        },
    }
}

pub(super) fn to_hash(labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    labels
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// A container as the engine shows it; none if it is not ours.
pub(super) fn observed(shown: models::ContainerInspectResponse) -> Option<ObservedContainer> {
    let config = shown.config.unwrap_or_default();
    let labels: BTreeMap<String, String> = config.labels.clone()?.into_iter().collect();
    Some(ObservedContainer {
        docker_id: shown.id?,
        name: shown.name?.trim_start_matches('/').to_owned(),
        owner: Ownership::read(&labels)?,
        state: state(shown.state.unwrap_or_default()),
        addr: shown
            .network_settings
            .as_ref()
            .and_then(|settings| address(settings, shown.host_config.as_ref())),
        limits: shown.host_config.as_ref().map(limits).unwrap_or_default(),
        ports: shown
            .host_config
            .and_then(|host| host.port_bindings)
            .map(published)
            .unwrap_or_default(),
        check: check(&config),
        image: config.image.unwrap_or_default(),
        image_id: shown.image.unwrap_or_default(),
        driver: shown.driver.unwrap_or_default(),
        created_at: shown.created.as_deref().map_or(0, millis),
    })
}

fn limits(host: &models::HostConfig) -> Limits {
    let set = |value: Option<i64>| u64::try_from(value?).ok().filter(|value| *value > 0);
    Limits {
        cpu_millis: set(host.nano_cpus).and_then(|nanos| u32::try_from(nanos / 1_000_000).ok()),
        memory: set(host.memory),
    }
}

fn state(state: models::ContainerState) -> ContainerState {
    use models::ContainerStateStatusEnum as Status;
    let error = state.error.unwrap_or_default();
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok());
    let started = state.started_at.as_deref().map_or(0, millis);
    let running = Running {
        pid: pid.unwrap_or_default(),
        started_at: started,
        health: state.health.and_then(|health| match health.status? {
            models::HealthStatusEnum::STARTING => Some(Health::Starting),
            models::HealthStatusEnum::HEALTHY => Some(Health::Healthy),
            models::HealthStatusEnum::UNHEALTHY => Some(Health::Unhealthy),
            models::HealthStatusEnum::EMPTY | models::HealthStatusEnum::NONE => None,
        }),
    };
    match state.status {
        Some(Status::PAUSED) => ContainerState::Paused(running),
        Some(Status::CREATED) => ContainerState::Created { error },
        Some(Status::REMOVING | Status::DEAD) => ContainerState::Removing,
        _ if state.running == Some(true) => ContainerState::Running(running),
        _ => ContainerState::Exited(Exit {
            code: state.exit_code.unwrap_or_default(),
            out_of_memory: state.oom_killed.unwrap_or_default(),
            error,
            at: state.finished_at.as_deref().map_or(0, millis),
        }),
    }
}

/// Its address in the network that it was made for: others may have been connected, and this one disconnected.
fn address(
    settings: &models::NetworkSettings,
    host: Option<&models::HostConfig>,
) -> Option<IpAddr> {
    let networks = settings.networks.as_ref()?;
    let made_for = host.and_then(|host| host.network_mode.as_deref());
    let made_for = match made_for {
        Some("default") | None => "bridge",
        Some(network) => network,
    };
    let endpoint = networks.get(made_for)?;
    let addresses = [&endpoint.ip_address, &endpoint.global_ipv6_address];
    addresses
        .into_iter()
        .find_map(|address| address.as_deref()?.parse().ok())
}

fn published(bindings: models::PortMap) -> PublishedPorts {
    bindings
        .into_iter()
        .filter_map(|(port, at)| {
            let at = at?.into_iter().next()?;
            let ip: IpAddr = at.host_ip?.parse().ok()?;
            let host_port: u16 = at.host_port?.parse().ok()?;
            Some((container_port(&port)?, SocketAddr::new(ip, host_port)))
        })
        .collect()
}

fn container_port(text: &str) -> Option<ContainerPort> {
    let (port, protocol) = text.split_once('/')?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some(ContainerPort {
        port: port.parse().ok()?,
        protocol,
    })
}

fn check(config: &models::ContainerConfig) -> Option<Check> {
    let health = config.healthcheck.as_ref()?;
    let (kind, rest) = health.test.as_ref()?.split_first()?;
    let command = match kind.as_str() {
        "CMD" => rest.to_vec(),
        "CMD-SHELL" => {
            let shell = config.shell.clone().unwrap_or_default();
            let mut command = if shell.is_empty() {
                vec!["/bin/sh".to_owned(), "-c".to_owned()]
            } else {
                shell
            };
            command.extend(rest.first().cloned());
            command
        }
        _ => return None,
    };
    let timeout = health.timeout.filter(|nanos| *nanos > 0);
    Some(Check {
        command,
        timeout: timeout.map_or(HEALTH_TIMEOUT, |nanos| Duration::from_nanos(nanos as u64)),
    })
}

pub(super) fn image(shown: models::ImageInspect) -> Image {
    let content = content(&shown);
    let pulls = shown.identity.and_then(|identity| identity.pull);
    let config = shown.config.unwrap_or_default();
    let test = config.healthcheck.and_then(|health| health.test);
    Image {
        id: shown.id.unwrap_or_default(),
        content,
        names: shown.repo_tags.unwrap_or_default(),
        repo_digests: shown.repo_digests.unwrap_or_default(),
        pulled_from: pulls
            .into_iter()
            .flatten()
            .filter_map(|pull| pull.repository)
            .collect(),
        created: shown
            .created
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .map_or(0, jiff::Timestamp::as_second),
        bytes: shown.size.and_then(|n| n.try_into().ok()).unwrap_or(0),
        healthcheck: test
            .is_some_and(|test| !matches!(test.first().map(String::as_str), None | Some("NONE"))),
        exposed: config.exposed_ports.unwrap_or_default(),
        volumes: config.volumes.unwrap_or_default(),
        labels: config.labels.unwrap_or_default().into_keys().collect(),
    }
}

/// An image of which the engine shows no configuration and no layers: it is like none but itself.
pub(super) fn listed_image(shown: models::ImageSummary) -> Image {
    Image {
        content: shown.id.clone(),
        id: shown.id,
        names: shown.repo_tags,
        repo_digests: shown.repo_digests,
        pulled_from: Vec::new(),
        created: shown.created,
        bytes: shown.size.try_into().unwrap_or(0),
        healthcheck: false,
        exposed: Vec::new(),
        volumes: Vec::new(),
        labels: shown.labels.into_keys().collect(),
    }
}

/// A hash of an image's layers, and of its configuration as far as a container takes it over: what every engine shows of
/// an image, whatever store it keeps it in. What is empty and what is left out is the same.
fn content(shown: &models::ImageInspect) -> String {
    let default = models::ImageConfig::default();
    let config = shown.config.as_ref().unwrap_or(&default);
    let layers = shown.root_fs.as_ref().and_then(|fs| fs.layers.as_ref());
    let set = |list: &Option<Vec<String>>| -> BTreeSet<String> {
        list.iter().flatten().cloned().collect()
    };
    let test = config.healthcheck.as_ref().and_then(|h| h.test.as_ref());
    let labels: BTreeMap<&String, &String> = config.labels.iter().flatten().collect();
    let parts = (
        layers.into_iter().flatten().collect::<Vec<_>>(),
        config.entrypoint.iter().flatten().collect::<Vec<_>>(),
        config.cmd.iter().flatten().collect::<Vec<_>>(),
        config.env.iter().flatten().collect::<Vec<_>>(),
        config.user.as_deref().unwrap_or_default(),
        config.working_dir.as_deref().unwrap_or_default(),
        config.stop_signal.as_deref().unwrap_or_default(),
        set(&config.exposed_ports),
        set(&config.volumes),
        test.into_iter().flatten().collect::<Vec<_>>(),
        labels,
    );
    let text = serde_json::to_vec(&parts).unwrap_or_default();
    let hash = Sha256::digest(text);
    hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn local_image(shown: models::ImageSummary, used: &BTreeSet<String>) -> LocalImage {
    let names = shown.repo_tags.into_iter().chain(shown.repo_digests);
    LocalImage {
        // What has no name is shown as `<none>:<none>` by some engines.
        names: names.filter(|name| !name.starts_with("<none>")).collect(),
        used: used.contains(&shown.id),
        id: shown.id,
    }
}

/// An event, if it is one about a container that matters.
pub(super) fn event(message: models::EventMessage) -> Option<EngineEvent> {
    if message.typ == Some(models::EventMessageTypeEnum::NETWORK)
        && matches!(message.action.as_deref(), Some("create" | "destroy"))
    {
        return Some(EngineEvent::Networks);
    }
    let actor = message.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    let text = |name: &str| attributes.get(name);
    let change = match message.action?.as_str() {
        "create" => Change::Created,
        "start" => Change::Started,
        "die" => Change::Died(text("exitCode").and_then(|code| code.parse().ok())),
        "oom" => Change::OutOfMemory,
        "rename" => Change::Renamed,
        "destroy" => Change::Removed,
        "pause" | "unpause" | "update" => Change::Other,
        "connect" | "disconnect" => {
            return Some(EngineEvent::Container {
                docker_id: text("container")?.clone(),
                owner: None,
                change: Change::Network,
            });
        }
        action if action.starts_with("health_status") => Change::Health,
        _ => return None,
    };
    let owner = || {
        let cluster: Uuid = text(LABEL_CLUSTER)?.parse().ok()?;
        Some((cluster, text(LABEL_INSTANCE)?.parse().ok()?))
    };
    Some(EngineEvent::Container {
        docker_id: actor.id?,
        owner: owner(),
        change,
    })
}

/// Unix milliseconds of a time as Docker writes it; 0 for its "never" (year 1) and for what can't be read.
fn millis(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>()
        .map_or(0, |time| time.as_millisecond().max(0))
}

/// Splits a line of a log with timestamps: Unix nanoseconds, and the rest.
pub(super) fn stamped(line: &[u8]) -> Option<(i64, &[u8])> {
    let space = line.iter().position(|byte| *byte == b' ')?;
    let stamp: jiff::Timestamp = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
    Some((
        i64::try_from(stamp.as_nanosecond()).ok()?,
        &line[space + 1..],
    ))
}

#[cfg(test)]
mod tests;
