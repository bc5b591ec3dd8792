//! The manifest as a value: its fields and defaults.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use strum::{Display, EnumString, VariantNames};

use crate::image_policy::ImagePolicy;
use crate::names::{AppName, ServiceName};
use crate::units::{self, duration};
use crate::update::{Before, Order, Rebalance, Update};

/// The value of `/apps/<app>/<container>/manifest`. [`crate::canonical`] has its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// Image reference, as for `docker pull`.
    pub image: String,
    /// Its slots.
    pub scale: Scale,
    /// Runs nothing, whatever its scale.
    pub stopped: bool,
    /// Arguments (Docker's CMD); none: the image's.
    pub command: Option<Vec<String>>,
    /// Program (Docker's ENTRYPOINT); none: the image's.
    pub entrypoint: Option<Vec<String>>,
    /// The user's environment.
    pub env: BTreeMap<String, String>,
    /// Services it connects to; their order decides the ports.
    pub links: Vec<Link>,
    /// Named ports it offers.
    pub services: BTreeMap<ServiceName, Service>,
    /// Mounts.
    pub volumes: Vec<Volume>,
    /// User (and group) to run as.
    pub user: Option<String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// Signal that asks it to stop; none: the image's.
    pub stop_signal: Option<String>,
    /// Time between that signal and SIGKILL.
    #[serde(serialize_with = "duration")]
    pub stop_timeout: Duration,
    /// Pull policy.
    pub pull: Pull,
    /// Healthcheck in place of the image's.
    pub healthcheck: HealthcheckChoice,
    /// Options of Docker's json-file log.
    pub log: Log,
    /// Time after which a start counts as failed.
    #[serde(serialize_with = "duration")]
    pub start_timeout: Duration,
    /// CPU limit and reservation, in thousandths; none: no limit.
    #[serde(rename = "cpus", serialize_with = "cpus")]
    pub cpu_millis: Option<u32>,
    /// Memory limit and reservation, in bytes; none: no limit.
    #[serde(serialize_with = "size")]
    pub memory: Option<u64>,
    /// Limits of its processes; those that are not in it are the engine's.
    pub ulimits: BTreeMap<UlimitName, Ulimit>,
    /// Placement of its slots on hosts.
    pub placement: Placement,
    /// How another version takes the place of the present one.
    pub update: Update,
    /// Newer images that its registry may have; none: they are not asked for.
    pub image_policy: Option<ImagePolicy>,
    /// Runs once for each new version before any instance of it.
    pub before: Option<Before>,
    /// Longest time for which connections are waited for before an instance that leaves is asked to stop.
    #[serde(serialize_with = "duration")]
    pub drain_timeout: Duration,
    /// Whether its instances may move to hosts that have fewer containers.
    pub rebalance: Rebalance,
    /// Any text: another one is another version.
    pub restarted_at: Option<String>,
}

/// The slots of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// So many, on whatever hosts.
    Count(u32),
    /// One on each host that may have it.
    Global,
}

impl Scale {
    /// How a manifest says it.
    pub const GLOBAL: &str = "global";
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Global => f.write_str(Self::GLOBAL),
        }
    }
}

impl Serialize for Scale {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(count) => serializer.serialize_u32(*count),
            Self::Global => serializer.serialize_str(Self::GLOBAL),
        }
    }
}

/// A link to a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Link {
    /// App of the service; none: the container's own.
    pub app: Option<AppName>,
    /// The service.
    pub service: ServiceName,
    /// Name for the variables, instead of the service's.
    pub alias: Option<ServiceName>,
}

/// A named port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Port inside the container.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Value of `DOKKAA_ROLE_<name>`.
    pub role: Option<String>,
    /// Condition of readiness.
    pub ready: Ready,
    /// Fixed port on the host.
    pub host_port: Option<u16>,
    /// Address that `host_port` listens on; none: the agent's `--host-ip`.
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

/// Condition of a service's readiness, where the container has no healthcheck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, EnumString, VariantNames)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Ready {
    /// Its port listens.
    #[default]
    Listening,
    /// The container runs.
    Started,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Source of the mount.
    #[serde(flatten)]
    pub source: VolumeSource,
    /// Absolute path inside the container.
    pub target: String,
    /// Mounted read-only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// Source of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// An absolute path of the host; never created, pins nothing.
    HostPath(String),
    /// A volume of the slot, named `<app>---<container>---<slot>---<name>` in Docker; pins the slot to its host.
    Named(String),
    /// An existing Docker volume of that very name.
    External(String),
}

impl VolumeSource {
    /// The path or name.
    pub fn as_str(&self) -> &str {
        let (Self::HostPath(source) | Self::Named(source) | Self::External(source)) = self;
        source
    }
}

impl Serialize for VolumeSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("source", self.as_str())?;
        if let Self::External(_) = self {
            map.serialize_entry("external", &true)?;
        }
        map.end()
    }
}

/// Pull policy: when the registry is asked.
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

/// Choice of a healthcheck.
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

impl Serialize for HealthcheckChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Image => serializer.serialize_none(),
            Self::Off => serializer.serialize_str("none"),
            Self::Own(check) => check.serialize(serializer),
        }
    }
}

/// A healthcheck as Docker's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Healthcheck {
    /// Command that is run in the container; a string in the manifest becomes `/bin/sh -c`.
    pub command: Vec<String>,
    /// Time between two runs.
    #[serde(serialize_with = "duration")]
    pub interval: Option<Duration>,
    /// Time-out of a run.
    #[serde(serialize_with = "duration")]
    pub timeout: Option<Duration>,
    /// Consecutive failures that make it unhealthy.
    pub retries: Option<u32>,
    /// Time after the start in which failures do not count.
    #[serde(serialize_with = "duration")]
    pub start_period: Option<Duration>,
}

/// Options of Docker's json-file log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Log {
    /// Bytes in one file.
    #[serde(serialize_with = "size")]
    pub max_size: u64,
    /// Number of files.
    pub max_file: u32,
}

/// What a limit of a process is about, as Docker names it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Display, EnumString, VariantNames,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
#[expect(missing_docs, reason = "man 2 setrlimit")]
pub enum UlimitName {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

/// A limit of a process; -1 is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ulimit {
    /// What holds.
    pub soft: i64,
    /// How far the process itself may raise that.
    pub hard: i64,
}

impl Ulimit {
    /// Open files where the manifest says nothing: engines differ in their own default.
    pub const NOFILE: Self = Self::both(1 << 20);

    /// Soft and hard.
    pub const fn both(limit: i64) -> Self {
        Self {
            soft: limit,
            hard: limit,
        }
    }
}

impl Serialize for Ulimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.soft == self.hard {
            return serializer.serialize_i64(self.soft);
        }
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("soft", &self.soft)?;
        map.serialize_entry("hard", &self.hard)?;
        map.end()
    }
}

/// Placement of slots on hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Placement {
    /// Conditions on the labels of a host; all must hold.
    pub constraints: Vec<Constraint>,
    /// Most instances on one host.
    pub max_per_host: Option<u32>,
    /// Label over whose values the instances are spread evenly.
    pub spread: Option<String>,
}

/// A condition on a label of a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Constraint {
    /// Name of the label.
    pub label: String,
    /// The label must have the value; otherwise it must not.
    pub equal: bool,
    /// The value.
    pub value: String,
}

impl Manifest {
    /// A manifest with an image and defaults.
    pub fn of_image(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            scale: Scale::Count(1),
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
            ulimits: BTreeMap::from([(UlimitName::Nofile, Ulimit::NOFILE)]),
            placement: Placement::default(),
            stopped: false,
            update: Update::default(),
            image_policy: None,
            before: None,
            drain_timeout: Duration::from_secs(10),
            rebalance: Rebalance::default(),
            restarted_at: None,
        }
    }

    /// The slots that are to run.
    pub fn runs(&self) -> Scale {
        if self.stopped {
            Scale::Count(0)
        } else {
            self.scale
        }
    }

    /// The order in which an instance is replaced on its host.
    pub fn order(&self) -> Order {
        self.update.order.unwrap_or_else(|| {
            if self.why_stop_first().is_some() || self.volumes.iter().any(|v| !v.read_only) {
                Order::StopFirst
            } else {
                Order::StartFirst
            }
        })
    }

    /// Reason for which two instances can't run side by side on one host.
    pub fn why_stop_first(&self) -> Option<String> {
        let fixed = |(name, service): (&ServiceName, &Service)| {
            let port = service.host_port?;
            Some(format!("service `{name}` has the fixed host_port {port}"))
        };
        let written = |volume: &Volume| {
            let name = match &volume.source {
                VolumeSource::Named(name) | VolumeSource::External(name) => name,
                VolumeSource::HostPath(_) => return None,
            };
            (!volume.read_only).then(|| format!("both would write to volume `{name}`"))
        };
        let mut ports = self.services.iter().filter_map(fixed);
        ports
            .next()
            .or_else(|| self.volumes.iter().find_map(written))
    }
}

impl Service {
    /// A service with a port and defaults.
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

fn size<S: Serializer>(
    size: &(impl Copy + Into<Option<u64>>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let size = (*size).into();
    size.map(units::format_size).serialize(serializer)
}

/// A JSON number with as few digits as it needs.
fn cpus<S: Serializer>(
    millis: &(impl Copy + Into<Option<u32>>),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match (*millis).into() {
        Some(millis) if millis.is_multiple_of(1000) => serializer.serialize_u32(millis / 1000),
        millis => millis
            .map(|millis| f64::from(millis) / 1000.0)
            .serialize(serializer),
    }
}
