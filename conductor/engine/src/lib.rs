//! The seam to the Docker Engine: what is asked of it, as values, and the trait that carries it out.
//!
//! No type of the client library leaks through here, so that the in-memory
//! twin and the real engine are interchangeable. Every call has a deadline.
//! What is already so (running, stopped, gone) is success; a name that somebody
//! else holds is an answer, not an error. The engine is asked about containers
//! by Docker's id, and never creates a path of the host.

mod docker;
mod error;
pub mod facts;
#[cfg(feature = "testing")]
pub mod memory;
pub mod netns;
mod reference;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use manifests::InstanceId;
use manifests::manifest::{HealthcheckChoice, Log, Ulimit, UlimitName};
use model::disk::{DiskUsage, LocalImage};
use model::observed::{ContainerPort, ObservedContainer, Ownership, PublishedPorts};
use model::records::Docker;
use model::volumes::Labels;
use tokio::sync::mpsc;
use uuid::Uuid;

pub use docker::{
    ApiVersion, DEFAULT_SOCKET, DockerEngine, NEWEST, NotHere, OLDEST, VersionError, check, choose,
    socket, usage_of,
};
pub use error::{EngineError, HostFault, Operation};
pub use facts::EngineFacts;
pub use model::logs::OutputStream;
pub use model::observed::Listing;
pub use reference::parse_reference;
pub use spec::{BACKENDS, LABEL_VOLUME, SpecInput, spec, volume_name};

/// What an engine says of itself and its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    /// For people, but for its image store.
    pub docker: Docker,
    /// Its own id; never an identity of the host.
    pub id: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Where it keeps images and volumes.
    pub data_root: String,
    /// It runs as a user's own engine, without root.
    pub rootless: bool,
    /// The machine's operating system, for people; Docker Desktop says so here.
    pub operating_system: String,
    /// Registries that it asks without HTTPS where they have none: names, and networks as `10.0.0.0/8`.
    pub insecure_registries: Vec<String>,
}

/// A network of the engine, as this machine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Its name in Docker.
    pub network: String,
    /// The machine's interface in it, such as `docker0`.
    pub interface: String,
    /// The machine's address on that interface: containers reach the agent there.
    pub gateway: IpAddr,
    /// Its subnet, as Docker writes it.
    pub subnet: Option<String>,
    /// Others may route to its containers.
    pub routed: Routed,
}

/// A network whose operator lets others reach its containers directly: `gateway_mode_ipv4`, `gateway_mode_ipv6`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Routed {
    /// By IPv4.
    pub v4: bool,
    /// By IPv6.
    pub v6: bool,
}

/// Something happened; look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEvent {
    /// The events flow (again) and what was missed could not be had: list everything.
    Connected,
    /// A network was made or removed.
    Networks,
    /// The events flow no more; why. They are reconnected without being asked.
    Lost(String),
    /// A container changed.
    Container {
        /// Docker's id.
        docker_id: String,
        /// Its instance and cluster, if it carries labels of ours.
        owner: Option<(Uuid, InstanceId)>,
        /// What happened to it.
        change: Change,
    },
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Created,
    /// Its process was started.
    Started,
    /// Its process ended, with this code.
    Died(Option<i64>),
    /// The kernel killed a process of it for want of memory.
    OutOfMemory,
    /// Its healthcheck changed its mind.
    Health,
    /// It has another name.
    Renamed,
    /// It is gone.
    Removed,
    /// It was connected to a network or disconnected from it; whose it is, such an event does not say.
    Network,
    /// Paused, unpaused or updated.
    Other,
}

/// An image on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Its id, `sha256:…`: of its configuration, or of its manifest where the engine keeps images in containerd. So one
    /// image has different ids in different stores.
    pub id: String,
    /// A hash of its layers and of what a container takes over from it: the same in every store.
    pub content: String,
    /// Its tags.
    pub names: Vec<String>,
    /// `repository@sha256:…`, one for each repository that it was pulled from or pushed to; in containerd's store, for
    /// each repository that it has a tag of.
    pub repo_digests: Vec<String>,
    /// Repositories that the engine knows to have pulled it from, without the port of the registry.
    pub pulled_from: Vec<String>,
    /// When it was made, in Unix seconds.
    pub created: i64,
    /// Its size on disk in bytes, as the engine counts it.
    pub bytes: u64,
    /// It has a HEALTHCHECK.
    pub healthcheck: bool,
    /// Ports that it says it listens on, such as `80/tcp`.
    pub exposed: Vec<String>,
    /// Paths at which it declares volumes.
    pub volumes: Vec<String>,
    /// The names of its labels.
    pub labels: Vec<String>,
}

/// What a registry wants to know of its user.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: String,
        /// The registry, as Docker's configuration spells it.
        server: String,
    },
    /// An OAuth2 identity token.
    IdentityToken {
        /// The token.
        token: String,
        /// The registry, as Docker's configuration spells it.
        server: String,
    },
}

impl std::fmt::Debug for Credentials {
    /// Says whose they are, never what they are.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password {
                username, server, ..
            } => write!(f, "Password({username} at {server})"),
            Self::IdentityToken { server, .. } => write!(f, "IdentityToken(at {server})"),
        }
    }
}

/// How far a pull is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Layers that are complete.
    pub layers_done: u32,
    /// Layers that the image has, as far as is known.
    pub layers: u32,
    /// Bytes that were downloaded.
    pub bytes_done: u64,
    /// Bytes to download, as far as is known.
    pub bytes: u64,
    /// Bytes of layers that are being unpacked, where the engine counts bytes.
    pub unpacked: u64,
    /// Seconds for which layers have been unpacked, where it counts those, as with containerd's store.
    pub unpacking: u64,
}

impl std::fmt::Display for PullProgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mega = |bytes: u64| bytes as f64 / 1e6;
        write!(
            f,
            "{}/{} layers, {:.1}/{:.1} MB",
            self.layers_done,
            self.layers,
            mega(self.bytes_done),
            mega(self.bytes)
        )?;
        match (self.unpacked, self.unpacking) {
            (0, 0) => Ok(()),
            (0, seconds) => write!(f, ", unpacking for {seconds} s"),
            (bytes, _) => write!(f, ", unpacking: {:.1} MB", mega(bytes)),
        }
    }
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it comes from.
    pub source: MountSource,
    /// Absolute path inside the container.
    pub target: String,
    /// No writing.
    pub read_only: bool,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// A path of the host; it must exist.
    Path(String),
    /// A volume; made, with these labels, if it does not exist.
    Volume {
        /// Its name in Docker.
        name: String,
        /// Its labels if it is made.
        labels: BTreeMap<String, String>,
    },
    /// A volume of this name; it must exist.
    External(String),
}

/// A container to be made, without a choice left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CreateSpec {
    /// Its name.
    pub name: String,
    /// What it is made from: `repository@sha256:…`, a tag or an image id.
    pub image: String,
    /// The program; none leaves the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments; none leaves the image's.
    pub command: Option<Vec<String>>,
    /// The environment beside the image's.
    pub env: BTreeMap<String, String>,
    /// Labels, the user's and ours.
    pub labels: BTreeMap<String, String>,
    /// User to run as; none leaves the image's.
    pub user: Option<String>,
    /// Working directory; none leaves the image's.
    pub workdir: Option<String>,
    /// Signal that asks it to stop; none leaves the image's.
    pub stop_signal: Option<String>,
    /// Time between that signal and SIGKILL.
    pub stop_timeout: Duration,
    /// Its healthcheck.
    pub healthcheck: HealthcheckChoice,
    /// What is mounted.
    pub mounts: Vec<Mount>,
    /// What is published where.
    pub ports: PublishedPorts,
    /// Docker's network.
    pub network: String,
    /// Names in its hosts file.
    pub hosts: BTreeMap<String, IpAddr>,
    /// Its DNS server; none leaves Docker's.
    pub dns: Option<IpAddr>,
    /// Its DNS search domain.
    pub dns_search: Option<String>,
    /// Options of its resolver; none leaves the host's.
    pub dns_options: Vec<String>,
    /// How its output is kept.
    pub log: Log,
    /// Processors that it may use, in thousandths; none sets no limit.
    pub cpu_millis: Option<u32>,
    /// Bytes of memory that it may use, without any swap; none sets no limit.
    pub memory: Option<u64>,
    /// Limits of its processes; the engine's own for what is not in it.
    pub ulimits: BTreeMap<UlimitName, Ulimit>,
}

/// Who holds a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Docker's id.
    pub docker_id: String,
    /// Whose it is, if its labels are ours; none is somebody else's container.
    pub owner: Option<Ownership>,
}

/// What came of a wish for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named<T> {
    /// It was had.
    Done(T),
    /// Another container has it. The holder is missing if it was gone when it was asked for.
    Taken(Option<Holder>),
}

/// What came of a command inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// Its exit code; none if it did not end in time.
    pub code: Option<i64>,
    /// The beginning of what it wrote, both streams as they came.
    pub output: Vec<u8>,
}

/// Which of the ports asked for take traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listening {
    /// Ports that listen (TCP) or are bound (UDP) on an address other than loopback.
    pub ports: BTreeSet<ContainerPort>,
}

/// Which part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on as it grows, until the container ends.
    pub follow: bool,
    /// Only the last lines; none is all.
    pub tail: Option<u32>,
    /// Only from this time on, in Unix nanoseconds by the host's clock.
    pub since: Option<i64>,
}

/// A piece of a log: a line with its newline, the last words of a process without one, or (longer than 1 MiB) a part of
/// a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Where it was written to.
    pub stream: OutputStream,
    /// When, in Unix nanoseconds by the host's clock.
    pub at: i64,
    /// The bytes.
    pub bytes: Bytes,
}

/// A log as it comes. Ends when the container has ended, or (without `follow`) at its end.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogChunk, EngineError>> + Send>>;

/// An archive of an image as it comes: the tar of `docker save`.
pub type Archive = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Told of a pull's progress, as often as the engine says something.
pub type OnProgress<'a> = &'a (dyn Fn(PullProgress) + Send + Sync);

/// The seam to a Docker Engine on this machine.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Whether it answers.
    async fn ping(&self) -> Result<(), EngineError>;

    /// What it says of itself.
    async fn info(&self) -> Result<EngineInfo, EngineError>;

    /// A network of it, with the machine's address in it.
    async fn bridge(&self, network: &str) -> Result<Bridge, EngineError>;

    /// Subnets, as Docker writes them, of the networks whose containers nobody but this machine stands for: bridges of this
    /// machine that are not `--internal` and have no port to a network beyond it. As of now; ports may be added later.
    async fn subnets(&self) -> Result<BTreeSet<String>, EngineError>;

    /// All containers, running or not; those of `cluster` in full.
    async fn list(&self, cluster: Option<Uuid>) -> Result<Listing, EngineError>;

    /// One container, if it exists and is ours.
    async fn inspect(&self, docker_id: &str) -> Result<Option<ObservedContainer>, EngineError>;

    /// Follows events until the receiver is dropped; reconnects by itself. After each `Connected` the caller lists.
    fn events(&self) -> mpsc::Receiver<EngineEvent>;

    /// Fetches an image from its registry, and ends when it is here, with the digest that its name has in the registry now,
    /// as far as the engine says.
    async fn pull(
        &self,
        image: &str,
        credentials: Option<&Credentials>,
        progress: OnProgress<'_>,
    ) -> Result<Option<String>, EngineError>;

    /// Whether the registry has this image, by `repository@sha256:…`. It is asked, which may take as long as the network
    /// lets it; nothing is fetched.
    async fn is_in_registry(
        &self,
        reference: &str,
        credentials: Option<&Credentials>,
    ) -> Result<bool, EngineError>;

    /// An image as an archive, without any name of it. An error comes with the stream.
    async fn save(&self, image_id: &str) -> Result<Archive, EngineError>;

    /// Takes an archive of one image without names in; the id that it has here.
    async fn load(&self, archive: Archive) -> Result<String, EngineError>;

    /// Gives an image a name, and takes it from the one that had it.
    async fn tag(&self, image_id: &str, name: &str) -> Result<(), EngineError>;

    /// An image on this host, by any name of it; none if it is not here.
    async fn image(&self, name: &str) -> Result<Option<Image>, EngineError>;

    /// All images on this host that have a name or are not part of another one.
    async fn images(&self) -> Result<Vec<LocalImage>, EngineError>;

    /// Takes an image its names, and with the last of them removes it; `false` if something still needs it. Nothing if
    /// it is gone.
    async fn remove_image(&self, image: &LocalImage) -> Result<bool, EngineError>;

    /// How full the file system is on which it keeps images and containers; none where this process can't see it.
    async fn disk_usage(&self) -> Result<Option<DiskUsage>, EngineError>;

    /// Makes a container, and its volumes, and gives Docker's id. An image that is not here is a conflict: it was here
    /// before, or nobody would ask.
    async fn create(&self, spec: &CreateSpec) -> Result<Named<String>, EngineError>;

    /// Starts its process; nothing if one runs.
    async fn start(&self, docker_id: &str) -> Result<(), EngineError>;

    /// Asks it to stop (with the signal it was made with), kills it after `timeout`, and returns when it has stopped.
    /// Nothing if it does not run or is gone.
    async fn stop(&self, docker_id: &str, timeout: Duration) -> Result<(), EngineError>;

    /// Removes it with its anonymous volumes, killing it first if `force`. Nothing if it is gone.
    async fn remove(&self, docker_id: &str, force: bool) -> Result<(), EngineError>;

    /// Its volumes, by name, with their labels.
    async fn volumes(&self) -> Result<BTreeMap<String, Labels>, EngineError>;

    /// Removes a volume that no container has. Nothing if it does not exist.
    async fn remove_volume(&self, name: &str) -> Result<(), EngineError>;

    /// Gives it another name.
    async fn rename(&self, docker_id: &str, name: &str) -> Result<Named<()>, EngineError>;

    /// Runs a command in it.
    async fn exec(
        &self,
        docker_id: &str,
        command: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, EngineError>;

    /// Which of these ports listen in the network namespace of the container whose process has this id.
    async fn listening(
        &self,
        pid: u32,
        wanted: &BTreeSet<ContainerPort>,
    ) -> Result<Listening, EngineError>;

    /// How many connections from outside these ports have in the network namespace of the container whose process has
    /// this id.
    async fn connections(&self, pid: u32, ports: &BTreeSet<u16>) -> Result<u32, EngineError>;

    /// Waits until the process has ended. The kernel tells, so it is known whether or not the engine answers.
    async fn process_ended(&self, pid: u32) -> Result<(), EngineError>;

    /// Its log.
    async fn logs(&self, docker_id: &str, options: LogOptions) -> Result<LogStream, EngineError>;
}
