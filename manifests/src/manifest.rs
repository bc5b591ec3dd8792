//! The manifest as a value: fields, defaults, and which of them affect a running container.
//!
//! A manifest is immutable once parsed. How text becomes one is `parse`'s business.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, VariantNames};

use crate::names::{AppName, ServiceName};

/// What the user wants to run: one `/apps/<app>/<container>/manifest`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The image, as `docker pull` takes it.
    pub image: String,
    /// How many slots.
    pub scale: u32,
    /// Arguments (Docker's CMD); none leaves the image's.
    pub command: Option<Vec<String>>,
    /// The program (Docker's ENTRYPOINT); none leaves the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The user's environment.
    pub env: BTreeMap<String, String>,
    /// Services it wants to reach; order gives the ports.
    pub links: Vec<Link>,
    /// Named ports it offers.
    pub services: BTreeMap<ServiceName, Service>,
    /// What is mounted.
    pub volumes: Vec<Volume>,
    /// User (and group) to run as.
    pub user: Option<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// The user's own labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop; none leaves the image's.
    pub stop_signal: Option<String>,
    /// Time between that signal and SIGKILL.
    pub stop_timeout: Duration,
    /// When to ask the registry.
    pub pull: Pull,
    /// Healthcheck in place of the image's.
    pub healthcheck: HealthcheckChoice,
    /// How Docker keeps its output.
    pub log: Log,
    /// How long a start may take until it counts as failed.
    pub start_timeout: Duration,
    /// Processors that it may use, in thousandths, and that are reserved for it; none sets no limit.
    pub cpu_millis: Option<u32>,
    /// Bytes of memory that it may use, and that are reserved for it; none sets no limit.
    pub memory: Option<u64>,
    /// Which hosts may run it.
    pub placement: Placement,
}

/// A wish to reach a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// The service's app; none is the container's own.
    pub app: Option<AppName>,
    /// The service.
    pub service: ServiceName,
    /// The name that the variables use instead of the service's.
    pub alias: Option<ServiceName>,
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The port inside the container.
    pub port: u16,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
    /// Free text for `DOKKAA_ROLE_<name>`.
    pub role: Option<String>,
    /// What makes it ready.
    pub ready: Ready,
    /// A port that it must have on its host.
    pub host_port: Option<u16>,
    /// Where `host_port` listens; none is the agent's `--host-ip`.
    pub bind: Option<std::net::IpAddr>,
}

/// Transport of a service.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// What makes a service ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Ready {
    /// Its port listens (or its HEALTHCHECK says so).
    #[default]
    Listening,
    /// The container runs.
    Started,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it comes from.
    pub source: VolumeSource,
    /// Absolute path inside the container.
    pub target: String,
    /// No writing.
    pub read_only: bool,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// An absolute path of the host; never created, pins nothing.
    HostPath(String),
    /// A volume of the slot, named `<app>---<container>---<slot>---<name>` in Docker; pins the slot to its host.
    Named(String),
    /// An existing Docker volume of that very name.
    External(String),
}

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Pull {
    /// Only when the host lacks the image.
    #[default]
    Missing,
    /// For every new version, also when the host has the image.
    Always,
    /// Never.
    Never,
}

/// Whose healthcheck it has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum HealthcheckChoice {
    /// The image's, if it has one.
    #[default]
    Image,
    /// None, also if the image has one.
    Off,
    /// Its own.
    Own(Healthcheck),
}

/// A healthcheck as Docker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// What is run in the container; a string in the manifest becomes `/bin/sh -c`.
    pub command: Vec<String>,
    /// Time between two runs.
    pub interval: Option<Duration>,
    /// Longest run.
    pub timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy.
    pub retries: Option<u32>,
    /// Time in which failures do not count.
    pub start_period: Option<Duration>,
}

/// How Docker keeps its output (json-file).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Bytes in one file.
    pub max_size: u64,
    /// Files kept.
    pub max_file: u32,
}

/// Which hosts may run a container, and how its instances are spread over them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// What a host's labels must satisfy, all of it.
    pub constraints: Vec<Constraint>,
    /// Most instances on one host.
    pub max_per_host: Option<u32>,
    /// The label over whose values the instances are spread evenly.
    pub spread: Option<String>,
}

/// A wish about a label of the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Constraint {
    /// The label.
    pub label: String,
    /// It must have the value; else it must not.
    pub equal: bool,
    /// The value.
    pub value: String,
}

impl Manifest {
    /// The manifest that names an image and nothing else.
    pub fn of_image(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            scale: 1,
            command: None,
            entrypoint: None,
            env: BTreeMap::new(),
            links: Vec::new(),
            services: BTreeMap::new(),
            volumes: Vec::new(),
            user: None,
            workdir: None,
            labels: BTreeMap::new(),
            stop_signal: None,
            stop_timeout: Duration::from_secs(10),
            pull: Pull::default(),
            healthcheck: HealthcheckChoice::Image,
            log: Log::default(),
            start_timeout: Duration::from_secs(60),
            cpu_millis: None,
            memory: None,
            placement: Placement::default(),
        }
    }
}

impl Service {
    /// A TCP service on that port and nothing else.
    pub fn on_port(port: u16) -> Self {
        Self {
            port,
            protocol: Protocol::default(),
            role: None,
            ready: Ready::default(),
            host_port: None,
            bind: None,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_size: 10 << 20,
            max_file: 3,
        }
    }
}
