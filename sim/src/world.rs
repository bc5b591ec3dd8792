//! The simulated world: one etcd, a network, machines with clocks, disks and engines, and what is under way between
//! them.
//!
//! Time is virtual. Everything that will happen stands in one queue by its time;
//! how long things take is thrown by the seed.

use model::ModRev;
use std::collections::BTreeMap;
use std::time::Duration;

use manifests::keys::{Key, WATCH_END, WATCH_START};
use manifests::{HostName, InstanceId, SlotId};
use model::records::{Cluster, Phase};
use model::snapshot::{Change, Snapshot};
use model::{Action, ActionReport, Host, Millis, Rules};
use store::kv::{Event as Told, KeyRange, Op, Range, Txn};
use store::memory::{MemEtcd, WatchId};
use uuid::Uuid;

use crate::agent::Process;
use crate::dice::Dice;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::faults::{Exercised, Fault};
use crate::invariants::{self, Witness};
use crate::members::{MEMBERS, Member};
use crate::network::{Answered, Asker, Net, Reply, Request, unavailable};
use crate::scenario::Scenario;
use crate::trace::Trace;

/// A call without an answer is given up after this.
const DEADLINE: u64 = 5_000;
/// A keep-alive after this.
const SHORT_DEADLINE: u64 = 1_200;
/// Host clocks begin here: a first moment must not look like no time at all.
const BEGIN: u64 = 1_000_000;

/// What will happen.
#[derive(Debug)]
pub enum Event {
    /// An agent's loop makes a pass.
    Pass,
    /// Time passes for an agent.
    Tick,
    /// A lease is to be renewed.
    KeepAlive(i64),
    /// A time has come that the record waits for.
    HostWake,
    /// An agent asks the network to carry this.
    Send(Asker, Request),
    /// A call reaches etcd.
    Arrive(Asker, Request, u64),
    /// An answer reaches the agent.
    Answer(Asker, Answered),
    /// The stream brings what waits.
    Stream,
    /// A step takes effect on the engine.
    Effect(Action),
    /// The loop hears what came of a step.
    Stepped(Box<ActionReport>),
    /// The agent sees a container that changed.
    Sight(String),
    /// A probe of a running instance.
    Probe(InstanceId, i64),
    /// The agent is started.
    Start,
    /// The processes end whose time has come.
    Ends,
    /// A fault.
    Fault,
    /// A fault that was ordered.
    Ordered(Fault),
    /// A member of etcd did not answer: another one is asked from now on.
    GiveUpMember,
}

/// An event and whom it is for: a machine and the process on it (0: whichever).
#[derive(Debug)]
struct Due {
    machine: usize,
    process: u64,
    event: Event,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// What its agent is called and gives to containers.
    pub host: Host,
    /// It has power.
    pub powered: bool,
    /// Its boot.
    pub boot: u64,
    /// Its disk.
    pub disk: Disk,
    /// Its engine.
    pub engine: Engine,
    /// Its agent.
    pub process: Option<Process>,
    /// Its network.
    pub net: Net,
    /// The member of etcd that its streams and keep-alives go to.
    pub member: usize,
    /// How fast its clock runs, in millionths.
    pub rate: u64,
    /// What its network takes longer than others', one way.
    pub lag: u64,
    /// Its stream says nothing, though it is open.
    pub silent: bool,
    /// Events of its engine are lost.
    pub deaf: bool,
    /// Its agent claims nothing, though it lives.
    pub idle: bool,
    /// It is not to come back, not even when the faults end.
    pub gone: bool,
    /// Placement rules that its agent knows.
    pub placement: Vec<u32>,
    /// What the invariants remember of it.
    pub witness: Witness,
}

impl Machine {
    /// Its agent's view follows etcd and may be acted on.
    pub fn sees_all(&self) -> bool {
        self.process.as_ref().is_some_and(Process::sees_all)
    }
}

/// The history of etcd as it really is.
#[derive(Debug)]
pub struct Truth {
    /// Now.
    pub now: Snapshot,
    /// The watched range at each revision of the present history …
    pub history: BTreeMap<i64, Snapshot>,
    /// … and of those that a restore ended.
    pub former: Vec<BTreeMap<i64, Snapshot>>,
    watch: WatchId,
}

/// All of it.
#[derive(Debug)]
pub struct World {
    /// True milliseconds.
    pub now: u64,
    /// Chance.
    pub dice: Dice,
    /// Rules in force.
    pub rules: Rules,
    /// What this seed is about.
    pub scenario: Scenario,
    /// The store.
    pub etcd: MemEtcd,
    /// Its members.
    pub members: [Member; MEMBERS],
    /// It answers nobody.
    pub away: bool,
    /// What it may be restored to.
    pub backups: Vec<MemEtcd>,
    /// What it really says.
    pub truth: Truth,
    /// The machines.
    pub machines: Vec<Machine>,
    /// The cluster.
    pub cluster: Cluster,
    /// What happened, for people.
    pub trace: Trace,
    /// Which faults there were.
    pub exercised: Exercised,
    /// The first thing that must not be.
    pub violation: Option<String>,
    /// Faults still happen.
    pub stormy: bool,
    /// Faults that are left.
    pub faults_left: u32,
    /// Events that did something.
    pub steps: usize,
    /// When something last changed in etcd or on an engine.
    pub changed_at: u64,
    /// Longest time of a call, one way.
    pub latency: u64,
    /// Claims that were won by a retake, by their revision.
    pub retaken: BTreeMap<SlotId, ModRev>,
    /// A machine that does not come back, if it has no power when the faults end.
    pub lost_for_good: Option<usize>,
    /// What users' containers are like, by name.
    pub likeness: BTreeMap<String, u64>,
    queue: BTreeMap<(u64, u64), Due>,
    order: u64,
    names: u64,
    leases: i64,
}

impl World {
    /// A world that nothing has happened in.
    pub fn new(seed: u64, hosts: usize, scenario: Scenario, rules: Rules, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let mut etcd = MemEtcd::new();
        let cluster = Cluster {
            id: Uuid::from_u128(0xc1),
            epoch: 1,
        };
        let made = Txn::new(vec![], vec![Op::put_json(Key::Cluster, &cluster)]);
        // An empty etcd takes it.
        let _ = etcd.txn(&made);
        let truth = Truth::of(&mut etcd);
        let latency = *dice.of(&[4, 20, 300]).unwrap_or(&20);
        let lost_for_good = dice.one_in(2).then(|| dice.below(hosts as u64) as usize);
        let mut world = Self {
            now: 0,
            dice,
            rules,
            scenario,
            etcd,
            members: std::array::from_fn(|_| Member::default()),
            away: false,
            backups: Vec::new(),
            truth,
            machines: Vec::new(),
            cluster,
            trace: Trace::new(traced),
            exercised: Exercised::default(),
            violation: None,
            stormy: true,
            faults_left: scenario.faults(),
            steps: 0,
            changed_at: 0,
            latency,
            retaken: BTreeMap::new(),
            lost_for_good,
            likeness: BTreeMap::new(),
            queue: BTreeMap::new(),
            order: 0,
            names: 0,
            leases: 0,
        };
        for member in 0..MEMBERS {
            let lags = member > 0 && scenario != Scenario::Calm;
            let lag = *world.dice.of(&[0, 5, 40, 300]).unwrap_or(&0);
            world.members[member].lag = if lags { lag } else { 0 };
            world.members[member].is_at(world.etcd.revision());
        }
        for number in 0..hosts {
            world.add_machine(number);
        }
        world
    }

    /// One more machine; its agent starts soon.
    pub fn add_machine(&mut self, number: usize) -> usize {
        let machine = self.machines.len();
        let letter = char::from(b'a' + (number % 26) as u8);
        let name: HostName = letter
            .to_string()
            .parse()
            .expect("a letter is a host's name");
        let id = Uuid::from_u128(0x1000 + machine as u128);
        let rate = 1_000_000 + self.dice.between(0, 60_000) - 30_000;
        let lag = if self.scenario == Scenario::Calm {
            0
        } else {
            *self.dice.of(&[0, 0, 0, 40, 700]).unwrap_or(&0)
        };
        self.machines.push(Machine {
            host: Host {
                name,
                id,
                surroundings: surroundings(machine),
            },
            powered: true,
            // No two machines have one boot.
            boot: machine as u64 * 1_000,
            disk: Disk::new(id, &self.cluster),
            engine: Engine::default(),
            process: None,
            net: Net::WHOLE,
            member: machine % MEMBERS,
            rate,
            lag,
            silent: false,
            deaf: false,
            idle: false,
            gone: false,
            placement: planner::placement::VERSIONS.to_vec(),
            witness: Witness::default(),
        });
        let soon = self.dice.below(400);
        self.after(machine, 0, soon, Event::Start);
        machine
    }

    // === time ===

    /// The clock of a machine.
    pub fn clock(&self, machine: usize) -> Millis {
        Millis(BEGIN + self.now * self.machines[machine].rate / 1_000_000)
    }

    /// How long a time on a machine's clock really is.
    pub fn really(&self, machine: usize, span: Duration) -> u64 {
        (span.as_millis() as u64 * 1_000_000).div_ceil(self.machines[machine].rate)
    }

    /// The clock of engines, and of people.
    pub fn wall(&self) -> i64 {
        (BEGIN + self.now) as i64
    }

    /// Something will happen.
    pub fn after(&mut self, machine: usize, process: u64, ms: u64, event: Event) {
        self.order += 1;
        let due = Due {
            machine,
            process,
            event,
        };
        self.queue.insert((self.now + ms, self.order), due);
    }

    /// Something will happen to a process, in its own time.
    pub fn later(&mut self, machine: usize, span: Duration, event: Event) {
        if let Some(process) = self.process(machine) {
            let ms = self.really(machine, span);
            self.after(machine, process, ms, event);
        }
    }

    /// The running process of a machine.
    pub fn process(&self, machine: usize) -> Option<u64> {
        self.machines[machine].process.as_ref().map(|p| p.id)
    }

    /// A number that is nobody's yet.
    pub fn number(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    /// Lets the next thing happen. False when something must not have.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), due)) = self.queue.pop_first() else {
            // Every host has left, or was told to end.
            return false;
        };
        self.now = self.now.max(at);
        self.etcd.advance(Millis(self.now));
        self.committed(None);
        let Due {
            machine,
            process,
            event,
        } = due;
        let alive = process == 0 || self.process(machine) == Some(process);
        match event {
            Event::Arrive(asker, request, sent) => {
                self.steps += 1;
                self.arrive(machine, process, asker, request, sent);
            }
            // The engine goes on when the agent is gone.
            Event::Effect(step) => {
                self.steps += 1;
                self.effect(machine, process, step);
            }
            Event::Fault => {
                self.steps += 1;
                self.fault();
            }
            Event::Ordered(fault) => self.happens(fault),
            Event::Ends => self.ends(machine),
            Event::Start => self.start(machine),
            _ if !alive => {}
            Event::Send(asker, request) => self.send(machine, asker, request),
            Event::Answer(asker, answer) => self.answered(machine, asker, answer),
            Event::Pass => self.pass(machine),
            Event::Tick => self.tick(machine),
            Event::KeepAlive(lease) => self.keep_alive(machine, lease),
            Event::GiveUpMember => self.next_member(machine),
            Event::HostWake => self.host_wakes(machine),
            Event::Stream => self.stream(machine),
            Event::Stepped(report) => self.stepped(machine, *report),
            Event::Sight(docker_id) => self.sight(machine, &docker_id),
            Event::Probe(instance, started_at) => self.probe(machine, &instance, started_at),
        }
        self.violation.is_none()
    }

    /// Notes the first thing that must not be.
    pub fn forbid(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Says what happened on a machine.
    pub fn tell(&mut self, machine: usize, what: impl FnOnce() -> String) {
        let name = self.machines[machine].host.name.as_str();
        self.trace.say(self.now, name, what);
    }

    // === the network ===

    /// How long something takes one way.
    fn hop(&mut self, machine: usize) -> u64 {
        let lag = if self.stormy {
            self.machines[machine].lag
        } else {
            0
        };
        1 + self.dice.below(self.latency) + self.dice.below(lag)
    }

    /// A call sets out, unless the network swallows it.
    pub fn send(&mut self, machine: usize, asker: Asker, request: Request) {
        let Some(process) = self.process(machine) else {
            return;
        };
        let wait = self.hop(machine);
        let sent = self.now;
        self.after(machine, process, wait, Event::Arrive(asker, request, sent));
    }

    fn arrive(&mut self, machine: usize, process: u64, asker: Asker, request: Request, sent: u64) {
        let net = self.machines[machine].net;
        if !self.machines[machine].powered || !net.there || self.away {
            self.unanswered(machine, process, asker, sent);
            return;
        }
        let member = asker.asks_a_member().then(|| self.machines[machine].member);
        if member.is_some_and(|member| self.members[member].stalled) {
            self.unanswered(machine, process, asker, sent);
            return;
        }
        let before = self.truth.now.clone();
        let mut answer = self.ask_by(&request, member);
        self.committed(Some((machine, &asker, before)));
        let mut catches_up = 0;
        if let Some(member) = member.map(|member| &mut self.members[member]) {
            match &mut answer {
                Ok(Reply::Kept(revision)) => *revision = member.applied(self.now),
                Ok(Reply::Range(_)) => catches_up = member.behind(self.now),
                _ => {}
            }
        }
        let lost = self.stormy && self.scenario.loses_answers() && self.dice.one_in(60);
        if !net.back || lost {
            self.unanswered(machine, process, asker, sent);
            return;
        }
        let wait = self.hop(machine) + catches_up;
        self.after(machine, process, wait, Event::Answer(asker, answer));
    }

    fn unanswered(&mut self, machine: usize, process: u64, asker: Asker, sent: u64) {
        let patience = match asker {
            Asker::KeepAlive(_) => SHORT_DEADLINE,
            Asker::View | Asker::Writes { .. } | Asker::Statuses | Asker::Host => DEADLINE,
        };
        let wait = (sent + patience).saturating_sub(self.now);
        if asker.asks_a_member() {
            self.after(machine, process, wait, Event::GiveUpMember);
        }
        let none = Event::Answer(asker, Err(unavailable()));
        self.after(machine, process, wait, none);
    }

    /// Etcd carries a request out.
    pub fn ask(&mut self, request: &Request) -> Answered {
        self.ask_by(request, None)
    }

    fn ask_by(&mut self, request: &Request, member: Option<usize>) -> Answered {
        let etcd = &mut self.etcd;
        Ok(match request {
            Request::Txn(txn) => Reply::Txn(etcd.txn(txn)?),
            Request::Range(range) => Reply::Range(etcd.range(range)?),
            Request::Watch(from) => {
                let member = member.unwrap_or_default();
                let watch = etcd.watch(watched(), *from, false);
                if self.members[member].says_old_events {
                    etcd.repeat(watch, from - 10);
                }
                Reply::Watch(watch, self.members[member].life(member))
            }
            Request::Grant(ttl) => {
                let (id, ttl) = etcd.lease_grant(*ttl);
                self.leases = self.leases.max(id);
                Reply::Granted(id, ttl)
            }
            Request::KeepAlive(id) => Reply::Kept(etcd.lease_keep_alive(*id)?.1),
            Request::Revoke(id) => {
                etcd.lease_revoke(*id)?;
                Reply::Done
            }
        })
    }

    // === etcd ===

    /// Somebody outside writes.
    pub fn write(&mut self, ops: Vec<Op>) {
        // The user's writes are few and small: etcd takes them.
        let _ = self.etcd.txn(&Txn::new(vec![], ops));
        self.committed(None);
    }

    /// Follows what has changed in etcd; `by` a machine, and what was true before.
    pub fn committed(&mut self, by: Option<(usize, &Asker, Snapshot)>) {
        let revision = self.etcd.revision();
        for member in &mut self.members {
            member.hears(revision, self.now);
        }
        let mut told = Vec::new();
        while let Some(reply) = self.etcd.poll(self.truth.watch) {
            if let store::kv::WatchReply::Events(events, _) = reply {
                told.extend(events);
            }
        }
        if told.is_empty() {
            return;
        }
        self.changed_at = self.now;
        if by.is_none() {
            self.tell_events(&told);
        }
        self.truth.follow(&told);
        if let Some((machine, asker, before)) = by {
            self.tell_events(&told);
            let harm = invariants::written(self, machine, asker, &before, &told);
            if let Some(harm) = harm {
                self.forbid(harm);
            }
        }
        self.tempt_by(&told);
        for machine in 0..self.machines.len() {
            self.stream_soon(machine);
        }
    }

    /// A handover that begins, a holder that has stopped, a slot that has another owner.
    fn tempt_by(&mut self, told: &[Told]) {
        for event in told {
            let Told::Put { now, .. } = event else {
                continue;
            };
            match Key::parse(&now.key) {
                Some(Key::Next(slot)) => self.tempt(slot),
                Some(Key::Claim(slot)) if now.created != now.modified => self.tempt(slot),
                Some(Key::State(slot)) if self.has_stopped(&slot) => self.tempt(slot),
                _ => {}
            }
        }
    }

    fn has_stopped(&self, slot: &SlotId) -> bool {
        let state = self.truth.now.slot(slot).and_then(|s| s.state.as_ref());
        state.is_some_and(|state| state.state == Phase::Stopped)
    }

    fn tell_events(&mut self, told: &[Told]) {
        for event in told {
            self.trace.say(self.now, "etcd", || match event {
                Told::Put { now, .. } => format!(
                    "{} {} = {}",
                    now.modified,
                    now.key,
                    String::from_utf8_lossy(&now.value)
                ),
                Told::Delete { key, modified, .. } => format!("{modified} {key} gone"),
            });
        }
    }

    /// The stream of a machine will bring what waits for it.
    pub fn stream_soon(&mut self, machine: usize) {
        let hop = self.hop(machine);
        let at = &mut self.machines[machine];
        let flows = at.net.streams && !at.silent && !self.away;
        let Some(process) = &mut at.process else {
            return;
        };
        let Some((_, of)) = process.watch() else {
            return;
        };
        let member = &mut self.members[of.member];
        let ended = !member.lives(of);
        let wait = hop + if ended { 0 } else { member.behind(self.now) };
        let flows = flows && (ended || !member.stalled);
        if flows && process.stream_waits() {
            let id = process.id;
            self.after(machine, id, wait, Event::Stream);
        }
    }

    /// All streams break.
    pub fn break_streams(&mut self, why: &str) {
        self.etcd.close_watches(why);
        for member in &mut self.members {
            member.restarts();
        }
        self.truth.watch = self.etcd.watch(watched(), 0, false);
        for machine in 0..self.machines.len() {
            if let Some(process) = &mut self.machines[machine].process {
                process.stream_broke();
            }
            self.stream_soon(machine);
        }
    }

    /// Another etcd stands where this one was.
    pub fn replace_etcd(&mut self, etcd: MemEtcd) {
        self.etcd = etcd;
        for member in &mut self.members {
            member.is_at(self.etcd.revision());
        }
        // Leases are numbered anew by nobody: a real etcd draws their ids.
        while self.leases > 0 {
            let (id, _) = self.etcd.lease_grant(Duration::from_secs(2));
            let _ = self.etcd.lease_revoke(id);
            if id > self.leases {
                break;
            }
        }
        let former = std::mem::take(&mut self.truth.history);
        let mut former_all = std::mem::take(&mut self.truth.former);
        self.etcd.close_watches("another etcd");
        self.truth = Truth::of(&mut self.etcd);
        for (revision, snapshot) in &former {
            if *revision < self.truth.now.revision {
                self.truth.history.insert(*revision, snapshot.clone());
            }
        }
        former_all.push(former);
        self.truth.former = former_all;
        self.break_streams("another etcd");
        self.changed_at = self.now;
    }

    // === engines ===

    fn effect(&mut self, machine: usize, process: u64, step: Action) {
        let (now, cluster) = (self.wall(), self.cluster.id);
        let at = &mut self.machines[machine];
        if !at.powered {
            return;
        }
        let report = at.engine.carry_out(&step, &at.host, cluster, now);
        self.tell(machine, || {
            format!(
                "engine: {} -> {:?}",
                invariants::step_text(&step),
                report.result
            )
        });
        self.changed_at = self.now;
        self.engine_changed(machine);
        let wait = 1 + self.dice.below(20);
        self.after(machine, process, wait, Event::Stepped(Box::new(report)));
    }

    /// The engine has something to say.
    pub fn engine_changed(&mut self, machine: usize) {
        let events = self.machines[machine].engine.take_events();
        let ends = self.machines[machine].engine.twin.next_end();
        if let Some(at) = ends {
            let wait = (at - self.wall()).max(0) as u64;
            self.after(machine, 0, wait, Event::Ends);
        }
        if events.is_empty() {
            return;
        }
        self.changed_at = self.now;
        let deaf = self.machines[machine].deaf;
        let Some(process) = self.process(machine) else {
            return;
        };
        for docker_id in events {
            if !deaf {
                let wait = 1 + self.dice.below(30);
                self.after(machine, process, wait, Event::Sight(docker_id));
            }
        }
    }

    fn ends(&mut self, machine: usize) {
        let now = self.wall();
        self.machines[machine].engine.twin.advance(now);
        self.engine_changed(machine);
    }
}

impl Truth {
    fn of(etcd: &mut MemEtcd) -> Self {
        let mut now = Snapshot::default();
        let list = etcd.range(&Range::new(watched()));
        let kvs = list.map(|reply| reply.kvs).unwrap_or_default();
        let changes = kvs.into_iter().map(|kv| Change::Put {
            key: kv.key,
            value: kv.value,
            modified: kv.modified,
            created: kv.created,
        });
        now.apply(changes, etcd.revision());
        let watch = etcd.watch(watched(), 0, false);
        Self {
            history: BTreeMap::from([(now.revision, now.clone())]),
            now,
            former: Vec::new(),
            watch,
        }
    }

    fn follow(&mut self, told: &[Told]) {
        for event in told {
            let change = match event {
                Told::Put { now, .. } => Change::Put {
                    key: now.key.clone(),
                    value: now.value.clone(),
                    modified: now.modified,
                    created: now.created,
                },
                Told::Delete { key, modified, .. } => Change::Delete {
                    key: key.clone(),
                    modified: *modified,
                },
            };
            self.now.apply([change], event.modified());
            self.history.insert(event.modified(), self.now.clone());
        }
    }

    /// What some history said at a revision.
    pub fn at(&self, revision: i64) -> impl Iterator<Item = &Snapshot> {
        std::iter::once(&self.history)
            .chain(&self.former)
            .filter_map(move |history| Some(history.range(..=revision).next_back()?.1))
    }
}

/// The one range that agents watch.
pub fn watched() -> KeyRange {
    KeyRange::range(WATCH_START, WATCH_END)
}

fn surroundings(machine: usize) -> model::observed::Surroundings {
    model::observed::Surroundings {
        host_ip: [10, 0, 0, machine as u8 + 1].into(),
        gateway: [172, 17, 0, 1].into(),
        dns: None,
        domain: "skydns.local".to_owned(),
        network: "bridge".to_owned(),
    }
}
