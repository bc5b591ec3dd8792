//! What comes from the engine: what it shows, what came of actions, and what probes say.

use model::images::ImageAnswer;
use model::observed::EngineState;
use model::records::Version;
use model::{ActionReport, ActionResult, Extent, Write};
use planner::rollout::{self, Target};

use planner::rollout::begins_prepared;

use super::Agent;
use crate::effect::{AgentLog, Effect, Table};
use crate::events;
use crate::input::{EngineUpdate, Inspection, Now, OpenConnections, ProbeResult};

impl Agent {
    pub(super) fn engine(&mut self, update: EngineUpdate, now: Now) {
        let engine = self.observed().engine.clone();
        match update {
            EngineUpdate::Asked(inspection) => {
                let seq = self.cache.begin();
                self.asked.insert(inspection, seq);
                return;
            }
            EngineUpdate::List(listing) => {
                let since = self.asked.remove(&Inspection::List).unwrap_or_default();
                if let Some(why) = self.cache.never_seen(&listing) {
                    return self.engine(EngineUpdate::Unresponsive(why), now);
                }
                if self.observed().engine != EngineState::Up {
                    self.log(AgentLog::EngineBack);
                }
                self.cache.list(listing, since, now.wall);
                self.effect(Effect::Publish(Table::Listed));
            }
            EngineUpdate::Container(container) => {
                let asked = Inspection::Container(container.docker_id.clone());
                let since = self.asked.remove(&asked).unwrap_or_default();
                self.cache.look(*container, since, now.wall);
            }
            EngineUpdate::Gone(id) => {
                self.asked.remove(&Inspection::Container(id.clone()));
                self.cache.gone(&id, now.wall);
            }
            EngineUpdate::Unresponsive(why) => {
                if self.observed().engine == EngineState::Up {
                    self.log(AgentLog::EngineUnresponsive(why.clone()));
                }
                self.cache.unresponsive(why);
                // Without a list nothing is planned, and this host is to get nothing.
                let observed = self.cache.shared();
                self.report(&observed);
            }
        }
        self.schedule.press(if self.observed().engine == engine {
            Extent::Here
        } else {
            Extent::Whole
        });
    }

    pub(super) fn done(&mut self, report: ActionReport, now: Now) {
        let ActionReport {
            result,
            container,
            gone,
        } = report;
        match container {
            Some(made) if matches!(result, ActionResult::Prepared { .. }) => {
                self.cache.made(*made, now.wall);
            }
            Some(container) => self.cache.set(*container, now.wall),
            None => {}
        }
        if let Some(id) = gone {
            self.cache.gone(&id, now.wall);
        }
        match &result {
            ActionResult::Resolved { .. } => self.decide_version(&result),
            ActionResult::NotResolved { .. } | ActionResult::NotPrepared { .. } => {
                self.counts.pull_failures += 1;
            }
            _ => {}
        }
        self.record(events::of_outcome(&result));
        self.memory.record(&result, now.mono);
        self.schedule.press(Extent::Here);
    }

    /// The image of a version was decided here; whether it counts, etcd says.
    fn decide_version(&mut self, result: &ActionResult) {
        let ActionResult::Resolved {
            container,
            rev,
            image,
            content,
            volumes,
        } = result
        else {
            return;
        };
        let view = self.etcd.snapshot.containers.get(container);
        let Some((
            view,
            Target::Undecided {
                rev: undecided,
                text,
                found,
                manifest: wanted,
            },
        )) = view.and_then(|view| Some((view, Target::of(view)?)))
        else {
            return;
        };
        if undecided != *rev {
            return;
        }
        // Every host pulls what was found by its digest.
        let digest = found.map(|found| found.digest.clone());
        let prepared = begins_prepared(view, wanted, image);
        let version = Version {
            manifest: text.clone(),
            content: content.clone().filter(|_| digest.is_none()),
            image: digest.unwrap_or_else(|| image.clone()),
            good: false,
            prepared,
            volumes: volumes.clone(),
            found: None,
        };
        let write = rollout::decided_write(container, view, (*rev, version), found);
        self.memory.begin_write(&write);
        self.write(vec![write]);
    }

    pub(super) fn image_answer(&mut self, answer: &ImageAnswer, now: Now) {
        self.record(events::of_answer(answer));
        self.memory.answered(answer, now.mono);
        self.schedule.press(Extent::Whole);
    }

    pub(super) fn write(&mut self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        self.counts.writes += writes.len() as u64;
        let seen = self.etcd.snapshot.revision;
        self.effect(Effect::Write { writes, seen });
    }

    pub(super) fn counted(&mut self, counted: OpenConnections) {
        let OpenConnections {
            instance,
            started_at,
            open,
        } = counted;
        // What is counted no more may have been stopped, or stay.
        if self.output.counts(&instance, started_at) {
            self.cache.connected(&instance, open);
            self.schedule.press(Extent::Here);
        }
    }

    pub(super) fn probed(&mut self, result: ProbeResult) {
        let ProbeResult {
            instance,
            started_at,
            readiness,
            reason,
        } = result;
        if let Some(memory) = self.memory.instances.get_mut(&instance) {
            memory.unready_reason = reason;
        }
        self.cache.ready(&instance, started_at, readiness);
        self.schedule.press(Extent::Here);
    }
}
