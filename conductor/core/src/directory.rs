//! The table of services and their endpoints; DNS and ambassador read it.
//!
//! Computed from claims and states of live hosts and from nothing else.
//! Immutable to readers: a change makes a new root that shares the rest, and
//! costs the services it touches.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use manifests::manifest::Protocol;
use manifests::{AppName, ContainerId, ContainerName, HostName, InstanceId, ServiceName};
use rpds::RedBlackTreeMapSync;

use crate::records::Phase;
use crate::snapshot::{Snapshot, Touched};

/// A service: its app and its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId {
    /// The app.
    pub app: AppName,
    /// The service.
    pub service: ServiceName,
}

impl std::fmt::Display for ServiceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.app, self.service)
    }
}

/// One instance's port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Which container offers it.
    pub container: ContainerName,
    /// Which slot.
    pub slot: u32,
    /// Which instance.
    pub instance: InstanceId,
    /// Where it runs.
    pub host: HostName,
    /// The host's address for it.
    pub addr: IpAddr,
    /// The published port on that address.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Only `Ready` ones take new connections.
    pub phase: Phase,
    /// Its host is live.
    pub live: bool,
}

impl Endpoint {
    /// New connections may go there.
    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }
}

/// All endpoints of one service, by container and slot.
pub type Endpoints = BTreeMap<(ContainerName, u32), Endpoint>;

/// The table.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The revision of the snapshot that it was made from.
    pub revision: i64,
    services: RedBlackTreeMapSync<ServiceId, Arc<Endpoints>>,
    /// Which services a container stands in, to take it out again.
    by_container: RedBlackTreeMapSync<ContainerId, Arc<Vec<ServiceId>>>,
}

impl Directory {
    /// Made anew from a whole snapshot.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut directory = Self::default();
        for id in snapshot.containers.keys() {
            directory.refresh(snapshot, id);
        }
        directory.revision = snapshot.revision;
        directory
    }

    /// Follows a snapshot in what was touched.
    pub fn update(&mut self, snapshot: &Snapshot, touched: &Touched) {
        for id in &touched.containers {
            self.refresh(snapshot, id);
        }
        if !touched.hosts.is_empty() {
            // Whether a host is live decides over its endpoints.
            let there: Vec<ContainerId> = snapshot
                .containers
                .iter()
                .filter(|(id, c)| {
                    !touched.containers.contains(id)
                        && c.slots.values().any(|s| {
                            s.claim
                                .as_ref()
                                .is_some_and(|claim| touched.hosts.contains(&claim.host))
                        })
                })
                .map(|(id, _)| id.clone())
                .collect();
            for id in &there {
                self.refresh(snapshot, id);
            }
        }
        self.revision = snapshot.revision;
    }

    /// All endpoints of a service, ready or not; none if nobody offers it.
    pub fn endpoints(&self, service: &ServiceId) -> Option<&Arc<Endpoints>> {
        self.services.get(service)
    }

    /// The endpoints that new connections may go to: ready ones on live hosts; where none of those is left, the ready
    /// ones of missing hosts.
    pub fn serving(&self, service: &ServiceId) -> Vec<&Endpoint> {
        let Some(endpoints) = self.services.get(service) else {
            return Vec::new();
        };
        let ready = || endpoints.values().filter(|e| e.is_ready());
        let live: Vec<&Endpoint> = ready().filter(|e| e.live).collect();
        if live.is_empty() {
            ready().collect()
        } else {
            live
        }
    }

    /// Every service, by name.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceId, &Arc<Endpoints>)> {
        self.services.iter()
    }

    fn refresh(&mut self, snapshot: &Snapshot, id: &ContainerId) {
        let new = endpoints_of(snapshot, id);
        let mut named: Vec<ServiceId> = new.keys().cloned().collect();
        if let Some(old) = self.by_container.get(id) {
            for service in old.iter().filter(|s| !new.contains_key(s)) {
                named.push(service.clone());
            }
        }
        for service in named {
            let mut all = self
                .services
                .get(&service)
                .map(|e| e.as_ref().clone())
                .unwrap_or_default();
            all.retain(|(container, _), _| *container != id.container);
            if let Some(ours) = new.get(&service) {
                all.extend(
                    ours.iter()
                        .map(|e| ((e.container.clone(), e.slot), e.clone())),
                );
            }
            if all.is_empty() {
                self.services.remove_mut(&service);
            } else {
                self.services.insert_mut(service, Arc::new(all));
            }
        }
        if new.is_empty() {
            self.by_container.remove_mut(id);
        } else {
            self.by_container
                .insert_mut(id.clone(), Arc::new(new.into_keys().collect()));
        }
    }
}

fn endpoints_of(snapshot: &Snapshot, id: &ContainerId) -> BTreeMap<ServiceId, Vec<Endpoint>> {
    let mut found: BTreeMap<ServiceId, Vec<Endpoint>> = BTreeMap::new();
    let Some(container) = snapshot.containers.get(id) else {
        return found;
    };
    for (number, slot) in &container.slots {
        let (Some(claim), Some(state)) = (&slot.claim, slot.current_state()) else {
            continue;
        };
        let protocols = container
            .versions
            .get(&claim.manifest_rev)
            .and_then(|v| v.manifest.as_ref())
            .map(|m| &m.services);
        for (service, port) in &state.ports {
            let protocol = protocols
                .and_then(|services| services.get(service))
                .map_or(Protocol::Tcp, |s| s.protocol);
            found
                .entry(ServiceId {
                    app: id.app.clone(),
                    service: service.clone(),
                })
                .or_default()
                .push(Endpoint {
                    container: id.container.clone(),
                    slot: *number,
                    instance: claim.instance.clone(),
                    host: claim.host.clone(),
                    addr: state.addr,
                    port: *port,
                    protocol,
                    phase: state.state,
                    live: snapshot.is_live(&claim.host),
                });
        }
    }
    found
}
