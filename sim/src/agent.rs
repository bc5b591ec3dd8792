//! An agent: the real view, the real plan, the real memory of its own work and the real transactions, driven by
//! events instead of a runtime. It does what `conductor/src/run.rs` does.

use model::VersionId;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conductor::observing::Observing;
use engine::Listing;
use manifests::keys::{self, Key};
use manifests::{ContainerId, InstanceId};
use model::observed::{EngineState, Readiness};
use model::records::{Status, Version};
use model::snapshot::{Desired, Snapshot};
use model::{
    Action, ActionReport, ActionResult, Millis, Prepare, Rules, Scope, Trust, Write, WriteKind,
};
use planner::memory::RETRY_REJECTED;
use planner::{AgentMemory, Inputs, plan};
use store::claims;
use store::host::HostStatus;
use store::kv::{KeyRange, KvError, Range, WatchReply};
use store::memory::WatchId;
use store::view::{Answer, FirstRead, Step as ViewStep, View, ViewOptions, ViewUpdate};
use uuid::Uuid;

use crate::disk::Disk;
use crate::host::HostLife;
use crate::invariants;
use crate::network::{Answered, Asker, Reply, Request};
use crate::world::{Event, World};

/// How often an agent looks at the time.
const TICK: Duration = Duration::from_secs(1);
/// The loop passes at least this often.
const PULSE: Duration = Duration::from_secs(5);
/// A changed view is saved this often.
const SAVE: Duration = Duration::from_secs(3);
/// Time between two healing lists of the engine, and while it does not answer.
const LIST: Duration = Duration::from_secs(20);
const LIST_AGAIN: Duration = Duration::from_secs(2);
/// A write that etcd did not answer waits this long.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// A process of the agent.
#[derive(Debug)]
pub struct Process {
    /// Which.
    pub id: u64,
    /// Its record.
    pub host: HostLife,
    /// All else, once it has joined.
    pub agent: Option<Box<Agent>>,
    /// How the host stands, as was told last.
    said: String,
}

/// What a joined agent knows and has under way.
#[derive(Debug)]
pub struct Agent {
    /// The view.
    pub view: View,
    /// What it said last.
    pub seen: Option<ViewUpdate>,
    /// Its own work.
    pub local: AgentMemory,
    /// The engine as it knows it.
    pub observing: Observing,
    /// What was known before a restore was accepted, until what runs here has been looked through.
    before: Option<Snapshot>,
    /// The revision of the first read of this connect.
    pub first_read: i64,
    /// Own writes that were answered, by what they were about: their revision.
    pub answered: BTreeMap<Scope, i64>,
    /// Containers of which an image could not be had, or a container not made or started.
    pub failed: BTreeSet<ContainerId>,
    rules: Rules,
    /// What an earlier process said of its slots was asked for.
    resumed: bool,
    /// All was planned once.
    entered: bool,
    floor: i64,
    stream: Option<Stream>,
    asking: bool,
    looks: BTreeMap<InstanceId, i64>,
    wake: Option<u64>,
    retry_writes_at: Option<Millis>,
    replan_at: Option<Millis>,
    next_list: Millis,
    next_save: Millis,
    saved: (u64, i64),
}

#[derive(Debug)]
struct Stream {
    watch: WatchId,
    life: u64,
    /// Something is on its way.
    coming: bool,
}

impl Process {
    /// Its view follows etcd and may be acted on.
    pub fn sees_all(&self) -> bool {
        self.trust() == Trust::Full
    }

    /// How far its view may be trusted: not before this host has joined and the view has seen it.
    pub fn trust(&self) -> Trust {
        match &self.agent {
            Some(agent) if self.host.is_member() && agent.revision() >= self.host.floor() => {
                agent.trust()
            }
            _ => Trust::RestartsOnly,
        }
    }

    /// A stream is there, and nothing of it is on its way.
    pub fn stream_waits(&mut self) -> bool {
        let stream = self.agent.as_mut().and_then(|agent| agent.stream.as_mut());
        stream.is_some_and(|stream| !std::mem::replace(&mut stream.coming, true))
    }

    /// What was on its way is lost.
    pub fn stream_broke(&mut self) {
        if let Some(stream) = self.agent.as_mut().and_then(|agent| agent.stream.as_mut()) {
            stream.coming = false;
        }
    }
}

impl Agent {
    /// How far its view may be trusted.
    pub fn trust(&self) -> Trust {
        let seen = self.seen.as_ref();
        seen.map_or(Trust::RestartsOnly, |seen| seen.allows(self.rules))
    }

    /// Looks through what runs here when a restore was accepted; nothing is planned before that is noted.
    fn looks_through(&mut self, disk: &mut Disk, now: Millis) -> bool {
        let Some(seen) = &self.seen else { return false };
        if self.trust() == Trust::Full && (disk.accepted || self.before.is_some()) {
            let before = self.before.take().unwrap_or_default();
            let observed = self.observing.observed();
            self.local.accept(&before, &seen.snapshot, observed, now);
            self.answered.clear();
        } else if disk.accepted {
            return false;
        }
        disk.accepted = false;
        disk.orphans.clone_from(&self.local.orphans);
        true
    }

    fn revision(&self) -> i64 {
        self.snapshot().map_or(0, |snapshot| snapshot.revision)
    }

    /// What it believes etcd says.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.seen.as_ref().map(|seen| &seen.snapshot)
    }
}

impl World {
    fn agent(&mut self, machine: usize) -> Option<&mut Agent> {
        self.machines[machine]
            .process
            .as_mut()?
            .agent
            .as_deref_mut()
    }

    /// Starts the agent of a machine, if it has power and none runs.
    pub fn start(&mut self, machine: usize) {
        let at = &self.machines[machine];
        if !at.powered || at.gone || at.process.is_some() {
            return;
        }
        let id = self.number();
        let session = Uuid::from_u128(0x5e55_0000 + u128::from(id));
        let now = self.clock(machine);
        self.tell(machine, || format!("agent starts, session {id}"));
        let host = self.host_life(machine, session);
        let (seed, rules) = (self.dice.roll(), self.rules);
        let at = &mut self.machines[machine];
        at.witness.sessions.insert(session);
        at.witness.restarted();
        let agent = at.disk.cluster.clone().map(|cluster| {
            let mut options = ViewOptions::new(cluster, at.disk.view.clone(), None);
            options.held = at.disk.hold.is_some();
            options.seed = seed;
            options.rules = rules;
            Box::new(Agent {
                view: View::new(&options, now),
                seen: None,
                local: AgentMemory {
                    orphans: at.disk.orphans.clone(),
                    ..AgentMemory::default()
                },
                observing: Observing::new(at.disk.notes.clone()),
                before: None,
                first_read: 0,
                answered: BTreeMap::new(),
                failed: BTreeSet::new(),
                rules,
                resumed: false,
                entered: false,
                floor: 0,
                stream: None,
                asking: false,
                looks: BTreeMap::new(),
                wake: None,
                retry_writes_at: None,
                replan_at: None,
                next_list: now,
                next_save: now + SAVE,
                saved: (0, 0),
            })
        });
        at.process = Some(Process {
            id,
            host,
            agent,
            said: String::new(),
        });
        self.drive_host(machine);
        self.tick(machine);
    }

    /// How the host stands: the view has to reach its record, and one that can't join ends.
    pub fn host_stands(&mut self, machine: usize, floor: i64, status: &HostStatus) {
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        if let Some(agent) = &mut process.agent
            && agent.floor != floor
        {
            agent.floor = floor;
            agent.view.floor(floor);
            self.drive(machine);
        }
        let Some(process) = &mut self.machines[machine].process else {
            return;
        };
        let text = format!("{status:?}");
        if self.trace.is_on() && process.said != text {
            process.said.clone_from(&text);
            self.tell(machine, || format!("host: {text}"));
        }
        if matches!(status, HostStatus::Failed(_) | HostStatus::Left) {
            self.tell(machine, || format!("the agent ends: {status:?}"));
            let at = &mut self.machines[machine];
            at.process = None;
            at.gone = true;
        }
    }

    /// Time passes.
    pub fn tick(&mut self, machine: usize) {
        let (now, wall) = (self.clock(machine), self.wall());
        self.later(machine, TICK, Event::Tick);
        let at = &mut self.machines[machine];
        let Some(agent) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        agent.view.tick(now);
        if now >= agent.next_save {
            agent.next_save = now + SAVE;
            let position = agent.view.position();
            if position != agent.saved && position.1 != 0 {
                agent.saved = position;
                at.disk.save(agent.view.saved());
            }
        }
        if now >= agent.next_list {
            let since = agent.observing.begin();
            let hangs = at.engine.hangs;
            agent.next_list = now + if hangs { LIST_AGAIN } else { LIST };
            if hangs {
                agent.observing.unresponsive("it hangs".to_owned());
            } else {
                let labelled = at.engine.labelled(self.cluster.id);
                agent.observing.list(
                    Listing {
                        labelled,
                        ..Listing::default()
                    },
                    since,
                    wall,
                );
            }
            self.wake(machine);
        }
        self.drive(machine);
    }

    /// A keep-alive answer carried this revision.
    pub fn seen(&mut self, machine: usize, revision: i64) {
        let now = self.clock(machine);
        if let Some(agent) = self.agent(machine) {
            agent.view.seen(revision, now);
            self.drive(machine);
        }
    }

    /// The loop is to make a pass soon.
    pub fn wake(&mut self, machine: usize) {
        let slow = if self.stormy && self.dice.one_in(25) {
            1_500
        } else {
            15
        };
        let wait = self.dice.below(slow);
        self.wake_in(machine, wait);
    }

    fn wake_in(&mut self, machine: usize, wait: u64) {
        let at = self.now + wait;
        let Some(process) = self.machines[machine].process.as_mut() else {
            return;
        };
        let id = process.id;
        let Some(agent) = &mut process.agent else {
            return;
        };
        if agent.wake.is_none_or(|wake| at < wake) {
            agent.wake = Some(at);
            self.after(machine, id, wait, Event::Pass);
        }
    }

    // === the view ===

    /// Carries out what the view asks for, and hears what it says.
    pub fn drive(&mut self, machine: usize) {
        let life = self.life;
        let Some(agent) = self.agent(machine) else {
            return;
        };
        let mut wait = Duration::ZERO;
        let request = match agent.view.step() {
            ViewStep::Follow => {
                if agent.view.take_progress_request()
                    && let Some(stream) = agent.stream.as_ref().filter(|s| s.life == life)
                {
                    let watch = stream.watch;
                    self.etcd.progress(watch);
                    self.stream_soon(machine);
                }
                None
            }
            _ if agent.asking => None,
            ViewStep::Read { avoid } => {
                if avoid {
                    self.machines[machine].silent = false;
                }
                let Some(agent) = self.agent(machine) else {
                    return;
                };
                wait = agent.view.pause();
                let stream = agent.stream.take().filter(|s| s.life == life);
                if let Some(stream) = stream {
                    self.etcd.cancel(stream.watch);
                }
                Some(Request::Range(Range::key(Key::Cluster)))
            }
            ViewStep::Range(range) => Some(Request::Range(range)),
            ViewStep::Watch { from } => Some(Request::Watch(from)),
        };
        if let Some(request) = request {
            if let Some(agent) = self.agent(machine) {
                agent.asking = true;
            }
            self.later(machine, wait, Event::Send(Asker::View, request));
        }
        self.hear(machine);
    }

    /// Takes what the view has to say.
    fn hear(&mut self, machine: usize) {
        let now = self.clock(machine);
        let Some(agent) = self.agent(machine) else {
            return;
        };
        let Some(update) = agent.view.take_update() else {
            return;
        };
        let before = agent.trust();
        let known = agent.seen.replace(update.clone());
        let after = agent.trust();
        if update.accepted.is_some() {
            let known = known.map(|seen| seen.snapshot).unwrap_or_default();
            agent.before.get_or_insert(known);
            self.machines[machine].disk.accepted = true;
        }
        let Some(agent) = self.agent(machine) else {
            return;
        };
        if after == Trust::Full {
            agent.local.see(&update.snapshot, now);
            self.machines[machine].witness.sees(&update.snapshot, now);
        }
        if before != after {
            self.tell(machine, || {
                let so = trust_text(after);
                format!(
                    "sees {}: {so} ({:?})",
                    update.snapshot.revision, update.trust
                )
            });
        }
        self.record_follows(machine, &update);
        self.wake(machine);
    }

    /// The stream brings what waits.
    pub fn stream(&mut self, machine: usize) {
        let now = self.clock(machine);
        let at = &mut self.machines[machine];
        let Some(agent) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        let Some(stream) = &mut agent.stream else {
            return;
        };
        stream.coming = false;
        // What comes before the view is proven waits.
        if !at.net.streams || at.silent || agent.view.step() != ViewStep::Follow {
            return;
        }
        // What comes while the view asks waits until it follows.
        while agent.view.step() == ViewStep::Follow {
            let ended = stream.life != self.life;
            let reply = if ended {
                WatchReply::Closed("etcd restarted".to_owned())
            } else if let Some(reply) = self.etcd.poll(stream.watch) {
                reply
            } else {
                break;
            };
            agent.view.answer(Answer::Reply(reply), now);
        }
        self.drive(machine);
    }

    fn view_answered(&mut self, machine: usize, answer: Answered) {
        let now = self.clock(machine);
        let (life, noticed) = (self.life, self.dice.one_in(2));
        let Some(agent) = self.agent(machine) else {
            return;
        };
        agent.asking = false;
        let ended = agent.stream.as_ref().is_some_and(|s| s.life != life);
        if let (ViewStep::Read { .. }, Ok(Reply::Range(reply))) = (agent.view.step(), &answer) {
            agent.first_read = reply.revision;
        }
        let answer = match answer {
            // An answer says nothing of a stream that has ended before it, where that is noticed.
            Ok(_) if ended && noticed => {
                Answer::Reply(WatchReply::Closed("etcd restarted".to_owned()))
            }
            Ok(Reply::Range(reply)) if matches!(agent.view.step(), ViewStep::Read { .. }) => {
                Answer::Read(FirstRead {
                    cluster: reply
                        .kvs
                        .first()
                        .and_then(|kv| serde_json::from_slice(&kv.value).ok()),
                    revision: reply.revision,
                })
            }
            Ok(Reply::Range(reply)) => Answer::Page(reply),
            Ok(Reply::Watch(watch, of)) if of == life => {
                agent.stream = Some(Stream {
                    watch,
                    life,
                    coming: false,
                });
                Answer::Opened
            }
            Err(KvError::Compacted) => Answer::Compacted,
            _ => Answer::Failed,
        };
        agent.view.answer(answer, now);
        self.stream_soon(machine);
        self.drive(machine);
    }

    /// An answer reaches the agent.
    pub fn answered(&mut self, machine: usize, asker: Asker, answer: Answered) {
        match asker {
            Asker::View => self.view_answered(machine, answer),
            Asker::Writes {
                batch,
                writes,
                seen,
            } => self.wrote(machine, &batch, writes, seen, answer),
            Asker::Host => self.host_answered(machine, answer),
            Asker::KeepAlive(lease) => self.kept(machine, lease, answer),
        }
    }

    fn wrote(
        &mut self,
        machine: usize,
        batch: &claims::Batch,
        writes: Vec<Write>,
        seen: i64,
        answer: Answered,
    ) {
        let now = self.clock(machine);
        let mut held = vec![None; writes.len()];
        let mut revision = 0;
        if let Ok(Reply::Txn(reply)) = answer {
            revision = reply.revision;
            for (answer, (_, reply)) in held.iter_mut().zip(batch.results(reply)) {
                *answer = Some(reply.succeeded);
            }
        }
        for (write, held) in writes.iter().zip(&held) {
            self.tell(machine, || {
                let text = match held {
                    Some(true) => "written",
                    Some(false) => "guard did not hold",
                    None => "no answer",
                };
                format!("{text} at {revision}: {}", write)
            });
            let Some(agent) = self.agent(machine) else {
                return;
            };
            let Some(held) = held else {
                agent.local.not_written(write);
                agent.retry_writes_at = Some(now + WRITE_RETRY);
                continue;
            };
            agent.local.wrote(write, *held, revision, seen, now);
            if !held {
                let again = now + RETRY_REJECTED;
                let at = agent.replan_at.get_or_insert(again);
                *at = (*at).min(again);
            } else if write.kind != WriteKind::Status {
                agent.answered.insert(write.scope.clone(), revision);
            }
        }
        self.wake(machine);
    }

    // === the engine ===

    /// The agent looks at a container that changed.
    pub fn sight(&mut self, machine: usize, docker_id: &str) {
        let (now, wall) = (self.clock(machine), self.wall());
        let at = &mut self.machines[machine];
        let Some(agent) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        if at.engine.hangs {
            agent.observing.unresponsive("it hangs".to_owned());
            agent.next_list = agent.next_list.min(now + LIST_AGAIN);
            return;
        }
        let since = agent.observing.begin();
        match at.engine.twin.inspect(docker_id) {
            Ok(Some(container)) => agent.observing.look(container, since, wall),
            _ => agent.observing.gone(docker_id, wall),
        }
        self.wake(machine);
    }

    /// What came of a step.
    pub fn stepped(&mut self, machine: usize, report: ActionReport) {
        let (now, wall) = (self.clock(machine), self.wall());
        let Some(agent) = self.agent(machine) else {
            return;
        };
        match report.container {
            Some(made) if matches!(report.result, ActionResult::Prepared { .. }) => {
                agent.observing.made(*made, wall);
            }
            Some(container) => agent.observing.set(*container, wall),
            None => {}
        }
        if let Some(id) = report.gone {
            agent.observing.gone(&id, wall);
        }
        if let ActionResult::Resolved {
            container,
            rev,
            image,
            ..
        } = &report.result
        {
            self.version(machine, container.clone(), *rev, image.clone());
        }
        if let Some(agent) = self.agent(machine) {
            agent.local.record(&report.result, now);
            agent.failed.extend(failed(&report.result));
        }
        self.wake(machine);
    }

    /// A look at a running instance.
    pub fn look(&mut self, machine: usize, instance: &InstanceId, started_at: i64) {
        let wall = self.wall();
        let cluster = self.cluster.id;
        let at = &mut self.machines[machine];
        let Some(agent) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        if agent.looks.get(instance) != Some(&started_at) {
            return;
        }
        let found = at
            .engine
            .running(cluster)
            .into_iter()
            .find(|c| c.owner.instance == *instance);
        let ready = found
            .filter(|_| !at.engine.hangs)
            .is_some_and(|c| at.engine.is_ready(&c, wall));
        let before = agent.observing.observed().readiness(instance).clone();
        let after = match (ready, &before) {
            (true, _) => Readiness::Ready,
            (false, Readiness::Starting) => Readiness::Starting,
            (false, _) => Readiness::Unready("it does not listen".to_owned()),
        };
        if before != after {
            agent.observing.ready(instance, started_at, after.clone());
            self.tell(machine, || format!("finds {instance} {after:?}"));
            self.wake(machine);
        }
        // One that is ready is looked at again when something happens to it.
        if !ready {
            let again = Event::Look(instance.clone(), started_at);
            self.later(machine, Duration::from_millis(1_500), again);
        }
    }

    /// Looks at every running instance again soon, and at the engine.
    pub fn look_again(&mut self, machine: usize) {
        let now = self.clock(machine);
        let Some(agent) = self.agent(machine) else {
            return;
        };
        agent.next_list = now;
        let looks: Vec<(InstanceId, i64)> =
            agent.looks.iter().map(|(i, at)| (i.clone(), *at)).collect();
        for (instance, started_at) in looks {
            self.later(
                machine,
                Duration::from_millis(500),
                Event::Look(instance, started_at),
            );
        }
    }

    // === the loop ===

    /// The loop makes a pass.
    pub fn pass(&mut self, machine: usize) {
        let now = self.clock(machine);
        let (real, idle) = (self.now, self.machines[machine].idle);
        let at = &mut self.machines[machine];
        let Some(process) = at.process.as_mut() else {
            return;
        };
        let (trusted, same_boot) = (process.trust(), process.host.same_boot);
        let Some(agent) = &mut process.agent else {
            return;
        };
        if agent.wake != Some(real) {
            return;
        }
        agent.wake = None;
        if agent.seen.is_none() || !agent.observing.is_complete() {
            return;
        }
        agent.local.observe(agent.observing.observed(), now);
        agent.replan_at = agent.replan_at.filter(|at| *at > now);
        let retry = agent.retry_writes_at.filter(|at| now < *at);
        agent.retry_writes_at = retry;
        let trusted = if agent.looks_through(&mut at.disk, now) {
            trusted
        } else {
            Trust::RestartsOnly
        };
        agent.entered |= trusted == Trust::Full;
        let up = agent.observing.observed().engine == EngineState::Up;
        if !agent.entered && !same_boot {
            // The machine was down: others may have its slots.
            return;
        }
        let trust = match retry {
            Some(_) => Trust::RestartsOnly,
            None => trusted,
        };
        let mut next = vec![now + PULSE];
        next.extend(retry);
        next.extend(agent.replan_at);
        if trust == Trust::Full {
            self.resume(machine);
        }
        if let Some(requeue) = self.plan(machine, trust, idle, now) {
            next.push(requeue);
        }
        let wait = next.into_iter().min().map_or(PULSE, |at| at - now);
        let wait = self.really(machine, wait).max(1);
        self.wake_in(machine, wait);
        self.follow_running(machine);
        self.record_says(machine, up);
    }

    /// Takes up what an earlier process said of its slots, once.
    fn resume(&mut self, machine: usize) {
        let wall = self.wall();
        let all = Range::new(KeyRange::prefix(keys::STATUS));
        let said = self.etcd.range(&all).map(|reply| reply.kvs);
        let me = self.machines[machine].host.name.clone();
        let Some(agent) = self.agent(machine).filter(|agent| !agent.resumed) else {
            return;
        };
        agent.resumed = true;
        for kv in said.unwrap_or_default() {
            let status = serde_json::from_slice::<Status>(&kv.value).ok();
            if let (Some(Key::Status(slot)), Some(status)) = (Key::parse(&kv.key), status)
                && status.host == me
            {
                if let Some(container) = &status.container_id {
                    agent.observing.was(&status.instance, container, wall);
                }
                agent.local.resume(slot, status);
            }
        }
    }

    fn plan(&mut self, machine: usize, trust: Trust, idle: bool, now: Millis) -> Option<Millis> {
        let mut names = self.number();
        let rules = self.rules;
        let at = &mut self.machines[machine];
        let agent = at.process.as_mut()?.agent.as_mut()?;
        let seen = agent.seen.as_ref()?;
        let mut fresh = || {
            names += 1;
            format!("i{names}")
                .parse()
                .expect("letters and digits are an instance's name")
        };
        let mut planned = plan(
            Inputs {
                snapshot: &seen.snapshot,
                observed: agent.observing.observed(),
                memory: &agent.local,
                host: &at.host,
                trust,
                rules,
                now,
            },
            &mut fresh,
        );
        if idle {
            planned.writes.retain(|write| !invariants::takes(write));
        }
        let harm = invariants::planned(
            &self.truth,
            &mut self.machines[machine],
            &planned,
            trust,
            now,
        );
        while self.number() < names {}
        let wall = self.wall();
        let at = &mut self.machines[machine];
        let agent = at.process.as_mut()?.agent.as_mut()?;
        agent.local.begin(&planned, now);
        for step in &planned.actions {
            if let Action::Prepare(Prepare { instance, .. }) = step {
                agent.observing.intend(instance, wall);
            }
        }
        if let Some(notes) = agent.observing.unsaved() {
            at.disk.notes = notes.clone();
            agent.observing.saved();
        }
        if let Some(harm) = harm {
            self.forbid(harm);
        }
        self.write_out(machine, planned.writes);
        for step in planned.actions {
            self.tell(machine, || format!("does {}", invariants::step_text(&step)));
            let wait = 1 + self.dice.below(if self.stormy { 400 } else { 50 });
            self.later(machine, Duration::from_millis(wait), Event::Effect(step));
        }
        planned.requeue_at
    }

    fn write_out(&mut self, machine: usize, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        let rules = self.rules;
        let Some(seen) = self
            .agent(machine)
            .and_then(|agent| Some(agent.snapshot()?.revision))
        else {
            return;
        };
        let txns = writes
            .iter()
            .map(|write| claims::txn(write, rules))
            .collect();
        for write in &writes {
            self.tell(machine, || format!("at {seen} writes {}", write));
        }
        let mut left: Vec<Option<Write>> = writes.into_iter().map(Some).collect();
        for batch in claims::batch(txns, rules) {
            let carried = batch
                .carries
                .iter()
                .filter_map(|position| left.get_mut(*position)?.take())
                .collect();
            let request = Request::Txn(batch.txn.clone());
            let asker = Asker::Writes {
                batch,
                writes: carried,
                seen,
            };
            self.send(machine, asker, request);
        }
    }

    /// The image of a version was decided here; whether it counts, etcd says.
    fn version(&mut self, machine: usize, container: ContainerId, rev: VersionId, image: String) {
        let Some(agent) = self.agent(machine) else {
            return;
        };
        let view = agent.snapshot().and_then(|s| s.containers.get(&container));
        let Some(manifest) = view
            .and_then(|view| view.manifest.as_ref())
            .filter(|m| m.modified.version() == rev)
        else {
            return;
        };
        let Desired::Valid { json, .. } = &manifest.value else {
            return;
        };
        let version = Version {
            manifest: json.as_ref().clone(),
            image,
            good: false,
            volumes: Vec::new(),
        };
        let write = Write::version(container, rev, version);
        agent.local.begin_write(&write);
        self.write_out(machine, vec![write]);
    }

    /// Running instances are looked at until they are ready.
    fn follow_running(&mut self, machine: usize) {
        let Some(agent) = self.agent(machine) else {
            return;
        };
        let mut begin = Vec::new();
        let mut there = BTreeSet::new();
        for (instance, container) in &agent.observing.observed().containers {
            let Some(running) = container.running() else {
                continue;
            };
            there.insert(instance.clone());
            if agent.looks.get(instance) != Some(&running.started_at) {
                begin.push((
                    instance.clone(),
                    running.started_at,
                    container.ports.is_empty(),
                ));
            }
        }
        agent.looks.retain(|instance, _| there.contains(instance));
        for (instance, started_at, by_age) in begin {
            if let Some(agent) = self.agent(machine) {
                agent.looks.insert(instance.clone(), started_at);
            }
            let wait = if by_age { 1_001 } else { 100 };
            self.later(
                machine,
                Duration::from_millis(wait),
                Event::Look(instance, started_at),
            );
        }
    }
}

/// Whose step could not be done.
fn failed(outcome: &ActionResult) -> Option<ContainerId> {
    match outcome {
        ActionResult::NotResolved { container, .. } => Some(container.clone()),
        ActionResult::NotPrepared { slot, .. } | ActionResult::NotStarted { slot, .. } => {
            Some(slot.container.clone())
        }
        ActionResult::Resolved { .. }
        | ActionResult::Prepared { .. }
        | ActionResult::Done { .. }
        | ActionResult::Failed { .. } => None,
    }
}

fn trust_text(trust: Trust) -> &'static str {
    match trust {
        Trust::Full => "etcd is followed",
        Trust::RestartsOnly => "etcd is not to be acted on",
    }
}
