//! Runs the agent: passes on what happens, and carries out what it wants done, in its order.

use std::sync::Arc;

use agent::{Agent, AgentOptions, Effect, Input, Names, Now, Saving, StateFile};
use model::error::chain;
use model::observed::Surroundings;
use model::{Host, Millis, Rules};
use store::Kv;
use store::claims;
use store::view::Updates;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::actions::Actions;
use crate::drains::Drains;
use crate::instances::Instances;
use crate::orphans::Orphans;
use crate::probes::{self, Probes};
use crate::published::Published;
use crate::{engine_watch, log, writes};
use engine::Engine;

/// Inputs that wait for the loop. It never waits for those who send them, so a full channel only slows them down.
const INPUTS: usize = 1_024;

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

/// Runs until cancelled. Containers run on.
pub async fn run(setup: Setup, stop: CancellationToken) {
    let (inputs_in, inputs) = mpsc::channel(INPUTS);
    let (again, again_out) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(engine_watch::follow(
        setup.engine.clone(),
        setup.cluster,
        inputs_in.clone(),
        again_out,
        stop.clone(),
    ));
    let clock = setup.record.clock();
    let options = AgentOptions {
        host: setup.host.clone(),
        same_boot: setup.record.same_boot(),
        notes: setup.instances.notes().clone(),
        orphans: setup.orphans.opened().clone(),
        names: Names(Box::new(|| {
            let name = Uuid::new_v4().to_string();
            name.parse().expect("a UUID is an instance's name")
        })),
        rules: Rules::default(),
    };
    let now = Now {
        mono: clock.now(),
        wall: clock.wall(),
    };
    let runtime = Runtime {
        agent: Agent::new(options, now),
        probes: Probes::new(setup.engine.clone(), inputs_in.clone(), clock),
        drains: Drains::new(setup.engine.clone(), inputs_in.clone()),
        setup,
        inputs: inputs_in,
        tasks,
        wake: None,
    };
    runtime.turn(inputs, again, stop).await;
}

struct Runtime {
    agent: Agent,
    setup: Setup,
    probes: Probes,
    drains: Drains,
    inputs: mpsc::Sender<Input>,
    tasks: JoinSet<()>,
    wake: Option<Millis>,
}

impl Runtime {
    async fn turn(
        mut self,
        mut inputs: mpsc::Receiver<Input>,
        again: mpsc::Sender<()>,
        stop: CancellationToken,
    ) {
        let mut alarm = self.setup.published.alarm.subscribe();
        let mut held_links = self.setup.published.held_links.subscribe();
        let mut status = self.setup.record.status();
        let mut floor = self.setup.record.floor();
        // What is so from the start.
        alarm.mark_changed();
        held_links.mark_changed();
        status.mark_changed();
        loop {
            self.setup.record.pass_done();
            let rest = self.wake.map(|at| at - self.now().mono);
            let rest = async {
                match rest {
                    Some(rest) => tokio::time::sleep(rest).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = status.changed() => status.mark_changed(),
                Ok(()) = floor.changed() => floor.mark_changed(),
                Ok(()) = alarm.changed() => {
                    let why = alarm.borrow_and_update().map(|alarm| alarm.to_string());
                    self.on(Input::Alarm(why));
                }
                Ok(()) = held_links.changed() => {
                    let held = held_links.borrow_and_update().clone();
                    self.on(Input::HeldLinks(held));
                }
                Ok(()) = self.setup.surroundings.changed() => {
                    let now = self.setup.surroundings.borrow_and_update().clone();
                    self.setup.actions.surround(now.clone());
                    self.on(Input::Surroundings(Box::new(now)));
                }
                update = self.setup.updates.next() => match update {
                    Some(update) => self.on(Input::View(Box::new(update))),
                    None => break,
                },
                Some(input) = inputs.recv() => self.on(input),
                Some(()) = self.setup.look_again.recv() => {
                    // One look is enough for all who ask while it is under way.
                    let _ = again.try_send(());
                }
                Some(_) = self.tasks.join_next() => continue,
                () = rest => {}
            }
            // All that waits, before anything is planned.
            while let Some(update) = self.setup.updates.try_next() {
                self.on(Input::View(Box::new(update)));
            }
            while let Ok(input) = inputs.try_recv() {
                self.on(input);
            }
            if status.has_changed().is_ok_and(|it| it) || floor.has_changed().is_ok_and(|it| it) {
                let status = status.borrow_and_update().clone();
                let floor = *floor.borrow_and_update();
                self.on(Input::Host { status, floor });
            }
            while let Some(effect) = self.agent.next(self.now()) {
                self.carry_out(effect);
            }
            let published = &self.setup.published;
            published.count(self.agent.counts());
            if self.agent.follows() {
                published.is_fresh(self.setup.record.clock().wall());
            }
        }
        self.tasks.shutdown().await;
    }

    fn now(&self) -> Now {
        let clock = self.setup.record.clock();
        Now {
            mono: clock.now(),
            wall: clock.wall(),
        }
    }

    fn on(&mut self, input: Input) {
        self.agent.on(input, self.now());
    }

    fn carry_out(&mut self, effect: Effect) {
        let (kv, engine) = (&self.setup.kv, &self.setup.engine);
        match effect {
            Effect::Write { writes, seen } => {
                for batch in claims::pack(writes, Rules::default()) {
                    let inputs = self.inputs.clone();
                    let write = writes::carry_out(kv.clone(), batch, seen, inputs);
                    self.tasks.spawn(write);
                }
            }
            Effect::ReadStatuses(range) => {
                let read = writes::read_statuses(kv.clone(), range, self.inputs.clone());
                self.tasks.spawn(read);
            }
            Effect::Act(action) => {
                let act = self.setup.actions.clone().run(action, self.inputs.clone());
                self.tasks.spawn(act);
            }
            Effect::Ask(question) => {
                let actions = self.setup.actions.clone();
                self.tasks.spawn(actions.ask(question, self.inputs.clone()));
            }
            Effect::Probe(probe) => self.probes.probe(*probe),
            Effect::EndProbe(instance) => self.probes.end(&instance),
            Effect::CountConnections(counted) => self.drains.count(counted),
            Effect::EndCount(instance) => self.drains.end(&instance),
            Effect::ReadLastLines {
                instance,
                docker_id,
            } => {
                let inputs = self.inputs.clone();
                let read = probes::last_lines(engine.clone(), instance, docker_id, inputs);
                self.tasks.spawn(read);
            }
            Effect::Save(saving) => self.save(&saving),
            Effect::Follow(update) => self.setup.record.follow(&update),
            Effect::Report { foreign, engine } => self.setup.record.update_record(|record| {
                record.foreign = foreign;
                record.engine = engine;
            }),
            Effect::Publish(table) => self.setup.published.publish(table),
            Effect::Record(happened) => self.setup.published.events.tell(happened),
            Effect::Log(line) => log::write(line),
            Effect::WakeAt(at) => self.wake = Some(at),
        }
    }

    /// Writes a file of the state directory, while nothing else is done.
    fn save(&mut self, saving: &Saving) {
        let (file, result) = match saving {
            Saving::Orphans(note) => {
                let saved = self.setup.orphans.save(note);
                (StateFile::Orphans, saved.map_err(|e| chain(&e)))
            }
            Saving::Instances(notes) => {
                let saved = self.setup.instances.save(notes);
                (StateFile::Instances, saved.map_err(|e| chain(&e)))
            }
        };
        self.on(Input::Saved(file, result));
    }
}
