//! When the agent plans: at once when something may ask for it, together with what else comes when nothing does, and
//! after a plan that took long only after a rest.

use std::time::Duration;

use model::Millis;

/// A plan is made at least this often.
const PULSE: Duration = Duration::from_secs(5);
/// What does not concern this host waits so long for what else comes, and is planned with it.
pub(crate) const GATHERING: Duration = Duration::from_millis(250);
/// A plan that took no longer than this is followed by no rest.
const QUICK: Duration = Duration::from_millis(5);
/// Longest rest between two plans.
const LONGEST_REST: Duration = Duration::from_millis(500);
/// Time that a write which etcd did not answer waits before it is planned again.
const WRITE_RETRY: Duration = Duration::from_secs(1);

/// When to plan.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// Something has come that may ask for something to be done here.
    pressing: bool,
    /// What has come, and asks for nothing, is planned by then.
    gathering: Option<Millis>,
    /// The last plan wants to be made again then.
    requeue: Option<Millis>,
    /// Something is to be planned again then, whatever the plan itself says.
    replan: Option<Millis>,
    /// Nothing is written before that: etcd did not answer a write.
    retry_writes: Option<Millis>,
    /// When the plan was begun whose effects are being carried out.
    begun: Option<Millis>,
    /// When the last plan was carried out.
    ended: Millis,
    /// Nothing is planned before that.
    rest: Millis,
}

impl Schedule {
    pub(crate) fn new(now: Millis) -> Self {
        Self {
            pressing: false,
            gathering: None,
            requeue: None,
            replan: None,
            retry_writes: None,
            begun: None,
            ended: now,
            rest: now,
        }
    }

    /// Something has come that may ask for something to be done.
    pub(crate) fn press(&mut self) {
        self.pressing = true;
    }

    /// Something has come that asks for nothing.
    pub(crate) fn gather(&mut self, now: Millis) {
        self.gathering.get_or_insert(now + GATHERING);
    }

    /// A plan is to be made after this time, whatever it says itself.
    pub(crate) fn replan(&mut self, at: Millis) {
        self.replan = Some(self.replan.map_or(at, |before| before.min(at)));
    }

    /// etcd did not answer a write.
    pub(crate) fn not_written(&mut self, now: Millis) {
        self.retry_writes = Some(now + WRITE_RETRY);
    }

    /// Nothing is written for now: etcd did not answer a write.
    pub(crate) fn withholds_writes(&self) -> bool {
        self.retry_writes.is_some()
    }

    /// All effects of the plan before have been carried out: a rest follows, in proportion to what it took.
    pub(crate) fn carried_out(&mut self, now: Millis) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        self.ended = now;
        let took = now - begun;
        if took > QUICK {
            self.rest = now + (took * 2).min(LONGEST_REST);
        }
    }

    /// When a plan is to be made, if nothing comes before.
    pub(crate) fn next(&self, now: Millis) -> Millis {
        let due = [
            self.pressing.then_some(now),
            self.gathering,
            self.requeue,
            self.replan,
            self.retry_writes,
        ];
        let pulse = self.ended + PULSE;
        let due = due.into_iter().flatten().fold(pulse, Millis::min);
        due.max(self.rest)
    }

    /// A plan is made now.
    pub(crate) fn begin(&mut self, now: Millis) {
        self.begun = Some(now);
        self.ended = now;
        self.pressing = false;
        self.gathering = None;
        self.requeue = None;
        self.replan = self.replan.filter(|at| *at > now);
        self.retry_writes = self.retry_writes.filter(|at| *at > now);
    }

    /// The plan that is made now wants to be made again then. What comes meanwhile comes first.
    pub(crate) fn planned(&mut self, requeue: Option<Millis>, now: Millis) {
        self.requeue = requeue.map(|at| at.max(now + Duration::from_millis(1)));
    }
}
