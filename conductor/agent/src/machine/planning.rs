//! A plan: how far the view is trusted for it, what is planned, and what is noted before it is carried out.

use model::{Action, Extent, Observed, Prepare, Trust};
use planner::{Inputs, Plan, Waiting, plan};

use super::{Agent, UNFOLLOWED};
use crate::effect::{AgentLog, Effect, Saving, Table};
use crate::input::Now;

impl Agent {
    /// A plan is due.
    pub(super) fn pass(&mut self, now: Now) {
        if now.mono - self.began.mono >= UNFOLLOWED {
            self.warn_unfollowed();
        }
        if !self.etcd.known || !self.cache.is_complete() {
            self.schedule.begin(Extent::Whole, now.mono);
            return;
        }
        self.ask_for_statuses();
        self.memory.observe(self.cache.observed(), now.mono);
        let trust = if self.restore.take_failed() {
            Trust::RestartsOnly
        } else {
            match self.look_through(now) {
                Some(trust) => trust,
                // Planned when it is on disk.
                None => return,
            }
        };
        let extent = if self.etcd.snapshot.has_work_for_any() {
            self.schedule.extent(now.mono)
        } else {
            // The rest of it costs nothing.
            Extent::Whole
        };
        self.schedule.begin(extent, now.mono);
        self.entered |= trust == Trust::Full && extent == Extent::Whole;
        if !self.entered && !self.same_boot {
            // The machine was down: others may have its slots.
            let observed = self.observed_now();
            self.derive(observed);
            return;
        }
        let trust = if self.schedule.withholds_writes() {
            // etcd does not answer: what runs is looked after, nothing is written for a moment.
            Trust::RestartsOnly
        } else {
            trust
        };
        let observed = self.observed_now();
        self.plan(&observed, trust, extent, now);
        self.derive(observed);
    }

    /// Looks through what runs here when a restore was accepted. Until that is on disk nothing else is planned: whoever
    /// does not know what was kept would stop it. None: it is on its way.
    fn look_through(&mut self, now: Now) -> Option<Trust> {
        if let Some(before) = self.restore.pending() {
            if self.etcd.trust != Trust::Full {
                return Some(Trust::RestartsOnly);
            }
            let observed = self.cache.observed();
            self.memory
                .accept(&before, &self.etcd.snapshot, observed, now.mono);
        }
        match self.restore.keep(&self.memory.orphans) {
            None => Some(self.trust()),
            Some(note) => {
                self.effect(Effect::Save(Saving::Orphans(note)));
                None
            }
        }
    }

    fn plan(&mut self, observed: &Observed, trust: Trust, extent: Extent, now: Now) {
        self.counts.plans += 1;
        self.counts.whole_plans += u64::from(extent == Extent::Whole);
        self.planned_under = trust;
        let inputs = Inputs {
            snapshot: &self.etcd.snapshot,
            observed,
            memory: &self.memory,
            host: &self.host,
            trust,
            rules: self.rules,
            extent,
            now: now.mono,
        };
        let mut planned = plan(inputs, &mut self.names.0);
        if extent == Extent::Here {
            self.keep_waiting(&mut planned);
        }
        self.memory.begin(&planned, now.mono);
        self.tell(&planned);
        self.count_connections(&planned.draining, observed);
        self.follow_late(&planned.late, observed);
        let Plan {
            writes,
            asks,
            actions,
            requeue_at,
            requeue_whole_at,
            ..
        } = planned;
        self.schedule
            .planned(requeue_at, requeue_whole_at, now.mono);
        self.write(writes);
        for question in asks {
            self.effect(Effect::Ask(question));
        }
        self.note(&actions, now);
        for action in actions {
            self.effect(Effect::Act(action));
        }
    }

    /// Notes which instances the actions are to make, and what else of the engine is ours. A disk that takes nothing
    /// stops nothing: the notes are kept in memory and written with a later plan.
    fn note(&mut self, actions: &[Action], now: Now) {
        for action in actions {
            if let Action::Prepare(Prepare { instance, .. }) = action {
                self.cache.intend(instance, now.wall);
            }
        }
        if let Some(notes) = self.cache.unsaved() {
            let notes = notes.clone();
            self.effect(Effect::Save(Saving::Instances(notes)));
        }
    }

    /// What is not here waits as the last plan of the whole said.
    fn keep_waiting(&self, planned: &mut Plan) {
        for (slot, reason) in &self.output.waiting {
            if !planned.statuses.contains_key(slot) && !planned.waiting.contains_key(slot) {
                planned.waiting.insert(slot.clone(), reason.clone());
            }
        }
    }

    /// Logs a plan that does something new, and publishes what waits.
    fn tell(&mut self, planned: &Plan) {
        if planned.is_idle() {
            self.output.last_line.clear();
        } else {
            let line = planned.to_string();
            if line != self.output.last_line {
                self.log(AgentLog::Planned(self.etcd.snapshot.revision, line.clone()));
                self.output.last_line = line;
            }
        }
        if self.output.waiting != planned.waiting {
            let before = std::mem::replace(&mut self.output.waiting, planned.waiting.clone());
            let drains = |reason: Option<&Waiting>| matches!(reason, Some(Waiting::Draining(_)));
            for (slot, reason) in &planned.waiting {
                let known = before.get(slot);
                // Connections come and go: that they are waited for is said once.
                let is_said = drains(known) && drains(Some(reason));
                if known != Some(reason) && !is_said {
                    self.log(AgentLog::Waits(slot.clone(), reason.clone()));
                }
            }
            self.effect(Effect::Publish(Table::Waiting(planned.waiting.clone())));
        }
    }
}
