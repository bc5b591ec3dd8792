//! The loop: everything that happens reaches it, it plans, and others carry out.
//!
//! The first event is acted on at once. What came meanwhile is taken in before
//! the next plan, and after a plan that took long the loop rests in proportion,
//! so that a burst costs few plans.

use model::{ModRev, VersionId};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agent::events;
use manifests::{ContainerId, InstanceId, env};
use model::Write;
use model::directory;
use model::directory::{Caller, ServiceId, SharedAddresses};
use model::observed::{EngineState, Observed, Readiness, Surroundings};
use model::snapshot::Desired;
use model::{
    Action, ActionReport, ActionResult, Directory, Host, Millis, Prepare, Rules, Snapshot, Trust,
};
use planner::memory::RETRY_REJECTED;
use planner::{AgentMemory, Inputs, Plan, plan};
use store::Kv;
use store::host::HostStatus;
use store::view::{Updates, ViewUpdate};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::actions::Actions;
use crate::following::{Look, Sighting};
use crate::instances::Instances;
use crate::looks::Looks;
use crate::observing::{Observing, Seq};
use crate::orphans::Orphans;
use crate::published::{Published, Seen, count};
use crate::{following, writes};
use engine::Engine;
use model::error::chain;

/// Events that wait for the loop. It never waits for those who send them, so a full channel only slows them down.
const EVENTS: usize = 1_024;
/// The loop passes at least this often: its lease depends on it.
const PULSE: Duration = Duration::from_secs(5);
/// Longest rest between two plans.
const LONGEST_REST: Duration = Duration::from_millis(500);
/// What does not concern this host waits so long for what else comes, and is planned with it.
const GATHERING: Duration = Duration::from_millis(250);
/// Time that a write which etcd did not answer waits before it is planned again.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// All that the conductor works with.
pub struct Setup {
    /// This host.
    pub host: Host,
    /// What containers are made with, when that changes.
    pub surroundings: watch::Receiver<Surroundings>,
    /// This cluster.
    pub cluster: Uuid,
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// etcd.
    pub kv: Arc<dyn Kv>,
    /// The view of it.
    pub updates: Updates,
    /// What others read.
    pub published: Arc<Published>,
    /// Carries out actions.
    pub actions: Actions,
    /// Somebody asks for a look at the engine: an address is not known.
    pub look_again: mpsc::Receiver<()>,
    /// This host's record: told that the loop lives, and what the engine shows.
    pub record: Arc<store::host::Host>,
    /// What an accepted restore left without a manifest.
    pub orphans: Orphans,
    /// The containers that this host has made.
    pub instances: Instances,
}

/// What reaches the loop.
pub(crate) enum Event {
    /// An action ended.
    Ended(ActionReport),
    /// A pull says how far it is.
    Progress(SlotOrContainer, Option<String>),
    /// Last lines of an instance that ended.
    Log(InstanceId, Vec<String>),
    /// Writes were answered.
    Wrote {
        /// Which, and whether the guards held; none without an answer.
        writes: Vec<(Write, Option<bool>)>,
        /// The store's revision.
        revision: i64,
        /// That of the view from which they were planned.
        seen: i64,
    },
    /// A look at a running instance.
    Look {
        instance: InstanceId,
        /// Of which start.
        started_at: i64,
        readiness: Readiness,
        /// Why it is not ready, for people.
        reason: Option<String>,
    },
}

/// Whose progress.
pub(crate) type SlotOrContainer = model::Scope;

/// Runs until cancelled. Containers run on.
pub async fn run(setup: Setup, stop: CancellationToken) {
    let (events_in, events) = mpsc::channel(EVENTS);
    let (sightings_in, sightings) = mpsc::channel(EVENTS);
    let (again, again_out) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(following::follow(
        setup.engine.clone(),
        setup.cluster,
        sightings_in,
        again_out,
        stop.clone(),
    ));
    let looks = Looks::new(
        setup.engine.clone(),
        events_in.clone(),
        setup.record.clock(),
    );
    let state = State {
        snapshot: Snapshot::default(),
        directory: Directory::default(),
        trust: Trust::RestartsOnly,
        pressing: false,
        plan_by: None,
        known: false,
        entered: false,
        resumed: false,
        observing: Observing::new(setup.instances.notes().clone()),
        begun: BTreeMap::new(),
        local: AgentMemory {
            orphans: setup.orphans.kept().clone(),
            ..AgentMemory::default()
        },
        before: None,
        looks,
        ended: BTreeSet::new(),
        told: BTreeMap::new(),
        retry_writes_at: None,
        replan_at: None,
        last_line: String::new(),
        notes_fail: false,
        shared: SharedAddresses::new(),
    };
    Loop {
        setup,
        state,
        events_in,
        tasks,
    }
    .turn(events, sightings, again, stop)
    .await;
}

/// Says once what is wrong or odd with a manifest that was written past the doors.
fn tell_manifest(snapshot: &Snapshot, id: &ContainerId, told: &mut BTreeMap<ContainerId, ModRev>) {
    let manifest = snapshot
        .containers
        .get(id)
        .and_then(|c| c.manifest.as_ref());
    let Some(manifest) = manifest else {
        told.remove(id);
        return;
    };
    match &manifest.value {
        Desired::Valid { warnings, .. } if warnings.is_empty() => {}
        _ if told.insert(id.clone(), manifest.modified) == Some(manifest.modified) => {}
        Desired::Valid { warnings, .. } => {
            let odd = warnings.join("; ");
            tracing::warn!(of = %id, revision = manifest.modified.0, odd, "the manifest is run all the same");
        }
        Desired::Invalid(errors) => {
            let errors = errors.join("; ");
            tracing::error!(of = %id, revision = %manifest.modified, errors, "the manifest is not valid: nothing is changed for it");
        }
    }
}

/// What is observed, but that nothing is ready whose link another process would answer.
fn observed<'a>(observing: &'a Observing, published: &Published) -> Cow<'a, Observed> {
    let observed = observing.observed();
    let held = published.held_links.borrow();
    if held.is_empty() {
        return Cow::Borrowed(observed);
    }
    let callers = published.callers.borrow();
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
    Cow::Owned(now)
}

struct State {
    snapshot: Snapshot,
    directory: Directory,
    trust: Trust,
    /// Something has come that may ask for something to be done here.
    pressing: bool,
    /// What has come, and asks for nothing, is planned by then.
    plan_by: Option<Millis>,
    /// A view was seen.
    known: bool,
    /// All was planned once, with this host's record in etcd.
    entered: bool,
    /// What an earlier agent of this host said of its slots was asked for.
    resumed: bool,
    /// What was known before a restore was accepted, until what runs here has been looked through.
    before: Option<Snapshot>,
    observing: Observing,
    begun: BTreeMap<Look, Seq>,
    local: AgentMemory,
    looks: Looks,
    /// Ends whose last lines were asked for.
    ended: BTreeSet<(InstanceId, i64)>,
    /// Revisions of manifests that the log has said something about.
    told: BTreeMap<ContainerId, ModRev>,
    retry_writes_at: Option<Millis>,
    /// Something is to be planned again then, whatever the plan itself says.
    replan_at: Option<Millis>,
    last_line: String,
    /// The last write of the notes failed.
    notes_fail: bool,
    /// Addresses that two containers have, as the log has said.
    shared: SharedAddresses,
}

struct Loop {
    setup: Setup,
    state: State,
    events_in: mpsc::Sender<Event>,
    tasks: JoinSet<()>,
}

impl Loop {
    async fn turn(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut sightings: mpsc::Receiver<Sighting>,
        again: mpsc::Sender<()>,
        stop: CancellationToken,
    ) {
        let mut wake: Option<Millis> = None;
        let mut alarm = self.setup.published.alarm.subscribe();
        let mut held_links = self.setup.published.held_links.subscribe();
        loop {
            self.setup.record.pass_done();
            let now = self.setup.record.clock().now();
            if self.state.known && self.state.trust == Trust::Full {
                self.setup.published.is_fresh();
            }
            let rest = wake.map_or(PULSE, |at| (at - now).min(PULSE));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                update = self.setup.updates.next() => match update {
                    Some(update) => self.view(update),
                    None => break,
                },
                Ok(()) = alarm.changed() => {
                    let why = alarm.borrow_and_update().map(|alarm| alarm.to_string());
                    self.state.local.disruption.refuses_writes(why, now);
                    self.state.pressing = true;
                }
                Ok(()) = held_links.changed() => self.state.pressing = true,
                Ok(()) = self.setup.surroundings.changed() => self.surround(),
                Some(event) = events.recv() => self.event(event),
                Some(sighting) = sightings.recv() => self.sighting(sighting),
                Some(()) = self.setup.look_again.recv() => {
                    // One look is enough for all who ask while it is under way.
                    let _ = again.try_send(());
                }
                Some(_) = self.tasks.join_next() => continue,
                () = tokio::time::sleep(rest) => self.state.pressing = true,
            }
            while let Some(update) = self.setup.updates.try_next() {
                self.view(update);
            }
            while let Ok(event) = events.try_recv() {
                self.event(event);
            }
            while let Ok(sighting) = sightings.try_recv() {
                self.sighting(sighting);
            }
            if !self.state.resumed && self.trust() == Trust::Full {
                self.resume().await;
            }
            let before = self.setup.record.clock().now();
            if !std::mem::take(&mut self.state.pressing) {
                let by = *self.state.plan_by.get_or_insert(before + GATHERING);
                if before < by {
                    wake = Some(wake.map_or(by, |wake| wake.min(by)));
                    continue;
                }
            }
            self.state.plan_by = None;
            self.state.replan_at = self.state.replan_at.filter(|at| *at > before);
            let planned = self.plan(before);
            wake = [planned, self.state.replan_at].into_iter().flatten().min();
            let took = self.setup.record.clock().now() - before;
            if took > Duration::from_millis(5) {
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep((took * 2).min(LONGEST_REST)) => {}
                }
            }
        }
        self.tasks.shutdown().await;
    }

    /// Takes up what an earlier agent of this host said of its slots, before anything is said of them.
    async fn resume(&mut self) {
        self.state.resumed = true;
        let Setup { kv, record, .. } = &self.setup;
        let wall = record.clock().wall();
        for (slot, status) in writes::statuses(kv.as_ref(), record.name()).await {
            if let Some(container) = &status.container_id {
                self.state.observing.was(&status.instance, container, wall);
            }
            self.state.local.resume(slot, status);
        }
    }

    /// How far the view may be trusted: not before this host has joined and the view has seen it, and not while somebody
    /// else writes in its name, or etcd is not the one that it knows.
    fn trust(&self) -> Trust {
        let record = &self.setup.record;
        let is_member = matches!(
            *record.status().borrow(),
            HostStatus::Live(_) | HostStatus::Lost
        );
        if is_member && self.state.snapshot.revision >= *record.floor().borrow() {
            self.state.trust
        } else {
            Trust::RestartsOnly
        }
    }

    fn view(&mut self, update: ViewUpdate) {
        self.setup.record.follow(&update);
        let state = &mut self.state;
        let trust = update.allows(Rules::default());
        if trust != state.trust || !state.known {
            match (&update.trust, trust) {
                (_, Trust::Full) => tracing::info!(
                    revision = update.snapshot.revision,
                    "etcd is followed: all is planned"
                ),
                (store::view::Trust::Distrust(reason), _) => tracing::error!(
                    %reason,
                    "etcd is not the one that this host knows: nothing is changed but restarts of crashed containers"
                ),
                _ => tracing::warn!(
                    "etcd can't be followed for now: only crashed containers are restarted"
                ),
            }
        }
        let is_news = trust != state.trust || !state.known || update.resync;
        state.trust = trust;
        state.known = true;
        let before = std::mem::replace(&mut state.snapshot, update.snapshot);
        let host = &self.setup.host.name;
        state.pressing |= is_news
            || update.accepted.is_some()
            || update.touched.is_empty()
            || update.touched.concerns(host, &before, &state.snapshot);
        if let Some(cluster) = &update.accepted {
            tracing::warn!(
                epoch = cluster.epoch,
                "a restore was accepted: what runs here without a manifest is kept, and nothing is placed before the hosts are back"
            );
            state.before.get_or_insert(before);
            if let Err(error) = self.setup.orphans.accepted() {
                tracing::error!(error = %chain(&error), "what the restore leaves can't be noted");
            }
        }
        if trust == Trust::Full {
            let now = self.setup.record.clock().now();
            state.local.see(&state.snapshot, now);
        }
        for id in &update.touched.containers {
            tell_manifest(&state.snapshot, id, &mut state.told);
        }
        if update.resync {
            state.directory = Directory::new(&state.snapshot);
        } else {
            state.directory.update(&state.snapshot, &update.touched);
        }
        let published = &self.setup.published;
        published.directory.store(Arc::new(state.directory.clone()));
        let distrust = match update.trust {
            store::view::Trust::Trusted => None,
            store::view::Trust::Distrust(reason) => Some(reason.to_string()),
        };
        let before = published.seen.load();
        let before = before.as_ref().as_ref();
        let epoch = |snapshot: &Snapshot| snapshot.cluster.as_ref().map(|c| c.value.epoch);
        let known = before.and_then(|seen| epoch(&seen.snapshot));
        let restored = known.zip(epoch(&state.snapshot));
        published.events.tell(events::of_hold(
            before.and_then(|seen| seen.distrust.as_deref()),
            distrust.as_deref(),
        ));
        let restored = restored.and_then(|(before, now)| events::of_epoch(before, now));
        published.events.tell(restored);
        published.seen.store(Arc::new(Some(Seen {
            snapshot: state.snapshot.clone(),
            stale: trust != Trust::Full,
            distrust,
        })));
        published
            .revision
            .send_replace((state.snapshot.revision, trust != Trust::Full));
    }

    /// The engine's network is another one: containers that were made for the one before are replaced.
    fn surround(&mut self) {
        let now = self.setup.surroundings.borrow_and_update().clone();
        if now == self.setup.host.surroundings {
            return;
        }
        tracing::warn!(
            host_ip = %now.host_ip, gateway = %now.gateway, network = now.network,
            "the engine's network has changed: containers are replaced"
        );
        self.setup.actions.surround(now.clone());
        self.setup.host.surroundings = now;
        self.state.pressing = true;
    }

    fn sighting(&mut self, sighting: Sighting) {
        let wall = self.setup.record.clock().wall();
        let state = &mut self.state;
        state.pressing |= !matches!(sighting, Sighting::Begun(_));
        match sighting {
            Sighting::Begun(look) => {
                let seq = state.observing.begin();
                state.begun.insert(look, seq);
            }
            Sighting::List(listing) => {
                let since = state.begun.remove(&Look::List).unwrap_or_default();
                if let EngineState::Unresponsive(_) = state.observing.observed().engine {
                    tracing::info!("the Docker Engine answers again");
                }
                state.observing.list(listing, since, wall);
                self.setup.published.lists.send_modify(|lists| *lists += 1);
            }
            Sighting::Container(container) => {
                let look = Look::Container(container.docker_id.clone());
                let since = state.begun.remove(&look).unwrap_or_default();
                state.observing.look(*container, since, wall);
            }
            Sighting::Gone(id) => state.observing.gone(&id, wall),
            Sighting::Unresponsive(why) => {
                if state.observing.observed().engine == EngineState::Up {
                    tracing::error!(%why, "the Docker Engine does not answer");
                }
                state.observing.unresponsive(why);
            }
        }
    }

    fn event(&mut self, event: Event) {
        let now = self.setup.record.clock().now();
        let wall = self.setup.record.clock().wall();
        let state = &mut self.state;
        state.pressing = true;
        match event {
            Event::Ended(ActionReport {
                result,
                container,
                gone,
            }) => {
                match container {
                    Some(made) if matches!(result, ActionResult::Prepared { .. }) => {
                        state.observing.made(*made, wall);
                    }
                    Some(container) => state.observing.set(*container, wall),
                    None => {}
                }
                if let Some(id) = gone {
                    state.observing.gone(&id, wall);
                }
                if let ActionResult::Resolved {
                    container,
                    rev,
                    image,
                    volumes,
                } = &result
                {
                    self.version(container.clone(), *rev, image.clone(), volumes.clone());
                }
                if matches!(
                    result,
                    ActionResult::NotResolved { .. } | ActionResult::NotPrepared { .. }
                ) {
                    count(&self.setup.published.counters.pull_failures);
                }
                let happened = events::of_outcome(&result);
                self.setup.published.events.tell(happened);
                self.state.local.record(&result, now);
            }
            Event::Progress(work, text) => state.local.progress(&work, text.as_ref(), now),
            Event::Log(instance, lines) => {
                if let Some(memory) = state.local.instances.get_mut(&instance) {
                    memory.log = lines;
                }
            }
            Event::Wrote {
                writes,
                revision,
                seen,
            } => {
                for (write, held) in writes {
                    let Some(held) = held else {
                        state.local.not_written(&write);
                        state.retry_writes_at = Some(now + WRITE_RETRY);
                        continue;
                    };
                    state.local.wrote(&write, held, revision, seen, now);
                    let happened = events::of_write(&write).filter(|_| held);
                    self.setup.published.events.tell(happened);
                    if !held {
                        count(&self.setup.published.counters.writes_lost);
                        tracing::debug!(kind = %write.kind, work = ?write.scope, "a write's guard did not hold");
                        let again = now + RETRY_REJECTED;
                        let at = state.replan_at.get_or_insert(again);
                        *at = (*at).min(again);
                    }
                }
            }
            Event::Look {
                instance,
                started_at,
                readiness,
                reason,
            } => {
                if let Some(memory) = state.local.instances.get_mut(&instance) {
                    memory.unready_reason = reason;
                }
                state.observing.ready(&instance, started_at, readiness);
            }
        }
    }

    /// The image of a version was decided here; whether it counts, etcd says.
    fn version(
        &mut self,
        container: ContainerId,
        rev: VersionId,
        image: String,
        volumes: Vec<String>,
    ) {
        let Some(view) = self.state.snapshot.containers.get(&container) else {
            return;
        };
        let Some(manifest) = view
            .manifest
            .as_ref()
            .filter(|m| m.modified.version() == rev)
        else {
            return;
        };
        let Desired::Valid { json, .. } = &manifest.value else {
            return;
        };
        let version = model::records::Version {
            manifest: json.as_ref().clone(),
            image,
            good: false,
            volumes,
        };
        let write = Write::version(container, rev, version);
        self.state.local.begin_write(&write);
        self.write(vec![write]);
    }

    fn plan(&mut self, now: Millis) -> Option<Millis> {
        let state = &mut self.state;
        if !state.known || !state.observing.is_complete() {
            return None;
        }
        state.local.observe(state.observing.observed(), now);
        let trust = if self.looks_through(now) {
            self.trust()
        } else {
            Trust::RestartsOnly
        };
        let state = &mut self.state;
        state.entered |= trust == Trust::Full;
        if !state.entered && !self.setup.record.same_boot() {
            // The machine was down: others may have its slots.
            self.after_plan();
            return None;
        }
        if trust != state.trust {
            let trust = std::mem::replace(&mut state.trust, Trust::RestartsOnly);
            let planned = self.plan_once(now);
            self.state.trust = trust;
            return planned;
        }
        if let Some(at) = state.retry_writes_at {
            if now < at && state.trust == Trust::Full {
                // etcd does not answer: what runs is looked after, nothing is written for a moment.
                state.trust = Trust::RestartsOnly;
                let planned = self.plan_once(now);
                self.state.trust = Trust::Full;
                return Some(planned.map_or(at, |p| p.min(at)));
            }
            state.retry_writes_at = None;
        }
        self.plan_once(now)
    }

    /// Looks through what runs here when a restore was accepted. Until that is on disk nothing else is planned: whoever
    /// does not know what was kept would stop it.
    fn looks_through(&mut self, now: Millis) -> bool {
        let state = &mut self.state;
        let orphans = &mut self.setup.orphans;
        if state.trust == Trust::Full && (orphans.is_accepted() || state.before.is_some()) {
            let before = state.before.clone().unwrap_or_default();
            let observed = state.observing.observed();
            state.local.accept(&before, &state.snapshot, observed, now);
        } else if orphans.is_accepted() {
            return false;
        }
        match orphans.keep(&state.local.orphans) {
            Ok(()) => {
                state.before = None;
                true
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "what an accepted restore left can't be noted; only crashed containers are restarted");
                false
            }
        }
    }

    fn plan_once(&mut self, now: Millis) -> Option<Millis> {
        count(&self.setup.published.counters.plans);
        let state = &mut self.state;
        let mut fresh = || {
            Uuid::new_v4()
                .to_string()
                .parse()
                .expect("a UUID is an instance's name")
        };
        let planned = plan(
            Inputs {
                snapshot: &state.snapshot,
                observed: &observed(&state.observing, &self.setup.published),
                memory: &state.local,
                host: &self.setup.host,
                trust: state.trust,
                rules: Rules::default(),
                now,
            },
            &mut fresh,
        );
        state.local.begin(&planned, now);
        self.tell(&planned);
        let Plan {
            writes,
            actions,
            requeue_at,
            ..
        } = planned;
        if !writes.is_empty() {
            self.write(writes);
        }
        self.note(&actions);
        for action in actions {
            let job = self
                .setup
                .actions
                .clone()
                .run(action, self.events_in.clone());
            self.tasks.spawn(job);
        }
        self.after_plan();
        requeue_at
    }

    /// Notes which instances the actions are to make, and what else of the engine is ours. A disk that takes nothing stops
    /// nothing: the notes are kept in memory and written with a later plan, and `/status` names the containers too.
    fn note(&mut self, actions: &[Action]) {
        let state = &mut self.state;
        let wall = self.setup.record.clock().wall();
        for action in actions {
            if let Action::Prepare(Prepare { instance, .. }) = action {
                state.observing.intend(instance, wall);
            }
        }
        let Some(notes) = state.observing.unsaved() else {
            return;
        };
        match self.setup.instances.save(notes) {
            Ok(()) => {
                state.observing.saved();
                if std::mem::take(&mut state.notes_fail) {
                    tracing::info!("instances.json is written again");
                }
            }
            Err(error) if std::mem::replace(&mut state.notes_fail, true) => {
                tracing::debug!(%error, "cannot write instances.json");
            }
            Err(error) => {
                tracing::error!(%error, "cannot write instances.json; it is kept in memory and tried again");
            }
        }
    }

    /// Logs a plan that does something new, and publishes what waits.
    fn tell(&mut self, planned: &Plan) {
        if planned.is_idle() {
            self.state.last_line.clear();
        } else {
            let line = planned.to_string();
            if line != self.state.last_line {
                tracing::info!(revision = self.state.snapshot.revision, plan = %line, "plan");
                self.state.last_line = line;
            }
        }
        let published = &self.setup.published;
        if **published.waiting.load() != planned.waiting {
            for (slot, reason) in &planned.waiting {
                if published.waiting.load().get(slot) != Some(reason) {
                    tracing::info!(%slot, %reason, "waits");
                }
            }
            published.waiting.store(Arc::new(planned.waiting.clone()));
        }
    }

    fn write(&mut self, writes: Vec<Write>) {
        self.setup
            .published
            .counters
            .writes
            .fetch_add(writes.len() as u64, std::sync::atomic::Ordering::Relaxed);
        let kv = self.setup.kv.clone();
        let events = self.events_in.clone();
        let seen = self.state.snapshot.revision;
        for batch in writes::batches(writes) {
            let (kv, events) = (kv.clone(), events.clone());
            self.tasks.spawn(async move {
                let (writes, revision) = writes::carry_out(kv.as_ref(), batch).await;
                let answered = Event::Wrote {
                    writes,
                    revision,
                    seen,
                };
                // Without a loop there is nobody to tell.
                let _ = events.send(answered).await;
            });
        }
    }

    /// What follows from what is observed: looks at running instances, last lines, callers, the report.
    fn after_plan(&mut self) {
        let state = &mut self.state;
        let observed = observed(&state.observing, &self.setup.published);
        let observed = observed.as_ref();
        let mut calling = Vec::new();
        let mut running = BTreeMap::new();
        for (instance, container) in &observed.containers {
            let slot = &container.owner.slot;
            let view = state.snapshot.containers.get(&slot.container);
            let manifest = view.and_then(|view| {
                let claimed = view
                    .slots
                    .get(&slot.slot)
                    .and_then(|s| s.claim.as_ref())
                    .filter(|claim| claim.instance == *instance)
                    .and_then(|claim| view.manifest_of(claim.version));
                claimed.or_else(|| {
                    view.version_by_hash(&container.owner.manifest_hash)
                        .and_then(|(_, version)| version.manifest.as_ref())
                })
            });
            if container.running().is_some() {
                if let Some(manifest) = manifest {
                    running.insert(instance.clone(), (container.clone(), manifest.clone()));
                }
                if let Some(addr) = container.addr {
                    let links = manifest.map_or_else(Vec::new, |m| {
                        env::link_targets(m, &slot.container.app)
                            .map(|target| {
                                (
                                    target.port,
                                    ServiceId {
                                        app: target.app,
                                        service: target.service,
                                    },
                                )
                            })
                            .collect()
                    });
                    calling.push((
                        addr,
                        Caller {
                            slot: slot.clone(),
                            links,
                        },
                    ));
                }
            } else if let model::observed::ContainerState::Exited(exit) = &container.state {
                let counted = state
                    .local
                    .instances
                    .get(instance)
                    .is_some_and(|m| m.ends > 0);
                if counted && state.ended.insert((instance.clone(), exit.at)) {
                    count(&self.setup.published.counters.restarts);
                    self.tasks.spawn(crate::looks::last_lines(
                        self.setup.engine.clone(),
                        instance.clone(),
                        container.docker_id.clone(),
                        self.events_in.clone(),
                    ));
                }
            }
        }
        state
            .ended
            .retain(|(instance, _)| observed.containers.contains_key(instance));
        state.looks.follow(running);
        let (callers, shared) = directory::callers(calling);
        for (addr, (one, other)) in &shared {
            if state.shared.get(addr) != shared.get(addr) {
                tracing::error!(%addr, %one, %other, "the Docker Engine gave one address to two containers: links are refused to both until one of them is restarted");
            }
        }
        state.shared = shared;
        let published = &self.setup.published;
        published.callers.send_if_modified(|before| {
            let changed = **before != callers;
            if changed {
                *before = Arc::new(callers);
            }
            changed
        });
        let before = published.observed.load();
        if **before != *observed {
            let since = published.events.began();
            let happened = events::of_observed(&before, observed, &state.local, since);
            published.events.tell(happened);
            for (id, copied) in &observed.copies {
                if !before.copies.contains_key(id) {
                    tracing::warn!("{copied}");
                }
            }
            published.copies.send_if_modified(|said| {
                let copies: Vec<String> =
                    observed.copies.values().map(ToString::to_string).collect();
                let changed = *said != copies;
                *said = copies;
                changed
            });
            published.observed.store(Arc::new(observed.clone()));
        }
        let (foreign, engine) = (observed.foreign, observed.engine == EngineState::Up);
        self.setup.record.update_record(|record| {
            record.foreign = foreign;
            record.engine = engine;
        });
    }
}

#[cfg(test)]
mod tests {
    use model::directory::Callers;
    use model::observed::{ContainerState, ObservedContainer, Ownership, PublishedPorts, Running};

    use super::*;

    #[test]
    fn an_instance_whose_link_port_another_process_holds_is_not_ready() {
        let addr = [172, 17, 0, 2].into();
        let slot = "shop/web".parse::<ContainerId>().expect("an id").slot(0);
        let instance: InstanceId = "one".parse().expect("an instance");
        let owner = Ownership {
            cluster: Uuid::nil(),
            slot: slot.clone(),
            instance: instance.clone(),
            manifest_hash: String::new(),
            host_hash: String::new(),
        };
        let mut observing = Observing::default();
        observing.made(
            ObservedContainer {
                docker_id: "one".to_owned(),
                name: owner.name_beside(),
                owner,
                state: ContainerState::Running(Running {
                    pid: 1,
                    started_at: 1,
                    health: None,
                }),
                addr: Some(addr),
                ports: PublishedPorts::new(),
                limits: model::observed::Limits::default(),
                check: None,
                image: String::new(),
                image_id: String::new(),
                created_at: 1,
            },
            1,
        );
        observing.ready(&instance, 1, Readiness::Ready);
        let published = Published::default();
        let service = ServiceId {
            app: slot.container.app.clone(),
            service: "db".parse().expect("a name"),
        };
        let links = vec![(10_000, service)];
        let callers = Callers::from([(addr, Caller { slot, links })]);
        published.callers.send_replace(Arc::new(callers));

        let hold = |port: u16| {
            let held = BTreeMap::from([(port, "172.17.0.1 is taken by squatter".to_owned())]);
            published.held_links.send_replace(held);
            observed(&observing, &published)
                .readiness(&instance)
                .clone()
        };
        assert_eq!(hold(10_001), Readiness::Ready);
        let Readiness::Unready(why) = hold(10_000) else {
            panic!("it is ready");
        };
        assert!(why.contains("db") && why.contains("squatter"), "{why}");
    }
}
