//! The table of services and their endpoints; DNS and ambassador read it.
//!
//! Computed from claims and states of live hosts and from nothing else.
//! Immutable to readers: a change makes a new root that shares the rest, and
//! costs the services it touches.

mod hosts;
mod shortcuts;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use manifests::manifest::{Protocol, Service};
use manifests::{AppName, ContainerId, ContainerName, HostName, ServiceName, SlotId};
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};

use crate::records::Phase;
use crate::snapshot::{Desired, Snapshot, Touched};
use hosts::Hosts;
use shortcuts::Shortcuts;

pub use shortcuts::Addresses;

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
    /// Container that offers it.
    pub container: ContainerName,
    /// Its slot.
    pub slot: u32,
    /// Its host.
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

/// An instance of this host that may use links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its slot.
    pub slot: SlotId,
    /// Service behind each of its ports at the ambassador.
    pub links: Vec<(u16, ServiceId)>,
}

/// The instances of this host, by their address on the bridge.
pub type Callers = BTreeMap<IpAddr, Caller>;

/// An address that the engine has given to two containers, and whose they are.
pub type SharedAddresses = BTreeMap<IpAddr, (SlotId, SlotId)>;

/// The table of callers, and the addresses that two of them have: whose link it is can't be told there, so neither has
/// any.
pub fn callers(running: impl IntoIterator<Item = (IpAddr, Caller)>) -> (Callers, SharedAddresses) {
    let (mut callers, mut shared) = (Callers::new(), SharedAddresses::new());
    for (addr, mut caller) in running {
        if let Some(other) = callers.get(&addr) {
            shared.insert(addr, (other.slot.clone(), caller.slot.clone()));
            caller.links.clear();
        }
        callers.insert(addr, caller);
    }
    (callers, shared)
}

/// All endpoints of one service, by container and slot.
pub type Endpoints = RedBlackTreeMapSync<(ContainerName, u32), Endpoint>;

/// The table.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The revision of the snapshot that it was made from.
    pub revision: i64,
    apps: RedBlackTreeMapSync<AppName, App>,
    /// The apps that have a service of a name.
    by_name: RedBlackTreeMapSync<ServiceName, RedBlackTreeSetSync<AppName>>,
    containers: RedBlackTreeMapSync<ContainerId, Container>,
    hosts: Hosts,
    shortcuts: Shortcuts,
}

/// The services of one app.
type Services = RedBlackTreeMapSync<ServiceId, Known>;

/// Entry of an app.
#[derive(Debug, Clone, Default)]
struct App {
    /// So many of its containers have a manifest.
    containers: usize,
    services: Services,
}

/// Entry of a service.
#[derive(Debug, Clone, Default)]
struct Known {
    /// By the manifests of so many containers, whether anything of them runs or not.
    named: usize,
    endpoints: Endpoints,
}

/// Entry of a container, to remove it and its slots by.
#[derive(Debug, Clone, Default)]
struct Container {
    /// Services that its manifest names; none without a manifest.
    named: Option<Arc<[ServiceId]>>,
    /// Services that its slots offer, in order. All slots mostly offer the same ones: which of them a slot does is told from
    /// the endpoints, and not noted for each.
    offered: Arc<[Offered]>,
}

/// A service, and how many slots of a container have an endpoint of it.
#[derive(Debug, Clone)]
struct Offered {
    service: ServiceId,
    slots: usize,
}

impl Container {
    /// A slot that offered some services offers others.
    fn offer(&mut self, had: &[ServiceId], has: &[ServiceId]) {
        let offered = self.offered.iter();
        let mut slots: BTreeMap<ServiceId, usize> = offered
            .map(|one| (one.service.clone(), one.slots))
            .collect();
        for service in has {
            *slots.entry(service.clone()).or_default() += 1;
        }
        for service in had {
            if let Some(slots) = slots.get_mut(service) {
                *slots -= 1;
            }
        }
        let left = slots.into_iter().filter(|(_, slots)| *slots > 0);
        self.offered = left
            .map(|(service, slots)| Offered { service, slots })
            .collect();
    }
}

/// Place of a slot in the table.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    host: HostName,
    /// In order.
    services: Vec<ServiceId>,
    /// Each once, in order.
    addrs: Vec<IpAddr>,
}

impl Standing {
    /// Of the endpoints of a slot, by service; none without one.
    fn new<'a>(
        endpoints: impl Iterator<Item = (&'a ServiceId, &'a Endpoint)> + Clone,
    ) -> Option<Self> {
        let (_, first) = endpoints.clone().next()?;
        let addrs: BTreeSet<IpAddr> = endpoints.clone().map(|(_, one)| one.addr).collect();
        Some(Self {
            host: first.host.clone(),
            services: endpoints.map(|(service, _)| service.clone()).collect(),
            addrs: addrs.into_iter().collect(),
        })
    }
}

impl Directory {
    /// Made anew from a whole snapshot.
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut directory = Self::default();
        for (id, container) in &snapshot.containers {
            directory.name(snapshot, id);
            for number in container.slots.keys() {
                directory.place(snapshot, &id.slot(*number));
            }
        }
        directory.revision = snapshot.revision;
        directory
    }

    /// Follows a snapshot in what was touched.
    pub fn update(&mut self, snapshot: &Snapshot, touched: &Touched) {
        for id in &touched.manifests {
            self.name(snapshot, id);
        }
        for slot in &touched.slots {
            self.place(snapshot, slot);
        }
        // A version says which transport a port has.
        for id in &touched.versions {
            for slot in self.slots_of(id) {
                self.place(snapshot, &slot);
            }
        }
        // Whether a host is live decides over its endpoints.
        for host in &touched.hosts {
            for slot in &self.hosts.slots_of(host) {
                self.place(snapshot, slot);
            }
        }
        self.revision = snapshot.revision;
    }

    /// All endpoints of a service, ready or not; empty if it is offered and no instance runs yet, none if nobody offers it.
    pub fn endpoints(&self, service: &ServiceId) -> Option<&Endpoints> {
        self.service(service).map(|(_, endpoints)| endpoints)
    }

    /// The endpoints of a service that new connections may go to.
    pub fn serving(&self, service: &ServiceId) -> Vec<&Endpoint> {
        self.endpoints(service).map(serving).unwrap_or_default()
    }

    /// The addresses of a service that new connections may go to, in the order of its endpoints, by its name in a
    /// question for it: the labels of service and app in lower case, each behind its length. None where there is none,
    /// more than a few, or both families.
    pub fn addresses(&self, labels: &[u8]) -> Option<Addresses<'_>> {
        self.shortcuts.get(labels)
    }

    /// Every service, by name.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceId, &Endpoints)> {
        self.apps.values().flat_map(|app| listed(&app.services))
    }

    /// A service with all its endpoints.
    pub fn service(&self, id: &ServiceId) -> Option<(&ServiceId, &Endpoints)> {
        let (id, known) = self.apps.get(&id.app)?.services.get_key_value(id)?;
        Some((id, &known.endpoints))
    }

    /// Every service of an app, by name.
    pub fn services_of<'a>(
        &'a self,
        app: &AppName,
    ) -> impl Iterator<Item = (&'a ServiceId, &'a Endpoints)> + use<'a> {
        let app = self.apps.get(app).into_iter();
        app.flat_map(|app| listed(&app.services))
    }

    /// The app has a container, be it one without a service.
    pub fn has_app(&self, app: &AppName) -> bool {
        self.apps.contains_key(app)
    }

    /// The services of that name, by app.
    pub fn services_named<'a>(
        &'a self,
        service: &ServiceName,
    ) -> impl Iterator<Item = (&'a ServiceId, &'a Endpoints)> + use<'a> {
        let apps = self.by_name.get(service).into_iter().flatten();
        let service = service.clone();
        apps.filter_map(move |app| {
            self.service(&ServiceId {
                app: app.clone(),
                service: service.clone(),
            })
        })
    }

    /// The hosts at whose address an instance is published, by name.
    pub fn hosts_at(&self, addr: IpAddr) -> impl Iterator<Item = &HostName> {
        self.hosts.at(addr)
    }

    /// The addresses of a host at which its instances are published; none if it has no instance.
    pub fn addresses_of(&self, host: &HostName) -> impl Iterator<Item = IpAddr> {
        self.hosts.addresses_of(host)
    }

    /// The endpoints on a host, by slot.
    pub fn endpoints_on(&self, host: &HostName) -> Vec<(&ServiceId, &Endpoint)> {
        let mut endpoints = Vec::new();
        for slot in &self.hosts.slots_of(host) {
            endpoints.extend(self.of_slot(slot));
        }
        endpoints
    }

    /// The hosts that have instances, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.names()
    }

    /// The slots of a container that have endpoints.
    fn slots_of(&self, id: &ContainerId) -> Vec<SlotId> {
        let all = (id.container.clone(), 0)..=(id.container.clone(), u32::MAX);
        let known = self.offered(id).iter();
        let known = known.filter_map(|offered| self.endpoints(&offered.service));
        let slots = known.flat_map(|known| known.range(all.clone()));
        let slots: BTreeSet<u32> = slots.map(|((_, slot), _)| *slot).collect();
        slots.into_iter().map(|slot| id.slot(slot)).collect()
    }

    /// The endpoints of a slot, by service.
    fn of_slot(&self, slot: &SlotId) -> Vec<(&ServiceId, &Endpoint)> {
        let at = (slot.container.container.clone(), slot.slot);
        let known = self.offered(&slot.container).iter();
        let known = known.filter_map(|offered| self.service(&offered.service));
        known
            .filter_map(|(id, known)| Some((id, known.get(&at)?)))
            .collect()
    }

    fn offered(&self, id: &ContainerId) -> &[Offered] {
        let container = self.containers.get(id);
        container.map_or(&[], |container| &container.offered)
    }

    /// Services that the manifest of a container names.
    fn name(&mut self, snapshot: &Snapshot, id: &ContainerId) {
        let container = snapshot.containers.get(id);
        let manifest = container.and_then(|container| container.manifest.as_ref());
        let new = manifest.map(|manifest| match &manifest.value {
            Desired::Valid { manifest, .. } => {
                let services = manifest.services.keys();
                services.map(|service| of_app(id, service)).collect()
            }
            Desired::Invalid(_) => Arc::default(),
        });
        let old = self
            .containers
            .get(id)
            .and_then(|known| known.named.clone());
        if new == old {
            return;
        }
        self.change_app(&id.app, |app| {
            app.containers += usize::from(new.is_some());
            app.containers -= usize::from(old.is_some());
        });
        for service in new.iter().flat_map(|new| new.iter()) {
            self.change(service, |known| known.named += 1);
        }
        for service in old.iter().flat_map(|old| old.iter()) {
            self.change(service, |known| known.named -= 1);
        }
        self.change_container(id, |container| container.named = new);
    }

    /// Puts a slot where it stands now.
    fn place(&mut self, snapshot: &Snapshot, slot: &SlotId) {
        let slot = &self.shared(slot);
        let mut new = endpoints_of(snapshot, slot);
        for (service, endpoint) in &mut new {
            if let Some((known, _)) = self.service(service) {
                *service = known.clone();
            }
            endpoint.host = self.hosts.shared(&endpoint.host);
        }
        let at = (slot.container.container.clone(), slot.slot);
        let old = Standing::new(self.of_slot(slot).into_iter());
        let stands = Standing::new(new.iter().map(|(service, endpoint)| (service, endpoint)));
        for (service, endpoint) in new {
            let known = self.endpoints(&service).and_then(|known| known.get(&at));
            if known != Some(&endpoint) {
                self.change(&service, |known| {
                    known.endpoints.insert_mut(at.clone(), endpoint);
                });
            }
        }
        if old == stands {
            return;
        }
        let services = |stands: &Option<Standing>| match stands {
            Some(stands) => stands.services.clone(),
            None => Vec::new(),
        };
        let (had, has) = (services(&old), services(&stands));
        for service in had.iter().filter(|service| !has.contains(service)) {
            self.change(service, |known| {
                known.endpoints.remove_mut(&at);
            });
        }
        if had != has {
            self.change_container(&slot.container, |container| container.offer(&had, &has));
        }
        if let Some(old) = &old {
            self.hosts.remove(slot, &old.host, &old.addrs);
        }
        if let Some(stands) = &stands {
            self.hosts.insert(slot, &stands.host, &stands.addrs);
        }
    }

    /// The slot with the names that the table has already: each is in memory once, and not once for each slot.
    fn shared(&self, slot: &SlotId) -> SlotId {
        let known = self.containers.get_key_value(&slot.container);
        let container = known.map_or(&slot.container, |(container, _)| container);
        container.slot(slot.slot)
    }

    /// Changes a service; one that nobody offers any more is gone.
    fn change(&mut self, service: &ServiceId, change: impl FnOnce(&mut Known)) {
        let ServiceId { app, service: name } = service;
        // Mostly it stays: what is not shared with a reader is changed where it is.
        if let Some(of_app) = self.apps.get_mut(app)
            && let Some(known) = of_app.services.get_mut(service)
        {
            change(known);
            self.shortcuts.set(service, &known.endpoints);
            if known.named > 0 || !known.endpoints.is_empty() {
                return;
            }
            of_app.services.remove_mut(service);
            self.change_app(app, |_| {});
            let mut apps = self.by_name.get(name).cloned().unwrap_or_default();
            apps.remove_mut(app);
            if apps.is_empty() {
                self.by_name.remove_mut(name);
            } else {
                self.by_name.insert_mut(name.clone(), apps);
            }
            return;
        }
        let mut known = Known::default();
        change(&mut known);
        if known.named == 0 && known.endpoints.is_empty() {
            return;
        }
        self.shortcuts.set(service, &known.endpoints);
        self.change_app(app, |app| {
            app.services.insert_mut(service.clone(), known);
        });
        let mut apps = self.by_name.get(name).cloned().unwrap_or_default();
        apps.insert_mut(app.clone());
        self.by_name.insert_mut(name.clone(), apps);
    }

    /// Changes an app; one with nothing is gone.
    fn change_app(&mut self, name: &AppName, change: impl FnOnce(&mut App)) {
        let mut app = self.apps.get(name).cloned().unwrap_or_default();
        change(&mut app);
        if app.containers == 0 && app.services.is_empty() {
            self.apps.remove_mut(name);
        } else {
            self.apps.insert_mut(name.clone(), app);
        }
    }

    /// Changes a container; one without a manifest whose slots offer nothing is gone.
    fn change_container(&mut self, id: &ContainerId, change: impl FnOnce(&mut Container)) {
        let mut container = self.containers.get(id).cloned().unwrap_or_default();
        change(&mut container);
        if container.named.is_none() && container.offered.is_empty() {
            self.containers.remove_mut(id);
        } else {
            self.containers.insert_mut(id.clone(), container);
        }
    }
}

/// The endpoints that new connections may go to: ready ones on live hosts; where none of those is left, the ready ones
/// of missing hosts.
pub fn serving(endpoints: &Endpoints) -> Vec<&Endpoint> {
    let ready = || endpoints.values().filter(|e| e.is_ready());
    let live: Vec<&Endpoint> = ready().filter(|e| e.live).collect();
    if live.is_empty() {
        ready().collect()
    } else {
        live
    }
}

fn listed(services: &Services) -> impl Iterator<Item = (&ServiceId, &Endpoints)> {
    services.iter().map(|(id, known)| (id, &known.endpoints))
}

fn of_app(id: &ContainerId, service: &ServiceName) -> ServiceId {
    ServiceId {
        app: id.app.clone(),
        service: service.clone(),
    }
}

/// The endpoints of a slot: all on one host.
fn endpoints_of(snapshot: &Snapshot, slot: &SlotId) -> Vec<(ServiceId, Endpoint)> {
    let id = &slot.container;
    let Some(container) = snapshot.containers.get(id) else {
        return Vec::new();
    };
    let Some(view) = container.slots.get(&slot.slot) else {
        return Vec::new();
    };
    let (Some(claim), Some(state)) = (&view.claim, view.current_state()) else {
        return Vec::new();
    };
    let version = container.versions.get(&claim.version);
    let services = version
        .and_then(|version| version.manifest.as_ref())
        .map(|manifest| &manifest.services);
    let live = snapshot.is_live(&claim.host);
    let endpoint = |(service, port): (&ServiceName, &u16)| {
        let named = services.and_then(|services| services.get(service));
        let bound = named.and_then(|service| service.bind);
        if bound.is_some_and(|at| at.is_loopback()) {
            // Nobody else gets there.
            return None;
        }
        let endpoint = Endpoint {
            container: id.container.clone(),
            slot: slot.slot,
            host: claim.host.clone(),
            addr: reached_at(named, state.addr),
            port: *port,
            protocol: named.map_or(Protocol::Tcp, |service| service.protocol),
            phase: state.state,
            live,
        };
        Some((of_app(id, service), endpoint))
    };
    state.ports.iter().filter_map(endpoint).collect()
}

/// The address at which an instance's service is reached on a host that has this one: where it is bound, unless that is
/// every address.
pub fn reached_at(service: Option<&Service>, host: IpAddr) -> IpAddr {
    let bound = service.and_then(|service| service.bind);
    bound.filter(|at| !at.is_unspecified()).unwrap_or(host)
}

#[cfg(test)]
mod tests;
