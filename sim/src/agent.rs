//! An agent: the real view, host record and agent machines, driven by events instead of a runtime. What they want done is
//! carried out over the simulated network, disk and engine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agent::{
    Agent, AgentOptions, Effect, EngineUpdate, Input, Inspection, Names, Now, OpenConnections,
    ProbeResult, Saving, StateFile, WriteAnswers,
};
use manifests::keys::Key;
use manifests::{ContainerId, InstanceId};
use model::observed::{Listing, ObservedContainer, Readiness};
use model::records::Cluster;
use model::{ActionReport, ActionResult, Write, WriteKind};
use planner::Plan;
use store::claims::{self, WriteBatch};
use store::host::HostStatus;
use store::kv::{KvError, Range, WatchReply};
use store::view::{Answer, FirstRead, Step as ViewStep, View, ViewOptions};
use uuid::Uuid;

use crate::host_life::HostLife;
use crate::invariants;
use crate::members::Life;
use crate::network::{Answered, Asker, Reply, Request};
use crate::process::{Joined, Process, Stream};
use crate::trace::step_text;
use crate::world::{Event, World};

/// How often an agent looks at the time.
const TICK: Duration = Duration::from_secs(1);
/// A changed view is saved this often.
const SAVE: Duration = Duration::from_secs(3);
/// Time between two healing lists of the engine, and while it does not answer.
const LIST: Duration = Duration::from_secs(20);
const LIST_AGAIN: Duration = Duration::from_secs(2);

impl World {
    fn joined(&mut self, machine: usize) -> Option<&mut Joined> {
        let process = self.machines[machine].process.as_mut()?;
        process.agent.as_deref_mut()
    }

    fn moment(&self, machine: usize) -> Now {
        Now {
            mono: self.clock(machine),
            wall: self.wall(),
        }
    }

    /// Starts the agent of a machine, if it has power and none runs.
    pub fn start(&mut self, machine: usize) {
        let at = &self.machines[machine];
        if !at.powered || at.gone || at.process.is_some() {
            return;
        }
        let id = self.number();
        let session = Uuid::from_u128(0x5e55_0000 + u128::from(id));
        self.tell(machine, || format!("agent starts, session {id}"));
        let host = self.host_life(machine, session);
        let cluster = self.machines[machine].disk.cluster.clone();
        let agent = cluster.map(|cluster| Box::new(self.join(machine, id, cluster, &host)));
        let at = &mut self.machines[machine];
        at.witness.sessions.insert(session);
        at.witness.restarted();
        at.process = Some(Process {
            id,
            host,
            agent,
            said: String::new(),
        });
        self.is_idle(machine);
        self.drive_host(machine);
        self.tick(machine);
    }

    fn join(&mut self, machine: usize, id: u64, cluster: Cluster, host: &HostLife) -> Joined {
        let now = self.moment(machine);
        let (seed, rules) = (self.dice.roll(), self.rules);
        let at = &self.machines[machine];
        let mut options = ViewOptions::new(cluster, at.disk.view.clone(), None);
        options.held = at.disk.hold.is_some();
        options.seed = seed;
        options.rules = rules;
        let mut made = 0;
        let name = move || {
            made += 1;
            format!("i{id}-{made}")
                .parse()
                .expect("letters and digits are an instance's name")
        };
        let agent = AgentOptions {
            host: at.host.clone(),
            same_boot: host.same_boot,
            notes: at.disk.notes.clone(),
            orphans: at.disk.orphans.clone(),
            names: Names(Box::new(name)),
            rules,
        };
        Joined {
            view: View::new(&options, now.mono),
            agent: Agent::new(agent, now),
            first_read: (0, 0),
            answered: BTreeMap::new(),
            failed: BTreeSet::new(),
            host: None,
            stream: None,
            endpoint: 0,
            asking: false,
            probes: BTreeMap::new(),
            counted: BTreeMap::new(),
            wake: None,
            wake_at: now.mono,
            next_list: now.mono,
            next_save: now.mono + SAVE,
            saved: (0, 0),
        }
    }

    /// How the host stands: the view has to reach its record, and one that can't join ends.
    pub fn host_stands(&mut self, machine: usize, floor: i64, status: &HostStatus) {
        let stands = (status.clone(), floor);
        if let Some(joined) = self.joined(machine)
            && joined.host.as_ref() != Some(&stands)
        {
            let before = joined.host.replace(stands).map_or(0, |(_, floor)| floor);
            self.feed(
                machine,
                Input::Host {
                    status: status.clone(),
                    floor,
                },
            );
            if let Some(joined) = self.joined(machine).filter(|_| before != floor) {
                joined.view.floor(floor);
                self.drive(machine);
            }
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
        let now = self.clock(machine);
        self.later(machine, TICK, Event::Tick);
        let at = &mut self.machines[machine];
        let Some(joined) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        joined.view.tick(now);
        if now >= joined.next_save {
            joined.next_save = now + SAVE;
            let position = joined.view.position();
            if position != joined.saved && position.1 != 0 {
                joined.saved = position;
                at.disk.save(joined.view.saved());
            }
        }
        if now >= joined.next_list {
            self.list(machine);
        }
        self.drive(machine);
    }

    /// A keep-alive answer carried this revision.
    pub fn seen(&mut self, machine: usize, revision: i64) {
        let now = self.clock(machine);
        if let Some(joined) = self.joined(machine) {
            joined.view.seen(revision, now);
            self.drive(machine);
        }
    }

    // === the view ===

    /// Carries out what the view asks for, and hears what it says.
    pub fn drive(&mut self, machine: usize) {
        let Some(agent) = self.joined(machine) else {
            return;
        };
        let mut wait = Duration::ZERO;
        let request = match agent.view.step() {
            ViewStep::Follow => {
                if agent.view.take_progress_request()
                    && let Some(stream) = &mut agent.stream
                {
                    stream.asked = true;
                    self.stream_soon(machine);
                }
                None
            }
            _ if agent.asking => None,
            ViewStep::Read { avoid } => {
                if avoid {
                    self.machines[machine].silent = false;
                    self.next_member(machine);
                }
                let endpoint = self.machines[machine].member;
                let Some(agent) = self.joined(machine) else {
                    return;
                };
                agent.endpoint = endpoint;
                wait = agent.view.pause();
                if let Some(stream) = agent.stream.take()
                    && self.lives(stream.of)
                {
                    self.etcd.cancel(stream.watch);
                }
                Some(Request::Range(Range::key(Key::Cluster)))
            }
            ViewStep::Range(range) => Some(Request::Range(range)),
            ViewStep::Watch { from } => Some(Request::Watch(from)),
        };
        if let Some(request) = request {
            if let Some(agent) = self.joined(machine) {
                agent.asking = true;
            }
            self.later(machine, wait, Event::Send(Asker::View, request));
        }
        self.hear(machine);
    }

    /// Takes what the view has to say.
    fn hear(&mut self, machine: usize) {
        let now = self.clock(machine);
        let Some(joined) = self.joined(machine) else {
            return;
        };
        let Some(update) = joined.view.take_update() else {
            return;
        };
        let (trust, revision) = (update.trust.clone(), update.snapshot.revision);
        let before = joined.agent.follows();
        self.feed(machine, Input::View(Box::new(update)));
        let at = &mut self.machines[machine];
        let Some(joined) = at.process.as_ref().and_then(|p| p.agent.as_ref()) else {
            return;
        };
        let after = joined.agent.follows();
        if let Some(seen) = joined.agent.snapshot().filter(|_| after) {
            at.witness.sees(seen, now);
        }
        if before != after {
            let so = if after {
                "etcd is followed"
            } else {
                "etcd is not to be acted on"
            };
            self.tell(machine, || format!("sees {revision}: {so} ({trust:?})"));
        }
    }

    /// The stream brings what waits.
    pub fn stream(&mut self, machine: usize) {
        let now = self.clock(machine);
        let (members, whole) = (&mut self.members, self.etcd.revision());
        let at = &mut self.machines[machine];
        let Some(agent) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        let Some(stream) = &mut agent.stream else {
            return;
        };
        stream.coming = false;
        let member = &mut members[stream.of.member];
        let ended = !member.lives(stream.of);
        // What comes before the view is proven waits.
        if !at.net.streams
            || at.silent
            || (member.stalled && !ended)
            || agent.view.step() != ViewStep::Follow
        {
            return;
        }
        let applied = member.applied(self.now);
        if member.ahead && !ended && std::mem::take(&mut stream.asked) {
            let progress = WatchReply::Progress(whole);
            agent.view.answer(Answer::Reply(progress), now);
            self.stream_soon(machine);
            self.drive(machine);
            return;
        }
        let known = agent.view.position().1;
        let mut says_old = false;
        // What comes while the view asks waits until it follows.
        while agent.view.step() == ViewStep::Follow && !says_old {
            let reply = if ended {
                WatchReply::Closed("etcd restarted".to_owned())
            } else if let Some(reply) = self.etcd.poll_applied(stream.watch, applied) {
                if stream.loses > 0
                    && let WatchReply::Events(events, _) = &reply
                {
                    stream.loses -= 1;
                    at.witness.loses(events, now);
                    continue;
                }
                reply
            } else if std::mem::take(&mut stream.asked) {
                WatchReply::Progress(applied)
            } else {
                break;
            };
            // One answer at a time, so that what is old would be seen.
            says_old = matches!(&reply, WatchReply::Events(events, _)
                if events.iter().all(|event| event.modified() <= known));
            agent.view.answer(Answer::Reply(reply), now);
        }
        if says_old || applied < whole {
            self.stream_soon(machine);
        }
        self.drive(machine);
    }

    fn view_answered(&mut self, machine: usize, answer: Answered) {
        let now = self.clock(machine);
        let noticed = self.dice.one_in(2);
        let (members, at) = (&self.members, &mut self.machines[machine]);
        let Some(agent) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        agent.asking = false;
        let lives = |of: Life| members[of.member].lives(of);
        let ended = agent.stream.as_ref().is_some_and(|s| !lives(s.of));
        let elsewhere = at.member != agent.endpoint;
        if let (ViewStep::Read { .. }, Ok(Reply::Range(reply))) = (agent.view.step(), &answer) {
            agent.first_read = (reply.revision, self.truth.former.len());
        }
        let answer = match answer {
            Ok(_) if elsewhere => Answer::Failed,
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
            Ok(Reply::Watch(watch, of)) if lives(of) => {
                agent.stream = Some(Stream {
                    watch,
                    of,
                    coming: false,
                    asked: false,
                    loses: 0,
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
            Asker::Writes { batch, seen } => self.wrote(machine, batch, seen, answer),
            Asker::Statuses => {
                let statuses = match answer {
                    Ok(Reply::Range(reply)) => Some(reply),
                    _ => None,
                };
                self.feed(machine, Input::Statuses(statuses));
            }
            Asker::Host => self.host_answered(machine, answer),
            Asker::KeepAlive(lease) => self.kept(machine, lease, answer),
        }
    }

    fn wrote(&mut self, machine: usize, batch: WriteBatch, seen: i64, answer: Answered) {
        let (revision, reply) = match answer {
            Ok(Reply::Txn(reply)) => (reply.revision, Some(reply)),
            _ => (0, None),
        };
        let writes = batch.answered(reply);
        for (write, held) in &writes {
            self.tell(machine, || {
                let text = match held {
                    Some(true) => "written",
                    Some(false) => "guard did not hold",
                    None => "no answer",
                };
                format!("{text} at {revision}: {write}")
            });
            if *held == Some(true)
                && write.kind != WriteKind::Status
                && let Some(joined) = self.joined(machine)
            {
                joined.answered.insert(write.scope.clone(), revision);
            }
        }
        let answers = WriteAnswers {
            writes,
            revision,
            seen,
        };
        self.feed(machine, Input::Wrote(answers));
    }

    // === the engine ===

    fn list(&mut self, machine: usize) {
        let now = self.clock(machine);
        let cluster = self.cluster.id;
        let at = &mut self.machines[machine];
        let Some(joined) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        let update = if at.engine.hangs {
            joined.next_list = now + LIST_AGAIN;
            EngineUpdate::Unresponsive("it hangs".to_owned())
        } else {
            joined.next_list = now + LIST;
            EngineUpdate::List(Listing {
                labelled: at.engine.labelled(cluster),
                ..Listing::default()
            })
        };
        self.asked(machine, Inspection::List);
        self.feed(machine, Input::Engine(update));
    }

    /// The agent looks at a container that changed.
    pub fn sight(&mut self, machine: usize, docker_id: &str) {
        let now = self.clock(machine);
        let at = &mut self.machines[machine];
        let Some(joined) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        let update = if at.engine.hangs {
            joined.next_list = joined.next_list.min(now + LIST_AGAIN);
            EngineUpdate::Unresponsive("it hangs".to_owned())
        } else {
            match at.engine.twin.inspect(docker_id) {
                Ok(Some(container)) => EngineUpdate::Container(Box::new(container)),
                _ => EngineUpdate::Gone(docker_id.to_owned()),
            }
        };
        self.asked(machine, Inspection::Container(docker_id.to_owned()));
        self.feed(machine, Input::Engine(update));
    }

    fn asked(&mut self, machine: usize, what: Inspection) {
        let now = self.moment(machine);
        if let Some(joined) = self.joined(machine) {
            let asked = EngineUpdate::Asked(what);
            joined.agent.on(Input::Engine(asked), now);
        }
    }

    /// What came of an action.
    pub fn stepped(&mut self, machine: usize, report: ActionReport) {
        if let Some(joined) = self.joined(machine) {
            joined.failed.extend(failed(&report.result));
        }
        self.feed(machine, Input::Done(report));
    }

    /// A probe of a running instance.
    pub fn probe(&mut self, machine: usize, instance: &InstanceId, started_at: i64) {
        let wall = self.wall();
        let cluster = self.cluster.id;
        let at = &mut self.machines[machine];
        let Some(joined) = at.process.as_mut().and_then(|p| p.agent.as_mut()) else {
            return;
        };
        if joined.probes.get(instance) != Some(&started_at) {
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
        let before = joined.agent.observed().readiness(instance).clone();
        let readiness = match (ready, &before) {
            (true, _) => Readiness::Ready,
            (false, Readiness::Starting) => Readiness::Starting,
            (false, _) => Readiness::Unready("it does not listen".to_owned()),
        };
        if before != readiness {
            self.tell(machine, || format!("finds {instance} {readiness:?}"));
            let result = ProbeResult {
                instance: instance.clone(),
                started_at,
                readiness,
                reason: None,
            };
            self.feed(machine, Input::Probed(result));
        }
        // One that is ready is looked at again when something happens to it.
        if !ready {
            let again = Event::Probe(instance.clone(), started_at);
            self.later(machine, Duration::from_millis(1_500), again);
        }
    }

    /// Probes every running instance again soon, and looks at the engine.
    pub fn look_again(&mut self, machine: usize) {
        let now = self.clock(machine);
        let Some(joined) = self.joined(machine) else {
            return;
        };
        joined.next_list = now;
        let soon = Duration::from_millis(500);
        for (instance, started_at) in joined.probes.clone() {
            self.later(machine, soon, Event::Probe(instance, started_at));
        }
    }

    /// An idle agent believes that etcd refuses its writes: it takes nothing.
    pub fn is_idle(&mut self, machine: usize) {
        let idle = self.machines[machine].idle;
        let why = idle.then(|| "etcd has no space left".to_owned());
        self.feed(machine, Input::Alarm(why));
    }

    // === the loop ===

    /// Something has happened to the agent. What follows from it at once is done; the loop makes a pass soon.
    pub(crate) fn feed(&mut self, machine: usize, input: Input) {
        let now = self.moment(machine);
        let Some(joined) = self.joined(machine) else {
            return;
        };
        joined.agent.on(input, now);
        while let Some(effect) = self.joined(machine).and_then(|j| j.agent.decided()) {
            self.carry_out(machine, effect);
        }
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
        let Some(joined) = &mut process.agent else {
            return;
        };
        if joined.wake.is_none_or(|wake| at < wake) {
            joined.wake = Some(at);
            self.after(machine, id, wait, Event::Pass);
        }
    }

    /// The loop makes a pass.
    pub fn pass(&mut self, machine: usize) {
        let now = self.moment(machine);
        let real = self.now;
        let Some(joined) = self.joined(machine).filter(|j| j.wake == Some(real)) else {
            return;
        };
        joined.wake = None;
        let plans = joined.agent.counts().plans;
        self.steps += 1;
        let (mut planned, mut effects) = (Plan::default(), Vec::new());
        while let Some(effect) = self.joined(machine).and_then(|j| j.agent.next(now)) {
            match &effect {
                Effect::Write { writes, .. } => planned.writes.extend(writes.iter().cloned()),
                Effect::Act(action) => planned.actions.push(action.clone()),
                _ => {
                    self.carry_out(machine, effect);
                    continue;
                }
            }
            effects.push(effect);
        }
        let Some(joined) = self.joined(machine) else {
            return;
        };
        if joined.agent.counts().plans != plans {
            let at = &mut self.machines[machine];
            if let Some(harm) = invariants::planned(&self.truth, at, &planned, now.mono) {
                self.forbid(harm);
            }
        }
        for effect in effects {
            self.carry_out(machine, effect);
        }
        if let Some(at) = self.joined(machine).map(|joined| joined.wake_at) {
            let wait = self.really(machine, at - now.mono).max(1);
            self.wake_in(machine, wait);
        }
    }

    fn carry_out(&mut self, machine: usize, effect: Effect) {
        match effect {
            Effect::Write { writes, seen } => self.write_out(machine, writes, seen),
            Effect::ReadStatuses(range) => {
                self.send(machine, Asker::Statuses, Request::Range(range));
            }
            Effect::Act(action) => {
                self.tell(machine, || format!("does {}", step_text(&action)));
                let wait = 1 + self.dice.below(if self.stormy { 400 } else { 50 });
                self.later(machine, Duration::from_millis(wait), Event::Effect(action));
            }
            Effect::Ask(question) => self.ask_registry(machine, question),
            Effect::Probe(probe) => self.begin_probe(machine, &probe.container),
            Effect::EndProbe(instance) => {
                if let Some(joined) = self.joined(machine) {
                    joined.probes.remove(&instance);
                }
            }
            Effect::CountConnections(counted) => {
                let (instance, started_at) = (counted.instance, counted.process.started_at);
                if let Some(joined) = self.joined(machine) {
                    joined.counted.insert(instance.clone(), started_at);
                }
                let soon = Duration::from_millis(1 + self.dice.below(20));
                self.later(machine, soon, Event::Count(instance, started_at));
            }
            Effect::EndCount(instance) => {
                if let Some(joined) = self.joined(machine) {
                    joined.counted.remove(&instance);
                }
            }
            Effect::Save(saving) => {
                let disk = &mut self.machines[machine].disk;
                let file = match saving {
                    Saving::Orphans(note) => {
                        disk.orphans = note;
                        StateFile::Orphans
                    }
                    Saving::Instances(notes) => {
                        disk.notes = notes;
                        StateFile::Instances
                    }
                };
                let now = self.moment(machine);
                if let Some(joined) = self.joined(machine) {
                    // Revisions of the former history say nothing about this one.
                    if file == StateFile::Orphans {
                        joined.answered.clear();
                    }
                    joined.agent.on(Input::Saved(file, Ok(())), now);
                }
            }
            Effect::Follow(update) => self.record_follows(machine, &update),
            Effect::Report { engine, .. } => self.record_says(machine, engine),
            Effect::WakeAt(at) => {
                if let Some(joined) = self.joined(machine) {
                    joined.wake_at = at;
                }
            }
            Effect::Log(line) => self.tell(machine, || format!("{line:?}")),
            // Nobody reads them here.
            Effect::ReadLastLines { .. } | Effect::Publish(_) | Effect::Record(_) => {}
        }
    }

    fn write_out(&mut self, machine: usize, writes: Vec<Write>, seen: i64) {
        for write in &writes {
            self.tell(machine, || format!("at {seen} writes {write}"));
        }
        for batch in claims::pack(writes, self.rules) {
            let request = Request::Txn(batch.txn().clone());
            self.send(machine, Asker::Writes { batch, seen }, request);
        }
    }

    /// Clients of what leaves stay for a while, or are gone.
    pub fn count(&mut self, machine: usize, instance: &InstanceId, started_at: i64) {
        let open = self.dice.below(4).saturating_sub(1) as u32;
        let Some(joined) = self.joined(machine) else {
            return;
        };
        if joined.counted.get(instance) != Some(&started_at) {
            return;
        }
        self.tell(machine, || {
            format!("finds {open} connections of {instance}")
        });
        self.feed(
            machine,
            Input::Connections(OpenConnections {
                instance: instance.clone(),
                started_at,
                open: Some(open),
            }),
        );
        let again = Event::Count(instance.clone(), started_at);
        self.later(machine, Duration::from_millis(200), again);
    }

    /// Running instances are probed until they are ready.
    fn begin_probe(&mut self, machine: usize, container: &ObservedContainer) {
        let (Some(joined), Some(process)) = (self.joined(machine), container.running()) else {
            return;
        };
        let (instance, started_at) = (container.owner.instance.clone(), process.started_at);
        if joined.probes.insert(instance.clone(), started_at) == Some(started_at) {
            return;
        }
        let by_age = container.ports.is_empty();
        let wait = Duration::from_millis(if by_age { 1_001 } else { 100 });
        self.later(machine, wait, Event::Probe(instance, started_at));
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
        | ActionResult::Failed { .. }
        | ActionResult::NotRenamed { .. } => None,
    }
}
