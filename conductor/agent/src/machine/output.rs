//! What follows from what is observed: probes of running instances, last lines of ended ones, who may use which link,
//! events, and what the host's record says of the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use manifests::{InstanceId, Manifest, SlotId, env};
use model::Snapshot;
use model::directory::{self, Caller, Callers, ServiceId, SharedAddresses};
use model::observed::{ContainerState, EngineState, Observed, ObservedContainer, Readiness};

use planner::Waiting;

use super::Agent;
use crate::effect::{AgentLog, Counted, Effect, Probe, Table};
use crate::events;

/// What was said last, so that only what is new is said.
#[derive(Debug, Default)]
pub(super) struct Output {
    observed: Arc<Observed>,
    callers: Arc<Callers>,
    awaited: BTreeSet<u16>,
    /// Addresses that two containers have.
    shared: SharedAddresses,
    copies: Vec<String>,
    probes: BTreeMap<InstanceId, Probe>,
    /// Instances whose connections are counted.
    counted: BTreeMap<InstanceId, Counted>,
    /// Ends, and starts after which an instance was not ready in time, whose last lines were asked for.
    ended: BTreeSet<(InstanceId, i64)>,
    report: Option<(u32, bool)>,
    pub(super) waiting: BTreeMap<SlotId, Waiting>,
    pub(super) last_line: String,
    /// The last write of a file failed.
    pub(super) notes_fail: bool,
    pub(super) orphans_fail: bool,
}

impl Output {
    /// The connections of this start of an instance are being counted.
    pub(super) fn counts(&self, instance: &InstanceId, started_at: i64) -> bool {
        let counted = self.counted.get(instance);
        counted.is_some_and(|counted| counted.process.started_at == started_at)
    }
}

impl Agent {
    /// What is observed, but that nothing is ready whose link another process would answer.
    pub(super) fn observed_now(&self) -> Arc<Observed> {
        let observed = self.cache.shared();
        if self.held_links.is_empty() {
            return observed;
        }
        without_held_links(&observed, &self.held_links, &self.output.callers)
    }

    /// Says what follows from what is observed.
    pub(super) fn derive(&mut self, observed: Arc<Observed>) {
        self.follow_ends(&observed);
        let is_known = Arc::ptr_eq(&self.output.observed, &observed);
        if !std::mem::take(&mut self.etcd.changed) && is_known {
            return;
        }
        self.follow_probes(&observed);
        self.publish_awaited(&observed);
        self.publish_callers(&observed);
        self.report(&observed);
        self.publish_observed(observed);
    }

    /// What the host's record says of its engine.
    pub(super) fn report(&mut self, observed: &Observed) {
        let report = (observed.foreign, observed.engine == EngineState::Up);
        if self.output.report.replace(report) != Some(report) {
            let (foreign, engine) = report;
            self.effect(Effect::Report { foreign, engine });
        }
    }

    fn follow_ends(&mut self, observed: &Observed) {
        for (instance, container) in observed.containers.iter().chain(&observed.jobs) {
            let ContainerState::Exited(exit) = &container.state else {
                continue;
            };
            let memory = self.memory.instances.get(instance);
            let counted = memory.is_some_and(|memory| memory.ends > 0);
            if counted && self.output.ended.insert((instance.clone(), exit.at)) {
                self.counts.restarts += u64::from(container.owner.before.is_none());
                self.effect(Effect::ReadLastLines {
                    instance: instance.clone(),
                    docker_id: container.docker_id.clone(),
                });
            }
        }
        let ended = &mut self.output.ended;
        ended.retain(|(instance, _)| {
            observed.containers.contains_key(instance) || observed.jobs.contains_key(instance)
        });
    }

    /// Asks for the last lines of what was not ready in time: they may say why.
    pub(super) fn follow_late(&mut self, late: &BTreeSet<InstanceId>, observed: &Observed) {
        for instance in late {
            let container = observed.containers.get(instance);
            let Some((container, process)) = container.and_then(|c| Some((c, c.running()?))) else {
                continue;
            };
            let start = (instance.clone(), process.started_at);
            if self.output.ended.insert(start) {
                self.effect(Effect::ReadLastLines {
                    instance: instance.clone(),
                    docker_id: container.docker_id.clone(),
                });
            }
        }
    }

    fn follow_probes(&mut self, observed: &Observed) {
        let mut before = std::mem::take(&mut self.output.probes);
        let mut probes = BTreeMap::new();
        for (instance, container) in &observed.containers {
            if container.running().is_none() {
                continue;
            }
            let Some(manifest) = made_from(&self.etcd.snapshot, container) else {
                continue;
            };
            let known = before.remove(instance);
            let probe = known
                .filter(|known| known.container == *container && known.manifest == *manifest)
                .unwrap_or_else(|| {
                    let probe = Probe {
                        container: container.clone(),
                        manifest: manifest.clone(),
                    };
                    self.effects
                        .push_back(Effect::Probe(Box::new(probe.clone())));
                    probe
                });
            probes.insert(instance.clone(), probe);
        }
        for instance in before.into_keys() {
            self.effect(Effect::EndProbe(instance));
        }
        self.output.probes = probes;
    }

    /// Counts the open connections of what the plan waits for, and of nothing else.
    pub(super) fn count_connections(
        &mut self,
        draining: &BTreeSet<InstanceId>,
        observed: &Observed,
    ) {
        let mut before = std::mem::take(&mut self.output.counted);
        for instance in draining {
            let Some(container) = observed.containers.get(instance) else {
                continue;
            };
            let Some(process) = container.running() else {
                continue;
            };
            let counted = Counted {
                instance: instance.clone(),
                process: process.clone(),
                ports: container.tcp_ports().collect(),
            };
            let known = before.remove(instance);
            let is_same = |known: &Counted| known.process.started_at == process.started_at;
            if !known.as_ref().is_some_and(is_same) {
                self.cache.connected(instance, None);
                self.effect(Effect::CountConnections(counted.clone()));
            }
            self.output.counted.insert(instance.clone(), counted);
        }
        for instance in before.into_keys() {
            self.cache.connected(&instance, None);
            self.effect(Effect::EndCount(instance));
        }
    }

    fn publish_awaited(&mut self, observed: &Observed) {
        let all = observed.containers.values().chain(observed.jobs.values());
        let waiting =
            all.filter(|container| container.running().is_none() && !container.is_going());
        let links = waiting.flat_map(|container| {
            let manifest = made_from(&self.etcd.snapshot, container);
            caller(container, manifest).links
        });
        let awaited: BTreeSet<u16> = links.map(|(port, _)| port).collect();
        if self.output.awaited != awaited {
            self.output.awaited.clone_from(&awaited);
            self.effect(Effect::Publish(Table::AwaitedLinks(awaited)));
        }
    }

    fn publish_callers(&mut self, observed: &Observed) {
        let running = observed.containers.values().chain(observed.jobs.values());
        let calling = running.filter_map(|container| {
            container.running()?;
            let manifest = made_from(&self.etcd.snapshot, container);
            Some((container.addr?, caller(container, manifest)))
        });
        let (callers, shared) = directory::callers(calling);
        for (addr, (one, other)) in &shared {
            if self.output.shared.get(addr) != shared.get(addr) {
                self.log(AgentLog::SharedAddress(*addr, one.clone(), other.clone()));
            }
        }
        self.output.shared = shared;
        if *self.output.callers != callers {
            self.output.callers = Arc::new(callers);
            let callers = self.output.callers.clone();
            self.effect(Effect::Publish(Table::Callers(callers)));
        }
    }

    fn publish_observed(&mut self, observed: Arc<Observed>) {
        let before = std::mem::replace(&mut self.output.observed, observed.clone());
        if before == observed {
            return;
        }
        let since = self.began.wall;
        self.record(events::of_observed(&before, &observed, &self.memory, since));
        for (id, copied) in &observed.copies {
            if !before.copies.contains_key(id) {
                self.log(AgentLog::Copied(copied.clone()));
            }
        }
        let copies: Vec<String> = observed.copies.values().map(ToString::to_string).collect();
        if copies != self.output.copies {
            self.output.copies.clone_from(&copies);
            self.effect(Effect::Publish(Table::Copies(copies)));
        }
        self.effect(Effect::Publish(Table::Observed(observed)));
    }
}

/// The manifest of the version that a container was made from: by its claim, else by its hash.
fn made_from<'a>(
    snapshot: &'a Snapshot,
    container: &ObservedContainer,
) -> Option<&'a Arc<Manifest>> {
    let slot = &container.owner.slot;
    let view = snapshot.containers.get(&slot.container)?;
    if let Some(version) = container.owner.before {
        return view.manifest_of(version);
    }
    let claim = view.slots.get(&slot.slot).and_then(|s| s.claim.as_ref());
    let claimed = claim
        .filter(|claim| claim.instance == container.owner.instance)
        .and_then(|claim| view.manifest_of(claim.version));
    claimed.or_else(|| {
        let (_, version) = view.version_by_hash(&container.owner.manifest_hash)?;
        version.manifest.as_ref()
    })
}

fn caller(container: &ObservedContainer, manifest: Option<&Arc<Manifest>>) -> Caller {
    let slot = container.owner.slot.clone();
    let app = &slot.container.app;
    let links = manifest.map_or_else(Vec::new, |manifest| {
        env::link_targets(manifest, app)
            .map(|target| {
                let (app, service) = (target.app, target.service);
                (target.port, ServiceId { app, service })
            })
            .collect()
    });
    Caller { slot, links }
}

fn without_held_links(
    observed: &Observed,
    held: &BTreeMap<u16, String>,
    callers: &Callers,
) -> Arc<Observed> {
    let mut now = observed.clone();
    for (instance, container) in &observed.containers {
        let caller = container.addr.and_then(|addr| callers.get(&addr));
        let links = caller.into_iter().flat_map(|caller| &caller.links);
        let held = links.into_iter().find_map(|(port, service)| {
            let by = held.get(port)?;
            Some(format!("its link to {service} does not work: {by}"))
        });
        let is_ready = *observed.readiness(instance) == Readiness::Ready;
        if let Some(why) = held.filter(|_| is_ready) {
            let unready = Readiness::Unready(why);
            now.readiness.insert(instance.clone(), unready);
        }
    }
    Arc::new(now)
}
