//! The services that are asked for: as names, and as the directory of an agent.

use std::net::IpAddr;

use manifests::keys::Key;
use manifests::{ContainerId, HostName, ServiceName};
use model::records::{Claim, Phase, SlotState};
use model::snapshot::Change;
use model::{Directory, Snapshot, VersionId};
use uuid::Uuid;

use crate::agents::{IMAGE, host_name, record};
use crate::size::{address, instance};

pub(super) const DOMAIN: &str = "skydns.local";
/// Services of an app.
const OF_APP: usize = 100;
const HOSTS: u16 = 20;
pub(super) const PORT: u16 = 20_000;

/// The name of a service, below the domain.
pub(super) fn name(service: usize) -> String {
    format!("s{}.a{}", service % OF_APP, service / OF_APP)
}

/// The first instance's address.
pub(super) fn first_address(service: usize) -> IpAddr {
    address(host(service))
}

fn host(number: usize) -> u16 {
    1 + number as u16 % HOSTS
}

/// Services, each with the same number of ready instances.
pub(super) struct Services {
    pub(super) directory: Directory,
    /// Nothing but the hosts.
    hosts: Snapshot,
    instances: u32,
}

impl Services {
    pub(super) fn new(services: usize, instances: u32) -> anyhow::Result<Self> {
        let mut hosts = Snapshot::default();
        for number in 1..=HOSTS {
            let record = record(Uuid::nil(), address(number));
            let key = Key::HostRecord(host_name(number)?);
            hosts.apply([put(key, serde_json::to_vec(&record)?, 1)], 1);
        }
        let mut all = Self {
            directory: Directory::default(),
            hosts,
            instances,
        };
        for service in 0..services {
            all.place(service, 0)?;
        }
        Ok(all)
    }

    /// Each instance of a service is on the host that comes so many behind its first one.
    pub(super) fn place(&mut self, service: usize, moved: usize) -> anyhow::Result<()> {
        let revision = self.directory.revision + 1;
        let (named, app) = (format!("s{}", service % OF_APP), service / OF_APP);
        let id: ContainerId = format!("a{app}/{named}").parse()?;
        let named: ServiceName = named.parse()?;
        let manifest = serde_json::json!({"image": IMAGE, "services": {named.as_str(): 80}});
        let manifest = manifest.to_string().into_bytes();
        let mut changes = vec![put(Key::Manifest(id.clone()), manifest, revision)];
        for number in 0..self.instances {
            let (slot, host) = (id.slot(number), host(service + number as usize + moved));
            let name: HostName = host_name(host)?;
            let claim = Claim {
                host: name,
                instance: instance(&slot)?,
                version: VersionId(1),
            };
            let state = SlotState {
                instance: instance(&slot)?,
                state: Phase::Ready,
                addr: address(host),
                ports: [(named.clone(), PORT)].into(),
            };
            let claimed = serde_json::to_vec(&claim)?;
            changes.push(put(Key::Claim(slot.clone()), claimed, revision));
            changes.push(put(Key::State(slot), serde_json::to_vec(&state)?, revision));
        }
        // A directory takes of a snapshot what was touched and no more: that of one service will do, and only the
        // directory stays in memory.
        let mut snapshot = self.hosts.clone();
        let touched = snapshot.apply(changes, revision);
        self.directory.update(&snapshot, &touched);
        Ok(())
    }
}

fn put(key: Key, value: Vec<u8>, revision: i64) -> Change {
    Change::Put {
        key: key.to_string(),
        value,
        modified: revision,
        created: revision,
    }
}
