//! The simulated world: one etcd, a network, machines with clocks, disks and engines, and what is under way between
//! them.
//!
//! Time is virtual. Everything that will happen stands in one queue by its time;
//! how long things take is thrown by the seed.

use model::ModRev;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use manifests::keys::{Key, WATCH_END, WATCH_START};
use manifests::{ContainerId, HostName, InstanceId, SlotId};
use model::images::ImageQuestion;
use model::records::Cluster;
use model::snapshot::{Change, Snapshot};
use model::{Action, ActionReport, ActionResult, Host, Millis, Rules, VersionId};
use store::kv::{Event as Told, KeyRange, Op, Range, Txn};
use store::memory::{MemEtcd, WatchId};
use uuid::Uuid;

use crate::dice::Dice;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::kinds::{Exercised, Fault};
use crate::members::{MEMBERS, Member};
use crate::network::{Answered, Asker, Net, Request};
use crate::process::Process;
use crate::registry::Registry;
use crate::scenario::Scenario;
use crate::trace::{Trace, step_text};
use crate::witness::Witness;

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
    /// A registry is asked.
    Ask(ImageQuestion),
    /// A probe of a running instance.
    Probe(InstanceId, i64),
    /// The connections of an instance that leaves are counted: of this start.
    Count(InstanceId, i64),
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
pub(crate) struct Due {
    pub(crate) machine: usize,
    pub(crate) process: u64,
    pub(crate) event: Event,
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
    pub(crate) watch: WatchId,
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
    /// The registry.
    pub registry: Registry,
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
    /// Slots that were ready and were taken down for another version, and are not ready yet; each with the creation of its
    /// host's record.
    pub(crate) taken_down: BTreeMap<SlotId, ModRev>,
    /// A machine that does not come back, if it has no power when the faults end.
    pub lost_for_good: Option<usize>,
    /// What users' containers are like, by name.
    pub likeness: BTreeMap<String, u64>,
    /// Versions before which something was started.
    pub(crate) prepared: BTreeSet<(ContainerId, VersionId)>,
    queue: BTreeMap<(u64, u64), Due>,
    order: u64,
    names: u64,
    pub(crate) leases: i64,
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
            registry: Registry::default(),
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
            taken_down: BTreeMap::new(),
            lost_for_good,
            likeness: BTreeMap::new(),
            prepared: BTreeSet::new(),
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

    /// What happens next; its time has come.
    pub(crate) fn due(&mut self) -> Option<Due> {
        let ((at, _), due) = self.queue.pop_first()?;
        self.now = self.now.max(at);
        Some(due)
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

    // === engines ===

    /// A step takes effect.
    pub(crate) fn effect(&mut self, machine: usize, process: u64, step: Action) {
        let (now, cluster) = (self.wall(), self.cluster.id);
        let at = &mut self.machines[machine];
        if !at.powered {
            return;
        }
        let harm = self.starts(machine, &step);
        let at = &mut self.machines[machine];
        let report = at.engine.carry_out(&step, &at.host, cluster, now);
        if let Some(harm) = harm.filter(|_| matches!(report.result, ActionResult::Done { .. })) {
            self.forbid(harm);
        }
        self.tell(machine, || {
            format!("engine: {} -> {:?}", step_text(&step), report.result)
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

    /// What of an engine was to end has ended.
    pub(crate) fn ends(&mut self, machine: usize) {
        let now = self.wall();
        self.machines[machine].engine.twin.advance(now);
        self.engine_changed(machine);
    }
}

impl Truth {
    pub(crate) fn of(etcd: &mut MemEtcd) -> Self {
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

    pub(crate) fn follow(&mut self, told: &[Told]) {
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
