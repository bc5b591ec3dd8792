//! The table of services and their endpoints; DNS and ambassador read it.
//!
//! Computed from claims and states of live hosts and from nothing else.
//! Immutable to readers: a change makes a new root that shares the rest, and
//! costs the services it touches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use manifests::manifest::Protocol;
use manifests::{AppName, ContainerId, ContainerName, HostName, InstanceId, ServiceName, SlotId};
use rpds::RedBlackTreeMapSync;

use crate::records::Phase;
use crate::snapshot::{Desired, Snapshot, Touched};

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

/// An instance of this host that may use links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its slot.
    pub slot: SlotId,
    /// What each port at the ambassador means to it.
    pub links: Vec<(u16, ServiceId)>,
}

/// The instances of this host, by their address on the bridge.
pub type Callers = BTreeMap<IpAddr, Caller>;

/// All endpoints of one service, by container and slot.
pub type Endpoints = BTreeMap<(ContainerName, u32), Endpoint>;

/// The table.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The revision of the snapshot that it was made from.
    pub revision: i64,
    services: RedBlackTreeMapSync<ServiceId, Arc<Endpoints>>,
    /// Which containers offer a service, with an endpoint or (not yet) without.
    offered_by: RedBlackTreeMapSync<ServiceId, Arc<BTreeSet<ContainerName>>>,
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

    /// All endpoints of a service, ready or not; empty if it is offered and no instance runs yet, none if nobody offers it.
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
            let mut offered_by = self
                .offered_by
                .get(&service)
                .map(|o| o.as_ref().clone())
                .unwrap_or_default();
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
                offered_by.insert(id.container.clone());
            } else {
                offered_by.remove(&id.container);
            }
            if offered_by.is_empty() {
                self.services.remove_mut(&service);
                self.offered_by.remove_mut(&service);
            } else {
                self.services.insert_mut(service.clone(), Arc::new(all));
                self.offered_by.insert_mut(service, Arc::new(offered_by));
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
    if let Some(Desired::Valid { manifest, .. }) = container.manifest.as_ref().map(|m| &m.value) {
        for service in manifest.services.keys() {
            found.insert(
                ServiceId {
                    app: id.app.clone(),
                    service: service.clone(),
                },
                Vec::new(),
            );
        }
    }
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "names in tests are legal")]

    use super::*;
    use crate::snapshot::Change;

    fn put(snapshot: &mut Snapshot, key: &str, value: &str) -> Touched {
        let revision = snapshot.revision + 1;
        let change = Change::Put {
            key: key.to_owned(),
            value: value.as_bytes().to_vec(),
            modified: revision,
            created: revision,
        };
        snapshot.apply([change], revision)
    }

    fn delete(snapshot: &mut Snapshot, key: &str) -> Touched {
        let modified = snapshot.revision + 1;
        let key = key.to_owned();
        snapshot.apply([Change::Delete { key, modified }], modified)
    }

    fn service() -> ServiceId {
        ServiceId {
            app: "shop".parse().unwrap(),
            service: "web".parse().unwrap(),
        }
    }

    const RECORD: &str = r#"{"id":"00000000-0000-0000-0000-000000000001","session":"00000000-0000-0000-0000-000000000001",
        "epoch":0,"state":"up","addr":"10.0.0.1","versions":{"agent":"","placement":[1]}}"#;

    #[test]
    fn follows_claims_and_states_of_live_hosts_and_nothing_else() {
        let mut snapshot = Snapshot::default();
        let mut directory = Directory::default();
        let mut step = |snapshot: &Snapshot, touched: Touched| {
            directory.update(snapshot, &touched);
            let whole = Directory::new(snapshot);
            assert_eq!(
                directory.services().collect::<Vec<_>>(),
                whole.services().collect::<Vec<_>>(),
                "followed step by step and made anew are the same"
            );
            let serving: Vec<u16> = directory
                .serving(&service())
                .iter()
                .map(|e| e.port)
                .collect();
            (directory.endpoints(&service()).map(|e| e.len()), serving)
        };
        let touched = put(&mut snapshot, "/hosts/h1/record", RECORD);
        assert_eq!(step(&snapshot, touched), (None, vec![]));
        // Offered, and nothing runs yet.
        let manifest = r#"{"image": "web", "services": {"web": 80}}"#;
        let touched = put(&mut snapshot, "/apps/shop/web/manifest", manifest);
        assert_eq!(step(&snapshot, touched), (Some(0), vec![]));
        let claim = r#"{"host":"h1","instance":"i1","manifest_rev":2}"#;
        let touched = put(&mut snapshot, "/claims/shop/web/slots/0", claim);
        assert_eq!(step(&snapshot, touched), (Some(0), vec![]));
        // A state of another instance does not count.
        let state = |instance: &str, state: &str| {
            format!(
                r#"{{"instance":"{instance}","state":"{state}","addr":"10.0.0.1","ports":{{"web":20000}}}}"#
            )
        };
        let touched = put(
            &mut snapshot,
            "/claims/shop/web/slots/0.state",
            &state("i0", "ready"),
        );
        assert_eq!(step(&snapshot, touched), (Some(0), vec![]));
        let touched = put(
            &mut snapshot,
            "/claims/shop/web/slots/0.state",
            &state("i1", "ready"),
        );
        assert_eq!(step(&snapshot, touched), (Some(1), vec![20_000]));
        // Where no endpoint of a live host is left, that of the missing one stays.
        let touched = delete(&mut snapshot, "/hosts/h1/record");
        assert_eq!(step(&snapshot, touched), (Some(1), vec![20_000]));
        let touched = put(&mut snapshot, "/hosts/h1/record", RECORD);
        assert_eq!(step(&snapshot, touched), (Some(1), vec![20_000]));
        let touched = put(
            &mut snapshot,
            "/claims/shop/web/slots/0.state",
            &state("i1", "leaving"),
        );
        assert_eq!(step(&snapshot, touched), (Some(1), vec![]));
        let touched = delete(&mut snapshot, "/claims/shop/web/slots/0");
        assert_eq!(step(&snapshot, touched), (Some(0), vec![]));
        let touched = delete(&mut snapshot, "/apps/shop/web/manifest");
        assert_eq!(step(&snapshot, touched), (None, vec![]));
    }
}
