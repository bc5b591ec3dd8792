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
    /// Services of each container with a manifest, to remove it by.
    named: RedBlackTreeMapSync<ContainerId, Arc<[ServiceId]>>,
    /// Services of which each slot has an endpoint, to remove it by.
    slots: RedBlackTreeMapSync<SlotId, Arc<[ServiceId]>>,
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

/// Place of a slot in the table.
#[derive(Debug, PartialEq, Eq)]
struct Standing {
    host: HostName,
    services: Arc<[ServiceId]>,
    /// Each once, in order.
    addrs: Vec<IpAddr>,
}

impl Standing {
    /// Of the endpoints of a slot; none without one.
    fn new<'a>(
        services: Arc<[ServiceId]>,
        endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
    ) -> Option<Self> {
        let host = endpoints.clone().next()?.host.clone();
        let addrs: BTreeSet<IpAddr> = endpoints.map(|endpoint| endpoint.addr).collect();
        Some(Self {
            host,
            services,
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
        for id in &touched.containers {
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
            let at = (slot.container.container.clone(), slot.slot);
            let services = self.slots.get(slot).map(|services| services.iter());
            for service in services.into_iter().flatten() {
                let found = self.service(service);
                endpoints.extend(found.and_then(|(id, known)| Some((id, known.get(&at)?))));
            }
        }
        endpoints
    }

    /// The hosts that have instances, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.hosts.names()
    }

    fn slots_of(&self, id: &ContainerId) -> Vec<SlotId> {
        let all = id.slot(0)..=id.slot(u32::MAX);
        self.slots
            .range(all)
            .map(|(slot, _)| slot.clone())
            .collect()
    }

    /// Services that the manifest of a container names.
    fn name(&mut self, snapshot: &Snapshot, id: &ContainerId) {
        let container = snapshot.containers.get(id);
        let manifest = container.and_then(|container| container.manifest.as_ref());
        let new: Arc<[ServiceId]> = match manifest.map(|manifest| &manifest.value) {
            Some(Desired::Valid { manifest, .. }) => manifest
                .services
                .keys()
                .map(|service| of_app(id, service))
                .collect(),
            Some(Desired::Invalid(_)) | None => [].into(),
        };
        let before = self.named.get(id).cloned();
        let had = before.is_some();
        let old = before.unwrap_or_default();
        if (&new, manifest.is_some()) == (&old, had) {
            return;
        }
        self.change_app(&id.app, |app| {
            app.containers += usize::from(manifest.is_some());
            app.containers -= usize::from(had);
        });
        for service in new.iter() {
            self.change(service, |known| known.named += 1);
        }
        for service in old.iter() {
            self.change(service, |known| known.named -= 1);
        }
        if manifest.is_some() {
            self.named.insert_mut(id.clone(), new);
        } else {
            self.named.remove_mut(id);
        }
    }

    /// Puts a slot where it stands now.
    fn place(&mut self, snapshot: &Snapshot, slot: &SlotId) {
        let slot = &self.shared(slot);
        let mut new = endpoints_of(snapshot, slot);
        for (_, endpoint) in &mut new {
            endpoint.host = self.hosts.shared(&endpoint.host);
        }
        let at = (slot.container.container.clone(), slot.slot);
        let old = self.standing(slot);
        let services = self.shared_services(slot, new.iter().map(|(service, _)| service));
        let stands = Standing::new(services, new.iter().map(|(_, endpoint)| endpoint));
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
        let services = stands.iter().flat_map(|stands| stands.services.iter());
        let services: Vec<&ServiceId> = services.collect();
        if let Some(old) = &old {
            for service in old.services.iter().filter(|old| !services.contains(old)) {
                self.change(service, |known| {
                    known.endpoints.remove_mut(&at);
                });
            }
            self.hosts.remove(slot, &old.host, &old.addrs);
        }
        match stands {
            Some(stands) => {
                self.hosts.insert(slot, &stands.host, &stands.addrs);
                self.slots.insert_mut(slot.clone(), stands.services);
            }
            None => {
                self.slots.remove_mut(slot);
            }
        }
    }

    /// Where a slot stands until now.
    fn standing(&self, slot: &SlotId) -> Option<Standing> {
        let at = (slot.container.container.clone(), slot.slot);
        let services = self.slots.get(slot)?;
        let endpoints = services
            .iter()
            .filter_map(|service| self.endpoints(service)?.get(&at));
        Standing::new(Arc::clone(services), endpoints)
    }

    /// The slot with the names that the table has already: each is in memory once, and not once for each slot.
    fn shared(&self, slot: &SlotId) -> SlotId {
        let known = self.named.get_key_value(&slot.container);
        let container = known.map_or(&slot.container, |(container, _)| container);
        container.slot(slot.slot)
    }

    /// Services of a slot: mostly those that the manifest names.
    fn shared_services<'a>(
        &self,
        slot: &SlotId,
        services: impl Iterator<Item = &'a ServiceId> + Clone,
    ) -> Arc<[ServiceId]> {
        match self.named.get(&slot.container) {
            Some(named) if services.clone().eq(named.iter()) => Arc::clone(named),
            _ => services.cloned().collect(),
        }
    }

    /// Changes a service; one that nobody offers any more is gone.
    fn change(&mut self, service: &ServiceId, change: impl FnOnce(&mut Known)) {
        let ServiceId { app, service: name } = service;
        let mut services = self.apps.get(app).cloned().unwrap_or_default().services;
        let mut apps = self.by_name.get(name).cloned().unwrap_or_default();
        let mut known = services.get(service).cloned().unwrap_or_default();
        change(&mut known);
        self.shortcuts.set(service, &known.endpoints);
        if known.named == 0 && known.endpoints.is_empty() {
            services.remove_mut(service);
            apps.remove_mut(app);
        } else {
            if !services.contains_key(service) {
                apps.insert_mut(app.clone());
            }
            services.insert_mut(service.clone(), known);
        }
        self.change_app(app, |app| app.services = services);
        if apps.is_empty() {
            self.by_name.remove_mut(name);
        } else {
            self.by_name.insert_mut(name.clone(), apps);
        }
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
