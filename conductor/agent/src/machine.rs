//! The agent as a pure machine: what happens goes in, what is to be done comes out, and it has no clock.
//!
//! Inputs are taken in at once; `next` gives what follows from them, and plans
//! when that is due (`schedule`). It holds the one order of things: the host's
//! record hears of an accepted restore after that is noted, an instance is noted
//! before it is made, nothing is planned before orphans are on disk.

mod engine;
mod etcd;
mod output;
mod planning;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use manifests::InstanceId;
use model::events::Happened;
use model::identity::Notes;
use model::observed::Observed;
use model::{Extent, Host, Millis, Rules, Snapshot, Trust};
use planner::AgentMemory;

use crate::effect::{AgentLog, Effect, StateFile};
use crate::engine_cache::{EngineCache, Seq};
use crate::input::{Input, Inspection, Now};
use crate::restore::{OrphansNote, Restore};

use self::etcd::Etcd;
use self::output::Output;
use self::schedule::Schedule;

/// etcd that has not been followed for so long after the start is worth a warning.
const UNFOLLOWED: Duration = Duration::from_secs(5);

/// Gives names to new instances, none twice.
pub struct Names(pub Box<dyn FnMut() -> InstanceId + Send>);

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// What an agent starts with.
#[derive(Debug)]
pub struct AgentOptions {
    /// This host.
    pub host: Host,
    /// The process before this one ran in the same boot of the machine: others can't have its slots for long.
    pub same_boot: bool,
    /// The containers that this host has made.
    pub notes: Notes,
    /// What an accepted restore left without a manifest.
    pub orphans: OrphansNote,
    /// Names of new instances.
    pub names: Names,
    /// The rules in force.
    pub rules: Rules,
}

/// What has happened so often since the agent's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ends of a container's process that were followed by a restart.
    pub restarts: u64,
    /// Images that could not be had.
    pub pull_failures: u64,
    /// Plans.
    pub plans: u64,
    /// Of these, plans of the whole.
    pub whole_plans: u64,
    /// Writes asked of etcd.
    pub writes: u64,
    /// Writes whose guards did not hold.
    pub writes_lost: u64,
}

/// The agent of one host.
#[derive(Debug)]
pub struct Agent {
    host: Host,
    same_boot: bool,
    rules: Rules,
    names: Names,
    /// When it began.
    began: Now,
    etcd: Etcd,
    restore: Restore,
    cache: EngineCache,
    /// What the engine is being asked for.
    asked: BTreeMap<Inspection, Seq>,
    held_links: BTreeMap<u16, String>,
    memory: AgentMemory,
    /// All was planned once, with this host's record in etcd.
    entered: bool,
    /// How far the view was trusted for the last plan.
    planned_under: Trust,
    schedule: Schedule,
    output: Output,
    counts: Counts,
    effects: VecDeque<Effect>,
    wake: Option<Millis>,
}

impl Agent {
    /// An agent that knows what its disk says.
    pub fn new(options: AgentOptions, now: Now) -> Self {
        let AgentOptions {
            host,
            same_boot,
            notes,
            orphans,
            names,
            rules,
        } = options;
        Self {
            host,
            same_boot,
            rules,
            names,
            began: now,
            etcd: Etcd::default(),
            memory: AgentMemory {
                orphans: orphans.kept.clone(),
                ..AgentMemory::default()
            },
            restore: Restore::new(orphans),
            cache: EngineCache::new(notes),
            asked: BTreeMap::new(),
            held_links: BTreeMap::new(),
            entered: false,
            planned_under: Trust::RestartsOnly,
            schedule: Schedule::new(now.mono),
            output: Output::default(),
            counts: Counts::default(),
            effects: VecDeque::new(),
            wake: None,
        }
    }

    /// Something has happened.
    pub fn on(&mut self, input: Input, now: Now) {
        match input {
            Input::View(update) => self.view(*update, now),
            Input::Host { status, floor } => self.host(&status, floor),
            Input::Statuses(reply) => self.resume(reply, now),
            Input::Wrote(answers) => self.wrote(answers, now),
            Input::Engine(update) => self.engine(update, now),
            Input::Done(report) => self.done(report, now),
            Input::ImageAnswer(answer) => self.image_answer(&answer, now),
            Input::Probed(result) => self.probed(result),
            Input::Connections(counted) => self.counted(counted),
            Input::Progress(work, text) => {
                self.memory.progress(&work, text.as_ref(), now.mono);
                self.schedule.press(Extent::Here);
            }
            Input::LastLines(instance, lines) => {
                if let Some(memory) = self.memory.instances.get_mut(&instance) {
                    memory.log = lines;
                }
                self.schedule.press(Extent::Here);
            }
            Input::Alarm(why) => {
                self.memory.disruption.refuses_writes(why, now.mono);
                self.schedule.press(Extent::Whole);
            }
            Input::HeldLinks(held) => {
                self.held_links = held;
                self.schedule.press(Extent::Whole);
            }
            Input::Surroundings(surroundings) => {
                if *surroundings != self.host.surroundings {
                    self.log(AgentLog::NetworkChanged((*surroundings).clone()));
                    self.host.surroundings = *surroundings;
                    self.schedule.press(Extent::Whole);
                }
            }
            Input::Saved(file, result) => self.saved(file, result),
        }
    }

    /// What is decided already, the first of it; nothing is planned.
    pub fn decided(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// What is to be done next; none when nothing is before the last `Effect::WakeAt`, or before an input. To be asked
    /// when the effect before has been carried out: the time from a plan to its last effect is what it took.
    pub fn next(&mut self, now: Now) -> Option<Effect> {
        let effect = self.decided();
        if effect.is_some() {
            return effect;
        }
        self.schedule.carried_out(now.mono);
        // What was kept is not on disk yet.
        if self.restore.is_saving() {
            return None;
        }
        if self.schedule.next(now.mono) <= now.mono {
            self.pass(now);
            // What it takes is known when this is carried out.
            self.wake = None;
        }
        let wake = self.schedule.next(now.mono);
        if self.wake != Some(wake) && !self.restore.is_saving() {
            self.wake = Some(wake);
            self.effects.push_back(Effect::WakeAt(wake));
        }
        self.decided()
    }

    fn saved(&mut self, file: StateFile, result: Result<(), String>) {
        let done = result.is_ok();
        let failed = match file {
            StateFile::Orphans => {
                self.restore.saved(done);
                &mut self.output.orphans_fail
            }
            StateFile::Instances => {
                if done {
                    self.cache.saved();
                }
                &mut self.output.notes_fail
            }
        };
        let known = std::mem::replace(failed, !done);
        match result {
            Err(error) => self.log(AgentLog::NotSaved(file, error, known)),
            Ok(()) if known => self.log(AgentLog::SavedAgain(file)),
            Ok(()) => {}
        }
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    fn log(&mut self, line: AgentLog) {
        self.effects.push_back(Effect::Log(line));
    }

    fn record(&mut self, happened: impl IntoIterator<Item = Happened>) {
        let happened: Vec<Happened> = happened.into_iter().collect();
        if !happened.is_empty() {
            self.effects.push_back(Effect::Record(happened));
        }
    }

    // === what it knows ===

    /// What it believes etcd says; none before the first view.
    pub fn snapshot(&self) -> Option<&Snapshot> {
        self.etcd.known.then_some(&self.etcd.snapshot)
    }

    /// How far the view may be trusted for a plan: not before this host has joined, the view has seen its record, and
    /// what an earlier agent said has been read.
    pub fn trust(&self) -> Trust {
        self.etcd.allows()
    }

    /// The view says that it is etcd's present state.
    pub fn follows(&self) -> bool {
        self.etcd.trust == Trust::Full
    }

    /// etcd is not the one that this host knows.
    pub fn distrusts(&self) -> bool {
        self.etcd.distrust.is_some()
    }

    /// The engine as far as it is known.
    pub fn observed(&self) -> &Observed {
        self.cache.observed()
    }

    /// Its own work.
    pub fn memory(&self) -> &AgentMemory {
        &self.memory
    }

    /// How far the view was trusted for the last plan.
    pub fn planned_under(&self) -> Trust {
        self.planned_under
    }

    /// What has happened how often.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
