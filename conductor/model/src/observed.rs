//! What the Docker Engine shows of this host's own containers, as values.
//!
//! Labels say of which instance a container is, and `identity` whether it is
//! that or a copy. What has not the whole set of labels is foreign and only
//! counted. Nothing here is read from etcd.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use manifests::manifest::Protocol;
use manifests::units::format_size;
use manifests::{ContainerId, InstanceId, Manifest, SlotId};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use crate::revision::VersionId;

/// Prefix of dokkaa's labels.
pub const LABELS: &str = "dokkaa.";
/// Label: the id of the cluster that a container belongs to.
pub const LABEL_CLUSTER: &str = "dokkaa.cluster";
/// Label: the app.
pub const LABEL_APP: &str = "dokkaa.app";
/// Label: the container's name in its app.
pub const LABEL_CONTAINER: &str = "dokkaa.container";
/// Label: the slot's number.
pub const LABEL_SLOT: &str = "dokkaa.slot";
/// Label: the instance.
pub const LABEL_INSTANCE: &str = "dokkaa.instance";
/// Label: hash of the part of the manifest that affects the container, with the decided image.
pub const LABEL_MANIFEST_HASH: &str = "dokkaa.manifest-hash";
/// Label in place of that hash: it runs before a version, with this key.
pub const LABEL_BEFORE: &str = "dokkaa.before";
/// Label: hash of what the host gave it.
pub const LABEL_HOST_HASH: &str = "dokkaa.host-hash";

/// Owner of a container, from its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// Its cluster.
    pub cluster: Uuid,
    /// Its slot.
    pub slot: SlotId,
    /// Its instance.
    pub instance: InstanceId,
    /// Hash of its manifest and image when it was made; empty if it is a job.
    pub manifest_hash: String,
    /// Hash of what the host gave it when it was made.
    pub host_hash: String,
    /// It is no instance of the slot: it runs before the version with this key.
    pub before: Option<VersionId>,
}

impl Ownership {
    /// The name of its container while the slot's own name may still be another's.
    pub fn name_beside(&self) -> String {
        match self.before {
            None => name_beside(&self.slot, &self.instance),
            Some(_) => job_name(&self.slot, &self.instance),
        }
    }

    /// Reads labels; none if one of ours is missing or can't be read: then the container is foreign.
    pub fn read(labels: &BTreeMap<String, String>) -> Option<Self> {
        let text = |name: &str| labels.get(name).map(String::as_str);
        let before = text(LABEL_BEFORE).map(str::parse);
        let container = ContainerId::new(
            text(LABEL_APP)?.parse().ok()?,
            text(LABEL_CONTAINER)?.parse().ok()?,
        );
        Some(Self {
            cluster: text(LABEL_CLUSTER)?.parse().ok()?,
            slot: container.slot(text(LABEL_SLOT)?.parse().ok()?),
            instance: text(LABEL_INSTANCE)?.parse().ok()?,
            // An agent that knows nothing of jobs takes one for foreign.
            manifest_hash: match before {
                None => text(LABEL_MANIFEST_HASH)?.to_owned(),
                Some(_) => String::new(),
            },
            before: before.transpose().ok()?.map(VersionId),
            host_hash: text(LABEL_HOST_HASH)?.to_owned(),
        })
    }

    /// The labels that say this.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let id = &self.slot.container;
        [
            (LABEL_CLUSTER, self.cluster.to_string()),
            (LABEL_APP, id.app.to_string()),
            (LABEL_CONTAINER, id.container.to_string()),
            (LABEL_SLOT, self.slot.slot.to_string()),
            (LABEL_INSTANCE, self.instance.to_string()),
            match self.before {
                None => (LABEL_MANIFEST_HASH, self.manifest_hash.clone()),
                Some(version) => (LABEL_BEFORE, version.to_string()),
            },
            (LABEL_HOST_HASH, self.host_hash.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// The name of an instance's container while the slot's own name may still be another's.
pub fn name_beside(slot: &SlotId, instance: &InstanceId) -> String {
    format!("{}.{instance}", slot.docker_name())
}

/// The name of a container that runs before a version.
pub fn job_name(slot: &SlotId, instance: &InstanceId) -> String {
    format!("{}.before.{instance}", slot.docker_name())
}

/// A port inside a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// Its number.
    pub port: u16,
    /// Its transport.
    pub protocol: Protocol,
}

impl std::fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

/// Address of each published port of a container.
pub type PublishedPorts = BTreeMap<ContainerPort, SocketAddr>;

/// End of the last process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// Its exit code; 128 + n for signal n.
    pub code: i64,
    /// The kernel killed it for want of memory.
    pub out_of_memory: bool,
    /// Docker's error at a start that failed; empty otherwise.
    pub error: String,
    /// When, in Unix milliseconds by this host's clock; for people.
    pub at: i64,
}

impl Exit {
    /// It looks as after `docker stop` or `docker kill`: by SIGTERM or SIGKILL, or in order.
    pub fn was_asked_for(&self) -> bool {
        !self.out_of_memory && self.error.is_empty() && matches!(self.code, 0 | 137 | 143)
    }
}

/// State of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Made; no process was ever started, or its only start failed (then Docker says why).
    Created {
        /// Docker's error at a start that failed; empty otherwise.
        error: String,
    },
    /// A process runs.
    Running(Running),
    /// A process runs, and somebody froze it.
    Paused(Running),
    /// Its process ended.
    Exited(Exit),
    /// Docker is removing it, or has failed to.
    Removing,
}

/// A running process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its process id on the host.
    pub pid: u32,
    /// When it was started, in Unix milliseconds by this host's clock. Changes with every start.
    pub started_at: i64,
    /// Result of Docker's healthcheck; none without one.
    pub health: Option<Health>,
}

/// Result of Docker's healthcheck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// No result that counts yet.
    Starting,
    /// The last run succeeded.
    Healthy,
    /// `retries` runs failed in a row.
    Unhealthy,
}

/// The healthcheck of a container, as one may run it oneself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The command, shell included.
    pub command: Vec<String>,
    /// Its time-out.
    pub timeout: std::time::Duration,
}

/// Limits of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Processors, in thousandths; none is without a limit.
    pub cpu_millis: Option<u32>,
    /// Bytes of memory; none is without a limit.
    pub memory: Option<u64>,
}

impl Limits {
    /// Differences from the limits of its manifest, which somebody made by hand (`docker update`); none if there are none.
    pub fn drift(self, manifest: &Manifest) -> Option<String> {
        let cpus = |millis: Option<u32>| {
            millis.map_or_else(
                || "none".to_owned(),
                |n| (f64::from(n) / 1_000.0).to_string(),
            )
        };
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "none".to_owned(), format_size);
        let (is, wanted) = (self.memory, manifest.memory);
        let memory = (is != wanted).then(|| ("memory", size(is), size(wanted)));
        let (is, wanted) = (self.cpu_millis, manifest.cpu_millis);
        let cpu = (is != wanted).then(|| ("CPU", cpus(is), cpus(wanted)));
        let changed: Vec<String> = [memory, cpu]
            .into_iter()
            .flatten()
            .map(|(what, is, wanted)| {
                format!("its {what} limit was changed by hand to {is} (manifest: {wanted})")
            })
            .collect();
        (!changed.is_empty())
            .then(|| format!("{}; undone at the next replacement", changed.join(", ")))
    }
}

/// One of our containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedContainer {
    /// Docker's id.
    pub docker_id: String,
    /// Its name, for people and to rename it; decides only whether it is the final one, and whose it is while no id is
    /// noted.
    pub name: String,
    /// Its owner, from its labels.
    pub owner: Ownership,
    /// Its state.
    pub state: ContainerState,
    /// Its address on the bridge while it runs.
    pub addr: Option<IpAddr>,
    /// Ports that it was created to publish, running or not.
    pub ports: PublishedPorts,
    /// Its limits.
    pub limits: Limits,
    /// Its healthcheck, from the manifest or the image.
    pub check: Option<Check>,
    /// Image that it was created from: `repository@sha256:…`, a tag or an image id.
    pub image: String,
    /// Id of its image.
    pub image_id: String,
    /// Docker's storage driver that holds it; empty if that is not known.
    pub driver: String,
    /// When it was made, in Unix milliseconds by this host's clock.
    pub created_at: i64,
}

impl ObservedContainer {
    /// Its process, if one runs (frozen or not).
    pub fn running(&self) -> Option<&Running> {
        match &self.state {
            ContainerState::Running(running) | ContainerState::Paused(running) => Some(running),
            ContainerState::Created { .. }
            | ContainerState::Exited(_)
            | ContainerState::Removing => None,
        }
    }

    /// Reason for which no traffic reaches it though its process runs; none if there is none.
    pub fn cut_off(&self) -> Option<&'static str> {
        match &self.state {
            ContainerState::Paused(_) => Some("it is paused; `docker unpause` lets it go on"),
            ContainerState::Running(running) if running.pid == 0 => {
                Some("Docker restarts it by a restart policy that somebody gave it")
            }
            _ if self.has_lost_network() => {
                Some("it has lost its network: somebody has disconnected it")
            }
            _ => None,
        }
    }

    /// It runs and is not in the network that it was made for: it must be made anew.
    pub fn has_lost_network(&self) -> bool {
        let runs = matches!(&self.state, ContainerState::Running(running) if running.pid != 0);
        runs && self.addr.is_none()
    }

    /// The service ports on which it has connections.
    pub fn tcp_ports(&self) -> impl Iterator<Item = u16> {
        let ports = self.ports.keys();
        let tcp = ports.filter(|port| port.protocol == Protocol::Tcp);
        tcp.map(|port| port.port)
    }

    /// Docker removes it, or has failed to: no process of it runs, and none will.
    pub fn is_going(&self) -> bool {
        self.state == ContainerState::Removing
    }

    /// It has the name that its slot's container has in the end.
    pub fn has_final_name(&self) -> bool {
        self.name == self.owner.slot.docker_name()
    }

    /// It has a name that a host gives to its instance.
    pub fn has_own_name(&self) -> bool {
        self.has_final_name() || self.name == self.owner.name_beside()
    }
}

/// A container with the labels of an instance that is not that instance, and of no interest to anybody here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Its name.
    pub name: String,
    /// The slot that its labels name.
    pub slot: SlotId,
    /// It runs.
    pub runs: bool,
}

impl std::fmt::Display for Copied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, slot, .. } = self;
        write!(
            f,
            "container {name} carries dokkaa labels of {slot} but was not made by dokkaa: it is ignored; `docker rm` it, \
             or run it with `--label {LABEL_CLUSTER}=`"
        )
    }
}

/// Readiness of a running instance, by its probes (health, sockets, age).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Readiness {
    /// It was not ready since its process started.
    #[default]
    Starting,
    /// It is.
    Ready,
    /// It was, and three looks in a row said no; why, for people.
    Unready(String),
}

/// State of the engine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EngineState {
    /// The rest of what was observed is fresh.
    #[default]
    Up,
    /// It does not answer: the rest is the last that was seen. Why, for people.
    Unresponsive(String),
}

/// All that the engine shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Our containers.
    pub containers: BTreeMap<InstanceId, ObservedContainer>,
    /// Those that run before a version.
    pub jobs: BTreeMap<InstanceId, ObservedContainer>,
    /// Readiness of running instances by their probes; without any it is starting.
    pub readiness: BTreeMap<InstanceId, Readiness>,
    /// Open connections of instances that leave, as far as they were counted.
    pub connections: BTreeMap<InstanceId, u32>,
    /// Containers with the labels of an instance that are not that instance, by Docker's id.
    pub copies: BTreeMap<String, Copied>,
    /// Running containers that are not ours, copies too.
    pub foreign: u32,
    /// State of the engine.
    pub engine: EngineState,
}

impl Observed {
    /// These are our containers.
    pub fn new(ours: impl IntoIterator<Item = ObservedContainer>, foreign: u32) -> Self {
        let by_instance = |c: ObservedContainer| (c.owner.instance.clone(), c);
        Self {
            containers: ours.into_iter().map(by_instance).collect(),
            foreign,
            ..Self::default()
        }
    }

    /// Our containers of one slot.
    pub fn of_slot<'a>(&'a self, slot: &'a SlotId) -> impl Iterator<Item = &'a ObservedContainer> {
        self.containers
            .values()
            .filter(move |container| container.owner.slot == *slot)
    }

    /// Readiness of this instance.
    pub fn readiness(&self, instance: &InstanceId) -> &Readiness {
        self.readiness.get(instance).unwrap_or(&Readiness::Starting)
    }
}

/// A container that the engine lists and does not show: whatever holds it up, a mount in its start for one, holds up
/// the look at it, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unseen {
    /// Its instance, by its labels.
    pub instance: InstanceId,
    /// The error, for people.
    pub why: String,
}

/// All containers of an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those with the labels of the cluster that was asked for, copies too.
    pub labelled: Vec<ObservedContainer>,
    /// The others with these labels, by Docker's id.
    pub unseen: BTreeMap<String, Unseen>,
    /// Running ones without.
    pub foreign: u32,
    /// Clusters that some container, running or not, carries the label of, with the number of their containers.
    pub clusters: BTreeMap<String, u32>,
}

/// Network settings that a host gives to every container that it creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The address at which instance ports are published (`--host-ip`).
    pub host_ip: IpAddr,
    /// The ambassador's address: the bridge's gateway.
    pub gateway: IpAddr,
    /// The agent's DNS server; none leaves Docker's.
    pub dns: Option<IpAddr>,
    /// The DNS zone.
    pub domain: String,
    /// Docker's network.
    pub network: String,
}

impl Surroundings {
    /// Hash over this and the ports that a container was given: `1:<XXH3-128 in hex>`. The number is the
    /// spelling's version; a new field may enter the text only where it is not at its default, so that an upgrade
    /// replaces no container.
    pub fn hash(&self, ports: &PublishedPorts) -> String {
        let mut text = format!(
            "host-ip={}\ngateway={}\ndomain={}\nnetwork={}\n",
            self.host_ip, self.gateway, self.domain, self.network
        );
        if let Some(dns) = self.dns {
            let _ = writeln!(text, "dns={dns}");
        }
        for (port, at) in ports {
            let _ = writeln!(text, "port={port}={at}");
        }
        format!("1:{:032x}", xxh3_128(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(instance: &str) -> Ownership {
        Ownership {
            cluster: Uuid::from_u128(7),
            slot: "shop/web".parse::<ContainerId>().expect("an id").slot(2),
            instance: instance.parse().expect("an instance"),
            manifest_hash: "1:aa".to_owned(),
            host_hash: "1:bb".to_owned(),
            before: None,
        }
    }

    fn surroundings() -> Surroundings {
        Surroundings {
            host_ip: IpAddr::from([10, 0, 0, 1]),
            gateway: IpAddr::from([172, 17, 0, 1]),
            dns: Some(IpAddr::from([172, 17, 0, 1])),
            domain: "skydns.local".to_owned(),
            network: "bridge".to_owned(),
        }
    }

    fn ports(at: u16) -> PublishedPorts {
        let port = ContainerPort {
            port: 80,
            protocol: Protocol::Tcp,
        };
        [(port, SocketAddr::from(([10, 0, 0, 1], at)))].into()
    }

    #[test]
    fn labels_read_back_as_they_are_written() {
        let labels = owner("i-1").labels();
        assert_eq!(labels.len(), 7);
        assert_eq!(Ownership::read(&labels), Some(owner("i-1")));
        let job = Ownership {
            before: Some(VersionId(7)),
            manifest_hash: String::new(),
            ..owner("i-2")
        };
        assert_eq!(Ownership::read(&job.labels()), Some(job));
    }

    #[test]
    fn a_container_that_lacks_one_of_the_labels_is_foreign() {
        for name in owner("i-1").labels().into_keys() {
            let mut labels = owner("i-1").labels();
            labels.remove(&name);
            assert_eq!(Ownership::read(&labels), None, "{name}");
            labels.insert(name.clone(), "/".to_owned());
            let read = Ownership::read(&labels);
            assert_eq!(read.is_some(), name.ends_with("-hash"), "{name}");
        }
    }

    #[test]
    fn the_host_hash_is_what_it_was_when_containers_were_made_with_it() {
        assert_eq!(
            surroundings().hash(&ports(20_000)),
            "1:8bbde175499280e55920d1d1f532df73"
        );
        let without = Surroundings {
            dns: None,
            ..surroundings()
        };
        assert_eq!(
            without.hash(&PublishedPorts::new()),
            "1:0ed4885bf682144d485f91baac88a10d"
        );
    }

    #[test]
    fn everything_that_the_host_gives_changes_the_host_hash() {
        let same = surroundings().hash(&ports(20_000));
        let changed = |change: fn(&mut Surroundings)| {
            let mut other = surroundings();
            change(&mut other);
            other.hash(&ports(20_000))
        };
        let others = [
            changed(|s| s.host_ip = IpAddr::from([10, 0, 0, 2])),
            changed(|s| s.gateway = IpAddr::from([10, 0, 0, 2])),
            changed(|s| s.dns = None),
            changed(|s| s.domain = "example.org".to_owned()),
            changed(|s| s.network = "other".to_owned()),
            surroundings().hash(&ports(20_001)),
        ];
        assert!(others.iter().all(|other| *other != same));
    }
}
