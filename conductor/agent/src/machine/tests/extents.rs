//! Plans of what is here and plans of the whole: how many of each, and that what is done is what plans of the whole alone
//! would do.

use model::Scope;
use model::kv::{Event, Op, Txn, WatchReply};
use model::records::SlotState;
use planner::{Inputs, Plan, plan};
use proptest::collection::vec;
use proptest::prelude::*;
use store::claims::pack;
use store::memory::{MemEtcd, WatchId};

use super::*;
use crate::view::watched;

const CONTAINERS: u32 = 2;
const SLOTS: u32 = 3;

fn container_id(number: u32) -> ContainerId {
    format!("shop/c{number}").parse().unwrap()
}

fn record(id: u128) -> String {
    serde_json::json!({
        "id": Uuid::from_u128(id), "session": Uuid::nil(), "epoch": 0, "state": "up",
        "addr": "10.0.0.1", "engine": true,
        "versions": {"agent": "", "placement": planner::placement::VERSIONS},
    })
    .to_string()
}

// === how many ===

#[test]
fn a_burst_of_changes_is_few_plans_of_the_whole() {
    let mut lab = Lab::at_work();
    for number in 0..20 {
        lab.put_record(&format!("h{number:02}"), 100 + number);
    }
    let manifest = r#"{"image": "app", "scale": 20, "services": {"http": 80}}"#;
    let mut slots = Vec::new();
    for number in 0..10 {
        let id = container_id(number);
        let rev = lab.put(&Key::Manifest(id.clone()), manifest.as_bytes());
        slots.extend((0..20).map(|slot| (id.slot(slot), rev)));
    }
    lab.view();
    lab.effects();
    let before = lab.agent.counts();
    // The others claim what is theirs, one after the other, while the engine here has something to say all the time.
    let working = Scope::Slot(slots[0].0.clone());
    for (number, (slot, rev)) in slots.iter().skip(1).enumerate() {
        lab.put_claim(slot, &format!("h{:02}", number % 20), "theirs", *rev);
        lab.view();
        let text = format!("{number} %");
        lab.on(Input::Progress(working.clone(), Some(text)));
        lab.effects();
        lab.pass(1);
    }
    let after = lab.agent.counts();
    assert_eq!(after.plans - before.plans, 199, "what is here, at once");
    assert_eq!(after.whole_plans - before.whole_plans, 0, "in 199 ms");
    lab.pass(51);
    lab.effects();
    let whole = lab.agent.counts().whole_plans;
    assert_eq!(whole - before.whole_plans, 1, "250 ms after the first");

    // Without anything from the engine they are not worth a plan each.
    let before = lab.plans();
    for (slot, rev) in slots.iter().skip(1) {
        lab.put_claim(slot, "h01", "another", *rev);
        lab.view();
        lab.effects();
        lab.pass(1);
    }
    assert_eq!(lab.plans() - before, 0);
    // And what has come before it is asked is one plan.
    for (slot, rev) in slots.iter().skip(1) {
        lab.put_claim(slot, "a", "own", *rev);
        lab.view();
    }
    lab.effects();
    assert_eq!(lab.plans() - before, 1);
}

#[test]
fn what_was_taken_lets_the_whole_be_planned_at_once() {
    let mut lab = Lab::at_work();
    let rev = lab.put(&Key::Manifest(web()), MANIFEST.as_bytes());
    lab.view();
    let claims = writes(lab.effects());
    let db: ContainerId = "shop/db".parse().unwrap();
    lab.put(&Key::Manifest(db), MANIFEST.as_bytes());
    lab.view();
    assert_eq!(lab.does(), [""; 0], "the first is not in the view");
    let instance = claims[0].instance().unwrap().clone();
    lab.answer(claims, Some(true));
    assert_eq!(lab.does(), [""; 0]);
    lab.put_claim(&web().slot(0), "a", instance.as_str(), rev);
    lab.view();
    assert!(lab.does().contains(&"claim".to_owned()));
}

// === the same ===

/// An agent with an etcd and an engine that obeys, and others who do as they like.
struct Cluster {
    lab: Lab,
    etcd: MemEtcd,
    watch: WatchId,
    /// It is to plan the whole, always.
    whole: bool,
    /// Plans of what is here that left the rest for later.
    partly: u64,
}

/// What somebody else does, or what time and the engine do.
#[derive(Debug, Clone)]
enum Step {
    Manifest(u32, Option<u32>),
    Claim(u32, u32, bool),
    Lives(bool),
    Drains(&'static str, bool),
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let slot = (0..CONTAINERS, 0..SLOTS);
    let scale = prop::option::weighted(0.8, 0..=SLOTS);
    prop_oneof![
        4 => (0..CONTAINERS, scale).prop_map(|(id, scale)| Step::Manifest(id, scale)),
        4 => (slot, any::<bool>()).prop_map(|((id, slot), put)| Step::Claim(id, slot, put)),
        2 => any::<bool>().prop_map(Step::Lives),
        2 => (prop_oneof![Just("a"), Just("b")], any::<bool>())
            .prop_map(|(host, drains)| Step::Drains(host, drains)),
        2 => (0..4_usize).prop_map(Step::Crash),
    ]
}

impl Cluster {
    fn new(whole: bool) -> Self {
        let mut etcd = MemEtcd::new();
        let watch = etcd.watch(watched(), 1, false);
        let mut lab = Lab::new();
        lab.snapshot = Snapshot::default();
        let mut cluster = Self {
            lab,
            etcd,
            watch,
            whole,
            partly: 0,
        };
        cluster.write(vec![Op::put(Key::HostRecord(host("a")), record(1))]);
        cluster.lab.joins();
        cluster.lab.list(vec![]);
        cluster.settle();
        cluster
    }

    fn write(&mut self, ops: Vec<Op>) {
        self.etcd.txn(&Txn::new(vec![], ops)).unwrap();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Manifest(id, Some(scale)) => {
                let manifest = format!(
                    r#"{{"image": "app", "scale": {scale}, "services": {{"http": 80}}, "stop_timeout": "1s"}}"#
                );
                self.write(vec![Op::put(Key::Manifest(container_id(*id)), manifest)]);
            }
            Step::Manifest(id, None) => {
                self.write(vec![Op::delete(Key::Manifest(container_id(*id)))]);
            }
            Step::Claim(id, slot, put) => {
                let slot = container_id(*id).slot(*slot);
                let manifest = self.lab.snapshot.containers.get(&slot.container);
                let manifest = manifest.and_then(|view| view.manifest.as_ref());
                let op = match manifest.filter(|_| *put) {
                    Some(manifest) => Op::put_json(
                        Key::Claim(slot),
                        &Claim {
                            host: host("b"),
                            instance: "theirs".parse().unwrap(),
                            version: manifest.modified.version(),
                        },
                    ),
                    None => Op::delete(Key::Claim(slot)),
                };
                self.write(vec![op]);
            }
            Step::Lives(true) => {
                self.write(vec![Op::put(Key::HostRecord(host("b")), record(2))]);
            }
            Step::Lives(false) => self.write(vec![Op::delete(Key::HostRecord(host("b")))]),
            Step::Drains(name, true) => {
                let key = Key::Availability(host(name));
                self.write(vec![Op::put(key, r#""drain""#)]);
            }
            Step::Drains(name, false) => {
                self.write(vec![Op::delete(Key::Availability(host(name)))]);
            }
            Step::Crash(number) => {
                let observed = self.lab.agent.observed();
                let mut running = observed
                    .containers
                    .values()
                    .filter(|c| c.running().is_some());
                if let Some(container) = running.nth(*number) {
                    let crashed = crashed(container, self.lab.now.wall);
                    self.shows(crashed);
                }
            }
        }
        self.view();
    }

    fn shows(&mut self, container: ObservedContainer) {
        let asked = Inspection::Container(container.docker_id.clone());
        self.lab.on(Input::Engine(EngineUpdate::Asked(asked)));
        let update = EngineUpdate::Container(Box::new(container));
        self.lab.on(Input::Engine(update));
    }

    /// The view follows etcd.
    fn view(&mut self) {
        let mut is_news = false;
        while let Some(WatchReply::Events(events, revision)) = self.etcd.poll(self.watch) {
            let change = |event| match event {
                Event::Put { now, .. } => Change::Put {
                    key: now.key,
                    value: now.value,
                    modified: now.modified,
                    created: now.created,
                },
                Event::Delete { key, modified, .. } => Change::Delete { key, modified },
            };
            let touched = self
                .lab
                .snapshot
                .apply(events.into_iter().map(change), revision);
            self.lab.touched.extend(touched);
            is_news = true;
        }
        if is_news {
            self.lab.view();
        }
    }

    /// Time passes, in which the engine has something to say all the while, until nothing is left to be done.
    fn settle(&mut self) {
        for tick in 0..30 {
            let slot = container_id(0).slot(0);
            let text = format!("{tick} %");
            self.lab.on(Input::Progress(Scope::Slot(slot), Some(text)));
            self.work();
            self.lab.pass(100);
        }
    }

    fn work(&mut self) {
        loop {
            if self.whole {
                self.lab.agent.schedule.press(Extent::Whole);
            } else {
                self.compare();
            }
            let before = self.lab.agent.counts();
            let effects = self.lab.effects();
            let after = self.lab.agent.counts();
            self.partly += after.plans - before.plans - (after.whole_plans - before.whole_plans);
            let did = effects.iter().filter(|effect| {
                matches!(
                    effect,
                    Effect::Write { .. }
                        | Effect::Act(_)
                        | Effect::ReadStatuses(_)
                        | Effect::Probe(_)
                )
            });
            if did.count() == 0 {
                return;
            }
            for effect in effects {
                self.carry_out(effect);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Write { writes, seen } => {
                for batch in pack(writes, Rules::default()) {
                    let reply = self.etcd.txn(batch.txn()).unwrap();
                    let revision = reply.revision;
                    let writes = batch.answered(Some(reply));
                    self.lab.on(Input::Wrote(WriteAnswers {
                        writes,
                        revision,
                        seen,
                    }));
                }
                self.view();
            }
            Effect::ReadStatuses(_) => self.lab.on(Input::Statuses(None)),
            Effect::Act(action) => {
                let report = self.act(action);
                self.lab.on(Input::Done(report));
            }
            Effect::Probe(probe) => {
                let running = probe.container.running().unwrap();
                self.lab.on(Input::Probed(ProbeResult {
                    instance: probe.container.owner.instance.clone(),
                    started_at: running.started_at,
                    readiness: Readiness::Ready,
                    reason: None,
                }));
            }
            _ => {}
        }
    }

    fn act(&mut self, action: Action) -> ActionReport {
        let observed = self.lab.agent.observed();
        let known = |instance| observed.containers.get(instance).cloned();
        match action {
            Action::Resolve { container, rev, .. } => ActionReport::from(ActionResult::Resolved {
                container,
                rev,
                image: "sha256:app".to_owned(),
                content: None,
                volumes: vec![],
            }),
            Action::Prepare(prepare) => {
                let mut made = container(prepare.instance.as_str(), prepare.hash);
                made.owner.slot = prepare.slot.clone();
                made.owner.host_hash = self.lab.agent.host.surroundings.hash(&made.ports);
                made.state = ContainerState::Created {
                    error: String::new(),
                };
                ActionReport {
                    result: ActionResult::Prepared {
                        slot: prepare.slot,
                        instance: prepare.instance,
                        rev: prepare.rev,
                        before: prepare.before,
                    },
                    container: Some(Box::new(made)),
                    gone: None,
                }
            }
            Action::Start {
                slot,
                instance,
                docker_id,
            } => {
                let started = known(&instance).map(|container| ObservedContainer {
                    state: ContainerState::Running(Running {
                        pid: 1,
                        started_at: self.lab.now.wall,
                        health: None,
                    }),
                    ..container
                });
                ActionReport::with(ActionResult::Done { slot }, &docker_id, started)
            }
            Action::Stop {
                slot,
                instance,
                docker_id,
                ..
            } => {
                let now = self.lab.now.wall;
                let stopped = known(&instance).map(|container| crashed(&container, now));
                ActionReport::with(ActionResult::Done { slot }, &docker_id, stopped)
            }
            Action::Remove {
                slot, docker_id, ..
            } => ActionReport::with(ActionResult::Done { slot }, &docker_id, None),
            Action::Rename {
                slot,
                instance,
                docker_id,
                name,
            } => {
                let renamed =
                    known(&instance).map(|container| ObservedContainer { name, ..container });
                ActionReport::with(ActionResult::Done { slot }, &docker_id, renamed)
            }
        }
    }

    /// A plan of what is here is the beginning of one of the whole, made now.
    fn compare(&self) {
        let agent = &self.lab.agent;
        let planned = |extent| -> Plan {
            let mut made = 0;
            let inputs = Inputs {
                snapshot: &agent.etcd.snapshot,
                observed: agent.cache.observed(),
                memory: &agent.memory,
                host: &agent.host,
                trust: agent.trust(),
                rules: Rules::default(),
                extent,
                now: self.lab.now.mono,
            };
            plan(inputs, &mut || {
                made += 1;
                format!("n{made}").parse().unwrap()
            })
        };
        let (here, whole) = (planned(Extent::Here), planned(Extent::Whole));
        assert!(whole.writes.starts_with(&here.writes), "{here:?} {whole:?}");
        assert!(
            whole.actions.starts_with(&here.actions),
            "{here:?} {whole:?}"
        );
        assert_eq!(
            (
                &here.statuses,
                &here.leaving,
                &here.staying,
                here.requeue_at
            ),
            (
                &whole.statuses,
                &whole.leaving,
                &whole.staying,
                whole.requeue_at
            )
        );
        if !agent.etcd.snapshot.has_work_for_any() {
            assert_eq!((&here.turns, &here.waiting), (&whole.turns, &whole.waiting));
        }
    }

    /// Who has what, how it is, and what runs here.
    fn stands(&self) -> Vec<String> {
        let of_container = |(id, view): (
            &ContainerId,
            &std::sync::Arc<model::snapshot::ContainerView>,
        )| {
            let id = id.clone();
            let versions = view.versions.size();
            let slots = view.slots.iter().map(|(number, slot)| {
                let claim = slot.claim.as_ref().map(|claim| claim.host.to_string());
                let next = slot.next.as_ref().map(|next| next.host.to_string());
                let phase = |state: &SlotState| state.state;
                let state = slot.current_state().map(|state| phase(state));
                format!("{number} {claim:?} {next:?} {state:?}")
            });
            format!("{id} {versions} {:?}", slots.collect::<Vec<_>>())
        };
        let containers = self.lab.snapshot.containers.iter().map(of_container);
        let here = self.lab.agent.observed().containers.values();
        let mut here: Vec<String> = here
            .map(|c| format!("{} {}", c.owner.slot, c.running().is_some()))
            .collect();
        here.sort();
        let waiting = &self.lab.agent.output.waiting;
        let waiting = waiting.iter().map(|(slot, why)| format!("{slot}: {why}"));
        containers.chain(here).chain(waiting).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_done_is_what_plans_of_the_whole_alone_would_do(steps in vec(step(), 1..14)) {
        let (mut both, mut whole) = (Cluster::new(false), Cluster::new(true));
        for step in &steps {
            for cluster in [&mut both, &mut whole] {
                cluster.step(step);
                cluster.settle();
            }
            prop_assert_eq!(both.stands(), whole.stands());
        }
        prop_assert_eq!(whole.partly, 0);
    }
}

#[test]
fn what_is_compared_has_plans_of_both_kinds() {
    let mut cluster = Cluster::new(false);
    cluster.step(&Step::Lives(true));
    cluster.step(&Step::Manifest(0, Some(3)));
    cluster.settle();
    assert!(cluster.partly > 0);
    assert!(cluster.lab.agent.counts().whole_plans > 0);
}
